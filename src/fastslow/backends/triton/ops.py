"""Launches, products and streams: what the loops of the "triton" engine ask of the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def launch(
    kernel: str, grid: tuple[int, ...], *args: Any, warps: int, dependent: bool = False, **constants: Any
) -> None:
    """Start a kernel of kernels.py: every launch of the engine passes here."""
    from fastslow.backends.triton import kernels

    options = {"num_warps": warps, **({"launch_pdl": True} if dependent else {})}
    getattr(kernels, kernel)[grid](*args, **constants, **options)


@lru_cache
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, that is, on the CPU and step by step."""
    import triton

    return bool(triton.knobs.runtime.interpret)


def block(size: int) -> int:
    """The smallest power of two that holds `size` units; at least 16."""
    return max(16, 1 << (size - 1).bit_length())


@lru_cache
def wide_products(device: torch.device) -> bool:
    """Whether this torch multiplies bfloat16 into float32 on the device (tried once, before any capture)."""
    if device.type != "cuda":
        return True
    a = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
    try:
        wide = torch.mm(a, a, out_dtype=torch.float32, out=torch.empty(16, 16, device=device))
    except (RuntimeError, TypeError):
        return False
    return bool(wide[0, 0] == 16.0)


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a b, for operands of one type and an out of that type or of float32."""
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32, out=out)
    return torch.mm(a.float(), b.float(), out=out)  # only tests come here


def add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """total + a b in float32, in place."""
    if a.dtype == torch.float32:
        return torch.mm(a, b) if total is None else total.addmm_(a, b)
    if a.is_cuda and wide_products(a.device):
        new = torch.mm(a, b, out_dtype=torch.float32)
    else:
        new = torch.mm(a, b).float()
    return new if total is None else total.add_(new)


class Beside:
    """A second stream for products that nothing waits for yet; on a CPU, or switched off, the same stream."""

    def __init__(self, device: torch.device, on: bool) -> None:
        self.stream = _side_stream(device) if on and device.type == "cuda" else None
        self.pending: dict[int, torch.cuda.Event] = {}

    @contextlib.contextmanager
    def start(self, node: int) -> Iterator[None]:
        """Work on the second stream, after all that has been asked of the first; `wait(node)` waits for it."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
            self.pending[node] = self.stream.record_event()

    def wait(self, node: int) -> None:
        event = self.pending.pop(node, None)
        if event is not None:
            torch.cuda.current_stream().wait_event(event)

    def join(self) -> None:
        for node in list(self.pending):
            self.wait(node)


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
