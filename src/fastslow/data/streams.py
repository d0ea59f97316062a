"""Contiguous streams and their windows: batches of text for a recurrent network that carries its state over.

A text of N symbols has N - 1 targets: every symbol except the first, which has no predecessor.  They are split into B
*streams* (batch columns), each a contiguous part of the text, and each stream is read in order, in *windows* of T steps
that do not overlap.  At step ``t`` a stream reads the symbol before its target, so neighbouring parts share a symbol
and no target is lost between them::

    text      a b c d e f g h i         N = 9, 8 targets b..i
    stream 0  a b c d -> b c d e        B = 2, 4 targets each
    stream 1  e f g h -> f g h i

Windows are created one at a time; the text may be a memory-mapped file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastslow.data.alphabet import UInt8Array, as_bytes_array
from fastslow.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Window:
    """One truncated-BPTT window of all streams.

    ``inputs``, ``targets``: (T, B) ``int64`` on the CPU; ``targets[t]`` is the symbol that follows ``inputs[t]``.
    ``lengths``: (B,) ``int64``, the actual steps of each stream, from 0 to T, or ``None`` if all have T; past them
    inputs and targets are 0 and must not be scored.  ``resets``: (T, B) ``bool``, true where the target is the first
    symbol of a document, which is predicted from a zero state and the symbol before it; ``None`` without documents.
    ``index`` counts windows from 0.  ``start`` is the number of steps of every stream before this window.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None
    index: int
    start: int
    resets: Tensor | None = None

    @property
    def steps(self) -> int:
        """The number of steps T of this window."""
        return int(self.inputs.shape[0])

    @property
    def symbols(self) -> int:
        """The number of targets that are scored."""
        return self.targets.numel() if self.lengths is None else int(self.lengths.sum())

    def mask(self) -> Tensor | None:
        """(T, B) ``bool``, true where a target is scored; ``None`` if all are."""
        if self.lengths is None:
            return None
        import torch

        return torch.arange(self.steps).unsqueeze(1) < self.lengths


