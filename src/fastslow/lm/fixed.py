"""Weights in fixed point on the disk: integers and a power of two, w = n / 2^bits, one for a tensor or for each row.

In a safetensors file the integers have 16 bits, 32 where that is not enough (biases), or 8 with a power of two for each
row; the metadata has `fixed_point`, a JSON object with the bits of each tensor by name, or a list of them, one per row.
float32 holds every such weight exactly, so that the same file is the same model on every machine, and rounding the
weights again gives the same integers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from fastslow.storage import ModelError, TensorSpec, parse_json

if TYPE_CHECKING:
    from torch import Tensor

BITS = "fixed_point"
"""The entry of the metadata that makes a file one of fixed point."""
INTEGERS = ("I16", "I32")
ROW_INTEGERS = ("I8",)
"""The type of a tensor with a separate scale per row."""
MIN_BITS, MAX_BITS = -8, 30
_LARGEST = 1 << 24
"""float32 holds every integer up to this."""


Bits = int | tuple[int, ...]
"""The power of two of a tensor, or one for each of its rows."""


class Fixed(NamedTuple):
    """A weight in fixed point, values / 2^bits: int16 or int32 values, or int8 with bits for each row."""

    values: Tensor
    bits: Bits


def rows_of_8_bits(*matrices: Tensor) -> tuple[Fixed, ...]:
    """Matrices (N, K) rounded to 8 bits, halves to even.

    Matrices given together share the power of two of each row, in which the largest entry takes at least 64 of 127.
    """
    import torch

    from fastslow.backends.native.quantized import row_scales

    wide = [matrix.detach().to("cpu", torch.float64) for matrix in matrices]
    scales = row_scales(torch.stack([matrix.abs().amax(1) for matrix in wide]).amax(0))
    bits = (1 - torch.frexp(scales).exponent).long().clamp(MIN_BITS, MAX_BITS)
    factors = torch.tensor([[2.0**row] for row in bits.tolist()], dtype=torch.float64)
    rounded = [torch.round(matrix * factors) for matrix in wide]
    if not all(bool(values.abs().le(127).all()) for values in rounded):  # NaN too
        raise ModelError("a matrix has weights that are not finite, or too large for fixed point")
    return tuple(Fixed(values.to(torch.int8), tuple(bits.tolist())) for values in rounded)


def stored(weights: Mapping[str, Fixed]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file with these weights. ModelError for one that float32 cannot hold."""
    for name, weight in weights.items():
        every = (weight.bits,) if isinstance(weight.bits, int) else weight.bits
        if not all(MIN_BITS <= bits <= MAX_BITS for bits in every) or int(weight.values.long().abs().max()) > _LARGEST:
            raise ModelError(f"{name} has weights too large for fixed point: a float32 could not hold them exactly")
    bits = {name: weights[name].bits for name in sorted(weights)}
    return {name: weight.values for name, weight in weights.items()}, {BITS: json.dumps(bits, separators=(",", ":"))}


def specs(metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, TensorSpec]:
    """What the tensors of a file with this metadata must be. ModelError where its bits are not those of `shapes`."""
    bits = read_bits(metadata, shapes, where)
    return {
        name: TensorSpec(shape, INTEGERS if isinstance(bits[name], int) else ROW_INTEGERS)
        for name, shape in shapes.items()
    }


def read_bits(metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, Bits]:
    """The bits of each tensor."""
    stored_bits = parse_json(metadata[BITS], f"{where}: its entry {BITS}")
    if set(stored_bits) != set(shapes):
        raise ModelError(f"{where} does not fit its configuration: its entry {BITS} has other names than the weights")
    bits: dict[str, Bits] = {}
    for name, value in stored_bits.items():
        every = value if isinstance(value, list) else [value]
        for one in every:
            if type(one) is not int or not MIN_BITS <= one <= MAX_BITS:
                raise ModelError(
                    f"{where} is damaged: {BITS} of {name} must be from {MIN_BITS} to {MAX_BITS}; got {str(one)[:40]}"
                )
        if isinstance(value, list) and (len(shapes[name]) != 2 or len(value) != shapes[name][0]):
            raise ModelError(
                f"{where} does not fit its configuration: {BITS} of {name} has {len(value)} rows, "
                f"and the tensor is {shapes[name]}"
            )
        bits[name] = tuple(value) if isinstance(value, list) else value
    return bits


def to_float(weights: Mapping[str, Tensor], bits: Mapping[str, Bits]) -> dict[str, Tensor]:
    """The weights in float32."""
    import torch

    def scale(of: Bits) -> Tensor | float:
        # Python's powers of two are exact; torch.exp2 need not be.
        return 2.0**-of if isinstance(of, int) else torch.tensor([[2.0**-row] for row in of], dtype=torch.float32)

    return {name: values.to(torch.float32) * scale(bits[name]) for name, values in weights.items()}
