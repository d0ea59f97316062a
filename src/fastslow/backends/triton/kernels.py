"""The Triton kernels of the "triton" engine. Importing this file imports triton.

What one program does, and for whom:

    step_forward    one row of one cell step, after its matrix product: bias, gate norms, gates, cell norm, zoneout,
                    and the state written where the next product reads it, dropped and whole
    step_backward   the same row on the way back: gathers dh, recomputes gates, tanh and masks, leaves dz for the
                    next product, and dc and the part of dh that zoneout passes by
    norm_sums       column sums over many rows for the gradients of bias, gate gain and gate shift
    column_sums     plain column sums, for the cell norm (and for the bias of a cell without norms)
    part_product    a matrix product in parts of its sums, for the backward loop with `own_products`
    drop_copy       a copy with a dropout mask, for the input and for the second and later readers of a node
    random_words    the words of `fastslow.noise.random_bits`, to test that they are the same bits

Layout. A row of H units takes HP = H rounded up to 16 columns (a matrix product wants rows of 16 bytes); the columns
past H are zero and take no part in any statistic. z, dz and dn are (rows, 4 HP): gates i, f, g, o, each HP wide.
Matrix operands may be bfloat16; statistics, nonlinearities, c and every sum are float32.

Bits come from `fastslow.noise`: the key is loaded from memory, so that a replayed graph sees the key of its replay.
"""

# Kernels are compiled by triton, not by Python; their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

STATS = tl.constexpr(16)
"""Width of a row of saved statistics: means of i, f, g, o and c in 0..4, reciprocal deviations in 5..9."""

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
def _bits(key_ptr, step, site, row, unit):
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
def _dropout(key_ptr, step, site, row, unit, drop, scale):
    """The factor of dropout: `scale` where a unit is kept, 0 where it is dropped."""
    bits = _bits(key_ptr, step, site, row, unit)
    return tl.where((bits >> 8).to(tl.int32) >= drop, scale, 0.0)


@triton.jit
def _zoneout(key_ptr, step, site, row, unit, zone_h, zone_c):
    """True where h, and where c, take the new value."""
    bits = _bits(key_ptr, step, site, row, unit)
    return (bits & 0xFFFF).to(tl.int32) >= zone_h, (bits >> 16).to(tl.int32) >= zone_c


# ---------------------------------------------------------------------------------------------------- arithmetic


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def _add4(a0, a1, a2, a3, b0, b1, b2, b3):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3


@triton.jit
def _sum4(a, b, c, d, TOGETHER: tl.constexpr):
    """Four sums over a row. TOGETHER: in one exchange between warps (the interpreter would take an hour over it)."""
    if TOGETHER:
        return tl.reduce((a, b, c, d), 0, _add4)
    else:  # noqa: RET505 (triton wants both ends of a constant condition in view)
        return tl.sum(a, 0), tl.sum(b, 0), tl.sum(c, 0), tl.sum(d, 0)


@triton.jit
def _load_gates(ptr, unit, real, HP: tl.constexpr):
    """Four (BLOCK,) float32 from four blocks HP apart; 0 where not real."""
    i = tl.load(ptr + unit, mask=real, other=0.0).to(tl.float32)
    f = tl.load(ptr + HP + unit, mask=real, other=0.0).to(tl.float32)
    g = tl.load(ptr + 2 * HP + unit, mask=real, other=0.0).to(tl.float32)
    o = tl.load(ptr + 3 * HP + unit, mask=real, other=0.0).to(tl.float32)
    return i, f, g, o


