"""Tables of results for the terminal and for `docs/performance.md`, where they are between the markers `bench cpu` and
`bench gpu` (see `fastslow.bench.pages`).

`python -m fastslow.bench.tables docs/performance.md RESULTS.json...` writes the tables of stored results into a page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastslow.bench.machine import describe
from fastslow.bench.pages import placed

Row = dict[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with even columns; the first two columns are left-aligned, the others right-aligned."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        placed = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(placed) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i < 2 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def report(results: Row) -> str:
    """All tables of the results, with a description of the machine."""
    parts = [describe(results["machine"]) + (" (quick run)" if results.get("quick") else "")]
    if "cpu" in results:
        parts += _cpu(results["cpu"])
    if "gpu" in results:
        parts += _gpu(results["gpu"])
    return "\n\n".join(part for part in parts if part) + "\n"


def _cpu(found: Row) -> list[str]:
    header = (
        "shape",
        "engine",
        "ms",
        "p95",
        "characters/s",
        "GFLOP/s",
        "of nn.LSTM",
        "of floor",
        "x loop",
        "peak MB",
        "x needed",
    )
    rows = [
        (
            f"{row['shape']}, B {row['rows']}, T {row['steps']}",
            row["engine"],
            _milliseconds(row["seconds"]),
            _milliseconds(row["p95_seconds"]),
            f"{row['characters_per_second']:,.0f}",
            f"{row['gflops_per_second']:.1f}",
            _ratio(row["of_lstm"]),
            _ratio(row["of_floor"]),
            _ratio(row["of_loop"]),
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f}",
            _ratio(row["peak_bytes"] and row["needed_bytes"] and row["peak_bytes"] / row["needed_bytes"]),
        )
        for row in found["windows"]
        if "refused" not in row
    ]
    first = table(
        ("engine", "", "first use on the machine, s", "later processes, s"),
        [(row["engine"], "", f"{row['new_seconds']:.2f}", f"{row['known_seconds']:.2f}") for row in found["first_use"]],
    )
    steps = table(
        ("shape", "one step, one row", "us", "p95", "characters/s", "of floor", "x loop"),
        [
            (
                row["shape"],
                row["engine"],
                f"{1e6 * row['seconds']:,.1f}",
                f"{1e6 * row['p95_seconds']:,.1f}",
                f"{row['characters_per_second']:,.0f}",
                _ratio(row["of_floor"]),
                _ratio(row["of_loop"]),
            )
            for row in found["streaming"]
        ],
    )
    return [
        "Windows, forward and backward:",
        table(header, rows),
        _refusals(found["windows"]),
        *(["First use:", first] if found["first_use"] else []),
        "Streaming:",
        steps,
        *_cells(found),
        *_precision(found),
    ]


def _cells(found: Row) -> list[str]:
    """The comparison of cells, if the results contain it."""
    if not found.get("cells"):
        return []
    rows = [
        (
            f"{row['shape']}, B {row['rows']}, T {row['steps']}",
            row["network"],
            f"{row['weights'] / 1e6:.2f}",
            _milliseconds(row["seconds"]),
            f"{row['characters_per_second']:,.0f}",
            f"{row['gflops_per_second']:.1f}",
            f"{row['of_rival']:.2f} of {row['rival']}",
        )
        for row in found["cells"]
    ]
    header = ("shape", "network", "M weights", "ms", "characters/s", "GFLOP/s", "GFLOP/s")
    return ["Cells, windows forward and backward:", table(header, rows)]


def _precision(found: Row) -> list[str]:
    """Errors by the kind of matrix products, and the cost of saving fewer activations, if the results contain them."""
    parts: list[str] = []
    if found.get("errors"):
        first = found["errors"][0]
        rows = [
            (row["engine"], row["products"], f"{row['output_error']:.1e}", f"{row['gradient_error']:.1e}")
            for row in found["errors"]
        ]
        parts += [
            f"Largest errors against the reference loop in float64, {first['shape']}, B {first['rows']}, "
            f"T {first['steps']}, relative to the largest entry of the tensor:",
            table(("engine", "products", "outputs and states", "gradients"), rows),
        ]
    if found.get("saving"):
        saved = [
            (
                f"{row['shape']}, B {row['rows']}, T {row['steps']}",
                row["saved"],
                _milliseconds(row["seconds"]),
                _ratio(row["of_all_seconds"]),
                "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f}",
                _ratio(row["peak_bytes"] and row["peak_bytes"] / row["needed_bytes"]),
                _ratio(row["of_all_bytes"]),
            )
            for row in found["saving"]
        ]
        header = ("shape", "native saves", "ms", "relative", "peak MB", "x needed", "relative")
        parts += ["Saving only the states for the backward pass:", table(header, saved)]
    return parts


def _gpu(found: Row) -> list[str]:
    ratios = ("of product", "of copy", "x loop", "of nn.LSTM")
    header = ("shape", "engine", "ms", "p95", "first s", "characters/s", "us per step", "TFLOP/s", *ratios, "peak MB")
    rows = [
        (
            f"{row['shape']}, B {row['rows']}, T {row['steps']}",
            f"{row['engine']} {row['precision']}",
            _milliseconds(row["seconds"]),
            _milliseconds(row["p95_seconds"]),
            f"{row['first_seconds']:.1f}",
            f"{row['characters_per_second']:,.0f}",
            f"{row['microseconds_a_dependent_step']:.1f}",
            f"{row['tflops_per_second']:.1f}",
            _ratio(row["of_product_ceiling"], 3),
            _ratio(row["of_copy_ceiling"], 3),
            _ratio(row["of_loop"]),
            _ratio(row["of_lstm"]),
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f}",
        )
        for row in found["updates"]
        if "refused" not in row
    ]
    return [
        _ceilings(found["ceilings"]),
        "Training steps:",
        table(header, rows),
        _refusals(found["updates"]),
    ]


def _ceilings(found: Row) -> str:
    if "refused" in found:
        return f"Ceilings: {found['refused']}."
    parts = [
        f"bf16 products {found['bf16_tflops_per_second']:.0f} TFLOP/s",
        f"memory copies {found['copy_terabytes_per_second']:.2f} TB/s",
    ]
    parts += [f"{name.removesuffix('_us').replace('_', ' ')} {found[name]:.2f} us" for name in found if "_us" in name]
    return f"Ceilings: {', '.join(parts)}."


def _refusals(rows: Sequence[Row]) -> str:
    lines: dict[str, list[str]] = {}
    for row in rows:
        if "refused" in row:
            name = " ".join(filter(None, (row["engine"], row.get("precision"))))
            lines.setdefault(f"{name}: {row['refused']}", []).append(row["shape"])
    return "\n".join(f"- {line} ({len(shapes)} shapes)" for line, shapes in lines.items())


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}"


def _ratio(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def fill(page: str, results: Row) -> str:
    """The page with these results inserted between the markers of their device. PageError if there are no markers."""
    return placed(page, f"bench {'gpu' if 'gpu' in results else 'cpu'}", report(results).strip())


def main(arguments: Sequence[str]) -> None:
    page, *stored = map(Path, arguments)
    text = page.read_text(encoding="utf-8")
    for path in stored:
        text = fill(text, json.loads(path.read_text(encoding="utf-8")))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
