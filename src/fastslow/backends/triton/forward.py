"""The forward pass of a window; see window.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from fastslow.backends.base import States
from fastslow.backends.triton import ops
from fastslow.backends.triton.plan import Step
from fastslow.backends.triton.window import STATS, Held, Setting, at, old_c
from fastslow.cells.lstm import NORM_EPSILON, CellWeights
from fastslow.state import LSTMState
from fastslow.wiring import FROM_INPUT


def _padded_matrix(parts: Sequence[tuple[Tensor, int, int]], s: Step, kind: torch.dtype) -> Tensor:
    """Blocks (4H, size), each `size` columns wide and padded to `width`, side by side: (4 s.width, sum of widths)."""
    out = torch.zeros(4, s.width, sum(width for _, _, width in parts), dtype=kind, device=parts[0][0].device)
    start = 0
    for matrix, size, width in parts:
        out[:, : s.size, start : start + size] = matrix.detach().view(4, s.size, size)
        start += width
    return out.flatten(0, 1)


def _prepare(
    setting: Setting, weights: Sequence[CellWeights], x: Tensor, state: States, key: Tensor | None, keep: bool
) -> Held:
    T, B, kind, device = setting.T, setting.B, setting.kind, x.device
    steps = setting.steps
    held = Held(*([] for _ in fields(Held)))
    held.key.append(key)
    flat_x = x.detach().reshape(T * B, -1)
    for s, cell in zip(steps, weights, strict=True):
        h_part = (cell.w_h.contiguous(), s.size, s.width)
        x_part = None if cell.w_x is None else (cell.w_x.contiguous(), s.x_size, s.x_width)
        held.matrix.append(_padded_matrix([x_part, h_part] if x_part and s.reads_node else [h_part], s, kind))
        held.operand.append(torch.empty(T + 1 if keep else 2, B, s.columns, dtype=kind, device=device))
        held.c.append(torch.empty(T if keep else 2, B, s.width, device=device))
        held.stats.append(torch.empty(T if keep else 1, B, STATS, device=device))
        if s.source == FROM_INPUT and x_part:
            matrix = _padded_matrix([x_part], s, kind)
            read = torch.empty(T * B, s.x_width, dtype=kind, device=device)
            setting.drop_copy(flat_x, read, x if key is None else key, 0, s.index, s.x_size, s.x_width)
            z = torch.empty(T, B, 4 * s.width, dtype=kind, device=device)
            ops.product(read, matrix.t(), z.view(T * B, -1))
            held.matrix_x.append(matrix if keep else None)
            held.x.append(read if keep else None)
        else:
            z = torch.empty(T if keep else 1, B, 4 * s.width, dtype=kind, device=device)
            held.matrix_x.append(None)
            held.x.append(None)
        held.z.append(z)
        for name in ("bias", "gate_gain", "gate_shift", "cell_gain", "cell_shift"):
            value = getattr(cell, name)
            getattr(held, name).append(None if value is None else value.detach().contiguous())
    for slot, (h, c) in enumerate(state):
        s = next(s for s in steps if s.slot == slot)
        first = at(held.operand[s.index], 0)[:, s.h_at :]
        first.zero_()
        first[:, : s.size] = h.detach()
        c0 = torch.zeros(B, s.width, device=device)
        c0[:, : s.size] = c.detach()
        held.c0.append(c0)
    return held


def _next_operand(held: Held, s: Step, steps: Sequence[Step], t: int) -> Tensor:
    """Where h of this step's node is read as a state: (B, width), in the operand of the next node of its slot."""
    after = steps[s.after]
    return at(held.operand[s.after], t + 1 if s.last else t)[:, after.h_at :]


