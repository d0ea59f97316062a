"""What one row of one node does in a step, forward and backward: the kernels of a cell a file, chosen by `Kind.code`.

A file has two kernels, `<name>_forward` and `<name>_backward`. All have the same arguments, those of lstm.py, whatever
a cell uses of them: the loops that launch them do not know which cell they run. What they share is in
`fastslow.backends.triton.row`. This file imports no triton.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """name: of its file and its kernels. constants: theirs, besides those that all have."""

    name: str
    constants: Mapping[str, bool] = field(default_factory=dict)


CELLS: dict[int, Cell] = {
    0: Cell("lstm"),
    1: Cell("gru"),
    2: Cell("simple", {"RECTIFIED": False}),
    3: Cell("simple", {"RECTIFIED": True}),
}
"""By `Kind.code`."""
