"""Drawing text from a model: which symbols may come, and one of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fastslow.backends.streaming import Walk
from fastslow.data.alphabet import Alphabet
from fastslow.errors import FastslowError

PROMPT_WINDOW = 512

Probabilities = NDArray[np.float64]


class Model(Protocol):
    """What is asked of a model that text is drawn from: `CharLM` has it."""

    @property
    def alphabet(self) -> Alphabet: ...

    @property
    def device(self) -> torch.device: ...

    def __call__(self, tokens: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]: ...

    def step(self, tokens: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]: ...

    def walk(self, state: Any) -> Walk | None: ...

    def evaluating(self) -> AbstractContextManager[None]: ...


class SamplingError(FastslowError, ValueError):
    """Options from which nothing can be drawn, or a model whose predictions are not numbers."""


def next_probabilities(
    logits: NDArray[Any], temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Probabilities:
    """(V,) logits -> (V,) probabilities that add up to 1, zero where a symbol may not come.

    The temperature comes first, then `top_k`, then `top_p` of what that left. Of equally likely symbols the one with
    the lower index counts as likelier.
    """
    values = np.asarray(logits, dtype=np.float64)
    best = values.max()
    if not math.isfinite(best):
        raise SamplingError("the model's predictions are not finite numbers: its weights are damaged or it diverged")
    if temperature == 0.0:
        only = np.zeros_like(values)
        only[values.argmax()] = 1.0
        return only
    values = values - best
    if temperature != 1.0:
        with np.errstate(over="ignore"):  # a tiny one sends all but the likeliest to exp(-inf) = 0, as it should
            values /= temperature
    p: Probabilities = np.exp(values)
    p /= p.sum()
    if top_k is None and top_p is None:
        return p
    order = np.argsort(-p, kind="stable")
    if top_k is not None:
        p[order[top_k:]] = 0.0
        p /= p.sum()
    if top_p is not None and top_p < 1.0:
        before = np.cumsum(p[order]) - p[order]  # how much is likelier
        p[order[before >= top_p]] = 0.0
        p /= p.sum()
    return p


def draw(probabilities: Probabilities, uniform: float) -> int:
    """The symbol at `uniform` (0 <= uniform < 1) of the cumulated probabilities; never one of probability zero."""
    cumulated = probabilities.cumsum()
    symbol = int(cumulated.searchsorted(uniform * cumulated[-1], side="right"))
    # Rounding may put the product at the very end, past which there is no symbol.
    return symbol if symbol < len(probabilities) else int(np.flatnonzero(probabilities)[-1])


def check_options(temperature: float, top_k: int | None, top_p: float | None, length: int | None) -> None:
    """SamplingError, saying what is possible, unless something can be drawn with these."""
    if not math.isfinite(temperature) or temperature < 0:
        raise SamplingError(f"temperature must be 0 (always the likeliest symbol) or more; got {temperature}")
    if top_k is not None and top_k < 1:
        raise SamplingError(f"top_k must be at least 1, the number of symbols to choose from; got {top_k}")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise SamplingError(f"top_p must be a probability above 0 and at most 1; got {top_p}")
    if length is not None and length < 0:
        raise SamplingError(f"length must be 0 or more; got {length}")


def stream(
    lm: Model,
    prompt: bytes | str,
    length: int | None,
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    generator: torch.Generator | None,
    state: Any,
) -> Iterator[bytes]:
    """`CharLM.stream`."""
    check_options(temperature, top_k, top_p, length)
    if seed is not None:
        if generator is not None:
            raise SamplingError("give a seed or a generator, not both")
        if not -(2**63) <= seed < 2**64:
            raise SamplingError(f"seed must be a whole number of 64 bits; got {str(seed)[:40]}")
    data = prompt.encode() if isinstance(prompt, str) else prompt
    symbols = lm.alphabet.encode(data or start_of_text(lm.alphabet), name="the prompt")
    tokens = torch.from_numpy(symbols.astype(np.int64))
    return _stream(lm, tokens, length, temperature, top_k, top_p, _uniforms(seed, generator), state)


def start_of_text(alphabet: Alphabet) -> bytes:
    """What an empty prompt stands for: a line break, else a blank, else the alphabet's first symbol."""
    for value in b"\n ":
        if value in alphabet:
            return bytes([value])
    return alphabet.symbols[:1]


def _stream(
    lm: Model,
    tokens: torch.Tensor,
    length: int | None,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    uniforms: Iterator[float],
    state: Any,
) -> Iterator[bytes]:
    values = lm.alphabet.symbols
    logits, drawn = None, 0
    # Set the modes for each step, because the caller's code runs in between.
    for window in torch.split(tokens, PROMPT_WINDOW):
        with torch.inference_mode(), lm.evaluating():
            every, state = lm(window.to(lm.device), state)
            logits = array(every[-1])
    with torch.no_grad(), lm.evaluating():
        walk = lm.walk(state)
    while length is None or drawn < length:
        assert logits is not None  # a prompt has at least one symbol
        p = next_probabilities(logits, temperature, top_k, top_p)
        symbol = draw(p, 0.0 if temperature == 0.0 else next(uniforms))
        yield values[symbol : symbol + 1]
        drawn += 1
        if drawn == length:
            break
        if walk is not None:
            logits = walk(symbol)
            if logits is not None:
                continue
            state, walk = walk.state, None  # the model is no longer what it was
        with torch.inference_mode(), lm.evaluating():
            tensor, state = lm.step(torch.tensor(symbol, device=lm.device), state)
            logits = array(tensor)


def array(logits: torch.Tensor) -> NDArray[Any]:
    """(V,) logits on any device, as an array of float32, or float64 where they are."""
    values: NDArray[Any] = (logits if logits.dtype == torch.float64 else logits.float()).cpu().numpy()
    return values


def _uniforms(seed: int | None, generator: torch.Generator | None) -> Iterator[float]:
    """A stream of uniform numbers. Drawn in batches, which is faster, only if nothing else uses the generator."""
    if seed is None:
        while True:
            yield float(torch.rand((), generator=generator, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.rand(256, generator=generator, dtype=torch.float64).tolist()
