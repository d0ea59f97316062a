// The context mixer: a probability for every bit of a text, from contexts that learn as the text is read and,
// optionally, from a network's distribution over the next byte. mixing/reference.py is the reference, docs/format.md
// the specification.
//
// Integers only. Units: a probability p is that of a 1 bit, in 2^-16; a logit is ln(p / (1 - p)) in 2^-10, within
// +-LIMIT (12.0); weights are in 2^-16, within +-WEIGHT_LIMIT (2.0). >> of a negative number rounds down, as GCC and
// Clang define it. Bounds: |input| <= LIMIT, so that each product with a weight is below 12288 * 2^17 < 2^31, and
// INPUTS of them, each shifted down by 8, sum below 48 * 2^23 < 2^29; |error| <= 65535 * 40 / 2^8 < 2^14, so that input
// * error < 2^28.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

extern "C" {

// Computed by mixing/tables.py; they are copied.
struct fs_mixing_tables {
    const std::int16_t* stretch;      // (65536): the logit of a probability
    const std::uint16_t* squash;      // (24576): the probability of a logit, from -12288 up
    const std::int32_t* rate;         // (1024): 2^16 / (n + 1.5)
    const std::uint8_t* next;         // (256, 2): the bit history after a 0, after a 1
    const std::uint32_t* initial;     // (256): the first estimate of each bit history
    const std::int32_t* logarithm;    // (4096): 2^16 ln(1 + i / 4096)
};

}  // extern "C"

namespace fastslow {
namespace mixing {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = std::int64_t;

constexpr int LIMIT = 12287, WEIGHT_LIMIT = (1 << 17) - 1;
constexpr int HASHED = 15, DIRECT = 3, MATCHES = 2, READINGS = 3, NETWORK = 3 + READINGS, SETS = 6, MAPS = 5;
constexpr int INPUTS = 2 * HASHED + 2 * DIRECT + 2 * MATCHES + NETWORK + 1, PADDED = 48;
constexpr int CELLS = 33, SPACING = 768;  // of an adaptive map: CELLS points, SPACING logits apart
constexpr u32 ESCAPE_MASS = 64;          // of each byte outside the network's alphabet; those in it have 2^24 in total
constexpr u32 HALF = u32(1) << 31;       // an initial estimate of 1/2 with count 0
constexpr i64 SHORTEST[MATCHES] = {5, 12};
constexpr u32 LONGEST = 65000;

static_assert(INPUTS <= PADDED && CELLS * SPACING - SPACING >= 2 * LIMIT, "sizes that do not fit");

struct Tables {
    i16 stretch[65536];
    u16 squash[24576];
    i32 rate[1024];
    u8 next[256][2];
    u32 initial[256];
    i32 logarithm[4096];

    explicit Tables(const fs_mixing_tables& t) {
        std::memcpy(stretch, t.stretch, sizeof stretch);
        std::memcpy(squash, t.squash, sizeof squash);
        std::memcpy(rate, t.rate, sizeof rate);
        std::memcpy(next, t.next, sizeof next);
        std::memcpy(initial, t.initial, sizeof initial);
        std::memcpy(logarithm, t.logarithm, sizeof logarithm);
    }
    // 2^16 ln n, n >= 1.
    i32 ln(u32 n) const {
        const int top = 31 - __builtin_clz(n);
        return top * 45426 + logarithm[(top >= 12 ? n >> (top - 12) : n << (12 - top)) & 4095];
    }
    int probability(int logit) const { return squash[logit + 12288]; }
};

inline int limited(i64 x) { return x > LIMIT ? LIMIT : x < -LIMIT ? -LIMIT : static_cast<int>(x); }

inline u32 hash(u32 a, u32 b) {
    u32 h = a * 0x2c1b3c6du + b * 0x9e3779b1u;
    h ^= h >> 15;
    h *= 0x85ebca6bu;
    return h ^ h >> 13;
}

// The smallest power of two that is at least n, within bounds given as powers.
inline u32 table_size(i64 n, int least, int most) {
    int bits = least;
    while (bits < most && (i64(1) << bits) < n) bits++;
    return u32(1) << bits;
}

// A network's distribution over the next byte.
struct Masses {
    u32 sums[257];  // cumulative masses of the bytes below each; the last is the total, below 2^25
    u32 top;        // the likeliest byte, the first of equals
    int surprise;   // code length of the likeliest byte in half bits, 0 to 7
};

// Sets the fields that follow from the sums.
inline void complete(Masses& m, const Tables& t) {
    u32 best = 0;
    for (u32 j = 0; j < 256; j++) {
        const u32 mass = m.sums[j + 1] - m.sums[j];
        if (mass > best) best = mass, m.top = j;
    }
    const i32 bits = (t.ln(m.sums[256]) - t.ln(best)) / 22713;  // 2^16 ln 2 / 2
    m.surprise = bits < 0 ? 0 : bits > 7 ? 7 : bits;
}

// The same from frequencies (size) that sum to 2^24, of the bytes `symbols`; every other byte has ESCAPE_MASS.
inline void spread(Masses& m, const i64* frequencies, const u8* symbols, i64 size, const Tables& t) {
    u32 mass[256];
    for (u32& its : mass) its = ESCAPE_MASS;
    for (i64 j = 0; j < size; j++) mass[symbols[j]] = static_cast<u32>(frequencies[j]);
    m.sums[0] = 0;
    for (int j = 0; j < 256; j++) m.sums[j + 1] = m.sums[j] + mass[j];
    complete(m, t);
}

// Zeroed memory, aligned to cache lines, in huge pages if the system provides them.
class Slots {
    u8* first = nullptr;

