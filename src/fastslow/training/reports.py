"""Reports of a running training: lines of metrics, curves, and events for the progress callback."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fastslow.metrics import nats_to_bits
from fastslow.training.checkpoint import Position
from fastslow.training.config import TrainConfig
from fastslow.training.course import Course
from fastslow.training.curves import Curves
from fastslow.training.distributed import Ranks
from fastslow.training.events import Callback, Event, Updated
from fastslow.training.folder import Metrics
from fastslow.training.updater import Step
from fastslow.training.watch import Watch

PENDING_ON_GPU = 16
"""The number of updates whose losses are fetched from a GPU at once, because each fetch synchronises."""


class Journal:
    """Sends events to `progress`, and writes metrics and curves to the run folder on rank 0."""

    def __init__(
        self, ranks: Ranks, out: Path, position: Position, config: TrainConfig, progress: Callback | None
    ) -> None:
        self._ranks, self._position, self._progress = ranks, position, progress
        self._files: tuple[Metrics, Curves] | None = None

        def lead() -> None:
            metrics = Metrics(out, position.metrics_bytes)
            self._files = metrics, Curves(out, position.update, config.tensorboard)

        ranks.lead(lead)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files or ():
            file.close()

    @property
    def has_callback(self) -> bool:
        """Whether there is a callback for events."""
        return self._progress is not None

    def send(self, event: Event) -> None:
        if self._progress is not None:
            self._progress(event)

    def write(self, line: Mapping[str, Any] | None, points: Mapping[str, float]) -> None:
        """Write a line of metrics, and a point of each curve."""

        def lead() -> None:
            assert self._files is not None
            metrics, curves = self._files
            if line is not None:
                metrics.write(line)
            curves.add(self._position.update, points)

        self._ranks.lead(lead)

    def sync(self) -> int:
        """On rank 0: flush the metrics to disk and return the file's length."""
        assert self._files is not None
        return self._files[0].sync()

    def flush(self) -> None:
        """On rank 0: flush the curves."""
        assert self._files is not None
        self._files[1].flush()


class Losses:
    """Losses and speed of the updates, and their reports.

    diverged: (update, what, value) -> the error for a loss or gradient that is NaN or infinite.
    """

    def __init__(
        self,
        course: Course,
        watch: Watch,
        journal: Journal,
        on_cpu: bool,
        diverged: Callable[[int, str, float], Exception],
    ) -> None:
        self._course, self._watch, self._journal = course, watch, journal
        self._config, self._position = course.config, course.position
        self._on_cpu, self._diverged = on_cpu, diverged
        self._pending: list[tuple[int, Tensor, Tensor, int]] = []
        self._seconds, self._symbols = 0.0, 0
        self._rate = self._norm = 0.0

    def add(self, step: Step, rate: float, symbols: int, started: float) -> None:
        """Add an update over `symbols` targets of all ranks that started at `started` (monotonic clock)."""
        update = self._position.update
        self._rate = rate
        self._pending.append((update, step.loss_nats, step.gradient_norm, symbols))
        log = update % self._config.log_every == 0
        if log or self._on_cpu or len(self._pending) >= PENDING_ON_GPU:
            self.flush()
        self._seconds += time.monotonic() - started
        self._symbols += symbols
        if not self._pending and self._journal.has_callback:
            self._send()
        if log:
            self._log()

    def flush(self) -> None:
        """Add the losses of the updates since the last call. Raises DivergedError if one is NaN or infinite."""
        p = self._position
        for update, loss, norm, symbols in self._pending:
            nats, self._norm = float(loss), float(norm)
            for what, value in (("loss", nats), ("gradient of the loss", self._norm)):
                if not math.isfinite(value):
                    raise self._diverged(update, what, value)
            p.sum_nats += nats
            p.sum_symbols += symbols
        self._pending.clear()

    def _speed(self) -> float:
        return self._symbols / self._seconds if self._seconds > 0 else 0.0

    def _seconds_left(self) -> float | None:
        if self._symbols == 0:
            return None
        if self._course.done() >= 1:
            return 0.0
        config = self._config
        updates = self._course.total_updates - self._position.update
        left = updates * self._seconds * config.batch * config.window / self._symbols
        if config.anneal_by_time and config.max_time is not None:
            left = min(left, config.max_time - self._watch.elapsed)
        return max(0.0, left)

    def _send(self) -> None:
        p = self._position
        self._journal.send(
            Updated(
                update=p.update,
                total_updates=self._course.total_updates,
                epoch=self._course.epoch,
                bpc=nats_to_bits(p.sum_nats / p.sum_symbols) if p.sum_symbols else math.nan,
                rate=self._rate,
                gradient_norm=self._norm,
                characters_per_second=self._speed(),
                seconds_left=self._seconds_left(),
            )
        )

    def _log(self) -> None:
        """Write a line of metrics on the updates since the last one."""
        p = self._position
        bpc = nats_to_bits(p.sum_nats / p.sum_symbols)
        line = {
            "kind": "train",
            "update": p.update,
            "epoch": self._course.epoch,
            "bpc": bpc,
            "rate": self._rate,
            "gradient_norm": self._norm,
            "seconds": self._watch.elapsed,
            "characters_per_second": self._speed(),
        }
        self._journal.write(line, {"train/bpc": bpc, "train/rate": self._rate, "train/gradient_norm": self._norm})
        p.sum_nats, p.sum_symbols = 0.0, 0
