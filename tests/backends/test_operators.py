"""The engines as operators: what PyTorch's own check asks of one, and what they promise besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fastslow import FSLSTM
from fastslow.backends import engine, operators
from fastslow.backends.flat import flat_states, flat_weights
from fastslow.backends.native.library import library
from fastslow.backends.program import cells_text, parse, program_text
from fastslow.wiring import Wiring
from tests.backends.twins import ALL_CASES, CASES, GRADCHECKS, Case, Inputs, make_inputs

needs_native = pytest.mark.skipif(isinstance(library(), str), reason=f"no native library: {library()}")
NAMES = [pytest.param("native", marks=needs_native), "window"]
FEW = ("fs2", "fs2-lengths", "fs2-no-norm-no-bias", "two-readers", "shared-cell", "fs2-resets-lengths", "mixed-resets")
SMALL = {name: ALL_CASES[name] for name in FEW}


def arguments(case: Case, name: str, dtype: torch.dtype = torch.float32, *, keep: bool = True) -> tuple[Any, ...]:
    """What the operator of a window takes."""
    return given(case, name, make_inputs(case, dtype), keep)


def given(case: Case, name: str, inputs: Inputs, keep: bool) -> tuple[Any, ...]:
    weights = inputs.weights
    program = program_text(case.wiring.text, cells_text(weights), case.rates, engine(name).options("cpu"))
    noise = inputs.noises[0]
    fields = [field for field in flat_weights(weights) if field is not None]
    key, first_step, first_row = (None, 0, 0) if noise is None else noise
    states = flat_states(inputs.state)
    return program, inputs.xs[0], states, fields, key, inputs.lengths, inputs.resets, first_step, first_row, keep


def backward_arguments(case: Case, name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    program, x, states, weights, *rest, _ = arguments(case, name, dtype)
    x, states, weights = x.detach(), [t.detach() for t in states], [t.detach() for t in weights]
    y, final, memory = overload(name)(program, x, states, weights, *rest, True)
    needs = [True] * (1 + len(states) + len(weights))
    needs[2] = False
    d_final: list[Tensor | None] = [torch.randn_like(leaf) for leaf in final]
    d_final[0] = None
    return program, x, weights, *rest, memory, torch.randn_like(y), d_final, needs


def overload(name: str) -> Any:
    return getattr(torch.ops.fastslow, name).default


SECOND_DERIVATIVES = [
    # Every kind of cell, with noise and norms and without: the loop's derivatives, whatever the engine.
    pytest.param(case, id=name, marks=() if name in ("fs2-lengths", "mixed") else pytest.mark.slow)
    for name, case in GRADCHECKS.items()
]
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_opcheck_of_a_window(case: Case, name: str) -> None:
    torch.library.opcheck(overload(name), arguments(case, name), test_utils=CHECKS)
    torch.library.opcheck(overload(name), detached(arguments(case, name, keep=False)), test_utils=CHECKS[0])


def detached(args: tuple[Any, ...]) -> tuple[Any, ...]:
    program, x, states, weights, *rest = args
    return program, x.detach(), [t.detach() for t in states], [t.detach() for t in weights], *rest


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_opcheck_of_a_backward_pass(case: Case, name: str) -> None:
    torch.library.opcheck(overload(f"{name}_backward"), backward_arguments(case, name), test_utils=CHECKS)


@pytest.mark.parametrize("name", NAMES)
def test_a_window_under_ahead_of_time_autograd(name: str) -> None:
    torch.library.opcheck(overload(name), arguments(CASES["fs2"], name), test_utils="test_aot_dispatch_dynamic")


@needs_native
def test_opcheck_when_only_states_are_saved() -> None:
    from fastslow.backends.native.engine import saving

    with saving("states"):
        torch.library.opcheck(overload("native"), arguments(CASES["fs2"], "native"), test_utils=CHECKS)
        torch.library.opcheck(
            overload("native_backward"), backward_arguments(CASES["fs2"], "native"), test_utils=CHECKS
        )


@needs_native
def test_opcheck_of_a_step() -> None:
    case = CASES["fs2-eval"]
    program, x, states, weights, *_ = detached(arguments(case, "native"))
    torch.library.opcheck(overload("step"), (program, x[0], states, weights), test_utils=CHECKS)


@pytest.mark.parametrize("name", NAMES)
def test_results_are_row_major_and_share_no_memory(name: str) -> None:
    for case in (CASES["fs2"], CASES["fs2-odd"]):
        args = backward_arguments(case, name)
        _, x, weights, *_ = args
        forward = detached(arguments(case, name))
        y, final, memory = overload(name)(*forward)
        gradients = overload(f"{name}_backward")(*args)
        tensors = [y, *final, *memory, *gradients]
        assert all(tensor.is_contiguous() for tensor in tensors)
        storages = {tensor.untyped_storage().data_ptr() for tensor in (*tensors, x, *weights)}
        assert len(storages) == len(tensors) + 1 + len(weights)


@needs_native
def test_a_backward_pass_leaves_the_memory_as_it_was() -> None:
    args = backward_arguments(CASES["fs2-63x5"], "native")
    memory = args[8]
    before = [tensor.clone() for tensor in memory]
    first = overload("native_backward")(*args)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(memory, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, overload("native_backward")(*args), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_wrong_tensors_are_refused_before_their_addresses_are_read(name: str) -> None:
    program, x, states, weights, *rest = detached(arguments(CASES["fs2"], name))
    call: Callable[..., Any] = overload(name)
    short = [weights[0][:, :-1], *weights[1:]]
    for bad, message in (
        ((program, x, states, short, *rest), r"w_x of node 0 must be \(44, 5\) torch.float32 on cpu"),
        ((program, x, states, weights[:-1], *rest), "the program has 21 parameters; got 20"),
        ((program, x.double(), states, weights, *rest), "torch.float64 on cpu, like x"),
        ((program, x, [s[:-1] for s in states], weights, *rest), r"a state must be \(3, 11\)"),
        ((program, x[0], states, weights, *rest), r"x must be \(T, B, X\)"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call(*bad)
    args = list(backward_arguments(CASES["fs2"], name))
    args[8] = [tensor[:-1] for tensor in args[8]]
    with pytest.raises(RuntimeError, match="the saved tensors do not belong to this window"):
        overload(f"{name}_backward")(*args)


def test_programs_are_text_and_back() -> None:
    case = CASES["three-tiers"]
    weights = make_inputs(case, torch.float32).weights
    text = program_text(case.wiring.text, cells_text(weights), case.rates, (("saving", "all"),))
    read = parse(text)
    assert read.wiring == case.wiring
    assert read.rates == case.rates
    assert read.kinds == ("lstm",) * 4
    assert read.options == {"saving": "all"}
    assert Wiring.parse(case.wiring.text) == case.wiring
    assert text == program_text(case.wiring.text, cells_text(weights), case.rates, (("saving", "all"),))


@pytest.mark.parametrize("name", NAMES)
def test_floating_point_operations_are_counted(name: str) -> None:
    layer = FSLSTM(7, 11, 6, backend=name)
    x = torch.randn(5, 3, 7)
    numbers = sum(p.numel() for p in layer.parameters() if p.dim() == 2)
    with FlopCounterMode(display=False) as counter:
        y, _ = layer(x)
    assert counter.get_total_flops() == 2 * numbers * 15
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 4 * numbers * 15


@needs_native
def test_autocast_leaves_types_to_the_engine() -> None:
    program, x, states, weights, *rest = detached(arguments(CASES["fs2"], "native"))
    with torch.autocast("cpu", torch.bfloat16):
        y, final, memory = overload("native")(program, x.bfloat16(), states, weights, *rest)
    assert {t.dtype for t in (y, *final, *memory)} == {torch.float32}


@pytest.mark.parametrize("name", NAMES)
def test_vmap_of_an_operator_is_refused(name: str) -> None:
    program, x, *rest = detached(arguments(CASES["fs2"], name))
    with pytest.raises(RuntimeError, match=r"has no batching rule for torch\.func\.vmap: call the layer"):
        torch.func.vmap(lambda x: overload(name)(program, x, *rest)[0])(x.unsqueeze(0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 3])
def test_empty_windows(name: str, steps: int) -> None:
    program, x, states, weights, key, _, *rest = arguments(CASES["fs2"], name)
    rows = 0 if steps else 3
    states = [s[:rows] for s in states]
    y, final, _ = overload(name)(program, x[:steps, :rows], states, weights, key, None, *rest)
    assert y.shape == (steps, rows, 11)
    (y.sum() + sum((leaf.sum() for leaf in final), y.new_zeros(()))).backward()
    assert all(torch.equal(a, b) for a, b in zip(final, states, strict=True))
    assert not any(w.grad.any() for w in weights)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", SECOND_DERIVATIVES)
def test_gradients_of_gradients(case: Case, name: str) -> None:
    inputs = make_inputs(case, torch.float64)
    args = given(case, name, inputs, True)
    program, x, states, weights, key, lengths, resets, *place = args
    rest = (key, lengths, None if resets is None else resets[:1], *place)  # one step: second derivatives cost much

    def function(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        y, final, _ = overload(name)(program, x, tensors[: len(states)], tensors[len(states) :], *rest)
        return (y, *final)

    leaves = [leaf.detach().clone().requires_grad_() for leaf in (x[:1], *states, *weights)]
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_backward_operator_has_no_derivative_and_says_so(name: str) -> None:
    args = list(backward_arguments(CASES["fs2"], name))
    args[1] = args[1].requires_grad_()
    gradients = overload(f"{name}_backward")(*args)
    with pytest.raises(RuntimeError, match=f"engine '{name}' is not differentiable; use backend='reference'"):
        gradients[0].sum().backward()


def test_every_operator_is_written_down() -> None:
    for name in (*operators.MODULES, *(f"{name}_backward" for name in operators.MODULES), "step"):
        assert str(overload(name)._schema).startswith(f"fastslow::{name}(str program, Tensor x")
