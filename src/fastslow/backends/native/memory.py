"""Memory that is reused from one window to the next.

A new buffer of hundreds of megabytes costs a page fault per 4 KB in every window. A window takes blocks from a pool and
returns them when its graph is freed. The free blocks never exceed the largest amount that was in use at one time.
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
"""Environment variable for tests: if 1, every block is filled with NaN when it is taken, and writes past the end of a
tensor are detected."""
POISON_BYTE = 255  # a float of such bytes is NaN


class Pool:
    """A pool of memory blocks."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._returned: deque[Tensor] = deque()
        self.taken = 0
        """The number of bytes in use."""
        self._most = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> Tensor:
        """A block of at least `size` bytes, aligned to 64 bytes: (size,) uint8."""
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
        """Return a block from `take`. Safe to call at any time, also from the garbage collector inside `take`."""
        self._returned.append(block)
        if self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()

    def clear(self) -> None:
        """Return the free blocks to the system."""
        with self._lock:
            self._settle()
            self._free.clear()
            self._most = self.taken

    @property
    def free(self) -> int:
        """The number of free bytes."""
        return sum(block.numel() for block in self._free)

    def _settle(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self.taken -= block.numel()
            self._free.append(block)
        while self._free and self.free + self.taken > self._most:
            self._free.pop(0)


def poisoned() -> bool:
    """Whether new memory is filled with NaN, by `POISON` or by PyTorch's deterministic mode."""
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    return os.environ.get(POISON) == "1" or (torch.are_deterministic_algorithms_enabled() and filled)


def _fresh(size: int) -> Tensor:
    size = max(mmap.PAGESIZE, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= 1 << 21:
        memory.madvise(mmap.MADV_HUGEPAGE)
    with torch.inference_mode(False):  # a normal tensor, usable with and without inference mode
        return torch.frombuffer(memory, dtype=torch.uint8)


POOL = Pool()


def flat_size(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> int:
    """The number of elements for tensors of these shapes, each aligned to 64 bytes and followed by as much padding.

    The sizes may be symbolic.
    """
    alignment = ALIGNMENT // dtype.itemsize
    return sum((-(-math.prod(shape) // alignment) + 1) * alignment for shape in shapes)


def cut(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Tensors of these shapes in `flat` (`flat_size`,)."""
    start = flat.storage_offset()
    return [flat.as_strided(shape, strides, start + at) for shape, strides, at in _places(tuple(shapes), flat.itemsize)]


@lru_cache(maxsize=256)
def _places(
    shapes: tuple[tuple[int, ...], ...], itemsize: int
) -> tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...]:
    """Shape, strides and offset of each tensor that is cut from one."""
    alignment = ALIGNMENT // itemsize
    found, at = [], 0
    for shape in shapes:
        strides, step = [], 1
        for size in reversed(shape):
            strides.append(step)
            step *= size
        found.append((shape, tuple(strides[::-1]), at))
        at += (-(-step // alignment) + 1) * alignment
    return tuple(found)


class _Loan(np.ndarray[tuple[int, ...], np.dtype[np.uint8]]):
    """A block's bytes, which returns the block when the last tensor on them is freed."""

    _block: Tensor | None = None
    _guards: tuple[int, ...] = ()

    def __del__(self) -> None:
        block, self._block = self._block, None
        if block is not None:
            _give(block, self._guards)


def pooled(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> Tensor:
    """(`flat_size`,) elements from the pool, for `cut`; the block stays in use until this storage is freed."""
    layout = _layout(tuple(shapes), dtype)
    block = POOL.take(layout.bytes)
    loan = block[: layout.bytes].numpy().view(_Loan)
    loan._block = block
    flat = torch.frombuffer(loan, dtype=dtype)
    if poisoned():
        loan._guards = layout.guards
    else:  # so that unwritten elements are deterministic
        flat.index_fill_(0, layout.gaps, 0)
    return flat


@dataclass(frozen=True)
class _Layout:
    """bytes: the total size. guards: the offsets of the guard bytes after each tensor, which must not be written. gaps:
    an index of the elements after the tensors."""

    bytes: int
    guards: tuple[int, ...]
    gaps: Tensor


@lru_cache(maxsize=64)
def _layout(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> _Layout:
    alignment, at, guards, gaps = ALIGNMENT // dtype.itemsize, 0, [], []
    for shape in shapes:
        end = flat_size([shape], dtype)
        gaps.append(torch.arange(at + math.prod(shape), at + end, device="cpu"))
        at += end
        guards.append((at - alignment) * dtype.itemsize)
    return _Layout(at * dtype.itemsize, tuple(guards), torch.cat(gaps))


def _give(block: Tensor, guards: Sequence[int]) -> None:
    torn = [n for n, at in enumerate(guards) if (block[at : at + ALIGNMENT] != POISON_BYTE).any()]
    POOL.give(block)
    if torn:
        raise RuntimeError(f"memory was written past the end of tensors {torn} of a lease")


class Lease:
    """One block cut into tensors of one type, in use until this object is freed.

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
