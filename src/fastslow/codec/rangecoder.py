"""The entropy coder: a byte-wise range coder, on Python integers, of bits and, in archives of version 1, of symbols.

    split  = (range >> 16) * p            p: the probability of a 1 in 2^-16
    a 1:     range = split
    a 0:     low += split, range -= split
    while range < 2^56:                   shift out one byte: the top byte of low (64 bits)

A carry out of `low` is added to the bytes already written. With at least 56 bits of range, the truncation costs less
than 2^-39 of a bit. The coder knows no probability model. docs/format.md has the same in prose; golden bytes are pinned
in the tests.
"""

from __future__ import annotations

from fastslow.codec.errors import FormatError

BIT_BITS = 16
"""Probabilities of bits are in units of 2^-16."""
TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS
"""The sum of the frequencies of all symbols."""

POINTS_OUTSIDE = "the coded bytes are damaged: they are outside all intervals"
ENDS_EARLY = "the coded bytes are truncated"
GOES_ON = "there are further coded bytes after the last symbol"

_WORD = 64
_TOP = 1 << _WORD
_MASK = _TOP - 1
_SHIFT = _WORD - 8
_BOTTOM = 1 << _SHIFT


class BitEncoder:
    """Bits in, bytes out. `encode` any number of times, then `finish` once."""

    def __init__(self) -> None:
        self._low = 0
        self._range = _MASK
        self._out = bytearray()

    def __len__(self) -> int:
        """Bytes written so far, less the few still inside the coder."""
        return len(self._out)

    def encode(self, bit: int, p: int) -> None:
        """A bit; p: the probability of a 1, from 1 to 65535."""
        split = (self._range >> BIT_BITS) * p
        if bit:
            self._range = split
        else:
            self._low += split
            self._range -= split
            if self._low >= _TOP:
                self._low -= _TOP
                _carry(self._out)
        while self._range < _BOTTOM:
            self._out.append(self._low >> _SHIFT)
            self._low = (self._low << 8) & _MASK
            self._range <<= 8

    def finish(self) -> bytes:
        """All bytes: the fewest that name a number inside the last interval when zeros follow them."""
        for count in range(9):
            rest = (1 << (_WORD - 8 * count)) - 1
            value = (self._low + rest) & ~rest
            if value < self._low + self._range:
                break
        if value >= _TOP:
            value -= _TOP
            _carry(self._out)
        self._out += value.to_bytes(8, "big")[:count]
        return bytes(self._out)


def _carry(out: bytearray) -> None:
    """Add one to the number that the bytes represent. The first byte cannot overflow."""
    at = len(out) - 1
    while out[at] == 0xFF:
        out[at] = 0
        at -= 1
    out[at] += 1


class BitDecoder:
    """The inverse of the encoder. Raises FormatError as soon as the bytes are invalid; `finish` checks that none are
    left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._range = _MASK
        self._value = int.from_bytes(data[:8].ljust(8, b"\0"), "big")
        self._read = 8

    def decode(self, p: int) -> int:
        split = (self._range >> BIT_BITS) * p
        bit = int(self._value < split)
        if bit:
            self._range = split
        else:
            self._value -= split
            self._range -= split
        while self._range < _BOTTOM:
            byte = self._data[self._read] if self._read < len(self._data) else 0
            self._value = ((self._value << 8) | byte) & _MASK
            self._read += 1
            self._range <<= 8
        return bit

    def check(self) -> None:
        """FormatError if more was read than the encoder can have written; asked after every byte of text."""
        if self._read > len(self._data) + 8:
            raise FormatError(ENDS_EARLY)

    def finish(self) -> None:
        """FormatError if the encoder would not have stopped here."""
        if not 0 <= self._read - len(self._data) <= 8:
            raise FormatError(GOES_ON)


class RangeDecoder:
    """Symbols of version 1: ask where the next one lies (`target`), then say which interval that was (`take`).

    Raises FormatError as soon as the bytes cannot have come from the encoder; `finish` checks that none are left.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._range = _MASK
        self._value = int.from_bytes(data[:8].ljust(8, b"\0"), "big")
        self._read = 8
        self._unit = self._range >> TOTAL_BITS

    def target(self) -> int:
        """A number 0..2^24-1 inside the next symbol's interval."""
        self._unit = self._range >> TOTAL_BITS
        target = self._value // self._unit
        if target >= TOTAL:
            raise FormatError(POINTS_OUTSIDE)
        return target

    def take(self, start: int, frequency: int) -> None:
        """The interval that holds `target`."""
        self._value -= self._unit * start
        width = self._unit * frequency
        while width < _BOTTOM:
            data, at = self._data, self._read
            if at < len(data):
                byte = data[at]
            elif at < len(data) + 8:
                byte = 0
            else:
                raise FormatError(ENDS_EARLY)
            self._value = (self._value << 8) | byte
            self._read = at + 1
            width <<= 8
        self._range = width

    def finish(self) -> None:
        """FormatError if the encoder would not have stopped here."""
        if not 0 <= self._read - len(self._data) <= 8:
            raise FormatError(GOES_ON)
