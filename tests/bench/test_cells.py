"""The table of cells: every row there is, with numbers that belong together."""

from __future__ import annotations

from dataclasses import replace

from fastslow.bench.cells import cells
from fastslow.bench.shapes import SMALL
from fastslow.bench.tables import _cells


def test_rows_and_table() -> None:
    tiny = replace(SMALL, sizes=(9, 6), rows=2, steps=3)
    rows = list(cells([tiny], 0.01, lambda line: None))
    assert [row["network"] for row in rows] == [
        "FSLSTM", "FSGRU", "FSRNN of nn.LSTMCell", "FSRNN of nn.GRUCell", "nn.LSTM", "nn.GRU",
    ]  # fmt: skip
    by_name = {row["network"]: row for row in rows}
    for name, rival in (("FSLSTM", "nn.LSTM"), ("FSGRU", "nn.GRU")):
        row, other = by_name[name], by_name[rival]
        assert row["rival"] == rival
        assert abs(row["weights"] - other["weights"]) < 0.3 * row["weights"]
        ratio = row["gflops_per_second"] / other["gflops_per_second"]
        assert abs(row["of_rival"] - ratio) < 1e-9 * ratio
        assert other["of_rival"] == 1.0
    text = "\n".join(_cells({"cells": rows}))
    assert "FSRNN of nn.GRUCell" in text
    assert "1.00 of nn.GRU" in text
    assert _cells({}) == []
