"""The paper's network and its two baselines with gated recurrent units: the wirings of the LSTM layers, other cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.base import States
from fastslow.layers.wired import WiredRNN, reject_unsupported
from fastslow.state import FSState
from fastslow.wiring import Wiring, fast_slow, sequential, stacked


class _WiredGRU(WiredRNN):
    """A wiring of `LayerNormGRUCell`."""

    def __init__(
        self,
        wiring: Wiring,
        input_size: int,
        hidden_sizes: dict[str, int] | int,
        unsupported: dict[str, Any],
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        zoneout_h: float = 0.0,
        layer_norm: bool = True,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        reject_unsupported(type(self).__name__, unsupported)
        super().__init__(
            wiring,
            input_size,
            hidden_sizes,
            cell="gru",
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            zoneout_h=zoneout_h,
            layer_norm=layer_norm,
            backend=backend,
            device=device,
            dtype=dtype,
        )


class FSGRU(_WiredGRU):
    """Fast-Slow GRU: `FSLSTM` with gated recurrent units (`LayerNormGRUCell`) for cells.

    Args: as `FSLSTM`, without `zoneout_c` and `forget_bias`. With `layer_norm=False` the cells are
    `torch.nn.GRUCell`'s.

    Shape: as `FSLSTM`; state `FSState(fast=h, slow=h)`, (B, H) and (B, slow_size), without B if unbatched.

    Parameters: `fast.0.weight_ih` (3H, X), `.weight_hh` (3H, H), `.bias_ih` and `.bias_hh` (3H), `.gate_norm.weight`
    and `.bias` (4H); `slow.*` the same; `fast.2` onward have no `weight_ih`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        slow_size: int | None = None,
        num_fast: int = 2,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        zoneout_h: float = 0.0,
        layer_norm: bool = True,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **unsupported: Any,
    ) -> None:
        slow_size = hidden_size if slow_size is None else slow_size
        super().__init__(
            fast_slow(num_fast),
            input_size,
            {"fast": hidden_size, "slow": slow_size},
            unsupported,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            zoneout_h=zoneout_h,
            layer_norm=layer_norm,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.hidden_size, self.slow_size, self.num_fast = hidden_size, slow_size, num_fast

    def _public(self, state: States) -> FSState:
        return FSState(*state)

    def _slots(self, state: Any) -> Sequence[Any]:
        if not isinstance(state, tuple | list) or len(state) != 2:
            self._bad_state(self._form(), state)
        return state

    def _form(self) -> str:
        return "FSState(fast=h, slow=h)"

    def _sizes_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, slow_size={self.slow_size}, num_fast={self.num_fast}"


class StackedGRU(_WiredGRU):
    """`StackedLSTM` with gated recurrent units (`LayerNormGRUCell`); state: a tuple of h (B, H), one a layer."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None:
        known, unsupported = _sorted(options)
        super().__init__(stacked(num_layers), input_size, hidden_size, unsupported, **known)
        self.hidden_size, self.num_layers = hidden_size, num_layers

    def _sizes_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"


class SequentialGRU(_WiredGRU):
    """`SequentialLSTM` with gated recurrent units (`LayerNormGRUCell`); state: h (B, H)."""

    def __init__(self, input_size: int, hidden_size: int, num_cells: int = 2, **options: Any) -> None:
        known, unsupported = _sorted(options)
        super().__init__(sequential(num_cells), input_size, hidden_size, unsupported, **known)
        self.hidden_size, self.num_cells = hidden_size, num_cells

    def _public(self, state: States) -> Tensor:
        h: Tensor = state[0]
        return h

    def _slots(self, state: Any) -> Sequence[Any]:
        if not isinstance(state, Tensor):
            self._bad_state(self._form(), state)
        return (state,)

    def _form(self) -> str:
        return "a tensor h"

    def _sizes_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_cells={self.num_cells}"


_OPTIONS = ("bias", "batch_first", "dropout", "zoneout_h", "layer_norm", "backend", "device", "dtype")


def _sorted(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a GRU layer, and others."""
    known = {name: value for name, value in options.items() if name in _OPTIONS}
    return known, {name: value for name, value in options.items() if name not in _OPTIONS}
