"""Scratch memory that is reused from one window to the next.

Memory newly obtained from the system costs a page fault per page at first touch. At sizes common for training on a CPU
that is a tenth of a window's time. So the buffers of a window are kept for the next one of the same kind, up to `LIMIT`
bytes. CUDA does not need this: torch's CUDA allocator caches freed memory.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

LIMIT = 2**28
"""Bytes of scratch memory kept between windows, per thread."""


class Workspace:
    """Buffers by name. Taking the same name again returns the same memory."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self._buffers: dict[Hashable, Tensor] = {}
        self._views: dict[tuple[Hashable, tuple[int, ...]], Tensor] = {}

    def take(self, name: Hashable, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised tensor, of the workspace's dtype unless `dtype` is given."""
        view = self._views.get((name, shape))
        if view is None:
            size = math.prod(shape)
            buffer = self._buffers.get(name)
            # A normal tensor even in inference mode: the next window may run outside of it.
            with torch.inference_mode(False):
                if buffer is None or buffer.numel() < size:
                    self._views = {key: kept for key, kept in self._views.items() if key[0] != name}
                    buffer = torch.empty(size, dtype=dtype or self.dtype, device=self.device)
                    self._buffers[name] = buffer
                view = self._views[name, shape] = buffer[:size].view(shape)
        return view

    @property
    def bytes(self) -> int:
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers.values())


class _Kept(threading.local):
    def __init__(self) -> None:
        self.workspaces: OrderedDict[Hashable, Workspace] = OrderedDict()


_kept = _Kept()


@contextmanager
def workspace(kind: Hashable, dtype: torch.dtype, device: torch.device) -> Iterator[Workspace]:
    """The workspace of the last window of this kind, or a new one. It is used exclusively until the context ends."""
    key = (kind, dtype, device)
    room = _kept.workspaces.pop(key, None)
    if room is None or _fresh_is_poisoned():
        room = Workspace(dtype, device)
    yield room
    if device.type == "cpu":
        _kept.workspaces[key] = room
        total = sum(kept.bytes for kept in _kept.workspaces.values())
        while total > LIMIT:
            _, oldest = _kept.workspaces.popitem(last=False)
            total -= oldest.bytes


def _fresh_is_poisoned() -> bool:
    # This option is set to find reads of uninitialised memory; reused buffers would hide them.
    filled: bool = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    return filled and torch.are_deterministic_algorithms_enabled()
