"""The paper's figures 3 to 5, drawn from the measurements by matplotlib (an extra of this package)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastslow.dynamics.study import Group, baseline_of
from fastslow.errors import FastslowError
from fastslow.storage import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = ("gradient-norms", "memory-change", "word-positions")
"""The file names of the figures, without suffix, in the paper's order."""

_SLOW = "#c4253a"
_RAMPS = {
    "fs-lstm": ("#8ec1e8", "#124a86"),
    "stacked": ("#a9d18e", "#1f5e2d"),
    "sequential": ("#f5c37b", "#9a4d00"),
}
_STYLES = ("-", "--", ":", "-.")


class FiguresError(FastslowError):
    """Figures cannot be drawn, for example without matplotlib."""


def check_matplotlib() -> None:
    """Raise FiguresError, with what to install, if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise FiguresError(
            "figures need matplotlib, which is not installed: pip install 'fastslow[figures]'"
        ) from error


def draw(groups: Sequence[Group]) -> dict[str, Figure]:
    """The figures by name. Raises FiguresError without matplotlib."""
    check_matplotlib()
    return dict(zip(NAMES, (gradient_figure(groups), change_figure(groups), word_figure(groups)), strict=True))


def write_figures(out: Path, figures: dict[str, Figure]) -> dict[str, bytes]:
    """Write each figure as PNG and SVG into `out`; returns the SVG's bytes by name. Equal data give equal bytes."""
    drawn: dict[str, bytes] = {}
    for name, figure in figures.items():
        drawn[name] = _bytes_of(figure, "svg", name)
        for suffix, data in (("svg", drawn[name]), ("png", _bytes_of(figure, "png", name))):
            write_bytes(out / f"{name}.{suffix}", data)
    return drawn


def _bytes_of(figure: Figure, kind: str, name: str) -> bytes:
    import matplotlib

    out = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format=kind, dpi=160, metadata=metadata)
    return out.getvalue()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def colours(g: Group) -> list[str]:
    """One colour per cell: red for the slow cell, light to dark for the others in order."""
    light, dark = _RAMPS[g.architecture]
    others = [cell for cell in g.cells if cell.slot != "slow"]
    made = []
    rank = 0
    for cell in g.cells:
        if cell.slot == "slow":
            made.append(_SLOW)
            continue
        made.append(_mixed(light, dark, rank / max(1, len(others) - 1) if len(others) > 1 else 1.0))
        rank += 1
    return made


def _mixed(light: str, dark: str, part: float) -> str:
    pairs = [(int(light[i : i + 2], 16), int(dark[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in pairs)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e3e3e3", linewidth=0.6)
    axes.set_axisbelow(True)


def _plain_decades(axes: Axes) -> None:
    """Ticks of a logarithmic x axis as plain numbers; also at 2 and 5 of a decade if there are few decades."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_xlim()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axes.xaxis.set_minor_formatter("{x:g}" if high < 300 * low else NullFormatter())


def gradient_figure(groups: Sequence[Group]) -> Figure:
    """Figure 3: norm of d L_t / d c_{t-j} against j, log scale, a panel per network; thick: what a slot carries on."""
    figure = _figure(4.2 * len(groups) + 0.6, 4.4)
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for g, axes in zip(groups, panels, strict=True):
        norms, (low, high) = g.gradients, g.gradients_range
        lags = np.arange(norms.shape[1])
        for row, (cell, colour) in enumerate(zip(g.cells, colours(g), strict=True)):
            if len(g.members) > 1:
                axes.fill_between(
                    lags, _positive(low[row]), _positive(high[row]), color=colour, alpha=0.15, linewidth=0
                )
            width = 2.2 if cell.carried else 1.1
            axes.plot(lags, _positive(norms[row]), color=colour, linewidth=width, label=cell.name)
        axes.set_yscale("log")
        axes.set_title(g.label)
        axes.set_xlabel("steps back, j")
        axes.set_xlim(0, max(1, lags[-1]))
        _plain(axes)
        axes.legend(frameon=False, fontsize="small")
    panels[0].set_ylabel("norm of ∂L(t) / ∂c(t − j)")
    return figure


def _positive(values: Any) -> Any:
    """Replace zeros, which cannot be shown on a log scale."""
    return np.where(values > 0, values, np.nan)


def change_figure(groups: Sequence[Group]) -> Figure:
    """Figure 4: mean squared change of each memory per step, log scale; a line shows the range over several models."""
    rows = [(g, row) for g in groups for row in range(len(g.cells))]
    figure = _figure(7.4, 0.5 + 0.27 * (len(rows) + len(groups)))
    axes = figure.subplots()
    ticks: list[tuple[float, str]] = []
    place = 0.0
    for g in groups:
        low, high = g.change_range
        for row, (cell, colour) in enumerate(zip(g.cells, colours(g), strict=True)):
            axes.plot([low[row], high[row]], [place, place], color=colour, linewidth=3, alpha=0.4)
            axes.plot([g.change[row]], [place], "o", color=colour, markersize=7 if cell.carried else 5)
            ticks.append((place, f"{g.label}, {cell.name}"))
            place += 1
        place += 1
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks])
    axes.invert_yaxis()
    axes.set_xscale("log")
    _plain_decades(axes)
    axes.set_xlabel("mean squared change of c per step")
    _plain(axes)
    return figure


def word_figure(groups: Sequence[Group]) -> Figure:
    """Figure 5: bits per character by position in the word, relative to the baseline; range over models shaded."""
    base = baseline_of(groups)
    figure = _figure(7.4, 4.2)
    axes = figure.subplots()
    longest = len(base.words) - 1
    positions = np.arange(1, longest + 1)
    seen: dict[str, int] = {}
    for g in groups:
        nth = seen[g.architecture] = seen.get(g.architecture, -1) + 1
        colour = _SLOW if g.architecture == "fs-lstm" else _RAMPS[g.architecture][1]
        each = (g.words_each / base.words)[:, 1:]
        if len(g.members) > 1:
            axes.fill_between(positions, each.min(axis=0), each.max(axis=0), color=colour, alpha=0.15, linewidth=0)
        relative = (g.words / base.words)[1:]
        axes.plot(
            positions, relative, color=colour, marker="o", markersize=4, label=g.label, linestyle=_STYLES[nth % 4]
        )
    axes.set_xticks(positions, [*map(str, positions[:-1]), f"{longest}+"])
    axes.set_xlabel("position of the character in its word")
    axes.set_ylabel(f"loss relative to {base.label}")
    _plain(axes)
    axes.legend(frameon=False)
    return figure
