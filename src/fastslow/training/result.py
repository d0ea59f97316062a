"""The result of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastslow.evaluation import Evaluation
from fastslow.storage import ModelError
from fastslow.training.checkpoint import Position
from fastslow.training.folder import RESULT_FILE, read_result

Status = Literal["completed", "interrupted", "time"]


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    status: "completed"; "interrupted" by a signal; "time" if `max_time` was reached. The last two can be resumed.
    updates, epochs, characters: trained so far. seconds: of all processes.
    best_update, best_bpc: the best validation, whose weights are in the folder; None before the first.
    test: the test of those weights; None before the run is complete, or without a test text.
    """

    out: Path
    status: Status
    updates: int
    epochs: int
    characters: int
    seconds: float
    best_update: int | None
    best_bpc: float | None
    test: Evaluation | None

    def to_json(self) -> dict[str, Any]:
        value = {name: getattr(self, name) for name in ("status", "updates", "epochs", "characters", "seconds")}
        value |= {"best_update": self.best_update, "best_bpc": self.best_bpc}
        return {**value, "test": None if self.test is None else self.test.to_json()}


def known_test(out: Path, position: Position) -> dict[str, Any] | None:
    """The test result of a run that was already complete, so that it is not tested twice."""
    if not (out / RESULT_FILE).is_file():
        return None
    try:
        value = read_result(out)
    except ModelError:
        return None  # it can be repeated
    if value["update"] != position.update or value["best_update"] != position.best_update:
        return None
    return {"test": value["test"]}
