"""The simple cell, in the notation of `fastslow.cells.simple`; z has one block, with tanh or RECTIFIED.

Its vector is the bias, and its float32 state is h. The arguments are documented in lstm.py.
"""

# Kernels are compiled by triton, not by Python; their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from fastslow.backends.triton.row import (
    apply_zoneout,
    is_reset,
    is_running,
    load_dh,
    store_h,
    tanh,
    updates,
    zero_if,
    zoneout_backward,
)


@triton.jit(
    do_not_specialize=["step", "t", "first_row", "zone_site", "read_site", "out_site", "zone_h", "zone_c", "drop"],
    do_not_specialize_on_alignment=["reset_ptr"],
)
def simple_forward(
    z_ptr,
    vectors_ptr,
    h_old_ptr,
    wide_old_ptr,
    wide_ptr,
    h_ptr,
    whole_ptr,
    read_ptr,
    y_ptr,
    stats_ptr,
    lengths_ptr,
    reset_ptr,
    key_ptr,
    step,
    t,
    first_row,
    zone_site,
    read_site,
    out_site,
    zone_h,
    zone_c,
    rate_h,
    rate_c,
    drop,
    scale,
    epsilon,
    h_old_stride,
    h_stride,
    read_stride,
    H: tl.constexpr,
    HP: tl.constexpr,
    BLOCK: tl.constexpr,
    NORM: tl.constexpr,
    BIAS: tl.constexpr,
    ZONE: tl.constexpr,
    READ: tl.constexpr,
    WHOLE: tl.constexpr,
    OUT: tl.constexpr,
    DROP: tl.constexpr,
    ENDS: tl.constexpr,
    RESETS: tl.constexpr,
    DEPENDENT: tl.constexpr,
    TOGETHER: tl.constexpr,
    RECTIFIED: tl.constexpr,
):
    row = tl.program_id(0)
    unit = tl.arange(0, BLOCK)
    real = unit < H
    inside = unit < HP
    h_old = tl.load(wide_old_ptr + row * HP + unit, mask=real, other=0.0)
    running = is_running(lengths_ptr, row, t, ENDS)
    reset = is_reset(reset_ptr, row, RESETS)
    bias = 0.0
    if BIAS:
        bias = tl.load(vectors_ptr + unit, mask=real, other=0.0)
    if DEPENDENT:
        gdc_wait()
    z = tl.load(z_ptr + row * HP + unit, mask=real, other=0.0).to(tl.float32) + bias
    h = tl.where(z <= 0.0, 0.0, z) if RECTIFIED else tanh(z)
    update_h, _ = updates(key_ptr, step, zone_site, row + first_row, unit, zone_h, zone_c, ZONE)
    h = apply_zoneout(h, h_old, update_h, rate_h, running, ZONE, ENDS)
    tl.store(wide_ptr + row * HP + unit, zero_if(reset, tl.where(real, h, 0.0), RESETS), mask=inside)
    store_h(
        h, row, unit, real, running, reset,
        h_ptr, whole_ptr, read_ptr, y_ptr, key_ptr, step, first_row, read_site, out_site, drop, scale,
        h_stride, read_stride, H, HP, WHOLE, READ, OUT, DROP, ENDS, RESETS,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=["step", "t", "first_row", "zone_site", "read_site", "out_site", "zone_h", "zone_c", "drop"],
    do_not_specialize_on_alignment=["reset_ptr"],
)
def simple_backward(
    z_ptr,
    vectors_ptr,
    wide_old_ptr,
    stats_ptr,
    carry_ptr,
    read_grad_ptr,
    extra_ptr,
    dy_ptr,
    dh_ptr,
    dc_ptr,
    dz_ptr,
    dn_ptr,
    own_ptr,
    lengths_ptr,
    reset_ptr,
    key_ptr,
    step,
    t,
    first_row,
    zone_site,
    read_site,
    out_site,
    zone_h,
    zone_c,
    rate_h,
    rate_c,
    drop,
    scale,
    carry_stride,
    carry_part,
    read_stride,
    read_part,
    H: tl.constexpr,
    HP: tl.constexpr,
    BLOCK: tl.constexpr,
    NORM: tl.constexpr,
    BIAS: tl.constexpr,
    ZONE: tl.constexpr,
    CARRY: tl.constexpr,
    CARRY_PARTS: tl.constexpr,
    READ: tl.constexpr,
    READ_PARTS: tl.constexpr,
    EXTRA: tl.constexpr,
    OUT: tl.constexpr,
    DROP: tl.constexpr,
    ENDS: tl.constexpr,
    RESETS: tl.constexpr,
    DEPENDENT: tl.constexpr,
    TOGETHER: tl.constexpr,
    RECTIFIED: tl.constexpr,
):
    row = tl.program_id(0)
    unit = tl.arange(0, BLOCK)
    real = unit < H
    inside = unit < HP
    z = tl.load(z_ptr + row * HP + unit, mask=real, other=0.0).to(tl.float32)
    if BIAS:
        z += tl.load(vectors_ptr + unit, mask=real, other=0.0)
    squashed = tanh(z)
    running = is_running(lengths_ptr, row, t, ENDS)
    reset = is_reset(reset_ptr, row, RESETS)
    dh = load_dh(
        row, unit, real, running, reset,
        dh_ptr, carry_ptr, read_grad_ptr, extra_ptr, dy_ptr, key_ptr, step, first_row, read_site, out_site, drop, scale,
        carry_stride, carry_part, read_stride, read_part, H, HP, CARRY, CARRY_PARTS, READ, READ_PARTS, EXTRA, OUT, DROP,
        ENDS, RESETS, DEPENDENT,
    )  # fmt: skip
    update_h, _ = updates(key_ptr, step, zone_site, row + first_row, unit, zone_h, zone_c, ZONE)
    dz, dh_old = zoneout_backward(dh, update_h, rate_h, running, ZONE, ENDS)
    tl.store(dh_ptr + row * HP + unit, dh_old, mask=inside)
    if RECTIFIED:
        dz = tl.where(z > 0.0, dz, 0.0)
    else:
        dz *= 1.0 - squashed * squashed
    tl.store(dz_ptr + row * HP + unit, dz.to(dz_ptr.dtype.element_ty), mask=inside)
