"""Units, running means, and bootstrap intervals whose true values are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.errors import DataError
from fastslow.metrics import (
    Interval,
    Mean,
    bits_per_character,
    bits_to_nats,
    bootstrap_difference,
    bootstrap_mean,
    nats_to_bits,
    perplexity,
)

losses = st.lists(st.floats(0.0, 20.0), min_size=1, max_size=60)


def test_a_uniform_model_over_v_symbols_has_log2_v_bits() -> None:
    total = 1000 * math.log(32)
    assert bits_per_character(total, 1000) == pytest.approx(5.0)
    assert perplexity(total / 1000) == pytest.approx(32.0)


def test_perplexity_of_a_hopeless_model_is_infinite() -> None:
    assert perplexity(1e6) == math.inf


def test_no_symbols_have_no_average() -> None:
    with pytest.raises(ValueError, match="at least one"):
        bits_per_character(0.0, 0)
    with pytest.raises(ValueError, match="no symbol"):
        _ = Mean().bpc
    with pytest.raises(ValueError, match="negative"):
        Mean().add(1.0, -1)


@given(st.floats(-1e6, 1e6))
def test_units_are_inverse(nats: float) -> None:
    assert bits_to_nats(nats_to_bits(nats)) == pytest.approx(nats, abs=1e-9)


@given(losses, st.integers(0, 60))
def test_a_mean_in_two_parts_is_the_mean(values: list[float], cut: int) -> None:
    first, second, whole = Mean(), Mean(), Mean()
    first.add(math.fsum(values[:cut]), len(values[:cut]))
    for value in values[cut:]:
        second.add(value, 1)
    second.merge(first)
    whole.add(math.fsum(values), len(values))
    assert second.symbols == len(values)
    assert second.nats == pytest.approx(math.fsum(values) / len(values), rel=1e-12)
    assert second.bpc == pytest.approx(whole.bpc, rel=1e-12)


def test_a_long_sum_loses_nothing() -> None:
    mean = Mean()
    mean.add(1e16, 1)
    for _ in range(1000):
        mean.add(1.0, 1)
    mean.add(-1e16, 1)
    assert mean.nats * mean.symbols == pytest.approx(1000.0)


def test_a_loss_that_is_not_finite_shows() -> None:
    mean = Mean()
    mean.add(math.inf, 1)
    mean.add(1.0, 1)
    assert mean.nats == math.inf
    mean.add(math.nan, 1)
    assert math.isnan(mean.nats)


def test_interval_of_independent_losses_matches_theory() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.5, size=20_000)
    interval = bootstrap_mean(values, block=10, samples=1000)
    half = 1.96 * 0.5 / math.sqrt(20_000) / math.log(2)
    assert interval.value_bpc == pytest.approx(values.mean() / math.log(2))
    assert (interval.high_bpc - interval.low_bpc) / 2 == pytest.approx(half, rel=0.1)
    assert interval.low_bpc < interval.value_bpc < interval.high_bpc


def test_blocks_widen_the_interval_of_losses_that_go_together() -> None:
    values = np.repeat(np.random.default_rng(1).normal(size=200), 50)
    alone = bootstrap_mean(values, block=1, samples=400)
    blocks = bootstrap_mean(values, block=500, samples=400)
    # Runs of 50 equal values are worth one value: the true interval is sqrt(50), about 7 times, as wide.
    ratio = (blocks.high_bpc - blocks.low_bpc) / (alone.high_bpc - alone.low_bpc)
    assert 5.0 < ratio < 9.0


def test_difference_cancels_what_is_hard_for_both() -> None:
    generator = np.random.default_rng(2)
    hard = generator.exponential(2.0, size=10_000)
    better, worse = hard, hard + 0.02 + generator.normal(0.0, 0.05, size=10_000)
    interval = bootstrap_difference(better, worse, samples=500)
    assert interval.value_bpc == pytest.approx(-0.02 / math.log(2), rel=0.1)
    assert interval.excludes_zero
    assert interval.symbols == 10_000
    assert not bootstrap_difference(hard, hard, samples=50).excludes_zero


def test_bootstrap_repeats_with_its_seed_and_covers_the_ragged_block() -> None:
    values = np.random.default_rng(3).exponential(size=1037)
    assert bootstrap_mean(values, block=100, samples=50, seed=5) == bootstrap_mean(
        values, block=100, samples=50, seed=5
    )
    assert bootstrap_mean(values, block=100, samples=50, seed=5) != bootstrap_mean(
        values, block=100, samples=50, seed=6
    )


@given(losses, st.integers(1, 100))
def test_interval_contains_only_means_that_can_be(values: list[float], block: int) -> None:
    interval = bootstrap_mean(values, block=block, samples=20)
    low, high = nats_to_bits(min(values)), nats_to_bits(max(values))
    assert low - 1e-9 <= interval.low_bpc <= interval.high_bpc <= high + 1e-9


def test_an_interval_prints_its_units() -> None:
    assert str(Interval(1.25, 1.2, 1.3, 0.95, 12_345)) == (
        "1.2500 BPC [1.2000, 1.3000] (95% bootstrap interval, 12,345 symbols)"
    )


def test_wrong_losses_are_refused() -> None:
    with pytest.raises(DataError, match="scored 3 and 2 symbols"):
        bootstrap_difference([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(DataError, match="empty"):
        bootstrap_mean([])
    with pytest.raises(DataError, match="not finite at symbol 1"):
        bootstrap_mean([1.0, math.nan])
    with pytest.raises(DataError, match=r"shape \(N,\)"):
        bootstrap_mean([[1.0]])
    for settings in ({"block": 0}, {"samples": 0}, {"confidence": 1.0}):
        with pytest.raises(ValueError):
            bootstrap_mean([1.0], **settings)
