"""`fastslow evaluate`: bits per character of one model, or of several together, on text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fastslow.cli.common import (
    Backend,
    Device,
    Flag,
    OptionError,
    check_path,
    load_model,
    newest_model,
    print_json,
)
from fastslow.data.corpora import CORPORA, load_corpus
from fastslow.data.text import Splits, Text, open_text
from fastslow.errors import FastslowError

if TYPE_CHECKING:
    from fastslow.evaluation import Evaluation
    from fastslow.lm import CharLM

Part = Literal["train", "valid", "test"]


def evaluate(
    runs_and_text: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN ...] [TEXT]", help_behavior_hint="")
    ] = (),
    *,
    part: Part = "test",
    protocol: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None,
    streams: Annotated[int, tyro.conf.arg(metavar="N")] = 1,
    warm: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    json: Flag = False,
    device: Device = None,
    backend: Backend = "auto",
) -> None:
    """Print a model's bits per character on a text, over every symbol but the first.

    TEXT is a file, - for standard input, or a corpus (ptb, enwik8, text8), of which the test part is taken. Without it
    the text is the test part the run kept aside. With several RUNs their probabilities are averaged. Without a RUN the
    newest in runs/ is taken.

    Args:
        runs_and_text: the folders of the runs, then the text
        part: which part of a corpus, or of the run's own text
        protocol: of a corpus; ptb has raw (the paper's) and char
        streams: cut the text in N pieces that run side by side: faster, and a little worse for the cold starts
        warm: symbols that each piece reads before its own, unscored
        json: print the result as JSON
        device: where to compute, such as cpu or cuda:1
        backend: the engine, or auto
    """
    for name, value, least in (("--streams", streams, 1), ("--warm", warm, 0)):
        if value < least:
            raise OptionError(f"{name} must be at least {least}; got {value}")
    runs, named = _runs_and_text(runs_and_text)
    for run in runs:
        check_path(run)
    text = _own_text(runs[0], part) if named is None else _text(named, part, protocol)
    models = [load_model(run, device, backend) for run in runs]
    result = measure(models, text, streams=min(streams, max(1, len(text) - 1)), warm=warm)
    if json:
        print_json({"runs": runs, "text": text.describe(), **result.to_json()})
        return
    print(f"{result.bpc:.4f} bits per character on {text.name}")
    print(f"{result.symbols:,} of {len(text):,} symbols: {result.protocol}")
    if result.char is not None:
        print(f"char protocol: {result.char.bpc:.4f} bits per character over {result.char.symbols:,} symbols")
    print(f"{result.seconds:.1f} s, {result.symbols / max(result.seconds, 1e-9):,.0f} characters a second")


def measure(models: Sequence[CharLM], text: Text, *, streams: int = 1, warm: int = 0) -> Evaluation:
    """`evaluation.evaluate` with its progress on a terminal."""
    from fastslow.cli.progress import CountingView
    from fastslow.evaluation import evaluate as run

    with CountingView("evaluate") as view:
        return run(models, text, streams=streams, warm=warm, on_window=view)


def _runs_and_text(names: Sequence[str]) -> tuple[list[str], str | None]:
    """The runs, and the text if the last name is none of a folder."""
    runs, text = list(names), None
    if runs and not Path(runs[-1]).is_dir():
        text = runs.pop()
        if not runs and not (text == "-" or text in CORPORA or Path(text).exists()):
            raise OptionError(f"there is no run and no text {text}: name a run's folder, then a file")
    if not runs:
        runs = [newest_model()]
    return runs, text


def _text(name: str, part: Part, protocol: str | None) -> Text:
    if name in CORPORA and not Path(name).exists():
        return _part(load_corpus(name, protocol).splits, part, name)
    if protocol is not None:
        raise OptionError(f"--protocol belongs to a corpus ({', '.join(CORPORA)}); {name} is a file: leave it out")
    return open_text(name, stdin=True)


def _own_text(run: str, part: Part) -> Text:
    """A part of the text a run was trained on, the one it kept aside by default."""
    from fastslow.training.folder import read_record

    try:
        record = read_record(run)
    except FastslowError as error:
        raise OptionError(f"name a text to evaluate on: {error}") from error
    if record.source is None:
        raise OptionError(f"name a text to evaluate on: that of {run} was handed over in Python")
    text = _part(record.source.open(), part, run)
    recorded = record.data.get(part)
    if not isinstance(recorded, dict) or recorded.get("sha256") != text.sha256:
        raise OptionError(f"the text of {run} has changed since it was trained: name the text to evaluate on")
    return text


def _part(splits: Splits, part: Part, where: str) -> Text:
    text: Text | None = getattr(splits, part)
    if text is None:
        raise OptionError(f"{where} has no {part} part: name a text to evaluate on")
    return text
