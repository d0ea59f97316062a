"""Words, sentences and characters as readers see them, by Unicode text segmentation (UAX 29).

Word boundaries and grapheme clusters are those of the `regex` package.  It does not provide sentence boundaries, but it
has the property that defines them, so `SENTENCE_END` implements rules SB6 to SB11 of UAX 29 as a pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import regex

from fastslow.scoring.options import Split

_BOUNDARY = regex.compile(r"(?V1w)\b")
_SPACED = re.compile(r"\s+|\S+")
_CLUSTER = regex.compile(r"\X")

_MARKS = r"[\p{SB=EX}\p{SB=FO}]"  # SB5: they belong to the preceding character
_EXTEND = rf"{_MARKS}*+"
_AFTER = rf"(?:\p{{SB=CL}}{_EXTEND})*+(?:\p{{SB=SP}}{_EXTEND})*+"
SENTENCE_END = regex.compile(
    rf"""(?V1)
    (?:
        \p{{SB=ST}} {_EXTEND} {_AFTER}
      |
        \p{{SB=AT}} {_EXTEND}
        (?! \p{{SB=NU}} )                                                      # SB6: 3.4
        (?: (?! \p{{SB=UP}} ) | (?<! [\p{{SB=UP}}\p{{SB=LO}}] {_MARKS}* \p{{SB=AT}} {_MARKS}* ) )   # SB7: U.S
        {_AFTER}
        (?! [^\p{{SB=LE}}\p{{SB=UP}}\p{{SB=LO}}\p{{SB=SE}}\p{{SB=AT}}\p{{SB=ST}}]*+ \p{{SB=LO}} )   # SB8: etc. and
    )
    (?! [\p{{SB=SC}}\p{{SB=AT}}\p{{SB=ST}}] )                                  # SB8a
    """,
    regex.VERBOSE,
)
"""A sentence ends after a match.  Line ends, which end sentences in UAX 29 as well (SB3, SB4), are left to the caller:
text is often wrapped."""


def words(text: str, split: Split = "unicode") -> Iterator[str]:
    """The words of a text and everything between them, in order; white space is separate from words."""
    if split == "space":
        yield from _SPACED.findall(text)
        return
    start = 0
    for match in _BOUNDARY.finditer(text):
        if match.start() > start:
            yield text[start : match.start()]
            start = match.start()
    if start < len(text):
        yield text[start:]


def sentence_starts(text: str) -> list[int]:
    """Where the sentences of a paragraph begin; the first is 0.  Line ends count as spaces, because text is wrapped."""
    flat = text.replace("\n", " ")
    ends = [match.end() for match in SENTENCE_END.finditer(flat)]
    return [0, *(end for end in ends if end < len(text))]


def length(text: str) -> int:
    """The number of characters as seen by a reader (extended grapheme clusters)."""
    return len(text) if text.isascii() else sum(1 for _ in _CLUSTER.finditer(text))
