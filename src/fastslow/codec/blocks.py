"""One neural block: lanes of text, a predictor, and one range coder.

The block's n bytes are cut into S contiguous lanes, the first n mod S of them one byte longer. A step codes one
symbol of every lane, lane 0 first; all lanes share one coder. What a lane predicts depends on its own past alone (and,
where the predictor learns, on the past of all lanes).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastslow.codec.exact.tables import Ints
from fastslow.codec.frequencies import FrequencyModel
from fastslow.codec.rangecoder import TOTAL, TOTAL_BITS, RangeDecoder, RangeEncoder

MAX_ESCAPE_BITS = 23
"""A block's escape symbol has frequency 2^0 to 2^23 of 2^24."""
_RAW_BITS = TOTAL_BITS - 8
_CHECK_EVERY = 64
_HOPELESS = ((8, 1.05), (1 << 62, 2.0))
"""A block is given up when it is on course to be so many times larger than it may be: 1.05 after an eighth of its
steps, 2 before that. A model that learns is given time."""

Progress = Callable[[int], None]
"""Told how many more bytes are done."""


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


def lanes_for(length: int, most: int = 256) -> int:
    """S = length / 4 KiB, from 1 to `most`: a lane's cold start costs about 2.2 bytes."""
    return max(1, min(most, length // 4096))


def escape_for(unknown: int, length: int) -> int:
    """The escape field of a block with so many bytes outside the alphabet: 0, or 1 + the bits of its frequency."""
    if unknown == 0:
        return 0
    share = unknown * TOTAL // length
    return 1 + min(MAX_ESCAPE_BITS, max(0, share.bit_length() - 1))


def escape_frequency(field: int) -> int:
    return 0 if field == 0 else 1 << (field - 1)


class _Layout:
    """Where the lanes of a block of `length` bytes lie."""

    def __init__(self, length: int, lanes: int) -> None:
        short, longer = divmod(length, lanes)
        sizes = np.full(lanes, short)
        sizes[:longer] += 1
        self.offsets = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        self.steps = short + (longer > 0)
        self.full_steps, self.longer, self.lanes = short, longer, lanes

    def active(self, t: int) -> int:
        """How many lanes, from the first, have a symbol at step t."""
        return self.lanes if t < self.full_steps else self.longer


def unknown_bytes(data: bytes, symbols: bytes) -> int:
    """How many bytes of `data` are outside the alphabet."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    return len(data) - int(counts[np.frombuffer(symbols, np.uint8)].sum())


def encode_block(
    data: bytes, predictor: Predictor, lanes: int, escape: int, limit: int, progress: Progress | None = None
) -> bytes | None:
    """The payload of a neural block, or None if it would not be smaller than `limit` bytes."""
    layout = _Layout(len(data), lanes)
    text = np.frombuffer(data, np.uint8)
    table = np.full(256, len(predictor.symbols), dtype=np.int64)  # a byte outside the alphabet: the escape, V
    table[np.frombuffer(predictor.symbols, np.uint8)] = np.arange(len(predictor.symbols))
    frequency = escape_frequency(escape)
    coder = RangeEncoder()
    predictor.begin(lanes)
    previous = np.full(lanes, predictor.start, dtype=np.int64)
    rows = np.arange(lanes)
    for t in range(layout.steps):
        count = layout.active(t)
        values = predictor.frequencies(predictor.step(previous)[:count], frequency)
        raw = text[layout.offsets[:count] + t]
        coded = table[raw]
        lines = rows[:count]
        widths = values[lines, coded]
        starts = values.cumsum(axis=1)[lines, coded] - widths
        if escape and (coded == len(predictor.symbols)).any():
            _encode_escaped(coder, starts, widths, coded == len(predictor.symbols), raw)
            coded = np.where(coded == len(predictor.symbols), predictor.start, coded)
        else:
            coder.encode(zip(starts.tolist(), widths.tolist(), strict=True))
        previous[:count] = coded
        previous[count:] = predictor.start
        if progress is not None:
            progress(count)
        checks = t % _CHECK_EVERY == _CHECK_EVERY - 1 and not predictor.learns
        if checks and _hopeless(len(coder), t + 1, layout.steps, limit):
            return None
    payload = coder.finish()
    return payload if len(payload) < limit else None


def _encode_escaped(coder: RangeEncoder, starts: Ints, widths: Ints, escaped: NDArray[np.bool_], raw: Ints) -> None:
    for start, width, after, byte in zip(starts.tolist(), widths.tolist(), escaped.tolist(), raw.tolist(), strict=True):
        coder.encode(((start, width),))
        if after:
            coder.encode(((byte << _RAW_BITS, 1 << _RAW_BITS),))


def _hopeless(size: int, done: int, steps: int, limit: int) -> bool:
    return any(done * after >= steps and size * steps > excess * limit * done for after, excess in _HOPELESS)


def decode_block(
    payload: bytes, length: int, predictor: Predictor, lanes: int, escape: int, progress: Progress | None = None
) -> bytes:
    """The `length` bytes that `encode_block` coded. FormatError if the payload cannot be what it wrote."""
    layout = _Layout(length, lanes)
    symbols = predictor.symbols
    size = len(symbols)
    frequency = escape_frequency(escape)
    width = size + (escape > 0)
    text = np.zeros(length, dtype=np.uint8)
    coder = RangeDecoder(payload)
    predictor.begin(lanes)
    previous = np.full(lanes, predictor.start, dtype=np.int64)
    bases = (np.arange(lanes, dtype=np.int64) << TOTAL_BITS)[:, None]
    for t in range(layout.steps):
        count = layout.active(t)
        values = predictor.frequencies(predictor.step(previous)[:count], frequency)
        # Row after row of sums as one rising sequence, so that one bisection a lane finds its symbol.
        ends = (values.cumsum(axis=1) + bases[:count]).reshape(-1)
        rising, each = ends.data, values.reshape(-1).data
        coded, raw = [], bytearray()
        for lane in range(count):
            first = lane * width
            at = bisect_right(rising, coder.target() + (lane << TOTAL_BITS), first, first + width - 1)
            coder.take(rising[at] - each[at] - (lane << TOTAL_BITS), each[at])
            symbol = at - first
            if symbol < size:
                raw.append(symbols[symbol])
                coded.append(symbol)
            else:
                byte = coder.target() >> _RAW_BITS
                coder.take(byte << _RAW_BITS, 1 << _RAW_BITS)
                raw.append(byte)
                coded.append(predictor.start)
        text[layout.offsets[:count] + t] = np.frombuffer(raw, np.uint8)
        previous[:count] = coded
        previous[count:] = predictor.start
        if progress is not None:
            progress(count)
    coder.finish()
    return text.tobytes()
