"""The paper's two baselines: the same cell in other wirings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastslow.backends.base import States
from fastslow.layers.wired import WiredLSTM, reject_unsupported
from fastslow.state import LSTMState
from fastslow.wiring import sequential, stacked


class StackedLSTM(WiredLSTM):
    """`num_layers` cells with a state each; each reads the output of the one below at the same step.

    Arguments and shapes are `FSLSTM`'s, with `hidden_size` for every layer. Dropout acts on x, between layers and
    on the output (`torch.nn.LSTM` drops between layers only). state: a tuple of `LSTMState`, one a layer.
    Parameters: `layers.0.weight_ih`, ...
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        zoneout_h: float = 0.0,
        zoneout_c: float = 0.0,
        layer_norm: bool = True,
        forget_bias: float = 1.0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **unsupported: Any,
    ) -> None:
        reject_unsupported("StackedLSTM", unsupported)
        super().__init__(
            stacked(num_layers),
            input_size,
            hidden_size,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            zoneout_h=zoneout_h,
            zoneout_c=zoneout_c,
            layer_norm=layer_norm,
            forget_bias=forget_bias,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.hidden_size, self.num_layers = hidden_size, num_layers

    def _sizes_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"


class SequentialLSTM(WiredLSTM):
    """`num_cells` cells in sequence share one state; only the first reads x (a deep-transition LSTM).

    An `FSLSTM` without its slow cell; arguments and shapes are the same. state: one `LSTMState(h, c)`.
    Parameters: `cells.0.weight_ih`, ...; `cells.1` onward have no `weight_ih`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_cells: int = 2,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        zoneout_h: float = 0.0,
        zoneout_c: float = 0.0,
        layer_norm: bool = True,
        forget_bias: float = 1.0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **unsupported: Any,
    ) -> None:
        reject_unsupported("SequentialLSTM", unsupported)
        super().__init__(
            sequential(num_cells),
            input_size,
            hidden_size,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            zoneout_h=zoneout_h,
            zoneout_c=zoneout_c,
            layer_norm=layer_norm,
            forget_bias=forget_bias,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.hidden_size, self.num_cells = hidden_size, num_cells

    def _public(self, state: States) -> LSTMState:
        only: LSTMState = state[0]
        return only

    def _slots(self, state: Any) -> Sequence[Any]:
        if not isinstance(state, tuple | list) or len(state) != 2:
            self._bad_state(self._form(), state)
        return (state,)

    def _form(self) -> str:
        return "LSTMState(h, c)"

    def _sizes_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_cells={self.num_cells}"
