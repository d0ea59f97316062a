// The streaming path: steps of one row, or a few, without gradients or masks.
//
// With so few rows, a step reads every weight for a handful of multiplications. So weights are read in place,
// row-major, each once: z[r] = w_x[r] . x + w_h[r] . h, for one block of rows of the matrix at a time. Threads share
// the rows of every node, with a barrier before the pointwise part, which needs all of them, and one after it.
#pragma once
#include <cmath>

#include "cells.h"
#include "denormals.h"
#include "threads.h"

extern "C" {

// One node. The weights are the caller's, in the engine's dtype; or int8 with one scale per row and matrix, rows padded
// with zeros to `ld_x` and `ld_h` elements. Block b of the rows of w_x adds to block x_places[b] of z, of w_h to
// h_places[b].
struct fs_step_node {
    std::int64_t hidden, padded, inputs, slot, source, norm, code, blocks, vector_blocks;
    std::int64_t x_blocks, h_blocks, joint;  // joint: the blocks of both matrices have the same places
    std::int8_t x_places[4], h_places[4];
    double forget_bias;
    const void *w_x, *w_h;              // (x_blocks H, inputs), (h_blocks H, H); or int8 (., ld_x), (., ld_h)
    const float *scale_x, *scale_h;     // one per row for int8, else null
    std::int64_t ld_x, ld_h;
    const void* parameters[8];          // vectors, null where there is none;
    std::int8_t places[8][4];           // the place of each block of H; -1 past the last
};

struct fs_step {
    std::int64_t steps, rows, nodes, slots, inputs, output, threads;
    std::int64_t int8;     // whether the weights are int8
    std::int64_t zoneout;  // 0 none, 2 expectation
    double rate_h, rate_c;
    fs_step_node* node;
    void* scratch;  // fs_step_scratch(...) elements, kept between calls by the owner of this structure
    const void* x;  // (T, B, inputs)
    void* y;        // (T, B, H of the output)
    const void** state_in;  // h and c of every slot in turn, (B, H) each; c is null for slots without one
    void** state_out;       // the same; may be the same memory
    // A language model's embedding and head, or null: rows of `embedding` (V, inputs) replace x, `logits` y.
    const std::int64_t* tokens;           // (T, B), each in 0 .. V-1
    const void *embedding, *head, *head_bias;  // (V, inputs), (V, H of the output), (V) or null
    void* logits;                         // (T, B, V)
    std::int64_t vocabulary;              // V
};

}  // extern "C"

namespace fastslow {

constexpr int AHEAD = 16;  // rows of weights between those that are read and those that are fetched for later
constexpr int CHAINS = FS_BYTES == 64 ? 16 : 8;  // independent sums computed at the same time

template <class T>
FS_INLINE Vec<T> load_first(const T* p, i64 n) {
    T part[Simd<T>::W] = {};
    for (i64 i = 0; i < n; i++) part[i] = p[i];
    return load(part);
}
#if defined(__AVX512F__)
template <>
FS_INLINE Vec<float> load_first<float>(const float* p, i64 n) {
    return (Vec<float>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
}
template <>
FS_INLINE Vec<double> load_first<double>(const double* p, i64 n) {
    return (Vec<double>)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
}
#endif

// The k-th vector of a row of weights, converted to type T.
template <class T>
FS_INLINE Vec<T> weights_at(const T* row, i64 k) {
    return load(row + k);
}
template <class T>
FS_INLINE Vec<T> weights_at(const std::int8_t* row, i64 k) {
    typedef std::int8_t Bytes __attribute__((vector_size(Simd<T>::W), aligned(1), may_alias));
    // Via int32, for which there are instructions.
    return __builtin_convertvector(__builtin_convertvector(*reinterpret_cast<const Bytes*>(row + k), typename Simd<T>::S), Vec<T>);
}
#if defined(__AVX512F__)
template <>
FS_INLINE Vec<float> weights_at<float>(const std::int8_t* row, i64 k) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + k));
    return (Vec<float>)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
#elif defined(__AVX2__)
template <>
FS_INLINE Vec<float> weights_at<float>(const std::int8_t* row, i64 k) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + k));
    return (Vec<float>)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
#endif

