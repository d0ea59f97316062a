"""A language model in integers: embedding -> any wiring of the LSTM cell -> linear head, and its one serial form.

The SHA-256 of `ExactModel.to_bytes()` names the model. Everything is checked on loading, including the bounds that keep
every sum below 2^53, so that an untrusted model either computes exactly or is rejected.

Units: a matrix with `bits` b holds w as round(2^b w). z (a gate's pre-activation) is in units of 2^-z_bits, chosen for
each cell so that sums of squares over a gate stay below 2^53; h, c and logits are in units of 2^-15.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fastslow.codec.errors import FormatError
from fastslow.codec.exact.tables import COARSE, FINE_BITS, KNOTS, ONE, ONE_BITS, Ints, Tables
from fastslow.wiring import FROM_INPUT, NO_INPUT

MAGIC = b"FSXM"
FORMAT = 1
NORM_BITS = 14
"""Fractional bits of a normalised value, before its gain."""
INVERSE_BITS = 40
"""One over a standard deviation is kept as floor(2^40 / sqrt(variance + epsilon))."""
SHIFT_BITS = 16
"""Fractional bits of the norms' biases."""
EPSILON_DIVISOR = 1000
"""The norms' epsilon is 1e-3: 4^bits / 1000 in the units of a variance."""
C_LIMIT = (1 << 23) - 1
"""c stays within plus and minus this (256.0)."""
MAX_SIZE = 8192
MAX_Z_BITS = 20
MAX_GAIN_BITS = 16
_MAX_HEADER = 1 << 16
_MAX_NODES = 64
_EXACT = 1 << 53
_NO_INTS: Ints = np.zeros(0, dtype=np.int64)


