"""What is packed is what is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fastslow.codec.package import make
from fastslow.lm import packaged
from tests.lm.boxed import boxed_lm

ROOT = Path(__file__).parents[1]
PARTS = ("config.json", "model.safetensors", "README.md")


IN_THE_PACKAGE = [n for n, folder in packaged.packaged_models().items() if folder.parent == packaged.models_folder()]


@pytest.mark.slow
def test_the_wheel_and_the_source_archive_have_the_models(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    models = source / "src" / "fastslow" / "models"
    make(boxed_lm(), models / "tiny")  # beside those that are there
    (models / "tiny" / "README.md").write_text("its card")
    code = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (source / "dist").glob("*.whl")
    (archive,) = (source / "dist").glob("*.tar.gz")
    wanted = [f"fastslow/models/{name}/{part}" for name in ("tiny", *IN_THE_PACKAGE) for part in PARTS]
    wheel_names = set(zipfile.ZipFile(wheel).namelist())
    assert {*wanted, "fastslow/codec/package.py"} <= wheel_names
    with tarfile.open(archive) as file:
        names = {name.partition("/src/")[2] for name in file.getnames()}
    assert set(wanted) <= names
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    code = "from fastslow.lm.packaged import packaged_models as p; print(*p())"
    done = subprocess.run([sys.executable, "-P", "-c", code], env={"PYTHONPATH": str(installed)}, capture_output=True)
    assert set(done.stdout.decode().split()) == {"tiny", *IN_THE_PACKAGE}
