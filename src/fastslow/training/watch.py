"""The clock of a run and requests to stop it, agreed on by all ranks."""

from __future__ import annotations

import time

from fastslow.training.distributed import Ranks
from fastslow.training.signals import StopSignals


class Watch:
    """Seconds since this process began training, and whether it should stop.

    elapsed_before: seconds of earlier processes, which `elapsed` includes. With several ranks the values are those of
    the last `look`, so that all ranks decide alike.
    """

    def __init__(self, ranks: Ranks, signals: StopSignals, elapsed_before: float) -> None:
        self._ranks, self._signals = ranks, signals
        self._begun, self._agreed_seconds = time.monotonic(), 0.0
        self.elapsed_before, self.stop = elapsed_before, False

    def look(self) -> None:
        """Check whether to stop; several ranks agree on it and on the time."""
        self.stop = self._signals.requested is not None
        if self._ranks.size > 1:
            seconds = time.monotonic() - self._begun if self._ranks.leads else 0.0
            stop, self._agreed_seconds = self._ranks.largest(self.stop, seconds)
            self.stop = stop > 0

    @property
    def seconds(self) -> float:
        """Seconds of this process."""
        return time.monotonic() - self._begun if self._ranks.size == 1 else self._agreed_seconds

    @property
    def elapsed(self) -> float:
        """Seconds of all processes."""
        return self.elapsed_before + self.seconds
