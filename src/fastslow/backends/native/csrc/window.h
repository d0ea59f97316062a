// A window of T steps of any wiring, forward and backward, in one call.
//
// Rows are independent of each other, so threads form groups, a group owns a block of rows for the whole window, and
// groups never wait for each other. Where there are more threads than blocks worth having, the members of a group share
// each product's panels and each step's rows, with a barrier between.
#pragma once
#include <initializer_list>
#include <type_traits>

#include "amx.h"
#include "cell.h"
#include "gemm.h"
#include "threads.h"

extern "C" {

// One node. Arrays of T steps have a stride in numbers from step to step, 0 where every step uses the same memory.
// Padded sizes are multiples of the vector width. "saved": owner is the window's memory, alive until its backward.
struct fs_node {
    std::int64_t hidden, padded;         // H and its padded size P
    std::int64_t inputs, padded_inputs;  // size of what it reads, 0 if nothing
    std::int64_t slot, source;           // source: node, -1 the input x, -2 nothing
    std::int64_t norm;
    const void *w_x, *w_h, *bias;  // (4H, inputs), (4H, H), (4H) or null: the caller's parameters, row-major
    const void *gate_gain, *gate_shift, *cell_gain, *cell_shift;
    void* forward_panels;   // (inputs + H, 4P): scratch of a forward call
    void* backward_panels;  // (4P, padded_inputs or 0 + P): scratch of a backward call
    void *forward_tiles, *backward_tiles;  // the panels as amx.h packs them: scratch of a call; null where `parts` is 0
    void* vectors;          // (14 P): scratch, the parameters padded
    void* z;                // (T, B, 4P): saved; normalised gates, which backward replaces by gradients of the products
    void* stats;            // (T, B, 8): saved
    std::int64_t z_step, stats_step;
    const void* read;  // (T, B, inputs), row stride read_ld: what the product reads: x, the source's h, or `dropped`
    std::int64_t read_step, read_ld;
    void* dropped;             // (T, B, inputs), or null without dropout: saved; the input after dropout
    const void* undropped;     // (T, B, inputs), row stride undropped_ld: what `dropped` is drawn from
    std::int64_t undropped_step, undropped_ld;
    const void *h_old, *c_old;  // (T, B, P): saved; the slot's state that the node reads
    void *h_new, *c_new;        // (T, B, P): saved; the state that it writes
    std::int64_t old_step, new_step;
    void* emitted;  // (T, B, P): saved; h_new once more, where resets may clear it before others have read it; or null
    std::int64_t emitted_step;
    void* d_out;              // (B, P), or null if no node reads this one: scratch; gradient of its output at this step
    void* d_parameters;       // (threads, 14 P): out; gradients of the padded vectors, zeroed by the call
    std::int64_t input_grad;  // whether backward needs the gradient of what it reads
    std::int64_t input_adds;  // whether a later node has written that gradient already
};

struct fs_window {
    std::int64_t steps, rows, nodes, slots, inputs;
    std::int64_t output;  // the node whose h is y
    std::int64_t threads, groups;
    fs_node* node;
    const void* x;              // (T, B, inputs)
    void* y;                    // (T, B, H of the output), contiguous
    const std::int64_t* lengths;  // (B) or null
    const std::uint8_t* resets;   // (T, B) or null: where a row's state is zeros before the step
    std::int64_t random;        // whether masks are drawn
    std::int64_t zoneout;       // 0 none, 1 random, 2 expectation
    std::int64_t drop;          // whether inputs and y are dropped out
    std::uint32_t key_low, key_high, first_step, first_row;
    std::uint32_t drop_threshold, threshold_h, threshold_c, unused;
    double drop_scale, rate_h, rate_c, forget_bias;
    void* scratch;  // (threads, scratch_size): scratch of a call
    std::int64_t scratch_size;
    std::int64_t parts;       // 0: products by gemm.h; 1 to 3: on the tile unit, float32 as that many bfloat16
    void* split;              // (threads, split_size) bfloat16: scratch of a call; a product's left factor in parts
    std::int64_t split_size;
    void* gather;  // (B, gather_ld): scratch of backward; gradient of a node's input before dropout's factor
    std::int64_t gather_ld;
    void** d_h;  // one (B, P) a slot: in: gradients of the final state; out: of the initial state
    void** d_c;
    const void* d_y;  // (T, B, H of the output) or null
    void* d_x;        // (T, B, inputs) or null: out
    std::int64_t first, last;  // the steps this call runs
    std::int64_t replay;       // forward: only z, stats and dropped, of a window whose states are saved
};

}  // extern "C"

