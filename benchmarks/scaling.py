#!/usr/bin/env python3
"""Training with several processes: measured on this machine's cores, and estimated for 8 GPUs and 8 machines.

    python benchmarks/scaling.py                            print both
    python benchmarks/scaling.py --page docs/scaling.md     put both into the page, between its markers
    python benchmarks/scaling.py --paper                    print the estimate only, which takes no time

Measured: characters per second of whole training steps (forward, backward, exchange, clipping, Adam), the best of
several bursts, for one process with one thread, one process with all cores, and one rank per core with a thread each:
with the same batch (strong scaling) and with a batch that grows with the ranks (weak scaling). The arrangements run
alternately, each in its own processes, so that other load on the machine affects all of them alike.

Estimated: the time of a training step from its operations and bytes, and the time of the exchange from the ring that
sums the gradients. `Device` and `Link` hold the assumptions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastslow.bench.pages import placed
from fastslow.errors import FastslowError

# ---------------------------------------------------------------------------------------------------- measured


@dataclass(frozen=True)
class Model:
    """The trained model: a preset's network, the batch of one process, and the window."""

    name: str
    preset: str
    batch: int
    window: int


MODELS = (Model("small", "demo", 16, 100), Model("medium", "ptb-fs-lstm-2", 32, 50))


@dataclass(frozen=True)
class Arrangement:
    """Processes, threads per process, and the factor by which the batch is larger than the model's."""

    processes: int
    threads: int
    larger: int = 1


def arrangements(cores: int) -> list[Arrangement]:
    """One core, one process on all of them, and as many ranks: with the same batch, and with a larger one."""
    found = [Arrangement(1, 1)]
    if cores > 1:
        found += [Arrangement(1, cores), Arrangement(cores, 1), Arrangement(cores, 1, larger=cores)]
    return found


def work(preset: str, batch: int, window: int, seconds: float) -> None:
    """One process of an arrangement; rank 0 prints the best time of a training step."""
    import torch

    from fastslow.data.alphabet import Alphabet
    from fastslow.lm import CharLM
    from fastslow.training.config import TrainConfig
    from fastslow.training.distributed import Group, joined
    from fastslow.training.presets import find_preset
    from fastslow.training.updater import Updater

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with joined() as ranks:
        if isinstance(ranks, Group):
            ranks.connect(torch.device("cpu"))
        torch.manual_seed(1)
        lm = CharLM(find_preset(preset).model.with_alphabet(Alphabet(bytes(range(32, 82)))))
        updater = Updater(lm, TrainConfig(batch=batch, window=window), ranks)
        columns = ranks.columns(batch)
        tokens = torch.randint(50, (window + 1, batch), generator=torch.Generator().manual_seed(1))[:, columns]
        state: Any = None
        times: list[float] = []
        begun, over = time.perf_counter(), 0.0
        while not over or len(times) < 5:
            started = time.perf_counter()
            state = updater.step(tokens[:-1], tokens[1:], state, 1e-4).state
            times.append(time.perf_counter() - started)
            (over,) = ranks.largest(float(time.perf_counter() - begun > seconds))
        if ranks.leads:
            print(json.dumps({"seconds": min(times), "updates": len(times), "parameters": lm.num_parameters}))


