"""The coder of one block in compiled code: what `codec.mixed` has in Python, bit for bit."""

from __future__ import annotations

import ctypes
from weakref import finalize

import numpy as np
import torch

from fastslow.codec.errors import FormatError
from fastslow.codec.exact.tables import COARSE, FINE_BITS, KNOT_BITS, Ints, Tables
from fastslow.codec.native.engine import NativeEngine
from fastslow.codec.native.library import BlockArgs, library
from fastslow.codec.rangecoder import ENDS_EARLY, GOES_ON
from fastslow.mixing.native import tables_args


class NativeCoder:
    """Codes the steps of one block, in order. `data`: the text to encode, or with `decodes` the payload of `length`
    bytes of text. symbols, start, tables: of a network; without one no symbols."""

    def __init__(
        self,
        data: bytes,
        length: int,
        lanes: int,
        *,
        decodes: bool,
        symbols: bytes = b"",
        start: int = 0,
        tables: Tables | None = None,
    ) -> None:
        found = library()
        assert not isinstance(found, str)
        self._library, self._decodes, self._size, self._length = found, decodes, len(data), length
        self._shape = lanes, len(symbols)
        # The library reads them where they are.
        self._data = np.frombuffer(data or b"\0", np.uint8)
        alphabet = np.frombuffer(symbols or b"\0", np.uint8)
        none = np.zeros(1 << FINE_BITS, np.int64)
        coarse, fine = (none, none) if tables is None else (tables.exp_coarse, tables.exp_fine)
        coarse, fine = np.ascontiguousarray(coarse, np.int64), np.ascontiguousarray(fine, np.int64)
        mixing = tables_args()
        made = found.fs_block_make(
            ctypes.byref(
                BlockArgs(
                    lanes=lanes,
                    length=length,
                    symbols=len(symbols),
                    start=start,
                    alphabet=alphabet.ctypes.data,
                    coarse=coarse.ctypes.data,
                    fine=fine.ctypes.data,
                    coarse_size=COARSE,
                    fine_bits=FINE_BITS,
                    knot_bits=KNOT_BITS,
                    text=None if decodes else self._data.ctypes.data,
                    payload=self._data.ctypes.data,
                    payload_size=len(data) if decodes else 0,
                    mixing=ctypes.pointer(mixing),
                )
            )
        )
        if not made:
            raise MemoryError(f"there is no memory for a block of {length:,} bytes in {lanes} lanes")
        self._address = made
        finalize(self, found.fs_block_free, made)

    def __len__(self) -> int:
        """Bytes written so far, less the few still inside the coder."""
        return int(self._library.fs_block_size(self._address))

    def run(self, engine: NativeEngine | None, first: int, last: int) -> None:
        """Steps first .. last - 1, predicted by an engine that has begun as many lanes, or by the mixer alone."""
        if engine is not None and engine.lanes != self._shape[0]:
            raise ValueError(f"the engine has {engine.lanes} lanes, the block {self._shape[0]}")
        address = None if engine is None else engine.address
        self._check(self._library.fs_block_run(self._address, address, first, last, torch.get_num_threads()))

    def step(self, logits: Ints, t: int) -> None:
        """Step t, predicted by these logits (S, V), int64 in units of 2^-15."""
        rows = np.ascontiguousarray(logits, dtype=np.int64)
        if rows.shape != self._shape:
            raise ValueError(f"logits must be {self._shape}; got {rows.shape}")
        self._check(self._library.fs_block_step(self._address, rows.ctypes.data, t))

    def previous(self) -> Ints:
        """The last symbol of each lane (S,), the start symbol where there is none."""
        at = ctypes.cast(self._library.fs_block_previous(self._address), ctypes.POINTER(ctypes.c_int32))
        return np.ctypeslib.as_array(at, (self._shape[0],)).astype(np.int64)

    def finish(self) -> bytes:
        """An encoder's payload; a decoder's text. FormatError if the payload goes on after the last symbol."""
        if not self._decodes:
            at = self._library.fs_block_finish(self._address)
            return ctypes.string_at(at, len(self))
        if not 0 <= self._library.fs_block_read(self._address) - self._size <= 8:
            raise FormatError(GOES_ON)
        return ctypes.string_at(self._library.fs_block_text(self._address), self._length)

    @staticmethod
    def _check(whole: int) -> None:
        if not whole:
            raise FormatError(ENDS_EARLY)
