"""Inference on an `ExactModel`: one step over many lanes, the same bits on every machine.

Integers held in float64. Every product of a step is a sum of integers times one power of two, and every such sum stays
below 2^53 (`ExactModel.check` proves it for the weights at hand), so it is exact whatever the order, the number of
lanes, of threads, the instruction set or the device. What is not a sum is a table look-up, a floor, or a division or
square root of exact numbers, whose rounding IEEE 754 defines.

    z    = floor((W [u, h]) / 2^(bits + 15 - z_bits) + 1/2) + bias          + the embedding's part, from a table
    m    = floor((2 sum z + H) / 2H)                                         per gate
    v    = floor(sum (z - m)^2 / H)
    inv  = floor(2^40 / sqrt(v + epsilon))
    n    = floor((z - m) inv / 2^26)                                         14 fractional bits
    gate = table[floor((n gain + shift) / 2^(2 + gate_bits) + 1/2)]          argument with 12 fractional bits
    c'   = floor((f c + i g) / 2^15 + 1/2), within +-(2^23 - 1)
    h'   = floor(o tanh[LN(c')] / 2^15 + 1/2)
    h    = floor((keep h' + (2^15 - keep) h) / 2^15 + 1/2), c the same       zoneout in expectation

docs/format.md has the same in prose. This is the reference; codec/native has it in compiled code.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastslow.codec.exact.model import (
    C_LIMIT,
    INVERSE_BITS,
    NORM_BITS,
    SHIFT_BITS,
    ExactCell,
    ExactModel,
    epsilon,
)
from fastslow.codec.exact.tables import HALF_TABLE, INDEX_BITS, ONE, ONE_BITS, Ints
from fastslow.wiring import FROM_INPUT

Floats = NDArray[np.float64]


def norm_vectors(gain: Ints, shift: Ints, bits: int) -> tuple[Floats, Floats]:
    """Prepared gain and shift of a layer norm: argument = n gain + shift, a table index before its floor."""
    gains: Floats = gain.astype(np.float64) * 2.0 ** (INDEX_BITS - NORM_BITS - bits)
    # The half rounds; HALF_TABLE makes the index positive, so that cutting off its fraction is a floor.
    shifts: Floats = shift.astype(np.float64) * 2.0 ** (INDEX_BITS - SHIFT_BITS) + (0.5 + HALF_TABLE)
    return gains, shifts


def input_table(cell: ExactCell, model: ExactModel) -> Floats:
    """The term added to a cell's products before the floor that gives z, including 1/2 for rounding."""
    table: Floats = cell.input_table(model.embedding, model.embedding_bits).astype(np.float64) + 0.5
    return table


class _Norm:
    def __init__(self, gain: Ints, shift: Ints, bits: int, input_bits: int, device: torch.device) -> None:
        gains, shifts = norm_vectors(gain, shift, bits)
        self.gain, self.shift = torch.from_numpy(gains).to(device), torch.from_numpy(shifts).to(device)
        self.epsilon = float(epsilon(input_bits))


class _Cell:
    def __init__(self, cell: ExactCell, model: ExactModel, device: torch.device) -> None:
        self.hidden, self.embedded, self.input = cell.hidden, cell.embedded, cell.input
        self.weight = (_held(cell.weight, device) * 2.0**-cell.z_shift).t().contiguous()  # (X + H, 4H)
        self.table = torch.from_numpy(input_table(cell, model)).to(device)
        self.gates: _Norm | None = None
        self.memory: _Norm | None = None
        self.z_to_index = 2.0 ** (INDEX_BITS - cell.z_bits)
        if cell.norm:
            self.gates = _Norm(cell.gate_gain, cell.gate_shift, cell.gate_bits, cell.z_bits, device)
            self.memory = _Norm(cell.cell_gain, cell.cell_shift, cell.cell_bits, ONE_BITS, device)


