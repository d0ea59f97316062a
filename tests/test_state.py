from __future__ import annotations

import pytest
import torch

from fastslow.state import (
    FSState,
    LSTMState,
    detach_state,
    index_rows,
    map_state,
    reset_rows,
    state_tensors,
    stopped_rows,
)


def sample() -> FSState:
    leaf = torch.arange(6.0).view(3, 2).requires_grad_()
    return FSState(LSTMState(leaf * 1, leaf * 2), leaf * 3)


def test_functions_keep_structure_and_types() -> None:
    state = sample()
    for new in (detach_state(state), map_state(torch.neg, state), index_rows(state, torch.tensor([2, 0]))):
        assert type(new) is FSState
        assert type(new.fast) is LSTMState
        assert isinstance(new.slow, torch.Tensor)
    assert not any(leaf.requires_grad for leaf in state_tensors(detach_state(state)))


def test_rows() -> None:
    state = sample()
    picked = index_rows(state, torch.tensor([2, 0]))
    assert torch.equal(picked.fast.c, state.fast.c[[2, 0]])
    cleared = reset_rows(state, torch.tensor([True, False, True]))
    assert cleared.slow.tolist() == [[0, 0], [6, 9], [0, 0]]
    stopped = stopped_rows(state, cleared, torch.tensor([True, True, False]))
    assert stopped.slow.tolist() == [[0, 0], [6, 9], [12, 15]]


def test_not_a_state() -> None:
    with pytest.raises(TypeError, match="tensor or a tuple"):
        map_state(torch.neg, {"h": 1})
