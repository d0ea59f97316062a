"""Reversible conversions of a block before it is coded, to a form that is cheaper to predict.

    UTF16   UTF-16, low byte first, becomes UTF-8 (a lone surrogate becomes three bytes)
    MARK    a UTF-8 byte-order mark at the beginning is removed
    LINES   CR is removed from every CR LF; lines that end in LF alone are noted

They are undone in reverse order. `prepare` undoes what it did and compares before it answers, so that nothing can
be lost here whatever the text.
"""

from __future__ import annotations

from fastslow.codec.errors import FormatError
from fastslow.codec.varints import read_varint, varint

UTF16, MARK, LINES = 1, 2, 4
ALL = UTF16 | MARK | LINES
_BOM = b"\xef\xbb\xbf"
_FEW = 64
"""Line ends are converted if at most one in this many is LF alone."""


def prepare(data: bytes) -> tuple[int, bytes, bytes]:
    """The suitable transforms for a block, the converted text, and the note that `restore` needs."""
    done, text, note = 0, data, b""
    if _looks_like_utf16(text):
        try:
            text = text.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass")
            done |= UTF16
        except UnicodeError:
            pass
    if text.startswith(_BOM):
        text, done = text[len(_BOM) :], done | MARK
    lines, pairs = text.count(b"\n"), text.count(b"\r\n")
    if pairs and (lines - pairs) * _FEW <= lines:
        text, note = _without_returns(text)
        done |= LINES
    if not done or not text or len(text) + len(note) > len(data):
        return 0, data, b""
    try:
        if restore(done, text, note, len(data)) == data:
            return done, text, note
    except FormatError:
        pass
    return 0, data, b""


def restore(done: int, text: bytes, note: bytes, length: int) -> bytes:
    """The block of `length` bytes that was converted to `text`. Raises FormatError if there is none."""
    if done & LINES:
        text = _with_returns(text, note, length)
    elif note:
        raise FormatError("it has a note that its transforms do not need")
    if done & MARK:
        text = _BOM + text
    if done & UTF16:
        try:
            text = text.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
        except UnicodeError:
            raise FormatError("its text is not UTF-8") from None
    if len(text) != length:
        raise FormatError("the length of its text differs from its header")
    return text


def _looks_like_utf16(data: bytes) -> bool:
    """Whether a sample's high bytes are those of Latin text, or of an alphabet with two bytes in UTF-8, such as
    Cyrillic, with blanks between the words; and few low bytes are zeros."""
    if len(data) % 2 or len(data) < 8:
        return False
    high, low = data[1:4096:2], data[0:4096:2]
    if low.count(0) * 8 > len(low):
        return False
    if high.count(0) * 2 >= len(high):
        return True
    short = sum(high.count(value) for value in range(8))
    blanks = sum(pair == (0, 0x20) for pair in zip(high, low, strict=True))
    return short * 8 >= len(high) * 7 and blanks * 32 >= len(low)


def _without_returns(text: bytes) -> tuple[bytes, bytes]:
    """The note: for each LF without CR, the number of line ends between it and the previous one, as varints."""
    parts, note, since = text.split(b"\n"), bytearray(), 0
    for at, part in enumerate(parts[:-1]):
        if part.endswith(b"\r"):
            parts[at] = part[:-1]
            since += 1
        else:
            note += varint(since)
            since = 0
    return b"\n".join(parts), bytes(note)


def _with_returns(text: bytes, note: bytes, length: int) -> bytes:
    parts = text.split(b"\n")
    if len(text) + len(parts) - 1 > 2 * length + 16:
        raise FormatError("the length of its text differs from its header")
    ends, at, line = [b"\r\n"] * (len(parts) - 1), 0, -1
    while at < len(note):
        gap, at = read_varint(note, at)
        line += 1 + gap
        if line >= len(ends):
            raise FormatError("its note of line ends points outside the text")
        ends[line] = b"\n"
    return b"".join(part for pair in zip(parts, [*ends, b""], strict=True) for part in pair)
