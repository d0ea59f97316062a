"""Weight matrices in 8 bits, with a power of two per row.

The scale is a power of two so that float32 holds the rounded matrix exactly: rounding it again changes nothing, and a
matrix that is already of this form is recognised from its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

LARGEST = 127
_SMALLEST = 2.0**-110
"""Rows with smaller entries get this scale's: float32 must not round a scale, nor flush it to zero."""
_FIRST_ROWS = 4


def row_scales(largest: Tensor) -> Tensor:
    """The smallest power of two per row by which entries up to `largest` (R,) are at most 127 units: (R,) float64."""
    ratio = LARGEST / largest.to(torch.float64).clamp_min(_SMALLEST)
    # By frexp, which is exact; a logarithm could be rounded to the next integer.
    return 2 * torch.frexp(ratio).mantissa / ratio


class Quantized:
    """A weight matrix (R, K) rounded to 8 bits: entry = int8 * scale, a power of two per row.

    values: (R, K rounded up to a multiple of 16) int8, zero-padded; scale: (R,) float32.
    """

    def __init__(self, weight: Tensor) -> None:
        rows, columns = weight.shape
        value = weight.detach().to(torch.float64)
        self.scale = row_scales(value.abs().amax(1)).float()
        self.values = torch.zeros(rows, -(-columns // 16) * 16, dtype=torch.int8, device=weight.device)
        self.values[:, :columns] = (value / self.scale.unsqueeze(1)).round_().to(torch.int8)
        self.columns = columns

    @classmethod
    def of_same(cls, weight: Tensor) -> Self | None:
        """The matrix in 8 bits if that is exact, otherwise None."""
        weight = weight.detach()
        for part in (weight[:_FIRST_ROWS], weight):  # most matrices are refused by their first rows
            if not part.isfinite().all():
                return None
            quantized = cls(part)
            if not torch.equal(quantized.dequantized(), part.float()) or not torch.equal(part.float().to(part), part):
                return None
        return quantized

    def addresses(self) -> tuple[int, int, int]:
        """The address of the values, their row stride, and the address of the scales."""
        return self.values.data_ptr(), self.values.stride(0), self.scale.data_ptr()

    def dequantized(self) -> Tensor:
        """(R, K) float32: the matrix with which the engine computes."""
        return self.values[:, : self.columns].float() * self.scale.unsqueeze(1)


def quantized_matrices(weights: Sequence[Any]) -> list[tuple[Quantized | None, Quantized]] | None:
    """(w_x, w_h) of each node in 8 bits, or None unless that is exact for all of them.

    A matrix that several nodes share is quantized once.
    """
    made: dict[int, Quantized] = {}
    for w in weights:
        for weight in (w.w_h, w.w_x):
            if weight is not None and weight.data_ptr() not in made:
                quantized = Quantized.of_same(weight)
                if quantized is None:
                    return None
                made[weight.data_ptr()] = quantized
    return [(None if w.w_x is None else made[w.w_x.data_ptr()], made[w.w_h.data_ptr()]) for w in weights]


class Copies:
    """8-bit copies of a network's matrices, exact ones, and whether the matrices have changed since.

    A change in place is noticed by the tensor's version counter. One through `.data`, which has a counter of its own,
    is noticed by the matrix's largest entry.
    """

    def __init__(self, weights: Sequence[Any]) -> None:
        self.matrices: list[tuple[Quantized | None, Quantized]] | None = None
        """(w_x, w_h) of each node; None if 8 bits do not hold every matrix exactly."""
        tensors = [part for w in weights for part in (w.w_x, w.w_h) if part is not None]
        if any(part.is_inference() for part in tensors):  # it has no version counter
            return
        self._tensors = tensors
        self._versions = [part._version for part in tensors]
        self.matrices = quantized_matrices(weights)
        if self.matrices is not None:
            flat = [part.detach().view(-1).numpy() for part in tensors]
            self._samples = [(values, at := int(abs(values).argmax()), values[at]) for values in flat]

    def current(self) -> bool:
        """Whether the matrices are still those that were copied, as far as is noticed."""
        return self.matrices is None or (
            [part._version for part in self._tensors] == self._versions
            and all(values[at] == value for values, at, value in self._samples)
        )
