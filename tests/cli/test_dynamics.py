from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from fastslow.cli.app import main
from fastslow.data.alphabet import Alphabet
from fastslow.lm import CharLM, ModelOptions

TEXT = b"bead cafe fab\ndeaf face bed cab dad\n" * 20
SHORT = ["--lags", "4", "--streams", "2", "--windows", "1", "--targets", "2", "--steps", "20", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of three networks, one of them with two seeds, and a text."""
    path = tmp_path_factory.mktemp("dynamics")
    (path / "text.txt").write_bytes(TEXT)
    for name, kind, seed in (
        ("fs", "fs-lstm", 0),
        ("fs2", "fs-lstm", 1),
        ("stack", "stacked", 0),
        ("seq", "sequential", 0),
    ):
        torch.manual_seed(seed)
        options = ModelOptions(architecture=kind, embedding_size=4, hidden_size=5, depth=2)  # type: ignore[arg-type]
        CharLM(options.with_alphabet(Alphabet.of(TEXT))).save_pretrained(path / name)
    return path


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_data_figures_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study"
    assert main(["dynamics", "fs", "fs2", "stack", "seq", "text.txt", "--out", str(out), *SHORT]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "dynamics.html",
        "dynamics.json",
        "gradient-norms.csv",
        "gradient-norms.png",
        "gradient-norms.svg",
        "memory-change.csv",
        "memory-change.png",
        "memory-change.svg",
        "word-positions.csv",
        "word-positions.png",
        "word-positions.svg",
    ]
    told = capsys.readouterr().out
    assert "FS-LSTM-2: " in told
    assert "over 2 models" in told
    value = json.loads((out / "dynamics.json").read_text())
    assert [(g["label"], len(g["models"])) for g in value["groups"]] == [
        ("FS-LSTM-2", 2),
        ("stacked LSTM-2", 1),
        ("sequential LSTM-2", 1),
    ]
    assert value["settings"]["lags"] == 4
    assert len(value["findings"]) == 8
    # Again into the same folder.
    assert main(["dynamics", "fs", "text.txt", "--out", str(out), *SHORT]) == 0


def test_without_matplotlib_the_data_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["dynamics", "fs", "text.txt", "--out", str(tmp_path / "study"), *SHORT]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fastslow: error: figures need matplotlib, which is not installed: pip install")
    assert error.endswith(f"the data is in {tmp_path / 'study'}")
    assert sorted(path.suffix for path in (tmp_path / "study").iterdir()) == [".csv", ".csv", ".csv", ".json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text.txt", "--out", "new"], "name at least one run"),
        (["fs", "text.txt"], "out"),
        (["fs", "fs", "text.txt", "--out", "new"], "fs is named twice"),
        (["none/", "text.txt", "--out", "new"], "there is no run none/"),
        (["fs", "none.txt", "--out", "new"], "no such file"),
        (["fs", "stack", "--out", "new"], "stack is a folder: name the text last, after the runs"),
        (["fs", "text.txt", "--out", "text.txt"], "text.txt is a file"),
        (["fs", "text.txt", "--out", "stack"], "is not empty and contains no study"),
        (["fs", "text.txt", "--out", "new", "--lags", "0"], "--lags must be at least 1"),
        (["fs", "text.txt", "--out", "new", "--lags", "1000"], "is too short"),
    ],
)
def test_mistakes_take_a_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dynamics", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fastslow: error: ")
    assert message in error
    assert not Path("new").exists()
