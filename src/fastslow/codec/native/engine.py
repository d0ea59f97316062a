"""`ExactEngine` in compiled code: the same logits, bit for bit, from a fraction of the time and memory."""

from __future__ import annotations

import ctypes
import os
from typing import Any
from weakref import finalize

import numpy as np
import torch
from numpy.typing import NDArray

from fastslow.codec.exact.engine import input_table, norm_vectors
from fastslow.codec.exact.model import C_LIMIT, ExactModel, epsilon
from fastslow.codec.exact.tables import HALF_TABLE, INDEX_BITS, ONE, ONE_BITS, Ints
from fastslow.codec.native.library import CellArgs, ModelArgs, NodeArgs, NormArgs, library

TILES = "FASTSLOW_TILES"
"""Environment variable: 0 keeps products off the processor's tile unit, as in the native engine."""
_WEIGHT = np.iinfo(np.int16)


def refusal(model: ExactModel, device: torch.device) -> str | None:
    """Why a model cannot run here; None if it can."""
    if device.type != "cpu":
        return f"it runs on the CPU, not on {device}"
    for matrix in (model.head, *(cell.weight for cell in model.cells)):
        if matrix.size and not (_WEIGHT.min <= matrix.min() and matrix.max() <= _WEIGHT.max):
            return "it takes weights of 16 bits"
    found = library()
    return found if isinstance(found, str) else None


class NativeEngine:
    """Runs one `ExactModel`, which `refusal` has passed, on torch's number of threads.

    As `ExactEngine`: `begin(lanes)`, then `step` once a symbol. `address`: what csrc/codec.cpp calls the engine.
    """

    def __init__(self, model: ExactModel) -> None:
        found = library()
        assert not isinstance(found, str)
        self._library = found
        self.symbols = len(model.symbols)
        kept: list[Any] = []  # until the library has copied it

        def address(values: Any, kind: type) -> int:
            array: NDArray[Any] = np.ascontiguousarray(values, dtype=kind)
            kept.append(array)
            return int(array.ctypes.data)

        def norm(gain: Ints, shift: Ints, bits: int, input_bits: int) -> NormArgs:
            gains, shifts = norm_vectors(gain, shift, bits)
            return NormArgs(address(gains, np.float64), address(shifts, np.float64), float(epsilon(input_bits)))

        cells = (CellArgs * len(model.cells))()
        for args, cell in zip(cells, model.cells, strict=True):
            args.hidden, args.input, args.embedded, args.norm = cell.hidden, cell.input, cell.embedded, cell.norm
            args.scale, args.z_to_index = 2.0**-cell.z_shift, 2.0 ** (INDEX_BITS - cell.z_bits)
            args.weight = address(cell.weight, np.int16)
            args.table = address(input_table(cell, model), np.float64)
            if cell.norm:
                args.gates = norm(cell.gate_gain, cell.gate_shift, cell.gate_bits, cell.z_bits)
                args.memory = norm(cell.cell_gain, cell.cell_shift, cell.cell_bits, ONE_BITS)
        nodes = (NodeArgs * len(model.nodes))(*(NodeArgs(node.cell, node.slot, node.source) for node in model.nodes))
        made = self._library.fs_engine_make(
            ctypes.byref(
                ModelArgs(
                    cells=len(cells),
                    nodes=len(nodes),
                    slots=len(model.slots),
                    output=model.output,
                    symbols=self.symbols,
                    tiles=os.environ.get(TILES, "") != "0",
                    keep_h=model.keep_h / ONE,
                    keep_c=model.keep_c / ONE,
                    cell=cells,
                    node=nodes,
                    slot=address(model.slots, np.int64),
                    head=address(model.head, np.int16),
                    head_scale=2.0**-model.head_bits,
                    head_bias=address(model.head_bias + 0.5, np.float64),
                    sigmoid=address(model.tables.sigmoid(), np.int32),
                    tanh=address(model.tables.tanh(), np.int32),
                    half=HALF_TABLE,
                    limit=C_LIMIT,
                )
            )
        )
        if not made:
            raise MemoryError("there is no memory for the model")
        self.address: int = made
        finalize(self, self._library.fs_engine_free, made)
        self.begin(1)

    def begin(self, lanes: int) -> None:
        """Zero state for S lanes."""
        if not self._library.fs_engine_begin(self.address, lanes):
            raise MemoryError(f"there is no memory for {lanes} lanes")
        self.lanes = lanes

    def step(self, symbols: Ints) -> Ints:
        """symbols (S,) -> logits of the next ones (S, V), int64 in units of 2^-15."""
        rows = np.ascontiguousarray(symbols, dtype=np.int32)
        if rows.shape != (self.lanes,) or (rows.size and not 0 <= rows.min() <= rows.max() < self.symbols):
            raise ValueError(f"symbols must be ({self.lanes},), each below {self.symbols}; got {rows.shape}")
        logits = np.empty((self.lanes, self.symbols), dtype=np.int64)
        self._library.fs_engine_step(self.address, rows.ctypes.data, logits.ctypes.data, torch.get_num_threads())
        return logits
