"""The mixer's tables: what they say they are, and the bounds that the mixer's sums rest on."""

from __future__ import annotations

import hashlib
from decimal import Context, Decimal

import numpy as np

from fastslow.mixing.tables import LIMIT, ln, tables


def test_stretch_and_squash_are_the_logit_and_its_inverse() -> None:
    t = tables()
    p = np.arange(1, 65536)
    assert np.abs(t.stretch[1:] - (1024 * np.log(p / (65536 - p))).clip(-LIMIT, LIMIT)).max() < 1.01
    s = np.arange(-12288, 12288)
    assert (t.squash == np.rint(65536 / (1 + np.exp(-s / 1024))).clip(1, 65535)).all()
    assert t.stretch[0] == -LIMIT
    assert np.abs(t.stretch).max() == LIMIT
    assert (t.squash[12288 + 1 :] + t.squash[12288 - 1 : 0 : -1] == 65536).all()


def test_logarithms() -> None:
    n = np.unique(np.geomspace(1, 2**32 - 1, 5000).astype(np.int64))
    assert np.abs(ln(n, tables().logarithm) / 65536 - np.log(n)).max() < 1 / 2048


def test_no_logarithm_depends_on_how_it_is_rounded() -> None:
    exact = Context(prec=40)
    for i, made in enumerate(tables().logarithm):
        value = exact.multiply(exact.ln(exact.divide(Decimal(4096 + i), Decimal(4096))), Decimal(1 << 16))
        assert abs(int(made) - value) < Decimal("0.4999")


def test_rates() -> None:
    assert tables().rate[:3].tolist() == [43690, 26214, 18724]
    assert (np.diff(tables().rate) <= 0).all()


def test_histories() -> None:
    """Those that are reached fit a byte, none leads back to nothing, and a bit makes itself likelier."""
    t = tables()
    reached, fresh = {0}, [0]
    while fresh:
        after = {int(state) for state in t.next_history[fresh.pop()]}
        fresh += after - reached
        reached |= after
    assert 100 < len(reached) <= max(reached) + 1 <= 256
    estimate = t.initial >> 10
    for state in reached:
        zero, one = t.next_history[state]
        assert zero != 0
        assert one != 0
        assert estimate[zero] <= estimate[one]


def test_golden() -> None:
    """A change of a table is a change of the format."""
    digest = hashlib.sha256()
    for table in vars(tables()).values():
        digest.update(table.astype("<i8").tobytes())
    assert digest.hexdigest()[:32] == "93314a202965e98cfbcf65652ee524e9"
