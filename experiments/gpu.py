#!/usr/bin/env python3
"""Everything that needs a GPU, in one call that can be stopped and called again.

    python experiments/gpu.py --out OUT --limit 600                              tests, then the benchmark
    python experiments/gpu.py --out OUT --limit 600 --stages train --data DIR    train ptb-fs-lstm-2, or go on with it

Stages, each in a process of its own, each leaving its files in OUT whatever becomes of the others:

    tests   `pytest -m gpu tests/gpu`                                                          -> tests.log
    bench   ceilings of the machine, then updates of PTB FS-LSTM-2 and -4 and of Large FS-LSTM-4: the Triton engine,
            recorded, with each option; the loop, plain, recorded and with a compiled cell; nn.LSTM of as many weights;
            and what each kernel of an update takes. Nothing is timed whose twin test fails    -> bench.json
    train   a preset on DIR/{train,valid,test}.txt. Checkpoints stay in WORK, which must outlive the call for the next
            one to go on; metrics, record, result and best weights are copied, large files in parts of --part-mb
            (join them with cat)                                                               -> train/

It needs torch, triton, numpy, safetensors and pytest, and no installation: it finds `src` beside itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("tests", "bench", "train")
PREDICTED_RATE = {"ptb-fs-lstm-2": 1.6e6, "ptb-fs-lstm-4": 1.2e6, "enwik8-fs-lstm-4-large": 0.6e6}
"""Characters a second, on one H200: predictions, until `bench.json` has measured ones."""
SETTINGS: dict[str, dict[str, Any]] = {
    "triton": {},
    "triton, overlap": {"overlap": True},
    "triton, dependent launch": {"dependent_launch": True},
    "triton, 2 units a thread": {"units_per_thread": 2},
    "triton, 8 units a thread": {"units_per_thread": 8},
}
"""Options of the engine to time; the last two for the first model only."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for what should be kept")
    parser.add_argument("--work", type=Path, default=Path("/tmp/fastslow-gpu"), help="folder on a local disk")
    parser.add_argument("--data", type=Path, help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for everything, kept by stopping in time")
    parser.add_argument("--stages", default="tests,bench", help=f"of {','.join(STAGES)}, in this order")
    parser.add_argument("--preset", default="ptb-fs-lstm-2", help="what to train")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON", help="a field of the recipe")
    parser.add_argument("--overlap", action="store_true", help="train with the engine's option of that name")
    parser.add_argument("--dependent-launch", action="store_true", help="train with the engine's option of that name")
    parser.add_argument("--device", default="cuda", help="what to train on; cpu rehearses the stage")
    parser.add_argument("--part-mb", type=float, default=15.0, help="largest file left in OUT")
    parser.add_argument("--only", choices=STAGES, help=argparse.SUPPRESS)  # a stage's own process
    args = parser.parse_args()
    stages = [stage for stage in STAGES if stage in args.stages.split(",")]
    unknown = set(args.stages.split(",")) - set(STAGES)
    if unknown:
        parser.error(f"unknown stages {sorted(unknown)}: use {', '.join(STAGES)}")
    if "train" in stages and args.data is None:
        parser.error("to train, say where the text is: --data DIR")
    args.out, args.work = args.out.resolve(), args.work.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.only is not None:
        sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
        return {"tests": run_tests, "bench": run_bench, "train": run_train}[args.only](args)
    return run_stages(args, stages)


def run_stages(args: argparse.Namespace, stages: list[str]) -> int:
    began = time.monotonic()
    print_cost(args, stages)
    failed = []
    for n, stage in enumerate(stages):
        left = args.limit - (time.monotonic() - began)
        # What comes later gets its share; the last stage, all there is.
        share = left if n == len(stages) - 1 else left * 0.6
        if share < 20:
            print(f"[{stage}] skipped: {left:.0f} s left", flush=True)
            failed.append(stage)
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--only", stage, "--limit", f"{share:.0f}"]
        print(f"[{stage}] at most {share:.0f} s", flush=True)
        try:
            code = subprocess.run(command, cwd=ROOT, timeout=share + 15, check=False).returncode
        except subprocess.TimeoutExpired:
            code = 124
        print(f"[{stage}] {'done' if code == 0 else f'ended with status {code}'}", flush=True)
        if code:
            failed.append(stage)
    print(f"{time.monotonic() - began:.0f} s; in {args.out}: {', '.join(sorted(p.name for p in args.out.iterdir()))}")
    return 1 if failed else 0


def print_cost(args: argparse.Namespace, stages: list[str]) -> None:
    print(f"Stages: {', '.join(stages)}; stopped in time for {args.limit:.0f} s in all.")
    if "tests" in stages:
        print("  tests: about 3 minutes on 12 cores, most of it compiling kernels (not measured)")
    if "bench" in stages:
        print("  bench: about 5 minutes, of which compiling and recording are 2 (not measured)")
    if "train" not in stages:
        return
    rate, source = PREDICTED_RATE.get(args.preset, 1e6), "predicted, not measured"
    measured = args.out / "bench.json"
    if measured.is_file():
        for row in json.loads(measured.read_text()).get("rows", []):
            if row.get("model") == args.preset and row.get("engine") == "triton" and "characters_per_second" in row:
                rate, source = row["characters_per_second"], "measured"
    symbols = sum((args.data / f"{part}.txt").stat().st_size for part in ("train",))
    changes = dict(change.partition("=")[::2] for change in args.set)
    epochs = int(changes.get("epochs", 200))
    seconds = epochs * symbols / rate
    print(
        f"  train: {args.preset}, {epochs} epochs of {symbols:,} characters at {rate / 1e6:.2f} M a second ({source}): "
        f"{seconds / 60:.1f} minutes, and about 1 second a validation; {args.work}/{args.preset} holds the checkpoints"
    )


# ---------------------------------------------------------------------------------------------------- tests


def run_tests(args: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default", "--durations=8"]
    if importlib.util.find_spec("xdist") is not None:  # compiling for the tests takes most of their time
        command += ["-n", str(min(12, os.cpu_count() or 1))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    log = args.out / "tests.log"
    with log.open("w") as file:
        try:
            done = subprocess.run(
                [*command, "tests/gpu"], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT,
                timeout=args.limit, check=False,
            )  # fmt: skip
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = 124
    print("\n".join(log.read_text().splitlines()[-25:]), flush=True)
    return code


# ---------------------------------------------------------------------------------------------------- bench


def milliseconds(run: Callable[[], Any], *, warmup: int, repeats: int, budget: float) -> dict[str, Any]:
    """Median and 95th percentile of `run` on the device, after `warmup` calls; at most about `budget` seconds."""
    import torch

    for _ in range(warmup):
        run()
    torch.cuda.synchronize()
    times: list[float] = []
    began = time.monotonic()
    while len(times) < repeats and (time.monotonic() - began < budget or len(times) < 3):
        batch = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(10)]
        for start, end in batch[: max(1, min(10, repeats - len(times)))]:
            start.record()
            run()
            end.record()
        torch.cuda.synchronize()
        times += [s.elapsed_time(e) for s, e in batch[: max(1, min(10, repeats - len(times)))]]
    times.sort()
    p95 = times[min(len(times) - 1, math.ceil(0.95 * len(times)) - 1)]
    return {"median_ms": statistics.median(times), "p95_ms": p95, "iterations": len(times)}


def ceilings() -> dict[str, float]:
    """What this machine reaches at best: memory, products, and a kernel after another in a graph."""
    import torch

    values = torch.randn(2, 1 << 30, device="cuda")
    copy = milliseconds(lambda: values[1].copy_(values[0]), warmup=3, repeats=20, budget=5)["median_ms"]
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in "ab")
    mm = milliseconds(lambda: torch.mm(a, b), warmup=3, repeats=20, budget=5)["median_ms"]
    found = {"memory_tb_s": 2 * 4 * 2**30 / copy / 1e9, "bf16_tflops": 2 * 8192**3 / mm / 1e9}
    stream = torch.cuda.Stream()
    small = torch.randn(128, 704, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(2816, 704, device="cuda", dtype=torch.bfloat16)
    out = torch.empty(128, 2816, device="cuda", dtype=torch.bfloat16)

    def chain(run: Callable[[], Any]) -> float:
        with torch.cuda.stream(stream):
            run()
            run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(200):
                run()
        return float(milliseconds(graph.replay, warmup=3, repeats=30, budget=5)["median_ms"]) * 1000 / 200

    found["product_128_2816_704_us"] = chain(lambda: torch.mm(small, weight.t(), out=out))
    found["smallest_kernel_us"] = chain(lambda: small.mul_(1.0))
    return found


@dataclasses.dataclass
class Shape:
    """A model to time: B streams of T steps, and its number of cells."""

    preset: str
    T: int
    B: int = 128

    def lm(self, backend: str) -> Any:
        import torch

        from fastslow.data.alphabet import Alphabet
        from fastslow.lm.model import CharLM
        from fastslow.training.presets import find_preset

        torch.manual_seed(0)
        size = 50 if self.preset.startswith("ptb") else 205
        return CharLM(find_preset(self.preset).model.with_alphabet(Alphabet(bytes(range(size)))), backend=backend).to(
            "cuda"
        )

    def config(self, precision: str) -> Any:
        from fastslow.training.config import TrainConfig

        return TrainConfig(batch=self.B, window=self.T, precision=precision)  # type: ignore[arg-type]


SHAPES = (Shape("ptb-fs-lstm-2", 150), Shape("ptb-fs-lstm-4", 150), Shape("enwik8-fs-lstm-4-large", 100))


def update_of(updater: Any, shape: Shape) -> Callable[[], Any]:
    """An update on one random window, the state carried."""
    import torch

    size = len(updater.lm.alphabet)
    tokens = torch.randint(size, (shape.T + 1, shape.B), device="cuda")
    held: dict[str, Any] = {"state": None}

    def run() -> None:
        held["state"] = updater.step(tokens[:-1], tokens[1:], held["state"], 1e-4).state

    return run


def check_twin_first(**changes: Any) -> None:
    """AssertionError unless the engine, so set, agrees with the loop in bfloat16."""
    from tests.backends.triton.rounded import check_rounded
    from tests.backends.twins import CASES

    check_rounded(CASES["fs2-odd"], "cuda", **changes)


def kernels_of(run: Callable[[], Any]) -> list[dict[str, Any]] | str:
    """The kernels of one update that take longest: name, calls, microseconds each, share of all kernels' time."""
    import torch

    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            run()
            torch.cuda.synchronize()
        events = [event for event in profile.key_averages() if event.self_device_time_total > 0]
        total = sum(event.self_device_time_total for event in events)
        events.sort(key=lambda event: -event.self_device_time_total)
        return [
            {
                "kernel": event.key[:120],
                "calls": event.count,
                "us_each": event.self_device_time_total / event.count,
                "share": event.self_device_time_total / total,
            }
            for event in events[:20]
        ]
    except Exception as error:  # a profiler that is not there costs no figure
        return f"{type(error).__name__}: {error}"[:300]


@contextmanager
def compiled_cell() -> Iterator[None]:
    """The loop's cell through torch.compile."""
    import torch

    from fastslow.backends import reference

    plain = reference.lstm_step
    reference.lstm_step = torch.compile(plain)
    try:
        yield
    finally:
        reference.lstm_step = plain


def cudnn_update(shape: Shape, weights: int) -> tuple[Callable[[], Any], int]:
    """An update of nn.LSTM between the same embedding and softmax, of about as many weights, in bfloat16."""
    import torch
    import torch.nn.functional as F

    from fastslow.training.presets import find_preset

    x_size = find_preset(shape.preset).model.embedding_size
    # 4 H (H + X + 2) weights
    hidden = round((-(x_size + 2) + math.sqrt((x_size + 2) ** 2 + weights)) / 2 / 8) * 8
    size = 50 if shape.preset.startswith("ptb") else 205
    embedding = torch.nn.Embedding(size, x_size, device="cuda")
    lstm = torch.nn.LSTM(x_size, hidden, device="cuda")
    head = torch.nn.Linear(hidden, size, device="cuda")
    parameters = [*embedding.parameters(), *lstm.parameters(), *head.parameters()]
    adam = torch.optim.Adam(parameters, lr=1e-4, fused=True)
    tokens = torch.randint(size, (shape.T + 1, shape.B), device="cuda")
    held: list[Any] = [None]

    def run() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            y, state = lstm(embedding(tokens[:-1]), held[0])
            logits = head(y)
        loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[1:].flatten(), reduction="sum") / shape.B
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        held[0] = tuple(part.detach() for part in state)

    return run, sum(p.numel() for p in lstm.parameters())


def run_bench(args: argparse.Namespace) -> int:
    import torch

    from fastslow.backends.triton import options
    from fastslow.training.accelerated import GraphedUpdater
    from fastslow.training.updater import Updater

    began = time.monotonic()
    torch.backends.cuda.matmul.allow_tf32 = False
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": __import__("triton").__version__,
        "date": time.strftime("%Y-%m-%d"),
        "rows": [],
    }
    path = args.out / "bench.json"

    checked: list[dict[str, Any]] = []

    def keep() -> None:
        path.write_text(json.dumps(report, indent=1))

    report["ceilings"] = ceilings()
    keep()
    print(json.dumps(report["ceilings"]), flush=True)

    def row(shape: Shape, engine: str, precision: str, cells: int, work: Callable[[], dict[str, Any]]) -> None:
        """`work` gives times and the number of weights of the layer; a failure is a row that says so."""
        if args.limit - (time.monotonic() - began) < 15:
            return
        entry: dict[str, Any] = {"model": shape.preset, "engine": engine, "precision": precision}
        try:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            entry |= work()
            seconds = entry["median_ms"] / 1000
            flops = 6 * entry["layer_weights"] * shape.T * shape.B
            entry["characters_per_second"] = shape.T * shape.B / seconds
            entry["us_a_dependent_step"] = seconds * 1e6 / (2 * cells * shape.T)
            entry["tflops"] = flops / seconds / 1e12
            entry["share_of_bf16_ceiling"] = entry["tflops"] / report["ceilings"]["bf16_tflops"]
            entry["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
            told = f"{entry['characters_per_second'] / 1e6:7.3f} M chars/s {entry['us_a_dependent_step']:8.2f} us/step"
            told += f" {entry['tflops']:6.1f} TFLOP/s {entry['peak_gb']:5.1f} GB"
            print(f"{shape.preset:24} {engine:26} {precision} {told}", flush=True)
        except Exception as error:  # one engine's failure must not cost the others' figures
            entry["error"] = f"{type(error).__name__}: {error}"[:600]
            print(f"{shape.preset:24} {engine:26} {precision}  {entry['error'][:150]}", flush=True)
        report["rows"].append(entry)
        keep()

    def triton(shape: Shape, precision: str, changes: dict[str, Any]) -> Callable[[], dict[str, Any]]:
        def work() -> dict[str, Any]:
            if changes not in checked:
                check_twin_first(**changes)
                checked.append(changes)
            with options.using(**changes):
                updater = GraphedUpdater(shape.lm("triton"), shape.config(precision))
                run = update_of(updater, shape)
                started = time.monotonic()
                for _ in range(4):  # three to warm up, one that records
                    run()
                torch.cuda.synchronize()
                prepared = time.monotonic() - started
                times = milliseconds(run, warmup=10, repeats=200, budget=8)
                if not changes and precision == "bf16":
                    report.setdefault("kernels", {})[shape.preset] = kernels_of(run)
            weights = sum(p.numel() for p in updater.lm.layer.parameters())
            return {**times, "layer_weights": weights, "seconds_to_compile_and_record": prepared}

        return work

    def loop(shape: Shape, precision: str, graphed: bool, compiled: bool) -> Callable[[], dict[str, Any]]:
        def work() -> dict[str, Any]:
            make = GraphedUpdater if graphed else Updater
            updater = make(shape.lm("reference"), shape.config(precision))
            run = update_of(updater, shape)
            with compiled_cell() if compiled else options.using():
                times = milliseconds(run, warmup=5 if graphed else 2, repeats=30 if graphed else 5, budget=8)
            return {**times, "layer_weights": sum(p.numel() for p in updater.lm.layer.parameters())}

        return work

    def cudnn(shape: Shape) -> Callable[[], dict[str, Any]]:
        def work() -> dict[str, Any]:
            run, count = cudnn_update(shape, sum(p.numel() for p in shape.lm("reference").layer.parameters()))
            return {**milliseconds(run, warmup=10, repeats=100, budget=6), "layer_weights": count}

        return work

    first = SHAPES[0]
    for shape in SHAPES:
        cells = 3 if shape.preset.endswith("-2") else 5
        for name, changes in SETTINGS.items():
            if shape is first or "units_per_thread" not in changes:
                row(shape, name, "bf16", cells, triton(shape, "bf16", changes))
        row(shape, "nn.LSTM (cuDNN)", "bf16", 1, cudnn(shape))
        row(shape, "loop", "bf16", cells, loop(shape, "bf16", False, False))
    row(first, "triton", "fp32", 3, triton(first, "fp32", {}))
    row(first, "loop, recorded", "bf16", 3, loop(first, "bf16", True, False))
    row(first, "loop, compiled cell", "bf16", 3, loop(first, "bf16", False, True))
    report["seconds"] = time.monotonic() - began
    keep()
    return 1 if any("error" in entry for entry in report["rows"] if entry["engine"] == "triton") else 0


# ---------------------------------------------------------------------------------------------------- train


def run_train(args: argparse.Namespace) -> int:
    from fastslow.backends.triton import options
    from fastslow.errors import FastslowError
    from fastslow.training import DataSource, find_preset, train
    from fastslow.training.events import Event, Notice, Saved, Started, Tested, Updated, Validated

    preset = find_preset(args.preset)
    # The test, and the copies, have to fit in too.
    changes: dict[str, Any] = {
        "precision": "bf16",
        "valid_streams": 128,
        "tensorboard": False,
        "max_time": max(10.0, args.limit - 40),
    }
    for change in args.set:
        name, _, value = change.partition("=")
        changes[name] = json.loads(value)
    config = dataclasses.replace(preset.train, **changes)
    text = {part: str(args.data / f"{part}.txt") for part in ("train", "valid", "test")}
    source = DataSource(texts=(text["train"],), valid=text["valid"], test=text["test"], alphabet="text")
    run = args.work / args.preset
    told = {"at": time.monotonic(), "update": 0}

    def show(event: Event) -> None:
        if isinstance(event, Updated):
            if time.monotonic() - told["at"] < 10:
                return
            told["at"] = time.monotonic()
            left = "" if event.seconds_left is None else f", {event.seconds_left / 60:.1f} minutes left"
            print(
                f"update {event.update:,} of {event.total_updates:,}, epoch {event.epoch:.2f}: {event.bpc:.4f} BPC, "
                f"{event.characters_per_second / 1e6:.3f} M chars/s{left}",
                flush=True,
            )
        elif isinstance(event, Validated):
            print(f"epoch {event.epoch:.0f}: valid {event.bpc:.4f} BPC, best {event.best_bpc:.4f}", flush=True)
        elif isinstance(event, Started | Saved | Tested | Notice) and not isinstance(event, Saved):
            print(event, flush=True)

    chosen = {"overlap": args.overlap, "dependent_launch": args.dependent_launch}
    try:
        with options.using(**chosen):
            result = train(
                preset.model, config, source, run, device=args.device, resume="auto", progress=show,
                command=" ".join(sys.argv),
            )  # fmt: skip
        print(json.dumps(result.to_json()), flush=True)
        code = 0
    except FastslowError as error:
        print(f"error: {error}", flush=True)
        code = 2
    copy_run(run, args.out / "train", args.part_mb)
    return code


def copy_run(run: Path, out: Path, part_mb: float) -> None:
    """The run's small files and its best weights, without its checkpoint; large files in parts."""
    if not run.is_dir():
        return
    out.mkdir(parents=True, exist_ok=True)
    limit = int(part_mb * 2**20)
    for file in sorted(run.iterdir()):
        if not file.is_file() or file.name.startswith(("checkpoint", ".")) or file.suffix in (".tmp", ".lock"):
            continue
        for old in out.glob(f"{file.name}*"):
            old.unlink()
        if file.stat().st_size <= limit:
            shutil.copyfile(file, out / file.name)
            continue
        with file.open("rb") as source:
            for n, block in enumerate(iter(lambda: source.read(limit), b"")):
                (out / f"{file.name}.part{n}").write_bytes(block)
    print(f"copied to {out}: {', '.join(p.name for p in sorted(out.iterdir()))}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
