"""How the "triton" engine runs: options that change its speed and its rounding, but not what it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Options:
    """Options of the "triton" engine.

    precision: the dtype of matrix operands, of saved pre-activations and of their gradients: float32 or bfloat16. None
        uses autocast's dtype if autocast is on, else float32.
    overlap: compute the half of a cell's product whose operand is ready first on a second stream, in parallel with the
        cell that the other half waits for. Cannot be combined with dependent launches.
    dependent_launch: let a fused kernel start while the product before it ends (Hopper and later).
    gates_apart: compute the products of the backward loop as a batch of four, one per gate, which the next fused kernel
        adds up: four times as many tiles, each with a fourth of the terms. Otherwise as one product.
    own_products: compute the products of the backward loop with our own kernel instead of the library's. With
        `dependent_launch` each kernel of that loop then starts while the one before it ends.
    chunk_rows: rows (steps times streams) whose gradients of pre-activations are stored before one product turns them
        into weight gradients; bounds the memory of the backward pass, 10 elements per row and unit of a cell.
        The default takes 150 steps of 128 streams at once.
    units_per_thread: units of a row per thread of a fused kernel.
    """

    precision: torch.dtype | None = None
    overlap: bool = False
    dependent_launch: bool = False
    gates_apart: bool = True
    own_products: bool = False
    chunk_rows: int = 20480
    units_per_thread: int = 4

    def __post_init__(self) -> None:
        if self.precision not in (None, torch.float32, torch.bfloat16):
            raise ValueError(f"precision must be torch.float32, torch.bfloat16 or None; got {self.precision}")
        if self.overlap and self.dependent_launch:
            raise ValueError("overlap and dependent_launch cannot be combined: a dependent launch follows one kernel")
        if self.chunk_rows < 1 or self.units_per_thread < 1:
            raise ValueError("chunk_rows and units_per_thread must be positive")


_current = Options()


def current() -> Options:
    """The options of runs that start now."""
    return _current


@contextlib.contextmanager
def using(**changes: object) -> Iterator[Options]:
    """Runs that start in this context, in any thread, use these options; a graph captured in it keeps them.

    >>> with using(precision=torch.bfloat16, overlap=True) as options:
    ...     options.chunk_rows
    20480
    """
    global _current
    before = _current
    _current = replace(before, **changes)  # type: ignore[arg-type]
    try:
        yield _current
    finally:
        _current = before
