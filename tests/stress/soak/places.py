"""The places at which a run is killed from inside, and the code that does it."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "model.safetensors"
FIRST = ("before the rename of run.json", "half of config.json", "after the rename of config.json")
OFTEN = (
    f"half of {CHECKPOINT}",
    f"before the rename of {CHECKPOINT}",
    f"after the rename of {CHECKPOINT}",
    "half a line of metrics.jsonl",
)
PLACES = (
    *OFTEN,
    "in a validation",
    f"half of {WEIGHTS}",
    f"before the rename of {WEIGHTS}",
    f"after the rename of {WEIGHTS}",
    "half of run.json",
)
LAST = ("in the test", "half of result.json", "after the rename of result.json")
AT_RANDOM = "at a random moment"
STOPS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}


def arm(place: str, nth: int) -> None:
    """Kill this process when it reaches `place` for the `nth` time."""
    left = [nth]

    def there() -> bool:
        left[0] -= 1
        return left[0] == 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if place.startswith(("before the rename of ", "after the rename of ")):
        _arm_rename(place.split(" of ")[1], place.startswith("before"), there, die)
    elif place == "half a line of metrics.jsonl":
        from fastslow.training.folder import Metrics

        write = Metrics.write

        def half_line(self: Metrics, line: Any) -> None:
            if there():
                data = json.dumps(line).encode()
                self._file.write(data[: len(data) // 2])
                self._file.flush()
                die()
            write(self, line)

        Metrics.write = half_line  # type: ignore[method-assign]
    elif place.startswith("half of "):
        _arm_write(place.removeprefix("half of "), there, die)
    else:
        from fastslow.cli.progress import TrainingView
        from fastslow.training.events import Evaluating

        part = {"in a validation": "valid", "in the test": "test"}[place]
        show = TrainingView.__call__

        def view(self: TrainingView, event: Any) -> None:
            if isinstance(event, Evaluating) and event.part == part and 2 * event.done >= event.total and there():
                die()
            show(self, event)

        TrainingView.__call__ = view  # type: ignore[method-assign]


def _arm_rename(name: str, before: bool, there: Callable[[], bool], die: Callable[[], None]) -> None:
    replace = os.replace

    def rename(source: Any, target: Any) -> None:
        now = Path(target).name == name and there()
        if now and before:
            die()
        replace(source, target)
        if now:
            die()

    os.replace = rename  # type: ignore[assignment]


def _arm_write(name: str, there: Callable[[], bool], die: Callable[[], None]) -> None:
    from fastslow import storage

    write = storage.write_atomic

    def write_half(path: Path, fill: Callable[[Any], None], *, what: str | None = None) -> None:
        def half(file: Any) -> None:
            whole = io.BytesIO()
            fill(whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            die()

        write(path, half if path.name == name and there() else fill, what=what)

    storage.write_atomic = write_half
