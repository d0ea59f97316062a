"""The container of archives of version 2; docs/format.md specifies it.

    archive = magic  (model | block)*  end

Numbers are varints. Every field is bounded before anything is allocated for it. Every item's head has a CRC-32 that
continues the previous one, so that items cannot be reordered. Payloads and texts are checked by SHA-256: eight bytes of
it for each block, eight for the whole text.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from fastslow.codec import transforms
from fastslow.codec.errors import FormatError
from fastslow.codec.varints import read_varint, varint

MAGIC = b"\x89FSZ"
VERSION = 2
FRONT = MAGIC + bytes([VERSION])
MAX_BLOCK = 1 << 26
MAX_LANES = 4096
MAX_MODEL = 1 << 29
MAX_TOTAL = 1 << 62
ID_SIZE = CHECK_SIZE = 8
MODEL_TAG, END_TAG = 0x4D, 0x45
_CRC_SIZE = 4


class Kind(IntEnum):
    """How a block is stored; the value is its tag."""

    RAW = 0x52
    LZMA = 0x4C
    MIXED = 0x43
    NEURAL = 0x4E

    @property
    def coded(self) -> bool:
        return self in (Kind.MIXED, Kind.NEURAL)


@dataclass(frozen=True)
class Block:
    """The head of a block.

    plain, stored: bytes of text and of payload. check: the first 8 bytes of the SHA-256 of both.
    For coded blocks: lanes; transforms applied to the text; text and note, the resulting bytes.
    For neural blocks: bits per weight, and the first 8 bytes of the model's hash.
    """

    kind: Kind
    plain: int
    stored: int
    check: bytes
    lanes: int = 0
    transforms: int = 0
    text: int = 0
    note: int = 0
    weight_bits: int = 0
    model_id: bytes = b""

    def to_bytes(self, seed: int) -> bytes:
        head = bytes([self.kind]) + varint(self.plain)
        if self.kind != Kind.RAW:
            head += varint(self.stored)
        if self.kind.coded:
            head += varint(self.lanes) + bytes([self.transforms])
            if self.transforms:
                head += varint(self.text) + varint(self.note)
        if self.kind == Kind.NEURAL:
            head += bytes([self.weight_bits]) + self.model_id
        return _sealed(head + self.check, seed)


@dataclass(frozen=True)
class Model:
    """The head of an embedded model: its length, its stored length, and the first bytes of its hash."""

    plain: int
    stored: int
    model_id: bytes

    def to_bytes(self, seed: int) -> bytes:
        return _sealed(bytes([MODEL_TAG]) + varint(self.plain) + varint(self.stored) + self.model_id, seed)


@dataclass(frozen=True)
class End:
    """The end of an archive: the length of the whole text, and the first bytes of its SHA-256."""

    total: int
    digest: bytes

    def to_bytes(self) -> bytes:
        return bytes([END_TAG]) + varint(self.total) + self.digest


def check_of(payload: bytes, text: bytes) -> bytes:
    """The first 8 bytes of the SHA-256 of payload and text, as in a block's head."""
    digest = hashlib.sha256(payload)
    digest.update(text)
    return digest.digest()[:CHECK_SIZE]


def crc_of(head: bytes) -> int:
    """The CRC at the end of a head: the initial value of the next."""
    return int.from_bytes(head[-_CRC_SIZE:], "little")


def _sealed(head: bytes, seed: int) -> bytes:
    return head + zlib.crc32(head, seed).to_bytes(_CRC_SIZE, "little")


Read = Callable[[int], bytes]
"""Reads exactly that many bytes, or raises FormatError."""


class _Head:
    """Reads the fields of one head."""

    def __init__(self, tag: int, read: Read) -> None:
        self._read, self.data = read, bytearray([tag])

    def bytes(self, size: int) -> bytes:
        data = self._read(size)
        self.data += data
        return data

    def byte(self) -> int:
        return self.bytes(1)[0]

    def number(self) -> int:
        start = len(self.data)
        while self.byte() >= 128 and len(self.data) - start < 9:
            pass
        return read_varint(bytes(self.data), start)[0]

    def check(self, seed: int, where: str) -> int:
        crc = int.from_bytes(self._read(_CRC_SIZE), "little")
        if zlib.crc32(self.data, seed) != crc:
            raise FormatError(f"{where} is damaged: the checksum of its header does not match")
        return crc


def read_block(tag: int, read: Read, seed: int, where: str) -> tuple[Block, int]:
    """The block whose tag has been read, and the CRC that seeds the next. FormatError if it is damaged."""
    _require(tag in tuple(Kind), "it does not begin as a block", where)
    head, kind = _Head(tag, read), Kind(tag)
    try:
        plain = head.number()
        stored = plain if kind == Kind.RAW else head.number()
        lanes = done = text = note = bits = 0
        model_id = b""
        if kind.coded:
            lanes, done, text = head.number(), head.byte(), plain
            if done:
                text, note = head.number(), head.number()
        if kind == Kind.NEURAL:
            bits, model_id = head.byte(), head.bytes(ID_SIZE)
        check = head.bytes(CHECK_SIZE)
    except FormatError as error:
        raise FormatError(f"{where} is damaged: {error}" if "number" in str(error) else str(error)) from None
    crc = head.check(seed, where)
    _require(1 <= plain <= MAX_BLOCK, f"its length {plain:,} is not from 1 to {MAX_BLOCK:,}", where)
    _require(kind == Kind.RAW or stored < plain, "it is not smaller than its text", where)
    if kind.coded:
        _require(1 <= lanes <= min(MAX_LANES, text), f"its lanes {lanes:,} are out of bounds", where)
        _require(done <= transforms.ALL, "its transforms are unknown", where)
        _require(text >= 1 and text + note <= plain and note <= stored, "its lengths do not agree", where)
    if kind == Kind.NEURAL:
        _require(8 <= bits <= 16, "its weight bits are out of bounds", where)
    return Block(kind, plain, stored, check, lanes, done, text, note, bits, model_id), crc


def read_model(read: Read, seed: int) -> tuple[Model, int]:
    """The embedded model whose tag has been read."""
    where, head = "the embedded model", _Head(MODEL_TAG, read)
    plain, stored, model_id = head.number(), head.number(), head.bytes(ID_SIZE)
    crc = head.check(seed, where)
    _require(1 <= plain <= MAX_MODEL and 1 <= stored <= MAX_MODEL, "its length is out of bounds", where)
    return Model(plain, stored, model_id), crc


def read_end(read: Read) -> End:
    """The end whose tag has been read."""
    head = _Head(END_TAG, read)
    total = head.number()
    _require(total <= MAX_TOTAL, "its length is out of bounds", "the archive's end")
    return End(total, head.bytes(CHECK_SIZE))


def _require(holds: bool, why: str, where: str) -> None:
    if not holds:
        raise FormatError(f"{where} is damaged: {why}")
