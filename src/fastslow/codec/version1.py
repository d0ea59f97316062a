"""Archives of version 1 in exact mode: headers, trailer and neural blocks; they are read but no longer written.

docs/format.md, "Version 1", has the layout.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastslow.codec.errors import FormatError
from fastslow.codec.rangecoder import TOTAL_BITS, RangeDecoder
from fastslow.codec.steps import Layout, Predictor

MAGIC = b"\x89FSZ\r\n\x1a\n"
BLOCK_TAG, END_TAG = 0x42, 0x45
RAW, LZMA, NEURAL = 0, 1, 2
_MAX_BLOCK, _MAX_LANES, _MAX_SETTINGS, _MAX_MODEL = 1 << 26, 4096, 1 << 16, 1 << 29
_HEADER = struct.Struct("<BBBBIHH32s8sIII")  # after the magic; its CRC follows the settings
_CRC = struct.Struct("<I")
_BLOCK = struct.Struct("<BBHBBHQIII8s")
_TRAILER = struct.Struct("<B7sQQ32s")
_ENTRY = struct.Struct("<II")
_FOOTER = struct.Struct("<IQ8s")
_RAW_BITS = TOTAL_BITS - 8

Read = Callable[[int], bytes]


@dataclass(frozen=True)
class Header:
    """model_size, embedded_size: of the embedded model, plain and stored; crc: initial value of later CRCs."""

    block_size: int
    alphabet: int
    model_id: bytes
    settings: dict[str, Any]
    model_size: int
    embedded_size: int
    crc: int

    @property
    def model_name(self) -> str:
        name = self.settings.get("model", "")
        return name if isinstance(name, str) else ""

    @property
    def weight_bits(self) -> int:
        bits = self.settings.get("weight_bits", 16)
        if type(bits) is not int or not 8 <= bits <= 16:
            raise FormatError("the archive's header is damaged: its weight_bits are out of bounds")
        return bits


@dataclass(frozen=True)
class Block:
    kind: int
    lanes: int
    escape: int
    plain: int
    stored: int
    payload_crc: int
    check: bytes


def read_header(read: Read) -> Header:
    """The header whose magic has been read."""
    fixed = read(_HEADER.size)
    version, mode, flags, reserved, block, lanes, alphabet, model, _, size, plain, stored = _HEADER.unpack(fixed)
    if version != 1:
        raise FormatError(f"the archive has format version {version}; this fastslow reads 1 and 2: upgrade fastslow")
    if size > _MAX_SETTINGS:
        raise FormatError("the archive's header is damaged: its settings are too long")
    text = read(size)
    (crc,) = _CRC.unpack(read(_CRC.size))
    if zlib.crc32(MAGIC + fixed + text) != crc:
        raise FormatError("the archive's header is damaged: its checksum does not match")
    if mode in (1, 2, 3):
        raise FormatError(
            "the archive was made with --float, --adapt or --online by fastslow 0.1: only that version, on the machine "
            "that made it, can be relied on to decompress it"
        )
    _require(mode == 0, f"its mode {mode} is unknown")
    _require(flags in (0, 1) and reserved == 0, "a reserved field is not zero")
    _require(1 <= block <= _MAX_BLOCK, f"its block size {block:,} is not from 1 to {_MAX_BLOCK:,}")
    _require(lanes == 0, f"its lanes {lanes:,} are out of bounds")
    _require(1 <= alphabet <= 256, f"its alphabet {alphabet:,} is not from 1 to 256")
    _require(plain <= _MAX_MODEL and stored <= _MAX_MODEL, "its embedded model is too large")
    _require((flags == 1) == (stored > 0) == (plain > 0), "its embedded model has no length")
    try:
        settings = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        raise FormatError("the archive's header is damaged: its settings are not JSON") from None
    _require(isinstance(settings, dict), "its settings are not an object")
    return Header(block, alphabet, model, settings, plain, stored, crc)


def read_block(read: Read, number: int, header: Header) -> Block:
    """The block header whose tag has been read."""
    data = bytes([BLOCK_TAG]) + read(_BLOCK.size + _CRC.size - 1)
    where = f"block {number}"
    if zlib.crc32(data[:-4], header.crc) != _CRC.unpack(data[-4:])[0]:
        raise FormatError(f"{where} is damaged: the checksum of its header does not match")
    _, kind, lanes, escape, zero, zeros, written, plain, stored, payload_crc, check = _BLOCK.unpack(data[:-4])
    if written != number:
        raise FormatError(f"{where} is missing: block {written} is in its place")
    _require(kind in (RAW, LZMA, NEURAL), f"its kind {kind} is unknown", where)
    _require(zero == 0 and zeros == 0, "a reserved field is not zero", where)
    _require(1 <= plain <= header.block_size, f"its length {plain:,} exceeds the block size", where)
    if kind == NEURAL:
        _require(1 <= lanes <= _MAX_LANES, f"its lanes {lanes:,} are out of bounds", where)
        _require(escape <= 24, f"its escape {escape} is out of bounds", where)
    else:
        _require(lanes == 0 and escape == 0, "it has fields of another kind", where)
    _require(stored == plain if kind == RAW else stored < plain, "its lengths do not agree", where)
    return Block(kind, lanes, escape, plain, stored, payload_crc, check)


def check_trailer(read: Read, header: Header, blocks: list[Block], digest: bytes | None) -> int:
    """Read the trailer whose tag has been read; the length of the whole text. digest: of it, where it is known."""
    where, fixed = "the archive's trailer", bytes([END_TAG]) + read(_TRAILER.size - 1)
    _, zeros, count, total, written_digest = _TRAILER.unpack(fixed)
    _require(zeros == bytes(7), "it does not begin as one", where)
    _require(count == len(blocks), f"it counts {count:,} blocks, but there are {len(blocks):,}", where)
    entries = read(_ENTRY.size * count)
    written, size, magic = _FOOTER.unpack(read(_FOOTER.size))
    _require(written == zlib.crc32(entries, zlib.crc32(fixed, header.crc)), "its checksum does not match", where)
    _require(size == len(fixed) + len(entries) + _FOOTER.size, "its length is wrong", where)
    _require(magic == b"FSZEND\r\n", "its end mark is missing", where)
    index = [(block.stored, block.plain) for block in blocks]
    _require(list(_ENTRY.iter_unpack(entries)) == index, "its index is not that of the blocks", where)
    _require(total == sum(block.plain for block in blocks), "its lengths do not add up", where)
    if digest is not None and written_digest != digest:
        raise FormatError("the archive is damaged: the SHA-256 of the whole text does not match")
    return int(total)


def payload_is_whole(block: Block, payload: bytes, header: Header) -> bool:
    return zlib.crc32(payload, header.crc) == block.payload_crc


def text_is_right(block: Block, text: bytes) -> bool:
    return hashlib.sha256(text).digest()[:8] == block.check


def _require(holds: bool, why: str, where: str = "the archive's header") -> None:
    if not holds:
        raise FormatError(f"{where} is damaged: {why}")


def decode_neural(payload: bytes, block: Block, network: Predictor) -> bytes:
    """The text of a neural block: one range-coded symbol per byte; V is the escape for bytes outside the alphabet.

    Raises FormatError for an invalid payload.
    """
    layout, coder = Layout(block.plain, block.lanes), RangeDecoder(payload)
    symbols, text = network.symbols, np.zeros(block.plain, np.uint8)
    escape = 0 if block.escape == 0 else 1 << (block.escape - 1)
    width = len(symbols) + (escape > 0)
    previous = np.full(block.lanes, network.start, dtype=np.int64)
    bases = (np.arange(block.lanes, dtype=np.int64) << TOTAL_BITS)[:, None]
    network.begin(block.lanes)
    for t in range(layout.steps):
        count = layout.active(t)
        values = network.frequencies(network.step(previous)[:count], escape)
        # The rows of sums form one increasing sequence, so that one bisection per lane finds its symbol.
        ends = (values.cumsum(axis=1) + bases[:count]).reshape(-1)
        rising, each = ends.data, values.reshape(-1).data
        coded, raw = [], bytearray()
        for lane in range(count):
            first = lane * width
            at = bisect_right(rising, coder.target() + (lane << TOTAL_BITS), first, first + width - 1)
            coder.take(rising[at] - each[at] - (lane << TOTAL_BITS), each[at])
            symbol = at - first
            if symbol < len(symbols):
                raw.append(symbols[symbol])
                coded.append(symbol)
            else:
                byte = coder.target() >> _RAW_BITS
                coder.take(byte << _RAW_BITS, 1 << _RAW_BITS)
                raw.append(byte)
                coded.append(network.start)
        text[layout.offsets[:count] + t] = np.frombuffer(raw, np.uint8)
        previous[:count] = coded
        previous[count:] = network.start
    coder.finish()
    return text.tobytes()
