"""The streaming path beside the loop: any wiring, both types, changes of the weights noticed, 8-bit weights."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastslow import FSLSTM, SequentialLSTM, StackedLSTM
from fastslow.backends import reference, streaming
from fastslow.backends.base import States
from fastslow.backends.flat import flat_states, states_like
from fastslow.backends.native import engine as native
from fastslow.backends.native.library import library
from fastslow.backends.native.quantized import Quantized, quantized_matrices
from fastslow.backends.native.steps import Steps, contiguous
from fastslow.backends.streaming import LayerSteps, layer_step
from fastslow.state import map_state, state_tensors
from tests.backends.twins import ALL_CASES, CASES, TOLERANCE, Case, Inputs, assert_close, make_inputs, poisoned_memory

needs_library = pytest.mark.skipif(isinstance(library(), str), reason=f"no native library: {library()}")
EVALUATED = {
    name: case
    for name, case in ALL_CASES.items()
    if not case.lengths and not case.resets and case.windows == 1 and case.contiguous
}


def problem(case: Case, dtype: torch.dtype) -> tuple[Inputs, States]:
    inputs = make_inputs(case, dtype)
    return inputs, inputs.state


def assert_same(got: tuple[Tensor, States], expected: tuple[Tensor, States], tolerance: float) -> None:
    assert_close("y", got[0], expected[0], tolerance)
    for i, (a, b) in enumerate(zip(state_tensors(got[1]), state_tensors(expected[1]), strict=True)):
        assert_close(f"state {i}", a, b, tolerance)


def stepped(case: Case, weights: Sequence[Any], x: Tensor, state: States, *, eight_bits: bool = False) -> Any:
    """The compiled steps of x (T, B, X): y and the new state. eight_bits: for weights that 8 bits hold exactly."""
    weights = [contiguous(w) for w in weights]
    matrices = quantized_matrices(weights) if eight_bits else None
    assert not eight_bits or matrices is not None
    steps = Steps(case.wiring, weights, case.rates, x.shape[1], x.shape[2], matrices)
    given = [part.contiguous() for part in flat_states(state)]
    made = [torch.empty_like(part) for part in given]
    x = x.contiguous()
    y = x.new_empty((*x.shape[:2], steps.output_size))
    before, after = [part.data_ptr() for part in given], [part.data_ptr() for part in made]
    steps(len(x), x.data_ptr(), y.data_ptr(), before, after)
    return y, states_like(state, made)


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", EVALUATED.values(), ids=EVALUATED)
@torch.no_grad()
def test_steps_are_the_loop_s(case: Case, dtype: torch.dtype) -> None:
    inputs, state = problem(case, dtype)
    expected = reference.run(case.wiring, inputs.weights, inputs.xs[0], state, None, case.rates)
    with poisoned_memory():
        assert_same(stepped(case, inputs.weights, inputs.xs[0], state), expected, TOLERANCE[dtype])
        got = native.run(case.wiring, inputs.weights, inputs.xs[0], state, None, case.rates)
        assert_same(got, expected, TOLERANCE[dtype])
        ys = []
        for x_t in inputs.xs[0].split(1):
            y, state = stepped(case, inputs.weights, x_t, state)
            ys.append(y)
    assert_same((torch.cat(ys), state), expected, TOLERANCE[dtype])


@needs_library
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 9])
@pytest.mark.parametrize("threads", [1, 2, 3])
@torch.no_grad()
def test_any_number_of_rows_and_threads(rows: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastslow.backends.native.steps.SHARED_FROM", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        case = Case(sizes={"fast": 37, "slow": 21}, input_size=19, B=rows)
        inputs, state = problem(case, torch.float32)
        expected = reference.run(case.wiring, inputs.weights, inputs.xs[0], state, None, case.rates)
        assert_same(stepped(case, inputs.weights, inputs.xs[0], state), expected, 2e-5)
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------- 8-bit weights


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["fs2-odd", "fs4", "stacked3", "shared-cell", "fs2-no-norm"])
@torch.no_grad()
def test_int8_computes_with_the_rounded_weights(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    inputs, state = problem(case, dtype)

    def round_trip(weight: Tensor | None) -> Any:
        return None if weight is None else Quantized(weight).dequantized().to(dtype)

    rounded = [w._replace(w_x=round_trip(w.w_x), w_h=round_trip(w.w_h)) for w in inputs.weights]
    expected = reference.run(case.wiring, rounded, inputs.xs[0], state, None, case.rates)
    assert_same(stepped(case, rounded, inputs.xs[0], state, eight_bits=True), expected, 2e-5)
    exact = reference.run(case.wiring, inputs.weights, inputs.xs[0], state, None, case.rates)
    assert 0 < (exact[0] - expected[0]).abs().max() < 0.1


# ---------------------------------------------------------------------- layers


def layers() -> list[Any]:
    rates: dict[str, Any] = {"dropout": 0.2, "zoneout_h": 0.1, "zoneout_c": 0.4}
    sequential = SequentialLSTM(5, 9, 2, layer_norm=False, **rates)
    return [FSLSTM(5, 11, 7, 3, **rates), StackedLSTM(5, 9, 2, **rates), sequential]


def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one at every call of the compiled steps."""
    calls: list[int] = []
    run = Steps.__call__

    def counted(self: Steps, *args: Any) -> None:
        calls.append(1)
        run(self, *args)

    monkeypatch.setattr(Steps, "__call__", counted)
    return calls


