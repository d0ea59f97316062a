"""What a run tells while it goes on. Views (progress bars, plain lines, curves) are made of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from fastslow.evaluation import Evaluation


@dataclass(frozen=True)
class Started:
    """Once, before the first update. `update` is 0, or where a resumed run goes on; `engine` says what runs and why."""

    out: Path
    parameters: int
    engine: str
    device: str
    update: int
    total_updates: int
    train_symbols: int
    valid_symbols: int
    test_symbols: int


@dataclass(frozen=True)
class Updated:
    """After an update (on a GPU after every few).

    epoch: epochs done, with the part of the one begun. bpc: mean of the updates since the last line of metrics.
    characters_per_second: of training alone. seconds_left: estimate to the end of training, or None.
    """

    update: int
    total_updates: int
    epoch: float
    bpc: float
    rate: float
    gradient_norm: float
    characters_per_second: float
    seconds_left: float | None


@dataclass(frozen=True)
class Evaluating:
    """During a validation or the test: symbols done, of how many."""

    part: Literal["valid", "test"]
    done: int
    total: int


@dataclass(frozen=True)
class Validated:
    """After a validation. best_bpc: the best so far, this one included."""

    update: int
    epoch: float
    bpc: float
    best_bpc: float
    improved: bool


@dataclass(frozen=True)
class Saved:
    """After a checkpoint."""

    update: int
    path: Path


@dataclass(frozen=True)
class Tested:
    """After the test of the best weights."""

    evaluation: Evaluation


@dataclass(frozen=True)
class Notice:
    """Something a person should know, in a sentence."""

    text: str


Event: TypeAlias = Started | Updated | Evaluating | Validated | Saved | Tested | Notice
Callback: TypeAlias = Callable[[Event], None]
