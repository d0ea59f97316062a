"""One window on the device: a library product and one fused kernel a cell step, forward and backward.

A cell is what one row of one node does, forward and backward (`cells/`), and a number of blocks of z; forward.py and
backward.py have the loops over time and what stands before and after, and run any cell of any wiring. Here is what they
share.

    before    matrices cast and padded, once a window; x dropped; the products W_x x of nodes that read x, all T at once
    forward   a step of a node: z = [x, h] [W_x, W_h]^T, then the kernel `<cell>_forward`, which writes h and its
              dropped copy straight into the operands of the products that read them
    backward  a step of a node: `<cell>_backward` leaves dz, then dz [W_x, W_h] is the gradient of [x, h]; it is made
              in parts, one a block of z, which the kernels of the nodes before add up as they read them
    after     a chunk of steps: weight gradients dz^T [x, h] as one product, bias and norm gradients as column sums

A matrix that does not add to some blocks of z (a GRU's) has zeros there: one product then serves every cell.

A row that starts anew has zeros written as its state by the last node of a slot, one step ahead, and that node takes no
gradient from beyond; readers and the output have h as it was. `resets` are read by the kernels, from the device.

Precision: with bfloat16, matrices, x, h, z, dz and dn are bfloat16, products accumulate in float32 and those of the
backward pass are kept so; c (a second h of cells without c), dc, dh, statistics, nonlinearities, weights and their
gradients are float32.

Memory held for the backward pass, a node, in entries a step and stream: z + H (float32) + [x, h] + 16.

A cell step waits for the one before it, so the time of a window is that of its chain of short kernels, not of its
arithmetic. `gates_apart`, on by default, shortens the products of the backward loop; `overlap` takes half of a product
off the chain; `dependent_launch` hides the start of a fused kernel behind the product before it. What each is worth is
a matter of the device: `fastslow bench --device cuda` times them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.base import Rates
from fastslow.backends.triton import ops
from fastslow.backends.triton.options import Options
from fastslow.backends.triton.plan import Step, runs
from fastslow.noise import dropout_threshold, zoneout_threshold
from fastslow.wiring import Wiring

STATS = 16
"""Width of a row of saved statistics, `row.STATS`."""


@dataclass
class Held:
    """Tensors of a window, by node unless said; `None` where a node has no such thing.

    matrix (z_width, columns), matrix_x (z_width, x_width): padded, cast weights: of the product inside the loop, and
        of the one before it.
    x (T B, x_width): the dropped input of nodes that read x.
    operand (steps, B, columns): [x, h] or h, what the products inside the loop read; of a slot's first node one entry
        more, the final state.
    z (steps, B, z_width), stats (steps, B, STATS) of nodes with norms.
    wide (steps, B, width): what a slot carries in float32: c, or h of cells without c.
    wide0: by slot, the same before the window, (B, width).
    """

    matrix: list[Tensor | None]
    matrix_x: list[Tensor | None]
    x: list[Tensor | None]
    operand: list[Tensor | None]
    z: list[Tensor | None]
    wide: list[Tensor | None]
    stats: list[Tensor | None]
    wide0: list[Tensor | None]


@dataclass(frozen=True)
class Given:
    """What both passes make of a window's inputs, on the device.

    vectors: by node, (vector_blocks, H) as the node's `Kind` lays them out; the constant of a forget gate is in its
        shift, or in its bias where there are no norms.
    key: the noise's. ends: (B,) lengths.
    anew: (T + 1, B) int8, 1 where the row's state is zeros before that step; nothing follows step T - 1.
    """

    vectors: tuple[Tensor, ...]
    key: Tensor | None
    ends: Tensor | None
    anew: Tensor | None

    @classmethod
    def of(
        cls,
        setting: Setting,
        weights: Sequence[Any],
        key: Tensor | None,
        lengths: Tensor | None,
        resets: Tensor | None,
    ) -> Given:
        device = weights[0].w_h.device
        ends = None if lengths is None else lengths.to(device)
        anew = None
        if resets is not None:
            anew = torch.zeros(setting.T + 1, setting.B, dtype=torch.int8, device=device)
            anew[:-1] = resets
            if ends is not None:
                anew[:-1] *= _running(setting, ends)
        vectors = tuple(_vectors(setting, s, node) for s, node in zip(setting.steps, weights, strict=True))
        return cls(vectors, key, ends, anew)

    def read(self, setting: Setting, x: Tensor) -> Tensor:
        """x with zeros past the ends of its rows: whatever is there meets factors of 0, which would keep a NaN."""
        return x if self.ends is None else x.masked_fill(~_running(setting, self.ends).unsqueeze(-1), 0)


def _running(setting: Setting, ends: Tensor) -> Tensor:
    """(T, B) bool: whether a row has not ended."""
    return torch.arange(setting.T, device=ends.device).unsqueeze(1) < ends


def _vectors(setting: Setting, s: Step, node: Any) -> Tensor:
    made = torch.zeros(s.kind.vector_blocks, s.size, device=node.w_h.device)
    for field, places in s.kind.vectors.items():
        value = getattr(node, field)
        for first, place, count in runs(places) if value is not None else ():
            made[place : place + count] += value.detach().view(-1, s.size)[first : first + count]
    if setting.forget(s):
        made[2 * s.blocks + 1 if s.norm else 1] += setting.rates.forget_bias
    return made


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

    def parts(self, s: Step) -> int:
        """Parts in which the product of a node in the backward loop is made."""
        return s.blocks if self.options.gates_apart else 1

    def forget(self, s: Step) -> bool:
        """Whether a constant is added to the node's forget gate."""
        return s.kind.forget_bias and self.rates.forget_bias != 0

    def bias(self, s: Step) -> bool:
        """Whether anything is added to z."""
        return s.bias or (self.forget(s) and not s.norm)

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

    def constants(self, s: Step, given: Given) -> dict[str, Any]:
        return {
            "H": s.size,
            "HP": s.width,
            "BLOCK": ops.block(s.width),
            "NORM": s.norm,
            "BIAS": self.bias(s),
            "ZONE": self.zone,
            "READ": bool(s.readers),
            "DROP": self.drop,
            "ENDS": given.ends is not None,
            "ANEW": given.anew is not None and s.last,
            "TOGETHER": not ops.interpreted(),
            **s.cell.constants,
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


def old_wide(held: Held, s: Step, t: int) -> Tensor:
    """What node s is handed in float32 at step t."""
    if not s.first:
        return at(held.wide[s.before], t)
    if t == 0:
        wide0 = held.wide0[s.slot]
        assert wide0 is not None
        return wide0
    return at(held.wide[s.before], t - 1)
