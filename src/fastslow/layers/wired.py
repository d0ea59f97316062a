"""`WiredRNN`: the layer that runs any wiring of the cells that engines know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from fastslow.backends import Choice, check_name, choose, engine, loop_only, operators, recorded_choice
from fastslow.backends.base import Problem, Rates, States
from fastslow.backends.native.steps import Quantized
from fastslow.backends.program import cells_text, program_text
from fastslow.backends.streaming import MOST_ROWS, Walk, layer_step, model_step
from fastslow.cells.gru import LayerNormGRUCell
from fastslow.cells.kind import Kind
from fastslow.cells.lstm import LayerNormLSTMCell
from fastslow.cells.module import CellModule, check_rate, check_size
from fastslow.cells.simple import SimpleCell
from fastslow.layers.pretrained import Pretrained
from fastslow.layers.reading import holders, hooks_of, within
from fastslow.layers.sequences import check_input_size, check_reset, check_resets, to_steps
from fastslow.noise import Noise, draw_key
from fastslow.state import map_state, reset_rows
from fastslow.wiring import FROM_INPUT, NO_INPUT, Wiring

CELLS = ("lstm", "gru", "tanh", "relu")
"""Kinds of cells that a layer makes."""

_UNSUPPORTED = {
    "bidirectional": "it carries its state from window to window, which a reversed direction cannot",
    "proj_size": "its output is the state h itself; put a Linear after the layer instead",
    "num_layers": "its depth is in its wiring; use num_fast or num_cells where it has one, or StackedLSTM",
}


_RATES = ("dropout", "zoneout_h", "zoneout_c", "forget_bias")


class WiredRNN(Pretrained):
    """Any wiring of recurrent cells, as a layer used like `torch.nn.LSTM`.

    Args:
        wiring: which cell runs when, on which state, reading what (`fastslow.wiring`).
        input_size: X.
        hidden_sizes: the size of each state slot by name, or one int for all.
        cell: the kind of every cell, or of each by its path: "lstm" (`LayerNormLSTMCell`), "gru" (`LayerNormGRUCell`),
            or "tanh" and "relu" (`SimpleCell`). The cells of one slot have states of one form.
        bias: whether the gates have a bias.
        batch_first: x and y are (B, T, .) instead of (T, B, .). States are (B, .) either way.
        dropout: probability of dropping a unit of a node's input or of the layer's output: one fresh mask a step on
            every edge from x or from another node, and one on y. The state is never dropped.
        zoneout_h, zoneout_c: probability that a unit of h, of c, keeps its old value for a step; only an LSTM has c.
        layer_norm: normalisation of gates, and of an LSTM's cell; a simple cell has none.
        forget_bias: constant added to an LSTM's forget gate after its norm.
        backend: "auto", or the name of an engine, which then runs or raises with the reason.

    Shape: `y, state = layer(x, state=None, *, lengths=None, resets=None)`
        x: (T, B, X), (B, T, X) with `batch_first`, (T, X) unbatched, or a PackedSequence; y likewise with the output
        node's size. state: a tuple of states, one a slot: `LSTMState(h, c)`, or h of cells without c; leaves (B, H),
        or (H,) unbatched; zeros if None.
        lengths: (B,) ints: row b stops after lengths[b] steps; its outputs past that are zero and its final state is
        its last.
        resets: bool, laid out as x, (T, B), (B, T) or (T,): where true the row's whole state is zeros before that step,
        and no gradient flows across.

    `layer.step(x_t, state=None, *, reset=None)` runs one step: x_t (B, X) or (X,), y (B, H) or (H,).
    `layer.initial_state(batch_size)` gives the state of zeros that None stands for.

    For code written for `torch.nn.LSTM`: `input` and `hx` are other names of x and state, `flatten_parameters` does
    nothing, and `num_layers`, `bidirectional` and `proj_size` are there. A state (h, c) of (layers, B, H) is refused.

    Hooks of a cell and whatever else acts in a cell's call (pruning, weight and spectral norm, FSDP, offloading) take
    effect: see `fastslow.layers.reading`. The engines are operators (`torch.ops.fastslow`), so that torch.compile,
    torch.export, FLOP counters and profilers see them; `fastslow.backends.operators` says what they do.
    """

    # As code written for torch.nn.LSTM reads them.
    bidirectional = False
    proj_size = 0
    num_layers = 1

    def __init__(
        self,
        wiring: Wiring,
        input_size: int,
        hidden_sizes: Mapping[str, int] | int,
        *,
        cell: str | Mapping[str, str] = "lstm",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        zoneout_h: float = 0.0,
        zoneout_c: float = 0.0,
        layer_norm: bool = True,
        forget_bias: float = 1.0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_size("input_size", input_size)
        sizes = dict.fromkeys(wiring.slots, hidden_sizes) if isinstance(hidden_sizes, int) else dict(hidden_sizes)
        if set(sizes) != set(wiring.slots):
            raise ValueError(f"hidden_sizes must give the size of {list(wiring.slots)}; got {list(sizes)}")
        for slot, size in sizes.items():
            check_size(f"hidden_sizes[{slot!r}]", size)
        for name, rate in (("dropout", dropout), ("zoneout_h", zoneout_h), ("zoneout_c", zoneout_c)):
            check_rate(name, rate)
        check_name(backend)
        self.wiring, self.input_size, self.batch_first = wiring, input_size, batch_first
        self.hidden_sizes = {slot: sizes[slot] for slot in wiring.slots}
        self.cell_kinds: str | dict[str, str] = cell if isinstance(cell, str) else dict(cell)
        self.hidden_size = self.output_size
        self.dropout, self.zoneout_h, self.zoneout_c = float(dropout), float(zoneout_h), float(zoneout_c)
        self.bias, self.layer_norm, self.forget_bias = bias, layer_norm, float(forget_bias)
        self.backend = backend
        self.first_row = 0
        """Number of this process's first row: a rank of a distributed job draws the masks of its own rows."""
        self.noise_key: Tensor | None = None
        """The key of the masks, () int64, for windows that are parts of one; None: a fresh one each window."""
        self.steps_in_int8 = False
        """Whether `step`, without gradients, reads 8-bit copies of the matrices: see `round_to_int8_`."""
        for path, (x_size, size) in self._cell_sizes().items():
            _attach(self, path, self._new_cell(self._kind_at(cell, path), x_size, size, device, dtype))
        self._check_slots()

    # ------------------------------------------------------------------ sizes and parameters

    def _kind_at(self, cell: str | Mapping[str, str], path: str) -> str:
        """The kind of the cell at this path."""
        if not isinstance(cell, str) and path not in cell:
            raise ValueError(f"cell must give the kind of {path!r}, or be one name for all; got {dict(cell)}")
        kind = cell if isinstance(cell, str) else cell[path]
        if kind not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(map(repr, CELLS))}; got {kind!r} for {path!r}")
        if kind != "lstm" and cell == kind and self.zoneout_c > 0:
            raise ValueError(f"cell {kind!r} has no c, so zoneout_c must be 0; got {self.zoneout_c}: use zoneout_h")
        return kind

    def _new_cell(
        self, kind: str, x_size: int | None, size: int, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> CellModule:
        made: dict[str, Any] = {"bias": self.bias, "zoneout_h": self.zoneout_h, "device": device, "dtype": dtype}
        if kind == "lstm":
            norm, forget = self.layer_norm, self.forget_bias
            return LayerNormLSTMCell(
                x_size, size, zoneout_c=self.zoneout_c, layer_norm=norm, forget_bias=forget, **made
            )
        if kind == "gru":
            return LayerNormGRUCell(x_size, size, layer_norm=self.layer_norm, **made)
        return SimpleCell(x_size, size, nonlinearity=kind, **made)  # type: ignore[arg-type]

    def _check_slots(self) -> None:
        """ValueError where the cells of a slot have states of different forms."""
        for slot, name in enumerate(self.wiring.slots):
            its = [cell.kind for cell, at in zip(self.node_cells(), self.wiring.slot_of, strict=True) if at == slot]
            forms = {kind.letters: kind.name for kind in its}
            if len(forms) > 1:
                raise ValueError(
                    f"the cells of slot {name!r} share its state, and {' and '.join(map(repr, forms.values()))} have "
                    "states of different forms"
                )

    def _slot_kinds(self) -> list[Kind]:
        """A cell's kind of each slot."""
        cells = self.node_cells()
        return [cells[self.wiring.slot_of.index(slot)].kind for slot in range(len(self.wiring.slots))]

    def _cell_sizes(self) -> dict[str, tuple[int | None, int]]:
        """Input and hidden size of every cell by its path; ValueError where nodes that share a cell disagree."""
        made: dict[str, tuple[int | None, int]] = {}
        for node, source in zip(self.wiring.nodes, self.wiring.sources, strict=True):
            x_size: int | None
            if source == NO_INPUT:
                x_size = None
            elif source == FROM_INPUT:
                x_size = self.input_size
            else:
                x_size = self.hidden_sizes[self.wiring.nodes[source].slot]
            needs = (x_size, self.hidden_sizes[node.slot])
            if made.setdefault(node.cell_name, needs) != needs:
                raise ValueError(
                    f"node {node.name!r} shares cell {node.cell_name!r}, which has input and hidden sizes "
                    f"{made[node.cell_name]}, but needs {needs}"
                )
        return made

    @property
    def output_size(self) -> int:
        """The size of y's last dimension."""
        return self.hidden_sizes[self.wiring.nodes[self.wiring.output_index].slot]

    def node_cells(self) -> list[CellModule]:
        """The cell of each node, in the order they run."""
        return [cast(CellModule, self.get_submodule(node.cell_name)) for node in self.wiring.nodes]

    def weights(self) -> tuple[Any, ...]:
        """The parameters as engines take them, one entry a node."""
        return tuple(cell.weights() for cell in self.node_cells())

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _RATES:
            self._write_rates()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._write_rates()

    def _write_rates(self) -> None:
        # torch.compile may take floats for unknowns; text it takes for what it is.
        self.__dict__["_rates_text"] = " ".join(str(self.__dict__.get(name, 0.0)) for name in _RATES)

    _rates_text: str

    @property
    def rates(self) -> Rates:
        return Rates(self.dropout, self.zoneout_h, self.zoneout_c, self.forget_bias)

    def reset_parameters(self) -> None:
        """Each cell's own initial values: see its `reset_parameters`."""
        for module in self.modules():
            if isinstance(module, CellModule):
                module.reset_parameters()

    @torch.no_grad()
    def round_to_int8_(self) -> None:
        """Round every weight matrix to 8 bits, one scale a row, in place; `step` then reads a quarter of the memory.

        Every engine computes with the rounded matrices, so an evaluation shows what the rounding costs. Steps read
        copies, which are made at the first one: round again after changing a matrix.
        """
        for cell in dict.fromkeys(self.node_cells()):
            if parametrize.is_parametrized(cell):
                raise RuntimeError(
                    f"{type(self).__name__} has parametrized weights, which are computed anew at each use: call "
                    "torch.nn.utils.parametrize.remove_parametrizations before rounding them"
                )
        for cell in dict.fromkeys(self.node_cells()):
            for weight in (cell.weight_ih, cell.weight_hh):
                if weight is not None:
                    # A new parameter, so that copies of the old one are not read again.
                    rounded = Quantized(weight).dequantized().to(weight)
                    name = "weight_ih" if weight is cell.weight_ih else "weight_hh"
                    setattr(cell, name, nn.Parameter(rounded, requires_grad=weight.requires_grad))
        self.steps_in_int8 = True

    # ------------------------------------------------------------------ running

    def forward(
        self,
        x: Tensor | PackedSequence | None = None,
        state: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        resets: Tensor | None = None,
        input: Tensor | PackedSequence | None = None,
        hx: Any = None,
    ) -> tuple[Tensor | PackedSequence, Any]:
        x, state = _by_either_name("x", x, "input", input), _by_either_name("state", state, "hx", hx, None)
        steps, ends, layout = to_steps(x, self.input_size, self.batch_first, lengths)
        anew = check_resets(resets, x, steps, layout)
        y, new = self._window(steps, state, layout.batched, ends, anew)
        public = self._public(new if layout.batched else map_state(lambda leaf: leaf.squeeze(0), new))
        return layout.restore(y, ends), public

    def step(self, x_t: Tensor, state: Any = None, *, reset: Tensor | bool | None = None) -> tuple[Tensor, Any]:
        """One step: x_t (B, X), y (B, H), state leaves (B, .), reset (B,) bool; or all of them without B.

        reset: the rows whose state is zeros before the step.
        """
        if x_t.dim() not in (1, 2):
            raise ValueError(f"x_t must be (B, {self.input_size}) or ({self.input_size},); got {tuple(x_t.shape)}")
        check_input_size(x_t, self.input_size)
        if reset is not None:
            rows = check_reset(reset, x_t)
            if state is not None:
                state = reset_rows(state, rows if x_t.dim() == 2 else rows.squeeze(0))
        if not torch.is_grad_enabled() and self._streams():
            streamed = layer_step(self, x_t, None if state is None else self._slots(state))
            if streamed is not None:
                return streamed[0], self._public(streamed[1])
        batched = x_t.dim() == 2
        steps = x_t.unsqueeze(0) if batched else x_t.view(1, 1, -1)
        y, new = self._window(steps, state, batched, None)
        if batched:
            return y.squeeze(0), self._public(new)
        return y.view(-1), self._public(map_state(lambda leaf: leaf.squeeze(0), new))

    def logits_step(
        self, embedding: nn.Embedding, head: nn.Linear, tokens: Tensor, state: Any = None
    ) -> tuple[Tensor, Any] | None:
        """`head(step(embedding(tokens)))` in one call of compiled code: tokens (B,) or (), logits (B, V) or (V,).

        None where that cannot be: with gradients, masks, another device or backend, or modules that do something else.
        """
        if torch.is_grad_enabled() or not self._streams():
            return None
        streamed = model_step(self, (embedding, head), tokens, None if state is None else self._slots(state))
        return None if streamed is None else (streamed[0], self._public(streamed[1]))

    def logits_walk(self, embedding: nn.Embedding, head: nn.Linear, state: Any) -> Walk | None:
        """`logits_step` again and again for one stream, from a state with leaves (H,), in buffers made once.

        None where it cannot be. What holds now must hold at each step: no gradients, evaluation mode.
        """
        if torch.is_grad_enabled() or not self._streams():
            return None
        slots = self._slots(state)
        leaves = [part for pair in slots for part in pair]
        fits = type(head) is nn.Linear and all(
            type(part) is Tensor and part.device.type == "cpu" and part.dim() == 1 and part.dtype == head.weight.dtype
            for part in leaves
        )
        fits = fits and head.weight.dtype in (torch.float32, torch.float64)
        return Walk(self, (embedding, head), slots, self._public) if fits else None

    def _streams(self) -> bool:
        """Whether a step may take the streaming path: no masks, no other backend asked for, nobody tracing."""
        random = self.training and (self.dropout > 0 or self.zoneout_h > 0 or self.zoneout_c > 0)
        return not random and self.backend in ("auto", "native") and not torch.compiler.is_compiling()

    def parameter_places(self) -> list[tuple[dict[str, Any], str]]:
        """(dict, key) of every parameter of the cells, of every module on the way, and of a `forward` put in a cell."""
        places: list[tuple[dict[str, Any], str]] = []
        for path in dict.fromkeys(node.cell_name for node in self.wiring.nodes):
            module: nn.Module = self
            for name in path.split("."):
                places.append((module._modules, name))
                module = module.get_submodule(name)
            for child in (module, *module.children()):
                places += [(child._parameters, name) for name in child._parameters]
            places += [(module._modules, name) for name in module._modules]
            places += [(holder.__dict__, "forward") for holder in holders(module)]
        return places

    def listeners(self) -> list[dict[int, Any]]:
        """The hooks of the cells, which must see a call where there are any."""
        modules = [holder for cell in dict.fromkeys(self.node_cells()) for holder in holders(cell)]
        return [hooks for module in modules for hooks in hooks_of(module)]

    def backend_for(self, x: Tensor | PackedSequence) -> Choice:
        """The engine that would run `x` now, and why no faster one would."""
        steps, _, _ = to_steps(x, self.input_size, self.batch_first, None)
        return choose(self._problem(steps), self.backend)

    def _window(
        self, x: Tensor, state: Any, batched: bool, lengths: Tensor | None, resets: Tensor | None = None
    ) -> tuple[Tensor, States]:
        """x (T, B, X), the caller's state or None -> y (T, B, H), one state a slot with rows."""
        run = within(self.node_cells(), lambda: self._run(x, state, batched, lengths, resets))
        return cast("tuple[Tensor, States]", run)

    def _run(
        self, x: Tensor, given: Any, batched: bool, lengths: Tensor | None, resets: Tensor | None
    ) -> tuple[Tensor, States]:
        weights = self.weights()
        dtype = weights[0].w_h.dtype
        state = self._states(given, x, batched, dtype)
        device = x.device.type
        autocast = device != "meta" and torch.is_autocast_enabled(device)
        if x.dtype != dtype:
            if not autocast:
                raise ValueError(f"RNN input dtype ({x.dtype}) does not match weight dtype ({dtype})")
            x = x.to(dtype)
        self._check_weights(weights, x)
        rates, noise = self.rates, None
        if self.training and rates.random:
            key = draw_key(x.device) if self.noise_key is None else self.noise_key
            noise = Noise(key, 0, self.first_row)
        if torch.compiler.is_compiling():
            return self._recorded(weights, x, state, noise, lengths, resets, autocast)
        name = choose(self._problem(x, weights), self.backend).name
        one = name == "native" and x.shape[0] == 1 and x.shape[1] <= MOST_ROWS and resets is None
        if one and noise is None and lengths is None and not torch.is_grad_enabled():
            program = program_text(self.wiring.text, cells_text(weights), rates, engine(name).options(device))
            y, new = operators.step(program, weights, x[0], state)
            return y.unsqueeze(0), new
        return engine(name).run(self.wiring, weights, x, state, noise, rates, lengths, resets)

    def _recorded(
        self,
        weights: Sequence[Any],
        x: Tensor,
        state: States,
        noise: Noise | None,
        lengths: Tensor | None,
        resets: Tensor | None,
        autocast: bool,
    ) -> tuple[Tensor, States]:
        """The window in a graph that is being recorded, in words that torch.compile can follow."""
        flags = (torch.is_grad_enabled(), self.training, self.layer_norm)
        asked = [
            self.backend,
            str(x.device),
            str(x.dtype),
            self.wiring.text,
            cells_text(weights),
            " ".join([str(w.hidden_size) for w in weights]),
            self._rates_text,
            "".join(["1" if flag else "0" for flag in flags]),
            str(torch.get_autocast_dtype(x.device.type) if autocast else None),
            str(loop_only()),
        ]
        choice = recorded_choice("\n".join(asked))
        name, program = choice.split("\n", 1)
        if not name:
            raise RuntimeError(program)
        if name == "reference":
            return engine(name).run(self.wiring, weights, x, state, noise, self.rates, lengths, resets)
        return operators.call(name, program, weights, x, state, noise, lengths, resets)

    def _check_weights(self, weights: Sequence[Any], x: Tensor) -> None:
        """Compiled engines read addresses: every weight must be where x is, and of one type."""
        for node, cell in zip(self.wiring.nodes, weights, strict=True):
            for weight in cell:
                if weight is not None and (weight.device != x.device or weight.dtype != x.dtype):
                    raise RuntimeError(
                        f"x is {x.dtype} on {x.device} and cell {node.cell_name!r} has a weight that is {weight.dtype} "
                        f"on {weight.device}: move the layer to the device of x, and give all of it one type"
                    )

    def _problem(self, x: Tensor, weights: Sequence[Any] | None = None) -> Problem:
        weights = self.weights() if weights is None else weights
        device = x.device
        autocast = device.type != "meta" and torch.is_autocast_enabled(device.type)
        return Problem(
            device=device,
            dtype=weights[0].w_h.dtype,
            steps=x.shape[0],
            rows=x.shape[1],
            wiring=self.wiring,
            hidden_sizes=tuple(w.hidden_size for w in weights),
            needs_grad=torch.is_grad_enabled(),
            training=self.training,
            layer_norm=self.layer_norm,
            autocast=torch.get_autocast_dtype(device.type) if autocast else None,
            traced=loop_only(),
            kinds=tuple(cell.kind.name for cell in self.node_cells()),
        )

    # ------------------------------------------------------------------ states

    def initial_state(self, batch_size: int | None = None) -> Any:
        """The state of zeros that None stands for: leaves (batch_size, H), or (H,) if None, beside the weights."""
        like = next(self.parameters())
        rows = () if batch_size is None else (batch_size,)
        slots = []
        for kind, slot in zip(self._slot_kinds(), self.wiring.slots, strict=True):
            shape = (*rows, self.hidden_sizes[slot])
            slots.append(kind.pack([torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in kind.letters]))
        return self._public(tuple(slots))

    def flatten_parameters(self) -> None:
        """Does nothing: there is no flat copy of the weights to make. For code written for `torch.nn.LSTM`."""

    def _public(self, state: States) -> Any:
        """One state a slot -> the structure this layer's users see."""
        return state

    def _slots(self, state: Any) -> Sequence[Any]:
        """The structure this layer's users see -> one state a slot, not yet checked."""
        if not isinstance(state, tuple | list) or len(state) != len(self.wiring.slots):
            self._bad_state(self._form(), state)
        return state

    def _refuse_lstm_form(self, state: Any) -> None:
        """TypeError for `(h, c)` of (layers, B, H), as `torch.nn.LSTM` has its state."""
        if not isinstance(state, tuple | list) or len(state) != 2 or hasattr(state, "_fields"):
            return
        if all(isinstance(part, Tensor) and part.dim() == 3 for part in state):
            raise TypeError(
                f"the state of a {type(self).__name__} is {self._form()}, leaves (B, H); got nn.LSTM's (h, c) of "
                f"{tuple(state[0].shape)}: start from None or layer.initial_state(batch_size)"
            )

    def _form(self) -> str:
        """What the state looks like."""
        one = "LSTMState(h, c)" if all(kind.state for kind in self._slot_kinds()) else "states"
        return f"a tuple of {len(self.wiring.slots)} {one}, one a slot"

    def _bad_state(self, expected: str, got: Any) -> NoReturn:
        kind = type(got).__name__ + (f" of {len(got)}" if isinstance(got, tuple | list) else "")
        raise TypeError(f"the state of a {type(self).__name__} is {expected}; got {kind}")

    def _states(self, state: Any, x: Tensor, batched: bool, dtype: torch.dtype) -> States:
        """The initial state as engines take it, checked; zeros if None."""
        rows = x.shape[1]
        sizes = [self.hidden_sizes[slot] for slot in self.wiring.slots]
        kinds = self._slot_kinds()
        if state is None:
            return tuple(
                kind.pack([torch.zeros(rows, size, dtype=dtype, device=x.device) for _ in kind.letters])
                for kind, size in zip(kinds, sizes, strict=True)
            )
        self._refuse_lstm_form(state)
        slots = self._slots(state)
        checked = []
        for name, size, kind, given in zip(self.wiring.slots, sizes, kinds, slots, strict=True):
            leaves = [given] if kind.state is None else given
            if not isinstance(leaves, tuple | list) or len(leaves) != kind.leaves:
                self._bad_state(f"LSTMState(h, c) for slot {name!r}", given)
            for letter, leaf in zip(kind.letters, leaves, strict=True):
                shape = (rows, size) if batched else (size,)
                if not isinstance(leaf, Tensor) or leaf.shape != shape:
                    got = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
                    raise RuntimeError(f"state {name}.{letter} must be {shape}, for {rows} rows; got {got}")
                if leaf.dtype != dtype or leaf.device != x.device:
                    raise ValueError(
                        f"state {name}.{letter} must be {dtype} on {x.device}, as weights and input are; "
                        f"got {leaf.dtype} on {leaf.device}"
                    )
            checked.append(kind.pack([leaf if batched else leaf.unsqueeze(0) for leaf in leaves]))
        return tuple(checked)

    # ------------------------------------------------------------------ description

    def _sizes_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_sizes}"

    def extra_repr(self) -> str:
        parts = [self._sizes_repr()]
        parts += ["bias=False"] * (not self.bias) + ["batch_first=True"] * self.batch_first
        parts += [
            f"{name}={getattr(self, name)}" for name in ("dropout", "zoneout_h", "zoneout_c") if getattr(self, name)
        ]
        parts += ["layer_norm=False"] * (not self.layer_norm)
        parts += [f"forget_bias={self.forget_bias}"] * (self.forget_bias != 1.0)
        parts += [f"backend={self.backend!r}"] * (self.backend != "auto")
        return ", ".join(parts)


