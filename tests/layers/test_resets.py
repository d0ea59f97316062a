"""A state that starts anew inside a window is the window cut up there: outputs, states and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from fastslow import FSLSTM, FSRNN, SequentialLSTM, StackedLSTM
from fastslow.backends.native.library import library
from fastslow.state import index_rows, map_state, state_tensors

X, H = 5, 7
OPTIONS: dict[str, Any] = {"zoneout_h": 0.1, "zoneout_c": 0.3, "dropout": 0.2, "dtype": torch.float64}
LAYERS: dict[str, Any] = {
    "fs": lambda backend: FSLSTM(X, H, 4, num_fast=3, backend=backend, **OPTIONS),
    "stacked": lambda backend: StackedLSTM(X, H, 2, backend=backend, **OPTIONS),
    "sequential": lambda backend: SequentialLSTM(X, H, 2, backend=backend, **OPTIONS),
}
ENGINES = [
    "reference",
    "window",
    pytest.param("native", marks=pytest.mark.skipif(isinstance(library(), str), reason="no native library")),
]


def random_state(layer: nn.Module, rows: int) -> Any:
    _, like = layer(torch.zeros(1, rows, X, dtype=torch.float64))
    return map_state(lambda leaf: torch.randn_like(leaf).requires_grad_(), like)


def in_pieces(layer: nn.Module, x: Tensor, state: Any, resets: Tensor, lengths: list[int]) -> tuple[Tensor, list[Any]]:
    """Each row by itself, cut where it starts anew: y (T, B, H) and each row's last state."""
    rows, finals = [], []
    for b in range(x.shape[1]):
        now, ys, first = index_rows(state, torch.tensor([b])), [], 0
        cuts = [t for t in range(lengths[b]) if resets[t, b]]
        for cut in [*cuts, lengths[b]]:
            if cut > first:
                y, now = layer(x[first:cut, b : b + 1], now)
                ys.append(y)
            if cut < lengths[b]:
                now = map_state(torch.zeros_like, now)
            first = cut
        ys.append(x.new_zeros(x.shape[0] - lengths[b], 1, H))
        rows.append(torch.cat(ys))
        finals.append(now)
    return torch.cat(rows, 1), finals


def check_pieces(layer: nn.Module, T: int, B: int, resets: Tensor, lengths: list[int] | None) -> None:
    layer.eval()
    x = torch.randn(T, B, X, dtype=torch.float64, requires_grad=True)
    state = random_state(layer, B)
    wanted = [x, *state_tensors(state), *layer.parameters()]
    y, new = layer(x, state, resets=resets, **({} if lengths is None else {"lengths": lengths}))
    y_cut, finals = in_pieces(layer, x, state, resets, [T] * B if lengths is None else lengths)
    cut_leaves = [torch.cat(parts) for parts in zip(*map(state_tensors, finals), strict=True)]
    for got, expected in zip([y, *state_tensors(new)], [y_cut, *cut_leaves], strict=True):
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-8)
    weights = [torch.randn_like(part) for part in (y, *cut_leaves)]
    grads = []
    for values in ((y, *state_tensors(new)), (y_cut, *cut_leaves)):
        loss = torch.stack([(value * weight).sum() for value, weight in zip(values, weights, strict=True)]).sum()
        grads.append(torch.autograd.grad(loss, wanted, materialize_grads=True, allow_unused=True))
    for mine, expected in zip(*grads, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("lengths", [None, [9, 4, 0, 6]])
def test_a_window_with_resets_is_its_pieces(kind: str, backend: str, lengths: list[int] | None) -> None:
    torch.manual_seed(3)
    resets = torch.rand(9, 4) < 0.3
    check_pieces(LAYERS[kind](backend), 9, 4, resets, lengths)


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("lengths", [None, [6, 4, 1]])
def test_any_cells_do_the_same(kind: Any, lengths: list[int] | None) -> None:
    torch.manual_seed(4)
    sizes: dict[str, Any] = {"dtype": torch.float64}
    layer = FSRNN([kind(X, H, **sizes), kind(4, H, **sizes)], kind(H, 4, **sizes))
    check_pieces(layer, 6, 3, torch.rand(6, 3) < 0.4, lengths)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), T=st.integers(1, 6), B=st.integers(1, 3), backend=st.sampled_from(["auto", "window"]))
def test_wherever_the_resets_lie(data: st.DataObject, T: int, B: int, backend: str) -> None:
    torch.manual_seed(5)
    flags = data.draw(st.lists(st.booleans(), min_size=T * B, max_size=T * B))
    lengths = data.draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B))
    check_pieces(LAYERS["fs"](backend), T, B, torch.tensor(flags).view(T, B), lengths)


