"""The benchmark as a command runs it, at sizes of no interest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastslow.bench import cpu, gpu, run, run_bench, tables
from fastslow.bench.pages import PageError
from fastslow.bench.shapes import PTB
from fastslow.state import state_tensors
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


def test_gpu_section_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code, with the window engine in place of the recorded one and calls in place of replays."""
    device = torch.device("cpu")
    monkeypatch.setattr(gpu, "FAST_ROUNDS", (2, 2))
    ceiling: dict[str, Any] = gpu.ceilings(device, seconds=0.0, size=64)
    assert min(ceiling.values()) > 0
    slow = [(gpu.LOOP, torch.bfloat16), (gpu.LOOP, torch.float32)]
    rows = list(gpu.updates([TINY], 0.0, ceiling, device, lambda line: None, ["window", "triton"], slow))
    done = {(row["engine"], row["precision"]): row for row in rows if "refused" not in row}
    assert done["window", "fp32"]["of_lstm"] > 0
    assert done["reference", "bf16"]["of_loop"] == 1.0
    assert done["window", "fp32"]["microseconds_a_dependent_step"] == pytest.approx(
        1e6 * done["window", "fp32"]["seconds"] / 24
    )
    refused = {(row["engine"], row["precision"]): row["refused"] for row in rows if "refused" in row}
    assert "autocast" in refused["window", "bf16"]
    assert "CUDA" in refused["triton", "fp32"]
    machine = {"device": "a GPU", "cuda": "12", "processor": "p", "threads": 1, "cores": 1, "vectors": "v"}
    machine |= {"torch": "2", "python": "3", "compiler": None, "fastslow": "0", "date": "today"}
    text = tables.report({"machine": machine, "gpu": {"ceilings": ceiling, "updates": rows}})
    assert text.startswith("a GPU (CUDA 12)")
    assert "window fp32" in text


@pytest.mark.parametrize("name", ["window", gpu.LSTM, gpu.LOOP])
def test_updates_learn_and_carry_their_state(name: str) -> None:
    """Each update is a real one: the parameters move, and the next begins where it ended."""
    torch.manual_seed(0)
    seen = []
    original = gpu.Network.forward

    def forward(self: gpu.Network, tokens: torch.Tensor, state: Any) -> Any:
        seen.append((self.logits.weight.detach().clone(), [leaf.clone() for leaf in state_tensors(state)]))
        return original(self, tokens, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu.Network, "forward", forward)
        update = gpu.training_update(name, torch.float32, TINY, torch.device("cpu"))
        for _ in range(2):
            update()
    (before, start), (after, carried) = seen
    assert not torch.equal(before, after)
    assert not any(leaf.any() for leaf in start)
    assert all(leaf.any() for leaf in carried)


def test_quick_shapes_are_the_full_ones_shortened() -> None:
    assert replace(run.QUICK_CPU_SHAPES[0], steps=PTB.steps) == PTB
