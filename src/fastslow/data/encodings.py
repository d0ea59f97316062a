"""Line ends and encodings: text with CRLF, a byte-order mark or in UTF-16, read as the same text without.

A model that was trained on UTF-8 with LF line ends is surprised by every CR and by every second byte of UTF-16, though
neither says anything about the text.  `normalise` takes them away where every byte of the file can be restored, and
keeps a map from the bytes that are left to those of the file, so that positions in reports are the file's.  Files with
mixed line ends, or that do not decode, are left as they are.

`normalise` sees a whole text.  `NormalisingStream` sees one that is still being written, and decides line by line.
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
_BLOCK = 1 << 12  # bytes between two known offsets of the map


@dataclass(frozen=True)
class Form:
    """The form of a file: what `normalise` removed and `restore` adds again.

    encoding: "utf-8", "utf-16-le" or "utf-16-be".  "utf-8" also stands for bytes that are not text: they are kept.
    bom: whether a byte-order mark came first.  crlf: whether every line end was CR LF.
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
        """Bytes of the byte-order mark."""
        return 0 if not self.bom else 3 if self.encoding == "utf-8" else 2

    def restore(self, text: bytes) -> bytes:
        """The bytes of the file whose normalised text is `text`."""
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
    """A text as models read it.

    text: uint8 (N,), UTF-8 with LF line ends; the file's own array where nothing was taken away.
    form: how the file was written.
    file_size: the bytes of the file.
    """

    text: UInt8Array
    form: Form
    file_size: int
    _before: NDArray[np.int64] | None = None
    """The file offset of every `_BLOCK`-th byte of the text; None where nothing was taken away."""

    def __len__(self) -> int:
        return len(self.text)

    def offset(self, position: int) -> int:
        """Where byte `position` of the text, from 0 to N, begins in the file."""
        return int(self.offsets(position, position + 1)[0])

    def offsets(self, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start,) where the bytes of `text` from `start` to `stop` begin in the file; N + 1 is the last stop.

        The LF of a CR LF begins at the CR.  All bytes of a character begin where it begins if the file is UTF-16.
        """
        if not 0 <= start <= stop <= len(self.text) + 1:
            raise IndexError(f"start and stop must lie in 0..{len(self.text) + 1}; got {start}, {stop}")
        if self._before is None:
            return np.arange(start, stop, dtype=np.int64)
        block = min(start, len(self.text)) // _BLOCK
        first = block * _BLOCK
        # A few bytes more, so that a character that begins before `start` is seen whole.
        back = min(first, 3)
        part = self.text[first - back : stop]
        ends = np.concatenate(([0], np.cumsum(_widths(part, self.form))))
        ends += self._before[block] - ends[back]
        if self.form.encoding != "utf-8":
            inside = np.flatnonzero(_continues(part))
            # The width of a character stands at its first byte: what follows it begins there as well.
            leads = np.where(_continues(part), 0, np.arange(len(part)))
            ends[inside] = ends[np.maximum.accumulate(leads)[inside]]
        found: NDArray[np.int64] = ends[start - first + back : stop - first + back]
        return found


def normalise(data: Buffer) -> Normalised:
    """`data` without byte-order mark, CRs and UTF-16, as far as they can be put back exactly.

    Each step is kept only if undoing it gives the same bytes:

    - UTF-16 with a byte-order mark becomes UTF-8; not if it does not decode, as with half of a surrogate pair.
    - A byte-order mark of UTF-8 goes.
    - CR LF becomes LF if every CR stands before an LF and every LF behind a CR.

    data: bytes, or uint8 (N,), possibly memory-mapped.  An array that is taken as it is is not copied.
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
        # One side of the check that everything comes back: the other is that the decoding was strict.
        last = int(known[-1]) + int(_widths(text[(len(known) - 1) * _BLOCK :], form).sum())
        assert last == len(array)
    text.flags.writeable = False
    return Normalised(text, form, len(array), known)


def _from_utf16(array: UInt8Array, encoding: str) -> UInt8Array | None:
    """UTF-8 of what follows the byte-order mark, or None if it does not decode and encode to the same bytes."""
    raw = array[2:].tobytes()
    try:
        text = raw.decode(encoding)
        if text.encode(encoding) != raw:
            return None
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    except UnicodeError:
        return None


def _all_crlf(text: UInt8Array) -> bool:
    """Whether there is a CR, every CR stands before an LF and every LF behind a CR."""
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
    """Which bytes are not the first of their UTF-8 character."""
    inside: NDArray[np.bool_] = (text & 0xC0) == 0x80
    return inside


def _widths(text: UInt8Array, form: Form) -> NDArray[np.int64]:
    """How many bytes of the file each byte of the text stands for; a character of UTF-16 counts at its first byte."""
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
    """The file offset of every `_BLOCK`-th byte of the text, one more than there are whole blocks."""
    known = [form.bom_size]
    for start in range(0, len(text) - len(text) % _BLOCK, _BLOCK):
        known.append(known[-1] + int(_widths(text[start : start + _BLOCK], form).sum()))
    return np.array(known, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece of a normalised stream: text, uint8 (n,), and offsets (n + 1,), where each byte and the end lie in the
    file."""

    text: UInt8Array
    offsets: NDArray[np.int64]


class NormalisingStream:
    """Bytes in as they come, normalised bytes out as soon as they are certain: `feed` any pieces, then `finish`.

    Nothing needs to be put back here, so each line is taken by itself: a CR goes where an LF follows it.  A byte-order
    mark at the very start goes and says what the rest is encoded in.  Bytes that are not valid UTF-16 become U+FFFD.
    Memory does not grow.
    """

    def __init__(self) -> None:
        self._head = b""
        self._encoding: str | None = None
        """Known after the first bytes."""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._held = b""
        """A CR, in normalised bytes, that an LF may follow."""
        self._offset = 0
        """In the file, of the first byte that has not been handed on."""

    def feed(self, raw: bytes) -> Piece:
        """What `raw` makes certain."""
        return self._feed(raw, last=False)

    def finish(self) -> Piece:
        """What is left when nothing more will come."""
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
        # The LF of a pair begins at its CR.
        starts = offsets[:-1].copy()
        pair = np.flatnonzero(~keep)
        starts[pair + 1] = offsets[pair]
        return Piece(array[keep], np.concatenate((starts[keep], offsets[-1:])))
