"""Weights in fixed point on the disk: a tensor of integers and one power of two each, w = n / 2^bits.

In a safetensors file the integers are of 16 bits, or of 32 where that is not enough (biases), and the metadata has
`fixed_point`, a JSON object with the bits of each tensor by name. float32 holds every such weight exactly, so that the
same file is the same model on every machine, and rounding the weights again gives the same integers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from fastslow.storage import ModelError, TensorSpec, parse_json

if TYPE_CHECKING:
    from torch import Tensor

BITS = "fixed_point"
"""The entry of the metadata that makes a file one of fixed point."""
INTEGERS = ("I16", "I32")
MIN_BITS, MAX_BITS = -8, 30
_LARGEST = 1 << 24
"""float32 holds every integer up to this."""


class Fixed(NamedTuple):
    """A weight in fixed point: values int16 or int32, standing for values / 2^bits."""

    values: Tensor
    bits: int


def stored(weights: Mapping[str, Fixed]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file with these weights. ModelError for one that float32 cannot hold."""
    for name, weight in weights.items():
        if not MIN_BITS <= weight.bits <= MAX_BITS or int(weight.values.long().abs().max()) > _LARGEST:
            raise ModelError(f"{name} has weights too large for fixed point: a float32 could not hold them exactly")
    bits = {name: weights[name].bits for name in sorted(weights)}
    return {name: weight.values for name, weight in weights.items()}, {BITS: json.dumps(bits, separators=(",", ":"))}


def specs(metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, TensorSpec]:
    """What the tensors of a file with this metadata must be. ModelError where its bits are not those of `shapes`."""
    read_bits(metadata, shapes, where)
    return {name: TensorSpec(shape, INTEGERS) for name, shape in shapes.items()}


def read_bits(metadata: Mapping[str, str], names: Iterable[str], where: str) -> dict[str, int]:
    """The bits of each tensor."""
    bits = parse_json(metadata[BITS], f"{where}: its entry {BITS}")
    if set(bits) != set(names):
        raise ModelError(f"{where} does not fit its configuration: its entry {BITS} has other names than the weights")
    for name, value in bits.items():
        if type(value) is not int or not MIN_BITS <= value <= MAX_BITS:
            raise ModelError(
                f"{where} is damaged: {BITS} of {name} must be from {MIN_BITS} to {MAX_BITS}; got {str(value)[:40]}"
            )
    return bits


def to_float(weights: Mapping[str, Tensor], bits: Mapping[str, int]) -> dict[str, Tensor]:
    """The weights in float32."""
    import torch

    return {name: values.to(torch.float32).mul_(2.0 ** -bits[name]) for name, values in weights.items()}