// acc[b][l] += w[b] . v[l] per lane, over n elements.
template <class T, class Q, int B, int L>
FS_INLINE void dots(Vec<T> (&acc)[B][L], const Q* w, i64 ld, const T* const* v, i64 n) {
    constexpr int W = Simd<T>::W;
    i64 k = 0;
    for (; k + W <= n; k += W) {
        Vec<T> x[L];
#pragma GCC unroll 4
        for (int l = 0; l < L; l++) x[l] = load(v[l] + k);
#pragma GCC unroll 16
        for (int b = 0; b < B; b++) {
            // The rows come one after the other, each too short for the processor to see what is read next.
            if (k * sizeof(Q) % 64 == 0) __builtin_prefetch(w + (b + AHEAD) * ld + k);
            const Vec<T> row = weights_at<T>(w + b * ld, k);
#pragma GCC unroll 4
            for (int l = 0; l < L; l++) acc[b][l] += row * x[l];
        }
    }
    if (k == n) return;
    Vec<T> x[L];
    for (int l = 0; l < L; l++) x[l] = load_first<T>(v[l] + k, n - k);
#pragma GCC unroll 16
    for (int b = 0; b < B; b++) {
        Vec<T> row;
        if constexpr (sizeof(Q) == 1)
            row = weights_at<T>(w + b * ld, k);  // padded with zeros
        else
            row = load_first<T>(w + b * ld + k, n - k);
#pragma GCC unroll 4
        for (int l = 0; l < L; l++) acc[b][l] += row * x[l];
    }
}

// totals[i] = the sum of v[i]'s lanes.
template <class T, int N>
FS_INLINE void sum_all(const Vec<T>* v, T* totals) {
    constexpr int W = Simd<T>::W;
#if defined(__GNUC__) && !defined(__clang__)
    if constexpr (N % W == 0) {
        // Add W vectors at a time by halves: each round adds the upper half of every segment to the lower half and
        // packs two vectors into one, so that the last vector holds the W sums in order.
#pragma GCC unroll 4
        for (int base = 0; base < N; base += W) {
            Vec<T> part[W];
#pragma GCC unroll 16
            for (int i = 0; i < W; i++) part[i] = v[base + i];
#pragma GCC unroll 4
            for (int segment = W; segment > 1; segment /= 2) {
                Ints<T> lower, upper;
#pragma GCC unroll 16
                for (int lane = 0; lane < W; lane++) {
                    const int within = lane % (W / 2), half = segment / 2;
                    lower[lane] = lane / (W / 2) * W + within / half * segment + within % half;
                    upper[lane] = lower[lane] + half;
                }
#pragma GCC unroll 8
                for (int i = 0; i < segment / 2; i++)
                    part[i] = __builtin_shuffle(part[2 * i], part[2 * i + 1], lower) +
                              __builtin_shuffle(part[2 * i], part[2 * i + 1], upper);
            }
            store(totals + base, part[0]);
        }
        return;
    }
#endif
    for (int i = 0; i < N; i++) totals[i] = sum<T>(v[i]);
}

enum Part { OF_BOTH, OF_X, OF_H };

// Rows first .. first + B - 1 of a node's matrices times the activations of L lanes -> z[l][0 .. B-1], accumulated if
// `add`.
template <class T, class Q, int B, int L, Part PART>
FS_INLINE void rows_of(const fs_step_node& node, i64 first, const T* const* x, const T* const* h, T* const* z, bool add) {
    Vec<T> acc[B][L] = {};
    const float *scale_x = node.scale_x, *scale_h = node.scale_h;
    if (PART != OF_H && node.inputs)
        dots<T, Q, B, L>(acc, static_cast<const Q*>(node.w_x) + first * node.ld_x, node.ld_x, x, node.inputs);
    if constexpr (sizeof(Q) == 1 && PART == OF_BOTH)
        if (node.inputs)
#pragma GCC unroll 16
            for (int b = 0; b < B; b++)
#pragma GCC unroll 4
                for (int l = 0; l < L; l++) acc[b][l] *= static_cast<T>(scale_x[first + b] / scale_h[first + b]);
    if (PART != OF_X) dots<T, Q, B, L>(acc, static_cast<const Q*>(node.w_h) + first * node.ld_h, node.ld_h, h, node.hidden);
    T totals[B * L];
    sum_all<T, B * L>(&acc[0][0], totals);
    for (int b = 0; b < B; b++)
        for (int l = 0; l < L; l++) {
            T total = totals[b * L + l];
            if constexpr (sizeof(Q) == 1) total *= static_cast<T>((PART == OF_X ? scale_x : scale_h)[first + b]);
            z[l][b] = PART == OF_H && add ? z[l][b] + total : total;
        }
}