namespace fastslow {

template <class T>
T* at(void* base, i64 offset) {
    return static_cast<T*>(base) + offset;
}
template <class T>
const T* at(const void* base, i64 offset) {
    return static_cast<const T*>(base) + offset;
}

struct Range {
    i64 first, last;
};

inline Range share(i64 count, i64 part, i64 parts) { return {count * part / parts, count * (part + 1) / parts}; }

// What one thread does: member `member` of the `members` that own the rows `rows`.
struct Place {
    Range rows;
    i64 member, members, thread;
    Barrier* barrier;
    Range mine(i64 count) const { return share(count, member, members); }
    Range my_rows() const {
        Range r = mine(rows.last - rows.first);
        return {rows.first + r.first, rows.first + r.last};
    }
};

constexpr int MOST_GROUPS = 256;

template <class T>
struct Window {
    const fs_window& w;
    Barrier barriers[MOST_GROUPS];
    static constexpr i64 W = Simd<T>::W;

    explicit Window(const fs_window& window) : w(window) {}

    RowWords words(i64 t, i64 site, i64 row) const {
        return row_words(w.key_low, w.key_high, w.first_step + static_cast<u32>(t), static_cast<u32>(site),
                         w.first_row + static_cast<u32>(row));
    }
    bool stopped(i64 t, i64 row) const { return w.lengths && w.lengths[row] <= t; }

    bool anew(i64 t, i64 row) const { return w.resets[t * w.rows + row] && !stopped(t, row); }
    bool any_anew(i64 t, Range rows) const {
        for (i64 r = rows.first; w.resets && r < rows.last; r++)
            if (anew(t, r)) return true;
        return false;
    }

    // The last step at which any row of a range still runs, plus one.
    i64 end(Range rows) const {
        if (!w.lengths) return w.steps;
        i64 longest = 0;
        for (i64 r = rows.first; r < rows.last; r++) longest = w.lengths[r] > longest ? w.lengths[r] : longest;
        return longest;
    }

    Cell<T> cell(const fs_node& node) const {
        return {node.hidden,
                node.padded,
                static_cast<T>(w.forget_bias),
                w.threshold_h,
                w.threshold_c,
                static_cast<T>(w.rate_h),
                static_cast<T>(w.rate_c),
                Parameters<T>(at<T>(node.vectors, 0), node.padded)};
    }

    // ------------------------------------------------------------ products

    // target (+)= the sum over operands of a times their part of the packed weights; members of a place share the columns.
    void multiply(i64 rows, const Operand<T>* operands, int count, const void* panels, const void* packed_tiles,
                  i64 vectors, const Target<T>& target, const Place& place) const {
#ifdef FASTSLOW_AMX
        if constexpr (std::is_same<T, float>::value) {
            if (w.parts) {
                const Range columns = place.mine(vectors);
                amx::u16* split = at<amx::u16>(w.split, place.thread * w.split_size);
                const amx::u16* tiles = at<amx::u16>(packed_tiles, 0);
                amx::with_parts(w.parts, [&](auto parts) {
                    const i64 depth = amx::split<parts.value>(rows, operands, count, split);
                    amx::product<parts.value>(rows, split, depth, tiles, target, columns.first, columns.last);
                });
                return;
            }
        }
#endif
        const Range p = place.mine(panels_of(vectors));
        product<T>(rows, operands, count, at<T>(panels, 0), vectors, target, p.first, p.last);
    }

