"""Recurrent states: named tuples of tensors, and operations on them between windows.

A state is a tensor (B, H), a pair `LSTMState(h, c)`, or any (named) tuple of states. The functions below keep the
structure and the types; the named tuples have them as methods.

The named tuples unpack, and are tuples to whatever walks through nested containers (pytree, DataParallel, the
`repackage_hidden` of PyTorch's examples). But `state[0]`, `h[-1]` and other indices are refused: in code written for
`torch.nn.LSTM` they pick a layer of a tensor (layers, B, H), and here would silently pick something else. (PyTorch's
own modules, some of which take a named tuple apart by its indices, may.)

Importing this module makes the states known to `torch.load(weights_only=True)` and to `torch.export.save`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree

S = TypeVar("S")

_OF_TENSORS = frozenset(
    {"chunk", "contiguous", "cpu", "cuda", "data", "device", "dim", "double", "dtype", "expand", "float", "half"}
    | {"is_cuda", "mean", "numel", "permute", "repeat", "requires_grad", "reshape", "select", "shape", "size"}
    | {"squeeze", "sum", "transpose", "unbind", "unsqueeze", "view"}
)
"""Tensor attributes that code for `torch.nn.LSTM` uses on h and c, and that a state does not have."""


class LSTMState(NamedTuple):
    """Output `h` and memory `c` of one LSTM state, both (B, H), or (H,) unbatched."""

    h: Tensor
    c: Tensor

    def detach(self) -> LSTMState:
        """The same values, detached."""
        return detach_state(self)

    def to(self, *args: Any, **options: Any) -> LSTMState:
        """Apply `Tensor.to` to every tensor: another device or dtype."""
        return map_state(lambda leaf: leaf.to(*args, **options), self)

    def clone(self) -> LSTMState:
        """Copies of the tensors."""
        return map_state(torch.clone, self)

    def reset(self, rows: Tensor) -> LSTMState:
        """Zeros in the rows where `rows` (B,) bool is true."""
        return reset_rows(self, rows)

    def index(self, rows: Tensor) -> LSTMState:  # type: ignore[override]
        """The rows `rows` (N,) int: leaves (N, H)."""
        return index_rows(self, rows)

    def __getitem__(self, key: Any) -> Any:
        if _asked_by_torch():
            return tuple.__getitem__(self, key)
        raise TypeError(
            f"a state has no index [{key!r}]: write state.h or state.c, each (B, H), or h, c = state; "
            "of an FSLSTM's state nn.LSTM's h[-1] is state.fast.h"
        )

    def __getattr__(self, name: str) -> NoReturn:
        _no_attribute(self, name, "state.h or state.c; of an FSLSTM's state nn.LSTM's h[-1] is state.fast.h")


class FSState(NamedTuple):
    """State of a fast-slow network: the one the fast cells share, and the slow cell's. LSTMState each in an FSLSTM.

    It is not nn.LSTM's (h, c): `out, (h, c) = layer(x)` gives the fast and the slow state. What is `h[-1]` there is
    `state.fast.h` here.
    """

    fast: Any
    slow: Any

    def detach(self) -> FSState:
        """The same values, detached."""
        return detach_state(self)

    def to(self, *args: Any, **options: Any) -> FSState:
        """Apply `Tensor.to` to every tensor: another device or dtype."""
        return map_state(lambda leaf: leaf.to(*args, **options), self)

    def clone(self) -> FSState:
        """Copies of the tensors."""
        return map_state(torch.clone, self)

    def reset(self, rows: Tensor) -> FSState:
        """Zeros in the rows where `rows` (B,) bool is true."""
        return reset_rows(self, rows)

    def index(self, rows: Tensor) -> FSState:  # type: ignore[override]
        """The rows `rows` (N,) int: leaves (N, H)."""
        return index_rows(self, rows)

    def __getitem__(self, key: Any) -> Any:
        if _asked_by_torch():
            return tuple.__getitem__(self, key)
        raise TypeError(
            f"a state has no index [{key!r}]: it is not (h, c) but (fast, slow): write state.fast or state.slow; "
            "nn.LSTM's h[-1] is state.fast.h"
        )

    def __getattr__(self, name: str) -> NoReturn:
        _no_attribute(self, name, "state.fast or state.slow; nn.LSTM's h[-1] is state.fast.h")


def _asked_by_torch() -> bool:
    """Whether the caller's caller is a module of PyTorch."""
    return str(sys._getframe(2).f_globals.get("__name__")).split(".")[0] == "torch"


def _no_attribute(state: Any, name: str, write: str) -> NoReturn:
    hint = f": it is not a tensor; write {write}" if name in _OF_TENSORS else ""
    raise AttributeError(f"{type(state).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=state)


torch.serialization.add_safe_globals([LSTMState, FSState])
for _state in (LSTMState, FSState):
    _pytree._register_namedtuple(_state, serialized_type_name=f"fastslow.state.{_state.__name__}")


def map_state(fn: Callable[[Tensor], Tensor], state: S) -> S:
    """`state` with `fn` applied to every tensor in it."""
    if isinstance(state, Tensor):
        return fn(state)  # type: ignore[return-value]
    if isinstance(state, tuple):
        leaves = [map_state(fn, part) for part in state]
        return type(state)(*leaves) if hasattr(state, "_fields") else tuple(leaves)  # type: ignore[return-value]
    raise TypeError(f"a state is a tensor or a tuple of states; got {type(state).__name__}")


def detach_state(state: S) -> S:
    """The same values, detached: what is carried from window to window in truncated backpropagation."""
    return map_state(Tensor.detach, state)


def reset_rows(state: S, rows: Tensor) -> S:
    """Zeros in the rows where `rows` (B,) bool is true, for streams in which a new text begins."""
    return map_state(lambda leaf: leaf.masked_fill(rows.to(leaf.device).unsqueeze(-1), 0), state)


def index_rows(state: S, rows: Tensor) -> S:
    """The rows `rows` (N,) int of every (B, H) tensor: (N, H), to reorder, drop or repeat streams."""
    return map_state(lambda leaf: leaf.index_select(0, rows.to(leaf.device)), state)


def state_tensors(state: Any) -> list[Tensor]:
    """The tensors of a state, in order."""
    if isinstance(state, Tensor):
        return [state]
    return [leaf for part in state for leaf in state_tensors(part)]


def output_of(state: Any) -> Tensor:
    """The output of a cell: its state, or the first tensor of it, h."""
    found: Tensor = state if isinstance(state, Tensor) else next(iter(state))
    return found


def stopped_rows(old: S, new: S, running: Tensor) -> S:
    """`new` in the rows where `running` (B,) bool is true; the others have ended and keep `old`."""
    if isinstance(old, Tensor):
        return torch.where(running.unsqueeze(-1), new, old)  # type: ignore[call-overload,no-any-return]
    kept = [stopped_rows(o, n, running) for o, n in zip(old, new, strict=True)]  # type: ignore[call-overload]
    return type(new)(*kept) if hasattr(new, "_fields") else tuple(kept)  # type: ignore[return-value]
