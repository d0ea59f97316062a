"""Shared by several commands: output, devices, models."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from fastslow.errors import FastslowError
from fastslow.lm.packaged import default_model, packaged, packaged_models, shown_name

if TYPE_CHECKING:
    import torch

    from fastslow.data.text import Text
    from fastslow.lm import CharLM

RUNS = Path("runs")
"""The folder of runs, in which a model is searched if none is named."""


SMALL_MODEL = 4_000_000
"""Number of weights up to which a single stream is fastest on a single core."""

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
"""Off unless given."""

Run = Annotated[
    str | None,
    tyro.conf.arg(
        aliases=["-m"],
        metavar="RUN",
        help_behavior_hint="(default: the bundled model, english)",
    ),
]
Device = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: a GPU if there is one)")]
Backend = Annotated[str, tyro.conf.arg(metavar="NAME")]
Count = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
OutFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]


class OptionError(FastslowError):
    """An option with a value that cannot be used."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def output() -> Console:
    """The console of results: stdout."""
    return _Console(highlight=False, markup=False, emoji=False)


def messages() -> Console:
    """The console of progress and notes: stderr."""
    return _Console(stderr=True, highlight=False, markup=False, emoji=False)


def note(message: str) -> None:
    """Print a message on stderr; results go to stdout."""
    from fastslow.printable import visible_text

    print(f"fastslow: {visible_text(message)}", file=sys.stderr)


def note_form(text: Text) -> None:
    """Print a note if line ends or encoding of a text were converted."""
    if not text.form.is_plain:
        note(f"{text.name} has {text.form}: it is read as UTF-8 with LF line ends (--raw keeps its bytes)")


def find_device(name: str | None) -> torch.device:
    """The device called `name`; without one, a CUDA device if there is one, else the CPU. Raises OptionError."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")[:160]
        raise OptionError(f"device {name!r} cannot be used: {reason}; try --device cpu") from error
    if device.type == "meta":
        raise OptionError("device 'meta' stores no values; try --device cpu")
    return device


def check_backend(name: str) -> None:
    """Raises OptionError unless `name` is "auto" or an engine."""
    from fastslow.backends import check_name

    try:
        check_name(name)
    except ValueError as error:
        raise OptionError(f"{error}; `fastslow info` lists those that can run here") from error


def load_model(name: str | None, device: str | None = None, backend: str = "auto") -> CharLM:
    """The model called `name` (a run's folder, or a bundled one), or `latest_model`. Raises FastslowError."""
    if name is None:
        name = latest_model()
    check_path(name)
    check_backend(backend)
    where = find_device(device)
    from fastslow.lm import CharLM

    return CharLM.from_pretrained(name, device=where, backend=backend)


# Two rules for a command without a model. Commands about trained models (sample, evaluate) use the newest run here, or
# the bundled model if there is none. Commands about files (score, compress) use the bundled model, so that scores and
# archives do not depend on the current folder.


def latest_model(quiet: bool = False) -> str:
    """The newest run's folder, else that of the bundled model; a note says which. OptionError if there is neither."""
    return _boxed(quiet) if not _runs() and default_model() is not None else _newest(quiet)


def model_for_files(quiet: bool = False) -> str:
    """The folder of the bundled model, else the newest run's; a note says which. OptionError if there is neither."""
    return _newest(quiet) if default_model() is None else _boxed(quiet)


def _newest(quiet: bool) -> str:
    name = str(newest_run())
    if not quiet:
        note(f"no model was named: using the newest run, {name}")
    return name


def _boxed(quiet: bool) -> str:
    folder = default_model()
    assert folder is not None
    if not quiet:
        note(f"model: {shown_name(folder)}, the bundled model ({weights_text(folder)})")
    return str(folder)


def weights_text(folder: Path) -> str:
    """How many weights the model in `folder` has, as in ``1.8M weights``."""
    from fastslow.lm import files, parameter_count

    count = parameter_count(files.read_config(folder))
    return f"{count / 1e6:.1f}M weights" if count >= 100_000 else f"{count:,} weights"


def check_path(name: str) -> None:
    """Raises OptionError for a missing folder, unless it can be a name on the Hub or of a bundled model."""
    if packaged(name) is not None:
        return
    looks_local = name.startswith((".", "/", "~", f"{RUNS}/")) or name.endswith("/") or name.count("/") != 1
    if looks_local and not os.path.exists(name):
        raise OptionError(f"there is no run {name}: {_known_runs()}")


def newest_run() -> Path:
    """The folder in `runs/` whose weights are newest. Raises OptionError when there is none."""
    found = _runs()
    if not found:
        raise OptionError(
            f"no model was named and there is none in {RUNS}/: train one with `fastslow demo` or `fastslow train FILE`"
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent


def _runs() -> list[Path]:
    """The weights files of all runs that have one."""
    return list(RUNS.glob("*/model.safetensors"))


def _known_runs() -> str:
    names = sorted(str(path.parent) for path in RUNS.glob("*/config.json"))
    boxed = f"; bundled: {', '.join(packaged_models())}" if packaged_models() else ""
    if not names:
        return f"train one with `fastslow demo` or `fastslow train FILE`{boxed}"
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"there are {', '.join(names[:6])}{more}{boxed}"


def plural(count: int, noun: str) -> str:
    """``1 line``, ``2,000 lines``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def print_json(value: Any) -> None:
    """A JSON value on stdout."""
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


def use_few_threads(lm: CharLM) -> None:
    """Use one thread for one stream through a small network on a CPU: more threads would mostly wait."""
    import torch

    if lm.device.type == "cpu" and lm.num_parameters < SMALL_MODEL:
        torch.set_num_threads(1)