template <class T>
struct Steps {
    const fs_step& s;
    Barrier barrier;
    std::atomic<int> state{0};

    // Scratch: every node's padded parameters, h, c and z; then the threads' scratch. A slot's state between steps
    // is the h and c of its last node.
    static i64 node_size(const fs_step& s, i64 n) {
        return (s.node[n].vector_blocks + (2 + s.node[n].blocks) * s.rows) * s.node[n].padded;
    }
    static i64 scratch_size(const fs_step& s) {
        i64 total = 0, widest = 0;
        for (i64 n = 0; n < s.nodes; n++) {
            total += node_size(s, n);
            widest = s.node[n].padded > widest ? s.node[n].padded : widest;
        }
        return total + s.threads * SCRATCH * widest + STATS;
    }

    struct Node {
        T *vectors, *h, *c, *z;  // (vector_blocks P), (B, P), (B, P), (B, blocks P)
    };
    Node layout(i64 index) const {
        T* p = static_cast<T*>(s.scratch);
        for (i64 n = 0; n < index; n++) p += node_size(s, n);
        const i64 size = s.rows * s.node[index].padded;
        T* at = p + s.node[index].vector_blocks * s.node[index].padded;
        return {p, at, at + size, at + 2 * size};
    }
    T* thread_scratch(int thread) const {
        i64 widest = 0;
        for (i64 n = 0; n < s.nodes; n++) widest = s.node[n].padded > widest ? s.node[n].padded : widest;
        T* end = layout(s.nodes - 1).vectors + node_size(s, s.nodes - 1);
        return end + thread * SCRATCH * widest;
    }

    i64 last_of_slot(i64 slot) const {
        i64 last = 0;
        for (i64 n = 0; n < s.nodes; n++)
            if (s.node[n].slot == slot) last = n;
        return last;
    }

    // The state a node reads: what the node before it in its slot wrote, else the state before the step.
    void old_state(i64 index, T*& h, T*& c) const {
        for (i64 n = index - 1; n >= 0; n--)
            if (s.node[n].slot == s.node[index].slot) {
                const Node from = layout(n);
                h = from.h, c = from.c;
                return;
            }
        const Node own = layout(last_of_slot(s.node[index].slot));
        h = own.h, c = own.c;  // from the previous step
    }

    static void pad(T* to, const void* from, i64 blocks, i64 hidden, i64 padded) {
        for (i64 b = 0; b < blocks; b++) {
            if (from)
                std::memcpy(to + b * padded, static_cast<const T*>(from) + b * hidden, sizeof(T) * hidden);
            else
                std::memset(to + b * padded, 0, sizeof(T) * hidden);
            std::memset(to + b * padded + hidden, 0, sizeof(T) * (padded - hidden));
        }
    }

    void begin() const {
        for (i64 n = 0; n < s.nodes; n++) {
            const fs_step_node& node = s.node[n];
            lay_out<T>(layout(n).vectors, node.vector_blocks, node.hidden, node.padded, node.parameters, node.places);
        }
        for (i64 slot = 0; slot < s.slots; slot++) {
            const i64 last = last_of_slot(slot);
            const Node own = layout(last);
            pad(own.h, s.state_in[2 * slot], s.rows, s.node[last].hidden, s.node[last].padded);
            pad(own.c, s.state_in[2 * slot + 1], s.rows, s.node[last].hidden, s.node[last].padded);
        }
    }

