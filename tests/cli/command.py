"""Running `fastslow` in this process, or as a process of its own; and a model to run it on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from fastslow.cli import main
from fastslow.data.alphabet import Alphabet
from tests.lm.models import small_lm

TEXT = b"".join(b"%d times %d is %d\n" % (i % 13, i % 7, (i % 13) * (i % 7)) for i in range(120))
"""Enough to train on, three kilobytes."""

TINY = ["--hidden-size", "8", "--slow-size", "6", "--embedding-size", "5", "--batch", "4", "--window", "8"]
TINY += ["--backend", "reference", "--no-tensorboard", "--validate-every", "5", "--log-every", "5"]
"""Options of a run of a second; add --max-updates."""


def save_model(folder: Path, alphabet: Alphabet | None = None) -> Path:
    """A model of random weights, over all bytes unless told otherwise."""
    small_lm(alphabet=Alphabet.bytes() if alphabet is None else alphabet).save_pretrained(folder)
    return folder


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line that the command fails with."""
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert status == 2, captured
    lines = [line for line in captured.err.splitlines() if not line.startswith("fastslow: no model was named")]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("fastslow: error: ")
    assert captured.out == ""
    return lines[0].removeprefix("fastslow: error: ")


def output_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What the command prints to stdout; it must succeed."""
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out


def process(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """`python -m fastslow` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "fastslow", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        input=stdin,
        capture_output=True,
        check=False,
    )
