"""Handling of Ctrl-C and SIGTERM: the run stops between two updates."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopRequested(Exception):
    """Raised to abandon the current work because the run should stop."""


class StopSignals:
    """A context in which the first SIGINT or SIGTERM sets `requested` to its name; a second SIGINT interrupts
    immediately.

    Signals can only be handled in the main thread; in other threads this has no effect.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name

    def check(self) -> None:
        """Raise StopRequested if there was a signal."""
        if self.requested is not None:
            raise StopRequested
