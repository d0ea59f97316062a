"""Weights and states in one row, as autograd and operators take them, and back.

An operator of PyTorch takes lists of tensors, not cells: the fields of every node's weights, node after node, and the
leaves of every slot's state, slot after slot. How many there are of each follows from the node's `Kind`, and the kind
from the named tuple of its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from fastslow.cells import kinds
from fastslow.cells.kind import Kind as Kind
from fastslow.cells.kinds import KINDS as KINDS
from fastslow.wiring import Wiring


def kind_of(weights: Any) -> str:
    """The name of the cell whose weights these are."""
    return kinds.kind_of(weights).name


@dataclass(frozen=True)
class Flat:
    """Where each node's parameters and each slot's state lie in their lists."""

    nodes: tuple[Kind, ...]
    """The cell of each node."""
    slots: tuple[Kind, ...]
    """A cell of each slot: the last to write it."""

    def weights(self, flat: Sequence[Any]) -> tuple[Any, ...]:
        """One named tuple a node, of anything that comes one a field: tensors, gradients, bools."""
        made, at = [], 0
        for kind in self.nodes:
            made.append(kind.weights(*flat[at : at + kind.fields]))
            at += kind.fields
        return tuple(made)

    def states(self, flat: Sequence[Any]) -> tuple[Any, ...]:
        """One state a slot."""
        made, at = [], 0
        for kind in self.slots:
            leaves = flat[at : at + kind.leaves]
            made.append(leaves[0] if kind.state is None else kind.state(*leaves))
            at += kind.leaves
        return tuple(made)

    @property
    def leaves(self) -> int:
        """How many tensors the states of all slots have."""
        return sum(kind.leaves for kind in self.slots)


@lru_cache(maxsize=256)
def flat(wiring: Wiring, names: tuple[str, ...]) -> Flat:
    """names: the name of each node's cell. ValueError if the cells of a slot differ in the form of their state."""
    nodes = tuple(KINDS[name] for name in names)
    slots: list[Kind | None] = [None] * len(wiring.slots)
    for node, slot, kind in zip(wiring.nodes, wiring.slot_of, nodes, strict=True):
        before = slots[slot]
        if before is not None and before.state is not kind.state:
            raise ValueError(
                f"nodes on slot {wiring.slots[slot]!r} share its state, and cells {before.name!r} and {kind.name!r} "
                f"(node {node.name!r}) have states of different forms"
            )
        slots[slot] = kind
    return Flat(nodes, tuple(kind for kind in slots if kind is not None))


def flat_weights(weights: Sequence[Any]) -> list[Tensor | None]:
    """The fields of every node's weights, one after the other."""
    return [field for node in weights for field in node]


def states_like(states: Sequence[Any], flat: Sequence[Tensor]) -> tuple[Any, ...]:
    """`flat_states` undone: one state a slot, of the types of `states`."""
    made, at = [], 0
    for state in states:
        count = 1 if isinstance(state, Tensor) else len(state)
        made.append(flat[at] if isinstance(state, Tensor) else type(state)(*flat[at : at + count]))
        at += count
    return tuple(made)


def flat_states(states: Sequence[Any]) -> list[Tensor]:
    """The leaves of every slot's state, one after the other."""
    return [leaf for state in states for leaf in ((state,) if isinstance(state, Tensor) else state)]
