"""Measurements in a separate process: the peak memory of a window, and the time of an engine's first use.

    python -m fastslow.bench.probe ENGINE SHAPE [STEPS]

prints one line of JSON. ENGINE may be `nn.LSTM`, or `native, states saved`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastslow.backends.native import engine as native
from fastslow.bench.rivals import lstm_window, training_window
from fastslow.bench.shapes import SHAPES, SMALL, Shape
from fastslow.bench.timing import Work

LSTM = "nn.LSTM"
STATES = "native, states saved"
TIMEOUT_SECONDS = 1800


def window_of(engine: str, shape: Shape) -> Work:
    """One window, forward and backward, of an engine or of `nn.LSTM`."""
    if engine == LSTM:
        return lstm_window(shape)
    layer = shape.layer(native.NAME if engine == STATES else engine)
    work = training_window(layer, shape, layer.output_size)
    if engine != STATES:
        return work

    def saving_states() -> None:
        with native.saving("states"):
            work()

    return saving_states


def memory(engine: str, shape: Shape) -> int | None:
    """The peak memory in bytes that a window adds to a process: saved activations, scratch, outputs and gradients.

    Measured in a new process; None if the system does not report it.
    """
    told = _probe(engine, shape)
    peak: int | None = None if told is None else told["peak_bytes"]
    return peak


def first_use(engine: str) -> dict[str, float] | None:
    """Seconds of the first small window of a process: with an empty build cache, and with a filled one."""
    with tempfile.TemporaryDirectory() as empty:
        new = _probe(engine, SMALL, FASTSLOW_CACHE=empty)
        known = _probe(engine, SMALL, FASTSLOW_CACHE=empty)
    if new is None or known is None:
        return None
    return {"new": new["first_s"] - new["later_s"], "known": known["first_s"] - known["later_s"]}


def _probe(engine: str, shape: Shape, **environment: str) -> dict[str, Any] | None:
    command = [sys.executable, "-m", "fastslow.bench.probe", engine, shape.name, str(shape.steps)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=True,
            env=os.environ | threads | environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _memory(field: str) -> int | None:
    """A memory field of this process on Linux, in bytes: VmRSS (current) or VmHWM (peak)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main(arguments: list[str]) -> None:
    engine, name, *steps = arguments
    shape = SHAPES[name]
    # Run a short window first, so that loading libraries and compiling kernels is not counted.
    work = window_of(engine, replace(shape, steps=2))
    begin = time.perf_counter()
    work()
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    work()
    later = time.perf_counter() - begin
    del work
    work = window_of(engine, replace(shape, steps=int(steps[0])) if steps else shape)
    _forget_peak()
    before = _memory("VmRSS")
    work()
    after = _memory("VmHWM")
    peak = None if before is None or after is None else after - before
    print(json.dumps({"peak_bytes": peak, "first_s": first, "later_s": later}))


if __name__ == "__main__":
    main(sys.argv[1:])
