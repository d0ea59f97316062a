"""Functions that the kernels of all cells share: masks, norms, writing a row's h, and collecting its gradient.

Importing this file imports triton. The random bits are those of `fastslow.noise`. The key is loaded from memory, so
that a replayed graph uses the key of its replay.
"""

# Kernels are compiled by triton, not by Python; their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

STATS = tl.constexpr(16)
"""Width of a row of saved statistics: means in 0..7, reciprocal standard deviations in 8..15."""

# ---------------------------------------------------------------------------------------------------- masks


@triton.jit
def _mix(x):
    x ^= x >> 16
    x *= 0x21F0AAAD
    x ^= x >> 15
    x *= 0x735A2D97
    x ^= x >> 15
    return x


@triton.jit
def bits_of(key_ptr, step, site, row, unit):
    """`fastslow.noise`: bits(key, step, site, row, unit), uint32; step, site and row are int32 scalars."""
    key = tl.load(key_ptr)
    low = (key & 0xFFFFFFFF).to(tl.uint32)
    high = ((key >> 32) & 0xFFFFFFFF).to(tl.uint32)
    site = site.to(tl.uint32)
    step = step.to(tl.uint32)
    row = row.to(tl.uint32)
    a = _mix(row + _mix(step + _mix(site + _mix(low))))
    b = _mix(row ^ _mix(step ^ _mix(site ^ _mix(high + 0x9E3779B9))))
    u = unit.to(tl.uint32) * 0x9E3779B9 + a
    u ^= u >> 16
    u *= 0x21F0AAAD
    u ^= u >> 15
    u += b
    u *= 0x735A2D97
    u ^= u >> 16
    return u


@triton.jit
def dropout(key_ptr, step, site, row, unit, drop, scale):
    """The dropout factor: `scale` where a unit is kept, 0 where it is dropped."""
    bits = bits_of(key_ptr, step, site, row, unit)
    return tl.where((bits >> 8).to(tl.int32) >= drop, scale, 0.0)


@triton.jit
def updates(key_ptr, step, site, row, unit, zone_h, zone_c, ZONE: tl.constexpr):
    """True where h, and where c, take the new value; unused without masks."""
    update_h, update_c = True, True
    if ZONE == 1:
        bits = bits_of(key_ptr, step, site, row, unit)
        update_h = (bits & 0xFFFF).to(tl.int32) >= zone_h
        update_c = (bits >> 16).to(tl.int32) >= zone_c
    return update_h, update_c


@triton.jit
def apply_zoneout(new, old, update, rate, running, ZONE: tl.constexpr, ENDS: tl.constexpr):
    """The value of a unit after the step: applies zoneout, and keeps the old value in a row that has ended."""
    if ZONE == 1:
        new = tl.where(update, new, old)
    if ZONE == 2:
        new = (1.0 - rate) * new + rate * old
    if ENDS:
        new = tl.where(running, new, old)
    return new


@triton.jit
def zoneout_backward(grad, update, rate, running, ZONE: tl.constexpr, ENDS: tl.constexpr):
    """The backward of `apply_zoneout`: the gradients of the new and of the old value."""
    new, old = grad, tl.zeros_like(grad)
    if ZONE == 1:
        new, old = tl.where(update, grad, 0.0), tl.where(update, 0.0, grad)
    if ZONE == 2:
        new, old = (1.0 - rate) * grad, rate * grad
    if ENDS:
        new, old = tl.where(running, new, 0.0), tl.where(running, old, grad)
    return new, old


@triton.jit
def is_running(lengths_ptr, row, t, ENDS: tl.constexpr):
    """Whether the row has not ended yet."""
    running = True
    if ENDS:
        running = tl.load(lengths_ptr + row) > t
    return running


@triton.jit
def is_reset(reset_ptr, row, RESETS: tl.constexpr):
    """Whether the row's state is set to zero before the next step."""
    reset = False
    if RESETS:
        reset = tl.load(reset_ptr + row) != 0
    return reset


@triton.jit
def zero_if(reset, value, RESETS: tl.constexpr):
    """The value, or zeros in a row that is reset."""
    if RESETS:
        value = tl.where(reset, 0.0, value)
    return value


# ---------------------------------------------------------------------------------------------------- arithmetic


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def _add4(a0, a1, a2, a3, b0, b1, b2, b3):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3


