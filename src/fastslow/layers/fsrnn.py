"""`FSRNN`: the fast-slow network of any cells."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fastslow.backends import ENGINES, Choice, choose, engine, loop_only
from fastslow.backends.base import Rates
from fastslow.cells.module import check_rate
from fastslow.layers import known_cells
from fastslow.layers.options import by_either_name
from fastslow.layers.sequences import check_input_size, check_reset, check_resets, check_tensor, to_steps
from fastslow.layers.states import refuse, refuse_lstm_form
from fastslow.layers.window import problem
from fastslow.noise import Noise, draw_key, dropout_keep
from fastslow.state import FSState, LSTMState, map_state, reset_rows, stopped_rows
from fastslow.wiring import fast_slow


class FSRNN(nn.Module):
    """Fast-Slow RNN of any cells (Mujika, Meier, Steger 2017, eqs. 1-5).

    Args:
        fast_cells: k >= 2 modules that share one state. Each is called `cell(x, hx) -> hx` like `torch.nn.GRUCell`
            and `torch.nn.LSTMCell`, with hx a tensor (B, H) or a pair (h, c).
        slow_cell: the module between the first and the second; it may be of another kind.
        batch_first: x and y are (B, T, .) instead of (T, B, .).
        dropout: probability of dropping a unit at the four sites x -> F1, F1 -> S, S -> F2 and the output.

    Fast cells past the second have no input: they are called with zeros of their own `input_size`, or with None if
    they have no such attribute. Sizes are checked if cells have them (`input_size`, `hidden_size`).

    `torch.nn.LSTMCell`, `GRUCell` and `RNNCell`, in any mixture, run on the engines of `FSLSTM`, as fast as its own
    cells; others, subclasses of those, and cells with hooks or parametrizations run in a loop, one call per step.
    `layer.backend_for(x)` says which.

    Shape: as `FSLSTM`; state `FSState(fast=hx, slow=hx)`, each as its cells return it. Where state is None, cells whose
    `hx` has a default start from that default; others from zeros (B, hidden_size).
    """

    def __init__(
        self,
        fast_cells: Iterable[nn.Module],
        slow_cell: nn.Module,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.fast = nn.ModuleList(fast_cells)
        self.slow = slow_cell
        self.wiring = fast_slow(len(self.fast))
        check_rate("dropout", dropout)
        self.batch_first, self.dropout = batch_first, float(dropout)
        self.first_row = 0
        """Number of the first row of this process's batch, as in `WiredLSTM`."""
        self._check_sizes()
        self.input_size, self.hidden_size = _size(self.fast[0], "input_size"), _size(self.fast[0], "hidden_size")

    def _check_sizes(self) -> None:
        first = _size(self.fast[0], "hidden_size")
        for i, cell in enumerate(self.fast):
            size = _size(cell, "hidden_size")
            if first is not None and size is not None and size != first:
                raise ValueError(
                    f"fast cells share one state, so one hidden_size: fast.0 ({_kind(self.fast[0])}) has {first}, "
                    f"fast.{i} ({_kind(cell)}) has {size}"
                )
        for reader, cell, source, made in (
            ("slow", self.slow, "fast.0", self.fast[0]),
            ("fast.1", self.fast[1], "slow", self.slow),
        ):
            expects, gives = _size(cell, "input_size"), _size(made, "hidden_size")
            if expects is not None and gives is not None and expects != gives:
                raise ValueError(
                    f"{reader} ({_kind(cell)}) expects an input of size {expects}, but reads {source} "
                    f"({_kind(made)}), whose output has size {gives}: make its input_size {gives}"
                )

    def forward(
        self,
        x: Tensor | PackedSequence | None = None,
        state: FSState | tuple[Any, Any] | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        resets: Tensor | None = None,
        input: Tensor | PackedSequence | None = None,
        hx: FSState | tuple[Any, Any] | None = None,
    ) -> tuple[Tensor | PackedSequence, FSState]:
        x, state = by_either_name("x", x, "input", input), by_either_name("state", state, "hx", hx, None)
        steps, ends, layout = to_steps(x, self.input_size, self.batch_first, lengths)
        reset_mask = check_resets(resets, x, steps, layout)
        if not layout.batched and state is not None:
            state = map_state(lambda leaf: leaf.unsqueeze(0), FSState(*state))
        y, new = self._window(steps, state, None if ends is None else ends.to(steps.device), reset_mask)
        return layout.restore(y, ends), new if layout.batched else map_state(lambda leaf: leaf.squeeze(0), new)

    def step(
        self, x_t: Tensor, state: FSState | None = None, *, reset: Tensor | bool | None = None
    ) -> tuple[Tensor, FSState]:
        """One step: x_t (B, X) or (X,), y (B, H) or (H,); reset (B,) bool or one: as in a layer's resets."""
        check_tensor("x_t", x_t)
        if x_t.dim() not in (1, 2):
            raise ValueError(f"x_t must be (B, X) or (X,); got {tuple(x_t.shape)}")
        check_input_size(x_t, self.input_size)
        reset_mask = None if reset is None else check_reset(reset, x_t).unsqueeze(0)
        if x_t.dim() == 2:
            y, new = self._window(x_t.unsqueeze(0), state, None, reset_mask)
            return y.squeeze(0), new
        single = None if state is None else map_state(lambda leaf: leaf.unsqueeze(0), FSState(*state))
        y, new = self._window(x_t.view(1, 1, -1), single, None, reset_mask)
        return y.view(-1), map_state(lambda leaf: leaf.squeeze(0), new)

    def backend_for(self, x: Tensor | PackedSequence) -> Choice:
        """The engine that would run `x`, and why no faster one can; "reference" is the loop over the cells."""
        steps, _, _ = to_steps(x, self.input_size, self.batch_first, None)
        return self._choice(steps, self._cells())

    def initial_state(self, batch_size: int | None = None) -> FSState:
        """The zero state: leaves (batch_size, H), or (H,) if None, of the weights' type and on their device.

        Raises ValueError where the form of a cell's state is not known: it is known of torch's and of this package's.
        """
        like = next(self.parameters())
        rows = () if batch_size is None else (batch_size,)

        def zeros(cell: nn.Module) -> Any:
            form, size = known_cells.state_form(cell), _size(cell, "hidden_size")
            if form is None or size is None:
                raise ValueError(f"the form of the state of {_kind(cell)} is not known: start from state=None")
            made = [like.new_zeros(*rows, size) for _ in form]
            return made[0] if form == ("h",) else LSTMState(*made)

        return FSState(zeros(self.fast[0]), zeros(self.slow))

    def flatten_parameters(self) -> None:
        """Does nothing: there is no flat copy of the weights to make. For code written for `torch.nn.LSTM`."""

    def _cells(self) -> list[nn.Module]:
        """The cell of each node of the wiring."""
        return [self.fast[0], self.slow, *self.fast[1:]]

    def _choice(self, x: Tensor, cells: Sequence[nn.Module]) -> Choice:
        reason = known_cells.refusal(cells, self.wiring)
        if reason is None and x.dtype != cells[0].weight_hh.dtype:
            reason = f"x is {x.dtype}, and the cells are {cells[0].weight_hh.dtype}"
        if reason is None and (torch.compiler.is_compiling() or loop_only()):
            reason = "torch.compile, torch.export and torch.func see the loop"
        if reason is not None:
            return Choice("reference", {name: reason for name in ENGINES if name != "reference"})
        weights = known_cells.weights(cells)
        asked = problem(self.wiring, weights, x, training=self.training, layer_norm=False, traced=False)
        return choose(asked)

    def _window(self, x: Tensor, state: Any, lengths: Tensor | None, resets: Tensor | None) -> tuple[Tensor, FSState]:
        cells = self._cells()
        name = self._choice(x, cells).name
        if state is not None:
            state = self._checked(state, x.shape[1])
        noise = Noise(draw_key(x.device), 0, self.first_row) if self.training and self.dropout > 0 else None
        if name != "reference":
            weights = known_cells.weights(cells)
            given = known_cells.states(weights, self.wiring, x, state)
            if given is not None:
                ends = None if lengths is None else lengths.cpu()
                y, new = engine(name).run(self.wiring, weights, x, given, noise, Rates(self.dropout), ends, resets)
                return y, FSState(*new)
        return self._loop(x, state, noise, lengths, resets)

    def _loop(
        self, x: Tensor, state: Any, noise: Noise | None, lengths: Tensor | None, resets: Tensor | None
    ) -> tuple[Tensor, FSState]:
        """Call the cells, step by step."""
        rows = x.shape[1]
        fast, slow = self._initial(x) if state is None else state
        factors: dict[int, Tensor] = {}

        def dropped(value: Tensor, site: int, t: int) -> Tensor:
            if noise is None:
                return value
            if site not in factors:  # the size of a site is known from its first value
                keep = dropout_keep(noise, x.shape[0], site, rows, value.shape[-1], self.dropout)
                factors[site] = keep.to(value.dtype) * (0.0 if self.dropout == 1 else 1 / (1 - self.dropout))
            return value * factors[site][t]

        site = self.wiring.input_site
        outputs = []
        for t in range(x.shape[0]):
            if resets is not None:
                reset_mask = resets[t] if lengths is None else resets[t] & (lengths > t)
                fast, slow = (None if part is None else reset_rows(part, reset_mask) for part in (fast, slow))
            old = FSState(fast, slow)
            fast = self._call(0, self.fast[0], dropped(x[t], site(0), t), fast)
            slow = self._call(-1, self.slow, dropped(_output(fast), site(1), t), slow)
            fast = self._call(1, self.fast[1], dropped(_output(slow), site(2), t), fast)
            for i, cell in enumerate(self.fast[2:], start=2):
                fast = self._call(i, cell, _nothing(cell, _output(fast)), fast)
            y = dropped(_output(fast), self.wiring.output_site, t)
            if lengths is not None:
                running = lengths > t
                fast, slow = (_stopped(was, now, running) for was, now in ((old.fast, fast), (old.slow, slow)))
                y = y.masked_fill(~running.unsqueeze(-1), 0)
            outputs.append(y)
        return torch.stack(outputs), FSState(fast, slow)

    def _initial(self, x: Tensor) -> tuple[Any, Any]:
        return tuple(_initial_state(cell, x) for cell in (self.fast[0], self.slow))

    def _checked(self, state: Any, rows: int) -> tuple[Any, Any]:
        form = "FSState(fast=..., slow=...)"
        if not isinstance(state, tuple | list) or len(state) != 2:
            refuse("FSRNN", form, state)
        refuse_lstm_form("FSRNN", form, state)
        for name, part, cell in zip(("fast", "slow"), state, (self.fast[0], self.slow), strict=True):
            size = _size(cell, "hidden_size")
            leaves = [part] if isinstance(part, Tensor) else part
            if not isinstance(leaves, tuple | list) or not all(isinstance(leaf, Tensor) for leaf in leaves):
                raise TypeError(f"state {name} must be a tensor h or a pair (h, c); got {type(part).__name__}")
            for leaf in leaves:
                if leaf.dim() != 2 or leaf.shape[0] != rows or size not in (None, leaf.shape[-1]):
                    wanted = f"({rows}, {'H' if size is None else size})"
                    raise RuntimeError(f"state {name} must be {wanted}; got {tuple(leaf.shape)}")
        fast, slow = state
        return fast, slow

    def _call(self, index: int, cell: nn.Module, x: Tensor | None, hx: Any) -> Any:
        new = cell(x, tuple(hx) if isinstance(hx, LSTMState) else hx)  # a plain tuple, which can be indexed
        if isinstance(new, tuple | list) and len(new) == 2 and all(isinstance(part, Tensor) for part in new):
            return LSTMState(*new)
        if isinstance(new, Tensor):
            return new
        name = "slow" if index < 0 else f"fast.{index}"
        raise TypeError(
            f"{name} ({_kind(cell)}) must return its new state, a tensor or a pair (h, c); got {type(new).__name__}"
        )

    def extra_repr(self) -> str:
        parts = [f"num_fast={len(self.fast)}"] + ["batch_first=True"] * self.batch_first
        return ", ".join(parts + [f"dropout={self.dropout}"] * (self.dropout > 0))


