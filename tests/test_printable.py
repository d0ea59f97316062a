from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.printable import Utf8Stream, character_starts, complete_length, quoted, visible, visible_text


@pytest.mark.parametrize(
    ("char", "shown"),
    [
        ("a", "a"),
        (" ", " "),
        ("é", "é"),
        ("😀", "😀"),
        ("\n", "\\n"),
        ("\t", "\\t"),
        ("\x1b", "\\x1b"),
        ("\x00", "\\x00"),
        ("\x9b", "\\x9b"),
        ("\u202e", "\\u202e"),
        ("\u2028", "\\u2028"),
        ("\U000e0041", "\\U000e0041"),
        ("\udce9", "\\xe9"),
        ("\ud800", "\\ud800"),
    ],
)
def test_visible(char: str, shown: str) -> None:
    assert visible(char) == shown


def test_visible_text_keeps_what_it_is_told_to() -> None:
    assert visible_text("a\tb\x07\n", keep="\n\t") == "a\tb\\x07\n"
    assert visible_text("plain") == "plain"


def test_quoted() -> None:
    assert quoted(b"a") == "'a'"
    assert quoted(b"'") == '"\'"'
    assert quoted(b"'\"") == "'\\'\"'"
    assert quoted(b"\\") == "'\\\\'"
    assert quoted("日".encode()) == "'日'"
    assert quoted(b"\xe6") == "'\\xe6'"


@given(st.binary(max_size=40), st.lists(st.integers(1, 5), max_size=40))
def test_stream_gives_the_same_text_however_the_bytes_are_cut(raw: bytes, cuts: list[int]) -> None:
    stream, text, at = Utf8Stream(), "", 0
    for step in cuts:
        text += stream.feed(raw[at : at + step])
        at += step
    text += stream.feed(raw[at:]) + stream.finish()
    assert text == raw.decode("utf-8", "surrogateescape")


def test_stream_gives_a_character_with_its_last_byte() -> None:
    stream = Utf8Stream()
    assert [stream.feed(bytes([b])) for b in "日a".encode()] == ["", "", "日", "a"]
    assert stream.finish() == ""


@given(st.binary(max_size=40))
def test_starts_say_where_each_character_begins(raw: bytes) -> None:
    text = raw.decode("utf-8", "surrogateescape")
    starts = character_starts(text)
    assert starts[0] == 0
    assert starts[-1] == len(raw)
    for char, start, stop in zip(text, starts[:-1], starts[1:], strict=True):
        assert raw[start:stop] == char.encode("utf-8", "surrogateescape")
    assert starts.dtype == np.int64


@pytest.mark.parametrize(
    ("raw", "length"),
    [
        (b"", 0),
        (b"abc", 3),
        (b"ab\xe6", 2),
        (b"ab\xe6\x97", 2),
        ("ab日".encode(), 5),
        (b"a\xf0\x9f\x98", 1),
        ("😀".encode(), 4),
        (b"\x80\x80\x80\x80", 4),
        (b"a\xff", 2),
    ],
)
def test_complete_length(raw: bytes, length: int) -> None:
    assert complete_length(raw) == length
