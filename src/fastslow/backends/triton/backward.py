"""The backward pass of a window; see window.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastslow.backends.triton import ops
from fastslow.backends.triton.plan import Step
from fastslow.backends.triton.window import Given, Held, Setting, at, old_wide
from fastslow.wiring import FROM_INPUT

SPLITS, SUMMED = 32, 16
"""For column sums: the largest number of partial sums, and the number of rows added at a time."""


@dataclass
class Gradients:
    """The results of the backward pass. By node: matrix (z_width, columns), matrix_x (z_width, x_width), sums (splits,
    3 or 1, z_width) and own (splits, blocks width); by slot: dh and dc (B, width), the latter even without a c."""

    x: Tensor | None
    dh: list[Tensor]
    dc: list[Tensor]
    matrix: list[Tensor | None]
    matrix_x: list[Tensor | None]
    sums: list[Tensor | None]
    own: list[Tensor | None]


@dataclass
class Passing:
    """Buffers of the loop, by node. dz, dn (chunk, B, z_width), own (chunk, B, blocks width).

    joint (parts, B, columns): dz [W_x, W_h] as partial sums. Its columns are dx (parts, B, x_width) and dh (parts, B,
    width), the gradients of the node's input and of the state that it reads, unless the two are computed separately.
    """

    dz: list[Tensor]
    dn: list[Tensor]
    own: list[Tensor]
    dx: list[Tensor]
    dh: list[Tensor]
    joint: list[Tensor]


def _passing(setting: Setting, chunk: int, device: torch.device) -> Passing:
    B, kind = setting.B, setting.kind
    wide = torch.float32 if setting.options.own_products or ops.wide_products(device) else kind
    made = Passing([], [], [], [], [], [])
    for s in setting.steps:
        parts = setting.parts(s)
        made.dz.append(torch.empty(chunk, B, s.z_width, dtype=kind, device=device))
        made.dn.append(torch.empty_like(made.dz[-1]) if s.norm else made.dz[-1])
        made.own.append(torch.empty(chunk, B, s.own * s.width, dtype=kind, device=device) if s.own else made.dz[-1])
        joint = torch.empty(parts, B, s.columns, dtype=wide, device=device)
        made.joint.append(joint)
        if setting.options.overlap and s.reads_node:
            made.dx.append(torch.empty(parts, B, s.x_width, dtype=wide, device=device))
            made.dh.append(torch.empty(parts, B, s.width, dtype=wide, device=device))
        else:
            made.dx.append(joint[..., : s.h_at])
            made.dh.append(joint[..., s.h_at :])
    return made


def _step(
    setting: Setting,
    given: Given,
    held: Held,
    passing: Passing,
    grads: Gradients,
    s: Step,
    t: int,
    place: int,
    dy: Tensor | None,
) -> None:
    """The fused kernel of node s at step t; `place` is the step's entry in the chunk's buffers."""
    n = s.index
    z = at(held.z[n], t)
    key = z if given.key is None else given.key
    further = None
    for reader in s.readers[1:]:
        add = further is not None
        further = torch.empty(setting.B, s.width, device=z.device) if further is None else further
        setting.drop_copy(passing.dx[reader], further, key, t, reader, s.size, s.width, add=add)
    carried = not (s.last and t == setting.T - 1)
    # The first kernel has no product before it: its inputs may not be complete yet.
    dependent = setting.options.dependent_launch and not (t == setting.T - 1 and n == len(setting.steps) - 1)
    carry = passing.dh[s.after]
    read = passing.dx[s.readers[0]] if s.readers else carry
    dh = grads.dh[s.slot]
    dc = grads.dc[s.slot] if s.has_c else dh
    ops.launch(
        f"{s.cell.name}_backward",
        (setting.B,),
        z, given.vectors[n], old_wide(held, s, t), at(held.stats[n], t) if s.norm else z, carry, read,
        carry if further is None else further, carry if dy is None else dy[t], dh, dc,
        passing.dz[n][place], passing.dn[n][place], passing.own[n][place], z if given.ends is None else given.ends,
        z if given.reset is None else given.reset[t + 1], key,
        setting.first_step + t, t, setting.first_row, *setting.masks(s),
        carry.stride(1), carry.stride(0), read.stride(1), read.stride(0),
        **setting.constants(s, given), CARRY=carried, CARRY_PARTS=carry.shape[0], READ_PARTS=read.shape[0],
        EXTRA=further is not None, OUT=s.output and dy is not None, DEPENDENT=dependent,
        warps=setting.warps(s.width), dependent=dependent,
    )  # fmt: skip


def _chunk(setting: Setting) -> int:
    """The number of steps whose dz are stored before weight gradients are computed from them."""
    return max(1, min(setting.T, setting.options.chunk_rows // setting.B))


def _loop(setting: Setting, given: Given, held: Held, grads: Gradients, dy: Tensor | None, want: Wanted) -> None:
    steps, T = setting.steps, setting.T
    device = grads.dh[0].device
    chunk = _chunk(setting)
    passing = _passing(setting, chunk, device)
    side = ops.SideStream(device, setting.options.overlap)
    own, dependent = setting.options.own_products, setting.options.dependent_launch

    def product(dz: Tensor, matrix: Tensor, out: Tensor) -> None:
        if own:
            ops.own_products(dz, matrix, out, dependent=dependent)
        else:
            ops.gate_products(dz, matrix, out)

    for end in range(T, 0, -chunk):
        start = max(0, end - chunk)
        for t in range(end - 1, start - 1, -1):
            for s in reversed(steps):
                for r in steps:
                    if r.reads_node and r.early == s.index:
                        side.wait(r.index)
                _step(setting, given, held, passing, grads, s, t, t - start, dy)
                matrix, dz = held.matrix[s.index], passing.dz[s.index][t - start]
                assert matrix is not None
                if setting.options.overlap and s.reads_node:
                    halves = (passing.dx[s.index], matrix[:, : s.h_at]), (passing.dh[s.index], matrix[:, s.h_at :])
                    (soon, soon_half), (late, late_half) = halves if s.h_is_early else halves[::-1]
                    with side.start(s.index):
                        product(dz, late_half, late)
                    product(dz, soon_half, soon)
                else:
                    product(dz, matrix, passing.joint[s.index])
        side.join()
        for s in steps:
            _after_chunk(setting, given, held, passing, grads, s, start, end, want)
    for s in steps:
        if s.first:
            grads.dh[s.slot] += passing.dh[s.index].sum(0)
    if given.reset is not None:
        started = given.reset[0].bool().unsqueeze(1)
        for grad in (*grads.dh, *grads.dc):
            grad.masked_fill_(started, 0)


@dataclass(frozen=True)
class Wanted:
    """Which gradients are wanted: of x, and for each node, of any matrix and of any other parameter."""

    x: bool
    matrices: tuple[bool, ...]
    vectors: tuple[bool, ...]


def _after_chunk(
    setting: Setting,
    given: Given,
    held: Held,
    passing: Passing,
    grads: Gradients,
    s: Step,
    start: int,
    end: int,
    want: Wanted,
) -> None:
    """Gradients of weights, of norms and of x from steps start .. end of node s."""
    n, B = s.index, setting.B
    rows = (end - start) * B
    dz = passing.dz[n][: end - start].view(rows, -1)
    operand, read, matrix_x = held.operand[n], held.x[n], held.matrix_x[n]
    assert operand is not None
    if want.matrices[n]:
        grads.matrix[n] = ops.add_product(grads.matrix[n], dz.t(), operand[start:end].view(rows, -1))
        if read is not None:
            grads.matrix_x[n] = ops.add_product(grads.matrix_x[n], dz.t(), read[start * B : end * B])
    if want.x and matrix_x is not None and grads.x is not None:
        kind = torch.float32 if ops.wide_products(dz.device) else dz.dtype
        of_x = ops.product(dz, matrix_x, torch.empty(rows, s.x_width, dtype=kind, device=dz.device))
        target = grads.x[start:end].view(rows, -1)
        key = dz if given.key is None else given.key
        setting.drop_copy(of_x, target, key, start, n, s.x_size, s.x_size, add=True)
    if not want.vectors[n]:
        return
    sums, own = grads.sums[n], grads.own[n]
    assert sums is not None
    splits = sums.shape[0]
    each = -(-rows // splits)

    def columns(values: Tensor, sums: Tensor) -> None:
        width = values.shape[-1]
        grid = (-(-width // 64), splits)
        ops.launch("column_sums", grid, values, sums, rows, WIDTH=width, EACH=each, ROWS=SUMMED, COLUMNS=64, warps=4)

    if not s.norm:
        columns(dz, sums)
        return
    z, stats = held.z[n], held.stats[n]
    assert z is not None
    assert stats is not None
    ops.launch(
        "norm_sums",
        (-(-s.z_width // 64), splits),
        dz, passing.dn[n], z[start:end], given.vectors[n], stats[start:end], sums, rows,
        H=s.size, HP=s.width, BLOCKS=s.blocks, BIAS=setting.bias(s), EACH=each, ROWS=SUMMED, COLUMNS=64, warps=4,
    )  # fmt: skip
    if own is not None:
        columns(passing.own[n][: end - start].view(rows, -1), own)


def backward(
    setting: Setting, given: Given, held: Held, dy: Tensor | None, dfinal: Sequence[Tensor | None], want: Wanted
) -> Gradients:
    """The gradients, given those of y (T, B, H) and of the final states (their leaves, slot by slot; None: zero)."""
    T, B, steps = setting.T, setting.B, setting.steps
    device = given.vectors[0].device
    grads = Gradients(None, [], [], [], [], [], [])
    if want.x:
        x_size = next(s.x_size for s in steps if s.source == FROM_INPUT)
        grads.x = torch.zeros(T, B, x_size, device=device)
    arrived = iter(dfinal)
    for slot in range(len(setting.wiring.slots)):
        s = next(s for s in steps if s.slot == slot)
        for into, there in ((grads.dh, True), (grads.dc, s.has_c)):
            into.append(torch.zeros(B, s.width, device=device))
            final = next(arrived) if there else None
            if final is not None:
                into[-1][:, : s.size] = final
    splits = max(1, min(SPLITS, _chunk(setting) * B // SUMMED))
    for s in steps:
        vectors = want.vectors[s.index]
        grads.matrix.append(None)
        grads.matrix_x.append(None)
        rows = 3 if s.norm else 1
        grads.sums.append(torch.zeros(splits, rows, s.z_width, device=device) if vectors else None)
        grads.own.append(torch.zeros(splits, s.own * s.width, device=device) if vectors and s.own else None)
    _loop(setting, given, held, grads, None if dy is None else dy.contiguous(), want)
    return grads
