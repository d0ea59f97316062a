"""`experiments/ptb_cpu.py` and `experiments/study.py` end to end, with a network and recipe of a second."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from experiments.report.plan import TABLES
from experiments.report.records import read_records
from experiments.report.table import results_markdown

from fastslow.lm import ModelOptions
from fastslow.training import TrainConfig, find_preset
from tests.experiments.texts import LINES, write_texts

ROWS = {table.name: [row.name for row in table.rows] for table in TABLES}


@pytest.fixture
def script() -> Any:
    from experiments import ptb_cpu

    return ptb_cpu


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return write_texts(folder)


def test_the_rows_are_the_plans(script: Any) -> None:
    assert [f"ptb-cpu-recipe-{name}" for name in script.RECIPES] == ROWS["ptb-cpu-recipes"]
    assert list(script.NETWORKS) == ROWS["ptb-cpu-equal"]


def test_each_recipe_changes_something_there_is(script: Any) -> None:
    preset = find_preset("ptb-cpu")
    known = {field.name: getattr(preset.train, field.name) for field in fields(TrainConfig)}
    known |= {field.name: getattr(preset.model, field.name) for field in fields(ModelOptions)}
    for name, changes in script.RECIPES.items():
        assert bool(changes) == (name != "base")
        assert all(option in known for option in changes), name
        assert not changes or any(known[option] != value for option, value in changes.items()), name


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "2 trainings of 25,000 updates, 0 of them complete, 1 at a time"),
        (["--compare", "--jobs", "2", "--seeds", "1", "2"], "6 trainings of 6 minutes, 0 of them complete, 2 at"),
        (["--recipes", "--only", "jitter", "--minutes", "1"], "4 trainings of 1 minutes"),
    ],
)
def test_the_cost_comes_first(
    script: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    out = tmp_path / "out"
    assert script.main([*arguments, "--data", str(data), "--out", str(out), "--dry-run"]) == 0
    assert told in capsys.readouterr().out
    assert not out.exists()


def test_bad_input(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--data", str(tmp_path), "--dry-run"]) == 2
    assert capsys.readouterr().err.endswith("--data must be a folder with train.txt, valid.txt and test.txt\n")
    for arguments in (["--only", "jitter"], ["--jobs", "0"], ["--seeds", "1", "1"], ["--compare", "--recipes"]):
        with pytest.raises(SystemExit):
            script.main(arguments)


def test_commands_name_what_differs_from_the_defaults(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for mode in ("headline", "comparison", "recipes"):
        monkeypatch.setattr(script, mode, lambda options: told.append(script.command(options)))
    script.main(["--data", "somewhere", "--out", "there"])
    script.main(["--compare", "--jobs", "2", "--minutes", "12"])
    script.main(["--recipes", "--seeds", "1", "2"])
    script.main(["--recipes", "--seeds", "3"])
    assert told == [
        "python -m experiments.ptb_cpu",
        "python -m experiments.ptb_cpu --compare --minutes 12 --jobs 2",
        "python -m experiments.ptb_cpu --recipes",
        "python -m experiments.ptb_cpu --recipes --seeds 3",
    ]


# ---------------------------------------------------------------------- end to end


@pytest.fixture
def tiny(script: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script with trainings of a second."""
    small = {"embedding_size": 4, "hidden_size": 8, "batch": 4, "window": 10, "checkpoint_seconds": 0}
    limits = {"epochs": 1, "valid_streams": 4, "test_streams": 4, "precision": "fp32", "tensorboard": False}
    real = script.training

    def training(run: Path, preset: str, texts: Any, **changes: Any) -> Any:
        slow = {"slow_size": 5} if preset == "ptb-cpu" else {}
        kept = {name: value for name, value in changes.items() if name not in ("hidden_size", "slow_size", "jitter")}
        return real(run, preset, texts, **{**kept, **small, **limits, **slow})

    monkeypatch.setattr(script, "training", training)
    return script