@needs_library
@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
@torch.no_grad()
def test_a_layer_s_step_streams(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer.eval()
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    calls = taken(monkeypatch)
    state, loop_state = None, None
    for x_t in x:
        y, state = layer.step(x_t, state)
        layer.backend = "reference"
        expected, loop_state = layer.step(x_t, loop_state)
        layer.backend = "auto"
        assert type(state) is type(loop_state)
        assert_same((y, state), (expected, loop_state), 2e-5)
    assert len(calls) == 4
    y, state = layer.step(x[0, 0])
    assert y.shape == (layer.output_size,)
    assert all(part.dim() == 1 for part in state_tensors(state))
    again, _ = layer.step(x[0])
    assert_close("unbatched", y, again[0], 1e-6)
    layer.step(x[1, 0], state)
    assert len(calls) == 7


@needs_library
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.slow.weight_hh.mul_(0.5),
        lambda layer: layer.load_state_dict({k: v * 0.7 for k, v in layer.state_dict().items()}),
        lambda layer: setattr(layer.slow.weight_hh, "data", layer.slow.weight_hh * 0.5),
        lambda layer: setattr(layer.fast[1], "weight_hh", nn.Parameter(layer.fast[1].weight_hh * 0.5)),
        lambda layer: setattr(layer.slow, "bias", nn.Parameter(layer.slow.bias + 0.5)),
        lambda layer: layer.fast[0].gate_norm.weight.fill_(0.3),
        lambda layer: layer.fast.__setitem__(0, FSLSTM(5, 11, 7).fast[0]),
        lambda layer: layer.double(),
        lambda layer: setattr(layer, "zoneout_c", 0.9),
        lambda layer: setattr(layer, "forget_bias", 0.0),
    ],
)
@torch.no_grad()
def test_changes_are_noticed(change: Callable[[FSLSTM], Any]) -> None:
    layer = FSLSTM(5, 11, 7, zoneout_c=0.3).eval()
    x = torch.randn(2, 5)
    _, given = layer.step(torch.randn(2, 5))
    before = state_tensors(layer.step(x, given)[1])
    change(layer)
    dtype = layer.slow.weight_hh.dtype
    x, given = x.to(dtype), map_state(lambda part: part.to(dtype), given)
    y, state = layer.step(x, given)
    layer.backend = "reference"
    assert_same((y, state), layer.step(x, given), 2e-5)
    assert dtype == torch.float64 or not all(map(torch.equal, before, state_tensors(state)))


def in_8_bits(layer: Any) -> list[bool]:
    """Whether each of the prepared steps of a layer reads 8-bit copies."""
    return [bool(steps._args.int8) for steps in streaming._LAYERS[layer]._steps.values()]


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
@torch.no_grad()
def test_matrices_of_8_bits_are_read_as_such(layer: Any, dtype: torch.dtype) -> None:
    layer = copy.deepcopy(layer).eval().to(dtype)
    x = torch.randn(6, 3, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))
    layer.step(x[0])
    assert in_8_bits(layer) == [False]
    layer.round_to_int8_()
    state, ys = None, []
    for x_t in x:
        y, state = layer.step(x_t, state)
        ys.append(y)
    window = layer(x)
    assert in_8_bits(layer) == [True]
    layer.backend = "reference"
    expected = layer(x)
    assert_same((torch.stack(ys), state), expected, 2e-5)
    assert_same(window, expected, 2e-5)


@needs_library
@torch.no_grad()
def test_windows_of_8_bits_that_another_engine_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FSLSTM(5, 11, 7).eval()
    layer.round_to_int8_()
    results: list[Any] = []
    window = LayerSteps.window

    def recorded(*arguments: Any) -> Any:
        results.append(window(*arguments))
        return results[-1]

    monkeypatch.setattr(LayerSteps, "window", recorded)
    x = torch.randn(20, 4, 5)
    layer(x)
    assert results.pop() is not None
    layer(x, resets=torch.zeros(20, 4, dtype=torch.bool))
    layer(x, lengths=[20, 3, 2, 1])
    layer(torch.randn(20, 5, 5))  # so many rows run faster with packed weights
    with torch.enable_grad():
        layer(x)
    assert not results
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    layer.fast[0].register_forward_hook(lambda *_: None)
    layer(x)
    layer.double()(x.double())
    assert results == [None, None, None]  # in autocast, and with a hook


