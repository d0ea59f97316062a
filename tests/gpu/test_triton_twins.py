"""The Triton engine on a device beside the loop in float64 on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fastslow import FSLSTM, StackedLSTM
from fastslow.backends.triton import engine, options
from fastslow.noise import Noise, random_bits
from tests.backends.triton.rounded import brief, check_rounded
from tests.backends.twins import ALL_CASES, CASES, Case, check_repeatable, check_twin

pytestmark = pytest.mark.gpu
BF16 = torch.bfloat16
SETTINGS: dict[str, dict[str, bool]] = {
    "plain": {},
    "overlap": {"overlap": True},
    "dependent": {"dependent_launch": True},
    "joint": {"gates_apart": False},
    "own": {"own_products": True, "dependent_launch": True},
}
FEW = ("fs2", "fs2-lengths", "fs2-63x1", "fs2-eval", "two-readers", "stacked3", "sequential3", "fs2-resets", "gru")
ROUNDED = (
    *("fs2", "fs2-odd", "fs2-no-norm", "fs2-lengths", "fs2-eval", "fs4", "stacked3", "two-readers", "two-inputs"),
    *("fs2-resets", "gru", "gru-no-norm", "plain-lstm", "tanh", "mixed"),
)
PAPER = {
    "ptb-2": Case(input_size=128, sizes={"fast": 700, "slow": 400}, T=4, B=8, zoneout_c=0.5, zoneout_h=0.1),
    "large": replace(CASES["fs4"], input_size=256, sizes={"fast": 1200, "slow": 1500}, T=3, B=5),
    "ptb-2-gru": Case(
        input_size=128, sizes={"fast": 700, "slow": 400}, T=4, B=8, zoneout_h=0.1, cells="gru", resets=((0, 1), (2, 3))
    ),
}


def _allowed(setting: str, device: torch.device) -> dict[str, bool]:
    if SETTINGS[setting].get("dependent_launch") and torch.cuda.get_device_capability(device) < (9, 0):
        pytest.skip("dependent launches need compute capability 9.0")
    return SETTINGS[setting]


# A dependent launch and other products are other kernels to compile, an overlap is not.
@pytest.mark.parametrize(
    ("name", "setting"),
    [(name, setting) for name in ALL_CASES for setting in SETTINGS if setting in ("plain", "overlap") or name in FEW],
)
def test_float32(name: str, setting: str, device: torch.device) -> None:
    with options.using(
        chunk_rows=2 * ALL_CASES[name].B + 1, **_allowed(setting, device)
    ):  # a whole chunk, a ragged one
        check_twin(engine, ALL_CASES[name], device=device)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ROUNDED)
def test_bfloat16(name: str, setting: str, device: torch.device) -> None:
    case = brief(ALL_CASES[name])
    check_rounded(case, device, chunk_rows=case.B + 1, **_allowed(setting, device))  # sums over several chunks


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", PAPER)
def test_the_papers_sizes(name: str, setting: str, device: torch.device) -> None:
    changes = _allowed(setting, device)
    with options.using(**changes):
        check_twin(engine, PAPER[name], device=device)
    check_rounded(PAPER[name], device, **changes)


@pytest.mark.parametrize("units", [1, 2, 8, 16])
def test_any_number_of_units_a_thread(units: int, device: torch.device) -> None:
    with options.using(units_per_thread=units):
        check_twin(engine, CASES["fs2-odd"], device=device)


@pytest.mark.parametrize("setting", SETTINGS)
def test_results_repeat_exactly(setting: str, device: torch.device) -> None:
    with options.using(precision=BF16, chunk_rows=64, **_allowed(setting, device)):
        check_repeatable(engine, replace(PAPER["ptb-2"], T=9, B=16), dtype=torch.float32, device=device)


def test_the_words_are_those_of_the_loop(device: torch.device) -> None:
    from fastslow.backends.triton import kernels

    noise = Noise(torch.randint(-(2**62), 2**62, (), device=device), first_step=12345, first_row=64)
    words = torch.empty(3, 128, 700, dtype=torch.int32, device=device)
    for t in range(3):
        kernels.random_words[(128,)](
            words[t], noise.key, noise.first_step + t, 7, noise.first_row, UNITS=700, BLOCK=1024
        )
    assert torch.equal(words, random_bits(noise, 3, 7, 128, 700))


def test_auto_takes_it(device: torch.device) -> None:
    layer = FSLSTM(8, 12, 6, dropout=0.2, device=device)
    assert layer.backend_for(torch.zeros(3, 2, 8, device=device)).name == "triton"
    with torch.autocast("cuda", BF16):
        assert layer.backend_for(torch.zeros(3, 2, 8, device=device)).name == "triton"
        y, _ = layer(torch.randn(3, 2, 8, device=device))
    assert y.dtype == torch.float32
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_without_gradients_it_keeps_less_and_computes_the_same(training: bool, device: torch.device) -> None:
    layer = StackedLSTM(16, 48, 2, dropout=0.2, zoneout_c=0.3, device=device, backend="triton").train(training)
    x = torch.randn(65, 7, 16, device=device)
    torch.manual_seed(1)
    y, state = layer(x)
    torch.manual_seed(1)
    with torch.no_grad():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        got, new = layer(x)
        light = torch.cuda.max_memory_allocated() - before
    assert torch.equal(got, y)
    for a, b in zip(state, new, strict=True):
        assert torch.equal(a.h, b.h)
        assert torch.equal(a.c, b.c)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    layer(x)
    assert light < torch.cuda.max_memory_allocated() - before
