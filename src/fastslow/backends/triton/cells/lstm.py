"""The LSTM, `fastslow.cells.lstm` in its letters, and `plain_lstm` without norms: blocks of z are i, f, g, o.

Its vectors are the gates' biases, gains and shifts, then the cell's gain and shift; the constant of the forget gate is
in its shift, or in its bias where there are no norms.

Here stands what every argument of a cell's kernels is. HP is H rounded up to 16 columns, BLOCK to a power of two.
"""

# Kernels are compiled by triton, not by Python; their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from fastslow.backends.triton.row import (
    STATS,
    gathered,
    hand_on,
    is_running,
    load4,
    normal4,
    normed4,
    parted,
    settled,
    sigmoid,
    starts_anew,
    store4,
    tanh,
    through_norm4,
    unless,
    updates,
)


@triton.jit(
    do_not_specialize=["step", "t", "first_row", "zone_site", "read_site", "out_site", "zone_h", "zone_c", "drop"],
    do_not_specialize_on_alignment=["anew_ptr"],
)
def lstm_forward(
    z_ptr,  # (B, 4 HP) in: the products W_x x + W_h h of this step, without bias
    vectors_ptr,  # (blocks, H) float32 in: the node's vectors, laid out by its `Kind`
    h_old_ptr,  # (B, HP), rows h_old_stride apart, in: the state h handed to this cell
    wide_old_ptr,  # (B, HP) float32 in: c handed to this cell; of a cell without c it is h, unrounded
    wide_ptr,  # (B, HP) float32 out: the same after this step
    h_ptr,  # (B, HP), rows h_stride apart, out: h, where the next cell of the slot reads it
    whole_ptr,  # (B, HP) out: h of a row whose state starts anew too, for further readers
    read_ptr,  # (B, HP), rows read_stride apart, out: h dropped, where the node that reads this one does
    y_ptr,  # (B, H) out: h dropped, zero past a row's end
    stats_ptr,  # (B, STATS) float32 out
    lengths_ptr,  # (B) int64 in
    anew_ptr,  # (B) int8 in: of the next step; where not 0 the row's state is zeros before it
    key_ptr,  # () int64 in
    step,  # number of the step for the masks
    t,  # number of the step in the window, for the ends of rows
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
    ANEW: tl.constexpr,
    DEPENDENT: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    row = tl.program_id(0)
    unit = tl.arange(0, BLOCK)
    real = unit < H
    inside = unit < HP
    # All that the product before this kernel does not write comes first: a dependent launch reads it while that ends.
    h_old = tl.load(h_old_ptr + row * h_old_stride + unit, mask=real, other=0.0).to(tl.float32)
    c_old = tl.load(wide_old_ptr + row * HP + unit, mask=real, other=0.0)
    running = is_running(lengths_ptr, row, t, ENDS)
    anew = starts_anew(anew_ptr, row, ANEW)
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
        zi, zf, zg, zo = normed4(
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
    h = settled(h, h_old, update_h, rate_h, running, ZONE, ENDS)
    c = settled(c, c_old, update_c, rate_c, running, ZONE, ENDS)
    tl.store(wide_ptr + row * HP + unit, unless(anew, c, ANEW), mask=inside)
    hand_on(
        h, row, unit, real, running, anew,
        h_ptr, whole_ptr, read_ptr, y_ptr, key_ptr, step, first_row, read_site, out_site, drop, scale,
        h_stride, read_stride, H, HP, WHOLE, READ, OUT, DROP, ENDS, ANEW,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=["step", "t", "first_row", "zone_site", "read_site", "out_site", "zone_h", "zone_c", "drop"],
    do_not_specialize_on_alignment=["anew_ptr"],
)
def lstm_backward(
    z_ptr,  # (B, 4 HP) in, as the forward pass read it
    vectors_ptr,
    wide_old_ptr,  # (B, HP) float32 in, as the forward pass read it
    stats_ptr,  # (B, STATS) float32 in
    carry_ptr,  # (PARTS, B, HP) in, parts and rows carry_part and carry_stride apart: W_h^T dz of the slot's next cell
    read_grad_ptr,  # (PARTS, B, HP) in, likewise: W_x^T dz of the node that reads this one
    extra_ptr,  # (B, HP) float32 in: the same of further readers, masked and summed
    dy_ptr,  # (B, H) in: the gradient of the output
    dh_ptr,  # (B, HP) float32 in: what of dh passed the next cell by; out: what passes this one by
    dc_ptr,  # (B, HP) float32 in: of the c this cell wrote; out: of the c it read; not of a cell without c
    dz_ptr,  # (B, 4 HP) out
    dn_ptr,  # (B, 4 HP) out: the gradient of the normed gates
    own_ptr,  # (B, 2 HP) out: the gradients of cell gain and cell shift, to be summed
    lengths_ptr,
    anew_ptr,  # (B) int8 in: of the next step
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
    ANEW: tl.constexpr,
    DEPENDENT: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    row = tl.program_id(0)
    unit = tl.arange(0, BLOCK)
    real = unit < H
    inside = unit < HP
    # First the forward pass again: it needs nothing of the product before this kernel.
    zi, zf, zg, zo = load4(z_ptr + row * (4 * HP), unit, real, HP)
    if BIAS:
        bi, bf, bg, bo = load4(vectors_ptr, unit, real, H)
        zi, zf, zg, zo = zi + bi, zf + bf, zg + bg, zo + bo
    stats = stats_ptr + row * STATS
    ni, nf, ng, no = zi, zf, zg, zo
    gi, gf, gg, go = zi, zf, zg, zo
    if NORM:
        ni, nf, ng, no = normal4(zi, zf, zg, zo, stats, real)
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
    anew = starts_anew(anew_ptr, row, ANEW)
    dc = unless(anew, tl.load(dc_ptr + row * HP + unit, mask=real, other=0.0), ANEW)
    dh = gathered(
        row, unit, real, running, anew,
        dh_ptr, carry_ptr, read_grad_ptr, extra_ptr, dy_ptr, key_ptr, step, first_row, read_site, out_site, drop, scale,
        carry_stride, carry_part, read_stride, read_part, H, HP, CARRY, CARRY_PARTS, READ, READ_PARTS, EXTRA, OUT, DROP,
        ENDS, ANEW, DEPENDENT,
    )  # fmt: skip
    update_h, update_c = updates(key_ptr, step, zone_site, row + first_row, unit, zone_h, zone_c, ZONE)
    dh_new, dh_old = parted(dh, update_h, rate_h, running, ZONE, ENDS)
    dc_new, dc_old = parted(dc, update_c, rate_c, running, ZONE, ENDS)
    # The cell, backwards.
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
        di, df, dg, do = through_norm4(
            di * gi, df * gf, dg * gg, do * go, ni, nf, ng, no, stats, real, H, TOGETHER
        )  # fmt: skip
    store4(dz_ptr + row * (4 * HP), unit, inside, HP, di, df, dg, do)
