"""The forward loop of the window engine; the equations and the layout stand in `fastslow.backends.window.engine`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastslow.backends.window.masks import Share
from fastslow.backends.window.plan import History, Saved, States, Window, block_steps, ranges, span_steps
from fastslow.backends.window.workspace import Workspace, workspace
from fastslow.cells.lstm import NORM_EPSILON, CellWeights
from fastslow.state import LSTMState
from fastslow.wiring import FROM_INPUT

FEW_STEPS = 8
"""Below this many steps the matrices are used as they lie: transposing them first would cost more than it saves."""


class Cell:
    """One node's parameters as the loop uses them, and its scratch."""

    def __init__(self, weights: CellWeights, forget_bias: float, transpose: bool) -> None:
        H = self.size = weights.hidden_size
        like = weights.w_h

        def operand(matrix: Tensor) -> Tensor:
            return matrix.t().contiguous() if transpose else matrix.t()

        self.w_x = None if weights.w_x is None else operand(weights.w_x)  # (X, 4H)
        self.w_h = operand(weights.w_h)  # (H, 4H)
        self.bias = weights.bias
        forget = like.new_zeros(4, H)
        forget[1] = forget_bias
        self.norm: tuple[Tensor, Tensor] | None = None
        """Gain and shift of the gates, (4, H), the forget gate's constant in its shift."""
        if weights.gate_gain is not None and weights.gate_shift is not None:
            self.norm = weights.gate_gain.reshape(4, H), weights.gate_shift.reshape(4, H) + forget
        elif forget_bias != 0:
            self.bias = forget.view(-1) if self.bias is None else forget.view(-1) + self.bias
        self.cell_gain, self.cell_shift = weights.cell_gain, weights.cell_shift

    def prepare(self, room: Workspace, n: int, rows: int) -> None:
        """Take the scratch of node n."""
        self.gates = room.take(("gates", n), rows, 4, self.size)
        self.i, self.f, self.y_g, self.o = self.gates.unbind(1)
        self.g, self.new_h, self.new_c = (room.take((name, n), rows, self.size) for name in ("g", "h'", "c'"))
        self.x = None if self.w_x is None else room.take(("x", n), rows, self.w_x.shape[0])

    def affine(self, matrix: Tensor, value: Tensor, out: Tensor) -> None:
        """out (N, 4H) = value (N, .) matrix + bias"""
        if self.bias is None:
            torch.mm(value, matrix, out=out)
        else:
            torch.addmm(self.bias, value, matrix, out=out)

    def step(self, z: Tensor, h: Tensor, c: Tensor, share_h: Share, share_c: Share, h_t: Tensor, c_t: Tensor) -> None:
        """z (B, 4, H) and the state (h, c) that is read -> (h_t, c_t), written in place."""
        y = self.gates
        if self.norm is None:
            torch.tanh(z[:, 2], out=self.g)
            torch.sigmoid(z, out=y)
        else:
            normed, _, _ = torch.native_layer_norm(z, (self.size,), None, None, NORM_EPSILON)
            gain, shift = self.norm
            torch.addcmul(shift, normed, gain, out=y)
            torch.tanh(self.y_g, out=self.g)
            y.sigmoid_()
        new_c = c_t if share_c is None else self.new_c
        torch.mul(self.i, self.g, out=new_c)
        new_c.addcmul_(self.f, c)
        if self.norm is None:
            u = torch.tanh(new_c, out=self.g)
        else:
            n = torch.native_layer_norm(new_c, (self.size,), self.cell_gain, self.cell_shift, NORM_EPSILON)[0]
            u = n.tanh_()
        if share_c is not None:
            torch.lerp(c, new_c, share_c, out=c_t)
        if share_h is None:
            torch.mul(self.o, u, out=h_t)
        else:
            torch.mul(self.o, u, out=self.new_h)
            torch.lerp(h, self.new_h, share_h, out=h_t)


