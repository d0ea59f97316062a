"""What the engine says and plans on a machine without a device."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastslow import FSLSTM
from fastslow.backends.program import Request
from fastslow.backends.triton import engine, ops, options
from fastslow.backends.triton.cells import CELLS
from fastslow.backends.triton.plan import padded, plan, runs
from fastslow.wiring import FROM_INPUT, NO_INPUT, fast_slow, sequential
from tests.backends.twins import CASES, MIXED, TWO_READERS, Case, make_inputs


@pytest.fixture(autouse=True)
def _no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_it_needs_a_device_and_says_so() -> None:
    problem = CASES["fs2"].problem(torch.float32)
    assert engine.refusal(problem) == "it runs on CUDA devices only, and x is on cpu"
    layer = FSLSTM(3, 4, backend="triton")
    with pytest.raises(RuntimeError, match="backend 'triton' cannot run this: it runs on CUDA devices only"):
        layer(torch.zeros(2, 1, 3))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": torch.float64}, "it needs torch.float32 weights"),
        ({"autocast": torch.float16}, "autocast requests torch.float16"),
        ({"hidden_sizes": (9000, 5, 9000)}, "its largest hidden size is 8192; got 9000"),
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
        with pytest.raises(ValueError, match="cannot be combined"), options.using(dependent_launch=True):
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


def launches(monkeypatch: pytest.MonkeyPatch, case: Case, **changes: object) -> list[tuple[str, bool]]:
    """(kernel, whether it is launched ahead of the end of what is before it) of a window, without running any."""
    pytest.importorskip("triton", reason="triton is not installed: the engine cannot tell whether it interprets")
    made: list[tuple[str, bool]] = []

    def launch(kernel: str, grid: tuple[int, ...], *args: object, dependent: bool = False, **rest: object) -> None:
        assert rest.get("DEPENDENT", False) == dependent
        made.append((kernel, dependent))

    monkeypatch.setattr(ops, "launch", launch)
    inputs = make_inputs(case, torch.float32)
    with options.using(**changes):
        noise, resets = inputs.noises[0], inputs.resets
        y, _ = engine.run(case.wiring, inputs.weights, inputs.xs[0], inputs.state, noise, case.rates, None, resets)
        y.backward(torch.ones(y.shape[::-1]).permute(2, 1, 0))  # not contiguous
    return made


def test_the_first_backward_kernel_does_not_run_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but a product may be between a kernel that runs ahead and what it reads first."""
    vectors = ("bias", "gate_gain", "gate_shift", "cell_gain", "cell_shift")  # without a gradient, so without sums
    case = Case(wiring=sequential(2), sizes=4, T=3, B=2, frozen=vectors)
    made = launches(monkeypatch, case, dependent_launch=True)
    steps = [dependent for kernel, dependent in made if kernel == "lstm_backward"]
    assert steps == [False] + [True] * 5
    assert all(dependent for kernel, dependent in made if kernel == "lstm_forward")
    assert not any(dependent for kernel, dependent in launches(monkeypatch, case))
    made = launches(monkeypatch, case, dependent_launch=True, own_products=True)
    backward = [pair for pair in made if pair[0] in ("lstm_backward", "part_product")]
    assert backward == [("lstm_backward", False), ("part_product", True)] + 5 * [
        ("lstm_backward", True),
        ("part_product", True),
    ]
    assert all(not dependent for kernel, dependent in launches(monkeypatch, case, own_products=True))


