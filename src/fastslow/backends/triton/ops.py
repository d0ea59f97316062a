"""Launches, products and streams for the loops of the "triton" engine."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.triton.cells import CELLS


def launch(
    kernel: str, grid: tuple[int, ...], *args: Any, warps: int, dependent: bool = False, **constants: Any
) -> None:
    """Start a kernel; all launches of the engine go through this function."""
    options = {"num_warps": warps, **({"launch_pdl": True} if dependent else {})}
    found(kernel)[grid](*args, **constants, **options)


@lru_cache
def found(kernel: str) -> Any:
    """The kernel with this name: a cell's, or one of kernels.py. Importing either imports triton."""
    cell = kernel.rpartition("_")[0]
    home = f"cells.{cell}" if cell in {each.name for each in CELLS.values()} else "kernels"
    return getattr(importlib.import_module(f"fastslow.backends.triton.{home}"), kernel)


@lru_cache
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    import triton

    return bool(triton.knobs.runtime.interpret)


def block(size: int) -> int:
    """The smallest power of two of at least `size` units and 16."""
    return max(16, 1 << (size - 1).bit_length())


@lru_cache
def wide_products(device: torch.device) -> bool:
    """Whether this torch supports bfloat16 products with a float32 result (tried once, before any capture)."""
    if device.type != "cuda":
        return True
    a = torch.ones(2, 16, 16, dtype=torch.bfloat16, device=device)
    try:
        one = torch.mm(a[0], a[1], out_dtype=torch.float32, out=torch.empty(16, 16, device=device))
        two = torch.bmm(a, a, out_dtype=torch.float32, out=torch.empty(2, 16, 16, device=device))
    except (RuntimeError, TypeError):
        return False
    return bool(one[0, 0] == 16.0) and bool(two[1, 0, 0] == 16.0)


@lru_cache
def wide_sums(device: torch.device) -> bool:
    """Whether this torch can add a bfloat16 product to a float32 tensor (tried once, before any capture)."""
    a = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
    total = torch.ones(16, 16, device=device)
    try:
        torch.addmm(total, a, a, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool(total[0, 0] == 17.0)


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a b, for operands of one dtype and an out of that dtype or of float32."""
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32, out=out)
    return torch.mm(a.float(), b.float(), out=out)  # only used in tests


def gate_products(dz: Tensor, matrix: Tensor, out: Tensor) -> None:
    """dz W as one partial sum per block of z, or in one sum: (B, 4 W), (4 W, N) -> (4, B, N), or (1, B, N).

    Four partial sums make four times as many tiles: with a small batch a single product leaves most of a device idle.
    """
    parts = out.shape[0]
    if parts == 1:
        product(dz, matrix, out[0])
        return
    gates = dz.view(dz.shape[0], parts, -1).transpose(0, 1)
    matrices = matrix.view(parts, -1, matrix.shape[1])
    if dz.dtype == out.dtype:
        torch.bmm(gates, matrices, out=out)
    elif dz.is_cuda:
        torch.bmm(gates, matrices, out_dtype=torch.float32, out=out)
    else:  # only used in tests
        torch.bmm(gates.float(), matrices.float(), out=out)


def own_products(dz: Tensor, matrix: Tensor, out: Tensor, *, dependent: bool) -> None:
    """As `gate_products`, by our own kernel, which may be launched before the end of the kernel before it.

    The partial sums then have about the same number of terms each, regardless of where the gates begin.
    """
    (rows, sums), columns, parts = dz.shape, matrix.shape[1], out.shape[0]
    # Exact float32 products do not use the matrix units, and take more registers.
    most, wide, deep = (128, 64, 64) if dz.dtype == torch.bfloat16 else (32, 32, 32)
    tall = max(16, min(most, block(rows)))
    each = -(-sums // (parts * deep)) * deep
    launch(
        "part_product",
        (-(-columns // wide), parts, -(-rows // tall)),
        dz, matrix, out, rows, matrix.stride(0),
        K=sums, N=columns, EACH=each, BLOCK_M=tall, BLOCK_N=wide, BLOCK_K=deep, DEPENDENT=dependent,
        num_stages=3, warps=4, dependent=dependent,
    )  # fmt: skip


def add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """total + a b in float32, in place."""
    if a.dtype == torch.float32:
        return torch.mm(a, b) if total is None else total.addmm_(a, b)
    if total is not None and a.is_cuda and wide_sums(a.device):
        return torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    if a.is_cuda and wide_products(a.device):
        new = torch.mm(a, b, out_dtype=torch.float32)
    else:
        new = torch.mm(a, b).float()
    return new if total is None else total.add_(new)


class SideStream:
    """A second stream for products that can run ahead; on a CPU, or if disabled, the same stream."""

    def __init__(self, device: torch.device, on: bool) -> None:
        self.stream = _side_stream(device) if on and device.type == "cuda" else None
        self.pending: dict[int, torch.cuda.Event] = {}

    @contextlib.contextmanager
    def start(self, node: int) -> Iterator[None]:
        """Run on the second stream, after all work queued on the first; `wait(node)` waits for it."""
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
