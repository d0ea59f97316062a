"""From scored bytes to the characters of lines.

A character's surprisal is the sum over its bytes.  A byte that is not part of valid UTF-8 is treated as a character.  A
line longer than a limit is returned in pieces, so that memory is bounded for a file without line ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastslow.printable import character_starts, complete_length
from fastslow.scoring.surprisal import Surprisal

LONGEST = 4096
"""The largest number of bytes in a piece; longer lines are split into pieces of about this length."""


@dataclass(frozen=True, eq=False)
class Line:
    """A line, or a piece of a long one.

    ``number`` counts lines, and ``column`` the characters of a line, both from 1; ``column`` is that of the first
    character of this piece.  ``text`` has n code points: the characters, including ``\\n`` if the line ends here, and a
    surrogate (``surrogateescape``) for each byte that is not UTF-8.  ``starts`` (n + 1,) are the character positions in
    ``scored``, the bytes; ``bits`` (n,) are the surprisals, NaN if not scored.
    """

    number: int
    column: int
    text: str
    starts: NDArray[np.int64]
    bits: NDArray[np.float64]
    scored: Surprisal
    ends: bool

    def __len__(self) -> int:
        return len(self.text)

    @property
    def total_bits(self) -> float:
        """The surprisal of all its scored bytes."""
        return float(np.nansum(self.scored.bits))

    @property
    def symbols(self) -> int:
        """The number of scored bytes of the file."""
        return self.scored.file_bytes

    @property
    def mean_bits(self) -> float:
        """Bits per byte of the file; NaN if nothing was scored."""
        return self.total_bits / self.symbols if self.symbols else float("nan")

    def offset(self, index: int) -> int:
        """The byte offset in the file of character ``index``, from 0 to n."""
        return int(self.scored.offsets[self.starts[index]])


def scored_lines(blocks: Iterable[Surprisal], longest: int = LONGEST) -> Iterator[Line]:
    """The lines of a text from its scored ``blocks``, in pieces of at most ``longest`` bytes."""
    if longest < 4:
        raise ValueError(f"longest must be at least 4, the length of the longest character; got {longest}")
    number = column = 1
    held: Surprisal | None = None
    for block in blocks:
        held = block if held is None else held.then(block)
        done = 0
        for stop, ends in _cuts(held.values, longest):
            line = _line(number, column, held.part(done, stop), ends)
            yield line
            number, column = (number + 1, 1) if ends else (number, column + len(line))
            done = stop
        held = held.part(done, len(held))
    if held is not None and len(held):
        yield _line(number, column, held, False)


def _cuts(values: NDArray[np.uint8], longest: int) -> Iterator[tuple[int, bool]]:
    """Where the lines in these bytes end, and whether at a line end; an incomplete last line is left over."""
    done = 0
    for stop in [*(np.flatnonzero(values == 0x0A) + 1).tolist(), None]:
        limit = len(values) if stop is None else stop
        while limit - done > longest:
            done += complete_length(values[done : done + longest].tobytes())
            yield done, False
        if stop is not None:
            done = stop
            yield done, True


def _line(number: int, column: int, scored: Surprisal, ends: bool) -> Line:
    text = scored.values.tobytes().decode("utf-8", "surrogateescape")
    starts = character_starts(text)
    unscored = np.isnan(scored.bits)
    bits = np.add.reduceat(np.where(unscored, 0.0, scored.bits), starts[:-1])
    if unscored.any():
        bits[np.add.reduceat(unscored.astype(np.int64), starts[:-1]) == np.diff(starts)] = np.nan
    return Line(number, column, text, starts, bits, scored, ends)
