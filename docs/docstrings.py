"""Docstrings as this project writes them, turned into reStructuredText for the API reference.

They are written to be read in an editor: single backticks for code, equations as indented blocks, arguments as
`name: meaning` with indented continuations. Sphinx wants other marks.
"""

from __future__ import annotations

import re
from typing import Any

ENTRY = re.compile(r"^((?:\*{0,2}[A-Za-z_][\w.]*(?:\[\w\])?)(?:, \*{0,2}[A-Za-z_][\w.]*)*): (.*)")
SECTION = re.compile(r"^(Args|Arguments|Attributes|Fields):$")
ITEM = re.compile(r"^(- |\d+\. )")


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """The handler of autodoc's event: rewrites `lines` in place."""
    lines[:] = rewritten(lines)


def rewritten(lines: list[str]) -> list[str]:
    """A docstring's lines, without their common indentation, as reStructuredText."""
    result: list[str] = []
    for paragraph in _paragraphs(lines):
        result += [*_paragraph(paragraph), ""]
    return result


def _paragraphs(lines: list[str]) -> list[list[str]]:
    """The lines between blank ones; indented blocks that follow each other are one, with its blank lines."""
    found: list[list[str]] = []
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            if found and _indented(block) and _indented(found[-1]):
                found[-1] += ["", *block]
            else:
                found.append(block)
            block = []
    return found


def _indented(block: list[str]) -> bool:
    return all(line.startswith("    ") or not line for line in block)


def _paragraph(block: list[str]) -> list[str]:
    if _indented(block):
        cut = min(len(line) - len(line.lstrip()) for line in block if line)
        language = "python" if re.match(r"\s*(>>> |from |import |with )", block[0]) else "text"
        return [f".. code-block:: {language}", "", *("    " + line[cut:] for line in block)]
    if SECTION.match(block[0]):
        return [".. rubric:: Arguments", "", *_entries(block[1:])]
    if ITEM.match(block[0]):
        return _items(block)
    if ENTRY.match(block[0]) and block[0][0].islower():
        return _entries(block)
    head = [line for line in block if not line.startswith("    ")]
    rest = block[len(head) :]
    if rest and all(line.startswith("    ") for line in rest):
        return [*map(_marked, head), "", *_entries(rest)]
    return [_marked(line.strip()) for line in block]


def _entries(block: list[str]) -> list[str]:
    """`name: meaning` lines with their continuations, as a list."""
    filled = [line for line in block if line]
    least = min((len(line) - len(line.lstrip()) for line in filled), default=0)
    found: list[str] = []
    for line in filled:
        text, depth = line.strip(), len(line) - len(line.lstrip())
        match = ENTRY.match(text)
        if depth == least and match:
            names = ", ".join(f"``{name}``" for name in match[1].split(", "))
            found.append(f"- {names}: {_marked(match[2])}")
        elif depth == least and not found:
            found.append(f"- {_marked(text)}")
        else:
            found[-1] += " " + _marked(text)
    return found


def _items(block: list[str]) -> list[str]:
    found: list[str] = []
    for line in block:
        if ITEM.match(line):
            found.append(_marked(line))
        else:
            found[-1] += " " + _marked(line.strip())
    return found


def _marked(text: str) -> str:
    """Inline marks: single backticks are code; what only looks like a mark is escaped."""
    parts = re.split(r"(:\w[\w:]*:`[^`]*`|``.+?``|`[^`]*`)", text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            part = re.sub(r"([*|\\])", r"\\\1", part)
            parts[i] = re.sub(r"(\w)_(?!\w)", r"\1\\_", part)
        elif part.startswith("`") and not part.startswith("``"):
            parts[i] = f"``{part[1:-1]}``" if part != "``" else ""
    return "".join(parts)
