from __future__ import annotations

import math

import numpy as np

from fastslow.scoring.levels import BOUNDS, LEVELS, level, level_names, levels, mean_text


def test_a_level_begins_at_its_bound() -> None:
    bits = np.array([0, 1.99, 2, 3.9, 4, 6, 8, 10.9, 11, 99, math.nan])
    assert levels(bits).tolist() == [0, 0, 1, 1, 2, 3, 4, 4, 5, 5, 0]
    assert [level(b) for b in bits] == levels(bits).tolist()


def test_each_level_has_a_name() -> None:
    assert level_names() == ["<2", "2-4", "4-6", "6-8", "8-11", "11+"]
    assert len(level_names()) == LEVELS == len(BOUNDS) + 1


def test_a_mean_is_five_wide() -> None:
    assert [mean_text(m) for m in (2.314, 12.0, math.nan)] == [" 2.31", "12.00", "    -"]