def measure(model: Model, arrangement: Arrangement, seconds: float) -> dict[str, Any]:
    """Run `work` in a new process and return its result. Raises FastslowError if it fails."""
    batch = model.batch * arrangement.larger
    launcher = [sys.executable]
    if arrangement.processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(arrangement.processes)]
    done = subprocess.run(
        [*launcher, __file__, "--work", model.preset, str(batch), str(model.window), str(seconds)],
        env={**os.environ, "OMP_NUM_THREADS": str(arrangement.threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise FastslowError(f"{arrangement} of {model.name} failed: {last}")
    found: dict[str, Any] = json.loads(lines[-1])
    found["rate"] = batch * model.window / found["seconds"]
    return found


def measured(models: Sequence[Model], seconds: float, rounds: int, note: str) -> str:
    """The table of the machine this runs on."""
    import torch

    from fastslow.bench.machine import describe, machine
    from fastslow.bench.tables import table

    wanted = arrangements(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    best: dict[tuple[Model, Arrangement], dict[str, Any]] = {}
    for _ in range(rounds):
        for model in models:
            for arrangement in wanted:
                found = measure(model, arrangement, seconds)
                if (model, arrangement) not in best or found["rate"] > best[model, arrangement]["rate"]:
                    best[model, arrangement] = found
    rows = []
    for (model, arrangement), found in best.items():
        one = best[model, wanted[0]]["rate"]
        kind = "1 core" if arrangement == wanted[0] else "weak" if arrangement.larger > 1 else "strong"
        if arrangement.processes == 1 and arrangement.threads > 1:
            kind = "threads"
        megabytes = f"{4e-6 * found['parameters']:.1f}" if arrangement.processes > 1 else "0"
        rows.append(
            [
                f"{model.name}, {found['parameters']:,} weights",
                f"{arrangement.processes} x {arrangement.threads}",
                kind,
                f"{model.batch * arrangement.larger} x {model.window}",
                megabytes,
                f"{1e3 * found['seconds']:,.1f}",
                f"{found['rate']:,.0f}",
                f"{found['rate'] / one:.2f}",
            ]
        )
    header = ["model", "processes x threads", "scaling", "batch x steps", "MB sent", "ms per step", "characters/s"]
    about = describe(machine(torch.device("cpu")))
    return f"{about}{note and '; ' + note}\n\n{table([*header, 'of one core'], rows)}"


# ---------------------------------------------------------------------------------------------------- estimated


@dataclass(frozen=True)
class Device:
    """The assumptions about a device.

    peak: operations per second in its data sheet. share: the fraction of it that large matrix products reach.
    memory: bytes per second. weight_bytes: bytes per weight as matrix products read it. step: the least seconds of a
    dependent cell step.
    """

    name: str
    peak: float
    share: float
    memory: float
    weight_bytes: int
    step: float


@dataclass(frozen=True)
class Link:
    """Bytes per second that each device can send and receive at once, and the least seconds per message."""

    name: str
    bandwidth: float
    latency: float


GPU = Device("GPU", peak=990e12, share=0.3, memory=3.3e12, weight_bytes=2, step=5e-6)
CPU = Device("CPU machine", peak=4e12, share=0.5, memory=200e9, weight_bytes=4, step=20e-6)
IN_ONE = (Link("NVLink, 400 GB/s", 400e9, 10e-6), Link("PCIe, 25 GB/s", 25e9, 10e-6))
BETWEEN = (Link("400 Gb/s", 50e9, 30e-6), Link("100 Gb/s", 12.5e9, 30e-6), Link("10 Gb/s", 1.25e9, 50e-6))
SETTINGS = (
    ("8 GPUs in one machine", GPU, IN_ONE),
    ("8 machines with a GPU each", GPU, BETWEEN),
    ("8 machines without GPUs", CPU, (BETWEEN[2], Link("1 Gb/s", 0.125e9, 50e-6))),
)
WEIGHTS, BATCHES = (1_000_000, 7_000_000, 50_000_000, 500_000_000), (128, 1024, 8192)
WINDOW, NODES, DEVICES, GRADIENT_BYTES = 150, 3, 8, 4


def compute_seconds(device: Device, weights: int, rows: float, *, window: int = WINDOW, nodes: int = NODES) -> float:
    """Forward and backward of a window: the largest of the times of operations, reading weights, and steps."""
    operations = 6 * weights * rows / (device.share * device.peak)
    reading = 2 * weights * device.weight_bytes / device.memory
    return window * max(operations, reading, 2 * nodes * device.step)


def exchange_seconds(link: Link, weights: int, devices: int = DEVICES) -> float:
    """A ring's sum: each device sends every part of the gradient but one, twice."""
    return 2 * (devices - 1) * (GRADIENT_BYTES * weights / devices / link.bandwidth + link.latency)


def speedup(device: Device, link: Link, weights: int, batch: int, devices: int = DEVICES) -> float:
    """Speedup of a training step on `devices` devices over one device, without overlap."""
    shared = compute_seconds(device, weights, batch / devices) + exchange_seconds(link, weights, devices)
    return compute_seconds(device, weights, batch) / shared


def least_bandwidth(device: Device, latency: float, weights: int, batch: int, devices: int = DEVICES) -> float | None:
    """Bytes per second below which `devices` are slower than one; None if they are slower on any link."""
    won = compute_seconds(device, weights, batch) - compute_seconds(device, weights, batch / devices)
    left = won - 2 * (devices - 1) * latency
    return 2 * (devices - 1) / devices * GRADIENT_BYTES * weights / left if left > 0 else None


def estimated() -> str:
    """The assumptions, and the tables that follow from them."""
    parts = [
        f"- {device.name}: {device.peak / 1e12:g} TFLOP/s, of which matrix products reach {device.share:.0%}; memory "
        f"{device.memory / 1e9:,.0f} GB/s; weights of {device.weight_bytes} bytes; a dependent cell step takes at "
        f"least {1e6 * device.step:g} us"
        for device in (GPU, CPU)
    ]
    parts.append(
        f"- Windows of {WINDOW} steps of {NODES} cells; gradients of {GRADIENT_BYTES} bytes per weight; "
        f"{DEVICES} devices; no overlap; without clipping and Adam, which every device computes in full"
    )
    header = ["weights", "link", *(f"batch {batch:,}" for batch in BATCHES)]
    from fastslow.bench.tables import table

    for title, device, links in SETTINGS:
        rows = [
            [f"{weights / 1e6:g}M", link.name, *(f"{speedup(device, link, weights, batch):.2f}" for batch in BATCHES)]
            for weights in WEIGHTS
            for link in links
        ]
        parts.append(
            f"\n{title}: speedup of a training step over one device (below 1: slower)\n\n{table(header, rows)}"
        )
    rows = []
    for weights in WEIGHTS:
        for device, latency in ((GPU, IN_ONE[0].latency), (GPU, BETWEEN[0].latency), (CPU, BETWEEN[2].latency)):
            needed = [least_bandwidth(device, latency, weights, batch) for batch in BATCHES]
            cells = ["none" if speed is None else f"{speed / 1e9:,.3g} GB/s" for speed in needed]
            rows.append([f"{weights / 1e6:g}M", f"{device.name}, {1e6 * latency:g} us per message", *cells])
    header[1] = "device, latency"
    parts.append(
        f"\nThe link speed below which {DEVICES} devices are slower than one (none: on every link, since dividing this "
        f"batch saves less time than messages take)\n\n{table(header, rows)}"
    )
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="insert the tables between the markers of this page")
    parser.add_argument("--paper", action="store_true", help="print the estimate only")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a burst")
    parser.add_argument("--rounds", type=int, default=2, help="bursts per arrangement")
    parser.add_argument("--note", default="", help='printed with the machine, such as "busy machine"')
    parser.add_argument("--work", nargs=4, metavar=("PRESET", "BATCH", "WINDOW", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        preset, batch, window, seconds = options.work
        work(preset, int(batch), int(window), float(seconds))
        return 0
    try:
        tables = {"paper": estimated()}
        if not options.paper:
            tables["measured"] = measured(MODELS, options.seconds, options.rounds, options.note)
        if options.page is None:
            print("\n\n".join(tables.values()))
        else:
            page = options.page.read_text()
            for name, text in tables.items():
                page = placed(page, name, text)
            options.page.write_text(page)
    except FastslowError as error:
        print(f"scaling: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
