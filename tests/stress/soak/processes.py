"""Training processes, and commands on their folders."""

from __future__ import annotations

import contextlib
import io
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.interrupts import interruptible

PATIENCE = 600.0
"""The time limit in seconds for a process to end."""


@dataclass
class Ended:
    """The end of a process. begun: whether training started. said: its stderr, line by line."""

    status: int
    begun: bool
    said: list[str]

    def error(self) -> str:
        """The one-line error of a command, or "" if it was not one line."""
        lines = [line for line in self.said if line.startswith("fastslow: error: ")]
        return lines[0] if len(lines) == 1 and not any("Traceback" in line for line in self.said) else ""


class Training:
    """A `fastslow train` process."""

    def __init__(self, arguments: list[str], *, place: str = "", nth: int = 1, file_limit: int = 0) -> None:
        head = [*PROGRAM, "--at", place, "--nth", str(nth)] if place else fastslow()
        with interruptible():
            self.process = subprocess.Popen(
                [*head, "train", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=(lambda: limit_files(file_limit)) if file_limit else None,
            )
        self.said: list[str] = []
        self.begun = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.rstrip("\n"))
            if line.startswith("run folder "):
                self.begun.set()

    def runs_for(self, seconds: float) -> bool:
        """Wait; returns whether it is still running."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def comes_to_train(self) -> bool:
        """Wait for training to start; False if it ended before."""
        end = time.monotonic() + PATIENCE
        while not self.begun.wait(0.2):
            if self.process.poll() is not None or time.monotonic() > end:
                self._reader.join(5.0)
                return self.begun.is_set()
        return True

    def end(self, number: signal.Signals | None = None) -> Ended:
        """Send a signal, if given, and wait."""
        if number is not None:
            self.process.send_signal(number)
        if self.runs_for(PATIENCE):
            self.process.kill()
            self.said.append(f"it did not end within {PATIENCE:g} s")
        self.process.wait()
        self._reader.join()
        return Ended(self.process.returncode, self.begun.is_set(), self.said)


PROGRAM = [sys.executable, "-m", "tests.stress.soak"]
"""The environment of this process, with the root of the repository on the path."""


def fastslow() -> list[str]:
    return [sys.executable, "-m", "fastslow"]


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def ask(*arguments: str) -> tuple[int, str]:
    """Run `fastslow` in this process: its exit status and its stderr."""
    from fastslow.cli import main

    said, printed = io.StringIO(), io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
        status = main(list(arguments))
    return status, said.getvalue()


def resume(folder: Path) -> list[str]:
    return ["--resume", "--out", str(folder)]
