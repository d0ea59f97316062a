from __future__ import annotations

import io

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from fastslow import FSLSTM, FSRNN, FSState, LayerNormLSTMCell, LSTMState
from fastslow.state import state_tensors

X, F, S = 3, 5, 4
KINDS = [nn.LSTMCell, nn.GRUCell, nn.RNNCell, LayerNormLSTMCell]


@pytest.mark.parametrize("fast", KINDS)
@pytest.mark.parametrize("slow", KINDS)
def test_the_equations(fast, slow) -> None:
    net = FSRNN([fast(X, F), fast(S, F), fast(2, F)], slow(F, S))
    x = torch.randn(6, 2, X)
    y, state = net(x)

    def out(hx):
        return hx if isinstance(hx, torch.Tensor) else next(iter(hx))

    hf = hs = None
    for t in range(6):
        hf = net.fast[0](x[t], hf)
        hs = net.slow(out(hf), hs)
        hf = net.fast[1](out(hs), hf)
        hf = net.fast[2](torch.zeros(2, 2), hf)
        torch.testing.assert_close(y[t], out(hf))
    assert type(state) is FSState
    assert isinstance(state.fast, torch.Tensor if fast in (nn.GRUCell, nn.RNNCell) else LSTMState)
    torch.testing.assert_close(out(state.slow), out(hs))
    y.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_equals_the_layer_of_the_same_cells() -> None:
    torch.manual_seed(0)
    layer = FSLSTM(X, F, S, 3, backend="reference").eval()
    net = FSRNN(list(layer.fast), layer.slow).eval()
    x = torch.randn(6, 2, X)
    y, state = layer(x)
    got, end = net(x)
    torch.testing.assert_close(got, y)
    for a, b in zip(state_tensors(end), state_tensors(state), strict=True):
        torch.testing.assert_close(a, b)
    layer.train()
    net.train()
    layer.dropout = net.dropout = 0.4
    torch.manual_seed(5)
    y, _ = layer(x)
    torch.manual_seed(5)
    torch.testing.assert_close(net(x)[0], y)


class Leaky(nn.Module):
    """A user's cell without sizes as attributes and without a default state."""

    def __init__(self, x: int, h: int) -> None:
        super().__init__()
        self.linear = nn.Linear(x + h, h)

    def forward(self, x: torch.Tensor, hx: torch.Tensor) -> torch.Tensor:
        return 0.9 * hx + 0.1 * torch.tanh(self.linear(torch.cat([x, hx], -1)))


def test_a_users_cell() -> None:
    net = FSRNN([Leaky(X, F), nn.GRUCell(S, F)], Leaky(F, S))
    start = FSState(torch.zeros(2, F), torch.zeros(2, S))
    y, state = net(torch.randn(6, 2, X), start)
    assert y.shape == (6, 2, F)
    assert state.slow.shape == (2, S)
    with pytest.raises(ValueError, match="Leaky has neither a default state nor a hidden_size"):
        net(torch.randn(6, 2, X))


@pytest.mark.parametrize("name", ["MGUCell", "AntisymmetricRNNCell", "IndRNNCell"])
def test_third_party_cells(name: str) -> None:
    zoo = pytest.importorskip("torchrecurrent")
    kind = getattr(zoo, name)
    net = FSRNN([kind(X, F), kind(S, F)], nn.LSTMCell(F, S))
    y, state = net(torch.randn(6, 2, X))
    assert y.shape == (6, 2, F)
    net(torch.randn(6, 2, X), state)[0].sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_forms_of_input() -> None:
    net = FSRNN([nn.LSTMCell(X, F), nn.LSTMCell(S, F)], nn.GRUCell(F, S))
    x = torch.randn(6, 2, X)
    y, state = net(x)
    assert torch.equal(FSRNN(list(net.fast), net.slow, batch_first=True)(x.transpose(0, 1))[0], y.transpose(0, 1))
    single, end = net(x[:, 1])
    torch.testing.assert_close(single, y[:, 1])
    again, _ = net(x[:, 1], end)
    assert again.shape == (6, F)
    hx = None
    for t in range(6):
        out, hx = net.step(x[t], hx)
        torch.testing.assert_close(out, y[t])
    one, hx = net.step(x[0, 0])
    torch.testing.assert_close(one, y[0, 0])
    torch.testing.assert_close(net.step(x[1, 0], hx)[0], y[1, 0])
    parts = [x[:n, 0] for n in (2, 6, 3)]
    padded, _ = pad_packed_sequence(net(pack_sequence(parts, enforce_sorted=False))[0])
    torch.testing.assert_close(padded[:2, 0], y[:2, 0])
    cut, ends = net(x, lengths=[6, 0])
    assert not cut[:, 1].any()
    assert not ends.slow[1].any()
    torch.testing.assert_close(ends.slow[0], state.slow[0])
    kept, ends = net(x, state, lengths=[0, 3])
    torch.testing.assert_close(ends.fast.c[0], state.fast.c[0])
    assert not kept[:, 0].any()