    // Panels first .. last-1, just packed, once more as tiles.
    void pack_tiles(const void* panels, void* tiles, i64 vectors, const i64* ks, int count, Range p) const {
#ifdef FASTSLOW_AMX
        if constexpr (std::is_same<T, float>::value) {
            if (!w.parts) return;
            const i64 last = p.last * PANEL < vectors ? p.last * PANEL : vectors;
            amx::with_parts(w.parts, [&](auto parts) {
                amx::pack<parts.value>(at<float>(panels, 0), vectors, ks, count, at<amx::u16>(tiles, 0), p.first * PANEL,
                                       last);
            });
        }
#else
        (void)panels, (void)tiles, (void)vectors, (void)ks, (void)count, (void)p;
#endif
    }

    // ------------------------------------------------------------ forward

    // out (n) = in (n) * dropout's factor.
    void drop(const T* in, T* out, i64 n, RowWords words) const {
        const T scale = static_cast<T>(w.drop_scale);
        i64 u = 0;
        for (; u + W <= n; u += W) store(out + u, load(in + u) * dropout_factor<T>(words, u, w.drop_threshold, scale));
        if (u < n) {
            T rest[W] = {};
            std::memcpy(rest, in + u, sizeof(T) * (n - u));
            store(rest, load(rest) * dropout_factor<T>(words, u, w.drop_threshold, scale));
            std::memcpy(out + u, rest, sizeof(T) * (n - u));
        }
    }

    template <bool NORM, int ZONE>
    void cells_forward(const fs_node& node, i64 index, i64 t, const Place& place) const {
        const Cell<T> cell = this->cell(node);
        const i64 n = node.padded;
        T* scratch = at<T>(w.scratch, place.thread * w.scratch_size);
        const Range rows = place.my_rows();
        ForwardRow<T> block[BLOCK];
        int count = 0;
        for (i64 r = rows.first; r < rows.last; r++) {
            const T *h_old = at<T>(node.h_old, t * node.old_step + r * n), *c_old = at<T>(node.c_old, t * node.old_step + r * n);
            T *h_new = at<T>(node.h_new, t * node.new_step + r * n), *c_new = at<T>(node.c_new, t * node.new_step + r * n);
            if (!stopped(t, r)) {
                block[count++] = {at<T>(node.z, t * node.z_step + r * 4 * n), at<T>(node.stats, t * node.stats_step + r * STATS),
                                  h_old, c_old, w.replay ? nullptr : h_new, c_new,
                                  ZONE == RANDOM ? words(t, 2 * index + 1, r) : RowWords{0, 0}};
            } else if (!w.replay && h_new != h_old) {
                std::memcpy(h_new, h_old, sizeof(T) * n);
                std::memcpy(c_new, c_old, sizeof(T) * n);
            }
            if (count == BLOCK) cell_forward<T, NORM, ZONE>(cell, block, count, scratch), count = 0;
        }
        if (count) cell_forward<T, NORM, ZONE>(cell, block, count, scratch);
    }