@needs_library
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.slow.weight_hh.mul_(0.7),
        lambda layer: layer.slow.weight_hh[3, 2].add_(1e-3),
        lambda layer: layer.slow.weight_hh.data.mul_(0.7),
        lambda layer: setattr(layer.slow.weight_hh, "data", layer.slow.weight_hh * 0.7),
        lambda layer: setattr(layer.fast[1], "weight_hh", nn.Parameter(layer.fast[1].weight_hh * 0.7)),
        lambda layer: layer.load_state_dict({k: v * 0.7 for k, v in layer.state_dict().items()}),
        lambda layer: trained(layer, fused=False),
        lambda layer: trained(layer, fused=True),
    ],
)
@torch.no_grad()
def test_changes_of_8_bit_matrices_are_noticed(change: Callable[[FSLSTM], Any]) -> None:
    layer = FSLSTM(5, 11, 7).eval()
    layer.round_to_int8_()
    x = torch.randn(9, 2, 5)
    window, state = layer(x)
    before = window, layer.step(x[0], state)[0]
    assert in_8_bits(layer) == [True]
    change(layer)
    after = layer(x)[0], layer.step(x[0], state)[0]
    layer.backend = "reference"
    assert_close("window", after[0], layer(x)[0], 2e-5)
    assert_close("step", after[1], layer.step(x[0], state)[0], 2e-5)
    assert not torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


def trained(layer: FSLSTM, fused: bool) -> None:
    with torch.enable_grad():
        layer(torch.randn(4, 2, 5))[0].sum().backward()
    torch.optim.Adam(layer.parameters(), 0.1, fused=fused).step()


@needs_library
def test_weights_made_in_inference_mode_have_no_copies() -> None:
    with torch.inference_mode():
        layer = FSLSTM(5, 11, 7).eval()
        layer.round_to_int8_()
        x = torch.randn(3, 5)
        _, state = layer.step(x)
        y, _ = layer.step(x, state)
        assert in_8_bits(layer) == [False]
        layer.slow.weight_hh.mul_(0.7)
        assert not torch.equal(layer.step(x, state)[0], y)


@needs_library
@torch.no_grad()
def test_parametrised_weights_go_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FSLSTM(5, 11, 7).eval()
    x = torch.randn(2, 5)
    layer.step(x)
    nn.utils.parametrizations.weight_norm(layer.slow, "weight_hh")
    layer.slow.parametrizations["weight_hh"].original0.mul_(2)
    assert layer_step(layer, x, None) is None
    y, state = layer.step(x)
    layer.backend = "reference"
    assert_same((y, state), layer.step(x), 2e-5)


@needs_library
@torch.no_grad()
def test_what_does_not_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = taken(monkeypatch)
    layer = FSLSTM(5, 11, 7, dropout=0.5)
    x = torch.randn(2, 5)
    layer.train().step(x)  # draws masks
    layer.eval()
    layer.backend = "reference"
    layer.step(x)
    layer.backend = "auto"
    with torch.enable_grad():
        y, _ = layer.step(x)
        assert y.requires_grad
    assert not calls
    with torch.autocast("cpu", torch.bfloat16):
        assert layer_step(layer, x, None) is None
    layer.step(x)
    assert len(calls) == 1
    with pytest.raises(RuntimeError, match=r"state fast\.h must be \(2, 11\)"):
        layer.step(x, layer.step(torch.randn(3, 5))[1])
    with pytest.raises(ValueError, match=r"state fast\.h must be torch\.float32"):
        layer.step(x, tuple(type(pair)(*(part.double() for part in pair)) for pair in layer.step(x)[1]))
    with pytest.raises(TypeError, match="the state of FSLSTM is"):
        layer.step(x, (1, 2, 3))
    with pytest.raises(ValueError, match="does not match weight dtype"):
        layer.step(x.double())


@needs_library
@torch.no_grad()
def test_copies_pickles_and_collection() -> None:
    layer = FSLSTM(5, 11, 7).eval()
    x = torch.randn(2, 5)
    y, _ = layer.step(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other.step(x)[0], y)
    count = len(streaming._LAYERS)
    del layer, other
    assert len(streaming._LAYERS) < count


@needs_library
def test_threads_may_step_one_layer_at_the_same_time() -> None:
    layer = FSLSTM(5, 64, 32).eval()
    inputs = torch.randn(4, 50, 1, 5)
    results: dict[int, Tensor] = {}

    def work(which: int) -> None:
        with torch.no_grad():
            state, ys = None, []
            for x_t in inputs[which]:
                y, state = layer.step(x_t, state)
                ys.append(y)
            results[which] = torch.stack(ys)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        for which in range(4):
            assert_close(f"thread {which}", results[which], layer(inputs[which])[0], 2e-5)
