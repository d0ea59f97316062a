from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any

from rich.cells import cell_len
from rich.console import Console

from fastslow.scoring import SurprisingPlaces, Totals
from fastslow.scoring.statistics import LineMean
from fastslow.scoring.terminal import TerminalView, print_line_means, print_places, summary_text
from tests.scoring.scored import lines


def view(raw: bytes, bits: Iterable[float] | None = None, **console: Any) -> str:
    out = io.StringIO()
    shown = TerminalView(Console(file=out, **console))
    shown.legend()
    for line in lines(raw, bits):
        shown.line(line)
    return out.getvalue()


COLOUR = {"force_terminal": True, "color_system": "256", "width": 60, "legacy_windows": False}


def test_a_pipe_gets_the_bits_below_the_line() -> None:
    shown = view(b"qab\tcd\n", [math.nan, 2.5, 12, 7, 0, 3, 1])
    assert shown.splitlines() == [
        " line  mean │ below a line, the bits of each surprising character (# is 10 or more)",
        "    1  4.25 │ qab→cd",
        "            │  2#7 3",
    ]


def test_a_line_as_expected_has_no_row_of_bits() -> None:
    assert len(view(b"abc\n").splitlines()) == 2


def test_lines_in_a_pipe_are_never_wrapped() -> None:
    assert len(view(b"x" * 3000).splitlines()) == 2


def test_wide_and_escaped_characters_keep_the_marks_in_place() -> None:
    shown = view("日\x1bx".encode(), [0, 0, 5, 0, 9])
    row, marks = shown.splitlines()[1:]
    assert row.endswith("日\\x1bx")
    assert cell_len(marks) == cell_len(row)
    assert marks.endswith("9")
    assert marks.split("│ ")[1].startswith("5")


def test_a_surprising_line_end_is_marked() -> None:
    assert "a↵" in view(b"a\n", [0, 5])
    assert "↵" not in view(b"a\n", [0, 1])


def test_colour_marks_the_characters_themselves() -> None:
    shown = view(b"ab\x1b[0m", [0, 12, 0, 0, 0, 0], **COLOUR)
    assert "48;5;90" in shown  # the ground of the highest level
    assert "\\x1b" in shown
    assert len(shown.splitlines()) == 2


def test_no_color_is_respected() -> None:
    shown = view(b"ab", [0, 12], **COLOUR, no_color=True)
    assert "38;5" not in shown
    assert "48;5" not in shown
    assert shown.splitlines()[-1].rstrip().endswith("#")


def test_a_terminal_gets_rows_of_its_width() -> None:
    shown = view(("日x" * 60).encode(), [0.0] * 240, **COLOUR, no_color=True)
    rows = shown.splitlines()[1:]
    assert len(rows) == 4
    assert all(cell_len(row.replace("\x1b[2m", "").replace("\x1b[0m", "")) <= 60 for row in rows)


def test_the_second_piece_of_a_line_has_no_number() -> None:
    out = io.StringIO()
    shown = TerminalView(Console(file=out))
    for line in lines(b"abcdefgh", longest=4):
        shown.line(line)
    assert [row[:12].strip() for row in out.getvalue().splitlines()] == ["1  1.00", ""]


def test_places() -> None:
    places = SurprisingPlaces(1)
    for line in lines(b"the\x07q", [math.nan, 1, 1, 1, 14]):
        places.add(line)
    out = io.StringIO()
    print_places(Console(file=out), places.best())
    assert out.getvalue().splitlines() == [
        "1:5  14.0 bits  the\\x07[q]",
        "                'q'; expected 'e' 50%, ' ' 25%, '\\xc3' <0.1%",
    ]


def test_line_means() -> None:
    out = io.StringIO()
    print_line_means(Console(file=out), [LineMean(2.5, -12, 10, 4, "a\tb"), LineMean(math.nan, -13, 0, 0, "")])
    assert out.getvalue().splitlines() == ["   12  2.50 │ a\\tb", "   13     - │ "]


def test_summary() -> None:
    totals = Totals()
    assert summary_text(totals) == "nothing to score in 0 bytes, 0 lines"
    for line in lines(b"ab\n\xff"):
        totals.add(line)
    assert summary_text(totals) == "1.0000 bits per byte over 3 of 4 bytes, 2 lines; 1 bytes are not UTF-8"
