"""Checks that replace PyTorch's dispatcher in code that bypasses it to save time.

Such code reads memory addresses. This is only valid where an operator would go straight to its CPU kernel: the tensor's
dispatch keys are those of a plain CPU tensor, and no mode is active in this thread (a tracer, a fake tensor mode, a
transform, a FLOP counter). In every other case an operator is called and the dispatcher decides.
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
    """The dispatch keys of plain tensors, and the mode sets of a thread without modes; each also in inference mode."""
    plain, none = [], []

    def record() -> None:
        for inference in (False, True):
            with torch.inference_mode(inference):
                plain.append(_keys(torch.empty(0, device="cpu")))
                none.append(_modes())

    thread = threading.Thread(target=record)  # a new thread has no active modes
    thread.start()
    thread.join()
    return tuple(plain), tuple(none)


def no_active_modes() -> bool:
    """Whether no dispatch mode is active between the caller and the kernels."""
    return _modes() in _known()[1]


def plain(tensors: Iterable[Tensor]) -> bool:
    """Whether all of these are plain CPU tensors."""
    known = _known()[0]
    return all(_keys(tensor) in known for tensor in tensors)