  public:
    explicit Slots(size_t size) {
        constexpr size_t PAGE = size_t(1) << 21;
        const size_t aligned = size < PAGE ? 64 : PAGE;
        first = static_cast<u8*>(std::aligned_alloc(aligned, (size + aligned - 1) / aligned * aligned));
        if (!first) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        if (size >= PAGE) madvise(first, size, MADV_HUGEPAGE);
#endif
        std::memset(first, 0, size);
    }
    ~Slots() { std::free(first); }
    Slots(const Slots&) = delete;
    Slots& operator=(const Slots&) = delete;
    u8* get() const { return first; }
};

class Mixer {
    // The state of one lane.
    struct Lane {
        i64 first = 0, at = 0;               // its first byte, its next byte
        i64 line = 0, line_before = 0;       // the beginning of its line, and of the one before
        u64 last = 0;                        // its last eight bytes, the newest lowest
        u32 word = 0, word1 = 0, word2 = 0;  // hashes of the current word and of the two before
        u32 first_of_line = 0;
        i64 match[MATCHES] = {0, 0};         // the position of the byte that a match predicts
        i64 match_lane[MATCHES] = {0, 0};
        u32 length[MATCHES] = {0, 0};        // of a match; 0 if there is none
        u32 misses[MATCHES] = {0, 0};        // one bit per predicted byte, 1 if it was wrong
        u32 context[HASHED] = {};
    };

    const Tables& tables;
    i64 size, lanes, full, longer, coded = 0;
    bool network;
    std::vector<u8> text;
    std::vector<i64> offsets;
    std::vector<Lane> lane_;
    u32 slot_mask, direct_mask, match_mask;
    Slots slots;
    std::vector<u32> estimates;             // (HASHED, 256)
    std::vector<u32> direct[DIRECT], heads[MATCHES], match_estimates[MATCHES], network_estimates;
    std::vector<u32> after1, after2;        // the last bytes that followed a byte, and two bytes
    std::vector<i32> weights[SETS], last_weights;
    std::vector<u16> maps[MAPS], readings[READINGS];  // readings: maps of the network's logit

    // The current byte.
    Lane* z = nullptr;
    i64 number = 0, step = 0;
    const Masses* masses = nullptr;
    int expected[MATCHES];                   // the byte that a match predicts, or -1
    u32 bucket[MATCHES];
    u8* slot[HASHED];
    u32 base[DIRECT];
    int rate = 0;
    // The current bit.
    u32 node = 1;
    int bit = 0, within = 1;
    alignas(64) i32 input[PADDED] = {};
    u32* seen[HASHED];
    u32* near[DIRECT];
    u32* matched[MATCHES];
    int right[MATCHES];
    u32* mapped = nullptr;
    i32* chosen[SETS];
    int logit[SETS], output[SETS], mixed = 0;
    u16 *cell[MAPS], *read[READINGS];

    static constexpr i64 SET_SIZE[SETS] = {768, 2048, 1024, 256, 2048, 1024};

