"""`experiments/shakespeare.py`: what is planned, and the whole way with a tiny network."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from experiments.report.plan import TABLES
from experiments.report.records import read_records

from experiments import shakespeare
from fastslow.lm import ModelOptions
from fastslow.training import TrainConfig, find_preset

TINY: dict[str, Any] = {"batch": 4, "window": 10, "hidden_size": 8, "slow_size": 6, "max_time": 2.0, "warmup": 1}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(b"".join(b"ROMEO:\nIs the day %d so young?\n\n" % (i % 17) for i in range(300)))
    return path


def test_the_rows_are_the_plans() -> None:
    planned = next(table for table in TABLES if table.name == "shakespeare")
    rows = [f"shakespeare-{minutes}{ending}" for minutes in shakespeare.RECIPES for ending in ("", "-windows")]
    assert [row.name for row in planned.rows] == rows
    find_preset(shakespeare.PRESET)
    known = {field.name for field in (*fields(TrainConfig), *fields(ModelOptions))}
    for changes in shakespeare.RECIPES.values():
        assert set(changes) <= known


def test_a_dry_run_trains_nothing(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--text", str(text), "--out", str(text.parent / "out")]
    assert shakespeare.main([*given, "--dry-run"]) == 0
    assert capsys.readouterr().out == "3 of 3 runs left, 78 minutes of this machine\n"
    assert not (text.parent / "out").exists()
    assert shakespeare.main(["--text", str(text.parent / "gone")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_the_text_is_cut_once(text: Path) -> None:
    texts = shakespeare.parts(text, text.parent / "out")
    assert texts.train.read_bytes() + texts.test.read_bytes() == text.read_bytes()
    assert len(texts.train.read_bytes()) == len(text.read_bytes()) * 9 // 10
    assert texts.valid == texts.test
    before = texts.train.stat().st_mtime_ns
    assert shakespeare.parts(text, text.parent / "out").train.stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_whole_way(text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shakespeare, "CHANGES", TINY)
    monkeypatch.chdir(text.parent)
    assert shakespeare.main(["--text", str(text), "--minutes", "3", "--record"]) == 0
    records = {record.row: record for record in read_records(Path("experiments/records"))}
    stream, windows = records["shakespeare-3"], records["shakespeare-3-windows"]
    assert f"| {stream.mean('bytes'):.4f} | {windows.mean('bytes'):.4f} |" in capsys.readouterr().out
    assert "one continuous stream" in stream.evaluation
    assert "streams, each from a zero state" in windows.evaluation
