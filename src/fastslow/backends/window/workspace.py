"""Scratch memory that outlives a window.

Memory fresh from the system is paid for page by page when it is first touched; at the sizes people train on a CPU
that is a tenth of a window. So the buffers of a window wait for the next one of the same kind, up to `LIMIT` bytes.
CUDA needs none of it: torch's allocator there keeps what is freed.
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
"""Bytes of scratch kept between windows, by each thread."""


class Workspace:
    """Buffers by name. A name means one buffer: to take it again is to have the same memory."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self._buffers: dict[Hashable, Tensor] = {}
        self._views: dict[tuple[Hashable, tuple[int, ...]], Tensor] = {}

    def take(self, name: Hashable, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of any contents, of this workspace's type if `dtype` does not say otherwise."""
        view = self._views.get((name, shape))
        if view is None:
            size = math.prod(shape)
            buffer = self._buffers.get(name)
            # An ordinary tensor even in inference mode, which the next window may not be in.
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
    """The workspace of the last window of this kind, or a new one. Nobody else has it meanwhile."""
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
    # Whoever asks torch to fill fresh memory looks for reads of what was never written; old contents would hide them.
    filled: bool = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    return filled and torch.are_deterministic_algorithms_enabled()
