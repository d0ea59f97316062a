"""Runs interpreted.py in a process where Triton interprets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastslow.backends.trust import SWITCH

pytest.importorskip("triton", reason="triton is not installed: its kernels cannot be interpreted")
ROOT = Path(__file__).parents[3]


def interpret(*options: str) -> None:
    file = Path(__file__).with_name("interpreted.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(file)],
        cwd=ROOT,
        # Interpreted, the check of the engine before its first use takes twenty seconds; a slow case runs it.
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", SWITCH: "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    report = done.stdout[-6000:] + done.stderr[-2000:]
    assert done.returncode == 0, report
    assert " passed" in report, report


def test_quick_cases() -> None:
    interpret()


@pytest.mark.slow
def test_every_case() -> None:
    interpret("-m", "slow")
