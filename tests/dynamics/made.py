"""Measurements made by hand, in which the paper's findings hold or not as a test wants."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastslow.dynamics.change import MemoryChange
from fastslow.dynamics.gradients import GradientNorms
from fastslow.dynamics.study import Cell, Measures
from fastslow.dynamics.words import PositionLosses
from fastslow.lm import ModelOptions

CELLS = {
    "fs-lstm": (
        Cell("fast 1", "fast.0", "fast", False),
        Cell("slow", "slow", "slow", True),
        Cell("fast 2", "fast.1", "fast", True),
    ),
    "stacked": (Cell("layer 1", "layers.0", "layer0", True), Cell("layer 2", "layers.1", "layer1", True)),
    "sequential": (Cell("cell 1", "cells.0", "state", False), Cell("cell 2", "cells.1", "state", True)),
}
DECAY = {"fs-lstm": (0.8, 0.99, 0.8), "stacked": (0.5, 0.85), "sequential": (0.7, 0.7)}
CHANGE = {"fs-lstm": (0.2, 0.001, 0.25), "stacked": (0.05, 0.1), "sequential": (0.4, 0.5)}
WORDS = {
    "fs-lstm": [0.6, 3.0, 2.3, 1.8, 1.3, 1.1, 1.0, 0.9, 0.8, 0.8, 0.9],
    "stacked": [0.6, 3.01, 2.4, 2.0, 1.5, 1.3, 1.2, 1.1, 1.0, 1.0, 1.0],
    "sequential": [0.6, 3.0, 2.4, 1.9, 1.4, 1.3, 1.1, 1.1, 1.0, 1.0, 1.0],
}
BPC = {"fs-lstm": 1.49, "stacked": 1.61, "sequential": 1.58}


def made(kind: Any, seed: int = 0, *, lags: int = 20, **changes: Any) -> Measures:
    """Measurements in which every finding of the paper holds; `changes` of decay, change, words or bpc."""
    decay, change = changes.get("decay", DECAY[kind]), changes.get("change", CHANGE[kind])
    words = np.array(changes.get("words", WORDS[kind]))
    size = {"hidden_size": changes.get("hidden_size", 8), "depth": 2, "zoneout_c": changes.get("zoneout_c", 0.0)}
    norms = np.array([[0.1 * rate**lag for lag in range(lags + 1)] for rate in decay]) * (1 + 0.01 * seed)
    counts = np.full(len(words), 100, dtype=np.int64)
    return Measures(
        name=f"runs/{kind}-{seed}",
        options=ModelOptions(architecture=kind, **size),
        parameters=1234,
        bpc=changes.get("bpc", BPC[kind]) + 0.001 * seed,
        symbols=1100,
        cells=CELLS[kind],
        gradients=GradientNorms(norms, norms * 0.1, 640),
        change=MemoryChange(np.array(change) * (1 + 0.1 * seed), np.array(change) * 0.1, 16000),
        words=PositionLosses(words * np.log(2) * counts, counts),
    )


def everything(seeds: int = 1, **changes: Any) -> list[Measures]:
    """All three networks. changes: by architecture with an underscore, such as fs_lstm={"bpc": 2}."""
    return [
        made(kind, seed, **changes.get(kind.replace("-", "_"), {})) for seed in range(seeds) for kind in reversed(CELLS)
    ]
