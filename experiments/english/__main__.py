"""The English model that comes with the package: its training text, its training, its figures and its packaging.

    python -m experiments.kinds --data BOOKS --out KINDS                 books, and documents of other kinds
    python -m experiments.english text --augment SEED ...     the training text, augmented
    python -m experiments.english train --augment SEED ...    the model
    python -m experiments.english marks RUN --text NAME=FILE ...    its figures
    python -m experiments.english package RUN ...    into src/fastslow/models/english, with a card

All but the first take `--data BOOKS --kinds KINDS`. BOOKS holds train.txt and valid.txt, as they are or as .xz, and
books.tsv with the columns gutenberg_id, title, author and split. What is complete is not done again, and a training
that was stopped is resumed by the same command. In OUT:

    corpus/               the texts, unpacked; train-augmented-SEED.txt, if --augment names a seed
    model/                the run of the model
    marks.json, marks.md  its figures, each written as soon as it is measured
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from experiments.english import card, corpus, marks, training
from fastslow.errors import FastslowError
from fastslow.lm.packaged import DEFAULT, models_folder


def text(options: argparse.Namespace) -> int:
    made = corpus.training_text(options.data, options.kinds, options.augment, options.out)
    for name, path in (("train", made), ("valid", corpus.part(options.data, "valid", options.out))):
        print(f"{name}: {path}, {path.stat().st_size:,} bytes")
    return 0


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=summary, description=summary)
        one.set_defaults(run_command=run)
        one.add_argument("--data", type=Path, help="folder of the books")
        one.add_argument("--kinds", type=Path, help="folder of the corpus with other kinds of text")
        one.add_argument("--out", type=Path, default=Path("runs/english"), help="folder for all results")
        if run in (text, training.train_model):
            one.add_argument("--augment", type=int, metavar="SEED", help="rewrite some text: CRLF, capitals, ...")
        if run in (marks.marks, card.package):
            one.add_argument("--bits", type=int, default=8, choices=(8, 16), help="of each weight of a matrix")
        return one

    command("text", text, "make the training text")

    one = command("train", training.train_model, "train the model, or resume its training")
    one.add_argument("--init-from", metavar="MODEL", help="start from the weights of this model")
    one.add_argument("--updates", type=int, default=training.RECIPE.max_updates, help="training steps")
    one.add_argument("--depth", type=int, default=2)
    one.add_argument("--embedding", type=int, default=32)
    one.add_argument("--hidden", type=int, default=352)
    one.add_argument("--slow", type=int, default=192)
    one.add_argument("--batch", type=int, default=training.RECIPE.batch)
    one.add_argument("--window", type=int, default=training.RECIPE.window)
    one.add_argument("--rate", type=float, default=training.RECIPE.rate)
    one.add_argument("--validate-every", type=int, default=training.RECIPE.validate_every, help="training steps")
    one.add_argument("--seed", type=int, default=1)
    one.add_argument("--dry-run", action="store_true", help="print what it costs and stop")

    one = command("marks", marks.marks, "bits per byte and archives beside other compressors, on text it has not seen")
    one.add_argument("run", nargs="?", type=Path, default=Path(DEFAULT), help="run or model (default: the bundled one)")
    one.add_argument("--text", nargs="+", default=[], metavar="NAME=FILE", help="further texts")
    one.add_argument("--beside", metavar="MODEL", help="a model to compare it with")
    one.add_argument("--figures", nargs="+", default=list(marks.FIGURES), choices=marks.FIGURES)
    one.add_argument("--limit", type=int, default=1 << 40, help="skip texts of more bytes")

    one = command("package", card.package, "put a run's model into the package")
    one.add_argument("run", type=Path, help="the run")
    one.add_argument("--marks", type=Path, help="its figures (default: marks.json in OUT, if it exists)")
    one.add_argument("--to", type=Path, default=models_folder() / DEFAULT, help="the model's folder")
    one.add_argument("--dry-run", action="store_true", help="print the size and stop")
    return result


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        status: int = options.run_command(options)
        return status
    except FastslowError as error:
        print(f"english: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
