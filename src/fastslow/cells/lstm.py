"""The layer-normalised LSTM cell with zoneout (paper, section 3 and its references; constants as the authors ran it).

    z        = W_x x + W_h h + b                          4 blocks of H: i, f, g, o
    z^q      = LN(z^q)                                    each gate q by itself: gain, bias, epsilon 1e-3 in the root
    c'       = sigmoid(z^f + forget_bias) c + sigmoid(z^i) tanh(z^g)
    h'       = sigmoid(z^o) tanh(LN_c(c'))                the carried c is not normalised
    h_t, c_t = zoneout(h', h), zoneout(c', c)             independent masks; h' comes from the c' before zoneout

Zoneout in training: a unit takes the new value with probability 1 - p and keeps the old one otherwise. In evaluation
every unit takes the expectation, (1 - p) new + p old (Krueger et al. 2017).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastslow.cells.kind import Kind
from fastslow.cells.module import CellModule, Norm
from fastslow.cells.zoneout import zoneout
from fastslow.state import LSTMState

NORM_EPSILON = 1e-3


class CellWeights(NamedTuple):
    """The parameters of one cell, as engines take them. None: the cell has no such parameter.

    w_x (4H, X), w_h (4H, H), bias (4H); gate_gain and gate_shift (4H), cell_gain and cell_shift (H): all four of the
    norms or none.
    """

    w_x: Tensor | None
    w_h: Tensor
    bias: Tensor | None
    gate_gain: Tensor | None
    gate_shift: Tensor | None
    cell_gain: Tensor | None
    cell_shift: Tensor | None

    @property
    def hidden_size(self) -> int:
        return self.w_h.shape[1]

    @property
    def layer_norm(self) -> bool:
        return self.gate_gain is not None


def lstm_step(
    weights: CellWeights,
    x: Tensor | None,
    state: LSTMState,
    *,
    forget_bias: float,
    zoneout_h: float,
    zoneout_c: float,
    update_h: Tensor | None = None,
    update_c: Tensor | None = None,
) -> LSTMState:
    """The equations of this module: x (B, X) or None, state (B, H) each, masks (B, H) bool or None -> state (B, H)."""
    z = F.linear(state.h, weights.w_h)
    if x is not None and weights.w_x is not None:
        z = z + F.linear(x, weights.w_x)
    z = z.to(state.c.dtype)  # under autocast the products are of lower precision; the rest is not
    if weights.bias is not None:
        z = z + weights.bias
    if weights.gate_gain is not None and weights.gate_shift is not None:
        H = weights.hidden_size
        normed_gates = F.layer_norm(z.reshape(-1, 4, H), (H,), eps=NORM_EPSILON)
        z = normed_gates.view_as(z) * weights.gate_gain + weights.gate_shift
    i, f, g, o = z.chunk(4, dim=-1)
    c = torch.sigmoid(f + forget_bias) * state.c + torch.sigmoid(i) * torch.tanh(g)
    normed = c
    if weights.cell_gain is not None:
        normed = F.layer_norm(c, (weights.hidden_size,), weights.cell_gain, weights.cell_shift, NORM_EPSILON)
    h = torch.sigmoid(o) * torch.tanh(normed)
    return LSTMState(zoneout(h, state.h, update_h, zoneout_h), zoneout(c, state.c, update_c, zoneout_c))


LSTM = Kind(
    name="lstm",
    weights=CellWeights,
    state=LSTMState,
    step=lstm_step,
    blocks=4,
    rows_x=(0, 1, 2, 3),
    rows_h=(0, 1, 2, 3),
    vectors={
        "bias": (0, 1, 2, 3),
        "gate_gain": (4, 5, 6, 7),
        "gate_shift": (8, 9, 10, 11),
        "cell_gain": (12,),
        "cell_shift": (13,),
    },
    code=0,
    forget_bias=True,
)


class LayerNormLSTMCell(CellModule):
    """One step of a layer-normalised LSTM with zoneout; a drop-in for `torch.nn.LSTMCell`.

    Args:
        input_size: X, the size of the input; None for a cell that has none (the third and later cells of a fast
            chain), which is then called as `cell(None, state)`.
        hidden_size: H, the size of h and of c.
        bias: whether the gates have a bias.
        zoneout_h, zoneout_c: probability that a unit of h, of c, keeps its old value.
        layer_norm: whether gates and cell are normalised.
        forget_bias: added to the forget gate after the norm: a constant, not a parameter.

    Parameters: `weight_ih` (4H, X), `weight_hh` (4H, H), `bias` (4H), `gate_norm.weight` and `.bias` (4H),
    `cell_norm.weight` and `.bias` (H); gates in the order i, f, g, o.

    Shape: `cell(x, state=None) -> LSTMState(h, c)` with x (B, X) or (X,), h and c (B, H) or (H,).
    """

    kind = LSTM
    bias: nn.Parameter | None

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        *,
        bias: bool = True,
        zoneout_h: float = 0.0,
        zoneout_c: float = 0.0,
        layer_norm: bool = True,
        forget_bias: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, zoneout_h=zoneout_h, zoneout_c=zoneout_c)
        self.layer_norm, self.forget_bias = layer_norm, float(forget_bias)
        self._add_matrices(4, device, dtype)
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(4 * hidden_size, device=device, dtype=dtype)) if bias else None
        )
        self.gate_norm = Norm(4 * hidden_size, device, dtype) if layer_norm else None
        self.cell_norm = Norm(hidden_size, device, dtype) if layer_norm else None
        self.reset_parameters()

    def weights(self) -> CellWeights:
        """The parameters as engines take them."""
        gate, cell = self.gate_norm, self.cell_norm
        return CellWeights(
            self.weight_ih,
            self.weight_hh,
            self.bias,
            None if gate is None else gate.weight,
            None if gate is None else gate.bias,
            None if cell is None else cell.weight,
            None if cell is None else cell.bias,
        )
