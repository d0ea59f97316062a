"""Measured results in a Markdown page: a command's output is inserted between two markers, never by hand."""

from __future__ import annotations

from fastslow.errors import FastslowError


class PageError(FastslowError):
    """The page lacks the markers for the results."""


BEGIN, END = "<!-- measured: {} -->", "<!-- measured: end -->"


def placed(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers `name`. PageError if the markers are missing."""
    begin = BEGIN.format(name)
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise PageError(f"the page has no markers for the {name} results: add the lines {begin} and {END}")
    return f"{before}{begin}\n\n{text}\n\n{END}{after}"
