"""The three measurements on several models; models of one network with different seeds form a group."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastslow.data.text import Text
from fastslow.dynamics.change import MemoryChange, memory_change
from fastslow.dynamics.gradients import GradientNorms, gradient_norms
from fastslow.dynamics.words import PositionLosses, position_losses
from fastslow.evaluation import evaluate
from fastslow.lm.config import ModelOptions
from fastslow.lm.files import make_folder
from fastslow.lm.model import CharLM
from fastslow.metrics import LN2
from fastslow.storage import write_bytes, write_json

Array = NDArray[np.float64]

KINDS = {"fs-lstm": "FS-LSTM", "stacked": "stacked LSTM", "sequential": "sequential LSTM"}
"""The display names of architectures, in display order."""


@dataclass(frozen=True)
class StudySettings:
    """The sizes of the measurements.

    lags: the longest lag of figure 3. streams, windows, targets: for `gradient_norms`. steps: for `memory_change`, per
    stream. longest: the last position in a word with its own result. test_streams: streams of the evaluation.
    """

    lags: int = 100
    streams: int = 16
    windows: int = 4
    targets: int = 10
    steps: int = 1000
    longest: int = 10
    test_streams: int = 32


@dataclass(frozen=True)
class Cell:
    """A node of a network: its name in figures, its slot, and whether it is the last node to write it in a step."""

    name: str
    node: str
    slot: str
    carried: bool


@dataclass(frozen=True, eq=False)
class Measures:
    """The measurements of one model. Arrays have one row per cell."""

    name: str
    options: ModelOptions
    parameters: int
    bpc: float
    symbols: int
    cells: tuple[Cell, ...]
    gradients: GradientNorms
    change: MemoryChange
    words: PositionLosses

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "options": self.options.options_json(),
            "parameters": self.parameters,
            "bpc": self.bpc,
            "symbols": self.symbols,
            "cells": [asdict(cell) for cell in self.cells],
            "gradient_norms": {
                "mean": self.gradients.mean.tolist(),
                "error": self.gradients.error.tolist(),
                "samples": self.gradients.samples,
            },
            "memory_change": {
                "mean": self.change.mean.tolist(),
                "error": self.change.error.tolist(),
                "steps": self.change.steps,
            },
            "word_positions": {"nats": self.words.nats.tolist(), "symbols": self.words.symbols.tolist()},
        }


def cells_of(lm: CharLM) -> tuple[Cell, ...]:
    """The nodes of a model, named for figures: "slow", "fast 1", "layer 2", "cell 3"."""
    wiring = lm.layer.wiring
    last = {node.slot: node.name for node in wiring.nodes}
    return tuple(
        Cell(_figure_name(node.name), node.name, node.slot, last[node.slot] == node.name) for node in wiring.nodes
    )


def _figure_name(node: str) -> str:
    kind, _, index = node.rpartition(".")
    if not index.isdigit():
        return node
    return f"{ {'layers': 'layer', 'cells': 'cell'}.get(kind, kind) } {int(index) + 1}"


def measure(
    name: str,
    lm: CharLM,
    text: Text,
    settings: StudySettings,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Measures:
    """The three measurements of one model. on_progress: called with the name of the measurement, the amount done, and
    the total.

    Raises DataError if the text is too short, AlphabetError if it has symbols outside the model's alphabet.
    """

    def report(what: str) -> Callable[[int, int], None] | None:
        return None if on_progress is None else lambda done, total: on_progress(what, done, total)

    # First, so that a text that is too short fails before the long computation.
    gradients = gradient_norms(
        lm,
        text,
        lags=settings.lags,
        streams=settings.streams,
        windows=settings.windows,
        targets=settings.targets,
        on_target=report("gradients"),
    )
    change = memory_change(lm, text, streams=settings.streams, steps=min(settings.steps, len(text) - 202))
    streams = max(1, min(settings.test_streams, len(text) // 1000))
    scored = evaluate(lm, text, streams=streams, warm=200, per_symbol=True, on_window=report("losses"))
    assert scored.symbol_nats is not None
    return Measures(
        name=name,
        options=lm.config.options,
        parameters=lm.num_parameters,
        bpc=scored.bpc,
        symbols=scored.symbols,
        cells=cells_of(lm),
        gradients=gradients,
        change=change,
        words=position_losses(scored.symbol_nats, text.data, longest=settings.longest),
    )


# ---------------------------------------------------------------------- groups


@dataclass(frozen=True, eq=False)
class Group:
    """Models of one network, with different seeds or training; figures show their means."""

    label: str
    members: tuple[Measures, ...]

    @property
    def architecture(self) -> str:
        return self.members[0].options.architecture

    @property
    def cells(self) -> tuple[Cell, ...]:
        return self.members[0].cells

    @property
    def parameters(self) -> int:
        return self.members[0].parameters

    @property
    def bpc(self) -> float:
        return float(np.mean([m.bpc for m in self.members]))

    @property
    def bpc_deviation(self) -> float | None:
        """The sample's standard deviation, or None for a single model."""
        return float(np.std([m.bpc for m in self.members], ddof=1)) if len(self.members) > 1 else None

    def _stack(self, of: Callable[[Measures], Array]) -> Array:
        return np.stack([of(member) for member in self.members])

    @property
    def gradients(self) -> Array:
        """(N, J + 1), the geometric mean over models: norms of models may differ by powers of ten."""
        with np.errstate(divide="ignore"):
            logarithms = np.log(self._stack(lambda m: m.gradients.mean))
        mean: Array = np.exp(logarithms.mean(axis=0))
        return mean

    @property
    def gradients_range(self) -> tuple[Array, Array]:
        """The minimum and maximum over models."""
        each = self._stack(lambda m: m.gradients.mean)
        return each.min(axis=0), each.max(axis=0)

    @property
    def change(self) -> Array:
        """(N,), the mean over models."""
        mean: Array = self._stack(lambda m: m.change.mean).mean(axis=0)
        return mean

    @property
    def change_range(self) -> tuple[Array, Array]:
        each = self._stack(lambda m: m.change.mean)
        return each.min(axis=0), each.max(axis=0)

    @property
    def words(self) -> Array:
        """(P + 1,) bits per character by position, the mean over models."""
        mean: Array = self._stack(lambda m: m.words.bpc).mean(axis=0)
        return mean

    @property
    def words_each(self) -> Array:
        """(models, P + 1)"""
        return self._stack(lambda m: m.words.bpc)


