"""Items that are scored independently, each after the same context: sentences of an experiment, unrelated lines.

They are batched, a few dozen at a time, which is not possible for a single stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastslow.data.alphabet import UInt8Array
from fastslow.lm import CharLM
from fastslow.scoring.surprisal import Surprisal, entropy_bits
from fastslow.state import index_rows

TOGETHER = 32
"""The batch size in items."""

CELLS = 1 << 14
"""The batch size in symbols, including padding; bounds the memory for logits."""


@dataclass(frozen=True)
class Item:
    """An item: the scored text and the context that the model reads before it.

    offsets: (n + 1,), positions of its n bytes and of their end in the file; None counts from 0.
    line, column: where it begins in the file, counted from 1.
    """

    number: int
    text: bytes
    context: bytes | None = None
    offsets: NDArray[np.int64] | None = None
    line: int = 1
    column: int = 1


@dataclass(frozen=True, eq=False)
class ScoredItem:
    """An item, the scores of its bytes, and the bits of the space read between its context and the item."""

    item: Item
    surprisal: Surprisal
    space_bits: float = 0.0


def item_blocks(model: CharLM, items: Iterable[Item], *, start: bytes, has_start: bool) -> Iterator[ScoredItem]:
    """Each item scored after `start` and its own context, both unscored; empty items are skipped.

    start: at least one byte.  has_start: whether it is a context, so that an item is separated from it by a space, or
    it only marks the beginning of a text.  Raises AlphabetError, naming the item, for a byte outside the model's
    alphabet.
    """
    encode = model.alphabet.encode
    first = encode(start, name="the context")
    with torch.inference_mode(), model.evaluating():
        state = model.initial_state(1)
        if len(first) > 1:
            _, state = model(torch.from_numpy(first[:-1].astype(np.int64)).unsqueeze(1).to(model.device), None)
    ready: list[tuple[Item, UInt8Array, int]] = []
    longest = 0
    for item in items:
        if not item.text:
            continue
        name = f"item {item.number}"
        before = item.context or b""
        joined = before or (start if has_start else b"")
        space = b" " if joined and not joined[-1:].isspace() and not item.text[:1].isspace() else b""
        text = encode(space + item.text, name=name)
        symbols = np.concatenate((first[-1:], encode(before, name=f"the context of {name}"), text))
        if ready and (len(ready) == TOGETHER or (len(ready) + 1) * max(longest, len(symbols)) > CELLS):
            yield from _together(model, ready, state)
            ready, longest = [], 0
        ready.append((item, symbols, len(space)))
        longest = max(longest, len(symbols))
    if ready:
        yield from _together(model, ready, state)


def _together(model: CharLM, ready: Sequence[tuple[Item, UInt8Array, int]], state: Any) -> Iterator[ScoredItem]:
    steps = max(len(symbols) for _, symbols, _ in ready) - 1
    padded = np.zeros((steps + 1, len(ready)), dtype=np.int64)
    for row, (_, symbols, _) in enumerate(ready):
        padded[: len(symbols), row] = symbols
    tokens = torch.from_numpy(padded).to(model.device)
    bits = np.empty((steps, len(ready)))
    entropy = np.empty((steps, len(ready)), dtype=np.float32)
    block = max(1, CELLS // len(ready))
    with torch.inference_mode(), model.evaluating():
        # Padding after the end of a short item does not affect it.
        state = index_rows(state, torch.zeros(len(ready), dtype=torch.int64))
        for at in range(0, steps, block):
            logits, state = model(tokens[at : min(at + block, steps)], state)
            log_p = torch.log_softmax(logits.float() if logits.dtype != torch.float64 else logits, -1)
            nats = -log_p.gather(2, tokens[at + 1 : at + 1 + len(log_p)].unsqueeze(-1))[..., 0]
            bits[at : at + len(log_p)] = nats.double().cpu().numpy() / math.log(2.0)
            entropy[at : at + len(log_p)] = entropy_bits(log_p).float().cpu().numpy()
    for row, (item, symbols, space) in enumerate(ready):
        n = len(item.text)
        cut = slice(len(symbols) - 1 - n, len(symbols) - 1)
        yield ScoredItem(
            item,
            Surprisal(
                0,
                np.frombuffer(item.text, dtype=np.uint8),
                bits[cut, row],
                np.zeros((n, 0), np.uint8),
                np.zeros((n, 0), np.float32),
                entropy[cut, row],
                np.arange(n + 1, dtype=np.int64) if item.offsets is None else item.offsets,
            ),
            float(bits[cut.start - 1, row]) if space else 0.0,
        )
