// One step of a model in integers; codec/exact/engine.py is its twin, line for line where it counts.
//
// Integers held in float64. Every sum and product here is exact, so that neither order, nor vectors, nor fused
// multiply-adds matter; divisions and square roots are IEEE's.
#pragma once
#include "products.h"
#include "threads.h"

extern "C" {

// A norm's gain and shift, scaled so that gain n + shift is a table index before its floor.
struct fs_norm {
    const double *gain, *shift;
    double epsilon;
};

struct fs_exact_cell {
    std::int64_t hidden, input, embedded, norm;
    double scale;               // of a sum of products: 2^-z_shift
    double z_to_index;          // without norms: from z to a table index
    const std::int16_t* weight; // (4H, input + H)
    const double* table;        // (V, 4H) where it reads the embedding, else (1, 4H); 1/2 included
    fs_norm gates, memory;      // 4H and H numbers
};

struct fs_exact_node {
    std::int64_t cell, slot, source;  // source: an earlier node, or negative
};

struct fs_exact_model {
    std::int64_t cells, nodes, slots, output, symbols, tiles;
    double keep_h, keep_c;      // the share of the new value, 0 to 1
    const fs_exact_cell* cell;
    const fs_exact_node* node;
    const std::int64_t* slot;   // their sizes
    const std::int16_t* head;   // (V, H)
    double head_scale;
    const double* head_bias;    // 1/2 included
    const std::int32_t *sigmoid, *tanh;  // (2 HALF)
    std::int64_t half;
    double limit;               // of c
};

}  // extern "C"

namespace fastslow {
namespace codec {

// A gate table's numbers: 16 bits take half the cache, 32 can be gathered, which pays with AVX-512.
#if defined(__AVX512F__)
using Entry = i32;
#else
using Entry = i16;
#endif
constexpr i64 CHUNK = 64;  // hidden units taken at once: the sum of so many c^2 < 2^46 is an exact float64

constexpr double ONE = 32768.0, INVERSE = 1099511627776.0 /* 2^40 */, TO_NORMED = 1.0 / 67108864.0 /* 2^-26 */;

struct Range {
    i64 first, last;
};

inline Range share(i64 count, int thread, int threads) { return {count * thread / threads, count * (thread + 1) / threads}; }

// floor((2 sum + H) / 2H): the sum is below 2^39, its quotient, rounded once, never reaches the next integer.
inline double mean_of(double sum, i64 size) {
    return std::floor((2.0 * sum + static_cast<double>(size)) / (2.0 * static_cast<double>(size)));
}

inline double inverse_of(i64 squares, i64 size, double epsilon) {
    const double variance = static_cast<double>(squares / size);
    return std::floor(INVERSE / std::sqrt(variance + epsilon)) * TO_NORMED;
}

class Engine {
    struct Cell {
        i64 hidden, input, embedded, norm, table_ld;
        double scale, z_to_index;
        Matrix matrix;
        std::vector<double> table, gate_gain, gate_shift, cell_gain, cell_shift;
        double gate_epsilon, cell_epsilon;
    };
    struct Node {
        i64 cell, slot, source, before;  // before: the node that wrote the slot last
        Activations h;
    };

    std::vector<Cell> cells;
    std::vector<Node> nodes;
    std::vector<i64> slots;
    i64 output = 0, half = 0, widest = 0;
    double keep_h = 1, keep_c = 1, limit = 0;
    Matrix head;
    std::vector<double> head_bias;
    double head_scale = 1;
    std::vector<Entry> sigmoid, tanh;
    bool tiles = false;

    i64 lanes = 0;
    std::vector<Lines<i32>> c;  // of each slot, (S, H)
    Lines<double> z, logits;
    i64 z_ld = 0;

  public:
    i64 symbols = 0;

    explicit Engine(const fs_exact_model& m)
        : slots(m.slot, m.slot + m.slots), output(m.output), half(m.half), keep_h(m.keep_h), keep_c(m.keep_c), limit(m.limit),
          head_scale(m.head_scale), sigmoid(m.sigmoid, m.sigmoid + 2 * m.half), tanh(m.tanh, m.tanh + 2 * m.half),
          tiles(m.tiles && tiles_allowed()), symbols(m.symbols) {
        cells.resize(m.cells);
        for (i64 i = 0; i < m.cells; i++) {
            const fs_exact_cell& from = m.cell[i];
            Cell& cell = cells[i];
            const i64 gates = 4 * from.hidden;
            cell.hidden = from.hidden, cell.input = from.input, cell.embedded = from.embedded, cell.norm = from.norm;
            cell.scale = from.scale, cell.z_to_index = from.z_to_index;
            std::vector<i64> read;
            if (from.input) read.push_back(from.input);
            read.push_back(from.hidden);
            cell.matrix.pack(from.weight, gates, read, tiles);
            cell.table_ld = round_up(gates, SIDE);
            padded(cell.table, from.table, from.embedded ? symbols : 1, gates);
            if (from.norm) {
                cell.gate_gain.assign(from.gates.gain, from.gates.gain + gates);
                cell.gate_shift.assign(from.gates.shift, from.gates.shift + gates);
                cell.cell_gain.assign(from.memory.gain, from.memory.gain + from.hidden);
                cell.cell_shift.assign(from.memory.shift, from.memory.shift + from.hidden);
                cell.gate_epsilon = from.gates.epsilon, cell.cell_epsilon = from.memory.epsilon;
            }
            if (from.hidden > widest) widest = from.hidden;
        }
        nodes.resize(m.nodes);
        std::vector<i64> last(m.slots, -1);
        for (int round = 0; round < 2; round++)  // in the second, a slot's first node finds its last
            for (i64 n = 0; n < m.nodes; n++) {
                nodes[n].cell = m.node[n].cell, nodes[n].slot = m.node[n].slot, nodes[n].source = m.node[n].source;
                nodes[n].before = last[nodes[n].slot];
                last[nodes[n].slot] = n;
            }
        const i64 width = cells[nodes[output].cell].hidden;
        head.pack(m.head, symbols, {width}, tiles);
        padded(head_bias, m.head_bias, 1, symbols);
    }

