// Matrix products of float32 by a unit for bfloat16, where the processor has one: the same products as in gemm.h.
//
// Such a unit multiplies bfloat16 (8 bits of significand) and adds in float32. A float32 (24 bits) is split into a sum
// of parts of 8 bits each, v = v1 + v2 + v3 exactly, and a product is the sum of the significant partial products:
//
//     PARTS 3   v1w1 + v1w2 + v2w1 + v1w3 + v2w2 + v3w1     the omitted terms are below 2^-24: as exact as float32
//     PARTS 2   v1w1 + v1w2 + v2w1                          relative error about 2^-18
//     PARTS 1   v1w1                                        bfloat16: about 2^-9
//
// which takes 6, 3 or 1 of the unit's products. The units are TileUnit (amx.h) and DotProducts (dots.h). Accumulation
// runs over k in one fixed order for every entry, so results do not depend on how rows are distributed over threads.
//
// A tile is 16 rows of 64 bytes. A tile of the left factor holds 16 rows of 32 k's. One of the right factor holds 32
// k's of 16 columns as 16 rows of pairs: row r has, for each column, the entries of k = 2r and 2r + 1 side by side.
#pragma once
#include "gemm.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define FASTSLOW_BF16 1
#include <immintrin.h>

#include <type_traits>

namespace fastslow {
namespace bf16 {

typedef unsigned short u16;
constexpr i64 SIDE = 16;            // rows of a tile; columns of a tile of float32
constexpr i64 STEP = 32;            // k's per tile
constexpr i64 TILE = SIDE * STEP;   // elements of a bfloat16 tile

inline i64 round_up(i64 n, i64 to) { return (n + to - 1) / to * to; }
inline i64 least(i64 a, i64 b) { return a < b ? a : b; }

// Mask of the first `count` of 16 lanes.
inline __mmask16 first_columns(i64 count) {
    return count >= SIDE ? 0xFFFF : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// v's next part, its nearest bfloat16, as a float32; v keeps the remainder. Ties round away from zero, where the
// processor's own conversion rounds to even. A NaN may be lost in this part, but then the remainder holds it.
inline __m512 next_part(__m512& v) {
    const __m512i rounded = _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000));
    const __m512 part = _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(-0x10000)));
    v = _mm512_sub_ps(v, part);
    return part;
}

// The last of PARTS parts as a float32 whose upper half is the bfloat16. With three parts the last is exact.
template <int PARTS>
inline __m512i last_part(__m512 v) {
    if (PARTS == 3) return _mm512_castps_si512(v);
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v)), 16);
}

// ---------------------------------------------------------------- left factors

// rows x k of every operand -> `out`: for every SIDE rows (the last may be fewer), for every STEP of k (each operand's
// k padded with zeros), PARTS consecutive tiles. Returns the total of the padded k's.
template <int PARTS>
i64 split(i64 rows, const Operand<float>* operands, int count, u16* out) {
    i64 depth = 0;
    for (int o = 0; o < count; o++) depth += round_up(operands[o].k, STEP);
    const i64 side = depth / STEP * PARTS * TILE;
    for (i64 r = 0; r < rows; r++) {
        u16* line = out + r / SIDE * side + r % SIDE * STEP;
        for (int o = 0; o < count; o++) {
            const float* a = operands[o].a + r * operands[o].ld;
            const i64 k = operands[o].k, padded = round_up(k, STEP);
            for (i64 i = 0; i < padded; i += STEP, line += PARTS * TILE) {
                __m512 low = _mm512_maskz_loadu_ps(first_columns(k - i), a + i);
                __m512 high = _mm512_maskz_loadu_ps(first_columns(k - i - SIDE), a + i + SIDE);
                for (int part = 0; part < PARTS; part++) {
                    const __m512 a_low = part + 1 < PARTS ? next_part(low) : low;
                    const __m512 a_high = part + 1 < PARTS ? next_part(high) : high;
                    _mm512_storeu_si512(line + part * TILE, (__m512i)_mm512_cvtne2ps_pbh(a_high, a_low));
                }
            }
        }
    }
    return depth;
}

// ---------------------------------------------------------------- right factors

