"""The LSTM, in the notation of `fastslow.cells.lstm`, and `plain_lstm` without norms; the blocks of z are i, f, g, o.

Its vectors are the gates' biases, gains and shifts, then the cell's gain and shift; the constant of the forget gate is
included in its shift, or in its bias without norms. The arguments of all cells' kernels are documented here. HP is H
rounded up to 16 columns, BLOCK to a power of two.
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
def lstm_forward(
    z_ptr,  # (B, 4 HP) in: the products W_x x + W_h h of this step, without bias
    vectors_ptr,  # (blocks, H) float32 in: the node's vectors, laid out by its `Kind`
    h_old_ptr,  # (B, HP), rows h_old_stride apart, in: the state h that this cell reads
    wide_old_ptr,  # (B, HP) float32 in: the c that this cell reads; for a cell without c, the unrounded h
    wide_ptr,  # (B, HP) float32 out: the same after this step
    h_ptr,  # (B, HP), rows h_stride apart, out: h, where the next cell of the slot reads it
    whole_ptr,  # (B, HP) out: h without resets, for additional readers
    read_ptr,  # (B, HP), rows read_stride apart, out: h after dropout, in the operand of the node that reads this one
    y_ptr,  # (B, H) out: h after dropout, zero past a row's end
    stats_ptr,  # (B, STATS) float32 out
    lengths_ptr,  # (B) int64 in
    reset_ptr,  # (B) int8 in: for the next step; nonzero where the row's state is set to zero before it
    key_ptr,  # () int64 in
    step,  # index of the step for the masks
    t,  # index of the step in the window, compared with lengths
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
    ZONE: tl.constexpr,  # 0 none, 1 masks, 2 expectation
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
    # First load all that does not depend on the product before this kernel: a dependent launch overlaps with it.
    h_old = tl.load(h_old_ptr + row * h_old_stride + unit, mask=real, other=0.0).to(tl.float32)
    c_old = tl.load(wide_old_ptr + row * HP + unit, mask=real, other=0.0)
    running = is_running(lengths_ptr, row, t, ENDS)
    reset = is_reset(reset_ptr, row, RESETS)
    if BIAS:
        bi, bf, bg, bo = load4(vectors_ptr, unit, real, H)
    if NORM:
        gi, gf, gg, go = load4(vectors_ptr + 4 * H, unit, real, H)
        si, sf, sg, so = load4(vectors_ptr + 8 * H, unit, real, H)
        gain = tl.load(vectors_ptr + 12 * H + unit, mask=real, other=0.0)
        shift = tl.load(vectors_ptr + 13 * H + unit, mask=real, other=0.0)
    if DEPENDENT:
        gdc_wait()
    zi, zf, zg, zo = load4(z_ptr + row * (4 * HP), unit, real, HP)
    if BIAS:
        zi, zf, zg, zo = zi + bi, zf + bf, zg + bg, zo + bo
    stats = stats_ptr + row * STATS
    if NORM:
        zi, zf, zg, zo = layer_norm4(
            zi, zf, zg, zo, gi, gf, gg, go, si, sf, sg, so, stats, real, epsilon, H, TOGETHER
        )  # fmt: skip
    c = sigmoid(zf) * c_old + sigmoid(zi) * tanh(zg)
    c = tl.where(real, c, 0.0)
    normed = c
    if NORM:
        mean = tl.sum(c, 0) / H
        centred = tl.where(real, c - mean, 0.0)
        rstd = tl.rsqrt(tl.sum(centred * centred, 0) / H + epsilon)
        normed = centred * rstd * gain + shift
        tl.store(stats + 4, mean)
        tl.store(stats + 12, rstd)
    h = sigmoid(zo) * tanh(normed)
    update_h, update_c = updates(key_ptr, step, zone_site, row + first_row, unit, zone_h, zone_c, ZONE)
    h = apply_zoneout(h, h_old, update_h, rate_h, running, ZONE, ENDS)
    c = apply_zoneout(c, c_old, update_c, rate_c, running, ZONE, ENDS)
    tl.store(wide_ptr + row * HP + unit, zero_if(reset, c, RESETS), mask=inside)
    store_h(
        h, row, unit, real, running, reset,
        h_ptr, whole_ptr, read_ptr, y_ptr, key_ptr, step, first_row, read_site, out_site, drop, scale,
        h_stride, read_stride, H, HP, WHOLE, READ, OUT, DROP, ENDS, RESETS,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=["step", "t", "first_row", "zone_site", "read_site", "out_site", "zone_h", "zone_c", "drop"],
    do_not_specialize_on_alignment=["reset_ptr"],
)
def lstm_backward(
    z_ptr,  # (B, 4 HP) in, as in the forward pass
    vectors_ptr,
    wide_old_ptr,  # (B, HP) float32 in, as in the forward pass
    stats_ptr,  # (B, STATS) float32 in
    carry_ptr,  # (PARTS, B, HP) in, parts and rows carry_part and carry_stride apart: W_h^T dz of the slot's next cell
    read_grad_ptr,  # (PARTS, B, HP) in, likewise: W_x^T dz of the node that reads this one
    extra_ptr,  # (B, HP) float32 in: the same for additional readers, masked and summed
    dy_ptr,  # (B, H) in: the gradient of the output
    dh_ptr,  # (B, HP) float32 in: the part of dh that bypassed the next cell; out: the part that bypasses this one
    dc_ptr,  # (B, HP) float32 in: of the c that this cell wrote; out: of the c that it read; unused without c
    dz_ptr,  # (B, 4 HP) out
    dn_ptr,  # (B, 4 HP) out: the gradient of the normalised gates
    own_ptr,  # (B, 2 HP) out: the gradients of cell gain and cell shift, not yet summed over rows
    lengths_ptr,
    reset_ptr,  # (B) int8 in: for the next step
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
    # Recompute the forward pass first: it does not depend on the product before this kernel.
    zi, zf, zg, zo = load4(z_ptr + row * (4 * HP), unit, real, HP)
    if BIAS:
        bi, bf, bg, bo = load4(vectors_ptr, unit, real, H)
        zi, zf, zg, zo = zi + bi, zf + bf, zg + bg, zo + bo
    stats = stats_ptr + row * STATS
    ni, nf, ng, no = zi, zf, zg, zo
    gi, gf, gg, go = zi, zf, zg, zo
    if NORM:
        ni, nf, ng, no = normalised4(zi, zf, zg, zo, stats, real)
        gi, gf, gg, go = load4(vectors_ptr + 4 * H, unit, real, H)
        si, sf, sg, so = load4(vectors_ptr + 8 * H, unit, real, H)
        zi, zf, zg, zo = ni * gi + si, nf * gf + sf, ng * gg + sg, no * go + so
    i = sigmoid(zi)
    f = sigmoid(zf)
    g = tanh(zg)
    o = sigmoid(zo)
    c_old = tl.load(wide_old_ptr + row * HP + unit, mask=real, other=0.0)
    c = f * c_old + i * g
    normed = c
    chat = c
    gain = c
    rstd = 1.0
    if NORM:
        rstd = tl.load(stats + 12)
        chat = tl.where(real, (c - tl.load(stats + 4)) * rstd, 0.0)
        gain = tl.load(vectors_ptr + 12 * H + unit, mask=real, other=0.0)
        normed = chat * gain + tl.load(vectors_ptr + 13 * H + unit, mask=real, other=0.0)
    squashed = tanh(normed)
    running = is_running(lengths_ptr, row, t, ENDS)
    reset = is_reset(reset_ptr, row, RESETS)
    dc = zero_if(reset, tl.load(dc_ptr + row * HP + unit, mask=real, other=0.0), RESETS)
    dh = load_dh(
        row, unit, real, running, reset,
        dh_ptr, carry_ptr, read_grad_ptr, extra_ptr, dy_ptr, key_ptr, step, first_row, read_site, out_site, drop, scale,
        carry_stride, carry_part, read_stride, read_part, H, HP, CARRY, CARRY_PARTS, READ, READ_PARTS, EXTRA, OUT, DROP,
        ENDS, RESETS, DEPENDENT,
    )  # fmt: skip
    update_h, update_c = updates(key_ptr, step, zone_site, row + first_row, unit, zone_h, zone_c, ZONE)
    dh_new, dh_old = zoneout_backward(dh, update_h, rate_h, running, ZONE, ENDS)
    dc_new, dc_old = zoneout_backward(dc, update_c, rate_c, running, ZONE, ENDS)
    # The backward pass of the cell.
    do = dh_new * squashed * o * (1.0 - o)
    dnormed = dh_new * o * (1.0 - squashed * squashed)
    if NORM:
        own = own_ptr + row * (2 * HP) + unit
        tl.store(own, (dnormed * chat).to(own_ptr.dtype.element_ty), mask=inside)
        tl.store(own + HP, dnormed.to(own_ptr.dtype.element_ty), mask=inside)
        dchat = dnormed * gain
        mean = tl.sum(dchat, 0) / H
        slope = tl.sum(dchat * chat, 0) / H
        dc_new += tl.where(real, rstd * (dchat - mean - chat * slope), 0.0)
    else:
        dc_new += dnormed
    di = dc_new * g * i * (1.0 - i)
    df = dc_new * c_old * f * (1.0 - f)
    dg = dc_new * i * (1.0 - g * g)
    tl.store(dc_ptr + row * HP + unit, dc_old + dc_new * f, mask=inside)
    tl.store(dh_ptr + row * HP + unit, dh_old, mask=inside)
    if NORM:
        store4(dn_ptr + row * (4 * HP), unit, inside, HP, di, df, dg, do)
        di, df, dg, do = layer_norm_backward4(
            di * gi, df * gf, dg * gg, do * go, ni, nf, ng, no, stats, real, H, TOGETHER
        )  # fmt: skip
    store4(dz_ptr + row * (4 * HP), unit, inside, HP, di, df, dg, do)
