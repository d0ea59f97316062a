"""The code for the tile unit (AMX), with the unit in software: for machines without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastslow.backends.native.library import Library, library

HEADER = Path(__file__).with_name("software_tiles.h")
ROOT = Path(__file__).parents[3]
TESTS = ("tests/backends/native/test_engine.py", "tests/bench/test_precision.py", "tests/codec/native/test_engine.py")
found = library()


@pytest.mark.slow
@pytest.mark.skipif(not (isinstance(found, Library) and found.dots), reason="no AVX-512 BF16, which splits the factors")
def test_products_on_tiles(tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    named = os.environ.get("CXX", "c++")
    flags = f'-D__AMX_TILE__ -D__AMX_BF16__ -D__AMX_INT8__ -include "{HEADER}"'
    compiler.write_text(f'#!/bin/sh\nexec {named} {flags} "$@"\n')
    compiler.chmod(0o755)
    environment = {**os.environ, "CXX": str(compiler), "FASTSLOW_CACHE": str(tmp_path)}
    code = "from fastslow.backends.native.library import library; assert library().tiles"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", *TESTS], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
