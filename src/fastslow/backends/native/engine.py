"""The native engine: a window's whole loop over time in compiled C++, forward and backward (CPU, float32 and float64).

The C++ code (csrc/) is compiled at first use, which takes seconds, and cached; see `build`. Without a compiler, or with
`FASTSLOW_NATIVE=0`, the engine refuses and another one runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.base import Problem, Rates, States
from fastslow.backends.native.call import options, saving
from fastslow.backends.native.library import library
from fastslow.backends.operators import run as run_operator
from fastslow.noise import Noise
from fastslow.wiring import Wiring

__all__ = ["NAME", "options", "refusal", "run", "saving"]

NAME = "native"


def refusal(problem: Problem) -> str | None:
    if problem.device.type != "cpu":
        return f"it runs on the CPU only, and the input is on {problem.device}"
    if problem.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, not {problem.dtype}"
    if problem.autocast not in (None, torch.bfloat16):
        return f"its only lower precision is bfloat16, and autocast requests {problem.autocast}"
    if problem.steps == 0 or problem.rows == 0:
        return f"the window is empty: {problem.steps} steps of {problem.rows} rows"
    found = library()
    return found if isinstance(found, str) else None


def run(
    wiring: Wiring,
    weights: Sequence[Any],
    x: Tensor,
    state: States,
    noise: Noise | None,
    rates: Rates,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, States]:
    return run_operator(NAME, options(), weights, x, state, noise, rates, wiring, lengths, resets)