class ExactEngine:
    """Runs one `ExactModel` on one device. `begin(lanes)`, then `step` once per symbol.

    It holds the state: h and c of every slot, (S, H) float64 with integer values.
    """

    def __init__(self, model: ExactModel, device: torch.device | str = "cpu") -> None:
        self.model, self.device = model, torch.device(device)
        self._cells = [_Cell(cell, model, self.device) for cell in model.cells]
        self._sigmoid = _held(model.tables.sigmoid(), self.device)
        self._tanh = _held(model.tables.tanh(), self.device)
        self._head = (_held(model.head, self.device) * 2.0**-model.head_bits).t().contiguous()
        self._head_bias = _held(model.head_bias, self.device) + 0.5
        self.begin(1)

    @torch.inference_mode()
    def begin(self, lanes: int) -> None:
        """Zero state for S lanes."""
        self._h = [torch.zeros(lanes, size, dtype=torch.float64, device=self.device) for size in self.model.slots]
        self._c = [torch.zeros_like(h) for h in self._h]
        sizes = {(cell.input + cell.hidden, 4 * cell.hidden) for cell in self._cells}
        self._read = {k: self._empty(lanes, k) for k in {k for k, _ in sizes}}
        self._z = {n: self._empty(lanes, n) for n in {n for _, n in sizes}}
        self._square = {n: self._empty(lanes, n) for n in self._z}

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.float64, device=self.device)

    @torch.inference_mode()
    def step(self, symbols: Ints) -> Ints:
        """symbols (S,) -> logits of the next ones (S, V), int64 in units of 2^-15."""
        model = self.model
        rows = torch.from_numpy(symbols).to(self.device)
        outputs: list[Tensor] = []
        for node in model.nodes:
            cell = self._cells[node.cell]
            z = self._z[4 * cell.hidden]
            if node.source == FROM_INPUT:
                torch.index_select(cell.table, 0, rows, out=z)
            else:
                z.copy_(cell.table.expand_as(z))
            h, c = self._h[node.slot], self._c[node.slot]
            read = h
            if cell.input:
                read = self._read[cell.input + cell.hidden]
                read[:, : cell.input] = outputs[node.source]
                read[:, cell.input :] = h
            z.addmm_(read, cell.weight).floor_()
            new_h, new_c = self._update(cell, z, c)
            self._h[node.slot] = _expectation(new_h, h, model.keep_h)
            self._c[node.slot] = _expectation(new_c, c, model.keep_c)
            outputs.append(self._h[node.slot])
        logits = torch.addmm(self._head_bias, outputs[model.output], self._head).floor_()
        return logits.to("cpu", torch.int64).numpy()

    def _update(self, cell: _Cell, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """z (S, 4H), c (S, H) -> h', c'. Overwrites z."""
        lanes, size = c.shape
        if cell.gates is None:
            z.mul_(cell.z_to_index).add_(0.5 + HALF_TABLE)
        else:
            grouped = z.view(lanes, 4, size)
            grouped.sub_(_mean(grouped, size))
            squares = self._square[4 * size].view(lanes, 4, size)
            torch.mul(grouped, grouped, out=squares)
            # |z - m| <= 2 bound: each square and their sum stay below 2^53 (ExactModel.check)
            _normalise(grouped, squares.sum(-1, keepdim=True).to(torch.int64), size, cell.gates)
            torch.addcmul(cell.gates.shift, z, cell.gates.gain, out=z)
        index = _index(z)
        i, f = self._sigmoid.take(index[:, :size]), self._sigmoid.take(index[:, size : 2 * size])
        g, o = self._tanh.take(index[:, 2 * size : 3 * size]), self._sigmoid.take(index[:, 3 * size :])
        # |f c| < 2^38, |i g| < 2^30
        new_c = i.mul_(g).addcmul_(f, c).mul_(1 / ONE).add_(0.5).floor_().clamp_(-C_LIMIT, C_LIMIT)
        normed = new_c
        if cell.memory is None:
            normed = new_c * 2.0 ** (INDEX_BITS - ONE_BITS) + (0.5 + HALF_TABLE)
        else:
            normed = new_c - _mean(new_c, size)
            wide = normed.to(torch.int64)  # squares up to 2^48, their sum up to 2^61: integers, not floats
            _normalise(normed, (wide * wide).sum(-1, keepdim=True), size, cell.memory)
            torch.addcmul(cell.memory.shift, normed, cell.memory.gain, out=normed)
        h = self._tanh.take(_index(normed)).mul_(o).mul_(1 / ONE).add_(0.5).floor_()
        return h, new_c


def _held(values: Ints, device: torch.device) -> Tensor:
    """Integers in float64."""
    return torch.from_numpy(values.astype(np.float64)).to(device)


def _mean(values: Tensor, size: int) -> Tensor:
    """floor((2 sum + H) / 2H) over the last dimension. The sum is below 2^37, so that its quotient by 2H <= 2^14,
    correctly rounded, never reaches the next integer."""
    return values.sum(-1, keepdim=True).mul_(2.0).add_(float(size)).div_(2.0 * size).floor_()


def _normalise(centred: Tensor, squares: Tensor, size: int, norm: _Norm) -> None:
    """centred -> n, in place. |n| <= sqrt(2H) 2^14 by the definition of the variance: products stay below 2^48."""
    variance = torch.div(squares, size, rounding_mode="floor").to(torch.float64)  # at most 2^48: exact
    inverse = torch.div(2.0**INVERSE_BITS, variance.add_(norm.epsilon).sqrt_()).floor_()
    centred.mul_(inverse.mul_(2.0 ** (NORM_BITS - INVERSE_BITS))).floor_()


def _index(argument: Tensor) -> Tensor:
    """Table indices, 0..2 HALF_TABLE - 1; the argument already holds the offset and the half. Overwrites it."""
    return argument.clamp_(0.0, 2.0 * HALF_TABLE - 1.0).to(torch.int64)


def _expectation(new: Tensor, old: Tensor, keep: int) -> Tensor:
    """keep of the new and the rest of the old, in 2^-15. |c| < 2^23: products below 2^38."""
    if keep == ONE:
        return new
    return new.mul_(keep / ONE).add_(old, alpha=(ONE - keep) / ONE).add_(0.5).floor_()
