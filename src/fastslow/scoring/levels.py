"""Levels of surprisal, shared by the terminal view and the HTML page."""

from __future__ import annotations

import bisect
import itertools
import math

import numpy as np
from numpy.typing import NDArray

BOUNDS = (2.0, 4.0, 6.0, 8.0, 11.0)
"""Level i begins at BOUNDS[i - 1] bits; level 0 is below all of them."""

LEVELS = len(BOUNDS) + 1


def levels(bits: NDArray[np.float64]) -> NDArray[np.int64]:
    """The level of each surprisal, same shape; 0 for NaN (not scored)."""
    return np.digitize(np.nan_to_num(bits, nan=0.0), BOUNDS)


def level(bits: float) -> int:
    """The level of one surprisal."""
    return bisect.bisect_right(BOUNDS, bits) if bits == bits else 0


def level_names() -> list[str]:
    """``"<2"``, ``"2-4"``, ... ``"11+"`` in bits, one per level."""
    edges = [f"{bound:g}" for bound in BOUNDS]
    between = [f"{low}-{high}" for low, high in itertools.pairwise(edges)]
    return [f"<{edges[0]}", *between, f"{edges[-1]}+"]


def mean_text(mean_bits: float) -> str:
    """A mean for the margin: ``" 2.31"``, five characters wide, or a dash if nothing was scored."""
    return "    -" if math.isnan(mean_bits) else f"{mean_bits:5.2f}"
