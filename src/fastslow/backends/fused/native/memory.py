"""Memory of windows, used again from one to the next.

A fresh buffer of hundreds of megabytes costs a page fault every 4 KB, at every window. A window takes one block, and
gives it back when its graph is gone. What lies free is bounded by the most that was ever taken at one time.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 64
POISON = "FASTSLOW_POISON"
"""Environment variable for tests: if 1, every block is handed out filled with NaN."""


class Pool:
    """Blocks of bytes."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._taken = self._most = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> Tensor:
        """A block of at least `size` bytes, at a multiple of 64: (size,) uint8."""
        with self._lock:
            fitting = [i for i, block in enumerate(self._free) if size <= block.numel() <= 2 * size + 4096]
            best = min(fitting, key=lambda i: self._free[i].numel(), default=None)
            block = None if best is None else self._free.pop(best)
        if block is None:
            block = _fresh(size)
        with self._lock:
            self._taken += block.numel()
            self._most = max(self._most, self._taken)
        fills = torch.are_deterministic_algorithms_enabled() and torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        if fills or os.environ.get(POISON) == "1":
            block.fill_(255)  # every float of these bytes is NaN
        return block

    def give(self, block: Tensor) -> None:
        with self._lock:
            self._taken -= block.numel()
            self._free.append(block)
            while sum(b.numel() for b in self._free) + self._taken > self._most:
                self._free.pop(0)

    def clear(self) -> None:
        """Give what lies free back to the system."""
        with self._lock:
            self._free.clear()
            self._most = self._taken


def _fresh(size: int) -> Tensor:
    size = max(mmap.PAGESIZE, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= 1 << 21:
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


POOL = Pool()


class Lease:
    """One block cut into tensors of one type, taken until this object is gone.

    Its tensors must not outlive it.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> None:
        offsets, total = [], 0
        for shape in shapes:
            offsets.append(total)
            count = 1
            for size in shape:
                count *= size
            total += -(-count * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self.block = POOL.take(total)
        numbers = self.block[: self.block.numel() // 8 * 8].view(dtype)
        self.tensors: list[Tensor] = []
        for shape, offset in zip(shapes, offsets, strict=True):
            strides, step = [], 1
            for size in reversed(shape):
                strides.append(step)
                step *= size
            self.tensors.append(numbers.as_strided(shape, strides[::-1], offset // dtype.itemsize))

    def __del__(self) -> None:
        if hasattr(self, "block"):
            POOL.give(self.block)
