from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fastslow.codec.package import make
from fastslow.lm import packaged
from tests.cli.command import TEXT, save_model
from tests.lm.boxed import boxed_lm, empty_the_box


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test in an empty folder, so that no `runs/` of the checkout is seen; with an empty data folder, and with a
    package that came without models."""
    folder = tmp_path / "here"
    folder.mkdir()
    empty_the_box(monkeypatch, tmp_path)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FASTSLOW_DATA", str(tmp_path / "data"))
    for name in ("NO_COLOR", "FORCE_COLOR", "FASTSLOW_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def packaged_english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("box")
    make(boxed_lm(), folder / packaged.DEFAULT)
    return folder


@pytest.fixture
def box(packaged_english: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a small model in the box, called english."""
    monkeypatch.setattr(packaged, "models_folder", lambda: packaged_english)
    return packaged_english / packaged.DEFAULT


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Says what standard input holds."""
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.fixture
def text(elsewhere: Path) -> Path:
    path = elsewhere / "tables.txt"
    path.write_bytes(TEXT)
    return path
