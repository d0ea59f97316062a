"""Scores made by hand, and a model to make real ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from fastslow.scoring import Line, Surprisal, scored_lines

LIKELY = (b"e"[0], b" "[0], 0xC3)
CHANCES = (0.5, 0.25, 0.0004)


def blocks(raw: bytes, bits: Iterable[float] | None = None, size: int = 7) -> Iterator[Surprisal]:
    """`raw` scored with `bits` a byte (default: 1 each), the first unscored, in blocks of `size`."""
    values = np.frombuffer(raw, dtype=np.uint8)
    given = np.ones(len(raw)) if bits is None else np.array(list(bits), dtype=np.float64)
    assert len(given) == len(raw)
    if bits is None and len(raw):
        given[0] = math.nan
    for start in range(0, len(raw), size):
        part = slice(start, start + size)
        count = len(values[part])
        yield Surprisal(
            start,
            values[part],
            given[part],
            np.tile(np.array(LIKELY, dtype=np.uint8), (count, 1)),
            np.tile(np.array(CHANCES, dtype=np.float32), (count, 1)),
            np.full(count, 1.5, dtype=np.float32),
            np.arange(start, start + count + 1),
        )


def lines(raw: bytes, bits: Iterable[float] | None = None, size: int = 7, longest: int = 4096) -> list[Line]:
    return list(scored_lines(blocks(raw, bits, size), longest))
