// A window of T steps of any wiring, forward and backward, in one call.
//
// Rows are independent of each other, so threads form groups; a group owns a block of rows for the whole window, and
// groups never wait for each other. If there are more threads than useful blocks, the members of a group share each
// product's panels and each step's rows, with a barrier in between.
#pragma once
#include <initializer_list>
#include <type_traits>

#include "units.h"
#include "cells.h"
#include "denormals.h"
#include "gemm.h"
#include "threads.h"

extern "C" {

// One node. Arrays of T steps have a stride in elements from step to step, 0 if every step uses the same memory. Padded
// sizes are multiples of the vector width. "saved" means that the array belongs to the window's saved memory, which is
// kept until its backward.
//
// z has `blocks` blocks of P elements. The product with the node's input adds to x_blocks of them, starting at x_first;
// the product with h adds to h_blocks of them, starting at h_first. If these are the same (joint), one product computes
// both.
struct fs_node {
    std::int64_t hidden, padded;         // H and its padded size P
    std::int64_t inputs, padded_inputs;  // size of its input, 0 if it has none
    std::int64_t slot, source;           // source: node, -1 the input x, -2 none
    std::int64_t code, norm;             // `Kind.code`; whether it has norms
    std::int64_t blocks, x_first, x_blocks, h_first, h_blocks;
    std::int8_t x_rows[4], h_rows[4];    // for each of those blocks, the block of rows of the matrix that computes it
    double forget_bias;
    const void *w_x, *w_h;        // (x_blocks H, inputs), (h_blocks H, H): the caller's parameters, row-major
    const void* parameters[8];    // the caller's vectors, null where there is none;
    std::int8_t places[8][4];     // the place of each block of H in `vectors`; -1 past the last
    void* forward_panels;   // (inputs + H, blocks P), or (inputs, x_blocks P): scratch of a forward call
    void* backward_panels;  // (blocks P, padded_inputs or 0 + P), or (x_blocks P, padded_inputs): scratch of a backward call
    void *forward_panels_h, *backward_panels_h;  // for h alone, if the products are separate: (H, h_blocks P), (h_blocks P, P)
    void *forward_tiles, *backward_tiles;  // the panels packed by bf16.h: scratch of a call; null if `parts` is 0
    void *forward_tiles_h, *backward_tiles_h;
    std::int64_t vector_blocks;
    void* vectors;          // (vector_blocks P): scratch: the padded parameters
    void* z;                // (T, B, blocks P): saved; normalised blocks, which backward overwrites with gradients of the products
    void* stats;            // (T, B, 8): saved
    std::int64_t z_step, stats_step;
    const void* read;  // (T, B, inputs), row stride read_ld: the input of the product: x, the source's h, or `dropped`
    std::int64_t read_step, read_ld;
    void* dropped;             // (T, B, inputs), or null without dropout: saved; the input after dropout
    const void* undropped;     // (T, B, inputs), row stride undropped_ld: the input before dropout
    std::int64_t undropped_step, undropped_ld;
    const void *h_old, *c_old;  // (T, B, P): saved; the slot's state that the node reads; c is null for cells without one
    void *h_new, *c_new;        // (T, B, P): saved; the state that it writes
    std::int64_t old_step, new_step;
    void* emitted;  // (T, B, P): saved; a copy of h_new where resets may clear it before others read it; or null
    std::int64_t emitted_step;
    void* d_out;              // (B, P), or null if no node reads this one: scratch; gradient of its output at this step
    void* d_parameters;       // (threads, vector_blocks P): output; gradients of the padded vectors, zeroed by the call
    std::int64_t input_grad;  // whether backward needs the gradient of its input
    std::int64_t input_adds;  // whether a later node has already written that gradient
};

struct fs_window {
    std::int64_t steps, rows, nodes, slots, inputs;
    std::int64_t output;  // the node whose h is y
    std::int64_t threads, groups;
    fs_node* node;
    const void* x;              // (T, B, inputs)
    void* y;                    // (T, B, H of the output), contiguous
    const std::int64_t* lengths;  // (B) or null
    const std::uint8_t* resets;   // (T, B) or null: whether a row's state is set to zero before the step
    std::int64_t random;        // whether masks are drawn
    std::int64_t zoneout;       // 0 none, 1 random, 2 expectation
    std::int64_t drop;          // whether dropout is applied to inputs and y
    std::uint32_t key_low, key_high, first_step, first_row;
    std::uint32_t drop_threshold, threshold_h, threshold_c, unused;
    double drop_scale, rate_h, rate_c;
    void* scratch;  // (threads, scratch_size): scratch of a call
    std::int64_t scratch_size;
    std::int64_t parts;       // 0: products by gemm.h; 1 to 3: by bf16.h, float32 split into that many bfloat16
    std::int64_t tiles;       // with parts: on the tile unit; else by dot products, 1 part
    void* split;              // (threads, split_size) bfloat16: scratch of a call; a product's left factor in parts
    std::int64_t split_size;
    void* gather;  // (B, gather_ld): scratch of backward; gradient of a node's input before dropout's factor
    std::int64_t gather_ld;
    void** d_h;  // one (B, P) a slot: in: gradients of the final state; out: of the initial state
    void** d_c;  // null for a slot without c
    const void* d_y;  // (T, B, H of the output) or null
    void* d_x;        // (T, B, inputs) or null: out
    std::int64_t first, last;  // the steps this call runs
    std::int64_t replay;       // forward: only z, stats and dropped, for a window whose states are saved
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

// The work of one thread: member `member` of the `members` that own the rows `rows`.
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

    bool is_reset(i64 t, i64 row) const { return w.resets[t * w.rows + row] && !stopped(t, row); }
    bool any_reset(i64 t, Range rows) const {
        for (i64 r = rows.first; w.resets && r < rows.last; r++)
            if (is_reset(t, r)) return true;
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
                static_cast<T>(node.forget_bias),
                w.threshold_h,
                w.threshold_c,
                static_cast<T>(w.rate_h),
                static_cast<T>(w.rate_c),
                at<T>(node.vectors, 0)};
    }

    static bool joint(const fs_node& node) { return node.x_first == node.h_first && node.x_blocks == node.h_blocks; }

    // A row of an array, or null if there is no array.
    static T* row(void* base, i64 offset) { return base ? at<T>(base, offset) : nullptr; }
    static const T* row(const void* base, i64 offset) { return base ? at<T>(base, offset) : nullptr; }
    static void copy(T* to, const T* from, i64 n) {
        if (to && to != from) std::memcpy(to, from, sizeof(T) * n);
    }
    static void clear(void* base, i64 offset, i64 n) {
        if (base) std::memset(at<T>(base, offset), 0, sizeof(T) * n);
    }

    // ------------------------------------------------------------ products

    // target (+)= the sum over operands of a times their part of the packed weights; the members of a group share the
    // columns.
    void multiply(i64 rows, const Operand<T>* operands, int count, const void* panels, const void* packed_tiles,
                  i64 vectors, const Target<T>& target, const Place& place) const {
#ifdef FASTSLOW_BF16
        if constexpr (std::is_same<T, float>::value) {
            if (w.parts) {
                const Range columns = place.mine(vectors);
                bf16::u16* split = at<bf16::u16>(w.split, place.thread * w.split_size);
                const bf16::u16* tiles = at<bf16::u16>(packed_tiles, 0);
                bf16::with_kind(w.tiles != 0, w.parts, [&](auto kind) {
                    typedef decltype(kind) K;
                    const i64 depth = bf16::split<K::PARTS>(rows, operands, count, split);
                    bf16::product<typename K::Unit, K::PARTS>(rows, split, depth, tiles, target, columns.first, columns.last);
                });
                return;
            }
        }
#endif
        const Range p = place.mine(panels_of(vectors));
        product<T>(rows, operands, count, at<T>(panels, 0), vectors, target, p.first, p.last);
    }

    // Packs the panels first .. last-1 also as tiles.
    void pack_tiles(const void* panels, void* tiles, i64 vectors, const i64* ks, int count, Range p) const {
#ifdef FASTSLOW_BF16
        if constexpr (std::is_same<T, float>::value) {
            if (!w.parts) return;
            const i64 last = p.last * PANEL < vectors ? p.last * PANEL : vectors;
            bf16::with_kind(w.tiles != 0, w.parts, [&](auto kind) {
                bf16::pack<decltype(kind)::PARTS>(at<float>(panels, 0), vectors, ks, count, at<bf16::u16>(tiles, 0),
                                                  p.first * PANEL, last);
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

    void cells_forward(const fs_node& node, i64 index, i64 t, const Place& place) const {
        const Cell<T> cell = this->cell(node);
        const CellCode<T> code = cell_code<T>(node.code, node.norm, w.zoneout);
        const i64 n = node.padded;
        T* scratch = at<T>(w.scratch, place.thread * w.scratch_size);
        const Range rows = place.my_rows();
        ForwardRow<T> block[BLOCK];
        int count = 0;
        for (i64 r = rows.first; r < rows.last; r++) {
            const i64 old_at = t * node.old_step + r * n, new_at = t * node.new_step + r * n;
            const T *h_old = row(node.h_old, old_at), *c_old = row(node.c_old, old_at);
            T *h_new = row(node.h_new, new_at), *c_new = row(node.c_new, new_at);
            if (!stopped(t, r)) {
                block[count++] = {at<T>(node.z, t * node.z_step + r * node.blocks * n),
                                  at<T>(node.stats, t * node.stats_step + r * STATS),
                                  h_old, c_old, w.replay ? nullptr : h_new, c_new,
                                  w.zoneout == RANDOM ? words(t, 2 * index + 1, r) : RowWords{0, 0}};
            } else if (!w.replay) {
                copy(h_new, h_old, n);
                copy(c_new, c_old, n);
            }
            if (count == BLOCK) code.forward(cell, block, count, scratch), count = 0;
        }
        if (count) code.forward(cell, block, count, scratch);
    }

    // z = the products of the node's input and of h.
    void products_forward(const fs_node& node, i64 t, const Place& place) const {
        const i64 rows = place.rows.last - place.rows.first, r0 = place.rows.first, ld = node.blocks * node.padded;
        const i64 block = node.padded / W;
        const Operand<T> x{row(node.read, t * node.read_step + r0 * node.read_ld), node.read_ld, node.inputs};
        const Operand<T> h{at<T>(node.h_old, t * node.old_step + r0 * node.padded), node.padded, node.hidden};
        T* z = at<T>(node.z, t * node.z_step + r0 * ld);
        if (joint(node)) {
            const Operand<T> both[2] = {x, h};
            const bool reads = node.inputs > 0;
            const Target<T> target{z, ld, false, node.blocks * block, nullptr, 0, false};
            multiply(rows, reads ? both : &h, 1 + reads, node.forward_panels, node.forward_tiles, node.blocks * block, target, place);
            return;
        }
        if (node.inputs) {
            const Target<T> target{z + node.x_first * node.padded, ld, false, node.x_blocks * block, nullptr, 0, false};
            multiply(rows, &x, 1, node.forward_panels, node.forward_tiles, node.x_blocks * block, target, place);
            place.barrier->wait();  // the other product adds to this result
        } else if (place.member == 0) {
            for (i64 r = 0; r < rows; r++) std::memset(z + r * ld + node.x_first * node.padded, 0, sizeof(T) * node.x_blocks * node.padded);
        }
        if (!node.inputs) place.barrier->wait();
        const i64 shared = (node.x_first + node.x_blocks - node.h_first) * block;  // blocks that both add to: the first of h's
        T* to = z + node.h_first * node.padded;
        const Target<T> target{to, ld, true, shared, to + shared * W, ld, false};
        multiply(rows, &h, 1, node.forward_panels_h, node.forward_tiles_h, node.h_blocks * block, target, place);
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
        products_forward(node, t, place);
        place.barrier->wait();
        cells_forward(node, index, t, place);
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

    // Sets the states of the rows that are reset before step t to zero: where the first node of every slot reads them,
    // which is where the last one wrote them in the previous step. Other nodes that read its h read `emitted`.
    void reset_forward(i64 t, const Place& place) const {
        if (w.replay || !any_reset(t, place.rows)) return;
        const Range rows = place.my_rows();
        for (i64 n = 0; n < w.nodes; n++) {
            const fs_node& node = w.node[n];
            bool first = true;
            for (i64 before = 0; before < n; before++) first = first && w.node[before].slot != node.slot;
            if (!first) continue;
            for (i64 r = rows.first; r < rows.last; r++)
                if (is_reset(t, r))
                    for (const void* state : {node.h_old, node.c_old})
                        clear(const_cast<void*>(state), t * node.old_step + r * node.padded, node.padded);
        }
        place.barrier->wait();
    }

    // Steps past the end of every row of a group: states stay, inputs and outputs are zero.
    void idle_forward(i64 t, const Place& place) const {
        const Range rows = place.my_rows();
        for (i64 n = 0; n < w.nodes; n++) {
            const fs_node& node = w.node[n];
            if (node.dropped)
                for (i64 r = rows.first; r < rows.last; r++)
                    std::memset(at<T>(node.dropped, t * node.read_step + r * node.read_ld), 0, sizeof(T) * node.inputs);
            if (w.replay) continue;
            const i64 size = (rows.last - rows.first) * node.padded, r = rows.first * node.padded;
            const i64 old_at = t * node.old_step + r, new_at = t * node.new_step + r;
            copy(row(node.h_new, new_at), row(node.h_old, old_at), size);
            copy(row(node.c_new, new_at), row(node.c_old, old_at), size);
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

    void cells_backward(const fs_node& node, i64 index, i64 t, const Place& place) const {
        const Cell<T> cell = this->cell(node);
        const CellCode<T> code = cell_code<T>(node.code, node.norm, w.zoneout);
        const i64 n = node.padded;
        T* scratch = at<T>(w.scratch, place.thread * w.scratch_size);
        T* sums = at<T>(node.d_parameters, place.thread * node.vector_blocks * n);
        const Range rows = place.my_rows();
        BackwardRow<T> block[BLOCK];
        int count = 0;
        for (i64 r = rows.first; r < rows.last; r++) {
            T *z = at<T>(node.z, t * node.z_step + r * node.blocks * n), *dh = at<T>(w.d_h[node.slot], r * n);
            if (stopped(t, r)) {
                std::memset(z, 0, sizeof(T) * node.blocks * n);
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
            const i64 old_at = t * node.old_step + r * n;
            block[count++] = {z,
                              at<T>(static_cast<const void*>(node.stats), t * node.stats_step + r * STATS),
                              row(node.h_old, old_at),
                              row(node.c_old, old_at),
                              dh,
                              row(w.d_c[node.slot], r * n),
                              w.zoneout == RANDOM ? words(t, 2 * index + 1, r) : RowWords{0, 0}};
            if (count == BLOCK) code.backward(cell, block, count, sums, scratch), count = 0;
        }
        if (count) code.backward(cell, block, count, sums, scratch);
    }

    // Computes from dz the gradient of the node's input, in `gather`, and of h.
    void products_backward(const fs_node& node, i64 t, const Place& place) const {
        const i64 rows = place.rows.last - place.rows.first, r0 = place.rows.first, ld = node.blocks * node.padded;
        const T* dz = at<T>(static_cast<const void*>(node.z), t * node.z_step + r0 * ld);
        T *gather = at<T>(w.gather, r0 * w.gather_ld), *d_h = at<T>(w.d_h[node.slot], r0 * node.padded);
        const i64 of_x = node.input_grad ? node.padded_inputs / W : 0, of_h = node.padded / W;
        if (joint(node)) {
            const Operand<T> all{dz, ld, ld};
            const Target<T> target{gather, w.gather_ld, false, of_x, d_h, node.padded, true};
            multiply(rows, &all, 1, node.backward_panels, node.backward_tiles, of_x + of_h, target, place);
            return;
        }
        if (of_x) {
            const Operand<T> dz_x{dz + node.x_first * node.padded, ld, node.x_blocks * node.padded};
            const Target<T> target{gather, w.gather_ld, false, of_x, nullptr, 0, false};
            multiply(rows, &dz_x, 1, node.backward_panels, node.backward_tiles, of_x, target, place);
        }
        const Operand<T> dz_h{dz + node.h_first * node.padded, ld, node.h_blocks * node.padded};
        const Target<T> target{d_h, node.padded, true, of_h, nullptr, 0, false};
        multiply(rows, &dz_h, 1, node.backward_panels_h, node.backward_tiles_h, of_h, target, place);
    }

    // Moves the gradient of a node's input from `gather` to its source's d_out or to d_x.
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
        cells_backward(node, index, t, place);
        place.barrier->wait();
        products_backward(node, t, place);
        place.barrier->wait();
        if (!node.input_grad) return;
        pass_input_gradient(node, index, t, place);
        place.barrier->wait();
    }

    // Steps past the end of every row of a group: no gradient flows.
    void idle_backward(i64 t, const Place& place) const {
        const Range rows = place.my_rows();
        const i64 count = rows.last - rows.first;
        for (i64 n = 0; n < w.nodes; n++) {
            const fs_node& node = w.node[n];
            const i64 size = node.blocks * node.padded;
            std::memset(at<T>(node.z, t * node.z_step + rows.first * size), 0, sizeof(T) * count * size);
        }
        if (w.d_x) std::memset(at<T>(w.d_x, (t * w.rows + rows.first) * w.inputs), 0, sizeof(T) * count * w.inputs);
    }

    // No gradient flows to the steps before a reset. A row's gradients are read next by the thread that clears them.
    void reset_backward(i64 t, const Place& place) const {
        const Range rows = place.my_rows();
        if (!any_reset(t, rows)) return;
        for (i64 n = 0; n < w.nodes; n++) {
            const fs_node& node = w.node[n];
            for (i64 r = rows.first; r < rows.last; r++)
                if (is_reset(t, r))
                    for (void* grad : {w.d_h[node.slot], w.d_c[node.slot]}) clear(grad, r * node.padded, node.padded);
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

    // The matrices of one product of a node, of x, of h or of both.
    struct Factors {
        Matrix<T> matrices[2];
        int count;
        i64 blocks;
        void *forward_panels, *backward_panels, *forward_tiles, *backward_tiles;
    };

    static int factors(const fs_node& node, Factors* found) {
        const Matrix<T> x{at<T>(node.w_x, 0), node.inputs, node.x_rows}, h{at<T>(node.w_h, 0), node.hidden, node.h_rows};
        if (joint(node)) {
            found[0] = {{x, h}, 2, node.blocks, node.forward_panels, node.backward_panels, node.forward_tiles, node.backward_tiles};
            return 1;
        }
        found[0] = {{h, h}, 1, node.h_blocks, node.forward_panels_h, node.backward_panels_h, node.forward_tiles_h, node.backward_tiles_h};
        found[1] = {{x, x}, 1, node.x_blocks, node.forward_panels, node.backward_panels, node.forward_tiles, node.backward_tiles};
        return node.inputs ? 2 : 1;
    }

    void prepare(int thread, int threads, bool backward) const {
        for (i64 n = 0; n < w.nodes; n++) {
            const fs_node& node = w.node[n];
            if (n % threads == thread)
                lay_out<T>(at<T>(node.vectors, 0), node.vector_blocks, node.hidden, node.padded, node.parameters, node.places);
            Factors found[2];
            const int count = factors(node, found);
            for (int f = 0; f < count; f++) {
                Factors& product = found[f];
                const Matrix<T>* matrices = product.matrices;
                if (backward) {
                    if (matrices[0].w == node.w_x && !node.input_grad) {  // x is first
                        if (product.count == 1) continue;
                        matrices++, product.count--;
                    }
                    i64 vectors = 0, depth = product.blocks * node.padded;
                    for (int m = 0; m < product.count; m++) vectors += (matrices[m].k + W - 1) / W;
                    const Range p = share(panels_of(vectors), thread, threads);
                    pack_backward<T>(matrices, product.count, product.blocks, node.hidden, node.padded,
                                     at<T>(product.backward_panels, 0), p.first, p.last);
                    pack_tiles(product.backward_panels, product.backward_tiles, vectors, &depth, 1, p);
                } else {
                    const i64 vectors = product.blocks * node.padded / W;
                    const Range p = share(panels_of(vectors), thread, threads);
                    pack_forward<T>(matrices, product.count, product.blocks, node.hidden, node.padded,
                                    at<T>(product.forward_panels, 0), p.first, p.last);
                    const i64 depths[2] = {matrices[0].k, matrices[1].k};
                    pack_tiles(product.forward_panels, product.forward_tiles, vectors, depths, product.count, p);
                }
            }
            if (!backward) continue;
            const i64 size = node.vector_blocks * node.padded;
            const Range sums = share(w.threads, thread, threads);
            for (i64 i = sums.first; i < sums.last; i++) std::memset(at<T>(node.d_parameters, i * size), 0, sizeof(T) * size);
        }
    }

    // The first thread of a group: the least t with t * groups / threads == group.
    i64 first_thread(i64 group, int threads) const { return (group * threads + w.groups - 1) / w.groups; }

    // How many threads a group has; with fewer threads than groups, each thread runs several groups alone.
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

// A parallel region may get fewer threads than requested: the first to arrive sets up the barriers for the actual
// number.
template <class T>
struct Call {
    Window<T> window;
    bool backward;
    std::atomic<int> state{0};

    template <void (*BODY)(Call&, int, int)>
    static void run(Call& call, int threads) {
        parallel(
            [](void* p, int thread, int count) {
                const FlushDenormals flush;
                BODY(*static_cast<Call*>(p), thread, count);
            },
            &call, threads);
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
