// The LSTM: in the notation of fastslow/cells/lstm.py, and plain_lstm.py without norms. Blocks of z: i, f, g, o.
// stats: 1 / standard deviation of the four gates, then mean and 1 / standard deviation of c'.
#pragma once
#include "../cell.h"

namespace fastslow {

namespace lstm {

// The vectors, or their gradients: without norms only the bias is used.
template <class T>
struct Vectors {
    T *bias, *gate_gain, *gate_shift;  // (4 padded)
    T *cell_gain, *cell_shift;         // (padded)
    Vectors(T* base, i64 padded)
        : bias(base), gate_gain(base + 4 * padded), gate_shift(base + 8 * padded), cell_gain(base + 12 * padded),
          cell_shift(base + 13 * padded) {}
};

}  // namespace lstm

template <class T, bool NORM, int ZONE>
struct LSTM {
    typedef lstm::Vectors<T> Vectors;

    static void forward(const Cell<T>& cell, const ForwardRow<T>* rows, int count, T* scratch) {
        constexpr int W = Simd<T>::W;
        typedef Vec<T> V;
        const i64 n = cell.padded, last = n - W;
        const Ints<T> tail = first_lanes<T>(cell.hidden - last);
        const T one = 1, share = one / static_cast<T>(cell.hidden), epsilon = static_cast<T>(NORM_EPSILON);
        const Vectors p(cell.vectors, n);
        T mean[BLOCK][4], scale[BLOCK][4], cell_mean[BLOCK], cell_scale[BLOCK];
        V cell_sum[BLOCK] = {};

        add_bias<T, NORM>(cell, p.bias, rows, count, mean, scale);
        for (int r = 0; r < count; r++) {
            T *z = rows[r].z, *cell_new = scratch + r * ROW_SCRATCH * n, *open = cell_new + n;
            const T* c_old = rows[r].c_old;
            V total = {};
            for (i64 u = 0; u < n; u += W) {
                V a[4];
                for (int q = 0; q < 4; q++) {
                    a[q] = load(z + q * n + u);
                    if (NORM) {
                        V normed = (a[q] - mean[r][q]) * scale[r][q];
                        if (u == last) normed = keep_lanes<T>(tail, normed);
                        store(z + q * n + u, normed);
                        a[q] = normed * load(p.gate_gain + q * n + u) + load(p.gate_shift + q * n + u);
                    }
                }
                V c = sigmoid<T>(a[1] + cell.forget_bias) * load(c_old + u) + sigmoid<T>(a[0]) * tanh<T>(a[2]);
                store(cell_new + u, c);
                store(open + u, sigmoid<T>(a[3]));
                if (NORM) total += c;
            }
            cell_sum[r] = total;
        }
        if (NORM) {
            sum_four<T>(cell_sum, cell_mean);
            for (int r = 0; r < BLOCK; r++) cell_mean[r] *= share;
            for (int r = 0; r < count; r++) {
                const T* cell_new = scratch + r * ROW_SCRATCH * n;
                V square = {};
                for (i64 u = 0; u < n; u += W) {
                    V d = load(cell_new + u) - cell_mean[r];
                    if (u == last) d = keep_lanes<T>(tail, d);
                    square += d * d;
                }
                cell_sum[r] = square;
            }
            sum_four<T>(cell_sum, cell_scale);
            for (int r = 0; r < BLOCK; r++) cell_scale[r] = one / std::sqrt(cell_scale[r] * share + epsilon);
            for (int r = 0; r < count; r++) rows[r].stats[4] = cell_mean[r], rows[r].stats[5] = cell_scale[r];
        }
        for (int r = 0; r < count; r++) {
            const ForwardRow<T>& row = rows[r];
            if (!row.h_new) continue;
            const T *cell_new = scratch + r * ROW_SCRATCH * n, *open = cell_new + n;
            for (i64 u = 0; u < n; u += W) {
                V c = load(cell_new + u), normed = c;
                if (NORM) normed = (c - cell_mean[r]) * cell_scale[r] * load(p.cell_gain + u) + load(p.cell_shift + u);
                V h = load(open + u) * tanh<T>(normed);
                if (ZONE == RANDOM) {
                    Updates<T> update = zoneout_updates<T>(row.words, u, cell.threshold_h, cell.threshold_c);
                    h = update.h ? h : load(row.h_old + u);
                    c = update.c ? c : load(row.c_old + u);
                } else if (ZONE == EXPECTATION) {
                    h = (one - cell.rate_h) * h + cell.rate_h * load(row.h_old + u);
                    c = (one - cell.rate_c) * c + cell.rate_c * load(row.c_old + u);
                }
                store(row.h_new + u, h);
                store(row.c_new + u, c);
            }
        }
    }

