// The simple cell: in the notation of fastslow/cells/simple.py. One block of z; one vector, the bias. No norms.
#pragma once
#include "../cell.h"

namespace fastslow {

template <class T, bool RECTIFIED, int ZONE>
struct Simple {
    typedef Vec<T> V;
    static constexpr int W = Simd<T>::W;

    static FS_INLINE V activation(V z) { return RECTIFIED ? (z > V{} ? z : z != z ? z : V{}) : tanh<T>(z); }

    static void forward(const Cell<T>& cell, const ForwardRow<T>* rows, int count, T*) {
        const T one = 1;
        for (int r = 0; r < count; r++) {
            const ForwardRow<T>& row = rows[r];
            for (i64 u = 0; u < cell.padded; u += W) {
                const V z = load(row.z + u) + load(cell.vectors + u);
                store(row.z + u, z);
                if (!row.h_new) continue;
                const V old = load(row.h_old + u);
                V h = activation(z);
                if (ZONE == RANDOM) {
                    h = zoneout_updates<T>(row.words, u, cell.threshold_h, cell.threshold_c).h ? h : old;
                } else if (ZONE == EXPECTATION) {
                    h = (one - cell.rate_h) * h + cell.rate_h * old;
                }
                store(row.h_new + u, h);
            }
        }
    }

    static void backward(const Cell<T>& cell, const BackwardRow<T>* rows, int count, T* sums, T*) {
        const T one = 1;
        for (int r = 0; r < count; r++) {
            const BackwardRow<T>& row = rows[r];
            for (i64 u = 0; u < cell.padded; u += W) {
                V back = load(row.dh + u), kept = {};
                if (ZONE == RANDOM) {
                    const Ints<T> update = zoneout_updates<T>(row.words, u, cell.threshold_h, cell.threshold_c).h;
                    kept = keep_lanes<T>(~update, back);
                    back = keep_lanes<T>(update, back);
                } else if (ZONE == EXPECTATION) {
                    kept = cell.rate_h * back;
                    back = (one - cell.rate_h) * back;
                }
                const V z = load(row.z + u), h = activation(z);
                const V d = RECTIFIED ? (z > V{} ? back : V{}) : back * (one - h * h);
                store(row.dh + u, kept);
                store(row.z + u, d);
                store(sums + u, load(sums + u) + d);
            }
        }
    }
};

}  // namespace fastslow
