"""The forward loop of the window engine; the equations and the layout stand in `fastslow.backends.fused.window`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastslow.backends.fused.masks import Share
from fastslow.backends.fused.plan import History, Saved, States, Window, block_steps, ranges, span_steps
from fastslow.cells.lstm import NORM_EPSILON, CellWeights
from fastslow.state import LSTMState
from fastslow.wiring import FROM_INPUT, NO_INPUT

FEW_STEPS = 8
"""Below this many steps the matrices are used as they lie: transposing them first would cost more than it saves."""


class Cell:
    """One node's parameters as the loop uses them, and its scratch."""

    def __init__(self, weights: CellWeights, forget_bias: float, rows: int, transpose: bool) -> None:
        H = self.size = weights.hidden_size
        like = weights.w_h

        def operand(matrix: Tensor) -> Tensor:
            return matrix.t().contiguous() if transpose else matrix.t()

        self.w_x = None if weights.w_x is None else operand(weights.w_x)  # (X, 4H)
        self.w_h = operand(weights.w_h)  # (H, 4H)
        self.bias = weights.bias
        forget = like.new_zeros(4, H)
        forget[1] = forget_bias
        self.gain = self.shift = None
        if weights.gate_gain is not None and weights.gate_shift is not None:
            self.gain, self.shift = weights.gate_gain.reshape(4, H), weights.gate_shift.reshape(4, H) + forget
        elif forget_bias != 0:
            self.bias = forget.view(-1) if self.bias is None else forget.view(-1) + self.bias
        self.cell_gain, self.cell_shift = weights.cell_gain, weights.cell_shift
        self.gates = like.new_empty(rows, 4, H)
        self.i, self.f, self.y_g, self.o = self.gates.unbind(1)
        self.g, self.new_h, self.new_c = (like.new_empty(rows, H) for _ in range(3))
        self.x = None if self.w_x is None else like.new_empty(rows, self.w_x.shape[0])

    def affine(self, matrix: Tensor, value: Tensor, out: Tensor) -> None:
        """out (N, 4H) = value (N, .) matrix + bias"""
        if self.bias is None:
            torch.mm(value, matrix, out=out)
        else:
            torch.addmm(self.bias, value, matrix, out=out)

    def step(
        self, z: Tensor, h: Tensor, c: Tensor, share_h: Share, share_c: Share, h_t: Tensor, c_t: Tensor
    ) -> None:
        """z (B, 4, H) and the state (h, c) that is read -> (h_t, c_t), written in place."""
        y = self.gates
        if self.gain is None:
            torch.tanh(z[:, 2], out=self.g)
            torch.sigmoid(z, out=y)
        else:
            normed, _, _ = torch.native_layer_norm(z, (self.size,), None, None, NORM_EPSILON)
            torch.addcmul(self.shift, normed, self.gain, out=y)
            torch.tanh(self.y_g, out=self.g)
            y.sigmoid_()
        new_c = c_t if share_c is None else self.new_c
        torch.mul(self.i, self.g, out=new_c)
        new_c.addcmul_(self.f, c)
        if self.gain is None:
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
    plan, masks, wiring = window.plan, window.masks, window.plan.wiring
    steps, rows, _ = x.shape
    x = x.contiguous()
    nodes = [Cell(w, window.forget_bias, rows, transpose=steps >= FEW_STEPS) for w in weights]
    block = block_steps(rows, [node.size for node in nodes], x.device.type)
    span = span_steps(steps, rows, block)
    held = steps if save else span
    save_z = save and not window.recompute

    # What nodes wrote. Without `save` only a span is held, and the state is carried to its front for the next.
    def room(n: int) -> Tensor:
        return x.new_empty(held + (n in plan.last), rows, nodes[n].size)

    h, c = tuple(map(room, plan.nodes)), tuple(map(room, plan.nodes))
    for last, pair in zip(plan.last, state, strict=True):
        h[last][0], c[last][0] = pair
    hs, cs = History.of(plan, h), History.of(plan, c)
    # z has one entry a step where it is saved, one a span where the input's products are made ahead, else one.
    z_steps = [steps if save_z else span if plan.source[n] == FROM_INPUT else 1 for n in plan.nodes]
    z = tuple(x.new_empty(z_steps[n], rows, 4, nodes[n].size) for n in plan.nodes)
    y = x.new_empty(steps, rows, nodes[plan.output].size)

    for s0, s1 in ranges(0, steps, span):
        z0 = s0 if save_z else 0
        for n, node in enumerate(nodes):
            if plan.source[n] == FROM_INPUT and node.w_x is not None:
                factor = masks.dropout(wiring.input_site(n), s0, s1)
                value = x[s0:s1] if factor is None else factor.mul_(x[s0:s1])
                node.affine(node.w_x, value.flatten(0, 1), z[n][z0 : z0 + s1 - s0].view(-1, 4 * node.size))
        first = s0 if save else 0
        for t0, t1 in ranges(s0, s1, block):
            at = slice(t0 - s0 + first, t1 - s0 + first)
            views = []
            for n, node in enumerate(nodes):
                zs = z[n][t0 - s0 + z0 : t1 - s0 + z0] if z_steps[n] > 1 else z[n].expand(t1 - t0, -1, -1, -1)
                shares = masks.zoneout(wiring.zoneout_site(n), t0, t1)
                factor = masks.dropout(wiring.input_site(n), t0, t1) if plan.source[n] >= 0 else None
                views.append(
                    (
                        zs.unbind(0),
                        [step.view(rows, -1) for step in zs.unbind(0)],
                        each_step(factor, t1 - t0),
                        hs.read[n][at].unbind(0),
                        cs.read[n][at].unbind(0),
                        each_step(shares[0], t1 - t0),
                        each_step(shares[1], t1 - t0),
                        hs.out[n][at].unbind(0),
                        cs.out[n][at].unbind(0),
                    )
                )
            for t in range(t1 - t0):
                for n, node in enumerate(nodes):
                    z4, z2, factors, h_read, c_read, share_h, share_c, h_out, c_out = (v[t] for v in views[n])
                    if plan.source[n] == FROM_INPUT:
                        z2.addmm_(h_read, node.w_h)
                    elif plan.source[n] == NO_INPUT:
                        node.affine(node.w_h, h_read, z2)
                    else:
                        value = views[plan.source[n]][7][t]
                        if factors is not None:
                            value = torch.mul(value, factors, out=node.x)
                        node.affine(node.w_x, value, z2)
                        z2.addmm_(h_read, node.w_h)
                    node.step(z4, h_read, c_read, share_h, share_c, h_out, c_out)
            put_output(window, hs.out[plan.output][at], t0, t1, y[t0:t1])
        if not save:
            for last in plan.last:
                h[last][0], c[last][0] = h[last][s1 - s0], c[last][s1 - s0]
    finals = tuple(LSTMState(h[last][steps if save else 0].clone(), c[last][steps if save else 0].clone()) for last in plan.last)
    return y, finals, Saved(x, weights, h, c, z if save_z else ())


def put_output(window: Window, h: Tensor, t0: int, t1: int, y: Tensor) -> None:
    """y = h after the output's dropout, 0 in rows that have stopped."""
    factor = output_factor(window, t0, t1)
    if factor is None:
        y.copy_(h)
    else:
        torch.mul(h, factor, out=y)


def output_factor(window: Window, t0: int, t1: int) -> Tensor | None:
    """What the output is multiplied by in these steps: its dropout, and 0 in rows that have stopped."""
    masks = window.masks
    factor = masks.dropout(window.plan.wiring.output_site, t0, t1)
    if masks.running is None:
        return factor
    return masks.running[t0:t1] if factor is None else factor.mul_(masks.running[t0:t1])


def each_step(value: Share, steps: int) -> Sequence[Share]:
    """One entry a step."""
    return value.unbind(0) if isinstance(value, Tensor) else [value] * steps