    void step_forward(const fs_node& node, i64 index, i64 t, const Place& place) const {
        if (node.dropped) {
            const Range rows = place.my_rows();
            for (i64 r = rows.first; r < rows.last; r++) {
                const T* from = at<T>(node.undropped, t * node.undropped_step + r * node.undropped_ld);
                T* to = at<T>(node.dropped, t * node.read_step + r * node.read_ld);
                drop(from, to, node.inputs, words(t, 2 * index, r));
            }
            place.barrier->wait();
        }
        const i64 rows = place.rows.last - place.rows.first, vectors = 4 * node.padded / W, r0 = place.rows.first;
        Operand<T> operands[2];
        int count = 0;
        if (node.inputs)
            operands[count++] = {at<T>(node.read, t * node.read_step + r0 * node.read_ld), node.read_ld, node.inputs};
        operands[count++] = {at<T>(node.h_old, t * node.old_step + r0 * node.padded), node.padded, node.hidden};
        T* z = at<T>(node.z, t * node.z_step + r0 * 4 * node.padded);
        const Target<T> target{z, 4 * node.padded, false, vectors, nullptr, 0, false};
        multiply(rows, operands, count, node.forward_panels, node.forward_tiles, vectors, target, place);
        place.barrier->wait();
        if (node.norm)
            w.zoneout == RANDOM        ? cells_forward<true, RANDOM>(node, index, t, place)
            : w.zoneout == EXPECTATION ? cells_forward<true, EXPECTATION>(node, index, t, place)
                                       : cells_forward<true, NONE>(node, index, t, place);
        else
            w.zoneout == RANDOM        ? cells_forward<false, RANDOM>(node, index, t, place)
            : w.zoneout == EXPECTATION ? cells_forward<false, EXPECTATION>(node, index, t, place)
                                       : cells_forward<false, NONE>(node, index, t, place);
        if (node.emitted && !w.replay) emit(node, t, place);
        place.barrier->wait();
    }

    void emit(const fs_node& node, i64 t, const Place& place) const {
        const Range rows = place.my_rows();
        const i64 n = node.padded;
        std::memcpy(at<T>(node.emitted, t * node.emitted_step + rows.first * n),
                    at<T>(node.h_new, t * node.new_step + rows.first * n), sizeof(T) * (rows.last - rows.first) * n);
    }

    void write_output(i64 t, const Place& place) const {
        const fs_node& node = w.node[w.output];
        const Range rows = place.my_rows();
        for (i64 r = rows.first; r < rows.last; r++) {
            T* y = at<T>(w.y, (t * w.rows + r) * node.hidden);
            const T* h = at<T>(static_cast<const void*>(node.h_new), t * node.new_step + r * node.padded);
            if (stopped(t, r))
                std::memset(y, 0, sizeof(T) * node.hidden);
            else if (w.drop)
                drop(h, y, node.hidden, words(t, 2 * w.nodes, r));
            else
                std::memcpy(y, h, sizeof(T) * node.hidden);
        }
    }

    // Zeros before step t in the states of the rows that start anew: where the first node of every slot reads them, which
    // is where the last one wrote them a step ago. Other nodes that read its h read `emitted`.
    void reset_forward(i64 t, const Place& place) const {
        if (w.replay || !any_anew(t, place.rows)) return;
        const Range rows = place.my_rows();
        for (i64 n = 0; n < w.nodes; n++) {
            const fs_node& node = w.node[n];
            bool first = true;
            for (i64 before = 0; before < n; before++) first = first && w.node[before].slot != node.slot;
            if (!first) continue;
            for (i64 r = rows.first; r < rows.last; r++)
                if (anew(t, r))
                    for (const void* state : {node.h_old, node.c_old})
                        std::memset(at<T>(const_cast<void*>(state), t * node.old_step + r * node.padded), 0, sizeof(T) * node.padded);
        }
        place.barrier->wait();
    }

    // Past the end of every row of a place: states stay, inputs and outputs are zero.
    void idle_forward(i64 t, const Place& place) const {
        const Range rows = place.my_rows();
        for (i64 n = 0; n < w.nodes; n++) {
            const fs_node& node = w.node[n];
            if (node.dropped)
                for (i64 r = rows.first; r < rows.last; r++)
                    std::memset(at<T>(node.dropped, t * node.read_step + r * node.read_ld), 0, sizeof(T) * node.inputs);
            if (w.replay) continue;
            const i64 size = sizeof(T) * (rows.last - rows.first) * node.padded, r = rows.first * node.padded;
            const T *h_old = at<T>(node.h_old, t * node.old_step + r), *c_old = at<T>(node.c_old, t * node.old_step + r);
            T *h_new = at<T>(node.h_new, t * node.new_step + r), *c_new = at<T>(node.c_new, t * node.new_step + r);
            if (h_old != h_new) {
                std::memcpy(h_new, h_old, size);
                std::memcpy(c_new, c_old, size);
            }
            if (node.emitted) emit(node, t, place);
        }
    }