class Streams:
    """A text split into streams and windows.  A sequence: ``streams[i]`` is a :class:`Window`, in any order.

    Created by :meth:`training` or :meth:`evaluation`.  To resume, start at a later window:
    ``for window in streams.windows(start=done)``, where ``done`` is the ``index + 1`` of the last one.

    ``batch`` is B of the whole batch; ``columns`` is the slice of it that is created here (all of it by default), so
    that the ranks of a distributed run have separate columns and together read exactly the same batch.
    """

    def __init__(
        self,
        symbols: UInt8Array,
        first: NDArray[np.int64],
        counts: NDArray[np.int64],
        window: int,
        steps: int,
        columns: slice,
        shifts: NDArray[np.int64] | None = None,
        starts: NDArray[np.int64] | None = None,
    ) -> None:
        self._symbols = symbols
        self._all_first = first  # (B,) the position of each stream's first input in the text
        self._all_counts = counts  # (B,) the number of targets of each stream
        self._first = first[columns]
        self._counts = counts[columns]
        self._steps = steps
        self._columns = columns
        self._window = window
        self._starts = starts  # where documents begin in the text, sorted; None: one document
        self._shifts = shifts  # (windows + 1,) the shift of each window's start

    @classmethod
    def training(
        cls,
        symbols: UInt8Array,
        batch: int,
        window: int,
        *,
        ragged: str = "drop",
        offset: int = 0,
        jitter: int = 0,
        seed: Sequence[int] = (0,),
        columns: slice | None = None,
        starts: NDArray[np.int64] | None = None,
    ) -> Streams:
        """The streams for training: B streams of equal length; targets that do not fill all of them are dropped.

        ``symbols``: ``uint8`` (N,).  ``ragged`` is what happens to a last window shorter than ``window``: ``"drop"``,
        as in the authors' code, or ``"keep"``.  ``offset`` skips that many symbols at the start of the text, for all
        streams together; a new one in each epoch (:func:`random_offset`) moves the window boundaries.  ``jitter`` moves
        each boundary between two windows, for all streams together, by up to that many steps in either direction, drawn
        from ``seed``; the number of windows stays the same, and their mean length is ``window``.  ``starts``: the
        sorted positions where documents begin in the text; windows then have ``resets``.

        Raises :class:`~fastslow.errors.DataError` if the text is too short for one window, ``ValueError`` for invalid
        settings.
        """
        text = _checked(symbols, batch, window)
        if ragged not in ("drop", "keep"):
            raise ValueError(f"ragged must be 'drop' or 'keep'; got {ragged!r}")
        if offset < 0:
            raise ValueError(f"offset must not be negative; got {offset}")
        if not 0 <= 2 * jitter < window:
            raise ValueError(f"jitter must be at least 0 and below half a window of {window:,}; got {jitter:,}")
        if jitter and ragged != "drop":
            raise ValueError("jitter needs windows of equal length: ragged must be 'drop'")
        length = max(0, len(text) - offset - 1) // batch
        steps = length - length % window if ragged == "drop" else length
        if steps == 0:
            shortest = batch * (window if ragged == "drop" else 1) + 1 + offset
            raise DataError(
                f"the training text is too short: {len(text):,} symbols do not fill one window of {batch:,} streams"
                f" and {window:,} steps, which needs at least {shortest:,}:"
                " use more text, a smaller batch or shorter windows"
            )
        first = offset + length * np.arange(batch, dtype=np.int64)
        counts = np.full(batch, steps, dtype=np.int64)
        shifts = None
        if jitter:
            shifts = np.zeros(steps // window + 1, dtype=np.int64)  # the first and the last boundary stay
            shifts[1:-1] = np.random.default_rng(seed).integers(-jitter, jitter + 1, size=len(shifts) - 2)
        return cls(text, first, counts, window, steps, _checked_columns(columns, batch), shifts, starts)

    @classmethod
    def evaluation(
        cls,
        symbols: UInt8Array,
        batch: int,
        window: int,
        *,
        columns: slice | None = None,
        starts: NDArray[np.int64] | None = None,
    ) -> Streams:
        """The streams for evaluation: every symbol but the first is a target exactly once.

        ``symbols``: ``uint8`` (N,).  The lengths of the streams differ by at most one target; ``lengths`` in the last
        windows gives their ends.  All ranks have the same number of windows.

        Raises :class:`~fastslow.errors.DataError` if there are more streams than targets, ``ValueError`` for invalid
        settings.
        """
        text = _checked(symbols, batch, window)
        targets = len(text) - 1
        if targets < batch:
            raise DataError(
                f"the text is too short: {len(text):,} symbols allow at most {max(0, targets):,} streams of one target"
                f" or more, not {batch:,}: use more text or fewer streams"
            )
        short, longer = divmod(targets, batch)
        counts = np.full(batch, short, dtype=np.int64)
        counts[:longer] += 1
        first = np.cumsum(counts) - counts
        return cls(text, first, counts, window, int(counts[0]), _checked_columns(columns, batch), None, starts)

    @property
    def window(self) -> int:
        """T of every window except possibly the last; with jitter, their mean."""
        return self._window

    def start(self, index: int) -> int:
        """The steps of every stream before window ``index``; for ``len(streams)``, all steps."""
        shift = 0 if self._shifts is None else int(self._shifts[index])
        return min(index * self._window + shift, self._steps)

    @property
    def batch(self) -> int:
        """B of the whole batch, over all ranks."""
        return len(self._all_first)

    @property
    def columns(self) -> slice:
        """The part of the batch that is created here."""
        return self._columns

    @property
    def width(self) -> int:
        """The number of columns created here."""
        return len(self._first)

    @property
    def steps(self) -> int:
        """The number of steps of the longest stream."""
        return self._steps

    @property
    def targets(self) -> int:
        """The number of scored targets in all windows and all columns, including those of other ranks."""
        return int(self._all_counts.sum())

    def __len__(self) -> int:
        """The number of windows: the same for all ranks."""
        return -(-self._steps // self._window)

    def __getitem__(self, index: int) -> Window:
        """Window ``index``, counted from 0, or from the end if negative.  Raises ``IndexError`` if out of range."""
        import torch

        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"window {index} is out of range: there are {count}")
        index %= count
        start = self.start(index)
        steps = self.start(index + 1) - start
        lengths = np.clip(self._counts - start, 0, steps)
        full = bool((lengths == steps).all())
        at = (self._first + start) + np.arange(steps + 1, dtype=np.int64)[:, None]  # (T + 1, B)
        if not full:
            # The position after a stream's last target may be past the end of the text: read any symbol, then mask it.
            np.minimum(at, len(self._symbols) - 1, out=at)
        resets = None if self._starts is None else torch.from_numpy(_among(at[1:], self._starts))
        block = torch.from_numpy(self._symbols[at].astype(np.int64))
        inputs, targets = block[:-1], block[1:]
        if full:
            return Window(inputs, targets, None, index, start, resets)
        ends = torch.from_numpy(lengths)
        keep = torch.arange(steps).unsqueeze(1) < ends
        return Window(inputs * keep, targets * keep, ends, index, start, None if resets is None else resets & keep)

    def windows(self, start: int = 0) -> Iterator[Window]:
        """The windows in order, from number ``start`` on; none if that is past the last.

        Raises ``ValueError`` for a negative ``start``.
        """
        if start < 0:
            raise ValueError(f"start must not be negative; got {start}")
        for index in range(start, len(self)):
            yield self[index]

    def __iter__(self) -> Iterator[Window]:
        return self.windows()


def _among(values: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.bool_]:
    """A mask of the values that are in the sorted array `among`."""
    if len(among) == 0:
        return np.zeros(values.shape, dtype=np.bool_)
    found: NDArray[np.bool_] = among[np.minimum(np.searchsorted(among, values), len(among) - 1)] == values
    return found


def random_offset(seed: int, epoch: int, limit: int) -> int:
    """A common offset for epoch ``epoch``, uniform in 0..limit-1, that depends only on the arguments.

    So a resumed run and all ranks get the same one.  ``limit`` is usually the window's length.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1; got {limit}")
    # numpy's seeds must not be negative; torch's may be.
    return int(np.random.default_rng([seed % 2**64, epoch]).integers(limit))


def random_resets(seed: int, update: int, batch: int, probability: float) -> NDArray[np.bool_]:
    """The streams whose state is reset before an update, each with ``probability``: (B,), for all ranks together.

    It depends only on the arguments, so a resumed run and all ranks get the same result.
    """
    return np.random.default_rng([seed % 2**64, update, 2]).random(batch) < probability


def rank_columns(batch: int, rank: int, ranks: int) -> slice:
    """The batch columns of rank ``rank`` of ``ranks``: contiguous, disjoint, and together the whole batch.

    If ``ranks`` does not divide ``batch``, the first ranks have one more column.  Raises
    :class:`~fastslow.errors.DataError` if a rank would have none.
    """
    if ranks < 1 or not 0 <= rank < ranks:
        raise ValueError(f"rank must be in 0..{ranks - 1}; got {rank}")
    if batch < ranks:
        raise DataError(
            f"a batch of {batch} streams is too small for {ranks} processes: use at least one stream per process"
        )
    share, more = divmod(batch, ranks)
    start = rank * share + min(rank, more)
    return slice(start, start + share + (rank < more))


def _checked(symbols: UInt8Array, batch: int, window: int) -> UInt8Array:
    if batch < 1 or window < 1:
        raise ValueError(f"batch and window must be at least 1; got {batch} and {window}")
    return as_bytes_array(symbols)


def _checked_columns(columns: slice | None, batch: int) -> slice:
    if columns is None:
        return slice(0, batch)
    start, stop, step = columns.indices(batch)
    if step != 1 or start >= stop or (columns.stop is not None and columns.stop > batch):
        raise ValueError(f"columns must be a non-empty slice of the {batch} streams with step 1; got {columns}")
    return slice(start, stop)
