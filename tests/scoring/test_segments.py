"""Words and sentences by Unicode's rules (UAX 29), in several scripts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.scoring.segments import length, sentence_starts, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The quick (“brown”) fox can't jump 32.3 feet.", "The|quick|(|“|brown|”|)|fox|can't|jump|32.3|feet|."),
        ("नमस्ते दुनिया।", "नमस्ते|दुनिया|।"),
        ("السَّلامُ عَلَيْكُم يا عالم", "السَّلامُ|عَلَيْكُم|يا|عالم"),
        ("שלום צה״ל", "שלום|צה״ל"),
        ("e\u0301te\u0301 👩‍👩‍👧 🇩🇪🇫🇷", "e\u0301te\u0301|👩‍👩‍👧|🇩🇪|🇫🇷"),
        ("a\udcffb well-known", "a|\udcff|b|well|-|known"),
    ],
)
def test_words(text: str, found: str) -> None:
    tokens = list(words(text))
    assert "".join(tokens) == text
    assert [token for token in tokens if not token.isspace()] == found.split("|")


def test_words_between_white_space() -> None:
    assert list(words(" “Well-known,”\n\tshe said. ", "space")) == [
        " ",
        "“Well-known,”",
        "\n\t",
        "she",
        " ",
        "said.",
        " ",
    ]


@pytest.mark.parametrize("split", ["unicode", "space"])
@given(text=st.text(st.sampled_from("aB3.,'\"_ -é日カ😀\u200d\u0301ا।:\n\r\t\u3000\udcff"), max_size=30))
def test_all_of_the_text_comes_and_white_space_apart(split: str, text: str) -> None:
    tokens = list(words(text, split))  # type: ignore[arg-type]
    assert "".join(tokens) == text
    for token in tokens:
        assert token
        assert token.isspace() or token[0] == "\u200d" or not token[-1].isspace()


def sentences(text: str) -> list[str]:
    starts = [*sentence_starts(text), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(starts)]


# What the package uniseg, which passes Unicode's own tests, makes of them.
@pytest.mark.parametrize(
    "found",
    [
        ["Mr. ", "Smith went. ", '"He said so." ', "Then U.S. troops came! ", "3.4 is. ", "Ok"],
        ["etc. and so on. ", 'He ("yes.") left? ', "no... ", "Yes"],
        ["c.d. ", "U.S.A. fine. ", "4. x"],
        ['He said: "Go!", and left.'],
        ["नमस्ते। ", "दुनिया।"],
        ["مرحبا؟ ", "نعم."],
        ["日本語。", "テキスト。"],
    ],
)
def test_sentences(found: list[str]) -> None:
    assert sentences("".join(found)) == found


def test_a_wrapped_sentence_is_one() -> None:
    assert sentences("It was\nlate. And\ndark.\n") == ["It was\nlate. ", "And\ndark.\n"]
    assert sentence_starts("") == [0]


def test_length_is_what_a_reader_sees() -> None:
    assert [length(text) for text in ("", "word", "e\u0301te\u0301", "👩‍👩‍👧", "日本", "a\udcff")] == [0, 4, 3, 1, 2, 2]