def forward(
    window: Window, weights: tuple[CellWeights, ...], x: Tensor, state: States, *, save: bool
) -> tuple[Tensor, States, Saved]:
    """y (T, B, H of the output), the states after the window, and what backward needs if `save`."""
    with workspace(window.kind(weights, x), x.dtype, x.device) as room:
        return _forward(window, weights, x.contiguous(), state, save, room)


def _forward(
    window: Window, weights: tuple[CellWeights, ...], x: Tensor, state: States, save: bool, room: Workspace
) -> tuple[Tensor, States, Saved]:
    plan, masks, wiring = window.plan, window.masks, window.plan.wiring
    steps, rows, _ = x.shape
    nodes = [Cell(w, window.forget_bias, transpose=steps >= FEW_STEPS) for w in weights]
    for n, node in enumerate(nodes):
        node.prepare(room, n, rows)
    block = block_steps(steps, rows, [node.size for node in nodes], x.device.type)
    span = span_steps(steps, rows, block)
    save_z = save and not window.recompute

    def new(name: str, n: int, kept: int | None, *shape: int) -> Tensor:
        """Memory for `kept` steps that outlives this call, or the workspace's, for a span."""
        return x.new_empty(kept, rows, *shape) if kept is not None else room.take((name, n), span + 1, rows, *shape)

    # What nodes wrote. Without `save` only a span is held, and the state is carried to its front for the next.
    # z has one entry a step where it is saved, else one a span where the input's products are made ahead, else one.
    h, c, z = [], [], []
    for n, node in enumerate(nodes):
        kept = steps + (n in plan.last) if save else None
        h.append(new("h", n, kept, node.size))
        c.append(new("c", n, kept, node.size))
        ahead = plan.source[n] == FROM_INPUT
        z.append(
            new("z", n, steps, 4, node.size)
            if save_z
            else room.take(("z", n), span if ahead else 1, rows, 4, node.size)
        )
    for last, pair in zip(plan.last, state, strict=True):
        h[last][0], c[last][0] = pair
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
                node.affine(node.w_x, value.view(-1, x.shape[2]), into.view(-1, 4 * node.size))
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
            for t, (anew, *now) in enumerate(zip(window.anew(t0, t1), *views, strict=True)):
                if anew is not None:
                    for n in firsts:
                        for state_read in now[n][3:5]:
                            state_read.masked_fill_(anew, 0)
                for n, node in enumerate(nodes):
                    z4, z2, factor, h_read, c_read, share_h, share_c, h_out, c_out = now[n]
                    source = plan.source[n]
                    if source == FROM_INPUT:
                        z2.addmm_(h_read, node.w_h)
                    elif node.w_x is None:
                        node.affine(node.w_h, h_read, z2)
                    else:
                        value = now[source][7]
                        node.affine(node.w_x, value if factor is None else torch.mul(value, factor, out=node.x), z2)
                        z2.addmm_(h_read, node.w_h)
                    node.step(z4, h_read, c_read, share_h, share_c, h_out, c_out)
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
    finals = tuple(LSTMState(h[last][end].clone(), c[last][end].clone()) for last in plan.last)
    saved_z = tuple(z) if save_z else ()
    return y, finals, Saved(x, weights, tuple(h), tuple(c), saved_z, tuple(emitted.values()))


def output_factor(window: Window, t0: int, t1: int, room: Workspace) -> Tensor | None:
    """What the output is multiplied by in these steps: its dropout, and 0 in rows that have stopped."""
    masks = window.masks
    factor = masks.dropout(window.plan.wiring.output_site, t0, t1, room)
    if masks.running is None:
        return factor
    return masks.running[t0:t1] if factor is None else factor.mul_(masks.running[t0:t1])


def each_step(value: Share, steps: int) -> Sequence[Share]:
    """One entry a step."""
    return value.unbind(0) if isinstance(value, Tensor) else [value] * steps
