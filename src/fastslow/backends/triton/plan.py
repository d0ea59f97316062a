"""A wiring as the fused loops read it: who writes what where, and which half of a product can start early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastslow.cells.lstm import CellWeights
from fastslow.wiring import FROM_INPUT, Wiring


def padded(size: int) -> int:
    """`size` rounded up to 16: rows of matrix operands then begin at multiples of 16 bytes."""
    return -(-size // 16) * 16


@dataclass(frozen=True)
class Step:
    """One node of the wiring, with its neighbours by index.

    size, width: H, and H padded. x_size, x_width: of its input, 0 without one.
    source: the node it reads, `FROM_INPUT` or `NO_INPUT`. readers: the nodes that read it.
    before, after: the nodes whose state it takes and which take its state, along its slot; `first` and `last` in the
        slot tell that they belong to the step before, and to the step after.
    """

    index: int
    slot: int
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
    def columns(self) -> int:
        """Columns of the operand of the product inside the loop: [x, h] of a node that reads a node, else h."""
        return self.width + (self.x_width if self.reads_node else 0)

    @property
    def h_at(self) -> int:
        """The first column of h in that operand."""
        return self.x_width if self.reads_node else 0

    @property
    def early(self) -> int:
        """The node after which the first of the two halves of [x, h] W^T can start; only if it reads a node."""
        return self.before if self.h_is_early else self.source

    @property
    def h_is_early(self) -> bool:
        # The state of the step before is older than anything of this step.
        return self.first or self.before < self.source


def plan(wiring: Wiring, weights: Sequence[CellWeights]) -> tuple[Step, ...]:
    """One `Step` a node, in the order they run."""
    slots, sources = wiring.slot_of, wiring.sources
    steps = []
    for n, (slot, source, cell) in enumerate(zip(slots, sources, weights, strict=True)):
        chain = [m for m, other in enumerate(slots) if other == slot]
        at = chain.index(n)
        x_size = 0 if cell.w_x is None or source < FROM_INPUT else cell.w_x.shape[1]
        steps.append(
            Step(
                index=n,
                slot=slot,
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
