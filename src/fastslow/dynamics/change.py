"""How fast each cell's memory changes (paper, figure 4): mean over units of (c_t - c_{t-1})^2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastslow.data.alphabet import Buffer
from fastslow.data.text import Text
from fastslow.dynamics.sampling import sample
from fastslow.dynamics.trace import Trace, trace, warmed_state
from fastslow.lm.model import CharLM

Array = NDArray[np.float64]
_CHUNK = 100


@dataclass(frozen=True, eq=False)
class MemoryChange:
    """The change of each node's memory from one step to the next, averaged over steps.

    mean: (N,), one per node. error: (N,), its standard error over streams. steps: the number of steps averaged over, in
    all streams together.
    """

    mean: Array
    error: Array
    steps: int


def memory_change(
    lm: CharLM, text: Buffer | Text, *, streams: int = 16, steps: int = 1000, warm: int = 200
) -> MemoryChange:
    """The changes in `steps` steps of each of `streams` streams, after `warm` warm-up symbols.

    Uses fewer streams if the text is too short; raises DataError if it is too short for one.
    """
    read = sample(lm, text, warm + steps + 1, streams)
    state = warmed_state(lm, read.inputs[:warm])
    total: Tensor | None = None
    last: list[Tensor] | None = None
    for start in range(warm, warm + steps + 1, _CHUNK):
        part = slice(start, min(start + _CHUNK, warm + steps + 1))
        traced = trace(lm, read.inputs[part], read.targets[part], state)
        state = traced.state
        sums = squared_changes(traced, last).sum(1)
        total = sums if total is None else total + sums
        last = [memories[-1] for memories in traced.memory]
    assert total is not None
    each = (total / steps).cpu().numpy()  # (N, B)
    count = each.shape[1]
    error = each.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(len(each))
    return MemoryChange(each.mean(axis=1), error, steps * count)


def squared_changes(traced: Trace, before: list[Tensor] | None) -> Tensor:
    """(N, steps, B) float64: the mean over units of the squared change at each step of a trace.

    before: each node's memory one step before the trace; if None, the changes begin at the second step.
    """
    rows = []
    for node, memories in enumerate(traced.memory):
        steps = memories if before is None else [before[node], *memories]
        c = torch.stack(steps).double()  # (steps + 1, B, H)
        rows.append((c[1:] - c[:-1]).square().mean(-1))
    return torch.stack(rows)
