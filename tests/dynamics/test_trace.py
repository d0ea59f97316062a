from __future__ import annotations

from typing import Any

import pytest
import torch

from fastslow.dynamics.trace import trace, warmed_state
from fastslow.state import state_tensors

from .linear import random_lm, tokens

KINDS: list[dict[str, Any]] = [
    {"layer_norm": True},
    {"layer_norm": True, "depth": 4, "zoneout_c": 0.4, "zoneout_h": 0.1, "dropout": 0.5},
    {"architecture": "stacked", "depth": 3},
    {"architecture": "sequential", "depth": 3, "layer_norm": True},
]


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("history", [False, True])
def test_a_trace_is_what_the_model_does(options: dict[str, Any], history: bool) -> None:
    lm = random_lm(**options)
    inputs = torch.stack([tokens(13), tokens(13, 40)], dim=1)
    state = warmed_state(lm, inputs[:4])
    found = trace(lm, inputs[4:-1], inputs[5:], state, history=history)

    with torch.no_grad():
        _, before = lm(inputs[:4])
        scored = lm.token_nats(inputs[4:-1], inputs[5:], before)
    for ours, theirs in zip(state_tensors(state), state_tensors(before), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found.nats, scored.nats)
    for ours, theirs in zip(state_tensors(found.state), state_tensors(scored.state), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert not ours.requires_grad
    # The last node on a slot writes what the slot carries.
    wiring = lm.layer.wiring
    for slot, pair in enumerate(found.state):
        last = max(node for node, of in enumerate(wiring.slot_of) if of == slot)
        torch.testing.assert_close(found.memory[last][-1], pair.c)
    assert [len(steps) for steps in found.memory] == [8] * len(wiring.nodes)
    assert found.nats.requires_grad == history
    assert all(p.grad is None for p in lm.parameters())


def test_nothing_read_is_zero() -> None:
    lm = random_lm()
    state = warmed_state(lm, torch.zeros(0, 3, dtype=torch.int64))
    assert [tuple(leaf.shape) for leaf in state_tensors(state)] == [(3, 5), (3, 5), (3, 3), (3, 3)]
    assert all(not leaf.any() for leaf in state_tensors(state))