@pytest.mark.parametrize("kind", LAYERS)
def test_resets_are_laid_out_as_x(kind: str) -> None:
    layer = LAYERS[kind]("auto").eval()
    x, resets = torch.randn(5, 3, X, dtype=torch.float64), torch.rand(5, 3) < 0.4
    y, state = layer(x, resets=resets)
    layer.batch_first = True
    swapped, same = layer(x.transpose(0, 1), resets=resets.transpose(0, 1))
    assert torch.equal(swapped.transpose(0, 1), y)
    assert all(map(torch.equal, state_tensors(same), state_tensors(state)))
    layer.batch_first = False
    for b in range(3):
        alone, last = layer(x[:, b], resets=resets[:, b])
        torch.testing.assert_close(alone, y[:, b])
        torch.testing.assert_close(state_tensors(last), [leaf[b] for leaf in state_tensors(state)])


@pytest.mark.parametrize("grads", [False, True])
def test_steps_with_resets_are_the_window(grads: bool) -> None:
    torch.manual_seed(6)
    gru = FSRNN([nn.GRUCell(X, H), nn.GRUCell(4, H)], nn.GRUCell(H, 4)).double()
    for layer in (LAYERS["fs"]("auto").eval(), LAYERS["sequential"]("auto").eval(), gru):
        x, resets = torch.randn(5, 3, X, dtype=torch.float64), torch.rand(5, 3) < 0.4
        with torch.set_grad_enabled(grads):
            y, state = layer(x, resets=resets)
            now, alone = None, None
            for t in range(5):
                y_t, now = layer.step(x[t], now, reset=resets[t])
                torch.testing.assert_close(y_t, y[t])
                y_0, alone = layer.step(x[t, 0], alone, reset=bool(resets[t, 0]))
                torch.testing.assert_close(y_0, y[t, 0])
            torch.testing.assert_close(state_tensors(now), state_tensors(state))


def test_masks_are_those_of_the_window() -> None:
    layer = LAYERS["fs"]("auto").train()
    x = torch.randn(4, 2, X, dtype=torch.float64)
    ys = []
    for resets in (torch.zeros(4, 2, dtype=torch.bool), torch.tensor([[0, 0], [0, 0], [1, 0], [0, 0]]).bool()):
        torch.manual_seed(7)
        ys.append(layer(x, resets=resets)[0])
    assert torch.equal(ys[0][:, 1], ys[1][:, 1])
    assert torch.equal(ys[0][:2], ys[1][:2])
    assert not torch.equal(ys[0][2:, 0], ys[1][2:, 0])


def test_a_state_that_is_not_finite_ends_at_a_reset() -> None:
    for backend in ("reference", "window", "auto"):
        layer = LAYERS["fs"](backend).eval()
        x = torch.randn(3, 1, X, dtype=torch.float64)
        x[0] = float("nan")
        y, state = layer(x, resets=torch.tensor([[False], [True], [False]]))
        assert y[0].isnan().all()
        assert y[1:].isfinite().all()
        assert all(leaf.isfinite().all() for leaf in state_tensors(state))


def test_resets_compile() -> None:
    layer = FSLSTM(X, H, 4).eval()
    x, resets = torch.randn(3, 2, X), torch.tensor([[False, True], [True, False], [False, False]])
    y, state = torch.compile(layer, backend="eager", fullgraph=True)(x, resets=resets)
    expected, last = layer(x, resets=resets)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(state_tensors(state), state_tensors(last))


def test_errors_say_what_was_expected() -> None:
    layer = FSLSTM(X, H)
    x = torch.randn(4, 3, X)
    with pytest.raises(ValueError, match=r"resets must be bool of shape \(4, 3\), laid out as x; got torch.bool"):
        layer(x, resets=torch.zeros(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"got torch.float32 of shape"):
        layer(x, resets=torch.zeros(4, 3))
    with pytest.raises(ValueError, match="got list"):
        layer(x, resets=[[False] * 3] * 4)
    with pytest.raises(ValueError, match=r"reset must be bool of shape \(3,\), one per row"):
        layer.step(x[0], reset=torch.zeros(4, dtype=torch.bool))
    packed = pack_padded_sequence(x, torch.tensor([4, 3, 2]))
    for other in (layer, FSRNN([nn.GRUCell(X, H), nn.GRUCell(H, H)], nn.GRUCell(H, H))):
        with pytest.raises(ValueError, match="cannot go with a PackedSequence: pass x padded, with lengths"):
            other(packed, resets=torch.zeros(4, 3, dtype=torch.bool))
