#!/usr/bin/env python3
"""All steps that need a GPU, for machines with limited time per call: each call ends in time and can be resumed.

    python experiments/gpu.py --out OUT                                            the tests, then the benchmark
    python experiments/gpu.py --out OUT --stages train --data DIR                  train ptb-fs-lstm-2
    python experiments/gpu.py --out OUT --stages train --data DIR --carried carried    resume it, on another machine

Stages, each in its own process with a time limit, so that time is left for the others:

    tests   the tests marked gpu, failures logged as they occur                              -> tests.log
    bench   `fastslow.bench.run.run_bench` on the GPU; it stores every row when it is measured      -> bench.json
    train   a preset on DIR/{train,valid,test}.txt (or .txt.xz). The run is in WORK, on a local disk. It is copied to
            OUT as a few small files (see carried.py), periodically and at the end      -> carried.json, carried.0 ...

To resume if WORK is lost, put carried.* of the last call into a folder and pass it with --carried; git ignores
/carried/. The later of the two runs is resumed, the one in WORK or the one in --carried. A complete run leaves its
weights and its
result: `python experiments/carried.py OUT RUN` restores a run folder from them.

OUT never has more than 8 files, of 16 MiB at most, and 64 MiB in all. It needs torch, triton, numpy, safetensors,
rich and, for the tests, pytest; fastslow does not need to be installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import lzma
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("tests", "bench", "train")
PARTS = ("train", "valid", "test")
GRACE, LEAST = 15.0, 20.0
"""Seconds for a stage to end after it is interrupted, and the minimum time to start one."""
SHARE = 0.55
"""The fraction of the remaining time for a stage that is not the last."""
RESERVE = 35.0
"""Seconds of the training stage reserved for its last checkpoint, the test, and the files in OUT."""
PACK_SECONDS = 120.0
VALIDATED_EPOCHS = 5
MOST_FILES, FILE_BYTES, ALL_BYTES = 8, 16 << 20, 64 << 20
MOST_FAILURES = 8
"""The number of test failures after which to stop: after an error on the device, all later results are invalid."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--work", type=Path, default=Path("/tmp/fastslow-gpu"), help="folder on a local disk")
    parser.add_argument("--data", type=Path, help="folder with train.txt, valid.txt and test.txt, or each as .txt.xz")
    parser.add_argument("--carried", type=Path, help="folder with the carried.* files of an earlier call")
    parser.add_argument("--limit", type=float, default=570.0, help="seconds for everything (default: 570)")
    parser.add_argument("--stages", default="tests,bench", help=f"stages to run: {','.join(STAGES)}")
    parser.add_argument("--preset", default="ptb-fs-lstm-2", help="preset to train")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON", help="a field of the recipe")
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON", help="options of the triton engine")
    parser.add_argument("--device", default="cuda", help="training device; use cpu for a trial run of the stage")
    parser.add_argument("--only", choices=("bench", "train"), help=argparse.SUPPRESS)  # a stage's own process
    args = parser.parse_args(arguments)
    asked = set(args.stages.split(","))
    if asked - set(STAGES):
        parser.error(f"unknown stages {', '.join(sorted(asked - set(STAGES)))}: use {', '.join(STAGES)}")
    if "train" in asked and (args.data is None or not all(_text(args.data, part) for part in PARTS)):
        parser.error("stage train needs a folder with train.txt, valid.txt and test.txt: --data DIR")
    if args.carried is not None and not args.carried.is_dir():
        parser.error(f"there is no folder {args.carried}")
    for folder in (args.out, args.work):
        folder.mkdir(parents=True, exist_ok=True)
    if args.only is not None:
        sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
        return {"bench": run_bench, "train": run_train}[args.only](args)
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_stages(args, [stage for stage in STAGES if stage in asked], given)


# ---------------------------------------------------------------------------------------------------- stages