def epsilon(bits: int) -> int:
    """The norms' epsilon in units of 2^-2bits, at least 1."""
    return max(1, ((1 << 2 * bits) + EPSILON_DIVISOR // 2) // EPSILON_DIVISOR)


def round_shift(values: Ints, bits: int) -> Ints:
    """floor(values / 2^bits + 1/2) for bits >= 0."""
    return values if bits == 0 else (values + (1 << (bits - 1))) >> bits


@dataclass(frozen=True)
class ExactCell:
    """One LSTM cell. Arrays are int64 in memory; gates in the order i, f, g, o.

    weight (4H, X + H): the input's columns first (X = 0: no input, or the embedding), `bits`.
    embed_weight (4H, E): where the cell reads the embedding, else (0, 0), `embed_bits`.
    bias (4H): in units of z.
    gate_gain (4H), `gate_bits`; gate_shift (4H), 16 bits, the forget gate's constant included; cell_gain, cell_shift
    (H) likewise. Empty where the cell has no norms; the constant is then in `bias`.
    """

    hidden: int
    input: int
    embedded: bool
    norm: bool
    bits: int
    embed_bits: int
    z_bits: int
    gate_bits: int
    cell_bits: int
    weight: Ints
    embed_weight: Ints
    bias: Ints
    gate_gain: Ints
    gate_shift: Ints
    cell_gain: Ints
    cell_shift: Ints

    def bound(self, embedding: Ints, embedding_bits: int) -> int:
        """No |z| exceeds this, whatever the state: the largest row sum of |weight| times |h| <= 1, and the rest."""
        rows = np.abs(self.weight).sum(axis=1) * ONE
        recurrent = (rows >> self.z_shift) + 1
        return int((recurrent + np.abs(self.input_table(embedding, embedding_bits)).max(axis=0)).max())

    @property
    def z_shift(self) -> int:
        """Bits dropped from a product of weights and h to get z."""
        return self.bits + ONE_BITS - self.z_bits

    def input_table(self, embedding: Ints, embedding_bits: int) -> Ints:
        """What the embedding and the bias add to z: (V, 4H), or (1, 4H) where the cell does not read the embedding."""
        if not self.embedded:
            return self.bias[None, :]
        # In float64 for speed: |sums| <= 2^30 E <= 2^43, exact in any order.
        product = embedding.astype(np.float64) @ self.embed_weight.astype(np.float64).T
        return round_shift(product.astype(np.int64), self.embed_bits + embedding_bits - self.z_bits) + self.bias


@dataclass(frozen=True)
class ExactNode:
    """One cell of a step: which cell, which state slot, and what it reads (a node's index, FROM_INPUT, NO_INPUT)."""

    cell: int
    slot: int
    source: int


@dataclass(frozen=True)
class ExactModel:
    """The whole model. `symbols`: the alphabet; `start`: the symbol fed before the first one of a lane, and in place
    of a byte outside the alphabet; `width`: bytes of a stored weight; `keep_h`, `keep_c`: the share of the new value
    of zoneout in expectation, in 2^-15."""

    symbols: bytes
    start: int
    width: int
    embedding: Ints
    embedding_bits: int
    cells: tuple[ExactCell, ...]
    nodes: tuple[ExactNode, ...]
    slots: tuple[int, ...]
    output: int
    keep_h: int
    keep_c: int
    head: Ints
    head_bits: int
    head_bias: Ints
    tables: Tables

    # ------------------------------------------------------------------ identity

    def to_bytes(self) -> bytes:
        """The serial form: magic, length of a JSON header, the header, then the arrays in a fixed order."""
        header = {
            "format": FORMAT,
            "symbols": self.symbols.hex(),
            "start": self.start,
            "width": self.width,
            "embedding": [self.embedding.shape[1], self.embedding_bits],
            "cells": [
                {name: int(getattr(cell, name)) for name in _CELL_FIELDS}  # bools as 0 and 1
                for cell in self.cells
            ],
            "nodes": [[node.cell, node.slot, node.source] for node in self.nodes],
            "slots": list(self.slots),
            "output": self.output,
            "keep": [self.keep_h, self.keep_c],
            "head_bits": self.head_bits,
        }
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode("ascii")
        parts = [MAGIC, len(text).to_bytes(4, "little"), text]
        weights = f"<i{self.width}"
        for values, kind in self._arrays():
            parts.append(values.astype(weights if kind == "w" else kind).tobytes())
        return b"".join(parts)

    def _arrays(self) -> Iterator[tuple[Ints, str]]:
        tables = self.tables
        for table in (tables.sigmoid_knots, tables.exp_coarse, tables.exp_fine):
            yield table, "<i4"
        yield self.embedding, "w"
        for cell in self.cells:
            for name, kind, _ in _cell_arrays(cell.hidden, cell.input, cell.embedded, cell.norm, 0):
                yield getattr(cell, name), kind
        yield self.head, "w"
        yield self.head_bias, "<i4"

    @cached_property
    def id(self) -> bytes:
        """32 bytes that identify the model: the SHA-256 of its serial form."""
        return hashlib.sha256(self.to_bytes()).digest()

    @property
    def parameters(self) -> int:
        """The number of learned integers, without the tables."""
        return sum(values.size for values, _ in self._arrays()) - KNOTS - COARSE - (1 << FINE_BITS)

    # ------------------------------------------------------------------ bounds

    def check(self) -> None:
        """FormatError unless every size and every bound of this file holds."""
        self.tables.check()
        size = len(self.symbols)
        _require(1 <= size <= 256 and list(self.symbols) == sorted(set(self.symbols)), "its alphabet is not ascending")
        _require(0 <= self.start < size, "its start symbol is not in the alphabet")
        _require(-8 <= self.embedding_bits <= 30 and -8 <= self.head_bits <= 30, "a scale is out of range")
        _require(0 <= self.keep_h <= ONE and 0 <= self.keep_c <= ONE, "zoneout is not a probability")
        for number, cell in enumerate(self.cells):
            where = f"cell {number}"
            _require(-8 <= cell.bits <= 30 and -8 <= cell.embed_bits <= 30, f"{where}: a scale is out of range")
            _require(0 <= cell.z_bits <= MAX_Z_BITS and 0 <= cell.z_shift <= 45, f"{where}: z_bits is out of range")
            if cell.embedded:
                down = cell.embed_bits + self.embedding_bits - cell.z_bits
                _require(0 <= down <= 60, f"{where}: the embedding's scale is out of range")
            for bits in (cell.gate_bits, cell.cell_bits) if cell.norm else ():
                _require(2 <= bits <= MAX_GAIN_BITS, f"{where}: a gain's scale is out of range")
            bound = cell.bound(self.embedding, self.embedding_bits)
            # (z - mean)^2 summed over a gate: an exact float64. Without norms z alone has to be one.
            squares = 4 * bound * bound * cell.hidden if cell.norm else bound
            _require(squares < _EXACT, f"{where}: its sums could exceed 2^53")
            # One gate before its floor: a sum of products and the rest, in units of 2^-z_shift of z.
            _require((bound + 1) << cell.z_shift < _EXACT, f"{where}: its products could exceed 2^53")
        logits = np.abs(self.head).sum(axis=1) * ONE + ((np.abs(self.head_bias) + 1) << max(0, self.head_bits))
        _require(int(logits.max()) < _EXACT, "its logits could exceed 2^53")
        self._check_wiring()

    def _check_wiring(self) -> None:
        _require(1 <= len(self.nodes) <= _MAX_NODES, "it has no nodes, or too many")
        _require(0 <= self.output < len(self.nodes), "its output is not a node")
        for number, node in enumerate(self.nodes):
            where = f"node {number}"
            _require(0 <= node.cell < len(self.cells), f"{where} names no cell")
            _require(0 <= node.slot < len(self.slots), f"{where} names no slot")
            cell = self.cells[node.cell]
            _require(self.slots[node.slot] == cell.hidden, f"{where}: cell and slot differ in size")
            _require(cell.embedded == (node.source == FROM_INPUT), f"{where} reads what its cell does not")
            if node.source >= 0:
                _require(node.source < number, f"{where} reads a later node")
                _require(self._size(node.source) == cell.input, f"{where}: its input has another size")
            else:
                _require(node.source in (FROM_INPUT, NO_INPUT) and cell.input == 0, f"{where} has no such input")
        _require(self.head.shape[1] == self._size(self.output), "its head has another size than its output")

    def _size(self, node: int) -> int:
        return self.slots[self.nodes[node].slot]


_CELL_FIELDS = ("hidden", "input", "embedded", "norm", "bits", "embed_bits", "z_bits", "gate_bits", "cell_bits")


def _cell_arrays(
    hidden: int, inputs: int, embedded: bool, norm: bool, embedding: int
) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name, type, shape) of a cell's stored arrays, in order; type "w": a weight."""
    gates = 4 * hidden
    arrays: list[tuple[str, str, tuple[int, ...]]] = [("weight", "w", (gates, inputs + hidden))]
    if embedded:
        arrays.append(("embed_weight", "w", (gates, embedding)))
    arrays.append(("bias", "<i4", (gates,)))
    if norm:
        arrays += [("gate_gain", "<i2", (gates,)), ("gate_shift", "<i4", (gates,))]
        arrays += [("cell_gain", "<i2", (hidden,)), ("cell_shift", "<i4", (hidden,))]
    return arrays


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise FormatError(f"this is not a model in integers that this version can run: {why}")


def model_from_bytes(data: bytes) -> ExactModel:
    """The model that `to_bytes` wrote. FormatError for anything else; allocates no more than a few times `data`."""
    _require(data[:4] == MAGIC, "it does not begin with FSXM")
    length = int.from_bytes(data[4:8], "little")
    _require(length <= _MAX_HEADER and 8 + length <= len(data), "its header is truncated or too long")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        raise FormatError("the header of the model in integers is not JSON") from None
    _require(isinstance(header, dict) and header.get("format") == FORMAT, "it is of another version")
    try:
        model = _parse(header, data, 8 + length)
    except (KeyError, TypeError, ValueError, IndexError):
        raise FormatError("the header of the model in integers lacks a field or has one of the wrong type") from None
    model.check()
    _require(model.to_bytes() == data, "it is not in the canonical form")
    return model


def _parse(header: dict[str, Any], data: bytes, at: int) -> ExactModel:
    def integer(value: Any, low: int, high: int, name: str) -> int:
        _require(type(value) is int and low <= value <= high, f"{name} is not an integer from {low} to {high}")
        return int(value)

    width = integer(header["width"], 1, 2, "width")
    position = at

    def take(kind: str, shape: tuple[int, ...]) -> Ints:
        nonlocal position
        dtype = np.dtype(f"<i{width}" if kind == "w" else kind)
        count = int(np.prod(shape))
        end = position + count * dtype.itemsize
        _require(end <= len(data), "it is truncated")
        values = np.frombuffer(data, dtype, count, position).astype(np.int64).reshape(shape)
        position = end
        return values

    symbols = bytes.fromhex(header["symbols"])
    _require(1 <= len(symbols) <= 256, "its alphabet has 1 to 256 symbols")
    embedding_size = integer(header["embedding"][0], 1, MAX_SIZE, "the size of the embedding")
    tables = Tables(take("<i4", (KNOTS,)), take("<i4", (COARSE,)), take("<i4", (1 << FINE_BITS,)))
    embedding = take("w", (len(symbols), embedding_size))
    _require(0 < len(header["cells"]) <= _MAX_NODES, "it has no cells, or too many")
    cells = [_parse_cell(fields, embedding_size, integer, take) for fields in header["cells"]]
    nodes = tuple(
        ExactNode(*(integer(value, -2, _MAX_NODES, "a node's field") for value in fields)) for fields in header["nodes"]
    )
    slots = tuple(integer(size, 1, MAX_SIZE, "a slot's size") for size in header["slots"])
    output = integer(header["output"], 0, len(nodes) - 1, "the output")
    slot = nodes[output].slot
    _require(0 <= slot < len(slots), "its output names no slot")
    head = take("w", (len(symbols), slots[slot]))
    head_bias = take("<i4", (len(symbols),))
    _require(position == len(data), "there is data after its end")
    keep_h, keep_c = (integer(value, 0, ONE, "zoneout") for value in header["keep"])
    return ExactModel(
        symbols=symbols,
        start=integer(header["start"], 0, 255, "start"),
        width=width,
        embedding=embedding,
        embedding_bits=integer(header["embedding"][1], -8, 30, "the embedding's bits"),
        cells=tuple(cells),
        nodes=nodes,
        slots=slots,
        output=output,
        keep_h=keep_h,
        keep_c=keep_c,
        head=head,
        head_bits=integer(header["head_bits"], -8, 30, "the head's bits"),
        head_bias=head_bias,
        tables=tables,
    )


def _parse_cell(
    fields: dict[str, Any],
    embedding_size: int,
    integer: Callable[[Any, int, int, str], int],
    take: Callable[[str, tuple[int, ...]], Ints],
) -> ExactCell:
    limits = {"hidden": (1, MAX_SIZE), "input": (0, MAX_SIZE), "embedded": (0, 1), "norm": (0, 1)}
    read = {name: integer(fields[name], *limits.get(name, (-8, 30)), f"a cell's {name}") for name in _CELL_FIELDS}
    embedded, norm = bool(read["embedded"]), bool(read["norm"])
    arrays: dict[str, Any] = dict.fromkeys(("gate_gain", "gate_shift", "cell_gain", "cell_shift"), _NO_INTS)
    arrays["embed_weight"] = np.zeros((0, 0), dtype=np.int64)
    for name, kind, shape in _cell_arrays(read["hidden"], read["input"], embedded, norm, embedding_size):
        arrays[name] = take(kind, shape)
    scalars: dict[str, Any] = {**read, "embedded": embedded, "norm": norm}
    return ExactCell(**scalars, **arrays)