def run(script: Any, data: Path, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    given = ["--data", str(data), "--out", str(tmp_path / "out"), "--record", str(tmp_path / "records"), "--jobs", "2"]
    assert script.main([*given, "--minutes", "1", *arguments]) == 0
    found: dict[str, Any] = json.loads((tmp_path / "out" / "table.json").read_text())
    return found


@pytest.mark.slow
def test_the_headline(tiny: Any, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = run(tiny, data, tmp_path)
    records = {record.row: record for record in read_records(tmp_path / "records")}
    assert set(records) == set(ROWS["ptb-cpu"]) == {record["row"] for record in found["records"]}
    single, pair = records["ptb-cpu"], records["ptb-cpu-pair"]
    assert [score.seeds for score in single.scores] == [(1,), (2,)]
    assert [score.seeds for score in pair.scores] == [(1, 2)]
    assert pair.parameters == 2 * single.parameters == 2 * records["ptb-cpu-dynamic"].parameters
    assert pair.scores[0].bpc.keys() == {"raw", "char"}
    assert pair.mean("raw") < single.mean("raw")  # type: ignore[operator]
    assert "dynamic evaluation" in records["ptb-cpu-pair-dynamic"].evaluation
    assert "fitted on validation text" in records["ptb-cpu-pair-temperature"].note
    assert "not run" not in results_markdown(list(records.values())).split("## ")[2].split("\n\n| model")[1]
    rows = list(csv.DictReader((tmp_path / "out" / "curve.csv").read_text().splitlines()))
    assert {row["seed"] for row in rows} == {"1", "2"}
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        assert (tmp_path / "out" / f"curve.{suffix}").read_bytes().startswith(start)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "scores").glob("*static.json")}
    run(tiny, data, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
def test_the_comparison(tiny: Any, data: Path, tmp_path: Path) -> None:
    (data / "test.txt").write_bytes(LINES)  # longer than the blocks that are drawn
    found = run(tiny, data, tmp_path, "--compare", "--seeds", "1", "2")
    records = read_records(tmp_path / "records")
    assert {record.row for record in records} == set(ROWS["ptb-cpu-equal"])
    bpc = {record.row: [score.bpc["raw"] for score in record.scores] for record in records}
    ours, *others = ROWS["ptb-cpu-equal"]
    assert set(found["differences"]) == set(others)
    for other in others:
        each = [a - b for a, b in zip(bpc[ours], bpc[other], strict=True)]
        assert found["differences"][other]["each_seed"] == pytest.approx(each, abs=1e-5)
        assert found["differences"][other]["bpc"] == pytest.approx(sum(each) / 2, abs=1e-5)
        assert found["differences"][other]["low"] < found["differences"][other]["high"]


@pytest.mark.slow
def test_the_recipes(tiny: Any, data: Path, tmp_path: Path) -> None:
    found = run(tiny, data, tmp_path, "--recipes", "--only", "clip-1", "no-random-offset")
    assert list(found["base"]["changes"]) == []
    records = {record.row: record for record in read_records(tmp_path / "records")}
    assert len(records) == 3
    base, other = found["base"]["bpc"], found["clip-1"]["bpc"]
    assert found["clip-1"]["less_base"] == pytest.approx([b - a for a, b in zip(base, other, strict=True)])
    assert [score.bpc for score in records["ptb-cpu-recipe-clip-1"].scores] == [{"validation": bpc} for bpc in other]
    assert "less the base recipe's" in records["ptb-cpu-recipe-clip-1"].note
    assert "less" not in records["ptb-cpu-recipe-base"].note
    for run_ in (tmp_path / "out").glob("*-1"):
        assert json.loads((run_ / "result.json").read_text())["test"] is None


@pytest.mark.slow
def test_the_study(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    given = ["--data", str(data), "--out", str(out), "--minutes", "0.03", "--seeds", "1", "--jobs", "2"]
    (data / "train.txt").write_bytes(LINES * 4)
    (data / "test.txt").write_bytes(LINES)
    command = [sys.executable, "-m", "experiments.study", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "FS-LSTM-4" in (out / "study.md").read_text()
    assert (out / "dynamics" / "dynamics.html").is_file()
    assert len(list((out / "dynamics").glob("*.png"))) == 3
    assert sorted(path.name for path in (out / "logs").iterdir()) == [
        "study-small-fs-lstm-4-1.log",
        "study-small-sequential-lstm-5-1.log",
        "study-small-stacked-lstm-5-1.log",
    ]
