"""Weights and states as flat lists of tensors, as autograd and operators take them, and back.

PyTorch operators take lists of tensors, not cells: the fields of every node's weights, node by node, and the leaves of
every slot's state, slot by slot. The node's `Kind` determines how many there are of each, and the named tuple of its
weights determines the kind.
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
    """The positions of each node's parameters and each slot's state in the flat lists."""

    nodes: tuple[Kind, ...]
    """The cell of each node."""
    slots: tuple[Kind, ...]
    """The cell of each slot: the last one that writes to it."""

    def weights(self, flat: Sequence[Any]) -> tuple[Any, ...]:
        """One named tuple per node, from a list with one entry per field: tensors, gradients or bools."""
        made, at = [], 0
        for kind in self.nodes:
            made.append(kind.weights(*flat[at : at + kind.fields]))
            at += kind.fields
        return tuple(made)

    def states(self, flat: Sequence[Any]) -> tuple[Any, ...]:
        """One state per slot."""
        made, at = [], 0
        for kind in self.slots:
            leaves = flat[at : at + kind.leaves]
            made.append(leaves[0] if kind.state is None else kind.state(*leaves))
            at += kind.leaves
        return tuple(made)

    @property
    def leaves(self) -> int:
        """The total number of tensors in the states of all slots."""
        return sum(kind.leaves for kind in self.slots)


@lru_cache(maxsize=256)
def flat(wiring: Wiring, names: tuple[str, ...]) -> Flat:
    """names: the cell of each node. ValueError if the cells of a slot have states of different forms."""
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
    """The fields of every node's weights, node by node."""
    return [field for node in weights for field in node]


def states_like(states: Sequence[Any], flat: Sequence[Tensor]) -> tuple[Any, ...]:
    """The inverse of `flat_states`: one state per slot, of the same types as `states`."""
    made, at = [], 0
    for state in states:
        count = 1 if isinstance(state, Tensor) else len(state)
        made.append(flat[at] if isinstance(state, Tensor) else type(state)(*flat[at : at + count]))
        at += count
    return tuple(made)


def flat_states(states: Sequence[Any]) -> list[Tensor]:
    """The leaves of every slot's state, slot by slot."""
    return [leaf for state in states for leaf in ((state,) if isinstance(state, Tensor) else state)]
