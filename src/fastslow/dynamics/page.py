"""One HTML page that loads nothing: the figures, what they show in words, and where the paper's findings hold."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import fastslow
from fastslow.data.text import Text
from fastslow.dynamics.findings import Finding, change_sentences, gradient_sentences, word_sentences
from fastslow.dynamics.study import Group, StudySettings, baseline_of
from fastslow.printable import visible_text

PAGE_FILE = "dynamics.html"

_STYLE = """
:root { color-scheme: light; --ink: #1d2327; --soft: #5b6670; --line: #dfe3e6; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; }
p, ul { max-width: 46rem; margin: .5rem 0; } ul { padding-left: 1.2rem; }
.soft { color: var(--soft); }
img { display: block; width: 100%; height: auto; margin: 1rem 0; }
.narrow { max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: .93rem; }
th, td { text-align: left; vertical-align: top; padding: .45rem .8rem .45rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.v { white-space: nowrap; font-weight: 600; } .yes { color: #1f6f3a; } .no { color: #b3261e; }
td.v small { display: block; font-weight: 400; color: var(--soft); }
code { font-size: .92em; }
"""


def page(
    groups: Sequence[Group],
    found: Sequence[Finding],
    svg: Mapping[str, bytes],
    text: Text,
    settings: StudySettings,
) -> str:
    """The page's HTML. svg: the figures by name, as `figures.write_figures` gives them."""
    base = baseline_of(groups)
    several = any(len(g.members) > 1 for g in groups)
    name = escape(visible_text(text.name))
    first = groups[0].members[0]
    spread = " Line: the mean over models of one network; shaded: their range." if several else ""
    zoned = [g.label for g in groups if g.members[0].options.zoneout_c > 0]
    parts = [
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>{name} · dynamics</title><style>{_STYLE}</style></head><body><main>",
        "<h1>What the networks remember</h1>",
        f"<p class=soft>The study of Fast-Slow Recurrent Neural Networks, section 4.2, repeated on {name} "
        f"({len(text):,} bytes, {first.symbols:,} scored).</p>",
        _summary(groups),
        _section(
            "How far back the loss reaches (figure 3)",
            "gradient-norms",
            svg,
            "The norm of the gradient of the loss at step t by a cell's memory c at step t − j, averaged over "
            f"{first.gradients.samples:,} steps t, in log scale. A line that stays high to the right is a memory that "
            "still matters long after. Thick: the cell whose memory its state carries into the next step."
            + spread.replace("mean", "geometric mean"),
            gradient_sentences(groups),
            _of("gradients", found),
        ),
        _zoneout_note(zoned),
        _section(
            "How fast memories change (figure 4)",
            "memory-change",
            svg,
            "The squared change of each cell's memory from one step to the next, averaged over its units and "
            f"{first.change.steps:,} steps. Further left: slower."
            + (" Line: the range over models." if several else ""),
            change_sentences(groups),
            _of("change", found),
        ),
        _section(
            "Where in a word they err (figure 5)",
            "word-positions",
            svg,
            "Bits per character by the position of the character in its word (a run without white space), relative to "
            f"{escape(base.label)}. Below 1: better than it. The last position takes in all after it." + spread,
            word_sentences(groups),
            _of("words", found),
        ),
        _losses(_of("loss", found)),
        _method(settings),
        "</main></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _of(figure: str, found: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.figure == figure]


def _summary(groups: Sequence[Group]) -> str:
    rows = []
    for g in groups:
        options, deviation = g.members[0].options, g.bpc_deviation
        slow = f", slow {options.slow_size}" if options.slow_size is not None else ""
        spread = "" if deviation is None else f" ± {deviation:.3f}"
        names = ", ".join(m.name for m in g.members)
        rows.append(
            f"<tr><td>{escape(g.label)}</td><td>{options.hidden_size}{slow}</td><td class=n>{g.parameters:,}</td>"
            f"<td class=n>{g.bpc:.3f}{spread}</td><td>{escape(visible_text(names))}</td></tr>"
        )
    return (
        "<div class=wide><table><thead><tr><th>network<th>units<th class=n>parameters<th class=n>bits per character"
        f"<th>models</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _section(
    title: str, name: str, svg: Mapping[str, bytes], about: str, said: Sequence[str], found: Sequence[Finding]
) -> str:
    data = base64.b64encode(svg[name]).decode("ascii")
    narrow = "" if name == "gradient-norms" else " class=narrow"
    listing = "".join(f"<li>{escape(sentence)}</li>" for sentence in said)
    return (
        f"<h2>{escape(title)}</h2>\n<p>{about}</p>\n"
        f'<img{narrow} alt="{escape(" ".join(said))}" src="data:image/svg+xml;base64,{data}">\n'
        f"<ul>{listing}</ul>\n{_verdicts(found) if found else ''}"
    )


def _verdicts(found: Sequence[Finding]) -> str:
    rows = []
    for f in found:
        seeds = (
            f"<small>on the mean; in {f.seeds[0]} of {f.seeds[1]} seeds</small>" if f.seeds and f.seeds[1] > 1 else ""
        )
        word, kind = ("holds", "yes") if f.holds else ("does not hold", "no")
        rows.append(
            f"<tr><td>{escape(f.claim)}</td><td>{escape(f.test)}</td><td>{escape(f.measured)}</td>"
            f"<td class='v {kind}'>{word}{seeds}</td></tr>"
        )
    return (
        "<div class=wide><table><thead><tr><th>the paper says<th>tested here as<th>measured<th>here it</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _losses(found: Sequence[Finding]) -> str:
    return f"<h2>Bits per character</h2>\n{_verdicts(found)}" if found else ""


def _zoneout_note(labels: Sequence[str]) -> str:
    if not labels:
        return ""
    return (
        f"<p class=soft>{escape(', '.join(labels))}: these have zoneout, whose expectation mixes each memory "
        "with the one before; the memory meant is the mixed one, carried on. The paper's study has no zoneout.</p>"
    )


def _method(s: StudySettings) -> str:
    return (
        "<h2>How it was measured</h2>\n"
        f"<p>All in evaluation mode, without dropout. Gradients: {s.streams} streams that begin at even distances, "
        f"{s.windows} windows each, {s.targets} losses a window differentiated by every cell's memory up to {s.lags} "
        f"steps back. Changes: {s.steps:,} steps of each stream. Losses: every symbol but the first. A text too short "
        "for this has fewer streams.</p>\n"
        "<p>Data beside this page: <code>dynamics.json</code>, <code>gradient-norms.csv</code>, "
        "<code>memory-change.csv</code>, <code>word-positions.csv</code>.</p>\n"
        f"<p class=soft>fastslow {escape(fastslow.__version__)}</p>"
    )
