"""One window on the device: a library product and one fused kernel a cell step, forward and backward.

The equations and the hand-derived backward pass are those of `fastslow.cells.lstm`; kernels.py has them a row at a
time; forward.py and backward.py have the loops over time and what stands before and after. Here is what they share.

    before    matrices cast and padded, once a window; x dropped; the products W_x x of nodes that read x, all T at once
    forward   a step of a node: z = [x, h] [W_x, W_h]^T, then `step_forward`, which writes h and its dropped copy
              straight into the operands of the products that read them
    backward  a step of a node: `step_backward` leaves dz, then dz [W_x, W_h] is the gradient of [x, h]; it is made in
              four parts, one a gate, which the `step_backward` of the nodes before adds up as it reads them
    after     a chunk of steps: weight gradients dz^T [x, h] as one product, bias and norm gradients as column sums

Precision: with bfloat16, matrices, x, h, z, dz and dn are bfloat16, products accumulate in float32 and those of the
backward pass are kept so; c, dc, dh, statistics, nonlinearities, weights and their gradients are float32.

Memory held for the backward pass, a node, in entries a step and stream: 4H (z) + H (c, float32) + [x, h] + 16.

A cell step waits for the one before it, so the time of a window is that of its chain of short kernels, not of its
arithmetic. `gates_apart`, on by default, shortens the products of the backward loop; `overlap` takes half of a product
off the chain; `dependent_launch` hides the start of a fused kernel behind the product before it. What each is worth is
a matter of the device: `fastslow bench --device cuda` times them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.base import Rates
from fastslow.backends.triton import ops
from fastslow.backends.triton.options import Options
from fastslow.backends.triton.plan import Step
from fastslow.noise import dropout_threshold, zoneout_threshold
from fastslow.wiring import Wiring

STATS = 16
"""Width of a row of saved statistics, `kernels.STATS`."""


@dataclass
class Held:
    """Tensors of a window, by node unless said; `None` where a node has no such thing.

    matrix (4 width, columns), matrix_x (4 width, x_width): padded, cast weights: of the product inside the loop, and of
        the one before it.
    x (T B, x_width): the dropped input of nodes that read x.
    operand (steps + 1, B, columns): [x, h] or h, what the products inside the loop read; of a slot's first node, entry
        T is the final state.
    z (steps, B, 4 width), c (steps, B, width), stats (steps, B, STATS).
    c0: by slot, the initial c, (B, width).
    bias, gate_gain, gate_shift, cell_gain, cell_shift: float32, contiguous.
    ends: (B,) lengths on the device. key: the noise's. Each a list of at most one.
    """

    matrix: list[Tensor | None]
    matrix_x: list[Tensor | None]
    x: list[Tensor | None]
    operand: list[Tensor | None]
    z: list[Tensor | None]
    c: list[Tensor | None]
    stats: list[Tensor | None]
    c0: list[Tensor | None]
    bias: list[Tensor | None]
    gate_gain: list[Tensor | None]
    gate_shift: list[Tensor | None]
    cell_gain: list[Tensor | None]
    cell_shift: list[Tensor | None]
    ends: list[Tensor | None]
    key: list[Tensor | None]

    def flat(self) -> list[Tensor | None]:
        return [tensor for part in fields(self) for tensor in getattr(self, part.name)]

    def counts(self) -> tuple[int, ...]:
        return tuple(len(getattr(self, part.name)) for part in fields(self))

    @classmethod
    def unflat(cls, counts: tuple[int, ...], tensors: Sequence[Tensor | None]) -> Held:
        lists, at = [], 0
        for count in counts:
            lists.append(list(tensors[at : at + count]))
            at += count
        return cls(*lists)


def at(buffer: Tensor | None, t: int) -> Tensor:
    """Entry t of a buffer of every step, or of one that keeps the last few."""
    assert buffer is not None
    return buffer[t % buffer.shape[0]]


@dataclass(frozen=True)
class Setting:
    """What forward and backward of one window share besides tensors."""

    wiring: Wiring
    steps: tuple[Step, ...]
    T: int
    B: int
    rates: Rates
    random: bool
    first_step: int
    first_row: int
    kind: torch.dtype
    options: Options
    norm: bool

    @property
    def zone(self) -> int:
        rates = self.rates
        if rates.zoneout_h == rates.zoneout_c == 0:
            return 0
        return 1 if self.random else 2

    @property
    def drop(self) -> bool:
        return self.random and self.rates.dropout > 0

    @property
    def scale(self) -> float:
        rate = self.rates.dropout
        return 0.0 if rate == 1 else 1 / (1 - rate)

    @property
    def parts(self) -> int:
        """Parts in which a product of the backward loop is made."""
        return 4 if self.options.gates_apart else 1

    def warps(self, size: int) -> int:
        return max(1, min(16, ops.block(size) // (32 * self.options.units_per_thread)))

    def masks(self, s: Step) -> tuple[int | float, ...]:
        """Arguments of a kernel from `zone_site` to `scale`."""
        site = self.wiring.input_site(s.readers[0]) if s.readers else 0
        return (
            self.wiring.zoneout_site(s.index),
            site,
            self.wiring.output_site,
            zoneout_threshold(self.rates.zoneout_h),
            zoneout_threshold(self.rates.zoneout_c),
            float(self.rates.zoneout_h),
            float(self.rates.zoneout_c),
            dropout_threshold(self.rates.dropout),
            self.scale,
        )

    def constants(self, s: Step, held: Held) -> dict[str, Any]:
        return {
            "H": s.size,
            "HP": s.width,
            "BLOCK": ops.block(s.width),
            "NORM": self.norm,
            "BIAS": held.bias[s.index] is not None,
            "ZONE": self.zone,
            "READ": bool(s.readers),
            "DROP": self.drop,
            "ENDS": bool(held.ends),
            "TOGETHER": not ops.interpreted(),
        }

    def drop_copy(self, source: Tensor, target: Tensor, key: Tensor, step: int, reader: int, units: int, width: int,
                  add: bool = False) -> None:  # fmt: skip
        """target (+)= source with the dropout of what node `reader` reads, rows of whole steps from `step` on.

        source: (rows, units), or parts of it to add up, (parts, rows, units).
        """
        size = ops.block(max(units, width))
        source = source if source.dim() == 3 else source[None]
        ops.launch(
            "drop_copy",
            (source.shape[1],),
            source, target, key, self.first_step + step, self.first_row, self.B, self.wiring.input_site(reader),
            dropout_threshold(self.rates.dropout), self.scale, source.stride(1), source.stride(0), target.stride(0),
            UNITS=units, WIDTH=width, BLOCK=size, PARTS=source.shape[0], DROP=self.drop, ADD=add,
            warps=self.warps(size),
        )  # fmt: skip


def old_c(held: Held, s: Step, t: int) -> Tensor:
    if not s.first:
        return at(held.c[s.before], t)
    if t == 0:
        c0 = held.c0[s.slot]
        assert c0 is not None
        return c0
    return at(held.c[s.before], t - 1)
