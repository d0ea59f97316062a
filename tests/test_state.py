from __future__ import annotations

import copy
import io
import pickle

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


def test_methods_do_what_the_functions_do() -> None:
    state, rows = sample(), torch.tensor([2, 0])
    assert torch.equal(state.index(rows).fast.c, index_rows(state, rows).fast.c)
    assert torch.equal(state.fast.index(rows).h, state.fast.h[[2, 0]])
    assert state.reset(torch.tensor([True, False, True])).slow.tolist() == [[0, 0], [6, 9], [0, 0]]
    assert state.fast.reset(torch.tensor([True, True, True])).c.sum() == 0
    assert not any(leaf.requires_grad for leaf in state_tensors(state.detach()))
    assert state.to(torch.float64).fast.h.dtype == torch.float64
    copied = state.clone()
    assert type(copied) is FSState
    assert copied.slow.data_ptr() != state.slow.data_ptr()
    assert type(state.fast.detach().to("cpu").clone()) is LSTMState


@pytest.mark.parametrize("index", [0, -1, slice(1)])
def test_indices_are_refused_in_a_line_that_says_what_to_write(index: object) -> None:
    state = sample()
    with pytest.raises(TypeError, match=r"write state.fast or state.slow; nn.LSTM's h\[-1\] is state.fast.h"):
        state[index]
    with pytest.raises(TypeError, match=r"write state.h or state.c, each \(B, H\), or h, c = state"):
        state.fast[index]


def test_a_state_is_told_from_a_tensor() -> None:
    with pytest.raises(AttributeError, match="'LSTMState' object has no attribute 'view': it is not a tensor; write"):
        sample().fast.view(-1)
    with pytest.raises(AttributeError, match=r"'FSState' object has no attribute 'foo'$"):
        _ = sample().foo
    assert not hasattr(sample(), "device")


def test_states_are_tuples_to_what_walks_through_them() -> None:
    state = sample().detach()
    leaves, form = torch.utils._pytree.tree_flatten(state)
    assert len(leaves) == 3
    assert type(torch.utils._pytree.tree_unflatten(leaves, form)) is FSState
    (h, c), slow = state
    assert (h is state.fast.h, c is state.fast.c, slow is state.slow) == (True, True, True)
    for twin in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert type(twin) is FSState
        assert type(twin.fast) is LSTMState
        assert torch.equal(twin.fast.c, c)

    def repackage_hidden(h: object) -> object:
        """As in PyTorch's word-level language model."""
        return h.detach() if isinstance(h, torch.Tensor) else tuple(repackage_hidden(v) for v in h)  # type: ignore[attr-defined]

    assert torch.equal(repackage_hidden(state)[0][1], c)  # type: ignore[index]


def test_states_load_with_weights_only() -> None:
    file = io.BytesIO()
    torch.save({"state": sample().detach()}, file)
    file.seek(0)
    assert type(torch.load(file, weights_only=True)["state"].fast) is LSTMState
