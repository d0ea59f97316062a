"""Clipping by global norm, without overflow."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Scale the gradients down to a global norm of `limit` if it is larger (0: never); returns the norm before.

    Like `torch.nn.utils.clip_grad_norm_`, but the norm is computed in float64, (), without synchronising with a GPU. An
    untrained deep transition is chaotic: with five sequential cells and 100 steps its gradient has a norm of 1e31,
    which is finite in float32 while its square is not. Scaled down, it is a normal update, and after a hundred updates
    the norms are normal.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), dtype=torch.float64)
    norm: Tensor = torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float64)).norm()
    if limit > 0:
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))
    return norm
