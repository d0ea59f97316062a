"""Statistics of a scored text: its mean, its most surprising places and its most surprising lines."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from fastslow.metrics import Mean, bits_to_nats
from fastslow.printable import quoted
from fastslow.scoring.lines import Line

CONTEXT = 20
"""Characters shown before and after a place."""


@dataclass
class Totals:
    """Sums over the lines of a text."""

    mean: Mean = field(default_factory=Mean)
    """Over the scored bytes of the file; ``.bpc`` is bits per byte."""
    size: int = 0
    """The number of bytes of the file."""
    characters: int = 0
    lines: int = 0
    not_utf8: int = 0
    """The number of bytes that are not part of valid UTF-8."""
    _open: bool = False

    def add(self, line: Line) -> None:
        self.mean.add(bits_to_nats(line.total_bits), line.symbols)
        self.size = line.offset(len(line))
        self.characters += len(line)
        self.lines += line.column == 1
        if not line.text.isascii():
            self.not_utf8 += sum(0xDC80 <= ord(c) <= 0xDCFF for c in line.text)


@dataclass(frozen=True, order=True)
class Place:
    """A surprising character and its surroundings, ordered by surprisal; ties are ordered by position."""

    bits: float
    back: int
    """Minus the offset in the file, so that earlier places are greater."""
    line: int
    column: int
    raw: bytes
    """The bytes of the character."""
    expected: tuple[tuple[bytes, float], ...]
    """(byte, probability) of the likeliest symbols at the character's most surprising byte."""
    before: str
    after: str
    position: int
    """The position of its first byte in the text as it was read."""

    @property
    def offset(self) -> int:
        """The offset of its first byte in the file."""
        return -self.back


def place(line: Line, index: int) -> Place:
    """Character ``index`` of ``line``, with its neighbours in that line."""
    start, stop = int(line.starts[index]), int(line.starts[index + 1])
    return Place(
        float(line.bits[index]),
        -line.offset(index),
        line.number,
        line.column + index,
        line.scored.values[start:stop].tobytes(),
        expected(line, index),
        line.text[max(0, index - CONTEXT) : index],
        line.text[index + 1 : index + 1 + CONTEXT],
        line.scored.start + start,
    )


def expected(line: Line, index: int) -> tuple[tuple[bytes, float], ...]:
    """The most probable symbols at character ``index``: (byte, probability), most probable first.

    For a character of several bytes, at its most surprising byte.  Empty for a character that was not scored.
    """
    start, stop = int(line.starts[index]), int(line.starts[index + 1])
    bits = line.scored.bits[start:stop]
    if np.isnan(bits).all():
        return ()
    at = start + int(np.nanargmax(bits))
    pairs = zip(line.scored.likeliest[at], line.scored.chances[at], strict=True)
    return tuple((bytes([int(byte)]), float(chance)) for byte, chance in pairs)


class SurprisingPlaces:
    """The ``limit`` most surprising characters of the lines added."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._heap: list[Place] = []

    def add(self, line: Line) -> None:
        if self.limit < 1:
            return
        least = self._heap[0].bits if len(self._heap) == self.limit else -math.inf
        # NaN compares false: so unscored characters are never selected.
        for index in np.flatnonzero(line.bits > least).tolist():
            found = place(line, index)
            if len(self._heap) < self.limit:
                heapq.heappush(self._heap, found)
            else:
                heapq.heappushpop(self._heap, found)

    def best(self) -> list[Place]:
        """The places, most surprising first."""
        return sorted(self._heap, reverse=True)


@dataclass(frozen=True, order=True)
class LineMean:
    """A whole line and its mean surprisal in bits per byte, or that of its most surprising part.

    The mean is NaN if nothing was scored.
    """

    mean_bits: float
    back: int
    """Minus its number, so that of two equal lines the earlier one is greater."""
    bits: float
    symbols: int
    text: str
    """The beginning of the line, without the line end."""

    @property
    def number(self) -> int:
        return -self.back


class LineMeans:
    """Combines the pieces of long lines: ``add`` returns a line's mean when the line has ended.

    stretch: take the mean of the ``stretch`` consecutive bytes (as they were read) with the highest mean, instead of
    that of the whole line; shorter lines use the mean of the whole line.
    """

    def __init__(self, shown: int = 400, stretch: int | None = None) -> None:
        if stretch is not None and stretch < 1:
            raise ValueError(f"stretch must be at least 1 byte; got {stretch}")
        self._shown, self._stretch = shown, stretch
        self._peak = -math.inf
        self._tail = np.zeros(0)
        """The bits of the last ``stretch - 1`` bytes."""
        self._number = 1
        self._bits = 0.0
        self._symbols = 0
        self._text = ""

    def add(self, line: Line) -> LineMean | None:
        self._number = line.number
        self._bits += line.total_bits
        self._symbols += line.symbols
        if self._stretch is not None:
            self._look_for_peak(line, self._stretch)
        if len(self._text) < self._shown:
            self._text += line.text[: self._shown - len(self._text)]
        return self._finish() if line.ends else None

    def last(self) -> LineMean | None:
        """The last line of a text if it has no line end."""
        return self._finish() if self._text else None

    def _look_for_peak(self, line: Line, stretch: int) -> None:
        bits = np.concatenate((self._tail, line.scored.bits[line.scored.unscored :]))
        sums = np.concatenate(([0.0], np.cumsum(bits)))
        if len(bits) >= stretch:
            self._peak = max(self._peak, float((sums[stretch:] - sums[:-stretch]).max()) / stretch)
        self._tail = bits[max(0, len(bits) - stretch + 1) :]

    def _finish(self) -> LineMean:
        mean = self._bits / self._symbols if self._symbols else math.nan
        if self._peak > -math.inf:
            mean = self._peak
        self._peak, self._tail = -math.inf, np.zeros(0)
        result = LineMean(mean, -self._number, self._bits, self._symbols, self._text.removesuffix("\n"))
        self._bits, self._symbols, self._text = 0.0, 0, ""
        return result


def line_means(lines: Iterable[Line], stretch: int | None = None) -> Iterator[LineMean]:
    """The mean of each line, or of its most surprising part: see `LineMeans`."""
    means = LineMeans(stretch=stretch)
    for line in lines:
        mean = means.add(line)
        if mean is not None:
            yield mean
    last = means.last()
    if last is not None:
        yield last


class SurprisingLines:
    """The ``limit`` lines with the highest mean surprisal; empty lines are skipped."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._heap: list[LineMean] = []

    def add(self, line: LineMean) -> None:
        if self.limit < 1 or not line.text or math.isnan(line.mean_bits):
            return
        if len(self._heap) < self.limit:
            heapq.heappush(self._heap, line)
        else:
            heapq.heappushpop(self._heap, line)

    def best(self) -> list[LineMean]:
        """The lines, most surprising first."""
        return sorted(self._heap, reverse=True)


def describe_expected(pairs: tuple[tuple[bytes, float], ...]) -> str:
    """``'e' 61%, 'o' 20%``: the predicted symbols as text."""
    return ", ".join(f"{quoted(byte)} {percent(chance)}" for byte, chance in pairs)


def percent(chance: float) -> str:
    """A probability in per cent, with enough digits to distinguish small ones."""
    value = 100 * chance
    if value >= 9.95:
        return f"{value:.0f}%"
    return f"{value:.1f}%" if value >= 0.095 else "<0.1%"
