"""One row of the GPU table, in its own process, so that an error on the device affects only that row.

    python -m fastslow.bench.updates '{"engine": "triton", "shape": "PTB FS-LSTM-2", ...}'

prints one line of JSON: the times of a whole training step (embedding, layer, softmax, backward, clip, Adam, carried
state), or, for the engine "ceilings", the device's limits. Training steps of engines and of the LSTM are captured as
CUDA graphs; those of the loop and of the loop with a compiled cell run eagerly, as in normal use.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastslow.backends import reference
from fastslow.backends.triton import options as triton_options
from fastslow.bench.check import usable
from fastslow.bench.rivals import lstm_flops
from fastslow.bench.shapes import PTB, SHAPES, Shape
from fastslow.bench.timing import Work, interleave
from fastslow.cells.lstm import lstm_step
from fastslow.state import map_state
from fastslow.training.graphed import WARMUP, GraphedStep, Graphs

CEILINGS = "ceilings"
LSTM = "nn.LSTM"
LOOP = "reference"
COMPILED = "reference, compiled cell"
SLOW = (LOOP, COMPILED)
KINDS = {"bf16": torch.bfloat16, "fp32": torch.float32}
FAST_ROUNDS, SLOW_ROUNDS = (200, 10), (3, 2)
"""The minimum number of rounds, and the number of warm-up rounds."""
KERNELS = 20
Row = dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """A row to measure: an engine or baseline on a shape, by name, with products in bf16 or fp32.

    steps: T, if it differs from the shape's. options: of the "triton" engine, if they differ from its defaults.
    kernels: also measure which kernels take the time.
    """

    engine: str
    shape: str = PTB.name
    steps: int | None = None
    precision: str = "bf16"
    options: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 5.0
    kernels: bool = False

    @property
    def label(self) -> str:
        """The engine's name in the table."""
        told = (name.replace("_", " ") + ("" if value is True else f" {value}") for name, value in self.options.items())
        return ", ".join((self.engine, *told))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        return cls(**json.loads(text))


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
    """One training step on a window, continuing from the last state."""
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


def measure(spec: Spec, shape: Shape, device: torch.device) -> Row:
    """The row: times and derived values, or `refused` with the reason why there are none."""
    told: Row = {
        "shape": shape.name,
        "rows": shape.rows,
        "steps": shape.steps,
        "engine": spec.label,
        "precision": spec.precision,
    }
    kind = KINDS[spec.precision]
    with triton_options.using(**spec.options):
        if spec.engine not in (LSTM, *SLOW):
            refused = usable(spec.engine, shape, device, None if kind == torch.float32 else kind)
            if refused is not None:
                return told | {"refused": refused}
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        work = training_update(spec.engine, kind, shape, device)
        begin = time.perf_counter()
        for _ in range(1 if spec.engine in SLOW else WARMUP + 1):  # the last one captures the graph
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        first = time.perf_counter() - begin
        least, warmups = SLOW_ROUNDS if spec.engine in SLOW else FAST_ROUNDS
        works = {spec.label: work}
        taken = interleave(works, seconds=spec.seconds, least=least, most=400, warmups=warmups, device=device)
        times = taken[spec.label]
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        kernels = kernels_of(work, device) if spec.kernels else None
    flops = lstm_flops(shape) if spec.engine == LSTM else shape.flops
    dependent = 2 * shape.steps if spec.engine == LSTM else shape.dependent_steps
    return told | {
        "seconds": times.median,
        "p95_seconds": times.p95,
        "rounds": len(times.runs),
        "first_seconds": first,
        "peak_bytes": peak,
        "characters_per_second": shape.symbols / times.median,
        "microseconds_a_dependent_step": 1e6 * times.median / dependent,
        "tflops_per_second": flops / times.median / 1e12,
        "weight_bytes_per_second": shape.weights * kind.itemsize * 2 * shape.steps / times.median,
        **({} if kernels is None else {"kernels": kernels}),
    }


