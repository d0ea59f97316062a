"""`fastslow train`: train a model on text."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fastslow.cli.app import ERROR, INTERRUPTED
from fastslow.cli.common import RUNS, Flag, OptionError, check_backend, print_json
from fastslow.errors import FastslowError
from fastslow.lm.config import ModelOptions
from fastslow.lm.files import find_folder, read_config
from fastslow.training.config import TrainConfig, parse_duration
from fastslow.training.folder import read_record
from fastslow.training.launch import LaunchError, find_launch
from fastslow.training.presets import PRESETS, find_preset
from fastslow.training.sources import DataSource, corpus_names

if TYPE_CHECKING:
    from fastslow.training.result import RunResult

DEFAULT_PRESET = "demo"

_CORPUS_HELP = f"train on a corpus instead of files: {', '.join(corpus_names())}"
_LIMITS = ("max_updates", "max_time", "epochs")
_File = Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]


def train(
    texts: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT ...]", help_behavior_hint="")
    ] = (),
    *,
    preset: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint=f"(default: {DEFAULT_PRESET})")
    ] = None,
    init_from: Annotated[
        str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: random weights)")
    ] = None,
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: in runs/)")] = None,
    resume: Flag = False,
    valid: _File = None,
    test: _File = None,
    corpus: Annotated[str | None, tyro.conf.arg(metavar="NAME", help=_CORPUS_HELP, help_behavior_hint="")] = None,
    protocol: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None,
    alphabet: Annotated[
        Literal["bytes", "text"] | None, tyro.conf.arg(metavar="{bytes,text}", help_behavior_hint="")
    ] = None,
    raw: Flag = False,
    documents: Annotated[
        Literal["files", "lines"] | None, tyro.conf.arg(metavar="{files,lines}", help_behavior_hint="")
    ] = None,
    device: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: a GPU if there is one)")
    ] = None,
    backend: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: auto)")] = None,
    json: Flag = False,
    model: ModelOptions | None = None,
    recipe: TrainConfig | None = None,
) -> int:
    """Train a model on files or on a preset's corpus, then test its best weights.

    The first 90% of the text is used for training, 5% for validation and the last 5% for the test, unless --valid or
    --test name files. Everything is saved in the run folder, which `fastslow sample`, `score` and `evaluate` accept.
    Ctrl-C saves a checkpoint and stops. The options from --architecture on change the preset's network and recipe. Any
    of --max-updates, --max-time (such as 90m) and --epochs replaces all limits of the preset. Several processes train
    one model if torchrun starts them: `torchrun --nproc-per-node 2 -m fastslow train ...`; each takes some of the
    streams of the batch.

    Args:
        texts: files to train on, concatenated in this order
        preset: a network with its recipe; `fastslow info` lists them
        init_from: start from the weights of a trained model, with its network and alphabet; its dropout and zoneout can
            be changed, and its sizes multiplied
        out: the run folder
        resume: continue the run in the folder, with the options it was started with
        valid: a file to validate on
        test: a file to test on
        corpus: train on a corpus instead of files
        protocol: the protocol, for a corpus that has several (see `fastslow data list`); default: the paper's
        alphabet: all 256 bytes (default for files), or the symbols of the training text (default for corpora)
        raw: use the bytes of the files unchanged: keep CRs, byte-order marks and UTF-16
        documents: treat each file, or each line, as a document that starts from a zero state
        device: the device, such as cpu or cuda:1; when resuming, the run's
        backend: the engine, or auto; when resuming, the run's
        json: print the result as JSON
        model: the network; default: the preset's
        recipe: the training recipe; default: the preset's
    """
    check_backend(backend or "auto")
    if not find_launch().leads:
        return _follow()
    if init_from is not None and alphabet is not None:
        raise OptionError(f"--alphabet: a run that starts from {init_from} uses its alphabet: omit the option")
    started = find_preset(preset or DEFAULT_PRESET)
    if resume:
        folder = out or _default_out(texts, preset, corpus)
        record = read_record(folder)
        source = (
            record.source
            if not (texts or corpus)
            else _source(
                texts,
                preset,
                valid,
                test,
                corpus,
                protocol,
                alphabet,
                raw or (record.source is not None and record.source.raw),
                documents or (None if record.source is None else record.source.documents),
            )
        )
        if source is None:
            raise OptionError(f"{folder} was trained on a text passed in Python: resume it there")
        model, recipe = model or record.model, recipe or record.train
        where, engine = device or record.device, backend or record.backend
    else:
        source = _source(texts, preset, valid, test, corpus, protocol, alphabet, raw, documents)
        folder = out or _default_out(texts, preset, corpus)
        model, recipe = model or started.model, recipe or started.train
        where, engine = device or "auto", backend or "auto"

    from fastslow.cli.progress import TrainingView
    from fastslow.training.run import train as run

    with TrainingView() as view, _heard():
        result = run(
            model,
            recipe,
            source,
            folder,
            device=where,
            backend=engine,
            resume=resume,
            init_from=init_from,
            progress=view,
            command=shlex.join(["fastslow", *sys.argv[1:]]),
        )
    return report(result, json)


def _follow() -> int:
    """Take part in the run of rank 0, which prints all messages, unless it cannot be reached."""
    from fastslow.training.distributed import LostError
    from fastslow.training.run import follow

    try:
        with _heard():
            result = follow()
    except (LostError, LaunchError):
        raise
    except FastslowError as error:
        raise SystemExit(ERROR) from error
    if result.status == "interrupted":
        raise SystemExit(INTERRUPTED)
    return 0


@contextmanager
def _heard() -> Iterator[None]:
    """Inside, the loss of another process ends with its message, although the launcher then sends SIGTERM."""
    from fastslow.training.distributed import LostError

    try:
        yield
    except LostError:
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise


def report(result: RunResult, json: bool = False) -> int:
    """Print the result of a run and how to resume it; the exit status."""
    go_on = f"`fastslow train --resume --out {shlex.quote(str(result.out))}`"
    if json:
        print_json({"out": str(result.out), **result.to_json()})
    elif result.test is not None:
        print(f"test: {result.test.bpc:.4f} bits per character over {result.test.symbols:,} symbols")
        print(f"      ({result.test.protocol})")
        if result.test.char is not None:
            char = result.test.char
            print(f"      char protocol: {char.bpc:.4f} over {char.symbols:,} symbols")
    if not json:
        best = (
            ""
            if result.best_bpc is None
            else f"; best validation {result.best_bpc:.4f} BPC at step {result.best_update:,}"
        )
        print(f"{result.updates:,} training steps, {result.characters:,} characters{best}")
        print(f"run saved in {result.out}")
    if result.status == "interrupted":
        raise KeyboardInterrupt(
            f"stopped after training step {result.updates:,}, saved in {result.out}; resume with {go_on}"
        )
    if result.status == "time" and not json:
        print(f"the time limit was reached; resume with {go_on}")
    return 0


def _source(
    texts: Sequence[str],
    preset: str | None,
    valid: str | None,
    test: str | None,
    corpus: str | None,
    protocol: str | None,
    alphabet: Literal["bytes", "text"] | None,
    raw: bool,
    documents: Literal["files", "lines"] | None,
) -> DataSource:
    """Files if there are any, otherwise the named corpus, otherwise the preset's."""
    if texts:
        return DataSource(
            texts=tuple(texts),
            valid=valid,
            test=test,
            corpus=corpus,
            protocol=protocol,
            alphabet=alphabet or "bytes",
            raw=raw,
            documents=documents,
        )
    if corpus is None:
        if preset is None:
            raise OptionError(
                "no text was given: name files to train on, or a preset with a corpus (`fastslow info` lists them)"
            )
        if valid is not None or test is not None:
            raise OptionError("--valid and --test need files to train on")
        found = find_preset(preset)
        corpus, alphabet = found.corpus, alphabet or _alphabet(found.alphabet)
    alphabet = alphabet or "text"
    return DataSource(valid=valid, test=test, corpus=corpus, protocol=protocol, alphabet=alphabet, documents=documents)


