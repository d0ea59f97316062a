// One cell step for one row, forward and backward, without its products: the code shared by all cells.
//
// A cell is a file in cells/ that implements its equation in fastslow/cells/: `forward` and `backward` of a few rows. A
// row of pre-activations consists of blocks of `padded` elements, of which the first `hidden` are used; a row of h or c
// has `padded` elements. The padding stays zero. The parameters of a cell other than its matrices are one array of
// blocks of `padded` elements, in the layout of fastslow/cells/ (`Kind.vectors`).
#pragma once
#include <cmath>

#include "noise.h"

namespace fastslow {

enum Zoneout { NONE = 0, RANDOM = 1, EXPECTATION = 2 };

template <class T>
struct Cell {
    i64 hidden, padded;
    T forget_bias;
    u32 threshold_h, threshold_c;  // RANDOM: below these thresholds a unit keeps its old value
    T rate_h, rate_c;              // EXPECTATION: the share of the old value
    T* vectors;                    // owned by the caller: scratch, one per node
};

constexpr double NORM_EPSILON = 1e-3;
constexpr int GATES = 4;  // maximum number of blocks of pre-activations
constexpr i64 STATS = 8;  // elements per row

// A few rows go through the parts of a step together, so that the arithmetic of one row hides the latency of another
// row's sums. `scratch` in both directions: (BLOCK, 10 padded) per thread.
constexpr int BLOCK = 4;
constexpr i64 ROW_SCRATCH = 10, SCRATCH = BLOCK * ROW_SCRATCH;

// Forward, for one row. z, in: the products; out: the normalised blocks before gain and shift (NORM), else the
// pre-activations with the bias. stats (STATS): written if NORM. h_old, c_old, h_new, c_new (padded): new may alias
// old; c_old and c_new are null for a cell without c. h_new null: replay, only z and stats are computed.
template <class T>
struct ForwardRow {
    T *z, *stats;
    const T *h_old, *c_old;
    T *h_new, *c_new;
    RowWords words;
};

// Backward, for one row. z, in: the result of forward; out: the gradient of the products. stats, h_old, c_old: as in
// forward. dh, dc (padded), in: the gradients of h_new and c_new; out: dc is that of c_old, dh that of h_old without
// the part that flows through the products.
template <class T>
struct BackwardRow {
    T* z;
    const T *stats, *h_old, *c_old;
    T *dh, *dc;
    RowWords words;
};

// The functions of a cell. backward: `sums` are the gradients of the vectors, accumulated over the rows.
template <class T>
struct CellCode {
    void (*forward)(const Cell<T>& cell, const ForwardRow<T>* rows, int count, T* scratch);
    void (*backward)(const Cell<T>& cell, const BackwardRow<T>* rows, int count, T* sums, T* scratch);
};

// The functions of CELL<T, NORM, ZONE> for the properties of a node and a window.
template <template <class, bool, int> class CELL, class T>
CellCode<T> code_of(bool norm, i64 zoneout) {
    auto of = [](auto cell) { return CellCode<T>{decltype(cell)::forward, decltype(cell)::backward}; };
    if (norm)
        return zoneout == RANDOM        ? of(CELL<T, true, RANDOM>())
               : zoneout == EXPECTATION ? of(CELL<T, true, EXPECTATION>())
                                        : of(CELL<T, true, NONE>());
    return zoneout == RANDOM        ? of(CELL<T, false, RANDOM>())
           : zoneout == EXPECTATION ? of(CELL<T, false, EXPECTATION>())
                                    : of(CELL<T, false, NONE>());
}

// ---------------------------------------------------------------- code shared by cells

// z (4 blocks) += bias. With NORM, mean and scale (1 / deviation) of every block, which are stored in stats[0..3].
template <class T, bool NORM>
FS_INLINE void add_bias(const Cell<T>& cell, const T* bias, const ForwardRow<T>* rows, int count, T (*mean)[4], T (*scale)[4]) {
    constexpr int W = Simd<T>::W;
    typedef Vec<T> V;
    const i64 n = cell.padded, last = n - W;
    const Ints<T> tail = first_lanes<T>(cell.hidden - last);
    const T one = 1, share = one / static_cast<T>(cell.hidden), epsilon = static_cast<T>(NORM_EPSILON);
    for (int r = 0; r < count; r++) {
        T* z = rows[r].z;
        V total[4] = {};
        for (i64 u = 0; u < n; u += W)
            for (int q = 0; q < 4; q++) {
                V v = load(z + q * n + u) + load(bias + q * n + u);
                store(z + q * n + u, v);
                if (NORM) total[q] += v;
            }
        if (NORM) {
            sum_four<T>(total, mean[r]);
            for (int q = 0; q < 4; q++) mean[r][q] *= share;
        }
    }
    if (NORM)
        for (int r = 0; r < count; r++) {
            const T* z = rows[r].z;
            V square[4] = {};
            for (i64 u = 0; u < last; u += W)
                for (int q = 0; q < 4; q++) {
                    V d = load(z + q * n + u) - mean[r][q];
                    square[q] += d * d;
                }
            for (int q = 0; q < 4; q++) {
                V d = keep_lanes<T>(tail, load(z + q * n + last) - mean[r][q]);
                square[q] += d * d;
            }
            sum_four<T>(square, scale[r]);
            for (int q = 0; q < 4; q++) rows[r].stats[q] = scale[r][q] = one / std::sqrt(scale[r][q] * share + epsilon);
        }
}

// The gradients da (4 blocks, after the norms, times their gains) of every row -> z, before the norms; and of the bias.
// first, second: the sums over units of da and of da times the normalised values. da of row r is at r * ROW_SCRATCH *
// padded + at in scratch.
template <class T>
FS_INLINE void norm_backward(const Cell<T>& cell, const BackwardRow<T>* rows, int count, const T* scratch, i64 at, T (*first)[4],
                             T (*second)[4], T* bias) {
    constexpr int W = Simd<T>::W;
    typedef Vec<T> V;
    const i64 n = cell.padded, last = n - W;
    const Ints<T> tail = first_lanes<T>(cell.hidden - last);
    for (int r = 0; r < count; r++) {
        const T *da = scratch + r * ROW_SCRATCH * n + at, *stats = rows[r].stats;
        T* z = rows[r].z;
        for (i64 u = 0; u < n; u += W)
            for (int q = 0; q < 4; q++) {
                V d = stats[q] * (load(da + q * n + u) - first[r][q] - load(z + q * n + u) * second[r][q]);
                if (u == last) d = keep_lanes<T>(tail, d);
                store(z + q * n + u, d);
                store(bias + q * n + u, load(bias + q * n + u) + d);
            }
    }
}

}  // namespace fastslow
