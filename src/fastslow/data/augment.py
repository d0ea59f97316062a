"""Augmentation: training text rewritten in the formats that occur in people's files.

A model that has only seen books with LF line ends, wrapped lines and one kind of quotation marks is surprised by all
others. `augment` rewrites a document. The result depends only on the bytes, the shares and a seed, so a corpus can be
rebuilt byte for byte.  Each change is drawn independently, so a document may have several.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

PIECE = 1 << 16
"""The size of the pieces in which a long text is augmented, in bytes."""


@dataclass(frozen=True)
class Shares:
    """The shares of documents, from 0 to 1, to which each change is applied, where it is applicable.

    capitals: all letters become capitals.
    unwrapped: each paragraph becomes one line.
    tabs: indentation by spaces becomes tabs, four spaces each (eight if all indentation is a multiple of eight).
    quotes: quotation marks and apostrophes become typographic if they are ASCII, and ASCII if they are typographic.
    crlf: line ends become CR LF.

    Raises ValueError for a share outside 0 to 1.
    """

    capitals: float = 0.02
    unwrapped: float = 0.15
    tabs: float = 0.1
    quotes: float = 0.2
    crlf: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            share = getattr(self, field.name)
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{field.name} must be from 0 to 1; got {share}")


def augment(document: bytes, seed: int, shares: Shares | None = None) -> bytes:
    """`document` with the changes that are drawn for it by `seed`; see `Shares`.

    In text that is not UTF-8, only line ends are changed.
    """
    return _augmented(document, seed, Shares() if shares is None else shares)[0]


def augmented_pieces(
    text: bytes, seed: int, shares: Shares | None = None, *, size: int = PIECE
) -> tuple[bytes, Counter[str]]:
    """Augment a long text, such as many books in one file, in pieces; also returns the bytes affected by each change.

    The text is split between paragraphs, or between lines, and each piece has its own seed, derived from `seed` and its
    number.  The counter has the bytes of the pieces that each change really changed, by the names of `Shares`.
    """
    done, changed = [], Counter[str]()
    for number, piece in enumerate(pieces(text, size)):
        result, ways = _augmented(piece, _derived(seed, number), Shares() if shares is None else shares)
        done.append(result)
        changed.update(dict.fromkeys(ways, len(piece)))
    return b"".join(done), changed


def pieces(text: bytes, size: int = PIECE) -> Iterator[bytes]:
    """The text, split after the last blank line within each `size` bytes, else the last line end, else anywhere."""
    start = 0
    while start < len(text):
        stop = start + size
        if stop < len(text):
            for mark in (b"\n\n", b"\r\n\r\n", b"\n"):
                at = text.rfind(mark, start, stop)
                if at >= 0:
                    stop = at + len(mark)
                    break
        yield text[start:stop]
        start = stop


def _augmented(document: bytes, seed: int, shares: Shares) -> tuple[bytes, list[str]]:
    ways = []
    for name, change in CHANGES.items():
        if _drawn(seed, name) < getattr(shares, name):
            changed = change(document)
            if changed != document:
                ways.append(name)
                document = changed
    return document, ways


def _derived(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest(), "big")


def _drawn(seed: int, name: str) -> float:
    """A float in [0, 1), the same on every machine and in every version."""
    return _derived(seed, int.from_bytes(name.encode(), "big")) / 2.0**64


# The changes


def in_capitals(document: bytes) -> bytes:
    """Convert all letters to capitals."""
    return _in_text(document, str.upper)


def with_other_quotes(document: bytes) -> bytes:
    """Make ASCII quotation marks and apostrophes typographic, or typographic ones ASCII if the text has any."""
    return _in_text(document, _other_quotes)


def with_tabs(document: bytes) -> bytes:
    """Convert indentation by spaces to tabs; a remainder of less than a tab is kept."""
    widths = [len(m.group()) for m in re.finditer(rb"(?m)^ +(?=[^ \n])", document)]
    step = 8 if widths and all(width % 8 == 0 for width in widths) else 4

    def tabs(match: re.Match[bytes]) -> bytes:
        return b"\t" * (len(match.group()) // step)

    return re.sub(rb"(?m)^(?: {%d})+" % step, tabs, document)


def unwrapped(document: bytes) -> bytes:
    """Join the lines of each paragraph that looks wrapped: no line is indented, and all but the last are long.

    Lines are joined by a space, or by nothing after a hyphen or a dash.
    """

    def join(match: re.Match[bytes]) -> bytes:
        lines = match.group().split(b"\n")
        body = lines[:-1]
        if (
            not body
            or b"\r" in match.group()
            or any(line[:1].isspace() for line in lines)
            or min(map(len, body)) < _LONG
        ):
            return match.group()
        return b"".join(line if line.endswith(b"-") else line + b" " for line in body) + lines[-1]

    return re.sub(rb"(?:^|(?<=\n))[^\n]+(?:\n[^\n]+)*", join, document)


_LONG = 45
"""The shortest line, in bytes, that counts as wrapped; lines of verse and of lists are shorter."""


def with_crlf(document: bytes) -> bytes:
    """Convert all line ends to CR LF."""
    return re.sub(rb"\r?\n", b"\r\n", document)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "capitals": in_capitals,
    "unwrapped": unwrapped,
    "tabs": with_tabs,
    "quotes": with_other_quotes,
    "crlf": with_crlf,
}
"""The changes by the names of `Shares`, in the order in which they are applied."""


def _in_text(document: bytes, change: Callable[[str], str]) -> bytes:
    try:
        return change(document.decode("utf-8")).encode("utf-8")
    except UnicodeDecodeError:
        return document


_TO_ASCII = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "‚": "'"})
_OPENING = r"(?:(?<=[\s(\[{—–-])|^)"  # a quotation mark opens at the beginning and after white space or a bracket


def _other_quotes(text: str) -> str:
    if any(mark in text for mark in "“”‘’"):
        return text.translate(_TO_ASCII)
    text = re.sub(rf'{_OPENING}"', "“", text, flags=re.MULTILINE)
    text = text.replace('"', "”")
    # Two marks in a row: the inner one opens if the outer does.
    text = re.sub(rf"(?:{_OPENING}|(?<=“))'(?!\d\ds?\b)(?=\w)", "‘", text, flags=re.MULTILINE)
    return text.replace("'", "’")
