"""Printable forms of characters and bytes: no control sequence reaches a terminal or a page, no byte is hidden.

Text that is not certain to be text is held with Python's ``surrogateescape``: a byte that is no part of valid UTF-8
is the code point ``0xDC00 + byte``, so that every code point is one character or one such byte, and nothing is lost.
"""

from __future__ import annotations

import codecs

import numpy as np
from numpy.typing import NDArray


def visible(char: str) -> str:
    """One code point as it may be shown: itself if it is printable, else an escape.

    A byte that is not UTF-8 is ``\\xe9``; controls are ``\\n``, ``\\t``, ``\\r`` or ``\\x1b``; other code points that
    leave no mark, or that turn the direction of what follows, are ``\\u202e``.
    """
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char)
    if named is not None:
        return named
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible_text(text: str, keep: str = "") -> str:
    """:func:`visible` of every code point except those in ``keep``, which are unchanged."""
    if text.isprintable():
        return text
    return "".join(c if c in keep else visible(c) for c in text)


def quoted(raw: bytes) -> str:
    """Bytes for a table or a message: their text in quotes, with escapes.

    >>> print(quoted(b"a"), quoted(b"\\n"), quoted(b" "), quoted(b"\\xe9"))
    'a' '\\n' ' ' '\\xe9'
    """
    text = raw.decode("utf-8", "surrogateescape")
    mark = '"' if "'" in text and '"' not in text else "'"
    return mark + visible_text(text.replace("\\", "\\\\").replace(mark, "\\" + mark)) + mark


class Utf8Stream:
    """Bytes in, code points out, as soon as each is complete: ``feed`` any pieces, then ``finish``."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def feed(self, raw: bytes) -> str:
        """The code points that ``raw`` completes; bytes that are not UTF-8 as surrogates."""
        return self._decoder.decode(raw)

    def finish(self) -> str:
        """The rest of an incomplete sequence."""
        return self._decoder.decode(b"", final=True)


def complete_length(raw: bytes) -> int:
    """The length of ``raw`` without a UTF-8 sequence at its end that more bytes could still complete: up to 3 less."""
    for back in range(1, min(3, len(raw)) + 1):
        lead = raw[-back]
        if lead & 0xC0 == 0x80:
            continue
        wanted = 2 if 0xC2 <= lead <= 0xDF else 3 if 0xE0 <= lead <= 0xEF else 4 if 0xF0 <= lead <= 0xF4 else 1
        return len(raw) - back if wanted > back else len(raw)
    return len(raw)


def character_starts(text: str) -> NDArray[np.int64]:
    """(n + 1,) where each code point of ``text`` starts, in bytes; the last entry is the length of the whole."""
    if text.isascii():
        return np.arange(len(text) + 1, dtype=np.int64)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    widths[(codes >= 0xDC80) & (codes <= 0xDCFF)] = 1  # a byte that is not UTF-8
    starts = np.zeros(len(codes) + 1, dtype=np.int64)
    np.cumsum(widths, out=starts[1:])
    return starts
