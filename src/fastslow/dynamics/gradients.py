"""How far back the loss reaches (paper, figure 3): the norm of d L_t / d c_{t-j} for every cell and lag j.

L_t is the loss, in nats, of the symbol after step t; c_{t-j} is the memory that a cell wrote to its slot at step t - j.
The derivative is total: through everything that depends on that memory, including the cell's own output at t - j. With
zoneout, c is the memory after zoneout, which is carried over; the output of its own step is computed from the memory
before zoneout and so is not included (the paper's study has no zoneout).

For a target t one backward pass gives the gradients of all cells and lags, and of all streams at once, because streams
are independent.
"""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True, eq=False)
class GradientNorms:
    """Norms averaged over targets t.

    mean: (N, J + 1), of node n at lag j. error: same shape, the standard error of that mean over windows, which are far
    apart and count as one sample each. samples: the number of targets averaged over, in all streams together.
    """

    mean: Array
    error: Array
    samples: int

    @property
    def lags(self) -> int:
        """J, the longest lag."""
        return int(self.mean.shape[1]) - 1


def gradient_norms(
    lm: CharLM,
    text: Buffer | Text,
    *,
    lags: int = 100,
    streams: int = 16,
    windows: int = 4,
    targets: int = 10,
    span: int = 100,
    warm: int = 200,
    on_target: Callable[[int, int], None] | None = None,
) -> GradientNorms:
    """The gradient norms of `lm` on `text`, averaged over streams x windows x targets losses.

    Each stream reads `warm` symbols, then `windows` windows of `lags` + `span` steps, with its state carried over; in
    each window, `targets` evenly spaced losses in its last `span` steps are differentiated.
    on_target: called with the number of targets done and in total; may raise to stop.

    Raises DataError for a text that is too short for one stream.
    """
    length = lags + span
    read = sample(lm, text, warm + windows * length, streams)
    state = warmed_state(lm, read.inputs[:warm])
    places = np.unique(np.linspace(lags, length - 1, targets).round().astype(int))
    means: list[Array] = []
    for window in range(windows):
        steps = slice(warm + window * length, warm + (window + 1) * length)
        traced = trace(lm, read.inputs[steps], read.targets[steps], state, history=True)
        state = traced.state
        total: Tensor | None = None
        for done, t in enumerate(places):
            norms = _norms(traced, int(t), lags)
            total = norms if total is None else total + norms
            if on_target is not None:
                on_target(window * len(places) + done + 1, windows * len(places))
        assert total is not None
        means.append((total / len(places)).cpu().numpy())
    each = np.concatenate(means, axis=2)  # (N, J + 1, windows x B)
    count = each.shape[2]
    error = each.std(axis=2, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(each.shape[:2])
    return GradientNorms(each.mean(axis=2), error, count * len(places))


def _norms(traced: Trace, t: int, lags: int) -> Tensor:
    """(N, J + 1, B) float64: norms for one target."""
    sources = [steps[t - lag] for steps in traced.memory for lag in range(lags + 1)]
    found = torch.autograd.grad(traced.nats[t].sum(), sources, retain_graph=True, allow_unused=True)
    # In float64, because squares of vanishing gradients underflow in float32.
    norms = [
        source.new_zeros(source.shape[0], dtype=torch.float64) if g is None else g.double().norm(dim=1)
        for source, g in zip(sources, found, strict=True)
    ]
    return torch.stack(norms).view(len(traced.memory), lags + 1, -1)