def _kind(cell: nn.Module) -> str:
    return type(cell).__name__


def _size(cell: nn.Module, name: str) -> int | None:
    size = getattr(cell, name, None)
    return size if isinstance(size, int) else None


def _output(hx: Any) -> Tensor:
    """The output of a cell is its state, or the h of a pair."""
    return hx if isinstance(hx, Tensor) else next(iter(hx))


def _nothing(cell: nn.Module, like: Tensor) -> Tensor | None:
    """The input of a cell that reads nothing: zeros of its input size, or None if it has none."""
    size = _size(cell, "input_size")
    return None if size is None else like.new_zeros(like.shape[0], size)


def _stopped(old: Any, new: Any, running: Tensor) -> Any:
    """`new` in running rows; a row that ended before its first step has zeros, because there is no state yet."""
    return stopped_rows(map_state(torch.zeros_like, new) if old is None else old, new, running)


def _initial_state(cell: nn.Module, x: Tensor) -> Any:
    """None for a cell with a default state, else zeros (B, hidden_size)."""
    parameters = list(inspect.signature(cell.forward).parameters.values())
    own_start = len(parameters) > 1 and parameters[1].default is not inspect.Parameter.empty
    if own_start:
        return None
    size = _size(cell, "hidden_size")
    if size is None:
        raise ValueError(f"{_kind(cell)} has neither a default state nor a hidden_size: pass an initial state")
    return x.new_zeros(x.shape[1], size)
