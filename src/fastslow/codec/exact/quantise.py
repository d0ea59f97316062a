"""From trained weights to a model in integers.

Deterministic: weights are multiplied by powers of two and rounded (halves to even), both exact, so the same weights
give the same integers, and the same name, on every machine.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastslow.cells.lstm import CellWeights
from fastslow.codec.errors import ModelError
from fastslow.codec.exact.model import (
    MAX_GAIN_BITS,
    MAX_SIZE,
    MAX_Z_BITS,
    SHIFT_BITS,
    ExactCell,
    ExactModel,
    ExactNode,
)
from fastslow.codec.exact.tables import ONE, ONE_BITS, Ints, standard_tables
from fastslow.layers.wired import WiredLSTM
from fastslow.wiring import FROM_INPUT

_MIN_BITS, _MAX_BITS = -8, 30
_INT32 = (1 << 31) - 1
_EXACT = 1 << 53


def start_symbol(symbols: bytes) -> int:
    """The symbol before the first one of a lane: a line feed, else a space, else the first of the alphabet."""
    return next((symbols.index(byte) for byte in b"\n " if byte in symbols), 0)


def quantise(
    symbols: bytes,
    embedding: Tensor,
    layer: WiredLSTM,
    head: Tensor,
    head_bias: Tensor | None,
    *,
    weight_bits: int = 16,
) -> ExactModel:
    """The model in integers of `weight_bits` (8 to 16) bits per weight.

    embedding (V, E), head (V, H), head_bias (V) or None; the layer's options are read from it. Raises ModelError for
    weights that are not finite, or too large for a fixed point.
    """
    if not 8 <= weight_bits <= 16:
        raise ValueError(f"weight_bits must be from 8 to 16; got {weight_bits}")
    limit = (1 << (weight_bits - 1)) - 1
    size = len(symbols)
    if embedding.shape[0] != size or head.shape[0] != size:
        raise ModelError(
            f"the model has {embedding.shape[0]} embedded symbols and {head.shape[0]} logits, its alphabet {size}"
        )
    if any(type(weights) is not CellWeights for weights in layer.weights()):
        raise ModelError("archives support models of LSTM cells only, and this model has other cells")
    embedded, embedding_bits = _matrix(embedding, limit, "the embedding")
    names: list[tuple[str, bool]] = []
    cells: list[ExactCell] = []
    nodes: list[ExactNode] = []
    wiring, rates = layer.wiring, layer.rates
    for index, (node, weights) in enumerate(zip(wiring.nodes, layer.weights(), strict=True)):
        source = wiring.sources[index]
        key = (node.cell_name, source == FROM_INPUT)
        if key not in names:
            names.append(key)
            cells.append(_cell(key, weights, embedded, embedding_bits, limit, rates.forget_bias))
        nodes.append(ExactNode(names.index(key), wiring.slot_of[index], source))
    head_weight, head_bits = _matrix(head, limit, "the head")
    model = ExactModel(
        symbols=symbols,
        start=start_symbol(symbols),
        width=1 if weight_bits == 8 else 2,
        embedding=embedded,
        embedding_bits=embedding_bits,
        cells=tuple(cells),
        nodes=tuple(nodes),
        slots=tuple(layer.hidden_sizes.values()),
        output=wiring.output_index,
        keep_h=round((1 - rates.zoneout_h) * ONE),
        keep_c=round((1 - rates.zoneout_c) * ONE),
        head=head_weight,
        head_bits=head_bits,
        head_bias=_vector(head_bias, size, ONE_BITS, "the head's bias"),
        tables=standard_tables(),
    )
    model.check()
    return model


def _cell(
    key: tuple[str, bool],
    weights: CellWeights,
    embedding: Ints,
    embedding_bits: int,
    limit: int,
    forget_bias: float,
) -> ExactCell:
    name, reads_embedding = key
    size = weights.hidden_size
    if size > MAX_SIZE:
        raise ModelError(f"cell {name!r} has {size} units; exact numerics take at most {MAX_SIZE}")
    embed_weight, embed_bits, inputs = np.zeros((0, 0), dtype=np.int64), 0, 0
    matrix = weights.w_h
    if reads_embedding and weights.w_x is not None:
        embed_weight, embed_bits = _matrix(weights.w_x, limit, f"{name}.weight_ih")
    elif weights.w_x is not None:
        inputs = weights.w_x.shape[1]
        matrix = torch.cat((weights.w_x, weights.w_h), dim=1)
    weight, bits = _matrix(matrix, limit, f"{name}.weight_hh")
    forget = np.zeros(4 * size)
    forget[size : 2 * size] = forget_bias
    norm = weights.layer_norm
    none = np.zeros(0, dtype=np.int64)
    gate_gain, gate_bits, cell_gain, cell_bits = none, 0, none, 0
    gate_shift = cell_shift = none
    if norm:
        gate_gain, gate_bits = _gain(weights.gate_gain, f"{name}.gate_norm.weight")
        cell_gain, cell_bits = _gain(weights.cell_gain, f"{name}.cell_norm.weight")
        gate_shift = _vector(weights.gate_shift, 4 * size, SHIFT_BITS, f"{name}.gate_norm.bias", add=forget)
        cell_shift = _vector(weights.cell_shift, size, SHIFT_BITS, f"{name}.cell_norm.bias")
    finest = min(MAX_Z_BITS, bits + ONE_BITS, embed_bits + embedding_bits if reads_embedding else MAX_Z_BITS)
    if not norm:
        finest = min(finest, ONE_BITS)
    # The finest unit of z in which every sum stays exact: ExactModel.check has the inequality.
    for z_bits in range(finest, -1, -1):
        bias = _vector(weights.bias, 4 * size, z_bits, f"{name}.bias", add=None if norm else forget)
        cell = ExactCell(
            hidden=size,
            input=inputs,
            embedded=reads_embedding,
            norm=norm,
            bits=bits,
            embed_bits=embed_bits,
            z_bits=z_bits,
            gate_bits=gate_bits,
            cell_bits=cell_bits,
            weight=weight,
            embed_weight=embed_weight,
            bias=bias,
            gate_gain=gate_gain,
            gate_shift=gate_shift,
            cell_gain=cell_gain,
            cell_shift=cell_shift,
        )
        bound = cell.bound(embedding, embedding_bits)
        if (4 * bound * bound * size if norm else bound) < _EXACT:
            return cell
    raise ModelError(f"the weights of cell {name!r} are too large for exact numerics; use float numerics")


def _matrix(weight: Tensor, limit: int, name: str) -> tuple[Ints, int]:
    """(integers within plus and minus limit, bits): the finest power of two that fits the largest weight."""
    values = _finite(weight, name)
    largest = float(np.abs(values).max(initial=0.0))
    for bits in range(_MAX_BITS, _MIN_BITS - 1, -1):
        if np.rint(largest * 2.0**bits) <= limit:
            return np.rint(values * 2.0**bits).astype(np.int64), bits
    raise ModelError(f"{name} has a weight of {largest:g}: too large for exact numerics; use float numerics")


def _gain(gain: Tensor | None, name: str) -> tuple[Ints, int]:
    assert gain is not None
    values, bits = _matrix(gain, (1 << 15) - 1, name)
    if bits < 2:
        raise ModelError(f"{name} is too large for exact numerics; use float numerics")
    if bits > MAX_GAIN_BITS:
        bits = MAX_GAIN_BITS
        values = np.rint(_finite(gain, name) * 2.0**bits).astype(np.int64)
    return values, bits


def _vector(values: Tensor | None, size: int, bits: int, name: str, add: NDArray[np.float64] | None = None) -> Ints:
    exact = np.zeros(size) if values is None else _finite(values, name)
    if add is not None:
        exact = exact + add
    scaled = np.rint(exact * 2.0**bits)
    if np.abs(scaled).max(initial=0.0) > _INT32:
        raise ModelError(f"{name} is too large for exact numerics; use float numerics")
    return scaled.astype(np.int64)


def _finite(weight: Tensor, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = weight.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(values).all():
        raise ModelError(f"{name} has values that are not finite; this model cannot predict anything")
    return values
