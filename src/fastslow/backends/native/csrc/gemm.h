// Matrix products of a few rows with a matrix that is used at every step and so is packed once a window.
//
// A packed matrix (K, N) is a row of *panels*, each PANEL vectors wide (the last may be narrower): a panel holds, for
// k = 0 .. K-1, its columns' entries one after the other. A product walks a panel once for every block of up to
// ROWS rows, with ROWS x PANEL accumulators in registers: one load of a panel's line serves ROWS rows, one broadcast
// of an activation serves PANEL vectors. Every entry is one chain of fused multiply-adds in the order of k, whatever the
// block it falls in, so results do not depend on how rows are dealt to threads.
#pragma once
#include <utility>

#include "vec.h"

namespace fastslow {

constexpr int PANEL = 3;
constexpr int ROWS = FS_REGISTERS == 32 ? 8 : 4;  // ROWS x PANEL accumulators, a panel's line and a broadcast
constexpr i64 DEPTH = 256;  // k's walked before the next block of rows: a panel's slice of this depth stays in cache

// Rows of activations (rows, k), row-major with stride ld: one summand of a product. Several follow each other in the
// packed matrix's k.
template <class T>
struct Operand {
    const T* a;
    i64 ld, k;
};

// Where the columns of a product go: vectors below `split` to `first`, the others to `second`; stored or added.
template <class T>
struct Target {
    T* first;
    i64 first_ld;
    bool first_add;
    i64 split;
    T* second;
    i64 second_ld;
    bool second_add;
};

template <class T>
struct Tile {
    T* at;
    i64 ld;
    bool add;
};

// tiles[v] (M, W) (+)= a (M, k) b (k, NV vectors). Fetches `stride` bytes a k from `ahead` into the second cache: what the
// next slice will read.
template <class T, int M, int NV>
void micro(i64 k, const T* __restrict a, i64 lda, const T* __restrict b, const Tile<T>* tiles, const char* ahead, i64 stride) {
    constexpr int W = Simd<T>::W;
    Vec<T> acc[M][NV];
#pragma GCC unroll 3
    for (int v = 0; v < NV; v++) {
        const Tile<T>& tile = tiles[v];
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) acc[m][v] = tile.add ? load(tile.at + m * tile.ld) : Vec<T>{};
    }
#pragma GCC unroll 4
    for (i64 i = 0; i < k; i++) {
        __builtin_prefetch(ahead + i * stride, 0, 2);
        Vec<T> line[NV];
#pragma GCC unroll 3
        for (int v = 0; v < NV; v++) line[v] = load(b + (i * NV + v) * W);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
            Vec<T> x = splat(a[m * lda + i]);
#pragma GCC unroll 3
            for (int v = 0; v < NV; v++) acc[m][v] += x * line[v];
        }
    }
#pragma GCC unroll 3
    for (int v = 0; v < NV; v++)
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) store(tiles[v].at + m * tiles[v].ld, acc[m][v]);
}

template <class T>
using Micro = void (*)(i64, const T*, i64, const T*, const Tile<T>*, const char*, i64);

template <class T, int NV, int... M>
Micro<T> micro_of_rows(i64 rows, std::integer_sequence<int, M...>) {
    static constexpr Micro<T> table[] = {micro<T, M + 1, NV>...};
    return table[rows - 1];
}

template <class T>
Micro<T> choose_micro(i64 rows, i64 vectors) {
    constexpr auto ROW_COUNTS = std::make_integer_sequence<int, ROWS>();
    return vectors == 1   ? micro_of_rows<T, 1>(rows, ROW_COUNTS)
           : vectors == 2 ? micro_of_rows<T, 2>(rows, ROW_COUNTS)
                          : micro_of_rows<T, 3>(rows, ROW_COUNTS);
}

inline i64 panels_of(i64 vectors) { return (vectors + PANEL - 1) / PANEL; }