@triton.jit
def _sum4(a, b, c, d, TOGETHER: tl.constexpr):
    """Four sums over a row. TOGETHER: in one exchange between warps (too slow in the interpreter)."""
    if TOGETHER:
        return tl.reduce((a, b, c, d), 0, _add4)
    else:  # noqa: RET505 (triton needs both branches of a constant condition)
        return tl.sum(a, 0), tl.sum(b, 0), tl.sum(c, 0), tl.sum(d, 0)


@triton.jit
def load4(ptr, unit, real, APART: tl.constexpr):
    """Four (BLOCK,) float32 from four blocks with distance APART; 0 where not real."""
    a = tl.load(ptr + unit, mask=real, other=0.0).to(tl.float32)
    b = tl.load(ptr + APART + unit, mask=real, other=0.0).to(tl.float32)
    c = tl.load(ptr + 2 * APART + unit, mask=real, other=0.0).to(tl.float32)
    d = tl.load(ptr + 3 * APART + unit, mask=real, other=0.0).to(tl.float32)
    return a, b, c, d


@triton.jit
def store4(ptr, unit, inside, HP: tl.constexpr, a, b, c, d):
    kind = ptr.dtype.element_ty
    tl.store(ptr + unit, a.to(kind), mask=inside)
    tl.store(ptr + HP + unit, b.to(kind), mask=inside)
    tl.store(ptr + 2 * HP + unit, c.to(kind), mask=inside)
    tl.store(ptr + 3 * HP + unit, d.to(kind), mask=inside)


