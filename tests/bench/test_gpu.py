"""The GPU's table, measured on the CPU: its rows, their order, and what becomes of those that fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fastslow.backends.triton import options
from fastslow.bench import gpu, run, run_bench, tables, updates
from fastslow.bench.shapes import GPU_SHAPES, PTB, SHAPES, SMALL
from fastslow.bench.updates import CEILINGS, COMPILED, LOOP, LSTM, Spec
from fastslow.state import state_tensors
from fastslow.training.graphed import WARMUP
from tests.bench.test_measures import TINY

CPU = torch.device("cpu")
MACHINE = {"device": "a GPU", "cuda": "12", "processor": "p", "threads": 1, "cores": 1, "vectors": "v", "torch": "2"}
MACHINE |= {"python": "3", "compiler": None, "fastslow": "0", "date": "today"}


def made(spec: Spec, **changes: Any) -> dict[str, Any]:
    """A row as `updates` makes it, without measuring."""
    if spec.engine == CEILINGS:
        return {"bf16_tflops_per_second": 100.0, "copy_terabytes_per_second": 2.0, "smallest_kernel_us": 1.5} | changes
    seconds = {LOOP: 0.8, COMPILED: 0.6, LSTM: 0.04}.get(spec.engine, 0.02)
    row = {"rows": 3, "steps": 4, "seconds": seconds, "p95_seconds": seconds, "rounds": 9, "first_seconds": 1.0}
    row |= {"characters_per_second": 12 / seconds, "microseconds_a_dependent_step": 1.0, "peak_bytes": None}
    return row | {"tflops_per_second": 1 / seconds, "weight_bytes_per_second": 1e11} | changes


def test_every_option_of_the_table_is_one_of_the_engine() -> None:
    for changes in gpu.OPTIONS:
        with options.using(**changes) as inside:
            assert inside != options.Options()


def test_what_matters_most_comes_first() -> None:
    specs = gpu.order(GPU_SHAPES, 60.0)
    rows = [(spec.shape, spec.label, spec.precision) for spec in specs]
    assert len(set(rows)) == len(rows)
    for n, shape in enumerate(GPU_SHAPES):
        assert [label for name, label, _ in rows[3 * n : 3 * n + 3] if name == shape.name] == ["triton", LSTM, LOOP]
    assert {precision for _, _, precision in rows[:9]} == {"bf16"}
    first_option = next(n for n, spec in enumerate(specs) if spec.options)
    last_plain = max(n for n, spec in enumerate(specs) if not spec.options and spec.engine != COMPILED)
    assert first_option > last_plain
    assert [spec.engine for spec in specs[-2:]] == [COMPILED, COMPILED]
    assert (PTB.name, "triton, dependent launch", "bf16") in rows
    assert (PTB.name, "triton, dependent launch, own products", "bf16") in rows
    assert (PTB.name, "triton, units per thread 8", "bf16") in rows
    assert all(spec.steps is None and spec.seconds == 6.0 for spec in specs)
    assert [spec.label for spec in specs if spec.kernels] == ["triton"] * len(GPU_SHAPES)
    few = gpu.order([TINY], 1.0, ["window", "reference"])
    assert [(spec.engine, spec.steps) for spec in few[:3]] == [(LSTM, 4), (LOOP, 4), ("window", 4)]
    assert not any(spec.options for spec in few)


def test_a_spec_survives_the_way_to_another_process() -> None:
    spec = Spec("triton", steps=20, options={"units_per_thread": 2}, kernels=True)
    assert Spec.from_json(spec.to_json()) == spec


def test_rows_that_fail_cost_no_other(tmp_path: Path) -> None:
    asked: list[str] = []
    kept: list[dict[str, Any]] = []

    def fails_sometimes(spec: Spec, device: torch.device, timeout: float) -> dict[str, Any]:
        asked.append(spec.label)
        assert timeout == gpu.TIMEOUT_SECONDS
        if spec.engine == CEILINGS or spec.options:
            return {"refused": "failed: CUDA error"}
        return made(spec)

    def keep(found: dict[str, Any]) -> None:
        kept.append(json.loads(json.dumps(found)))

    found = gpu.measure([TINY], 1.0, CPU, lambda line: None, keep=keep, run=fails_sometimes)
    assert asked[:4] == [CEILINGS, "triton", LSTM, LOOP]
    assert [len(one["updates"]) for one in kept] == list(range(len(asked)))
    assert kept[-1] == json.loads(json.dumps(found))
    rows = {(row["engine"], row["precision"]): row for row in found["updates"]}
    assert rows["triton", "bf16"]["of_loop"] == pytest.approx(40)
    assert rows["triton", "bf16"]["of_lstm"] == pytest.approx(2)
    assert rows["triton", "bf16"]["of_product_ceiling"] is None
    assert rows["triton, overlap", "bf16"]["refused"] == "failed: CUDA error"
    text = tables.report({"machine": MACHINE, "gpu": found})
    assert "Ceilings: failed: CUDA error." in text
    assert "| tiny, B 3, T 4 | triton bf16" in text
    assert "- triton, overlap bf16: failed: CUDA error (1 shapes)" in text


def test_shares_of_the_ceilings() -> None:
    found = gpu.measure([TINY], 1.0, CPU, lambda line: None, ["triton"], run=lambda spec, device, timeout: made(spec))
    row = found["updates"][0]
    assert row["of_product_ceiling"] == pytest.approx(0.5)
    assert row["of_copy_ceiling"] == pytest.approx(0.05)
    text = tables.report({"machine": MACHINE, "gpu": found})
    assert text.startswith("a GPU (CUDA 12)")
    assert "bf16 products 100 TFLOP/s, memory copies 2.00 TB/s, smallest kernel 1.50 us." in text


def test_no_row_is_begun_after_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])
    timeouts: list[float] = []

    def slow(spec: Spec, device: torch.device, timeout: float) -> dict[str, Any]:
        timeouts.append(timeout)
        clock[0] += 100
        return made(spec)

    found = gpu.measure([TINY], 1.0, CPU, lambda line: None, limit=390.0, run=slow)
    assert timeouts == [300, 290, 190, 90]
    late = found["updates"][3:]
    assert late
    assert {row["refused"] for row in late} == {"skipped: the time limit was reached"}


def test_the_command_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a device that breaks down in the middle the results so far are in the file."""
    stored = tmp_path / "runs" / "bench.json"
    seen: list[int] = []

    def breaks(spec: Spec, device: torch.device, timeout: float) -> dict[str, Any]:
        if stored.exists():
            seen.append(len(json.loads(stored.read_text())["gpu"]["updates"]))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return made(spec)

    monkeypatch.setattr(run, "_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(run, "machine", lambda device: MACHINE)
    measure = gpu.measure
    monkeypatch.setattr(gpu, "measure", lambda *args, **named: measure(*args, **named, run=breaks))
    with pytest.raises(KeyboardInterrupt):
        run_bench(quick=True, device="cuda", json=stored, limit=500.0)
    assert seen == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------------------------- a row


def test_a_row_in_a_process_of_its_own() -> None:
    row = gpu.in_subprocess(Spec("nothing of the kind", SMALL.name, steps=2), CPU, 120.0)
    assert "unknown engine" in row["refused"]
    assert row["shape"] == SMALL.name


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import os; os.kill(os.getpid(), 6)", "failed: the process exited with status -6: no output"),
        ("import sys; sys.exit('an illegal address')", "failed: the process exited with status 1: an illegal address"),
        ("import time; time.sleep(60)", "timed out after 1 s"),
    ],
)
def test_a_process_that_dies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, told: str) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}"\n')
    python.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(python))
    timeout = 1.0 if "sleep" in program else 60.0
    assert gpu.in_subprocess(Spec(LSTM, SMALL.name), CPU, timeout) == {"refused": told}