  public:
    Mixer(const Tables& t, i64 length, i64 lane_count, bool has_network)
        : tables(t), size(length), lanes(lane_count), full(length / lane_count), longer(length % lane_count),
          network(has_network), text(length), offsets(lane_count), lane_(lane_count),
          slot_mask(table_size(8 * length, 14, 22) - 1), direct_mask(table_size(8 * length, 16, 22) - 1),
          match_mask(table_size(length, 12, 20) - 1), slots((size_t(slot_mask) + 1) * 16), estimates(HASHED * 256),
          network_estimates(48 * 64, HALF), after1(256), after2(65536), last_weights(256 * SETS, 65536 / SETS) {
        for (i64 i = 0; i < lanes; i++) {
            Lane& lane = lane_[i];
            offsets[i] = i * full + (i < longer ? i : longer);
            lane.first = lane.at = lane.line = lane.line_before = offsets[i];
        }
        for (int i = 0; i < HASHED; i++) std::memcpy(&estimates[i * 256], tables.initial, sizeof tables.initial);
        direct[0].assign(256, HALF), direct[1].assign(65536, HALF), direct[2].assign(size_t(direct_mask) + 1, HALF);
        for (int m = 0; m < MATCHES; m++) {
            heads[m].assign(size_t(match_mask) + 1, 0);
            match_estimates[m].assign(32 * 8, u32(3500000) << 10);
        }
        for (int s = 0; s < SETS; s++) {
            weights[s].assign(SET_SIZE[s] * PADDED, 0);
            for (i64 k = 0; k < SET_SIZE[s]; k++) {
                i32* w = &weights[s][k * PADDED];
                for (int j = 0; j < INPUTS; j++) w[j] = first_weight(j);
            }
        }
        for (int k = 0; k < MAPS; k++) lay_out(maps[k], k == 0 ? 256 : 65536);
        if (network)
            for (int k = 0; k < READINGS; k++) lay_out(readings[k], k == 0 ? 256 : 65536);
        for (Lane& lane : lane_) find_contexts(lane);
    }

    i64 lane_count() const { return lanes; }
    i64 length() const { return size; }
    const u8* bytes() const { return text.data(); }
    i64 active(i64 t) const { return t < full ? lanes : longer; }
    i64 place(i64 lane, i64 t) const { return offsets[lane] + t; }

    // The next byte of a lane at step t; lanes come in order, step after step. masses: null without a network.
    void begin(i64 lane, i64 t, const Masses* from) {
        z = &lane_[lane], number = lane, step = t, masses = from, node = 1, bit = 0;
        rate = static_cast<int>(12 + 560000 / (20000 + coded));
        const u32 c1 = z->last & 255;
        for (int m = 0; m < MATCHES; m++) {
            expected[m] = -1;
            if (z->length[m]) {
                i64 its = z->match_lane[m];
                while (its + 1 < lanes && z->match[m] >= offsets[its + 1]) its++;
                z->match_lane[m] = its;
                if (is_known(its, z->match[m])) expected[m] = text[z->match[m]];
                else z->length[m] = 0;
            }
            bucket[m] = bucket_of(z->length[m]);
        }
        const int byte = expected[1] >= 0 ? expected[1] : expected[0];
        const u32 length = expected[1] >= 0 ? bucket[1] : bucket[0];
        const u32 top = masses ? masses->top : 0;
        z->context[11] = hash(15 + (c1 << 8), byte >= 0 ? static_cast<u32>(byte) + 1 + 256 * (length >> 2) : masses ? top + 100000 : 0);
        z->context[14] = hash(z->word * 16 + 10, masses ? top + 1 : 0);
        if (masses) z->context[9] = hash(13 + (top << 8) + (static_cast<u32>(masses->surprise) << 16), c1);
        for (int i = 0; i < HASHED; i++) slot[i] = find(z->context[i]);
        base[0] = 0, base[1] = c1 << 8, base[2] = hash(77, z->last & 0xffff) & ~u32(255);
    }

    // The probability that the next bit is 1: 1 to 65535.
    int predict() {
        if (bit == 4) {
            u32 inner[HASHED];
            for (int i = 0; i < HASHED; i++) {
                inner[i] = hash(z->context[i], node);
                __builtin_prefetch(address(inner[i]));
            }
            for (int i = 0; i < HASHED; i++) slot[i] = find(inner[i]);
        }
        return mix();
    }

