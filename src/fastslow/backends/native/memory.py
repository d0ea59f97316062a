"""Memory of windows, used again from one to the next.

A fresh buffer of hundreds of megabytes costs a page fault every 4 KB, at every window. A window takes blocks, and gives
them back when its graph is gone. What lies free is bounded by the most that was ever taken at one time.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 64
POISON = "FASTSLOW_POISON"
"""Environment variable for tests: if 1, every block is handed out filled with NaN, and what is written past a tensor's
end shows."""
POISON_BYTE = 255  # every float of such bytes is NaN


class Pool:
    """Blocks of bytes."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._returned: deque[Tensor] = deque()
        self.taken = 0
        """Bytes that are in use."""
        self._most = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> Tensor:
        """A block of at least `size` bytes, at a multiple of 64: (size,) uint8."""
        with self._lock:
            self._settle()
            fitting = [i for i, block in enumerate(self._free) if size <= block.numel() <= 2 * size + 4096]
            best = min(fitting, key=lambda i: self._free[i].numel(), default=None)
            block = _fresh(size) if best is None else self._free.pop(best)
            self.taken += block.numel()
            self._most = max(self._most, self.taken)
        if poisoned():
            block.fill_(POISON_BYTE)
        return block

    def give(self, block: Tensor) -> None:
        """Return a block that `take` gave. May be called anywhere, also by the garbage collector inside `take`."""
        self._returned.append(block)
        if self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()

    def clear(self) -> None:
        """Give what lies free back to the system."""
        with self._lock:
            self._settle()
            self._free.clear()
            self._most = self.taken

    @property
    def free(self) -> int:
        """Bytes that wait to be used again."""
        return sum(block.numel() for block in self._free)

    def _settle(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self.taken -= block.numel()
            self._free.append(block)
        while self._free and self.free + self.taken > self._most:
            self._free.pop(0)


def poisoned() -> bool:
    """Whether fresh memory is to be filled with NaN, as tests ask by `POISON` or by PyTorch's deterministic mode."""
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    return os.environ.get(POISON) == "1" or (torch.are_deterministic_algorithms_enabled() and filled)


def _fresh(size: int) -> Tensor:
    size = max(mmap.PAGESIZE, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= 1 << 21:
        memory.madvise(mmap.MADV_HUGEPAGE)
    with torch.inference_mode(False):  # an ordinary tensor, for windows of either mode
        return torch.frombuffer(memory, dtype=torch.uint8)


POOL = Pool()


def flat_size(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> int:
    """How many numbers hold tensors of these shapes, each from a multiple of 64 bytes on and with as much behind it.

    The sizes may be symbols.
    """
    numbers = ALIGNMENT // dtype.itemsize
    return sum((-(-math.prod(shape) // numbers) + 1) * numbers for shape in shapes)


def cut(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Tensors of these shapes in `flat` (`flat_size`,)."""
    start = flat.storage_offset()
    return [flat.as_strided(shape, strides, start + at) for shape, strides, at in _places(tuple(shapes), flat.itemsize)]


@lru_cache(maxsize=256)
def _places(
    shapes: tuple[tuple[int, ...], ...], itemsize: int
) -> tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...]:
    """Shape, strides and offset of each tensor that is cut from one."""
    numbers = ALIGNMENT // itemsize
    found, at = [], 0
    for shape in shapes:
        strides, step = [], 1
        for size in reversed(shape):
            strides.append(step)
            step *= size
        found.append((shape, tuple(strides[::-1]), at))
        at += (-(-step // numbers) + 1) * numbers
    return tuple(found)


class _Loan(np.ndarray[tuple[int, ...], np.dtype[np.uint8]]):
    """A block's bytes, which gives the block back when the last tensor over them is gone."""

    _block: Tensor | None = None
    _guards: tuple[int, ...] = ()

    def __del__(self) -> None:
        block, self._block = self._block, None
        if block is not None:
            _give(block, self._guards)


def lent(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> Tensor:
    """(`flat_size`,) numbers of the pool, to be `cut`; their block is taken until this tensor's storage is gone."""
    layout = _layout(tuple(shapes), dtype)
    block = POOL.take(layout.bytes)
    loan = block[: layout.bytes].numpy().view(_Loan)
    loan._block = block
    flat = torch.frombuffer(loan, dtype=dtype)
    if poisoned():
        loan._guards = layout.guards
    else:  # what nobody writes is the same every time
        flat.index_fill_(0, layout.gaps, 0)
    return flat


@dataclass(frozen=True)
class _Layout:
    """bytes: of the whole. guards: where the bytes behind each tensor begin that nobody may write. gaps: the numbers
    behind the tensors, as an index."""

    bytes: int
    guards: tuple[int, ...]
    gaps: Tensor


@lru_cache(maxsize=64)
def _layout(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> _Layout:
    numbers, at, guards, gaps = ALIGNMENT // dtype.itemsize, 0, [], []
    for shape in shapes:
        end = flat_size([shape], dtype)
        gaps.append(torch.arange(at + math.prod(shape), at + end))
        at += end
        guards.append((at - numbers) * dtype.itemsize)
    return _Layout(at * dtype.itemsize, tuple(guards), torch.cat(gaps))


def _give(block: Tensor, guards: Sequence[int]) -> None:
    torn = [n for n, at in enumerate(guards) if (block[at : at + ALIGNMENT] != POISON_BYTE).any()]
    POOL.give(block)
    if torn:
        raise RuntimeError(f"something was written past the end of tensors {torn} of a lease")


class Lease:
    """One block cut into tensors of one type, taken until this object is gone.

    Its tensors must not outlive it.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> None:
        self._guards = _layout(tuple(shapes), dtype).guards if poisoned() else ()
        size = flat_size(shapes, dtype)
        self.block = POOL.take(size * dtype.itemsize)
        self.tensors = cut(self.block[: size * dtype.itemsize].view(dtype), shapes)

    def __del__(self) -> None:
        if hasattr(self, "block"):
            _give(self.block, self._guards)
