"""`experiments.logs`: the area under the curve, the baselines, and the whole of it on a small made-up log."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments import logs
from fastslow.lm import ModelOptions


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=20))
def test_the_area_counts_pairs(rows: list[tuple[int, bool]]) -> None:
    odd, normal = [v for v, alert in rows if alert], [v for v, alert in rows if not alert]
    found = logs.area(np.array([float(v) for v, _ in rows]), np.array([a for _, a in rows], dtype=bool))
    if not odd or not normal:
        assert math.isnan(found)
        return
    pairs = [(a > n) + 0.5 * (a == n) for a in odd for n in normal]
    assert found == pytest.approx(sum(pairs) / len(pairs))


def test_labels_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"- 1 fine\r\nKERN 2 bad\r\n- 3 fine\r\n- 4\r\n")
    lines, alerts = logs.read_log(path)
    assert lines == [b"1 fine", b"2 bad", b"3 fine", b"4"]
    assert alerts.tolist() == [False, True, False, False]


@pytest.mark.parametrize("raw", [b"- a\n- b\nalone\n- d\n", b"- a\n- b\n"])
def test_logs_that_are_none(raw: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_bytes(raw)
    assert logs.main([str(tmp_path / "log")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_baselines_know_what_came_before() -> None:
    first, second = (
        [b"the quick brown fox jumps over"] * 3,
        [b"the quick brown fox jumps over", b"sphinx of black quartz"],
    )
    found = {name: score(first, second) for name, score in logs.BASELINES.items()}
    assert found["line length"] == [30.0, 22.0]
    assert found["gzip, the line alone"][0] > found["gzip, the line alone"][1]
    for name in ("gzip after the first half", "gzip after all lines before", "gzip after the first half, per byte"):
        assert found[name][0] < found[name][1], name


def test_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_bytes(
        b"".join(b"- %d all is well\r\n" % (i % 10) for i in range(120)) + b"BAD core dumped\r\n- 1 all is well\r\n"
    )
    small = ModelOptions(embedding_size=4, hidden_size=12, slow_size=6)
    monkeypatch.setattr(logs, "MODEL", small)
    monkeypatch.setattr(
        logs, "RECIPE", replace(logs.RECIPE, batch=2, window=16, max_updates=40, valid_streams=2, warmup=2)
    )
    monkeypatch.setattr(logs, "default_model", lambda: None)
    out = tmp_path / "out"
    assert logs.main([str(log), "--out", str(out), "--dry-run"]) == 0
    assert not out.exists()
    assert logs.main([str(log), "--out", str(out), "--updates", "40"]) == 0
    record = json.loads((out / "auc.json").read_text())
    assert record["alerts"] == [0, 1]
    assert record["auc"]["FS-LSTM trained on the first half: bits per byte of the line"] == 1.0
    assert b"BAD" not in (out / "second.txt").read_bytes()
    assert (out / "auc.md").read_text() in capsys.readouterr().out
