"""The surprisal of every byte of a text under a model, in blocks.

    bits_t    = -log2 p(x_t | x_1 ... x_{t-1})
    entropy_t = -sum_v p(v | x_1 ... x_{t-1}) log2 p(v | x_1 ... x_{t-1})

The text is one stream from its first byte to its last, with the state carried over: each byte is predicted from
everything before it.  As in evaluation, the first byte has no context and is not scored, unless the model reads a
context first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fastslow.data.alphabet import Buffer, UInt8Array, as_bytes_array
from fastslow.lm import CharLM

BLOCK = 512
"""The number of bytes scored in one call of the model."""

LIKELIEST = 5
"""The number of likeliest symbols stored for each byte."""

Offsets = Callable[[int, int], NDArray[np.int64]]
"""`offsets(start, stop)`: the file offsets of the bytes from start to stop; (stop - start,), including the end."""


class Mixed(NamedTuple):
    """bits (n,), likeliest (n, K) and chances (n, K) as in `Surprisal`."""

    bits: NDArray[np.float64]
    likeliest: UInt8Array
    chances: NDArray[np.float32]


class ByteMixer(Protocol):
    """Predicts bytes with the help of the network's predictions, such as `mixed.NetworkMixer`."""

    def mix(self, log_p: NDArray[Any], values: UInt8Array, likeliest: int) -> Mixed:
        """The next n bytes, and the network's predictions for them, log_p (n, V)."""
        ...

    def read(self, values: UInt8Array) -> None:
        """Read bytes without predictions of the network."""
        ...


@dataclass(frozen=True, eq=False)
class Surprisal:
    """Consecutive scored bytes of a text.

    ``start`` is the position of the first byte, ``values`` (N,) are the bytes, ``bits`` (N,) their surprisals, NaN for
    an unscored first byte.  ``likeliest`` (N, K) are the most probable bytes at each place, most probable first, and
    ``chances`` (N, K) their probabilities.  ``entropy`` (N,) is that of the whole prediction, in bits, NaN where there
    was none.  ``offsets`` (N + 1,) are the file offsets of each byte and of the end.
    """

    start: int
    values: UInt8Array
    bits: NDArray[np.float64]
    likeliest: UInt8Array
    chances: NDArray[np.float32]
    entropy: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def unscored(self) -> int:
        """The number of unscored bytes at the beginning; all others are scored."""
        return int(np.count_nonzero(np.isnan(self.bits)))

    @property
    def file_bytes(self) -> int:
        """The number of bytes of the file that the scored bytes represent."""
        return int(self.offsets[-1] - self.offsets[self.unscored])

    def part(self, start: int, stop: int) -> Surprisal:
        """The bytes from ``start`` to ``stop`` of this block, without a copy."""
        cut = slice(start, stop)
        return Surprisal(
            self.start + start,
            self.values[cut],
            self.bits[cut],
            self.likeliest[cut],
            self.chances[cut],
            self.entropy[cut],
            self.offsets[start : stop + 1],
        )

    def then(self, other: Surprisal) -> Surprisal:
        """This block and the following one, joined."""
        if not len(self):
            return other
        return Surprisal(
            self.start,
            np.concatenate((self.values, other.values)),
            np.concatenate((self.bits, other.bits)),
            np.concatenate((self.likeliest, other.likeliest)),
            np.concatenate((self.chances, other.chances)),
            np.concatenate((self.entropy, other.entropy)),
            np.concatenate((self.offsets[:-1], other.offsets)),
        )


def surprisals(
    model: CharLM,
    text: UInt8Array,
    *,
    name: str = "the text",
    likeliest: int = LIKELIEST,
    block: int = BLOCK,
    context: bytes = b"",
    offsets: Offsets | None = None,
    mixer: ByteMixer | None = None,
) -> Iterator[Surprisal]:
    """The surprisal of every byte of ``text`` (N,), in consecutive blocks of at most ``block`` bytes.

    ``text`` may be memory-mapped; memory does not grow with its length.  ``likeliest`` is K, limited to the size of the
    alphabet.  ``context`` is read first and not scored; without it the first byte of the text is not scored.
    ``offsets`` maps positions to file offsets, by default to themselves.  ``mixer`` computes bits from the network's
    predictions; by default they are the network's own.  The model is used in evaluation mode, and its mode is restored
    afterwards.  Raises :class:`~fastslow.errors.AlphabetError` for a byte outside the model's alphabet, before anything
    is scored.
    """
    model.alphabet.check(text, name=name)
    scorer = Scorer(model, likeliest=likeliest, block=block, context=context, mixer=mixer)
    # An unscored first byte forms a separate block.
    starts = range(0, len(text), block) if context else [0, *range(1, len(text), block)]
    for start in starts:
        span = text[start : start + block if context or start else 1]
        places = np.arange(start, start + len(span) + 1) if offsets is None else offsets(start, start + len(span) + 1)
        yield from scorer.feed(span, places)


