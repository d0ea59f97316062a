"""Surprisal by word: a word's bits are the sum over its characters and the white space before it.

By the chain rule the bits of consecutive characters add up, so a character model gives the exact surprisal of any part
of a text: no tokenizer determines what a word is, and the words add up to the text.  For that, every character must be
counted exactly once.  A word includes the white space before it (or, as an option, after it).  White space without such
a word, at the end of the text (or at its beginning), is a separate row with an empty word.

The first character is scored too: the model reads a line break before it, and the context if there is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastslow.lm import CharLM
from fastslow.lm.generation import start_of_text
from fastslow.scoring.items import Item, item_blocks
from fastslow.scoring.lines import Line, scored_lines
from fastslow.scoring.options import Space, Split
from fastslow.scoring.segments import length, sentence_starts, words
from fastslow.scoring.surprisal import Surprisal, surprisals

PARAGRAPH = 1 << 16
"""The maximum length in characters of a paragraph that is segmented at once; longer ones are split between lines."""


@dataclass(frozen=True)
class WordSurprisal:
    """A word and its surprisal.

    sentence_id: the number of the sentence, or of the item, from 1.  word_id: the word's number in it, from 1.
    word: the word itself; empty for white space that belongs to no word.
    surprisal: bits of its characters and of its white space.
    entropy: bits, of the prediction of its first byte: the model's uncertainty at the beginning of the word.
    length: the number of characters as seen by a reader (grapheme clusters).
    start, stop: its code points in the text, or in the item: ``text[start:stop] == word``, with each line end counted
    as one.
    offset: its first byte in the file.  line, column: in the file, from 1; column counts code points.
    """

    sentence_id: int
    word_id: int
    word: str
    surprisal: float
    entropy: float
    length: int
    start: int
    stop: int
    offset: int
    line: int
    column: int


def word_surprisals(
    model: CharLM,
    text: str | bytes,
    *,
    context: str | bytes | None = None,
    space: Space = "before",
    split: Split = "unicode",
) -> list[WordSurprisal]:
    """The words of a text with their surprisals, in order.

    Args:
        model: used in evaluation mode; its mode is restored afterwards.
        text: a str is scored as UTF-8.
        context: text that the model reads first, unscored and unchanged, after an initial line break.
        space: whether a word's bits include the white space before or after it.
        split: "unicode": words by UAX 29, where punctuation marks are separate words; "space": everything
            between white space, including punctuation, as in most corpora of reading times.

    Raises AlphabetError for a character outside the model's alphabet.
    """
    data = np.frombuffer(encoded(text), dtype=np.uint8)
    blocks = surprisals(model, data, context=context_bytes(model, context), likeliest=1)
    return list(words_of(blocks, space=space, split=split))


def item_surprisals(
    model: CharLM,
    items: Sequence[str | bytes],
    *,
    contexts: Sequence[str | bytes | None] | None = None,
    context: str | bytes | None = None,
    space: Space = "before",
    split: Split = "unicode",
) -> list[WordSurprisal]:
    """The words of items that are scored independently after the same context; `sentence_id` is the item's number.

    Args:
        items: one sentence or text each.
        contexts: text that the model reads before each item, unscored.
        context: text that it reads before every item, in front of the item's own context.
        space, split: as in `word_surprisals`.

    If there is no white space between a context and an item, the model reads a space there.  It counts as part of the
    item's first word with ``space="before"``, and is not counted with "after".

    Raises ValueError unless there are as many contexts as items, and AlphabetError like `word_surprisals`.
    """
    if contexts is not None and len(contexts) != len(items):
        raise ValueError(f"there must be one context per item; got {len(contexts)} contexts for {len(items)} items")
    own = [None] * len(items) if contexts is None else list(contexts)
    made = (
        Item(number, encoded(item), None if before is None else encoded(before))
        for number, (item, before) in enumerate(zip(items, own, strict=True), start=1)
    )
    return list(words_of_items(model, made, context=context, space=space, split=split))


def context_bytes(model: CharLM, context: str | bytes | None) -> bytes:
    """The bytes that the model reads first: a line break (or a space, or the first symbol, if the alphabet has none),
    then the context, if there is one."""
    return start_of_text(model.alphabet) + encoded(context or b"")


def words_of_items(
    model: CharLM,
    items: Iterable[Item],
    *,
    context: str | bytes | None = None,
    space: Space = "before",
    split: Split = "unicode",
) -> Iterator[WordSurprisal]:
    """The words of items, scored in batches of a few dozen items."""
    for scored in item_blocks(model, items, start=context_bytes(model, context), has_start=bool(context)):
        lead = scored.space_bits if space == "before" else 0.0
        yield from words_of([scored.surprisal], space=space, split=split, lead=lead, item=scored.item)


def words_of(
    blocks: Iterable[Surprisal],
    *,
    space: Space = "before",
    split: Split = "unicode",
    lead: float = 0.0,
    item: Item | None = None,
) -> Iterator[WordSurprisal]:
    """The words of a text from its scored `blocks`; memory does not grow with the text.

    lead: bits of a space before the text, added to the first word.  item: the item that the text belongs to, whose
    number is every word's sentence_id; without it, sentences are counted.
    """
    numbers = _Numbers(item)
    blank: _Token | None = None
    """White space that does not belong to a word yet."""
    before = [lead]
    last: WordSurprisal | None = None
    """With space "after", a word that may still get white space."""
    for token in _tokens(paragraphs(blocks, item), split, item is None):
        if token.text.isspace():
            if last is not None:
                last = replace(last, surprisal=last.surprisal + token.bits)
            else:
                blank = blank or token
                before.append(token.bits)
            continue
        if space == "after":
            if last is not None:
                yield last
            elif blank is not None:
                yield blank.row("", math.fsum(before), *numbers.rest())
            last = token.row(token.text, token.bits, *numbers.next(token.sentence))
        else:
            yield token.row(token.text, math.fsum((*before, token.bits)), *numbers.next(token.sentence))
        blank, before = None, []
    if last is not None:
        yield last
    if blank is not None:
        yield blank.row("", math.fsum(before), *numbers.rest())


@dataclass(frozen=True, eq=False)
class Paragraph:
    """Lines up to a blank line.  Each array has one entry per code point of `text`."""

    text: str
    start: int
    """The number of code points before it."""
    bits: NDArray[np.float64]
    """0 where not scored."""
    entropy: NDArray[np.float32]
    offsets: NDArray[np.int64]
    lines: NDArray[np.int64]
    columns: NDArray[np.int64]


def paragraphs(blocks: Iterable[Surprisal], item: Item | None = None) -> Iterator[Paragraph]:
    """The paragraphs of a scored text, or of an item: each ends with a blank line."""
    held: list[Line] = []
    start = size = 0
    for one in scored_lines(blocks):
        held.append(one)
        size += len(one)
        if size >= PARAGRAPH or (one.ends and one.column == 1 and one.text.isspace()):
            yield _paragraph(held, start, item)
            start, size, held = start + size, 0, []
    if held:
        yield _paragraph(held, start, item)


def _paragraph(lines: list[Line], start: int, item: Item | None) -> Paragraph:
    down, right = (0, 0) if item is None else (item.line - 1, item.column - 1)
    return Paragraph(
        "".join(one.text for one in lines),
        start,
        np.concatenate([np.nan_to_num(one.bits) for one in lines]),
        np.concatenate([one.scored.entropy[one.starts[:-1]] for one in lines]),
        np.concatenate([one.scored.offsets[one.starts[:-1]] for one in lines]),
        np.concatenate([np.full(len(one), one.number + down) for one in lines]),
        np.concatenate([one.column + right * (one.number == 1) + np.arange(len(one)) for one in lines]),
    )


class _Token(NamedTuple):
    """A word, or the white space between words."""

    text: str
    bits: float
    paragraph: Paragraph
    at: int
    """Its start in the paragraph."""
    sentence: int
    """The number of its sentence, from 1."""

    def row(self, word: str, bits: float, sentence_id: int, word_id: int) -> WordSurprisal:
        part, at = self.paragraph, self.at
        return WordSurprisal(
            sentence_id,
            word_id,
            word,
            bits,
            float(part.entropy[at]),
            length(word),
            part.start + at,
            part.start + at + len(word),
            int(part.offsets[at]),
            int(part.lines[at]),
            int(part.columns[at]),
        )


def _tokens(parts: Iterable[Paragraph], split: Split, by_sentence: bool) -> Iterator[_Token]:
    """The words and white space of paragraphs. A sentence starts with its first word."""
    sentence, at_word = 0, -1
    for part in parts:
        starts = sentence_starts(part.text) if by_sentence else [0]
        at, which, at_word = 0, 0, -1
        for text in words(part.text, split):
            while which + 1 < len(starts) and starts[which + 1] <= at:
                which += 1
            if not text.isspace() and which != at_word:
                sentence, at_word = sentence + 1, which
            yield _Token(text, math.fsum(part.bits[at : at + len(text)]), part, at, sentence)
            at += len(text)


class _Numbers:
    """Counts the words of each sentence, or of one item."""

    def __init__(self, item: Item | None) -> None:
        self._item, self._sentence, self._word = None if item is None else item.number, 1, 0

    def next(self, sentence: int) -> tuple[int, int]:
        """The numbers of the next word in this sentence."""
        sentence = self._item or sentence
        if sentence != self._sentence:
            self._sentence, self._word = sentence, 0
        self._word += 1
        return sentence, self._word

    def rest(self) -> tuple[int, int]:
        """The numbers of white space without a word: the sentence and the next word_id, or 0 before the first."""
        return self._item or self._sentence, self._word + 1 if self._word else 0


def encoded(text: str | bytes) -> bytes:
    """The text as UTF-8; surrogates become the bytes that they escape."""
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
