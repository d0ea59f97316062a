"""The gated recurrent unit, in the notation of `fastslow.cells.gru`; the blocks of z are a_n, a_r, a_z, a_m.

Its vectors are their biases, gains and shifts, and its float32 state is h. The arguments are documented in lstm.py, and
the derivation is in the window engine's file of this cell. The update gate is called u here, since z denotes all
blocks.
"""

# Kernels are compiled by triton, not by Python; their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from fastslow.backends.triton.row import (
    STATS,
    apply_zoneout,
    is_reset,
    is_running,
    layer_norm4,
    layer_norm_backward4,
    load4,
    load_dh,
    normalised4,
    sigmoid,
    store4,
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
def gru_forward(
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
):
    row = tl.program_id(0)
    unit = tl.arange(0, BLOCK)
    real = unit < H
    inside = unit < HP
    h_old = tl.load(wide_old_ptr + row * HP + unit, mask=real, other=0.0)
    running = is_running(lengths_ptr, row, t, ENDS)
    reset = is_reset(reset_ptr, row, RESETS)
    if BIAS:
        bn, br, bu, bm = load4(vectors_ptr, unit, real, H)
    if NORM:
        gn, gr, gu, gm = load4(vectors_ptr + 4 * H, unit, real, H)
        sn, sr, su, sm = load4(vectors_ptr + 8 * H, unit, real, H)
    if DEPENDENT:
        gdc_wait()
    an, ar, au, am = load4(z_ptr + row * (4 * HP), unit, real, HP)
    if BIAS:
        an, ar, au, am = an + bn, ar + br, au + bu, am + bm
    if NORM:
        stats = stats_ptr + row * STATS
        an, ar, au, am = layer_norm4(
            an, ar, au, am, gn, gr, gu, gm, sn, sr, su, sm, stats, real, epsilon, H, TOGETHER
        )  # fmt: skip
    u = sigmoid(au)
    h = (1.0 - u) * tanh(an + sigmoid(ar) * am) + u * h_old
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
def gru_backward(
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
):
    row = tl.program_id(0)
    unit = tl.arange(0, BLOCK)
    real = unit < H
    inside = unit < HP
    an, ar, au, am = load4(z_ptr + row * (4 * HP), unit, real, HP)
    if BIAS:
        bn, br, bu, bm = load4(vectors_ptr, unit, real, H)
        an, ar, au, am = an + bn, ar + br, au + bu, am + bm
    stats = stats_ptr + row * STATS
    nn, nr, nu, nm = an, ar, au, am
    gn, gr, gu, gm = an, ar, au, am
    if NORM:
        nn, nr, nu, nm = normalised4(an, ar, au, am, stats, real)
        gn, gr, gu, gm = load4(vectors_ptr + 4 * H, unit, real, H)
        sn, sr, su, sm = load4(vectors_ptr + 8 * H, unit, real, H)
        an, ar, au, am = nn * gn + sn, nr * gr + sr, nu * gu + su, nm * gm + sm
    r = sigmoid(ar)
    u = sigmoid(au)
    n = tanh(an + r * am)
    h_old = tl.load(wide_old_ptr + row * HP + unit, mask=real, other=0.0)
    running = is_running(lengths_ptr, row, t, ENDS)
    reset = is_reset(reset_ptr, row, RESETS)
    dh = load_dh(
        row, unit, real, running, reset,
        dh_ptr, carry_ptr, read_grad_ptr, extra_ptr, dy_ptr, key_ptr, step, first_row, read_site, out_site, drop, scale,
        carry_stride, carry_part, read_stride, read_part, H, HP, CARRY, CARRY_PARTS, READ, READ_PARTS, EXTRA, OUT, DROP,
        ENDS, RESETS, DEPENDENT,
    )  # fmt: skip
    update_h, _ = updates(key_ptr, step, zone_site, row + first_row, unit, zone_h, zone_c, ZONE)
    dh_new, dh_old = zoneout_backward(dh, update_h, rate_h, running, ZONE, ENDS)
    tl.store(dh_ptr + row * HP + unit, dh_old + dh_new * u, mask=inside)
    dn = dh_new * (1.0 - u) * (1.0 - n * n)
    dm = dn * r
    dr = dn * am * r * (1.0 - r)
    du = dh_new * (h_old - n) * u * (1.0 - u)
    if NORM:
        store4(dn_ptr + row * (4 * HP), unit, inside, HP, dn, dr, du, dm)
        dn, dr, du, dm = layer_norm_backward4(
            dn * gn, dr * gr, du * gu, dm * gm, nn, nr, nu, nm, stats, real, H, TOGETHER
        )  # fmt: skip
    store4(dz_ptr + row * (4 * HP), unit, inside, HP, dn, dr, du, dm)
