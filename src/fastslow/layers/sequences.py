"""The forms a batch of sequences comes in, and the one form engines take: (T, B, X) with optional lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


@dataclass(frozen=True)
class Layout:
    """How the caller's sequences were laid out, to give the outputs back in the same form."""

    batched: bool = True
    batch_first: bool = False
    packed: PackedSequence | None = None

    def restore(self, y: Tensor, lengths: Tensor | None) -> Tensor | PackedSequence:
        """(T, B, H) -> the caller's layout."""
        if self.packed is not None:
            return self._pack(y, lengths)
        if not self.batched:
            return y.squeeze(1)
        return y.transpose(0, 1) if self.batch_first else y

    def _pack(self, y: Tensor, lengths: Tensor | None) -> PackedSequence:
        assert self.packed is not None
        assert lengths is not None
        order = self.packed.sorted_indices
        if order is not None:
            y, lengths = y.index_select(1, order), lengths.index_select(0, order.to(lengths.device))
        data = pack_padded_sequence(y, lengths.cpu()).data
        return PackedSequence(data, self.packed.batch_sizes, order, self.packed.unsorted_indices)


def to_steps(
    x: Tensor | PackedSequence,
    input_size: int | None,
    batch_first: bool,
    lengths: Tensor | Sequence[int] | None,
) -> tuple[Tensor, Tensor | None, Layout]:
    """The caller's sequences as (T, B, X), their lengths (B,) int64 on the CPU or None, and their layout.

    x: (T, B, X), (B, T, X) with `batch_first`, (T, X) unbatched, or a PackedSequence (which brings its own lengths).
    Raises ValueError for a wrong number of dimensions and RuntimeError for a wrong size, as `torch.nn.LSTM` does.
    """
    if isinstance(x, PackedSequence):
        if lengths is not None:
            raise ValueError("a PackedSequence brings its own lengths; pass lengths only with a padded tensor")
        padded, own = pad_packed_sequence(x)
        check_input_size(padded, input_size)
        return padded, own, Layout(packed=x)
    check_tensor("x", x, "or a PackedSequence")
    if x.dim() not in (2, 3):
        raise ValueError(f"x must be 2D (unbatched) or 3D (batched); got {x.dim()}D, shape {tuple(x.shape)}")
    check_input_size(x, input_size)
    layout = Layout(batched=x.dim() == 3, batch_first=batch_first)
    steps = x.unsqueeze(1) if x.dim() == 2 else x.transpose(0, 1) if batch_first else x
    if steps.shape[0] == 0:
        raise RuntimeError("x has no steps: expected sequence length to be larger than 0")
    return steps, None if lengths is None else check_lengths(lengths, steps.shape[0], steps.shape[1]), layout


def check_resets(resets: Tensor | None, x: Tensor | PackedSequence, steps: Tensor, layout: Layout) -> Tensor | None:
    """(T, B) bool on the device of the steps (T, B, X), from resets laid out as the caller's x.

    Raises ValueError beside a PackedSequence, and for another type or shape.
    """
    if resets is None:
        return None
    if isinstance(x, PackedSequence):
        raise ValueError(
            "resets are laid out as a padded x and cannot go with a PackedSequence: pass x padded, with lengths"
        )
    if not isinstance(resets, Tensor) or resets.dtype != torch.bool or resets.shape != x.shape[:-1]:
        got = f"{resets.dtype} of shape {tuple(resets.shape)}" if isinstance(resets, Tensor) else type(resets).__name__
        raise ValueError(f"resets must be bool of shape {tuple(x.shape[:-1])}, laid out as x; got {got}")
    resets = resets.to(steps.device)
    return resets.unsqueeze(1) if not layout.batched else resets.transpose(0, 1) if layout.batch_first else resets


def check_reset(reset: Tensor | bool, x_t: Tensor) -> Tensor:
    """(B,) bool on the device of x_t (B, X), from the reset of one step; (1,) from a bool or () beside x_t (X,)."""
    given = torch.as_tensor(reset, device=x_t.device)
    if given.dtype != torch.bool or given.shape != x_t.shape[:-1]:
        raise ValueError(
            f"reset must be bool of shape {tuple(x_t.shape[:-1])}, one per row; "
            f"got {given.dtype} of {tuple(given.shape)}"
        )
    return given.reshape(-1)


def check_tensor(name: str, given: Any, otherwise: str = "") -> None:
    """TypeError unless `given` is a tensor; otherwise: what else it may be."""
    if not isinstance(given, Tensor):
        expected = " ".join(["a tensor", otherwise]).strip()
        raise TypeError(f"{name} must be {expected}; got {type(given).__name__}")


def check_input_size(x: Tensor, input_size: int | None) -> None:
    if input_size is not None and x.shape[-1] != input_size:
        expected = ", ".join(["T", "B", str(input_size)][3 - min(x.dim(), 3) :])
        raise RuntimeError(f"x must be ({expected}); got {tuple(x.shape)}: input_size is {input_size}")


def check_lengths(lengths: Tensor | Sequence[int], steps: int, rows: int) -> Tensor:
    """(rows,) int64 on the CPU, each between 0 and `steps`."""
    # Not on the default device; and no lengths at all are a list of ints, too.
    given = lengths if isinstance(lengths, Tensor) else torch.as_tensor(lengths, device="cpu")
    if not isinstance(lengths, Tensor) and given.shape == (0,):
        given = given.to(torch.int64)
    if given.dtype.is_floating_point or given.dtype == torch.bool or given.shape != (rows,):
        raise ValueError(f"lengths must be {rows} ints, one per row; got {given.dtype} of shape {tuple(given.shape)}")
    given = given.to("cpu", torch.int64)
    if torch.compiler.is_compiling():  # values are not known there; rows with lengths past the window run all of it
        return given
    if rows and (int(given.min()) < 0 or int(given.max()) > steps):
        raise ValueError(f"lengths must lie in 0..{steps}, the number of steps in x; got {given.tolist()}")
    return given
