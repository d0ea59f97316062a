"""Exact inference: the same bits as a restatement in plain integers, for any lanes, threads and instruction sets."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastslow import FSLSTM, SequentialLSTM, StackedLSTM, WiredLSTM
from fastslow.codec.exact.engine import ExactEngine
from fastslow.codec.exact.model import ExactModel
from fastslow.codec.exact.quantise import quantise
from fastslow.codec.exact.tables import ONE
from fastslow.codec.frequencies import FrequencyModel
from fastslow.codec.rangecoder import TOTAL

from ..restatement import Network
from ..tiny import Draw, tiny_model
from .test_model import layers, parts

ROOT = Path(__file__).parents[3]


def run(model: ExactModel, symbols: np.ndarray, device: str = "cpu") -> np.ndarray:
    """(T, S) symbols -> (T, S, V) logits."""
    engine = ExactEngine(model, device)
    engine.begin(symbols.shape[1])
    return np.stack([engine.step(row) for row in symbols])


def restated(model: ExactModel, symbols: np.ndarray) -> np.ndarray:
    network = Network(model.to_bytes())
    columns = []
    for lane in symbols.T:
        state = network.zero()
        columns.append([network.step(int(symbol), state) for symbol in lane])
    return np.array(columns).transpose(1, 0, 2)


@pytest.mark.parametrize(
    "options", [{}, {"norm": False}, {"width": 1}, {"keep": (ONE, ONE)}, {"keep": (0, 7)}], ids=str
)
def test_it_is_the_restatement_in_plain_integers(options: dict[str, object]) -> None:
    model = tiny_model(**options)  # type: ignore[arg-type]
    symbols = Draw(3)((12, 3), 0, len(model.symbols) - 1)
    assert (run(model, symbols) == restated(model, symbols)).all()


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
def test_every_wiring_is_the_restatement_too(layer: WiredLSTM) -> None:
    model = quantise(b"abcdefg", *parts(layer))
    symbols = Draw(5)((6, 2), 0, 6)
    assert (run(model, symbols) == restated(model, symbols)).all()


@given(st.integers(0, 10**6), st.sampled_from([1e-6, 1e-2, 5.0, 300.0]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_extreme_weights_still_give_the_restatement(seed: int, scale: float, norm: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = FSLSTM(4, 6, 5, layer_norm=norm, zoneout_c=0.2)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    model = quantise(b"abcdefg", *parts(layer, min(scale, 30.0)))
    symbols = Draw(seed)((8, 2), 0, 6)
    assert (run(model, symbols) == restated(model, symbols)).all()


def test_a_saturated_memory_stays_at_its_limit() -> None:
    """Forget gates at 1 and inputs at 1 add up until c is cut off at 256."""
    layer = SequentialLSTM(4, 6, 1, layer_norm=False)
    with torch.no_grad():
        layer.cells[0].bias.copy_(torch.tensor([30.0] * 24))  # type: ignore[index,union-attr]
    model = quantise(b"abcdefg", *parts(layer))
    engine = ExactEngine(model)
    for _ in range(600):
        engine.step(np.zeros(1, dtype=np.int64))
    assert engine._c[0].max() == (1 << 23) - 1
    symbols = np.zeros((300, 1), dtype=np.int64)
    assert (run(model, symbols) == restated(model, symbols)).all()


def medium() -> tuple[ExactModel, np.ndarray]:
    """Large enough for a library to choose among its kernels; integer arithmetic from end to end."""
    model = tiny_model(symbols=bytes(range(60)), hidden=150, slow=70)
    return model, Draw(11)((10, 67), 0, 59)


@pytest.mark.parametrize("lanes", [1, 2, 3, 7, 16, 64])
def test_a_lane_does_not_depend_on_the_others(lanes: int) -> None:
    model, symbols = medium()
    assert (run(model, symbols[:, :lanes]) == run(model, symbols)[:, :lanes]).all()


def test_threads_make_no_difference() -> None:
    model, symbols = medium()
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(model, symbols))
    finally:
        torch.set_num_threads(before)
    assert all((result == results[0]).all() for result in results)


SCRIPT = """
import hashlib
from tests.codec.exact.test_engine import medium, run
print(hashlib.sha256(run(*medium()).astype("<i8").tobytes()).hexdigest())
"""
MODES = [
    f"{cbwr}-{capability}-{threads}"
    for cbwr, capability, threads in product(
        ["AUTO", "COMPATIBLE", "AVX2", "AVX512"], ["default", "avx2", "avx512"], [1, 2]
    )
]
FEW = ["COMPATIBLE-avx2-2"]
"""Every setting another one than the usual."""
GOLDEN = "f4de54ce23b431b3"


def digest(cbwr: str, capability: str, threads: str) -> str:
    changed = {"MKL_CBWR": cbwr, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": threads}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=os.environ | changed, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_golden_logits() -> None:
    assert hashlib.sha256(run(*medium()).astype("<i8").tobytes()).hexdigest()[:16] == GOLDEN


@pytest.mark.parametrize("mode", FEW)
def test_library_modes_make_no_difference(mode: str) -> None:
    assert digest(*mode.split("-"))[:16] == GOLDEN


@pytest.mark.slow
@pytest.mark.parametrize("mode", sorted(set(MODES) - set(FEW)))
def test_no_library_mode_makes_a_difference(mode: str) -> None:
    assert digest(*mode.split("-"))[:16] == GOLDEN


@pytest.mark.gpu
def test_a_gpu_makes_no_difference() -> None:
    model, symbols = medium()
    assert (run(model, symbols, "cuda") == run(model, symbols)).all()


def test_it_costs_next_to_nothing_against_float() -> None:
    """The excess code length over the float model's own, in bits a symbol; the bound of the project is 0.002."""
    torch.manual_seed(0)
    layer = StackedLSTM(8, 40, 2, zoneout_h=0.05, zoneout_c=0.1, backend="reference").eval()
    embedding, _, head, bias = parts(layer)
    embedding = torch.randn(7, 8)
    model = quantise(b"abcdefg", embedding, layer, head, bias)
    symbols = Draw(1)((60, 8), 0, 6)
    exact = FrequencyModel(model.tables)(run(model, symbols).reshape(-1, 7)) / TOTAL
    with torch.no_grad():
        y, _ = layer(embedding[torch.from_numpy(symbols)])
        share = torch.softmax((y @ head.T + bias).double(), -1).reshape(-1, 7).numpy()
    assert (share * np.log2(share / exact)).sum(axis=1).mean() < 1e-4
