"""One window on the device: a library product and one fused kernel a cell step, forward and backward.

The equations and the hand-derived backward pass are those of `fastslow.cells.lstm`; kernels.py has them a row at a
time. This file has the loops over time and what stands before and after them:

    before    matrices cast and padded, once a window; x dropped; the products W_x x of nodes that read x, all T at once
    forward   a step of a node: z = [x, h] [W_x, W_h]^T, then `step_forward`, which writes h and its dropped copy
              straight into the operands of the products that read them
    backward  a step of a node: `step_backward` leaves dz, then dz [W_x, W_h] is the gradient of [x, h]
    after     a chunk of steps: weight gradients dz^T [x, h] as one product, bias and norm gradients as column sums

Precision: with bfloat16, matrices, x, h, z, dz and dn are bfloat16, products accumulate in float32 and those of the
backward pass are kept so; c, dc, dh, statistics, nonlinearities, weights and their gradients are float32.

Memory held for the backward pass, a node, in entries a step and stream: 4H (z) + H (c, float32) + [x, h] + 16.

Predicted, not measured (one H200, bfloat16, PTB FS-LSTM-2: 700/400, B 128, T 150, 900 dependent cell steps): a product
of 128 rows takes 4 to 5 us, bounded by latency; a fused kernel, one row a program, 2 to 3 us; the two gaps between
dependent kernels of a graph about 1 us each. So 8 to 10 us a dependent step, 8 to 9 ms of 10 to 12 ms an iteration:
1.6 to 1.9 M characters a second. `overlap` shortens K of the products on the path from 700, 1100, 1100 to 700, 700,
400: predicted gain 5 to 10%. `dependent_launch` hides part of one gap: 0.5 us a step. Weights resident in a
persistent kernel would leave 3 to 4 us a step; such a kernel would replace the two loops here (`_forward_loop`,
`_backward_loop`) and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.base import Rates, States
from fastslow.backends.fused.gpu.options import Options
from fastslow.backends.fused.gpu.plan import Step
from fastslow.cells.lstm import NORM_EPSILON, CellWeights
from fastslow.noise import dropout_threshold, zoneout_threshold
from fastslow.state import LSTMState
from fastslow.wiring import FROM_INPUT, Wiring

STATS = 16
"""Width of a row of saved statistics, `kernels.STATS`."""
SPLITS = 8
"""Parts in which column sums are first made."""


# ---------------------------------------------------------------------------------------------------- small tools


def launch(
    kernel: str, grid: tuple[int, ...], *args: Any, warps: int, dependent: bool = False, **constants: Any
) -> None:
    """Start a kernel of kernels.py: every launch of the engine passes here."""
    from fastslow.backends.fused.gpu import kernels

    options = {"num_warps": warps, **({"launch_pdl": True} if dependent else {})}
    getattr(kernels, kernel)[grid](*args, **constants, **options)


@lru_cache
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, that is, on the CPU and step by step."""
    import triton

    return bool(triton.knobs.runtime.interpret)


def block(size: int) -> int:
    """The smallest power of two that holds `size` units; at least 16."""
    return max(16, 1 << (size - 1).bit_length())


@lru_cache
def wide_products(device: torch.device) -> bool:
    """Whether this torch multiplies bfloat16 into float32 on the device (tried once, before any capture)."""
    if device.type != "cuda":
        return True
    a = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
    try:
        wide = torch.mm(a, a, out_dtype=torch.float32, out=torch.empty(16, 16, device=device))
    except (RuntimeError, TypeError):
        return False
    return bool(wide[0, 0] == 16.0)


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a b, for operands of one type and an out of that type or of float32."""
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32, out=out)
    return torch.mm(a.float(), b.float(), out=out)  # only tests come here


def add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """total + a b in float32, in place."""
    if a.dtype == torch.float32:
        return torch.mm(a, b) if total is None else total.addmm_(a, b)
    if a.is_cuda and wide_products(a.device):
        new = torch.mm(a, b, out_dtype=torch.float32)
    else:
        new = torch.mm(a, b).float()
    return new if total is None else total.add_(new)


class Beside:
    """A second stream for products that nothing waits for yet; on a CPU, or switched off, the same stream."""

    def __init__(self, device: torch.device, on: bool) -> None:
        self.stream = _side_stream(device) if on and device.type == "cuda" else None
        self.pending: dict[int, torch.cuda.Event] = {}

    @contextlib.contextmanager
    def start(self, node: int) -> Iterator[None]:
        """Work on the second stream, after all that has been asked of the first; `wait(node)` waits for it."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
            self.pending[node] = self.stream.record_event()

    def wait(self, node: int) -> None:
        event = self.pending.pop(node, None)
        if event is not None:
            torch.cuda.current_stream().wait_event(event)

    def join(self) -> None:
        for node in list(self.pending):
            self.wait(node)


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


