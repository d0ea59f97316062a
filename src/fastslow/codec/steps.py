"""The coders of a block, step by step: a predictor's logits, their frequencies, one range coder for all lanes.

A step codes one symbol of every lane that has one, lane 0 first. Compiled code does it where it can, whole stretches of
steps where the predictor is compiled too; else Python, the reference, with the same bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastslow.codec.exact.tables import Ints
from fastslow.codec.frequencies import FrequencyModel
from fastslow.codec.rangecoder import TOTAL_BITS, RangeDecoder, RangeEncoder

Bytes: TypeAlias = NDArray[np.uint8]

_RAW_BITS = TOTAL_BITS - 8
_AT_ONCE = 2_000_000_000
"""Multiplications of weights in one call of compiled code: some tenths of a second, in which no signal is heeded."""


class Predictor(Protocol):
    """What the coder asks of a model. Both sides call the same methods with the same arguments in the same order."""

    symbols: bytes
    start: int
    """The symbol fed before a lane's first, and in place of a byte outside the alphabet."""
    frequencies: FrequencyModel
    learns: bool
    """Whether what it predicts changes with what it has coded."""

    def begin(self, lanes: int) -> None:
        """Forget the past; S lanes from now on."""

    def step(self, symbols: Ints) -> Ints:
        """The last symbol of each lane (S,) -> logits of the next (S, V), int64 in units of 2^-15.

        A lane that has ended is given the start symbol; what it predicts is not used.
        """

    def settle(self, used: bool) -> None:
        """The block is done. A predictor that learns keeps what it learned if its code is used, else forgets it."""


class Layout:
    """Where the lanes of a block of `length` bytes lie: contiguous, in order, the first ones a byte longer."""

    def __init__(self, length: int, lanes: int) -> None:
        short, longer = divmod(length, lanes)
        sizes = np.full(lanes, short)
        sizes[:longer] += 1
        self.offsets = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        self.length, self.lanes = length, lanes
        self.steps = short + (longer > 0)
        self.full_steps, self.longer = short, longer

    def active(self, t: int) -> int:
        """How many lanes, from the first, have a symbol at step t."""
        return self.lanes if t < self.full_steps else self.longer

    def symbols(self, first: int, last: int) -> int:
        """How many symbols steps first .. last - 1 have."""
        return min(last * self.lanes, self.length) - min(first * self.lanes, self.length)

    def pieces(self, size: int, stop: int) -> Iterator[tuple[int, int]]:
        """All steps, in order, as (first, last + 1): at most `size` at a time, none across a multiple of `stop`."""
        first = 0
        while first < self.steps:
            last = min(first + size, first - first % stop + stop, self.steps)
            yield first, last
            first = last


class Coder(Protocol):
    """Codes the steps of one block, each once, in order."""

    at_once: int
    """How many steps one call of `run` should have."""

    def __len__(self) -> int:
        """Bytes written so far, less the few still inside the coder."""

    def run(self, first: int, last: int) -> None:
        """Steps first .. last - 1. FormatError for a payload that no encoder wrote."""

    def finish(self) -> bytes:
        """An encoder's payload. A decoder's FormatError, if its payload goes on."""


def coder_for(text: Bytes, layout: Layout, predictor: Predictor, escape: int, payload: bytes | None = None) -> Coder:
    """The fastest coder there is. It encodes `text` (n,), or fills it from `payload`. escape: its frequency, or 0."""
    from fastslow.codec.native.library import library

    if isinstance(library(), str):
        if payload is None:
            return Encoder(text, layout, predictor, escape)
        return Decoder(text, layout, predictor, escape, payload)
    return Compiled(text, layout, predictor, escape, payload)