class Scorer:
    """One stream of bytes, scored as they arrive: ``feed`` scores a piece immediately and carries the state over.

    ``context`` is read first and not scored; without it the first byte is not scored.  ``likeliest``, ``block`` and
    ``mixer`` as in :func:`surprisals`.
    """

    def __init__(
        self,
        model: CharLM,
        *,
        likeliest: int = LIKELIEST,
        block: int = BLOCK,
        context: bytes = b"",
        mixer: ByteMixer | None = None,
    ) -> None:
        if block < 1:
            raise ValueError(f"block must be at least 1; got {block}")
        if mixer is not None and context:
            raise ValueError("a mixer needs the text from its beginning: use either mixer or context")
        self._model, self._block = model, block
        self._k = min(likeliest, model.alphabet.size)
        self._symbols = np.frombuffer(model.alphabet.symbols, dtype=np.uint8)  # (V,) index -> byte
        self._mixer = mixer
        self._state: Any = None
        self._last: int | None = None
        """The symbol that the model reads next."""
        self._start = 0
        if context:
            self._read(model.alphabet.encode(context, name="the context"))

    def feed(self, values: Buffer, offsets: NDArray[np.int64] | None = None) -> Iterator[Surprisal]:
        """The scores of ``values`` (N,), in blocks; ``offsets`` (N + 1,) are their file offsets.

        Raises AlphabetError for a byte outside the model's alphabet, with its position in ``values``.
        """
        values = as_bytes_array(values)
        if offsets is None:
            offsets = np.arange(self._start, self._start + len(values) + 1, dtype=np.int64)
        symbols = self._model.alphabet.encode(values)
        done = 0
        if self._last is None and (len(values) or self._start == 0):
            done = len(values[:1])
            yield self._unscored(values[:done], offsets[: done + 1])
            if done:
                self._last = int(symbols[0])
        for at in range(done, len(values), self._block):
            stop = min(at + self._block, len(values))
            yield self._scored(values[at:stop], symbols[at:stop], offsets[at : stop + 1])

    def _unscored(self, values: UInt8Array, offsets: NDArray[np.int64]) -> Surprisal:
        n = len(values)
        self._start += n
        if self._mixer is not None:
            self._mixer.read(values)
        return Surprisal(
            self._start - n,
            values,
            np.full(n, math.nan),
            np.zeros((n, self._k), np.uint8),
            np.zeros((n, self._k), np.float32),
            np.full(n, math.nan, np.float32),
            offsets,
        )

    def _read(self, symbols: UInt8Array) -> None:
        """Read the symbols of a context."""
        for at in range(0, len(symbols) - 1, self._block):
            part = symbols[at : min(at + self._block, len(symbols) - 1)]
            with torch.inference_mode(), self._model.evaluating():
                _, self._state = self._model(_tokens(part).to(self._model.device), self._state)
        self._last = int(symbols[-1])

    def _scored(self, values: UInt8Array, symbols: UInt8Array, offsets: NDArray[np.int64]) -> Surprisal:
        assert self._last is not None
        device = self._model.device
        targets = _tokens(symbols).to(device)  # (T, 1)
        inputs = torch.cat((torch.tensor([[self._last]], device=device), targets[:-1]))
        # Set for each block, because the caller's code runs in between.
        with torch.inference_mode(), self._model.evaluating():
            logits, self._state = self._model(inputs, self._state)
            log_p = torch.log_softmax(logits[:, 0].float() if logits.dtype != torch.float64 else logits[:, 0], -1)
            if self._mixer is None:
                bits = -log_p.gather(1, targets)[:, 0].double().cpu().numpy() / math.log(2.0)
                best, which = log_p.topk(self._k, dim=-1)
                found = Mixed(bits, self._symbols[which.cpu().numpy()], best.exp().float().cpu().numpy())
            else:
                found = self._mixer.mix(log_p.cpu().numpy(), values, self._k)
            entropy = entropy_bits(log_p)
        self._last = int(symbols[-1])
        self._start += len(values)
        return Surprisal(
            self._start - len(values),
            values,
            *found,
            entropy.float().cpu().numpy(),
            offsets,
        )


def entropy_bits(log_p: torch.Tensor) -> torch.Tensor:
    """The entropy of distributions in bits: log_p (..., V) natural logarithms -> (...)."""
    # A symbol of probability 0 contributes nothing (0 times minus infinity).
    return -(log_p.exp() * log_p).nan_to_num(0.0).sum(-1) / math.log(2.0)


def _tokens(symbols: UInt8Array) -> torch.Tensor:
    return torch.from_numpy(symbols.astype(np.int64)).unsqueeze(1)