    void end() const {
        for (i64 slot = 0; slot < s.slots; slot++) {
            const i64 last = last_of_slot(slot), hidden = s.node[last].hidden, padded = s.node[last].padded;
            const Node own = layout(last);
            for (i64 r = 0; r < s.rows; r++) {
                std::memcpy(static_cast<T*>(s.state_out[2 * slot]) + r * hidden, own.h + r * padded, sizeof(T) * hidden);
                if (s.state_out[2 * slot + 1])
                    std::memcpy(static_cast<T*>(s.state_out[2 * slot + 1]) + r * hidden, own.c + r * padded, sizeof(T) * hidden);
            }
        }
    }

    const T* input(i64 at) const {
        return s.tokens ? static_cast<const T*>(s.embedding) + s.tokens[at] * s.inputs : static_cast<const T*>(s.x) + at * s.inputs;
    }

    // A thread's share of the rows of a node's matrices, or of one of them, for L lanes from `lane` on.
    template <class Q, int L, Part PART>
    void gates(i64 index, i64 t, i64 lane, int thread, int threads) const {
        const fs_step_node& node = s.node[index];
        const i64 rows = (PART == OF_X ? node.x_blocks : node.h_blocks) * node.hidden;
        const i64 first = rows * thread / threads, last = rows * (thread + 1) / threads;
        const std::int8_t* places = PART == OF_X ? node.x_places : node.h_places;
        const T *x[L] = {}, *h[L];
        T *z[L], *h_old, *c_old;
        old_state(index, h_old, c_old);
        const T* source = node.source >= 0 ? layout(node.source).h : nullptr;
        for (int l = 0; l < L; l++) {
            if (node.source == -1) x[l] = input(t * s.rows + lane + l);
            if (source) x[l] = source + (lane + l) * s.node[node.source].padded;
            h[l] = h_old + (lane + l) * node.padded;
        }
        const i64 width = node.blocks * node.padded;
        T* out = layout(index).z + lane * width;
        // In blocks of rows that do not cross a gate's end.
        for (i64 row = first; row < last;) {
            const i64 gate = row / node.hidden, gate_end = (gate + 1) * node.hidden;
            const i64 stop = gate_end < last ? gate_end : last;
            const bool add = PART == OF_H && node.inputs && of_x(node, places[gate]);
            T* to = out + places[gate] * node.padded - gate * node.hidden;
            for (; row + CHAINS / L <= stop; row += CHAINS / L) {
                for (int l = 0; l < L; l++) z[l] = to + l * width + row;
                rows_of<T, Q, CHAINS / L, L, PART>(node, row, x, h, z, add);
            }
            for (; row < stop; row++) {
                for (int l = 0; l < L; l++) z[l] = to + l * width + row;
                rows_of<T, Q, 1, L, PART>(node, row, x, h, z, add);
            }
        }
    }

    static bool of_x(const fs_step_node& node, i64 place) {
        for (i64 b = 0; b < node.x_blocks; b++)
            if (node.x_places[b] == place) return true;
        return false;
    }
    static bool of_h(const fs_step_node& node, i64 place) {
        for (i64 b = 0; b < node.h_blocks; b++)
            if (node.h_places[b] == place) return true;
        return false;
    }

    template <class Q, int L>
    void gates_of(i64 index, i64 t, i64 lane, int thread, int threads) const {
        if (s.node[index].joint) return gates<Q, L, OF_BOTH>(index, t, lane, thread, threads);
        // Blocks that both matrices add to use the same rows of each, so one thread computes both sums.
        if (s.node[index].inputs) gates<Q, L, OF_X>(index, t, lane, thread, threads);
        gates<Q, L, OF_H>(index, t, lane, thread, threads);
    }

    template <class Q>
    void all_gates(i64 index, i64 t, int thread, int threads) const {
        i64 lane = 0;
        // Rows of activations that share one pass over the weights.
        for (; lane + 4 <= s.rows; lane += 4) gates_of<Q, 4>(index, t, lane, thread, threads);
        for (; lane + 2 <= s.rows; lane += 2) gates_of<Q, 2>(index, t, lane, thread, threads);
        for (; lane < s.rows; lane++) gates_of<Q, 1>(index, t, lane, thread, threads);
    }