WiredLSTM = WiredRNN
"""The name of `WiredRNN` when it had one cell."""


def _attach(root: nn.Module, path: str, cell: nn.Module) -> None:
    """Put `cell` at a dotted path, with a ModuleList where the names below are 0, 1, 2, ..."""
    *parents, leaf = path.split(".")
    here = root
    for depth, name in enumerate(parents):
        if name not in here._modules:
            following = (*parents[depth + 1 :], leaf)[0]
            here.add_module(name, nn.ModuleList() if following == "0" else nn.Module())
        here = here.get_submodule(name)
    if leaf in here._modules or hasattr(here, leaf):
        raise ValueError(f"cell {path!r} cannot be named so: the layer already has an attribute of that name")
    here.add_module(leaf, cell)


def _by_either_name(name: str, value: Any, other: str, given: Any, *default: Any) -> Any:
    """An argument under our name or `torch.nn.LSTM`'s."""
    if value is not None and given is not None:
        raise TypeError(f"{name} and {other} are two names of one argument: pass one of them")
    if value is None and given is None and not default:
        raise TypeError(f"forward() missing 1 required argument: {name!r}")
    return value if given is None else given


def reject_unsupported(layer: str, options: Mapping[str, Any]) -> None:
    """TypeError for options of `torch.nn.LSTM` these layers do not have, in a sentence; their defaults pass."""
    for name, value in options.items():
        reason = _UNSUPPORTED.get(name)
        if reason is None:
            raise TypeError(f"{layer}.__init__() got an unexpected keyword argument {name!r}")
        if value not in (False, 0) and not (name == "num_layers" and value == 1):
            raise TypeError(f"{layer} does not support {name}={value!r}: {reason}")
