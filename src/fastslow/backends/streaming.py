"""Streaming: one step at a time for one row or a few, without gradients; used for sampling, scoring and compression.

With a C++ compiler a step is one call into compiled code that reads every weight of a layer once, in place.
`LayerSteps` prepares such steps and detects when the parameters are replaced or moved; without a compiler, and wherever
that code cannot run, another engine must handle the step.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastslow.backends.base import Rates, States
from fastslow.backends.dispatch import no_active_modes, plain
from fastslow.backends.flat import flat_states, states_like
from fastslow.backends.native.library import library
from fastslow.backends.native.quantized import Copies
from fastslow.backends.native.steps import Steps, TokenLayers, streams
from fastslow.cells.kind import Kind
from fastslow.cells.kinds import kind_of
from fastslow.wiring import Wiring

MOST_ROWS = 32
"""The largest number of rows of a layer's step. Above it, packing the weights pays even for a single step."""


class Layer(Protocol):
    """The attributes and methods of a layer that `LayerSteps` uses."""

    wiring: Wiring
    input_size: int
    zoneout_h: float
    zoneout_c: float
    forget_bias: float

    def weights(self) -> tuple[Any, ...]: ...

    def parameter_places(self) -> list[tuple[dict[str, Any], str]]:
        """(dict, key) of every parameter, of every module that contains one, and of a `forward` set on a cell."""

    def listeners(self) -> list[dict[int, Any]]:
        """The hooks of the cells; a step with any hook must call the cells themselves."""


