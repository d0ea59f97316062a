"""From logits to the frequencies the range coder takes, in integers.

    weight     = exp(logit - largest logit)                 by two tables, in units of 2^-30
    frequency  = 1 + floor(weight * budget / sum of weights)
    budget     = 2^24 - V - escape

and what the rounding leaves over goes to the likeliest symbol (the first of them), so that every row sums to 2^24.
Every symbol keeps at least 1, so every file can be coded. Where a block has bytes outside the alphabet, one more
symbol, the escape, has a fixed frequency.
"""

from __future__ import annotations

import numpy as np

from fastslow.codec.exact.tables import COARSE, FINE_BITS, KNOT_BITS, Ints, Tables
from fastslow.codec.rangecoder import TOTAL

MAX_LOGIT = 1 << 40
"""Logits, in units of 2^-15, lie within plus and minus this."""


class FrequencyModel:
    """`frequencies(logits, escape)` for one set of tables."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._coarse = np.append(tables.exp_coarse, 0)  # beyond the table a weight is 0
        self._fine = tables.exp_fine

    def __call__(self, logits: Ints, escape: int = 0) -> Ints:
        """logits (S, V) int64 in units of 2^-15 -> frequencies (S, V), or (S, V + 1) with the escape last."""
        rows, size = logits.shape
        likeliest = logits.argmax(axis=1)  # the first of equals
        lines = np.arange(rows)
        below = logits[lines, likeliest][:, None] - logits
        # weight <= 2^30 and budget < 2^24: the product stays below 2^54; a row sums to at most 2^38.
        weight: Ints = self._coarse[np.minimum(below >> FINE_BITS, COARSE)]
        weight *= self._fine[below & ((1 << FINE_BITS) - 1)]
        weight >>= KNOT_BITS
        total = weight.sum(axis=1, keepdims=True)
        weight *= TOTAL - size - escape
        weight //= total
        weight += 1
        weight[lines, likeliest] += TOTAL - escape - weight.sum(axis=1)
        if not escape:
            return weight
        return np.concatenate((weight, np.full((rows, 1), escape, dtype=np.int64)), axis=1)
