"""The three wirings with a name - fast-slow, stacked, sequential - whatever the kind of their cells.

A form has the sizes that a user gives and the structure of its state. `FSLSTM` and `FSGRU` are the same form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from fastslow.backends.base import States
from fastslow.cells.kind import Kind
from fastslow.layers.options import GRUOptions, LSTMOptions, supported
from fastslow.layers.states import refuse
from fastslow.layers.wired import WiredRNN
from fastslow.state import FSState
from fastslow.wiring import Wiring, fast_slow, sequential, stacked


class Form(WiredRNN):
    """A wiring of cells of one kind."""

    kind: ClassVar[Kind]
    """Of every cell."""

    def __init__(
        self, wiring: Wiring, input_size: int, hidden_sizes: Mapping[str, int] | int, options: Mapping[str, Any]
    ) -> None:
        known = GRUOptions if self.kind.state is None else LSTMOptions
        given = supported(type(self).__name__, options, known.__annotations__)
        super().__init__(wiring, input_size, hidden_sizes, cell=self.kind.name, **given)

    def _one_state(self) -> str:
        """What the state of a slot looks like."""
        return "h" if self.kind.state is None else "LSTMState(h, c)"


class FastSlow(Form):
    """`num_fast` fast cells that share a state, and a slow cell between the first and the second."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        slow_size: int | None,
        num_fast: int,
        options: Mapping[str, Any],
    ) -> None:
        slow_size = hidden_size if slow_size is None else slow_size
        super().__init__(fast_slow(num_fast), input_size, {"fast": hidden_size, "slow": slow_size}, options)
        self.hidden_size, self.slow_size, self.num_fast = hidden_size, slow_size, num_fast

    def _public(self, state: States) -> FSState:
        return FSState(*state)

    def _form(self) -> str:
        return f"FSState(fast={self._one_state()}, slow={self._one_state()})"

    def _sizes_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, slow_size={self.slow_size}, num_fast={self.num_fast}"


class Stacked(Form):
    """`num_layers` cells with a state each; each reads the output of the one below at the same step."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, options: Mapping[str, Any]) -> None:
        super().__init__(stacked(num_layers), input_size, hidden_size, options)
        self.hidden_size, self.num_layers = hidden_size, num_layers

    def _sizes_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"


class Sequential(Form):
    """`num_cells` cells in sequence share one state; only the first reads x."""

    def __init__(self, input_size: int, hidden_size: int, num_cells: int, options: Mapping[str, Any]) -> None:
        super().__init__(sequential(num_cells), input_size, hidden_size, options)
        self.hidden_size, self.num_cells = hidden_size, num_cells

    def _public(self, state: States) -> Any:
        return state[0]

    def _slots(self, state: Any) -> Sequence[Any]:
        if self.kind.state is None:
            fits = isinstance(state, Tensor)
        else:
            fits = isinstance(state, tuple | list) and len(state) == self.kind.leaves
        if not fits:
            refuse(type(self).__name__, self._form(), state)
        return (state,)

    def _form(self) -> str:
        return "a tensor h" if self.kind.state is None else self._one_state()

    def _sizes_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_cells={self.num_cells}"
