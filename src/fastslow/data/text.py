"""A text: the bytes of one or more files, memory-mapped, and its split into training, validation and test parts."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastslow.data.alphabet import UInt8Array, as_bytes_array
from fastslow.data.encodings import Form, Normalised, normalise
from fastslow.errors import DataError, os_reason

PathLike: TypeAlias = str | os.PathLike[str]

log = logging.getLogger(__name__)

STDIN = "-"
MIN_SYMBOLS = 2  # one input and one target
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Text:
    """The bytes of a text.

    ``data``: ``uint8`` (N,), read-only; a ``np.memmap`` if it is one file on disk.  ``name`` is its name in messages
    and run records.  ``paths`` are the files it came from, none for a text created in memory.  ``normalised`` describes
    the form of the file, if it is one file whose line ends or encoding were changed.  ``starts``: where each of its
    files begins.
    """

    data: UInt8Array
    name: str
    paths: tuple[Path, ...] = ()
    normalised: Normalised | None = None
    starts: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview | UInt8Array, name: str) -> Text:
        """A text from bytes in memory."""
        return cls(as_bytes_array(data), name)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def file_size(self) -> int:
        """The size of the file in bytes; differs from ``len`` if it was normalised."""
        return len(self.data) if self.normalised is None else self.normalised.file_size

    @property
    def form(self) -> Form:
        """The form of the file."""
        return Form() if self.normalised is None else self.normalised.form

    def offsets(self, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start,) file offsets of the bytes from ``start`` to ``stop``: `Normalised.offsets`."""
        if self.normalised is None:
            return np.arange(start, stop, dtype=np.int64)
        return self.normalised.offsets(start, stop)

    def part(self, start: int, stop: int, name: str) -> Text:
        """The bytes from ``start`` to ``stop`` as a separate text, without a copy."""
        return Text(
            self.data[start:stop],
            name,
            self.paths,
            starts=tuple(at - start for at in self.starts if start <= at < stop),
        )

    def documents(self, kind: str) -> NDArray[np.int64]:
        """The sorted offsets of its documents: files for ``kind`` "files", lines for "lines"."""
        if kind == "files":
            return np.unique(np.asarray(self.starts, dtype=np.int64))
        return np.flatnonzero(self.data[:-1] == 0x0A) + 1

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the bytes in hexadecimal, computed once."""
        digest = hashlib.sha256()
        for start in range(0, len(self.data), _CHUNK):
            digest.update(self.data[start : start + _CHUNK].tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, str | int]:
        """The entry of a text in a run record: its name, its length in bytes and its SHA-256."""
        return {"name": self.name, "bytes": len(self.data), "sha256": self.sha256}


@dataclass(frozen=True)
class Splits:
    """The three parts of a corpus; a part that was not requested is ``None``."""

    train: Text
    valid: Text | None
    test: Text | None

    def map(self, change: Callable[[str, Text], Text]) -> Splits:
        """The splits with every text replaced by ``change(part, text)``; ``part`` is train, valid or test."""
        return Splits(
            change("train", self.train),
            None if self.valid is None else change("valid", self.valid),
            None if self.test is None else change("test", self.test),
        )

    def describe(self) -> dict[str, dict[str, str | int] | None]:
        """The entry of the data in a run record: :meth:`Text.describe` of every part."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {part: None if text is None else text.describe() for part, text in parts.items()}


