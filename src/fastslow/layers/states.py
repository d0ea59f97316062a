"""States as engines take them: zeros, or the caller's own, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from fastslow.backends.base import States
from fastslow.cells.kind import Kind


class Slot(NamedTuple):
    """A state slot: its name, its size H, and the kind of the cells that share it."""

    name: str
    size: int
    kind: Kind


def zeros(slots: Sequence[Slot], rows: tuple[int, ...], like: Tensor, dtype: torch.dtype) -> States:
    """Zeros for every slot, leaves (*rows, H), where `like` is."""
    made = []
    for slot in slots:
        shape = (*rows, slot.size)
        made.append(slot.kind.pack([torch.zeros(shape, dtype=dtype, device=like.device) for _ in slot.kind.letters]))
    return tuple(made)


def checked(
    layer: str,
    slots: Sequence[Slot],
    given: Sequence[Any],
    x: Tensor,
    batched: bool,
    dtype: torch.dtype,
    cast: bool = False,
) -> States:
    """`given`, one state per slot, with leaves (B, H), for x (T, B, X); unbatched ones, (H,), get their B = 1 here.

    cast: convert other floating-point types, as under autocast, where x is converted too.

    Raises TypeError for another structure, RuntimeError for another shape, ValueError for another type or device.
    """
    rows = x.shape[1]
    states = []
    for (name, size, kind), state in zip(slots, given, strict=True):
        leaves = [state] if kind.state is None else state
        converted: list[Tensor] = []
        if not isinstance(leaves, tuple | list) or len(leaves) != kind.leaves:
            refuse(layer, f"LSTMState(h, c) for slot {name!r}", state)
        for letter, leaf in zip(kind.letters, leaves, strict=True):
            shape = (rows, size) if batched else (size,)
            if not isinstance(leaf, Tensor) or leaf.shape != shape:
                got = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
                raise RuntimeError(f"state {name}.{letter} must be {shape}, for {rows} rows; got {got}")
            if cast and leaf.is_floating_point():
                leaf = leaf.to(dtype)
            if leaf.dtype != dtype or leaf.device != x.device:
                raise ValueError(
                    f"state {name}.{letter} must be {dtype} on {x.device}, as weights and input are; "
                    f"got {leaf.dtype} on {leaf.device}"
                )
            converted.append(leaf if batched else leaf.unsqueeze(0))
        states.append(kind.pack(converted))
    return tuple(states)


def refuse(layer: str, expected: str, got: Any) -> NoReturn:
    """TypeError for a state of another structure."""
    kind = type(got).__name__ + (f" of {len(got)}" if isinstance(got, tuple | list) else "")
    raise TypeError(f"the state of {layer} is {expected}; got {kind}")


def refuse_lstm_form(layer: str, expected: str, state: Any) -> None:
    """TypeError for `(h, c)` of (layers, B, H), as `torch.nn.LSTM` has its state."""
    if not isinstance(state, tuple | list) or len(state) != 2 or hasattr(state, "_fields"):
        return
    if all(isinstance(part, Tensor) and part.dim() == 3 for part in state):
        raise TypeError(
            f"the state of {layer} is {expected}, leaves (B, H); got nn.LSTM's (h, c) of "
            f"{tuple(state[0].shape)}: start from None or layer.initial_state(batch_size)"
        )
