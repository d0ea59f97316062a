#!/usr/bin/env python3
"""Penn Treebank at the paper's sizes on two CPU cores, by our recipe: training (hours), evaluation, weights.

    python -m experiments.ptb --jobs 2 --nice 19        all incomplete steps, two trainings in parallel
    python -m experiments.ptb --data DIR                DIR contains train.txt, valid.txt and test.txt
    ... --only NAME... --dry-run --record --package

The script can be interrupted (Ctrl-C) and restarted: trainings resume from their checkpoints, and complete steps are
not repeated. The runs are the presets `ptb-fs-lstm-2-cpu` and `ptb-fs-lstm-4-cpu`, then a second seed of the first and
the stacked LSTM of equal size. The test text is scored as one stream: with fixed weights, with dynamic evaluation tuned
on validation text, and as an ensemble of FS-LSTM-2 and FS-LSTM-4, in both ways. Files in OUT (runs/ptb):

    <run>/      the runs            logs/       their output, if they ran in parallel
    scores/     the evaluations     table.md    the results

--record writes a record of each complete row to experiments/records/, from which `python -m experiments.report build`
builds RESULTS.md. --package writes the two FS-LSTMs with 8 bits per weight to weights/, where `fastslow` finds them by
name.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.jobs import Job, JobsError, Stopped, Texts, complete, run_jobs, the_texts, training
from experiments.report.records import Record, record_of_runs, write_record
from fastslow.codec.package import make
from fastslow.errors import FastslowError
from fastslow.lm import CharLM
from fastslow.storage import write_bytes

RUNS: dict[str, tuple[str, int]] = {
    "ptb-fs-lstm-2-cpu": ("ptb-fs-lstm-2-cpu", 1),
    "ptb-fs-lstm-4-cpu": ("ptb-fs-lstm-4-cpu", 1),
    "ptb-stacked-lstm-2-cpu": ("ptb-stacked-lstm-2-cpu", 1),
    "ptb-fs-lstm-2-cpu-seed-2": ("ptb-fs-lstm-2-cpu", 2),
}
"""Folder of each run -> its preset and seed, in the order of training."""
PAIR = ("ptb-fs-lstm-2-cpu", "ptb-fs-lstm-4-cpu")
PACKAGED = {"ptb-fs-lstm-2-cpu": "ptb-fs-lstm-2", "ptb-fs-lstm-4-cpu": "ptb-fs-lstm-4"}
"""Runs whose weights are packaged -> their names."""
CHANGES: dict[str, Any] = {}
"""Fields that differ from the presets in every run; only used in tests."""


@dataclass(frozen=True)
class Scored:
    """A row of the table: the runs that are scored together, and how."""

    row: str
    runs: tuple[str, ...]
    dynamic: bool = False

    def job(self, out: Path, texts: Texts) -> Job:
        folders = tuple(out / run for run in self.runs)
        more = ("--dynamic",) if self.dynamic else ()
        arguments = ("evaluate", *map(str, folders), str(texts.test), "--device", "cpu", "--json", *more)
        return Job(f"{self.row}-score", arguments, out=out / "scores" / f"{self.row}.json", of=folders)


ROWS = (
    *(Scored(run, (run,)) for run in ("ptb-fs-lstm-2-cpu", "ptb-fs-lstm-4-cpu", "ptb-stacked-lstm-2-cpu")),
    Scored("ptb-fs-lstm-2-cpu-dynamic", PAIR[:1], dynamic=True),
    Scored("ptb-fs-lstm-4-cpu-dynamic", PAIR[1:], dynamic=True),
    Scored("ptb-pair-cpu", PAIR),
    Scored("ptb-pair-cpu-dynamic", PAIR, dynamic=True),
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--out", type=Path, default=Path("runs/ptb"), help="output folder")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), metavar="NAME", help="train and score these runs only")
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel commands, with one thread each")
    parser.add_argument("--nice", type=int, default=0, help="niceness of all commands")
    parser.add_argument("--record", action="store_true", help="write records of the complete rows")
    parser.add_argument("--package", action="store_true", help="write the weights of the complete runs to weights/")
    parser.add_argument("--dry-run", action="store_true", help="list the remaining steps and exit")
    options = parser.parse_args(arguments)
    try:
        os.nice(options.nice)
        run(options)
    except Stopped:
        print("stopped; run the same command again to resume")
        return 130
    except FastslowError as error:
        print(f"ptb: error: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    texts, out = the_texts(options.data), options.out
    chosen = options.only or list(RUNS)
    trainings = [training(out / name, RUNS[name][0], texts, seed=RUNS[name][1], **CHANGES) for name in chosen]
    rows = [row for row in ROWS if set(row.runs) <= set(chosen)]
    if options.dry_run:
        for job in (*trainings, *(row.job(out, texts) for row in rows)):
            print(f"{'done' if job.done() else 'to do'}: {job.name}")
        return
    run_jobs(trainings, options.jobs, out / "logs")
    run_jobs([row.job(out, texts) for row in rows], options.jobs, out / "logs")
    records = [record_of(row, out) for row in rows]
    text = "\n".join(["| row | parameters | raw protocol | char protocol |", "|---" * 4 + "|", *map(line, records), ""])
    write_bytes(out / "table.md", text.encode())
    print("\n" + text)
    if options.record:
        for record in records:
            print(write_record(Path("experiments/records"), record))
    if options.package:
        for name, called in PACKAGED.items():
            if name in chosen:
                package(out / name, Path("weights") / called)


def record_of(row: Scored, out: Path) -> Record:
    score = out / "scores" / f"{row.row}.json"
    return record_of_runs(row.row, [out / name for name in row.runs], evaluation=score, command=command())


def command() -> str:
    return "python -m experiments.ptb --jobs 2 --nice 19"


def line(record: Record) -> str:
    cells = [record.row, f"{record.parameters:,}"]
    cells += ["" if record.mean(p) is None else f"{record.mean(p):.4f}" for p in ("raw", "char")]
    return "| " + " | ".join(cells) + " |"


def package(run: Path, folder: Path) -> None:
    """Write the run's weights in 8 bits each. Raises JobsError for an incomplete run."""
    if not complete(run):
        raise JobsError(f"{run} is not complete: resume it before packaging")
    made = make(CharLM.from_pretrained(run, device="cpu"), folder, 8)
    print(f"{folder}: {made.parameters:,} weights, {made.size:,} bytes, archive id {made.id.hex()} for its card")


if __name__ == "__main__":
    sys.exit(main())
