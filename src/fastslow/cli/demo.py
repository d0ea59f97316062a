"""`fastslow demo`: train a model on this machine without a download, and show what it can do."""

from __future__ import annotations

import bz2
import lzma
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text as Line

from fastslow.cli.common import RUNS, OptionError, note, output, use_few_threads, weights_text
from fastslow.cli.registry import COMMANDS
from fastslow.lm.files import CONFIG_FILE, WEIGHTS_FILE
from fastslow.lm.packaged import default_model, shown_name
from fastslow.training.config import parse_duration
from fastslow.training.folder import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    RESULT_FILE,
    RUN_FILE,
    RunError,
    RunFolder,
    read_record,
)
from fastslow.training.presets import find_preset
from fastslow.training.sources import STDLIB, DataSource

if TYPE_CHECKING:
    from fastslow.data.text import Text
    from fastslow.evaluation import Evaluation
    from fastslow.lm import CharLM

PROMPT = b"def "
SAMPLE = 400
SAMPLE_TEMPERATURE = 0.7
SAMPLE_SEED = 1

JUDGED = b"""\
import os

def read_lines(path):
    with open(path, encoding="utf-8") as file:
        retrun [line.strip() for line in flie if line]
"""
"""Two typing errors for the model to find."""

SENTENCE = "It was the best of times, it was the wurst of times, it was the age of wisdom and of telephones."
"""From a book of the time of the model's training text, with two words that do not fit."""


def demo(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RUNS / "demo",
    max_time: Annotated[str | None, tyro.conf.arg(metavar="TIME", help_behavior_hint="(default: the preset's)")] = None,
    say: Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="(default: a sample sentence)")] = None,
) -> None:
    """Train a small Fast-Slow LSTM on the source of Python's standard library, and show what it can do.

    Takes about four minutes on two cores and needs no download. It prints the bits per character on unseen text, beside
    xz and bzip2 on the same text, then a sample, and the surprising characters of some code with typing errors. Finally
    the bundled English model scores a sentence of your choice.

    An unfinished demo in the folder is continued; a finished one is replaced.

    Args:
        out: the run folder
        max_time: how long to train, such as 90s or 10m
        say: the sentence for the bundled model
    """
    from dataclasses import replace

    from fastslow.cli.progress import TrainingView
    from fastslow.lm import CharLM
    from fastslow.training.run import train

    boxed = default_model()
    if say is not None and boxed is None:
        raise OptionError("--say needs the bundled model, and this installation has none")
    sentence = os.fsencode(SENTENCE if say is None else say)
    if len(sentence) < 2:
        raise OptionError(f"--say takes a sentence of at least 2 bytes; got {say!r}")
    preset = find_preset("demo")
    recipe = preset.train
    if max_time is not None:
        recipe = replace(recipe, max_time=parse_duration(max_time), max_updates=None)
    source = DataSource(corpus=STDLIB, alphabet="bytes")
    text = source.open().test
    assert text is not None  # 5% of the library
    going_on = _make_room(out)
    console = output()
    console.print("[bold]A Fast-Slow LSTM learns Python[/bold] from the source of its standard library.", markup=True)
    with TrainingView() as view:
        result = train(
            preset.model,
            read_record(out).train if going_on else recipe,
            source,
            out,
            resume=going_on,
            progress=view,
            command=shlex.join(["fastslow", *sys.argv[1:]]),
        )
    if result.test is None:
        again = "fastslow demo" + ("" if out == RUNS / "demo" else f" --out {shlex.quote(str(out))}")
        raise KeyboardInterrupt(f"stopped after training step {result.updates:,}, saved in {out}; `{again}` continues")
    lm = CharLM.from_pretrained(out)
    use_few_threads(lm)
    console.print(
        f"{result.updates:,} training steps on {result.characters:,} characters in {result.seconds:.0f} s; "
        f"{lm.num_parameters:,} parameters"
    )
    console.print()
    _compare(console, text, result.test)
    _sample(console, lm)
    console.print("The surprising characters of this code:")
    _surprise(console, lm, JUDGED)
    if boxed is not None:
        console.print(
            f"The bundled model, {shown_name(boxed)} ({weights_text(boxed)}), scores a sentence (--say for your own):",
            soft_wrap=True,
        )
        _surprise(console, CharLM.from_pretrained(boxed), sentence)
    _next(console, out)


def _make_room(out: Path) -> bool:
    """Whether to continue an unfinished demo in `out`; a finished one is removed.

    Raises RunError for any other run: the demo only replaces its own runs.
    """
    if not (out / RUN_FILE).is_file():
        return False
    record = read_record(out)
    if record.source is None or record.source.corpus != STDLIB or record.model != find_preset("demo").model:
        raise RunError(f"{out} holds another run: name another folder with --out DIR")
    if not (out / RESULT_FILE).is_file():
        note(f"continuing the unfinished demo in {out}")
        return True
    note(f"replacing the finished demo in {out}")
    with RunFolder.open(out):  # not while another process uses it
        for name in (RESULT_FILE, CHECKPOINT_FILE, WEIGHTS_FILE, METRICS_FILE, CONFIG_FILE, RUN_FILE):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / "tensorboard", ignore_errors=True)
    return False


def _compare(console: Console, text: Text, test: Evaluation) -> None:
    """The model beside two compressors on the same bytes."""
    data = text.data.tobytes()
    sizes = {"xz -9": len(lzma.compress(data, preset=9)), "bzip2 -9": len(bz2.compress(data, 9))}
    rows = [("this model", test.bpc, "")]
    rows += [(name, 8 * size / len(data), f"{size:,} bytes") for name, size in sizes.items()]
    best = min(bits for _, bits, _ in rows)
    table = Table("", "bits per character", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, bits, what in rows:
        table.add_row(name, f"{bits:.3f}", what, style="bold" if bits == best else "")
    console.print(f"On the last {len(data):,} bytes, which the model has not seen:")
    console.print(table)
    console.print(f"({test.protocol}; the compressors get the same bytes, without training)", soft_wrap=True)
    console.print()


def _sample(console: Console, lm: CharLM) -> None:
    from fastslow.sampling import sample, write_text

    console.print(f"A sample, after {PROMPT.decode()!r}:")
    pieces = sample(lm, PROMPT, SAMPLE, temperature=SAMPLE_TEMPERATURE, seed=SAMPLE_SEED)
    write_text(pieces, sys.stdout)
    console.print()


def _surprise(console: Console, lm: CharLM, text: bytes) -> None:
    import numpy as np

    from fastslow.scoring import scored_lines, surprisals
    from fastslow.scoring.terminal import TerminalView

    view = TerminalView(console)
    view.legend()
    for line in scored_lines(surprisals(lm, np.frombuffer(text, dtype=np.uint8))):
        view.line(line)
    console.print()


def _next(console: Console, out: Path) -> None:
    where = shlex.quote(str(out))
    commands = [
        (f"fastslow sample {where} --prompt 'class '", "sample more text"),
        (f"fastslow score --model {where} FILE --html FILE.html", "see what surprises it in one of your files"),
        ("fastslow train FILE", "train on your own text"),
    ]
    if "compress" in COMMANDS:
        commands.insert(2, (f"fastslow compress --model {where} FILE", "compress with it"))
    width = max(len(command) for command, _ in commands)
    console.print(Line.assemble(("The run is saved in ", ""), (str(out), "bold"), (". Next:", "")))
    for command, meaning in commands:
        console.print(f"  {command:<{width}}  {meaning}", soft_wrap=True)
