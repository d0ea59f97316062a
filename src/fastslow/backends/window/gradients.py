"""The gradients of one node's parameters, accumulated block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.window.node import from_blocks
from fastslow.cells.kinds import kind_of


class Grads:
    """wanted: one bool per parameter, in the order of the fields. Sums use the layout of `Node`."""

    def __init__(self, weights: Any, wanted: Sequence[bool]) -> None:
        self.weights, self.kind = weights, kind_of(weights)
        self.wanted = dict(zip(weights._fields, wanted, strict=True))
        self.matrices: dict[str, Tensor] = {}
        self.vectors = weights.w_h.new_zeros(self.kind.vector_blocks, weights.hidden_size)

    def any(self, *fields: str) -> bool:
        """Whether one of these is wanted."""
        return any(self.wanted.get(field, False) for field in fields)

    def add_product(self, name: str, dz: Tensor, value: Tensor) -> None:
        """A matrix: += dz^T value, dz (N, its blocks H), value (N, .)."""
        if not self.wanted[name]:
            return
        if name in self.matrices:
            self.matrices[name].addmm_(dz.t(), value)
        else:
            self.matrices[name] = torch.mm(dz.t(), value)

    def add_vectors(self, first: int, value: Tensor) -> None:
        """The vectors from block `first` on: += value (blocks, H)."""
        self.vectors[first : first + value.shape[0]] += value

    def fields(self) -> list[Tensor | None]:
        """One per field; None if it is not wanted or there is none."""
        return [self._field(name) if want else None for name, want in self.wanted.items()]

    def _field(self, name: str) -> Tensor | None:
        if name in self.kind.vectors:
            places: Tensor = self.vectors[list(self.kind.vectors[name])]
            return places.reshape(-1)
        total = self.matrices.get(name)
        return None if total is None else from_blocks(total, self.kind.rows(name), self.weights.hidden_size)
