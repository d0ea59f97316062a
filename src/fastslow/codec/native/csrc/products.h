// Exact products of 16-bit integers: what a cell's matrix makes of what it reads.
//
// Sums over k are taken in int32 as far as they fit, and put together in float64, which holds every such sum (below 2^53:
// ExactModel.check). Three ways:
//
//     tiles   AMX: both factors in bytes, w = 256 wh + wl, h = 256 hh + hl, the high ones signed and the low ones not.
//             Four products, each below 2^16 K <= 2^30 in size.
//     pairs   AVX-512: pairs of neighbouring k's, 16 x 8 bits, w = 256 wh + wl, wl from -128 to 127, |wh| <= 128: two
//             products below 2^22, added up in int32 over DEPTH k's at a time.
//     slices  everywhere else: pairs of neighbouring k's, 16 x 16 bits, added up in int32 over a slice of k. Where slices end
//             depends on the weights: the sum of |w| over a slice is at most 2^16 in each column, and |h| < 2^15 (gate
//             values and tanh lie within +-32767), so that no sum exceeds 2^16 (2^15 - 1) < 2^31. One pair always fits.
//
// In tiles and pairs, weights that fit 8 bits have no high part. No order of summation matters, so nothing here can change
// a bit.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AVX512F__) && defined(__linux__)
#define FASTSLOW_AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastslow {
namespace codec {

using i8 = std::int8_t;
using u8 = std::uint8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = std::int64_t;
using u64 = std::uint64_t;

constexpr i64 SIDE = 16;    // columns of a block, rows of a tile
constexpr i64 STEP = 64;    // k's of a tile; sizes that are summed over are padded to this
constexpr i64 DEPTH = 256;  // k's that pairs are summed over in int32: 256 * 2^22 = 2^30
constexpr i64 MASS = 1 << 16;  // the sum of |w| over a slice, at most
constexpr i64 CACHED = 512;    // k's of a block that are used for many rows at once, from the first-level cache: 16 KiB
constexpr i64 GROUP = 96;      // so many rows: their sums stay there too

inline i64 round_up(i64 n, i64 to) { return (n + to - 1) / to * to; }

// Memory on cache lines, zeroed.
template <class T>
class Lines {
    std::unique_ptr<char[]> block;
    T* first = nullptr;

  public:
    void resize(i64 count) {
        block.reset(new char[count * sizeof(T) + 64]());
        first = reinterpret_cast<T*>((reinterpret_cast<std::uintptr_t>(block.get()) + 63) & ~std::uintptr_t(63));
    }
    T* get() const { return first; }
};

// h of one node for all lanes, as both kinds of product read it: (rows, padded), rows a multiple of SIDE.
struct Activations {
    i64 size = 0, padded = 0;
    Lines<i16> whole;
    Lines<u8> high, low;  // of tiles only

    void resize(i64 rows, i64 hidden, bool tiles) {
        size = hidden, padded = round_up(hidden, STEP);
        whole.resize(rows * padded);
        if (tiles) high.resize(rows * padded), low.resize(rows * padded);
    }
};

struct Target {
    double* z;              // (rows, ld)
    i64 ld;
    double scale;           // of a sum of products, a power of two
    const double* table;    // what is added, the 1/2 that rounds included: (., table_ld)
    i64 table_ld;
    const i32* symbols;     // which row of the table a lane takes; null: row 0
};

// z[row, column .. column + 15] = floor(scale power sum + table); `powers` are those of the columns.
inline void finish(const Target& target, i64 row, i64 column, const double* __restrict powers, const double* __restrict sums) {
    const double* __restrict add = target.table + (target.symbols ? target.symbols[row] : 0) * target.table_ld + column;
    double* __restrict z = target.z + row * target.ld + column;
    const double scale = target.scale;
#pragma omp simd
    for (i64 c = 0; c < SIDE; c++) z[c] = std::floor(sums[c] * (powers[c] * scale) + add[c]);
}

#if defined(__AVX512BW__)
// ---------------------------------------------------------------- pairs

// v[c] += a[0] b[2c] + a[1] b[2c+1], of 16 columns; `both` has the pair a in every column.
inline void add_pairs(__m512i& v, __m512i both, __m512i b) {
#if defined(__AVX512VNNI__)
    // Written out because compilers copy the accumulators of the intrinsic from register to register.
    __asm__("vpdpwssd %2, %1, %0" : "+v"(v) : "v"(both), "v"(b));
#else
    v = _mm512_add_epi32(v, _mm512_madd_epi16(both, b));
#endif
}
constexpr int ROWS = 8;

// sums[s] (R, 16) += what the rows a, `ld` apart, make of `count` k's of stream s of packed pairs. Lines of a stream are
// `line` apart, streams `next`.
template <int R, int STREAMS>
void pairs(const i16* a, i64 ld, const i16* b, i64 line, i64 next, i64 count, double (*sums)[ROWS * SIDE]) {
    __m512i v[STREAMS][R];
#pragma GCC unroll 2
    for (int s = 0; s < STREAMS; s++)
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) v[s][r] = _mm512_setzero_si512();
    for (i64 k = 0; k < count; k += 2, b += line) {
        __m512i weights[STREAMS];
#pragma GCC unroll 2
        for (int s = 0; s < STREAMS; s++) weights[s] = _mm512_load_si512(b + s * next);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            i32 pair;
            std::memcpy(&pair, a + r * ld + k, 4);
            const __m512i both = _mm512_set1_epi32(pair);
#pragma GCC unroll 2
            for (int s = 0; s < STREAMS; s++) add_pairs(v[s][r], both, weights[s]);
        }
    }
