"""The Triton engine in Triton's interpreter, on the CPU: run by test_interpreter.py in a process of its own.

The interpreter must be switched on before triton is imported, and would then serve every other test of the process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastslow import FSLSTM, StackedGRU
from fastslow.backends import trust
from fastslow.backends.flat import KINDS
from fastslow.backends.triton import backward, engine, ops, options
from fastslow.noise import Noise, random_bits
from fastslow.state import state_tensors
from fastslow.training.graphed import GraphedStep, Rerun
from fastslow.wiring import stacked
from tests.backends.test_operators import CHECKS, arguments, backward_arguments, overload
from tests.backends.triton.rounded import brief, check_rounded
from tests.backends.twins import ALL_CASES, LAST_READ_TWICE, NO_NOISE, Case, check_repeatable, check_twin, make_inputs
from tests.training.test_graphed import Strict


def small(name: str, T: int = 2, B: int = 2, **changes: object) -> Case:
    return replace(ALL_CASES[name], T=T, B=B, **changes)  # type: ignore[arg-type]


OVERLAP, JOINT, OWN = {"overlap": True}, {"gates_apart": False}, {"own_products": True}
QUICK: dict[str, tuple[Case, dict[str, bool]]] = {
    "fs2": (small("fs2", T=3), {}),
    "two-readers-overlap": (small("two-readers", B=1), OVERLAP),
    "two-inputs-no-norm": (small("two-inputs", layer_norm=False), {}),
    "eval-no-bias": (small("fs2-no-bias", training=False), {}),
    "only-states-overlap": (small("fs2-only-states", T=1), OVERLAP | JOINT),
    "own-joint-overlap": (small("fs2", T=2, B=1), OVERLAP | JOINT | OWN),
    "resets-lengths": (small("fs2", T=3, B=3, lengths=(3, 0, 2), resets=((1, 0), (1, 2), (2, 2), (0, 1))), {}),
    "resets-everywhere-overlap": (small("fs2-resets-everywhere", resets=((0, 0), (0, 1), (1, 0), (1, 1))), OVERLAP),
    "gru": (small("gru", T=3), {}),
    "gru-own-overlap": (small("gru", B=1), OWN | OVERLAP),
    "gru-joint-no-norm-resets": (small("gru-no-norm", T=3, resets=((0, 0), (2, 1))), JOINT),
    "gru-eval-no-bias-lengths": (small("gru-eval", B=3, bias=False, lengths=(1, 0, 2)), {}),
    "plain-lstm": (small("plain-lstm", resets=((1, 0),)), {}),
    "plain-lstm-no-bias": (small("plain-lstm-no-noise", T=1, bias=False), {}),
    "tanh-eval-lengths": (small("tanh-eval-lengths", T=3, B=3, lengths=(3, 0, 2), resets=((1, 0),)), {}),
    "relu": (small("relu"), OWN),
    "mixed-overlap": (small("mixed", T=2), OVERLAP),
    "last-read-twice": (
        Case(
            wiring=LAST_READ_TWICE,
            sizes={"a": 5, "b": 4, "c": 3},
            cells={"a": "gru", "b": "tanh", "c": "lstm", "d": "plain_lstm"},
            T=3,
            B=2,
            resets=((1, 0), (2, 1)),
        ),
        {},
    ),
    "last-read-twice-whole": (
        Case(wiring=LAST_READ_TWICE, sizes=3, T=2, B=2, cells="gru", resets=((1, 0),), **NO_NOISE),
        {},
    ),
}


LESS_QUICK = {
    "two-readers-overlap",
    "resets-everywhere-overlap",
    "gru",
    "gru-eval-no-bias-lengths",
    "plain-lstm-no-bias",
    "last-read-twice-whole",
}
"""Those whose every part is in another case."""


@pytest.mark.parametrize(
    ("case", "setting"),
    [
        pytest.param(*given, id=name, marks=pytest.mark.slow if name in LESS_QUICK else ())
        for name, given in QUICK.items()
    ],
)
def test_quick_twin(case: Case, setting: dict[str, bool]) -> None:
    # Two steps a chunk: where T is 3 there is a whole one and a ragged one.
    with options.using(chunk_rows=2 * case.B, **setting):
        check_twin(engine, case)


def test_column_sums_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four parts of one row in the first chunk; the second has rows for two of them.
    monkeypatch.setattr(backward, "SUMMED", 1)
    with options.using(chunk_rows=4):
        check_twin(engine, small("fs2", T=3))


SHORT = [name for name, case in ALL_CASES.items() if case.T * case.B < 40]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_twin(name: str) -> None:
    n = SHORT.index(name)  # some for every second case, third and fifth: it takes ten minutes as it is
    setting = {"overlap": n % 2 == 1, "gates_apart": n % 3 > 0, "own_products": n % 5 == 0}
    with options.using(chunk_rows=2 * ALL_CASES[name].B + 1, **setting):
        check_twin(engine, ALL_CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fs2-63x1", "stacked3-63x1"])
def test_long_twin(name: str) -> None:
    check_twin(engine, ALL_CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_it_passes_its_check_before_first_use(kind: str) -> None:
    options_now = tuple(engine.options("cpu"))
    assert trust.difference(engine, KINDS[kind], torch.device("cpu"), torch.float32, options_now) is None


def test_a_rows_padding_may_hold_anything() -> None:
    """Past a row's end x may be NaN: no gradient is."""
    case = small("mixed", B=2, lengths=(2, 1))
    inputs = make_inputs(case, torch.float32)
    x = inputs.xs[0].detach().clone()
    x[1, 1] = torch.nan
    y, state = engine.run(
        case.wiring, inputs.weights, x, inputs.state, inputs.noises[0], case.rates, inputs.lengths, None
    )
    asked = [leaf for leaf in inputs.leaves.values() if leaf is not inputs.xs[0]]
    found = torch.autograd.grad(y.sum() + sum(leaf.sum() for leaf in state_tensors(state)), asked, allow_unused=True)
    assert all(grad is None or grad.isfinite().all() for grad in found)


