"""The backward loop of the window engine; the derivation and the layout are in `fastslow.backends.window.engine`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from fastslow.backends.window.cells import CELLS
from fastslow.backends.window.forward import each_step, output_factor
from fastslow.backends.window.gradients import Grads
from fastslow.backends.window.masks import Share
from fastslow.backends.window.node import Node
from fastslow.backends.window.plan import History, Saved, Window, block_steps, ranges, span_steps
from fastslow.backends.window.workspace import Workspace, workspace
from fastslow.wiring import FROM_INPUT, NO_INPUT


def backward(
    window: Window, saved: Saved, dy: Tensor | None, dfinals: Sequence[Tensor | None], needs: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of x, of h and c of each slot, and of every field of each node's weights, in this order.

    dy (T, B, H of the output) and dfinals (h and c of each slot) are None where no gradient arrived. needs: which of
    the results are wanted.
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
    nodes = [Node(w, window.forget_bias, transpose=False) for w in weights]
    cells = [CELLS[node.kind.code].Backward for node in nodes]
    w_h = [node.w_h.t().contiguous() for node in nodes]
    w_x = [w_h[n] if node.w_x is None else node.w_x.t().contiguous() for n, node in enumerate(nodes)]  # w_h: not used
    owners = [s for s, last in enumerate(plan.last) for _ in nodes[last].kind.letters]
    wanted = iter(needs[1 + len(owners) :])
    grads = [Grads(w, [next(wanted) for _ in w]) for w in weights]
    hs, cs = History.of(plan, saved.h), History.of(plan, saved.c)
    wrote = [*hs.out]
    for n, kept_out in zip(window.emitted, saved.emitted, strict=True):
        wrote[n] = kept_out
    block = block_steps(steps, rows, [node.size for node in nodes], x.device.type)
    span = span_steps(steps, rows, block)
    dx = torch.zeros_like(x) if needs[0] else None
    dh: list[Tensor] = []
    dc: list[Tensor] = []
    arrived = iter(dfinals)
    for s, last in enumerate(plan.last):
        letters = nodes[last].kind.letters
        for held, letter in ((dh, "h"), (dc, "c")):
            held.append(x.new_zeros(rows, nodes[last].size if letter in letters else 0))
            given = next(arrived) if letter in letters else None
            if given is not None:
                held[s].copy_(given)
    waiting = {
        source: x.new_zeros(rows, nodes[source].size)
        for source, direct in zip(plan.source, plan.direct, strict=True)
        if source >= 0 and not direct
    }
    scratch = [room.take(("scratch", n), rows, node.blocks, node.size) for n, node in enumerate(nodes)]
    read = [room.take(("read", n), rows, w.shape[1]) for n, w in enumerate(w_x)]

    for s0, s1 in reversed(list(ranges(0, steps, span))):
        # What each node read, after dropout; its dropout mask; z; and a buffer for dz.
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
                rebuilt(node, inputs[n], hs.read[n][s0:s1], room.take(("z", n), s1 - s0, rows, node.blocks, node.size))
                for n, node in enumerate(nodes)
            ]
        dzs = [room.take(("dz", n), s1 - s0, rows, node.blocks, node.size) for n, node in enumerate(nodes)]

        for t0, t1 in reversed(list(ranges(s0, s1, block))):
            k, at = t1 - t0, slice(t0 - s0, t1 - s0)
            blocks, views = [], []
            for n, node in enumerate(nodes):
                share_h, share_c = masks.zoneout(wiring.zoneout_site(n), t0, t1, room)
                keep_h = kept(share_h, room, ("keep h", n))
                reads = hs.read[n][t0:t1], cs.read[n][t0:t1]
                blocks.append(cells[n](node, n, z[n][at], *reads, share_h, keep_h, room))
                shares = (share_c, keep_h, kept(share_c, room, ("keep c", n)))
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
            row_resets = window.row_resets(t0, t1)
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
                    shares = share_c, keep_h, keep_c
                    dz_h = dz2[:, nodes[n].of_h]
                    if cells[n].step(nodes[n], parts, dh_t, dc[slot], *shares, scratch[n], dz):
                        dh_t.addmm_(dz_h, w_h[n])
                    else:
                        torch.mm(dz_h, w_h[n], out=dh_t)
                    if source >= 0:
                        to = dh[plan.slot[source]] if plan.direct[n] else waiting[source]
                        dz_x = dz2[:, nodes[n].of_x]
                        if factor is None:
                            to.addmm_(dz_x, w_x[n])
                        else:
                            to.addcmul_(torch.mm(dz_x, w_x[n], out=read[n]), factor)
                reset_now = row_resets[t]
                if reset_now is not None:
                    for carried in (*dh, *dc):
                        carried.masked_fill_(reset_now, 0)
            for n in plan.nodes:
                blocks[n].add_vectors(grads[n], dzs[n][at])

        for n, value in enumerate(inputs):
            node = nodes[n]
            dz = dzs[n].view(-1, node.blocks * node.size)
            grads[n].add_product("w_h", dz[:, node.of_h], hs.read[n][s0:s1].reshape(-1, nodes[n].size))
            if value is not None:
                grads[n].add_product("w_x", dz[:, node.of_x], value.flatten(0, 1))
            if dx is not None and plan.source[n] == FROM_INPUT:
                into = torch.mm(dz[:, node.of_x], w_x[n]).view(s1 - s0, rows, x_size)
                factor = factors[n]
                dx[s0:s1] += into if factor is None else into.mul_(factor)
    states = []
    for s, last in enumerate(plan.last):
        states += [held[s] for held, _ in zip((dh, dc), nodes[last].kind.letters, strict=False)]
    return [dx, *states, *(field for grad in grads for field in grad.fields())]


def kept(share: Share, room: Workspace, name: Hashable) -> Share:
    """The share of the old value, 1 - share."""
    if isinstance(share, Tensor):
        return torch.sub(1.0, share, out=room.take(name, *share.shape))
    return None if share is None else 1.0 - share


def rebuilt(node: Node, value: Tensor | None, h: Tensor, z: Tensor) -> Tensor:
    """z (k, B, blocks, H) from what the node read: its input after dropout and h, (k, B, .)."""
    z2, h2 = z.view(-1, node.blocks * node.size), h.reshape(-1, node.size)
    node.affine(z2, None if value is None else value.flatten(0, 1), h2)
    return z
