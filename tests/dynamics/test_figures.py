from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fastslow.data.text import Text
from fastslow.dynamics.figures import NAMES, FiguresError, colours, draw, write_figures
from fastslow.dynamics.findings import findings
from fastslow.dynamics.page import page
from fastslow.dynamics.study import Measures, StudySettings, group

from .linear import TEXT
from .made import everything, made

SOME = [
    everything(),
    everything(seeds=3),
    [made("fs-lstm")],
    [made("stacked", decay=(0.0, 0.5)), made("stacked", hidden_size=9)],
]


@pytest.mark.parametrize(
    "models",
    [
        # Several groups of several models; the command's test draws one model alone.
        pytest.param(models, marks=() if n == 1 else pytest.mark.slow)
        for n, models in enumerate(SOME)
    ],
)
def test_figures_are_drawn_and_the_same_each_time(models: list[Measures], tmp_path: Path) -> None:
    groups = group(models)
    first = write_figures(tmp_path, draw(groups))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{n}.{s}" for n in NAMES for s in ("png", "svg"))
    again = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert again["memory-change.png"].startswith(b"\x89PNG")
    write_figures(tmp_path, draw(groups))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == again
    assert all(again[f"{name}.svg"] == first[name] for name in NAMES)


def test_what_is_drawn_is_what_was_measured() -> None:
    groups = group(everything(seeds=2))
    figures = draw(groups)
    panels = figures["gradient-norms"].axes
    assert [axes.get_title() for axes in panels] == [g.label for g in groups]
    for g, axes in zip(groups, panels, strict=True):
        assert axes.get_yscale() == "log"
        assert [line.get_label() for line in axes.lines] == [cell.name for cell in g.cells]
        for row, line in enumerate(axes.lines):
            assert line.get_ydata() == pytest.approx(g.gradients[row])
    (axes,) = figures["memory-change"].axes
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]  # type: ignore[index]
    assert dots == pytest.approx([value for g in groups for value in g.change])
    assert axes.get_yticklabels()[1].get_text() == "FS-LSTM-2, slow"
    (axes,) = figures["word-positions"].axes
    assert axes.lines[0].get_ydata() == pytest.approx((groups[0].words / groups[1].words)[1:])
    assert axes.lines[1].get_ydata() == pytest.approx([1.0] * 10)


def test_every_cell_has_a_colour_of_its_own() -> None:
    for g in group(everything()):
        assert len(set(colours(g))) == len(g.cells)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FiguresError, match=r"pip install 'fastslow\[figures\]'"):
        draw(group(everything()))


# ---------------------------------------------------------------------- the page


class Reader(HTMLParser):
    """Tags as they nest, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            self.sources.append(given["src"] or "")
            assert given["alt"]
        if tag not in ("meta", "img", "th"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("models", SOME)
def test_the_page_loads_nothing_and_says_what_was_found(models: list[Measures]) -> None:
    groups = group(models)
    found = findings(groups)
    svg = dict.fromkeys(NAMES, b"<svg/>")
    html = page(groups, found, svg, Text.of(TEXT, "a <b>\x1b text"), StudySettings())
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert len(reader.sources) == 3
    assert all(source.startswith("data:image/svg+xml;base64,") for source in reader.sources)
    assert not re.search(r"https?://|<script|<link|\x1b", html)
    words = " ".join(reader.words)
    for f in found:
        assert f.measured in words
    assert words.count("does not hold") == sum(not f.holds for f in found)


def test_the_page_tells_of_zoneout() -> None:
    svg = dict.fromkeys(NAMES, b"<svg/>")
    for rate in (0.0, 0.5):
        groups = group([made("fs-lstm", zoneout_c=rate)])
        html = page(groups, [], svg, Text.of(TEXT, "text"), StudySettings())
        assert ("these have zoneout" in html) == (rate > 0)