@pytest.mark.parametrize(("rows", "sums", "columns", "parts"), [(3, 300, 70, 4), (130, 64, 128, 1), (1, 130, 5, 4)])
def test_own_products(rows: int, sums: int, columns: int, parts: int) -> None:
    torch.manual_seed(0)
    dz, wide = torch.randn(rows, sums), torch.randn(sums, columns + 3)
    out = torch.full((parts, rows, columns), torch.nan)
    ops.own_products(dz, wide[:, 2 : columns + 2], out, dependent=False)
    torch.testing.assert_close(out.sum(0), dz @ wide[:, 2 : columns + 2], rtol=1e-4, atol=1e-4)


def test_bfloat16_twin() -> None:
    check_rounded(small("fs2"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("fs2", "fs2-odd", "fs2-no-norm", "fs2-lengths", "fs4", "stacked3", "two-readers", "two-inputs"),
        *("fs2-resets", "gru", "gru-no-norm", "plain-lstm", "tanh", "mixed"),
    ],
)
def test_more_bfloat16_twins(name: str) -> None:
    check_rounded(brief(ALL_CASES[name]))


def test_repeatable() -> None:
    check_repeatable(engine, small("fs2", T=1, B=1), dtype=torch.float32)


@pytest.mark.parametrize("key", [0, -1, 2**63 - 1, -(2**63), 0x1234567887654321])
def test_random_words_are_those_of_the_loop(key: int) -> None:
    from fastslow.backends.triton import kernels

    noise = Noise(torch.tensor(key), first_step=2**31 - 3, first_row=5)
    expected = random_bits(noise, 2, 7, 3, 37)
    words = torch.empty(2, 3, 37, dtype=torch.int32)
    for t in range(2):
        kernels.random_words[(3,)](words[t], noise.key, noise.first_step + t, 7, noise.first_row, UNITS=37, BLOCK=64)
    assert torch.equal(words, expected)


