"""The surprisal of every byte of a text under a model, a block at a time.

    bits_t = -log2 p(x_t | x_1 ... x_{t-1})

One stream from the first byte to the last, the state carried: each byte is judged by everything before it.  The first
byte has nothing before it and is not scored, as in evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fastslow.data.alphabet import UInt8Array
from fastslow.lm import CharLM

BLOCK = 512
"""Bytes scored by one call of the model."""

LIKELIEST = 5
"""How many of the likeliest symbols are kept for each byte."""


@dataclass(frozen=True, eq=False)
class Surprisal:
    """Consecutive scored bytes of a text.

    ``start`` is the offset of the first, ``values`` (N,) are the bytes, ``bits`` (N,) their surprisals, NaN for the
    first byte of the text.  ``likeliest`` (N, K) are the bytes the model thought likeliest in that place, best first,
    and ``chances`` (N, K) their probabilities.
    """

    start: int
    values: UInt8Array
    bits: NDArray[np.float64]
    likeliest: UInt8Array
    chances: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)

    def part(self, start: int, stop: int) -> Surprisal:
        """The bytes from ``start`` to ``stop`` of this block, without a copy."""
        cut = slice(start, stop)
        return Surprisal(self.start + start, self.values[cut], self.bits[cut], self.likeliest[cut], self.chances[cut])

    def then(self, other: Surprisal) -> Surprisal:
        """This block and the one that follows it, as one."""
        if not len(self):
            return other
        return Surprisal(
            self.start,
            np.concatenate((self.values, other.values)),
            np.concatenate((self.bits, other.bits)),
            np.concatenate((self.likeliest, other.likeliest)),
            np.concatenate((self.chances, other.chances)),
        )


def surprisals(
    model: CharLM, text: UInt8Array, *, name: str = "the text", likeliest: int = LIKELIEST, block: int = BLOCK
) -> Iterator[Surprisal]:
    """The surprisal of every byte of ``text`` (N,), in blocks of at most ``block`` bytes that follow each other.

    ``text`` may be memory-mapped; memory does not grow with its length.  ``likeliest`` is K, cut to the size of the
    alphabet.  The model is used in evaluation mode and left in the mode it was in.  Raises
    :class:`~fastslow.errors.AlphabetError` for a byte that is not in the model's alphabet, before anything is scored.
    """
    alphabet = model.alphabet
    alphabet.check(text, name=name)
    of_index = np.frombuffer(alphabet.symbols, dtype=np.uint8)  # (V,)
    k = min(likeliest, alphabet.size)
    first = len(text[:1])
    yield Surprisal(
        0, text[:1], np.full(first, math.nan), np.zeros((first, k), np.uint8), np.zeros((first, k), np.float32)
    )
    state = None
    for start in range(0, len(text) - 1, block):
        span = text[start : start + block + 1]
        indices = torch.from_numpy(alphabet.encode(span).astype(np.int64)).to(model.device).unsqueeze(1)  # (T + 1, 1)
        # Set anew for each block: between two of them the caller's code runs.
        with torch.inference_mode(), model.evaluating():
            scored = model.token_nats(indices[:-1], indices[1:], state, top=k)
        state = scored.state
        assert scored.top_symbols is not None  # asked for
        assert scored.top_probabilities is not None
        yield Surprisal(
            start + 1,
            span[1:],
            scored.nats[:, 0].double().cpu().numpy() / math.log(2.0),
            of_index[scored.top_symbols[:, 0].cpu().numpy()],
            scored.top_probabilities[:, 0].float().cpu().numpy(),
        )
