"""Frequencies: they sum to 2^24, none is zero, and they follow the softmax."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastslow.codec.exact.tables import ONE, standard_tables
from fastslow.codec.frequencies import MAX_LOGIT, FrequencyModel
from fastslow.codec.rangecoder import TOTAL

frequencies = FrequencyModel(standard_tables())


@given(
    st.integers(1, 256),
    st.integers(1, 5),
    st.sampled_from([0, 1, 1 << 12, 1 << 23]),
    st.sampled_from([1, 1000, ONE, 40 * ONE, MAX_LOGIT]),
    st.integers(0, 2**32 - 1),
)
def test_every_row_sums_to_the_total_and_has_no_zero(size: int, rows: int, escape: int, scale: int, seed: int) -> None:
    logits = np.random.default_rng(seed).integers(-scale, scale, (rows, size), endpoint=True)
    result = frequencies(logits, escape)
    assert result.shape == (rows, size + (escape > 0))
    assert (result.sum(axis=1) == TOTAL).all()
    assert result.min() >= 1
    if escape:
        assert (result[:, -1] == escape).all()
    assert (result[:, :size].argmax(axis=1) == logits.argmax(axis=1)).all()


def test_they_are_the_softmax() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (200, 60))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    coded = frequencies(np.rint(logits * ONE).astype(np.int64)) / TOTAL
    excess_bits = (softmax * np.log2(softmax / coded)).sum(axis=1)
    assert excess_bits.max() < 2e-5


def test_remainder_goes_to_the_first_of_the_likeliest() -> None:
    result = frequencies(np.zeros((1, 3), dtype=np.int64))
    assert result.tolist() == [[TOTAL - 2 * (TOTAL // 3), TOTAL // 3, TOTAL // 3]]