    void cells(i64 index, int thread, int threads) const {
        const fs_step_node& node = s.node[index];
        const Node own = layout(index);
        const Cell<T> cell{node.hidden, node.padded, static_cast<T>(node.forget_bias), 0, 0, static_cast<T>(s.rate_h),
                           static_cast<T>(s.rate_c), own.vectors};
        const CellCode<T> code = cell_code<T>(node.code, node.norm, s.zoneout);
        T *h_old, *c_old, *scratch = thread_scratch(thread), stats[STATS];
        old_state(index, h_old, c_old);
        for (i64 r = thread; r < s.rows; r += threads) {
            const i64 at = r * node.padded;
            T* z = own.z + node.blocks * at;
            for (i64 q = 0; q < node.blocks; q++)
                for (i64 u = !node.inputs && !of_h(node, q) ? 0 : node.hidden; u < node.padded; u++) z[q * node.padded + u] = 0;
            const ForwardRow<T> row{z, stats, h_old + at, c_old + at, own.h + at, own.c + at, {0, 0}};
            code.forward(cell, &row, 1, scratch);
        }
    }

    // Rows first .. first + B - 1 of the head times the output of L lanes.
    template <int B, int L>
    void logits(i64 t, i64 lane, i64 first) const {
        const fs_step_node& node = s.node[s.output];
        const T* h[L];
        for (int l = 0; l < L; l++) h[l] = layout(s.output).h + (lane + l) * node.padded;
        Vec<T> acc[B][L] = {};
        dots<T, T, B, L>(acc, static_cast<const T*>(s.head) + first * node.hidden, node.hidden, h, node.hidden);
        T totals[B * L];
        sum_all<T, B * L>(&acc[0][0], totals);
        for (int b = 0; b < B; b++)
            for (int l = 0; l < L; l++)
                static_cast<T*>(s.logits)[(t * s.rows + lane + l) * s.vocabulary + first + b] =
                    totals[b * L + l] + (s.head_bias ? static_cast<const T*>(s.head_bias)[first + b] : 0);
    }

    template <int L>
    void logits_of(i64 t, i64 lane, i64 first, i64 last) const {
        for (; first + CHAINS / L <= last; first += CHAINS / L) logits<CHAINS / L, L>(t, lane, first);
        for (; first < last; first++) logits<1, L>(t, lane, first);
    }

    void all_logits(i64 t, i64 first, i64 last) const {
        i64 lane = 0;
        for (; lane + 4 <= s.rows; lane += 4) logits_of<4>(t, lane, first, last);
        for (; lane + 2 <= s.rows; lane += 2) logits_of<2>(t, lane, first, last);
        for (; lane < s.rows; lane++) logits_of<1>(t, lane, first, last);
    }

    void write(i64 t, int thread, int threads) const {
        const fs_step_node& node = s.node[s.output];
        const Node own = layout(s.output);
        for (i64 r = thread; r < s.rows; r += threads)
            std::memcpy(static_cast<T*>(s.y) + (t * s.rows + r) * node.hidden, own.h + r * node.padded,
                        sizeof(T) * node.hidden);
    }

    void run(int thread, int threads) {
        if (thread == 0) begin();
        barrier.wait();
        for (i64 t = 0; t < s.steps; t++) {
            for (i64 n = 0; n < s.nodes; n++) {
                s.int8 ? all_gates<std::int8_t>(n, t, thread, threads) : all_gates<T>(n, t, thread, threads);
                barrier.wait();
                cells(n, thread, threads);
                barrier.wait();
            }
            // The output's h is not written again before the barrier after the first products of the next step.
            if (s.logits)
                all_logits(t, s.vocabulary * thread / threads, s.vocabulary * (thread + 1) / threads);
            else
                write(t, thread, threads);
        }
        barrier.wait();
        if (thread == 0) end();
    }
};

template <class T>
void run_steps(const fs_step& s) {
    Steps<T> steps{s, {}, {0}};
    parallel(
        [](void* p, int thread, int threads) {
            const FlushDenormals flush;
            Steps<T>& steps = *static_cast<Steps<T>*>(p);
            int fresh = 0;
            if (steps.state.compare_exchange_strong(fresh, 1)) {
                steps.barrier.reset(threads);
                steps.state.store(2, std::memory_order_release);
            } else {
                while (steps.state.load(std::memory_order_acquire) != 2) sched_yield();
            }
            steps.run(thread, threads);
        },
        &steps, static_cast<int>(s.threads));
}

}  // namespace fastslow
