"""The gated recurrent unit, in the notation of `fastslow.cells.gru`; the blocks of z are a_n, a_r, a_z, a_m.

With dh_t given, m_h the share of the new value, and elementwise products:

    da_n = dh_t m_h (1 - z) (1 - n^2)         da_m = da_n r
    da_r = da_n a_m r (1 - r)                 da_z = dh_t m_h (h - n) z (1 - z)
    dh   = dh_t (1 - m_h + m_h z) + W_h^T (da_r, da_z, da_m)

and LN' is applied to each of them where the four are normalised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastslow.backends.window.gradients import Grads
from fastslow.backends.window.masks import Share
from fastslow.backends.window.node import Node
from fastslow.backends.window.workspace import Workspace
from fastslow.cells.lstm import NORM_EPSILON

_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default


class Forward:
    def __init__(self, node: Node, room: Workspace, n: int, rows: int) -> None:
        self.node = node
        self.gates = room.take(("gates", n), rows, 4, node.size)
        self.new_h = room.take(("h'", n), rows, node.size)

    def step(self, z: Tensor, h: Tensor, c: Tensor, share_h: Share, share_c: Share, h_t: Tensor, c_t: Tensor) -> None:
        node, y = self.node, self.gates
        if node.norm:
            normed, _, _ = torch.native_layer_norm(z, (node.size,), None, None, NORM_EPSILON)
            torch.addcmul(node.vectors[8:12], normed, node.vectors[4:8], out=y)
        else:
            y.copy_(z)
        y[:, 1:3].sigmoid_()
        a_n, r, update, a_m = y.unbind(1)
        fresh = a_n.addcmul_(r, a_m).tanh_()
        if share_h is None:
            torch.lerp(fresh, h, update, out=h_t)
        else:
            torch.lerp(fresh, h, update, out=self.new_h)
            torch.lerp(h, self.new_h, share_h, out=h_t)


class Backward:
    """dy starts as the factors of dh_t in the gradients of the four sums; each step multiplies its part in place."""

    def __init__(
        self, node: Node, n: int, z: Tensor, h: Tensor, c: Tensor, share_h: Share, keep_h: Share, room: Workspace
    ) -> None:
        self.node, self.z = node, z
        y = self.dy = room.take(("y", n), *z.shape)
        if node.norm:
            self.z_norm, self.mean, self.rstd = torch.native_layer_norm(z, (node.size,), None, None, NORM_EPSILON)
            torch.addcmul(node.vectors[8:12], self.z_norm, node.vectors[4:8], out=y)
        else:
            y.copy_(z)
        y[:, :, 1:3].sigmoid_()
        a_n, r, update, a_m = y.unbind(2)
        fresh = torch.tanh(torch.addcmul(a_n, r, a_m))
        self.carry = update if share_h is None else update * share_h
        if keep_h is not None:
            self.carry = self.carry + keep_h
        elif share_h is None:
            self.carry = update.clone()
        inner = (1 - update) * (1 - fresh * fresh)
        of_update = (h - fresh) * update * (1 - update)
        if share_h is not None:
            inner, of_update = inner * share_h, of_update * share_h
        of_m = inner * r
        r.mul_(1 - r).mul_(a_m).mul_(inner)
        a_n.copy_(inner)
        update.copy_(of_update)
        a_m.copy_(of_m)

    def each_step(self) -> tuple[Sequence[Tensor], ...]:
        parts = [self.dy, self.carry]
        if self.node.norm:
            parts += [self.z, self.mean, self.rstd]
        return tuple(part.unbind(0) for part in parts)

    @staticmethod
    def step(
        node: Node, parts: tuple[Tensor, ...], dh: Tensor, dc: Tensor, share_c: Share, keep_h: Share, keep_c: Share,
        scratch: Tensor, dz: Tensor,
    ) -> bool:  # fmt: skip
        dy, carry, *normed = parts
        dy.mul_(dh.unsqueeze(1))
        dh.mul_(carry)
        if node.norm:
            torch.mul(dy, node.vectors[4:8], out=scratch)
            dy = _layer_norm_backward(scratch, normed[0], (node.size,), *normed[1:], None, None, [True, False, False])[
                0
            ]
        dz.copy_(dy)
        return True

    def add_vectors(self, grads: Grads, dz: Tensor) -> None:
        if grads.any("bias_x", "bias_h"):
            grads.add_vectors(0, dz.sum((0, 1)))
        if grads.any("gate_shift"):
            grads.add_vectors(8, self.dy.sum((0, 1)))
        if grads.any("gate_gain"):
            grads.add_vectors(4, self.z_norm.mul_(self.dy).sum((0, 1)))