    // Zero state for S lanes.
    void begin(i64 count) {
        lanes = count;
        const i64 rows = round_up(lanes, SIDE);
        for (Node& node : nodes) node.h.resize(rows, cells[node.cell].hidden, tiles);
        c.resize(slots.size());
        for (size_t s = 0; s < slots.size(); s++) c[s].resize(lanes * slots[s]);
        z_ld = round_up(4 * widest, SIDE);
        z.resize(rows * z_ld);
        logits.resize(rows * logits_ld());
    }

    i64 logits_ld() const { return round_up(symbols, SIDE); }
    const double* logits_of(i64 lane) const { return logits.get() + lane * logits_ld(); }
    i64 lane_count() const { return lanes; }
    bool uses_tiles() const { return tiles; }

    // A thread's part of a step; `previous` (S): the last symbol of each lane. Behind the last barrier all logits are there.
    void step(const i32* previous, int thread, int threads, Barrier& barrier) {
        const Range rows = share(lanes, thread, threads);
        for (Node& node : nodes) {
            Cell& cell = cells[node.cell];
            const Activations* read[2] = {&nodes[node.before].h, nullptr};
            if (cell.input) read[1] = read[0], read[0] = &nodes[node.source].h;
            const Target target{z.get(), z_ld, cell.scale, cell.table.data(), cell.table_ld, cell.embedded ? previous : nullptr};
            const Range blocks = share(cell.matrix.blocks, thread, threads);
            cell.matrix.multiply(read, lanes, target, blocks.first, blocks.last);
            barrier.wait();
            for (i64 lane = rows.first; lane < rows.last; lane++) update(cell, node, lane);
            barrier.wait();
        }
        const Activations* read[1] = {&nodes[output].h};
        const Target target{logits.get(), logits_ld(), head_scale, head_bias.data(), 0, nullptr};
        const Range blocks = share(head.blocks, thread, threads);
        head.multiply(read, lanes, target, blocks.first, blocks.last);
        barrier.wait();
    }

  private:
    static void padded(std::vector<double>& to, const double* from, i64 rows, i64 columns) {
        const i64 ld = round_up(columns, SIDE);
        to.assign(rows * ld, 0.5);
        for (i64 r = 0; r < rows; r++) std::memcpy(&to[r * ld], from + r * columns, sizeof(double) * columns);
    }

    // out[u] = table[at[u]]
    static void look_up(const Entry* __restrict table, const i32* __restrict at, i32* __restrict out, i64 size) {
#pragma GCC unroll 4
        for (i64 u = 0; u < size; u++) {
            i32 index = at[u];
#if !defined(__AVX512F__)
            __asm__("" : "+r"(index));  // one by one: AVX2's gathers take longer
#endif
            out[u] = table[index];
        }
    }

    // The table's index for an argument, which holds the offset and the half.
    i32 index_of(double argument) const {
        const double top = 2.0 * static_cast<double>(half) - 1.0;
        argument = argument > 0.0 ? argument : 0.0;
        return static_cast<i32>(argument < top ? argument : top);
    }

    // What takes a vector to arguments of a table: its norm, or without norms one factor.
    struct Scale {
        const double *gain, *shift;  // null: without norms
        double mean, inverse, factor;

        Scale from(i64 u) const { return gain ? Scale{gain + u, shift + u, mean, inverse, factor} : *this; }
    };

    void indices(const double* __restrict values, i64 size, const Scale& scale, i32* __restrict at) const {
        if (scale.gain) {
            const double *__restrict gain = scale.gain, *__restrict shift = scale.shift;
            const double mean = scale.mean, inverse = scale.inverse;
#pragma omp simd
            for (i64 u = 0; u < size; u++) at[u] = index_of(std::floor((values[u] - mean) * inverse) * gain[u] + shift[u]);
        } else {
            const double factor = scale.factor, rounds = 0.5 + static_cast<double>(half);
#pragma omp simd
            for (i64 u = 0; u < size; u++) at[u] = index_of(values[u] * factor + rounds);
        }
    }