    static void backward(const Cell<T>& cell, const BackwardRow<T>* rows, int count, T* gradients, T* scratch) {
        constexpr int W = Simd<T>::W;
        typedef Vec<T> V;
        const i64 n = cell.padded, last = n - W;
        const Ints<T> tail = first_lanes<T>(cell.hidden - last);
        const T one = 1, share = one / static_cast<T>(cell.hidden);
        const Vectors p(cell.vectors, n), sums(gradients, n);
        V sum_1[BLOCK] = {}, sum_2[BLOCK] = {};
        T mean_1[BLOCK] = {}, mean_2[BLOCK] = {};

        // i, f, g, the gradient of c' via h' (`through`, before the norm's projection), and the part of dc that flows
        // to c'.
        for (int r = 0; r < count; r++) {
            const BackwardRow<T>& row = rows[r];
            T *gates = scratch + r * ROW_SCRATCH * n, *through = gates + 3 * n, *cell_normed = gates + 4 * n, *da = gates + 5 * n;
            T *open = da + 3 * n;  // the gradient of o's pre-activation is stored in da directly
            T *taken = gates + 9 * n;
            const T *z = row.z, *c_old = row.c_old;
            T *dh = row.dh, *dc = row.dc;
            const T cell_mean = NORM ? row.stats[4] : 0, cell_scale = NORM ? row.stats[5] : 1;
            V total_1 = {}, total_2 = {};
            for (i64 u = 0; u < n; u += W) {
                V a[4];
                for (int q = 0; q < 4; q++) {
                    a[q] = load(z + q * n + u);
                    if (NORM) a[q] = a[q] * load(p.gate_gain + q * n + u) + load(p.gate_shift + q * n + u);
                }
                V i = sigmoid<T>(a[0]), f = sigmoid<T>(a[1] + cell.forget_bias), g = tanh<T>(a[2]), o = sigmoid<T>(a[3]);
                V c = f * load(c_old + u) + i * g, normed = c, back = load(dh + u);
                if (NORM) {
                    normed = (c - cell_mean) * cell_scale;
                    if (u == last) normed = keep_lanes<T>(tail, normed);
                    store(cell_normed + u, normed);
                }
                V t = tanh<T>(NORM ? normed * load(p.cell_gain + u) + load(p.cell_shift + u) : normed);
                if (ZONE == RANDOM) {
                    Updates<T> update = zoneout_updates<T>(row.words, u, cell.threshold_h, cell.threshold_c);
                    V back_c = load(dc + u);
                    store(taken + u, keep_lanes<T>(update.c, back_c));
                    store(dc + u, keep_lanes<T>(~update.c, back_c));
                    store(dh + u, keep_lanes<T>(~update.h, back));
                    back = keep_lanes<T>(update.h, back);
                } else if (ZONE == EXPECTATION) {
                    store(dh + u, cell.rate_h * back);
                    back = (one - cell.rate_h) * back;
                } else {
                    store(dh + u, V{});
                }
                V e = back * o * (one - t * t);
                if (NORM) {
                    store(sums.cell_shift + u, load(sums.cell_shift + u) + e);
                    store(sums.cell_gain + u, load(sums.cell_gain + u) + e * normed);
                    e = e * load(p.cell_gain + u);
                    total_1 += e;
                    total_2 += e * normed;
                }
                store(gates + u, i);
                store(gates + n + u, f);
                store(gates + 2 * n + u, g);
                store(through + u, e);
                store(open + u, back * t * o * (one - o));
            }
            sum_1[r] = total_1, sum_2[r] = total_2;
        }
        if (NORM) {
            sum_four<T>(sum_1, mean_1);
            sum_four<T>(sum_2, mean_2);
            for (int r = 0; r < BLOCK; r++) mean_1[r] *= share, mean_2[r] *= share;
        }
        T first[BLOCK][4], second[BLOCK][4];
        for (int r = 0; r < count; r++) {
            const BackwardRow<T>& row = rows[r];
            const T *gates = scratch + r * ROW_SCRATCH * n, *through = gates + 3 * n, *cell_normed = gates + 4 * n;
            T *da = scratch + r * ROW_SCRATCH * n + 5 * n, *z = row.z, *dc = row.dc;
            const T *open = da + 3 * n, *taken = gates + 9 * n, *c_old = row.c_old;
            const T cell_scale = NORM ? row.stats[5] : 1;
            V gate_1[4] = {}, gate_2[4] = {};
            for (i64 u = 0; u < n; u += W) {
                V through_h = load(through + u), back, kept = {};
                if (NORM) through_h = cell_scale * (through_h - mean_1[r] - load(cell_normed + u) * mean_2[r]);
                if (NORM && u == last) through_h = keep_lanes<T>(tail, through_h);
                if (ZONE == RANDOM) {
                    kept = load(dc + u), back = load(taken + u);
                } else if (ZONE == EXPECTATION) {
                    back = load(dc + u);
                    kept = cell.rate_c * back;
                    back = (one - cell.rate_c) * back;
                } else {
                    back = load(dc + u);
                }
                back += through_h;
                V i = load(gates + u), f = load(gates + n + u), g = load(gates + 2 * n + u);
                store(dc + u, kept + back * f);
                V d[4] = {back * g * i * (one - i), back * load(c_old + u) * f * (one - f), back * i * (one - g * g),
                          load(open + u)};
                for (int q = 0; q < 4; q++) {
                    if (NORM) {
                        V normed = load(z + q * n + u);
                        store(sums.gate_shift + q * n + u, load(sums.gate_shift + q * n + u) + d[q]);
                        store(sums.gate_gain + q * n + u, load(sums.gate_gain + q * n + u) + d[q] * normed);
                        d[q] = d[q] * load(p.gate_gain + q * n + u);
                        gate_1[q] += d[q];
                        gate_2[q] += d[q] * normed;
                        store(da + q * n + u, d[q]);
                    } else {
                        store(sums.bias + q * n + u, load(sums.bias + q * n + u) + d[q]);
                        store(z + q * n + u, d[q]);
                    }
                }
            }
            if (NORM) {
                sum_four<T>(gate_1, first[r]);
                sum_four<T>(gate_2, second[r]);
                for (int q = 0; q < 4; q++) first[r][q] *= share, second[r][q] *= share;
            }
        }
        if (NORM) norm_backward<T>(cell, rows, count, scratch, 5 * n, first, second, sums.bias);
    }
};

}  // namespace fastslow
