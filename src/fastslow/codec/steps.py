"""Shared by the coders of a block: the interface of the network, and the lanes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from fastslow.codec.exact.tables import Ints
from fastslow.codec.frequencies import FrequencyModel


class Predictor(Protocol):
    """The interface of a model for the coder. Encoder and decoder make the same calls in the same order."""

    symbols: bytes
    start: int
    """The input before a lane's first byte, and in place of a byte outside the alphabet."""
    frequencies: FrequencyModel

    def begin(self, lanes: int) -> None:
        """Reset the state, with S lanes."""

    def step(self, symbols: Ints) -> Ints:
        """The last symbol of each lane (S,) -> logits of the next (S, V), int64 in units of 2^-15.

        A lane that has ended is given the start symbol; what it predicts is not used.
        """


class Layout:
    """The lanes of a block of `length` bytes: contiguous, in order, the first ones a byte longer."""

    def __init__(self, length: int, lanes: int) -> None:
        short, longer = divmod(length, lanes)
        sizes = np.full(lanes, short)
        sizes[:longer] += 1
        self.offsets = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        self.length, self.lanes = length, lanes
        self.steps = short + (longer > 0)
        self.full_steps, self.longer = short, longer

    def active(self, t: int) -> int:
        """The number of lanes, from the first, that have a symbol at step t."""
        return self.lanes if t < self.full_steps else self.longer

    def symbols(self, first: int, last: int) -> int:
        """The number of symbols in steps first .. last - 1."""
        return min(last * self.lanes, self.length) - min(first * self.lanes, self.length)

    def pieces(self, size: int, stop: int = 0) -> Iterator[tuple[int, int]]:
        """All steps, in order, as (first, last + 1): at most `size` at a time, none across step `stop`."""
        first = 0
        while first < self.steps:
            last = min(first + size, self.steps)
            if first < stop < last:
                last = stop
            yield first, last
            first = last
