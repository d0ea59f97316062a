"""Losses inside words (paper, figure 5): bits per character by the position of the character in its word.

A word is a maximal run of bytes other than white space; its first byte has position 1. White space has position 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastslow.data.alphabet import UInt8Array
from fastslow.metrics import LN2

WHITE_SPACE = b" \t\n\r\v\f"


@dataclass(frozen=True, eq=False)
class PositionLosses:
    """Loss by position; the last entry combines its position and all later ones.

    nats: (P + 1,) float64, the total of each position, white space first. symbols: (P + 1,) int64, the number of
    symbols per position.
    """

    nats: NDArray[np.float64]
    symbols: NDArray[np.int64]

    @property
    def bpc(self) -> NDArray[np.float64]:
        """(P + 1,) bits per character; NaN where there are no symbols."""
        with np.errstate(invalid="ignore"):
            result: NDArray[np.float64] = self.nats / self.symbols / LN2
        return result


def word_positions(data: UInt8Array) -> NDArray[np.int64]:
    """(N,) the position of each byte in its word, 0 for white space."""
    space = np.isin(data, np.frombuffer(WHITE_SPACE, dtype=np.uint8))
    index = np.arange(len(data), dtype=np.int64)
    last_space = np.maximum.accumulate(np.where(space, index, -1))
    return index - last_space


def position_losses(nats: ArrayLike, data: UInt8Array, *, longest: int = 10) -> PositionLosses:
    """The losses of a text by position.

    nats: (N - 1,), of every symbol but the first, in order. data: (N,), the text. longest: P, the last position with
    its own result, which includes all later ones.

    Raises ValueError if their lengths do not match.
    """
    values = np.asarray(nats, dtype=np.float64)
    if len(values) != len(data) - 1:
        raise ValueError(f"{len(data):,} bytes have {len(data) - 1:,} losses; got {len(values):,}")
    positions = np.minimum(word_positions(data)[1:], longest)
    symbols = np.bincount(positions, minlength=longest + 1).astype(np.int64)
    totals = np.bincount(positions, weights=values, minlength=longest + 1).astype(np.float64)
    return PositionLosses(totals, symbols)
