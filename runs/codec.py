#!/usr/bin/env python3
"""Archives against primed compressors on Penn Treebank and War and Peace, after an hour of training for each.

    python runs/codec.py --ptb DIR --book FILE      DIR holds train.txt, valid.txt and test.txt
    python runs/codec.py --ptb DIR --minutes 60 --dry-run

For each text: train a model on its first part (for the book, 85%; 5% validate, the last 10% are kept unseen); tune
--adapt on the validation text alone; then one table, `benchmarks/codec.py`, on the unseen part, with every rival primed
with the training and validation text. It says first what it will cost. What is complete is not done again, and a
training run that was stopped goes on, so it can be stopped (Ctrl-C) and called again. In OUT:

    <text>/            the run, its model and learning curve
    <text>.tune.json   the settings of --adapt that were tried on validation text, in bits a byte
    <text>.json        the figures of the table
    <text>.txt         the table
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastslow import codec
from fastslow.cli.progress import TrainingView
from fastslow.errors import FastslowError
from fastslow.lm.store import read_json, write_atomic, write_json
from fastslow.training import DataSource, find_preset, train

RATES, WINDOWS, DECAYS = (0.0001, 0.0002, 0.0003, 0.0006), (20, 50, 100), (0.0, 0.001)
TUNE_BYTES = 100_000
ALPHABETS: dict[str, Any] = {"ptb": "text", "book": "bytes"}
BENCH = Path(__file__).parents[1] / "benchmarks" / "codec.py"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ptb", type=Path, help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--book", type=Path, help="a text, such as war-and-peace.txt")
    parser.add_argument("--out", type=Path, default=Path("runs/codec"), help="folder for everything")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, for each text")
    parser.add_argument("--preset", default="demo", help="whose recipe is used")
    parser.add_argument("--hidden", type=int, default=288)
    parser.add_argument("--slow", type=int, default=192)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dry-run", action="store_true", help="say what it costs and stop")
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
        print("codec: name a text with --ptb or --book", file=sys.stderr)
        return 2
    left = [name for name in texts if not complete(options.out / name)]
    tunes = len(RATES) * len(WINDOWS) * len(DECAYS) * TUNE_BYTES / 1500 / 3600
    hours = len(left) * options.minutes / 60 + len(texts) * (tunes + 0.3)
    print(f"{len(left)} of {len(texts)} runs to train; about {hours:.1f} hours of this machine with tuning and tables")
    if options.dry_run:
        return 0
    for name, (train_file, valid, test) in texts.items():
        if name in left and not trained(options, name, train_file, valid, test):
            print(f"stopped in {options.out / name}; call this again to go on")
            return 130
        settings = tuned(options.out, name, valid)
        table(options.out, name, (train_file, valid), test, settings)
    return 0


def split(book: Path, out: Path) -> tuple[Path, Path, Path]:
    """The book in three files in `out`: 85%, 5% and 10%."""
    data = book.read_bytes()
    cuts = [0, len(data) * 85 // 100, len(data) * 90 // 100, len(data)]
    paths = []
    for part, start, end in zip(("train", "valid", "test"), cuts[:-1], cuts[1:], strict=True):
        paths.append(out / f"book-{part}.txt")
        if not paths[-1].is_file() or paths[-1].read_bytes() != data[start:end]:
            write_atomic(paths[-1], lambda file, piece=data[start:end]: write(file, piece))
    return paths[0], paths[1], paths[2]


def write(file: Any, data: bytes) -> None:
    file.write(data)


def complete(folder: Path) -> bool:
    path = folder / "result.json"
    return path.is_file() and read_json(path, what="the result").get("status") == "completed"


def trained(options: argparse.Namespace, name: str, train_file: Path, valid: Path, test: Path) -> bool:
    """Train the model of a text, or go on; whether it is done."""
    preset = find_preset(options.preset)
    with TrainingView() as view:
        result = train(
            replace(preset.model, hidden_size=options.hidden, slow_size=options.slow),
            replace(preset.train, seed=options.seed, max_time=options.minutes * 60, max_updates=None),
            DataSource(texts=(str(train_file),), valid=str(valid), test=str(test), alphabet=ALPHABETS[name]),
            options.out / name,
            device="cpu",
            resume="auto",
            progress=view,
            command="python runs/codec.py",
        )
    return bool(result.status == "completed")


def tuned(out: Path, name: str, valid: Path) -> dict[str, float]:
    """The settings of --adapt that are best on validation text; each is measured once and kept."""
    path = out / f"{name}.tune.json"
    found: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
    text = valid.read_bytes()[:TUNE_BYTES]
    for rate, window, decay in itertools.product(RATES, WINDOWS, DECAYS):
        key = f"{rate} {window} {decay}"
        if key not in found:
            learning = codec.Learning(rate=rate, window=window, decay=decay)
            archive = codec.compress(text, out / name, mode="adapt", learning=learning)
            found[key] = 8 * len(archive) / len(text)
            write_json(path, found)
            print(f"{name}: rate {rate}, window {window}, decay {decay}: {found[key]:.4f} bits a byte", flush=True)
    rate, window, decay = min(found, key=lambda key: found[key]).split()
    return {"rate": float(rate), "window": int(window), "decay": float(decay)}


def table(out: Path, name: str, prime: tuple[Path, ...], test: Path, settings: dict[str, float]) -> None:
    """The table of a text, printed and kept."""
    record = out / f"{name}.json"
    if not record.is_file():
        command = [
            sys.executable,
            str(BENCH),
            "--model",
            str(out / name),
            "--text",
            str(test),
            "--prime",
            *map(str, prime),
        ]
        command += [
            "--json",
            str(record),
            *(part for key, value in settings.items() for part in (f"--{key}", str(value))),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        write_atomic(out / f"{name}.txt", lambda file: write(file, done.stdout))
    print((out / f"{name}.txt").read_text())


if __name__ == "__main__":
    sys.exit(main())