# ---------------------------------------------------------------------------------------------------- what is held


@dataclass
class Held:
    """Tensors of a window, by node unless said; `None` where a node has no such thing.

    matrix (4 width, columns), matrix_x (4 width, x_width): padded, cast weights: of the product inside the loop, and of
        the one before it.
    x (T B, x_width): the dropped input of nodes that read x.
    operand (steps + 1, B, columns): [x, h] or h, what the products inside the loop read; of a slot's first node, entry
        T is the final state.
    z (steps, B, 4 width), c (steps, B, width), stats (steps, B, STATS).
    c0: by slot, the initial c, (B, width).
    bias, gate_gain, gate_shift, cell_gain, cell_shift: float32, contiguous.
    ends: (B,) lengths on the device. key: the noise's. Each a list of at most one.
    """

    matrix: list[Tensor | None]
    matrix_x: list[Tensor | None]
    x: list[Tensor | None]
    operand: list[Tensor | None]
    z: list[Tensor | None]
    c: list[Tensor | None]
    stats: list[Tensor | None]
    c0: list[Tensor | None]
    bias: list[Tensor | None]
    gate_gain: list[Tensor | None]
    gate_shift: list[Tensor | None]
    cell_gain: list[Tensor | None]
    cell_shift: list[Tensor | None]
    ends: list[Tensor | None]
    key: list[Tensor | None]

    def flat(self) -> list[Tensor | None]:
        return [tensor for part in fields(self) for tensor in getattr(self, part.name)]

    def counts(self) -> tuple[int, ...]:
        return tuple(len(getattr(self, part.name)) for part in fields(self))

    @classmethod
    def unflat(cls, counts: tuple[int, ...], tensors: Sequence[Tensor | None]) -> Held:
        lists, at = [], 0
        for count in counts:
            lists.append(list(tensors[at : at + count]))
            at += count
        return cls(*lists)


def at(buffer: Tensor | None, t: int) -> Tensor:
    """Entry t of a buffer of every step, or of one that keeps the last few."""
    assert buffer is not None
    return buffer[t % buffer.shape[0]]


