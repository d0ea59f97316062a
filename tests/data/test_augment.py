"""Training text written in other ways: a pure function of bytes and seed; each change by itself."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.data.augment import (
    CHANGES,
    Shares,
    augment,
    augmented_pieces,
    in_capitals,
    pieces,
    unwrapped,
    with_crlf,
    with_other_quotes,
    with_tabs,
)

NONE = dict.fromkeys(CHANGES, 0.0)
ALL = dict.fromkeys(CHANGES, 1.0)
PROSE = (
    '"I can\'t," she said, "believe in the 1890s that they\n'
    "called it 'progress'; but the well-\n"
    'known man who wrote it had never been there before."\n'
    "\n"
    "    if x:\n"
    "        pass\n"
)


def test_each_share_has_its_change() -> None:
    assert [field.name for field in fields(Shares)] == list(CHANGES)


def test_no_share_changes_nothing_and_all_change_everything() -> None:
    text = PROSE.encode()
    assert augment(text, 1, Shares(**NONE)) == text
    found = augment(text, 1, Shares(**ALL))
    assert found.decode() == (
        "“I CAN’T,” SHE SAID, “BELIEVE IN THE 1890S THAT THEY\r\nCALLED IT ‘PROGRESS’; BUT THE WELL-\r\n"
        "KNOWN MAN WHO WROTE IT HAD NEVER BEEN THERE BEFORE.”\r\n\r\n\tIF X:\r\n\t\tPASS\r\n"
    )


def test_the_same_seed_gives_the_same_bytes_for_ever() -> None:
    text = PROSE.encode()
    even = Shares(**dict.fromkeys(CHANGES, 0.5))
    made = {seed: augment(text, seed, even) for seed in range(40)}
    assert all(augment(text, seed, even) == result for seed, result in made.items())
    assert len(set(made.values())) > 10
    # What seed 0 draws; a change of this line changes every corpus.
    assert augment(text, 0, even) == with_tabs(in_capitals(text))
    assert augment(text, 1, even) == with_crlf(with_other_quotes(in_capitals(text)))


def test_shares_are_met() -> None:
    text = PROSE.encode()
    for name, change in CHANGES.items():
        done = sum(augment(text, seed, Shares(**{**NONE, name: 0.3})) == change(text) for seed in range(1000))
        if change(text) != text:
            assert 250 < done < 350, name


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_that_are_none(share: float) -> None:
    with pytest.raises(ValueError, match="crlf must be from 0 to 1"):
        Shares(crlf=share)


def test_quotes_both_ways() -> None:
    ascii_text = '"\'Tis late," he said. \'No "way", it\'s the dog\'s.\' ("yes")--"no"'
    typographic = "“‘Tis late,” he said. ‘No “way”, it’s the dog’s.’ (“yes”)--“no”"
    assert with_other_quotes(ascii_text.encode()).decode() == typographic
    assert with_other_quotes(typographic.encode()).decode() == ascii_text
    assert with_other_quotes(b"the '90s and '68") == "the ’90s and ’68".encode()


def test_capitals() -> None:
    assert in_capitals("straße é".encode()) == "STRASSE É".encode()
    assert in_capitals(b"a\xff") == b"a\xff"


def test_tabs() -> None:
    assert with_tabs(b"a\n    b\n      c\n  d    e\n") == b"a\n\tb\n\t  c\n  d    e\n"
    assert with_tabs(b"        a\n                b\n") == b"\ta\n\t\tb\n"


def test_paragraphs_on_one_line() -> None:
    long = b"a line of more than forty-five characters of text"
    assert unwrapped(long + b"\n" + long + b"\nend.\n\n" + long + b"-\nnext\n") == (
        long + b" " + long + b" end.\n\n" + long + b"-next\n"
    )
    for kept in (b"a verse\nof short\nlines\n", long + b"\n    indented\n", b"\n\n", long):
        assert unwrapped(kept) == kept


def test_crlf_once() -> None:
    assert with_crlf(with_crlf(b"a\n\nb\r\nc")) == b"a\r\n\r\nb\r\nc"


@given(st.binary(max_size=60), st.integers(1, 20))
def test_pieces_are_the_whole(text: bytes, size: int) -> None:
    found = list(pieces(text, size))
    assert b"".join(found) == text
    assert all(0 < len(piece) <= size for piece in found)


def test_pieces_are_cut_between_paragraphs() -> None:
    assert list(pieces(b"aa\n\nbb\ncc\ndd", 9)) == [b"aa\n\n", b"bb\ncc\ndd"]
    assert list(pieces(b"aa\nbb\ncc", 7)) == [b"aa\nbb\n", b"cc"]


@given(st.text(st.sampled_from("ab \n\"'\t-"), max_size=80), st.integers(0, 2**63))
def test_any_text_is_taken(text: str, seed: int) -> None:
    found = augment(text.encode(), seed, Shares(**ALL))
    # No letter is lost or moved.
    assert [c for c in found.decode().lower() if c in "ab"] == [c for c in text if c in "ab"]


def test_a_corpus_piece_by_piece() -> None:
    text = PROSE.encode() * 200
    found, changed = augmented_pieces(text, 7, Shares(**{**NONE, "crlf": 0.5}), size=1000)
    assert found == augmented_pieces(text, 7, Shares(**{**NONE, "crlf": 0.5}), size=1000)[0]
    assert found.replace(b"\r\n", b"\n") == text
    assert 0.2 < changed["crlf"] / len(text) < 0.8
    assert list(changed) == ["crlf"]
    assert augmented_pieces(text, 8, Shares(**{**NONE, "crlf": 0.5}), size=1000)[0] != found
