"""Penn Treebank at the paper's sizes: what is planned, and the whole way with tiny networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments.report.plan import TABLES
from experiments.report.records import Record, read_records

from experiments import ptb
from fastslow.evaluation.bpc import CharProtocol, evaluate
from fastslow.evaluation.compare import save_nats
from fastslow.evaluation.dynamic import DynamicEvaluation, DynamicSettings, evaluate_dynamic, gradient_statistics
from fastslow.lm import CharLM
from fastslow.storage import read_json, write_json
from fastslow.training import find_preset
from tests.experiments.texts import LINES, write_texts

TINY: dict[str, Any] = {"max_updates": 6, "batch": 4, "window": 10, "validate_every": 3, "warmup": 1, "hidden_size": 8}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_texts(tmp_path)


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
    models = [CharLM.from_pretrained(Path("out") / name, device="cpu") for name in ptb.PAIR]
    text = (data / "test.txt").read_bytes()
    assert records["ptb-pair-cpu"].mean("raw") == pytest.approx(evaluate(models, text).bpc, abs=1e-5)
    statistics = [gradient_statistics(lm, (data / "train.txt").read_bytes()) for lm in models]
    adapted = read_json(Path("out/scores/ptb-pair-cpu-dynamic.json"), what="it")
    settings = [DynamicSettings.from_json(how) for how in adapted["dynamic"]]
    together = evaluate_dynamic(models, text, statistics, settings)
    assert adapted["bpc"] == pytest.approx(together.bpc, abs=1e-4)
    assert adapted["protocol"] == together.protocol
    pair, one = records["ptb-pair-cpu"], records["ptb-fs-lstm-2-cpu"]
    assert pair.parameters == one.parameters + records["ptb-fs-lstm-4-cpu"].parameters
    for name, called in ptb.PACKAGED.items():
        lm = CharLM.from_pretrained(Path("weights") / called)
        assert lm.num_parameters == records[name].parameters
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.json")}
    assert ptb.main(given) == 0  # nothing is made again
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.json")} == before


def test_the_packaged_weights_are_scored_as_their_runs(tmp_path: Path) -> None:
    scores = ptb.Scores(tmp_path, "ptb", packaged=True)
    rows = [row for row in ptb.ROWS if row.dynamic]
    assert scores.job(rows[0]).arguments[:3] == ("evaluate", "ptb-fs-lstm-2", "ptb")
    assert "--dynamic" in scores.job(rows[0]).arguments
    (tmp_path / "scores").mkdir()
    losses, text = [], LINES[: LINES.index(b"\n", 280) + 1]
    for row, rate in zip(rows[:2], (1e-4, 3e-4), strict=True):
        losses.append(np.random.default_rng(len(row.row)).random(len(text) - 1).astype(np.float32))
        nats = float(losses[-1].sum())
        how = (DynamicSettings(rate=rate, decay=0.02),)
        one = DynamicEvaluation(nats, len(text) - 1, 1, 0, 1, 5.0, CharProtocol(nats, 250), losses[-1], settings=how)
        write_json(scores.of(row), one.to_json(), what="it")
        save_nats(scores.nats(row), one)
    pair = rows[2]
    scores.combine(pair, text)
    mean = np.exp(-np.stack(losses).astype(np.float64)).mean(axis=0)
    record = ptb.record_of(pair, scores)
    assert record.mean("raw") == pytest.approx(-np.log2(mean).sum() / (len(text) - 1))
    assert record.parameters == 7_225_050 + 6_561_050
    assert record.scores[0].seeds == (1, 1)
    assert record.model == "the pair, dynamic evaluation"
    assert record.evaluation.endswith("after each of the segments of 50 symbols")
    assert record.note.endswith("; rate 0.0001, decay 0.02; rate 0.0003, decay 0.02")
    assert Record.from_json(record.to_json(), "it") == record
