"""One coded block: lanes of text, the mixer, a network or none, and one range coder.

The block's n bytes are cut into S contiguous lanes, the first n mod S of them one byte longer. A step codes one byte of
every lane that has one, lane 0 first, each as eight bits, highest bit first. The network, if there is one, runs for all
lanes at once; the mixer is updated after every byte and shared by the lanes. Compiled code is used if available,
otherwise the reference in Python, which produces the same bytes at about 1 kB/s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from fastslow.codec import plain
from fastslow.codec.native.coder import NativeCoder
from fastslow.codec.native.engine import NativeEngine
from fastslow.codec.native.library import library
from fastslow.codec.predictor import ExactPredictor
from fastslow.codec.rangecoder import BitDecoder, BitEncoder
from fastslow.codec.steps import Layout, Predictor
from fastslow.mixing.reference import Masses, ReferenceMixer, masses_of

MAX_LANES = 16
_AT_ONCE = 2_000_000_000
"""Multiplications per call of compiled code: a few tenths of a second, during which signals are not handled."""
_BYTES_AT_ONCE = 1 << 16
_PYTHON_SPEED = 1000
"""Approximate bytes per second of the reference."""
_LONG_IN_PYTHON = 30_000
_SMALL_STEP = 3_000_000
"""Multiplications per step below which a second thread does not pay."""
_PATIENCE, _EXCESS = 4, 3
"""After a quarter of its steps a block is abandoned if its projected size exceeds the limit by half: EXCESS halves.
The projection allows for a first quarter that is harder than the rest, such as the licence of a source file."""

log = logging.getLogger(__name__)

Progress = Callable[[int], None]
"""Called with the number of further bytes that are done."""


def lanes_for(length: int) -> int:
    """S = length / 4 KiB, from 1 to 16: more lanes are hardly faster, and make archives larger."""
    return max(1, min(MAX_LANES, length // 4096))


class _Coder(Protocol):
    at_once: int
    """The number of steps per call of `run`."""

    def __len__(self) -> int:
        """Bytes written so far, less the few still inside the coder."""

    def run(self, first: int, last: int) -> None:
        """Code steps first .. last - 1. Raises FormatError for an invalid payload."""

    def finish(self) -> bytes:
        """The payload (encoder) or the text (decoder). Raises FormatError for extra bytes."""


class Compiled:
    """Encoding and decoding in compiled code; the network may run in Python."""

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
    """Encoding and decoding in Python."""

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
    """The payload of a block, or None if it would not be smaller than `limit` bytes. network: None: contexts only."""
    layout = Layout(len(data), lanes)
    # Checked once, at a fixed step: the archive must not depend on the number of steps per call.
    check = -(-layout.steps // _PATIENCE)
    coder = _coder(data, len(data), lanes, network, decodes=False)
    with _threads(network, lanes):
        for first, last in layout.pieces(coder.at_once, check):
            coder.run(first, last)
            if progress is not None:
                progress(layout.symbols(first, last))
            if last == check and _hopeless(len(coder), data, layout, last, limit):
                return None
    payload = coder.finish()
    return payload if len(payload) < limit else None


def _hopeless(coded: int, data: bytes, layout: Layout, steps: int, limit: int) -> bool:
    """Whether to abandon a block whose first `steps` became `coded` bytes, and which is to become `limit` bytes."""
    if 2 * coded * len(data) <= _EXCESS * limit * layout.symbols(0, steps):
        return False
    sizes = [layout.full_steps + (lane < layout.longer) for lane in range(layout.lanes)]
    starts = layout.offsets.tolist()
    part = b"".join(data[start : start + min(steps, size)] for start, size in zip(starts, sizes, strict=True))
    return 2 * coded * len(plain.pack(data)) > _EXCESS * limit * len(plain.pack(part))


def decode_block(
    payload: bytes, length: int, network: Predictor | None, lanes: int, progress: Progress | None = None
) -> bytes:
    """The `length` bytes that `encode_block` coded. Raises FormatError for an invalid payload."""
    layout = Layout(length, lanes)
    coder = _coder(payload, length, lanes, network, decodes=True)
    with _threads(network, lanes):
        for first, last in layout.pieces(coder.at_once):
            coder.run(first, last)
            if progress is not None:
                progress(layout.symbols(first, last))
    return coder.finish()


class _threads:
    """Inside, a suitable number of PyTorch threads: one for small steps. The bytes do not depend on it."""

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