    void forward(const Place& place) const {
        const i64 end = this->end(place.rows);
        for (i64 t = w.first; t < w.last; t++) {
            if (t < end) {
                reset_forward(t, place);
                for (i64 n = 0; n < w.nodes; n++) step_forward(w.node[n], n, t, place);
            } else {
                idle_forward(t, place);
            }
            if (!w.replay) write_output(t, place);
        }
    }

    // ------------------------------------------------------------ backward

    template <bool NORM, int ZONE>
    void cells_backward(const fs_node& node, i64 index, i64 t, const Place& place) const {
        const Cell<T> cell = this->cell(node);
        const i64 n = node.padded;
        T* scratch = at<T>(w.scratch, place.thread * w.scratch_size);
        const Parameters<T> sums(at<T>(node.d_parameters, place.thread * Parameters<T>::SIZE * n), n);
        const Range rows = place.my_rows();
        BackwardRow<T> block[BLOCK];
        int count = 0;
        for (i64 r = rows.first; r < rows.last; r++) {
            T *z = at<T>(node.z, t * node.z_step + r * 4 * n), *dh = at<T>(w.d_h[node.slot], r * n),
              *dc = at<T>(w.d_c[node.slot], r * n);
            if (stopped(t, r)) {
                std::memset(z, 0, sizeof(T) * 4 * n);
                continue;
            }
            if (node.d_out) {
                const T* more = at<T>(static_cast<const void*>(node.d_out), r * n);
                for (i64 u = 0; u < n; u += W) store(dh + u, load(dh + u) + load(more + u));
            }
            if (index == w.output && w.d_y) {
                const T* d_y = at<T>(w.d_y, (t * w.rows + r) * node.hidden);
                if (w.drop) drop(d_y, scratch, node.hidden, words(t, 2 * w.nodes, r)), d_y = scratch;
                for (i64 u = 0; u < node.hidden; u++) dh[u] += d_y[u];
            }
            block[count++] = {z,
                              at<T>(static_cast<const void*>(node.stats), t * node.stats_step + r * STATS),
                              at<T>(node.c_old, t * node.old_step + r * n),
                              dh,
                              dc,
                              ZONE == RANDOM ? words(t, 2 * index + 1, r) : RowWords{0, 0}};
            if (count == BLOCK) cell_backward<T, NORM, ZONE>(cell, block, count, sums, scratch), count = 0;
        }
        if (count) cell_backward<T, NORM, ZONE>(cell, block, count, sums, scratch);
    }

    // The gradient of what a node reads, from `gather` to its source's d_out or to d_x.
    void pass_input_gradient(const fs_node& node, i64 index, i64 t, const Place& place) const {
        const bool to_x = node.source < 0;
        const Range rows = place.my_rows();
        for (i64 r = rows.first; r < rows.last; r++) {
            T* from = at<T>(w.gather, r * w.gather_ld);
            T* to = to_x ? at<T>(w.d_x, (t * w.rows + r) * w.inputs)
                         : at<T>(w.node[node.source].d_out, r * w.node[node.source].padded);
            const i64 n = to_x ? w.inputs : w.node[node.source].padded;
            if (w.drop) drop(from, from, n, words(t, 2 * index, r));
            if (node.input_adds)
                for (i64 u = 0; u < n; u++) to[u] += from[u];
            else
                std::memcpy(to, from, sizeof(T) * n);
        }
    }

