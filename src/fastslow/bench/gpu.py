"""The GPU's table: whole training updates, beside the device's ceilings.

Each row is measured in a process of its own (`fastslow.bench.updates`), one after another on a device that nobody else
uses: after a fault a process can use its device no more, and what one row leaves in memory is not counted in the next.
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
"""Of the "triton" engine, to be timed beside its defaults."""
ROWS = 10
"""The seconds asked for a shape are those of about this many rows."""
TIMEOUT_SECONDS, LEAST_SECONDS = 300.0, 15.0
"""Of a row: after how long it is given up, and how much must be left to begin one."""
Say = Callable[[str], None]
Keep = Callable[[Row], None]
Run = Callable[[Spec, torch.device, float], Row]


def order(shapes: Sequence[Shape], seconds: float, engines: Sequence[str] | None = None) -> list[Spec]:
    """What to measure, what matters most first: time may run out, and what comes last is what goes wrong most.

    Of every shape the engine in bfloat16, the LSTM and the loop; then the other engines, float32, the engine's options,
    and last the compiled cell, which takes minutes to compile.
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


def in_a_process(spec: Spec, device: torch.device, timeout: float) -> Row:
    """The row, measured by a fresh Python; `refused` says why there is none."""
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
        return {"refused": f"given up after {timeout:.0f} s"}
    if done.returncode == 0:
        found: Row = json.loads(done.stdout.splitlines()[-1])
        return found
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return {"refused": f"failed: its process ended with status {done.returncode}: {last}"[:400]}


def measure(
    shapes: Sequence[Shape],
    seconds: float,
    device: torch.device,
    say: Say,
    engines: Sequence[str] | None = None,
    *,
    limit: float | None = None,
    keep: Keep = lambda found: None,
    run: Run = in_a_process,
) -> Row:
    """Everything the GPU's section of the report has.

    limit: seconds after which no more rows are begun. keep: called with all there is after each row. run: measures one.
    """
    began = time.monotonic()

    def left() -> float:
        return float("inf") if limit is None else limit - (time.monotonic() - began)

    def one(spec: Spec) -> Row:
        if left() < LEAST_SECONDS:
            return {"refused": "there was no time left for it"}
        return run(spec, device, min(TIMEOUT_SECONDS, left()))

    say(f"{CEILINGS} of the device")
    found: Row = {"ceilings": one(Spec(CEILINGS, seconds=2.0)), "updates": []}
    keep(found)
    rows: list[Row] = []
    for spec in order(shapes, seconds, engines):
        row = {"shape": spec.shape, "engine": spec.label, "precision": spec.precision} | one(spec)
        rows.append(row)
        say(f"{spec.shape}, {spec.label} {spec.precision}: {_told(row)}")
        found["updates"] = list(with_ratios(rows, found["ceilings"]))
        keep(found)
    return found


def with_ratios(rows: Sequence[Row], ceiling: Row) -> Iterator[Row]:
    """The rows with their speed as a share of the ceilings', and of the loop's and the LSTM's in the same precision."""
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


def _told(row: Row) -> str:
    if "refused" in row:
        return str(row["refused"])
    return f"{1e3 * row['seconds']:.2f} ms, {row['characters_per_second'] / 1e6:.3f} M characters per second"
