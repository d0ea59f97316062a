from __future__ import annotations

import errno
import importlib
import inspect
import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import fastslow
from fastslow import codec
from fastslow.cli import main
from fastslow.cli.app import describe, find_command, overview
from fastslow.cli.registry import COMMANDS, Command
from fastslow.errors import DataError
from tests.cli.command import error_of, output_of, process, save_model


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command that raises what it is told to."""

    def use(error: BaseException) -> list[str]:
        def fail() -> None:
            raise error

        monkeypatch.setattr(sys.modules[__name__], "fail", fail, raising=False)
        monkeypatch.setitem(COMMANDS, "fail", Command(f"{__name__}:fail", "fails"))
        return ["fail"]

    return use


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        done = process("--help")
        seconds.append(time.perf_counter() - begun)
        assert done.returncode == 0
        if seconds[-1] < 0.5:
            break
    assert min(seconds) < 0.5
    code = (
        "import sys; from fastslow.cli import main; main(['--help'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'tyro', 'rich')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_only_the_chosen_command_is_imported() -> None:
    code = (
        "import sys; from fastslow.cli import main; main(['data', 'list'])\n"
        "others = [m for m in sys.modules if m.startswith('fastslow.cli.')]\n"
        "known = {'app', 'registry', 'arguments', 'common', 'data'}\n"
        "sys.exit('torch' in sys.modules or {m.split('.')[2] for m in others} != known)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_documented_and_typed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, _, function = COMMANDS[name].home.partition(":")
    command = getattr(importlib.import_module(module), function)
    assert command.__doc__
    signature = inspect.signature(command)
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
    told = output_of(capsys, *name.split(), "--help")
    assert f"usage: fastslow {name}" in told
    assert name in overview()


def test_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of(capsys) == output_of(capsys, "--help") == output_of(capsys, "-h")
    assert output_of(capsys, "data") == output_of(capsys, "data", "--help")
    assert "data fetch" in overview("data")
    assert "train" not in overview("data")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of(capsys, "--version") == f"fastslow {fastslow.__version__}\n"


def test_find_command() -> None:
    assert find_command(["train", "a", "--batch", "3"]) == ("train", ["a", "--batch", "3"])
    assert find_command(["data", "fetch", "ptb"]) == ("data fetch", ["ptb"])
    assert find_command(["data", "-h"]) == ("data", [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command 'trian': did you mean `train`? Known: demo, train, "),
        (["xyzzy"], "there is no command 'xyzzy': Known: demo, "),
        (["data", "fecth"], "there is no command 'data fecth': did you mean `data fetch`"),
        (["--batch"], "name the command before its options, as in `fastslow train --batch`; got '--batch' first"),
        (["score"], "TEXT is missing; see `fastslow score --help`"),
        (["score", "x", "--bits"], "there is no option --bits; see `fastslow score --help`"),
        (["sample", "--length"], "--length needs a value; see `fastslow sample --help`"),
        (["sample", "--length", "many"], "--length takes a whole number; got 'many'; see `fastslow sample --help`"),
        (["sample", "--temperature", "hot"], "--temperature takes a number; got 'hot'; see `fastslow sample --help`"),
        (["evaluate", "--part", "rest"], "--part cannot be 'rest': it is one of 'train', 'valid', 'test'; see"),
    ],
)
def test_arguments_that_do_not_fit(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, *arguments).startswith(message)


def test_an_error_of_the_user_is_one_line(failing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, *failing(DataError("the text\nis gone"))) == "the text is gone"
    full = OSError(errno.ENOSPC, "No space left on device", "runs/x")
    assert error_of(capsys, *failing(full)) == "runs/x: the disk is full; free some space and try again"
    assert "out of memory" in error_of(capsys, *failing(MemoryError()))
    assert "out of memory" in error_of(capsys, *failing(torch.OutOfMemoryError("CUDA out of memory")))


def test_a_defect_is_no_error_of_the_user(failing: Any) -> None:
    assert describe(ValueError("oops")) is None
    with pytest.raises(ValueError, match="oops"):
        main(failing(ValueError("oops")))


def test_debugging_shows_where_an_error_came_from(failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSLOW_DEBUG", "1")
    with pytest.raises(DataError):
        main(failing(DataError("x")))
    monkeypatch.setenv("FASTSLOW_DEBUG", "0")
    assert main(failing(DataError("x"))) == 2


def test_an_interruption(failing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "fastslow: interrupted\n"
    assert main(failing(KeyboardInterrupt("stopped; go on with `x`"))) == 130
    assert capsys.readouterr().err == "fastslow: stopped; go on with `x`\n"


def test_a_reader_that_goes_away_is_no_error(model: Path, text: Path) -> None:
    command = f"{sys.executable} -m fastslow score --predictor network --model {model} {text} | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False)
    assert done.returncode == 141
    assert done.stderr == b""
    assert done.stdout.count(b"\n") == 1


def test_what_the_output_cannot_encode_is_escaped(
    model: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "t").write_bytes("日日".encode())
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    assert main(["score", "--model", str(model), "t"]) == 0
    sys.stdout.flush()
    assert b"\\u65e5" in printed.getvalue()


def test_a_process_ends_with_the_status(elsewhere: Path) -> None:
    done = process("data", "fetch", "nothing-here", cwd=elsewhere)  # needs no torch
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"fastslow: error: ")
    assert done.stderr.count(b"\n") == 1


def test_closed_streams_are_not_mixed_up(elsewhere: Path) -> None:
    """What is meant for a closed stderr does not go to stdout or into a file; using a closed stream is an error."""
    save_model(elsewhere / "model")
    (elsewhere / "a").write_bytes(b"some text")
    command = f"{sys.executable} -m fastslow compress"

    def run(line: str) -> int:
        return subprocess.run(["sh", "-c", line], stderr=subprocess.DEVNULL, check=False).returncode

    assert run(f"{command} -m model a -c missing 2>&- > out") == 1
    archive = (elsewhere / "out").read_bytes()
    assert codec.decompress(archive) == b"some text"
    assert run(f"{command} -m model -f a 0<&- 1>&- 2>&-") == 0
    assert (elsewhere / "a.fsz").read_bytes() == archive
    assert run(f"{command} -m model -c a >&-") != 0
    assert run(f"{command} -m model <&- > out") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_stdout_is_told_once(elsewhere: Path) -> None:
    save_model(elsewhere / "model")
    (elsewhere / "a").write_bytes(b"some text")
    command = [sys.executable, "-m", "fastslow", "compress", "-m", "model", "-c", "a"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [b"fastslow: error: a: the disk is full"]