def test_a_failure_is_a_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED\nand more")

    monkeypatch.setattr(updates, "training_update", fails)
    updates.main([Spec(LSTM, SMALL.name).to_json(), "cpu"])
    told = json.loads(capsys.readouterr().out)
    assert told == {"refused": "failed: RuntimeError: CUDNN_STATUS_NOT_SUPPORTED"}


@pytest.mark.parametrize("engine", ["window", LSTM, LOOP])
def test_what_is_measured(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window engine in place of the recorded one, calls in place of replays."""
    monkeypatch.setattr(updates, "FAST_ROUNDS", (2, 2))
    calls: list[int] = []
    real = updates.training_update

    def counted(*args: Any) -> Any:
        work = real(*args)
        return lambda: (calls.append(1), work())

    monkeypatch.setattr(updates, "training_update", counted)
    row = updates.measure(Spec(engine, precision="fp32", seconds=0.0, kernels=engine == "window"), TINY, CPU)
    if engine == LOOP:
        assert len(calls) == 1 + 2 + 3
    else:  # all eager calls and the recording come before what is timed
        assert len(calls) == WARMUP + 1 + 2 + 2 + ("kernels" in row)
    per_step = 2 * TINY.steps if engine == LSTM else TINY.dependent_steps
    assert row["microseconds_a_dependent_step"] == pytest.approx(1e6 * row["seconds"] / per_step)
    assert row["peak_bytes"] is None
    assert row["first_seconds"] > 0
    if engine == "window":
        assert row["kernels"][0]["share"] >= row["kernels"][-1]["share"] > 0
        refused = updates.measure(Spec("triton", seconds=0.0), TINY, CPU)
        assert "CUDA" in refused["refused"]


def test_options_hold_while_a_row_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[options.Options] = []

    def looks(*_: Any) -> Any:
        return lambda: seen.append(options.current())

    monkeypatch.setattr(updates, "training_update", looks)
    monkeypatch.setattr(updates, "usable", lambda *_: seen.append(options.current()))
    row = updates.measure(Spec("triton", options={"overlap": True}, seconds=0.0), TINY, CPU)
    assert row["engine"] == "triton, overlap"
    assert seen
    assert all(one.overlap for one in seen)


def test_ceilings_of_a_cpu() -> None:
    found = updates.ceilings(CPU, seconds=0.0, size=64)
    assert min(found.values()) > 0


@pytest.mark.parametrize("name", ["window", LSTM, LOOP])
def test_updates_learn_and_carry_their_state(name: str) -> None:
    """Each update is a real one: the parameters move, and the next begins where it ended."""
    torch.manual_seed(0)
    seen = []
    original = updates.Network.forward

    def forward(self: updates.Network, tokens: torch.Tensor, state: Any) -> Any:
        seen.append((self.logits.weight.detach().clone(), [leaf.clone() for leaf in state_tensors(state)]))
        return original(self, tokens, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(updates.Network, "forward", forward)
        update = updates.training_update(name, torch.float32, TINY, CPU)
        for _ in range(2):
            update()
    (before, start), (after, carried) = seen
    assert not torch.equal(before, after)
    assert not any(leaf.any() for leaf in start)
    assert all(leaf.any() for leaf in carried)


def test_shapes_can_be_named() -> None:
    assert all(SHAPES[shape.name] == shape for shape in GPU_SHAPES)
