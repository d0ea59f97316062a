"""A window as one autograd function with a hand-derived backward pass, in plain torch operations.

It needs no compiler and runs on CPU and CUDA in float32 and float64. The compiled engines follow the same derivation,
which is written down here.

One node, one step
------------------
The letters are those of `fastslow.cells.lstm`. Products without a sign are elementwise. `(h, c)` is the state that the
node reads, `(h_t, c_t)` the state that it writes, and `x` its input after dropout. m_h and m_c are the share of the new
value that a unit takes: the zoneout mask (0 or 1) in training, 1 - p in evaluation, and 0 in a row that has ended.

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

    LN'(v) = rstd (v - mean(v) - a~ mean(v a~)),   with a~ the normalised value and means over the H units

and, summed over steps and rows, outside the chain above:

    dW_x = dz x^T;   dW_h = dz h^T;   db = dz
    dgain = dy z~;   dshift = dy;     dgain_c = dn c~';   dshift_c = dn

Without norms y = z, n = c', and LN' is the identity.

The wiring
----------
`dh[slot], dc[slot]` hold the gradient of a slot's state between two nodes. Steps and nodes are traversed backwards. The
gradients of the other uses of a node's h_t (the output's, and those of the nodes that read it) are added first; then
the node takes its slot's pair as (dh_t, dc_t) and leaves (dh, dc) for the previous node of the slot. A reader's dx
times its dropout mask goes to the node that it read: directly into dh[slot] if that node is the next of its slot in the
traversal, else into a separate sum.

Before a step at which a row is reset, its slots' states are overwritten with zeros; in the backward pass the gradients
of those states are set to zero after the step. The value that the last node of a slot wrote is then also stored
separately if the output or another node reads it.

Memory layout
-------------
Forward saves z, h_t and c_t of every node and step, 6 H elements; everything else follows from them by a few
elementwise operations. With `recompute` only h_t and c_t are saved, and z is recomputed from them by one large product
for many steps at a time, since the steps no longer depend on each other. Two block lengths are used in both directions:

    span    96 to 2,048 rows: products outside the recurrence (W_x x of nodes that read the network's x, and all of
            dW_x, dW_h and the gradient of x) are computed once per span
    block   what fits in the cache: masks, and in backward the factors of dn and dy, are computed once per block

so that a step contains only the serial recurrence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.base import Option, Problem, Rates, States
from fastslow.backends.flat import flat_states
from fastslow.backends.operators import run as run_operator
from fastslow.backends.program import Request
from fastslow.backends.window.backward import backward as backward_pass
from fastslow.backends.window.forward import forward as forward_pass
from fastslow.backends.window.masks import Masks
from fastslow.backends.window.plan import BLOCK_NUMBERS, Plan, Saved, Window, plan
from fastslow.noise import Noise
from fastslow.wiring import Wiring

NAME = "window"


def refusal(problem: Problem) -> str | None:
    if problem.device.type not in BLOCK_NUMBERS:
        return f"it runs on cpu and cuda, not on {problem.device.type}"
    if problem.autocast is not None:
        return f"it computes in the dtype of the weights, and autocast requests products in {problem.autocast}"
    if problem.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, not in {problem.dtype}"
    return None


def options(device: str = "cpu", *, recompute: bool = False) -> tuple[tuple[str, Option], ...]:
    """The options of a window; see `run`."""
    return (("recompute", recompute),)


def run(
    wiring: Wiring,
    weights: Sequence[Any],
    x: Tensor,
    state: States,
    noise: Noise | None,
    rates: Rates,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    *,
    recompute: bool = False,
) -> tuple[Tensor, States]:
    """See `fastslow.backends.base`.

    recompute: save 2 H elements per node and step instead of 6 H, and recompute every product in backward.
    """
    chosen = options(recompute=recompute)
    return run_operator(NAME, chosen, weights, x, state, noise, rates, wiring, lengths, resets)


# ---------------------------------------------------------------------- the operators' kernels


def _window(request: Request) -> tuple[Window, Tensor]:
    """The window, and x with its padding masked."""
    x, lengths, running = request.x.contiguous(), request.lengths, None
    if lengths is not None:
        running = (torch.arange(x.shape[0], device="cpu").unsqueeze(1) < lengths.cpu()).unsqueeze(-1).to(x.device)
        x = x.masked_fill(~running, 0)  # the padding is later multiplied by 0, which would not remove a NaN
    resets = None if request.resets is None else request.resets.unsqueeze(-1)
    if resets is not None and running is not None:
        resets = resets & running
    masks = Masks(request.wiring, request.weights, x, request.noise, request.rates, running)
    recompute = bool(request.program.options["recompute"])
    return Window(plan(request.wiring), masks, request.rates.forget_bias, recompute, resets), x


def forward(request: Request, keep: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    window, x = _window(request)
    assert request.states is not None
    y, final, saved = forward_pass(window, request.weights, x, request.states, save=keep)
    return y, flat_states(final), list(saved.tensors()) if keep else []


def memory(request: Request) -> list[tuple[tuple[int, ...], torch.dtype]]:
    order: Plan = plan(request.wiring)
    steps, rows, _ = request.x.shape
    kinds = request.program.flat.nodes
    h = [(steps + (n in order.last), rows, size) for n, size in enumerate(request.hidden)]
    c = [
        (length, rows, size if "c" in kind.letters else 0) for (length, rows, size), kind in zip(h, kinds, strict=True)
    ]
    again = order.emitted if request.resets is not None else ()
    emitted = [(steps, rows, request.hidden[n]) for n in again]
    gates: list[tuple[int, ...]] = []
    if not request.program.options["recompute"]:
        gates = [(steps, rows, kind.blocks, size) for kind, size in zip(kinds, request.hidden, strict=True)]
    return [(shape, request.x.dtype) for shape in (*h, *c, *emitted, *gates)]


def backward(
    request: Request,
    memory: Sequence[Tensor],
    d_y: Tensor | None,
    d_final: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor]:
    window, x = _window(request)
    saved = Saved.of(window, x, request.weights, memory)
    leaves = 1 + len(d_final)
    given = iter(needs[leaves:])
    fields = [field is not None and next(given) for node in request.weights for field in node]
    found = backward_pass(window, saved, d_y, d_final, [*needs[:leaves], *fields])
    every = zip(
        [*needs[:leaves], *fields], found, (x, *d_final, *(f for node in request.weights for f in node)), strict=True
    )
    return [_given(grad, like) for need, grad, like in every if need]


def _given(gradient: Tensor | None, like: Tensor | None) -> Tensor:
    """The gradient, or zeros for the input matrix of a node without input."""
    if gradient is None:
        assert like is not None
        return torch.zeros_like(like)
    return gradient
