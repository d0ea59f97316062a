"""The coders of one block in compiled code: bytes as `blocks` has them, in Python.

Where the predictor is a compiled engine, all of a step happens there; else its logits are handed in.
"""

from __future__ import annotations

import ctypes
from weakref import finalize

import numpy as np
import torch
from numpy.typing import NDArray

from fastslow.codec.errors import FormatError
from fastslow.codec.exact.tables import COARSE, FINE_BITS, KNOT_BITS, Ints, Tables
from fastslow.codec.native.engine import NativeEngine
from fastslow.codec.native.library import BlockArgs, library
from fastslow.codec.rangecoder import ENDS_EARLY, GOES_ON, POINTS_OUTSIDE

_FAULTS = {1: POINTS_OUTSIDE, 2: ENDS_EARLY}


class NativeCoder:
    """Codes steps of one block, in order; what `encode_block` and `decode_block` ask for."""

    def __init__(
        self,
        text: NDArray[np.uint8],
        lanes: int,
        symbols: bytes,
        start: int,
        escape: int,
        tables: Tables,
        payload: bytes | None,
    ) -> None:
        """text (n,): read, or with a payload written; escape: the escape's frequency."""
        found = library()
        assert not isinstance(found, str)
        self._library = found
        self._encodes = payload is None
        self._payload_size = len(payload or b"")
        alphabet = np.frombuffer(symbols, np.uint8)
        stored = np.frombuffer(payload or b"\0", np.uint8)
        # The library reads text and payload where they are.
        self._kept = (text, stored)
        coarse, fine = (np.ascontiguousarray(table, np.int64) for table in (tables.exp_coarse, tables.exp_fine))
        made = self._library.fs_block_make(
            ctypes.byref(
                BlockArgs(
                    lanes=lanes,
                    length=len(text),
                    symbols=len(symbols),
                    start=start,
                    escape=escape,
                    alphabet=alphabet.ctypes.data,
                    coarse=coarse.ctypes.data,
                    fine=fine.ctypes.data,
                    coarse_size=COARSE,
                    fine_bits=FINE_BITS,
                    knot_bits=KNOT_BITS,
                    text=text.ctypes.data,
                    payload=stored.ctypes.data,
                    payload_size=self._payload_size,
                )
            )
        )
        if not made:
            raise MemoryError(f"there is no memory for {lanes} lanes")
        self._address = made
        self._shape = lanes, len(symbols)
        finalize(self, self._library.fs_block_free, made)

    def __len__(self) -> int:
        """Bytes written so far, less the few still inside the coder."""
        return int(self._library.fs_block_size(self._address))

    def run(self, engine: NativeEngine, first: int, last: int) -> None:
        """Steps first .. last - 1, predicted by an engine that has begun as many lanes."""
        if engine.lanes != self._shape[0]:
            raise ValueError(f"the engine has {engine.lanes} lanes, the block {self._shape[0]}")
        threads = torch.get_num_threads()
        self._check(self._library.fs_block_run(self._address, engine.address, first, last, self._encodes, threads))

    def step(self, logits: Ints, t: int) -> None:
        """Step t, predicted by these logits (S, V), int64 in units of 2^-15."""
        rows = np.ascontiguousarray(logits, dtype=np.int64)
        if rows.shape != self._shape:
            raise ValueError(f"logits must be {self._shape}; got {rows.shape}")
        self._check(self._library.fs_block_step(self._address, rows.ctypes.data, t, self._encodes))

    def previous(self) -> Ints:
        """The last symbol of each lane (S,), the start symbol where there is none."""
        at = ctypes.cast(self._library.fs_block_previous(self._address), ctypes.POINTER(ctypes.c_int32))
        return np.ctypeslib.as_array(at, (self._shape[0],)).astype(np.int64)

    def finish(self) -> bytes:
        """The payload of an encoder; FormatError if a decoder's goes on after the last symbol."""
        if self._encodes:
            at = self._library.fs_block_finish(self._address)
            return ctypes.string_at(at, len(self))
        if not 0 <= self._library.fs_block_read(self._address) - self._payload_size <= 8:
            raise FormatError(GOES_ON)
        return b""

    @staticmethod
    def _check(fault: int) -> None:
        if fault:
            raise FormatError(_FAULTS[fault])
