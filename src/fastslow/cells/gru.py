"""The gated recurrent unit in torch's equations (`torch.nn.GRUCell`), with per-gate layer norm and zoneout if asked.

    a_n = W_xn x + b_xn                   a_r = W_xr x + b_xr + W_hr h + b_hr
    a_m = W_hn h + b_hn                   a_z = W_xz x + b_xz + W_hz h + b_hz
    a^q = LN(a^q)                         with layer norm: each of the four; gain, bias, epsilon 1e-3 in the root
    r, z = sigmoid(a_r), sigmoid(a_z)
    n    = tanh(a_n + r a_m)
    h'   = (1 - z) n + z h
    h_t  = zoneout(h', h)

The rows of the matrices and biases are torch's: r, z, n. The reset gate multiplies the product W_hn h, so that product
and W_xn x stay apart, and z of the engines has four blocks: a_n, a_r, a_z, a_m. Zoneout as in `fastslow.cells.lstm`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastslow.cells.kind import Kind
from fastslow.cells.lstm import NORM_EPSILON
from fastslow.cells.module import CellModule, Norm
from fastslow.cells.zoneout import zoneout


class GRUWeights(NamedTuple):
    """w_x (3H, X), w_h (3H, H), bias_x and bias_h (3H), rows r, z, n; gate_gain and gate_shift (4H), blocks r, z, n of
    W_x x, n of W_h h. None: the cell has no such parameter.
    """

    w_x: Tensor | None
    w_h: Tensor
    bias_x: Tensor | None
    bias_h: Tensor | None
    gate_gain: Tensor | None
    gate_shift: Tensor | None

    @property
    def hidden_size(self) -> int:
        return self.w_h.shape[1]

    @property
    def layer_norm(self) -> bool:
        return self.gate_gain is not None


def gru_step(
    weights: GRUWeights,
    x: Tensor | None,
    state: Tensor,
    *,
    forget_bias: float = 0.0,
    zoneout_h: float = 0.0,
    zoneout_c: float = 0.0,
    update_h: Tensor | None = None,
    update_c: Tensor | None = None,
) -> Tensor:
    """The equations of this module: x (B, X) or None, h (B, H), mask (B, H) bool or None -> h (B, H)."""
    H = weights.hidden_size
    of_x = state.new_zeros(state.shape[0], 3 * H)
    if x is not None and weights.w_x is not None:
        of_x = F.linear(x, weights.w_x).to(state.dtype)
    of_h = F.linear(state, weights.w_h).to(state.dtype)
    of_x = of_x if weights.bias_x is None else of_x + weights.bias_x
    of_h = of_h if weights.bias_h is None else of_h + weights.bias_h
    (x_r, x_z, x_n), (h_r, h_z, h_n) = of_x.chunk(3, dim=-1), of_h.chunk(3, dim=-1)
    a = torch.stack((x_r + h_r, x_z + h_z, x_n, h_n), dim=1)  # (B, 4, H)
    if weights.gate_gain is not None and weights.gate_shift is not None:
        a = F.layer_norm(a, (H,), eps=NORM_EPSILON) * weights.gate_gain.view(4, H) + weights.gate_shift.view(4, H)
    a_r, a_z, a_n, a_m = a.unbind(1)
    r, z = torch.sigmoid(a_r), torch.sigmoid(a_z)
    n = torch.tanh(a_n + r * a_m)
    return zoneout((1 - z) * n + z * state, state, update_h, zoneout_h)


GRU = Kind(
    name="gru",
    weights=GRUWeights,
    state=None,
    step=gru_step,
    blocks=4,
    rows_x=(1, 2, 0),
    rows_h=(1, 2, 3),
    vectors={
        "bias_x": (1, 2, 0),
        "bias_h": (1, 2, 3),
        "gate_gain": (5, 6, 4, 7),
        "gate_shift": (9, 10, 8, 11),
    },
    code=1,
)


class LayerNormGRUCell(CellModule):
    """One step of a gated recurrent unit, with per-gate layer norm and zoneout; a drop-in for `torch.nn.GRUCell`.

    Args:
        input_size: X, the size of the input; None for a cell that has none, which is then called as `cell(None, h)`.
        hidden_size: H.
        bias: whether the gates have biases.
        zoneout_h: probability that a unit of h keeps its old value.
        layer_norm: whether the four sums a_r, a_z, a_n, a_m are normalised, each by itself.

    Parameters: `weight_ih` (3H, X), `weight_hh` (3H, H), `bias_ih` and `bias_hh` (3H), gates in torch's order r, z, n;
    `gate_norm.weight` and `.bias` (4H), blocks r, z, n of the input, n of the state.

    Shape: `cell(x, h=None) -> h` with x (B, X) or (X,), h (B, H) or (H,).
    """

    kind = GRU
    bias_ih: nn.Parameter | None
    bias_hh: nn.Parameter | None

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        *,
        bias: bool = True,
        zoneout_h: float = 0.0,
        layer_norm: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, zoneout_h=zoneout_h)
        self.layer_norm = layer_norm
        self._add_matrices(3, device, dtype)
        for name in ("bias_ih", "bias_hh"):
            value = torch.empty(3 * hidden_size, device=device, dtype=dtype) if bias else None
            self.register_parameter(name, None if value is None else nn.Parameter(value))
        self.gate_norm = Norm(4 * hidden_size, device, dtype) if layer_norm else None
        self.reset_parameters()

    def weights(self) -> GRUWeights:
        """The parameters as engines take them."""
        norm = self.gate_norm
        gain, shift = (None, None) if norm is None else (norm.weight, norm.bias)
        return GRUWeights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, gain, shift)
