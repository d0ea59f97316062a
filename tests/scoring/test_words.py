"""Surprisal by word: exact sums, both conventions, several scripts, items with contexts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastslow.data.alphabet import Alphabet
from fastslow.errors import AlphabetError
from fastslow.lm import CharLM
from fastslow.scoring import item_surprisals, word_surprisals, words
from fastslow.scoring.options import Space, Split
from fastslow.scoring.words import WordSurprisal, words_of
from tests.lm.models import small_lm
from tests.scoring.scored import blocks

TEXTS = {
    "english": "The cat sat on the mat.  It couldn't move!\n\nThe old man the boat.\n",
    "arabic": "السَّلامُ عَلَيْكُم يا عالم. كيف حالُك؟\n",
    "devanagari": "नमस्ते दुनिया। यह एक वाक्य है।",
    "broken": "a\udcff b\udce6\udc97 \x00 c",
}


@pytest.fixture(scope="module")
def lm() -> CharLM:
    return small_lm(alphabet=Alphabet.bytes(), dtype=torch.float64)


def total_bits(lm: CharLM, text: str, context: str = "") -> float:
    """Of all bytes of `text` after a line break and the context, by the model itself."""
    raw = text.encode("utf-8", "surrogateescape")
    tokens = torch.tensor(list(b"\n" + context.encode() + raw))
    with torch.no_grad():
        log_p = torch.log_softmax(lm(tokens[:-1])[0], -1)
    each = -log_p[torch.arange(len(tokens) - 1), tokens[1:]] / math.log(2)
    return float(each[-len(raw) :].sum())


@pytest.mark.parametrize("split", ["unicode", "space"])
@pytest.mark.parametrize("space", ["before", "after"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_words_sum_to_the_text(lm: CharLM, text: str, space: Space, split: Split) -> None:
    raw = text.encode("utf-8", "surrogateescape")
    found = word_surprisals(lm, raw, space=space, split=split)
    assert math.fsum(word.surprisal for word in found) == pytest.approx(total_bits(lm, text), rel=1e-12)
    assert all(math.isfinite(word.surprisal) and math.isfinite(word.entropy) for word in found)
    for word in found:
        assert text[word.start : word.stop] == word.word
        assert raw[word.offset :].startswith(word.word.encode("utf-8", "surrogateescape"))
        assert word.word == text.splitlines()[word.line - 1][word.column - 1 :][: len(word.word)]
    assert "".join(word.word for word in found) == "".join(text.split())


def row(word: WordSurprisal) -> tuple[int, int, str, float]:
    return word.sentence_id, word.word_id, word.word, word.surprisal


def test_white_space_belongs_to_the_word_behind_it() -> None:
    raw, bits = b" ab cd.\n\nef \n", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    found = list(words_of(blocks(raw, bits)))
    assert [row(word) for word in found] == [
        (1, 1, "ab", 7),
        (1, 2, "cd", 56),
        (1, 3, ".", 64),
        (2, 1, "ef", 128 + 256 + 512 + 1024),
        (2, 2, "", 2048 + 4096),
    ]
    assert [(word.start, word.stop, word.length, word.line, word.column) for word in found] == [
        (1, 3, 2, 1, 2),
        (4, 6, 2, 1, 5),
        (6, 7, 1, 1, 7),
        (9, 11, 2, 3, 1),
        (11, 11, 0, 3, 3),
    ]


def test_or_to_the_word_before_it() -> None:
    raw, bits = b" ab cd.\n\nef \n", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    assert [row(word) for word in words_of(blocks(raw, bits), space="after")] == [
        (1, 0, "", 1),
        (1, 1, "ab", 14),
        (1, 2, "cd", 48),
        (1, 3, ".", 64 + 128 + 256),
        (2, 1, "ef", 512 + 1024 + 2048 + 4096),
    ]


@given(
    st.lists(st.sampled_from(["a", "é", " ", ".", "\n", "\udcff", "\r", "日"]), max_size=40),
    st.sampled_from(["before", "after"]),
    st.sampled_from(["unicode", "space"]),
    st.integers(1, 9),
)
def test_nothing_is_lost(chars: list[str], space: Space, split: Split, size: int) -> None:
    raw = "".join(chars).encode("utf-8", "surrogateescape")
    bits = np.exp2(np.arange(len(raw)) % 40)  # sums of them are exact
    found = list(words_of(blocks(raw, bits, size), space=space, split=split))
    assert sum(word.surprisal for word in found) == bits.sum()
    places = [word.start for word in found]
    assert places == sorted(places)
    assert [word.word == "" for word in found].count(True) <= 1
    ids = [(word.sentence_id, word.word_id) for word in found]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)


def test_a_paragraph_that_is_too_long_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "PARAGRAPH", 8)
    raw = b"ab cd\nef gh\nij kl\n"
    found = list(words_of(blocks(raw, np.ones(len(raw)))))
    assert [word.word for word in found] == ["ab", "cd", "ef", "gh", "ij", "kl", ""]
    assert [word.sentence_id for word in found] == [1, 1, 1, 1, 2, 2, 2]
    assert [word.start for word in found] == [0, 3, 6, 9, 12, 15, 17]


def test_entropy_is_that_of_the_first_byte(lm: CharLM) -> None:
    tokens = torch.tensor(list(b"\nab cd"))
    with torch.no_grad():
        p = torch.softmax(lm(tokens)[0], -1)
    entropy = -(p * p.log2()).sum(-1)
    found = word_surprisals(lm, "ab cd")
    assert [word.entropy for word in found] == pytest.approx([float(entropy[0]), float(entropy[3])], rel=1e-6)


def test_a_context_is_read_and_not_scored(lm: CharLM) -> None:
    found = word_surprisals(lm, "It rained.", context="It was late. ")
    assert math.fsum(w.surprisal for w in found) == pytest.approx(total_bits(lm, "It rained.", "It was late. "))
    assert found[0].start == 0
    assert found != word_surprisals(lm, "It rained.")


def test_nothing_and_white_space(lm: CharLM) -> None:
    assert word_surprisals(lm, "") == []
    (only,) = word_surprisals(lm, " \n")
    assert (only.word, only.word_id, only.length) == ("", 0, 0)
    assert only.surprisal == pytest.approx(total_bits(lm, " \n"))


def test_an_unknown_character() -> None:
    with pytest.raises(AlphabetError, match="0x58"):
        word_surprisals(small_lm(), "theX")


# Items


def test_each_item_begins_anew(lm: CharLM) -> None:
    items = ["The cat sat.", "", "It couldn't move, could it?", "The cat sat."] + ["x y"] * 40
    found = item_surprisals(lm, items)
    for number, item in enumerate(items, start=1):
        alone = word_surprisals(lm, item)
        mine = [word for word in found if word.sentence_id == number]
        assert [(w.word, w.start, w.stop, w.word_id) for w in mine] == [
            (w.word, w.start, w.stop, k) for k, w in enumerate(alone, start=1)
        ]
        assert [w.surprisal for w in mine] == pytest.approx([w.surprisal for w in alone], rel=1e-9)
        assert [w.entropy for w in mine] == pytest.approx([w.entropy for w in alone], rel=1e-5)


def test_items_with_contexts_of_their_own(lm: CharLM) -> None:
    items, contexts = ["It rained.", "It rained.", " It rained.", "It"], ["Late.", "Late. ", "Late.", None]
    found = item_surprisals(lm, items, contexts=contexts)
    sums = [math.fsum(w.surprisal for w in found if w.sentence_id == n) for n in (1, 2, 3, 4)]
    spaced = total_bits(lm, " It rained.", "Late.")
    assert sums == pytest.approx([spaced, total_bits(lm, "It rained.", "Late. "), spaced, total_bits(lm, "It")])
    after = item_surprisals(lm, items, contexts=contexts, space="after")
    assert math.fsum(w.surprisal for w in after if w.sentence_id == 1) == pytest.approx(sums[1])
    assert found[0].start == 0


def test_items_after_one_context(lm: CharLM) -> None:
    found = item_surprisals(lm, ["It rained.", "No."], contexts=[None, "Late."], context="So.")
    sums = [math.fsum(w.surprisal for w in found if w.sentence_id == n) for n in (1, 2)]
    assert sums == pytest.approx([total_bits(lm, " It rained.", "So."), total_bits(lm, " No.", "So.Late.")])


def test_long_items_are_scored_in_parts(lm: CharLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastslow.scoring import items as module

    wanted = item_surprisals(lm, ["one two three four five six", "seven"])
    monkeypatch.setattr(module, "CELLS", 5)
    found = item_surprisals(lm, ["one two three four five six", "seven"])
    assert [w.surprisal for w in found] == pytest.approx([w.surprisal for w in wanted])


def test_contexts_that_do_not_fit(lm: CharLM) -> None:
    with pytest.raises(ValueError, match="got 1 contexts for 2 items"):
        item_surprisals(lm, ["a", "b"], contexts=["c"])


def test_records_are_rows_of_a_data_frame(lm: CharLM) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(word_surprisals(lm, "The cat sat."))
    assert list(frame.columns[:5]) == ["sentence_id", "word_id", "word", "surprisal", "entropy"]
    assert frame["word"].tolist() == ["The", "cat", "sat", "."]