def _step(setting: Setting, held: Held, s: Step, t: int, y: Tensor) -> None:
    """The fused kernel of node s at step t, and the copies for further readers."""
    steps, n = setting.steps, s.index
    z = at(held.z[n], t)
    h = _next_operand(held, s, steps, t)
    read = at(held.operand[s.readers[0]], t) if s.readers else h
    key = held.key[0] if held.key[0] is not None else z

    def given(parts: list[Tensor | None]) -> Tensor:
        part = parts[n]
        return z if part is None else part

    ops.launch(
        "step_forward",
        (setting.B,),
        z, given(held.bias), given(held.gate_gain), given(held.gate_shift), given(held.cell_gain),
        given(held.cell_shift), at(held.operand[n], t)[:, s.h_at :], old_c(held, s, t), at(held.c[n], t), h, read,
        y[t], at(held.stats[n], t), held.ends[0] if held.ends else z, key,
        setting.first_step + t, t, setting.first_row, *setting.masks(s), setting.rates.forget_bias, NORM_EPSILON,
        s.columns, h.stride(0), read.stride(0),
        **setting.constants(s, held), OUT=s.output, DEPENDENT=setting.options.dependent_launch,
        warps=setting.warps(s.width), dependent=setting.options.dependent_launch,
    )  # fmt: skip
    for reader in s.readers[1:]:
        setting.drop_copy(h, at(held.operand[reader], t), key, t, reader, s.size, s.width)


def _halves(s: Step, matrix: Tensor, operand: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(operand, matrix) columns of the half that can start early, and of the other."""
    x = (operand[:, : s.h_at], matrix[:, : s.h_at])
    h = (operand[:, s.h_at :], matrix[:, s.h_at :])
    return (h, x) if s.h_is_early else (x, h)


def _loop(setting: Setting, held: Held, y: Tensor) -> None:
    steps, T, overlap = setting.steps, setting.T, setting.options.overlap
    beside = ops.Beside(y.device, overlap)

    def early(s: Step, t: int) -> None:
        matrix = held.matrix[s.index]
        assert matrix is not None
        (operand, half), _ = _halves(s, matrix, at(held.operand[s.index], t))
        with beside.start(s.index):
            ops.product(operand, half.t(), at(held.z[s.index], t))

    if overlap:
        for s in steps:
            if s.reads_node and s.h_is_early and s.first:
                early(s, 0)
    for t in range(T):
        for s in steps:
            matrix, operand, z = held.matrix[s.index], at(held.operand[s.index], t), at(held.z[s.index], t)
            assert matrix is not None
            if s.source == FROM_INPUT:
                z.addmm_(operand, matrix.t())
            elif overlap and s.reads_node:
                beside.wait(s.index)
                _, (operand, half) = _halves(s, matrix, operand)
                z.addmm_(operand, half.t())
            else:
                ops.product(operand, matrix.t(), z)
            _step(setting, held, s, t, y)
            for r in steps if overlap else ():
                if r.reads_node and r.early == s.index:
                    when = t + 1 if r.h_is_early and r.first else t
                    if when < T:
                        early(r, when)


def forward(
    setting: Setting,
    weights: Sequence[CellWeights],
    x: Tensor,
    state: States,
    key: Tensor | None,
    lengths: Tensor | None,
    keep: bool,
) -> tuple[Tensor, States, Held]:
    """y (T, B, H), the final state, and, with `keep`, what the backward pass needs (else the last steps of it)."""
    held = _prepare(setting, weights, x, state, key, keep)
    if lengths is not None:
        held.ends.append(lengths.to(x.device))
    output = setting.steps[setting.wiring.output_index]
    y = torch.empty(setting.T, setting.B, output.size, dtype=x.dtype, device=x.device)
    _loop(setting, held, y)
    final = []
    for slot in range(len(setting.wiring.slots)):
        first = next(s for s in setting.steps if s.slot == slot)
        h = at(held.operand[first.index], setting.T)[:, first.h_at : first.h_at + first.size]
        c = at(held.c[first.before], setting.T - 1)[:, : first.size]
        final.append(LSTMState(h.to(x.dtype, copy=True), c.to(x.dtype, copy=True)))
    return y, tuple(final), held
