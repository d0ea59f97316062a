"""Measured figures in a page of Markdown: what a command prints stands between two markers, and is never typed."""

from __future__ import annotations

from fastslow.errors import FastslowError


class PageError(FastslowError):
    """A page without the place that figures belong in."""


BEGIN, END = "<!-- measured: {} -->", "<!-- measured: end -->"


def placed(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers `name`. Raises PageError where they are missing."""
    begin = BEGIN.format(name)
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise PageError(f"the page has no place for the {name} figures: put {begin} and {END} around it")
    return f"{before}{begin}\n\n{text}\n\n{END}{after}"