// Two rows of 16 columns, k and k + 1 -> one row of pairs for every part: out + part * TILE.
template <int PARTS>
inline void pair_lines(__m512 even, __m512 odd, u16* out) {
    for (int part = 0; part < PARTS; part++) {
        const bool last = part + 1 == PARTS;
        const __m512i low = last ? last_part<PARTS>(even) : _mm512_castps_si512(next_part(even));
        const __m512i high = last ? last_part<PARTS>(odd) : _mm512_castps_si512(next_part(odd));
        const __m512i upper = _mm512_set1_epi32(-0x10000);
        // (high and upper) or (low >> 16)
        _mm512_storeu_si512(out + part * TILE, _mm512_ternarylogic_epi32(high, upper, _mm512_srli_epi32(low, 16), 0xEA));
    }
}

// Repacks vectors first .. last-1 of a factor packed by gemm.h (panels) into tiles: for every vector, for every STEP of
// k (each of `count` parts of k is padded separately), PARTS tiles.
template <int PARTS>
void pack(const float* panels, i64 vectors, const i64* ks, int count, u16* packed, i64 first, i64 last) {
    i64 depth = 0, blocks = 0;
    for (int o = 0; o < count; o++) depth += ks[o], blocks += round_up(ks[o], STEP) / STEP;
    for (i64 v = first; v < last; v++) {
        const i64 p = v / PANEL, width = vectors - p * PANEL < PANEL ? vectors - p * PANEL : PANEL;
        const float* column = panels + p * PANEL * SIDE * depth + (v - p * PANEL) * SIDE;
        u16* out = packed + v * blocks * PARTS * TILE;
        for (int o = 0; o < count; o++) {
            for (i64 k = 0; k < ks[o]; k += STEP, out += PARTS * TILE)
                for (i64 r = 0; r < STEP; r += 2) {
                    const __m512 zero = _mm512_setzero_ps();
                    const __m512 even = k + r < ks[o] ? _mm512_loadu_ps(column + (k + r) * width * SIDE) : zero;
                    const __m512 odd = k + r + 1 < ks[o] ? _mm512_loadu_ps(column + (k + r + 1) * width * SIDE) : zero;
                    pair_lines<PARTS>(even, odd, out + r / 2 * STEP);
                }
            column += ks[o] * width * SIDE;
        }
    }
}

// ---------------------------------------------------------------- products

// A left factor: row m, part i, block j of STEP k's at a + m * ld + i * plane + j * jump; rows 16 to 31 are `second`
// further.
struct Left {
    const u16* a;
    i64 ld, plane, jump, second;
};

// The two runs of the right factor that the next product reads: prefetched into the L2 cache, a part per step.
struct Ahead {
    const char *first, *second;
    i64 bytes;  // of each run, per step

    void fetch(i64 step) const {
        for (i64 i = step * bytes; i < (step + 1) * bytes; i += 64) {
            __builtin_prefetch(first + i, 0, 2);
            __builtin_prefetch(second + i, 0, 2);
        }
    }
};

// Up to 2 x 2 tiles of sums: rows from `row` on, `upper` of them in the first tile of a column, `lower` in the second
// (0 if there is none); the homes of one or two columns.
struct Sums {
    Tile<float> home[2];
    bool two_columns;
    i64 row, upper, lower;
};

// A unit has a function
//
//     template <int PARTS>
//     void add(const Sums&, const Left&, i64 blocks, const u16* b0, const u16* b1, const Ahead&)
//
// sums (+)= the products of left, over `blocks` STEPs, with the column at b0 and, if there are two, the one at b1.

constexpr i64 SLICE = 40;            // steps of k per block of columns: the slices of rows and columns stay in cache
constexpr i64 CACHED = 1 << 20;      // a right factor up to this many bytes stays in cache between products

