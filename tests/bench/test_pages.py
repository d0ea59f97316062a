"""Figures between the markers of a page."""

from __future__ import annotations

import pytest

from fastslow.bench.pages import PageError, placed

END = "<!-- measured: end -->\n"
PAGE = f"# Speed\n\n<!-- measured: a -->\n\nold\n\n{END}\nBetween.\n\n<!-- measured: b -->\n{END}"


def test_the_place_is_filled_and_filled_again() -> None:
    once = placed(PAGE, "a", "| new |")
    assert once == PAGE.replace("old", "| new |")
    assert placed(once, "a", "| new |") == once
    assert placed(once, "a", "old") == PAGE
    both = placed(once, "b", "second")
    assert both.index("| new |") < both.index("Between.") < both.index("second")


@pytest.mark.parametrize("page", ["", "<!-- measured: a -->\n", END, PAGE.replace("a -->", "c -->")])
def test_a_page_without_the_place(page: str) -> None:
    with pytest.raises(PageError, match="no markers for the a results: add the lines <!-- measured: a -->"):
        placed(page, "a", "text")
