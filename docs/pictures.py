"""Draw the pictures of the README and the documentation from the repository's records and tables: `make pictures`.

Each picture is written twice, for light and dark pages: docs/pictures/NAME-light.svg and NAME-dark.svg. The same input
gives the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "pictures"


@dataclass(frozen=True)
class Theme:
    """The colours of a page: ink for text and lines, grey for secondary elements, the others for data."""

    name: str
    ink: str
    grey: str
    fast: str
    slow: str
    other: str


THEMES = (
    Theme("light", "#1f2328", "#77808a", "#0b69b7", "#b34700", "#4c7a34"),
    Theme("dark", "#e6e8ea", "#98a1aa", "#6cb6ff", "#ffa657", "#8ddb8c"),
)

# ---------------------------------------------------------------------- wirings


def _cell(axes: Axes, theme: Theme, x: float, y: float, label: str, colour: str) -> None:
    box = FancyBboxPatch(
        (x - 0.36, y - 0.26), 0.72, 0.52, boxstyle="round,pad=0.02,rounding_size=0.1", fc="none", ec=colour, lw=1.8
    )
    axes.add_patch(box)
    axes.text(x, y, label, ha="center", va="center", color=colour, fontsize=12)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, label: str = "") -> None:
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.5, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 12}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
    if label:
        axes.text((start[0] + end[0]) / 2, start[1] + 0.1, label, ha="center", color=colour, fontsize=9.5)


def _network(axes: Axes, width: float, height: float, title: str, theme: Theme) -> None:
    axes.set_xlim(0, width)
    axes.set_ylim(-0.75, height)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(title, color=theme.ink, fontsize=12)


def _chain(
    axes: Axes,
    theme: Theme,
    names: list[str],
    y: float,
    colour: str,
    first: float,
    gap: float = 1.4,
    ends: tuple[float, float] = (1.0, 1.0),
) -> list[float]:
    """Cells in a row that share one state, which comes in on the left and leaves on the right; their centres."""
    centres = [first + i * gap for i in range(len(names))]
    _arrow(axes, (centres[0] - ends[0], y), (centres[0] - 0.39, y), colour)
    for left, right in pairwise(centres):
        _arrow(axes, (left + 0.39, y), (right - 0.39, y), colour)
    _arrow(axes, (centres[-1] + 0.39, y), (centres[-1] + ends[1], y), colour)
    for x, name in zip(centres, names, strict=True):
        _cell(axes, theme, x, y, name, colour)
    return centres


def _in_and_out(axes: Axes, theme: Theme, x: float, y_x: float, out: float, y_out: float) -> None:
    _arrow(axes, (x, y_x - 0.7), (x, y_x - 0.29), theme.ink)
    axes.text(x + 0.1, y_x - 0.68, "$x_t$", color=theme.ink, fontsize=12)
    _arrow(axes, (out, y_out + 0.29), (out, y_out + 0.72), theme.ink)
    axes.text(out + 0.1, y_out + 0.55, "$y_t$", color=theme.ink, fontsize=12)


def draw_fast_slow(axes: Axes, theme: Theme) -> None:
    """FS-3 for one time step."""
    _network(axes, 5.4, 2.75, "Fast-Slow LSTM, k = 3", theme)
    fast = _chain(axes, theme, ["F1", "F2", "F3"], 0.2, theme.fast, 1.3)
    (slow,) = _chain(axes, theme, ["S"], 1.6, theme.slow, 2.0, ends=(1.7, 3.1))
    _arrow(axes, (fast[0] + 0.1, 0.49), (slow - 0.15, 1.31), theme.ink)
    _arrow(axes, (slow + 0.15, 1.31), (fast[1] - 0.1, 0.49), theme.ink)
    axes.text(slow + 1.2, 1.72, "slow state", color=theme.slow, fontsize=9.5)
    axes.text(fast[2] + 0.42, -0.22, "fast state", color=theme.fast, fontsize=9.5)
    _in_and_out(axes, theme, fast[0], 0.2, fast[2], 0.2)


def draw_stacked(axes: Axes, theme: Theme) -> None:
    """Two layers for one time step."""
    _network(axes, 2.7, 2.75, "stacked LSTM", theme)
    for i, y in enumerate((0.2, 1.6)):
        _chain(axes, theme, [f"L{i + 1}"], y, theme.fast, 1.35)
    _arrow(axes, (1.35, 0.49), (1.35, 1.31), theme.ink)
    _in_and_out(axes, theme, 1.35, 0.2, 1.35, 1.6)


def draw_sequential(axes: Axes, theme: Theme) -> None:
    """Three cells for one time step."""
    _network(axes, 5.1, 2.75, "sequential LSTM", theme)
    cells = _chain(axes, theme, ["C1", "C2", "C3"], 0.2, theme.fast, 1.2)
    _in_and_out(axes, theme, cells[0], 0.2, cells[2], 0.2)


def wiring(theme: Theme) -> Figure:
    """The paper's three networks, one time step each."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.2), width_ratios=(5.4, 2.7, 5.1))
    draw_fast_slow(left, theme)
    draw_stacked(middle, theme)
    draw_sequential(right, theme)
    return figure


