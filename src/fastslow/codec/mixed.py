"""One coded block: lanes of text, the mixer, a network or none, and one range coder.

The block's n bytes are cut into S contiguous lanes, the first n mod S of them one byte longer. A step codes one byte of
every lane that has one, lane 0 first, each as eight bits, the high one first. The network, if there is one, is run for
all lanes at once; the mixer learns from every byte at once, whatever its lane. Compiled code does it where it can; else
Python, the reference, with the same bytes, at about one kilobyte a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from fastslow.codec.native.coder import NativeCoder
from fastslow.codec.native.engine import NativeEngine
from fastslow.codec.native.library import library
from fastslow.codec.predictor import ExactPredictor
from fastslow.codec.rangecoder import BitDecoder, BitEncoder
from fastslow.codec.steps import Layout, Predictor
from fastslow.mixing.reference import Masses, ReferenceMixer, masses_of

MAX_LANES = 64
_AT_ONCE = 2_000_000_000
"""Multiplications of weights in one call of compiled code: some tenths of a second, in which no signal is heeded."""
_BYTES_AT_ONCE = 1 << 16
_PYTHON_SPEED = 1000
"""Bytes a second of the reference, roughly."""
_LONG_IN_PYTHON = 30_000
_SMALL_STEP = 3_000_000
"""Multiplications in a step below which a second thread costs more than it brings."""
_PATIENCE, _EXCESS = 4, 3
"""After a quarter of its steps a block is given up when it is on course to be half as large again as it may be: EXCESS
halves."""

log = logging.getLogger(__name__)

Progress = Callable[[int], None]
"""Told how many more bytes are done."""


def lanes_for(length: int) -> int:
    """S = length / 4 KiB, from 1 to 64: a lane's cold start costs the network about 2.2 bytes."""
    return max(1, min(MAX_LANES, length // 4096))


class _Coder(Protocol):
    at_once: int
    """How many steps one call of `run` should have."""

    def __len__(self) -> int:
        """Bytes written so far, less the few still inside the coder."""

    def run(self, first: int, last: int) -> None:
        """Steps first .. last - 1. FormatError for a payload that no encoder wrote."""

    def finish(self) -> bytes:
        """An encoder's payload, a decoder's text. FormatError for a payload that goes on."""


class Compiled:
    """Both directions in compiled code, but for a network that is not."""

    def __init__(self, data: bytes, length: int, lanes: int, network: Predictor | None, *, decodes: bool) -> None:
        self._network = network
        self._engine: NativeEngine | None = None
        self.at_once = max(1, _BYTES_AT_ONCE // lanes)
        if network is None:
            self._coder = NativeCoder(data, length, lanes, decodes=decodes)
            return
        symbols, tables = network.symbols, network.frequencies.tables
        self._coder = NativeCoder(
            data, length, lanes, decodes=decodes, symbols=symbols, start=network.start, tables=tables
        )
        if isinstance(network, ExactPredictor) and isinstance(network.engine, NativeEngine):
            self._engine = network.engine
            self.at_once = max(1, _AT_ONCE // (lanes * network.weights))
        network.begin(lanes)

    def __len__(self) -> int:
        return len(self._coder)

    def run(self, first: int, last: int) -> None:
        if self._network is None or self._engine is not None:
            self._coder.run(self._engine, first, last)
            return
        for t in range(first, last):
            self._coder.step(self._network.step(self._coder.previous()), t)

    def finish(self) -> bytes:
        return self._coder.finish()


class Reference:
    """Both directions in Python."""

    at_once = 1

    def __init__(self, data: bytes, length: int, lanes: int, network: Predictor | None, *, decodes: bool) -> None:
        self._data, self._network = data, network
        self._mixer = ReferenceMixer(length, lanes, network is not None)
        self._encoder, self._decoder = BitEncoder(), BitDecoder(data) if decodes else None
        if network is not None:
            self._table = np.full(256, network.start, dtype=np.int64)
            self._table[np.frombuffer(network.symbols, np.uint8)] = np.arange(len(network.symbols))
            self._previous = np.full(lanes, network.start, dtype=np.int64)
            network.begin(lanes)

    def __len__(self) -> int:
        return len(self._encoder)

    def run(self, first: int, last: int) -> None:
        for t in range(first, last):
            self._step(t)

    def _step(self, t: int) -> None:
        mixer, network = self._mixer, self._network
        count = mixer.active(t)
        masses: list[Masses | None] = [None] * count
        if network is not None:
            rows = network.frequencies(network.step(self._previous)[:count])
            masses = [masses_of(row, network.symbols) for row in rows]
        coded = []
        for lane in range(count):
            mixer.begin(lane, t, masses[lane])
            byte = 0 if self._decoder is not None else self._data[mixer.offsets[lane] + t]
            for bit in range(7, -1, -1):
                p = mixer.predict()
                if self._decoder is not None:
                    y = self._decoder.decode(p)
                else:
                    y = byte >> bit & 1
                    self._encoder.encode(y, p)
                mixer.update(y)
            if self._decoder is not None:
                self._decoder.check()
            coded.append(mixer.end())
        if network is not None:
            self._previous[:count] = self._table[coded]
            self._previous[count:] = network.start

    def finish(self) -> bytes:
        if self._decoder is None:
            return self._encoder.finish()
        self._decoder.finish()
        return bytes(self._mixer.text)


def _coder(data: bytes, length: int, lanes: int, network: Predictor | None, decodes: bool) -> _Coder:
    reason = library()
    kind = Reference if isinstance(reason, str) else Compiled
    if kind is Reference and length >= _LONG_IN_PYTHON:
        minutes = -(-length // (60 * _PYTHON_SPEED))
        log.warning("the codec runs in Python (%s): about %d minutes for this block", reason, minutes)
    return kind(data, length, lanes, network, decodes=decodes)


def encode_block(
    data: bytes, network: Predictor | None, lanes: int, limit: int, progress: Progress | None = None
) -> bytes | None:
    """The payload of a block, or None if it would not be smaller than `limit` bytes. network: None to code by what the
    mixer learns alone."""
    layout = Layout(len(data), lanes)
    # Asked once, at the same step whatever runs: the archive may not depend on how many steps a call has.
    check = -(-layout.steps // _PATIENCE)
    coder = _coder(data, len(data), lanes, network, decodes=False)
    with _threads(network, lanes):
        for first, last in layout.pieces(coder.at_once, check):
            coder.run(first, last)
            if progress is not None:
                progress(layout.symbols(first, last))
            if last == check and 2 * len(coder) * len(data) > _EXCESS * limit * layout.symbols(0, last):
                return None
    payload = coder.finish()
    return payload if len(payload) < limit else None


def decode_block(
    payload: bytes, length: int, network: Predictor | None, lanes: int, progress: Progress | None = None
) -> bytes:
    """The `length` bytes that `encode_block` coded. FormatError if the payload cannot be what it wrote."""
    layout = Layout(length, lanes)
    coder = _coder(payload, length, lanes, network, decodes=True)
    with _threads(network, lanes):
        for first, last in layout.pieces(coder.at_once):
            coder.run(first, last)
            if progress is not None:
                progress(layout.symbols(first, last))
    return coder.finish()


class _threads:
    """Inside, as many of torch's threads as suit: a small step runs on one. The bytes do not depend on it."""

    def __init__(self, network: Predictor | None, lanes: int) -> None:
        self._before = torch.get_num_threads()
        weights = network.weights if isinstance(network, ExactPredictor) else 0
        self._small = 0 < lanes * weights < _SMALL_STEP and self._before > 1

    def __enter__(self) -> None:
        if self._small:
            torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        if self._small:
            torch.set_num_threads(self._before)
