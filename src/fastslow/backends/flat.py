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

from fastslow.cells.lstm import CellWeights
from fastslow.state import LSTMState
from fastslow.wiring import Wiring


@dataclass(frozen=True)
class Kind:
    """A cell as far as lists of tensors go.

    weights: the named tuple of its parameters, with a property `hidden_size`; state: that of its state, or None for a
        state that is one tensor, h.
    gates: how many blocks of H its product has.
    """

    name: str
    weights: type[Any]
    state: type[Any] | None
    gates: int

    @property
    def fields(self) -> int:
        """How many parameters, those that are None among them."""
        return len(self.weights._fields)

    @property
    def leaves(self) -> int:
        """How many tensors a state has."""
        return 1 if self.state is None else len(self.state._fields)

    def shape(self, field: str, inputs: int, hidden: int) -> tuple[int, ...]:
        """Of a parameter by its name: a matrix w_x or w_h, a vector cell_... (H), or another vector (gates H)."""
        if field in ("w_x", "w_h"):
            return self.gates * hidden, inputs if field == "w_x" else hidden
        return (hidden if field.startswith("cell_") else self.gates * hidden,)


KINDS: dict[str, Kind] = {kind.name: kind for kind in (Kind("lstm", CellWeights, LSTMState, 4),)}
"""Every cell that engines know, by the name it has in a program."""


def kind_of(weights: Any) -> str:
    """The name of the cell whose weights these are."""
    for kind in KINDS.values():
        if type(weights) is kind.weights:
            return kind.name
    raise TypeError(f"no engine knows a cell whose weights are {type(weights).__name__}")


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
def flat(wiring: Wiring, kinds: tuple[str, ...]) -> Flat:
    """kinds: the name of each node's cell. ValueError if the cells of a slot differ in the form of their state."""
    nodes = tuple(KINDS[name] for name in kinds)
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
