"""The benchmark as a command runs it, at sizes of no interest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastslow.bench import cpu, run, run_bench, tables
from fastslow.bench.pages import PageError
from fastslow.bench.shapes import PTB
from tests.bench.test_measures import TINY

END = "<!-- measured: end -->"
GPU = f"<!-- measured: bench gpu -->\nolder\n{END}\n"
PAGE = f"# Performance\n\n<!-- measured: bench cpu -->\nold\n{END}\n\n{GPU}"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small network everywhere, and no processes of their own."""
    monkeypatch.setattr(run, "QUICK_CPU_SHAPES", (TINY,))
    monkeypatch.setattr(cpu, "PTB", TINY)
    monkeypatch.setattr(cpu, "SMALL", replace(TINY, name="tiny too"))
    monkeypatch.setattr(cpu, "memory", lambda name, shape: 2 * shape.needed_bytes)
    monkeypatch.setattr(cpu, "first_use", lambda name: {"new": 12.5, "known": 0.25})


def test_cpu(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, stored = tmp_path / "performance.md", tmp_path / "runs" / "bench.json"
    page.write_text(PAGE)
    results = run_bench(quick=True, json=stored, page=page, seconds=0.0, engines=["window", "triton"])
    assert json.loads(stored.read_text()) == json.loads(json.dumps(results))
    rows = {row["engine"]: row for row in results["cpu"]["windows"]}
    assert list(rows) == ["window", "reference", "nn.LSTM", "matrix products alone", "triton"]
    assert rows["reference"]["of_loop"] == rows["nn.LSTM"]["of_lstm"] == 1.0
    assert rows["matrix products alone"]["of_floor"] == 1.0
    window = rows["window"]
    assert window["gflops_per_second"] == pytest.approx(TINY.flops / window["seconds"] / 1e9)
    assert window["peak_bytes"] == 2 * window["needed_bytes"]
    assert "CUDA" in rows["triton"]["refused"]
    steps = [row for row in results["cpu"]["streaming"] if row["shape"] == "tiny"]
    assert {"layer.step", "reference", "matrix-vector products alone"} <= {row["engine"] for row in steps}
    printed = capsys.readouterr().out
    assert "- triton: " in printed
    assert "| tiny, B 3, T 4 | window" in printed
    text = page.read_text()
    assert printed.strip() in text
    assert f"old\n{END}" not in text
    assert GPU in text


def test_stored_results_fill_a_page(tiny: None, tmp_path: Path) -> None:
    page, stored = tmp_path / "performance.md", tmp_path / "bench.json"
    page.write_text(PAGE)
    results = run_bench(quick=True, json=stored, seconds=0.0, engines=["window"])
    tables.main([str(page), str(stored)])
    once = page.read_text()
    assert tables.report(results).strip() in once
    tables.main([str(page), str(stored)])
    assert page.read_text() == once
    page.write_text("# A page without markers\n")
    with pytest.raises(PageError, match="bench cpu"):
        tables.main([str(page), str(stored)])


def test_the_page_of_the_project_has_its_places() -> None:
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    assert "<!-- measured: bench cpu -->" in page
    assert "<!-- measured: bench gpu -->" in page


@pytest.mark.parametrize(("device", "message"), [("meta", "cpu or cuda"), ("nonsense", "cpu or cuda")])
def test_devices(device: str, message: str) -> None:
    with pytest.raises(run.BenchError, match=message):
        run_bench(device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_here() -> None:
    with pytest.raises(run.BenchError, match="no CUDA device; use cpu"):
        run_bench(device="cuda")


def test_quick_shapes_are_the_full_ones_shortened() -> None:
    assert replace(run.QUICK_CPU_SHAPES[0], steps=PTB.steps) == PTB
