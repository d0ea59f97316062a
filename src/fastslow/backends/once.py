"""Backward passes written by hand have no derivative of their own: to ask for one is an error, not a wrong number."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

Backward = Callable[..., tuple[Any, ...]]


def once(backend: str) -> Callable[[Backward], Backward]:
    """For the `backward` of an autograd function: its gradients cannot be differentiated; the error names `backend`.

    torch's `once_differentiable` lets gradients of a constant output gradient pass for constants, which they are not.
    """

    def of(backward: Backward) -> Backward:
        @functools.wraps(backward)
        def run(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
            with torch.no_grad():
                found = backward(ctx, *grads)
            if not torch.is_grad_enabled():
                return found
            guard = torch.zeros((), requires_grad=True)  # create_graph=True
            return tuple(None if one is None else cast("Any", _Once).apply(one, guard, backend) for one in found)

        return run

    return of


class _Once(torch.autograd.Function):
    """A gradient as it is; to differentiate it is an error."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, guard: Tensor, backend: str) -> Tensor:
        ctx.backend = backend
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(f"backend {ctx.backend!r} has no second derivative; backend='reference' has one")
