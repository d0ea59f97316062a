"""The CPU tables: windows of every shape on every engine, and streaming."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from fastslow.backends import ENGINES, engine
from fastslow.backends.native.library import library
from fastslow.bench import precision
from fastslow.bench.cells import cells
from fastslow.bench.check import usable
from fastslow.bench.probe import LSTM, first_use, memory, window_of
from fastslow.bench.rivals import lstm_flops, product_floor, vector_floor
from fastslow.bench.shapes import PTB, SMALL, Shape
from fastslow.bench.timing import Times, Work, interleave

FLOOR = "matrix products alone"
LOOP = "reference"
CPU = torch.device("cpu")
Log = Callable[[str], None]
Row = dict[str, Any]


def windows(shapes: Sequence[Shape], seconds: float, log: Log, engines: Sequence[str] | None = None) -> Iterator[Row]:
    """One row per shape and engine, and for `nn.LSTM` and the products alone; about `seconds` of timing per shape."""
    for shape in shapes:
        refused = {name: usable(name, shape, CPU) for name in engines or ENGINES}
        works: dict[str, Work] = {
            name: window_of(name, shape) for name in [name for name, why in refused.items() if why is None] + [LSTM]
        }
        works[FLOOR] = product_floor(shape)
        log(f"{shape.name}: {', '.join(works)}")
        times = interleave(works, seconds=seconds)
        del works
        flops = {name: lstm_flops(shape) if name == LSTM else shape.flops for name in times}
        speed = {name: flops[name] / taken.median for name, taken in times.items()}
        for name, taken in times.items():
            peak = None if name == FLOOR else memory(name, shape)
            yield {
                "shape": shape.name,
                "rows": shape.rows,
                "steps": shape.steps,
                "weights": shape.weights if name != LSTM else lstm_flops(shape) // (6 * shape.symbols),
                "engine": name,
                **_measured(taken),
                "characters_per_second": shape.symbols / taken.median,
                "gflops_per_second": speed[name] / 1e9,
                "of_lstm": speed[name] / speed[LSTM],
                "of_floor": speed[name] / speed[FLOOR],
                "of_loop": speed[name] / speed[LOOP] if LOOP in speed else None,
                "peak_bytes": peak,
                "needed_bytes": None if name in (FLOOR, LSTM) else shape.needed_bytes,
            }
        for name, why in refused.items():
            if why is not None:
                yield {"shape": shape.name, "engine": name, "refused": why}


BURST = 32
"""Consecutive steps per measurement in the streaming table."""


def first_uses(log: Log, engines: Sequence[str] | None = None) -> Iterator[Row]:
    """The extra time of an engine's first window."""
    for name in engines or ENGINES:
        if name != LOOP and usable(name, SMALL, CPU) is None:
            log(f"first use of {name}")
            found = first_use(name)
            if found is not None:
                yield {"engine": name, "new_seconds": found["new"], "known_seconds": found["known"]}


def streaming(shapes: Sequence[Shape], seconds: float, log: Log) -> Iterator[Row]:
    """Single steps of one row: `layer.step`, int8 weights, the loop, and every matrix times a vector."""
    for shape in shapes:
        log(f"streaming, {shape.name}")
        with torch.no_grad():
            works = {name: _burst(work) for name, work in step_works(shape).items()}
            times = interleave(works, seconds=seconds, least=20, most=5000, warmups=3)
        floor, loop = times["matrix-vector products alone"].median, times[LOOP].median
        for name, taken in times.items():
            yield {
                "shape": shape.name,
                "engine": name,
                "seconds": taken.median / BURST,
                "p95_seconds": taken.p95 / BURST,
                "rounds": len(taken.runs),
                "characters_per_second": BURST / taken.median,
                "of_floor": floor / taken.median,
                "of_loop": loop / taken.median,
            }


def _burst(work: Work) -> Work:
    """Measure a burst of consecutive steps, as in use, so that the weights are still in the caches."""

    def run() -> None:
        for _ in range(BURST):
            work()

    return run


def step_works(shape: Shape) -> dict[str, Work]:
    """The candidates for consecutive steps of one row."""
    layer = shape.layer().eval()
    x = torch.randn(1, shape.input_size)
    loop = engine(LOOP)
    weights, rates = layer.weights(), layer.rates
    _, start = layer.step(x)
    carried: dict[str, Any] = dict.fromkeys(("layer", "int8", "loop"), start)

    def layer_step() -> None:
        _, carried["layer"] = layer.step(x, carried["layer"])

    def loop_step() -> None:
        _, carried["loop"] = loop.run(shape.wiring, weights, x.unsqueeze(0), carried["loop"], None, rates)

    works: dict[str, Work] = {"layer.step": layer_step, LOOP: loop_step}
    if not isinstance(library(), str):
        rounded = shape.layer().eval()
        rounded.round_to_int8_()

        def int8_step() -> None:
            _, carried["int8"] = rounded.step(x, carried["int8"])

        works["int8 weights"] = int8_step
    works["matrix-vector products alone"] = vector_floor(shape)
    return works


def _measured(times: Times) -> Row:
    return {"seconds": times.median, "p95_seconds": times.p95, "rounds": len(times.runs)}


def measure(
    shapes: Sequence[Shape], seconds: float, log: Log, engines: Sequence[str] | None = None
) -> dict[str, list[Row]]:
    """All results for the CPU section of the report."""
    return {
        "windows": list(windows(shapes, seconds, log, engines)),
        "first_use": list(first_uses(log, engines)),
        "streaming": list(streaming((PTB, SMALL), min(seconds, 10.0), log)),
        "cells": list(cells((PTB, SMALL) if shapes[0].steps == PTB.steps else shapes, min(seconds, 20.0), log)),
        "errors": list(precision.errors(PTB, log)) if precision.NATIVE in (engines or ENGINES) else [],
        "saving": list(precision.saving(shapes[:1], min(seconds, 20.0), log))
        if precision.NATIVE in (engines or ENGINES)
        else [],
    }