def kernels_of(work: Work, device: torch.device) -> list[Row] | str:
    """The kernels that take most of one call's time: calls, microseconds each, share; or why there is no result."""
    try:
        on_gpu = device.type == "cuda"
        kinds = torch.profiler.ProfilerActivity
        # Without CPU operators, whose times would include their kernels' times again.
        with torch.profiler.profile(activities=[kinds.CUDA if on_gpu else kinds.CPU]) as profile:
            work()
            if on_gpu:
                torch.cuda.synchronize(device)
        times = {
            event.key: (event.count, event.self_device_time_total if on_gpu else event.self_cpu_time_total)
            for event in profile.key_averages()
        }
    except Exception as failed:  # a missing profiler must not prevent the measurement
        return f"{type(failed).__name__}: {failed}"[:300]
    total = sum(taken for _, taken in times.values()) or 1.0
    most = sorted(times.items(), key=lambda item: -item[1][1])[:KERNELS]
    return [
        {"kernel": name[:120], "calls": calls, "microseconds": taken / max(1, calls), "share": taken / total}
        for name, (calls, taken) in most
        if taken > 0
    ]


def ceilings(device: torch.device, seconds: float = 2.0, size: int = 8192, chain: int = 200) -> Row:
    """The device's limits: a bfloat16 product of size `size`, and copying 16 size^2 bytes.

    On a GPU also the microseconds per kernel in a captured chain of kernels: for the smallest kernel, for a product of
    the forward loop at the PTB shape, and for one of the backward loop, whole and in four parts.
    """
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    source = torch.randint(255, (16 * size**2,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    works: dict[str, Work] = {"product": lambda: torch.mm(a, b, out=out), "copy": lambda: target.copy_(source)}
    times = interleave(works, seconds=seconds, least=20, most=200, warmups=10, device=device)
    found = {
        "bf16_tflops_per_second": 2 * size**3 / times["product"].median / 1e12,
        "copy_terabytes_per_second": 2 * source.numel() / times["copy"].median / 1e12,
    }
    if device.type != "cuda":
        return found
    rows, fast, slow = PTB.rows, 704, 400
    h, dz = (torch.randn(rows, n, device=device).bfloat16() for n in (fast, 4 * fast))
    w = torch.randn(4 * fast, fast + slow, device=device).bfloat16()
    z, joint, parts = (
        torch.empty(shape, device=device, dtype=kind)
        for shape, kind in (
            ((rows, 4 * fast), torch.bfloat16),
            ((rows, fast + slow), torch.float32),
            ((4, rows, fast + slow), torch.float32),
        )
    )
    gates, matrices = dz.view(rows, 4, fast).transpose(0, 1), w.view(4, fast, -1)
    chains: dict[str, Work] = {
        "smallest_kernel_us": lambda: h.mul_(1.0),
        "forward_product_us": lambda: torch.mm(h, w[:, :fast].t(), out=z),
        "backward_product_us": lambda: torch.mm(dz, w, out_dtype=torch.float32, out=joint),
        "backward_product_in_parts_us": lambda: torch.bmm(gates, matrices, out_dtype=torch.float32, out=parts),
    }
    recorder = Graphs(device)
    for name, work in chains.items():
        replay = recorder.record(_repeated(recorder, work, chain))
        taken = interleave({name: replay}, seconds=seconds / 4, least=10, most=100, warmups=3, device=device)
        found[name] = 1e6 * taken[name].median / chain
    return found


def _repeated(recorder: Graphs, work: Work, times: int) -> Callable[[], None]:
    """Repeat `work`, after a warm-up on the stream that will capture it."""
    recorder.warm(work)

    def all_of_them() -> None:
        for _ in range(times):
            work()

    return all_of_them


def main(arguments: list[str]) -> None:
    spec = Spec.from_json(arguments[0])
    device = torch.device(arguments[1] if len(arguments) > 1 else "cuda")
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        if spec.engine == CEILINGS:
            found = ceilings(device, spec.seconds)
        else:
            shape = SHAPES[spec.shape]
            found = measure(spec, shape if spec.steps is None else replace(shape, steps=spec.steps), device)
    except Exception as failed:  # for example a baseline that this device's libraries lack
        reason = (str(failed).splitlines() or [""])[0]
        found = {"refused": f"failed: {type(failed).__name__}: {reason}"[:400]}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
