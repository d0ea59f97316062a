#!/usr/bin/env python3
"""Compare archive sizes with primed compressors on Penn Treebank and on the end of a book.

    python -m experiments.codec --ptb DIR --book FILE      DIR contains train.txt, valid.txt and test.txt
    python -m experiments.codec --ptb DIR --dry-run

The model for Penn Treebank is the one in weights/. That for the book is trained on its first 85%, with 5% for
validation and the last 10% for testing, in under an hour. Both are compared with `benchmarks/codec.py` on the test
text, with every other compressor primed with the training and validation text. The estimated cost is printed first.
Complete steps are not repeated, and a stopped training is resumed, so the script can be interrupted (Ctrl-C) and
restarted. Files in OUT:

    book/              the run, its model and learning curve
    <text>.json        the results of the table
    <text>.txt         the table

With --page docs/compression.md the tables are inserted into that page, between its markers. Speeds depend on the
current load of the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fastslow.bench.machine import describe, machine
from fastslow.bench.pages import placed
from fastslow.cli.progress import TrainingView
from fastslow.errors import FastslowError
from fastslow.storage import read_json, write_bytes
from fastslow.training import DataSource, find_preset, read_record, train

PACKAGED = "ptb-fs-lstm-2"
PRESET = find_preset("ptb-cpu")
RECIPE = PRESET.train
MODEL = replace(PRESET.model, dropout=0.2, zoneout_c=0.1, zoneout_h=0.05)  # little text and many epochs
UPDATES = 15_000
SECONDS_PER_UPDATE = 0.09
"""Measured on one core with a tile unit."""
BENCH = Path(__file__).parents[1] / "benchmarks" / "codec.py"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ptb", type=Path, help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--book", type=Path, help="text file, such as war-and-peace.txt")
    parser.add_argument("--out", type=Path, default=Path("runs/codec"), help="output folder")
    parser.add_argument("--updates", type=int, help="training steps for the book (default: 15,000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--page", type=Path, help="insert the tables between the markers of this page")
    parser.add_argument("--dry-run", action="store_true", help="print the estimated cost and exit")
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except FastslowError as error:
        print(f"codec: error: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    options.out.mkdir(parents=True, exist_ok=True)
    texts: dict[str, tuple[Path, Path, Path]] = {}
    if options.ptb is not None:
        train_file, valid, test = (options.ptb / f"{part}.txt" for part in ("train", "valid", "test"))
        texts["ptb"] = (train_file, valid, test)
    if options.book is not None:
        texts["book"] = split(options.book, options.out)
    if not texts:
        print("codec: pass a text with --ptb or --book", file=sys.stderr)
        return 2
    trains = "book" in texts and not complete(options.out / "book")
    hours = (options.updates or UPDATES) * trains * SECONDS_PER_UPDATE / 3600 + len(texts) * 0.3
    print(f"{'one run' if trains else 'nothing'} to train; about {hours:.1f} hours of this machine with the tables")
    if options.dry_run:
        return 0
    for name, (train_file, valid, test) in texts.items():
        model = PACKAGED if name == "ptb" else str(options.out / name)
        if name == "book" and trains and not trained(options, train_file, valid, test):
            print(f"stopped in {model}; run the same command again to resume")
            return 130
        arguments = ["--model", model, "--text", str(test), "--prime", str(train_file), str(valid)]
        table(options.out, name, arguments)
    if options.page is not None:
        page = options.page.read_text()
        for name in texts:
            page = placed(page, name, f"{about(options.out, name)}\n\n{code(options.out, name)}")
        options.page.write_text(page)
    return 0


def split(book: Path, out: Path) -> tuple[Path, Path, Path]:
    """The book in three files in `out`: 85%, 5% and 10%."""
    data = book.read_bytes()
    cuts = [0, len(data) * 85 // 100, len(data) * 90 // 100, len(data)]
    paths = []
    for part, start, end in zip(("train", "valid", "test"), cuts[:-1], cuts[1:], strict=True):
        paths.append(out / f"book-{part}.txt")
        if not paths[-1].is_file() or paths[-1].read_bytes() != data[start:end]:
            write_bytes(paths[-1], data[start:end])
    return paths[0], paths[1], paths[2]


def complete(folder: Path) -> bool:
    path = folder / "result.json"
    return path.is_file() and read_json(path, what="the result").get("status") == "completed"


def trained(options: argparse.Namespace, train_file: Path, valid: Path, test: Path) -> bool:
    """Train the model of the book, or resume it; returns whether it is complete."""
    with TrainingView() as view:
        result = train(
            MODEL,
            replace(RECIPE, seed=options.seed, max_updates=options.updates or UPDATES),
            DataSource(texts=(str(train_file),), valid=str(valid), test=str(test), alphabet="bytes"),
            options.out / "book",
            device="cpu",
            resume="auto",
            progress=view,
            command="python -m experiments.codec",
        )
    return bool(result.status == "completed")


def table(out: Path, name: str, arguments: Sequence[str]) -> None:
    """Print and store the table of `benchmarks/codec.py`; only measured again if results are missing."""
    record = out / f"{name}.json"
    if not record.is_file():
        command = [sys.executable, str(BENCH), *arguments, "--json", str(record)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        write_bytes(out / f"{name}.txt", done.stdout)
    print((out / f"{name}.txt").read_text())


# ---------------------------------------------------------------------- the page


def about(out: Path, name: str) -> str:
    """A description of the model of a text, and the results of its training."""
    if name == "ptb":
        return f"The packaged model `{PACKAGED}`, 8 bits per weight. {on()}:"
    result, run = read_json(out / name / "result.json", what="the result"), read_record(out / name)
    test = result["test"]
    return (
        f"{run.sessions[0]['parameters']:,} weights, {result['updates']:,} updates "
        f"({result['characters']:,} characters); validation {result['best_bpc']:.4f}, test, one stream, "
        f"{test['bpc']:.4f} bits per character. {on()}:"
    )


def code(out: Path, name: str) -> str:
    return "```text\n" + (out / f"{name}.txt").read_text().strip() + "\n```"


def on() -> str:
    return f"`python -m experiments.codec`, {describe(machine(torch.device('cpu')))}"


if __name__ == "__main__":
    sys.exit(main())