// Like the product of gemm.h, for vectors first .. last-1 of a factor packed by `pack`; left factors are from `split`.
template <class Unit, int PARTS>
void product(i64 rows, const u16* left, i64 depth, const u16* packed, const Target<float>& target, i64 first, i64 last) {
    const i64 blocks = depth / STEP, side = blocks * PARTS * TILE, slices = (blocks + SLICE - 1) / SLICE;
    // While two columns of tiles are multiplied, the next two are prefetched: a part per block of rows and step.
    const i64 pairs_of_rows = (rows + 2 * SIDE - 1) / (2 * SIDE);
    const i64 fetched = (last - first) * side * 2 > CACHED ? round_up(PARTS * TILE * 2 / pairs_of_rows, 64) : 0;
    Unit unit;
    for (i64 s = 0; s < slices; s++) {
        const i64 from = blocks * s / slices, steps = blocks * (s + 1) / slices - from;
        for (i64 v = first; v < last; v += 2) {
            Sums sums;
            sums.two_columns = v + 1 < last;
            for (i64 c = 0; c < 2; c++) {
                const bool near = v + c < target.split;
                const i64 column = (near ? v + c : v + c - target.split) * SIDE;
                sums.home[c] = near ? Tile<float>{target.first + column, target.first_ld, target.first_add || s > 0}
                                    : Tile<float>{target.second + column, target.second_ld, target.second_add || s > 0};
            }
            const u16* b = packed + v * side + from * PARTS * TILE;
            for (i64 m = 0; m < rows; m += 2 * SIDE) {
                sums.row = m, sums.upper = least(rows - m, SIDE), sums.lower = least(rows - m - sums.upper, SIDE);
                const Left block{left + m / SIDE * side + from * PARTS * TILE, STEP, TILE, PARTS * TILE, side};
                const char* next = reinterpret_cast<const char*>(b + 2 * side) + m / (2 * SIDE) * fetched * steps;
                unit.template add<PARTS>(sums, block, steps, b, b + side, {next, next + 2 * side, fetched});
            }
        }
    }
}

// ---------------------------------------------------------------- sums over rows

// out (16, 16) = in (16, 16)^T, with row strides in_ld and out_ld.
inline void transpose_square(const float* in, i64 in_ld, float* out, i64 out_ld) {
    __m512i a[16], b[16];
    for (int r = 0; r < 16; r++) a[r] = _mm512_loadu_si512(in + r * in_ld);
    // Within every quarter of a vector, interleave pairs of rows, then groups of four; then exchange the quarters.
    for (int r = 0; r < 16; r += 2) {
        b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
        b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
    }
    for (int r = 0; r < 16; r += 4)
        for (int i = 0; i < 2; i++) {
            a[r + 2 * i] = _mm512_unpacklo_epi64(b[r + i], b[r + 2 + i]);
            a[r + 2 * i + 1] = _mm512_unpackhi_epi64(b[r + i], b[r + 2 + i]);
        }
    // a[4 g + c] holds, in quarter f, column 4 f + c of rows 4 g .. 4 g + 3.
    for (int c = 0; c < 4; c++) {
        const __m512i low_01 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x44), high_01 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xEE);
        const __m512i low_23 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x44);
        const __m512i high_23 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xEE);
        _mm512_storeu_si512(out + c * out_ld, _mm512_shuffle_i32x4(low_01, low_23, 0x88));
        _mm512_storeu_si512(out + (4 + c) * out_ld, _mm512_shuffle_i32x4(low_01, low_23, 0xDD));
        _mm512_storeu_si512(out + (8 + c) * out_ld, _mm512_shuffle_i32x4(high_01, high_23, 0x88));
        _mm512_storeu_si512(out + (12 + c) * out_ld, _mm512_shuffle_i32x4(high_01, high_23, 0xDD));
    }
}

// STEP rows of 16 columns of a (rows, ld) -> the left factor's tiles, transposed: 16 rows of 32 bfloat16, one tile per
// part. Rows and columns past the last are filled with zeros.
template <int PARTS>
void transpose(const float* a, i64 ld, i64 row, i64 rows, i64 column, i64 columns, u16* tiles) {
    alignas(64) u16 pairs[PARTS * TILE];
    const __mmask16 mask = first_columns(columns - column);
    const float* at = a + row * ld + column;
    for (i64 r = 0; r < STEP; r += 2, at += 2 * ld) {
        __builtin_prefetch(at + STEP * ld, 0, 2);
        __builtin_prefetch(at + (STEP + 1) * ld, 0, 2);
        const __m512 even = row + r < rows ? _mm512_maskz_loadu_ps(mask, at) : _mm512_setzero_ps();
        const __m512 odd = row + r + 1 < rows ? _mm512_maskz_loadu_ps(mask, at + ld) : _mm512_setzero_ps();
        pair_lines<PARTS>(even, odd, pairs + r / 2 * STEP);
    }
    for (int part = 0; part < PARTS; part++)  // pairs are moved together, like floats
        transpose_square(reinterpret_cast<const float*>(pairs + part * TILE), SIDE,
                         reinterpret_cast<float*>(tiles + part * TILE), SIDE);
}

