"""The GPU's table: whole training updates, beside the device's ceilings.

An update is embedding, layer, softmax, backward, clip, Adam and the state carried on. The engine's and the LSTM's are
recorded as CUDA graphs; the loop and the loop with a compiled cell, whose recordings take minutes, run from Python, as
they would be used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastslow.backends import ENGINES, reference
from fastslow.bench.check import usable
from fastslow.bench.rivals import lstm_flops
from fastslow.bench.shapes import Shape
from fastslow.bench.timing import Times, Work, interleave
from fastslow.cells.lstm import lstm_step
from fastslow.state import map_state
from fastslow.training.graphed import GraphedStep

LSTM = "nn.LSTM"
LOOP = "reference"
COMPILED = "reference, compiled cell"
KINDS = {torch.bfloat16: "bf16", torch.float32: "fp32"}
SLOW = (LOOP, COMPILED)
FAST_ROUNDS, SLOW_ROUNDS = (200, 10), (3, 2)
"""Least rounds, and those before the first that counts."""
Say = Callable[[str], None]
Row = dict[str, Any]
Key = tuple[str, torch.dtype]
"""Engine or rival, and the type of its products."""


class Network(nn.Module):
    """Embedding, a recurrent layer, logits."""

    def __init__(self, layer: nn.Module, inputs: int, outputs: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(vocabulary, inputs), layer
        self.logits = nn.Linear(outputs, vocabulary)

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, new = self.layer(self.embedding(tokens), state)
        return self.logits(y), new


def training_update(name: str, kind: torch.dtype, shape: Shape, device: torch.device) -> Work:
    """One update on a window, after the state of the last."""
    torch.manual_seed(0)
    if name == LSTM:
        size = shape.equal_lstm()
        network = Network(nn.LSTM(shape.input_size, size), shape.input_size, size, shape.vocabulary)
        state: Any = tuple(torch.zeros(1, shape.rows, size, device=device) for _ in "hc")
    else:
        layer = shape.layer(LOOP if name in SLOW else name)
        network = Network(layer, shape.input_size, layer.output_size, shape.vocabulary)
        state = tuple(tuple(torch.zeros(shape.rows, size, device=device) for _ in "hc") for size in shape.sizes)
    network.to(device)
    tokens = torch.randint(0, shape.vocabulary, (shape.steps + 1, shape.rows), device=device)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=torch.tensor(1e-3, device=device), fused=True, capturable=True
    )

    def objective(inputs: Tensor, targets: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            logits, new = network(inputs, state)
        new = map_state(lambda leaf: leaf.float(), new)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        return loss, loss, new

    if name not in SLOW:
        graphed = GraphedStep(objective, optimizer, device, clip=1.0)
        held = [state]

        def replayed() -> None:
            held[0] = graphed.step(tokens[:-1], tokens[1:], state=held[0], rate=1e-3).state

        return replayed

    held = [state]

    def eager() -> None:
        loss, _, new = objective(tokens[:-1], tokens[1:], held[0])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        held[0] = map_state(Tensor.detach, new)

    if name == LOOP:
        return eager
    cell = torch.compile(lstm_step, dynamic=False)

    def compiled() -> None:
        with mock.patch.object(reference, "lstm_step", cell):
            eager()

    return compiled


def ceilings(device: torch.device, seconds: float = 2.0, size: int = 8192) -> Row:
    """What the device reaches in a bfloat16 product of `size`, and in copying 16 size^2 bytes."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    source = torch.empty(16 * size**2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    works: dict[str, Work] = {"product": lambda: torch.mm(a, b, out=out), "copy": lambda: target.copy_(source)}
    times = interleave(works, seconds=seconds, least=20, most=200, warmups=10, device=device)
    return {
        "bf16_tflops_per_second": 2 * size**3 / times["product"].median / 1e12,
        "copy_terabytes_per_second": 2 * source.numel() / times["copy"].median / 1e12,
    }


def updates(
    shapes: Sequence[Shape],
    seconds: float,
    ceiling: Row,
    device: torch.device,
    say: Say,
    engines: Sequence[str] | None = None,
    slow: Sequence[Key] = ((LOOP, torch.bfloat16), (LOOP, torch.float32), (COMPILED, torch.float32)),
) -> Iterator[Row]:
    """A row for each engine and rival of each shape."""
    firsts: dict[str, float] = {}
    for shape in shapes:
        names = [name for name in engines or ENGINES if name not in ("native", LOOP)]
        wanted = [(name, kind) for kind in KINDS for name in names]
        refused = {key: usable(key[0], shape, device, None if key[1] == torch.float32 else key[1]) for key in wanted}
        fast = [key for key in wanted if refused[key] is None] + [(LSTM, kind) for kind in KINDS]
        say(f"{shape.name}: {', '.join(_label(key) for key in (*fast, *slow))}")
        times: dict[Key, Times] = {}
        for keys, (least, warmups) in ((fast, FAST_ROUNDS), (slow, SLOW_ROUNDS)):
            works: dict[str, Work] = {}
            for key in keys:
                work = training_update(*key, shape, device)
                try:
                    begin = time.perf_counter()
                    work()
                    firsts[_label(key)] = time.perf_counter() - begin
                except RuntimeError as failed:  # such as a rival that this device's libraries do not have
                    refused[key] = f"failed: {str(failed).splitlines()[0]}"
                    continue
                works[_label(key)] = work
            found = interleave(works, seconds=seconds, least=least, most=400, warmups=warmups, device=device)
            times |= {key: found[_label(key)] for key in keys if _label(key) in found}
            del works
            torch.cuda.empty_cache()
        speed = {key: (lstm_flops(shape) if key[0] == LSTM else shape.flops) / t.median for key, t in times.items()}
        for key, taken in times.items():
            name, kind = key
            bytes_read = shape.weights * (2 if kind == torch.bfloat16 else 4) * 2 * shape.steps
            yield {
                "shape": shape.name,
                "rows": shape.rows,
                "steps": shape.steps,
                "engine": name,
                "precision": KINDS[kind],
                "seconds": taken.median,
                "p95_seconds": taken.p95,
                "rounds": len(taken.runs),
                "first_seconds": firsts[_label(key)],
                "characters_per_second": shape.symbols / taken.median,
                "microseconds_a_dependent_step": 1e6
                * taken.median
                / (2 * shape.steps if name == LSTM else shape.dependent_steps),
                "tflops_per_second": speed[key] / 1e12,
                "of_product_ceiling": speed[key] / 1e12 / ceiling["bf16_tflops_per_second"],
                "of_copy_ceiling": bytes_read / taken.median / 1e12 / ceiling["copy_terabytes_per_second"],
                "of_loop": _share(speed, key, LOOP),
                "of_lstm": _share(speed, key, LSTM),
            }
        for key, why in refused.items():
            if why is not None:
                yield {"shape": shape.name, "engine": key[0], "precision": KINDS[key[1]], "refused": why}


def measure(
    shapes: Sequence[Shape], seconds: float, device: torch.device, say: Say, engines: Sequence[str] | None = None
) -> dict[str, Any]:
    """Everything the GPU's section of the report has."""
    ceiling = ceilings(device)
    return {"ceilings": ceiling, "updates": list(updates(shapes, seconds, ceiling, device, say, engines))}


def _share(speed: dict[Key, float], key: Key, rival: str) -> float | None:
    """Of the rival's speed in the same precision."""
    beside = speed.get((rival, key[1]))
    return None if beside is None else speed[key] / beside


def _label(key: Key) -> str:
    return f"{key[0]} {KINDS[key[1]]}"