# ---------------------------------------------------------------------- Penn Treebank

RAW = {
    "LSTM, 2 layers": (6.6, 1.243),
    "HyperLSTM": (14.4, 1.219),
    "NASCell": (16.3, 1.214),
    "FS-LSTM-2 (paper)": (7.2, 1.190),
    "FS-LSTM-4 (paper)": (6.5, 1.193),
}
"""Published figures of the paper's table that come with a size: million weights, test bits per character."""

CHAR = {
    "AWD-LSTM": (13.8, 1.175),
    "tuned LSTM": (24.0, 1.143),
    "Mogrifier LSTM": (24.0, 1.120),
    "Mogrifier RLSTM": (24.0, 1.096),
}
"""Later ones, by the char protocol, which is at most 0.02 above the raw one."""


OWN = {"ptb": "", "ptb-cpu": "", "ptb-ours": ", 12 epochs"}
"""Tables of this package's results, and what distinguishes the networks of each."""


def own_results() -> dict[str, tuple[float, float]]:
    """This package's static figures of Penn Treebank by the raw protocol, from the records in experiments/records/."""
    found = {}
    for path in sorted((ROOT / "experiments" / "records").glob("*.json")):
        record = json.loads(path.read_text())
        scores = [score["bpc"]["raw"] for score in record["scores"] if "raw" in score.get("bpc", {})]
        changed = any(word in path.stem for word in ("dynamic", "temperature", "recipe", "equal"))
        if record["table"] in OWN and scores and not changed:
            name = record["model"].removesuffix(", probabilities averaged") + OWN[record["table"]]
            found[name] = (record["parameters"] / 1e6, sum(scores) / len(scores))
    pair = ("stacked LSTM-2", "sequential LSTM-2")
    if all(name in found for name in pair) and abs(found[pair[0]][1] - found[pair[1]][1]) < 0.002:
        found["stacked and sequential LSTM-2"] = found.pop(pair[0])  # drawn as one point
        del found[pair[1]]
    return found


def draw_ptb(axes: Axes, theme: Theme) -> None:
    """Bits per character against weights, beside published models."""
    nudges = {
        "FS-LSTM-4 (paper)": (-7, -2, "right"),
        "FS-LSTM-2 (paper)": (7, -1, "left"),
        "FS-LSTM-2": (7, -4, "left"),
        "FS-LSTM-2, 12 epochs": (-3, -14, "right"),
        "FS-LSTM-4, 12 epochs": (7, 1, "left"),
        "LSTM, 2 layers": (-7, -5, "right"),
        "the pair, 12 epochs": (4, 5, "left"),
        "HyperLSTM": (-7, -7, "right"),
        "NASCell": (7, -6, "left"),
        "tuned LSTM": (-7, 0, "right"),
        "Mogrifier LSTM": (-7, -4, "right"),
        "Mogrifier RLSTM": (-7, -5, "right"),
        "AWD-LSTM": (-7, -5, "right"),
    }
    kinds: list[tuple[dict[str, tuple[float, float]], dict[str, Any], str]] = [
        (own_results(), {"marker": "o", "color": theme.slow}, "this package (raw)"),
        (RAW, {"marker": "s", "color": theme.fast}, "published (raw)"),
        (CHAR, {"marker": "s", "facecolors": "none", "edgecolors": theme.grey}, "published (char protocol)"),
    ]
    for points, style, label in kinds:
        axes.scatter(*zip(*points.values(), strict=True), s=34, zorder=3, label=label, **style)
        for name, (weights, bpc) in points.items():
            x, y, side = nudges.get(name, (6, 3, "left"))
            colour = theme.grey if points is CHAR else theme.ink
            axes.annotate(name, (weights, bpc), (x, y), textcoords="offset points", ha=side, color=colour, fontsize=8.5)
    axes.set_xscale("log")
    axes.set_xlim(0.75, 34)
    axes.xaxis.set_major_locator(FixedLocator([1, 2, 5, 10, 20]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}M"))
    axes.set_xlabel("weights")
    axes.set_ylabel("test bits per character")
    axes.legend(loc="upper right", frameon=False, labelcolor=theme.ink, fontsize=8.5)
    _plain(axes, theme)


def _plain(axes: Axes, theme: Theme) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.grey)
    axes.tick_params(colors=theme.grey, labelcolor=theme.ink)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)
    axes.grid(True, color=theme.grey, alpha=0.22, lw=0.7)
    axes.set_axisbelow(True)


