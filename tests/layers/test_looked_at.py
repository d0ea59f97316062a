"""The layer in other people's code and PyTorch's tools: each case of `looked_at` passes, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fastslow.backends.native.library import library
from tests.layers.looked_at import CASES

SLOW = (
    "compiled_by_inductor",
    "ahead_of_time_inductor",
    "data_parallel_compiled",
    "spawned",
    "fully_sharded",
)
"""A compiler at work, another interpreter, or two ranks with everything in parts: each takes many seconds."""
pytestmark = [
    pytest.mark.skipif(isinstance(library(), str), reason=f"no native library: {library()}"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]


def outcomes(names: list[str]) -> dict[str, str | None]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.layers.looked_at", *names]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(line) for line in ran.stdout.splitlines() if line.startswith("["))


@pytest.fixture(scope="module")
def quick() -> dict[str, str | None]:
    return outcomes([name for name in CASES if name not in SLOW])


@pytest.mark.parametrize("name", [name for name in CASES if name not in SLOW])
def test_case(name: str, quick: dict[str, str | None]) -> None:
    assert name in quick
    assert quick[name] is None, quick[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_slow_case(name: str) -> None:
    found = outcomes([name])
    assert found == {name: None}, found[name]