#pragma GCC unroll 2
    for (int s = 0; s < STREAMS; s++)
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            double* at = sums[s] + r * SIDE;
            const __m512d low = _mm512_cvtepi32_pd(_mm512_castsi512_si256(v[s][r]));
            const __m512d high = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(v[s][r], 1));
            _mm512_store_pd(at, _mm512_add_pd(_mm512_load_pd(at), low));
            _mm512_store_pd(at + 8, _mm512_add_pd(_mm512_load_pd(at + 8), high));
        }
}

using Pairs = void (*)(const i16*, i64, const i16*, i64, i64, i64, double (*)[ROWS * SIDE]);

template <int STREAMS>
inline Pairs pairs_of_rows(i64 rows) {
    static constexpr Pairs table[ROWS] = {pairs<1, STREAMS>, pairs<2, STREAMS>, pairs<3, STREAMS>, pairs<4, STREAMS>,
                                          pairs<5, STREAMS>, pairs<6, STREAMS>, pairs<7, STREAMS>, pairs<8, STREAMS>};
    return table[rows - 1];
}

#else
#define FASTSLOW_SLICES 1
// ---------------------------------------------------------------- slices

#if defined(__AVX2__)
struct Sums {
    __m256i v[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    // v[c] += a[0] b[2c] + a[1] b[2c+1], of 16 columns
    inline void add(const i16* a, const i16* b) {
        i32 pair;
        std::memcpy(&pair, a, 4);
        const __m256i both = _mm256_set1_epi32(pair);
        const __m256i* at = reinterpret_cast<const __m256i*>(b);
        __m256i first = _mm256_add_epi32(v[0], _mm256_madd_epi16(both, _mm256_load_si256(at)));
        __m256i second = _mm256_add_epi32(v[1], _mm256_madd_epi16(both, _mm256_load_si256(at + 1)));
        // Keeps rows in order: all their pairs at once would not fit the registers.
        __asm__ volatile("" : "+x"(first), "+x"(second));
        v[0] = first, v[1] = second;
    }
    inline void add_to(double* sums) const {
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++, sums += 8) {
            const __m256d first = _mm256_cvtepi32_pd(_mm256_castsi256_si128(v[i]));
            const __m256d second = _mm256_cvtepi32_pd(_mm256_extracti128_si256(v[i], 1));
            _mm256_store_pd(sums, _mm256_add_pd(_mm256_load_pd(sums), first));
            _mm256_store_pd(sums + 4, _mm256_add_pd(_mm256_load_pd(sums + 4), second));
        }
    }
};
constexpr int ROWS = 6;  // 12 accumulators; a line of weights, what it is multiplied with and the product take the other 4
#else
struct Sums {
    i32 v[SIDE] = {};
    inline void add(const i16* a, const i16* b) {
        for (i64 c = 0; c < SIDE; c++) v[c] += a[0] * b[2 * c] + a[1] * b[2 * c + 1];
    }
    inline void add_to(double* sums) const {
        for (i64 c = 0; c < SIDE; c++) sums[c] += v[c];
    }
};
constexpr int ROWS = 2;
#endif

