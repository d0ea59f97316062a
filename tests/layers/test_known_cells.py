"""`FSRNN` of torch's own cells on the engines beside its own loop over the cells."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from fastslow import FSRNN
from fastslow.layers import known_cells
from fastslow.state import map_state, state_tensors

X, H, S = 5, 7, 4
CELLS: dict[str, Any] = {
    "lstm": nn.LSTMCell,
    "gru": nn.GRUCell,
    "tanh": nn.RNNCell,
    "relu": lambda *sizes, **options: nn.RNNCell(*sizes, nonlinearity="relu", **options),
}


def make(fast: list[str], slow: str, **options: Any) -> FSRNN:
    sizes = [X, S, *[3] * (len(fast) - 2)]
    cells = [CELLS[name](size, H, dtype=torch.float64) for name, size in zip(fast, sizes, strict=True)]
    return FSRNN(cells, CELLS[slow](H, S, dtype=torch.float64), **options)


def both(layer: FSRNN, monkeypatch: pytest.MonkeyPatch, **given: Any) -> list[list[Any]]:
    """y, final states and gradients of everything by the engines and by the loop."""
    x = torch.randn(6, 3, X, dtype=torch.float64, requires_grad=True)
    _, like = layer(x)
    state = map_state(lambda leaf: torch.randn_like(leaf).requires_grad_(), like)
    found = []
    for loop in (False, True):
        with monkeypatch.context() as patch:
            if loop:
                patch.setattr(known_cells, "refusal", lambda cells, wiring: "the loop is asked for")
            assert (layer.backend_for(x).name == "reference") == loop
            torch.manual_seed(1)
            y, new = layer(x, state, **given)
        assert type(new) is type(state)
        values = [y, *state_tensors(new)]
        loss = torch.stack([(value * (i + 1)).square().sum() for i, value in enumerate(values)]).sum()
        wanted = [x, *state_tensors(state), *layer.parameters()]
        found.append([*values, *torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=False)])
    return found


@pytest.mark.parametrize(("fast", "slow"), [
    *((pair, slow) for pair, slow in itertools.product([["gru", "gru"], ["lstm", "lstm"]], CELLS)),
    (["gru", "tanh"], "lstm"), (["relu", "gru", "tanh", "gru"], "gru"), (["lstm"] * 3, "relu"),
])  # fmt: skip
@pytest.mark.parametrize("training", [False, True])
def test_the_engines_give_the_loops_numbers(
    fast: list[str], slow: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = make(fast, slow, dropout=0.3).train(training)
    for got, expected in zip(*both(layer, monkeypatch), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-11, rtol=1e-8)


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_lengths_and_resets(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        given = {"lengths": torch.tensor(lengths), "resets": torch.rand(6, 3) < 0.3}
        for got, expected in zip(*both(make(["gru", "relu"], "lstm"), patch, **given), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-11, rtol=1e-8)


def test_steps_and_windows_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make(["gru", "gru", "gru"], "lstm")
    x = torch.randn(20, 2, X, dtype=torch.float64)
    with torch.no_grad():
        y, state = layer(x)
        now = None
        for t in range(20):
            y_t, now = layer.step(x[t], now)
            torch.testing.assert_close(y_t, y[t])
        torch.testing.assert_close(state_tensors(now), state_tensors(state))
        monkeypatch.setattr(known_cells, "refusal", lambda cells, wiring: "no")
        torch.testing.assert_close(layer(x)[0], y)


class Quiet(nn.GRUCell):
    """A subclass, which may do anything."""


def test_other_cells_stay_on_the_loop() -> None:
    x = torch.randn(3, 2, X)
    layer = FSRNN([Quiet(X, H), nn.GRUCell(S, H)], nn.GRUCell(H, S))
    assert "fast.0 (Quiet) is not torch's LSTMCell, GRUCell or RNNCell" in str(layer.backend_for(x))
    layer = FSRNN([nn.GRUCell(X, H), nn.GRUCell(S, H)], nn.GRUCell(H, S))
    assert layer.backend_for(x).name in ("native", "window")
    calls = []
    handle = layer.slow.register_forward_hook(lambda *args: calls.append(1))
    assert "slow (GRUCell) has a hook" in str(layer.backend_for(x))
    layer(x)
    assert len(calls) == 3
    handle.remove()
    parametrize.register_parametrization(layer.slow, "weight_hh", nn.Identity())
    assert "slow (ParametrizedGRUCell) is not torch's" in str(layer.backend_for(x))
    assert layer.backend_for(x).name == "reference"
    assert "x is torch.float64, and the cells are torch.float32" in str(
        FSRNN([nn.GRUCell(X, H), nn.GRUCell(S, H)], nn.GRUCell(H, S)).backend_for(x.double())
    )


def test_wrong_states_are_still_torchs_errors() -> None:
    layer = FSRNN([nn.GRUCell(X, H), nn.GRUCell(S, H)], nn.GRUCell(H, S))
    with pytest.raises(RuntimeError, match=r"state fast must be \(2, 7\); got \(2, 6\)"):
        layer(torch.randn(3, 2, X), (torch.zeros(2, 6), torch.zeros(2, 4)))
