"""The entropy coder: a byte-wise range coder over frequencies that sum to 2^24, on Python integers.

    r      = range >> 24
    low   += r * start            start: the sum of the frequencies before the symbol's
    range  = r * frequency
    while range < 2^56:           shift out one byte: the top byte of low (64 bits)

A carry out of `low` is added to the bytes already written. With at least 56 bits of range, the truncation in `r`
costs less than 2^-32 of a symbol. The coder knows no probability model: it is told intervals. docs/format.md has the
same in prose; golden bytes are pinned in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastslow.codec.errors import FormatError

TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS
"""What the frequencies of one symbol sum to."""

POINTS_OUTSIDE = "the coded bytes are damaged: they point outside every interval"
ENDS_EARLY = "the coded bytes end too early"
GOES_ON = "the coded bytes go on after the last symbol"

_WORD = 64
_TOP = 1 << _WORD
_MASK = _TOP - 1
_SHIFT = _WORD - 8
_BOTTOM = 1 << _SHIFT


class RangeEncoder:
    """Intervals in, bytes out. `encode` any number of times, then `finish` once."""

    def __init__(self) -> None:
        self._low = 0
        self._range = _MASK
        self._out = bytearray()

    def __len__(self) -> int:
        """Bytes written so far, less the few still inside the coder."""
        return len(self._out)

    def encode(self, intervals: Iterable[tuple[int, int]]) -> None:
        """Code symbols in order; each is (start, frequency), 0 <= start, 1 <= frequency, start + frequency <= 2^24."""
        low, width, out = self._low, self._range, self._out
        for start, frequency in intervals:
            width >>= TOTAL_BITS
            low += width * start
            width *= frequency
            while width < _BOTTOM:
                if low >= _TOP:
                    low -= _TOP
                    _carry(out)
                out.append(low >> _SHIFT)
                low = (low << 8) & _MASK
                width <<= 8
        if low >= _TOP:
            low -= _TOP
            _carry(out)
        self._low, self._range = low, width

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
    """Add one to the number the bytes spell. The first byte never overflows: low + range never exceeds the whole."""
    at = len(out) - 1
    while out[at] == 0xFF:
        out[at] = 0
        at -= 1
    out[at] += 1


class RangeDecoder:
    """The inverse: ask where the next symbol lies (`target`), then say which interval that was (`take`).

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