def check_operators(case: Case) -> None:
    torch.library.opcheck(overload("triton"), arguments(case, "triton"), test_utils=CHECKS)
    torch.library.opcheck(overload("triton_backward"), backward_arguments(case, "triton"), test_utils=CHECKS)


def test_opcheck() -> None:
    cells = {"layers.0": "gru", "layers.1": "lstm"}
    check_operators(Case(wiring=stacked(2), sizes=3, cells=cells, T=1, B=1, resets=((0, 0),)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fs2", "mixed-resets", "gru-lengths-resets", "two-readers"])
def test_opcheck_of_more(name: str) -> None:
    case = brief(ALL_CASES[name])
    check_operators(case)
    torch.library.opcheck(overload("triton"), arguments(case, "triton"), test_utils="test_aot_dispatch_dynamic")


@pytest.mark.slow
def test_resets_are_an_input_of_a_compiled_layer() -> None:
    layer = StackedGRU(3, 4, zoneout_h=0.2, backend="triton")
    compiled = torch.compile(layer, backend="aot_eager")
    x = torch.randn(2, 2, 3)
    for resets in (torch.tensor([[True, False], [False, True]]), torch.zeros(2, 2, dtype=torch.bool)):
        results = []
        for run in (layer, compiled):
            torch.manual_seed(1)
            y, _ = run(x, resets=resets)
            results.append((y, *torch.autograd.grad(y.square().sum(), list(layer.parameters()))))
        torch.testing.assert_close(results[1], results[0])


def test_a_recorded_update_reads_its_resets() -> None:
    x = torch.randn(2, 2, 3)

    def updated(backend: str, recorder: Any) -> list[Tensor]:
        torch.manual_seed(0)
        layer = StackedGRU(3, 4, zoneout_h=0.2, backend=backend)

        def objective(x: Tensor, resets: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
            y, new = layer(x, state, resets=resets)
            loss = y.square().sum()
            return loss, loss, new

        step = GraphedStep(
            objective, torch.optim.SGD(layer.parameters(), lr=0.1), x.device, warmup=1, recorder=recorder
        )
        state = layer.initial_state(2)
        for n in range(4):
            resets = torch.tensor([[n == 2, False], [False, n % 2 == 1]])
            state = step.step(x, resets, state=state, rate=0.1).state
        assert step.recorded.graphs == 1
        return [*layer.parameters(), *state_tensors(state)]

    torch.testing.assert_close(updated("triton", Strict()), updated("reference", Rerun()))


def test_by_name_only() -> None:
    torch.manual_seed(0)
    layer = FSLSTM(3, 5, 4, zoneout_c=0.5)
    x = torch.randn(2, 2, 3)
    choice = layer.backend_for(x)
    assert choice.name != "triton"
    assert "interpreter" in choice.refused.get("triton", "interpreter")  # or a faster one was taken before it
    named = FSLSTM(3, 5, 4, zoneout_c=0.5, backend="triton")
    named.load_state_dict(layer.state_dict())
    assert named.backend_for(x).name == "triton"
    for one in (layer, named):
        one.eval()
    with torch.no_grad():  # keeps the last steps only
        y, state = layer(x)
        got, new = named(x)
        first, between = named.step(x[0])
        second, last = named.step(x[1], between)
    torch.testing.assert_close(got, y)
    torch.testing.assert_close(torch.stack([first, second]), y)
    for a, b, c in zip(*map(state_tensors, (state, new, last)), strict=True):
        torch.testing.assert_close(b, a)
        torch.testing.assert_close(c, a)


def test_autocast_makes_operands_bfloat16_and_results_float32() -> None:
    layer = FSLSTM(3, 5, 4, backend="triton")
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(torch.randn(1, 2, 3))
    exact, _ = layer(torch.randn(1, 2, 3))
    assert y.dtype == exact.dtype == torch.float32
    assert all(leaf.dtype == torch.float32 for leaf in state_tensors(state))
    assert torch.equal(y, y.bfloat16().float())
    assert not torch.equal(exact, exact.bfloat16().float())
