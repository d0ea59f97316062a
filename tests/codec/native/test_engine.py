"""The compiled engine is the Python one, bit for bit: any model, any lanes, any threads, on either kind of product."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastslow import FSLSTM, SequentialLSTM, WiredLSTM
from fastslow.codec.errors import ModelError
from fastslow.codec.exact.engine import ExactEngine
from fastslow.codec.exact.model import ExactModel
from fastslow.codec.exact.quantise import quantise
from fastslow.codec.exact.tables import ONE
from fastslow.codec.native import library
from fastslow.codec.native.engine import NativeEngine, refusal
from fastslow.codec.predictor import ExactPredictor
from fastslow.compiling.build import BuildError, compiler

from ..exact.test_engine import GOLDEN, medium
from ..exact.test_model import layers, parts
from ..tiny import Draw, tiny_model

try:
    compiler()
except BuildError as error:
    pytest.skip(str(error), allow_module_level=True)

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["tiles", "pairs"], autouse=True)
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both kinds of product; where there is no tile unit they are the same."""
    monkeypatch.setenv("FASTSLOW_TILES", "0" if request.param == "pairs" else "1")
    return str(request.param)


def assert_same(model: ExactModel, symbols: np.ndarray) -> None:
    """Every logit of (T, S) symbols."""
    reference, engine = ExactEngine(model), NativeEngine(model)
    for each in (reference, engine):
        each.begin(symbols.shape[1])
    for t, row in enumerate(symbols):
        expected, got = reference.step(row), engine.step(row)
        assert got.dtype == np.int64
        assert (got == expected).all(), f"step {t}: {np.argwhere(got != expected)[:3]}"


def test_there_is_a_library_where_there_is_a_compiler() -> None:
    assert not isinstance(library.library(), str)


@pytest.mark.parametrize(
    "options", [{}, {"norm": False}, {"width": 1}, {"keep": (ONE, ONE)}, {"keep": (0, 7)}, {"keep": (0, 0)}], ids=str
)
@pytest.mark.parametrize("lanes", [1, 3, 16, 17, 40])
def test_tiny_models(options: dict[str, object], lanes: int) -> None:
    model = tiny_model(**options)  # type: ignore[arg-type]
    assert_same(model, Draw(lanes)((12, lanes), 0, len(model.symbols) - 1))


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("bits", [8, 11, 16])
def test_every_wiring(layer: WiredLSTM, bits: int) -> None:
    assert_same(quantise(b"abcdefg", *parts(layer), weight_bits=bits), Draw(5)((8, 5), 0, 6))


@pytest.mark.parametrize("lanes", [1, 2, 16, 67])
def test_a_medium_model(lanes: int) -> None:
    model, symbols = medium()
    assert_same(model, symbols[:, :lanes])


