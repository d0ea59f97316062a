#!/usr/bin/env python3
"""Tiny Shakespeare on two cores: bits per character of its last tenth after minutes of training.

    python -m experiments.shakespeare --text tinyshakespeare.txt                       after 3, 15 and 60 minutes
    python -m experiments.shakespeare --text tinyshakespeare.txt --minutes 3 --record --dry-run

The text is the million characters of Shakespeare that nanoGPT trains on. As there, the first 90% is training text and
the last 10% validation text. The network of the validation with the lowest loss counts, which is how nanoGPT's figures
are measured, too: 2.71 bits for its CPU recipe (3 minutes of a laptop), 2.12 for its recipe for one A100 (3 minutes;
10.65M weights). The last tenth is scored twice: as one stream, and in windows of 256 symbols that each start without
context, which is how nanoGPT's figure of 2.12 is measured. Only the second can be compared with it. Complete runs are
not repeated, and a stopped one is resumed. Files in OUT (runs/shakespeare):

    <minutes>/     the runs              train.txt, valid.txt    the text in two parts
    scores/        those in windows      table.md                the results

--record writes a record of each run to experiments/records/, from which `python -m experiments.report build` builds
RESULTS.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from experiments.jobs import Job, Texts, complete, exit_status, run_jobs, training
from experiments.report.records import Record, record_of_runs, write_record
from fastslow.errors import os_reason
from fastslow.lm.files import make_folder
from fastslow.storage import StorageError, read_json, write_bytes

PRESET = "ptb-cpu"
WINDOW = 256
"""Symbols of a window: those of nanoGPT's recipe for a GPU."""
RECIPES: dict[int, dict[str, Any]] = {
    3: {"hidden_size": 160, "slow_size": 96, "dropout": 0.0, "average": 0.99, "rate": 6e-3, "warmup": 60},
    15: {"hidden_size": 256, "slow_size": 160, "dropout": 0.15, "average": 0.995, "warmup": 150},
    60: {"hidden_size": 384, "slow_size": 224, "dropout": 0.3, "zoneout_c": 0.1, "zoneout_h": 0.05, "warmup": 300},
}
"""Minutes -> what is changed in the preset. A longer training sees the text more often: its network can be larger, and
needs more regularisation."""
CHANGES: dict[str, Any] = {}
"""Fields that differ in every run; only used in tests."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare.txt")
    parser.add_argument("--out", type=Path, default=Path("runs/shakespeare"), help="output folder")
    parser.add_argument("--minutes", type=int, nargs="+", default=list(RECIPES), choices=list(RECIPES), metavar="N")
    parser.add_argument("--record", action="store_true", help="write records of the runs")
    parser.add_argument("--dry-run", action="store_true", help="print the cost and exit")
    options = parser.parse_args(arguments)
    left = [minutes for minutes in options.minutes if not complete(options.out / str(minutes))]
    print(f"{len(left)} of {len(options.minutes)} runs left, {sum(left)} minutes of this machine", flush=True)
    if options.dry_run:
        return 0
    return exit_status("shakespeare", lambda: run(options))


def run(options: argparse.Namespace) -> None:
    out, texts = options.out, parts(options.text, options.out)
    run_jobs([the_training(minutes, out, texts) for minutes in options.minutes], 1, out / "logs")
    run_jobs([in_windows(minutes, out, texts) for minutes in options.minutes], 1, out / "logs")
    records = []
    lines = ["| minutes | parameters | training steps | one stream | windows of 256 |", "|---" * 5 + "|"]
    for minutes in options.minutes:
        stream, windows = records_of(minutes, out)
        records += [stream, windows]
        steps = read_json(out / str(minutes) / "result.json", what="the result")["updates"]
        figures = " | ".join(f"{record.mean('bytes'):.4f}" for record in (stream, windows))
        lines.append(f"| {minutes} | {stream.parameters:,} | {steps:,} | {figures} |")
    table = "\n".join([*lines, ""])
    write_bytes(out / "table.md", table.encode())
    print("\n" + table)
    if options.record:
        for record in records:
            print(write_record(Path("experiments/records"), record))


def parts(text: Path, out: Path) -> Texts:
    """The first 90% and the last 10% of the text, in two files; the latter is validation and test text."""
    try:
        data = text.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {text}: {os_reason(error)}") from error
    make_folder(out)
    cut = len(data) * 9 // 10
    for name, part in (("train.txt", data[:cut]), ("valid.txt", data[cut:])):
        if not (out / name).is_file() or (out / name).read_bytes() != part:
            write_bytes(out / name, part)
    return Texts(out / "train.txt", out / "valid.txt", out / "valid.txt")


def the_training(minutes: int, out: Path, texts: Texts) -> Any:
    by_time = {"max_time": minutes * 60, "anneal_by_time": True, "validate_every": 0}
    return training(out / str(minutes), PRESET, texts, **{**RECIPES[minutes], **by_time, **CHANGES})


def in_windows(minutes: int, out: Path, texts: Texts) -> Job:
    streams = max(1, (texts.test.stat().st_size - 1) // WINDOW)
    run, score = out / str(minutes), out / "scores" / f"{minutes}-windows.json"
    arguments = ("evaluate", str(run), str(texts.test), "--streams", str(streams), "--device", "cpu", "--json")
    return Job(f"{minutes}-windows", arguments, out=score, of=(run,))


def records_of(minutes: int, out: Path) -> tuple[Record, Record]:
    """The records of one stream and of windows."""
    run, score = out / str(minutes), out / "scores" / f"{minutes}-windows.json"
    row = f"shakespeare-{minutes}"
    return record_of_runs(row, [run]), record_of_runs(f"{row}-windows", [run], evaluation=score)


if __name__ == "__main__":
    sys.exit(main())
