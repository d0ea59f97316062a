"""The terminal view: every line of the text with its surprising characters marked.

In colour the characters themselves are coloured.  Without colour (a pipe, ``NO_COLOR``), a second row below each line
with surprising characters shows the bits of each such character, rounded down, with ``#`` for 10 and more::

       12  2.41 │ the quikc brown fox
                │         79 4
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from fastslow.printable import quoted, visible, visible_text
from fastslow.scoring.levels import BOUNDS, level, level_names, levels, mean_text
from fastslow.scoring.lines import Line
from fastslow.scoring.statistics import LineMean, Place, Totals, describe_expected

STYLES = (
    "",
    "color(178)",
    "bold color(166)",
    "color(16) on color(214)",
    "color(231) on color(160)",
    "bold color(231) on color(90)",
)
"""One per level: the lower ones colour the character, the higher ones its background, so that blanks are visible."""

TAB = 4
_BAR = " │ "


class _Cell(NamedTuple):
    """One character on the screen."""

    shown: str
    width: int
    level: int
    bits: float
    escaped: bool


class TerminalView:
    """Prints lines to `console` as they are scored; `legend` first, `summary` last."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._colour = in_colour(console)
        # A pipe has no width, so lines are not wrapped.
        self._width = max(20, console.width - _MARGIN - len(_BAR)) if console.is_terminal else None

    def legend(self) -> None:
        """Print the meaning of the marks."""
        if not self._colour:
            print_line(
                self._console,
                Text(" line  mean" + _BAR + "below a line, the bits of each surprising character (# is 10 or more)"),
            )
            return
        text = Text("bits per character:")
        for name, style in zip(level_names(), STYLES, strict=True):
            text.append("  ")
            text.append(f" {name} ", style)
        print_line(self._console, text)

    def line(self, line: Line) -> None:
        """Print one line of the text, or a piece of a long one."""
        # Only the beginning of a line is numbered: later pieces and wrapped rows have a blank margin.
        margin = f"{line.number:5d} {mean_text(line.mean_bits)}" if line.column == 1 else " " * _MARGIN
        for row in _rows(_cells(line), self._width):
            self._row(margin, row)
            margin = " " * _MARGIN

    def _row(self, margin: str, row: list[_Cell]) -> None:
        text = Text()
        text.append(margin + _BAR, "dim")
        for cell in row:
            style = STYLES[cell.level] if self._colour else ""
            text.append(cell.shown, f"{style} underline" if cell.escaped and self._colour else style)
        print_line(self._console, text)
        if not self._colour and any(cell.level for cell in row):
            print_line(self._console, Text(" " * _MARGIN + _BAR + "".join(map(_mark, row)).rstrip()))


_MARGIN = 11
_BAR = " │ "


def in_colour(console: Console) -> bool:
    """Whether the console shows colours."""
    return console.color_system is not None and not console.no_color


def print_line(console: Console, text: Text) -> None:
    """Print `text` and a line end, without wrapping or cutting."""
    console.print(text, soft_wrap=True)


def _cells(line: Line) -> Iterator[_Cell]:
    column = 0
    for char, bits, grade in zip(line.text, line.bits.tolist(), levels(line.bits).tolist(), strict=True):
        escaped = False
        if char == "\n":
            # An expected line end is the end of the row; a surprising one needs a visible mark for its colour.
            if not grade:
                continue
            shown = "↵"
        elif char == "\t":
            shown = "→" + " " * (TAB - 1 - column % TAB)
        else:
            shown = visible(char)
            escaped = shown != char
        width = cell_len(shown)
        column += width
        yield _Cell(shown, width, grade, bits, escaped)


def _rows(cells: Iterable[_Cell], width: int | None) -> Iterator[list[_Cell]]:
    row: list[_Cell] = []
    used = 0
    for cell in cells:
        if width is not None and row and used + cell.width > width:
            yield row
            row, used = [], 0
        row.append(cell)
        used += cell.width
    yield row


def _mark(cell: _Cell) -> str:
    if cell.bits >= BOUNDS[0]:
        return ("#" if cell.bits >= 10 else str(int(cell.bits))).ljust(cell.width)
    return " " * cell.width


def summary_text(totals: Totals) -> str:
    """One line: ``1.8430 bits per byte over 1,203 of 1,204 bytes, 31 lines``."""
    lines = f"{totals.lines:,} line{'s' * (totals.lines != 1)}"
    if totals.mean.symbols == 0:
        return f"nothing to score in {totals.size:,} bytes, {lines}"
    extra = f"; {totals.not_utf8:,} bytes are not UTF-8" if totals.not_utf8 else ""
    scored = f"{totals.mean.symbols:,} of {totals.size:,} bytes"
    return f"{totals.mean.bpc:.4f} bits per byte over {scored}, {lines}{extra}"


def print_places(console: Console, places: list[Place]) -> None:
    """The most surprising places, two rows each: position, bits and surrounding text; the predicted symbols."""
    width = max((len(f"{p.line}:{p.column}") for p in places), default=1)
    for p in places:
        text = Text()
        text.append(f"{p.line}:{p.column}".rjust(width), "bold")
        text.append(f" {p.bits:5.1f} bits  ")
        text.append(visible_text(p.before), "dim")
        shown = visible_text(p.raw.decode("utf-8", "surrogateescape"))
        if in_colour(console):
            text.append(shown, STYLES[level(p.bits)])
        else:
            text.append(f"[{shown}]")
        text.append(visible_text(p.after), "dim")
        print_line(console, text)
        expected = f"; expected {describe_expected(p.expected)}" if p.expected else ""
        print_line(console, Text(" " * (width + 13) + quoted(p.raw) + expected))


def print_line_means(console: Console, lines: list[LineMean]) -> None:
    """Lines with their means: number, bits per byte, text."""
    for line in lines:
        text = Text(f"{line.number:5d} {mean_text(line.mean_bits)}")
        text.append(_BAR, "dim")
        text.append(visible_text(line.text), STYLES[level(line.mean_bits)] if in_colour(console) else "")
        print_line(console, text)