// target (rows, `vectors` vectors) (+)= the sum over operands of a (rows, k) times their part of `packed`,
// for the panels first_panel .. last_panel - 1.
template <class T>
void product(i64 rows, const Operand<T>* operands, int count, const T* packed, i64 vectors, const Target<T>& target,
             i64 first_panel, i64 last_panel) {
    constexpr int W = Simd<T>::W;
    i64 depth = 0;
    for (int o = 0; o < count; o++) depth += operands[o].k;
    const i64 blocks = (rows + ROWS - 1) / ROWS;
    for (i64 p = first_panel; p < last_panel; p++) {
        const i64 width = vectors - p * PANEL < PANEL ? vectors - p * PANEL : PANEL;
        const T* b = packed + p * PANEL * W * depth;
        Tile<T> home[PANEL], tiles[PANEL];
        for (i64 v = 0; v < width; v++) {
            const i64 column = p * PANEL + v;
            home[v] = column < target.split
                          ? Tile<T>{target.first + column * W, target.first_ld, target.first_add}
                          : Tile<T>{target.second + (column - target.split) * W, target.second_ld, target.second_add};
        }
        for (int o = 0; o < count; o++) {
            const Operand<T>& x = operands[o];
            const i64 slices = (x.k + DEPTH - 1) / DEPTH;
            for (i64 s = 0; s < slices; s++) {
                const i64 k0 = x.k * s / slices, k1 = x.k * (s + 1) / slices;
                // The slice after this one, as long as it, in shares for the blocks of rows.
                const char* next = reinterpret_cast<const char*>(b + (k1 - k0) * width * W);
                const i64 stride = (width * W * static_cast<i64>(sizeof(T)) + blocks - 1) / blocks, share = stride * (k1 - k0);
                for (i64 j = 0; j < blocks; j++) {
                    const i64 r0 = rows * j / blocks, r1 = rows * (j + 1) / blocks;
                    for (i64 v = 0; v < width; v++) tiles[v] = {home[v].at + r0 * home[v].ld, home[v].ld, home[v].add};
                    choose_micro<T>(r1 - r0, width)(k1 - k0, x.a + r0 * x.ld + k0, x.ld, b, tiles, next + j * share, stride);
                }
                b += (k1 - k0) * width * W;
                for (i64 v = 0; v < width; v++) home[v].add = true;
            }
        }
    }
}

// ---------------------------------------------------------------- packing

// A matrix as a product reads it: w (blocks of `hidden` rows, k), row-major; block b of what the product makes is block
// rows[b] of its rows.
template <class T>
struct Matrix {
    const T* w;
    i64 k;
    const std::int8_t* rows;
};

// Panels first .. last-1 of (m_0 | m_1 ..)^T: k runs over the columns of one matrix after the other; columns are `blocks`
// blocks, each padded to `padded` with zeros.
template <class T>
void pack_forward(const Matrix<T>* matrices, int count, i64 blocks, i64 hidden, i64 padded, T* packed, i64 first, i64 last) {
    constexpr int W = Simd<T>::W;
    const i64 block = padded / W, vectors = blocks * block;
    i64 depth = 0;
    for (int m = 0; m < count; m++) depth += matrices[m].k;
    for (i64 p = first; p < last; p++) {
        const i64 width = vectors - p * PANEL < PANEL ? vectors - p * PANEL : PANEL;
        T* panel = packed + p * PANEL * W * depth;
        for (i64 v = 0; v < width; v++) {
            const i64 column = p * PANEL + v, unit = column % block * W;
            const i64 lanes = hidden - unit < W ? (hidden - unit < 0 ? 0 : hidden - unit) : W;
            T* out = panel + v * W;
            for (int m = 0; m < count; m++) {
                const i64 k = matrices[m].k;
                const T* w = matrices[m].w + (matrices[m].rows[column / block] * hidden + unit) * k;
                if (lanes == W) {
                    for (i64 i = 0; i < k; i++, out += width * W)
                        for (int lane = 0; lane < W; lane++) out[lane] = w[lane * k + i];
                } else {
                    for (i64 i = 0; i < k; i++, out += width * W) {
                        for (i64 lane = 0; lane < lanes; lane++) out[lane] = w[lane * k + i];
                        for (i64 lane = lanes; lane < W; lane++) out[lane] = 0;
                    }
                }
            }
        }
    }
}

// Panels first .. last-1 of (m_0 | m_1 ..): k runs over `blocks` blocks, each padded with zeros; columns are those of one
// matrix after the other, each padded to a whole number of vectors.
template <class T>
void pack_backward(const Matrix<T>* matrices, int count, i64 blocks, i64 hidden, i64 padded, T* packed, i64 first, i64 last) {
    constexpr int W = Simd<T>::W;
    i64 vectors = 0;
    for (int m = 0; m < count; m++) vectors += (matrices[m].k + W - 1) / W;
    const i64 depth = blocks * padded;
    for (i64 p = first; p < last; p++) {
        const i64 width = vectors - p * PANEL < PANEL ? vectors - p * PANEL : PANEL;
        T* panel = packed + p * PANEL * W * depth;
        for (i64 v = 0; v < width; v++) {
            i64 column = p * PANEL + v;
            const Matrix<T>* m = matrices;
            for (; column >= (m->k + W - 1) / W; m++) column -= (m->k + W - 1) / W;
            const i64 ld = m->k, c0 = column * W, lanes = ld - c0 < W ? ld - c0 : W;
            T* out = panel + v * W;
            for (i64 k = 0; k < depth; k++, out += width * W) {
                const i64 unit = k % padded;
                if (unit >= hidden) {
                    for (int lane = 0; lane < W; lane++) out[lane] = 0;
                    continue;
                }
                const T* row = m->w + (m->rows[k / padded] * hidden + unit) * ld + c0;
                if (lanes == W) {
                    store(out, load(row));
                } else {
                    for (i64 lane = 0; lane < lanes; lane++) out[lane] = row[lane];
                    for (i64 lane = lanes; lane < W; lane++) out[lane] = 0;
                }
            }
        }
    }
}

}  // namespace fastslow
