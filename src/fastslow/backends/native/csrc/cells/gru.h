// The gated recurrent unit: in the notation of fastslow/cells/gru.py. Blocks of z: a_n, a_r, a_z, a_m.
// stats: 1 / standard deviation of the four blocks.
#pragma once
#include "../cell.h"

namespace fastslow {

namespace gru {

template <class T>
struct Vectors {
    T *bias, *gain, *shift;  // (4 padded) each; gain and shift only with norms
    Vectors(T* base, i64 padded) : bias(base), gain(base + 4 * padded), shift(base + 8 * padded) {}
};

}  // namespace gru

template <class T, bool NORM, int ZONE>
struct GRU {
    typedef gru::Vectors<T> Vectors;
    typedef Vec<T> V;
    static constexpr int W = Simd<T>::W;

    static void forward(const Cell<T>& cell, const ForwardRow<T>* rows, int count, T*) {
        const i64 n = cell.padded, last = n - W;
        const Ints<T> tail = first_lanes<T>(cell.hidden - last);
        const T one = 1;
        const Vectors p(cell.vectors, n);
        T mean[BLOCK][4], scale[BLOCK][4];
        add_bias<T, NORM>(cell, p.bias, rows, count, mean, scale);
        for (int r = 0; r < count; r++) {
            const ForwardRow<T>& row = rows[r];
            if (!NORM && !row.h_new) continue;
            for (i64 u = 0; u < n; u += W) {
                V a[4];
                for (int q = 0; q < 4; q++) {
                    a[q] = load(row.z + q * n + u);
                    if (NORM) {
                        V normed = (a[q] - mean[r][q]) * scale[r][q];
                        if (u == last) normed = keep_lanes<T>(tail, normed);
                        store(row.z + q * n + u, normed);
                        a[q] = normed * load(p.gain + q * n + u) + load(p.shift + q * n + u);
                    }
                }
                if (!row.h_new) continue;
                const V old = load(row.h_old + u), z = sigmoid<T>(a[2]);
                const V fresh = tanh<T>(a[0] + sigmoid<T>(a[1]) * a[3]);
                V h = fresh + z * (old - fresh);
                if (ZONE == RANDOM) {
                    h = zoneout_updates<T>(row.words, u, cell.threshold_h, cell.threshold_c).h ? h : old;
                } else if (ZONE == EXPECTATION) {
                    h = (one - cell.rate_h) * h + cell.rate_h * old;
                }
                store(row.h_new + u, h);
            }
        }
    }

    static void backward(const Cell<T>& cell, const BackwardRow<T>* rows, int count, T* gradients, T* scratch) {
        const i64 n = cell.padded;
        const T one = 1, share = one / static_cast<T>(cell.hidden);
        const Vectors p(cell.vectors, n), sums(gradients, n);
        T first[BLOCK][4], second[BLOCK][4];
        for (int r = 0; r < count; r++) {
            const BackwardRow<T>& row = rows[r];
            T* da = scratch + r * ROW_SCRATCH * n;
            V total_1[4] = {}, total_2[4] = {};
            for (i64 u = 0; u < n; u += W) {
                V a[4];
                for (int q = 0; q < 4; q++) {
                    a[q] = load(row.z + q * n + u);
                    if (NORM) a[q] = a[q] * load(p.gain + q * n + u) + load(p.shift + q * n + u);
                }
                const V old = load(row.h_old + u), reset = sigmoid<T>(a[1]), z = sigmoid<T>(a[2]);
                const V fresh = tanh<T>(a[0] + reset * a[3]);
                V back = load(row.dh + u), kept = {};
                if (ZONE == RANDOM) {
                    const Ints<T> update = zoneout_updates<T>(row.words, u, cell.threshold_h, cell.threshold_c).h;
                    kept = keep_lanes<T>(~update, back);
                    back = keep_lanes<T>(update, back);
                } else if (ZONE == EXPECTATION) {
                    kept = cell.rate_h * back;
                    back = (one - cell.rate_h) * back;
                }
                store(row.dh + u, kept + back * z);
                const V inside = back * (one - z) * (one - fresh * fresh);
                V d[4] = {inside, inside * a[3] * reset * (one - reset), back * (old - fresh) * z * (one - z), inside * reset};
                for (int q = 0; q < 4; q++) {
                    if (NORM) {
                        const V normed = load(row.z + q * n + u);
                        store(sums.shift + q * n + u, load(sums.shift + q * n + u) + d[q]);
                        store(sums.gain + q * n + u, load(sums.gain + q * n + u) + d[q] * normed);
                        d[q] = d[q] * load(p.gain + q * n + u);
                        total_1[q] += d[q];
                        total_2[q] += d[q] * normed;
                        store(da + q * n + u, d[q]);
                    } else {
                        store(sums.bias + q * n + u, load(sums.bias + q * n + u) + d[q]);
                        store(row.z + q * n + u, d[q]);
                    }
                }
            }
            if (NORM) {
                sum_four<T>(total_1, first[r]);
                sum_four<T>(total_2, second[r]);
                for (int q = 0; q < 4; q++) first[r][q] *= share, second[r][q] *= share;
            }
        }
        if (NORM) norm_backward<T>(cell, rows, count, scratch, 0, first, second, sums.bias);
    }
};

}  // namespace fastslow
