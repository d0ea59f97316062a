"""The HTML page: one self-contained file with every character's bits and the likeliest symbols at its place."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

import numpy as np

import fastslow
from fastslow.printable import visible
from fastslow.scoring.levels import BOUNDS, level, level_names, levels, mean_text
from fastslow.scoring.lines import Line, scored_lines
from fastslow.scoring.statistics import (
    LineMeans,
    SurprisingLines,
    SurprisingPlaces,
    Totals,
    describe_expected,
)
from fastslow.scoring.surprisal import Surprisal
from fastslow.scoring.terminal import summary_text
from fastslow.templates import environment

if TYPE_CHECKING:
    from jinja2 import Template

NOT_SCORED = 65535
"""The value for NaN in the page's table of bits, which stores thousandths in 16 bits."""

LISTED = 10
"""The number of places and lines listed at the top of the page."""

_LONGEST_ROW = 1 << 20


def write_page(out: TextIO, blocks: Iterable[Surprisal], *, name: str, model: str, remark: str = "") -> Totals:
    """Write the page for the text scored in ``blocks`` to ``out``; returns its totals.

    ``name`` and ``model`` are the names of the text and the model on the page, ``remark`` a sentence at its top.
    The scores are held in memory: about 50 bytes for each byte of text.
    """
    totals, places, means, lines = Totals(), SurprisingPlaces(LISTED), LineMeans(), SurprisingLines(LISTED)
    pages = environment("fastslow.scoring")
    template = pages.get_template("row.html")
    rows: list[str] = []
    scored: list[Surprisal] = []
    positions: dict[int, int] = {}
    for line in scored_lines(blocks, _LONGEST_ROW):
        totals.add(line)
        places.add(line)
        mean = means.add(line)
        if mean is not None:
            lines.add(mean)
        if line.column == 1:
            positions[line.number] = line.scored.start
        rows.append(_row(template, line))
        scored.append(line.scored)
    last = means.last()
    if last is not None:
        lines.add(last)
    pages.filters["level"], pages.filters["expected"] = level, describe_expected
    parts = pages.get_template("page.html").generate(
        name=name,
        summary=summary_text(totals) + (f". {remark}" if remark else ""),
        model=model,
        levels=level_names(),
        places=places.best(),
        lines=lines.best(),
        positions=positions,
        rows=rows,
        data=_data(scored),
        version=fastslow.__version__,
    )
    out.writelines(parts)
    return totals


def _data(scored: list[Surprisal]) -> str:
    """The tables for the page's script, as JSON with base64, so that no content can end the script element."""

    def packed(arrays: Iterator[np.ndarray]) -> str:
        return base64.b64encode(b"".join(a.tobytes() for a in arrays)).decode("ascii")

    thousandths = (
        np.where(np.isnan(s.bits), NOT_SCORED, np.clip(np.nan_to_num(s.bits) * 1000, 0, NOT_SCORED - 1)) for s in scored
    )
    return json.dumps(
        {
            "k": scored[0].likeliest.shape[1] if scored else 0,
            "bounds": BOUNDS,
            "values": packed(s.values for s in scored),
            "bits": packed(t.round().astype("<u2") for t in thousandths),
            "likely": packed(s.likeliest for s in scored),
            "chance": packed((s.chances * 65535).round().astype("<u2") for s in scored),
        }
    )


def _row(template: Template, line: Line) -> str:
    mean = line.mean_bits
    width = None if np.isnan(mean) else f"{min(100.0, 100 * mean / 8):.0f}"
    return template.render(line=line, width=width, mean=mean_text(mean).strip(), runs=_runs(line))


_SPECIAL = re.compile("[^ -~]")


def _runs(line: Line) -> Iterator[tuple[str, int, str]]:
    """The classes, the bytes per character (or 1) and the text of each run of characters with one level.

    Tabs, line ends and unprintable characters are separate runs.
    """
    text, grades = line.text, levels(line.bits)
    edges = set((np.flatnonzero(np.diff(grades)) + 1).tolist())
    special = {m.start() for m in _SPECIAL.finditer(text) if not m.group().isprintable()}
    cuts = sorted(edges | special | {i + 1 for i in special} | {0, len(text)})
    for start, stop in itertools.pairwise(cuts):
        part = text[start:stop]
        kind = f"k{grades[start]}" if grades[start] else ""
        if start in special:
            names = {"\n": "n", "\t": "t"}
            shown = "" if part == "\n" else part if part == "\t" else visible(part)
            yield f"{names.get(part, 'x')} {kind}".strip(), int(line.starts[stop] - line.starts[start]), shown
        else:
            yield kind, 1, part
