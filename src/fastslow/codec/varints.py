"""Integers of variable length."""

from __future__ import annotations

from fastslow.codec.errors import FormatError


def varint(value: int) -> bytes:
    """Encode with seven bits per byte, lowest first; the last byte is below 128."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number below 2^63 and its end. Raises FormatError if it is truncated, too long or padded."""
    value = shift = 0
    while at < len(data) and shift < 63:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            if byte == 0 and shift > 7:
                break
            return value, at
    raise FormatError("a number in it is damaged")