    void step_backward(const fs_node& node, i64 index, i64 t, const Place& place) const {
        if (node.norm)
            w.zoneout == RANDOM        ? cells_backward<true, RANDOM>(node, index, t, place)
            : w.zoneout == EXPECTATION ? cells_backward<true, EXPECTATION>(node, index, t, place)
                                       : cells_backward<true, NONE>(node, index, t, place);
        else
            w.zoneout == RANDOM        ? cells_backward<false, RANDOM>(node, index, t, place)
            : w.zoneout == EXPECTATION ? cells_backward<false, EXPECTATION>(node, index, t, place)
                                       : cells_backward<false, NONE>(node, index, t, place);
        place.barrier->wait();
        const i64 rows = place.rows.last - place.rows.first, r0 = place.rows.first;
        const i64 split = node.input_grad ? node.padded_inputs / W : 0, vectors = split + node.padded / W;
        const Operand<T> dz{at<T>(static_cast<const void*>(node.z), t * node.z_step + r0 * 4 * node.padded), 4 * node.padded,
                            4 * node.padded};
        const Target<T> target{at<T>(w.gather, r0 * w.gather_ld),          w.gather_ld, false, split,
                               at<T>(w.d_h[node.slot], r0 * node.padded), node.padded, true};
        multiply(rows, &dz, 1, node.backward_panels, node.backward_tiles, vectors, target, place);
        place.barrier->wait();
        if (!node.input_grad) return;
        pass_input_gradient(node, index, t, place);
        place.barrier->wait();
    }

    // Steps past the end of every row of a place: nothing flows.
    void idle_backward(i64 t, const Place& place) const {
        const Range rows = place.my_rows();
        const i64 count = rows.last - rows.first;
        for (i64 n = 0; n < w.nodes; n++) {
            const fs_node& node = w.node[n];
            std::memset(at<T>(node.z, t * node.z_step + rows.first * 4 * node.padded), 0, sizeof(T) * count * 4 * node.padded);
        }
        if (w.d_x) std::memset(at<T>(w.d_x, (t * w.rows + rows.first) * w.inputs), 0, sizeof(T) * count * w.inputs);
    }

    // No gradient passes to the steps before a new start. A row's gradients are read next by the thread that clears them.
    void reset_backward(i64 t, const Place& place) const {
        const Range rows = place.my_rows();
        if (!any_anew(t, rows)) return;
        for (i64 n = 0; n < w.nodes; n++) {
            const fs_node& node = w.node[n];
            for (i64 r = rows.first; r < rows.last; r++)
                if (anew(t, r))
                    for (void* grad : {w.d_h[node.slot], w.d_c[node.slot]})
                        std::memset(at<T>(grad, r * node.padded), 0, sizeof(T) * node.padded);
        }
    }

    void backward(const Place& place) const {
        const i64 end = this->end(place.rows);
        for (i64 t = w.last - 1; t >= w.first; t--) {
            if (t >= end) {
                idle_backward(t, place);
            } else {
                for (i64 n = w.nodes - 1; n >= 0; n--) step_backward(w.node[n], n, t, place);
                reset_backward(t, place);
            }
        }
    }

    // ------------------------------------------------------------ preparation

    void vectors(const fs_node& node) const {
        const Parameters<T> p(at<T>(node.vectors, 0), node.padded);
        auto copy = [&](T* to, const void* from, i64 blocks) {
            std::memset(to, 0, sizeof(T) * blocks * node.padded);
            if (!from) return;
            for (i64 b = 0; b < blocks; b++)
                std::memcpy(to + b * node.padded, at<T>(from, b * node.hidden), sizeof(T) * node.hidden);
        };
        copy(p.bias, node.bias, 4);
        copy(p.gate_gain, node.gate_gain, 4);
        copy(p.gate_shift, node.gate_shift, 4);
        copy(p.cell_gain, node.cell_gain, 1);
        copy(p.cell_shift, node.cell_shift, 1);
    }

