"""Penn Treebank at the paper's sizes: what is planned, and the whole way with tiny networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from experiments.report.plan import TABLES
from experiments.report.records import read_records

from experiments import ptb
from fastslow.lm import CharLM
from fastslow.training import find_preset

LINES = b"".join(b" the %d times %d is %d \n" % (i % 13, i % 7, (i % 13) * (i % 7)) for i in range(200))
TINY: dict[str, Any] = {"max_updates": 6, "batch": 4, "window": 10, "validate_every": 3, "warmup": 1, "hidden_size": 8}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for part, text in (("train", LINES), ("valid", LINES[:512]), ("test", LINES[:288])):
        (tmp_path / f"{part}.txt").write_bytes(text[: text.rindex(b"\n") + 1])
    return tmp_path


def test_the_rows_are_the_plans() -> None:
    planned = next(table for table in TABLES if table.name == "ptb-ours")
    assert [row.row for row in ptb.ROWS] == [row.name for row in planned.rows]
    assert {run for row in ptb.ROWS for run in row.runs} <= set(ptb.RUNS)
    assert {row.command for row in planned.rows} == {ptb.command()}
    for preset, _ in ptb.RUNS.values():
        assert find_preset(preset).corpus == "ptb"


def test_a_dry_run_only_lists(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data", str(data), "--out", str(data / "out"), "--dry-run", "--only", "ptb-fs-lstm-4-cpu"]
    assert ptb.main(given) == 0
    assert capsys.readouterr().out.splitlines() == [
        "to do: ptb-fs-lstm-4-cpu",
        "to do: ptb-fs-lstm-4-cpu-score",
        "to do: ptb-fs-lstm-4-cpu-dynamic-score",
    ]
    assert not (data / "out").exists()
    assert ptb.main(["--data", str(data / "nowhere")]) == 2
    assert capsys.readouterr().err.endswith("--data must be a folder with train.txt, valid.txt and test.txt\n")


@pytest.mark.slow
def test_the_whole_way(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ptb, "CHANGES", TINY)
    monkeypatch.chdir(data)
    given = ["--data", str(data), "--out", "out", "--jobs", "2", "--record", "--package"]
    assert ptb.main(given) == 0, capsys.readouterr()
    records = {record.row: record for record in read_records(Path("experiments/records"))}
    assert set(records) == {row.row for row in ptb.ROWS}
    pair, one = records["ptb-pair-cpu"], records["ptb-fs-lstm-2-cpu"]
    assert pair.parameters == one.parameters + records["ptb-fs-lstm-4-cpu"].parameters
    for name, called in ptb.PACKAGED.items():
        lm = CharLM.from_pretrained(Path("weights") / called)
        assert lm.num_parameters == records[name].parameters
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.json")}
    assert ptb.main(given) == 0  # nothing is made again
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.json")} == before