    // After `begin`: the `count` likeliest bytes, at most 256, likeliest first, with their probabilities in 2^-32. From the
    // root on, the likeliest open branch is followed, of equals that of the smaller node. Nothing is learned.
    void likeliest(int count, u8* bytes, u32* chances) {
        struct Branch {
            u64 p;
            u32 node;
        } open[257];
        int size = 0, found = 0;
        open[size++] = {u64(1) << 32, 1};
        u8* outer[HASHED];
        std::memcpy(outer, slot, sizeof slot);
        u32 entered = 0;  // the node of four bits whose slots are in `slot`; 0: those of the byte
        while (found < count) {
            int best = 0;
            for (int i = 1; i < size; i++)
                if (open[i].p > open[best].p || (open[i].p == open[best].p && open[i].node < open[best].node)) best = i;
            const Branch branch = open[best];
            open[best] = open[--size];
            if (branch.node >= 256) {
                bytes[found] = static_cast<u8>(branch.node);
                chances[found++] = static_cast<u32>(branch.p);
                continue;
            }
            node = branch.node, bit = 31 - __builtin_clz(node);
            const u32 enters = bit < 4 ? 0 : node >> (bit - 4);
            if (enters != entered) {
                for (int i = 0; i < HASHED; i++) slot[i] = enters ? look(hash(z->context[i], enters)) : outer[i];
                entered = enters;
            }
            const u64 one = branch.p * static_cast<u64>(mix()) >> 16;
            open[size++] = {one, node * 2 + 1};
            open[size++] = {branch.p - one, node * 2};
        }
        std::memcpy(slot, outer, sizeof slot);
        node = 1, bit = 0;
    }

    // Learns from the bit that was predicted.
    void update(int y) {
        const i32 goal = y << 16;
        for (int s = 0; s < SETS; s++) {
            const i32 error = ((goal - output[s]) * rate) >> 8;
            i32* __restrict w = chosen[s];
            for (int j = 0; j < PADDED; j++) {
                i32 value = w[j] + ((input[j] * error + 32768) >> 16);
                value = value > WEIGHT_LIMIT ? WEIGHT_LIMIT : value;
                w[j] = value < -WEIGHT_LIMIT ? -WEIGHT_LIMIT : value;
            }
        }
        const i32 error = ((goal - mixed) * 14) >> 8;
        for (int s = 0; s < SETS; s++) {
            i32& w = last_weights[node * SETS + s];
            w = limited_weight(w + ((logit[s] * error + 32768) >> 16));
        }
        const int end = y ? 65535 : 0;
        for (int k = 0; k < MAPS; k++) *cell[k] = static_cast<u16>(*cell[k] + ((end - *cell[k]) >> 6));
        for (int i = 0; i < HASHED; i++) {
            if (seen[i]) learn(*seen[i], y, 1000);
            u8& history = slot[i][within];
            history = tables.next[history][y];
        }
        for (int i = 0; i < DIRECT; i++) learn(*near[i], y, 255);
        for (int m = 0; m < MATCHES; m++)
            if (matched[m]) learn(*matched[m], y == right[m], 400);
        if (masses) {
            learn(*mapped, y, 1000);
            for (u16* its : read) *its = static_cast<u16>(*its + ((end - *its) >> 5));
        }
        node = node * 2 + static_cast<u32>(y);
        bit++;
    }

    // Finishes the byte after eight bits, and returns it.
    u8 end() {
        const u32 c = node & 255, c1 = z->last & 255, c2 = z->last & 0xffff;
        text[z->at++] = static_cast<u8>(c);
        after1[c1] = after1[c1] << 8 | c;
        after2[c2] = after2[c2] << 8 | c;
        z->last = z->last << 8 | c;
        const u32 lower = c | 32;
        if ((lower >= 'a' && lower <= 'z') || c >= 128) {
            z->word = (z->word + lower) * 0x2f0b4c47u;
        } else if (z->word) {
            z->word2 = z->word1, z->word1 = z->word, z->word = 0;
        }
        if (c == '\n') z->line_before = z->line, z->line = z->at, z->first_of_line = 0;
        else if (z->at - z->line == 1) z->first_of_line = c;
        for (int m = 0; m < MATCHES; m++) {
            if (expected[m] >= 0) {
                const bool hit = expected[m] == static_cast<int>(c);
                z->misses[m] = z->misses[m] << 1 | (hit ? 0 : 1);
                z->length[m] = !hit ? 0 : z->length[m] < LONGEST ? z->length[m] + 1 : LONGEST;
                z->match[m] += hit;
            }
            if (z->at - z->first < SHORTEST[m]) continue;
            u32& head = heads[m][match_hash(m) & match_mask];
            if (z->length[m] < 16) look_up(m, head);
            head = static_cast<u32>(z->at);
        }
        find_contexts(*z);
        for (u32 context : z->context) __builtin_prefetch(address(context));
        coded++;
        return static_cast<u8>(c);
    }