def group(measures: Sequence[Measures]) -> list[Group]:
    """Group models with equal options; fast-slow networks first, then stacked, then sequential ones."""
    found: dict[ModelOptions, list[Measures]] = {}
    for one in measures:
        found.setdefault(one.options, []).append(one)
    order = list(KINDS)
    options = sorted(found, key=lambda o: order.index(o.architecture))
    short = [f"{KINDS[o.architecture]}-{o.depth}" for o in options]
    labels = [
        label if short.count(label) == 1 else f"{label} ({_sizes(o)})" for label, o in zip(short, options, strict=True)
    ]
    # Networks that differ in other options than sizes, such as dropout, are numbered.
    labels = [
        label if labels.count(label) == 1 else f"{label} no. {labels[: i + 1].count(label)}"
        for i, label in enumerate(labels)
    ]
    return [Group(label, tuple(found[o])) for label, o in zip(labels, options, strict=True)]


def _sizes(options: ModelOptions) -> str:
    slow = f", slow {options.slow_size}" if options.slow_size is not None else ""
    return f"{options.hidden_size}{slow}"


def baseline_of(groups: Sequence[Group]) -> Group:
    """The baseline of losses inside words: the first stacked network, or else the first network."""
    return next((g for g in groups if g.architecture == "stacked"), groups[0])


# ---------------------------------------------------------------------- files


def write_data(out: Path, groups: Sequence[Group], text: Text, settings: StudySettings, findings: Any) -> list[Path]:
    """Write `dynamics.json` and three CSV tables to the folder `out`, which is created if necessary; returns their
    paths.

    Raises StorageError if they cannot be written.
    """
    make_folder(out)
    tables = {
        "gradient-norms.csv": _gradient_rows(groups),
        "memory-change.csv": _change_rows(groups),
        "word-positions.csv": _word_rows(groups),
    }
    value = {
        "format": "fastslow-dynamics",
        "format_version": 1,
        "text": text.describe(),
        "settings": asdict(settings),
        "groups": [{"label": g.label, "models": [m.to_json() for m in g.members]} for g in groups],
        "findings": findings,
    }
    paths = [out / "dynamics.json"]
    write_json(paths[0], value)
    for name, rows in tables.items():
        paths.append(out / name)
        _write_csv(paths[-1], rows)
    return paths


Row = dict[str, str | int | float]


def _gradient_rows(groups: Sequence[Group]) -> list[Row]:
    return [
        {**_who(g, m), **_which(cell), "lag": lag, "norm": float(norm), "error": float(error)}
        for g in groups
        for m in g.members
        for cell, norms, errors in zip(m.cells, m.gradients.mean, m.gradients.error, strict=True)
        for lag, (norm, error) in enumerate(zip(norms, errors, strict=True))
    ]


def _change_rows(groups: Sequence[Group]) -> list[Row]:
    return [
        {**_who(g, m), **_which(cell), "change": float(change), "error": float(error)}
        for g in groups
        for m in g.members
        for cell, change, error in zip(m.cells, m.change.mean, m.change.error, strict=True)
    ]


def _word_rows(groups: Sequence[Group]) -> list[Row]:
    base = baseline_of(groups).words
    return [
        {
            **_who(g, m),
            "position": position,
            "symbols": int(symbols),
            "bpc": nats / symbols / LN2 if symbols else math.nan,
            "relative": nats / symbols / LN2 / base[position] if symbols else math.nan,
        }
        for g in groups
        for m in g.members
        for position, (nats, symbols) in enumerate(zip(m.words.nats.tolist(), m.words.symbols.tolist(), strict=True))
    ]


def _who(g: Group, m: Measures) -> Row:
    return {"network": g.label, "model": m.name}


def _which(cell: Cell) -> Row:
    return {"cell": cell.name, "node": cell.node, "slot": cell.slot, "carried": int(cell.carried)}


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_bytes(path, out.getvalue().encode())