def open_text(
    paths: PathLike | Sequence[PathLike],
    *,
    stdin: bool = False,
    min_bytes: int = MIN_SYMBOLS,
    name: str | None = None,
    raw: bool = True,
) -> Text:
    """Open one file, or several in the given order, as one text.

    One file is memory-mapped: it is never read into memory as a whole, and must not be truncated while it is in use.
    Several files are concatenated in memory; some of them may be empty.

    Unless ``raw``, each file is read without byte-order mark, CRs and UTF-16 if that can be undone
    (:func:`~fastslow.data.encodings.normalise`); a file that this changes is held in memory.

    With ``stdin``, the path ``-`` (and a named pipe) is read into memory to its end, and may be given once.  Without
    it, it is an error, because a text that is read several times or again on resuming must be a file.

    ``min_bytes`` is the minimum length of the text.  Raises :class:`~fastslow.errors.DataError`, with the path and the
    reason, for a text that is too short or a path that cannot be read.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not listed:
        raise DataError("no text was given: pass at least one file")
    names = [os.fspath(p) for p in listed]
    if names.count(STDIN) > 1:
        raise DataError("'-' (standard input) can be read only once: pass it once")
    parts = [_open_one(path, stdin) for path in names]
    normalised = None
    if not raw:
        changed = [normalise(part) for part in parts]
        parts = [one.text for one in changed]
        normalised = changed[0] if len(changed) == 1 and not changed[0].form.is_plain else None
    data = parts[0] if len(parts) == 1 else np.concatenate(parts)
    data.flags.writeable = False
    if name is None:
        name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    if len(data) == 0:
        raise DataError(f"{name} is empty: a text needs at least {min_bytes:,} byte{'s' * (min_bytes != 1)}")
    if len(data) < min_bytes:
        count = f"{len(data):,} byte{'s' * (len(data) > 1)}"
        raise DataError(f"{name} is too short: it has {count}; at least {min_bytes:,} are needed")
    starts = tuple(int(at) for at in np.cumsum([0, *(len(part) for part in parts[:-1])]))
    return Text(data, name, tuple(Path(p) for p in names if p != STDIN), normalised, starts)


def _open_one(path: str, stdin: bool) -> UInt8Array:
    if path == STDIN:
        if not stdin:
            raise DataError("'-' (standard input) cannot be used here: save the text to a file and pass that")
        return np.frombuffer(sys.stdin.buffer.read(), dtype=np.uint8)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{path} is a directory: pass the files in it")
        if stat.S_ISREG(mode):
            # An empty file cannot be memory-mapped, and is allowed among several files.
            if os.stat(path).st_size == 0:
                open(path, "rb").close()
                return np.empty(0, dtype=np.uint8)
            return np.memmap(path, dtype=np.uint8, mode="r")
        if stat.S_ISFIFO(mode) and stdin:
            with open(path, "rb") as pipe:
                return np.frombuffer(pipe.read(), dtype=np.uint8)
    except OSError as error:
        raise DataError(f"cannot read {path}: {os_reason(error)}") from error
    except ValueError as error:  # a path with a NUL byte in it
        raise DataError(f"cannot read {path!r}: {error}") from error
    raise DataError(f"{path} is not a regular file: save the text to a file and pass that")


def split_fractions(
    text: Text, train: float = 0.9, valid: float = 0.05, test: float = 0.05, *, min_bytes: int = MIN_SYMBOLS
) -> Splits:
    """Split a text into three contiguous parts in this order, without gaps or overlap.

    The fractions are of its length in bytes and add up to 1; ``valid`` and ``test`` may be 0, and that part is then
    ``None``.  Boundaries are rounded down exactly: 100,000,000 bytes give 90, 5 and 5 million.
    Raises :class:`~fastslow.errors.DataError` for other fractions, and for a part shorter than ``min_bytes``.
    """
    given = (train, valid, test)
    if not all(math.isfinite(f) and f >= 0.0 for f in given) or train == 0.0:
        raise DataError(f"split fractions must be at least 0, and train greater than 0; got {_listing(given)}")
    # Use the decimal digits: 0.9 means 9/10, not the nearest binary float.
    exact = [Fraction(str(float(f))) for f in given]
    if abs(float(sum(exact)) - 1.0) > 1e-6:
        raise DataError(f"split fractions must add up to 1; got {_listing(given)}, together {sum(given):g}")
    n = len(text)
    first = math.floor(n * exact[0] / sum(exact))
    second = math.floor(n * (exact[0] + exact[1]) / sum(exact))
    cuts = {"train": (0, first), "valid": (first, second), "test": (second, n)}
    parts: dict[str, Text | None] = {}
    for (part, (start, stop)), fraction in zip(cuts.items(), given, strict=True):
        if fraction == 0.0:
            parts[part] = None
        elif stop - start < min_bytes:
            raise DataError(
                f"{text.name} is too short to split: {n:,} bytes leave {stop - start:,} for the {part} part "
                f"({fraction:g} of it), which needs at least {min_bytes:,}; use a longer text or a separate file for it"
            )
        else:
            parts[part] = text.part(start, stop, f"{text.name} ({part} part)")
    whole = parts["train"]
    assert whole is not None  # its fraction is above 0
    return Splits(whole, parts["valid"], parts["test"])


def split_sizes(text: Text, train: int, valid: int, test: int) -> Splits:
    """Split a text into contiguous parts of the given sizes in bytes, in order.

    Raises :class:`~fastslow.errors.DataError` unless they add up to its length.
    """
    sizes = (train, valid, test)
    if min(sizes) < MIN_SYMBOLS or sum(sizes) != len(text):
        raise DataError(
            f"{text.name} has {len(text):,} bytes and cannot be split into "
            f"{', '.join(f'{s:,}' for s in sizes)}: they must add up to its length"
        )
    return Splits(
        text.part(0, train, f"{text.name} (train part)"),
        text.part(train, train + valid, f"{text.name} (valid part)"),
        text.part(train + valid, len(text), f"{text.name} (test part)"),
    )


def open_splits(
    train: PathLike | Sequence[PathLike],
    valid: PathLike | Sequence[PathLike] | None = None,
    test: PathLike | Sequence[PathLike] | None = None,
    *,
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05),
    raw: bool = True,
) -> Splits:
    """Training, validation and test texts from files.

    - With ``valid``, the whole training text is used for training, and ``valid`` and ``test`` (if given) are used
      whole.
    - With ``test`` but not ``valid``, the validation part is the end of the training text, by ``fractions``.
    - With neither, the training text is split into all three by ``fractions``.

    ``raw`` as in :func:`open_text`.  Raises :class:`~fastslow.errors.DataError` as :func:`open_text` and
    :func:`split_fractions` do.
    """
    text = _opened(train, raw)
    last = None if test is None else _opened(test, raw)
    if valid is not None:
        return Splits(text, _opened(valid, raw), last)
    if last is None:
        return split_fractions(text, *fractions)
    kept = fractions[0] + fractions[1]
    if not kept > 0.0:
        raise DataError(f"split fractions must leave a training part; got {_listing(fractions)}")
    two = split_fractions(text, fractions[0] / kept, fractions[1] / kept, 0.0)
    return Splits(two.train, two.valid, last)


def _opened(paths: PathLike | Sequence[PathLike], raw: bool) -> Text:
    """The text for a training run, and a note where it differs from the file."""
    text = open_text(paths, raw=raw)
    if text.normalised is not None:
        form = text.normalised.form
        log.warning("%s has %s: it is read as UTF-8 with LF line ends; --raw keeps the bytes", text.name, form)
    return text


def _listing(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)
