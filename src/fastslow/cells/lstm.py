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

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastslow.noise import Noise, draw_key, zoneout_update
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


def zoneout(new: Tensor, old: Tensor, update: Tensor | None, rate: float) -> Tensor:
    """`new` where the bool mask `update` says so, else `old`; with no mask, the expectation."""
    if rate == 0.0:
        return new
    if update is None:
        return (1.0 - rate) * new + rate * old
    return torch.where(update, new, old)


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


class Reading:
    """Given to a module for x, it makes the module's call a time to read its weights: see `fastslow.layers.reading`."""

    def __init__(self, use: Callable[[], Any]) -> None:
        self.use = use


class Norm(nn.Module):
    """Gain and bias of a layer norm over `size` units; the cell applies them."""

    def __init__(self, size: int, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(size, device=device, dtype=dtype))

    def forward(self, reading: Reading) -> Any:
        return reading.use()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)


class LayerNormLSTMCell(nn.Module):
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

    weight_ih: nn.Parameter | None
    bias: nn.Parameter | None
    gate_norm: Norm | None
    cell_norm: Norm | None

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
        super().__init__()
        check_size("hidden_size", hidden_size)
        if input_size is not None:
            check_size("input_size", input_size)
        check_rate("zoneout_h", zoneout_h)
        check_rate("zoneout_c", zoneout_c)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.zoneout_h, self.zoneout_c = float(zoneout_h), float(zoneout_c)
        self.layer_norm, self.forget_bias = layer_norm, float(forget_bias)

        def new(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        gates = 4 * hidden_size
        if input_size is None:
            self.register_parameter("weight_ih", None)
        else:
            self.weight_ih = new(gates, input_size)
        self.weight_hh = new(gates, hidden_size)
        if bias:
            self.bias = new(gates)
        else:
            self.register_parameter("bias", None)
        self.gate_norm = Norm(gates, device, dtype) if layer_norm else None
        self.cell_norm = Norm(hidden_size, device, dtype) if layer_norm else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Orthogonal matrices, each as a whole (not gate by gate); biases 0; norm gains 1."""
        for weight in (self.weight_ih, self.weight_hh):
            if weight is not None:
                orthogonal_(weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        for norm in (self.gate_norm, self.cell_norm):
            if norm is not None:
                norm.reset_parameters()

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

    def forward(self, x: Tensor | Reading | None, state: tuple[Tensor, Tensor] | None = None) -> LSTMState:
        if isinstance(x, Reading):
            return cast("LSTMState", x.use())
        self._check_input(x)
        like = x if x is not None else None if state is None else next(iter(state))
        if like is None:
            raise ValueError("a cell without input needs a state: call cell(None, (h, c))")
        if state is None:
            zeros = like.new_zeros((*like.shape[:-1], self.hidden_size), dtype=self.weight_hh.dtype)
            state = (zeros, zeros)
        self._check_state(state, like)
        batched = like.dim() == 2
        h, c = (part if batched else part.unsqueeze(0) for part in state)
        if x is not None and not batched:
            x = x.unsqueeze(0)
        update_h, update_c = self._masks(h)
        new = lstm_step(
            self.weights(),
            x,
            LSTMState(h, c),
            forget_bias=self.forget_bias,
            zoneout_h=self.zoneout_h,
            zoneout_c=self.zoneout_c,
            update_h=update_h,
            update_c=update_c,
        )
        return new if batched else LSTMState(new.h.squeeze(0), new.c.squeeze(0))

    def _masks(self, h: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if not self.training or self.zoneout_h == self.zoneout_c == 0.0:
            return None, None
        noise = Noise(draw_key(h.device))
        masks = zoneout_update(noise, 1, 1, h.shape[0], self.hidden_size, self.zoneout_h, self.zoneout_c)
        return masks[0][0], masks[1][0]

    def _check_input(self, x: Tensor | None) -> None:
        if self.input_size is None:
            if x is not None:
                raise RuntimeError("this cell was made with input_size=None and takes no input: call cell(None, state)")
            return
        if x is None:
            raise RuntimeError(f"this cell needs an input of size {self.input_size}; got None")
        if x.dim() not in (1, 2):
            raise ValueError(f"x must be (B, {self.input_size}) or ({self.input_size},); got {x.dim()} dimensions")
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"x must be (B, {self.input_size}); got {tuple(x.shape)}: input_size is {self.input_size}"
            )

    def _check_state(self, state: tuple[Tensor, Tensor], like: Tensor) -> None:
        for name, part in zip("hc", state, strict=True):
            if part.shape != (*like.shape[:-1], self.hidden_size):
                raise RuntimeError(
                    f"state.{name} must be {(*like.shape[:-1], self.hidden_size)}; got {tuple(part.shape)}"
                )

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += [f"{name}={getattr(self, name)}" for name in ("zoneout_h", "zoneout_c") if getattr(self, name)]
        parts += ["bias=False"] * (self.bias is None) + ["layer_norm=False"] * (not self.layer_norm)
        parts += [f"forget_bias={self.forget_bias}"] * (self.forget_bias != 1.0)
        return ", ".join(parts)


def orthogonal_(weight: Tensor) -> None:
    """Orthogonal initialisation of a whole matrix, in float32 where the weight's own type has no QR decomposition."""
    if weight.dtype in (torch.float32, torch.float64) or weight.is_meta:
        nn.init.orthogonal_(weight)
    else:
        with torch.no_grad():
            weight.copy_(nn.init.orthogonal_(torch.empty_like(weight, dtype=torch.float32)))


def check_size(name: str, value: int) -> None:
    """TypeError or ValueError unless `value` is a positive int, as `torch.nn.LSTM` raises them."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
    if value <= 0:
        raise ValueError(f"{name} must be greater than zero; got {value}")


def check_rate(name: str, value: float) -> None:
    """ValueError unless `value` is a probability."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(
            f"{name} should be a number in range [0, 1], the probability of dropping a unit; got {value!r}"
        )
