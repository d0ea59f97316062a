"""The layers of gated recurrent units, and wirings of several kinds of cells."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from fastslow import FSGRU, FSLSTM, FSRNN, FSState, SequentialGRU, StackedGRU, WiredRNN
from fastslow.state import LSTMState, map_state, state_tensors
from fastslow.wiring import fast_slow

X, H, S = 5, 7, 4


def layers(**options: Any) -> list[WiredRNN]:
    return [FSGRU(X, H, S, 3, **options), StackedGRU(X, H, 2, **options), SequentialGRU(X, H, 2, **options)]


def test_states_have_the_form_of_their_wiring() -> None:
    x = torch.randn(4, 3, X)
    fs, stack, sequence = (layer(x)[1] for layer in layers())
    assert type(fs) is FSState
    assert [tuple(part.shape) for part in fs] == [(3, H), (3, S)]
    assert [tuple(part.shape) for part in stack] == [(3, H), (3, H)]
    assert isinstance(sequence, torch.Tensor)
    for layer, state in zip(layers(), (fs, stack, sequence), strict=True):
        y, new = layer(x, state)
        assert y.shape == (4, 3, H)
        alone, last = layer(x[:, 0], map_state(lambda leaf: leaf[0], state))
        torch.testing.assert_close(alone, y[:, 0])
        torch.testing.assert_close(state_tensors(last), [leaf[0] for leaf in state_tensors(new)])


def test_wrong_states_are_refused_with_the_right_form() -> None:
    x = torch.randn(4, 3, X)
    fs, stack, sequence = layers()
    with pytest.raises(TypeError, match=r"the state of FSGRU is FSState\(fast=h, slow=h\); got Tensor"):
        fs(x, torch.zeros(3, H))
    with pytest.raises(RuntimeError, match=r"state fast.h must be \(3, 7\), for 3 rows; got \(3, 6\)"):
        fs(x, (torch.zeros(3, 6), torch.zeros(3, S)))
    with pytest.raises(RuntimeError, match=r"state fast.h must be \(3, 7\), for 3 rows; got LSTMState"):
        fs(x, (LSTMState(torch.zeros(3, H), torch.zeros(3, H)), torch.zeros(3, S)))
    with pytest.raises(TypeError, match="a tuple of 2 states, one per slot; got Tensor"):
        stack(x, torch.zeros(3, H))
    with pytest.raises(TypeError, match="the state of SequentialGRU is a tensor h; got tuple of 2"):
        sequence(x, (torch.zeros(3, H), torch.zeros(3, H)))
    with pytest.raises(TypeError, match="FSGRU does not support bidirectional=True"):
        FSGRU(X, H, bidirectional=True)
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'zoneout_c'"):
        StackedGRU(X, H, zoneout_c=0.1)


def test_without_norms_it_is_an_fsrnn_of_torchs_cells() -> None:
    layer = FSGRU(X, H, S, layer_norm=False)
    cells = [nn.GRUCell(X, H), nn.GRUCell(S, H)]
    other = FSRNN(cells, nn.GRUCell(H, S))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(5, 3, X)
    torch.testing.assert_close(layer(x)[0], other(x)[0])


@pytest.mark.parametrize("backend", ["reference", "window", "auto"])
def test_conventions_of_layers(backend: str) -> None:
    for layer in layers(backend=backend, zoneout_h=0.1, dropout=0.2):
        layer.eval()
        x = torch.randn(6, 3, X)
        y, state = layer(x)
        same = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
        assert torch.equal(same(x)[0], y)
        packed, last = layer(pack_padded_sequence(x, torch.tensor([6, 4, 1])))
        short, _ = layer(x[:4, 1:2])
        assert packed.batch_sizes.tolist() == [3, 2, 2, 2, 1, 1]
        padded, ends = layer(x, lengths=[6, 4, 1])
        torch.testing.assert_close(padded[:4, 1:2], short)
        torch.testing.assert_close(state_tensors(last), state_tensors(ends))
        now = None
        with torch.no_grad():
            for t in range(6):
                y_t, now = layer.step(x[t], now)
                torch.testing.assert_close(y_t, y[t])
        torch.testing.assert_close(state_tensors(now), state_tensors(state))
        layer.train()
        torch.manual_seed(3)
        first, _ = layer(x)
        torch.manual_seed(3)
        assert torch.equal(layer(x)[0], first)


def test_8_bit_steps_are_those_of_the_rounded_matrices() -> None:
    layer = FSGRU(X, H, S).eval()
    layer.round_to_int8_()
    x = torch.randn(4, 2, X)
    with torch.no_grad():
        y, _ = layer(x)
        now = None
        for t in range(4):
            y_t, now = layer.step(x[t], now)
            torch.testing.assert_close(y_t, y[t], atol=2e-5, rtol=1e-4)


def test_a_wiring_may_have_several_kinds_of_cells() -> None:
    cells = {"fast.0": "gru", "slow": "lstm", "fast.1": "tanh"}
    layer = WiredRNN(fast_slow(2), X, {"fast": H, "slow": S}, cell=cells, zoneout_c=0.2)
    y, (fast, slow) = layer(torch.randn(5, 3, X))
    assert y.shape == (5, 3, H)
    assert isinstance(fast, torch.Tensor)
    assert type(slow) is LSTMState
    with pytest.raises(ValueError, match=r"the cells of slot 'fast' share its state, and 'gru' and 'lstm' have"):
        WiredRNN(fast_slow(2), X, 7, cell={**cells, "fast.1": "lstm"})
    with pytest.raises(ValueError, match=r"cell must be one of 'lstm', 'gru', 'tanh', 'relu'; got 'mgu' for 'fast.0'"):
        WiredRNN(fast_slow(2), X, 7, cell="mgu")
    with pytest.raises(ValueError, match="cell must give the kind of 'slow'"):
        WiredRNN(fast_slow(2), X, 7, cell={"fast.0": "gru", "fast.1": "gru"})
    with pytest.raises(ValueError, match=r"cell 'gru' has no c, so zoneout_c must be 0; got 0.1"):
        WiredRNN(fast_slow(2), X, 7, cell="gru", zoneout_c=0.1)


@pytest.mark.parametrize("cell", ["lstm", "gru", "tanh", "relu"])
def test_saved_layers_of_any_cell_load_without_running_code(cell: str) -> None:
    layer, file = WiredRNN(fast_slow(2), X, 7, cell=cell), io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    x = torch.randn(3, 2, X)
    assert torch.equal(torch.load(file, weights_only=True)(x)[0], layer(x)[0])


def test_it_learns() -> None:
    """Parity of the inputs seen so far: a few hundred steps of Adam."""
    torch.manual_seed(0)
    layer, head = FSGRU(1, 16, 8), nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
    for _ in range(150):
        bits = torch.randint(0, 2, (8, 64, 1)).float()
        loss = nn.functional.binary_cross_entropy_with_logits(head(layer(bits)[0]), bits.cumsum(0) % 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2


def test_representations() -> None:
    assert repr(FSGRU(X, H, S)).startswith("FSGRU(\n  5, 7, slow_size=4, num_fast=2")
    assert repr(StackedGRU(X, H, 2)).startswith("StackedGRU(\n  5, 7, num_layers=2")
    assert repr(SequentialGRU(X, H)).startswith("SequentialGRU(\n  5, 7, num_cells=2")
    assert isinstance(FSLSTM(X, H), WiredRNN)
