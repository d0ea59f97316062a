"""Typed functions as command lines, by tyro: parameters are options, docstrings their help, errors one line."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from fastslow.cli.app import UsageError


def bind(
    function: Callable[..., Any], prog: str, arguments: Sequence[str], defaults: dict[str, Any] | None = None
) -> Callable[[], Any]:
    """`function` with its parameters taken from `arguments`, ready to be called.

    `defaults` replaces default values. `--help` prints the help and raises SystemExit(0); arguments that do not fit
    raise UsageError.
    """

    # Parsing and running are kept apart: an error of the command is none of its arguments.
    @functools.wraps(function)
    def bound(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return functools.partial(function, *args, **kwargs)

    if defaults:
        signature = inspect.signature(function)
        new = [p.replace(default=defaults.get(p.name, p.default)) for p in signature.parameters.values()]
        bound.__signature__ = signature.replace(parameters=new)  # type: ignore[attr-defined]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            result: Callable[[], Any] = tyro.cli(
                bound,
                prog=prog,
                args=list(arguments),
                config=(tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise UsageError(f"{_sentence(complaint.getvalue())}; see `{prog} --help`") from None
    sys.stderr.write(complaint.getvalue())  # warnings
    return result


_BORDER = re.compile(r"[╭╮╰╯│─]+")


def _sentence(box: str) -> str:
    """The first paragraph of an error in a box, on one line."""
    lines = [line for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    text: list[str] = []
    for line in lines:
        inner = line.strip().strip("│").strip()
        if not inner or set(inner) <= {"─"}:
            if text:
                break
            continue
        text.append(inner)
    sentence = " ".join(text).rstrip(".:") or " ".join(_BORDER.sub(" ", box).split())
    for pattern, plain in _PLAINER:
        sentence = pattern.sub(plain, sentence)
    shouted = sentence.split(" ", 1)[0].isupper()
    return sentence if shouted else sentence[:1].lower() + sentence[1:]


_PLAINER = [
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"Error parsing (\S+?):? no type matching (.+?) could be instantiated from \[(.*)\]$", r"\1 takes \2; got \3"),
        (r"Missing from fastslow [\w ]+: (\S+) .*", r"\1 is missing"),
        (r"Missing value for argument '(\w+)'.*", lambda match: f"{match[1].upper()} is missing"),
        (r"Missing value for argument '(--[\w-]+)'.*", r"\1 needs a value"),
        (r"invalid choice ('.*?') for argument '(.*?)'. Expected one of \((.*)\)", r"\2 cannot be \1: it is one of \3"),
        (r"Unrecognized options: ", "there is no option "),
    )
]
