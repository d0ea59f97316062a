from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from fastslow.cli import progress
from fastslow.cli.progress import CountingView, TrainingView, duration, speed
from fastslow.evaluation import Evaluation
from fastslow.training import events
from fastslow.training.events import Evaluating, Event, Notice, Saved, Started, Updated, Validated

EVENTS: list[Event] = [
    Started(Path("runs/x"), 1234, "native; not triton: no GPU", "cpu", 5, 100, 9000, 500, 0),
    Updated(6, 100, 0.06, 3.2, 1e-3, 1.0, 26_512.3, 65.0),
    Evaluating("valid", 250, 500),
    Evaluating("valid", 500, 500),
    Validated(6, 0.06, 2.5, 2.5, True),
    Saved(6, Path("runs/x/checkpoint")),
    Updated(7, 100, 0.07, 3.1, 1e-3, 1.0, 26_512.3, 61.0),
    Validated(7, 0.07, 2.6, 2.5, False),
    Notice("something to know"),
    Evaluating("test", 10, 10),
    events.Tested(Evaluation(nats=1.0, symbols=1, streams=1, warm=0, models=1, seconds=0.1)),
]


def shown(console: Console) -> str:
    with TrainingView(console) as view:
        for event in EVENTS:
            view(event)
            if view._bar is not None:
                view._bar.refresh()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert shown(Console(file=io.StringIO(), width=20)).splitlines() == [
        "1,234 parameters on cpu, engine native; 9,000 characters to train on, 500 to validate",
        "run folder runs/x, continuing after step 5",
        "step 6/100  epoch 0.06  BPC 3.200  26,512 chars/s  1:05 left",
        "step 6, epoch 0.06: validation 2.5000 BPC, best so far",
        "step 7/100  epoch 0.07  BPC 3.100  valid 2.500  26,512 chars/s  1:01 left",
        "step 7, epoch 0.07: validation 2.6000 BPC, best 2.5000",
        "something to know",
    ]


def test_a_log_is_not_flooded() -> None:
    assert "chars/s" not in shown(Console(file=io.StringIO()))


def test_a_terminal_gets_a_bar() -> None:
    text = shown(Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None))
    assert "BPC 3.100  valid 2.500  26,512 chars/s" in text
    assert "1:01 left" in text
    assert "validate" in text
    assert "something to know" in text


def test_counting() -> None:
    out = io.StringIO()
    with CountingView("evaluate", console=Console(file=out, force_terminal=True, width=100, color_system=None)) as view:
        view(50, 200)
        assert view._bar is not None
        view._bar.refresh()
    assert "evaluate" in out.getvalue()
    assert "50 of 200 characters" in out.getvalue()
    with CountingView("fs", "steps", Console(file=out, force_terminal=True, width=100, color_system=None)) as view:
        view(9, 10, "fs: gradients")
        view(1, 40, "fs: losses")
        assert view._bar is not None
        view._bar.refresh()
        (task,) = view._bar.tasks
        assert (task.description, task.completed, task.total) == ("fs: losses", 1, 40)
    quiet = io.StringIO()
    with CountingView("fetch", "bytes", Console(file=quiet)) as view:
        view(1, None)
    assert quiet.getvalue() == ""


def test_duration() -> None:
    times = [0, 42, 185, 7800, 100_000, None]
    assert [duration(t) for t in times] == ["0:00", "0:42", "3:05", "2:10:00", "1 d 03 h", "-"]


def test_speed() -> None:
    assert speed(26_512.3) == "26,512 chars/s"
    assert speed(1_523_000.0) == "1.52M chars/s"
