#!/usr/bin/env python3
"""The study of the dynamics on a CPU: three networks, several seeds, the same seconds of training for each.

    python runs/study.py --data DIR                 DIR holds train.txt, valid.txt and test.txt
    python runs/study.py                            Penn Treebank, fetched before (`fastslow data fetch ptb`)
    python runs/study.py --minutes 10 --seeds 1 2 3 --dry-run

It says first what it will cost. Runs that are complete are not made again and one that was stopped goes on, so it can
be stopped (Ctrl-C) and called again. In OUT:

    <preset>-<seed>/   the runs
    dynamics/          figures 3 to 5 with their data, and dynamics.html
    study.md           a table with means and deviations
    study.json         the same in numbers

With --record, also a record of each network in results/, from which `python -m fastslow.results build` makes
RESULTS.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastslow.cli.app import main as fastslow
from fastslow.cli.progress import TrainingView
from fastslow.data.corpora import load_corpus
from fastslow.errors import FastslowError
from fastslow.lm.store import read_json, write_atomic, write_json
from fastslow.results.records import Record, record_of_runs, write_record
from fastslow.training import DataSource, TrainConfig, find_preset, train

PRESETS = ("study-small-fs-lstm-4", "study-small-stacked-lstm-5", "study-small-sequential-lstm-5")
DYNAMICS_SECONDS = 30.0
"""Of each model: 11 seconds of one core, with the options' defaults, and room."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder for everything")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, for each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--record", type=Path, nargs="?", const=Path("results"), help="write records to this folder")
    parser.add_argument("--dry-run", action="store_true", help="say what it costs and stop")
    options = parser.parse_args(arguments)
    try:
        return study(options)
    except FastslowError as error:
        print(f"study: error: {error}", file=sys.stderr)
        return 2


def study(options: argparse.Namespace) -> int:
    source, test = the_text(options.data)
    # Seed after seed, so that a busy hour of the machine meets all networks.
    plan = [(preset, seed, options.out / f"{preset}-{seed}") for seed in options.seeds for preset in PRESETS]
    left = [run for run in plan if not complete(run[2])]
    hours = (len(left) * (options.minutes * 60 + 20) + len(plan) * DYNAMICS_SECONDS) / 3600
    print(
        f"{len(plan)} runs of {options.minutes:g} minutes, {len(plan) - len(left)} of them complete; about {hours:.1f} "
        f"hours of this machine with the figures, and {len(plan) * 6} MB in {options.out}",
        flush=True,
    )
    if options.dry_run:
        return 0
    for preset, seed, folder in left:
        print(f"\n{folder}", flush=True)
        with TrainingView() as view:
            result = train(
                find_preset(preset).model,
                recipe(preset, seed, options.minutes),
                source,
                folder,
                device="cpu",
                resume="auto",
                progress=view,
                command="python runs/study.py",
            )
        if result.status != "completed":
            print(f"stopped after update {result.updates:,} of {folder}; call this again to go on")
            return 130
    dynamics = options.out / "dynamics"
    if not (dynamics / "dynamics.html").is_file() or left:
        status = fastslow(["dynamics", *(str(folder) for _, _, folder in plan), str(test), "--out", str(dynamics)])
        if status:
            return status
    report(options, plan)
    return 0


def the_text(folder: Path | None) -> tuple[DataSource, Path]:
    """The source of a run's text, and the file of its test part."""
    if folder is None:
        part = load_corpus("ptb").splits.test
        assert part is not None
        return DataSource(corpus="ptb", alphabet="text"), part.paths[0]
    train_file, valid, test = (folder / f"{part}.txt" for part in ("train", "valid", "test"))
    return DataSource(texts=(str(train_file),), valid=str(valid), test=str(test), alphabet="text"), test


def recipe(preset: str, seed: int, minutes: float) -> TrainConfig:
    """The preset's, for these minutes; short ones are validated more often."""
    given = find_preset(preset).train
    return replace(given, seed=seed, max_time=minutes * 60, validate_every=given.validate_every if minutes >= 2 else 0)


def complete(folder: Path) -> bool:
    path = folder / "result.json"
    return path.is_file() and read_json(path, what="the result").get("status") == "completed"


def report(options: argparse.Namespace, plan: list[tuple[str, int, Path]]) -> None:
    """Print and write the table, and the records if they are wanted."""
    records = [record_of_runs(preset, [f for p, _, f in plan if p == preset], note=note(options)) for preset in PRESETS]
    speeds = {preset: updates([f for p, _, f in plan if p == preset]) for preset in PRESETS}
    lines = [
        f"# {len(options.seeds)} seeds, {options.minutes:g} minutes of training each",
        "",
        f"Made by `python runs/study.py` on {records[0].machine}, {time.strftime('%Y-%m-%d')}. Test bits per "
        "character, mean ± the sample's standard deviation.",
        "",
        "| network | parameters | updates | raw protocol | char protocol | each seed, raw |",
        "|---|---|---|---|---|---|",
        *(line(record, speeds[record.row]) for record in records),
        "",
    ]
    text = "\n".join(lines)
    write_atomic(options.out / "study.md", lambda file: write(file, text))
    write_json(options.out / "study.json", {"minutes": options.minutes, "records": [r.to_json() for r in records]})
    print("\n" + text)
    if options.record is not None:
        for record in records:
            print(write_record(options.record, record))


def write(file: Any, text: str) -> None:
    file.write(text.encode())


def note(options: argparse.Namespace) -> str:
    return f"{options.minutes:g} minutes of training a seed"


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