def run_stages(args: argparse.Namespace, stages: Sequence[str], given: Sequence[str]) -> int:
    """Run the stages one after another; returns 1 if one failed or was skipped."""
    began = time.monotonic()
    failed = False
    for n, stage in enumerate(stages):
        left = args.limit - (time.monotonic() - began)
        share = left if n == len(stages) - 1 else left * SHARE
        if share < LEAST:
            print(f"[{stage}] skipped: {left:.0f} s left", flush=True)
            failed = True
            continue
        print(f"[{stage}] at most {share:.0f} s", flush=True)
        seconds = share - GRACE
        if stage == "tests":
            code = run_tests(args.out / "tests.log", seconds)
        else:
            command = [sys.executable, str(Path(__file__).resolve()), *given, "--only", stage, f"--limit={seconds:.0f}"]
            code = run_for(command, seconds, os.environ)
        print(f"[{stage}] {'done' if code == 0 else f'exited with status {code}'}", flush=True)
        failed |= code != 0
    wrong = check_out(args.out)
    print(f"{time.monotonic() - began:.0f} s; in {args.out}: {', '.join(sorted(p.name for p in args.out.iterdir()))}")
    for line in wrong:
        print(f"error: {line}")
    return 1 if failed or wrong else 0


def run_for(command: Sequence[str], seconds: float, environment: Mapping[str, str], output: Any = None) -> int:
    """Run a command, interrupt it after this many seconds, and kill it if it does not end; returns its exit status.

    On an interrupt pytest reports its results so far, a benchmark ends between two rows, and a training saves.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, env=dict(environment), stdout=output, stderr=None if output is None else subprocess.STDOUT
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE * 0.8)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return 124


def run_tests(log: Path, seconds: float, tests: Sequence[Path] | None = None, marker: str = "gpu") -> int:
    """Run all GPU tests, including those outside tests/gpu; output is written to `log` line by line."""
    files = gpu_tests(ROOT / "tests") if tests is None else tests
    command = [sys.executable, "-m", "pytest", "-m", marker, "-v", "--tb=short", f"--maxfail={MOST_FAILURES}"]
    command += ["-p", "tests.gpu.at_once", "-p", "no:cacheprovider", "-W", "default", "--durations=8"]
    if importlib.util.find_spec("pytest_timeout") is not None:
        command.append("--timeout=120")
    if importlib.util.find_spec("xdist") is not None:  # compiling takes most of their time
        command += ["-n", str(min(12, os.cpu_count() or 1))]
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    with log.open("w") as file:
        code = run_for([*command, *map(str, files)], seconds, environment, file)
    print("\n".join(log.read_text().splitlines()[-25:]), flush=True)
    return code


def gpu_tests(tests: Path) -> list[Path]:
    return sorted(path for path in tests.rglob("test_*.py") if "pytest.mark.gpu" in path.read_text())


def check_out(out: Path) -> list[str]:
    """The reasons why files of the folder exceed the limits."""
    files = [path for path in out.rglob("*") if path.is_file()]
    sizes = {path.name: path.stat().st_size for path in files}
    large = {name: size / 2**20 for name, size in sizes.items() if size > FILE_BYTES}
    wrong = [f"{name} has {size:.1f} MiB; at most 16 are allowed" for name, size in large.items()]
    if len(files) > MOST_FILES:
        wrong.append(f"{len(files)} files are more than {MOST_FILES}: {', '.join(sorted(sizes))}")
    if sum(sizes.values()) > ALL_BYTES:
        wrong.append(f"{sum(sizes.values()) / 2**20:.1f} MiB in all are more than 64")
    return wrong


# ---------------------------------------------------------------------------------------------------- bench


def run_bench(args: argparse.Namespace) -> int:
    from fastslow.bench.run import run_bench as measured

    results = measured(device="cuda", json=args.out / "bench.json", limit=args.limit)
    rows = {(row["engine"], row["precision"]): row for row in reversed(results["gpu"]["updates"])}
    return 1 if "refused" in rows.get(("triton", "bf16"), {"refused": "missing"}) else 0


# ---------------------------------------------------------------------------------------------------- train


def _text(folder: Path, part: str) -> Path | None:
    """The file of a part of the text, or None."""
    for name in (f"{part}.txt", f"{part}.txt.xz"):
        if (folder / name).is_file():
            return folder / name
    return None


def texts(folder: Path, work: Path) -> dict[str, str]:
    """Paths of the parts of the text, uncompressed; compressed ones are unpacked in `work`."""
    found = {}
    for part in PARTS:
        path = _text(folder, part)
        assert path is not None
        if path.suffix == ".xz":
            plain = work / f"{part}.txt"
            plain.write_bytes(lzma.decompress(path.read_bytes()))
            path = plain
        found[part] = str(path.resolve())
    return found


def recipe(args: argparse.Namespace, config: Any, source: Any, max_time: float) -> Any:
    """The preset's recipe for this machine: few validations, checkpoints by seconds, and a time limit."""
    from fastslow.data.streams import Streams

    changes: dict[str, Any] = {"precision": "bf16", "valid_streams": 128, "checkpoint_seconds": 60.0}
    changes |= {"tensorboard": False, "max_time": max_time}
    for change in args.set:
        name, _, value = change.partition("=")
        changes[name] = json.loads(value)
    config = dataclasses.replace(config, **changes)
    windows = len(Streams.training(source.open().train.data, config.batch, config.window))
    every = config.validate_every or VALIDATED_EPOCHS * windows
    return dataclasses.replace(config, validate_every=every)


