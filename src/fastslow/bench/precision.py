"""Errors of the native engine against float64 for each precision, and the cost of saving fewer activations."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastslow.backends import engine
from fastslow.backends.native.call import TILES
from fastslow.backends.native.library import Library, library
from fastslow.bench.check import usable
from fastslow.bench.probe import STATES, memory, window_of
from fastslow.bench.shapes import Shape
from fastslow.bench.timing import interleave
from fastslow.layers import WiredLSTM
from fastslow.noise import Noise
from fastslow.state import LSTMState

NATIVE, LOOP = "native", "reference"
STEPS, ROWS = 10, 32
"""The size of the windows whose errors are measured."""
PARTS = {"highest": 3, "high": 2, "medium": 1}
"""Argument of `torch.set_float32_matmul_precision` -> number of bfloat16 parts per float32."""
CPU = torch.device("cpu")
Row = dict[str, Any]


def errors(shape: Shape, log: Callable[[str], None]) -> Iterator[Row]:
    """One row per kind of products, and one for the loop in float32: the largest error of outputs and of gradients.

    Errors are relative to the largest entry of the tensor in the float64 loop, with all masks on. No rows if the engine
    cannot run.
    """
    small = replace(shape, steps=STEPS, rows=ROWS)
    refused = usable(NATIVE, small, CPU)
    if refused is not None:
        log(f"errors of {NATIVE} not measured: {refused}")
        return
    log(f"errors of products, {shape.name}")
    exact = _values(LOOP, small, torch.float64)
    kinds: list[tuple[str, str, str | None]] = [
        (LOOP, "float32", None),
        (NATIVE, "fused multiply-adds in float32", "highest"),
    ]
    found = library()
    if isinstance(found, Library) and found.dots:
        kinds.append((NATIVE, "dot products of bfloat16 (medium)", "medium"))
    if isinstance(found, Library) and found.tiles:
        kinds += [
            (NATIVE, f"tile unit, {parts} bfloat16 part{'s' * (parts > 1)} ({setting})", setting)
            for setting, parts in PARTS.items()
        ]
    for name, kind, setting in kinds:
        with _products(setting, tiles=kind.startswith("tile")):
            got = _values(name, small, torch.float32)
        worst = {"outputs": 0.0, "gradients": 0.0}
        for what, expected in exact.items():
            group = "gradients" if what.startswith("gradient") else "outputs"
            error = ((got[what] - expected).abs().max() / expected.abs().max()).item()
            worst[group] = max(worst[group], error)
        yield {
            "shape": shape.name,
            "rows": ROWS,
            "steps": STEPS,
            "engine": name,
            "products": kind,
            "output_error": worst["outputs"],
            "gradient_error": worst["gradients"],
        }


@contextmanager
def _products(setting: str | None, *, tiles: bool) -> Iterator[None]:
    """Set this precision of products, with or without the tile unit; None changes nothing."""
    before, switch = torch.get_float32_matmul_precision(), os.environ.get(TILES)
    try:
        os.environ[TILES] = "1" if tiles else "0"
        if setting is not None:
            torch.set_float32_matmul_precision(setting)
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        if switch is None:
            del os.environ[TILES]
        else:
            os.environ[TILES] = switch


def _values(name: str, shape: Shape, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs, final states and the gradients of every parameter and of x, as float64."""
    generator = torch.Generator().manual_seed(0)
    layer: WiredLSTM = shape.layer().to(dtype)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    x = draw(shape.steps, shape.rows, shape.input_size).requires_grad_()
    state = tuple(LSTMState(draw(shape.rows, size), draw(shape.rows, size)) for size in shape.sizes)
    noise = Noise(torch.tensor(20170524))
    y, new = engine(name).run(shape.wiring, layer.weights(), x, state, noise, layer.rates)
    leaves = {"x": x, **dict(layer.named_parameters())}
    grads = torch.autograd.grad(y, list(leaves.values()), draw(*y.shape), materialize_grads=True)
    values = {"y": y}
    for slot, pair in zip(shape.wiring.slots, new, strict=True):
        values |= {f"final h of {slot}": pair.h, f"final c of {slot}": pair.c}
    values |= {f"gradient of {leaf}": grad for leaf, grad in zip(leaves, grads, strict=True)}
    return {what: value.detach().double() for what, value in values.items()}


def saving(shapes: Sequence[Shape], seconds: float, log: Callable[[str], None]) -> Iterator[Row]:
    """Time and peak memory of a window that saves everything for backward, and of one that saves only its states."""
    for shape in shapes:
        if usable(NATIVE, shape, CPU) is not None:
            continue
        log(f"saving, {shape.name}")
        names = (NATIVE, STATES)
        times = interleave({name: window_of(name, shape) for name in names}, seconds=seconds)
        peaks = {name: memory(name, shape) for name in names}
        for name in names:
            peak, full = peaks[name], peaks[NATIVE]
            yield {
                "shape": shape.name,
                "rows": shape.rows,
                "steps": shape.steps,
                "saved": "states" if name == STATES else "all",
                "seconds": times[name].median,
                "of_all_seconds": times[name].median / times[NATIVE].median,
                "peak_bytes": peak,
                "needed_bytes": shape.needed_bytes,
                "of_all_bytes": None if peak is None or not full else peak / full,
            }