  private:
    // Where a logit lies between two points of an adaptive map.
    struct Point {
        int cell, part;

        int between(const u16* its) const { return (its[0] * (SPACING - part) + its[1] * part) / SPACING; }
        int nearest() const { return 2 * part >= SPACING; }
    };
    static Point point(int logit) { return {(logit + 12288) / SPACING, (logit + 12288) % SPACING}; }

    // Rows of an adaptive map that changes nothing yet.
    void lay_out(std::vector<u16>& map, size_t rows) const {
        map.resize(rows * CELLS);
        for (int j = 0; j < CELLS; j++) {
            const int logit = (j - 16) * SPACING;
            map[j] = static_cast<u16>(tables.probability(logit < LIMIT ? logit : LIMIT));
        }
        for (size_t row = 1; row < rows; row++) std::memcpy(&map[row * CELLS], map.data(), CELLS * sizeof(u16));
    }

    // Near the averages of the weights that texts lead to.
    i32 first_weight(int input) const {
        struct {
            int count;
            i32 with_network, without;
        } groups[] = {{HASHED, 4900, 7864},  {HASHED, -1300, 0}, {DIRECT, 3500, 7864}, {DIRECT, -2800, 0}, {MATCHES, 9830, 9830},
                      {MATCHES, -1500, 0},   {1, 30000, 0},      {1, 1800, 0},         {1, 2000, 0},       {READINGS, 2500, 0},
                      {1, 0, 0}};
        for (const auto& group : groups) {
            if (input < group.count) return network ? group.with_network : group.without;
            input -= group.count;
        }
        return 0;
    }

