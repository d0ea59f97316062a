"""The backward loop of the window engine; the derivation and the layout stand in `fastslow.backends.window.engine`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from fastslow.backends.window.forward import Cell, each_step, output_factor
from fastslow.backends.window.masks import Share
from fastslow.backends.window.plan import History, Saved, Window, block_steps, ranges, span_steps
from fastslow.backends.window.workspace import Workspace, workspace
from fastslow.cells.lstm import NORM_EPSILON, CellWeights
from fastslow.wiring import FROM_INPUT, NO_INPUT

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

    def __init__(self, node: Cell, n: int, z: Tensor, c: Tensor, share_h: Share, room: Workspace) -> None:
        self.node, self.z = node, z
        size, wide, shape = (node.size,), tuple(z.shape), tuple(c.shape)
        y = self.dy = room.take(("y", n), *wide)
        g, self.new_c, self.f, self.dn = (room.take((name, n), *shape) for name in ("g", "c'", "f", "dn"))
        if node.norm is None:
            y.copy_(z)
        else:
            self.z_norm, self.mean, self.rstd = torch.native_layer_norm(z, size, None, None, NORM_EPSILON)
            gain, shift = node.norm
            torch.addcmul(shift, self.z_norm, gain, out=y)
        i, f, y_g, o = y.unbind(2)
        torch.tanh(y_g, out=g)
        y.sigmoid_()
        torch.mul(i, g, out=self.new_c).addcmul_(f, c)
        self.f.copy_(f)
        if node.norm is None:
            u = torch.tanh(self.new_c)
        else:
            u, self.c_mean, self.c_rstd = torch.native_layer_norm(
                self.new_c, size, node.cell_gain, node.cell_shift, NORM_EPSILON
            )
            u.tanh_()
        _tanh_backward(o, u, grad_input=self.dn)  # o (1 - u^2)
        _tanh_backward(i, g, grad_input=y_g)  # i (1 - g^2)
        _sigmoid_backward(g, i, grad_input=i)  # g i (1 - i)
        _sigmoid_backward(c, f, grad_input=f)  # c f (1 - f)
        _sigmoid_backward(u, o, grad_input=o)  # u o (1 - o)
        if share_h is not None:
            self.dn.mul_(share_h)
            o.mul_(share_h)

    def each_step(self) -> tuple[Sequence[Tensor], ...]:
        """What `step` needs of this block, one entry a step."""
        parts = [self.dn, self.dy[:, :, 3], self.dy[:, :, :3], self.f, self.dy]
        if self.node.norm is not None:
            parts += [self.new_c, self.c_mean, self.c_rstd, self.z, self.mean, self.rstd]
        return tuple(part.unbind(0) for part in parts)

    def add_vectors(self, grads: Grads, dz: Tensor) -> None:
        """db, and the gradients of the norms; dz (k, B, 4, H)."""
        wanted = grads.wanted
        if wanted["bias"]:
            grads.add("bias", dz.sum((0, 1)))
        if wanted["gate_shift"]:
            grads.add("gate_shift", self.dy.sum((0, 1)))
        if wanted["gate_gain"]:
            grads.add("gate_gain", self.z_norm.mul_(self.dy).sum((0, 1)))
        if wanted["cell_gain"] or wanted["cell_shift"]:
            node, stats = self.node, (self.c_mean, self.c_rstd)
            _, gain, shift = _layer_norm_backward(
                self.dn, self.new_c, (node.size,), *stats, node.cell_gain, node.cell_shift, _PARAMETERS_ONLY
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
    with workspace(window.kind(saved.weights, saved.x), saved.x.dtype, saved.x.device) as room:
        return _backward(window, saved, dy, dfinals, needs, room)


def _backward(
    window: Window,
    saved: Saved,
    dy: Tensor | None,
    dfinals: Sequence[Tensor | None],
    needs: Sequence[bool],
    room: Workspace,
) -> list[Tensor | None]:
    plan, masks, wiring, weights, x = window.plan, window.masks, window.plan.wiring, saved.weights, saved.x
    steps, rows, x_size = x.shape
    slots, fields = len(plan.last), len(CellWeights._fields)
    nodes = [Cell(w, window.forget_bias, transpose=False) for w in weights]
    w_h = [w.w_h.contiguous() for w in weights]
    w_x = [w.w_h if w.w_x is None else w.w_x.contiguous() for w in weights]  # of a node without input: not used
    wanted = needs[1 + 2 * slots :]
    grads = [Grads(w, wanted[n * fields : (n + 1) * fields]) for n, w in enumerate(weights)]
    hs, cs = History.of(plan, saved.h), History.of(plan, saved.c)
    wrote = [*hs.out]
    for n, kept_out in zip(window.emitted, saved.emitted, strict=True):
        wrote[n] = kept_out
    block = block_steps(steps, rows, [node.size for node in nodes], x.device.type)
    span = span_steps(steps, rows, block)
    dx = torch.zeros_like(x) if needs[0] else None
    dh: list[Tensor] = []
    dc: list[Tensor] = []
    for s, last in enumerate(plan.last):
        for held, given in ((dh, dfinals[2 * s]), (dc, dfinals[2 * s + 1])):
            held.append(x.new_zeros(rows, nodes[last].size))
            if given is not None:
                held[s].copy_(given)
    waiting = {
        source: x.new_zeros(rows, nodes[source].size)
        for source, direct in zip(plan.source, plan.direct, strict=True)
        if source >= 0 and not direct
    }
    scratch = [room.take(("scratch", n), rows, 4, node.size) for n, node in enumerate(nodes)]
    read = [room.take(("read", n), rows, w.shape[1]) for n, w in enumerate(w_x)]

    for s0, s1 in reversed(list(ranges(0, steps, span))):
        # What each node read, after dropout; its dropout; z; and room for dz.
        inputs: list[Tensor | None] = []
        factors: list[Tensor | None] = []
        for n, source in enumerate(plan.source):
            value = None if source == NO_INPUT else x[s0:s1] if source == FROM_INPUT else wrote[source][s0:s1]
            factor = None if value is None else masks.dropout(wiring.input_site(n), s0, s1, room)
            if value is not None and factor is not None:
                value = torch.mul(value, factor, out=room.take(("input", n), *value.shape))
            inputs.append(value)
            factors.append(factor)
        z = [part[s0:s1] for part in saved.z]
        if window.recompute:
            z = [
                rebuilt(node, inputs[n], hs.read[n][s0:s1], room.take(("z", n), s1 - s0, rows, 4, node.size))
                for n, node in enumerate(nodes)
            ]
        dzs = [room.take(("dz", n), s1 - s0, rows, 4, node.size) for n, node in enumerate(nodes)]

        for t0, t1 in reversed(list(ranges(s0, s1, block))):
            k, at = t1 - t0, slice(t0 - s0, t1 - s0)
            blocks, views = [], []
            for n, node in enumerate(nodes):
                share_h, share_c = masks.zoneout(wiring.zoneout_site(n), t0, t1, room)
                blocks.append(Block(node, n, z[n][at], cs.read[n][t0:t1], share_h, room))
                shares = (share_c, kept(share_h, room, ("keep h", n)), kept(share_c, room, ("keep c", n)))
                factor = factors[n]
                parts = (*shares, None if factor is None else factor[at])
                views.append(
                    list(
                        zip(
                            zip(*blocks[n].each_step(), strict=True),
                            dzs[n][at].unbind(0),
                            [step.flatten(1) for step in dzs[n][at].unbind(0)],
                            *(each_step(part, k) for part in parts),
                            strict=True,
                        )
                    )
                )
            dys: Sequence[Tensor | None] = [None] * k
            if dy is not None:
                factor = output_factor(window, t0, t1, room)
                dys = (dy[t0:t1] if factor is None else dy[t0:t1] * factor).unbind(0)
            anew = window.anew(t0, t1)
            for t in reversed(range(k)):
                for n in reversed(plan.nodes):
                    slot, source = plan.slot[n], plan.source[n]
                    parts, dz, dz2, share_c, keep_h, keep_c, factor = views[n][t]
                    dh_t, dy_t = dh[slot], dys[t]
                    if n == plan.output and dy_t is not None:
                        dh_t.add_(dy_t)
                    if n in waiting:
                        dh_t.add_(waiting[n])
                        waiting[n].zero_()
                    step(nodes[n], parts, dh_t, dc[slot], share_c, keep_c, scratch[n], dz)
                    if keep_h is None:
                        torch.mm(dz2, w_h[n], out=dh_t)
                    else:
                        dh_t.mul_(keep_h).addmm_(dz2, w_h[n])
                    if source >= 0:
                        to = dh[plan.slot[source]] if plan.direct[n] else waiting[source]
                        if factor is None:
                            to.addmm_(dz2, w_x[n])
                        else:
                            to.addcmul_(torch.mm(dz2, w_x[n], out=read[n]), factor)
                rows_anew = anew[t]
                if rows_anew is not None:
                    for carried in (*dh, *dc):
                        carried.masked_fill_(rows_anew, 0)
            for n in plan.nodes:
                blocks[n].add_vectors(grads[n], dzs[n][at])

        for n, value in enumerate(inputs):
            dz = dzs[n].view(-1, 4 * nodes[n].size)
            grads[n].add_product("w_h", dz, hs.read[n][s0:s1].reshape(-1, nodes[n].size))
            if value is not None:
                grads[n].add_product("w_x", dz, value.flatten(0, 1))
            if dx is not None and plan.source[n] == FROM_INPUT:
                into = torch.mm(dz, w_x[n]).view(s1 - s0, rows, x_size)
                factor = factors[n]
                dx[s0:s1] += into if factor is None else into.mul_(factor)
    states = [part for pair in zip(dh, dc, strict=True) for part in pair]
    return [dx, *states, *(field for grad in grads for field in grad.fields())]


def step(
    node: Cell,
    parts: tuple[Tensor, ...],
    dh: Tensor,
    dc: Tensor,
    share_c: Share,
    keep_c: Share,
    scratch: Tensor,
    dz: Tensor,
) -> None:
    """From (dh_t, dc_t) to dz (B, 4, H), written in place; dc becomes the gradient of the c that was read."""
    dn, dy_o, dy_ifg, f, dy, *normed = parts
    dn.mul_(dh)
    dy_o.mul_(dh)
    dnew_c = dn
    if node.norm is not None:
        new_c, c_mean, c_rstd, z, mean, rstd = normed
        size = (node.size,)
        dnew_c = _layer_norm_backward(dn, new_c, size, c_mean, c_rstd, node.cell_gain, node.cell_shift, _INPUT_ONLY)[0]
    if isinstance(share_c, Tensor):
        dnew_c.addcmul_(dc, share_c)
    else:
        dnew_c.add_(dc, alpha=1.0 if share_c is None else share_c)
    dy_ifg.mul_(dnew_c.unsqueeze(1))
    if keep_c is None:
        torch.mul(dnew_c, f, out=dc)
    else:
        dc.mul_(keep_c).addcmul_(dnew_c, f)
    if node.norm is not None:
        torch.mul(dy, node.norm[0], out=scratch)
        dy = _layer_norm_backward(scratch, z, size, mean, rstd, None, None, _INPUT_ONLY)[0]
    dz.copy_(dy)


def kept(share: Share, room: Workspace, name: Hashable) -> Share:
    """The share of the old value."""
    if isinstance(share, Tensor):
        return torch.sub(1.0, share, out=room.take(name, *share.shape))
    return None if share is None else 1.0 - share


def rebuilt(node: Cell, value: Tensor | None, h: Tensor, z: Tensor) -> Tensor:
    """z (k, B, 4, H) from what the node read: its input after dropout and h, (k, B, .)."""
    z2, h2 = z.view(-1, 4 * node.size), h.reshape(-1, node.size)
    if value is None or node.w_x is None:
        node.affine(node.w_h, h2, z2)
    else:
        node.affine(node.w_x, value.flatten(0, 1), z2)
        z2.addmm_(h2, node.w_h)
    return z