class Compiled:
    """Both directions, in compiled code, but for a predictor that is not."""

    def __init__(self, text: Bytes, layout: Layout, predictor: Predictor, escape: int, payload: bytes | None) -> None:
        from fastslow.codec.exact.predictor import ExactPredictor
        from fastslow.codec.native.coder import NativeCoder
        from fastslow.codec.native.engine import NativeEngine

        tables = predictor.frequencies.tables
        self._coder = NativeCoder(text, layout.lanes, predictor.symbols, predictor.start, escape, tables, payload)
        self._predictor = predictor
        self._engine: NativeEngine | None = None
        self.at_once = 1
        if isinstance(predictor, ExactPredictor) and isinstance(predictor.engine, NativeEngine):
            self._engine = predictor.engine
            self.at_once = max(1, _AT_ONCE // (layout.lanes * predictor.weights))
        predictor.begin(layout.lanes)

    def __len__(self) -> int:
        return len(self._coder)

    def run(self, first: int, last: int) -> None:
        if self._engine is not None:
            self._coder.run(self._engine, first, last)
            return
        for t in range(first, last):
            self._coder.step(self._predictor.step(self._coder.previous()), t)

    def finish(self) -> bytes:
        return self._coder.finish()


class Encoder:
    """The reference of encoding."""

    at_once = 1

    def __init__(self, text: Bytes, layout: Layout, predictor: Predictor, escape: int) -> None:
        self._text, self._layout, self._predictor, self._escape = text, layout, predictor, escape
        self._table = np.full(256, len(predictor.symbols), dtype=np.int64)  # a byte outside the alphabet: the escape, V
        self._table[np.frombuffer(predictor.symbols, np.uint8)] = np.arange(len(predictor.symbols))
        self._coder = RangeEncoder()
        self._previous = np.full(layout.lanes, predictor.start, dtype=np.int64)
        self._rows = np.arange(layout.lanes)
        predictor.begin(layout.lanes)

    def __len__(self) -> int:
        return len(self._coder)

    def run(self, first: int, last: int) -> None:
        for t in range(first, last):
            self._step(t)

    def _step(self, t: int) -> None:
        predictor, layout = self._predictor, self._layout
        count = layout.active(t)
        values = predictor.frequencies(predictor.step(self._previous)[:count], self._escape)
        raw = self._text[layout.offsets[:count] + t]
        coded = self._table[raw]
        lines = self._rows[:count]
        widths = values[lines, coded]
        starts = values.cumsum(axis=1)[lines, coded] - widths
        escaped = coded == len(predictor.symbols)
        if escaped.any():
            _encode_escaped(self._coder, starts, widths, escaped, raw)
            coded = np.where(escaped, predictor.start, coded)
        else:
            self._coder.encode(zip(starts.tolist(), widths.tolist(), strict=True))
        self._previous[:count] = coded
        self._previous[count:] = predictor.start

    def finish(self) -> bytes:
        return self._coder.finish()


def _encode_escaped(coder: RangeEncoder, starts: Ints, widths: Ints, escaped: NDArray[np.bool_], raw: Any) -> None:
    for start, width, after, byte in zip(starts.tolist(), widths.tolist(), escaped.tolist(), raw.tolist(), strict=True):
        coder.encode(((start, width),))
        if after:
            coder.encode(((byte << _RAW_BITS, 1 << _RAW_BITS),))


class Decoder:
    """The reference of decoding: fills `text`."""

    at_once = 1

    def __init__(self, text: Bytes, layout: Layout, predictor: Predictor, escape: int, payload: bytes) -> None:
        self._text, self._layout, self._predictor, self._escape = text, layout, predictor, escape
        self._coder = RangeDecoder(payload)
        self._previous = np.full(layout.lanes, predictor.start, dtype=np.int64)
        self._bases = (np.arange(layout.lanes, dtype=np.int64) << TOTAL_BITS)[:, None]
        predictor.begin(layout.lanes)

    def __len__(self) -> int:
        return 0

    def run(self, first: int, last: int) -> None:
        for t in range(first, last):
            self._step(t)

    def _step(self, t: int) -> None:
        predictor, layout, coder = self._predictor, self._layout, self._coder
        symbols, count = predictor.symbols, layout.active(t)
        width = len(symbols) + (self._escape > 0)
        values = predictor.frequencies(predictor.step(self._previous)[:count], self._escape)
        # Row after row of sums as one rising sequence, so that one bisection a lane finds its symbol.
        ends = (values.cumsum(axis=1) + self._bases[:count]).reshape(-1)
        rising, each = ends.data, values.reshape(-1).data
        coded, raw = [], bytearray()
        for lane in range(count):
            first = lane * width
            at = bisect_right(rising, coder.target() + (lane << TOTAL_BITS), first, first + width - 1)
            coder.take(rising[at] - each[at] - (lane << TOTAL_BITS), each[at])
            symbol = at - first
            if symbol < len(symbols):
                raw.append(symbols[symbol])
                coded.append(symbol)
            else:
                byte = coder.target() >> _RAW_BITS
                coder.take(byte << _RAW_BITS, 1 << _RAW_BITS)
                raw.append(byte)
                coded.append(predictor.start)
        self._text[layout.offsets[:count] + t] = np.frombuffer(raw, np.uint8)
        self._previous[:count] = coded
        self._previous[count:] = predictor.start

    def finish(self) -> bytes:
        self._coder.finish()
        return b""
