"""What forward and backward of the window engine share: the order of the nodes, what is saved, and the spans."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from fastslow.backends.window.masks import Masks
from fastslow.wiring import Wiring

States = tuple[Any, ...]

SPAN_ROWS = 96, 2048
"""Smallest and largest number of rows of a span. In between, a span is an eighth of the window, so that scratch memory
stays small compared with the saved tensors."""
BLOCKS = 16
"""The smallest number of blocks of a window on the CPU, for the same reason."""
BLOCK_NUMBERS = {"cpu": 2**17, "cuda": 2**23}
"""The number of gate elements (4 H per row) in a block: part of a core's L2 cache, or enough to fill a GPU."""


@dataclass(frozen=True)
class Plan:
    """The order of a wiring's nodes, as indices."""

    slot: tuple[int, ...]
    """The slot of each node."""
    source: tuple[int, ...]
    """`Wiring.sources`."""
    before: tuple[int | None, ...]
    """The node that wrote the state that a node reads in the same step; None: the slot's last node, a step earlier."""
    last: tuple[int, ...]
    """The last node of each slot."""
    direct: tuple[bool, ...]
    """Whether, in the backward traversal, the node that this one reads is the next node of its slot."""
    output: int
    wiring: Wiring

    @property
    def nodes(self) -> range:
        return range(len(self.slot))

    @property
    def emitted(self) -> tuple[int, ...]:
        """With resets: nodes whose h is still read after the next step may have reset it to zero."""
        return tuple(n for n in self.last if n == self.output or n in self.source)


@lru_cache(maxsize=64)
def plan(wiring: Wiring) -> Plan:
    slot, source = wiring.slot_of, wiring.sources

    def latest(of_slot: int, below: int) -> int | None:
        return max((n for n in range(below) if slot[n] == of_slot), default=None)

    nodes = range(len(slot))
    last = tuple(max(n for n in nodes if slot[n] == s) for s in range(len(wiring.slots)))
    direct = tuple(source[n] >= 0 and latest(slot[source[n]], n) == source[n] for n in nodes)
    return Plan(slot, source, tuple(latest(slot[n], n) for n in nodes), last, direct, wiring.output_index, wiring)


@dataclass(frozen=True)
class Window:
    """The properties of a window other than its tensors."""

    plan: Plan
    masks: Masks
    forget_bias: float
    recompute: bool
    resets: Tensor | None = None
    """(T, B, 1) bool: where a row's state is reset; None: nowhere."""

    @property
    def emitted(self) -> tuple[int, ...]:
        return self.plan.emitted if self.resets is not None else ()

    def row_resets(self, t0: int, t1: int) -> Sequence[Tensor | None]:
        """One entry per step t0 .. t1 - 1: the rows that are reset (B, 1), or None if there are known to be none."""
        if self.resets is None:
            return [None] * (t1 - t0)
        steps = self.resets[t0:t1]
        if steps.device.type != "cpu":  # reading the mask would synchronise with the device
            return steps.unbind(0)
        some = steps.flatten(1).any(1).tolist()
        return [step if row_resets else None for step, row_resets in zip(steps.unbind(0), some, strict=True)]

    def kind(self, weights: Sequence[Any], x: Tensor) -> Hashable:
        """A key: windows with equal keys can share scratch memory."""
        sizes = tuple((type(w), w.hidden_size) for w in weights)
        return self.plan, self.recompute, self.resets is None, sizes, tuple(x.shape)


@dataclass(frozen=True)
class Saved:
    """What backward needs. h and c hold what each node wrote, one entry per step; for the last node of a slot they have
    one more entry in front, the state before the window. z is empty under `recompute`."""

    x: Tensor
    weights: tuple[Any, ...]
    h: tuple[Tensor, ...]
    c: tuple[Tensor, ...]
    z: tuple[Tensor, ...]
    emitted: tuple[Tensor, ...] = ()
    """(T, B, H) of the nodes of `Window.emitted`."""

    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.h, *self.c, *self.emitted, *self.z)

    @staticmethod
    def of(window: Window, x: Tensor, weights: tuple[Any, ...], tensors: Sequence[Tensor]) -> Saved:
        """The inverse of `tensors()`."""
        nodes, count = len(window.plan.slot), len(window.emitted)
        h, c, rest = tensors[:nodes], tensors[nodes : 2 * nodes], tensors[2 * nodes :]
        return Saved(x, weights, tuple(h), tuple(c), tuple(rest[count:]), tuple(rest[:count]))


@dataclass(frozen=True)
class History:
    """Views of the states that the nodes wrote, (T, B, H) each: `out[n]` the output of node n, `read[n]` what it reads.

    Where rows are reset, `read` contains the zeros, and so does `out` of a slot's last node.
    """

    out: tuple[Tensor, ...]
    read: tuple[Tensor, ...]

    @staticmethod
    def of(plan: Plan, held: Sequence[Tensor]) -> History:
        out = tuple(held[n][1:] if n in plan.last else held[n] for n in plan.nodes)
        read = tuple(
            held[plan.last[plan.slot[n]]][:-1] if (before := plan.before[n]) is None else out[before]
            for n in plan.nodes
        )
        return History(out, read)


def block_steps(steps: int, rows: int, sizes: Sequence[int], device: str) -> int:
    """The number of steps in a block."""
    fitting = max(1, BLOCK_NUMBERS[device] // (4 * max(sizes) * max(1, rows)))
    return min(fitting, -(-max(1, steps) // BLOCKS)) if device == "cpu" else fitting


def span_steps(steps: int, rows: int, block: int) -> int:
    """The number of steps in a span: whole blocks, about `SPAN_ROWS` rows in all."""
    least, most = SPAN_ROWS
    wanted = max(block, min(most, max(least, steps * rows // 8)) // max(1, rows))
    return min(steps, -(-wanted // block) * block)


def ranges(t0: int, t1: int, length: int) -> Iterator[tuple[int, int]]:
    """[t0, t1) in pieces of `length`; the last may be shorter."""
    for start in range(t0, t1, length):
        yield start, min(start + length, t1)
