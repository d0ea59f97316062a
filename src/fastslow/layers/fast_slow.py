"""`FSLSTM`: the paper's network as a layer."""

from __future__ import annotations

from typing import Unpack

from fastslow.cells.lstm import LSTM
from fastslow.layers.forms import FastSlow
from fastslow.layers.options import LSTMOptions, spelled_out
from fastslow.layers.wired import WiredRNN


class FSLSTM(FastSlow):
    """Fast-Slow LSTM (Mujika, Meier, Steger 2017): `num_fast` fast cells in sequence share one state; one slow cell
    sits between the first and the second.

        h^F1_t = f^F1(h^Fk_{t-1}, x_t)
        h^S_t  = f^S (h^S_{t-1},  h^F1_t)
        h^F2_t = f^F2(h^F1_t,     h^S_t)
        h^Fi_t = f^Fi(h^F(i-1)_t)             3 <= i <= k
        y_t    = h^Fk_t

    A drop-in for `torch.nn.LSTM`: it follows its conventions on ranks, defaults and errors.

    Args:
        input_size: X.
        hidden_size: the size of the fast state and of the output, H.
        slow_size: the size of the slow state, default `hidden_size`.
        num_fast: k >= 2, the number of fast cells a step.
        bias, batch_first, layer_norm, forget_bias, backend: as in `WiredLSTM`.
        dropout: probability of dropping a unit at the paper's four sites: x -> F1, F1 -> S, S -> F2 and the output.
        zoneout_h, zoneout_c: probability that a unit of h, of c, keeps its old value; for F2..Fk the old value is
            the state of the previous fast cell in the same step.

    Shape: `y, state = layer(x, state=None, *, lengths=None, resets=None)`, x (T, B, X), (B, T, X) with `batch_first`,
    (T, X) unbatched or a PackedSequence; y likewise with H; state `FSState(fast=LSTMState(h, c),
    slow=LSTMState(h, c))`, leaves (B, H) and (B, slow_size), without B if unbatched.

    Parameters: `fast.0.weight_ih` (4H, X), `.weight_hh` (4H, H), `.bias` (4H), `.gate_norm.weight` and `.bias` (4H),
    `.cell_norm.weight` and `.bias` (H); `slow.*` the same; `fast.2` onward have no `weight_ih`.
    """

    kind = LSTM

    @spelled_out(LSTMOptions, WiredRNN.__init__)
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        slow_size: int | None = None,
        num_fast: int = 2,
        **options: Unpack[LSTMOptions],
    ) -> None:
        super().__init__(input_size, hidden_size, slow_size, num_fast, options)
