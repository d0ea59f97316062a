"""Gradients that can be differentiated: the loop's.

The backward passes of the engines are written by hand and have no derivative of their own. Where a graph of the
gradient is asked for (`create_graph=True`: penalties on gradients, Hessians), the gradient is the reference loop's,
which autograd can follow as far as anybody likes.
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
        # A view of each, so that a tensor that stands in several places has a gradient for each of them.
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
