"""The bytes around the coded text: archive header, block headers, trailer. docs/format.md has the same in prose.

Little-endian throughout. Every field is bounded before anything is allocated for it, every part has a CRC-32 that is
seeded with the header's, so that a block of another archive does not fit, and every block carries its number.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from fastslow.codec.errors import FormatError

MAGIC = b"\x89FSZ\r\n\x1a\n"
END_MAGIC = b"FSZEND\r\n"
VERSION = 1
MAX_BLOCK = 1 << 26
MAX_LANES = 4096
MAX_SETTINGS = 1 << 16
MAX_MODEL = 1 << 29
MAX_TOTAL = 1 << 62

_HEADER = struct.Struct("<8sBBBBIHH32s8sIII")  # its CRC follows the settings
_CRC = struct.Struct("<I")
_BLOCK = struct.Struct("<BBHBBHQIII8s")
_TRAILER = struct.Struct("<B7sQQ32s")
_ENTRY = struct.Struct("<II")
_FOOTER = struct.Struct("<IQ8s")
BLOCK_TAG, END_TAG = 0x42, 0x45
HEADER_SIZE, BLOCK_SIZE = _HEADER.size, _BLOCK.size + _CRC.size
FOOTER_SIZE = _FOOTER.size
_EMBEDDED = 1


class Mode(IntEnum):
    """What the neural blocks of an archive need to be read."""

    EXACT = 0
    FLOAT = 1
    ADAPT = 2
    ONLINE = 3

    @property
    def words(self) -> str:
        return ("exact", "float", "adaptive", "online")[self]


class Kind(IntEnum):
    """How a block is stored."""

    RAW = 0
    LZMA = 1
    NEURAL = 2


@dataclass(frozen=True)
class Header:
    """What stands at the head of an archive.

    lanes: of every block in the float modes; 0 in exact mode, where each block has its own.
    model_id: SHA-256 of the model's serial form; zeros in online mode.
    probe: hash of what the numbers were on the maker's machine; zeros in exact mode.
    settings: JSON object: the model's name, the environment of a float mode, the options of a learning one.
    model_size, embedded_size: of the embedded model, plain and as stored; 0 without one.
    crc: of the header; seeds the CRCs of everything after it.
    """

    mode: Mode
    block_size: int
    lanes: int
    alphabet: int
    model_id: bytes
    probe: bytes = bytes(8)
    settings: dict[str, Any] = field(default_factory=dict)
    model_size: int = 0
    embedded_size: int = 0
    crc: int = 0

    def to_bytes(self) -> bytes:
        settings = json.dumps(self.settings, sort_keys=True, separators=(",", ":")).encode() if self.settings else b""
        fixed = _HEADER.pack(
            MAGIC,
            VERSION,
            self.mode,
            _EMBEDDED if self.embedded_size else 0,
            0,
            self.block_size,
            self.lanes,
            self.alphabet,
            self.model_id,
            self.probe,
            len(settings),
            self.model_size,
            self.embedded_size,
        )
        data = fixed + settings
        return data + _CRC.pack(zlib.crc32(data))

    def sealed(self) -> Header:
        """The same with its CRC filled in."""
        return replace(self, crc=_CRC.unpack(self.to_bytes()[-4:])[0])

    @property
    def model_name(self) -> str:
        name = self.settings.get("model", "")
        return name if isinstance(name, str) else ""


Read = Callable[[int], bytes]
"""Exactly so many bytes, or FormatError."""


def read_header(read: Read) -> Header:
    """The header at the front of `read`. FormatError for what is no archive, a newer version, or damaged."""
    try:
        magic = read(len(MAGIC))
    except FormatError:
        raise FormatError("this is no fastslow archive: it is too short to hold a header") from None
    if magic != MAGIC:
        if magic[:4] == MAGIC[:4]:
            raise FormatError("the archive's header is damaged: line ends or high bits were changed on the way")
        raise FormatError("this is no fastslow archive: it does not begin with the format's magic bytes")
    fixed = magic + read(HEADER_SIZE - len(MAGIC))
    _, version, mode, flags, reserved, block, lanes, alphabet, model, probe, settings_size, plain, stored = (
        _HEADER.unpack(fixed)
    )
    if version != VERSION:
        raise FormatError(f"the archive has format version {version}; this fastslow reads {VERSION}: upgrade fastslow")
    if settings_size > MAX_SETTINGS:
        raise FormatError("the archive's header is damaged: its settings are too long")
    text = read(settings_size)
    (crc,) = _CRC.unpack(read(_CRC.size))
    if zlib.crc32(fixed + text) != crc:
        raise FormatError("the archive's header is damaged: its checksum does not match")
    online = mode == Mode.ONLINE
    _require(mode in tuple(Mode), f"its mode {mode} is unknown")
    _require(flags in (0, _EMBEDDED) and reserved == 0, "a reserved field is not zero")
    _require(1 <= block <= MAX_BLOCK, f"its block size {block:,} is not from 1 to {MAX_BLOCK:,}")
    _require(lanes <= MAX_LANES and (lanes == 0) == (mode == Mode.EXACT), f"its lanes {lanes:,} are out of bounds")
    _require(1 <= alphabet <= 256, f"its alphabet {alphabet:,} is not from 1 to 256")
    _require(plain <= MAX_MODEL and stored <= MAX_MODEL, "its embedded model is too large")
    _require((flags == _EMBEDDED) == (stored > 0) == (plain > 0), "its embedded model has no length")
    _require(not (online and stored), "an online archive has no model")
    try:
        settings = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        raise FormatError("the archive's header is damaged: its settings are not JSON") from None
    _require(isinstance(settings, dict), "its settings are no object")
    return Header(Mode(mode), block, lanes, alphabet, model, probe, settings, plain, stored, crc)


@dataclass(frozen=True)
class BlockHeader:
    """What stands before each block's payload. `check`: the first 8 bytes of the SHA-256 of the plain bytes."""

    number: int
    kind: Kind
    lanes: int
    escape: int
    plain: int
    stored: int
    payload_crc: int
    check: bytes

    def to_bytes(self, seed: int) -> bytes:
        data = _BLOCK.pack(
            BLOCK_TAG,
            self.kind,
            self.lanes,
            self.escape,
            0,
            0,
            self.number,
            self.plain,
            self.stored,
            self.payload_crc,
            self.check,
        )
        return data + _CRC.pack(zlib.crc32(data, seed))


