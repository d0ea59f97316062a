"""One temperature for a model, or for the models of an ensemble, fitted on a text.

    p_T(symbol) = softmax(logits / T)[symbol]

and an ensemble averages its models' probabilities at one common T. The best T of an overconfident model is above 1. T
is fitted on validation text, never on the reported text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fastslow.data.alphabet import Buffer
from fastslow.data.streams import Streams
from fastslow.data.text import Text
from fastslow.errors import DataError
from fastslow.evaluation.bpc import averaged, check_members
from fastslow.lm.model import CharLM
from fastslow.metrics import bits_per_character
from fastslow.storage import ModelError

RANGE = (0.25, 4.0)
MAX_LOGITS = 1 << 26
"""The number of logits stored for the fit, over all models: 256 MB."""

_ROWS = 1 << 16
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True)
class FittedTemperature:
    """The temperature, and the bits per character on the first `symbols` symbols of its text, at this temperature and
    at 1."""

    temperature: float
    bpc: float
    bpc_at_1: float
    symbols: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fit_temperature(
    models: CharLM | Sequence[CharLM],
    text: Buffer | Text,
    *,
    streams: int = 64,
    on_window: Callable[[int, int], None] | None = None,
) -> FittedTemperature:
    """The temperature between 1/4 and 4 with the lowest loss on the text, to at least three digits.

    The models run once over the text, or as much of it as `MAX_LOGITS` allows, in `streams` parallel pieces; then ln T
    is found by golden-section search on the stored logits. (The loss of one model is convex in 1/T, so its search ends
    at the minimum.)

    on_window: called with the number of symbols done and in total; may raise to stop.

    Raises as `evaluate` does.
    """
    members = [models] if isinstance(models, CharLM) else list(models)
    check_members(members)
    text = text if isinstance(text, Text) else Text.of(text, "the text")
    most = max(1, MAX_LOGITS // (len(members) * len(members[0].alphabet)))
    if len(text) < 2:
        raise DataError(f"{text.name} is too short: it has {len(text)} bytes; at least 2 are needed")
    symbols = members[0].alphabet.encode(text.data[: most + 1], name=text.name)
    logits, targets = _predictions(members, symbols, min(streams, len(symbols) - 1), on_window)
    if not all(bool(part.isfinite().all()) for part in logits):
        raise ModelError(f"the model's predictions on {text.name} are NaN: its weights are damaged")

    def nats(temperature: float) -> float:
        return _nats(logits, targets, temperature)

    best = math.exp(_minimum(lambda log: nats(math.exp(log)), *map(math.log, RANGE)))
    count = len(targets)
    return FittedTemperature(best, bits_per_character(nats(best), count), bits_per_character(nats(1.0), count), count)


@contextmanager
def at_temperature(models: CharLM | Sequence[CharLM], temperature: float) -> Iterator[None]:
    """Divide the models' logits by `temperature` in this context; their weights are restored afterwards."""
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature must be greater than 0; got {temperature}")
    heads = [lm.head for lm in ([models] if isinstance(models, CharLM) else models)]
    weights = [weight for head in heads for weight in (head.weight, head.bias)]
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        torch._foreach_div_(weights, temperature)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, before)


def _predictions(
    members: Sequence[CharLM], symbols: Any, streams: int, on_window: Callable[[int, int], None] | None
) -> tuple[list[Tensor], Tensor]:
    """Each model's logits (N, V) float32 and the targets (N,) of every symbol but the first, on the CPU."""
    cut = Streams.evaluation(symbols, streams, max(1, min(256, (1 << 14) // streams)))
    kept: list[list[Tensor]] = [[] for _ in members]
    targets: list[Tensor] = []
    done = 0
    with torch.inference_mode(), ExitStack() as modes:
        for lm in members:
            modes.enter_context(lm.evaluating())
        states: list[Any] = [None] * len(members)
        for part in cut:
            mask = part.mask()
            mask = torch.ones_like(part.targets, dtype=torch.bool) if mask is None else mask
            for i, lm in enumerate(members):
                logits, states[i] = lm(part.inputs.to(lm.device), states[i])
                kept[i].append(logits.float().cpu()[mask])
            targets.append(part.targets[mask])
            done += part.symbols
            if on_window is not None:
                on_window(done, cut.targets)
    return [torch.cat(parts) for parts in kept], torch.cat(targets)


def _nats(logits: Sequence[Tensor], targets: Tensor, temperature: float) -> float:
    total = 0.0
    for start in range(0, len(targets), _ROWS):
        rows = slice(start, start + _ROWS)
        losses = [
            torch.nn.functional.cross_entropy(part[rows] / temperature, targets[rows], reduction="none")
            for part in logits
        ]
        nats = losses[0] if len(losses) == 1 else averaged(losses)
        total += float(nats.sum(dtype=torch.float64))
    return total


def _minimum(f: Callable[[float], float], low: float, high: float, width: float = 1e-4) -> float:
    """Golden-section search for the minimum of a unimodal function."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = f(left), f(right)
    while high - low > width:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = f(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = f(right)
    return (low + high) / 2
