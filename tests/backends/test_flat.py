"""Weights and states flattened for operators come back as they were."""

from __future__ import annotations

import pytest
import torch

from fastslow import FSLSTM
from fastslow.backends.flat import flat, flat_states, flat_weights, kind_of
from fastslow.cells.simple import TanhWeights
from fastslow.state import LSTMState, state_tensors
from fastslow.wiring import fast_slow

OneMatrix = TanhWeights
"""A second cell: its state is one tensor."""


def test_a_layers_weights_and_states_come_back() -> None:
    layer = FSLSTM(3, 5, 4, 3)
    weights = layer.weights()
    kinds = tuple(map(kind_of, weights))
    assert kinds == ("lstm",) * 4
    form = flat(layer.wiring, kinds)
    assert form.weights(flat_weights(weights)) == weights
    _, state = layer(torch.zeros(2, 1, 3))
    back = form.states(flat_states(tuple(state)))
    assert all(type(pair) is LSTMState for pair in back)
    assert all(a is b for a, b in zip(state_tensors(back), state_tensors(state), strict=True))
    assert form.leaves == 4


def test_cells_may_differ() -> None:
    wiring = fast_slow(2)
    own = OneMatrix(None, torch.zeros(2, 2), None, None)
    lstm = FSLSTM(3, 5, 4).weights()[0]
    weights = (lstm, own, lstm)
    kinds = tuple(map(kind_of, weights))
    assert kinds == ("lstm", "tanh", "lstm")
    form = flat(wiring, kinds)
    assert form.weights(flat_weights(weights)) == weights
    states = (LSTMState(torch.zeros(1, 5), torch.ones(1, 5)), torch.zeros(1, 4))
    back = form.states(flat_states(states))
    assert back[0] == states[0]
    assert back[1] is states[1]
    assert form.leaves == len(flat_states(states)) == 3


def test_cells_of_one_slot_have_one_form_of_state() -> None:
    with pytest.raises(ValueError, match=r"slot 'fast' .* 'lstm' and 'tanh' \(node 'fast.1'\)"):
        flat(fast_slow(2), ("lstm", "lstm", "tanh"))


def test_unknown_weights() -> None:
    with pytest.raises(TypeError, match="no engine knows a cell whose weights are tuple"):
        kind_of((1, 2))
