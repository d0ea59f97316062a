"""docs/adding-a-cell.md, followed to the letter in a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastslow.backends.native.library import library

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+) file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def follow(page: str, root: Path) -> None:
    """Make the page's files under `root`, and its changes: the lines with " " and "-" become those with " " and "+"."""
    for kind, name, text in BLOCK.findall(page):
        path = root / name
        if kind != "diff":
            assert not path.exists(), f"{name} is there already"
            path.write_text(text)
            continue
        before, after = (
            "".join(line[1:] for line in text.splitlines(keepends=True) if line[0] in kept) for kept in (" -", " +")
        )
        found = path.read_text()
        assert found.count(before.rstrip("\n")) == 1, f"{name} has not, or not once: {before}"
        path.write_text(found.replace(before.rstrip("\n"), after.rstrip("\n")))


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_page_adds_a_cell(compiled: bool, tmp_path: Path) -> None:
    if compiled and isinstance(library(), str):
        pytest.skip(f"no native library: {library()}")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests" / "backends").mkdir(parents=True)
    for name in ("__init__.py", "backends/__init__.py", "backends/twins.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests" / name)
    page = (ROOT / "docs" / "adding-a-cell.md").read_text()
    follow(page, tmp_path)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path / 'src'}{os.pathsep}{tmp_path}",
        "FASTSLOW_CACHE": str(tmp_path / "cache"),
        "FASTSLOW_NATIVE": "1" if compiled else "0",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/backends/test_minimal_gated.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert re.search(rf"{29 if compiled else 15} passed", done.stdout), done.stdout
