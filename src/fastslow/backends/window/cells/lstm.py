"""The LSTM, in the notation of `fastslow.cells.lstm`, and `plain_lstm` without norms; the blocks of z are i, f, g, o.

The derivation is in `fastslow.backends.window.engine`.
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
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_INPUT_ONLY, _PARAMETERS_ONLY = [True, False, False], [False, True, True]


class Forward:
    def __init__(self, node: Node, room: Workspace, n: int, rows: int) -> None:
        self.node = node
        self.gates = room.take(("gates", n), rows, 4, node.size)
        self.i, self.f, self.y_g, self.o = self.gates.unbind(1)
        self.g, self.new_h, self.new_c = (room.take((name, n), rows, node.size) for name in ("g", "h'", "c'"))

    def step(self, z: Tensor, h: Tensor, c: Tensor, share_h: Share, share_c: Share, h_t: Tensor, c_t: Tensor) -> None:
        node, y = self.node, self.gates
        if not node.norm:
            torch.tanh(z[:, 2], out=self.g)
            torch.sigmoid(z, out=y)
        else:
            normed, _, _ = torch.native_layer_norm(z, (node.size,), None, None, NORM_EPSILON)
            torch.addcmul(node.vectors[8:12], normed, node.vectors[4:8], out=y)
            torch.tanh(self.y_g, out=self.g)
            y.sigmoid_()
        new_c = c_t if share_c is None else self.new_c
        torch.mul(self.i, self.g, out=new_c)
        new_c.addcmul_(self.f, c)
        if not node.norm:
            u = torch.tanh(new_c, out=self.g)
        else:
            n = torch.native_layer_norm(new_c, (node.size,), node.vectors[12], node.vectors[13], NORM_EPSILON)[0]
            u = n.tanh_()
        if share_c is not None:
            torch.lerp(c, new_c, share_c, out=c_t)
        if share_h is None:
            torch.mul(self.o, u, out=h_t)
        else:
            torch.mul(self.o, u, out=self.new_h)
            torch.lerp(h, self.new_h, share_h, out=h_t)


class Backward:
    """The gradient factors of one node for the steps of a block, computed at once; each (k, B, 4, H) or (k, B, H).

    `dy` and `dn` start as factors: dy of dc' (gates i, f, g) or of dh_t (gate o), dn of dh_t. Each step multiplies its
    part in place, so that at the end they are the gradients of the same names in the derivation.
    """

    def __init__(
        self, node: Node, n: int, z: Tensor, h: Tensor, c: Tensor, share_h: Share, keep_h: Share, room: Workspace
    ) -> None:
        self.node, self.z = node, z
        size, wide, shape = (node.size,), tuple(z.shape), tuple(c.shape)
        y = self.dy = room.take(("y", n), *wide)
        g, self.new_c, self.f, self.dn = (room.take((name, n), *shape) for name in ("g", "c'", "f", "dn"))
        if not node.norm:
            y.copy_(z)
        else:
            self.z_norm, self.mean, self.rstd = torch.native_layer_norm(z, size, None, None, NORM_EPSILON)
            torch.addcmul(node.vectors[8:12], self.z_norm, node.vectors[4:8], out=y)
        i, f, y_g, o = y.unbind(2)
        torch.tanh(y_g, out=g)
        y.sigmoid_()
        torch.mul(i, g, out=self.new_c).addcmul_(f, c)
        self.f.copy_(f)
        if not node.norm:
            u = torch.tanh(self.new_c)
        else:
            gain, shift = node.vectors[12:14].unbind(0)
            u, self.c_mean, self.c_rstd = torch.native_layer_norm(self.new_c, size, gain, shift, NORM_EPSILON)
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
        """The arguments of `step` for this block, one entry per step."""
        parts = [self.dn, self.dy[:, :, 3], self.dy[:, :, :3], self.f, self.dy]
        if self.node.norm:
            parts += [self.new_c, self.c_mean, self.c_rstd, self.z, self.mean, self.rstd]
        return tuple(part.unbind(0) for part in parts)

    def add_vectors(self, grads: Grads, dz: Tensor) -> None:
        if grads.any("bias", "bias_x", "bias_h"):
            grads.add_vectors(0, dz.sum((0, 1)))
        if grads.any("gate_shift"):
            grads.add_vectors(8, self.dy.sum((0, 1)))
        if grads.any("gate_gain"):
            grads.add_vectors(4, self.z_norm.mul_(self.dy).sum((0, 1)))
        if grads.any("cell_gain", "cell_shift"):
            node, stats = self.node, (self.c_mean, self.c_rstd)
            _, gain, shift = _layer_norm_backward(
                self.dn, self.new_c, (node.size,), *stats, *node.vectors[12:14], _PARAMETERS_ONLY
            )
            grads.add_vectors(12, torch.stack((gain, shift)))

    @staticmethod
    def step(
        node: Node, parts: tuple[Tensor, ...], dh: Tensor, dc: Tensor, share_c: Share, keep_h: Share, keep_c: Share,
        scratch: Tensor, dz: Tensor,
    ) -> bool:  # fmt: skip
        dn, dy_o, dy_ifg, f, dy, *normed = parts
        dn.mul_(dh)
        dy_o.mul_(dh)
        dnew_c = dn
        if node.norm:
            new_c, c_mean, c_rstd, z, mean, rstd = normed
            size = (node.size,)
            dnew_c = _layer_norm_backward(dn, new_c, size, c_mean, c_rstd, *node.vectors[12:14], _INPUT_ONLY)[0]
        if isinstance(share_c, Tensor):
            dnew_c.addcmul_(dc, share_c)
        else:
            dnew_c.add_(dc, alpha=1.0 if share_c is None else share_c)
        dy_ifg.mul_(dnew_c.unsqueeze(1))
        if keep_c is None:
            torch.mul(dnew_c, f, out=dc)
        else:
            dc.mul_(keep_c).addcmul_(dnew_c, f)
        if node.norm:
            torch.mul(dy, node.vectors[4:8], out=scratch)
            dy = _layer_norm_backward(scratch, z, size, mean, rstd, None, None, _INPUT_ONLY)[0]
        dz.copy_(dy)
        if keep_h is None:
            return False
        dh.mul_(keep_h)
        return True
