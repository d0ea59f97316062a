"""Sigmoid, tanh and exp as tables of integers.

A model only contains short tables: `sigmoid` at 1025 knots and two factors of exp, in units of 2^-30. The loader
unfolds them with integer arithmetic alone, so every machine has the same tables. The short tables themselves come from
the library's exp: no entry is within 4 10^-6 of a half, and its results here are wrong by 3 10^-7 at most.

    sigmoid_knots[k] = 2^30 sigmoid(k / 64)          0 <= k <= 1024
    exp_coarse[a]    = 2^30 exp(-a / 32)             0 <= a < 704
    exp_fine[b]      = 2^30 exp(-b / 2^15)           0 <= b < 1024
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastslow.codec.errors import FormatError

Ints: TypeAlias = NDArray[np.int64]

ONE_BITS = 15
"""Fractional bits of h, of c, of gate values and of logits."""
ONE = 1 << ONE_BITS
INDEX_BITS = 12
"""Fractional bits of the argument of a gate table."""
HALF_TABLE = 16 << INDEX_BITS
"""Arguments run from -16 to 16: index i stands for (i - HALF_TABLE) / 2^INDEX_BITS."""
KNOT_BITS = 30
KNOTS = 1025
KNOT_STEP = HALF_TABLE // (KNOTS - 1)
COARSE = 704
FINE_BITS = 10


@dataclass(frozen=True)
class Tables:
    """The short tables as stored: int64 (1025,), (704,), (1024,)."""

    sigmoid_knots: Ints
    exp_coarse: Ints
    exp_fine: Ints

    def check(self) -> None:
        """FormatError unless the tables have the properties on which the overflow bounds depend."""
        one = 1 << KNOT_BITS
        knots = self.sigmoid_knots
        shapes = (knots.shape, self.exp_coarse.shape, self.exp_fine.shape)
        if shapes != ((KNOTS,), (COARSE,), (1 << FINE_BITS,)):
            raise FormatError(f"the model's tables have the wrong lengths: {shapes}")
        if knots[0] < one // 2 or knots[-1] > one or (np.diff(knots) < 0).any():
            raise FormatError("the model's sigmoid table does not increase from 1/2 to at most 1")
        for table in (self.exp_coarse, self.exp_fine):
            if table[0] != one or table.min() < 0 or table.max() > one:
                raise FormatError("the model's exp tables do not start at 1 or leave 0..1")

    def sigmoid(self) -> Ints:
        """2^15 sigmoid of every argument, 0..32767, (2 HALF_TABLE,)."""
        positive = _interpolate(self.sigmoid_knots, np.arange(HALF_TABLE + 1))
        both = np.concatenate(((1 << KNOT_BITS) - positive[:0:-1], positive[:-1]))
        return _to_one(both)

    def tanh(self) -> Ints:
        """2^15 tanh of every argument, -32767..32767, (2 HALF_TABLE,), as 2 sigmoid(2 x) - 1."""
        twice = np.minimum(2 * np.arange(HALF_TABLE + 1), HALF_TABLE)
        positive = 2 * _interpolate(self.sigmoid_knots, twice) - (1 << KNOT_BITS)
        positive = _to_one(positive)
        return np.concatenate((-positive[:0:-1], positive[:-1]))


def _interpolate(knots: Ints, at: Ints) -> Ints:
    """The knots, joined by straight lines, at `at` / 2^INDEX_BITS, rounded to whole units."""
    knot = np.minimum(at // KNOT_STEP, KNOTS - 2)
    part = at - knot * KNOT_STEP
    joined: Ints = (knots[knot] * (KNOT_STEP - part) + knots[knot + 1] * part + KNOT_STEP // 2) // KNOT_STEP
    return joined


def _to_one(values: Ints) -> Ints:
    """From units of 2^-30 to units of 2^-15, halves up; 1 itself becomes the largest value below it."""
    half = 1 << (KNOT_BITS - ONE_BITS - 1)
    rounded: Ints = np.minimum((values + half) >> (KNOT_BITS - ONE_BITS), ONE - 1)
    return rounded


@lru_cache(maxsize=1)
def standard_tables() -> Tables:
    """The tables of all models that this version exports."""
    one = float(1 << KNOT_BITS)
    knots = [round(one / (1.0 + math.exp(-k / 64))) for k in range(KNOTS)]
    coarse = [round(one * math.exp(-a / 32)) for a in range(COARSE)]
    fine = [round(one * math.exp(-b / (1 << ONE_BITS))) for b in range(1 << FINE_BITS)]
    tables = Tables(*(np.array(values, dtype=np.int64) for values in (knots, coarse, fine)))
    for table in (tables.sigmoid_knots, tables.exp_coarse, tables.exp_fine):
        table.flags.writeable = False
    return tables
