"""The simple cell, in the notation of `fastslow.cells.simple`; z has one block.

With dh_t given, m_h the share of the new value, and elementwise products:

    dz = dh_t m_h (1 - h'^2), or dh_t m_h where z > 0;      dh = dh_t (1 - m_h) + W_h^T dz
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastslow.backends.window.gradients import Grads
from fastslow.backends.window.masks import Share
from fastslow.backends.window.node import Node
from fastslow.backends.window.workspace import Workspace

RECTIFIED = 3


class Forward:
    def __init__(self, node: Node, room: Workspace, n: int, rows: int) -> None:
        self.rectified = node.kind.code == RECTIFIED
        self.new_h = room.take(("h'", n), rows, node.size)

    def step(self, z: Tensor, h: Tensor, c: Tensor, share_h: Share, share_c: Share, h_t: Tensor, c_t: Tensor) -> None:
        new = h_t if share_h is None else self.new_h
        if self.rectified:
            torch.clamp_min(z[:, 0], 0, out=new)
        else:
            torch.tanh(z[:, 0], out=new)
        if share_h is not None:
            torch.lerp(h, new, share_h, out=h_t)


class Backward:
    def __init__(
        self, node: Node, n: int, z: Tensor, h: Tensor, c: Tensor, share_h: Share, keep_h: Share, room: Workspace
    ) -> None:
        factor = self.factor = room.take(("y", n), *z.shape)
        if node.kind.code == RECTIFIED:
            torch.gt(z, 0, out=factor)
        else:
            torch.tanh(z, out=factor)
            factor.mul_(factor).neg_().add_(1)
        if share_h is not None:
            factor.mul_(share_h.unsqueeze(2) if isinstance(share_h, Tensor) else share_h)

    def each_step(self) -> tuple[Sequence[Tensor], ...]:
        return (self.factor.unbind(0),)

    @staticmethod
    def step(
        node: Node, parts: tuple[Tensor, ...], dh: Tensor, dc: Tensor, share_c: Share, keep_h: Share, keep_c: Share,
        scratch: Tensor, dz: Tensor,
    ) -> bool:  # fmt: skip
        torch.mul(parts[0], dh.unsqueeze(1), out=dz)
        if keep_h is None:
            return False
        dh.mul_(keep_h)
        return True

    def add_vectors(self, grads: Grads, dz: Tensor) -> None:
        if grads.any("bias_x", "bias_h"):
            grads.add_vectors(0, dz.sum((0, 1)))
