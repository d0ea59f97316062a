"""`WiredRNN`: the layer for any wiring of built-in cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fastslow.backends import Choice, choose
from fastslow.backends.base import Problem, States
from fastslow.backends.streaming import Walk, layer_step, model_step
from fastslow.layers import window
from fastslow.layers.options import by_either_name
from fastslow.layers.reading import within
from fastslow.layers.sequences import check_input_size, check_reset, check_resets, check_tensor, to_steps
from fastslow.layers.states import checked, refuse, refuse_lstm_form, zeros
from fastslow.layers.wired_cells import WiredCells
from fastslow.state import map_state, reset_rows


class WiredRNN(WiredCells):
    """Any wiring of recurrent cells, as a layer used like `torch.nn.LSTM`.

    Args:
        wiring: the order of cells, their states and their inputs (`fastslow.wiring`).
        input_size: X.
        hidden_sizes: the size of each state slot by name, or one int for all.
        cell: the kind of every cell, or of each cell by its path: "lstm" (`LayerNormLSTMCell`), "gru"
            (`LayerNormGRUCell`), or "tanh" and "relu" (`SimpleCell`). The cells of one slot have the same form of
            state.
        bias: whether the gates have a bias.
        batch_first: x and y are (B, T, .) instead of (T, B, .). States are (B, .) either way.
        dropout: probability of dropping a unit of a node's input or of the layer's output: a new mask per step on
            every edge from x or from another node, and one on y. The state is never dropped.
        zoneout_h, zoneout_c: probability that a unit of h, of c, keeps its old value for a step; only an LSTM has c.
        layer_norm: normalisation of gates, and of an LSTM's cell; a simple cell has none.
        forget_bias: constant added to an LSTM's forget gate after its norm.
        backend: "auto", or the name of an engine, which then runs or raises with the reason.

    Shape: `y, state = layer(x, state=None, *, lengths=None, resets=None)`
        x: (T, B, X), (B, T, X) with `batch_first`, (T, X) unbatched, or a PackedSequence; y likewise with the output
        node's size. state: a tuple of states, one per slot: `LSTMState(h, c)`, or h for cells without c; leaves (B, H),
        or (H,) unbatched; zeros if None.
        lengths: (B,) ints: row b stops after lengths[b] steps; its outputs past that are zero and its final state is
        its last.
        resets: bool, laid out as x, (T, B), (B, T) or (T,): where true the row's whole state is reset to zero before
        that step, and no gradient flows across.

    `layer.step(x_t, state=None, *, reset=None)` runs one step: x_t (B, X) or (X,), y (B, H) or (H,).
    `layer.initial_state(batch_size)` returns the zero state that None stands for.

    For code written for `torch.nn.LSTM`: `input` and `hx` are aliases of x and state, `flatten_parameters` does
    nothing, and `num_layers`, `bidirectional` and `proj_size` exist. A state (h, c) of shape (layers, B, H) is an
    error.

    Hooks of a cell, and features that act when a cell is called (pruning, weight and spectral norm, FSDP, offloading)
    take
    effect: see `fastslow.layers.reading`. The engines are operators (`torch.ops.fastslow`), so that torch.compile,
    torch.export, FLOP counters and profilers see them; see `fastslow.backends.operators`.
    """

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
        x, state = by_either_name("x", x, "input", input), by_either_name("state", state, "hx", hx, None)
        steps, ends, layout = to_steps(x, self.input_size, self.batch_first, lengths)
        reset_mask = check_resets(resets, x, steps, layout)
        y, new = self._window(steps, state, layout.batched, ends, reset_mask)
        public = self._public(new if layout.batched else map_state(lambda leaf: leaf.squeeze(0), new))
        return layout.restore(y, ends), public

    def step(self, x_t: Tensor, state: Any = None, *, reset: Tensor | bool | None = None) -> tuple[Tensor, Any]:
        """One step: x_t (B, X), y (B, H), state leaves (B, .), reset (B,) bool; or all of them without B.

        reset: the rows whose state is reset before the step.
        """
        check_tensor("x_t", x_t)
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

        None if not possible: with gradients, masks, another device or backend, or modified modules.
        """
        if torch.is_grad_enabled() or not self._streams():
            return None
        streamed = model_step(self, (embedding, head), tokens, None if state is None else self._slots(state))
        return None if streamed is None else (streamed[0], self._public(streamed[1]))

    def logits_walk(self, embedding: nn.Embedding, head: nn.Linear, state: Any) -> Walk | None:
        """Repeated `logits_step` for one stream, from a state with leaves (H,), in preallocated buffers.

        None if not possible. Every step must be in evaluation mode without gradients.
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
        """Whether a step may take the streaming path: no masks, no other backend requested, no tracing."""
        random = self.training and (self.dropout > 0 or self.zoneout_h > 0 or self.zoneout_c > 0)
        return not random and self.backend in ("auto", "native") and not torch.compiler.is_compiling()

    def backend_for(self, x: Tensor | PackedSequence) -> Choice:
        """The engine that would run `x`, and why no faster one can."""
        steps, _, _ = to_steps(x, self.input_size, self.batch_first, None)
        return choose(self._problem(steps), self.backend)

    def _problem(self, x: Tensor) -> Problem:
        """The `Problem` of the window x (T, B, X)."""
        return window.problem_of(self, self.weights(), x)

    def _window(
        self, x: Tensor, state: Any, batched: bool, lengths: Tensor | None, resets: Tensor | None = None
    ) -> tuple[Tensor, States]:
        """x (T, B, X), the caller's state or None -> y (T, B, H), one state per slot with rows."""

        def run() -> tuple[Tensor, States]:
            weights = self.weights()
            initial = self._states(state, x, batched, weights[0].w_h.dtype)
            return window.run(self, weights, x, initial, lengths, resets)

        return cast("tuple[Tensor, States]", within(self.node_cells(), run))

    # ------------------------------------------------------------------ states

    def initial_state(self, batch_size: int | None = None) -> Any:
        """The zero state: leaves (batch_size, H), or (H,) if None, on the device of the weights."""
        like = next(self.parameters())
        return self._public(zeros(self._state_slots(), () if batch_size is None else (batch_size,), like, like.dtype))

    def _states(self, state: Any, x: Tensor, batched: bool, dtype: torch.dtype) -> States:
        """The checked initial state in the form for engines; zeros if None."""
        if state is None:
            return zeros(self._state_slots(), (x.shape[1],), x, dtype)
        name = type(self).__name__
        refuse_lstm_form(name, self._form(), state)
        cast = window.autocast_dtype(x.device) is not None
        return checked(name, self._state_slots(), self._slots(state), x, batched, dtype, cast)

    def _public(self, state: States) -> Any:
        """One state per slot -> the public structure of this layer's state."""
        return state

    def _slots(self, state: Any) -> Sequence[Any]:
        """The public structure of this layer's state -> one state per slot, unchecked."""
        if not isinstance(state, tuple | list) or len(state) != len(self.wiring.slots):
            refuse(type(self).__name__, self._form(), state)
        return state

    def _form(self) -> str:
        """A description of the state's structure."""
        one = "LSTMState(h, c)" if all(slot.kind.state for slot in self._state_slots()) else "states"
        return f"a tuple of {len(self.wiring.slots)} {one}, one per slot"


WiredLSTM = WiredRNN
"""The former name of `WiredRNN`."""
