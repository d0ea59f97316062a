"""The whole measurement: `fastslow bench` as a function."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastslow.bench import cpu, gpu
from fastslow.bench.machine import machine
from fastslow.bench.shapes import CPU_SHAPES, GPU_SHAPES, QUICK_CPU_SHAPES, QUICK_GPU_SHAPES
from fastslow.bench.tables import fill, report
from fastslow.errors import FastslowError
from fastslow.storage import write_json

RESULTS = Path("runs/bench.json")
SECONDS, QUICK_SECONDS = 60.0, 4.0


class BenchError(FastslowError):
    """A measurement that cannot run with the given arguments."""


def run_bench(
    quick: bool = False,
    json: Path | None = None,
    device: str = "cpu",
    page: Path | None = None,
    seconds: float | None = None,
    engines: Sequence[str] | None = None,
    limit: float | None = None,
) -> dict[str, Any]:
    """Measure the engines on this machine, print the tables, and store the results as JSON.

    An engine is only timed if its results match those of the loop in a small test; otherwise the tables give the
    reason.

    Args:
        quick: measure two shapes, the larger one shortened, in a minute instead of a quarter of an hour
        json: the file for the results (default: runs/bench.json)
        device: device to measure: cpu or cuda
        page: also insert the tables into this Markdown page, between its markers (see `fastslow.bench.pages`)
        seconds: approximate time per shape (default: 60, or 4 with --quick)
        engines: engines to measure (default: all); the loop is always included for comparison
        limit: on a GPU, start no further measurement after this many seconds; skipped rows are listed, and results so
            far are stored
    """
    where = _device(device)
    if engines is not None:
        engines = list(dict.fromkeys([*engines, cpu.LOOP]))
    budget = seconds if seconds is not None else QUICK_SECONDS if quick else SECONDS
    results: dict[str, Any] = {"machine": machine(where), "quick": quick}
    target = RESULTS if json is None else json
    target.parent.mkdir(parents=True, exist_ok=True)

    def keep(found: dict[str, Any]) -> None:
        results[where.type.replace("cuda", "gpu")] = found
        write_json(target, results, what="the results")

    if where.type == "cuda":
        shapes = QUICK_GPU_SHAPES if quick else GPU_SHAPES
        keep(gpu.measure(shapes, budget, where, _log, engines, limit=limit, keep=keep))
    else:
        keep(cpu.measure(QUICK_CPU_SHAPES if quick else CPU_SHAPES, budget, _log, engines))
    if page is not None:
        page.write_text(fill(page.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(report(results), end="")
    _log(f"results stored in {target}")
    return results


def _device(name: str) -> torch.device:
    try:
        found = torch.device(name)
    except RuntimeError:
        raise BenchError(f"device must be cpu or cuda; got {name!r}") from None
    if found.type not in ("cpu", "cuda"):
        raise BenchError(f"device must be cpu or cuda; got {name!r}")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise BenchError(f"device {name!r} is not available: torch finds no CUDA device; use cpu")
    return found


def _log(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)
