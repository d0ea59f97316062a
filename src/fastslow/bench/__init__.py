"""The measurements of `fastslow bench`: engines, the loop, `torch.nn.LSTM`, and the matrix products alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastslow.lazy import lazy_names

if TYPE_CHECKING:
    from fastslow.bench.run import run_bench

__all__ = ["run_bench"]

__getattr__ = lazy_names(__name__, {"run_bench": "fastslow.bench.run"})
