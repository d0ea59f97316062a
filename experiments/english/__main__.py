"""The bundled English model: its training text, its training, its results and its packaging.

    python -m experiments.kinds --data BOOKS --out KINDS                 books, and documents of other kinds
    python -m experiments.english text --augment 1 ...      the training text, augmented
    python -m experiments.english train --augment 1 --seed 1 --init-from english-0.1 ...    a run
    python -m experiments.english marks RUN --average RUN ... --beside english-0.1 --share 0.9 --text NAME=FILE ...
    python -m experiments.english package RUN --average RUN ... --beside english-0.1 --share 0.9 ...

The last two measure the model and put it into the package with its card: the average of runs, and of what they started
from if it is named too, with a tenth of version 0.1.0's model.

All but the first take `--data BOOKS --kinds KINDS`. BOOKS contains train.txt and valid.txt, plain or as .xz, and
books.tsv with the columns gutenberg_id, title, author and split. Complete steps are not repeated, and a stopped
training is resumed by the same command. Files in OUT:

    corpus/               the texts, unpacked; train-augmented-SEED.txt, if --augment names a seed
    model/                the run of the model
    marks.json, marks.md  its results, each written as soon as it is measured
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
            one.add_argument("--bits", type=int, default=8, choices=(8, 16), help="bits per weight of a matrix")
            one.add_argument("--beside", metavar="MODEL", help="the model that it succeeds, for comparison")
            one.add_argument(
                "--average", type=Path, nargs="+", default=[], metavar="RUN", help="average with these runs"
            )
            one.add_argument("--share", type=float, default=1.0, help="of the run's weights; the rest are of --beside")
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
    one.add_argument("--dry-run", action="store_true", help="print the estimated cost and exit")

    one = command("marks", marks.marks, "measure bits per byte and archive sizes on unseen text")
    one.add_argument("run", nargs="?", type=Path, default=Path(DEFAULT), help="run or model (default: the bundled one)")
    one.add_argument("--text", nargs="+", default=[], metavar="NAME=FILE", help="further texts")
    one.add_argument("--figures", nargs="+", default=list(marks.FIGURES), choices=marks.FIGURES)
    one.add_argument("--limit", type=int, default=1 << 40, help="skip texts of more bytes")

    one = command("package", card.package, "package a run's model")
    one.add_argument("run", type=Path, help="the run")
    one.add_argument("--marks", type=Path, help="its results (default: marks.json in OUT, if it exists)")
    one.add_argument("--to", type=Path, default=models_folder() / DEFAULT, help="the model's folder")
    one.add_argument("--dry-run", action="store_true", help="print the size and exit")
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
