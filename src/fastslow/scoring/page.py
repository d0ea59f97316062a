"""The HTML page: one file that loads nothing, with every character's bits and the likeliest symbols in its place."""

from __future__ import annotations

import base64
import importlib.resources
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import TextIO

import numpy as np

import fastslow
from fastslow.printable import visible, visible_text
from fastslow.scoring.levels import BOUNDS, level, level_names, levels, mean_text
from fastslow.scoring.lines import Line, scored_lines
from fastslow.scoring.statistics import (
    LineMean,
    LineMeans,
    Place,
    SurprisingLines,
    SurprisingPlaces,
    Totals,
    describe_expected,
)
from fastslow.scoring.surprisal import Surprisal
from fastslow.scoring.terminal import summary_text

NOT_SCORED = 65535
"""In the page's table of bits, which are kept in thousandths in 16 bits."""

LISTED = 10
"""How many places and lines the page lists at its head."""

_LONGEST_ROW = 1 << 20


def write_page(out: TextIO, blocks: Iterable[Surprisal], *, name: str, model: str, remark: str = "") -> Totals:
    """Write the page for the text scored in ``blocks`` to ``out``; returns its totals.

    ``name`` is what the page calls the text, ``model`` what it calls the model, ``remark`` a sentence for its head.
    The scores are held in memory: about 50 bytes for each byte of text.
    """
    totals, places, means, lines = Totals(), SurprisingPlaces(LISTED), LineMeans(), SurprisingLines(LISTED)
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
        rows.append(_row(line))
        scored.append(line.scored)
    last = means.last()
    if last is not None:
        lines.add(last)
    fields = {
        "title": f"{escape(visible_text(name))} · surprisal",
        "name": escape(visible_text(name)),
        "summary": escape(visible_text(summary_text(totals) + (f". {remark}" if remark else ""))),
        "model": escape(visible_text(model)),
        "legend": "".join(_legend()),
        "places": _places(places.best()),
        "lines": _lines(lines.best(), positions),
        "version": escape(fastslow.__version__),
    }
    template = importlib.resources.files("fastslow.scoring").joinpath("page.html").read_text("utf-8")
    for index, part in enumerate(re.split(r"\{\{(\w+)\}\}", template)):
        if index % 2 == 0:
            out.write(part)
        elif part == "text":
            out.writelines(rows)
        elif part == "data":
            out.write(_data(scored))
        else:
            out.write(fields[part])
    return totals


def _data(scored: list[Surprisal]) -> str:
    """The tables the page's script reads, as JSON with base64: nothing in it can end the script element."""

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


def _row(line: Line) -> str:
    mean = line.mean_bits
    bar = "" if np.isnan(mean) else f' style="--w:{min(100.0, 100 * mean / 8):.0f}%"'
    number = str(line.number) if line.column == 1 else ""
    column = f' data-c="{line.column}"' if line.column > 1 else ""
    return (
        f'<div class="r" data-l="{line.number}" data-o="{line.scored.start}"{column}>'
        f'<div class="g"{bar}>{number} <i>{mean_text(mean).strip()}</i></div>'
        f'<div class="c">{"".join(_runs(line))}</div></div>\n'
    )


_SPECIAL = re.compile("[^ -~]")


def _runs(line: Line) -> Iterator[str]:
    """Stretches of one level in one element; tabs, line ends and what cannot be shown each in an element of its own."""
    text, grades = line.text, levels(line.bits)
    edges = set((np.flatnonzero(np.diff(grades)) + 1).tolist())
    special = {m.start() for m in _SPECIAL.finditer(text) if not m.group().isprintable()}
    cuts = sorted(edges | special | {i + 1 for i in special} | {0, len(text)})
    for start, stop in itertools.pairwise(cuts):
        part = text[start:stop]
        kind = f"k{grades[start]}" if grades[start] else ""
        if start in special:
            names = {"\n": "n", "\t": "t"}
            kinds = f"{names.get(part, 'x')} {kind}".strip()
            width = int(line.starts[stop] - line.starts[start])
            size = f' data-n="{width}"' if width > 1 else ""
            shown = "" if part == "\n" else part if part == "\t" else escape(visible(part))
            yield f'<b class="{kinds}"{size}>{shown}</b>'
        elif kind:
            yield f'<b class="{kind}">{escape(part, quote=False)}</b>'
        else:
            yield escape(part, quote=False)


def _legend() -> Iterator[str]:
    for grade, name in enumerate(level_names()):
        yield f'<li><b class="k{grade}">{escape(name)}</b></li>'


def _places(places: list[Place]) -> str:
    if not places:
        return '<p class="soft">None: there is nothing to score.</p>'
    rows = "".join(
        f'<tr><td class="num"><a href="#text" data-go="{p.position}">{p.line}:{p.column}</a></td>'
        f'<td class="num">{p.bits:.1f}</td><td><code>{escape(visible_text(p.before))}'
        f'<b class="k{level(p.bits)}">{escape(visible_text(_decoded(p.raw)))}</b>'
        f"{escape(visible_text(p.after))}</code></td><td><code>{escape(describe_expected(p.expected[:3]))}</code></td></tr>"
        for p in places
    )
    return f'<table class="p"><tr><th>place</th><th>bits</th><th>text</th><th>expected</th></tr>{rows}</table>'


def _lines(lines: list[LineMean], positions: dict[int, int]) -> str:
    if not lines:
        return '<p class="soft">None: there is nothing to score.</p>'
    rows = "".join(
        f'<tr><td class="num"><a href="#text" data-go="{positions[x.number]}">{x.number}</a></td>'
        f'<td class="num">{x.mean_bits:.2f}</td><td><code>{escape(visible_text(x.text[:160]))}</code></td></tr>'
        for x in lines
    )
    return f'<table class="l"><tr><th>line</th><th>mean</th><th>text</th></tr>{rows}</table>'


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
