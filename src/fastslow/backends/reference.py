"""The reference loop: the specification that every other engine is tested against.

Plain PyTorch and autograd, in the order of the equations (PAPER: section 3, eqs. 1-5, for `fast_slow(k)`). It runs on
every device and dtype, and under torch.compile, torch.export and torch.func.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.base import Option, Problem, Rates, States
from fastslow.cells.kinds import kind_of
from fastslow.noise import Noise, dropout_keep, zoneout_update
from fastslow.state import output_of, reset_rows, stopped_rows
from fastslow.wiring import FROM_INPUT, NO_INPUT, Wiring

NAME = "reference"


def refusal(problem: Problem) -> str | None:
    return None


def options(device: str) -> tuple[tuple[str, Option], ...]:
    return ()


class Masks:
    """All masks of a window: `factor[site]` (T, B, units) for dropout, `update[node]` two (T, B, H) for zoneout."""

    def __init__(self, wiring: Wiring, weights: Sequence[Any], x: Tensor, noise: Noise, rates: Rates) -> None:
        steps, rows, _ = x.shape
        self.factor: dict[int, Tensor] = {}
        self.update: list[tuple[Tensor, Tensor]] = []
        if rates.dropout > 0:
            scale = 0.0 if rates.dropout == 1 else 1 / (1 - rates.dropout)
            sizes = {wiring.input_site(node): w.w_x.shape[1] for node, w in enumerate(weights) if w.w_x is not None}
            sizes[wiring.output_site] = weights[wiring.output_index].hidden_size
            for site, units in sizes.items():
                keep = dropout_keep(noise, steps, site, rows, units, rates.dropout)
                self.factor[site] = keep.to(x.dtype) * scale
        if rates.zoneout_h > 0 or rates.zoneout_c > 0:
            for node, w in enumerate(weights):
                site = wiring.zoneout_site(node)
                self.update.append(
                    zoneout_update(noise, steps, site, rows, w.hidden_size, rates.zoneout_h, rates.zoneout_c)
                )


def run(
    wiring: Wiring,
    weights: Sequence[Any],
    x: Tensor,
    state: States,
    noise: Noise | None,
    rates: Rates,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, States]:
    masks = None if noise is None else Masks(wiring, weights, x, noise, rates)

    def dropped(value: Tensor, site: int, t: int) -> Tensor:
        return value if masks is None or site not in masks.factor else value * masks.factor[site][t]

    ends = None if lengths is None else lengths.to(x.device)
    slots: list[Any] = list(state)
    steps = [kind_of(w).step for w in weights]
    outputs: list[Tensor] = []
    for t in range(x.shape[0]):
        out: list[Tensor] = []
        running = None if ends is None else ends > t
        if resets is not None:
            reset_now = resets[t] if running is None else resets[t] & running
            slots = [reset_rows(pair, reset_now) for pair in slots]
        for node, (slot, source) in enumerate(zip(wiring.slot_of, wiring.sources, strict=True)):
            read = None if source == NO_INPUT else x[t] if source == FROM_INPUT else out[source]
            update_h, update_c = (None, None)
            if masks is not None and masks.update:
                update_h, update_c = (mask[t] for mask in masks.update[node])
            new = steps[node](
                weights[node],
                None if read is None else dropped(read, wiring.input_site(node), t),
                slots[slot],
                forget_bias=rates.forget_bias,
                zoneout_h=rates.zoneout_h,
                zoneout_c=rates.zoneout_c,
                update_h=update_h,
                update_c=update_c,
            )
            slots[slot] = new if running is None else stopped_rows(slots[slot], new, running)
            out.append(output_of(slots[slot]))
        y = dropped(out[wiring.output_index], wiring.output_site, t)
        outputs.append(y if running is None else y.masked_fill(~running.unsqueeze(-1), 0))
    return torch.stack(outputs), tuple(slots)