@given(
    st.integers(0, 10**6),
    st.sampled_from([1e-9, 1e-6, 1e-2, 1.0, 5.0, 300.0, 3e4]),
    st.booleans(),
    st.sampled_from([8, 13, 16]),
    st.integers(1, 20),
    st.tuples(st.integers(1, 70), st.integers(1, 40)),
)
@settings(max_examples=25, deadline=None)
def test_random_and_extreme_weights(
    seed: int, scale: float, norm: bool, bits: int, lanes: int, sizes: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = FSLSTM(4, *sizes, layer_norm=norm, zoneout_c=0.2, zoneout_h=seed % 3 / 4)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    try:
        model = quantise(b"abcdefg", *parts(layer, min(scale, 30.0)), weight_bits=bits)
    except ModelError:
        assert scale > 1
        return
    assert_same(model, Draw(seed)((7, lanes), 0, 6))


def test_integers_at_the_ends_of_their_range() -> None:
    """Weights of -32768 and 32767 in whole rows, and states that saturate: the largest sums there can be."""
    model = tiny_model(hidden=66, slow=65, norm=False)
    cells = []
    for cell in model.cells:
        weight = np.where(np.arange(cell.weight.size).reshape(cell.weight.shape) // 3 % 2, -32768, 32767)
        weight[::2] = 32767
        weight[1::4] = -32768
        cells.append(replace(cell, weight=weight, bias=np.full_like(cell.bias, 2**31 - 1)))
    extreme = replace(model, cells=tuple(cells), head=np.full_like(model.head, -32768))
    extreme.check()
    assert_same(extreme, Draw(2)((30, 19), 0, len(model.symbols) - 1))


def test_wide_sums_do_not_overflow() -> None:
    """More numbers to a sum than int32 holds of pairs: they are added up 256 at a time."""
    model = tiny_model(hidden=300, slow=3, norm=False)
    cell = model.cells[0]
    full = replace(cell, weight=np.full_like(cell.weight, -32768), z_bits=4, bias=np.zeros_like(cell.bias))
    model = replace(model, cells=(full, *model.cells[1:]))
    model.check()
    assert_same(model, Draw(2)((3, 2), 0, len(model.symbols) - 1))


@pytest.mark.parametrize("lanes", [5, 19, pytest.param(101, marks=pytest.mark.slow)])
def test_weights_of_every_size(lanes: int) -> None:
    """Long rows, stretches of which are small or as large as can be: sums that fit int32 end anywhere in them."""
    generator = np.random.default_rng(3)

    def weights(rows: int, columns: int) -> np.ndarray:
        limits = np.repeat(generator.choice([1, 100, 3000, 32768], columns // 7 + 1), 7)[:columns]
        return np.maximum(-32768, np.minimum(32767, generator.integers(-limits, limits + 1, (rows, columns))))

    model = quantise(b"abcdefg", *parts(FSLSTM(4, 1030, 19, layer_norm=False)))
    cells = [replace(cell, weight=weights(*cell.weight.shape), bits=17) for cell in model.cells]
    model = replace(model, cells=tuple(cells), head=weights(*model.head.shape))
    model.check()
    assert_same(model, Draw(lanes)((3, lanes), 0, 6))


@pytest.mark.parametrize("ends", [(-128, 127), (-3, 3), (-129, 127)])
def test_rows_of_8_bits_times_a_power_of_two(ends: tuple[int, int]) -> None:
    """Up to 128 in each row, its power of two apart; some rows are 0, and the last case takes more than 8 bits."""
    generator = np.random.default_rng(4)

    def weights(rows: int, columns: int) -> np.ndarray:
        narrow = generator.integers(ends[0], ends[1] + 1, (rows, columns))
        narrow[:, 0], narrow[::5] = ends[0], 0
        return np.clip(narrow * 2 ** generator.integers(0, 9, (rows, 1)), -32768, 32767)

    model = quantise(b"abcdefg", *parts(FSLSTM(4, 70, 19, layer_norm=False)))
    cells = [replace(cell, weight=weights(*cell.weight.shape)) for cell in model.cells]
    model = replace(model, cells=tuple(cells), head=weights(*model.head.shape))
    model.check()
    assert_same(model, Draw(1)((5, 18), 0, 6))


def test_a_saturated_memory_stays_at_its_limit() -> None:
    layer = SequentialLSTM(4, 6, 1, layer_norm=False)
    with torch.no_grad():
        layer.cells[0].bias.copy_(torch.tensor([30.0] * 24))  # type: ignore[index,union-attr]
    assert_same(quantise(b"abcdefg", *parts(layer)), np.zeros((600, 1), dtype=np.int64))


def test_threads_make_no_difference() -> None:
    model, symbols = medium()
    before = torch.get_num_threads()
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert_same(model, symbols[:4])
            assert_same(model, symbols[:4, :1])
    finally:
        torch.set_num_threads(before)


def test_begin_forgets() -> None:
    model = tiny_model()
    engine = NativeEngine(model)
    symbols = np.arange(4) % len(model.symbols)
    engine.begin(4)
    first = engine.step(symbols)
    engine.step(symbols)
    engine.begin(4)
    assert (engine.step(symbols) == first).all()


def test_symbols_that_are_none_are_refused() -> None:
    model = tiny_model()
    engine = NativeEngine(model)
    for symbols in ([0, 0], [-1], [len(model.symbols)]):
        with pytest.raises(ValueError, match="symbols must be"):
            engine.step(np.array(symbols))


def test_what_it_cannot_run_goes_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    assert isinstance(ExactPredictor(model).engine, NativeEngine)
    assert "not on meta" in str(refusal(model, torch.device("meta")))
    wide = replace(model, head=model.head * 2)
    assert refusal(wide, torch.device("cpu")) == "it takes weights of 16 bits"
    assert isinstance(ExactPredictor(wide).engine, ExactEngine)
    monkeypatch.setenv("FASTSLOW_NATIVE", "0")
    assert "FASTSLOW_NATIVE=0" in str(library.library())
    assert isinstance(ExactPredictor(model).engine, ExactEngine)


BUILDS = ["-march=x86-64-v4 -mno-avx512vnni", "-march=x86-64-v3", "-march=x86-64"]
SCRIPT = """
import hashlib, sys
import numpy as np
from fastslow.compiling import build
build.NATIVE_FLAGS = (tuple(sys.argv[1].split()),)
from fastslow.codec.native.engine import NativeEngine
from tests.codec.exact.test_engine import medium
model, symbols = medium()
engine = NativeEngine(model)
engine.begin(symbols.shape[1])
logits = np.stack([engine.step(row) for row in symbols])
print(hashlib.sha256(logits.astype("<i8").tobytes()).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or "x86" not in __import__("platform").machine(), reason="of x86-64")
@pytest.mark.parametrize("flags", BUILDS)
def test_every_build_gives_the_same_bits(
    flags: str, products: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if products == "tiles":
        pytest.skip("these builds have no tile unit")
    monkeypatch.setenv("FASTSLOW_CACHE", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", SCRIPT, flags], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout[:16] == GOLDEN
