#!/usr/bin/env python3
"""Penn Treebank at the paper's sizes on two CPU cores, by our recipe: training (hours), evaluation, weights.

    python -m experiments.ptb --jobs 2 --nice 19        all incomplete steps, two trainings in parallel
    python -m experiments.ptb --data DIR                DIR contains train.txt, valid.txt and test.txt
    python -m experiments.ptb --packaged --jobs 2       the weights in weights/; no training (an hour or two)
    ... --only NAME... --dry-run --record --package

The script can be interrupted (Ctrl-C) and restarted: trainings resume from their checkpoints, and complete steps are
not repeated. The runs are the presets `ptb-fs-lstm-2-cpu` and `ptb-fs-lstm-4-cpu`, then a second seed of the first and
the stacked LSTM of equal size. The test text is scored as one stream: with fixed weights, with dynamic evaluation tuned
on validation text, and as an ensemble of FS-LSTM-2 and FS-LSTM-4, in both ways: the models of an ensemble run, and
adapt, independently, so their losses per symbol are all it needs. Files in OUT (runs/ptb):

    <run>/      the runs            logs/       their output, if they ran in parallel
    scores/     the evaluations     table.md    the results

With --packaged nothing is trained: the rows with dynamic evaluation are measured on the packaged weights and the
fetched corpus, in OUT/packaged.

--record writes a record of each complete row to experiments/records/, from which `python -m experiments.report build`
builds RESULTS.md. --package writes the two FS-LSTMs with 8 bits per weight to weights/, where `fastslow` finds them by
name.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from experiments.jobs import Job, JobsError, complete, exit_status, run_jobs, the_texts, training
from experiments.report.plan import find_row
from experiments.report.records import Record, Score, read_records, record_of_runs, write_record
from fastslow.bench.machine import machine
from fastslow.codec.package import make
from fastslow.data.alphabet import as_bytes_array
from fastslow.evaluation.bpc import Evaluation, averaged, char_protocol
from fastslow.evaluation.compare import load_nats
from fastslow.evaluation.dynamic import DynamicEvaluation
from fastslow.lm import CharLM
from fastslow.storage import read_json, write_bytes, write_json

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
RECORDS = Path("experiments/records")
CHANGES: dict[str, Any] = {}
"""Fields that differ from the presets in every run; only used in tests."""


@dataclass(frozen=True)
class Scored:
    """A row of the table: the runs that are scored together, and how."""

    row: str
    runs: tuple[str, ...]
    dynamic: bool = False

    @property
    def members(self) -> list[Scored]:
        """The rows of its runs, each for itself."""
        return [Scored(run + ("-dynamic" if self.dynamic else ""), (run,), self.dynamic) for run in self.runs]


ROWS = (
    *(Scored(run, (run,)) for run in ("ptb-fs-lstm-2-cpu", "ptb-fs-lstm-4-cpu", "ptb-stacked-lstm-2-cpu")),
    Scored("ptb-fs-lstm-2-cpu-dynamic", PAIR[:1], dynamic=True),
    Scored("ptb-fs-lstm-4-cpu-dynamic", PAIR[1:], dynamic=True),
    Scored("ptb-pair-cpu", PAIR),
    Scored("ptb-pair-cpu-dynamic", PAIR, dynamic=True),
)


@dataclass(frozen=True)
class Scores:
    """The evaluations in a folder, a JSON file and a NumPy file of losses per symbol each.

    text: what `fastslow evaluate` calls the test text. packaged: whether the models are the packaged ones.
    """

    folder: Path
    text: str
    packaged: bool = False

    def of(self, row: Scored) -> Path:
        return self.folder / "scores" / f"{row.row}.json"

    def nats(self, row: Scored) -> Path:
        return self.of(row).with_suffix(".npy")

    def job(self, row: Scored) -> Job:
        """The evaluation of a row with one run."""
        (run,) = row.runs
        model = PACKAGED[run] if self.packaged else str(self.folder / run)
        options = ["--device", "cpu", "--json", "--per-symbol", str(self.nats(row))]
        options += ["--dynamic"] if row.dynamic else []
        of = () if self.packaged else (self.folder / run,)
        return Job(f"{row.row}-score", ("evaluate", model, self.text, *options), out=self.of(row), of=of)

    def combine(self, row: Scored, data: bytes) -> None:
        """Average the probabilities of the row's runs on the text `data`, unless that is done."""
        made_of = max(self.of(member).stat().st_mtime_ns for member in row.members)
        if self.of(row).is_file() and self.of(row).stat().st_mtime_ns >= made_of:
            return
        kind = DynamicEvaluation if row.dynamic else Evaluation
        each = [kind.from_json(read_json(self.of(member), what="the evaluation")) for member in row.members]
        losses = [torch.from_numpy(load_nats(self.nats(member))).double() for member in row.members]
        nats = averaged(losses)
        changes: dict[str, Any] = {"nats": float(nats.sum()), "models": len(each)}
        changes["seconds"] = sum(one.seconds for one in each)
        changes["char"] = char_protocol(as_bytes_array(data), changes["nats"], float(nats[0]))
        if row.dynamic:
            changes["settings"] = tuple(how for one in each for how in one.settings)  # type: ignore[attr-defined]
        made = replace(each[0], **changes)
        write_json(self.of(row), made.to_json(), what="the evaluation")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--out", type=Path, default=Path("runs/ptb"), help="output folder")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), metavar="NAME", help="train and score these runs only")
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel commands, with one thread each")
    parser.add_argument("--nice", type=int, default=0, help="niceness of all commands")
    parser.add_argument("--packaged", action="store_true", help="score the packaged weights; train nothing")
    parser.add_argument("--record", action="store_true", help="write records of the complete rows")
    parser.add_argument("--package", action="store_true", help="write the weights of the complete runs to weights/")
    parser.add_argument("--dry-run", action="store_true", help="list the remaining steps and exit")
    options = parser.parse_args(arguments)
    os.nice(options.nice)
    return exit_status("ptb", lambda: run(options))