def ptb(theme: Theme) -> Figure:
    """Penn Treebank: bits per character against weights."""
    figure, axes = plt.subplots(figsize=(8, 4.6))
    draw_ptb(axes, theme)
    axes.set_title("Penn Treebank, character level", color=theme.ink, fontsize=12)
    return figure


def front(theme: Theme) -> Figure:
    """The README's picture: the wiring beside Penn Treebank."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9), width_ratios=(1, 1.25))
    draw_fast_slow(left, theme)
    draw_ptb(right, theme)
    right.set_title("Penn Treebank, character level", color=theme.ink, fontsize=12)
    return figure


# ---------------------------------------------------------------------- engines


def throughput() -> dict[str, dict[str, float]]:
    """Characters per second by shape and engine, from the table of docs/performance.md."""
    page = (ROOT / "docs" / "performance.md").read_text()
    table = page.split("<!-- measured: bench cpu -->")[1]
    table = table[: table.index("\nFirst use")]
    found: dict[str, dict[str, float]] = {}
    for shape, engine, speed in re.findall(
        r"^\| (\S.*?) +\| (\S.*?) +\| *[\d,.]+ \| *[\d,.]+ \| *([\d,]+) \|", table, re.M
    ):
        found.setdefault(shape, {})[engine] = float(speed.replace(",", ""))
    return found


def engines(theme: Theme) -> Figure:
    """One window, forward and backward, by each engine."""
    shapes = {
        shape: speeds for shape, speeds in throughput().items() if shape.startswith(("PTB FS-LSTM", "small FS-LSTM"))
    }
    names = ["native", "window", "reference", "nn.LSTM"]
    colours = dict(zip(names, (theme.slow, theme.fast, theme.grey, theme.other), strict=True))
    figure, every = plt.subplots(1, len(shapes), figsize=(10, 2.5))
    for axes, (shape, speeds) in zip(every, shapes.items(), strict=True):
        for row, name in enumerate(names):
            axes.barh(row, speeds[name], color=colours[name], height=0.7)
            axes.text(speeds[name], row, f" {speeds[name] / 1e3:.1f}k", va="center", color=theme.ink, fontsize=8.5)
        axes.set_yticks(range(len(names)), names if axes is every[0] else [""] * len(names))
        axes.invert_yaxis()
        axes.set_xlim(0, 1.32 * max(speeds[name] for name in names))
        axes.set_xticks([])
        title, _, rest = shape.partition(", ")
        axes.set_title(f"{title}\n{rest}", color=theme.ink, fontsize=10)
        _plain(axes, theme)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
    figure.supxlabel(
        "characters per second, forward and backward; nn.LSTM: one layer of equal weights, no norms, no masks",
        color=theme.ink,
        fontsize=9,
    )
    return figure


# ---------------------------------------------------------------------- compression


def archives() -> dict[str, dict[str, float]]:
    """Bits per byte of each compressor by kind of text, from the table of docs/compression.md."""
    page = (ROOT / "docs" / "compression.md").read_text()
    table = page.split("<!-- measured: kinds -->")[1].split("<!-- measured: end -->")[0]
    head, _, *rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    names = [name.strip() for name in head[2:-1]]
    found = {}
    for kind, size, *sizes, _ in rows:
        numbers = [float(text.strip(" *").replace(",", "")) for text in (size, *sizes)]
        found[kind.strip(" *")] = {name: 8 * n / numbers[0] for name, n in zip(names, numbers[1:], strict=True)}
    return found


def compression(theme: Theme) -> Figure:
    """Archive sizes by kind of text, beside other compressors."""
    kinds = archives()
    styles: dict[str, dict[str, Any]] = {
        "fastslow": {"marker": "o", "color": theme.slow, "s": 46, "zorder": 4},
        "zpaq -m5": {"marker": "s", "color": theme.fast, "s": 26},
        "ppmd": {"marker": "^", "color": theme.other, "s": 28},
        "xz -9e": {"marker": "D", "color": theme.grey, "s": 22},
        "bzip2 -9": {"marker": "v", "facecolors": "none", "edgecolors": theme.grey, "s": 28},
    }
    figure, axes = plt.subplots(figsize=(8, 4.6))
    for name, style in styles.items():
        axes.scatter([kind[name] for kind in kinds.values()], range(len(kinds)), label=name, **{"zorder": 3, **style})
    axes.set_yticks(range(len(kinds)), list(kinds))
    axes.invert_yaxis()
    axes.set_xlim(0, 3.2)
    axes.set_xlabel("bits per byte (whole archives, without the bundled model)")
    figure.legend(loc="outside upper center", ncols=len(styles), frameon=False, labelcolor=theme.ink, fontsize=9)
    _plain(axes, theme)
    return figure


# ---------------------------------------------------------------------- learning curves


def curves(theme: Theme) -> Figure:
    """Validation loss of the runs in docs/*/curve.csv against minutes of training."""
    figure, axes = plt.subplots(figsize=(8, 3.6))
    for path in sorted((ROOT / "docs").glob("*/curve.csv")):
        seeds: dict[str, list[tuple[float, float]]] = {}
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                seeds.setdefault(row["seed"], []).append((float(row["update"]), float(row["bpc"])))
        for i, (seed, points) in enumerate(seeds.items()):
            label = f"{path.parent.name}, seed {seed}"
            axes.plot(
                *zip(*points, strict=True), color=(theme.slow, theme.fast, theme.other)[i % 3], label=label, lw=1.6
            )
    axes.set_xlabel("training steps")
    axes.set_ylabel("validation bits per character (raw)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9)
    _plain(axes, theme)
    return figure


# ---------------------------------------------------------------------- the house


def floors() -> list[set[str]]:
    """The floors of the house, lowest first, as `tests/test_house.py` checks them."""
    tree = ast.parse((ROOT / "tests" / "test_house.py").read_text())
    (found,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "FLOORS"
    )
    return list(ast.literal_eval(found))


def house(theme: Theme) -> Figure:
    """The floors of the package: each imports only from lower ones."""
    names = [sorted(floor - {"__main__"}) for floor in floors()]
    names = [floor for floor in names if floor]
    figure, axes = plt.subplots(figsize=(9, 0.46 * len(names) + 0.5))
    for level, floor in enumerate(names):
        width = 10 / len(floor)
        for i, name in enumerate(floor):
            box = FancyBboxPatch(
                (i * width + 0.06, level + 0.1),
                width - 0.12,
                0.8,
                boxstyle="round,pad=0,rounding_size=0.08",
                fc="none",
                ec=theme.fast,
                lw=1.4,
            )
            axes.add_patch(box)
            axes.text((i + 0.5) * width, level + 0.5, name, ha="center", va="center", color=theme.ink, fontsize=10)
        axes.text(-0.3, level + 0.5, str(level), ha="center", va="center", color=theme.grey, fontsize=10)
    _arrow(axes, (10.35, len(names) - 0.1), (10.35, 0.1), theme.slow)
    axes.text(10.55, len(names) / 2, "imports", rotation=90, va="center", color=theme.slow, fontsize=10)
    axes.set_xlim(-0.6, 10.9)
    axes.set_ylim(0, len(names))
    axes.axis("off")
    return figure


PICTURES: dict[str, Callable[[Theme], Figure]] = {
    "front": front,
    "wiring": wiring,
    "engines": engines,
    "ptb": ptb,
    "compression": compression,
    "curves": curves,
    "house": house,
}


def write(name: str, theme: Theme, folder: Path = OUT) -> Path:
    """Draw one picture and write it; its path."""
    path = folder / f"{name}-{theme.name}.svg"
    with mpl.rc_context(
        {"svg.hashsalt": "fastslow", "font.family": "DejaVu Sans", "figure.constrained_layout.use": True}
    ):
        figure = PICTURES[name](theme)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
    return path


def main() -> None:
    """Draw the named pictures, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], help="which (default: all)")
    OUT.mkdir(exist_ok=True)
    for name in parser.parse_args().names or PICTURES:
        for theme in THEMES:
            print(write(name, theme).relative_to(ROOT))


if __name__ == "__main__":
    main()
