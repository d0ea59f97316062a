from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastslow.noise import Noise, draw_key, dropout_keep, random_bits, zoneout_update
from tests.restatement import hash_bits


def noise(key: int, step: int = 0, row: int = 0) -> Noise:
    return Noise(torch.tensor(key), step, row)


@settings(max_examples=40, deadline=None)
@given(
    key=st.integers(-(2**63), 2**63 - 1),
    site=st.integers(0, 20),
    step=st.integers(0, 10**6),
    row=st.integers(0, 10**6),
)
def test_bits_are_those_of_the_formula(key: int, site: int, step: int, row: int) -> None:
    bits = random_bits(noise(key, step, row), 2, site, 3, 4)
    for t in range(2):
        for b in range(3):
            for u in range(4):
                assert int(bits[t, b, u]) & 0xFFFFFFFF == hash_bits(key, step + t, site, row + b, u)


def test_golden_words() -> None:
    bits = random_bits(noise(0x0123456789ABCDEF), 1, 3, 1, 4)[0, 0]
    assert [f"{int(v) & 0xFFFFFFFF:08x}" for v in bits] == GOLDEN


GOLDEN = ["f0bd72b6", "0e718828", "542bdaf4", "1360214e"]


def test_masks_have_the_rate_asked_for_and_are_independent() -> None:
    n = noise(7)
    keep = dropout_keep(n, 50, 0, 40, 100, 0.35)
    assert keep.float().mean().item() == pytest.approx(0.65, abs=0.004)
    h, c = zoneout_update(n, 50, 1, 40, 100, 0.1, 0.5)
    assert h.float().mean().item() == pytest.approx(0.9, abs=0.003)
    assert c.float().mean().item() == pytest.approx(0.5, abs=0.005)
    both = (h & c).float().mean().item()
    assert both == pytest.approx(0.9 * 0.5, abs=0.005)
    other = zoneout_update(n, 50, 3, 40, 100, 0.5, 0.5)[1]
    assert (c ^ other).float().mean().item() == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_neighbours_are_uncorrelated(dim: int) -> None:
    bit = random_bits(noise(11), 64, 5, 64, 64)
    for place in (0, 7, 15, 16, 23, 31):
        value = ((bit >> place) & 1).float() * 2 - 1
        shifted = value.roll(1, dims=dim)
        assert abs((value * shifted).mean().item()) < 0.01
        assert abs(value.mean().item()) < 0.01


def test_rows_and_steps_may_be_drawn_in_parts() -> None:
    whole = random_bits(noise(5), 6, 2, 8, 10)
    assert torch.equal(random_bits(noise(5, step=4), 2, 2, 8, 10), whole[4:])
    assert torch.equal(random_bits(noise(5, row=3), 6, 2, 5, 10), whole[:, 3:])


def test_manual_seed_repeats_the_key() -> None:
    torch.manual_seed(3)
    first, second = draw_key(), draw_key()
    torch.manual_seed(3)
    assert torch.equal(draw_key(), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("p", "kept"), [(0.0, True), (1.0, False)])
def test_certain_rates(p: float, kept: bool) -> None:
    assert bool((dropout_keep(noise(1), 2, 0, 2, 50, p) == kept).all())
    for mask in zoneout_update(noise(1), 2, 0, 2, 50, p, p):
        assert bool((mask == kept).all())
