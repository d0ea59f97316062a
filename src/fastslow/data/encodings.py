"""Line ends and encodings: text with CRLF, a byte-order mark or in UTF-16, read as plain UTF-8 with LF.

A model trained on UTF-8 with LF line ends is surprised by every CR and by every second byte of UTF-16, although neither
carries information about the text.  `normalise` removes them if every byte of the file can be restored, and keeps a map
from the remaining bytes to those of the file, so that reported positions refer to the file.  Files with mixed line
ends, or files that do not decode, are left unchanged.

`normalise` processes a whole text.  `NormalisingStream` processes a text that is still being written, line by line.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastslow.data.alphabet import Buffer, UInt8Array, as_bytes_array

UTF8_BOM = codecs.BOM_UTF8
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_CHUNK = 1 << 20
_BLOCK = 1 << 12  # bytes between two stored offsets of the map


@dataclass(frozen=True)
class Form:
    """The form of a file: what `normalise` removed and `restore` adds back.

    encoding: "utf-8", "utf-16-le" or "utf-16-be".  "utf-8" is also used for bytes that are not text; they are
    unchanged.
    bom: whether the file begins with a byte-order mark.  crlf: whether all line ends are CR LF.
    """

    encoding: str = "utf-8"
    bom: bool = False
    crlf: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether nothing was removed."""
        return self == Form()

    @property
    def bom_size(self) -> int:
        """The size of the byte-order mark in bytes."""
        return 0 if not self.bom else 3 if self.encoding == "utf-8" else 2

    def restore(self, text: bytes) -> bytes:
        """The bytes of the file with the normalised text `text`."""
        if self.crlf:
            text = text.replace(b"\n", b"\r\n")
        if self.encoding == "utf-8":
            return UTF8_BOM + text if self.bom else text
        mark = codecs.BOM_UTF16_LE if self.encoding == "utf-16-le" else codecs.BOM_UTF16_BE
        return mark + text.decode("utf-8").encode(self.encoding)

    def __str__(self) -> str:
        parts = [] if self.encoding == "utf-8" else [self.encoding.upper()]
        parts += ["a byte-order mark"] if self.bom else []
        parts += ["CRLF line ends"] if self.crlf else []
        return " with ".join([parts[0], " and ".join(parts[1:])]) if len(parts) > 1 else "".join(parts)


@dataclass(frozen=True, eq=False)
class Normalised:
    """A normalised text, as models read it.

    text: uint8 (N,), UTF-8 with LF line ends; the original array if nothing was removed.
    form: the form of the file.
    file_size: the size of the file in bytes.
    """

    text: UInt8Array
    form: Form
    file_size: int
    _before: NDArray[np.int64] | None = None
    """The file offset of every `_BLOCK`-th byte of the text; None if nothing was removed."""

    def __len__(self) -> int:
        return len(self.text)

    def offset(self, position: int) -> int:
        """The file offset of byte `position` of the text, from 0 to N."""
        return int(self.offsets(position, position + 1)[0])

    def offsets(self, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start,) file offsets of the bytes of `text` from `start` to `stop`, which may be up to N + 1.

        The offset of the LF of a CR LF is that of the CR.  In UTF-16, all bytes of a character have the character's
        offset.
        """
        if not 0 <= start <= stop <= len(self.text) + 1:
            raise IndexError(f"start and stop must be in 0..{len(self.text) + 1}; got {start}, {stop}")
        if self._before is None:
            return np.arange(start, stop, dtype=np.int64)
        block = min(start, len(self.text)) // _BLOCK
        first = block * _BLOCK
        # A few more bytes, to include a character that begins before `start`.
        back = min(first, 3)
        part = self.text[first - back : stop]
        ends = np.concatenate(([0], np.cumsum(_widths(part, self.form))))
        ends += self._before[block] - ends[back]
        if self.form.encoding != "utf-8":
            inside = np.flatnonzero(_continues(part))
            # The width of a character is stored at its first byte; its other bytes have the same offset.
            leads = np.where(_continues(part), 0, np.arange(len(part)))
            ends[inside] = ends[np.maximum.accumulate(leads)[inside]]
        found: NDArray[np.int64] = ends[start - first + back : stop - first + back]
        return found


def normalise(data: Buffer) -> Normalised:
    """`data` without byte-order mark, CRs and UTF-16, as far as they can be restored exactly.

    Each step is only applied if undoing it restores the same bytes:

    - UTF-16 with a byte-order mark becomes UTF-8; unless it does not decode, as with an unpaired surrogate.
    - A UTF-8 byte-order mark is removed.
    - CR LF becomes LF if every CR is followed by an LF and every LF is preceded by a CR.

    data: bytes, or uint8 (N,), possibly memory-mapped.  An array that needs no change is not copied.
    """
    array = as_bytes_array(data)
    head = array[:4].tobytes()
    text, encoding, bom = array, "utf-8", False
    if head[:2] in _UTF16 and head != codecs.BOM_UTF32_LE:
        decoded = _from_utf16(array, _UTF16[head[:2]])
        if decoded is not None:
            text, encoding, bom = decoded, _UTF16[head[:2]], True
    elif head[:3] == UTF8_BOM:
        text, bom = array[3:], True
    crlf = _all_crlf(text)
    if crlf:
        text = _without_cr(text)
    form = Form(encoding, bom, crlf)
    if form.is_plain:
        return Normalised(array, form, len(array))
    known = _known_offsets(text, form)
    if encoding != "utf-8":
        # One half of the check that everything can be restored; the other half is strict decoding.
        last = int(known[-1]) + int(_widths(text[(len(known) - 1) * _BLOCK :], form).sum())
        assert last == len(array)
    text.flags.writeable = False
    return Normalised(text, form, len(array), known)


def _from_utf16(array: UInt8Array, encoding: str) -> UInt8Array | None:
    """The text after the byte-order mark as UTF-8, or None if it does not decode and encode to the same bytes."""
    raw = array[2:].tobytes()
    try:
        text = raw.decode(encoding)
        if text.encode(encoding) != raw:
            return None
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    except UnicodeError:
        return None


def _all_crlf(text: UInt8Array) -> bool:
    """Whether there is a CR, every CR is followed by an LF, and every LF is preceded by a CR."""
    found = False
    last = 0
    for start in range(0, len(text), _CHUNK):
        chunk = text[start : start + _CHUNK]
        returns, feeds = chunk == 0x0D, chunk == 0x0A
        if bool(feeds[0]) != (last == 0x0D) or not np.array_equal(returns[:-1], feeds[1:]):
            return False
        found = found or bool(returns.any())
        last = int(chunk[-1])
    return found and last != 0x0D


def _without_cr(text: UInt8Array) -> UInt8Array:
    starts = range(0, len(text), _CHUNK)
    parts = (np.asarray(text[at : at + _CHUNK]) for at in starts)
    return np.concatenate([part[part != 0x0D] for part in parts])


def _continues(text: UInt8Array) -> NDArray[np.bool_]:
    """A mask of the bytes that are not the first of their UTF-8 character."""
    inside: NDArray[np.bool_] = (text & 0xC0) == 0x80
    return inside


def _widths(text: UInt8Array, form: Form) -> NDArray[np.int64]:
    """The bytes of the file per byte of the text; a UTF-16 character is counted at its first byte."""
    if form.encoding == "utf-8":
        widths = np.ones(len(text), dtype=np.int64)
        unit = 1
    else:
        widths = np.where(_continues(text), 0, np.where(text >= 0xF0, 4, 2)).astype(np.int64)
        unit = 2
    if form.crlf:
        widths[text == 0x0A] += unit
    return widths


def _known_offsets(text: UInt8Array, form: Form) -> NDArray[np.int64]:
    """The file offset of every `_BLOCK`-th byte of the text, one more than the number of whole blocks."""
    known = [form.bom_size]
    for start in range(0, len(text) - len(text) % _BLOCK, _BLOCK):
        known.append(known[-1] + int(_widths(text[start : start + _BLOCK], form).sum()))
    return np.array(known, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece of a normalised stream: text, uint8 (n,), and offsets (n + 1,), the file offsets of each byte and of the
    end."""

    text: UInt8Array
    offsets: NDArray[np.int64]


