#!/usr/bin/env python3
"""Bits per character of Penn Treebank after 6, 30, 60 and 300 minutes of one core: what training time buys.

    python -m experiments.speed                         all four, seven hours of one core
    python -m experiments.speed --minutes 6 30 --jobs 2
    ... --data DIR --recipe 6 --dry-run --record        DIR contains train.txt, valid.txt and test.txt

Each run has one thread, the recipe chosen for its minutes, and a learning rate that falls to zero as they end. The
recipes are for a core with a tile unit (AMX). A core without one makes a quarter of the training steps in the same
time: --recipe names the minutes whose recipe to use in every run, such as 6 for half an hour of such a core. Complete
runs are not repeated, and a stopped one is resumed. Files in OUT (runs/speed):

    <minutes>/     the runs       logs/       their output, if they ran in parallel       table.md    the results

--record writes a record of each run to experiments/records/, from which `python -m experiments.report build` builds
RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.jobs import ONE_THREAD, Job, Texts, exit_status, rounds, run_jobs, the_texts, training
from experiments.report.records import Record, record_of_runs, write_record
from fastslow.storage import read_json, write_bytes
from fastslow.training import find_preset

RECIPES: dict[int, tuple[str, dict[str, Any]]] = {
    6: ("ptb-cpu", {"dropout": 0.0, "beta1": 0.0}),
    30: ("ptb-cpu", {}),
    60: ("ptb-cpu", {"hidden_size": 400, "slow_size": 256, "batch": 64, "dropout": 0.15}),
    300: ("ptb-fs-lstm-2-cpu", {}),
}
"""Minutes -> the preset and what is changed in it. The more epochs there is time for, the larger and the more
regularised the network."""
WHOLE = {"ptb-cpu": 35.0, "ptb-fs-lstm-2-cpu": 150.0}
"""Minutes of one core with a tile unit for all training steps of a preset: shorter runs have a shorter warm-up."""
CHANGES: dict[str, Any] = {}
"""Fields that differ in every run; only used in tests."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--out", type=Path, default=Path("runs/speed"), help="output folder")
    parser.add_argument("--minutes", type=int, nargs="+", default=list(RECIPES), choices=list(RECIPES), metavar="N")
    parser.add_argument("--recipe", type=int, choices=list(RECIPES), metavar="N", help="use the recipe for N minutes")
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel trainings")
    parser.add_argument("--record", action="store_true", help="write records of the runs")
    parser.add_argument("--dry-run", action="store_true", help="print the estimated cost and exit")
    options = parser.parse_args(arguments)
    return exit_status("speed", lambda: run(options))


def run(options: argparse.Namespace) -> None:
    texts, out = the_texts(options.data), options.out
    trainings = [the_training(minutes, options, texts) for minutes in options.minutes]
    left = [minutes for minutes, job in zip(options.minutes, trainings, strict=True) if not job.done()]
    hours = rounds(len(left), options.jobs) * (max(left, default=0) + 3) / 60
    print(f"{len(left)} of {len(trainings)} runs left, at most {hours:.1f} hours of this machine", flush=True)
    if options.dry_run:
        return
    os.environ.update(ONE_THREAD)
    run_jobs(trainings, options.jobs, out / "logs")
    records = [record_of(minutes, options) for minutes in options.minutes]
    steps = [read_json(out / str(n) / "result.json", what="the result")["updates"] for n in options.minutes]
    write_bytes(out / "table.md", table(records, steps).encode())
    print("\n" + table(records, steps))
    if options.record:
        for record in records:
            print(write_record(Path("experiments/records"), record))


def the_training(minutes: int, options: argparse.Namespace, texts: Texts) -> Job:
    preset, changes = RECIPES[options.recipe or minutes]
    given, part = find_preset(preset).train, min(1.0, minutes / WHOLE[preset])
    by_time = {
        "max_time": minutes * 60,
        "anneal_by_time": True,
        "warmup": max(1, round(given.warmup * part)),
        "validate_every": max(50, round(given.validate_every * part)),
    }
    return training(options.out / str(minutes), preset, texts, **{**changes, **by_time, **CHANGES})


def record_of(minutes: int, options: argparse.Namespace) -> Record:
    recipe = f"the recipe for {options.recipe} minutes" if options.recipe else ""
    return record_of_runs(f"ptb-speed-{minutes}", [options.out / str(minutes)], command=command(options), note=recipe)


def command(options: argparse.Namespace) -> str:
    return "python -m experiments.speed" + (f" --recipe {options.recipe}" if options.recipe else "")


def table(records: Sequence[Record], steps: Sequence[int]) -> str:
    lines = ["| network | parameters | training steps | raw protocol | char protocol |", "|---" * 5 + "|"]
    for record, count in zip(records, steps, strict=True):
        cells = [record.model, f"{record.parameters:,}", f"{count:,}"]
        cells += ["" if record.mean(p) is None else f"{record.mean(p):.4f}" for p in ("raw", "char")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
