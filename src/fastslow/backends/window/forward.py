"""The forward loop of the window engine; the equations and the layout are in `fastslow.backends.window.engine`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.window.cells import CELLS
from fastslow.backends.window.masks import Share
from fastslow.backends.window.node import Node
from fastslow.backends.window.plan import History, Saved, States, Window, block_steps, ranges, span_steps
from fastslow.backends.window.workspace import Workspace, workspace
from fastslow.state import state_tensors
from fastslow.wiring import FROM_INPUT

FEW_STEPS = 8
"""Below this many steps the matrices are not transposed first, which would cost more than it saves."""


def forward(
    window: Window, weights: tuple[Any, ...], x: Tensor, state: States, *, save: bool
) -> tuple[Tensor, States, Saved]:
    """y (T, B, H of the output), the states after the window, and the tensors for backward if `save`."""
    with workspace(window.kind(weights, x), x.dtype, x.device) as room:
        return _forward(window, weights, x.contiguous(), state, save, room)


def _forward(
    window: Window, weights: tuple[Any, ...], x: Tensor, state: States, save: bool, room: Workspace
) -> tuple[Tensor, States, Saved]:
    plan, masks, wiring = window.plan, window.masks, window.plan.wiring
    steps, rows, _ = x.shape
    nodes = [Node(w, window.forget_bias, transpose=steps >= FEW_STEPS) for w in weights]
    cells = [CELLS[node.kind.code].Forward(node, room, n, rows) for n, node in enumerate(nodes)]
    read = [None if node.w_x is None else room.take(("x", n), rows, node.w_x.shape[0]) for n, node in enumerate(nodes)]
    block = block_steps(steps, rows, [node.size for node in nodes], x.device.type)
    span = span_steps(steps, rows, block)
    save_z = save and not window.recompute

    def new(name: str, n: int, kept: int | None, *shape: int) -> Tensor:
        """A new tensor for `kept` steps that outlives this call, or workspace memory for one span."""
        return x.new_empty(kept, rows, *shape) if kept is not None else room.take((name, n), span + 1, rows, *shape)

    # The states that nodes wrote. Without `save` only one span is stored, and the state is copied to its front for the
    # next. z has one entry per step if it is saved, else one per span if the input's products are computed ahead, else
    # 1.
    h, c, z = [], [], []
    for n, node in enumerate(nodes):
        kept = steps + (n in plan.last) if save else None
        h.append(new("h", n, kept, node.size))
        c.append(new("c", n, kept, node.size if "c" in node.kind.letters else 0))
        ahead = plan.source[n] == FROM_INPUT
        z.append(
            new("z", n, steps, node.blocks, node.size)
            if save_z
            else room.take(("z", n), span if ahead else 1, rows, node.blocks, node.size)
        )
    for last, given in zip(plan.last, state, strict=True):
        for held, leaf in zip((h[last], c[last]), state_tensors(given), strict=False):
            held[0] = leaf
    hs, cs = History.of(plan, h), History.of(plan, c)
    emitted = {n: new("emitted", n, steps if save else None, nodes[n].size) for n in window.emitted}
    firsts = [n for n in plan.nodes if plan.before[n] is None]
    y = x.new_empty(steps, rows, nodes[plan.output].size)

    for s0, s1 in ranges(0, steps, span):
        for n, node in enumerate(nodes):
            if plan.source[n] == FROM_INPUT and node.w_x is not None:
                factor = masks.dropout(wiring.input_site(n), s0, s1, room)
                value = x[s0:s1] if factor is None else factor.mul_(x[s0:s1])
                into = z[n][s0:s1] if save_z else z[n][: s1 - s0]
                node.affine(into.view(-1, node.blocks * node.size), value.view(-1, x.shape[2]), None)
        first = s0 if save else 0
        for t0, t1 in ranges(s0, s1, block):
            k = t1 - t0
            at = slice(t0 - s0 + first, t1 - s0 + first)
            views = []
            for n in plan.nodes:
                zs = (
                    z[n][t0:t1]
                    if save_z
                    else z[n][t0 - s0 : t1 - s0]
                    if plan.source[n] == FROM_INPUT
                    else z[n].expand(k, -1, -1, -1)
                )
                z4 = zs.unbind(0)
                share_h, share_c = masks.zoneout(wiring.zoneout_site(n), t0, t1, room)
                factor = masks.dropout(wiring.input_site(n), t0, t1, room) if plan.source[n] >= 0 else None
                parts = (
                    z4,
                    [step.flatten(1) for step in z4],
                    each_step(factor, k),
                    hs.read[n][at].unbind(0),
                    cs.read[n][at].unbind(0),
                    each_step(share_h, k),
                    each_step(share_c, k),
                    hs.out[n][at].unbind(0),
                    cs.out[n][at].unbind(0),
                )
                views.append(list(zip(*parts, strict=True)))
            copies = {n: kept[at].unbind(0) for n, kept in emitted.items()}
            for t, (row_resets, *now) in enumerate(zip(window.row_resets(t0, t1), *views, strict=True)):
                if row_resets is not None:
                    for n in firsts:
                        for state_read in now[n][3:5]:
                            state_read.masked_fill_(row_resets, 0)
                for n, node in enumerate(nodes):
                    z4, z2, factor, h_read, c_read, share_h, share_c, h_out, c_out = now[n]
                    source = plan.source[n]
                    if source == FROM_INPUT:
                        node.add_h(z2, h_read)
                    else:
                        reads = None if node.w_x is None or source < 0 else now[source][7]
                        if reads is not None and factor is not None:
                            reads = torch.mul(reads, factor, out=read[n])
                        node.affine(z2, reads, h_read)
                    cells[n].step(z4, h_read, c_read, share_h, share_c, h_out, c_out)
                    if n in copies:
                        copies[n][t].copy_(h_out)
            factor = output_factor(window, t0, t1, room)
            value = emitted.get(plan.output, hs.out[plan.output])[at]
            if factor is None:
                y[t0:t1] = value
            else:
                torch.mul(value, factor, out=y[t0:t1])
        if not save:
            for last in plan.last:
                for held in (h[last], c[last]):
                    held[0] = held[s1 - s0]
    end = steps if save else 0
    finals = []
    for last in plan.last:
        leaves = [held[last][end].clone() for held, _ in zip((h, c), nodes[last].kind.letters, strict=False)]
        made = nodes[last].kind.state
        finals.append(leaves[0] if made is None else made(*leaves))
    saved_z = tuple(z) if save_z else ()
    return y, tuple(finals), Saved(x, weights, tuple(h), tuple(c), saved_z, tuple(emitted.values()))


def output_factor(window: Window, t0: int, t1: int, room: Workspace) -> Tensor | None:
    """The factor of the output in these steps: its dropout mask, and 0 in rows that have ended."""
    masks = window.masks
    factor = masks.dropout(window.plan.wiring.output_site, t0, t1, room)
    if masks.running is None:
        return factor
    return masks.running[t0:t1] if factor is None else factor.mul_(masks.running[t0:t1])


def each_step(value: Share, steps: int) -> Sequence[Share]:
    """One entry per step."""
    return value.unbind(0) if isinstance(value, Tensor) else [value] * steps
