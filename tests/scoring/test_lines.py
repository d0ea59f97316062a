from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scoring.scored import lines


def test_lines_have_numbers_columns_and_offsets() -> None:
    found = lines(b"ab\n\nc", size=2)
    assert [(x.number, x.column, x.text, x.scored.start, x.ends) for x in found] == [
        (1, 1, "ab\n", 0, True),
        (2, 1, "\n", 3, True),
        (3, 1, "c", 4, False),
    ]


def test_a_characters_bits_are_the_sum_of_its_bytes() -> None:
    raw = "aé日😀".encode()
    (line,) = lines(raw, [math.nan, 1, 2, 3, 4, 5, 6, 7, 8, 9], size=3)
    assert line.text == "aé日😀"
    assert math.isnan(line.bits[0])
    assert line.bits[1:].tolist() == [3, 12, 30]
    assert line.starts.tolist() == [0, 1, 3, 6, 10]
    assert (line.total_bits, line.symbols, line.mean_bits) == (45, 9, 5)


def test_a_first_character_counts_with_the_bytes_that_were_scored() -> None:
    (line,) = lines("é".encode(), [math.nan, 2])
    assert line.bits.tolist() == [2]


def test_bytes_that_are_no_text_are_characters_of_their_own() -> None:
    (line,) = lines(b"a\xff\xe6b", [0, 1, 2, 3])
    assert line.text == "a\udcff\udce6b"
    assert line.bits.tolist() == [0, 1, 2, 3]


def test_a_long_line_comes_in_pieces_of_whole_characters() -> None:
    raw = ("日" * 30 + "\n").encode()
    found = lines(raw, size=4, longest=10)
    assert all(len(x.scored) <= 10 + 4 for x in found)
    assert "".join(x.text for x in found) == "日" * 30 + "\n"
    assert {x.number for x in found} == {1}
    assert [x.column for x in found] == list(np.cumsum([1] + [len(x) for x in found])[:-1])
    assert [x.ends for x in found] == [False] * (len(found) - 1) + [True]


def test_a_single_byte_has_no_mean() -> None:
    (line,) = lines(b"a")
    assert math.isnan(line.mean_bits)
    assert lines(b"") == []


def test_a_limit_that_holds_no_character_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        lines(b"abc", longest=3)


@given(
    st.lists(st.sampled_from(["a", "é", "日", "😀", "\n", "\udcff", "\udce6"]), max_size=60),
    st.integers(1, 9),
    st.integers(4, 30),
)
def test_nothing_is_lost_or_moved(chars: list[str], size: int, longest: int) -> None:
    raw = "".join(chars).encode("utf-8", "surrogateescape")
    text = raw.decode("utf-8", "surrogateescape")  # neighbouring bytes may make a character together
    bits = np.arange(len(raw), dtype=np.float64)
    found = lines(raw, bits, size, longest)
    assert b"".join(x.scored.values.tobytes() for x in found) == raw
    assert "".join(x.text for x in found) == text
    assert sum(x.bits.sum() for x in found) == bits.sum()
    line, column = 1, 1
    for piece in found:
        assert (piece.number, piece.column) == (line, column)
        assert "\n" not in piece.text[:-1]
        assert piece.ends == piece.text.endswith("\n")
        line, column = (line + 1, 1) if piece.ends else (line, column + len(piece))
