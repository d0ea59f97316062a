"""What the engine says and plans on a machine without a device."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from fastslow import FSLSTM
from fastslow.backends.triton import engine, options
from fastslow.backends.triton.plan import padded, plan
from fastslow.wiring import FROM_INPUT, NO_INPUT, fast_slow
from tests.backends.twins import CASES, TWO_READERS, Case, make_inputs


@pytest.fixture(autouse=True)
def _no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_it_needs_a_device_and_says_so() -> None:
    problem = CASES["fs2"].problem(torch.float32)
    assert engine.refusal(problem) == "it runs on a CUDA device, and x is on cpu"
    layer = FSLSTM(3, 4, backend="triton")
    with pytest.raises(RuntimeError, match="backend 'triton' cannot run this: it runs on a CUDA device"):
        layer(torch.zeros(2, 1, 3))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": torch.float64}, "its weights are torch.float32"),
        ({"autocast": torch.float16}, "autocast asks for torch.float16"),
        ({"hidden_sizes": (9000, 5, 9000)}, "hidden sizes go up to 8192; got 9000"),
        ({"device": torch.device("meta")}, "x is on meta"),
    ],
)
def test_refusals(monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], reason: str) -> None:
    pytest.importorskip("triton", reason="without triton that is the only reason given")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    problem = CASES["fs2"].problem(torch.float32)
    assert engine.refusal(problem) is None
    assert engine.reluctance(problem) is not None  # "auto" leaves the interpreter alone
    refused = engine.refusal(replace(problem, **changes))  # type: ignore[arg-type]
    assert refused is not None
    assert reason in refused


def test_choosing_imports_no_kernels() -> None:
    program = (
        "import sys, torch; from fastslow import FSLSTM; layer = FSLSTM(3, 4); layer(torch.zeros(2, 1, 3));"
        "import fastslow.backends.triton.engine as e; assert 'fastslow.backends.triton.kernels' not in sys.modules, e"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_options() -> None:
    assert options.current().precision is None
    with options.using(overlap=True) as inside:
        assert options.current() is inside
        assert inside.overlap
        with pytest.raises(ValueError, match="exclude each other"), options.using(dependent_launch=True):
            pass
    assert not options.current().overlap
    with (
        pytest.raises(ValueError, match=r"precision must be .*; got torch.float16"),
        options.using(precision=torch.half),
    ):
        pass
    with pytest.raises(ValueError, match="must be positive"), options.using(chunk_rows=0):
        pass


def test_padding() -> None:
    assert [padded(n) for n in (0, 1, 16, 17, 700)] == [0, 16, 16, 32, 704]


def test_the_plan_of_fs3() -> None:
    case = Case(wiring=fast_slow(3), sizes={"fast": 20, "slow": 7}, input_size=5)
    f1, s, f2, f3 = plan(case.wiring, make_inputs(case, torch.float32).weights)
    assert [step.source for step in (f1, s, f2, f3)] == [FROM_INPUT, 0, 1, NO_INPUT]
    assert [step.readers for step in (f1, s, f2, f3)] == [(1,), (2,), (), ()]
    assert [(step.before, step.after) for step in (f1, s, f2, f3)] == [(3, 2), (1, 1), (0, 3), (2, 0)]
    assert [(step.first, step.last) for step in (f1, s, f2, f3)] == [
        (True, False),
        (True, True),
        (False, False),
        (False, True),
    ]
    assert [step.columns for step in (f1, s, f2, f3)] == [32, 32 + 16, 16 + 32, 32]
    assert [step.h_at for step in (f1, s, f2, f3)] == [0, 32, 16, 0]
    # S can start on its own last state before F1 is done; F2 on F1's, while S runs.
    assert (s.h_is_early, s.early) == (True, 1)
    assert (f2.h_is_early, f2.early) == (True, 0)


def test_a_state_that_comes_after_the_input_is_the_late_half() -> None:
    case = Case(wiring=TWO_READERS, sizes=4)
    steps = plan(TWO_READERS, make_inputs(case, torch.float32).weights)
    e = steps[4]  # reads a (0), takes c's (2) state
    assert (e.source, e.before) == (0, 2)
    assert (e.h_is_early, e.early) == (False, 0)
