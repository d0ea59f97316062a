"""`experiments/speed.py`: what is planned, and the whole way with tiny networks."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from experiments.report.plan import TABLES
from experiments.report.records import read_records

from experiments import speed
from fastslow.lm import ModelOptions
from fastslow.training import TrainConfig, find_preset
from tests.experiments.texts import write_texts

TINY: dict[str, Any] = {"batch": 4, "window": 10, "hidden_size": 8, "slow_size": 6, "max_time": 2.0, "warmup": 1}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_texts(tmp_path)


def test_the_rows_are_the_plans() -> None:
    planned = next(table for table in TABLES if table.name == "ptb-speed")
    assert [row.name for row in planned.rows] == [f"ptb-speed-{minutes}" for minutes in speed.RECIPES]
    known = {field.name for field in (*fields(TrainConfig), *fields(ModelOptions))}
    for preset, changes in speed.RECIPES.values():
        assert find_preset(preset).corpus == "ptb"
        assert preset in speed.WHOLE
        assert set(changes) <= known


def test_a_dry_run_trains_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(["--data", str(data), "--out", str(data / "out"), "--dry-run", "--jobs", "2"]) == 0
    assert capsys.readouterr().out == "4 of 4 runs left, at most 10.1 hours of this machine\n"
    assert not (data / "out").exists()
    assert speed.main(["--data", str(data / "gone")]) == 2
    assert "must be a folder with train.txt" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_way(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(speed, "CHANGES", TINY)
    monkeypatch.chdir(data)
    assert speed.main(["--data", str(data), "--minutes", "6", "30", "--recipe", "6", "--jobs", "2", "--record"]) == 0
    told = capsys.readouterr().out
    first, second = read_records(Path("experiments/records"))
    assert {first.row, second.row} == {"ptb-speed-6", "ptb-speed-30"}
    assert first.command == "python -m experiments.speed --recipe 6"
    assert first.note == "the recipe for 6 minutes"
    assert first.machine.endswith(", 1 threads")
    assert f"{first.mean('raw'):.4f}" in told
    assert (Path("runs/speed/table.md")).read_text().count("\n") == 4
