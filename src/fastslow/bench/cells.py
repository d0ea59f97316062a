"""Comparison of cells: fast-slow networks of LSTM and GRU cells, ours and torch's, and torch's own layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from fastslow.bench.rivals import training_window
from fastslow.bench.shapes import Shape
from fastslow.bench.timing import interleave
from fastslow.layers import FSGRU, FSLSTM, FSRNN

RIVALS = {"LSTM": "nn.LSTM", "GRU": "nn.GRU"}


def matrix_entries(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters() if parameter.dim() == 2)


def networks(shape: Shape, backend: str = "auto") -> dict[str, tuple[str, nn.Module, int]]:
    """Name -> the kind of cell, the layer, and its output size. The shape's wiring is `fast_slow(2)`."""
    x, (fast, slow) = shape.input_size, shape.sizes
    options: dict[str, Any] = {"dropout": shape.dropout, "zoneout_h": shape.zoneout_h, "backend": backend}
    found: dict[str, tuple[str, nn.Module, int]] = {
        "FSLSTM": ("LSTM", FSLSTM(x, fast, slow, zoneout_c=shape.zoneout_c, **options), fast),
        "FSGRU": ("GRU", FSGRU(x, fast, slow, **options), fast),
    }
    for kind, cell in (("LSTM", nn.LSTMCell), ("GRU", nn.GRUCell)):
        cells = FSRNN([cell(x, fast), cell(slow, fast)], cell(fast, slow), dropout=shape.dropout)
        found[f"FSRNN of nn.{kind}Cell"] = (kind, cells, fast)
    for kind, rival, gates in (("LSTM", nn.LSTM, 4), ("GRU", nn.GRU, 3)):
        weights = matrix_entries(found[f"FS{kind}"][1])
        size = min(range(1, 8192), key=lambda h: abs(gates * h * (x + h) - weights))
        found[RIVALS[kind]] = (kind, rival(x, size), size)
    return found


def cells(shapes: Sequence[Shape], seconds: float, log: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """One row per network and shape: windows forward and backward, and torch's layer of about the same size."""
    for shape in shapes:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = networks(shape)
        log(f"cells, {shape.name}: {', '.join(made)}")
        works = {name: training_window(layer, shape, size) for name, (_, layer, size) in made.items()}
        times = interleave(works, seconds=seconds)
        speed = {
            name: 6 * matrix_entries(made[name][1]) * shape.symbols / taken.median for name, taken in times.items()
        }
        for name, (kind, layer, _) in made.items():
            yield {
                "shape": shape.name,
                "rows": shape.rows,
                "steps": shape.steps,
                "network": name,
                "weights": matrix_entries(layer),
                "seconds": times[name].median,
                "p95_seconds": times[name].p95,
                "rounds": len(times[name].runs),
                "characters_per_second": shape.symbols / times[name].median,
                "gflops_per_second": speed[name] / 1e9,
                "rival": RIVALS[kind],
                "of_rival": speed[name] / speed[RIVALS[kind]],
            }
