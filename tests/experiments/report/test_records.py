from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiments.report.__main__ import main
from experiments.report.plan import TABLES, find_row
from experiments.report.records import Record, RecordError, Score, read_records, record_of_runs, write_record
from experiments.report.table import duration, results_markdown

from fastslow.errors import FastslowError
from fastslow.training import PRESETS
from tests.training.runs import run

RECORD = Record(
    row="ptb-fs-lstm-2",
    table="ptb",
    model="FS-LSTM-2",
    parameters=7_225_050,
    evaluation="every symbol but the first, one continuous stream",
    scores=(Score((1,), {"raw": 1.19, "char": 1.21}), Score((2,), {"raw": 1.2, "char": 1.23})),
    command="fastslow train --preset ptb-fs-lstm-2",
    machine="a machine",
    seconds=7200.0,
    date="2026-01-31",
    engine="native",
)


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


# ---------------------------------------------------------------------- the plan


def test_the_plan_has_the_papers_figures() -> None:
    paper = {row.name: row.paper_bpc for table in TABLES for row in table.rows if row.paper_bpc}
    assert paper == {
        "ptb-fs-lstm-2": "1.190",
        "ptb-fs-lstm-4": "1.193",
        "ptb-stacked-lstm-2": "1.243",
        "enwik8-fs-lstm-2": "1.290",
        "enwik8-fs-lstm-4": "1.277",
        "enwik8-fs-lstm-4-large": "1.245",
        "enwik8-fs-lstm-4-large-pair": "1.198",
        "study-fs-lstm-4": "1.49",
        "study-stacked-lstm-5": "1.61",
        "study-sequential-lstm-5": "1.58",
    }


def test_the_commands_name_presets_there_are() -> None:
    names = [row.name for table in TABLES for row in table.rows]
    assert len(set(names)) == len(names)
    for table in TABLES:
        for row in table.rows:
            assert row.protocol in table.protocols
            words = row.command.split()
            assert all(words[i + 1] in PRESETS for i, word in enumerate(words) if word == "--preset")
            assert not row.name.startswith("study-small") or row.name in PRESETS


# ---------------------------------------------------------------------- the table


def test_every_row_without_a_record_is_not_run() -> None:
    rows = rows_of(results_markdown([]))
    planned = [row for table in TABLES for row in table.rows]
    data = [row for row in rows if row[0] not in ("model", "---")]
    assert [row[0] for row in data] == [row.model for row in planned]
    assert all(row[3] == "not run" for row in data)
    assert [row[-1] for row in data] == [f"`{row.command}`" for row in planned]


def test_a_row_has_everything_of_its_record() -> None:
    (row,) = [row for row in rows_of(results_markdown([RECORD])) if row[:2] == ["FS-LSTM-2", "7,225,050"]]
    assert row == [
        "FS-LSTM-2",
        "7,225,050",
        "1.190 (raw, 7.2M)",
        "**1.1950** ± 0.0071",
        "**1.2200** ± 0.0141",
        "1, 2",
        "every symbol but the first, one continuous stream",
        "a machine (native)",
        "2.0 h",
        "2026-01-31",
        "`fastslow train --preset ptb-fs-lstm-2`",
    ]


def test_records_beside_the_plan_and_several_of_a_row() -> None:
    new = replace(
        RECORD, row="mine", model="my | model", note="tuned on validation", scores=(Score((1, 2), {"raw": 1.1}),)
    )
    later = replace(RECORD, date="2026-02-01")
    text = results_markdown([RECORD, later, new])
    assert text.count("7,225,050") == 3
    assert "| my \\| model | 7,225,050 |  | **1.1000** |  | 1+2 |" in text
    assert "- my | model: tuned on validation" in text
    assert text == results_markdown([RECORD, later, new])


@pytest.mark.parametrize(("seconds", "told"), [(45.2, "45 s"), (600, "10 min"), (12_240, "3.4 h")])
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told


# ---------------------------------------------------------------------- records