def run_train(args: argparse.Namespace) -> int:
    begun = time.monotonic()
    from experiments import carried
    from fastslow.backends.triton import options
    from fastslow.errors import FastslowError
    from fastslow.training import DataSource, find_preset, train
    from fastslow.training.events import Event, Notice, Saved, Started, Tested, Updated, Validated

    preset = find_preset(args.preset)
    run = args.work / args.preset
    told = {"update": begun, "packed": time.monotonic()}

    def pack() -> None:
        try:
            packed = carried.pack(run, args.out)
        except (OSError, carried.CarriedError) as error:
            print(f"error: {error}", flush=True)
            return
        told["packed"] = time.monotonic()
        rest = "; the best weights so far do not fit" if packed.best_left_out else ""
        print(f"update {packed.update:,} is in {args.out}, {packed.size / 2**20:.1f} MiB{rest}", flush=True)

    def show(event: Event) -> None:
        if isinstance(event, Updated):
            if time.monotonic() - told["update"] < 10:
                return
            told["update"] = time.monotonic()
            left = "" if event.seconds_left is None else f", {event.seconds_left / 60:.1f} minutes left"
            print(
                f"update {event.update:,} of {event.total_updates:,}, epoch {event.epoch:.2f}: {event.bpc:.4f} BPC, "
                f"{event.characters_per_second / 1e6:.3f} M characters per second{left}",
                flush=True,
            )
        elif isinstance(event, Validated):
            print(f"epoch {event.epoch:.0f}: valid {event.bpc:.4f} BPC, best {event.best_bpc:.4f}", flush=True)
        elif isinstance(event, Saved):
            if time.monotonic() - told["packed"] >= PACK_SECONDS:
                pack()
        elif isinstance(event, Started | Tested | Notice):
            print(event, flush=True)

    try:
        if args.carried is not None and carried.packed_update(args.carried) > carried.update_of(run):
            was = carried.unpack(args.carried, run)
            print(f"restored update {was.update:,} from {args.carried}", flush=True)
            if was.complete:
                print(f"the run is complete: see {run}", flush=True)
                return 0
        text = texts(args.data, args.work)
        source = DataSource(texts=(text["train"],), valid=text["valid"], test=text["test"], alphabet=preset.alphabet)
        config = recipe(args, preset.train, source, max(5.0, args.limit - RESERVE - (time.monotonic() - begun)))
        with options.using(**args.options):
            result = train(
                preset.model, config, source, run, device=args.device, resume="auto", progress=show,
                command=" ".join(sys.argv),
            )  # fmt: skip
        print(json.dumps(result.to_json()), flush=True)
        code = 0
    except (FastslowError, carried.CarriedError) as error:
        print(f"error: {error}", flush=True)
        code = 2
    if carried.update_of(run) >= 0:
        pack()
    return code


if __name__ == "__main__":
    sys.exit(main())
