"""Clipping by global norm, without overflow."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Scale the gradients down to a global norm of `limit` where it is longer (0: never); the norm before.

    As `torch.nn.utils.clip_grad_norm_`, but the norm is taken in float64, (), and nothing waits for a GPU. An untrained
    deep transition is chaotic: with five cells in sequence and 100 steps its gradient has a norm of 1e31, finite in
    float32 while its square is not. Scaled down it is an update like others, and after a hundred of them norms are
    ordinary.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), dtype=torch.float64)
    norm: Tensor = torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float64)).norm()
    if limit > 0:
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))
    return norm
