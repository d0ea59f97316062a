"""Surprisal by the mixed predictor: the network and contexts of the text itself, weighed as the text is read.

A network alone is surprised by every line of a kind of text it was not trained on, however often the line has come
before.  `fastslow.mixing` mixes its predictions with those of contexts that learn from the text: the first line of a
kind is a surprise, the hundredth is not.  It is as honest a surprisal as the network's: each byte is predicted from
what came before it, by the predictor that `fastslow compress` codes with.
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
from fastslow.mixing.mixer import TOTAL
from fastslow.mixing.native import library
from fastslow.scoring.options import Predictor
from fastslow.scoring.surprisal import Surprisal, surprisals

SAMPLE = 1 << 13
"""Bytes at the beginning of a text by which the predictor is chosen."""


class NetworkMixer:
    """What `Scorer` asks for bits in place of the network: a mixer for a text of at most `length` bytes."""

    def __init__(self, length: int, symbols: bytes) -> None:
        self._mixer, self._symbols = Mixer(max(1, length), network=True), symbols

    def bits(self, log_p: NDArray[np.floating[Any]], values: UInt8Array) -> NDArray[np.float64]:
        """The next n bytes and the network's predictions of them, log_p (n, V) -> (n,) bits."""
        return self._mixer.bits(values, frequencies(log_p), self._symbols)

    def read(self, values: UInt8Array) -> None:
        """Bytes that the network does not predict: every symbol is as likely."""
        self.bits(np.zeros((len(values), len(self._symbols))), values)


class EndlessMixer:
    """A mixer for a stream without end, in constant memory (about 100 MB).

    After `length` bytes it begins anew, having read the last `kept` of them again, as if by the contexts alone.
    """

    def __init__(self, symbols: bytes, length: int = 1 << 22, kept: int = 1 << 17) -> None:
        if not 0 <= kept < length:
            raise ValueError(f"kept must be below length, and not below 0; got {kept:,} and {length:,}")
        self._symbols, self._length, self._kept = symbols, length, kept
        self._last = np.zeros(0, dtype=np.uint8)
        """The bytes read, as many as are kept."""
        self._mixer, self._room = NetworkMixer(length, symbols), length

    def bits(self, log_p: NDArray[np.floating[Any]], values: UInt8Array) -> NDArray[np.float64]:
        """As `NetworkMixer.bits`."""
        found = []
        for start in range(0, len(values), self._length - self._kept):
            part = slice(start, start + self._length - self._kept)
            found.append(self._bits(log_p[part], values[part]))
        return np.concatenate(found) if found else np.zeros(0)

    def read(self, values: UInt8Array) -> None:
        """As `NetworkMixer.read`."""
        self.bits(np.zeros((len(values), len(self._symbols))), values)

    def _bits(self, log_p: NDArray[np.floating[Any]], values: UInt8Array) -> NDArray[np.float64]:
        if len(values) > self._room:
            self._mixer, self._room = NetworkMixer(self._length, self._symbols), self._length - len(self._last)
            self._mixer.read(self._last)
        self._room -= len(values)
        joined = np.concatenate((self._last, values))
        self._last = joined[max(0, len(joined) - self._kept) :].copy()
        return self._mixer.bits(log_p, values)


def frequencies(log_p: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """log_p (n, V) natural logarithms, up to a constant a row -> (n, V) integers of at least 1, each row 2^24."""
    p = np.exp(log_p.astype(np.float64) - log_p.max(axis=1, keepdims=True, initial=-np.inf))
    p /= p.sum(axis=1, keepdims=True)
    found: NDArray[np.int64] = np.floor(p * (TOTAL - p.shape[1])).astype(np.int64) + 1
    # What rounding down has left goes to the likeliest symbol.
    found[np.arange(len(found)), p.argmax(axis=1)] += TOTAL - found.sum(axis=1)
    return found


@dataclass(frozen=True)
class Chosen:
    """A predictor, "network" or "mixed", and a text's scores by it."""

    predictor: Predictor
    blocks: Iterator[Surprisal]

    def __str__(self) -> str:
        """For the head of a page."""
        if self.predictor == "network":
            return "the network alone"
        return "the network mixed with contexts that learn from the text as it is read"


def choose(model: CharLM, text: UInt8Array, predictor: Predictor = "auto", **options: Any) -> Chosen:
    """The scores of `text` by the predictor that is named; with "auto", by the network alone unless it is worse than
    the contexts alone on the first `SAMPLE` bytes.  Where the mixer is not compiled, "auto" is the network.

    options: of `surprisals`.  The mixed predictor has no likeliest symbols, and its entropy is the network's.
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
    return Chosen("mixed", surprisals(model, text, mixer=mixer, **{**options, "likeliest": 0}))


def worse_than_contexts(scored: list[Surprisal]) -> bool:
    """Whether the contexts alone, which begin with nothing, need fewer bits for these bytes than the network did."""
    values = np.concatenate([block.values for block in scored])
    if not len(values):
        return False
    bits = np.concatenate([block.bits for block in scored])
    counted = ~np.isnan(bits)
    return bool(Mixer(len(values)).bits(values)[counted].sum() < bits[counted].sum())
