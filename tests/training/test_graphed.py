"""Recorded work, with recorders that need no device: `Rerun`, and one that is as strict as a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastslow import FSLSTM
from fastslow.state import FSState, LSTMState, map_state, state_tensors
from fastslow.training.clip import clip_gradients
from fastslow.training.graphed import GraphedStep, Recorded, Rerun, recorder_for, tensor_rates

CPU = torch.device("cpu")


class Strict:
    """Replays into the tensors of the recording, as a graph does, and poisons them in between."""

    def __init__(self) -> None:
        self.warmed = self.recorded = self.replayed = 0

    def warm(self, fn: Callable[[], Any]) -> Any:
        self.warmed += 1
        return fn()

    def record(self, fn: Callable[[], Any]) -> Callable[[], Any]:
        self.recorded += 1
        results: list[Any] = []

        def replay() -> Any:
            self.replayed += 1
            new = fn()
            if not results:
                results.append(map_state(torch.clone, new))
            for old, leaf in zip(state_tensors(results[0]), state_tensors(new), strict=True):
                old.copy_(leaf)
            return results[0]

        return replay


def test_recorded_warms_up_then_records_each_combination_of_shapes() -> None:
    strict = Strict()
    double = Recorded(lambda x: 2 * x, CPU, warmup=2, recorder=strict)
    for n in range(5):
        assert torch.equal(double(torch.full((3,), float(n))), torch.full((3,), 2.0 * n))
    assert (strict.warmed, strict.recorded, strict.replayed) == (2, 1, 3)
    assert torch.equal(double(torch.ones(2)), torch.full((2,), 2.0))  # a ragged end: eager
    assert torch.equal(double(torch.ones(3, dtype=torch.float64)), torch.full((3,), 2.0, dtype=torch.float64))
    assert (strict.warmed, double.graphs) == (4, 1)
    double.reset()
    assert double.graphs == 0


def test_recorded_inputs_are_buffers_that_may_be_handed_back() -> None:
    def count(x: Tensor, state: LSTMState) -> LSTMState:
        state.h.add_(x)
        state.c.mul_(2)
        return state

    counting = Recorded(count, CPU, warmup=1, recorder=Strict())
    given = LSTMState(torch.zeros(2), torch.ones(2))
    state = given
    for _ in range(4):
        state = counting(torch.ones(2), state)
    assert isinstance(state, LSTMState)
    assert state.h.tolist() == [4.0, 4.0]
    assert state.c.tolist() == [16.0, 16.0]
    assert given.h.tolist() == [0.0, 0.0]  # what the caller owns is not changed


def test_the_stand_in_is_for_machines_without_a_device() -> None:
    assert isinstance(recorder_for(CPU), Rerun)


# ---------------------------------------------------------------------------------------------------- updates


def _model(seed: int = 0) -> tuple[torch.nn.Module, Callable[..., Any]]:
    torch.manual_seed(seed)
    layer = FSLSTM(4, 6, 3, dropout=0.2, zoneout_h=0.1, zoneout_c=0.3, backend="reference")
    head = torch.nn.Linear(6, 4)

    def objective(x: Tensor, targets: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        y, new = layer(x, state)
        loss = F.cross_entropy(head(y).flatten(0, 1), targets.flatten(), reduction="sum")
        return loss / x.shape[1], loss, new

    return torch.nn.ModuleList([layer, head]), objective


def _windows(count: int, T: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(T, 2, 4, generator=generator), torch.randint(4, (T, 2), generator=generator)) for _ in range(count)
    ]


def _by_hand(
    count: int, rates: list[float], windows: list[tuple[Tensor, Tensor]]
) -> tuple[list[float], list[Tensor], Any]:
    model, objective = _model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    torch.manual_seed(5)
    losses, state = [], None
    for (x, targets), rate in zip(windows[:count], rates, strict=False):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        value, loss, state = objective(x, targets, state)
        value.backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        state = map_state(Tensor.detach, state)
        losses.append(loss.item())
    return losses, [p.detach() for p in model.parameters()], state


def _zero_state() -> Any:
    return FSState(*(LSTMState(torch.zeros(2, size), torch.zeros(2, size)) for size in (6, 3)))


@pytest.mark.parametrize("recorder", [Strict, Rerun])
def test_a_recorded_update_is_the_update(recorder: Any) -> None:
    windows, rates = _windows(8), [1e-2, 1e-2, 5e-3, 5e-3, 1e-3, 1e-3, 1e-3, 1e-4]
    windows[5] = _windows(1, T=3)[0]  # a ragged end, with the state carried through it
    losses, weights, last = _by_hand(8, rates, windows)

    model, objective = _model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    torch.manual_seed(5)
    step = GraphedStep(objective, optimizer, CPU, clip=1.0, warmup=2, recorder=recorder())
    state, results = _zero_state(), []
    for (x, targets), rate in zip(windows, rates, strict=True):
        result = step.step(x, targets, state=state, rate=rate)
        state = result.state
        results.append(result)
    assert [result.loss_nats.item() for result in results] == losses  # kept until now: not overwritten by a replay
    assert len({result.gradient_norm.item() for result in results}) == 8
    for got, expected in zip(model.parameters(), weights, strict=True):
        assert torch.equal(got, expected)
        assert got.grad is None
    for got, expected in zip(state_tensors(state), state_tensors(last), strict=True):
        assert torch.equal(got, expected)
        assert not got.requires_grad
    assert step.recorded.graphs == 1


def test_masks_and_rates_differ_between_replays() -> None:
    model, objective = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = GraphedStep(objective, optimizer, CPU, warmup=1, recorder=Strict())
    x, targets = _windows(1)[0]
    before = [p.detach().clone() for p in model.parameters()]
    losses = [step.step(x, targets, state=_zero_state(), rate=0.0).loss_nats.item() for _ in range(5)]
    assert len(set(losses)) == 5  # the same weights, the same window: other masks
    for got, expected in zip(model.parameters(), before, strict=True):
        assert torch.equal(got, expected)
    step.step(x, targets, state=_zero_state(), rate=0.1)
    assert not torch.equal(next(iter(model.parameters())), before[0])


def test_rates_as_tensors_are_set_in_place() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.5, foreach=False)
    tensor_rates(optimizer, CPU)
    rate = optimizer.param_groups[0]["lr"]
    assert isinstance(rate, Tensor)
    assert rate.item() == 0.5

    def objective(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss = (x * weight).sum()
        return loss, loss, state + 1

    step = GraphedStep(objective, optimizer, CPU, warmup=1, recorder=Strict())
    state: Any = torch.zeros(1)
    for value in (0.25, 0.5, 0.0, 1.0):
        state = step.step(torch.ones(3), state=state, rate=value).state
    assert optimizer.param_groups[0]["lr"] is rate
    assert state.item() == 4
    assert weight.tolist() == [1 - 1.75] * 3


def test_a_recording_of_the_first_update_is_refused() -> None:
    model, objective = _model()
    with pytest.raises(ValueError, match="warmup must be at least 1"):
        GraphedStep(objective, torch.optim.Adam(model.parameters()), CPU, warmup=0)
