"""Metrics computed from losses in nats: bits per character, perplexity, and confidence intervals.

Inside the package, losses are in nats (natural logarithms, as in torch's cross entropy); everything shown to users is
in bits per character (BPC).  A character is a symbol of the model's alphabet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastslow.errors import DataError

LN2 = math.log(2.0)


def nats_to_bits(nats: float) -> float:
    """Bits in ``nats``; also converts nats per character to bits per character."""
    return nats / LN2


def bits_to_nats(bits: float) -> float:
    """Nats in ``bits``; the inverse of :func:`nats_to_bits`."""
    return bits * LN2


def bits_per_character(total_nats: float, symbols: int) -> float:
    """BPC of a text: its total loss, converted to bits, divided by the number of predicted symbols.

    Raises ``ValueError`` if no symbol was predicted.
    """
    if symbols < 1:
        raise ValueError(f"bits per character needs at least one scored symbol; got {symbols}")
    return nats_to_bits(total_nats / symbols)


def perplexity(nats_per_symbol: float) -> float:
    """``exp`` of the mean loss: the number of equally likely symbols that are as hard to predict."""
    try:
        return math.exp(nats_per_symbol)
    except OverflowError:
        return math.inf


@dataclass
class Mean:
    """Running sum of nats over symbols; ``.nats`` and ``.bpc`` are its averages.

    The sum is compensated (Neumaier), so that no printed digit is lost over 1e8 symbols, and several means (of ranks,
    windows, files) merge to the mean over all their symbols in any order.
    """

    total_nats: float = 0.0
    symbols: int = 0
    _lost: float = 0.0

    def add(self, total_nats: float, symbols: int) -> None:
        """Add ``symbols`` symbols with a total loss of ``total_nats``.

        Raises ``ValueError`` for a negative number of symbols.
        """
        if symbols < 0:
            raise ValueError(f"symbols must not be negative; got {symbols}")
        value = float(total_nats)
        new = self.total_nats + value
        if math.isfinite(new):
            if abs(self.total_nats) >= abs(value):
                self._lost += (self.total_nats - new) + value
            else:
                self._lost += (value - new) + self.total_nats
        self.total_nats = new
        self.symbols += symbols

    def merge(self, other: Mean) -> None:
        """Add the sums of ``other``."""
        self.add(other.total_nats, other.symbols)
        self._lost += other._lost

    @property
    def nats(self) -> float:
        """Mean loss, nats per symbol.  Raises ``ValueError`` before the first symbol."""
        if self.symbols < 1:
            raise ValueError("no symbol has been scored yet")
        return (self.total_nats + self._lost) / self.symbols

    @property
    def bpc(self) -> float:
        """Mean loss, bits per character.  Raises ``ValueError`` before the first symbol."""
        return nats_to_bits(self.nats)


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval, in bits per character."""

    value_bpc: float
    low_bpc: float
    high_bpc: float
    confidence: float
    symbols: int

    @property
    def excludes_zero(self) -> bool:
        """For a difference: whether the interval is entirely on one side of zero."""
        return self.low_bpc > 0.0 or self.high_bpc < 0.0

    def __str__(self) -> str:
        return (
            f"{self.value_bpc:.4f} BPC [{self.low_bpc:.4f}, {self.high_bpc:.4f}] "
            f"({100 * self.confidence:g}% bootstrap interval, {self.symbols:,} symbols)"
        )


def bootstrap_mean(
    nats: ArrayLike, *, block: int = 1000, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of per-symbol losses with a block bootstrap interval.

    Losses of neighbouring symbols are correlated (a hard word, an unusual article), so whole blocks of ``block``
    consecutive symbols are drawn, with replacement and from every starting point, treating the text as a circle
    (circular block bootstrap: Politis and Romano, 1992).  The interval is given by the percentiles of ``samples``
    resampled means, each over as many symbols as the text has.

    ``nats``: (N,) losses in nats in the order of the text.  ``block`` is limited to N.  The same ``seed`` gives the
    same interval.  Raises :class:`~fastslow.errors.DataError` for an empty, non-finite or misshapen array, and
    ``ValueError`` for invalid settings.
    """
    values = _losses(nats, "the losses")
    return _bootstrap(values, block, samples, confidence, seed)


def bootstrap_difference(
    nats: ArrayLike,
    other_nats: ArrayLike,
    *,
    block: int = 1000,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Difference ``mean(nats) - mean(other_nats)`` of two models on the same text, with a bootstrap interval.

    The models are compared symbol by symbol: each resample draws the same blocks from both (see
    :func:`bootstrap_mean`), so common difficulty cancels.  Negative: the first model is better.

    ``nats``, ``other_nats``: (N,) losses in nats of the same symbols in the same order.  Raises
    :class:`~fastslow.errors.DataError` if their lengths differ.
    """
    first = _losses(nats, "the first model's losses")
    second = _losses(other_nats, "the second model's losses")
    if len(first) != len(second):
        raise DataError(
            f"the two models scored {len(first):,} and {len(second):,} symbols: use the same text and "
            "the same protocol for both"
        )
    return _bootstrap(first - second, block, samples, confidence, seed)


def _losses(nats: ArrayLike, name: str) -> NDArray[np.float64]:
    values: NDArray[Any] = np.asarray(nats)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise DataError(f"{name} must be one number per symbol, shape (N,); got {values.dtype} {values.shape}")
    if values.size == 0:
        raise DataError(f"{name} are empty: at least one is needed")
    result = values.astype(np.float64)
    finite = np.isfinite(result)
    if not finite.all():
        raise DataError(f"{name} are not finite at symbol {int(np.argmin(finite)):,}: {result[~finite][0]}")
    return result


def _bootstrap(values: NDArray[np.float64], block: int, samples: int, confidence: float, seed: int) -> Interval:
    if block < 1 or samples < 1:
        raise ValueError(f"block and samples must be at least 1; got {block} and {samples}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1; got {confidence}")
    n = len(values)
    block = min(block, n)
    mean = float(values.mean())
    # The sum of any circular block is one subtraction; values are centred first to preserve precision.
    centred = values - mean
    sums = np.concatenate(([0.0], np.cumsum(np.concatenate((centred, centred[: block - 1])))))
    whole, rest = divmod(n, block)
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    for i in range(samples):
        starts = generator.integers(n, size=whole)
        total = float((sums[starts + block] - sums[starts]).sum())
        if rest:
            start = int(generator.integers(n))
            total += float(sums[start + rest] - sums[start])
        means[i] = mean + total / n
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(
        value_bpc=nats_to_bits(mean),
        low_bpc=nats_to_bits(float(low)),
        high_bpc=nats_to_bits(float(high)),
        confidence=confidence,
        symbols=n,
    )
