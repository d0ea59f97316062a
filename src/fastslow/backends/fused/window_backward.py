"""The backward loop of the window engine; the derivation and the layout stand in `fastslow.backends.fused.window`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastslow.backends.fused.masks import Share
from fastslow.backends.fused.plan import History, Saved, Window, block_steps, cells, ranges, span_steps
from fastslow.backends.fused.window_forward import Cell, each_step, output_factor
from fastslow.cells.lstm import NORM_EPSILON, CellWeights
from fastslow.wiring import FROM_INPUT

_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_INPUT_ONLY, _PARAMETERS_ONLY = [True, False, False], [False, True, True]


class Grads:
    """The gradients of one node's parameters, summed piece by piece; None where none is wanted."""

    def __init__(self, weights: CellWeights, wanted: Sequence[bool]) -> None:
        self.wanted = dict(zip(CellWeights._fields, wanted, strict=True))
        self.sums: dict[str, Tensor] = {}
        self.weights = weights

    def add_product(self, name: str, dz: Tensor, value: Tensor) -> None:
        """A matrix: += dz^T value, dz (N, 4H), value (N, .)."""
        if not self.wanted[name]:
            return
        if name in self.sums:
            self.sums[name].addmm_(dz.t(), value)
        else:
            self.sums[name] = torch.mm(dz.t(), value)

    def add(self, name: str, value: Tensor) -> None:
        """A vector."""
        if name in self.sums:
            self.sums[name].add_(value)
        else:
            self.sums[name] = value

    def fields(self) -> list[Tensor | None]:
        return [self._field(name) for name in CellWeights._fields]

    def _field(self, name: str) -> Tensor | None:
        total = self.sums.get(name)
        return total if total is None else total.view(getattr(self.weights, name).shape)


class Block:
    """The factors of one node's gradients for the steps of a block, formed at once; each (k, B, 4, H) or (k, B, H).

    `dy` and `dn` begin as factors: dy of dc' (gates i, f, g) or dh_t (gate o), dn of dh_t. A step multiplies its own
    in place, so that afterwards they are the gradients of the module's letters.
    """

    def __init__(self, node: Cell, z: Tensor, c: Tensor, share_h: Share) -> None:
        self.z, self.H = z, node.size
        if node.gain is None:
            y = z.clone()
        else:
            self.z_norm, self.mean, self.rstd = torch.native_layer_norm(z, (node.size,), None, None, NORM_EPSILON)
            y = torch.addcmul(node.shift, self.z_norm, node.gain)
        i, f, y_g, o = y.unbind(2)
        g = torch.tanh(y_g)
        y.sigmoid_()
        self.new_c = torch.mul(i, g).addcmul_(f, c)
        if node.gain is None:
            u = torch.tanh(self.new_c)
        else:
            u, self.c_mean, self.c_rstd = torch.native_layer_norm(
                self.new_c, (node.size,), node.cell_gain, node.cell_shift, NORM_EPSILON
            )
            u.tanh_()
        self.f = f.clone()
        self.dn = torch.empty_like(u)
        _tanh_backward(o, u, grad_input=self.dn)  # o (1 - u^2)
        _tanh_backward(i, g, grad_input=y_g)  # i (1 - g^2)
        _sigmoid_backward(g, i, grad_input=i)  # g i (1 - i)
        _sigmoid_backward(c, f, grad_input=f)  # c f (1 - f)
        _sigmoid_backward(u, o, grad_input=o)  # u o (1 - o)
        if share_h is not None:
            self.dn.mul_(share_h)
            o.mul_(share_h)
        self.dy = y

    def steps(self, norm: bool) -> list[tuple[Tensor, ...]]:
        """What each step needs of this block: dn, o and i-f-g factors, f, then new_c, dy, z and their statistics."""
        parts = [self.dn, self.dy[:, :, 3], self.dy[:, :, :3], self.f, self.dy]
        if norm:
            parts += [self.new_c, self.c_mean, self.c_rstd, self.z, self.mean, self.rstd]
        return list(zip(*(part.unbind(0) for part in parts), strict=True))

    def add_vectors(self, grads: Grads, node: Cell, dz: Tensor) -> None:
        """db, and the gradients of the norms; dz (k, B, 4, H)."""
        wanted = grads.wanted
        if wanted["bias"]:
            grads.add("bias", dz.sum((0, 1)))
        if wanted["gate_shift"]:
            grads.add("gate_shift", self.dy.sum((0, 1)))
        if wanted["gate_gain"]:
            grads.add("gate_gain", self.z_norm.mul_(self.dy).sum((0, 1)))
        if wanted["cell_gain"] or wanted["cell_shift"]:
            _, gain, shift = _layer_norm_backward(
                self.dn, self.new_c, (self.H,), self.c_mean, self.c_rstd, node.cell_gain, node.cell_shift, _PARAMETERS_ONLY
            )
            for name, value in (("cell_gain", gain), ("cell_shift", shift)):
                if wanted[name]:
                    grads.add(name, value)