class LayerSteps:
    """Prepared steps for a layer's own parameters, rebuilt when a parameter or a cell is replaced or moved.

    To detect changes, each step compares the registered parameters and cells and the parameters' addresses.
    """

    def __init__(self) -> None:
        self._holders: list[dict[str, Any]] = []
        self._keys: list[str] = []
        self._values: list[Any] = []
        self._tensors: list[Tensor] = []
        self._addresses: list[int] = []
        self._listeners: list[dict[int, Any]] = []
        self._steps: dict[tuple[int, float, float, float], Steps] = {}
        self._copies: Copies | None = None
        self._sizes: list[int] = []
        self._kinds: list[Kind] = []
        """The cell of each slot."""
        self._dtype: torch.dtype | None = None
        """The dtype of the parameters if steps can be prepared for them, else None."""
        self._modules: tuple[nn.Embedding, nn.Linear] | None = None
        self._token_layers: TokenLayers | None = None
        self._symbols = 0

    def step(
        self,
        layer: Layer,
        x_t: Tensor,
        state: Sequence[Any] | None,
        token_layers: tuple[nn.Embedding, nn.Linear] | None = None,
    ) -> tuple[Tensor, States] | None:
        """One step: x_t (B, X) or (X,), state one (h, c) a slot or None for zeros -> y and the new state, likewise.

        With an embedding before the layer and a linear head after it, x_t are tokens, (B,) or (), and y are logits.
        None if another engine must handle the step, because this path does not support it or it is an error.
        """
        self._notice(layer, token_layers)
        batched = x_t.dim() == (2 if token_layers is None else 1)
        rows = x_t.shape[0] if batched else 1
        dtype = self._dtype if token_layers is None else torch.int64
        if self._dtype is None or x_t.dtype != dtype or not 0 < rows <= MOST_ROWS or any(self._listeners):
            return None
        if not no_active_modes() or not plain((x_t,)) or torch.is_autocast_enabled("cpu"):
            return None
        if token_layers is not None and not (
            self._plain_token_layers(token_layers) and all(map(self.has_symbol, x_t.view(-1).tolist()))
        ):
            return None
        shapes = [(rows, size) if batched else (size,) for size in self._sizes]
        before: list[Tensor] = []
        if state is None:
            before = [
                torch.zeros(shape, dtype=self._dtype, device=x_t.device)
                for shape, kind in zip(shapes, self._kinds, strict=True)
                for _ in kind.letters
            ]
        else:
            for given, shape, kind in zip(state, shapes, self._kinds, strict=True):
                leaves = [given] if kind.state is None else given
                if not isinstance(leaves, tuple | list) or len(leaves) != kind.leaves:
                    return None
                for part in leaves:
                    if not isinstance(part, Tensor) or part.shape != shape or part.dtype != self._dtype:
                        return None
                    before.append(part.contiguous())
            if not plain(before):
                return None
        steps = self._prepared(layer, rows)
        after = [torch.empty_like(part) for part in before]
        x_t = x_t.contiguous()
        shape = (rows, steps.output_size) if batched else (steps.output_size,)
        y = torch.empty(shape, dtype=self._dtype, device=x_t.device)
        addresses = [part.data_ptr() for part in before], [part.data_ptr() for part in after]
        steps(1, x_t.data_ptr(), y.data_ptr(), *addresses)
        return y, self._states(after)

    def window(self, layer: Layer, x: Tensor, state: States) -> tuple[Tensor, States] | None:
        """A window of a few rows: x (T, B, X), state one a slot -> y (T, B, H) and the new state.

        None unless 8 bits hold the layer's matrices exactly, and where `step` returns None.
        """
        self._notice(layer, None)
        if self._dtype is None or x.dtype != self._dtype or any(self._listeners) or torch.is_autocast_enabled("cpu"):
            return None
        before = [part.contiguous() for part in flat_states(state)]
        if not no_active_modes() or not plain((x, *before)) or any(part.dtype != self._dtype for part in before):
            return None
        if self._copies_of(layer).matrices is None:
            return None
        steps, x = self._prepared(layer, x.shape[1]), x.contiguous()
        after = [torch.empty_like(part) for part in before]
        y = x.new_empty((*x.shape[:2], steps.output_size))
        addresses = [part.data_ptr() for part in before], [part.data_ptr() for part in after]
        steps(x.shape[0], x.data_ptr(), y.data_ptr(), *addresses)
        return y, self._states(after)

    def _states(self, leaves: Sequence[Tensor]) -> States:
        made, at = [], 0
        for kind in self._kinds:
            part = leaves[at : at + kind.leaves]
            made.append(part[0] if kind.state is None else kind.state(*part))
            at += kind.leaves
        return tuple(made)

    def one_row(self, layer: Layer, token_layers: tuple[nn.Embedding, nn.Linear]) -> Steps | None:
        """The current prepared steps for a language model's single stream; None where `step` returns None."""
        self._notice(layer, token_layers)
        if self._dtype is None or torch.is_autocast_enabled("cpu") or not self._plain_token_layers(token_layers):
            return None
        if any(self._listeners) or not no_active_modes():
            return None
        return self._prepared(layer, 1)

    def has_symbol(self, token: int) -> bool:
        return self._token_layers is not None and 0 <= token < self._symbols

    def _notice(self, layer: Layer, token_layers: tuple[nn.Embedding, nn.Linear] | None) -> None:
        if not self._values or token_layers != self._modules or self._changed():
            self._modules = token_layers
            self._look(layer)

    def _prepared(self, layer: Layer, rows: int) -> Steps:
        key = (rows, layer.zoneout_h, layer.zoneout_c, layer.forget_bias)
        steps = self._steps.get(key)
        if steps is None:
            rates, matrices = Rates(0.0, *key[1:]), self._copies_of(layer).matrices
            steps = self._steps[key] = Steps(
                layer.wiring, layer.weights(), rates, rows, layer.input_size, matrices, self._token_layers
            )
        return steps

    def _copies_of(self, layer: Layer) -> Copies:
        if self._copies is None:
            self._copies = Copies(layer.weights())
        return self._copies

    def _plain_token_layers(self, token_layers: tuple[nn.Embedding, nn.Linear]) -> bool:
        """Whether embedding and head are unmodified and have no hooks."""
        embedding, head = token_layers
        return (
            self._token_layers is not None
            and type(embedding) is nn.Embedding
            and type(head) is nn.Linear
            and embedding.max_norm is None
            and not (embedding._forward_hooks or embedding._forward_pre_hooks)
            and not (head._forward_hooks or head._forward_pre_hooks)
        )

    def _changed(self) -> bool:
        return (
            not all(map(operator.is_, map(dict.get, self._holders, self._keys), self._values))
            or list(map(Tensor.data_ptr, self._tensors)) != self._addresses
            or not (self._copies is None or self._copies.current())
        )

    def _look(self, layer: Layer) -> None:
        self._steps.clear()
        self._copies = None
        places = layer.parameter_places()
        if self._modules is not None:
            embedding, head = self._modules
            places += [(embedding._parameters, "weight"), (head._parameters, "weight"), (head._parameters, "bias")]
        self._holders, self._keys = [holder for holder, _ in places], [key for _, key in places]
        self._values = [holder.get(key) for holder, key in places]
        self._tensors = [value for value in self._values if isinstance(value, Tensor)]
        self._dtype, self._token_layers = None, None
        self._listeners = layer.listeners()
        if any(key == "forward" and value is not None for key, value in zip(self._keys, self._values, strict=True)):
            self._addresses = [0] * len(self._tensors)
            return
        if not plain(self._tensors) or any(self._listeners):
            self._addresses = [0] * len(self._tensors)  # no match: the next step checks again
            return
        self._addresses = [value.data_ptr() for value in self._tensors]
        weights = layer.weights()
        self._sizes = [weights[layer.wiring.slot_of.index(slot)].hidden_size for slot in range(len(layer.wiring.slots))]
        self._kinds = [kind_of(weights[layer.wiring.slot_of.index(slot)]) for slot in range(len(layer.wiring.slots))]
        own = {id(value) for value in self._tensors}
        used = [part for w in weights for part in w if part is not None]
        if self._modules is not None:
            fits = embedding.weight.shape[1:] == (layer.input_size,)
            if fits and head.weight.shape == (len(embedding.weight), weights[layer.wiring.output_index].hidden_size):
                self._token_layers, self._symbols = (
                    TokenLayers(embedding.weight, head.weight, head.bias),
                    len(embedding.weight),
                )
            used += [part for part in (embedding.weight, head.weight, head.bias) if part is not None]
        dtype = used[0].dtype
        usual = all(
            id(part) in own  # not computed from something else
            and part.is_contiguous()
            and part.dtype == dtype
            for part in used
        )
        known = dtype in (torch.float32, torch.float64)
        self._dtype = dtype if usual and known and not isinstance(library(), str) else None


