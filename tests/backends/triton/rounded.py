"""The twin test for operands in bfloat16."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from fastslow.backends import reference
from fastslow.backends.triton import engine, options
from tests.backends.twins import Case, make_inputs, poisoned_memory, run_case


def check_rounded(
    case: Case, device: torch.device | str = "cpu", *, middle: float = 0.04, worst: float = 0.25, **changes: Any
) -> None:
    """AssertionError unless outputs, states and gradients are the float64 loop's up to bfloat16's rounding.

    By ||got - expected|| / ||expected||: `middle` bounds the median over all tensors, `worst` each. A wrong formula
    shows in both; a norm over a handful of units, which amplifies rounding from step to step, in the worst alone.
    """
    with options.using(precision=torch.bfloat16, **changes), poisoned_memory():
        got = run_case(engine, case, make_inputs(case, torch.float32, device))
    expected = run_case(reference, case, make_inputs(case, torch.float64))
    errors: dict[str, float] = {}
    pairs: list[tuple[str, Tensor | None, Tensor | None]] = [(n, got.values[n], v) for n, v in expected.values.items()]
    pairs += [(f"gradient of {n}", got.grads[n], v) for n, v in expected.grads.items()]
    for name, value, exact in pairs:
        if exact is None or not exact.any():
            assert value is None or not value.any(), name
            continue
        assert value is not None, name
        errors[name] = ((value.double().cpu() - exact).norm() / exact.norm()).item()  # NaN fails below
    assert all(error <= worst for error in errors.values()), errors
    assert median(errors.values()) <= middle, errors


def brief(case: Case) -> Case:
    """The case with at most 4 steps."""
    lengths = case.lengths and tuple(min(4, length) for length in case.lengths)
    resets = case.resets and tuple((t, row) for t, row in case.resets if t < 4)
    return replace(case, T=min(4, case.T), lengths=lengths, resets=resets)
