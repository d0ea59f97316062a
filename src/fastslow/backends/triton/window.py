"""One window on the device: one library product and one fused kernel per cell step, forward and backward.

A cell is defined by what one row of one node computes, forward and backward (`cells/`), and by its number of blocks of
z. forward.py and backward.py contain the loops over time and the code before and after them, for any cell and any
wiring. This file contains what they share.

    before    once per window: cast and pad matrices; dropout of x; the products W_x x for all T steps
    forward   one step of a node: z = [x, h] [W_x, W_h]^T, then the kernel `<cell>_forward`, which writes h and a
              copy after dropout directly into the operands of the products that read them
    backward  one step of a node: `<cell>_backward` computes dz, then dz [W_x, W_h], the gradient of [x, h],
              as partial sums, one per block of z, which the kernels of earlier nodes add up when they read them
    after     per chunk of steps: weight gradients dz^T [x, h] as one product, bias and norm gradients as column sums

A matrix that does not contribute to some blocks of z (as in a GRU) has zeros there, so one product serves every cell.

For a row that is reset, the last node of a slot writes zeros as the state, one step ahead, and takes no gradient from
the following step; readers and the output use the original h. The kernels read `resets` on the device.

Precision: with bfloat16, matrices, x, h, z, dz and dn are bfloat16. Products accumulate in float32, and those of the
backward pass stay in float32; c (or a second copy of h for cells without c), dc, dh, statistics, nonlinearities,
weights and their gradients are float32.

Memory held for the backward pass, in elements per node, step and stream: z + H (float32) + [x, h] + 16.

Each cell step waits for the one before it, so the time of a window is that of its chain of short kernels, not of its
arithmetic. `gates_apart`, on by default, shortens the products of the backward loop; `overlap` takes half of a product
out of the chain; `dependent_launch` hides the start of a fused kernel behind the product before it. The gain depends on
the device: `fastslow bench --device cuda` measures it.
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
    """Tensors of a window, by node unless said; `None` where a node has none.

    matrix (z_width, columns), matrix_x (z_width, x_width): padded and cast weights, of the product inside the loop and
        of the one before it.
    x (T B, x_width): the input after dropout, for nodes that read x.
    operand (steps, B, columns): [x, h] or h, the operands of the products inside the loop; one more entry, the final
        state, for the first node of a slot.
    z (steps, B, z_width), stats (steps, B, STATS) of nodes with norms.
    wide (steps, B, width): the state of a slot in float32: c, or h for cells without c.
    wide0: the same before the window, by slot, (B, width).
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
    """A window's inputs on the device, in the form that both passes use.

    vectors: by node, (vector_blocks, H) in the layout of the node's `Kind`; the constant of a forget gate is included
        in its shift, or in its bias without norms.
    key: of the noise. ends: (B,) lengths.
    reset: (T + 1, B) int8, 1 where the row's state is set to zero before that step; all 0 after step T - 1.
    """

    vectors: tuple[Tensor, ...]
    key: Tensor | None
    ends: Tensor | None
    reset: Tensor | None

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
        reset = None
        if resets is not None:
            reset = torch.zeros(setting.T + 1, setting.B, dtype=torch.int8, device=device)
            reset[:-1] = resets
            if ends is not None:
                reset[:-1] *= _running(setting, ends)
        vectors = tuple(_vectors(setting, s, node) for s, node in zip(setting.steps, weights, strict=True))
        return cls(vectors, key, ends, reset)

    def read(self, setting: Setting, x: Tensor) -> Tensor:
        """x with zeros past the ends of its rows: multiplying the padding by 0 would not remove a NaN."""
        return x if self.ends is None else x.masked_fill(~_running(setting, self.ends).unsqueeze(-1), 0)


def _running(setting: Setting, ends: Tensor) -> Tensor:
    """(T, B) bool: where a row has not ended."""
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
    """Entry t of a buffer that has all steps or only the last few."""
    assert buffer is not None
    return buffer[t % buffer.shape[0]]


@dataclass(frozen=True)
class Setting:
    """The properties of a window, other than tensors, that forward and backward share."""

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
        """The number of partial sums of a node's product in the backward loop."""
        return s.blocks if self.options.gates_apart else 1

    def forget(self, s: Step) -> bool:
        """Whether a constant is added to the node's forget gate."""
        return s.kind.forget_bias and self.rates.forget_bias != 0

    def bias(self, s: Step) -> bool:
        """Whether a bias is added to z."""
        return s.bias or (self.forget(s) and not s.norm)

    def warps(self, size: int) -> int:
        return max(1, min(16, ops.block(size) // (32 * self.options.units_per_thread)))

    def masks(self, s: Step) -> tuple[int | float, ...]:
        """The arguments of a kernel from `zone_site` to `scale`."""
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
            "RESETS": given.reset is not None and s.last,
            "TOGETHER": not ops.interpreted(),
            **s.cell.constants,
        }

    def drop_copy(self, source: Tensor, target: Tensor, key: Tensor, step: int, reader: int, units: int, width: int,
                  add: bool = False) -> None:  # fmt: skip
        """target (+)= source, with dropout for the input of node `reader`; rows of whole steps, starting at `step`.

        source: (rows, units), or partial sums, (parts, rows, units).
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
    """The float32 state that node s reads at step t."""
    if not s.first:
        return at(held.wide[s.before], t)
    if t == 0:
        wide0 = held.wide0[s.slot]
        assert wide0 is not None
        return wide0
    return at(held.wide[s.before], t - 1)
