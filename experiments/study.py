#!/usr/bin/env python3
"""The study of the dynamics on a CPU: three networks, several seeds, the same training time for each.

    python -m experiments.study --data DIR                 DIR contains train.txt, valid.txt and test.txt
    python -m experiments.study                            Penn Treebank from `fastslow data fetch ptb`
    python -m experiments.study --minutes 10 --seeds 1 2 3 --dry-run
    python -m experiments.study --jobs 2                   two trainings in parallel, with one thread each

The estimated cost is printed first. Complete runs are not repeated, and a stopped run is resumed, so the script can be
interrupted (Ctrl-C) and restarted. Files in OUT:

    <preset>-<seed>/   the runs
    logs/              their output, if they ran in parallel
    dynamics/          figures 3 to 5 with their data, and dynamics.html
    study.md           a table with means and standard deviations
    study.json         the same as JSON

With --record, also writes a record of each network to experiments/records/, from which `python -m
experiments.report build` builds RESULTS.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from experiments.jobs import Job, Texts, complete, exit_status, rounds, run_jobs, the_texts, training
from experiments.report.records import Record, record_of_runs, write_record
from fastslow.cli.app import main as fastslow
from fastslow.storage import read_json, write_bytes, write_json

PRESETS = ("study-small-fs-lstm-4", "study-small-stacked-lstm-5", "study-small-sequential-lstm-5")
MINUTES, SEEDS = 10.0, (1, 2, 3)
DYNAMICS_SECONDS = 30.0
"""Seconds per model: 11 seconds of one core with the default options, plus a margin."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="output folder")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="minutes of training per run")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel trainings, with one thread each")
    parser.add_argument(
        "--record", type=Path, nargs="?", const=Path("experiments/records"), help="write records to this folder"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the estimated cost and exit")
    options = parser.parse_args(arguments)
    return exit_status("study", lambda: study(options))


def study(options: argparse.Namespace) -> int:
    texts = the_texts(options.data)
    # Ordered by seed, so that varying load on the machine affects all networks.
    plan = [(preset, seed, options.out / f"{preset}-{seed}") for seed in options.seeds for preset in PRESETS]
    left = [run for run in plan if not complete(run[2])]
    seconds = rounds(len(left), options.jobs) * (options.minutes * 60 + 20) + len(plan) * DYNAMICS_SECONDS
    print(
        f"{len(plan)} runs of {options.minutes:g} minutes, {len(plan) - len(left)} of them complete; about "
        f"{seconds / 3600:.1f} hours of this machine with the figures, and {len(plan) * 6} MB in {options.out}",
        flush=True,
    )
    if options.dry_run:
        return 0
    run_jobs(
        [the_training(preset, seed, folder, texts, options) for preset, seed, folder in left],
        options.jobs,
        options.out / "logs",
    )
    dynamics = options.out / "dynamics"
    if not (dynamics / "dynamics.html").is_file() or left:
        status = fastslow(
            ["dynamics", *(str(folder) for _, _, folder in plan), str(texts.test), "--out", str(dynamics)]
        )
        if status:
            return status
    report(options, plan)
    return 0


def the_training(preset: str, seed: int, folder: Path, texts: Texts, options: argparse.Namespace) -> Job:
    """A training with the preset's recipe and these minutes; short ones are validated at the end of each epoch."""
    changes: dict[str, Any] = {"seed": seed, "max_time": options.minutes * 60}
    if options.minutes < 2:
        changes["validate_every"] = 0
    return training(folder, preset, texts, **changes)


def report(options: argparse.Namespace, plan: list[tuple[str, int, Path]]) -> None:
    """Print and write the table, and the records if requested."""
    records = [
        record_of_runs(preset, [f for p, _, f in plan if p == preset], command=command(options), note=note(options))
        for preset in PRESETS
    ]
    speeds = {preset: updates([f for p, _, f in plan if p == preset]) for preset in PRESETS}
    lines = [
        f"# {len(options.seeds)} seeds, {options.minutes:g} minutes of training each",
        "",
        f"Made by `{command(options)}` on {records[0].machine}, {time.strftime('%Y-%m-%d')}. Test bits per "
        "character, mean ± the sample's standard deviation.",
        "",
        "| network | parameters | updates | raw protocol | char protocol | each seed, raw |",
        "|---|---|---|---|---|---|",
        *(line(record, speeds[record.row]) for record in records),
        "",
    ]
    text = "\n".join(lines)
    write_bytes(options.out / "study.md", text.encode())
    write_json(options.out / "study.json", {"minutes": options.minutes, "records": [r.to_json() for r in records]})
    print("\n" + text)
    if options.record is not None:
        for record in records:
            print(write_record(options.record, record))


def note(options: argparse.Namespace) -> str:
    how = f", {options.jobs} side by side with a thread each" if options.jobs > 1 else ""
    return f"{options.minutes:g} minutes of training a seed{how}"


def command(options: argparse.Namespace) -> str:
    """The command line, with the options that affect the results."""
    parts = ["python -m experiments.study"]
    parts += [f"--minutes {options.minutes:g}"] if options.minutes != MINUTES else []
    parts += [f"--seeds {' '.join(map(str, options.seeds))}"] if tuple(options.seeds) != SEEDS else []
    parts += [f"--jobs {options.jobs}"] if options.jobs != 1 else []
    return " ".join(parts)


def updates(folders: list[Path]) -> float:
    found = [float(read_json(folder / "result.json", what="the result")["updates"]) for folder in folders]
    return sum(found) / len(found)


def line(record: Record, updates: float) -> str:
    cells = [f"{record.model}", f"{record.parameters:,}", f"{updates:,.0f}"]
    for protocol in ("raw", "char"):
        mean, deviation = record.mean(protocol), record.deviation(protocol)
        spread = "" if deviation is None else f" ± {deviation:.4f}"
        cells.append("" if mean is None else f"{mean:.4f}{spread}")
    cells.append(", ".join(f"{score.bpc['raw']:.4f}" for score in record.scores))
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