// sums (R, 16) += what the rows a, `ld` apart, make of the weights b in `count` slices, which start at k and end at `ends`.
template <int R>
void slices(const i16* a, i64 ld, const i16* b, i64 k, const i32* ends, i64 count, double* sums) {
    for (i64 s = 0; s < count; s++) {
        Sums part[R];
        for (const i64 end = ends[s]; k < end; k += 2, b += 2 * SIDE) {
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) part[r].add(a + r * ld + k, b);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) part[r].add_to(sums + r * SIDE);
    }
}

using Slices = void (*)(const i16*, i64, const i16*, i64, const i32*, i64, double*);

inline Slices slices_of_rows(i64 rows) {
#if defined(__AVX2__)
    static constexpr Slices table[ROWS] = {slices<1>, slices<2>, slices<3>, slices<4>, slices<5>, slices<6>};
#else
    static constexpr Slices table[ROWS] = {slices<1>, slices<2>};
#endif
    return table[rows - 1];
}
#endif

// ---------------------------------------------------------------- tiles

#ifdef FASTSLOW_AMX
// Asks the system for the tile unit, once a process; false if it refuses.
inline bool tiles_allowed() {
    static const bool granted = [] {
        constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
        return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
    }();
    return granted;
}

// Eight tiles of 16 rows, while this lives.
struct Tiles {
    bool on;
    explicit Tiles(bool use) : on(use) {
        if (!on) return;
        struct alignas(64) {
            u8 palette = 1, start = 0, reserved[14] = {};
            std::uint16_t bytes[16] = {};
            u8 rows[16] = {};
        } config;
        for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = SIDE;
        _tile_loadconfig(&config);
    }
    ~Tiles() {
        if (on) { _tile_release(); }
    }
};
#else
inline bool tiles_allowed() { return false; }
struct Tiles {
    explicit Tiles(bool) {}
};
#endif

// ---------------------------------------------------------------- a matrix

// (columns, sum of depths) 16-bit integers, packed block after block of 16 columns; the depths of what is read one after the
// other, each padded to STEP. The power of two that divides all weights of a column is taken out: models of 8 bits, whose
// rows have scales of their own, are of 8 bits here too.
class Matrix {
    Lines<u8> packed;
    std::vector<i64> depths;
    i64 padded = 0;  // sum of padded depths
    bool tiles = false, narrow = true;
    std::vector<double> powers;  // of each column
#ifdef FASTSLOW_SLICES
    static constexpr bool SPLIT = false;
    std::vector<i32> ends;           // of each block's slices; k counts anew in each of the depths
    std::vector<i64> slices_before;  // a block's first in `ends`
#else
    static constexpr bool SPLIT = true;  // wide weights into high and low
#endif

    i64 parts() const { return SPLIT && !narrow ? 2 : 1; }
    i64 block_bytes() const { return padded * SIDE * parts() * (tiles ? 1 : 2); }

  public:
    i64 columns = 0, blocks = 0;

    void pack(const i16* weight, i64 rows, const std::vector<i64>& read, bool on_tiles) {
        columns = rows, blocks = round_up(rows, SIDE) / SIDE, depths = read, tiles = on_tiles;
        i64 ld = 0;
        for (i64 depth : depths) ld += depth, padded += round_up(depth, STEP);
        powers.assign(blocks * SIDE, 1.0);
        for (i64 column = 0; column < columns; column++) {
            i32 all = 0, least = 0, most = 0;
            for (const i16 *w = weight + column * ld, *end = w + ld; w < end; w++) {
                all |= *w;
                least = *w < least ? *w : least, most = *w > most ? *w : most;
            }
            const i32 power = all ? all & -all : 1;
            powers[column] = power;
            narrow = narrow && least / power >= -128 && most / power <= 127;
        }
        packed.resize(blocks * block_bytes());
        for (i64 column = 0; column < columns; column++) {
            const i32 power = static_cast<i32>(powers[column]);
            i64 from = 0, to = 0;
            for (i64 depth : depths) {
                for (i64 k = 0; k < depth; k++) put(column, to + k, weight[column * ld + from + k] / power);
                from += depth, to += round_up(depth, STEP);
            }
        }
#ifdef FASTSLOW_SLICES
        cut();
#endif
    }

