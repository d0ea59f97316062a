from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import pytest

from fastslow.cli import main
from fastslow.lm import CharLM
from tests.cli.command import error_of


def sampled(capfdbinary: pytest.CaptureFixture[bytes], *arguments: str | Path) -> tuple[bytes, bytes]:
    """What the command writes to stdout and stderr."""
    assert main(["sample", *map(str, arguments), "--backend", "reference"]) == 0
    captured = capfdbinary.readouterr()
    return captured.out, captured.err


def test_a_pipe_gets_the_bytes_of_the_seed(model: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    options = ("--length", "50", "--seed", "7", "--top-k", "200")
    found = sampled(capfdbinary, model, "--prompt", "né", *options)
    wanted = CharLM.from_pretrained(model, backend="reference").generate("né", 50, seed=7, top_k=200)
    assert found == ("né".encode() + wanted, b"")


def test_without_a_seed_one_is_drawn_and_told(model: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    text, told = sampled(capfdbinary, model, "--length", "20")
    assert len(text) == 20
    seed = told.decode().split("seed ")[1].split()[0]
    assert sampled(capfdbinary, model, "--length", "20", "--seed", seed) == (text, b"")


def test_the_likeliest_needs_no_seed(model: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    text, told = sampled(capfdbinary, model, "--length", "9", "--temperature", "0")
    assert (len(text), told) == (9, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_a_terminal_gets_nothing_that_could_drive_it(model: Path) -> None:
    seen = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 1024)
        seen.extend(data)
        return data

    quiet = os.open(os.devnull, os.O_WRONLY)
    kept = os.dup(1)
    os.dup2(quiet, 1)
    try:
        status = pty.spawn(
            [sys.executable, "-m", "fastslow", "sample", str(model), "--length", "300", "--seed", "1"], read
        )
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(quiet)
    assert os.waitstatus_to_exitcode(status) == 0
    text = bytes(seen).decode()
    assert "\\x" in text  # random weights write bytes that are no text
    assert {c for c in text if not c.isprintable()} <= {"\n", "\r", "\t"}


def test_bad_options(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "temperature must be 0" in error_of(capsys, "sample", model, "--temperature", "-1")
    assert "top_k must be at least 1" in error_of(capsys, "sample", model, "--top-k", "0")
    assert "top_p must be" in error_of(capsys, "sample", model, "--top-p", "1.5")
    assert "length must be 0 or more" in error_of(capsys, "sample", model, "--length", "-5")
    assert "there is none in runs/" in error_of(capsys, "sample")
    assert "there is no run nothing" in error_of(capsys, "sample", "nothing")
