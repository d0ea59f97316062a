"""Evaluation in bits per character: total nats over all symbols, divided by their number.

Every symbol of the text except the first, which has no predecessor, is scored exactly once. With one stream, the state
is carried from the first symbol to the last. With more, the text is split into as many contiguous pieces, which run in
parallel and faster; each piece starts from a zero state, unless it first reads some preceding symbols unscored
(`warm`).

**Two protocols of Penn Treebank from one run.** In the raw text each line begins and ends with a space; the char
protocol omits both. A char text and its raw form correspond one to one, so by the chain rule its code length under a
model of the raw text is that of the raw form: the two spaces per line are charged to their neighbouring symbols, none
is free, and the total is divided by the number of char symbols. For example, the end of a line costs the space after
its last word plus the line break. As in any text, only the first char symbol is not scored: it is the second symbol of
the raw text, so its nats are subtracted from the total.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastslow.data.alphabet import Buffer, UInt8Array
from fastslow.data.corpora import char_protocol_mask
from fastslow.data.streams import Streams
from fastslow.data.text import Text
from fastslow.errors import DataError
from fastslow.lm.model import CharLM, TokenNats
from fastslow.metrics import bits_per_character
from fastslow.state import reset_rows
from fastslow.storage import ModelError

CELLS_PER_WINDOW = 1 << 14
"""The number of symbols scored at a time, over all streams; bounds the memory for logits."""


@dataclass(frozen=True)
class CharProtocol:
    """The result of the same run by the char protocol of Penn Treebank; see this module."""

    nats: float
    symbols: int

    @property
    def bpc(self) -> float:
        return bits_per_character(self.nats, self.symbols)

    def to_json(self) -> dict[str, Any]:
        return {"bpc": self.bpc, "nats": self.nats, "symbols": self.symbols}


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    nats: total loss over `symbols`, which are all but the first of the text.
    streams, warm: number of streams, and of symbols that each stream read first without scoring.
    models: number of models whose probabilities were averaged.
    seconds: wall-clock time.
    char: the result by PTB's char protocol if the text is raw PTB, otherwise None.
    documents: "files" or "lines", each of which starts from a zero state; None: the text is one document.
    symbol_nats: (symbols,) float32, the loss of each symbol in the order of the text, or None if not requested.
    """

    nats: float
    symbols: int
    streams: int
    warm: int
    models: int
    seconds: float
    char: CharProtocol | None = None
    symbol_nats: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    documents: str | None = None

    @property
    def bpc(self) -> float:
        """Bits per character."""
        return bits_per_character(self.nats, self.symbols)

    @property
    def protocol(self) -> str:
        """A description of how the text was scored."""
        parts = ["every symbol but the first"]
        if self.streams == 1:
            parts.append("one continuous stream")
        else:
            start = f"after {self.warm:,} symbols read unscored" if self.warm else "from a zero state"
            parts.append(f"{self.streams:,} streams, each {start}")
        if self.documents is not None:
            parts.append(f"a zero state at the start of each {self.documents.removesuffix('s')}")
        if self.models > 1:
            parts.append(f"probabilities of {self.models} models averaged")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """A JSON object, without the per-symbol losses."""
        return {
            "bpc": self.bpc,
            "nats": self.nats,
            "symbols": self.symbols,
            "protocol": self.protocol,
            "streams": self.streams,
            "warm": self.warm,
            "models": self.models,
            "seconds": self.seconds,
            **({} if self.documents is None else {"documents": self.documents}),
            "char_protocol": None if self.char is None else self.char.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_json`. Raises KeyError or TypeError for anything else."""
        char = value["char_protocol"]
        return cls(
            nats=float(value["nats"]),
            symbols=int(value["symbols"]),
            streams=int(value["streams"]),
            warm=int(value["warm"]),
            models=int(value["models"]),
            seconds=float(value["seconds"]),
            documents=value.get("documents"),
            char=None if char is None else CharProtocol(float(char["nats"]), int(char["symbols"])),
        )


class Sharing(Protocol):
    """Processes that each score some of a text's streams, such as `training.distributed.Ranks`."""

    def columns(self, count: int) -> slice | None:
        """The part of `count` streams that this process scores; None if it has none."""
        ...

    def sum(self, *values: float) -> list[float]:
        """The sums of the values over all processes."""
        ...


class Scorer(Protocol):
    """Computes the losses of a window; `CharLM.token_nats` is one."""

    def __call__(self, inputs: Tensor, targets: Tensor, state: Any, *, resets: Tensor | None = None) -> TokenNats:
        """inputs, targets: (T, B) int64 on the model's device; state after the previous window, or None for zeros;
        resets: (T, B) bool, where rows restart from a zero state."""
        ...


def evaluate(
    models: CharLM | Sequence[CharLM],
    text: Buffer | Text,
    *,
    streams: int = 1,
    window: int | None = None,
    warm: int = 0,
    per_symbol: bool = False,
    on_window: Callable[[int, int], None] | None = None,
    sharing: Sharing | None = None,
    scorers: Sequence[Scorer] | None = None,
    documents: Literal["files", "lines"] | None = None,
) -> Evaluation:
    """Evaluate one model, or an ensemble whose probabilities are averaged, on a text.

    Args:
        models: models with the same alphabet; each runs on its device, and its mode is restored.
        text: bytes.
        streams: number of contiguous pieces that run in parallel.
        window: steps per call; affects memory and speed only.
        warm: number of preceding symbols that each stream except the first reads unscored.
        per_symbol: whether to store the loss of each symbol.
        on_window: called after each window with the symbols done and their total; may raise to stop.
        sharing: processes that all make this call with equal models and divide the streams among them; each gets the
            whole result. They call `on_window` equally often. Not compatible with `per_symbol`.
        scorers: how the losses of each model are computed, by default by its `token_nats`.
        documents: each file of the text, or each line, starts from a zero state. Its first symbol is predicted only
            from the symbol before it.

    Raises AlphabetError for a symbol outside the alphabet, with its offset; DataError for a text that is too short;
    ModelError if the alphabets differ or the predictions are NaN.
    """
    started = time.perf_counter()
    members = [models] if isinstance(models, CharLM) else list(models)
    check_members(members)
    text = text if isinstance(text, Text) else Text.of(text, "the text")
    data, name = text.data, text.name
    if len(data) < 2:
        raise DataError(f"{name} is too short: it has {len(data)} bytes; at least 2 are needed")
    if per_symbol and sharing is not None:
        raise ValueError("per-symbol losses are not gathered from processes: use either per_symbol or sharing")
    scorers = [lm.token_nats for lm in members] if scorers is None else scorers
    symbols = members[0].alphabet.encode(data, name=name)
    window = window or max(1, min(512, CELLS_PER_WINDOW // streams))
    columns = slice(0, streams) if sharing is None else sharing.columns(streams)
    starts = None if documents is None else text.documents(documents)
    cut = Streams.evaluation(symbols, streams, window, columns=columns, starts=starts)
    warm = min(warm, cut.targets // streams) if streams > 1 and documents is None else 0

    total = torch.zeros((), dtype=torch.float64, device=members[0].device)
    first: Tensor | None = None
    kept: list[Tensor] = []
    masks: list[Tensor] = []
    with torch.inference_mode(), ExitStack() as modes:
        for lm in members:
            modes.enter_context(lm.evaluating())
        states = [None if columns is None else _warm_state(lm, symbols, streams, warm, columns) for lm in members]
        for index in range(len(cut)):
            if columns is not None:
                part = cut[index]
                losses = []
                for i, (lm, score) in enumerate(zip(members, scorers, strict=True)):
                    resets = None if part.resets is None else part.resets.to(lm.device)
                    scored = score(part.inputs.to(lm.device), part.targets.to(lm.device), states[i], resets=resets)
                    states[i] = scored.state
                    losses.append(scored.nats.to(total.device))
                nats = losses[0] if len(losses) == 1 else averaged(losses)
                mask = part.mask()
                if mask is not None:
                    nats = nats.masked_fill(~mask.to(nats.device), 0.0)
                total += nats.sum(dtype=torch.float64)
                first = nats[0, 0] if first is None else first
                if per_symbol:
                    kept.append(nats.float().cpu())
                    masks.append(torch.ones_like(part.targets, dtype=torch.bool) if mask is None else mask)
            if on_window is not None:
                # The lengths of streams differ by at most one symbol.
                on_window(min(cut.targets, (index + 1) * window * streams), cut.targets)
    nats_total, first_nats = float(total), 0.0 if first is None else float(first)
    if sharing is not None:
        has_first = columns is not None and columns.start == 0
        nats_total, first_nats = sharing.sum(nats_total, first_nats if has_first else 0.0)
    if not math.isfinite(nats_total):
        raise ModelError(
            f"the model's predictions on {name} are NaN: its weights are damaged, or its training diverged"
        )
    return Evaluation(
        nats=nats_total,
        symbols=cut.targets,
        streams=streams,
        warm=warm,
        models=len(members),
        seconds=time.perf_counter() - started,
        char=char_protocol(data, nats_total, first_nats),
        symbol_nats=_in_text_order(kept, masks) if per_symbol else None,
        documents=documents,
    )


def check_members(members: Sequence[CharLM]) -> None:
    """ValueError for no models, ModelError for models of different alphabets."""
    if not members:
        raise ValueError("evaluate needs at least one model; got none")
    first = members[0].alphabet
    for i, lm in enumerate(members[1:], start=2):
        if lm.alphabet != first:
            raise ModelError(
                f"models 1 and {i} have different alphabets, of {len(first)} and {len(lm.alphabet)} symbols "
                f"({first.fingerprint} and {lm.alphabet.fingerprint}): an ensemble needs equal alphabets"
            )


def averaged(losses: Sequence[Tensor]) -> Tensor:
    """-ln of the mean probability, given -ln of each probability."""
    return math.log(len(losses)) - torch.stack([-nats for nats in losses]).logsumexp(0)


def _warm_state(lm: CharLM, symbols: UInt8Array, streams: int, warm: int, columns: slice) -> Any:
    """The state of the `columns` of the streams after each has read the `warm` symbols before its first input.

    The first stream has no preceding symbols.
    """
    if warm == 0:
        return None
    short, longer = divmod(len(symbols) - 1, streams)
    counts = np.full(streams, short, dtype=np.int64)
    counts[:longer] += 1
    begins = np.cumsum(counts) - counts
    at = begins + np.arange(-warm, 0, dtype=np.int64)[:, None]  # (warm, B)
    at[:, 0] = 0
    tokens = torch.from_numpy(symbols[at[:, columns]].astype(np.int64)).to(lm.device)
    state: Any = None
    for part in torch.split(tokens, max(1, CELLS_PER_WINDOW // streams)):
        _, state = lm(part, state)
    is_first = torch.arange(streams, device=lm.device)[columns] == 0
    return reset_rows(state, is_first)


def _in_text_order(kept: Sequence[Tensor], masks: Sequence[Tensor]) -> NDArray[np.float32]:
    # (steps, B) -> stream by stream, in order, without the masked targets.
    every, mask = torch.cat(list(kept)).T, torch.cat(list(masks)).T
    result: NDArray[np.float32] = every[mask].numpy()
    return result


def char_protocol(data: UInt8Array, nats: float, first_nats: float) -> CharProtocol | None:
    """The char protocol's result for a raw PTB text; None for other texts."""
    if data[0] != 0x20 or data[-1] != 0x0A:
        return None
    mask = char_protocol_mask(data)
    lines = int(np.count_nonzero(data == 0x0A))
    symbols = int(np.count_nonzero(mask))
    if len(data) - symbols != 2 * lines or symbols < 2:
        return None  # a line without its spaces
    return CharProtocol(nats - first_nats, symbols - 1)
