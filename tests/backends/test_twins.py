"""The twin harness itself: the loop passes it, and defects of each kind do not."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor

from fastslow.backends import reference
from fastslow.backends.base import States
from tests.backends.twins import CASES, GRADCHECKS, Case, check_gradients, check_repeatable, check_twin, poisoned_memory


@pytest.mark.parametrize("name", ["fs2", "fs2-63x5", "fs2-lengths", "two-readers", "shared-cell", "fs2-twice"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_loop_is_its_own_twin(name: str, dtype: torch.dtype) -> None:
    check_twin(reference, CASES[name], dtype=dtype)


def test_the_loop_passes_gradcheck_and_repeats() -> None:
    check_gradients(reference, GRADCHECKS["fs2"])
    check_repeatable(reference, CASES["fs2"], dtype=torch.float32)


def test_fresh_memory_is_nan() -> None:
    with poisoned_memory():
        assert torch.empty(3).isnan().all()


def broken(**defects: Any) -> Any:
    """The loop with one result replaced by `defect(result)`."""

    def run(*args: Any) -> tuple[Tensor, States]:
        y, state = reference.run(*args)
        return defects.get("y", lambda v: v)(y), defects.get("state", lambda v: v)(state)

    return types.SimpleNamespace(NAME="broken", refusal=lambda problem: None, run=run)


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        ({"y": lambda y: y * 1.001}, "y@0: differs"),
        ({"y": lambda y: y + 0 * torch.empty_like(y)}, "y@0: .* not finite"),
        ({"y": lambda y: 2 * y - y.detach()}, "gradient of w_x@0: differs"),
        ({"state": lambda s: (s[0]._replace(c=s[0].c.detach()), s[1])}, "gradient of w_x@0: differs"),
    ],
)
def test_defects_are_found(defect: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_twin(broken(**defect), CASES["fs2"])


def test_a_refusal_is_a_failure() -> None:
    refusing = types.SimpleNamespace(NAME="refusing", refusal=lambda problem: "no reason", run=reference.run)
    with pytest.raises(AssertionError, match="refusing refuses: no reason"):
        check_twin(refusing, Case())