class NormalisingStream:
    """Normalises a stream: `feed` pieces of bytes, then `finish`; bytes are returned as soon as they are certain.

    Nothing needs to be restored here, so each line is handled separately: a CR before an LF is removed.  A byte-order
    mark at the very start is removed and determines the encoding.  Invalid UTF-16 becomes U+FFFD.  Memory does not
    grow.
    """

    def __init__(self) -> None:
        self._head = b""
        self._encoding: str | None = None
        """The encoding, known after the first bytes."""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._held = b""
        """A pending CR that an LF may follow."""
        self._offset = 0
        """The file offset of the first byte that has not been returned yet."""

    def feed(self, raw: bytes) -> Piece:
        """The text that is certain after `raw`."""
        return self._feed(raw, last=False)

    def finish(self) -> Piece:
        """The rest of the text at the end of the stream."""
        return self._feed(b"", last=True)

    def _feed(self, raw: bytes, last: bool) -> Piece:
        if self._encoding is None:
            self._head += raw
            if len(self._head) < 3 and not last and UTF8_BOM.startswith(self._head[:1]):
                return self._piece(b"")
            if len(self._head) < 2 and not last and self._head[:1] in (b"\xff", b"\xfe"):
                return self._piece(b"")
            raw, self._head = self._begin(self._head), b""
        if self._decoder is not None:
            raw = self._decoder.decode(raw, last).encode("utf-8")
        raw = self._held + raw
        self._held = b"\r" if raw.endswith(b"\r") and not last else b""
        return self._piece(raw[: len(raw) - len(self._held)])

    def _begin(self, head: bytes) -> bytes:
        self._encoding = _UTF16.get(head[:2], "utf-8")
        size = 2 if head[:2] in _UTF16 else 3 if head.startswith(UTF8_BOM) else 0
        self._offset = size
        if self._encoding != "utf-8":
            self._decoder = codecs.getincrementaldecoder(self._encoding)("replace")
        return head[size:]

    def _piece(self, raw: bytes) -> Piece:
        array = np.frombuffer(raw, dtype=np.uint8)
        widths = _widths(array, Form(self._encoding or "utf-8"))
        ends = np.concatenate(([0], np.cumsum(widths)))
        offsets = self._offset + ends
        if self._decoder is not None:
            leads = np.where(_continues(array), 0, np.arange(len(array)))
            offsets[:-1] = offsets[np.maximum.accumulate(leads)] if len(array) else offsets[:-1]
        self._offset += int(ends[-1])
        keep = np.ones(len(array), dtype=np.bool_)
        keep[:-1] = ~((array[:-1] == 0x0D) & (array[1:] == 0x0A))
        # The offset of the LF of a pair is that of its CR.
        starts = offsets[:-1].copy()
        pair = np.flatnonzero(~keep)
        starts[pair + 1] = offsets[pair]
        return Piece(array[keep], np.concatenate((starts[keep], offsets[-1:])))
