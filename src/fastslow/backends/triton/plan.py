"""A wiring in the form that the fused loops use: which node writes where, and which half of a product can start early.

It contains all that a loop knows of a cell: the number of blocks of z, which of them each matrix contributes to, and
the cell's kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastslow.backends.triton.cells import CELLS, Cell
from fastslow.cells.kind import Kind
from fastslow.cells.kinds import kind_of
from fastslow.wiring import FROM_INPUT, Wiring


def padded(size: int) -> int:
    """`size` rounded up to 16: so that rows of matrix operands are aligned to 16 bytes."""
    return -(-size // 16) * 16


def runs(places: Sequence[int]) -> list[tuple[int, int, int]]:
    """Runs of blocks that are adjacent in both orders: (index of the first, its place, number of blocks).

    >>> runs((1, 2, 0))
    [(0, 1, 2), (2, 0, 1)]
    """
    found: list[tuple[int, int, int]] = []
    for at, place in enumerate(places):
        if found and place == found[-1][1] + found[-1][2]:
            found[-1] = (*found[-1][:2], found[-1][2] + 1)
        else:
            found.append((at, place, 1))
    return found


@dataclass(frozen=True)
class Step:
    """One node of the wiring, with its neighbours by index.

    kind: the node's cell. norm, bias: whether it has gains, and whether it has biases.
    size, width: H, and H padded. x_size, x_width: those of its input, 0 without input.
    source: the node it reads, `FROM_INPUT` or `NO_INPUT`. readers: the nodes that read it.
    before, after: the nodes of its slot whose state it reads and which read its state; `first` and `last` in the slot
        mean that they belong to the previous step and to the next step.
    """

    index: int
    slot: int
    kind: Kind
    norm: bool
    bias: bool
    size: int
    width: int
    x_size: int
    x_width: int
    source: int
    readers: tuple[int, ...]
    before: int
    after: int
    first: bool
    last: bool
    output: bool

    @property
    def reads_node(self) -> bool:
        return self.source >= 0

    @property
    def cell(self) -> Cell:
        """Its kernels."""
        return CELLS[self.kind.code]

    @property
    def blocks(self) -> int:
        """Blocks of z."""
        return self.kind.blocks

    @property
    def z_width(self) -> int:
        """The width of z. A matrix is zero in the blocks of z to which it does not contribute."""
        return self.blocks * self.width

    @property
    def own(self) -> int:
        """Blocks of the node's vectors besides biases, gains and shifts: the cell computes their gradients itself."""
        return self.kind.vector_blocks - 3 * self.blocks if self.norm else 0

    @property
    def has_c(self) -> bool:
        return self.kind.leaves > 1

    @property
    def columns(self) -> int:
        """Columns of the operand of the product inside the loop: [x, h] of a node that reads a node, else h."""
        return self.width + (self.x_width if self.reads_node else 0)

    @property
    def h_at(self) -> int:
        """The first column of h in that operand."""
        return self.x_width if self.reads_node else 0

    @property
    def early(self) -> int:
        """The node after which the first half of [x, h] W^T can start; only if this node reads another node."""
        return self.before if self.h_is_early else self.source

    @property
    def h_is_early(self) -> bool:
        # The state of the previous step is available before anything of this step.
        return self.first or self.before < self.source


def plan(wiring: Wiring, weights: Sequence[Any]) -> tuple[Step, ...]:
    """One `Step` per node, in the order in which they run."""
    slots, sources = wiring.slot_of, wiring.sources
    steps = []
    for n, (slot, source, cell) in enumerate(zip(slots, sources, weights, strict=True)):
        chain = [m for m, other in enumerate(slots) if other == slot]
        at = chain.index(n)
        kind = kind_of(cell)
        x_size = 0 if cell.w_x is None or source < FROM_INPUT else cell.w_x.shape[1]
        steps.append(
            Step(
                index=n,
                slot=slot,
                kind=kind,
                norm=cell.layer_norm,
                bias=any(
                    getattr(cell, field) is not None
                    for field, places in kind.vectors.items()
                    if max(places) < kind.blocks
                ),
                size=cell.hidden_size,
                width=padded(cell.hidden_size),
                x_size=x_size,
                x_width=padded(x_size),
                source=source,
                readers=tuple(m for m, other in enumerate(sources) if other == n),
                before=chain[at - 1],
                after=chain[(at + 1) % len(chain)],
                first=at == 0,
                last=at == len(chain) - 1,
                output=n == wiring.output_index,
            )
        )
    return tuple(steps)