def run(options: argparse.Namespace) -> None:
    if options.packaged:
        if options.data or options.only or options.package:
            raise JobsError("--packaged scores all packaged weights on the fetched corpus: leave out the other options")
        texts, out = the_texts(None), options.out / "packaged"
        scores, rows, trainings = Scores(out, "ptb", packaged=True), [row for row in ROWS if row.dynamic], []
    else:
        texts, out = the_texts(options.data), options.out
        scores = Scores(out, str(texts.test))
        chosen = options.only or list(RUNS)
        trainings = [training(out / name, RUNS[name][0], texts, seed=RUNS[name][1], **CHANGES) for name in chosen]
        rows = [row for row in ROWS if set(row.runs) <= set(chosen)]
    single, pairs = [row for row in rows if len(row.runs) == 1], [row for row in rows if len(row.runs) > 1]
    if options.dry_run:
        for job in (*trainings, *map(scores.job, single)):
            print(f"{'done' if job.done() else 'to do'}: {job.name}")
        return
    run_jobs(trainings, options.jobs, out / "logs")
    run_jobs([scores.job(row) for row in single], options.jobs, out / "logs")
    for row in pairs:
        scores.combine(row, texts.test.read_bytes())
    records = [record_of(row, scores) for row in rows]
    text = "\n".join(["| row | parameters | raw protocol | char protocol |", "|---" * 4 + "|", *map(line, records), ""])
    write_bytes(out / "table.md", text.encode())
    print("\n" + text)
    if options.record:
        for record in records:
            print(write_record(RECORDS, record))
    if options.package:
        for name, called in PACKAGED.items():
            if name in chosen:
                package(out / name, Path("weights") / called)


def record_of(row: Scored, scores: Scores) -> Record:
    if not scores.packaged:
        return record_of_runs(
            row.row, [scores.folder / name for name in row.runs], evaluation=scores.of(row), command=command()
        )
    trained = {record.row: record for record in read_records(RECORDS)}
    each = [trained[run] for run in row.runs]
    scored = read_json(scores.of(row), what="the evaluation")
    planned = find_row(row.row)
    assert planned is not None
    settings = "".join(f"; rate {how['rate']:.2g}, decay {how['decay']:.2g}" for how in scored["dynamic"])
    return replace(
        each[0],
        row=row.row,
        model=planned[1].model,
        parameters=sum(one.parameters for one in each),
        evaluation=scored["protocol"],
        scores=(
            Score(
                tuple(seed for one in each for seed in one.scores[0].seeds),
                {"raw": scored["bpc"], "char": scored["char_protocol"]["bpc"]},
            ),
        ),
        command="python -m experiments.ptb --packaged",
        seconds=sum(one.seconds for one in each) + scored["seconds"],
        date=datetime.now(UTC).date().isoformat(),
        note=f"the packaged weights, 8 bits each, scored on {machine(torch.device('cpu'))['processor']}{settings}",
    )


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
