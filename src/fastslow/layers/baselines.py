"""The paper's two baselines: the same cell in other wirings."""

from __future__ import annotations

from typing import Unpack

from fastslow.cells.lstm import LSTM
from fastslow.layers.forms import Sequential, Stacked
from fastslow.layers.options import LSTMOptions, spelled_out
from fastslow.layers.wired import WiredRNN


class StackedLSTM(Stacked):
    """`num_layers` cells with a state each; each reads the output of the one below at the same step.

    Arguments and shapes are `FSLSTM`'s, with `hidden_size` for every layer. Dropout acts on x, between layers and
    on the output (`torch.nn.LSTM` drops between layers only). state: a tuple of `LSTMState`, one per layer.
    Parameters: `layers.0.weight_ih`, ...
    """

    kind = LSTM

    @spelled_out(LSTMOptions, WiredRNN.__init__)
    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Unpack[LSTMOptions]) -> None:
        super().__init__(input_size, hidden_size, num_layers, options)


class SequentialLSTM(Sequential):
    """`num_cells` cells in sequence share one state; only the first reads x (a deep-transition LSTM).

    An `FSLSTM` without its slow cell; arguments and shapes are the same. state: one `LSTMState(h, c)`.
    Parameters: `cells.0.weight_ih`, ...; `cells.1` onward have no `weight_ih`.
    """

    kind = LSTM

    @spelled_out(LSTMOptions, WiredRNN.__init__)
    def __init__(self, input_size: int, hidden_size: int, num_cells: int = 2, **options: Unpack[LSTMOptions]) -> None:
        super().__init__(input_size, hidden_size, num_cells, options)
