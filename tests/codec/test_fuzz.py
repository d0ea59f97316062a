"""Fuzzing: a few hundred cases here, 20,000 with the slow tests; `fuzz` describes them."""

from __future__ import annotations

import pytest

from .fuzz import run


def test_a_few_hundred_cases() -> None:
    ends = run(300, seed=1)
    assert ends["round trip"] > 50
    assert sum(count for end, count in ends.items() if "refused" in end) > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_twenty_thousand_cases(seed: int) -> None:
    assert sum(run(5000, seed=100 + seed).values()) == 5000
