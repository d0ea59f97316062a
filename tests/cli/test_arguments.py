from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import tyro

from fastslow.cli.app import UsageError
from fastslow.cli.arguments import bind, field_help


@dataclass(frozen=True, kw_only=True)
class Options:
    """Something with options.

    size: how large,
        and a second line of that; see `low` and `other`.
    low, high: the bounds. kind: is not a field of its own here.

    Raises nothing.
    """

    size: int = 1
    low: float | None = None
    high: float = 2.0
    on: bool = True

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size must not be negative")


def command(
    names: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    word: Annotated[str, tyro.conf.arg(metavar="W")] = "a",
    options: Options | None = None,
    kind: Literal["x", "y"] = "x",
    maybe: Literal["x", "y"] | None = None,
) -> tuple[object, ...]:
    """Do something, with
    --word too.

    Args:
        names: some names
        word: a word with a help
            of two lines
    """
    return names, word, options, kind


def many(
    names: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    word: Annotated[str | None, tyro.conf.arg(aliases=["-w"])] = None,
    size_of: int = 1,
    quick: Annotated[bool, tyro.conf.arg(aliases=["-q"])] = False,
    kinds: Sequence[str] | None = None,
) -> tuple[object, ...]:
    return names, word, size_of, quick, kinds


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a -q b", (("a", "b"), None, 1, True, None)),
        ("-w x a --quick b --size-of 3 c", (("a", "b", "c"), "x", 3, True, None)),
        ("a --size_of 3 b -qw x c", (("a", "b", "c"), "x", 3, True, None)),
        ("a --word=x b - -w -", (("a", "b", "-"), "-", 1, False, None)),
        ("a -q -- -b --quick", (("a", "-b", "--quick"), None, 1, True, None)),
        ("a --kinds x y --quick b", (("a", "b"), None, 1, True, ["x", "y"])),
    ],
)
def test_options_stand_anywhere(line: str, expected: tuple[object, ...]) -> None:
    names, word, size_of, quick, kinds = bind(many, "p", line.split())()
    assert (names, word, size_of, quick, kinds and list(kinds)) == expected


def test_a_function_is_bound_and_not_yet_run() -> None:
    def fail(*, a: int = 1) -> None:
        raise ValueError(a)

    bound = bind(fail, "p", ["--a", "3"])
    with pytest.raises(ValueError, match="3"):
        bound()


def test_a_dataclass_is_laid_out_as_options() -> None:
    preset = Options(size=5, high=9.0)
    run = bind(command, "p", ["n", "--low", "0.5", "--no-on", "--word=b"], {"options": preset})
    assert run() == (("n",), "b", Options(size=5, low=0.5, high=9.0, on=False), "x")


def test_what_a_dataclass_refuses_is_an_error_of_the_run() -> None:
    run = bind(command, "p", ["--size", "-1"], {"options": Options()})
    with pytest.raises(ValueError, match="size must not be negative"):
        run()


def test_the_help_tells_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        bind(command, "p", ["--help"], {"options": Options(size=5)})
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "Do something, with --word too." in out  # the breaks are those of the source
    assert "a word with a help of two lines (default: a)" in out
    told = " ".join(out.split())
    assert "--size N how large, and a second line of that; see --low and `other` (default: 5)" in told
    assert "--low X the bounds. kind: is not a field of its own here (default: none)" in told
    assert "(default: none)" in told
    assert "--on, --no-on (default: on)" in told
    assert "--word W a word with a help of two lines (default: a)" in told
    with pytest.raises(SystemExit):
        bind(command, "p", ["--help"])
    assert "a word with a help of two lines (default: a)" in capsys.readouterr().out


def test_field_help() -> None:
    assert field_help(Options) == {
        "size": "how large, and a second line of that; see `low` and `other`.",
        "low": "the bounds. kind: is not a field of its own here.",
        "high": "the bounds. kind: is not a field of its own here.",
    }


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "x"], "--size takes a whole number; got 'x'"),
        (["--low", "x"], "--low takes a number; got 'x'"),
        (["--low", "None"], "--low takes a number; got 'None'"),
        (["--kind", "z"], "--kind cannot be 'z': it is one of 'x', 'y'"),
        (["--kind"], "--kind needs a value"),
        (["--what"], "there is no option --what"),
        (["--what", "4"], "there is no option --what"),
        (["--maybe", "z"], "--maybe cannot be 'z': it is one of 'x', 'y'"),
    ],
)
def test_errors_are_a_sentence(
    arguments: list[str], message: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Boxes are drawn with other characters where the terminal has not the usual ones.
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(UsageError) as error:
        bind(command, "fastslow do", arguments, {"options": Options()})
    assert str(error.value) == f"{message}; see `fastslow do --help`"
