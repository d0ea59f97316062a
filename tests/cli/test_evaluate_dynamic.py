from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastslow.cli import evaluate, main
from fastslow.data.text import Splits, Text
from tests.cli.command import TEXT, TINY, error_of, output_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained runs on one text."""
    folder = tmp_path_factory.mktemp("trained")
    text = folder / "tables.txt"
    text.write_bytes(TEXT)
    for seed in (1, 2):
        arguments = [text, *TINY, "--max-updates", 5, "--seed", seed, "--out", folder / "runs" / str(seed)]
        assert main(["train", *map(str, arguments)]) == 0
    return folder / "runs"


@pytest.fixture
def runs(trained: Path, elsewhere: Path) -> list[str]:
    """Copies, to write beside."""
    shutil.copytree(trained, elsewhere / "runs")
    return ["runs/1", "runs/2"]


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output_of(capsys, "evaluate", *arguments, "--json", "--backend", "reference"))
    return found


def test_dynamic_evaluation_is_tuned_once_and_kept(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    static = evaluated(capsys, runs[0])
    found = evaluated(capsys, runs[0], "--dynamic", "--segment", 10)
    assert found["bpc"] < static["bpc"]
    assert found["symbols"] == static["symbols"]
    assert "dynamic evaluation: the weights are updated after each of the segments of 10 symbols" in found["protocol"]
    assert {path.name for path in Path(runs[0]).glob("dynamic.*")} == {"dynamic.json", "dynamic.safetensors"}
    stored = json.loads((Path(runs[0]) / "dynamic.json").read_text())["tuned"]
    assert found["dynamic"] == [stored["settings"]]
    assert min(trial["bpc"] for trial in stored["trials"]) < stored["static_bpc"]

    before = (Path(runs[0]) / "dynamic.json").stat().st_mtime_ns
    assert evaluated(capsys, runs[0], "--dynamic", "--segment", 10)["bpc"] == found["bpc"]
    assert (Path(runs[0]) / "dynamic.json").stat().st_mtime_ns == before
    # The run is what it was.
    assert evaluated(capsys, runs[0])["bpc"] == static["bpc"]


def test_an_ensemble_adapts_by_settings_given(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--dynamic", "--rate", "1e-3", "--decay", "0.01", "--segment", "10"]
    found = evaluated(capsys, *runs, *given)
    assert found["models"] == 2
    assert [(s["rate"], s["decay"], s["segment"]) for s in found["dynamic"]] == [(1e-3, 0.01, 10)] * 2
    assert not (Path(runs[0]) / "dynamic.json").exists()
    told = output_of(capsys, "evaluate", *runs, *given, "--backend", "reference")
    assert told.startswith(f"{found['bpc']:.4f} bits per character")


def test_a_model_without_its_run_is_tuned_on_the_corpus(
    runs: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `fastslow evaluate ptb-fs-lstm-2 ptb --dynamic` in a clone."""
    rows = b" the cat sat on the mat \n the dog ran to the man \n" * 15
    splits = Splits(Text.of(rows, "train"), Text.of(rows[:100], "valid"), Text.of(rows[:150], "test"))
    monkeypatch.setattr(evaluate, "load_corpus", lambda name, protocol: SimpleNamespace(splits=splits))
    Path("model").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(runs[0]) / name, Path("model") / name)
    static = evaluated(capsys, "model", "ptb")
    found = evaluated(capsys, "model", "ptb", "--dynamic", "--segment", 10)
    assert found["bpc"] < static["bpc"]
    assert {path.name for path in Path("runs/model").iterdir()} == {"dynamic.json", "dynamic.safetensors"}
    assert {path.name for path in Path("model").iterdir()} == {"config.json", "model.safetensors"}
    before = (Path("runs/model") / "dynamic.json").stat().st_mtime_ns
    assert evaluated(capsys, "model", "ptb", "--dynamic", "--segment", 10)["bpc"] == found["bpc"]
    assert (Path("runs/model") / "dynamic.json").stat().st_mtime_ns == before
    # Where nothing can be stored it is computed all the same.
    shutil.rmtree("runs/model")
    Path("runs/model").write_bytes(b"")
    assert evaluated(capsys, "model", "ptb", "--dynamic", "--segment", 10)["bpc"] == found["bpc"]
    assert Path("runs/model").read_bytes() == b""


def test_losses_are_kept_and_compared(runs: list[str], text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = evaluated(capsys, runs[0], text, "--per-symbol", "first.npy")
    nats = np.load("first.npy")
    assert nats.shape == (len(TEXT) - 1,)
    assert nats.sum() == pytest.approx(first["nats"], rel=1e-5)
    second = evaluated(capsys, runs[1], text, "--against", "first.npy")
    assert second["difference"]["value_bpc"] == pytest.approx(second["bpc"] - first["bpc"], abs=1e-5)
    told = output_of(capsys, "evaluate", runs[0], text, "--against", "first.npy", "--backend", "reference")
    assert "not distinguishable from chance" in told


def test_bad_input(runs: list[str], model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "evaluate", model, text, "--rate", "1", "--decay", "1")
    assert "--rate and --decay need --dynamic" in error
    assert "give both --rate and --decay" in error_of(capsys, "evaluate", model, text, "--dynamic", "--rate", "1")
    assert "in one stream" in error_of(capsys, "evaluate", model, text, "--dynamic", "--streams", "2")
    assert "--segment must be at least 1" in error_of(capsys, "evaluate", model, text, "--dynamic", "--segment", "0")
    error = error_of(capsys, "evaluate", model, text, "--dynamic")
    assert error.startswith("--dynamic needs the gradient statistics of its training text: ")
    assert "cannot read the losses gone.npy" in error_of(capsys, "evaluate", model, text, "--against", "gone.npy")
    Path("short.npy").write_bytes(b"")
    assert "not a NumPy file" in error_of(capsys, "evaluate", model, text, "--against", "short.npy")
    evaluated(capsys, runs[0], "--per-symbol", "test.npy")
    error = error_of(capsys, "evaluate", runs[0], text, "--against", "test.npy")
    assert "use the same text" in error
