"""Events of a running training, which progress bars, log lines and curves are based on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from fastslow.evaluation import Evaluation


@dataclass(frozen=True)
class Started:
    """Sent once, before the first update. `update`: 0, or that of a resumed run; `engine` includes the reason."""

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
    """After an update (on a GPU, after every few updates).

    epoch: epochs done, including the fraction of the current one. bpc: mean of the updates since the last line of
    metrics. characters_per_second: of training alone. seconds_left: estimate until the end of training, or None.
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
    """During a validation or the test: the number of symbols done and in total."""

    part: Literal["valid", "test"]
    done: int
    total: int


@dataclass(frozen=True)
class Validated:
    """After a validation. best_bpc: the best so far, including this one."""

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
    """A message for the user."""

    text: str


Event: TypeAlias = Started | Updated | Evaluating | Validated | Saved | Tested | Notice
Callback: TypeAlias = Callable[[Event], None]