@triton.jit
def load_sum(ptr, unit, real, PARTS: tl.constexpr, stride):
    """(BLOCK,) float32: the sum, in a fixed order, of PARTS rows at distance `stride`; 0 where not real."""
    total = tl.load(ptr + unit, mask=real, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        total += tl.load(ptr + part * stride + unit, mask=real, other=0.0).to(tl.float32)
    return total


# ---------------------------------------------------------------------------------------------------- norms


@triton.jit
def layer_norm4(
    a, b, c, d, gain_a, gain_b, gain_c, gain_d, shift_a, shift_b, shift_c, shift_d, stats, real, epsilon,
    H: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """The layer norm of each of four blocks; their statistics are stored in `stats`."""
    mean_a, mean_b, mean_c, mean_d = _sum4(a, b, c, d, TOGETHER)
    mean_a, mean_b, mean_c, mean_d = mean_a / H, mean_b / H, mean_c / H, mean_d / H
    a = tl.where(real, a - mean_a, 0.0)
    b = tl.where(real, b - mean_b, 0.0)
    c = tl.where(real, c - mean_c, 0.0)
    d = tl.where(real, d - mean_d, 0.0)
    rstd_a, rstd_b, rstd_c, rstd_d = _sum4(a * a, b * b, c * c, d * d, TOGETHER)
    rstd_a = tl.rsqrt(rstd_a / H + epsilon)
    rstd_b = tl.rsqrt(rstd_b / H + epsilon)
    rstd_c = tl.rsqrt(rstd_c / H + epsilon)
    rstd_d = tl.rsqrt(rstd_d / H + epsilon)
    tl.store(stats + 0, mean_a)
    tl.store(stats + 1, mean_b)
    tl.store(stats + 2, mean_c)
    tl.store(stats + 3, mean_d)
    tl.store(stats + 8, rstd_a)
    tl.store(stats + 9, rstd_b)
    tl.store(stats + 10, rstd_c)
    tl.store(stats + 11, rstd_d)
    a = a * rstd_a * gain_a + shift_a
    b = b * rstd_b * gain_b + shift_b
    c = c * rstd_c * gain_c + shift_c
    d = d * rstd_d * gain_d + shift_d
    return a, b, c, d


@triton.jit
def normalised4(a, b, c, d, stats, real):
    """The normalised values of four blocks, from the statistics that `layer_norm4` stored."""
    a = tl.where(real, (a - tl.load(stats + 0)) * tl.load(stats + 8), 0.0)
    b = tl.where(real, (b - tl.load(stats + 1)) * tl.load(stats + 9), 0.0)
    c = tl.where(real, (c - tl.load(stats + 2)) * tl.load(stats + 10), 0.0)
    d = tl.where(real, (d - tl.load(stats + 3)) * tl.load(stats + 11), 0.0)
    return a, b, c, d


@triton.jit
def layer_norm_backward4(
    da, db, dc, dd, a, b, c, d, stats, real, H: tl.constexpr, TOGETHER: tl.constexpr
):  # fmt: skip
    """The gradients of four blocks from those of their normalised values a, b, c, d."""
    mean_a, mean_b, mean_c, mean_d = _sum4(da, db, dc, dd, TOGETHER)
    slope_a, slope_b, slope_c, slope_d = _sum4(da * a, db * b, dc * c, dd * d, TOGETHER)
    da = tl.where(real, tl.load(stats + 8) * (da - mean_a / H - a * (slope_a / H)), 0.0)
    db = tl.where(real, tl.load(stats + 9) * (db - mean_b / H - b * (slope_b / H)), 0.0)
    dc = tl.where(real, tl.load(stats + 10) * (dc - mean_c / H - c * (slope_c / H)), 0.0)
    dd = tl.where(real, tl.load(stats + 11) * (dd - mean_d / H - d * (slope_d / H)), 0.0)
    return da, db, dc, dd


# ---------------------------------------------------------------------------------------------------- h, forward and
# backward


@triton.jit
def store_h(
    h, row, unit, real, running, reset,
    h_ptr, whole_ptr, read_ptr, y_ptr, key_ptr, step, first_row, read_site, out_site, drop, scale,
    h_stride, read_stride,
    H: tl.constexpr, HP: tl.constexpr, WHOLE: tl.constexpr, READ: tl.constexpr, OUT: tl.constexpr, DROP: tl.constexpr,
    ENDS: tl.constexpr, RESETS: tl.constexpr,
):  # fmt: skip
    """Write a row's h: the next state, and its copies after dropout for the node that reads it and for the output."""
    inside = unit < HP
    # Readers and the output use the stored h, which may be rounded. Resets only affect the state.
    stored = tl.where(real, h, 0.0).to(h_ptr.dtype.element_ty)
    h = stored.to(tl.float32)
    if RESETS:
        tl.store(h_ptr + row * h_stride + unit, tl.where(reset, 0.0, h).to(h_ptr.dtype.element_ty), mask=inside)
    else:
        tl.store(h_ptr + row * h_stride + unit, stored, mask=inside)
    if WHOLE:
        tl.store(whole_ptr + row * HP + unit, stored, mask=inside)
    if READ:
        read = h
        if DROP:
            read = h * dropout(key_ptr, step, read_site, row + first_row, unit, drop, scale)
        tl.store(read_ptr + row * read_stride + unit, read.to(read_ptr.dtype.element_ty), mask=inside)
    if OUT:
        y = h
        if DROP:
            y = h * dropout(key_ptr, step, out_site, row + first_row, unit, drop, scale)
        if ENDS:
            y = tl.where(running, y, 0.0)
        tl.store(y_ptr + row * H + unit, y.to(y_ptr.dtype.element_ty), mask=real)


@triton.jit
def load_dh(
    row, unit, real, running, reset,
    dh_ptr, carry_ptr, read_grad_ptr, extra_ptr, dy_ptr, key_ptr, step, first_row, read_site, out_site, drop, scale,
    carry_stride, carry_part, read_stride, read_part,
    H: tl.constexpr, HP: tl.constexpr, CARRY: tl.constexpr, CARRY_PARTS: tl.constexpr, READ: tl.constexpr,
    READ_PARTS: tl.constexpr, EXTRA: tl.constexpr, OUT: tl.constexpr, DROP: tl.constexpr, ENDS: tl.constexpr,
    RESETS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """The gradient of a row's h: the sum of those along the slot, from its readers, and from the output.

    A dependent launch waits here for the product before it; computations that do not need it should come first.
    """
    dh = zero_if(reset, tl.load(dh_ptr + row * HP + unit, mask=real, other=0.0), RESETS)
    if OUT:
        dy = tl.load(dy_ptr + row * H + unit, mask=real, other=0.0).to(tl.float32)
        if DROP:
            dy *= dropout(key_ptr, step, out_site, row + first_row, unit, drop, scale)
        if ENDS:
            dy = tl.where(running, dy, 0.0)
        dh += dy
    if DEPENDENT:
        gdc_wait()
    if CARRY:
        dh += zero_if(reset, load_sum(carry_ptr + row * carry_stride, unit, real, CARRY_PARTS, carry_part), RESETS)
    if READ:
        dread = load_sum(read_grad_ptr + row * read_stride, unit, real, READ_PARTS, read_part)
        if DROP:
            dread *= dropout(key_ptr, step, read_site, row + first_row, unit, drop, scale)
        dh += dread
    if EXTRA:
        dh += tl.load(extra_ptr + row * HP + unit, mask=real, other=0.0)
    return dh