def read_block_header(rest: bytes, number: int, header: Header) -> BlockHeader:
    """The block header whose tag has been read; `rest` is the BLOCK_SIZE - 1 bytes after it."""
    data = bytes([BLOCK_TAG]) + rest
    (crc,) = _CRC.unpack(data[-4:])
    if zlib.crc32(data[:-4], header.crc) != crc:
        raise FormatError(f"block {number} is damaged: the checksum of its header does not match")
    _, kind, lanes, escape, zero, zeros, written, plain, stored, payload_crc, check = _BLOCK.unpack(data[:-4])
    where = f"block {number}"
    if written != number:
        raise FormatError(f"{where} is not there: block {written} stands in its place")
    _require(kind in tuple(Kind), f"its kind {kind} is unknown", where)
    _require(zero == 0 and zeros == 0, "a reserved field is not zero", where)
    _require(1 <= plain <= header.block_size, f"its length {plain:,} exceeds the block size", where)
    if kind == Kind.NEURAL:
        _require(1 <= lanes <= MAX_LANES, f"its lanes {lanes:,} are out of bounds", where)
        _require(header.lanes in (0, lanes), f"its lanes {lanes} are not the archive's {header.lanes}", where)
        _require(escape <= 24, f"its escape {escape} is out of bounds", where)
        _require(stored < plain, "it is not smaller than its text", where)
    else:
        _require(lanes == 0 and escape == 0, "it has fields of another kind", where)
        _require(stored < plain if kind == Kind.LZMA else stored == plain, "its lengths do not agree", where)
    return BlockHeader(written, Kind(kind), lanes, escape, plain, stored, payload_crc, check)


def _require(holds: bool, why: str, where: str = "the archive's header") -> None:
    if not holds:
        raise FormatError(f"{where} is damaged: {why}")


@dataclass(frozen=True)
class Entry:
    """A block in the index: the lengths of its payload and of its text."""

    stored: int
    plain: int


@dataclass(frozen=True)
class Trailer:
    """What stands at the end: how much there was, its SHA-256, and an index of the blocks."""

    total: int
    digest: bytes
    entries: tuple[Entry, ...]

    def to_bytes(self, seed: int) -> bytes:
        data = _TRAILER.pack(END_TAG, bytes(7), len(self.entries), self.total, self.digest)
        data += b"".join(_ENTRY.pack(entry.stored, entry.plain) for entry in self.entries)
        return data + _FOOTER.pack(zlib.crc32(data, seed), len(data) + FOOTER_SIZE, END_MAGIC)


def read_trailer(read: Read, header: Header, blocks: int | None = None) -> Trailer:
    """The trailer, whose tag `read` begins with. `blocks`: how many were seen on the way, where that is known."""
    fixed = read(_TRAILER.size)
    tag, zeros, count, total, digest = _TRAILER.unpack(fixed)
    where = "the archive's trailer"
    _require(tag == END_TAG and zeros == bytes(7), "it does not begin as one", where)
    if blocks is not None:
        _require(count == blocks, f"it counts {count:,} blocks, but there are {blocks:,}", where)
    _require(total <= MAX_TOTAL and total <= count * header.block_size, "its length is out of bounds", where)
    crc = zlib.crc32(fixed, header.crc)
    entries, left = [], count
    while left:  # a piece at a time: nothing is allocated for a count that the file does not hold
        piece = read(_ENTRY.size * min(left, 8192))
        crc = zlib.crc32(piece, crc)
        entries += [Entry(*pair) for pair in _ENTRY.iter_unpack(piece)]
        left -= len(piece) // _ENTRY.size
    written, size, magic = _FOOTER.unpack(read(FOOTER_SIZE))
    _require(written == crc, "its checksum does not match", where)
    _require(size == _TRAILER.size + _ENTRY.size * count + FOOTER_SIZE, "its length is wrong", where)
    _require(magic == END_MAGIC, "its end mark is missing", where)
    _require(sum(entry.plain for entry in entries) == total, "its lengths do not add up", where)
    return Trailer(total, digest, tuple(entries))


def read_footer(data: bytes) -> int:
    """The trailer's length, from the last FOOTER_SIZE bytes of an archive."""
    _, size, magic = _FOOTER.unpack(data)
    if magic != END_MAGIC:
        raise FormatError("the archive is cut short: its end mark is missing")
    return int(size)
