"""The simple recurrent cell (Elman 1990), as `torch.nn.RNNCell` has it.

    z   = W_x x + b_x + W_h h + b_h
    h'  = tanh(z), or max(z, 0)
    h_t = zoneout(h', h)

Zoneout as in `fastslow.cells.lstm`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastslow.cells.kind import Kind
from fastslow.cells.module import CellModule
from fastslow.cells.two_biases import TwoBiases
from fastslow.cells.zoneout import zoneout


class TanhWeights(TwoBiases):
    """w_x (H, X), w_h (H, H), bias_x and bias_h (H). None: the cell has no such parameter."""

    __slots__ = ()


class ReluWeights(TwoBiases):
    """As `TanhWeights`, of a cell whose h' is max(z, 0)."""

    __slots__ = ()


def simple_step(
    weights: TanhWeights | ReluWeights,
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
    z = weights.sums(x, state, state.dtype)
    h = torch.relu(z) if isinstance(weights, ReluWeights) else torch.tanh(z)
    return zoneout(h, state, update_h, zoneout_h)


_LAYOUT: dict[str, Any] = {
    "state": None,
    "step": simple_step,
    "blocks": 1,
    "rows_x": (0,),
    "rows_h": (0,),
    "vectors": {"bias_x": (0,), "bias_h": (0,)},
}
TANH = Kind(name="tanh", weights=TanhWeights, code=2, **_LAYOUT)
RELU = Kind(name="relu", weights=ReluWeights, code=3, **_LAYOUT)


class SimpleCell(CellModule):
    """One step of a simple recurrent cell with zoneout; a drop-in for `torch.nn.RNNCell`.

    Args:
        input_size: X, the size of the input; None for a cell that has none, which is then called as `cell(None, h)`.
        hidden_size: H.
        nonlinearity: "tanh" or "relu".
        bias: whether there are biases.
        zoneout_h: probability that a unit of h keeps its old value.

    Parameters: `weight_ih` (H, X), `weight_hh` (H, H), `bias_ih` and `bias_hh` (H).

    Shape: `cell(x, h=None) -> h` with x (B, X) or (X,), h (B, H) or (H,).
    """

    bias_ih: nn.Parameter | None
    bias_hh: nn.Parameter | None

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        *,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        zoneout_h: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, zoneout_h=zoneout_h)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu'; got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        self._add_matrices(1, device, dtype)
        for name in ("bias_ih", "bias_hh"):
            value = torch.empty(hidden_size, device=device, dtype=dtype) if bias else None
            self.register_parameter(name, None if value is None else nn.Parameter(value))
        self.reset_parameters()

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """That of the nonlinearity. A saved cell holds the name alone, since a kind has functions in it."""
        return TANH if self.nonlinearity == "tanh" else RELU

    def weights(self) -> TanhWeights | ReluWeights:
        """The parameters as engines take them."""
        made: TanhWeights | ReluWeights = self.kind.weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return made
