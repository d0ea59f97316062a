"""What PyTorch's dispatcher would do with a tensor, asked by code that goes past it to save the time.

Such code reads addresses. It may only where an operator would go straight to its CPU kernel: where the tensor's
dispatch keys are those of plain memory, and no mode of this thread - a tracer, a fake tensor mode, a transform, a
counter - has asked to be in between. Whatever is not known to be plain takes an operator, and the dispatcher decides.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

_keys = torch._C._dispatch_keys
_modes = torch._C._dispatch_tls_local_include_set


@cache
def _known() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The keys of plain tensors, and the sets that a thread without modes adds: usual ones, and in inference mode."""
    plain, none = [], []

    def look() -> None:
        for inference in (False, True):
            with torch.inference_mode(inference):
                plain.append(_keys(torch.empty(0, device="cpu")))
                none.append(_modes())

    thread = threading.Thread(target=look)  # which has none of the modes of this one
    thread.start()
    thread.join()
    return tuple(plain), tuple(none)


def nobody_between() -> bool:
    """Whether no mode stands between a caller and the kernels."""
    return _modes() in _known()[1]


def plain(tensors: Iterable[Tensor]) -> bool:
    """Whether all of these are plain memory on the CPU."""
    known = _known()[0]
    return all(_keys(tensor) in known for tensor in tensors)
