from __future__ import annotations

import pytest
import torch

from fastslow import FSLSTM
from fastslow.backends import ENGINES, Choice, choose, engine
from fastslow.compiling.build import BuildError, compiler


def test_the_reference_runs_everything_and_comes_last() -> None:
    assert list(ENGINES)[-1] == "reference"
    layer = FSLSTM(3, 4)
    assert engine("reference").refusal(layer._problem(torch.zeros(2, 1, 3, dtype=torch.float16))) is None


def test_auto_says_what_it_passed_over() -> None:
    layer = FSLSTM(3, 4, dtype=torch.float16)  # no fused CPU engine computes in half precision
    choice = layer.backend_for(torch.zeros(2, 1, 3, dtype=torch.float16))
    assert choice.name == "reference"
    assert list(choice.refused) == list(ENGINES)[:-1]
    for name, reason in choice.refused.items():
        assert f"not {name}: {reason}" in str(choice)


def test_a_named_backend_runs_or_raises_with_the_reason() -> None:
    layer = FSLSTM(3, 4, backend="reference")
    assert layer.backend_for(torch.zeros(2, 1, 3)) == Choice("reference")
    for name in list(ENGINES)[:-1]:
        half = FSLSTM(3, 4, backend=name, dtype=torch.float16)
        with pytest.raises(RuntimeError, match=f"backend '{name}' cannot run this: .+"):
            half(torch.zeros(2, 1, 3, dtype=torch.float16))


def test_a_machine_with_a_compiler_has_the_native_engine() -> None:
    try:
        compiler()
    except BuildError as error:
        pytest.skip(str(error))
    layer = FSLSTM(3, 4)
    assert engine("native").refusal(layer._problem(torch.zeros(2, 1, 3))) is None
    assert layer.backend_for(torch.zeros(2, 1, 3)) == Choice("native")


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"backend must be 'auto' or one of .*'reference'; got 'quick'"):
        FSLSTM(3, 4, backend="quick")
    with pytest.raises(ValueError, match="got 'quick'"):
        choose(FSLSTM(3, 4)._problem(torch.zeros(1, 1, 3)), "quick")
