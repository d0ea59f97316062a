"""The Triton kernels that do not depend on the cell. Importing this file imports triton.

The kernels:

    norm_sums       column sums over many rows for the gradients of biases, gains and shifts
    column_sums     plain column sums, for a cell's other vectors (and for the biases of a cell without norms)
    part_product    a matrix product as partial sums, for the backward loop with `own_products`
    drop_copy       a copy with a dropout mask, for the input and for additional readers of a node
    random_words    the words of `fastslow.noise.random_bits`, for tests that compare the bits

The kernels of a cell step are in `fastslow.backends.triton.cells`.

Layout. A row of H units takes HP columns: H rounded up to 16, because matrix products are faster with rows of a
multiple of 16 bytes. The columns past H are zero and excluded from all statistics. z, dz and dn are (rows, BLOCKS HP):
the blocks of the cell's z, each HP wide. Matrix operands may be bfloat16; statistics, nonlinearities, the wide state
and all sums are float32.
"""

# Kernels are compiled by triton, not by Python; their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from fastslow.backends.triton.row import STATS, bits_of, dropout, load_sum

# ---------------------------------------------------------------------------------------------------- a product


@triton.jit(do_not_specialize=["rows"])
def part_product(
    a_ptr,  # (rows, K) in
    w_ptr,  # (K, N), rows w_stride apart, in
    out_ptr,  # (parts, rows, N) float32 out: a w, each part over EACH of the K terms
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
    """Program (n, p, m) computes columns n BLOCK_N .. of rows m BLOCK_M .. of part p."""
    part = tl.program_id(1)
    row = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    within = tl.arange(0, BLOCK_K)
    live = row < rows
    edge = column < N
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    # Except for w, everything that this kernel reads or overwrites may be in use by the kernels before it.
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
    dz_ptr,  # (rows, BLOCKS HP) in
    dn_ptr,  # (rows, BLOCKS HP) in
    z_ptr,  # (rows, BLOCKS HP) in
    bias_ptr,  # (BLOCKS H) float32 in
    stats_ptr,  # (rows, STATS) float32 in
    sums_ptr,  # (splits, 3, BLOCKS HP) float32, accumulated: of dz, of dn times the normal form of z, of dn
    rows,
    H: tl.constexpr,
    HP: tl.constexpr,
    BLOCKS: tl.constexpr,
    BIAS: tl.constexpr,
    EACH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program (p, s): columns p COLUMNS .., rows s EACH ..; only it adds to its part, so sums are deterministic."""
    split = tl.program_id(1)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    gate = column // HP
    real = (column < BLOCKS * HP) & (column % HP < H)
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
        at = row.to(tl.int64)[:, None] * (BLOCKS * HP) + column[None, :]
        stat = row.to(tl.int64)[:, None] * STATS + gate[None, :]
        dz = tl.load(dz_ptr + at, mask=mask, other=0.0).to(tl.float32)
        dn = tl.load(dn_ptr + at, mask=mask, other=0.0).to(tl.float32)
        z = tl.load(z_ptr + at, mask=mask, other=0.0).to(tl.float32)
        mean = tl.load(stats_ptr + stat, mask=mask, other=0.0)
        rstd = tl.load(stats_ptr + stat + 8, mask=mask, other=0.0)
        of_dz += dz
        of_dn += dn
        of_product += dn * (z + bias[None, :] - mean) * rstd
    out = sums_ptr + split * (3 * BLOCKS * HP) + column
    edge = column < BLOCKS * HP
    tl.store(out, tl.load(out, mask=edge, other=0.0) + tl.sum(of_dz, 0), mask=edge)
    out += BLOCKS * HP
    tl.store(out, tl.load(out, mask=edge, other=0.0) + tl.sum(of_product, 0), mask=edge)
    out += BLOCKS * HP
    tl.store(out, tl.load(out, mask=edge, other=0.0) + tl.sum(of_dn, 0), mask=edge)


@triton.jit(do_not_specialize=["rows"])
def column_sums(
    values_ptr,  # (rows, WIDTH) in
    sums_ptr,  # (splits, WIDTH) float32, accumulated
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
    source_ptr,  # (PARTS, steps rows, UNITS), parts source_part and rows source_stride apart, in, partial sums
    target_ptr,  # (steps rows, WIDTH), rows target_stride apart, out: zeros past UNITS
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
    value = load_sum(source_ptr + at * source_stride, unit, unit < UNITS, PARTS, source_part)
    if DROP:
        step = first_step + program // rows
        row = first_row + program % rows
        value *= dropout(key_ptr, step, site, row, unit, drop, scale)
    target = target_ptr + at * target_stride + unit
    if ADD:
        value += tl.load(target, mask=unit < WIDTH, other=0.0).to(tl.float32)
    tl.store(target, value.to(target_ptr.dtype.element_ty), mask=unit < WIDTH)


@triton.jit(do_not_specialize=["step", "site", "row"])
def random_words(out_ptr, key_ptr, step, site, row, UNITS: tl.constexpr, BLOCK: tl.constexpr):
    """out (rows, UNITS) int32: program p writes the words of row `row + p`."""
    program = tl.program_id(0)
    unit = tl.arange(0, BLOCK)
    bits = bits_of(key_ptr, step, site, row + program, unit)
    tl.store(out_ptr + program * UNITS + unit, bits.to(tl.int32, bitcast=True), mask=unit < UNITS)