def backward(
    window: Window, saved: Saved, dy: Tensor | None, dfinals: Sequence[Tensor | None], needs: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of x, of h and c of each slot and of every field of each node's weights, in this order.

    dy (T, B, H of the output) and dfinals (h and c of each slot), None where no gradient arrived; needs: which of the
    results are wanted.
    """
    plan, masks, wiring, weights, x = window.plan, window.masks, window.plan.wiring, saved.weights, saved.x
    steps, rows, _ = x.shape
    slots = len(plan.last)
    nodes = [Cell(w, window.forget_bias, rows, transpose=False) for w in weights]
    w_h = [w.w_h.contiguous() for w in weights]
    w_x = [None if w.w_x is None else w.w_x.contiguous() for w in weights]
    wanted = [needs[1 + 2 * slots :][n * 7 : n * 7 + 7] for n in plan.nodes]
    grads = [Grads(w, want) for w, want in zip(weights, wanted, strict=True)]
    hs, cs = History.of(plan, saved.h), History.of(plan, saved.c)
    block = block_steps(rows, [node.size for node in nodes], x.device.type)
    span = span_steps(steps, rows, block)

    def start(given: Tensor | None, slot: int) -> Tensor:
        return x.new_zeros(rows, nodes[plan.last[slot]].size) if given is None else given.clone(memory_format=torch.contiguous_format)

    dh = [start(dfinals[2 * s], s) for s in range(slots)]
    dc = [start(dfinals[2 * s + 1], s) for s in range(slots)]
    waiting = {
        plan.source[n]: x.new_zeros(rows, nodes[plan.source[n]].size)
        for n in plan.nodes
        if plan.source[n] >= 0 and not plan.direct[n]
    }
    dx = torch.zeros_like(x) if needs[0] else None
    dzs = [x.new_empty(span, rows, 4, node.size) for node in nodes]
    read_by = [x.new_empty(rows, 0) if w is None else x.new_empty(rows, w.shape[1]) for w in w_x]  # dx of a step
    scratch = [x.new_empty(rows, 4, node.size) for node in nodes]
    for s0, s1 in reversed(list(ranges(0, steps, span))):
        k = s1 - s0
        # What each node read, after dropout, and the dropout.
        factors = [masks.dropout(wiring.input_site(n), s0, s1) if w_x[n] is not None else None for n in plan.nodes]
        inputs: list[Tensor | None] = []
        for n, factor in enumerate(factors):
            source = plan.source[n]
            value = None if w_x[n] is None else x[s0:s1] if source == FROM_INPUT else hs.out[source][s0:s1]
            inputs.append(value if value is None or factor is None else value * factor)
        z = [rebuilt(node, inputs[n], hs.read[n][s0:s1]) if window.recompute else saved.z[n][s0:s1] for n, node in enumerate(nodes)]
        for t0, t1 in reversed(list(ranges(s0, s1, block))):
            at = slice(t0 - s0, t1 - s0)
            blocks, views = [], []
            for n, node in enumerate(nodes):
                share_h, share_c = masks.zoneout(wiring.zoneout_site(n), t0, t1)
                now = Block(node, z[n][at], cs.read[n][t0:t1], share_h)
                factor = factors[n]
                blocks.append(now)
                views.append(
                    (
                        now.steps(node.gain is not None),
                        dzs[n][at].unbind(0),
                        each_step(share_c, t1 - t0),
                        each_step(kept(share_h), t1 - t0),
                        each_step(kept(share_c), t1 - t0),
                        each_step(factor[at] if factor is not None else None, t1 - t0),
                    )
                )
            dys = None
            if dy is not None:
                factor = output_factor(window, t0, t1)
                dys = (dy[t0:t1] if factor is None else dy[t0:t1] * factor).unbind(0)
            for t in reversed(range(t1 - t0)):
                for n in reversed(plan.nodes):
                    node, slot, source = nodes[n], plan.slot[n], plan.source[n]
                    parts, dz_out, share_c, keep_h, keep_c, factor = (v[t] for v in views[n])
                    if n == plan.output and dys is not None:
                        dh[slot].add_(dys[t])
                    if n in waiting:
                        dh[slot].add_(waiting[n])
                        waiting[n].zero_()
                    dz = gates_back(node, parts, dh[slot], dc[slot], share_c, keep_c, scratch[n], dz_out)
                    if keep_h is None:
                        torch.mm(dz, w_h[n], out=dh[slot])
                    else:
                        dh[slot].mul_(keep_h).addmm_(dz, w_h[n])
                    if source >= 0:
                        to = dh[plan.slot[source]] if plan.direct[n] else waiting[source]
                        if factor is None:
                            to.addmm_(dz, w_x[n])
                        else:
                            to.addcmul_(torch.mm(dz, w_x[n], out=read_by[n]), factor)
            for n, node in enumerate(nodes):
                blocks[n].add_vectors(grads[n], node, dzs[n][at])
        for n in plan.nodes:
            dz = dzs[n][:k].view(k * rows, -1)
            grads[n].add_product("w_h", dz, hs.read[n][s0:s1].reshape(k * rows, -1))
            value, factor = inputs[n], factors[n]
            if value is not None:
                grads[n].add_product("w_x", dz, value.reshape(k * rows, -1))
            if dx is not None and plan.source[n] == FROM_INPUT:
                into = torch.mm(dz, w_x[n]).view(k, rows, -1)
                dx[s0:s1].add_(into) if factor is None else dx[s0:s1].addcmul_(into, factor)
    states = [part for pair in zip(dh, dc, strict=True) for part in pair]
    return [dx, *states, *(field for grad in grads for field in grad.fields())]


def gates_back(
    node: Cell,
    parts: tuple[Tensor, ...],
    dh: Tensor,
    dc: Tensor,
    share_c: Share,
    keep_c: Share,
    scratch: Tensor,
    dz: Tensor,
) -> Tensor:
    """From (dh_t, dc_t) to dz, which it writes and returns as (B, 4H); dc becomes the gradient of the c that was read."""
    dn, dy_o, dy_ifg, f, dy, *norm = parts
    dn.mul_(dh)
    dy_o.mul_(dh)
    if norm:
        new_c, c_mean, c_rstd, z, mean, rstd = norm
        size = (node.size,)
        dnew_c = _layer_norm_backward(dn, new_c, size, c_mean, c_rstd, node.cell_gain, node.cell_shift, _INPUT_ONLY)[0]
    else:
        dnew_c = dn
    if isinstance(share_c, Tensor):
        dnew_c.addcmul_(dc, share_c)
    else:
        dnew_c.add_(dc, alpha=1.0 if share_c is None else share_c)
    dy_ifg.mul_(dnew_c.unsqueeze(1))
    if keep_c is None:
        torch.mul(dnew_c, f, out=dc)
    else:
        dc.mul_(keep_c).addcmul_(dnew_c, f)
    if norm:
        torch.mul(dy, node.gain, out=scratch)
        dz.copy_(_layer_norm_backward(scratch, z, size, mean, rstd, None, None, _INPUT_ONLY)[0])
    else:
        dz.copy_(dy)
    return dz.view(dz.shape[0], -1)


def kept(share: Share) -> Share:
    """The share of the old value."""
    return None if share is None else 1.0 - share


def rebuilt(node: Cell, value: Tensor | None, h: Tensor) -> Tensor:
    """z (k, B, 4, H) from what the node read: its input after dropout and h, (k, B, .)."""
    k, rows, _ = h.shape
    z = h.new_empty(k * rows, 4 * node.size)
    if value is None or node.w_x is None:
        node.affine(node.w_h, h.reshape(k * rows, -1), z)
    else:
        node.affine(node.w_x, value.reshape(k * rows, -1), z)
        z.addmm_(h.reshape(k * rows, -1), node.w_h)
    return z.view(k, rows, 4, node.size)
