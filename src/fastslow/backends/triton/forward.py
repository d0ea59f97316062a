"""The forward pass of a window; see window.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.base import States
from fastslow.backends.triton import ops
from fastslow.backends.triton.plan import Step, runs
from fastslow.backends.triton.window import STATS, Given, Held, Setting, at, old_wide
from fastslow.cells.lstm import NORM_EPSILON
from fastslow.state import state_tensors
from fastslow.wiring import FROM_INPUT


def _padded_matrix(node: Any, names: Sequence[str], s: Step, kind: torch.dtype) -> Tensor:
    """The node's matrices of these names, padded, in the block order of z, side by side: (z_width, columns)."""
    widths = [s.x_width if name == "w_x" else s.width for name in names]
    out = torch.zeros(s.blocks, s.width, sum(widths), dtype=kind, device=node.w_h.device)
    start = 0
    for name, width in zip(names, widths, strict=True):
        matrix = getattr(node, name).detach()
        blocks = matrix.contiguous().view(-1, s.size, matrix.shape[1])
        for first, place, count in runs(s.kind.rows(name)):
            out[place : place + count, : s.size, start : start + matrix.shape[1]] = blocks[first : first + count]
        start += width
    return out.flatten(0, 1)


def _prepare(setting: Setting, given: Given, weights: Sequence[Any], x: Tensor, state: States, keep: bool) -> Held:
    T, B, kind, device = setting.T, setting.B, setting.kind, x.device
    steps, key = setting.steps, given.key
    held = Held(*([] for _ in fields(Held)))
    flat_x = given.read(setting, x.detach()).reshape(T * B, -1)
    for s, node in zip(steps, weights, strict=True):
        has_input = node.w_x is not None
        held.matrix.append(_padded_matrix(node, ["w_x", "w_h"] if has_input and s.reads_node else ["w_h"], s, kind))
        held.operand.append(torch.empty(T + s.first if keep else 2, B, s.columns, dtype=kind, device=device))
        held.wide.append(torch.empty(T if keep else 2, B, s.width, device=device))
        # Zeros: no cell writes a whole row, and results of an operator must not contain uninitialised memory.
        held.stats.append(torch.zeros(T if keep else 1, B, STATS, device=device) if s.norm else None)
        if s.source == FROM_INPUT and has_input:
            matrix = _padded_matrix(node, ["w_x"], s, kind)
            read = torch.empty(T * B, s.x_width, dtype=kind, device=device)
            setting.drop_copy(flat_x, read, x if key is None else key, 0, s.index, s.x_size, s.x_width)
            z = torch.empty(T, B, s.z_width, dtype=kind, device=device)
            ops.product(read, matrix.t(), z.view(T * B, -1))
            held.matrix_x.append(matrix if keep else None)
            held.x.append(read if keep else None)
        else:
            z = torch.empty(T if keep else 1, B, s.z_width, dtype=kind, device=device)
            held.matrix_x.append(None)
            held.x.append(None)
        held.z.append(z)
    for slot, given_state in enumerate(state):
        s = next(s for s in steps if s.slot == slot)
        leaves = [leaf.detach() for leaf in state_tensors(given_state)]
        if given.reset is not None:
            started = given.reset[0].bool().unsqueeze(1)
            leaves = [leaf.masked_fill(started, 0) for leaf in leaves]
        first = at(held.operand[s.index], 0)[:, s.h_at :]
        first.zero_()
        first[:, : s.size] = leaves[0]
        wide = torch.zeros(B, s.width, device=device)
        wide[:, : s.size] = leaves[-1]
        held.wide0.append(wide)
    return held


def _next_operand(held: Held, s: Step, steps: Sequence[Step], t: int) -> Tensor:
    """The place where this node's h is read as a state: (B, width), in the operand of the next node of its slot."""
    after = steps[s.after]
    return at(held.operand[s.after], t + 1 if s.last else t)[:, after.h_at :]