// One left factor of `outer`: a (rows, ld), m elements per row.
struct Columns {
    const float* a;
    i64 ld, m;
};

constexpr i64 BAND = 16;  // vectors of b packed at a time, for one block of rows after another

// sums = (a_0 | a_1 ..)^T b: the sum over rows of `count` left factors side by side and b (rows, ldb) with n elements
// per row, for vectors first .. last-1 of b, `chunk` rows at a time. sums: blocks of 32 columns, each (the sum of the
// m's, each rounded up to 32; 32). left: 2 * PARTS bytes for every element of a chunk of the a's, with their columns
// rounded up to 32; right: for BAND vectors of b. Rows are prefetched some steps ahead: they are too far apart in
// memory for the hardware prefetcher.
template <class Unit, int PARTS>
void outer(i64 rows, i64 chunk, const Columns* a, int count, const float* b, i64 ldb, i64 n, float* sums, i64 first,
           i64 last, u16* left, u16* right) {
    i64 sides = 0;
    for (int o = 0; o < count; o++) sides += round_up(a[o].m, 2 * SIDE) / SIDE;
    Unit unit;
    for (i64 r0 = 0; r0 < rows; r0 += chunk) {
        const i64 blocks = round_up(rows - r0 < chunk ? rows - r0 : chunk, STEP) / STEP, side = blocks * PARTS * TILE;
        for (i64 j = 0; j < blocks; j++) {
            u16* out = left + j * PARTS * TILE;
            for (int o = 0; o < count; o++)
                for (i64 column = 0; column < round_up(a[o].m, 2 * SIDE); column += SIDE, out += side)
                    transpose<PARTS>(a[o].a, a[o].ld, r0 + j * STEP, rows, column, a[o].m, out);
        }
        for (i64 v0 = first; v0 < last; v0 += BAND) {
            const i64 v1 = v0 + BAND < last ? v0 + BAND : last;
            for (i64 j = 0; j < blocks; j++)
                for (i64 v = v0; v < v0 + round_up(v1 - v0, 2); v++) {
                    const __mmask16 mask = first_columns(v < last ? n - v * SIDE : 0);
                    const float* at = b + (r0 + j * STEP) * ldb + v * SIDE;
                    u16* out = right + (v - v0) * side + j * PARTS * TILE;
                    for (i64 r = 0; r < STEP; r += 2, at += 2 * ldb) {
                        const i64 row = r0 + j * STEP + r;
                        __builtin_prefetch(at + STEP * ldb, 0, 2);
                        __builtin_prefetch(at + (STEP + 1) * ldb, 0, 2);
                        const __m512 even = row < rows ? _mm512_maskz_loadu_ps(mask, at) : _mm512_setzero_ps();
                        const __m512 odd = row + 1 < rows ? _mm512_maskz_loadu_ps(mask, at + ldb) : _mm512_setzero_ps();
                        pair_lines<PARTS>(even, odd, out + r / 2 * STEP);
                    }
                }
            for (i64 v = v0; v < v1; v += 2) {
                const u16* columns = right + (v - v0) * side;
                float* home = sums + v * SIDE * sides * SIDE;
                for (i64 s = 0; s < sides; s += 2, home += 4 * SIDE * SIDE) {
                    const Sums at{{{home, 2 * SIDE, r0 > 0}, {home + SIDE, 2 * SIDE, r0 > 0}}, true, 0, SIDE, SIDE};
                    const Left block{left + s * side, STEP, TILE, PARTS * TILE, side};
                    const char* next = reinterpret_cast<const char*>(home + 4 * SIDE * SIDE);
                    const i64 fetched = round_up(2 * SIDE * SIDE * 4 / blocks, 64);
                    unit.template add<PARTS>(at, block, blocks, columns, columns + side,
                                             {next, next + 2 * SIDE * SIDE * 4, fetched});
                }
            }
        }
    }
}

}  // namespace bf16
}  // namespace fastslow
#endif
