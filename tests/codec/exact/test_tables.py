"""The tables: the same integers everywhere, close to the functions they stand for."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from decimal import Context, Decimal

import numpy as np
import pytest

from fastslow.codec.errors import FormatError
from fastslow.codec.exact.tables import HALF_TABLE, INDEX_BITS, KNOT_BITS, ONE, ONE_BITS, standard_tables


def digest(*tables: np.ndarray) -> str:
    return hashlib.sha256(b"".join(table.astype("<i8").tobytes() for table in tables)).hexdigest()[:16]


def test_golden_tables() -> None:
    tables = standard_tables()
    assert digest(tables.sigmoid_knots, tables.exp_coarse, tables.exp_fine) == "cbee88a2192476df"
    assert digest(tables.sigmoid(), tables.tanh()) == "249827c2da1cc823"


def test_no_entry_depends_on_how_exp_is_rounded() -> None:
    """The short tables are the nearest integers of the exact values, none of which is near a half."""
    exact = Context(prec=40)
    one, tables = Decimal(1 << KNOT_BITS), standard_tables()

    def exp(numerator: int, denominator: int) -> Decimal:
        return exact.exp(exact.divide(Decimal(-numerator), Decimal(denominator)))

    each = [(made, exact.divide(one, exact.add(Decimal(1), exp(k, 64)))) for k, made in enumerate(tables.sigmoid_knots)]
    each += [(made, exact.multiply(one, exp(a, 32))) for a, made in enumerate(tables.exp_coarse)]
    each += [(made, exact.multiply(one, exp(b, 1 << ONE_BITS))) for b, made in enumerate(tables.exp_fine)]
    assert all(abs(int(made) - value) < Decimal("0.499996") for made, value in each)


def test_they_are_close_to_the_functions() -> None:
    arguments = (np.arange(2 * HALF_TABLE) - HALF_TABLE) / 2.0**INDEX_BITS
    sigmoid, tanh = standard_tables().sigmoid(), standard_tables().tanh()
    assert np.abs(sigmoid - ONE / (1 + np.exp(-arguments))).max() < 1.01
    assert np.abs(tanh - ONE * np.tanh(arguments)).max() < 1.01
    assert sigmoid[HALF_TABLE] == ONE // 2
    assert tanh[HALF_TABLE] == 0


def test_no_value_leaves_the_range_the_bounds_rest_on() -> None:
    sigmoid, tanh = standard_tables().sigmoid(), standard_tables().tanh()
    assert sigmoid.min() >= 0
    assert sigmoid.max() == ONE - 1
    assert np.abs(tanh).max() == ONE - 1
    assert (np.diff(sigmoid) >= 0).all()
    assert (np.diff(tanh) >= 0).all()
    assert (tanh[1:] == -tanh[:0:-1]).all()


def test_exp_is_the_product_of_its_factors() -> None:
    tables = standard_tables()
    for d in (0, 1, 1023, 1024, 40_000, 704 * 1024 - 1):
        product = int(tables.exp_coarse[d >> 10]) * int(tables.exp_fine[d & 1023]) >> KNOT_BITS
        assert abs(product - math.exp(-d / ONE) * 2**KNOT_BITS) < 3


@pytest.mark.parametrize("name", ["sigmoid_knots", "exp_coarse", "exp_fine"])
def test_tables_that_break_a_bound_are_refused(name: str) -> None:
    tables = standard_tables()
    good = getattr(tables, name)
    for bad in (good[:-1], good + (1 << KNOT_BITS), -good):
        with pytest.raises(FormatError, match="table"):
            replace(tables, **{name: bad}).check()