def _step(setting: Setting, given: Given, held: Held, whole: Tensor | None, s: Step, t: int, y: Tensor) -> None:
    """The fused kernel of node s at step t, and the copies for additional readers."""
    steps, n = setting.steps, s.index
    z = at(held.z[n], t)
    h = _next_operand(held, s, steps, t)
    read = at(held.operand[s.readers[0]], t) if s.readers else h
    key = z if given.key is None else given.key
    ops.launch(
        f"{s.cell.name}_forward",
        (setting.B,),
        z, given.vectors[n], at(held.operand[n], t)[:, s.h_at :], old_wide(held, s, t), at(held.wide[n], t), h,
        z if whole is None else whole, read, y[t], at(held.stats[n], t) if s.norm else z,
        z if given.ends is None else given.ends,
        z if given.reset is None else given.reset[t + 1], key,
        setting.first_step + t, t, setting.first_row, *setting.masks(s), NORM_EPSILON,
        s.columns, h.stride(0), read.stride(0),
        **setting.constants(s, given), WHOLE=whole is not None, OUT=s.output,
        DEPENDENT=setting.options.dependent_launch, warps=setting.warps(s.width),
        dependent=setting.options.dependent_launch,
    )  # fmt: skip
    for reader in s.readers[1:]:
        source = h if whole is None else whole
        setting.drop_copy(source, at(held.operand[reader], t), key, t, reader, s.size, s.width)


def _halves(s: Step, matrix: Tensor, operand: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The columns of operand and matrix for the half that can start early, and for the other half."""
    x = (operand[:, : s.h_at], matrix[:, : s.h_at])
    h = (operand[:, s.h_at :], matrix[:, s.h_at :])
    return (h, x) if s.h_is_early else (x, h)


def _loop(setting: Setting, given: Given, held: Held, y: Tensor) -> None:
    steps, T, overlap = setting.steps, setting.T, setting.options.overlap
    side = ops.SideStream(y.device, overlap)
    whole: list[Tensor | None] = []
    """By node: a buffer for h where additional readers need it and the stored state may be reset."""
    for s in steps:
        needed = given.reset is not None and s.last and len(s.readers) > 1
        whole.append(torch.empty(setting.B, s.width, dtype=setting.kind, device=y.device) if needed else None)

    def early(s: Step, t: int) -> None:
        matrix = held.matrix[s.index]
        assert matrix is not None
        (operand, half), _ = _halves(s, matrix, at(held.operand[s.index], t))
        with side.start(s.index):
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
                side.wait(s.index)
                _, (operand, half) = _halves(s, matrix, operand)
                z.addmm_(operand, half.t())
            else:
                ops.product(operand, matrix.t(), z)
            _step(setting, given, held, whole[s.index], s, t, y)
            for r in steps if overlap else ():
                if r.reads_node and r.early == s.index:
                    when = t + 1 if r.h_is_early and r.first else t
                    if when < T:
                        early(r, when)


def forward(
    setting: Setting, given: Given, weights: Sequence[Any], x: Tensor, state: States, keep: bool
) -> tuple[Tensor, list[Tensor], Held]:
    """y (T, B, H), the leaves of the final states, and what the backward pass needs (only if `keep`)."""
    held = _prepare(setting, given, weights, x, state, keep)
    output = setting.steps[setting.wiring.output_index]
    y = torch.empty(setting.T, setting.B, output.size, dtype=x.dtype, device=x.device)
    _loop(setting, given, held, y)
    final = []
    for slot in range(len(setting.wiring.slots)):
        first = next(s for s in setting.steps if s.slot == slot)
        if first.has_c:
            h = at(held.operand[first.index], setting.T)[:, first.h_at : first.h_at + first.size]
            final.append(h.to(x.dtype, copy=True))
        final.append(at(held.wide[first.before], setting.T - 1)[:, : first.size].to(x.dtype, copy=True))
    return y, final, held
