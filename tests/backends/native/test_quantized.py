"""Matrices in 8 bits: what rounding costs, and which matrices it does not change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastslow.backends.native.quantized import Quantized, row_scales
from fastslow.lm.fixed import rows_of_8_bits


def test_rounded_rows() -> None:
    weight = torch.randn(6, 19, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    quantized = Quantized(weight)
    assert quantized.values.shape == (6, 32)
    assert quantized.values.dtype == torch.int8
    assert not quantized.values[:, 19:].any()
    assert all(64 <= largest <= 127 for largest in quantized.values[[0, 1, 3, 4, 5]].abs().amax(1).tolist())
    assert not quantized.values[2].any()
    assert ((quantized.dequantized() - weight).abs() <= quantized.scale.unsqueeze(1) / 2).all()


@given(st.floats(2.0**-100, 2.0**100, width=32))
def test_scales_are_the_smallest_powers_of_two(largest: float) -> None:
    scale = row_scales(torch.tensor([largest])).item()
    assert torch.frexp(torch.tensor(scale)).mantissa == 0.5
    assert largest / scale <= 127 < 2 * largest / scale


@given(st.lists(st.integers(-127, 127), min_size=1, max_size=40), st.integers(-60, 60))
def test_rounding_again_changes_nothing(integers: list[int], exponent: int) -> None:
    weight = torch.tensor([integers, integers[::-1]], dtype=torch.float32) * 2.0**exponent
    quantized = Quantized.of_same(weight)
    assert quantized is not None
    assert torch.equal(quantized.dequantized(), weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("row", [0, 7])
def test_matrices_that_8_bits_do_not_hold(row: int, dtype: torch.dtype) -> None:
    weight = Quantized(torch.randn(8, 19)).dequantized().to(dtype)
    assert Quantized.of_same(weight) is not None
    for value in (torch.nan, torch.inf, float(weight[row, 3]) + float(weight[row].abs().max()) / 1e4):
        changed = weight.clone()
        changed[row, 3] = value
        assert Quantized.of_same(changed) is None


def test_packaged_matrices_are_recognised() -> None:
    matrices = torch.randn(12, 7, dtype=torch.float64), 1e-3 * torch.randn(12, 30, dtype=torch.float64)
    for fixed in rows_of_8_bits(*matrices):
        scale = torch.tensor([[2.0**-bits] for bits in fixed.bits])  # type: ignore[union-attr]
        assert Quantized.of_same(fixed.values * scale) is not None