    void prepare(int thread, int threads, bool backward) const {
        for (i64 n = 0; n < w.nodes; n++) {
            const fs_node& node = w.node[n];
            if (n % threads == thread) vectors(node);
            const T *w_x = at<T>(node.w_x, 0), *w_h = at<T>(node.w_h, 0);
            if (backward) {
                const i64 padded_inputs = node.input_grad ? node.padded_inputs : 0;
                const Range p = share(panels_of((padded_inputs + node.padded) / W), thread, threads);
                pack_backward<T>(w_x, node.inputs, padded_inputs, w_h, node.hidden, node.padded,
                                 at<T>(node.backward_panels, 0), p.first, p.last);
                const i64 depth = 4 * node.padded;
                pack_tiles(node.backward_panels, node.backward_tiles, (padded_inputs + node.padded) / W, &depth, 1, p);
                const i64 size = Parameters<T>::SIZE * node.padded;
                const Range sums = share(w.threads, thread, threads);
                for (i64 i = sums.first; i < sums.last; i++) std::memset(at<T>(node.d_parameters, i * size), 0, sizeof(T) * size);
            } else {
                const Range p = share(panels_of(4 * node.padded / W), thread, threads);
                pack_forward<T>(w_x, node.inputs, w_h, node.hidden, node.padded, at<T>(node.forward_panels, 0), p.first, p.last);
                const i64 depths[2] = {node.inputs, node.hidden};
                pack_tiles(node.forward_panels, node.forward_tiles, 4 * node.padded / W, depths, 2, p);
            }
        }
    }

    // The first thread of a group: the least t with t * groups / threads == group.
    i64 first_thread(i64 group, int threads) const { return (group * threads + w.groups - 1) / w.groups; }

    // How many threads a group has; with fewer threads than groups each thread runs several groups by itself.
    i64 members(i64 group, int threads) const {
        return threads < w.groups ? 1 : first_thread(group + 1, threads) - first_thread(group, threads);
    }

    void reset_barriers(int threads) {
        for (i64 g = 0; g < w.groups; g++) barriers[g].reset(static_cast<int>(members(g, threads)));
    }

    void run(int thread, int threads, bool backward) {
        Range groups = share(w.groups, thread, threads);
        i64 member = 0;
        if (threads >= w.groups) {
            groups.first = static_cast<i64>(thread) * w.groups / threads, groups.last = groups.first + 1;
            member = thread - first_thread(groups.first, threads);
        }
        for (i64 g = groups.first; g < groups.last; g++) {
            const Place place{share(w.rows, g, w.groups), member, members(g, threads), thread, &barriers[g]};
            backward ? this->backward(place) : forward(place);
        }
    }
};

// A parallel region may get fewer threads than asked for: the first to arrive sets the barriers for those that came.
template <class T>
struct Call {
    Window<T> window;
    bool backward;
    std::atomic<int> state{0};

    template <void (*BODY)(Call&, int, int)>
    static void run(Call& call, int threads) {
        parallel([](void* p, int thread, int count) { BODY(*static_cast<Call*>(p), thread, count); }, &call, threads);
    }
    static void prepare(Call& call, int thread, int threads) { call.window.prepare(thread, threads, call.backward); }
    static void loop(Call& call, int thread, int threads) {
        int fresh = 0;
        if (call.state.compare_exchange_strong(fresh, 1)) {
            call.window.reset_barriers(threads);
            call.state.store(2, std::memory_order_release);
        } else {
            while (call.state.load(std::memory_order_acquire) != 2) sched_yield();
        }
        call.window.run(thread, threads, call.backward);
    }
};

template <class T>
void run_window(const fs_window& w, bool backward, bool prepare) {
    Call<T> call{Window<T>(w), backward, {0}};
    const int threads = static_cast<int>(w.threads);
    if (prepare) Call<T>::template run<Call<T>::prepare>(call, threads);
    Call<T>::template run<Call<T>::loop>(call, threads);
}

}  // namespace fastslow