def test_a_window_of_the_papers_ptb_network_is_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(wiring=fast_slow(2), sizes={"fast": 4, "slow": 3}, T=15, B=2)
    rows = options.current().chunk_rows
    assert rows >= 150 * 128
    whole = launches(monkeypatch, case).count(("drop_copy", False))
    parts = launches(monkeypatch, case, chunk_rows=6).count(("drop_copy", False))
    assert (whole, parts) == (2, 1 + 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_parts_of_the_gates_add_up_to_the_product(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    dz, matrix = torch.randn(5, 4 * 6).to(dtype), torch.randn(4 * 6, 11).to(dtype)
    expected = dz.double() @ matrix.double()
    parts, joint = torch.empty(4, 5, 11), torch.empty(1, 5, 11)
    ops.gate_products(dz, matrix, parts)
    ops.gate_products(dz, matrix, joint)
    torch.testing.assert_close(parts.sum(0).double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(joint[0].double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parts[2].double(), dz[:, 12:18].double() @ matrix[12:18].double(), rtol=1e-4, atol=1e-4)
    of_x = torch.empty(4, 5, 3)
    ops.gate_products(dz, matrix[:, 2:5], of_x)  # a half of the columns, as with `overlap`
    torch.testing.assert_close(of_x, parts[..., 2:5], rtol=1e-4, atol=1e-4)


def test_products_are_added_in_float32() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 40).bfloat16(), torch.randn(40, 5).bfloat16()
    once = ops.add_product(None, a, b)
    assert once.dtype == torch.float32
    twice = ops.add_product(once.clone(), a, b)
    torch.testing.assert_close(twice, 2 * once)
    exact = ops.add_product(ops.add_product(None, a.float(), b.float()), a.float(), b.float())
    torch.testing.assert_close(twice, exact, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("cells", ["gru", "plain_lstm", "tanh", MIXED], ids=str)
def test_every_cell_is_taken(monkeypatch: pytest.MonkeyPatch, cells: Any) -> None:
    pytest.importorskip("triton", reason="without triton it takes no cell")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert engine.refusal(Case(wiring=fast_slow(3), sizes=4, cells=cells).problem(torch.float32)) is None


def test_a_cell_without_kernels_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="without triton that is the only reason given")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(engine, "CELLS", {0: CELLS[0]})
    problem = replace(CASES["fs2"].problem(torch.float32), kinds=("gru", "lstm", "tanh"))
    assert str(engine.refusal(problem)).startswith("it has no kernels for gru, tanh cells")


@pytest.mark.parametrize("cells", ["lstm", "gru", MIXED], ids=str)
def test_what_is_launched_does_not_depend_on_resets(monkeypatch: pytest.MonkeyPatch, cells: Any) -> None:
    """They are read by the kernels: the same launches whatever they hold."""
    case = Case(wiring=fast_slow(3), sizes=4, T=3, B=2, cells=cells)
    plain = launches(monkeypatch, case)
    for resets in ((), ((0, 0), (2, 1))):
        assert launches(monkeypatch, replace(case, resets=resets)) == plain


class Unread(TorchDispatchMode):
    """Fails where the host would wait for a number of the device's, which no recording may."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        assert func not in (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default), func
        if func is aten._to_copy.default:
            assert (kwargs or {}).get("device") in (None, args[0].device)
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed: the engine cannot tell whether it interprets")
    monkeypatch.setattr(ops, "launch", lambda *args, **rest: None)
    case = Case(wiring=fast_slow(3), sizes=4, T=3, B=2, cells=MIXED, resets=((0, 0), (2, 1)))
    inputs = make_inputs(case, torch.float32)
    given = Request.of(case.wiring, inputs.weights, inputs.xs[0], case.rates, engine.options("cpu"))
    request = replace(given, states=inputs.state, noise=inputs.noises[0], resets=inputs.resets)
    with torch.no_grad(), Unread():
        y, final, memory = engine.forward(request, True)
        count = 1 + len(final) + request.program.count
        found = engine.backward(request, memory, torch.ones_like(y), final, [True] * count)
    assert len(found) == count
    with pytest.raises(AssertionError), Unread():
        y[0, 0, 0].item()


def test_the_plan_of_a_gru() -> None:
    case = Case(wiring=fast_slow(2), sizes={"fast": 20, "slow": 7}, cells="gru")
    step = plan(case.wiring, make_inputs(case, torch.float32).weights)[1]
    assert (step.blocks, step.z_width, step.own, step.has_c) == (4, 4 * 16, 0, False)
    assert (step.cell.name, step.norm, step.bias) == ("gru", True, True)


def test_runs_of_blocks() -> None:
    assert runs((0, 1, 2, 3)) == [(0, 0, 4)]
    assert runs((5, 6, 4, 7)) == [(0, 5, 2), (2, 4, 1), (3, 7, 1)]