def _alphabet(name: str) -> Literal["bytes", "text"]:
    return "bytes" if name == "bytes" else "text"


def _default_out(texts: Sequence[str], preset: str | None, corpus: str | None) -> Path:
    """`runs/` and the name of the first text, of the preset or of the corpus."""
    if texts:
        name = Path(texts[0]).stem
        return RUNS / (f"{name}-{preset}" if preset else name)
    if preset or corpus:
        return RUNS / "-".join(filter(None, (corpus, preset)))
    raise OptionError("name the run folder to resume: --out DIR")


# ---------------------------------------------------------------------- the command line


def prepare(arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments in the form the parser takes, and the defaults of the network and the recipe.

    The defaults are those of the named preset or of the resumed run, so that --help shows them and every option changes
    one of them.
    """
    arguments = [_dashes(argument) for argument in arguments]
    typed = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
    asks_help = bool({"-h", "--help"} & set(arguments))
    if not asks_help and not find_launch().leads:
        return [], {}  # rank 0 reads them and sends the others what they need
    arguments = _in_seconds(arguments)
    if "--resume" in typed and not asks_help:
        folder = _value(arguments, "--out")
        texts = [a for a in arguments if not a.startswith("-")][:1] if not folder else []
        record = read_record(
            folder or _default_out(texts, _value(arguments, "--preset"), _value(arguments, "--corpus"))
        )
        model, recipe = record.model, record.train
    else:
        name = _value(arguments, "--preset") or DEFAULT_PRESET
        found = PRESETS.get(name, PRESETS[DEFAULT_PRESET]) if asks_help else find_preset(name)
        model, recipe = found.model, _without_limits(found.train, typed)
        initial = _value(arguments, "--init-from")
        if initial is not None and not asks_help:
            model = read_config(find_folder(initial)).options
    wanted = _value(arguments, "--architecture")
    if wanted in ("stacked", "sequential") and model.architecture == "fs-lstm":
        model = replace(model, architecture="stacked" if wanted == "stacked" else "sequential", slow_size=None)
    if _value(arguments, "--cell") == "gru" and model.cell == "lstm":
        model = replace(model, cell="gru", zoneout_c=0.0)  # it has no c
    return arguments, {"model": model, "recipe": recipe}


def _without_limits(recipe: TrainConfig, typed: set[str]) -> TrainConfig:
    """The preset's recipe without its own limits if a limit was given: `--max-time 1h` means an hour."""
    given = {name for name in _LIMITS if "--" + name.replace("_", "-") in typed}
    if not given:
        return recipe
    changes: dict[str, Any] = {name: None for name in ("max_updates", "max_time") if name not in given}
    if "max_time" not in given:
        changes["anneal_by_time"] = False
    return replace(recipe, **changes)


def _dashes(argument: str) -> str:
    """`--max_time` is `--max-time`."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _in_seconds(arguments: list[str]) -> list[str]:
    """`--max-time 90m` in seconds, as in the recipe."""
    result = list(arguments)
    for i, argument in enumerate(result):
        name, equals, value = argument.partition("=")
        if name not in ("--max-time", "--checkpoint-seconds"):
            continue
        if equals:
            result[i] = f"{name}={_seconds(name, value)}"
        elif i + 1 < len(result):
            result[i + 1] = _seconds(name, result[i + 1])
    return result


def _seconds(name: str, value: str) -> str:
    if name == "--checkpoint-seconds" and re.fullmatch(r"0+(\.0*)?s?", value):
        return "0.0"
    if name == "--max-time" and value.lower() == "none":
        return "None"
    try:
        return str(parse_duration(value))
    except FastslowError as error:
        raise OptionError(f"{name}: {error}") from error


def _value(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option among the arguments, if it is there."""
    for i, argument in enumerate(arguments):
        if argument == name and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(name + "="):
            return argument[len(name) + 1 :]
    return None
