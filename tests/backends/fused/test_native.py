"""The native engine beside the loop: everything it returns, every gradient."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastslow.backends.fused import native
from fastslow.backends.fused.native.library import library
from tests.backends.twins import CASES, GRADCHECKS, Case, check_gradients, check_repeatable, check_twin

pytestmark = pytest.mark.skipif(isinstance(library(), str), reason=f"no native library: {library()}")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_twin(case: Case, dtype: torch.dtype) -> None:
    check_twin(native, case, dtype=dtype)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_twin_when_only_states_are_saved(case: Case) -> None:
    with native.saving("states"):
        check_twin(native, case)


@pytest.mark.parametrize("case", GRADCHECKS.values(), ids=GRADCHECKS)
def test_gradcheck(case: Case) -> None:
    check_gradients(native, case)


@pytest.mark.parametrize("what", ["all", "states"])
def test_a_second_backward_repeats_the_first(what: native.window.Saving) -> None:
    with native.saving(what):
        check_repeatable(native, CASES["fs2"], dtype=torch.float32)
        check_repeatable(native, CASES["fs2-lengths"], dtype=torch.float64)
