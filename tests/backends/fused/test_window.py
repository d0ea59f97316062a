"""The window engine beside the loop."""

from __future__ import annotations

import pytest
import torch

from fastslow.backends.fused import window
from tests.backends.twins import CASES, GRADCHECKS, Case, check_gradients, check_repeatable, check_twin


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_twin(case: Case, dtype: torch.dtype) -> None:
    check_twin(window, case, dtype=dtype)


@pytest.mark.parametrize("case", GRADCHECKS.values(), ids=GRADCHECKS)
def test_gradcheck(case: Case) -> None:
    check_gradients(window, case)
