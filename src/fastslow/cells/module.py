"""What the modules of cells share: sizes, matrices, forms of input and state, masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastslow.cells.kind import Kind
from fastslow.noise import Noise, draw_key, zoneout_update
from fastslow.state import map_state, state_tensors


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


class CellModule(nn.Module):
    """A cell as a module: `cell(x, state=None) -> state`, x (B, X) or (X,), leaves of state (B, H) or (H,).

    A subclass sets `kind`, makes its parameters and gives them by `weights`.
    """

    kind: Kind
    weight_ih: nn.Parameter | None
    weight_hh: nn.Parameter
    forget_bias = 0.0

    def __init__(
        self, input_size: int | None, hidden_size: int, *, zoneout_h: float = 0.0, zoneout_c: float = 0.0
    ) -> None:
        super().__init__()
        check_size("hidden_size", hidden_size)
        if input_size is not None:
            check_size("input_size", input_size)
        check_rate("zoneout_h", zoneout_h)
        check_rate("zoneout_c", zoneout_c)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.zoneout_h, self.zoneout_c = float(zoneout_h), float(zoneout_c)

    def _add_matrices(self, blocks: int, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """`weight_ih` (blocks H, X), None without input, and `weight_hh` (blocks H, H)."""

        def new(columns: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(blocks * self.hidden_size, columns, device=device, dtype=dtype))

        self.register_parameter("weight_ih", None if self.input_size is None else new(self.input_size))
        self.weight_hh = new(self.hidden_size)

    def weights(self) -> Any:
        """The parameters as engines take them; every subclass defines this."""
        raise NotImplementedError(f"{type(self).__name__} must define weights(): its parameters as `kind.weights`")

    def reset_parameters(self) -> None:
        """Orthogonal matrices, each as a whole (not gate by gate); biases 0; norm gains 1."""
        for name, value in self.named_parameters(recurse=False):
            if name.startswith("weight"):
                orthogonal_(value)
            else:
                nn.init.zeros_(value)
        for module in self.children():
            if isinstance(module, Norm):
                module.reset_parameters()

    def forward(self, x: Tensor | Reading | None, state: Any = None) -> Any:
        if isinstance(x, Reading):
            return x.use()
        self._check_input(x)
        like = x if x is not None else None if state is None else state_tensors(state)[0]
        if like is None:
            form = "h" if self.kind.state is None else "(h, c)"
            raise ValueError(f"a cell without input needs a state: call cell(None, {form})")
        make = self.kind.state
        if state is None:
            zeros = like.new_zeros((*like.shape[:-1], self.hidden_size), dtype=self.weight_hh.dtype)
            state = zeros if make is None else make(*(zeros for _ in self.kind.letters))
        elif make is not None:
            state = make(*state)
        self._check_state(state, like)
        batched = like.dim() == 2
        if not batched:
            state = map_state(lambda leaf: leaf.unsqueeze(0), state)
            x = None if x is None else x.unsqueeze(0)
        update_h, update_c = self._masks(state_tensors(state)[0])
        new = self.kind.step(
            self.weights(),
            x,
            state,
            forget_bias=self.forget_bias,
            zoneout_h=self.zoneout_h,
            zoneout_c=self.zoneout_c,
            update_h=update_h,
            update_c=update_c,
        )
        return new if batched else map_state(lambda leaf: leaf.squeeze(0), new)

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

    def _check_state(self, state: Any, like: Tensor) -> None:
        expected = (*like.shape[:-1], self.hidden_size)
        for letter, part in zip(self.kind.letters, state_tensors(state), strict=True):
            if part.shape != expected:
                name = "h" if self.kind.state is None else f"state.{letter}"
                raise RuntimeError(f"{name} must be {expected}; got {tuple(part.shape)}")

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += [f"{name}={getattr(self, name)}" for name in ("zoneout_h", "zoneout_c") if getattr(self, name)]
        named = dict(self.named_parameters(recurse=False))
        parts += ["bias=False"] * (not any(name.startswith("bias") for name in named))
        parts += ["layer_norm=False"] * (not getattr(self, "layer_norm", True))
        parts += [f"forget_bias={self.forget_bias}"] * (self.kind.forget_bias and self.forget_bias != 1.0)
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
