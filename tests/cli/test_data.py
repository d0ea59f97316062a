from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastslow.data import corpora
from tests.cli.command import error_of, output_of, save_model
from tests.data.samples import SINGLE, SINGLE_CORPUS, TRIPLE, TRIPLE_CORPUS, zipped

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small_corpora(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {c.name: c for c in (SINGLE_CORPUS, TRIPLE_CORPUS)}
    monkeypatch.setattr(corpora, "CORPORA", known)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    told = output_of(capsys, "data", "list")
    assert "single  one file in a zip archive" in told
    assert "not downloaded: `fastslow data fetch triple`" in told
    listed = json.loads(output_of(capsys, "data", "list", "--json"))
    assert [c["name"] for c in listed] == ["single", "triple"]
    assert not listed[0]["present"]


def test_a_corpus_is_added_in_one_place(elsewhere: Path) -> None:
    """The help of every command that takes one, the list, and a run's source know it."""
    program = """
from types import MappingProxyType
from fastslow.data import corpora
from tests.data.samples import TRIPLE_CORPUS

corpora.CORPORA = MappingProxyType({**corpora.CORPORA, "triple": TRIPLE_CORPUS})
from fastslow.cli import main
from fastslow.training import DataSource

DataSource(corpus="triple")
for words in (["data", "fetch", "-h"], ["train", "-h"], ["data", "list"]):
    print("=====")
    assert main(words) == 0
"""
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert [page.count("triple") > 0 for page in done.stdout.split("=====")[1:]] == [True] * 3
    assert "protocol char" in done.stdout


def test_fetch_from_a_copy(elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("copy.zip").write_bytes(zipped({"inside/single": SINGLE}))
    told = output_of(capsys, "data", "fetch", "single", "--from", "copy.zip")
    folder = tmp_path / "data" / "single"
    assert (folder / "single").read_bytes() == SINGLE
    assert told.startswith(f"single is in {folder}: train 900,000, valid 50,000, test 50,000 bytes")
    assert f"in {folder}" in output_of(capsys, "data", "list")
    told = output_of(capsys, "data", "fetch", "single", "--from", "copy.zip", "--data-dir", "other")
    assert Path("other/single/single").is_file()


def test_bad_input(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch = ("data", "fetch")
    assert error_of(capsys, *fetch, "singel").startswith("unknown corpus 'singel': did you mean 'single'?")
    assert "gone.zip" in error_of(capsys, *fetch, "single", "--from", "gone.zip")
    Path("wrong").write_bytes(b"x" * len(SINGLE))
    assert "SHA-256" in error_of(capsys, *fetch, "single", "--from", "wrong")
    assert error_of(capsys, *fetch).startswith("NAME is missing")


def test_a_corpus_can_be_evaluated_by_name(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_model(elsewhere / "m")
    assert "fastslow data fetch triple" in error_of(capsys, "evaluate", model, "triple")
    for name, data in TRIPLE.items():
        Path(name).write_bytes(data)
    output_of(capsys, "data", "fetch", "triple", "--from", elsewhere)
    found = json.loads(output_of(capsys, "evaluate", model, "triple", "--part", "valid", "--json"))
    assert found["symbols"] == len(TRIPLE["triple.valid.txt"]) - 1
    char = json.loads(output_of(capsys, "evaluate", model, "triple", "--protocol", "char", "--json"))
    assert char["symbols"] == len(TRIPLE["triple.test.txt"]) - 2 * 80 - 1
    assert "unknown protocol of triple 'chars'" in error_of(capsys, "evaluate", model, "triple", "--protocol", "chars")
