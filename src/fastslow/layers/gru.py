"""The paper's network and its two baselines with gated recurrent units: the wirings of the LSTM layers, other cells."""

from __future__ import annotations

from typing import Unpack

from fastslow.cells.gru import GRU
from fastslow.layers.forms import FastSlow, Sequential, Stacked
from fastslow.layers.options import GRUOptions, spelled_out
from fastslow.layers.wired import WiredRNN


class FSGRU(FastSlow):
    """Fast-Slow GRU: `FSLSTM` with gated recurrent units (`LayerNormGRUCell`) for cells.

    Args: as `FSLSTM`, without `zoneout_c` and `forget_bias`. With `layer_norm=False` the cells are
    `torch.nn.GRUCell`'s.

    Shape: as `FSLSTM`; state `FSState(fast=h, slow=h)`, (B, H) and (B, slow_size), without B if unbatched.

    Parameters: `fast.0.weight_ih` (3H, X), `.weight_hh` (3H, H), `.bias_ih` and `.bias_hh` (3H), `.gate_norm.weight`
    and `.bias` (4H); `slow.*` the same; `fast.2` onward have no `weight_ih`.
    """

    kind = GRU

    @spelled_out(GRUOptions, WiredRNN.__init__)
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        slow_size: int | None = None,
        num_fast: int = 2,
        **options: Unpack[GRUOptions],
    ) -> None:
        super().__init__(input_size, hidden_size, slow_size, num_fast, options)


class StackedGRU(Stacked):
    """`StackedLSTM` with gated recurrent units (`LayerNormGRUCell`); state: a tuple of h (B, H), one per layer."""

    kind = GRU

    @spelled_out(GRUOptions, WiredRNN.__init__)
    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Unpack[GRUOptions]) -> None:
        super().__init__(input_size, hidden_size, num_layers, options)


class SequentialGRU(Sequential):
    """`SequentialLSTM` with gated recurrent units (`LayerNormGRUCell`); state: h (B, H)."""

    kind = GRU

    @spelled_out(GRUOptions, WiredRNN.__init__)
    def __init__(self, input_size: int, hidden_size: int, num_cells: int = 2, **options: Unpack[GRUOptions]) -> None:
        super().__init__(input_size, hidden_size, num_cells, options)
