"""The GPU table: whole training steps, compared with the device's limits.

Each row is measured in its own process (`fastslow.bench.updates`), one after another on an otherwise idle device: after
an error a process can no longer use its device, and memory left by one row must not count in the next.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import fastslow
from fastslow.backends import ENGINES
from fastslow.bench.shapes import SHAPES, Shape
from fastslow.bench.updates import CEILINGS, COMPILED, LOOP, LSTM, Row, Spec

TRITON = "triton"
OPTIONS: tuple[dict[str, Any], ...] = (
    {"gates_apart": False},
    {"overlap": True},
    {"dependent_launch": True},
    {"dependent_launch": True, "own_products": True},
    {"units_per_thread": 2},
    {"units_per_thread": 8},
)
"""Options of the "triton" engine that are timed in addition to its defaults."""
ROWS = 10
"""The time per shape is divided by this number to get the time per row."""
TIMEOUT_SECONDS, LEAST_SECONDS = 300.0, 15.0
"""The time limit of a row, and the least time that must be left to start one."""
Log = Callable[[str], None]
Keep = Callable[[Row], None]
Run = Callable[[Spec, torch.device, float], Row]


def order(shapes: Sequence[Shape], seconds: float, engines: Sequence[str] | None = None) -> list[Spec]:
    """The rows to measure, the most important first, because time may run out, and those most likely to fail last.

    First the engine in bfloat16, the LSTM and the loop for every shape; then the other engines, float32, the engine's
    options; and last the compiled cell, which takes minutes to compile.
    """
    names = [name for name in engines or ENGINES if name not in ("native", LOOP)]
    chosen = [TRITON] if TRITON in names else []
    others = [name for name in names if name != TRITON]
    first, rest = shapes[:1], shapes[1:]
    rows: list[tuple[Shape, str, str, dict[str, Any]]]
    rows = [(shape, name, "bf16", {}) for shape in shapes for name in (*chosen, LSTM, LOOP)]
    rows += [(shape, name, "bf16", {}) for shape in shapes for name in others]
    rows += [(shape, name, "fp32", {}) for shape in shapes for name in (*chosen, *others, LSTM, LOOP)]
    rows += [(shape, name, "bf16", changes) for shape in first for name in chosen for changes in OPTIONS]
    rows += [(shape, name, "bf16", changes) for shape in rest for name in chosen for changes in OPTIONS[:4]]
    rows += [(shape, COMPILED, precision, {}) for shape in first for precision in ("bf16", "fp32")]
    return [
        Spec(
            engine=name,
            shape=shape.name,
            steps=shape.steps if SHAPES.get(shape.name) != shape else None,
            precision=precision,
            options=changes,
            seconds=seconds / ROWS,
            kernels=name == TRITON and precision == "bf16" and not changes,
        )
        for shape, name, precision, changes in rows
    ]


def in_subprocess(spec: Spec, device: torch.device, timeout: float) -> Row:
    """The row, measured in a new Python process; `refused` gives the reason if there is no result."""
    source = str(Path(fastslow.__file__).parents[1])
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "fastslow.bench.updates", spec.to_json(), str(device)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
    except subprocess.TimeoutExpired:
        return {"refused": f"timed out after {timeout:.0f} s"}
    if done.returncode == 0:
        found: Row = json.loads(done.stdout.splitlines()[-1])
        return found
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return {"refused": f"failed: the process exited with status {done.returncode}: {last}"[:400]}


def measure(
    shapes: Sequence[Shape],
    seconds: float,
    device: torch.device,
    log: Log,
    engines: Sequence[str] | None = None,
    *,
    limit: float | None = None,
    keep: Keep = lambda found: None,
    run: Run = in_subprocess,
) -> Row:
    """All results for the GPU section of the report.

    limit: after this many seconds no further row is started. keep: called with all results so far after each row. run:
    measures one row.
    """
    began = time.monotonic()

    def left() -> float:
        return float("inf") if limit is None else limit - (time.monotonic() - began)

    def one(spec: Spec) -> Row:
        if left() < LEAST_SECONDS:
            return {"refused": "skipped: the time limit was reached"}
        return run(spec, device, min(TIMEOUT_SECONDS, left()))

    log(f"{CEILINGS} of the device")
    found: Row = {"ceilings": one(Spec(CEILINGS, seconds=2.0)), "updates": []}
    keep(found)
    rows: list[Row] = []
    for spec in order(shapes, seconds, engines):
        row = {"shape": spec.shape, "engine": spec.label, "precision": spec.precision} | one(spec)
        rows.append(row)
        log(f"{spec.shape}, {spec.label} {spec.precision}: {_summary(row)}")
        found["updates"] = list(with_ratios(rows, found["ceilings"]))
        keep(found)
    return found


def with_ratios(rows: Sequence[Row], ceiling: Row) -> Iterator[Row]:
    """The rows with their speed relative to the ceilings, and to the loop and the LSTM in the same precision."""
    speeds = {(row["shape"], row["engine"], row["precision"]): row.get("tflops_per_second") for row in rows}
    for row in rows:
        speed = row.get("tflops_per_second")
        if speed is None:
            yield row
            continue
        yield row | {
            "of_product_ceiling": _over(speed, ceiling.get("bf16_tflops_per_second")),
            "of_copy_ceiling": _over(row["weight_bytes_per_second"] / 1e12, ceiling.get("copy_terabytes_per_second")),
            "of_loop": _over(speed, speeds.get((row["shape"], LOOP, row["precision"]))),
            "of_lstm": _over(speed, speeds.get((row["shape"], LSTM, row["precision"]))),
        }


def _over(value: float, other: float | None) -> float | None:
    return None if not other else value / other


def _summary(row: Row) -> str:
    if "refused" in row:
        return str(row["refused"])
    return f"{1e3 * row['seconds']:.2f} ms, {row['characters_per_second'] / 1e6:.3f} M characters per second"