    // The mixed probability at `node`, from `slot`.
    int mix() {
        const Tables& t = tables;
        within = bit < 4 ? static_cast<int>(node) : static_cast<int>(1u << (bit - 4) | (node & ((1u << (bit - 4)) - 1)));
        u32 order = 0;
        i32* x = input;
        for (int i = 0; i < HASHED; i++) {
            const u8 history = slot[i][within];
            seen[i] = history ? &estimates[i * 256 + history] : nullptr;
            const i32 p = history ? static_cast<i32>(*seen[i] >> 16) : 32768;
            x[i] = history ? t.stretch[p] : 0;
            x[HASHED + i] = (p - 32768) >> 3;
            if (history && i < 3) order = static_cast<u32>(i + 1);
        }
        x += 2 * HASHED;
        for (int i = 0; i < DIRECT; i++) {
            near[i] = &direct[i][(base[i] + node) & (i == 2 ? direct_mask : 65535)];
            const i32 p = static_cast<i32>(*near[i] >> 16);
            x[i] = t.stretch[p];
            x[DIRECT + i] = (p - 32768) >> 3;
        }
        x += 2 * DIRECT;
        int said = -1;
        for (int m = 0; m < MATCHES; m++) {
            matched[m] = nullptr;
            x[m] = x[MATCHES + m] = 0;
            if (expected[m] < 0 || static_cast<u32>((expected[m] | 256) >> (8 - bit)) != node) continue;
            said = right[m] = expected[m] >> (7 - bit) & 1;
            matched[m] = &match_estimates[m][bucket[m] * 8 + (z->misses[m] & 7)];
            const i32 p = static_cast<i32>(*matched[m] >> 16), sign = right[m] ? 1 : -1;
            x[m] = sign * t.stretch[p];
            x[MATCHES + m] = sign * ((p - 32768) >> 2);
        }
        x += 2 * MATCHES;
        int told = 0, surprise = 0;
        if (masses) {
            const u32 width = 256u >> bit, low = (node << (8 - bit)) & 255, middle = low + width / 2;
            const i32 one = t.ln(masses->sums[low + width] - masses->sums[middle]), zero = t.ln(masses->sums[middle] - masses->sums[low]);
            told = limited((one - zero + 32) >> 6), surprise = masses->surprise;
            mapped = &network_estimates[((told + 12288) >> 9) * 64 + surprise * 8 + bit];
            x[0] = told, x[1] = (t.probability(told) - 32768) >> 3, x[2] = t.stretch[*mapped >> 16];
            const Point at = point(told);
            const u32 rows[READINGS] = {node, node + (static_cast<u32>(z->last & 255) << 8), hash(static_cast<u32>(z->last & 0xffff), node) & 65535};
            for (int k = 0; k < READINGS; k++) {
                u16* its = &readings[k][i64(rows[k]) * CELLS + at.cell];
                x[3 + k] = t.stretch[at.between(its)];
                read[k] = its + at.nearest();
            }
        } else {
            for (int k = 0; k < NETWORK; k++) x[k] = 0;
        }
        x[NETWORK] = 512;

        const u32 c1 = z->last & 255, c2 = z->last >> 8 & 255, c3 = z->last >> 16 & 255, b = static_cast<u32>(bit);
        const i64 column = z->at - z->line;
        const u32 turn = masses ? static_cast<u32>((told + 12288) >> 9) * 16 + order * 2 + (matched[0] || matched[1])
                                : static_cast<u32>(column < 63 ? column : 63) * 16 + b * 2 + (said >= 0);
        const u32 choice[SETS] = {node + 256 * static_cast<u32>(said + 1), c1 * 8 + b, turn,
                                  (order * 8 + static_cast<u32>(surprise)) * 2 + (b > 0), c2 * 8 + b,
                                  (class_of(c1) * 36 + class_of(c2) * 6 + class_of(c3)) * 4 + (b > 1) + (b > 3) + (b > 5)};
        i64 last = 0;
        for (int s = 0; s < SETS; s++) {
            const i32* __restrict w = chosen[s] = &weights[s][i64(choice[s]) * PADDED];
            i32 sum = 0;
            for (int j = 0; j < PADDED; j++) sum += (input[j] * w[j]) >> 8;
            logit[s] = limited(sum >> 8);
            output[s] = t.probability(logit[s]);
            last += static_cast<i64>(logit[s]) * last_weights[node * SETS + s];
        }
        const int sum = limited(last >> 16);
        const Point at = point(sum);
        mixed = t.probability(sum);
        const u32 likely = masses ? masses->top : matched[0] ? static_cast<u32>(expected[0]) : 0;
        const u32 row[MAPS] = {node, node + (c1 << 8), hash(z->last & 0xffff, node) & 65535, hash(z->last & 0xffffff, node + 31) & 65535,
                               node + (likely << 8)};
        constexpr int share[MAPS] = {1, 1, 1, 1, 2};
        int p = 2 * mixed;
        for (int k = 0; k < MAPS; k++) {
            u16* its = &maps[k][i64(row[k]) * CELLS + at.cell];
            p += share[k] * at.between(its);
            cell[k] = its + at.nearest();
        }
        p >>= 3;
        return p < 1 ? 1 : p > 65535 ? 65535 : p;
    }

    static i32 limited_weight(i32 w) { return w > WEIGHT_LIMIT ? WEIGHT_LIMIT : w < -WEIGHT_LIMIT ? -WEIGHT_LIMIT : w; }

    static u32 class_of(u32 c) {
        if (c == ' ') return 0;
        if ((c | 32) >= 'a' && (c | 32) <= 'z') return 1;
        if (c >= '0' && c <= '9') return 2;
        return c < 32 ? 3 : c >= 128 ? 4 : 5;
    }

    static u32 bucket_of(u32 length) {
        if (length < 16) return length;
        if (length < 32) return length < 24 ? 16 : 17;
        u32 b = 18;
        for (length >>= 6; length && b < 31; length >>= 1) b++;
        return b;
    }

    // An estimate holds a probability in 2^-22, then a count of ten bits.
    void learn(u32& estimate, int y, u32 most) const {
        const u32 count = estimate & 1023;
        i64 p = estimate >> 10;
        p += (((i64(y) << 22) - p) * tables.rate[count]) >> 16;
        if (p > 4194303) p = 4194303;
        estimate = static_cast<u32>(p) << 10 | (count < most ? count + 1 : count);
    }

