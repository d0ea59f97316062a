"""The LSTM cell of `torch.nn.LSTMCell`: two biases, no norms, no constant in the forget gate.

    z       = W_x x + b_x + W_h h + b_h                   4 blocks of H: i, f, g, o
    c'      = sigmoid(z^f) c + sigmoid(z^i) tanh(z^g)
    h'      = sigmoid(z^o) tanh(c')

Zoneout as in `fastslow.cells.lstm`; torch's own cell has none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastslow.cells.kind import Kind
from fastslow.cells.two_biases import TwoBiases
from fastslow.cells.zoneout import zoneout
from fastslow.state import LSTMState


class PlainLSTMWeights(TwoBiases):
    """w_x (4H, X), w_h (4H, H), bias_x and bias_h (4H). None: the cell has no such parameter."""

    __slots__ = ()


def plain_lstm_step(
    weights: PlainLSTMWeights,
    x: Tensor | None,
    state: LSTMState,
    *,
    forget_bias: float = 0.0,
    zoneout_h: float = 0.0,
    zoneout_c: float = 0.0,
    update_h: Tensor | None = None,
    update_c: Tensor | None = None,
) -> LSTMState:
    """The equations of this module: x (B, X) or None, state (B, H) each, masks (B, H) bool or None -> state (B, H)."""
    i, f, g, o = weights.sums(x, state.h, state.c.dtype).chunk(4, dim=-1)
    c = torch.sigmoid(f) * state.c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return LSTMState(zoneout(h, state.h, update_h, zoneout_h), zoneout(c, state.c, update_c, zoneout_c))


PLAIN_LSTM = Kind(
    name="plain_lstm",
    weights=PlainLSTMWeights,
    state=LSTMState,
    step=plain_lstm_step,
    blocks=4,
    rows_x=(0, 1, 2, 3),
    rows_h=(0, 1, 2, 3),
    vectors={"bias_x": (0, 1, 2, 3), "bias_h": (0, 1, 2, 3)},
    code=0,
)