    // sum (z - m)^2 = sum z^2 - 2 m sum z + H m^2: each term is at most half of what ExactModel.check keeps below 2^53.
    static Scale gate_scale(const Cell& cell, const double* __restrict z, i64 gate) {
        if (!cell.norm) return {nullptr, nullptr, 0.0, 0.0, cell.z_to_index};
        const i64 size = cell.hidden;
        double sum = 0.0, squares = 0.0;
#pragma omp simd reduction(+ : sum, squares)
        for (i64 u = 0; u < size; u++) {
            sum += z[u];
            squares += z[u] * z[u];
        }
        const double mean = mean_of(sum, size);
        squares = squares - 2.0 * mean * sum + static_cast<double>(size) * mean * mean;
        return {&cell.gate_gain[gate * size], &cell.gate_shift[gate * size], mean,
                inverse_of(static_cast<i64>(squares), size, cell.gate_epsilon), 0.0};
    }

    void update(const Cell& cell, Node& node, i64 lane) {
        const i64 size = cell.hidden;
        double* z_lane = z.get() + lane * z_ld;
        double *fresh = z_lane + 2 * size, *out = z_lane + 3 * size;  // c' and o, in the place of g's and o's z
        i32* __restrict memory = c[node.slot].get() + lane * size;
        Scale scales[4];
        for (i64 gate = 0; gate < 4; gate++) scales[gate] = gate_scale(cell, z_lane + gate * size, gate);
        alignas(64) i32 at[CHUNK], gates[4][CHUNK];
        double sum = 0.0;
        i64 squares = 0;  // below 2^59: not for float64
        for (i64 u0 = 0; u0 < size; u0 += CHUNK) {
            const i64 count = size - u0 < CHUNK ? size - u0 : CHUNK;
            for (i64 gate = 0; gate < 4; gate++) {
                indices(z_lane + gate * size + u0, count, scales[gate].from(u0), at);
                look_up(gate == 2 ? tanh.data() : sigmoid.data(), at, gates[gate], count);
            }
            double part = 0.0;
#pragma omp simd reduction(+ : sum, part)
            for (i64 u = 0; u < count; u++) {
                const double i = gates[0][u], f = gates[1][u], g = gates[2][u];
                double value = std::floor((i * g + f * memory[u0 + u]) * (1.0 / ONE) + 0.5);
                value = value > -limit ? value : -limit;
                value = value < limit ? value : limit;
                fresh[u0 + u] = value;
                out[u0 + u] = gates[3][u];
                sum += value;
                part += value * value;
            }
            squares += static_cast<i64>(part);
        }
        Scale scale{nullptr, nullptr, 0.0, 0.0, 0.125};
        if (cell.norm) {
            const double mean = mean_of(sum, size);
            const i64 m = static_cast<i64>(mean), total = static_cast<i64>(sum);
            scale = {cell.cell_gain.data(), cell.cell_shift.data(), mean,
                     inverse_of(squares - 2 * m * total + size * m * m, size, cell.cell_epsilon), 0.0};
        }
        const i16* before = nodes[node.before].h.whole.get() + lane * node.h.padded;
        i16* after = node.h.whole.get() + lane * node.h.padded;
        const double keeps_h = keep_h, drops_h = 1.0 - keep_h, keeps_c = keep_c, drops_c = 1.0 - keep_c;
        const bool all_new = keep_h == 1.0 && keep_c == 1.0;
        for (i64 u0 = 0; u0 < size; u0 += CHUNK) {
            const i64 count = size - u0 < CHUNK ? size - u0 : CHUNK;
            indices(fresh + u0, count, scale.from(u0), at);
            look_up(tanh.data(), at, gates[0], count);
            if (all_new) {
#pragma omp simd
                for (i64 u = 0; u < count; u++) {
                    after[u0 + u] = static_cast<i16>(static_cast<i32>(std::floor(gates[0][u] * out[u0 + u] * (1.0 / ONE) + 0.5)));
                    memory[u0 + u] = static_cast<i32>(fresh[u0 + u]);
                }
                continue;
            }
#pragma omp simd
            for (i64 u = 0; u < count; u++) {
                const double h = std::floor(gates[0][u] * out[u0 + u] * (1.0 / ONE) + 0.5);
                after[u0 + u] = static_cast<i16>(static_cast<i32>(std::floor(h * keeps_h + before[u0 + u] * drops_h + 0.5)));
                memory[u0 + u] = static_cast<i32>(std::floor(fresh[u0 + u] * keeps_c + memory[u0 + u] * drops_c + 0.5));
            }
        }
        if (tiles) {
            u8 *__restrict high = node.h.high.get() + lane * node.h.padded, *__restrict low = node.h.low.get() + lane * node.h.padded;
            for (i64 u = 0; u < size; u++) {
                high[u] = static_cast<u8>(after[u] >> 8);
                low[u] = static_cast<u8>(after[u] & 255);
            }
        }
    }
};

}  // namespace codec
}  // namespace fastslow
