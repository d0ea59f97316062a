"""Progress of a run on stderr: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from fastslow.cli.common import messages
from fastslow.training.events import Evaluating, Event, Notice, Saved, Started, Tested, Updated, Validated

SECONDS_BETWEEN_LINES = 10.0
"""Seconds between progress lines in a log."""


class TrainingView:
    """Shows the events of a run; a context manager, called with each."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or messages()
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bar: Progress | None = None
        self._training: TaskID | None = None
        self._evaluation: TaskID | None = None
        self._begun = self._line_at = time.monotonic()
        self._valid = ""

    def __enter__(self) -> TrainingView:
        if self._live:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}"),
                _Left(),
                console=self._console,
                expand=True,
                transient=True,
                refresh_per_second=5,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._started(event)
        elif isinstance(event, Updated):
            self._updated(event)
        elif isinstance(event, Evaluating):
            self._evaluating(event)
        elif isinstance(event, Validated):
            self._validated(event)
        elif isinstance(event, Tested):
            self._close_evaluation()
        elif isinstance(event, Notice):
            self._say(event.text)
        else:
            assert isinstance(event, Saved)  # not shown

    def _say(self, text: str) -> None:
        (self._bar.console if self._bar is not None else self._console).print(text, soft_wrap=True)

    def _started(self, event: Started) -> None:
        self._begun = time.monotonic()
        texts = f"{event.train_symbols:,} characters to train on"
        if event.valid_symbols:
            texts += f", {event.valid_symbols:,} to validate"
        if event.test_symbols:
            texts += f", {event.test_symbols:,} to test"
        engine = event.engine.split(";")[0]
        self._say(f"{event.parameters:,} parameters on {event.device}, engine {engine}; {texts}")
        self._say(f"run folder {event.out}" + (f", continuing after step {event.update:,}" if event.update else ""))
        if self._bar is not None:
            self._training = self._bar.add_task("train", total=1.0, text="", left=None)

    def _updated(self, event: Updated) -> None:
        text = (
            f"step {event.update:,}/{event.total_updates:,}  epoch {event.epoch:.2f}  "
            f"BPC {event.bpc:.3f}{self._valid}  {speed(event.characters_per_second)}"
        )
        if self._bar is not None and self._training is not None:
            # By time, which may end the run before its training steps are done.
            spent, left = time.monotonic() - self._begun, event.seconds_left
            part = spent / (spent + left) if left is not None and spent + left > 0 else 0.0
            self._bar.update(self._training, completed=part, text=text, left=left)
        elif self._bar is None and time.monotonic() - self._line_at >= SECONDS_BETWEEN_LINES:
            self._line_at = time.monotonic()
            self._say(f"{text}  {duration(event.seconds_left)} left")

    def _evaluating(self, event: Evaluating) -> None:
        if self._bar is None:
            return
        name = "validate" if event.part == "valid" else "test"
        if self._evaluation is None:
            self._evaluation = self._bar.add_task(name, total=event.total, text="", left=None)
        self._bar.update(self._evaluation, completed=event.done, total=event.total)
        if event.done >= event.total:
            self._close_evaluation()

    def _close_evaluation(self) -> None:
        if self._bar is not None and self._evaluation is not None:
            self._bar.remove_task(self._evaluation)
            self._evaluation = None

    def _validated(self, event: Validated) -> None:
        self._close_evaluation()
        self._valid = f"  valid {event.best_bpc:.3f}"
        best = "best so far" if event.improved else f"best {event.best_bpc:.4f}"
        self._say(f"step {event.update:,}, epoch {event.epoch:.2f}: validation {event.bpc:.4f} BPC, {best}")


class _Left(ProgressColumn):
    """The remaining time that the trainer estimates."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return Text("" if left is None else f"{duration(left)} left")


class CountingView:
    """A progress bar on a terminal; called with the amount done and the total.

    A call with another description restarts the bar.
    """

    def __init__(self, description: str, unit: str = "characters", console: Console | None = None) -> None:
        self._console = console or messages()
        self._description, self._unit = description, unit
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> CountingView:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                console=self._console,
                transient=True,
                refresh_per_second=5,
            )
            self._bar.start()
            self._begun = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int | None, description: str | None = None) -> None:
        if self._bar is None:
            return
        if self._task is None:
            self._task = self._bar.add_task(self._description, total=total, text="")
        if description is not None and description != self._description:
            self._description, self._begun = description, time.monotonic()
            self._bar.reset(self._task, description=description, text="")
        seconds = time.monotonic() - self._begun
        rate = done / seconds if seconds > 0 else 0.0
        text = f"{done:,}" + (f" of {total:,}" if total else "") + f" {self._unit}"
        if rate > 0:
            text += f", {rate:,.0f} per second"
            if total:
                text += f", {duration((total - done) / rate)} left"
        self._bar.update(self._task, completed=done, total=total, text=text)


def duration(seconds: float | None) -> str:
    """``0:42``, ``3:05``, ``2:10:00``, ``3 d 04 h``; a dash for None."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days} d {hours_left:02d} h"
    return f"{hours}:{minutes_left:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def speed(characters_per_second: float) -> str:
    """``26,500 chars/s``, ``1.52M chars/s``."""
    if characters_per_second >= 1e6:
        return f"{characters_per_second / 1e6:.2f}M chars/s"
    return f"{characters_per_second:,.0f} chars/s"