@triton.jit
def _load_sum(ptr, unit, real, PARTS: tl.constexpr, stride):
    """(BLOCK,) float32: the sum, always in the same order, of PARTS rows that are `stride` apart; 0 where not real."""
    total = tl.load(ptr + unit, mask=real, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        total += tl.load(ptr + part * stride + unit, mask=real, other=0.0).to(tl.float32)
    return total


@triton.jit
def _store_gates(ptr, unit, inside, HP: tl.constexpr, i, f, g, o):
    kind = ptr.dtype.element_ty
    tl.store(ptr + unit, i.to(kind), mask=inside)
    tl.store(ptr + HP + unit, f.to(kind), mask=inside)
    tl.store(ptr + 2 * HP + unit, g.to(kind), mask=inside)
    tl.store(ptr + 3 * HP + unit, o.to(kind), mask=inside)


# ---------------------------------------------------------------------------------------------------- one cell step


@triton.jit(
    do_not_specialize=["step", "t", "first_row", "zone_site", "read_site", "out_site", "zone_h", "zone_c", "drop"],
)
def step_forward(
    z_ptr,  # (B, 4 HP) in: the products W_x x + W_h h of this step, without bias
    bias_ptr,  # (4H) float32 in
    gate_gain_ptr,  # (4H) float32 in
    gate_shift_ptr,  # (4H) float32 in
    cell_gain_ptr,  # (H) float32 in
    cell_shift_ptr,  # (H) float32 in
    h_old_ptr,  # (B, HP), rows h_old_stride apart, in: the state handed to this cell
    c_old_ptr,  # (B, HP) float32 in
    c_ptr,  # (B, HP) float32 out: the carried c
    h_ptr,  # (B, HP), rows h_stride apart, out: h, where the next cell of the slot reads it
    read_ptr,  # (B, HP), rows read_stride apart, out: h dropped, where the node that reads this one does
    y_ptr,  # (B, H) out: h dropped, zero past a row's end
    stats_ptr,  # (B, STATS) float32 out
    lengths_ptr,  # (B) int64 in
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
    forget_bias,
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
    OUT: tl.constexpr,
    DROP: tl.constexpr,
    ENDS: tl.constexpr,
    DEPENDENT: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    row = tl.program_id(0)
    unit = tl.arange(0, BLOCK)
    real = unit < H
    inside = unit < HP
    # All that the product before this kernel does not write comes first: a dependent launch reads it while that ends.
    h_old = tl.load(h_old_ptr + row * h_old_stride + unit, mask=real, other=0.0).to(tl.float32)
    c_old = tl.load(c_old_ptr + row * HP + unit, mask=real, other=0.0)
    if BIAS:
        bi, bf, bg, bo = _load_gates(bias_ptr, unit, real, H)
    if NORM:
        gi, gf, gg, go = _load_gates(gate_gain_ptr, unit, real, H)
        si, sf, sg, so = _load_gates(gate_shift_ptr, unit, real, H)
        gain = tl.load(cell_gain_ptr + unit, mask=real, other=0.0)
        shift = tl.load(cell_shift_ptr + unit, mask=real, other=0.0)
    if DEPENDENT:
        gdc_wait()
    zi, zf, zg, zo = _load_gates(z_ptr + row * (4 * HP), unit, real, HP)
    if BIAS:
        zi, zf, zg, zo = zi + bi, zf + bf, zg + bg, zo + bo
    stats = stats_ptr + row * STATS
    if NORM:
        mi, mf, mg, mo = _sum4(zi, zf, zg, zo, TOGETHER)
        mi, mf, mg, mo = mi / H, mf / H, mg / H, mo / H
        zi = tl.where(real, zi - mi, 0.0)
        zf = tl.where(real, zf - mf, 0.0)
        zg = tl.where(real, zg - mg, 0.0)
        zo = tl.where(real, zo - mo, 0.0)
        vi, vf, vg, vo = _sum4(zi * zi, zf * zf, zg * zg, zo * zo, TOGETHER)
        ri = tl.rsqrt(vi / H + epsilon)
        rf = tl.rsqrt(vf / H + epsilon)
        rg = tl.rsqrt(vg / H + epsilon)
        ro = tl.rsqrt(vo / H + epsilon)
        zi = zi * ri * gi + si
        zf = zf * rf * gf + sf
        zg = zg * rg * gg + sg
        zo = zo * ro * go + so
        tl.store(stats + 0, mi)
        tl.store(stats + 1, mf)
        tl.store(stats + 2, mg)
        tl.store(stats + 3, mo)
        tl.store(stats + 5, ri)
        tl.store(stats + 6, rf)
        tl.store(stats + 7, rg)
        tl.store(stats + 8, ro)
    c = _sigmoid(zf + forget_bias) * c_old + _sigmoid(zi) * _tanh(zg)
    c = tl.where(real, c, 0.0)
    normed = c
    if NORM:
        mean = tl.sum(c, 0) / H
        centred = tl.where(real, c - mean, 0.0)
        rstd = tl.rsqrt(tl.sum(centred * centred, 0) / H + epsilon)
        normed = centred * rstd * gain + shift
        tl.store(stats + 4, mean)
        tl.store(stats + 9, rstd)
    h = _sigmoid(zo) * _tanh(normed)
    if ZONE == 1:
        update_h, update_c = _zoneout(key_ptr, step, zone_site, row + first_row, unit, zone_h, zone_c)
        h = tl.where(update_h, h, h_old)
        c = tl.where(update_c, c, c_old)
    if ZONE == 2:
        h = (1.0 - rate_h) * h + rate_h * h_old
        c = (1.0 - rate_c) * c + rate_c * c_old
    if ENDS:
        running = tl.load(lengths_ptr + row) > t
        h = tl.where(running, h, h_old)
        c = tl.where(running, c, c_old)
    h = tl.where(real, h, 0.0)
    tl.store(c_ptr + row * HP + unit, c, mask=inside)
    # The state is what is stored: a reader drops, and the output is, the rounded h.
    stored = h.to(h_ptr.dtype.element_ty)
    tl.store(h_ptr + row * h_stride + unit, stored, mask=inside)
    h = stored.to(tl.float32)
    if READ:
        dropped = h
        if DROP:
            dropped = h * _dropout(key_ptr, step, read_site, row + first_row, unit, drop, scale)
        tl.store(read_ptr + row * read_stride + unit, dropped.to(read_ptr.dtype.element_ty), mask=inside)
    if OUT:
        y = h
        if DROP:
            y = h * _dropout(key_ptr, step, out_site, row + first_row, unit, drop, scale)
        if ENDS:
            running = tl.load(lengths_ptr + row) > t
            y = tl.where(running, y, 0.0)
        tl.store(y_ptr + row * H + unit, y.to(y_ptr.dtype.element_ty), mask=real)


@triton.jit(
    do_not_specialize=["step", "t", "first_row", "zone_site", "read_site", "out_site", "zone_h", "zone_c", "drop"],
)
def step_backward(
    z_ptr,  # (B, 4 HP) in, as `step_forward` read it
    bias_ptr,
    gate_gain_ptr,
    gate_shift_ptr,
    cell_gain_ptr,
    cell_shift_ptr,
    c_old_ptr,  # (B, HP) float32 in
    stats_ptr,  # (B, STATS) float32 in
    carry_ptr,  # (PARTS, B, HP) in, parts and rows carry_part and carry_stride apart: W_h^T dz of the slot's next cell
    read_grad_ptr,  # (PARTS, B, HP) in, likewise: W_x^T dz of the node that reads this one
    extra_ptr,  # (B, HP) float32 in: the same of further readers, masked and summed
    dy_ptr,  # (B, H) in: the gradient of the output
    dh_ptr,  # (B, HP) float32 in: what passed the next cell by (zoneout); out: what passes this one by
    dc_ptr,  # (B, HP) float32 in: of the c this cell wrote; out: of the c it read
    dz_ptr,  # (B, 4 HP) out
    dn_ptr,  # (B, 4 HP) out: the gradient of the normed gates
    cell_ptr,  # (B, 2 HP) out: the gradient of the normed c, and that times c's normal form
    lengths_ptr,
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
    forget_bias,
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
    PARTS: tl.constexpr,
    CARRY: tl.constexpr,
    READ: tl.constexpr,
    EXTRA: tl.constexpr,
    OUT: tl.constexpr,
    DROP: tl.constexpr,
    ENDS: tl.constexpr,
    DEPENDENT: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    row = tl.program_id(0)
    unit = tl.arange(0, BLOCK)
    real = unit < H
    inside = unit < HP
    # First the forward pass again: it needs nothing of the product before this kernel.
    zi, zf, zg, zo = _load_gates(z_ptr + row * (4 * HP), unit, real, HP)
    if BIAS:
        bi, bf, bg, bo = _load_gates(bias_ptr, unit, real, H)
        zi, zf, zg, zo = zi + bi, zf + bf, zg + bg, zo + bo
    stats = stats_ptr + row * STATS
    ni, nf, ng, no = zi, zf, zg, zo
    gi, gf, gg, go = zi, zf, zg, zo
    ri, rf, rg, ro = 1.0, 1.0, 1.0, 1.0
    if NORM:
        ri = tl.load(stats + 5)
        rf = tl.load(stats + 6)
        rg = tl.load(stats + 7)
        ro = tl.load(stats + 8)
        ni = tl.where(real, (zi - tl.load(stats + 0)) * ri, 0.0)
        nf = tl.where(real, (zf - tl.load(stats + 1)) * rf, 0.0)
        ng = tl.where(real, (zg - tl.load(stats + 2)) * rg, 0.0)
        no = tl.where(real, (zo - tl.load(stats + 3)) * ro, 0.0)
        gi, gf, gg, go = _load_gates(gate_gain_ptr, unit, real, H)
        si, sf, sg, so = _load_gates(gate_shift_ptr, unit, real, H)
        zi, zf, zg, zo = ni * gi + si, nf * gf + sf, ng * gg + sg, no * go + so
    i = _sigmoid(zi)
    f = _sigmoid(zf + forget_bias)
    g = _tanh(zg)
    o = _sigmoid(zo)
    c_old = tl.load(c_old_ptr + row * HP + unit, mask=real, other=0.0)
    c = f * c_old + i * g
    normed = c
    chat = c
    gain = c
    rstd = 1.0
    if NORM:
        rstd = tl.load(stats + 9)
        chat = tl.where(real, (c - tl.load(stats + 4)) * rstd, 0.0)
        gain = tl.load(cell_gain_ptr + unit, mask=real, other=0.0)
        normed = chat * gain + tl.load(cell_shift_ptr + unit, mask=real, other=0.0)
    squashed = _tanh(normed)
    # Gather dh: along the slot, from the readers, from the output.
    dh = tl.load(dh_ptr + row * HP + unit, mask=real, other=0.0)
    dc = tl.load(dc_ptr + row * HP + unit, mask=real, other=0.0)
    running = True
    if ENDS:
        running = tl.load(lengths_ptr + row) > t
    if OUT:
        dy = tl.load(dy_ptr + row * H + unit, mask=real, other=0.0).to(tl.float32)
        if DROP:
            dy *= _dropout(key_ptr, step, out_site, row + first_row, unit, drop, scale)
        if ENDS:
            dy = tl.where(running, dy, 0.0)
        dh += dy
    if DEPENDENT:
        gdc_wait()
    if CARRY:
        dh += _load_sum(carry_ptr + row * carry_stride, unit, real, PARTS, carry_part)
    if READ:
        dread = _load_sum(read_grad_ptr + row * read_stride, unit, real, PARTS, read_part)
        if DROP:
            dread *= _dropout(key_ptr, step, read_site, row + first_row, unit, drop, scale)
        dh += dread
    if EXTRA:
        dh += tl.load(extra_ptr + row * HP + unit, mask=real, other=0.0)
    # Zoneout and ends: what goes to the new value, and what passes by to the old one.
    dh_new, dh_old = dh, tl.zeros_like(dh)
    dc_new, dc_old = dc, tl.zeros_like(dc)
    if ZONE == 1:
        update_h, update_c = _zoneout(key_ptr, step, zone_site, row + first_row, unit, zone_h, zone_c)
        dh_new, dh_old = tl.where(update_h, dh, 0.0), tl.where(update_h, 0.0, dh)
        dc_new, dc_old = tl.where(update_c, dc, 0.0), tl.where(update_c, 0.0, dc)
    if ZONE == 2:
        dh_new, dh_old = (1.0 - rate_h) * dh, rate_h * dh
        dc_new, dc_old = (1.0 - rate_c) * dc, rate_c * dc
    if ENDS:
        dh_new, dh_old = tl.where(running, dh_new, 0.0), tl.where(running, dh_old, dh)
        dc_new, dc_old = tl.where(running, dc_new, 0.0), tl.where(running, dc_old, dc)
    # The cell, backwards.
    do = dh_new * squashed * o * (1.0 - o)
    dnormed = dh_new * o * (1.0 - squashed * squashed)
    if NORM:
        tl.store(cell_ptr + row * (2 * HP) + unit, dnormed.to(cell_ptr.dtype.element_ty), mask=inside)
        tl.store(cell_ptr + row * (2 * HP) + HP + unit, (dnormed * chat).to(cell_ptr.dtype.element_ty), mask=inside)
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
        _store_gates(dn_ptr + row * (4 * HP), unit, inside, HP, di, df, dg, do)
        di, df, dg, do = di * gi, df * gf, dg * gg, do * go
        mi, mf, mg, mo = _sum4(di, df, dg, do, TOGETHER)
        pi, pf, pg, po = _sum4(di * ni, df * nf, dg * ng, do * no, TOGETHER)
        di = tl.where(real, ri * (di - mi / H - ni * (pi / H)), 0.0)
        df = tl.where(real, rf * (df - mf / H - nf * (pf / H)), 0.0)
        dg = tl.where(real, rg * (dg - mg / H - ng * (pg / H)), 0.0)
        do = tl.where(real, ro * (do - mo / H - no * (po / H)), 0.0)
    _store_gates(dz_ptr + row * (4 * HP), unit, inside, HP, di, df, dg, do)


# ---------------------------------------------------------------------------------------------------- a product


@triton.jit(do_not_specialize=["rows"])
def part_product(
    a_ptr,  # (rows, K) in
    w_ptr,  # (K, N), rows w_stride apart, in
    out_ptr,  # (parts, rows, N) float32 out: a w over EACH of the K sums each
    rows,
    w_stride,
    K: tl.constexpr,
    N: tl.constexpr,
    EACH: tl.constexpr,  # a multiple of BLOCK_K
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Program (n, p, m): columns n BLOCK_N .. of rows m BLOCK_M .. of part p."""
    part = tl.program_id(1)
    row = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    within = tl.arange(0, BLOCK_K)
    live = row < rows
    edge = column < N
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    # All that this kernel reads but w, and all that it overwrites, is the business of the kernels before it.
    if DEPENDENT:
        gdc_wait()
    for start in range(0, EACH, BLOCK_K):
        k = part * EACH + start + within
        a = tl.load(a_ptr + row[:, None] * K + k[None, :], mask=live[:, None] & (k < K)[None, :], other=0.0)
        w = tl.load(w_ptr + k[:, None] * w_stride + column[None, :], mask=(k < K)[:, None] & edge[None, :], other=0.0)
        total = tl.dot(a, w, total, input_precision="ieee")
    out = out_ptr + part * rows * N + row[:, None] * N + column[None, :]
    tl.store(out, total, mask=live[:, None] & edge[None, :])


# ---------------------------------------------------------------------------------------------------- many rows


@triton.jit(do_not_specialize=["rows"])
def norm_sums(
    dz_ptr,  # (rows, 4 HP) in
    dn_ptr,  # (rows, 4 HP) in
    z_ptr,  # (rows, 4 HP) in
    bias_ptr,  # (4H) float32 in
    stats_ptr,  # (rows, STATS) float32 in
    sums_ptr,  # (splits, 3, 4 HP) float32, added to: of dz, of dn, of dn times the normal form of z
    rows,
    H: tl.constexpr,
    HP: tl.constexpr,
    BIAS: tl.constexpr,
    EACH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program (p, s): columns p COLUMNS .. of rows s EACH .. ; it alone adds to its part, so sums repeat exactly."""
    split = tl.program_id(1)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    gate = column // HP
    real = (column < 4 * HP) & (column % HP < H)
    bias = tl.zeros((COLUMNS,), tl.float32)
    if BIAS:
        bias = tl.load(bias_ptr + gate * H + column % HP, mask=real, other=0.0)
    of_dz = tl.zeros((ROWS, COLUMNS), tl.float32)
    of_dn = tl.zeros((ROWS, COLUMNS), tl.float32)
    of_product = tl.zeros((ROWS, COLUMNS), tl.float32)
    first = split * EACH
    for start in range(0, EACH, ROWS):
        row = first + start + tl.arange(0, ROWS)
        live = (row < rows) & (start + tl.arange(0, ROWS) < EACH)
        mask = live[:, None] & real[None, :]
        at = row.to(tl.int64)[:, None] * (4 * HP) + column[None, :]
        stat = row.to(tl.int64)[:, None] * STATS + gate[None, :]
        dz = tl.load(dz_ptr + at, mask=mask, other=0.0).to(tl.float32)
        dn = tl.load(dn_ptr + at, mask=mask, other=0.0).to(tl.float32)
        z = tl.load(z_ptr + at, mask=mask, other=0.0).to(tl.float32)
        mean = tl.load(stats_ptr + stat, mask=mask, other=0.0)
        rstd = tl.load(stats_ptr + stat + 5, mask=mask, other=0.0)
        of_dz += dz
        of_dn += dn
        of_product += dn * (z + bias[None, :] - mean) * rstd
    out = sums_ptr + split * (3 * 4 * HP) + column
    edge = column < 4 * HP
    tl.store(out, tl.load(out, mask=edge, other=0.0) + tl.sum(of_dz, 0), mask=edge)
    tl.store(out + 4 * HP, tl.load(out + 4 * HP, mask=edge, other=0.0) + tl.sum(of_dn, 0), mask=edge)
    tl.store(out + 8 * HP, tl.load(out + 8 * HP, mask=edge, other=0.0) + tl.sum(of_product, 0), mask=edge)


@triton.jit(do_not_specialize=["rows"])
def column_sums(
    values_ptr,  # (rows, WIDTH) in
    sums_ptr,  # (splits, WIDTH) float32, added to
    rows,
    WIDTH: tl.constexpr,
    EACH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    split = tl.program_id(1)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    edge = column < WIDTH
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    first = split * EACH
    for start in range(0, EACH, ROWS):
        row = first + start + tl.arange(0, ROWS)
        live = (row < rows) & (start + tl.arange(0, ROWS) < EACH)
        at = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
        total += tl.load(values_ptr + at, mask=live[:, None] & edge[None, :], other=0.0).to(tl.float32)
    out = sums_ptr + split * WIDTH + column
    tl.store(out, tl.load(out, mask=edge, other=0.0) + tl.sum(total, 0), mask=edge)


@triton.jit(
    do_not_specialize=["first_step", "first_row", "rows", "site", "drop"],
    do_not_specialize_on_alignment=["source_ptr", "target_ptr"],
)
def drop_copy(
    source_ptr,  # (PARTS, steps rows, UNITS), parts source_part and rows source_stride apart, in, to add up
    target_ptr,  # (steps rows, WIDTH), rows target_stride apart, out: zero past UNITS
    key_ptr,
    first_step,
    first_row,
    rows,  # B, so that program p is row p % B of step p // B
    site,
    drop,
    scale,
    source_stride,
    source_part,
    target_stride,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    DROP: tl.constexpr,
    ADD: tl.constexpr,  # add to the target
):
    program = tl.program_id(0)
    unit = tl.arange(0, BLOCK)
    at = program.to(tl.int64)
    value = _load_sum(source_ptr + at * source_stride, unit, unit < UNITS, PARTS, source_part)
    if DROP:
        step = first_step + program // rows
        row = first_row + program % rows
        value *= _dropout(key_ptr, step, site, row, unit, drop, scale)
    target = target_ptr + at * target_stride + unit
    if ADD:
        value += tl.load(target, mask=unit < WIDTH, other=0.0).to(tl.float32)
    tl.store(target, value.to(target_ptr.dtype.element_ty), mask=unit < WIDTH)


@triton.jit(do_not_specialize=["step", "site", "row"])
def random_words(out_ptr, key_ptr, step, site, row, UNITS: tl.constexpr, BLOCK: tl.constexpr):
    """out (rows, UNITS) int32: program p writes the words of row `row + p`."""
    program = tl.program_id(0)
    unit = tl.arange(0, BLOCK)
    bits = _bits(key_ptr, step, site, row + program, unit)
    tl.store(out_ptr + program * UNITS + unit, bits.to(tl.int32, bitcast=True), mask=unit < UNITS)
