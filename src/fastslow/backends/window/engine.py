"""A window as one autograd function whose backward is derived by hand, in plain torch operations.

It needs no compiler and runs on CPU and CUDA in float32 and float64. Engines in compiled code follow the same
derivation; this page is what they are read against.

One node, one step
------------------
The letters are those of `fastslow.cells.lstm`; products without a sign are elementwise, `(h, c)` is the state the node
reads and `(h_t, c_t)` the one it writes, `x` its input after dropout. m_h and m_c are the share of the new value that
a unit takes: the zoneout mask (0 or 1) in training, 1 - p in evaluation, and 0 in a row that has stopped.

    z    = W_x x + W_h h + b
    y^q  = gain^q z~^q + shift^q            q = i, f, g, o, with z~^q = (z^q - mean) rstd over the H units of the gate
    i, f, o = sigmoid(y^i), sigmoid(y^f + forget_bias), sigmoid(y^o);   g = tanh(y^g)
    c'   = f c + i g
    n    = gain_c c~' + shift_c             c~' = (c' - mean) rstd;     u = tanh(n)
    h'   = o u
    h_t  = h + m_h (h' - h);    c_t = c + m_c (c' - c)

Backward, given dh_t and dc_t:

    dn   = dh_t m_h o (1 - u^2)
    dc'  = dc_t m_c + LN'(dn gain_c)
    dy^i = dc' g i (1 - i);   dy^f = dc' c f (1 - f);   dy^g = dc' i (1 - g^2);   dy^o = dh_t m_h u o (1 - o)
    dz^q = LN'(dy^q gain^q)
    dc   = dc_t (1 - m_c) + dc' f
    dh   = dh_t (1 - m_h) + W_h^T dz
    dx   = W_x^T dz

    LN'(v) = rstd (v - mean(v) - a~ mean(v a~)),   a~ the normalised value, means over the H units

and, summed over steps and rows, with no part in the chain above:

    dW_x = dz x^T;   dW_h = dz h^T;   db = dz
    dgain = dy z~;   dshift = dy;     dgain_c = dn c~';   dshift_c = dn

Without norms y = z, n = c', and LN' is the identity.

The wiring
----------
`dh[slot], dc[slot]` hold the gradient of the state a slot has between two nodes. Steps and nodes are walked backwards;
a node takes its slot's pair as (dh_t, dc_t), after the gradients of the other uses of its h_t have been added - the
output's, and those of the nodes that read it - and leaves (dh, dc) for the node before it in the slot. A reader's dx
times its dropout goes to the node it read: into dh[slot] at once, where that node is the next one in its slot to be
walked, else into a sum that waits for it.

A row that starts anew at a step has its slots' states overwritten with zeros before it, and on the way back the
gradients of those states after it. What the last node of a slot wrote is then kept once more, where the output or
another node reads it.

How it is laid out
------------------
Forward saves z, h_t and c_t of every node and step, 6 H numbers; everything else is a few elementwise operations away.
With `recompute` only h_t and c_t are saved, and z is rebuilt from them, a large product for many steps at a time, as
no step then waits for another. Two lengths of steps rule both directions:

    span    96 to 2,048 rows: products that need not wait - W_x x of nodes that read the network's x, and all of
            dW_x, dW_h and the gradient of x - are made once a span
    block   what fits the cache: masks, and in backward the factors of dn and dy, are formed once a block

so that a step itself is the serial chain alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastslow.backends.base import Problem, Rates, States
from fastslow.backends.once import once
from fastslow.backends.window.backward import backward
from fastslow.backends.window.forward import forward
from fastslow.backends.window.masks import Masks
from fastslow.backends.window.plan import BLOCK_NUMBERS, Saved, Window, plan
from fastslow.cells.lstm import CellWeights
from fastslow.noise import Noise
from fastslow.state import LSTMState
from fastslow.wiring import Wiring

NAME = "window"


def refusal(problem: Problem) -> str | None:
    if problem.traced:
        return "torch.compile, torch.export and torch.func cannot look inside it"
    if forward_ad._current_level >= 0:
        return "it has no forward-mode derivative"
    if problem.device.type not in BLOCK_NUMBERS:
        return f"it runs on cpu and cuda, not on {problem.device.type}"
    if problem.autocast is not None:
        return f"it computes in the type of the weights, and autocast asks for products in {problem.autocast}"
    if problem.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, not in {problem.dtype}"
    return None


def run(
    wiring: Wiring,
    weights: Sequence[CellWeights],
    x: Tensor,
    state: States,
    noise: Noise | None,
    rates: Rates,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    *,
    recompute: bool = False,
) -> tuple[Tensor, States]:
    """As `fastslow.backends.base` says.

    recompute: save 2 H numbers a node and step instead of 6 H, and make every product of forward again in backward.
    """
    running = None
    if lengths is not None:
        running = (torch.arange(x.shape[0]).unsqueeze(1) < lengths).unsqueeze(-1).to(x.device)
        x = x.masked_fill(~running, 0)  # whatever the padding holds meets factors of 0, which would keep a NaN
    if resets is not None:
        resets = resets.unsqueeze(-1) if running is None else resets.unsqueeze(-1) & running
    masks = Masks(wiring, weights, x, noise, rates, running)
    window = Window(plan(wiring), masks, rates.forget_bias, recompute, resets)
    leaves = [x, *(part for pair in state for part in pair), *(p for cell in weights for p in cell)]
    if torch.is_grad_enabled() and any(leaf is not None and leaf.requires_grad for leaf in leaves):
        y, *finals = cast("Any", _Function).apply(window, *leaves)
        return y, tuple(LSTMState(h, c) for h, c in zip(finals[::2], finals[1::2], strict=True))
    with torch.no_grad():
        y, new, _ = forward(window, tuple(weights), x, state, save=False)
    return y, new


class _Function(torch.autograd.Function):
    """Leaves: x, then h and c of each slot, then the fields of each node's CellWeights; so are the gradients."""

    @staticmethod
    def forward(ctx: Any, window: Window, *leaves: Tensor | None) -> tuple[Tensor, ...]:
        x, state, weights = window.sorted(leaves)
        y, finals, saved = forward(window, weights, x, state, save=True)
        ctx.window = window
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(saved.x, *(p for cell in weights for p in cell), *saved.tensors())
        return (y, *(part for pair in finals for part in pair))

    @staticmethod
    @once(NAME)
    def backward(ctx: Any, dy: Tensor | None, *dfinals: Tensor | None) -> tuple[Tensor | None, ...]:
        window: Window = ctx.window
        saved = Saved.of(window, ctx.saved_tensors)
        return (None, *backward(window, saved, dy, dfinals, ctx.needs_input_grad[1:]))