    u8 byte_at(const Lane& lane, i64 at) const { return at >= lane.first && at < lane.at ? text[at] : 0; }

    void find_contexts(Lane& lane) {
        const u32 c4 = static_cast<u32>(lane.last), c1 = c4 & 255, c2 = c4 & 0xffff, older = static_cast<u32>(lane.last >> 32);
        const i64 column = lane.at - lane.line;
        const u32 col = static_cast<u32>(column < 255 ? column : 255);
        const u32 above = lane.line_before + col < lane.line ? byte_at(lane, lane.line_before + col) : 0;
        u32* h = lane.context;
        h[0] = hash(2, c4 & 0xffffff);
        h[1] = hash(3, c4);
        h[2] = hash(5 + ((older & 0xffff) << 8), c4);
        h[3] = hash(lane.word * 16 + 6, c1);
        h[4] = hash(lane.word * 16 + 7, lane.word1);
        h[5] = hash(lane.word * 16 + 8, lane.word2);
        h[6] = hash(10, c4 >> 8);
        h[7] = hash(11 + (above << 8) + (c1 << 16), lane.first_of_line);
        h[8] = hash(12 + (col << 8), above);
        h[9] = hash(13 + ((after1[c1] & 0xffff) << 8), c1);
        h[10] = hash(14 + ((after2[c2] & 255) << 8), c2);
        h[13] = hash(hash(lane.word * 16 + 9, lane.word1), lane.word2);
        h[12] = hash(16, (c4 & 0xf0f0ff) + ((c4 & 0xe0000000u)));
    }

    u8* address(u32 h) const { return slots.get() + size_t(h * 0x9e3779b1u >> 7 & slot_mask) * 16; }

    // The slot of a context: a check byte, then the histories of 15 nodes, at one of three places in a cache line. If
    // the context is at none of them, the place whose first node has the fewest counts is replaced.
    u8* find(u32 h) {
        u8* const table = slots.get();
        const u32 at = h * 0x9e3779b1u >> 7 & slot_mask;
        const u8 check = static_cast<u8>(h >> 24);
        u8* least = nullptr;
        for (u32 i = 0; i < 3; i++) {
            u8* its = table + size_t(at ^ i) * 16;
            if (its[0] == check && its[1]) return its;
            if (!least || its[1] < least[1]) least = its;
        }
        std::memset(least, 0, 16);
        least[0] = check;
        return least;
    }

    // The slot of a context, or an empty one if the context is at none of the three places; nothing is replaced.
    u8* look(u32 h) const {
        static u8 empty[16] = {};  // only read
        const u32 at = h * 0x9e3779b1u >> 7 & slot_mask;
        for (u32 i = 0; i < 3; i++) {
            u8* its = slots.get() + size_t(at ^ i) * 16;
            if (its[0] == static_cast<u8>(h >> 24) && its[1]) return its;
        }
        return empty;
    }

    bool is_known(i64 lane, i64 at) const {
        if (at >= size) return false;
        const i64 t = at - offsets[lane];
        return t < step || (t == step && lane < number);
    }

    u32 match_hash(int m) const {
        if (m == 0) return hash(static_cast<u32>(z->last), static_cast<u32>(z->last >> 32) & 255);
        u32 h = hash(static_cast<u32>(z->last), static_cast<u32>(z->last >> 32));
        for (i64 back = 9; back <= SHORTEST[1]; back++) h = hash(h, text[z->at - back]);
        return h;
    }

    // Starts a match at the place in the table if the text before it equals what this lane has just read.
    void look_up(int m, u32 place) {
        const i64 at = place;
        if (at == 0 || (z->length[m] && z->match[m] == at)) return;
        i64 low = 0, high = lanes - 1;
        while (low < high) {
            const i64 middle = (low + high + 1) / 2;
            if (offsets[middle] <= at - 1) low = middle;
            else high = middle - 1;
        }
        u32 length = 0;
        while (length < 32 && at - 1 - length >= offsets[low] && z->at - 1 - length >= z->first && text[at - 1 - length] == text[z->at - 1 - length]) length++;
        if (length < SHORTEST[m] || length <= z->length[m]) return;
        z->match[m] = at, z->match_lane[m] = low, z->length[m] = length;
    }
};

}  // namespace mixing
}  // namespace fastslow
