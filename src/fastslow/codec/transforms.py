"""What a block of text may go through before it is coded: a form that is cheaper to predict, and the way back.

    UTF16   UTF-16, low byte first, becomes UTF-8 (a lone surrogate the three bytes of its number)
    MARK    the UTF-8 byte-order mark at the front goes
    LINES   CR goes from every CR LF; where a line ends in LF alone is noted

They are undone in the opposite order. `prepare` undoes what it did and compares before it answers, so that nothing can
be lost here whatever the text.
"""

from __future__ import annotations

from fastslow.codec.errors import FormatError
from fastslow.codec.varints import read_varint, varint

UTF16, MARK, LINES = 1, 2, 4
ALL = UTF16 | MARK | LINES
_BOM = b"\xef\xbb\xbf"
_FEW = 64
"""Line ends are changed where at most one in so many is LF alone."""


def prepare(data: bytes) -> tuple[int, bytes, bytes]:
    """The transforms that suit a block, the text they make, and the note that `restore` needs beside it."""
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
    """The block of `length` bytes that became `text`. FormatError if none did."""
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
            raise FormatError("its text is no UTF-8") from None
    if len(text) != length:
        raise FormatError("its text has another length than its header says")
    return text


def _looks_like_utf16(data: bytes) -> bool:
    """Half of the high bytes of a sample are zeros, and few of the low ones."""
    if len(data) % 2 or len(data) < 8:
        return False
    high, low = data[1:4096:2], data[0:4096:2]
    return high.count(0) * 2 >= len(high) and low.count(0) * 8 <= len(low)


def _without_returns(text: bytes) -> tuple[bytes, bytes]:
    """The note: for each LF that stood alone, how many line ends lie between it and the one before, as varints."""
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
        raise FormatError("its text has another length than its header says")
    ends, at, line = [b"\r\n"] * (len(parts) - 1), 0, -1
    while at < len(note):
        gap, at = read_varint(note, at)
        line += 1 + gap
        if line >= len(ends):
            raise FormatError("its note of line ends points outside the text")
        ends[line] = b"\n"
    return b"".join(part for pair in zip(parts, [*ends, b""], strict=True) for part in pair)
