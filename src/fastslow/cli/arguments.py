"""Typed functions as command lines, by tyro: parameters are options, docstrings their help, errors one line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import re
import sys
from collections import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from fastslow.errors import UsageError


def bind(
    function: Callable[..., Any], prog: str, arguments: Sequence[str], defaults: dict[str, Any] | None = None
) -> Callable[[], Any]:
    """`function` with its parameters taken from `arguments`, ready to be called.

    `defaults` replaces default values. A parameter whose default is then a dataclass becomes an option for each of its
    fields, with the help its class's docstring has for it. `--help` prints the help and raises SystemExit(0); arguments
    that do not fit raise UsageError.
    """

    parse = _with_fields(function, defaults or {})
    # A field that is on in one preset and off in another needs both of its options.
    markers = (tyro.conf.DisallowNone,) if defaults else (tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            result: Callable[[], Any] = tyro.cli(
                parse,
                prog=prog,
                args=_rest_first(arguments, inspect.signature(parse).parameters.values()),
                config=markers,
            )
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise UsageError(f"{_sentence(complaint.getvalue())}; see `{prog} --help`") from None
    sys.stderr.write(complaint.getvalue())  # warnings
    return result


def _rest_first(arguments: Sequence[str], parameters: Iterable[inspect.Parameter]) -> list[str]:
    """The arguments that are not options before the options: tyro takes them in one piece only.

    As in GNU programs, their order among each other is kept, and after -- everything is one.
    """
    takes = {name: kind for parameter in parameters for name, kind in _options(parameter)}
    rest: list[str] = []
    options: list[str] = []
    left = list(arguments)
    while left:
        token = left.pop(0)
        if token == "--":
            return [*options, "--", *rest, *left]
        if not token.startswith("-") or token == "-":
            rest.append(token)
            continue
        options.append(token)
        # Of letters together, such as -kfo, the last one takes the value.
        name = token.replace("_", "-") if token.startswith("--") else f"-{token[-1]}"
        kind = takes.get(name, bool)
        if kind is not bool and left:
            options.append(left.pop(0))
        while kind is list and left and not left[0].startswith("-"):
            options.append(left.pop(0))
    return [*rest, *options]


def _options(parameter: inspect.Parameter) -> Iterator[tuple[str, type]]:
    """The names of a parameter as an option, each with what it takes: no value (bool), one (str), or some (list)."""
    hint, names = parameter.annotation, [parameter.name]
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        for mark in marks:
            names += [name for name in (getattr(mark, "name", None), *(getattr(mark, "aliases", None) or ())) if name]
    parts = (hint, *get_args(hint))  # those of a union, or of a sequence
    kinds = {get_origin(part) or part for part in parts}
    kind = bool if bool in kinds else list if kinds & {list, tuple, abc.Sequence} else str
    for name in names:
        yield (name if name.startswith("-") else f"--{name.replace('_', '-')}"), kind


def _with_fields(function: Callable[..., Any], defaults: dict[str, Any]) -> Callable[..., Any]:
    """`function`, not yet run, with these defaults, those that are dataclasses laid out as their fields."""
    signature, hints = inspect.signature(function), get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        default = defaults.get(parameter.name, parameter.default)
        if dataclasses.is_dataclass(default):
            parameters += _field_parameters(default)
        else:
            annotation = _plain(hints[parameter.name], default)
            parameters.append(parameter.replace(default=default, annotation=annotation))
    groups = {name: value for name, value in defaults.items() if dataclasses.is_dataclass(value)}

    def bound(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        built: dict[str, Callable[[], Any]] = {}
        for name, value in groups.items():
            own = {field.name: kwargs.pop(field.name) for field in dataclasses.fields(value)}
            built[name] = functools.partial(_replaced, value, own)
        # Parsing and running are kept apart: an error of the command is none of its arguments. Nor is what a dataclass
        # refuses.
        return lambda: function(*args, **kwargs, **{name: build() for name, build in built.items()})

    bound.__doc__ = joined_help(function.__doc__)
    bound.__annotations__ = {p.name: p.annotation for p in parameters}
    bound.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return bound


def _plain(hint: Any, default: Any) -> Any:
    """The annotation of a parameter that has only a type: names for its values, and no default in Python's words."""
    if get_origin(hint) is Annotated or hint not in _METAVARS:
        return hint
    shown = "" if default is None or default is False else None  # the help says what happens without the option
    return Annotated[hint, tyro.conf.arg(metavar=_METAVARS[hint], help_behavior_hint=shown)]


def _replaced(value: Any, fields: dict[str, Any]) -> Any:
    return dataclasses.replace(value, **fields)


