from __future__ import annotations

import math

import numpy as np
import pytest

from fastslow.scoring import SurprisingLines, SurprisingPlaces, Totals
from fastslow.scoring.statistics import LineMeans, describe_expected, expected, line_means, percent
from tests.scoring.scored import lines


def test_totals() -> None:
    totals = Totals()
    for line in lines("aé\n\xff".encode("latin-1") + "日".encode(), longest=4):
        totals.add(line)
    assert (totals.size, totals.characters, totals.lines) == (7, 5, 2)
    assert totals.mean.symbols == 6
    assert totals.mean.bpc == pytest.approx(1)
    assert totals.not_utf8 == 2


def test_the_most_surprising_places_in_order() -> None:
    bits = [math.nan, 3, 9, 1, 9, 0]
    places = SurprisingPlaces(3)
    for line in lines(b"ab\ncde", bits):
        places.add(line)
    best = places.best()
    assert [(p.bits, p.offset, p.line, p.column, p.raw) for p in best] == [
        (9, 2, 1, 3, b"\n"),
        (9, 4, 2, 2, b"d"),
        (3, 1, 1, 2, b"b"),
    ]
    assert (best[1].before, best[1].after) == ("c", "e")
    assert best[0].expected == ((b"e", 0.5), (b" ", 0.25), (b"\xc3", pytest.approx(0.0004)))


def test_of_many_places_the_best_are_kept() -> None:
    rng = np.random.default_rng(0)
    bits = rng.permutation(500).astype(float)
    places = SurprisingPlaces(10)
    for line in lines(b"abcd\n" * 100, bits, size=33):
        places.add(line)
    assert [p.bits for p in places.best()] == [float(b) for b in range(499, 489, -1)]
    nothing = SurprisingPlaces(0)
    nothing.add(lines(b"abc")[0])
    assert nothing.best() == []


def test_what_was_expected_is_taken_at_the_most_surprising_byte() -> None:
    (line,) = lines("aé".encode(), [math.nan, 1, 5])
    changed = line.scored.likeliest
    changed[2] = [ord("x"), ord("y"), ord("z")]
    assert [pair[0] for pair in expected(line, 1)] == [b"x", b"y", b"z"]
    assert expected(line, 0) == ()


def test_means_of_lines_in_pieces() -> None:
    means, found = LineMeans(shown=6), []
    for line in lines(b"abcdefghij\nkl\n\nm", [math.nan] + [2.0] * 15, longest=4):
        mean = means.add(line)
        if mean is not None:
            found.append(mean)
    last = means.last()
    assert last is not None
    found.append(last)
    assert [(m.number, m.mean_bits, m.bits, m.symbols, m.text) for m in found] == [
        (1, 2.0, 20.0, 10, "abcdef"),
        (2, 2.0, 6.0, 3, "kl"),
        (3, 2.0, 2.0, 1, ""),
        (4, 2.0, 2.0, 1, "m"),
    ]
    assert LineMeans().last() is None


@pytest.mark.parametrize("longest", [4, 7, 4096])
def test_a_line_by_its_most_surprising_stretch(longest: int) -> None:
    bits = [math.nan, 1, 9, 8, 1, 1, 1, 1, 7, 0, 3, 5, 2]
    found = [m.mean_bits for m in line_means(lines(b"abcdefghi\nkl\n", bits, size=3, longest=longest), stretch=3)]
    assert found == pytest.approx([6.0, 10 / 3])
    short = [m.mean_bits for m in line_means(lines(b"abcdefghi\nkl\n", bits, size=3, longest=longest), stretch=4)]
    assert short == pytest.approx([19 / 4, 10 / 3])
    (single,) = line_means(lines(b"abc", [math.nan, 1, 5]), stretch=1)
    assert (single.mean_bits, single.bits) == (5, 6)
    with pytest.raises(ValueError, match="at least 1 byte"):
        LineMeans(stretch=0)


def test_the_most_surprising_lines() -> None:
    means, best = LineMeans(), SurprisingLines(2)
    for line in lines(b"aa\n\nbb\ncc\n", [math.nan, 1, 1, 9, 5, 5, 5, 3, 3, 3]):
        mean = means.add(line)
        assert mean is not None
        best.add(mean)
    assert [(x.number, x.mean_bits) for x in best.best()] == [(3, 5), (4, 3)]


def test_percent() -> None:
    assert [percent(p) for p in (1.0, 0.61, 0.0996, 0.05, 0.001, 0.0009)] == [
        "100%",
        "61%",
        "10%",
        "5.0%",
        "0.1%",
        "<0.1%",
    ]


def test_describe_expected() -> None:
    assert describe_expected(((b"e", 0.61), (b"\n", 0.02))) == "'e' 61%, '\\n' 2.0%"
