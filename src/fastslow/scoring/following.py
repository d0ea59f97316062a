"""Lines of a log scored as they are written, in constant memory: a growing file, or a pipe.

`GrowingFile` and `piped` deliver bytes, `follow` turns them into lines with their means, and `Threshold` selects the
lines that stand out.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import BinaryIO

from fastslow.data.encodings import NormalisingStream
from fastslow.errors import DataError, os_reason
from fastslow.lm import CharLM
from fastslow.scoring.lines import scored_lines
from fastslow.scoring.statistics import LineMean, line_means
from fastslow.scoring.surprisal import ByteMixer, Scorer, Surprisal

POLL_SECONDS = 0.25
"""Seconds between two checks of a file that has not grown."""

WARM_UP = 30
"""Number of lines before deviations are used."""

_READ = 1 << 16


class Threshold:
    """Whether a line is above a threshold; call it with each line, in order.

    above: the threshold for the mean of a line, in bits per byte.
    deviations: a line is above the threshold if its mean is more than this many standard deviations above the mean of
        all previous lines, each with the same weight; the first `WARM_UP` lines never are.

    ValueError unless exactly one of the two is given.  Lines without a mean are ignored.
    """

    def __init__(self, *, above: float | None = None, deviations: float | None = None) -> None:
        if (above is None) == (deviations is None):
            raise ValueError(f"give exactly one of above and deviations; got {above} and {deviations}")
        self._above, self._deviations = above, deviations
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def __call__(self, line: LineMean) -> bool:
        value = line.mean_bits
        if math.isnan(value):
            return False
        found = value > self.value
        # Welford's method: numerically stable for any number of lines.
        self._count += 1
        change = value - self._mean
        self._mean += change / self._count
        self._squares += change * (value - self._mean)
        return found

    @property
    def value(self) -> float:
        """The mean, in bits per byte, that the next line must exceed; infinity until there are enough lines."""
        if self._above is not None:
            return self._above
        assert self._deviations is not None
        if self._count < WARM_UP:
            return math.inf
        return self._mean + self._deviations * math.sqrt(self._squares / (self._count - 1))


def follow(
    model: CharLM,
    sessions: Iterable[Iterable[bytes]],
    *,
    raw: bool = False,
    mixer: ByteMixer | None = None,
    stretch: int | None = None,
) -> Iterator[LineMean]:
    """The lines of a stream with their mean surprisals, each yielded as soon as it ends.

    Args:
        model: in evaluation mode; its state carries over between sessions.
        sessions: iterators of pieces of bytes. A session is a file from its beginning; the next one starts when the
            file was truncated or replaced, and its lines are counted from 1 again.
        raw: keep CRs, byte-order marks and UTF-16.
        mixer: computes bits from the model's predictions, such as a `mixed.EndlessMixer`; None uses the model alone.
        stretch: score each line by its `stretch` most surprising consecutive bytes: see `LineMeans`.

    Raises AlphabetError for a byte outside the model's alphabet.
    """
    scorer = Scorer(model, likeliest=0, mixer=mixer)
    for pieces in sessions:
        yield from line_means(scored_lines(_blocks(scorer, pieces, raw)), stretch)


def _blocks(scorer: Scorer, pieces: Iterable[bytes], raw: bool) -> Iterator[Surprisal]:
    if raw:
        for piece in pieces:
            yield from scorer.feed(piece)
        return
    stream = NormalisingStream()
    for piece in pieces:
        normal = stream.feed(piece)
        yield from scorer.feed(normal.text, normal.offsets)
    normal = stream.finish()
    yield from scorer.feed(normal.text, normal.offsets)


def piped(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a pipe as they arrive, to its end."""
    # read1 and the read of an unbuffered file return the available bytes; a buffered read would wait for more.
    read = getattr(file, "read1", file.read)
    while piece := read(_READ):
        yield piece


class GrowingFile:
    """A file that grows: `sessions` yields its content, then what is appended, without end.

    If the file is truncated, or replaced by another file of its name (rotated), a new session begins after what was
    written to the old file before that has been read.  While no file of that name exists, the old one is watched.
    `wait` is called whenever there is nothing new. It sleeps by default; returning False ends the sessions.

    Raises DataError if the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], wait: Callable[[], bool] | None = None) -> None:
        self._path = os.fspath(path)
        self._wait = _sleep if wait is None else wait
        self._file = self._opened()
        self._ended = False

    def sessions(self) -> Iterator[Iterator[bytes]]:
        """One iterator of pieces per session; each must be exhausted before the next."""
        while not self._ended:
            yield self._session()
        self._file.close()

    def _opened(self) -> BinaryIO:
        try:
            return open(self._path, "rb", buffering=0)
        except OSError as error:
            raise DataError(f"cannot read {self._path}: {os_reason(error)}") from error

    def _session(self) -> Iterator[bytes]:
        """Pieces until the file is truncated, replaced or ends."""
        while True:
            if piece := self._file.read(_READ):
                yield piece
                continue
            here = os.fstat(self._file.fileno())
            if not stat.S_ISREG(here.st_mode):  # a named pipe ends when its writer closes it
                self._ended = True
                return
            if here.st_size < self._file.tell():
                self._file.seek(0)
                return
            if (new := self._replaced(here)) is not None:
                while piece := self._file.read(_READ):
                    yield piece
                self._file.close()
                self._file = new
                return
            if not self._wait():
                self._ended = True
                return

    def _replaced(self, here: os.stat_result) -> BinaryIO | None:
        """The new file if it was replaced, else None."""
        try:
            there = os.stat(self._path)
        except OSError:
            return None
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
            return None
        with suppress(DataError):
            return self._opened()
        return None


def _sleep() -> bool:
    time.sleep(POLL_SECONDS)
    return True