    // Blocks first .. last-1 of 16 columns, of `rows` rows (whole tiles of them lie in memory).
    void multiply(const Activations* const* read, i64 rows, const Target& target, i64 first, i64 last) const {
        for (i64 block = first; block < last; block++) {
            const u8* b = packed.get() + block * block_bytes();
#ifdef FASTSLOW_AMX
            if (tiles) {
                for (i64 m = 0; m < rows; m += SIDE) {
                    if (narrow) tile<true>(read, m, rows, b, target, block * SIDE);
                    else tile<false>(read, m, rows, b, target, block * SIDE);
                }
                continue;
            }
#endif
#ifdef FASTSLOW_SLICES
            for (i64 m = 0; m < rows; m += GROUP)
                by_slices(read, m, rows - m < GROUP ? rows - m : GROUP, b, block, target);
#else
            if (narrow && block + 1 < last) by_pairs<2>(read, rows, b, block++, target);
            else if (narrow) by_pairs<1>(read, rows, b, block, target);
            else by_high_and_low(read, rows, b, block, target);
#endif
        }
    }

  private:
    void put(i64 column, i64 k, i32 w) {
        u8* block = packed.get() + column / SIDE * block_bytes();
        const i64 c = column % SIDE;
        if (tiles) {
            u8* tile = block + k / STEP * STEP * SIDE * parts() + k % STEP / 4 * 4 * SIDE + c * 4 + k % 4;
            tile[0] = static_cast<u8>(w & 255);  // a narrow weight's own byte, signed
            if (!narrow) tile[STEP * SIDE] = static_cast<u8>(w >> 8 & 255);
        } else {
            i16* line = reinterpret_cast<i16*>(block) + k / 2 * 2 * SIDE * parts() + 2 * c + k % 2;
            const i32 low = SPLIT ? static_cast<i8>(static_cast<u8>(w & 255)) : w;
            line[0] = static_cast<i16>(low);
            if (parts() == 2) line[2 * SIDE] = static_cast<i16>((w - low) / 256);
        }
    }

#ifdef FASTSLOW_SLICES
    // Where slices end: each is as long as MASS and CACHED let it be.
    void cut() {
        for (i64 block = 0; block < blocks; block++) {
            slices_before.push_back(static_cast<i64>(ends.size()));
            const i16* line = reinterpret_cast<const i16*>(packed.get() + block * block_bytes());
            for (i64 depth : depths) {
                i64 mass[SIDE] = {}, start = 0;
                for (i64 k = 0; k < depth; k += 2) {
                    bool fits = k + 2 - start <= CACHED;
                    i64 pair[SIDE];
                    for (i64 c = 0; c < SIDE; c++) {
                        pair[c] = std::abs(line[k * SIDE + 2 * c]) + std::abs(line[k * SIDE + 2 * c + 1]);
                        fits = fits && mass[c] + pair[c] <= MASS;
                    }
                    if (!fits) {
                        ends.push_back(static_cast<i32>(k));
                        std::memset(mass, 0, sizeof mass);
                        start = k;
                    }
                    for (i64 c = 0; c < SIDE; c++) mass[c] += pair[c];
                }
                ends.push_back(static_cast<i32>(round_up(depth, 2)));
                line += round_up(depth, STEP) * SIDE;
            }
        }
    }

    void by_slices(const Activations* const* read, i64 m, i64 rows, const u8* packed_block, i64 block, const Target& target) const {
        alignas(64) double sums[GROUP * SIDE];
        std::memset(sums, 0, sizeof(double) * rows * SIDE);
        const i16* b = reinterpret_cast<const i16*>(packed_block);
        const i32* end = &ends[slices_before[block]];
        const i64 passes = (rows + ROWS - 1) / ROWS;
        for (size_t i = 0; i < depths.size(); i++) {
            const i64 ld = read[i]->padded, depth = round_up(depths[i], 2);
            const i16* a = read[i]->whole.get() + m * ld;
            for (i64 k = 0; k < depth;) {
                i64 count = 1;
                while (end[count - 1] < depth && end[count] - k <= CACHED) count++;
                for (i64 j = 0; j < passes; j++) {
                    const i64 r0 = rows * j / passes, r1 = rows * (j + 1) / passes;
                    // What comes next in memory, as much of it as is used now, in shares for the passes.
                    const i64 now = (end[count - 1] - k) * SIDE, from = now + now * j / passes, to = now + now * (j + 1) / passes;
                    for (i64 at = from; at < to; at += 2 * SIDE) __builtin_prefetch(b + k * SIDE + at, 0, 3);
                    slices_of_rows(r1 - r0)(a + r0 * ld, ld, b + k * SIDE, k, end, count, sums + r0 * SIDE);
                }
                k = end[count - 1], end += count;
            }
            b += ld * SIDE;
        }
        for (i64 r = 0; r < rows; r++) finish(target, m + r, block * SIDE, &powers[block * SIDE], sums + r * SIDE);
    }
#else
    // One or two blocks, of weights that fit 8 bits.
    template <int BLOCKS>
    void by_pairs(const Activations* const* read, i64 rows, const u8* packed_blocks, i64 block, const Target& target) const {
        for (i64 m = 0; m < rows; m += ROWS) {
            const i64 count = rows - m < ROWS ? rows - m : ROWS;
            alignas(64) double sums[BLOCKS][ROWS * SIDE];
            std::memset(sums, 0, sizeof sums);
            add<BLOCKS>(read, m, count, packed_blocks, 2 * SIDE, block_bytes() / 2, sums);
            for (i64 i = 0; i < BLOCKS; i++)
                for (i64 r = 0; r < count; r++)
                    finish(target, m + r, (block + i) * SIDE, &powers[(block + i) * SIDE], sums[i] + r * SIDE);
        }
    }

