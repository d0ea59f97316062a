"""The native engine beside the loop: everything it returns, every gradient, whatever the threads, twice over."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastslow import FSLSTM
from fastslow.backends.native import call
from fastslow.backends.native import engine as native
from fastslow.backends.native.library import Library, library
from fastslow.backends.native.memory import POOL, Lease, Pool, cut, flat_size, pooled
from tests.backends.twins import (
    ALL_CASES,
    CASES,
    GRADCHECKS,
    Case,
    check_gradients,
    check_repeatable,
    check_twin,
    make_inputs,
    run_case,
)

pytestmark = pytest.mark.skipif(isinstance(library(), str), reason=f"no native library: {library()}")
WIDE = Case(sizes={"fast": 70, "slow": 41}, input_size=35, T=4, B=11, lengths=(4, 3, 2, 4, 4, 1, 0, 4, 3, 4, 4))
"""Several panels and blocks of rows, the last ones narrower."""


@pytest.fixture
def all_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads are used however small the window."""
    before = torch.get_num_threads()

    def split_threads(weights: object, rows: int, steps: int, threads: int, parts: int) -> tuple[int, int]:
        return threads, max(1, min(threads, rows // 4))

    monkeypatch.setattr(call, "split_threads", split_threads)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", ALL_CASES.values(), ids=ALL_CASES)
def test_twin(case: Case, dtype: torch.dtype) -> None:
    check_twin(native, case, dtype=dtype)


@pytest.mark.parametrize("case", ALL_CASES.values(), ids=ALL_CASES)
def test_twin_when_only_states_are_saved(case: Case) -> None:
    with native.saving("states"):
        check_twin(native, case)


@pytest.mark.parametrize("case", ALL_CASES.values(), ids=ALL_CASES)
def test_twin_without_tiles(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(call.TILES, "0")
    check_twin(native, case)


@pytest.fixture
def precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("setting", "tolerance"), [("highest", 1e-4), ("high", 1e-3), ("medium", 0.2)])
@pytest.mark.parametrize("tiles", ["0", "1"])
@pytest.mark.parametrize("what", ["all", "states"])
def test_matmul_precision(
    setting: str, tolerance: float, tiles: str, what: call.Saving, precision: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's setting decides how exact bfloat16 units are: the tile unit's products, or dot products for "medium".

    Without such a unit every setting is exact.
    """
    monkeypatch.setenv(call.TILES, tiles)
    torch.set_float32_matmul_precision(setting)
    wide = Case(sizes={"fast": 261, "slow": 19}, input_size=37, T=3, B=19)
    with native.saving(what):
        for case in (wide, WIDE, CASES["fs2-63x5"]):
            check_twin(native, case, tolerance=tolerance)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("tiles", ["0", "1"])
def test_any_number_of_threads(threads: int, tiles: str, all_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(call.TILES, tiles)
    torch.set_num_threads(threads)
    for case in (CASES["fs2-odd"], CASES["fs2-lengths"], CASES["two-readers"], WIDE):
        check_twin(native, case)


@pytest.mark.parametrize(("tiles", "setting"), [("0", "highest"), ("1", "highest"), ("0", "medium")])
def test_outputs_do_not_depend_on_the_threads(
    tiles: str, setting: str, all_threads: None, precision: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(call.TILES, tiles)
    torch.set_float32_matmul_precision(setting)
    results = []
    for threads in (1, 2, 3, 3):
        torch.set_num_threads(threads)
        results.append(run_case(native, WIDE, make_inputs(WIDE, torch.float32)))
    for other in results[1:]:
        for name, value in results[0].values.items():
            assert torch.equal(other.values[name], value), name
        for name in ("x@0", "state@fast.h", "state@slow.c"):
            grads = results[0].grads[name], other.grads[name]
            assert torch.equal(*grads), name  # type: ignore[arg-type]
    for name, grad in results[2].grads.items():
        assert torch.equal(results[3].grads[name], grad), name  # type: ignore[arg-type]


@pytest.mark.parametrize("case", GRADCHECKS.values(), ids=GRADCHECKS)
def test_gradcheck(case: Case) -> None:
    check_gradients(native, case)


@pytest.mark.parametrize("what", ["all", "states"])
def test_a_second_backward_repeats_the_first(what: call.Saving) -> None:
    with native.saving(what):
        check_repeatable(native, CASES["fs2"], dtype=torch.float32)
        check_repeatable(native, CASES["fs2-lengths"], dtype=torch.float64)


@pytest.mark.parametrize("rows", range(4, 36))
def test_every_number_of_rows_in_bfloat16(rows: int, precision: None) -> None:
    """Tiles of rows are multiplied whole, and those past the last are not stored.

    Without norms, which can divide rounding errors by any small deviation, few terms are as exact as bfloat16.
    """
    torch.set_float32_matmul_precision("medium")
    case = Case(sizes={"fast": 35, "slow": 19}, input_size=3, T=2, B=rows, layer_norm=False)
    check_twin(native, case, tolerance=0.01)


@pytest.mark.parametrize(
    ("dots", "tiles", "switch", "expected"),
    [
        (False, False, "", {"highest": (0, False), "high": (0, False), "medium": (0, False)}),
        (True, False, "", {"highest": (0, False), "high": (0, False), "medium": (1, False)}),
        (True, True, "0", {"highest": (0, False), "high": (0, False), "medium": (1, False)}),
        (True, True, "", {"highest": (3, True), "high": (2, True), "medium": (1, True)}),
    ],
)
def test_the_unit_and_the_parts_of_products(
    dots: bool,
    tiles: bool,
    switch: str,
    expected: dict[str, tuple[int, bool]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call, "compiled", lambda: SimpleNamespace(dots=dots, tiles=tiles))
    monkeypatch.setenv(call.TILES, switch)
    assert {setting: call.products(torch.float32, 4, setting) for setting in expected} == expected
    assert call.products(torch.float32, 3, "medium") == (0, False)
    assert call.products(torch.float64, 4, "medium") == (0, False)


def test_saving_takes_all_or_states() -> None:
    with pytest.raises(ValueError, match="saving takes 'all' or 'states'; got 'none'"), native.saving("none"):  # type: ignore[arg-type]
        pass


def test_without_gradients_the_outputs_are_the_same() -> None:
    case = replace(WIDE, lengths=None)
    inputs = make_inputs(case, torch.float32)
    args = (case.wiring, inputs.weights, inputs.xs[0], inputs.state, inputs.noises[0], case.rates)
    y, state = native.run(*args)
    with torch.no_grad():
        bare, bare_state = native.run(*args)
    assert y.requires_grad
    assert not bare.requires_grad
    assert torch.equal(y.detach(), bare)
    for pair, bare_pair in zip(state, bare_state, strict=True):
        assert torch.equal(pair.h.detach(), bare_pair.h)
        assert torch.equal(pair.c.detach(), bare_pair.c)


def test_changed_weights_are_an_error() -> None:
    layer = FSLSTM(5, 11, 7, backend="native")
    y, _ = layer(torch.randn(3, 2, 5))
    with torch.no_grad():
        layer.slow.weight_hh.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": torch.device("cuda")}, "it runs on the CPU only, and the input is on cuda"),
        ({"dtype": torch.float16}, "it computes in float32 and float64, not torch.float16"),
        ({"autocast": torch.float16}, "its only lower precision is bfloat16, and autocast requests torch.float16"),
        ({"rows": 0}, "the window is empty: 6 steps of 0 rows"),
        ({"steps": 0}, "the window is empty: 0 steps of 3 rows"),
    ],
)
def test_refusals(change: dict[str, object], reason: str) -> None:
    problem = CASES["fs2"].problem(torch.float32)
    assert native.refusal(problem) is None
    assert reason in str(native.refusal(replace(problem, **change)))  # type: ignore[arg-type]


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSLOW_NATIVE", "0")
    layer = FSLSTM(3, 4)
    choice = layer.backend_for(torch.zeros(2, 1, 3))
    assert choice.name == "window"
    assert choice.refused["native"] == "it is switched off by FASTSLOW_NATIVE=0"
    case = CASES["fs2"]
    inputs = make_inputs(case, torch.float32)
    with pytest.raises(RuntimeError, match="the native engine cannot run: it is switched off"):
        native.run(case.wiring, inputs.weights, inputs.xs[0], inputs.state, None, case.rates)


# ---------------------------------------------------------------------- memory


def test_blocks_are_used_again_and_bounded() -> None:
    pool = Pool()
    first = pool.take(10_000)
    second = pool.take(10_000)
    assert first.data_ptr() % 64 == 0
    assert first.data_ptr() != second.data_ptr()
    address = first.data_ptr()
    pool.give(first)
    del first
    again = pool.take(9_000)
    assert again.data_ptr() == address
    other = pool.take(1_000_000)
    pool.give(again)
    pool.give(second)
    pool.give(other)
    assert 0 < pool.free <= pool._most
    larger = pool.take(1 << 21)
    assert larger.numel() >= 1 << 21
    pool.give(larger)
    pool.clear()
    assert pool.free == 0


def test_a_lease_cuts_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSLOW_POISON", "1")
    lease = Lease([(3, 5), (7,), (2, 2, 2)], torch.float64)
    assert [tuple(tensor.shape) for tensor in lease.tensors] == [(3, 5), (7,), (2, 2, 2)]
    for i, tensor in enumerate(lease.tensors):
        assert tensor.isnan().all()
        assert tensor.data_ptr() % 64 == 0
        tensor.fill_(i)
    assert [tensor.unique().item() for tensor in lease.tensors] == [0.0, 1.0, 2.0]


def test_blocks_from_inference_mode_serve_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    with torch.inference_mode():
        block = pool.take(10_000)
    assert not block.is_inference()
    pool.give(block)
    monkeypatch.setenv("FASTSLOW_POISON", "1")
    assert pool.take(10_000) is block


def test_writing_past_the_end_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSLOW_POISON", "1")
    lease = Lease([(16,), (16,)], torch.float32)
    lease.tensors[0].as_strided((17,), (1,))[16] = 0.0
    with pytest.raises(RuntimeError, match=r"past the end of tensors \[0\] of a lease"):
        lease.__del__()
    del lease.block


def test_lent_memory_is_taken_until_its_last_tensor_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(3, 5), (7,), (2, 2, 2)]
    before = POOL.taken
    flat = pooled(shapes, torch.float64)
    assert flat.shape == (flat_size(shapes, torch.float64),)
    parts = cut(flat, shapes)
    assert [tuple(part.shape) for part in parts] == shapes
    assert all(part.data_ptr() % 64 == 0 for part in parts)
    assert POOL.taken > before
    del flat
    parts[1].fill_(1.0)
    assert POOL.taken > before
    del parts
    assert POOL.taken == before


def test_a_graph_that_is_gone_gives_its_memory_back() -> None:
    layer = FSLSTM(5, 64, 32, backend="native")
    x = torch.randn(10, 8, 5)
    layer(x)[0].sum().backward()
    gc.collect()
    before = POOL.taken
    y, _ = layer(x)
    y2, _ = layer(x)
    held = POOL.taken
    assert held > before
    y2.sum().backward()
    y.sum().backward()
    del y, y2, _
    gc.collect()
    assert POOL.taken == before


def test_saved_states_take_less_memory() -> None:
    layer = FSLSTM(5, 64, 32, backend="native", zoneout_h=0.1)
    x = torch.randn(40, 8, 5)

    def held() -> int:
        before = POOL.taken
        y, _ = layer(x)
        taken = POOL.taken - before
        y.sum().backward()
        return taken

    everything = held()
    with native.saving("states"):
        assert held() < 0.45 * everything


@pytest.mark.parametrize(
    ("sizes", "rows", "threads", "parts", "expected"),
    [
        ((128, 64), 16, 2, 3, (2, 2)),  # lies in a core's cache: rows of their own
        ((128, 64), 3, 2, 0, (1, 1)),  # nothing to share
        ((256, 160), 16, 1, 3, (1, 1)),
        ((256, 160), 16, 2, 3, (2, 1)),  # does not: a part of the weights each
        ((256, 160), 64, 2, 3, (2, 1)),
        ((256, 160), 128, 2, 3, (2, 2)),
        ((256, 160), 128, 8, 3, (8, 2)),
        ((256, 160), 32, 2, 0, (2, 2)),  # without tiles products are slow beside weights
        ((700, 400), 64, 2, 1, (2, 2)),
        ((700, 400), 32, 2, 1, (2, 1)),
    ],
)
def test_threads_are_dealt_by_where_the_weights_lie(
    sizes: tuple[int, int],
    rows: int,
    threads: int,
    parts: int,
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call, "own_cache", lambda: 2 << 20)
    weights = FSLSTM(64, *sizes).weights()
    assert call.split_threads(weights, rows, 100, threads, parts) == expected
    assert call.split_threads(FSLSTM(3, 5, 4).weights(), 1, 1, threads, parts) == (1, 1)


@pytest.mark.parametrize(
    ("told", "size"), [("2048K\n", 2 << 20), ("512K", 1 << 19), ("none", 1 << 20), (None, 1 << 20)]
)
def test_the_size_of_the_cache(told: str | None, size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(call, "CACHE", tmp_path / "size")
    if told is not None:
        (tmp_path / "size").write_text(told)
    assert call.own_cache.__wrapped__() == size


# ---------------------------------------------------------------------- the process


@pytest.mark.slow  # tests/layers/test_looked_at.py forks each time
def test_a_forked_child_still_runs(all_threads: None) -> None:
    code = """
import os, torch
from fastslow import FSLSTM
from fastslow.backends.native import call
call.split_threads = lambda *given: (2, 2)
layer, x = FSLSTM(5, 11, 7, backend="native").eval(), torch.randn(6, 8, 5)
torch.set_num_threads(2)
with torch.no_grad():
    y, _ = layer(x)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        call.split_threads = lambda *given: (2, 2)
        same = torch.equal(layer(x)[0], y) and torch.equal(layer(x)[0], y)
        os._exit(0 if same else 1)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120, env=environment, check=False)
    assert result.returncode == 0


def test_the_library_says_its_vector_width() -> None:
    found = library()
    assert isinstance(found, Library)
    assert found.vector_bytes in (16, 32, 64)
