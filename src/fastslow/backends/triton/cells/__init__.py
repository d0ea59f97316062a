"""The kernels for one row of one node in one step, forward and backward: one cell per file, chosen by `Kind.code`.

A file has two kernels, `<name>_forward` and `<name>_backward`. All have the same arguments, documented in lstm.py, even
if a cell does not use all of them, because the loops that launch them do not know which cell they run. Shared code is
in `fastslow.backends.triton.row`. This file does not import triton.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """name: of its file and its kernels. constants: those of its kernels besides the common ones."""

    name: str
    constants: Mapping[str, bool] = field(default_factory=dict)


CELLS: dict[int, Cell] = {
    0: Cell("lstm"),
    1: Cell("gru"),
    2: Cell("simple", {"RECTIFIED": False}),
    3: Cell("simple", {"RECTIFIED": True}),
}
"""By `Kind.code`."""
