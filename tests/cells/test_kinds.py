"""The reference steps of cells beside torch's own cells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fastslow.cells.gru import GRUWeights, LayerNormGRUCell
from fastslow.cells.kinds import KINDS, kind_of
from fastslow.cells.lstm import LayerNormLSTMCell
from fastslow.cells.plain_lstm import PlainLSTMWeights
from fastslow.cells.simple import ReluWeights, SimpleCell, TanhWeights
from fastslow.state import LSTMState

TORCH: dict[str, Any] = {
    "gru": (nn.GRUCell, {}, lambda *w: GRUWeights(*w, None, None)),
    "plain_lstm": (nn.LSTMCell, {}, PlainLSTMWeights),
    "tanh": (nn.RNNCell, {}, TanhWeights),
    "relu": (nn.RNNCell, {"nonlinearity": "relu"}, ReluWeights),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", TORCH)
def test_a_step_is_that_of_torchs_cell(name: str, bias: bool) -> None:
    make, options, weights_of = TORCH[name]
    cell = make(5, 7, bias=bias, dtype=torch.float64, **options)
    weights = weights_of(cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh) if bias else None
    weights = weights if bias else weights_of(cell.weight_ih, cell.weight_hh, None, None)
    assert kind_of(weights).name == name
    x, h, c = (torch.randn(3, size, dtype=torch.float64) for size in (5, 7, 7))
    state = LSTMState(h, c) if name == "plain_lstm" else h
    got = kind_of(weights).step(weights, x, state)
    torch.testing.assert_close(
        tuple(got) if isinstance(got, tuple) else got, cell(x, tuple(state) if name == "plain_lstm" else h)
    )


@pytest.mark.parametrize("name", ["gru", "tanh", "relu"])
def test_modules_without_extras_are_torchs_cells(name: str) -> None:
    make, options, _ = TORCH[name]
    mine: nn.Module
    mine = LayerNormGRUCell(5, 7, layer_norm=False) if name == "gru" else SimpleCell(5, 7, nonlinearity=name)  # type: ignore[arg-type]
    theirs = make(5, 7, **options)
    theirs.load_state_dict(mine.state_dict())
    x, h = torch.randn(3, 5), torch.randn(3, 7)
    torch.testing.assert_close(mine(x, h), theirs(x, h))
    torch.testing.assert_close(mine(x), theirs(x))
    torch.testing.assert_close(mine(x[0], h[0]), theirs(x[0], h[0]))


def test_norms_of_a_gru() -> None:
    """Each of the four sums by itself; a constant shift of one changes nothing."""
    cell = LayerNormGRUCell(5, 7)
    x, h = torch.randn(3, 5), torch.randn(3, 7)
    before = cell(x, h)
    with torch.no_grad():
        assert cell.bias_hh is not None
        cell.bias_hh[14:] += 3.0
    torch.testing.assert_close(cell(x, h), before, atol=1e-4, rtol=1e-4)
    assert {name: tuple(p.shape) for name, p in cell.named_parameters()} == {
        "weight_ih": (21, 5), "weight_hh": (21, 7), "bias_ih": (21,), "bias_hh": (21,),
        "gate_norm.weight": (28,), "gate_norm.bias": (28,),
    }  # fmt: skip


def test_zoneout_and_cells_without_input() -> None:
    for cell in (LayerNormGRUCell(None, 7, zoneout_h=1.0), SimpleCell(None, 7, zoneout_h=1.0)):
        h = torch.randn(3, 7)
        assert torch.equal(cell(None, h), h)
        with pytest.raises(RuntimeError, match="takes no input"):
            cell(torch.randn(3, 5), h)
        with pytest.raises(RuntimeError, match=r"h must be \(3, 7\); got \(3, 6\)"):
            cell(None, torch.randn(3, 6)) if cell.input_size else SimpleCell(5, 7)(torch.randn(3, 5), torch.randn(3, 6))


def test_every_kind_is_known_by_its_weights() -> None:
    for name, kind in KINDS.items():
        weights = kind.weights(*(torch.zeros(kind.shape(field, 2, 3)) for field in kind.weights._fields))
        assert kind_of(weights) is kind is KINDS[name]
        assert weights.hidden_size == 3
    with pytest.raises(TypeError, match="no engine knows a cell whose weights are tuple"):
        kind_of(())


def test_representations() -> None:
    assert repr(LayerNormGRUCell(5, 7, zoneout_h=0.1, bias=False)).startswith(
        "LayerNormGRUCell(\n  5, 7, zoneout_h=0.1, bias=False"
    )
    assert repr(SimpleCell(5, 7)) == "SimpleCell(5, 7)"
    assert "forget_bias=0.0" in repr(LayerNormLSTMCell(5, 7, forget_bias=0.0))
