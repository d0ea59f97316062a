from __future__ import annotations

import math

import numpy as np
import pytest

from fastslow.data.alphabet import Alphabet
from fastslow.errors import DataError
from fastslow.scoring import Item, Region, region_surprisals, word_surprisals
from fastslow.scoring.regions import regions_of, regions_of_items
from tests.lm.models import small_lm
from tests.scoring.scored import blocks

RAW = "aé bc\nd日".encode()
BITS = np.exp2(np.arange(len(RAW)))


def test_a_region_costs_its_own_characters_in_the_order_given() -> None:
    spans = [Region(3, 7, "late"), Region(0, 8), Region(1, 2), Region(1, 4)]
    found = regions_of(blocks(RAW, BITS, 2), spans)
    assert [(r.region, r.text, r.surprisal) for r in found] == [
        ("late", "bc\nd", 16 + 32 + 64 + 128),
        ("", "aé bc\nd日", BITS.sum()),
        ("", "é", 2 + 4),
        ("", "é b", 2 + 4 + 8 + 16),
    ]
    assert [(r.offset, r.line, r.column, r.length) for r in found] == [
        (4, 1, 4, 4),
        (0, 1, 1, 8),
        (1, 1, 2, 1),
        (1, 1, 2, 3),
    ]


@pytest.mark.parametrize("span", [(2, 2), (3, 2), (-1, 2)])
def test_empty_regions(span: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="expected 0 <= start < stop"):
        regions_of(blocks(RAW, BITS), [Region(*span)])


@pytest.mark.parametrize("span", [(7, 9), (8, 9), (20, 30)])
def test_regions_outside_the_text(span: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"region 'x' .* ends after the end of the text, which has 8 characters"):
        regions_of(blocks(RAW, BITS), [Region(*span, "x")])


def test_words_without_their_spaces() -> None:
    lm = small_lm(alphabet=Alphabet.bytes())
    text = "The cat sat."
    spaced = word_surprisals(lm, text)
    spans = [Region(max(0, w.start - 1) if w.word != "." else w.start, w.stop) for w in spaced]
    assert [r.surprisal for r in region_surprisals(lm, text, spans)] == pytest.approx([w.surprisal for w in spaced])


def test_regions_of_items() -> None:
    lm = small_lm(alphabet=Alphabet.bytes())
    items = [Item(1, b"The cat sat."), Item(2, b"never scored"), Item(3, b"It sat.", b"Late.", line=3, column=7)]
    spans = [Region(0, 3, "a", 3), Region(4, 7, "b", 1), Region(3, 6, "c", 3)]
    found = list(regions_of_items(lm, items, spans))
    assert [(r.sentence_id, r.region, r.text, r.line, r.column) for r in found] == [
        (1, "b", "cat", 1, 5),
        (3, "a", "It ", 3, 7),
        (3, "c", "sat", 3, 10),
    ]
    assert all(math.isfinite(r.surprisal) for r in found)
    with pytest.raises(DataError, match=r"region .* of item 9.* does not exist"):
        list(regions_of_items(lm, items, [Region(0, 1, "", 9)]))
