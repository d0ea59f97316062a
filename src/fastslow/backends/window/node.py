"""The parameters of one node in the layout of the window engine: matrices in the order of the blocks of z."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastslow.cells.kinds import kind_of


class Node:
    """Matrices, vectors and products of a node.

    w_x (X, x_blocks H), or None, and w_h (H, h_blocks H): transposed, and copied to that layout if `transpose`.
    vectors (vector_blocks, H): see `Kind.vectors`. For a cell with a forget gate, the constant is included in the
        gate's shift, or in its bias without layer norm.
    """

    def __init__(self, weights: Any, forget_bias: float, transpose: bool) -> None:
        self.weights = weights
        kind = self.kind = kind_of(weights)
        H = self.size = weights.hidden_size
        self.norm: bool = weights.layer_norm
        self.blocks = kind.blocks
        self.x_first, self.h_first = min(kind.rows_x), min(kind.rows_h)
        self.of_x = slice(self.x_first * H, (self.x_first + len(kind.rows_x)) * H)
        """The columns of z (N, blocks H) that w_x contributes to,"""
        self.of_h = slice(self.h_first * H, (self.h_first + len(kind.rows_h)) * H)
        """and w_h."""

        def operand(field: str) -> Tensor:
            matrix = in_blocks(getattr(weights, field), kind.rows(field), H)
            return matrix.t().contiguous() if transpose else matrix.t()

        self.w_x = None if weights.w_x is None else operand("w_x")
        self.w_h = operand("w_h")
        self.vectors = torch.zeros(kind.vector_blocks, H, dtype=weights.w_h.dtype, device=weights.w_h.device)
        for field, places in kind.vectors.items():
            given = getattr(weights, field)
            if given is not None:
                self.vectors[list(places)] += given.view(len(places), H)
        if kind.forget_bias and forget_bias != 0:
            self.vectors[9 if self.norm else 1] += forget_bias
        self.bias = self.vectors[: kind.blocks].reshape(-1)  # (blocks H)

    def affine(self, z: Tensor, value: Tensor | None, h: Tensor | None) -> None:
        """z (N, blocks H) = bias + value w_x + h w_h; value (N, X), h (N, H). Without h: see `add_h`."""
        if value is None or self.w_x is None:
            z.copy_(self.bias)
        else:
            if self.of_h.stop > self.of_x.stop:
                z[:, self.of_x.stop :] = self.bias[self.of_x.stop :]
            torch.addmm(self.bias[self.of_x], value, self.w_x, out=z[:, self.of_x])
        if h is not None:
            self.add_h(z, h)

    def add_h(self, z: Tensor, h: Tensor) -> None:
        """z (N, blocks H) += h w_h"""
        z[:, self.of_h].addmm_(h, self.w_h)


def in_blocks(matrix: Tensor, rows: Sequence[int], size: int) -> Tensor:
    """The matrix (blocks H, K) with its blocks of rows in the order of the blocks of z that they contribute to."""
    order = [rows.index(place) for place in sorted(rows)]
    if order == list(range(len(rows))):
        return matrix
    return matrix.view(len(rows), size, -1)[order].view(matrix.shape)


def from_blocks(matrix: Tensor, rows: Sequence[int], size: int) -> Tensor:
    """The inverse of `in_blocks`."""
    order = [place - min(rows) for place in rows]
    if order == list(range(len(rows))):
        return matrix
    return matrix.view(len(rows), size, -1)[order].view(matrix.shape)
