"""Surprisal by the mixed predictor: the network mixed with contexts that learn from the text itself.

A network alone is surprised by every line of a kind that it was not trained on, however often such lines occur.
`fastslow.mixing` mixes its predictions with those of contexts that learn from the text, so that repeated kinds of lines
become unsurprising.  It is still a valid surprisal: each byte is predicted only from what came before it, by the
predictor that `fastslow compress` uses.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastslow.data.alphabet import UInt8Array
from fastslow.lm import CharLM
from fastslow.mixing import Mixer
from fastslow.mixing.mixer import TOTAL, bits_of
from fastslow.mixing.native import library
from fastslow.scoring.options import Predictor
from fastslow.scoring.surprisal import Mixed, Surprisal, surprisals

SAMPLE = 1 << 13
"""The number of bytes at the beginning of a text used to choose the predictor."""


class NetworkMixer:
    """A mixer for `Scorer`, for a text of at most `length` bytes."""

    def __init__(self, length: int, symbols: bytes) -> None:
        self._mixer, self._symbols = Mixer(max(1, length), network=True), symbols

    def mix(self, log_p: NDArray[np.floating[Any]], values: UInt8Array, likeliest: int = 0) -> Mixed:
        """The next n bytes and the network's predictions for them, log_p (n, V)."""
        coded = self._mixer.code(values, frequencies(log_p), self._symbols, likeliest=likeliest)
        return Mixed(bits_of(coded), coded.likeliest, (coded.chances / 2.0**32).astype(np.float32))

    def read(self, values: UInt8Array) -> None:
        """Read bytes without predictions of the network: all symbols are equally likely."""
        self.mix(np.zeros((len(values), len(self._symbols))), values)


class EndlessMixer:
    """A mixer for a stream without end, in constant memory (about 100 MB).

    After `length` bytes it restarts and rereads the last `kept` bytes, without the network's predictions.
    """

    def __init__(self, symbols: bytes, length: int = 1 << 22, kept: int = 1 << 17) -> None:
        if not 0 <= kept < length:
            raise ValueError(f"kept must be at least 0 and less than length; got {kept:,} and {length:,}")
        self._symbols, self._length, self._kept = symbols, length, kept
        self._last = np.zeros(0, dtype=np.uint8)
        """The last `kept` bytes."""
        self._mixer, self._room = NetworkMixer(length, symbols), length

    def mix(self, log_p: NDArray[np.floating[Any]], values: UInt8Array, likeliest: int = 0) -> Mixed:
        """As `NetworkMixer.mix`."""
        most = self._length - self._kept
        starts = range(0, max(1, len(values)), most)
        found = [self._mix(log_p[at : at + most], values[at : at + most], likeliest) for at in starts]
        return Mixed(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def read(self, values: UInt8Array) -> None:
        """As `NetworkMixer.read`."""
        self.mix(np.zeros((len(values), len(self._symbols))), values)

    def _mix(self, log_p: NDArray[np.floating[Any]], values: UInt8Array, likeliest: int) -> Mixed:
        if len(values) > self._room:
            self._mixer, self._room = NetworkMixer(self._length, self._symbols), self._length - len(self._last)
            self._mixer.read(self._last)
        self._room -= len(values)
        joined = np.concatenate((self._last, values))
        self._last = joined[max(0, len(joined) - self._kept) :].copy()
        return self._mixer.mix(log_p, values, likeliest)


def frequencies(log_p: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """log_p (n, V) natural logarithms, up to a constant per row -> (n, V) positive integers with row sums 2^24."""
    p = np.exp(log_p.astype(np.float64) - log_p.max(axis=1, keepdims=True, initial=-np.inf))
    p /= p.sum(axis=1, keepdims=True)
    found: NDArray[np.int64] = np.floor(p * (TOTAL - p.shape[1])).astype(np.int64) + 1
    # The remainder from rounding down goes to the likeliest symbol.
    found[np.arange(len(found)), p.argmax(axis=1)] += TOTAL - found.sum(axis=1)
    return found


@dataclass(frozen=True)
class Chosen:
    """The chosen predictor, "network" or "mixed", and its scores of a text."""

    predictor: Predictor
    blocks: Iterator[Surprisal]

    def __str__(self) -> str:
        """A description for the head of a page."""
        if self.predictor == "network":
            return "the network alone"
        return "the network mixed with contexts that learn from the text as it is read"


def choose(model: CharLM, text: UInt8Array, predictor: Predictor = "auto", **options: Any) -> Chosen:
    """The scores of `text` by the given predictor. "auto" chooses the network alone unless it is worse than the
    contexts alone on the first `SAMPLE` bytes, or always if the mixer is not compiled.

    options: those of `surprisals`.  The entropy of the mixed predictor is the network's.
    """
    if predictor != "mixed":
        blocks = surprisals(model, text, **options)
        if predictor == "network" or isinstance(library(), str):
            return Chosen("network", blocks)
        head: list[Surprisal] = []
        for block in blocks:
            head.append(block)
            if block.start + len(block) >= SAMPLE:
                break
        if not worse_than_contexts(head):
            return Chosen("network", itertools.chain(head, blocks))
    mixer = NetworkMixer(len(text), model.alphabet.symbols)
    return Chosen("mixed", surprisals(model, text, mixer=mixer, **options))


def worse_than_contexts(scored: list[Surprisal]) -> bool:
    """Whether the untrained contexts alone need fewer bits for these bytes than the network did."""
    values = np.concatenate([block.values for block in scored])
    if not len(values):
        return False
    bits = np.concatenate([block.bits for block in scored])
    counted = ~np.isnan(bits)
    return bool(Mixer(len(values)).bits(values)[counted].sum() < bits[counted].sum())