    // One block of weights in high and low parts.
    void by_high_and_low(const Activations* const* read, i64 rows, const u8* packed_block, i64 block, const Target& target) const {
        for (i64 m = 0; m < rows; m += ROWS) {
            const i64 count = rows - m < ROWS ? rows - m : ROWS;
            alignas(64) double sums[2][ROWS * SIDE];
            std::memset(sums, 0, sizeof sums);
            add<2>(read, m, count, packed_block, 4 * SIDE, 2 * SIDE, sums);
            for (i64 i = 0; i < count * SIDE; i++) sums[0][i] += 256.0 * sums[1][i];
            for (i64 r = 0; r < count; r++) finish(target, m + r, block * SIDE, &powers[block * SIDE], sums[0] + r * SIDE);
        }
    }

    // sums += the products of `count` rows from `row` on, of all that is read.
    template <int STREAMS>
    void add(const Activations* const* read, i64 row, i64 count, const u8* packed_block, i64 line, i64 next,
             double (*sums)[ROWS * SIDE]) const {
        const i16* b = reinterpret_cast<const i16*>(packed_block);
        const Pairs of_rows = pairs_of_rows<STREAMS>(count);
        for (size_t i = 0; i < depths.size(); i++) {
            const i64 ld = read[i]->padded, depth = round_up(depths[i], 2);
            for (i64 k = 0; k < depth; k += DEPTH)
                of_rows(read[i]->whole.get() + row * ld + k, ld, b + k / 2 * line, line, next,
                        depth - k < DEPTH ? depth - k : DEPTH, sums);
            b += ld / 2 * line;
        }
    }
#endif

#ifdef FASTSLOW_AMX
    template <bool NARROW>
    void tile(const Activations* const* read, i64 m, i64 rows, const u8* b, const Target& target, i64 column) const {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (size_t i = 0; i < depths.size(); i++) {
            const i64 ld = read[i]->padded;
            const u8 *high = read[i]->high.get() + m * ld, *low = read[i]->low.get() + m * ld;
            for (i64 k = 0; k < ld; k += STEP, b += STEP * SIDE * (NARROW ? 1 : 2)) {
                _tile_loadd(4, high + k, ld);
                _tile_loadd(5, low + k, ld);
                _tile_loadd(6, b, 64);
                if (NARROW) {
                    _tile_dpbssd(0, 4, 6);
                    _tile_dpbusd(1, 5, 6);
                } else {
                    _tile_loadd(7, b + STEP * SIDE, 64);
                    _tile_dpbssd(0, 4, 7);
                    _tile_dpbsud(1, 4, 6);
                    _tile_dpbusd(2, 5, 7);
                    _tile_dpbuud(3, 5, 6);
                }
            }
        }
        alignas(64) i32 part[4][SIDE * SIDE];
        _tile_stored(0, part[0], 64);
        _tile_stored(1, part[1], 64);
        if (!NARROW) {
            _tile_stored(2, part[2], 64);
            _tile_stored(3, part[3], 64);
        }
        const i64 count = rows - m < SIDE ? rows - m : SIDE;
        for (i64 r = 0; r < count; r++) {
            double sums[SIDE];
            const i32 *p0 = part[0] + r * SIDE, *p1 = part[1] + r * SIDE, *p2 = part[2] + r * SIDE, *p3 = part[3] + r * SIDE;
            for (i64 c = 0; c < SIDE; c++)
                sums[c] = NARROW ? 256.0 * p0[c] + p1[c] : 65536.0 * p0[c] + 256.0 * (p1[c] + p2[c]) + p3[c];
            finish(target, m + r, column, &powers[column], sums);
        }
    }
#endif
};

}  // namespace codec
}  // namespace fastslow
