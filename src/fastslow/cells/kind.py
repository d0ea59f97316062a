"""The description of a cell for engines: plain data and its reference step.

A step of a cell is a product followed by elementwise arithmetic. The product has `blocks` blocks of H elements, the
pre-activations z of a row; each block of rows of w_x and of w_h adds to one of them, as defined by the cell. The
arithmetic (biases, norms, gates, zoneout) is code of the cell: `step` here, and one file in each compiled engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """The description of a cell for engines.

    name: its name in programs, configurations and errors.
    weights: the named tuple of its parameters. It begins with w_x and w_h, (blocks of rows times H, .); then come
        vectors; and it has a property `hidden_size`.
    state: the named tuple of its state, or None for a state that is one tensor, h.
    step: the reference, `step(weights, x, state, *, forget_bias, zoneout_h, zoneout_c, update_h, update_c) -> state`.
    blocks: the number of blocks of H elements in z.
    rows_x, rows_h: for each block of rows of w_x, of w_h, the block of z that it adds to. The blocks that one matrix
        adds to are adjacent.
    vectors: for each vector by its field, the places of its blocks of H in the engines' layout of a node's vectors.
        Blocks of several fields with the same place are added.
    code: the number of its arithmetic in compiled code; kinds with the same arithmetic share it.
    forget_bias: whether the constant of `Rates.forget_bias` is added to its forget gate.
    """

    name: str
    weights: type[Any]
    state: type[Any] | None
    step: Callable[..., Any]
    blocks: int
    rows_x: tuple[int, ...]
    rows_h: tuple[int, ...]
    vectors: Mapping[str, tuple[int, ...]]
    code: int
    forget_bias: bool = False

    def __post_init__(self) -> None:
        for rows in (self.rows_x, self.rows_h):
            assert sorted(rows) == list(range(min(rows), max(rows) + 1)), "the blocks of a matrix are adjacent"
        assert min(self.rows_x) <= min(self.rows_h), "the blocks of w_x come first"
        assert set(self.rows_x) | set(self.rows_h) == set(range(self.blocks))
        assert self.weights._fields == ("w_x", "w_h", *self.vectors)

    @property
    def fields(self) -> int:
        """The number of parameters, including those that are None."""
        return len(self.weights._fields)

    @property
    def letters(self) -> tuple[str, ...]:
        """The names of the tensors of its state."""
        return ("h",) if self.state is None else self.state._fields

    @property
    def leaves(self) -> int:
        """The number of tensors in a state."""
        return len(self.letters)

    @property
    def joint(self) -> bool:
        """Whether both matrices add to the same blocks, so that one product of (x, h) computes all of them."""
        return set(self.rows_x) == set(self.rows_h)

    @property
    def vector_blocks(self) -> int:
        """The number of blocks of H in a node's vectors."""
        return 1 + max(place for places in self.vectors.values() for place in places)

    def pack(self, leaves: Sequence[Any]) -> Any:
        """The state with these tensors."""
        return leaves[0] if self.state is None else self.state(*leaves)

    def rows(self, field: str) -> tuple[int, ...]:
        """`rows_x` or `rows_h`, by the matrix's field."""
        return self.rows_x if field == "w_x" else self.rows_h

    def shape(self, field: str, inputs: int, hidden: int) -> tuple[int, ...]:
        """The shape of a parameter by its name, for an input of size `inputs`."""
        if field in ("w_x", "w_h"):
            return len(self.rows(field)) * hidden, inputs if field == "w_x" else hidden
        return (len(self.vectors[field]) * hidden,)