def test_dropout_at_four_sites() -> None:
    net = FSRNN([nn.LSTMCell(X, F), nn.LSTMCell(S, F)], nn.GRUCell(F, S), dropout=0.5)
    x = torch.randn(50, 4, X)
    torch.manual_seed(1)
    y, _ = net(x)
    assert (y == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    torch.manual_seed(1)
    assert torch.equal(net(x)[0], y)
    assert not (net.eval()(x)[0] == 0).any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FSRNN([nn.GRUCell(X, F)], nn.GRUCell(F, S)), ValueError, "num_fast must be at least 2"),
        (
            lambda: FSRNN([nn.GRUCell(X, F), nn.GRUCell(S, 6)], nn.GRUCell(F, S)),
            ValueError,
            r"fast.0 \(GRUCell\) has 5, fast.1 \(GRUCell\) has 6",
        ),
        (
            lambda: FSRNN([nn.GRUCell(X, F), nn.GRUCell(S, F)], nn.LSTMCell(9, S)),
            ValueError,
            r"slow \(LSTMCell\) expects an input of size 9, but reads fast.0 \(GRUCell\), whose output has size 5",
        ),
        (
            lambda: FSRNN([nn.GRUCell(X, F), nn.GRUCell(9, F)], nn.LSTMCell(F, S)),
            ValueError,
            r"fast.1 \(GRUCell\) expects an input of size 9, but reads slow",
        ),
        (lambda: FSRNN([nn.GRUCell(X, F), nn.GRUCell(S, F)], nn.GRUCell(F, S), dropout=-1), ValueError, "range"),
        (
            lambda: FSRNN([nn.GRUCell(X, F), nn.GRUCell(S, F)], nn.GRUCell(F, S))(torch.randn(2, 2, X), torch.zeros(1)),
            TypeError,
            "FSState",
        ),
        (
            lambda: FSRNN([nn.GRUCell(X, F), nn.GRUCell(S, F)], nn.GRUCell(F, S))(
                torch.randn(2, 2, X), (torch.zeros(2, F), torch.zeros(2, 9))
            ),
            RuntimeError,
            r"state slow must be \(2, 4\); got \(2, 9\)",
        ),
        (
            lambda: FSRNN([nn.Identity(), nn.GRUCell(S, F)], nn.GRUCell(F, S))(torch.randn(2, 2, X)),
            ValueError,
            "Identity",
        ),
    ],
)
def test_errors(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_cell_that_returns_no_state() -> None:
    class Odd(nn.Module):
        def forward(self, x, hx=None):
            return {"h": x}

    with pytest.raises(TypeError, match=r"slow \(Odd\) must return its new state"):
        FSRNN([nn.GRUCell(X, F), nn.GRUCell(S, F)], Odd())(torch.randn(2, 2, X))


CELLS = {"gru": (nn.GRUCell, nn.GRUCell), "lstm": (nn.LSTMCell, LayerNormLSTMCell), "mixed": (nn.LSTMCell, nn.RNNCell)}


@pytest.mark.parametrize("name", CELLS)
def test_names_of_lstm(name: str) -> None:
    fast, slow = CELLS[name]
    net, x = FSRNN([fast(X, F), fast(S, F)], slow(F, S)), torch.randn(3, 2, X)
    assert net.hidden_size == F
    net.flatten_parameters()
    y, end = net(x)
    for got in (net(input=x, hx=net.initial_state(2)), net(x, net.initial_state(2)), net(x, hx=None)):
        torch.testing.assert_close(got, (y, end))
    torch.testing.assert_close(net(x[:, 0], net.initial_state())[0], y[:, 0])
    with pytest.raises(TypeError, match="two names of one argument"):
        net(x, end, hx=end)


def test_a_state_of_unknown_form_cannot_be_made() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(F, S)

        def forward(self, x, hx=None):
            return self.cell(x, hx)

    with pytest.raises(ValueError, match="the form of the state of Own is not known: start from state=None"):
        FSRNN([nn.GRUCell(X, F), nn.GRUCell(S, F)], Own()).initial_state(2)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ((None, None), r"state fast must be a tensor h or a pair \(h, c\); got NoneType"),
        ((torch.zeros(1, 2, F), torch.zeros(1, 2, F)), r"got nn.LSTM's \(h, c\)"),
        ("state", r"FSState\(fast=..., slow=...\); got str"),
    ],
    ids=["none", "nn.LSTM", "text"],
)
def test_states_of_another_form_are_refused(state: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        FSRNN([nn.GRUCell(X, F), nn.GRUCell(S, F)], nn.GRUCell(F, S))(torch.randn(3, 2, X), state)


def test_it_loads_without_running_code() -> None:
    net, x = FSRNN([nn.LSTMCell(X, F), nn.LSTMCell(S, F)], nn.GRUCell(F, S)), torch.randn(3, 2, X)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)(x)[0], net(x)[0])