def test_records_come_back_from_their_files(tmp_path: Path) -> None:
    other = replace(RECORD, row="ptb-fs-lstm-4", date="2025-12-01")
    assert write_record(tmp_path / "results", RECORD).name == "ptb-fs-lstm-2.json"
    write_record(tmp_path / "results", other)
    assert read_records(tmp_path / "results") == [other, RECORD]
    assert read_records(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not a record of a result"),
        ({"format_version": 2}, "newer fastslow"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"scores": []}, "has no scores"),
        ({"scores": [{"seeds": [1], "bpc": {"raw": "much"}}]}, "is damaged"),
        ({"scores": [{"seeds": [1], "bpc": {"raw": -1.0}}]}, "is not a number of bits"),
        ({"scores": [{"seeds": [1], "bpc": {"raw": 1}}, {"seeds": [2], "bpc": {"char": 1}}]}, "different protocols"),
        ({"table": "imagenet"}, "a record's table must be one of ptb"),
        ({"note": "two\nlines"}, "must be a line of text"),
        ({"parameters": None}, "is damaged"),
    ],
)
def test_damaged_records(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write_record(tmp_path, RECORD)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FastslowError, match=message):
        read_records(tmp_path)


# ---------------------------------------------------------------------- from runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (3, 4):
        run(folder / str(seed), seed=seed, max_updates=2)
    return [folder / "3", folder / "4"]


def test_a_record_of_runs(runs: list[Path]) -> None:
    found = record_of_runs("study-small-fs-lstm-4", runs, note="a test")
    results = [json.loads((path / "result.json").read_text()) for path in runs]
    assert [score.seeds for score in found.scores] == [(3,), (4,)]
    assert [score.bpc["raw"] for score in found.scores] == [result["test"]["bpc"] for result in results]
    assert found.seconds == pytest.approx(sum(r["seconds"] + r["test"]["seconds"] for r in results))
    assert found.evaluation == results[0]["test"]["protocol"]
    planned = find_row("study-small-fs-lstm-4")
    assert planned is not None
    assert (found.table, found.model, found.command) == ("study-small", "FS-LSTM-4", planned[1].command)
    assert found.parameters == json.loads((runs[0] / "run.json").read_text())["sessions"][0]["parameters"]
    assert found.engine == "reference"
    assert "threads" in found.machine


def test_a_record_of_an_ensemble(runs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "pair.json"
    scored = {
        "bpc": 1.5,
        "protocol": "averaged",
        "seconds": 2.0,
        "char_protocol": {"bpc": 1.6, "nats": 1, "symbols": 1},
    }
    file.write_text(json.dumps(scored))
    found = record_of_runs("pair", runs, evaluation=file, table="ptb", model="two", command="fastslow evaluate A B ptb")
    assert found.scores == (Score((3, 4), {"raw": 1.5, "char": 1.6}),)
    assert found.parameters == 2 * record_of_runs("ptb-fs-lstm-2", runs[:1]).parameters
    assert found.evaluation == "averaged"


def test_runs_of_which_there_is_no_record(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no planned row mine"):
        record_of_runs("mine", runs)
    with pytest.raises(RecordError, match="at least one run"):
        record_of_runs("ptb-fs-lstm-2", [])
    with pytest.raises(FastslowError, match="there is no run"):
        record_of_runs("ptb-fs-lstm-2", [tmp_path / "none"])
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(RecordError, match="is not the output of"):
        record_of_runs("ptb-fs-lstm-2", runs, evaluation=tmp_path / "bad.json")


# ---------------------------------------------------------------------- the command


def test_the_command(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["build"]) == 0
    assert "not run" in Path("RESULTS.md").read_text()
    assert main(["add", "ptb-fs-lstm-2", *map(str, runs)]) == 0
    assert Path("experiments/records/ptb-fs-lstm-2.json").is_file()
    assert main(["build", "--check"]) == 2
    assert "build it again" in capsys.readouterr().err
    assert main(["build"]) == 0
    assert main(["build", "--check"]) == 0
    assert "| 3, 4 |" in Path("RESULTS.md").read_text()
    assert main(["add", "mine", *map(str, runs)]) == 2
    assert capsys.readouterr().err.startswith("fastslow: error: there is no planned row mine")
