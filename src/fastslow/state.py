"""Recurrent states: named tuples of tensors, and what one does to them between windows.

A state is a tensor (B, H), a pair `LSTMState(h, c)`, or any (named) tuple of states. The functions below keep the
structure and the types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

S = TypeVar("S")


class LSTMState(NamedTuple):
    """Output `h` and memory `c` of one LSTM state, both (B, H), or (H,) unbatched."""

    h: Tensor
    c: Tensor


class FSState(NamedTuple):
    """State of a fast-slow network: the one the fast cells share, and the slow cell's. LSTMState each in an FSLSTM."""

    fast: Any
    slow: Any


def map_state(fn: Callable[[Tensor], Tensor], state: S) -> S:
    """`state` with `fn` applied to every tensor in it."""
    if isinstance(state, Tensor):
        return fn(state)  # type: ignore[return-value]
    if isinstance(state, tuple):
        leaves = [map_state(fn, part) for part in state]
        return type(state)(*leaves) if hasattr(state, "_fields") else tuple(leaves)  # type: ignore[return-value]
    raise TypeError(f"a state is a tensor or a tuple of states; got {type(state).__name__}")


def detach_state(state: S) -> S:
    """The same values without their history: what is carried from window to window in truncated backpropagation."""
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
    """What a cell puts out: its state, or the first tensor of it, h."""
    found: Tensor = state if isinstance(state, Tensor) else state[0]
    return found


def stopped_rows(old: S, new: S, running: Tensor) -> S:
    """`new` in the rows where `running` (B,) bool is true; the others have ended and keep `old`."""
    if isinstance(old, Tensor):
        return torch.where(running.unsqueeze(-1), new, old)  # type: ignore[call-overload,no-any-return]
    kept = [stopped_rows(o, n, running) for o, n in zip(old, new, strict=True)]  # type: ignore[call-overload]
    return type(new)(*kept) if hasattr(new, "_fields") else tuple(kept)  # type: ignore[return-value]
