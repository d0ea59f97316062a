"""Differentiable gradients, computed by the reference loop.

The backward passes of the engines are written by hand and are not differentiable themselves. When a graph of the
gradient is requested (`create_graph=True`, as for gradient penalties and Hessians), the gradient is computed by the
reference loop, which autograd can differentiate to any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastslow.backends import reference
from fastslow.backends.flat import flat_states
from fastslow.backends.program import Request


def reference_gradients(
    request: Request,
    inputs: Sequence[Tensor],
    d_y: Tensor | None,
    d_final: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of `inputs`, None where `needs` is false; inputs: x, the states' leaves, the parameters."""
    with torch.enable_grad():
        # A view of each, so that a tensor passed more than once gets a gradient for each place.
        views = [value.view_as(value) for value in inputs]
        program = request.program
        count = program.flat.leaves
        y, final = reference.run(
            request.wiring,
            program.weights(views[1 + count :]),
            views[0],
            program.flat.states(views[1 : 1 + count]),
            request.noise,
            request.rates,
            request.lengths,
            request.resets,
        )
        arrived = [(out, d) for out, d in zip((y, *flat_states(final)), (d_y, *d_final), strict=True) if d is not None]
        wanted = [view for view, need in zip(views, needs, strict=True) if need]
        outputs = [(out, d) for out, d in arrived if out.requires_grad]
        if not outputs or not wanted:
            return [None] * len(needs)
        found = iter(
            torch.autograd.grad(
                [out for out, _ in outputs], wanted, [d for _, d in outputs], create_graph=True, allow_unused=True
            )
        )
        return [next(found) if need else None for need in needs]
