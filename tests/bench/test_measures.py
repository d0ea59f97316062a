"""What the benchmark rests on: sizes, turns, rivals, probes, and the check that comes before any time."""

from __future__ import annotations

import itertools
import types
from dataclasses import replace
from typing import Any

import pytest
import torch

from fastslow.backends import ENGINES, reference
from fastslow.backends import engine as real_engine
from fastslow.bench import check, machine, probe, timing
from fastslow.bench.check import disagreement, usable
from fastslow.bench.rivals import lstm_flops, lstm_window, product_floor, vector_floor
from fastslow.bench.shapes import CPU_SHAPES, GPU_SHAPES, PTB, SMALL, Shape
from fastslow.wiring import fast_slow, sequential, stacked

TINY = Shape("tiny", fast_slow(2), 5, (8, 6), rows=3, steps=4)
CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [TINY, *CPU_SHAPES, *GPU_SHAPES], ids=lambda shape: shape.name)
def test_weights_are_those_of_the_layer(shape: Shape) -> None:
    with torch.device("meta"):
        layer = replace(shape, dropout=0.0).layer(device="meta")
    assert shape.weights == sum(p.numel() for p in layer.parameters() if p.dim() == 2)


def test_arithmetic() -> None:
    assert PTB.weights == 4 * 700 * (128 + 700) + 4 * 400 * (700 + 400) + 4 * 700 * (400 + 700)
    assert PTB.flops == 6 * PTB.weights * 128 * 150
    assert PTB.dependent_steps == 900
    assert TINY.needed_bytes == 4 * 12 * (6 * (8 + 6 + 8) + 5)
    assert abs(lstm_flops(PTB) / PTB.flops - 1) < 0.01
    by_size = {shape.name.split()[0]: [] for shape in CPU_SHAPES}  # type: ignore[var-annotated]
    for shape in CPU_SHAPES:
        by_size[shape.name.split()[0]].append(shape.weights)
    for weights in by_size.values():
        assert max(weights) < 1.3 * min(weights)


def test_works_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    called: list[str] = []
    works = {name: lambda name=name: called.append(name) for name in "abc"}
    times = timing.interleave(works, seconds=0.0, least=3, warmups=2)
    assert called == list("abc" + "abc" + "abc" + "bca" + "cab")
    assert all(len(t.runs) == 3 and t.median == 1.0 for t in times.values())


def test_median_and_p95() -> None:
    times = timing.Times(9.0, tuple(float(n) for n in range(100)))
    assert (times.median, times.p95) == (49.5, 95.0)


def test_floors_make_every_product_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    mm, mv = torch.mm, torch.mv
    monkeypatch.setattr(torch, "mm", lambda a, b, out: (done.append(a.numel() * b.shape[1]), mm(a, b, out=out)))
    monkeypatch.setattr(torch, "mv", lambda a, b, out: (done.append(a.numel()), mv(a, b, out=out)))
    product_floor(TINY)()
    assert 2 * sum(done) == TINY.flops
    done.clear()
    vector_floor(TINY)()
    assert sum(done) == TINY.weights


def test_lstm_window_gives_every_gradient() -> None:
    grads: Any = lstm_window(TINY)()
    assert len(grads) == 5
    assert grads[0].shape == (4, 3, 5)


@pytest.mark.parametrize("wiring", [fast_slow(2), fast_slow(4), stacked(2), sequential(2)], ids=str)
@pytest.mark.parametrize("name", [name for name in ENGINES if name != "triton"])
def test_engines_agree_with_the_loop(name: str, wiring: Any) -> None:
    shape = replace(TINY, wiring=wiring, sizes=tuple(7 for _ in wiring.slots))
    if (refused := usable(name, shape, CPU)) is not None and "differ from the loop" not in refused:
        pytest.skip(refused)
    assert disagreement(name, shape, CPU) is None


def test_an_engine_that_disagrees_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any) -> Any:
        y, state = reference.run(*args)
        return 1.01 * y, state

    wrong = types.SimpleNamespace(NAME="window", refusal=lambda problem: None, run=run)
    monkeypatch.setattr(check, "engine", lambda name: wrong if name == "window" else real_engine(name))
    told = usable("window", TINY, CPU)
    assert told is not None
    assert told.startswith("not timed, because its results differ from the loop's: y differs by 0.0")
    assert usable("reference", TINY, CPU) is None
    assert "unknown engine" in (usable("quick", TINY, CPU) or "")
    assert "CUDA" in (usable("triton", TINY, CPU) or "")


def test_a_result_that_is_not_a_number_disagrees(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any) -> Any:
        y, state = reference.run(*args)
        return y * torch.nan, state

    wrong = types.SimpleNamespace(NAME="window", refusal=lambda problem: None, run=run)
    monkeypatch.setattr(check, "engine", lambda name: wrong if name == "window" else real_engine(name))
    assert disagreement("window", TINY, CPU) is not None


def test_memory_of_a_window_in_a_process_of_its_own() -> None:
    peak = probe.memory("window", SMALL)
    if peak is None:
        pytest.skip("this system does not tell a process's peak memory")
    assert SMALL.needed_bytes < peak < 8 * SMALL.needed_bytes


def test_a_probe_that_fails_tells_nothing() -> None:
    assert probe.memory("no such engine", SMALL) is None


def test_the_machine_in_a_line() -> None:
    line = machine.describe(machine.machine(CPU))
    assert f"torch {torch.__version__}" in line
    assert f"{torch.get_num_threads()} threads" in line
    assert "None" not in line