_MODELS: WeakKeyDictionary[Any, LayerSteps] = WeakKeyDictionary()
_LAYERS: WeakKeyDictionary[Any, LayerSteps] = WeakKeyDictionary()


def layer_step(layer: Layer, x_t: Tensor, state: Sequence[Any] | None) -> tuple[Tensor, States] | None:
    """`LayerSteps.step` of this layer.

    Prepared steps are stored outside the layer, so copies and pickles do not contain them.
    """
    return _layer_steps(layer).step(layer, x_t, state)


def layer_window(layer: Layer, x: Tensor, state: States) -> tuple[Tensor, States] | None:
    """`LayerSteps.window` of this layer, without gradients; None where a window with packed weights is faster."""
    return _layer_steps(layer).window(layer, x, state) if streams(x.shape[1], x.shape[0]) else None


def _layer_steps(layer: Layer) -> LayerSteps:
    steps = _LAYERS.get(layer)
    if steps is None:
        steps = _LAYERS[layer] = LayerSteps()
    return steps


def model_step(
    layer: Layer, token_layers: tuple[nn.Embedding, nn.Linear], tokens: Tensor, state: Sequence[Any] | None
) -> tuple[Tensor, States] | None:
    """`LayerSteps.step` of a language model: tokens (B,) or () int64, logits (B, V) or (V,)."""
    return _model_steps(layer).step(layer, tokens, state, token_layers)


def _model_steps(layer: Layer) -> LayerSteps:
    steps = _MODELS.get(layer)
    if steps is None:
        steps = _MODELS[layer] = LayerSteps()
    return steps


class Walk:
    """One stream of a language model, symbol by symbol: like `model_step`, with buffers that are allocated once.

    For small models half of the time of a step goes into allocating the results. A walk alternates between two sets of
    state buffers instead. state: one (h, c) of shape (H,) per slot, of the weights' dtype.

    `walk(token)`: logits (V,) as an array, which the next call overwrites; None where `model_step` returns None, and
    then the state is unchanged. `walk.state`: a copy of the state after the last step, in the form that `public`
    returns.
    """

    def __init__(
        self,
        layer: Layer,
        token_layers: tuple[nn.Embedding, nn.Linear],
        state: Sequence[Any],
        public: Callable[[States], Any] = lambda state: state,
    ) -> None:
        self._layer, self._token_layers, self._steps, self._public = layer, token_layers, _model_steps(layer), public
        self._state = tuple(state)
        self._before = [part.clone().contiguous() for part in flat_states(self._state)]
        self._after = [torch.empty_like(part) for part in self._before]
        self._token = ctypes.c_int64()
        self._token_address = ctypes.addressof(self._token)
        logits = self._before[0].new_empty(token_layers[1].weight.shape[0])
        self._dtype, self._address = logits.dtype, logits.data_ptr()
        self._logits: NDArray[Any] = logits.numpy()
        self._addresses = [[part.data_ptr() for part in parts] for parts in (self._before, self._after)]

    def __call__(self, token: int) -> NDArray[Any] | None:
        steps = self._steps.one_row(self._layer, self._token_layers)
        if steps is None or steps.dtype != self._dtype or not self._steps.has_symbol(token):
            return None
        self._token.value = token
        steps(1, self._token_address, self._address, *self._addresses)
        self._before, self._after = self._after, self._before
        self._addresses.reverse()
        return self._logits

    @property
    def state(self) -> Any:
        parts = [part.clone() for part in self._before]
        return self._public(states_like(self._state, parts))
