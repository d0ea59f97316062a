"""What torch's cells without norms share: the parameters of both matrices and their biases, and the sums they make."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class TwoBiases(NamedTuple):
    """w_x (nH, X), w_h (nH, H), bias_x and bias_h (nH) of n blocks. None: the cell has no such parameter."""

    w_x: Tensor | None
    w_h: Tensor
    bias_x: Tensor | None
    bias_h: Tensor | None

    @property
    def hidden_size(self) -> int:
        return self.w_h.shape[1]

    @property
    def layer_norm(self) -> bool:
        return False

    def sums(self, x: Tensor | None, h: Tensor, dtype: torch.dtype) -> Tensor:
        """z = W_x x + b_x + W_h h + b_h (B, nH), of this type whatever that of the products (autocast)."""
        z = F.linear(h, self.w_h)
        if x is not None and self.w_x is not None:
            z = z + F.linear(x, self.w_x)
        z = z.to(dtype)
        for bias in (self.bias_x, self.bias_h):
            z = z if bias is None else z + bias
        return z
