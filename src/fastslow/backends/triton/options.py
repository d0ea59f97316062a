"""How the "triton" engine runs: choices that change its speed and its rounding, never what it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Options:
    """Choices of the "triton" engine.

    precision: the type of matrix operands, of saved pre-activations and of their gradients: float32 or bfloat16. None
        takes autocast's where autocast is on, else float32.
    overlap: compute the half of a cell's product whose operand is ready first on a second stream, beside the cell
        that the other half waits for. Not for dependent launches.
    dependent_launch: let a fused kernel start while the product before it ends (Hopper and later).
    gates_apart: make the products of the backward loop a batch of four, one a gate, which the next fused kernel adds
        up: four times as many tiles, each with a fourth of the sums. Else one product.
    own_products: make the products of the backward loop by a kernel of ours in place of the library's. With
        `dependent_launch` each kernel of that loop then starts while the one before it ends.
    chunk_rows: rows (steps times streams) whose gradients of pre-activations are held before they are turned into
        weight gradients by one product; bounds the memory of the backward pass, 10 entries a row and unit of a cell.
        The default takes 150 steps of 128 streams at once.
    units_per_thread: units of a row a thread of a fused kernel takes.
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
            raise ValueError("overlap and dependent_launch exclude each other: a dependent launch follows one kernel")
        if self.chunk_rows < 1 or self.units_per_thread < 1:
            raise ValueError("chunk_rows and units_per_thread must be positive")


_current = Options()


def current() -> Options:
    """The options of the runs that start now."""
    return _current


@contextlib.contextmanager
def using(**changes: object) -> Iterator[Options]:
    """Runs that start in here, in any thread, use these options; a graph captured in here keeps them.

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
