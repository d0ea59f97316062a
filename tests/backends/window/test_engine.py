"""The window engine beside the loop, and what is its own: what it refuses, saves and leaves alone."""

from __future__ import annotations

import functools
import types
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

from fastslow import FSLSTM
from fastslow.backends import reference
from fastslow.backends.window import engine as window
from fastslow.backends.window import plan, workspace
from fastslow.backends.window.backward import backward
from fastslow.backends.window.forward import forward
from fastslow.backends.window.masks import PIECE, Masks
from fastslow.noise import Noise, dropout_keep, zoneout_update
from tests.backends.twins import (
    ALL_CASES,
    CASES,
    GRADCHECKS,
    Case,
    check_gradients,
    check_repeatable,
    check_twin,
    make_inputs,
    poisoned_memory,
    run_case,
)

RECOMPUTE: Any = types.SimpleNamespace(
    NAME="window, recompute", refusal=window.refusal, run=functools.partial(window.run, recompute=True)
)


QUICK = ("fs2-lengths", "gru", "mixed")


@pytest.fixture
def short_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans of 4 steps and blocks of 2 at B 3, so that a few steps cross both borders."""
    monkeypatch.setattr(plan, "SPAN_ROWS", (12, 12))
    monkeypatch.setattr(plan, "BLOCKS", 1)
    monkeypatch.setattr(plan, "BLOCK_NUMBERS", {"cpu": 2 * 3 * 4 * 11})
    monkeypatch.setitem(PIECE, "cpu", 3 * 11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", ALL_CASES.values(), ids=ALL_CASES)
def test_twin(case: Case, dtype: torch.dtype) -> None:
    check_twin(window, case, dtype=dtype)


@pytest.mark.parametrize("name", ["fs2", "fs2-y", "fs2-no-norm", "fs4", "two-readers", "fs2-twice", "fs2-eval"])
@pytest.mark.parametrize("engine", [window, RECOMPUTE], ids=["save", "recompute"])
@pytest.mark.parametrize("steps", [9, 12])
def test_twin_across_spans_and_blocks(name: str, engine: Any, steps: int, short_spans: None) -> None:
    assert plan.span_steps(steps, 3, plan.block_steps(steps, 3, (11, 6), "cpu")) == 4
    check_twin(engine, replace(CASES[name], T=steps), dtype=torch.float64)


def test_scratch_stays_small_beside_what_is_saved() -> None:
    """Blocks are shares of the window, whatever fits the cache; on other devices they fill it."""
    assert plan.block_steps(100, 16, (128, 64), "cpu") == 7
    assert plan.span_steps(100, 16, 7) == 14
    assert plan.block_steps(1, 16, (128, 64), "cpu") == plan.block_steps(0, 16, (128, 64), "cpu") == 1
    assert plan.block_steps(1000, 16, (128, 64), "cpu") == plan.BLOCK_NUMBERS["cpu"] // (4 * 128 * 16)
    assert plan.block_steps(100, 16, (128, 64), "cuda") == plan.BLOCK_NUMBERS["cuda"] // (4 * 128 * 16)


@pytest.mark.parametrize("name", ["fs2", "fs2-lengths", "stacked3", "shared-cell", "fs2-no-bias", "fs2-frozen-node"])
def test_twin_when_recomputing(name: str) -> None:
    check_twin(RECOMPUTE, CASES[name])


@pytest.mark.parametrize("name", ["fs2", "fs2-lengths", "two-readers", "fs2-eval"])
def test_without_gradients(name: str, short_spans: None) -> None:
    """Nothing is saved, and a window longer than a span carries its state from span to span."""
    case = replace(CASES[name], T=9)
    inputs = make_inputs(case, torch.float64)
    args = (case.wiring, inputs.weights, inputs.xs[0], inputs.state, inputs.noises[0], case.rates, inputs.lengths)
    expected_y, expected = reference.run(*args)
    with torch.no_grad(), poisoned_memory():
        y, state = window.run(*args)
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(state, expected)
    assert not y.requires_grad


@pytest.mark.parametrize(
    "case",
    [
        # Each kind of cell, norms, lengths, resets; `test_twin` compares with the loop's derivatives in every case.
        pytest.param(case, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, case in GRADCHECKS.items()
    ],
)
def test_gradcheck(case: Case) -> None:
    check_gradients(window, case)


@pytest.mark.parametrize("engine", [window, RECOMPUTE], ids=["save", "recompute"])
def test_repeatable(engine: Any) -> None:
    check_repeatable(engine, CASES["fs2"], dtype=torch.float32)


def test_padding_that_is_not_a_number_stays_out() -> None:
    case = replace(CASES["fs2-lengths"], windows=1)
    clean, dirty = make_inputs(case, torch.float64), make_inputs(case, torch.float64)
    assert clean.lengths is not None
    for b, end in enumerate(clean.lengths.tolist()):
        dirty.xs[0].data[end:, b] = torch.nan
    expected, got = run_case(window, case, clean), run_case(window, case, dirty)
    for name, grad in expected.grads.items():
        torch.testing.assert_close(got.grads[name], grad, msg=name)


def test_gradients_asked_of_nothing_are_none() -> None:
    case = replace(CASES["fs2"], frozen=("x", "state", "w_x@0", "bias@1"))
    inputs = make_inputs(case, torch.float32)
    masks = Masks(case.wiring, inputs.weights, inputs.xs[0], inputs.noises[0], case.rates, None)
    problem = plan.Window(plan.plan(case.wiring), masks, 1.0, False)
    with torch.no_grad():
        y, _, saved = forward(problem, inputs.weights, inputs.xs[0], inputs.state, save=True)
        fields = [leaf is not None and leaf.requires_grad for cell in inputs.weights for leaf in cell]
        grads = backward(problem, saved, torch.ones_like(y), [None] * 4, [False] * 5 + fields)
    assert grads[0] is None
    assert [grad is not None for grad in grads[5:]] == fields
    assert not all(fields)


def test_weights_changed_before_backward_are_noticed() -> None:
    case = CASES["fs2"]
    inputs = make_inputs(case, torch.float32)
    y, _ = window.run(case.wiring, inputs.weights, inputs.xs[0], inputs.state, inputs.noises[0], case.rates)
    with torch.no_grad():
        inputs.weights[0].w_h.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_outputs_may_be_changed_in_place() -> None:
    case = replace(CASES["fs2-zoneout-only"], grads="y")
    seen = []
    for change in (lambda y: y * 3.0, lambda y: y.mul_(3.0)):
        inputs = make_inputs(case, torch.float64)
        y, _ = window.run(case.wiring, inputs.weights, inputs.xs[0], inputs.state, inputs.noises[0], case.rates)
        change(y).square().sum().backward()
        seen.append(inputs.xs[0].grad)
    torch.testing.assert_close(*seen)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": torch.bfloat16}, "float32 and float64, not in torch.bfloat16"),
        ({"dtype": torch.float16}, "float32 and float64, not in torch.float16"),
        ({"autocast": torch.bfloat16}, "autocast requests products in torch.bfloat16"),
        ({"device": torch.device("meta")}, "cpu and cuda, not on meta"),
    ],
)
def test_refusals(change: dict[str, Any], reason: str) -> None:
    problem = Case().problem(torch.float32)
    assert window.refusal(problem) is None
    assert reason in (window.refusal(replace(problem, **change)) or "")


def test_forward_mode_is_refused() -> None:
    layer, x = FSLSTM(3, 5, backend="window"), torch.randn(2, 4, 3)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode"):
        layer.backend_for(x)


def test_autocast_and_transforms_go_to_an_engine_that_can() -> None:
    layer = FSLSTM(3, 5, backend="window")
    x = torch.randn(2, 4, 3)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="autocast"):
        layer(x)
    with pytest.raises(RuntimeError, match=r"torch\.func"):
        torch.func.vmap(lambda one: layer(one)[0], in_dims=1)(x.unsqueeze(2))


def test_masks_are_those_of_the_noise(short_spans: None) -> None:
    case = CASES["fs2-row-and-step"]
    inputs = make_inputs(case, torch.float32)
    noise = inputs.noises[0]
    assert isinstance(noise, Noise)
    masks = Masks(case.wiring, inputs.weights, inputs.xs[0], noise, case.rates, None)
    room = workspace.Workspace(torch.float32, torch.device("cpu"))
    site = case.wiring.zoneout_site(1)
    for got, expected in zip(
        masks.zoneout(site, 1, 5, room),
        zoneout_update(noise, case.T, site, case.B, 6, case.zoneout_h, case.zoneout_c),
        strict=True,
    ):
        assert torch.equal(got, expected[1:5].float())  # type: ignore[arg-type]
    site = case.wiring.output_site
    factor = masks.dropout(site, 2, 6, room)
    expected = dropout_keep(noise, case.T, site, case.B, 11, case.dropout)[2:6] / (1 - case.dropout)
    torch.testing.assert_close(factor, expected)


def test_memory_saved_for_backward() -> None:
    """6 H numbers a node, step and row, 2 H when recomputing; x and the weights come on top."""
    case = Case(sizes={"fast": 32, "slow": 16}, T=20, B=4, frozen=("x",))
    for run, per_unit in ((window.run, 6), (RECOMPUTE.run, 2)):
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            saved[tensor.data_ptr()] = tensor.numel()
            return tensor

        inputs = make_inputs(case, torch.float32)
        given = sum(leaf.numel() for leaf in inputs.leaves.values())
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run(case.wiring, inputs.weights, inputs.xs[0], inputs.state, inputs.noises[0], case.rates)
        units = (32 + 16 + 32) * case.T * case.B
        states = 2 * (32 + 16) * case.B
        key = 1
        assert sum(saved.values()) <= per_unit * units + states + given + key


def test_scratch_is_shared_by_windows_of_a_kind_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = workspace._kept.workspaces
    kept.clear()
    layer = FSLSTM(3, 8, backend="window")

    def train(steps: int) -> None:
        layer(torch.randn(steps, 2, 3))[0].sum().backward()

    train(4)
    rooms = set(map(id, kept.values()))
    assert len(rooms) == 1  # of both directions
    train(4)
    assert set(map(id, kept.values())) == rooms
    monkeypatch.setattr(workspace, "LIMIT", sum(room.bytes for room in kept.values()))
    train(5)
    assert sum(room.bytes for room in kept.values()) <= workspace.LIMIT
    assert rooms.isdisjoint(map(id, kept.values()))


def test_scratch_of_inference_mode_serves_training() -> None:
    workspace._kept.workspaces.clear()
    layer, x = FSLSTM(3, 8, backend="window"), torch.randn(4, 2, 3)
    with torch.inference_mode():
        expected, _ = layer(x)
    y, _ = layer(x)
    y.sum().backward()
    torch.testing.assert_close(y, expected)


def test_an_empty_batch() -> None:
    layer = FSLSTM(3, 8, backend="window")
    y, state = layer(torch.zeros(4, 0, 3))
    y.sum().backward()
    assert y.shape == (4, 0, 8)
    assert state.fast.h.shape == (0, 8)
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())
