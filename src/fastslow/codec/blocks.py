"""One neural block: lanes of text, a predictor, and one range coder.

The block's n bytes are cut into S contiguous lanes, the first n mod S of them one byte longer. A step codes one
symbol of every lane, lane 0 first; all lanes share one coder. What a lane predicts depends on its own past alone (and,
where the predictor learns, on the past of all lanes).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastslow.codec.rangecoder import TOTAL
from fastslow.codec.steps import Layout, Predictor, coder_for

__all__ = ["Predictor", "Progress", "decode_block", "encode_block", "escape_for", "lanes_for", "unknown_bytes"]

MAX_ESCAPE_BITS = 23
"""A block's escape symbol has frequency 2^0 to 2^23 of 2^24."""
_CHECK_EVERY = 64
_HOPELESS = ((8, 1.05), (1 << 62, 2.0))
"""A block is given up when it is on course to be so many times larger than it may be: 1.05 after an eighth of its
steps, 2 before that. A model that learns is given time."""

Progress = Callable[[int], None]
"""Told how many more bytes are done."""


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


def unknown_bytes(data: bytes, symbols: bytes) -> int:
    """How many bytes of `data` are outside the alphabet."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    return len(data) - int(counts[np.frombuffer(symbols, np.uint8)].sum())


def encode_block(
    data: bytes, predictor: Predictor, lanes: int, escape: int, limit: int, progress: Progress | None = None
) -> bytes | None:
    """The payload of a neural block, or None if it would not be smaller than `limit` bytes."""
    layout = Layout(len(data), lanes)
    coder = coder_for(np.frombuffer(data, np.uint8), layout, predictor, escape_frequency(escape))
    for first, last in layout.pieces(coder.at_once, _CHECK_EVERY):
        coder.run(first, last)
        if progress is not None:
            progress(layout.symbols(first, last))
        checks = last % _CHECK_EVERY == 0 and not predictor.learns
        if checks and _hopeless(len(coder), last, layout.steps, limit):
            return None
    payload = coder.finish()
    return payload if len(payload) < limit else None


def _hopeless(size: int, done: int, steps: int, limit: int) -> bool:
    return any(done * after >= steps and size * steps > excess * limit * done for after, excess in _HOPELESS)


def decode_block(
    payload: bytes, length: int, predictor: Predictor, lanes: int, escape: int, progress: Progress | None = None
) -> bytes:
    """The `length` bytes that `encode_block` coded. FormatError if the payload cannot be what it wrote."""
    layout = Layout(length, lanes)
    text = np.zeros(length, dtype=np.uint8)
    coder = coder_for(text, layout, predictor, escape_frequency(escape), payload)
    for first, last in layout.pieces(coder.at_once, _CHECK_EVERY):
        coder.run(first, last)
        if progress is not None:
            progress(layout.symbols(first, last))
    coder.finish()
    return text.tobytes()