@dataclass(frozen=True)
class Setting:
    """What forward and backward of one window share besides tensors."""

    wiring: Wiring
    steps: tuple[Step, ...]
    T: int
    B: int
    rates: Rates
    random: bool
    first_step: int
    first_row: int
    kind: torch.dtype
    options: Options
    norm: bool

    @property
    def zone(self) -> int:
        rates = self.rates
        if rates.zoneout_h == rates.zoneout_c == 0:
            return 0
        return 1 if self.random else 2

    @property
    def drop(self) -> bool:
        return self.random and self.rates.dropout > 0

    @property
    def scale(self) -> float:
        rate = self.rates.dropout
        return 0.0 if rate == 1 else 1 / (1 - rate)

    def warps(self, size: int) -> int:
        return max(1, min(16, block(size) // (32 * self.options.units_per_thread)))

    def masks(self, s: Step) -> tuple[int | float, ...]:
        """Arguments of a kernel from `zone_site` to `scale`."""
        site = self.wiring.input_site(s.readers[0]) if s.readers else 0
        return (
            self.wiring.zoneout_site(s.index),
            site,
            self.wiring.output_site,
            zoneout_threshold(self.rates.zoneout_h),
            zoneout_threshold(self.rates.zoneout_c),
            float(self.rates.zoneout_h),
            float(self.rates.zoneout_c),
            dropout_threshold(self.rates.dropout),
            self.scale,
        )

    def constants(self, s: Step, held: Held) -> dict[str, Any]:
        return {
            "H": s.size,
            "HP": s.width,
            "BLOCK": block(s.width),
            "NORM": self.norm,
            "BIAS": held.bias[s.index] is not None,
            "ZONE": self.zone,
            "READ": bool(s.readers),
            "DROP": self.drop,
            "ENDS": bool(held.ends),
            "DEPENDENT": self.options.dependent_launch,
            "TOGETHER": not interpreted(),
        }

    def drop_copy(self, source: Tensor, target: Tensor, key: Tensor, step: int, reader: int, units: int, width: int,
                  add: bool = False) -> None:  # fmt: skip
        """target (+)= source with the dropout of what node `reader` reads, rows of whole steps from `step` on."""
        size = block(max(units, width))
        launch(
            "drop_copy",
            (source.shape[0],),
            source, target, key, self.first_step + step, self.first_row, self.B, self.wiring.input_site(reader),
            dropout_threshold(self.rates.dropout), self.scale, source.stride(0), target.stride(0),
            UNITS=units, WIDTH=width, BLOCK=size, DROP=self.drop, ADD=add, warps=self.warps(size),
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- forward


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
            product(read, matrix.t(), z.view(T * B, -1))
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


def _old_c(held: Held, s: Step, t: int) -> Tensor:
    if not s.first:
        return at(held.c[s.before], t)
    if t == 0:
        c0 = held.c0[s.slot]
        assert c0 is not None
        return c0
    return at(held.c[s.before], t - 1)


def _forward_step(setting: Setting, held: Held, s: Step, t: int, y: Tensor) -> None:
    """The fused kernel of node s at step t, and the copies for further readers."""
    steps, n = setting.steps, s.index
    z = at(held.z[n], t)
    h = _next_operand(held, s, steps, t)
    read = at(held.operand[s.readers[0]], t) if s.readers else h
    key = held.key[0] if held.key[0] is not None else z

    def given(parts: list[Tensor | None]) -> Tensor:
        part = parts[n]
        return z if part is None else part

    launch(
        "step_forward",
        (setting.B,),
        z, given(held.bias), given(held.gate_gain), given(held.gate_shift), given(held.cell_gain),
        given(held.cell_shift), at(held.operand[n], t)[:, s.h_at :], _old_c(held, s, t), at(held.c[n], t), h, read,
        y[t], at(held.stats[n], t), held.ends[0] if held.ends else z, key,
        setting.first_step + t, t, setting.first_row, *setting.masks(s), setting.rates.forget_bias, NORM_EPSILON,
        s.columns, h.stride(0), read.stride(0),
        **setting.constants(s, held), OUT=s.output, warps=setting.warps(s.width),
        dependent=setting.options.dependent_launch,
    )  # fmt: skip
    for reader in s.readers[1:]:
        setting.drop_copy(h, at(held.operand[reader], t), key, t, reader, s.size, s.width)


def _halves(s: Step, matrix: Tensor, operand: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(operand, matrix) columns of the half that can start early, and of the other."""
    x = (operand[:, : s.h_at], matrix[:, : s.h_at])
    h = (operand[:, s.h_at :], matrix[:, s.h_at :])
    return (h, x) if s.h_is_early else (x, h)


def _forward_loop(setting: Setting, held: Held, y: Tensor) -> None:
    steps, T, overlap = setting.steps, setting.T, setting.options.overlap
    beside = Beside(y.device, overlap)

    def early(s: Step, t: int) -> None:
        matrix = held.matrix[s.index]
        assert matrix is not None
        (operand, half), _ = _halves(s, matrix, at(held.operand[s.index], t))
        with beside.start(s.index):
            product(operand, half.t(), at(held.z[s.index], t))

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
                product(operand, matrix.t(), z)
            _forward_step(setting, held, s, t, y)
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
    _forward_loop(setting, held, y)
    final = []
    for slot in range(len(setting.wiring.slots)):
        first = next(s for s in setting.steps if s.slot == slot)
        h = at(held.operand[first.index], setting.T)[:, first.h_at : first.h_at + first.size]
        c = at(held.c[first.before], setting.T - 1)[:, : first.size]
        final.append(LSTMState(h.to(x.dtype, copy=True), c.to(x.dtype, copy=True)))
    return y, tuple(final), held


# ---------------------------------------------------------------------------------------------------- backward


@dataclass
class Gradients:
    """What the backward pass makes. By node: matrix (4 width, columns), matrix_x (4 width, x_width), sums (SPLITS, 3 or
    1, 4 width) and cell (SPLITS, 2 width); by slot: dh and dc (B, width)."""

    x: Tensor | None
    dh: list[Tensor]
    dc: list[Tensor]
    matrix: list[Tensor | None]
    matrix_x: list[Tensor | None]
    sums: list[Tensor | None]
    cell: list[Tensor | None]


@dataclass
class Passing:
    """Buffers of the loop, by node. dz, dn (chunk, B, 4 width), cell (chunk, B, 2 width).

    joint (B, columns): dz [W_x, W_h], of which dx (B, x_width) and dh (B, width), the gradients of what the node reads
    and of the state it takes, are the columns - unless the two are computed apart.
    """

    dz: list[Tensor]
    dn: list[Tensor]
    cell: list[Tensor]
    dx: list[Tensor]
    dh: list[Tensor]
    joint: list[Tensor]


def _passing(setting: Setting, chunk: int, device: torch.device) -> Passing:
    B, kind = setting.B, setting.kind
    wide = torch.float32 if wide_products(device) else kind
    made = Passing([], [], [], [], [], [])
    for s in setting.steps:
        made.dz.append(torch.empty(chunk, B, 4 * s.width, dtype=kind, device=device))
        made.dn.append(torch.empty_like(made.dz[-1]) if setting.norm else made.dz[-1])
        made.cell.append(torch.empty(chunk, B, 2 * s.width if setting.norm else 1, dtype=kind, device=device))
        joint = torch.empty(B, s.columns, dtype=wide, device=device)
        made.joint.append(joint)
        if setting.options.overlap and s.reads_node:
            made.dx.append(torch.empty(B, s.x_width, dtype=wide, device=device))
            made.dh.append(torch.empty(B, s.width, dtype=wide, device=device))
        else:
            made.dx.append(joint[:, : s.h_at])
            made.dh.append(joint[:, s.h_at :])
    return made


def _backward_step(
    setting: Setting, held: Held, passing: Passing, grads: Gradients, s: Step, t: int, place: int, dy: Tensor | None
) -> None:
    """The fused kernel of node s at step t; `place` is the step's entry in the chunk's buffers."""
    n = s.index
    z = at(held.z[n], t)
    key = held.key[0] if held.key[0] is not None else z
    further = None
    for reader in s.readers[1:]:
        add = further is not None
        further = torch.empty(setting.B, s.width, device=z.device) if further is None else further
        setting.drop_copy(passing.dx[reader], further, key, t, reader, s.size, s.width, add=add)
    carried = not (s.last and t == setting.T - 1)
    carry = passing.dh[s.after]
    read = passing.dx[s.readers[0]] if s.readers else carry

    def given(parts: list[Tensor | None]) -> Tensor:
        part = parts[n]
        return z if part is None else part

    launch(
        "step_backward",
        (setting.B,),
        z, given(held.bias), given(held.gate_gain), given(held.gate_shift), given(held.cell_gain),
        given(held.cell_shift), _old_c(held, s, t), at(held.stats[n], t), carry, read,
        carry if further is None else further, carry if dy is None else dy[t], grads.dh[s.slot], grads.dc[s.slot],
        passing.dz[n][place], passing.dn[n][place], passing.cell[n][place], held.ends[0] if held.ends else z, key,
        setting.first_step + t, t, setting.first_row, *setting.masks(s), setting.rates.forget_bias,
        carry.stride(0), read.stride(0),
        **setting.constants(s, held), CARRY=carried, EXTRA=further is not None, OUT=s.output and dy is not None,
        warps=setting.warps(s.width), dependent=setting.options.dependent_launch,
    )  # fmt: skip


def _backward_loop(setting: Setting, held: Held, grads: Gradients, dy: Tensor | None, want: Wanted) -> None:
    steps, T = setting.steps, setting.T
    device = grads.dh[0].device
    chunk = max(1, min(T, setting.options.chunk_rows // setting.B))
    passing = _passing(setting, chunk, device)
    beside = Beside(device, setting.options.overlap)
    for end in range(T, 0, -chunk):
        start = max(0, end - chunk)
        for t in range(end - 1, start - 1, -1):
            for s in reversed(steps):
                for r in steps:
                    if r.reads_node and r.early == s.index:
                        beside.wait(r.index)
                _backward_step(setting, held, passing, grads, s, t, t - start, dy)
                matrix, dz = held.matrix[s.index], passing.dz[s.index][t - start]
                assert matrix is not None
                if setting.options.overlap and s.reads_node:
                    halves = (passing.dx[s.index], matrix[:, : s.h_at]), (passing.dh[s.index], matrix[:, s.h_at :])
                    (soon, soon_half), (late, late_half) = halves if s.h_is_early else halves[::-1]
                    with beside.start(s.index):
                        product(dz, late_half, late)
                    product(dz, soon_half, soon)
                else:
                    product(dz, matrix, passing.joint[s.index])
        beside.join()
        for s in steps:
            _after_chunk(setting, held, passing, grads, s, start, end, want)
    for s in steps:
        if s.first:
            grads.dh[s.slot] += passing.dh[s.index]


@dataclass(frozen=True)
class Wanted:
    """Which gradients are asked for: of x, and by node of any matrix, of any other parameter."""

    x: bool
    matrices: tuple[bool, ...]
    vectors: tuple[bool, ...]


def _after_chunk(
    setting: Setting, held: Held, passing: Passing, grads: Gradients, s: Step, start: int, end: int, want: Wanted
) -> None:
    """Gradients of weights, of norms and of x from steps start .. end of node s."""
    n, B = s.index, setting.B
    rows = (end - start) * B
    dz = passing.dz[n][: end - start].view(rows, -1)
    operand, read, matrix_x = held.operand[n], held.x[n], held.matrix_x[n]
    assert operand is not None
    if want.matrices[n]:
        grads.matrix[n] = add_product(grads.matrix[n], dz.t(), operand[start:end].view(rows, -1))
        if read is not None:
            grads.matrix_x[n] = add_product(grads.matrix_x[n], dz.t(), read[start * B : end * B])
    if want.x and matrix_x is not None and grads.x is not None:
        kind = torch.float32 if wide_products(dz.device) else dz.dtype
        of_x = product(dz, matrix_x, torch.empty(rows, s.x_width, dtype=kind, device=dz.device))
        target = grads.x[start:end].view(rows, -1)
        key = held.key[0] if held.key[0] is not None else dz
        setting.drop_copy(of_x, target, key, start, n, s.x_size, s.x_size, add=True)
    if not want.vectors[n]:
        return
    each = -(-rows // SPLITS)

    def columns(values: Tensor, sums: Tensor) -> None:
        width = values.shape[-1]
        grid = (-(-width // 64), SPLITS)
        launch("column_sums", grid, values, sums, rows, WIDTH=width, EACH=each, ROWS=16, COLUMNS=64, warps=4)

    sums, cell = grads.sums[n], grads.cell[n]
    assert sums is not None
    if not setting.norm:
        columns(dz, sums)
        return
    assert cell is not None
    z, stats, bias = held.z[n], held.stats[n], held.bias[n]
    assert z is not None
    assert stats is not None
    launch(
        "norm_sums",
        (-(-4 * s.width // 64), SPLITS),
        dz, passing.dn[n], z[start:end], z if bias is None else bias, stats[start:end], sums, rows,
        H=s.size, HP=s.width, BIAS=bias is not None, EACH=each, ROWS=16, COLUMNS=64, warps=4,
    )  # fmt: skip
    columns(passing.cell[n][: end - start].view(rows, -1), cell)


def backward(
    setting: Setting, held: Held, dy: Tensor | None, dfinal: Sequence[Tensor | None], want: Wanted
) -> Gradients:
    """Gradients from those of y (T, B, H) and of the final state (h and c of every slot; None: zero)."""
    T, B, steps = setting.T, setting.B, setting.steps
    device = next(z.device for z in held.z if z is not None)
    grads = Gradients(None, [], [], [], [], [], [])
    if want.x:
        x_size = next(s.x_size for s in steps if s.source == FROM_INPUT)
        grads.x = torch.zeros(T, B, x_size, device=device)
    for slot in range(len(setting.wiring.slots)):
        s = next(s for s in steps if s.slot == slot)
        for into, given in ((grads.dh, dfinal[2 * slot]), (grads.dc, dfinal[2 * slot + 1])):
            into.append(torch.zeros(B, s.width, device=device))
            if given is not None:
                into[-1][:, : s.size] = given
    for s in steps:
        vectors = want.vectors[s.index]
        grads.matrix.append(None)
        grads.matrix_x.append(None)
        rows = 3 if setting.norm else 1
        grads.sums.append(torch.zeros(SPLITS, rows, 4 * s.width, device=device) if vectors else None)
        grads.cell.append(torch.zeros(SPLITS, 2 * s.width, device=device) if vectors and setting.norm else None)
    passing_dy = None if dy is None else dy.contiguous()
    _backward_loop(setting, held, grads, passing_dy, want)
    return grads