def _field_parameters(value: Any) -> list[inspect.Parameter]:
    """A parameter for each field of a dataclass, with its value as the default."""
    hints, helps = get_type_hints(type(value)), field_help(type(value))
    names = "|".join(helps)

    def as_option(match: re.Match[str]) -> str:
        return f"--{match[1].replace('_', '-')}"

    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(
            field.name,
            kind,
            default=getattr(value, field.name),
            annotation=Annotated[
                hints[field.name],
                tyro.conf.arg(
                    help=re.sub(rf"`({names})`", as_option, helps.get(field.name, "")).removesuffix("."),
                    metavar=_METAVARS.get(hints[field.name]),
                    help_behavior_hint=_DEFAULTS.get(repr(getattr(value, field.name))),
                ),
            ],
        )
        for field in dataclasses.fields(value)
    ]


_DEFAULTS = {"None": "(default: none)", "True": "(default: on)", "False": ""}
"""How the help shows defaults that are Python's own words."""

_METAVARS: dict[Any, str | None] = {
    int: "N",
    int | None: "N",
    float: "X",
    float | None: "X",
    str: "NAME",
    Path | None: "FILE",
    Sequence[str] | None: "NAME [NAME ...]",
    bool: None,
}
"""What stands for a value in the help, by the type of its option."""


def joined_help(doc: str | None) -> str:
    """A docstring with each argument on one line: tyro would print the line breaks, which are those of the source.

    It also prints those before an option in the description.
    """
    return re.sub(r"\n(?: {5,}(?=\S)|(?=--))", " ", inspect.cleandoc(doc or ""))


def field_help(kind: type) -> dict[str, str]:
    """What a class's docstring says of its fields, in paragraphs that begin `name: ` or `name, other: `."""
    helps: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(kind.__doc__ or "").splitlines():
        match = re.match(r"([a-z]\w*(?:, [a-z]\w*)*): (.*)", line)
        if match:
            names = match[1].split(", ")
            helps.update(dict.fromkeys(names, match[2]))
        elif line.startswith(" "):
            for name in names:
                helps[name] += " " + line.strip()
        else:
            names = []
    return helps


def _sentence(box: str) -> str:
    """The first paragraph of an error in a box, on one line."""
    rows = [row.strip(" │╭╮╰╯") for row in box.splitlines()]
    # The title stands in the box's upper edge; where boxes cannot be drawn, in the row above a rule.
    first = next((i for i, row in enumerate(rows) if row and not _is_rule(row)), 0)
    if rows and (rows[first].startswith("─") or _is_rule("".join(rows[first + 1 : first + 2]))):
        rows = rows[first + 1 :]
    text: list[str] = []
    for row in rows:
        if row and not _is_rule(row):
            text.append(row)
        elif text:
            break
    sentence = " ".join(text).rstrip(".:")
    for pattern, plain in _PLAINER:
        sentence = pattern.sub(plain, sentence)
    shouted = sentence.split(" ", 1)[0].isupper()
    return sentence if shouted else sentence[:1].lower() + sentence[1:]


def _without_none(choices: str) -> str:
    """Choices without 'None', which is no value of an option; tyro does not keep the order of choices beside it."""
    listed = choices.split(", ")
    return ", ".join(sorted(set(listed) - {"'None'"})) if "'None'" in listed else choices


def _is_rule(row: str) -> bool:
    """Whether this row is a line of dashes."""
    return bool(row) and set(row) <= {"─", "-"}


_PLAINER = [
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"Error parsing (\S+?):? no type matching (.+?) could be instantiated from \[(.*)\]$", r"\1 takes \2; got \3"),
        (r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)", r"\1 takes a whole number; got \2"),
        (r"Error parsing (\S+): could not convert string to float: (.*)", r"\1 takes a number; got \2"),
        (r"Missing from fastslow [\w ]+: (\S+) .*", r"\1 is missing"),
        (r" takes INT;", " takes a whole number;"),
        (r" takes FLOAT;", " takes a number;"),
        (r"Missing value for argument '(\w+)'.*", lambda match: f"{match[1].upper()} is missing"),
        (r"Missing value for argument '(--[\w-]+)'.*", r"\1 needs a value"),
        (
            r"invalid choice ('.*?') for argument '(.*?)'. Expected one of \((.*)\)",
            lambda match: f"{match[2]} cannot be {match[1]}: it is one of {_without_none(match[3])}",
        ),
        (r"Unrecognized options: (-[\w-]+).*", r"there is no option \1"),
        (r"Unrecognized options: ", "too many arguments: "),
    )
]
