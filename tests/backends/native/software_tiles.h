// The tile unit (AMX) in software, so that code for it can be tested without one: included before everything else, with
// __AMX_TILE__, __AMX_BF16__ and __AMX_INT8__ defined. Slow; what each instruction computes is from its manual.
#pragma once
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace software_tiles {

struct Tile {
    unsigned char rows = 0, bytes = 0;
    alignas(64) unsigned char at[16][64] = {};
};
inline thread_local Tile tiles[8];

inline void configure(const void* from) {
    const unsigned char* config = static_cast<const unsigned char*>(from);
    for (int t = 0; t < 8; t++) {
        std::uint16_t bytes;
        std::memcpy(&bytes, config + 16 + 2 * t, 2);
        tiles[t] = Tile();
        tiles[t].rows = config[48 + t], tiles[t].bytes = static_cast<unsigned char>(bytes);
    }
}
inline void release() {
    for (Tile& tile : tiles) tile = Tile();
}
inline void zero(int t) { std::memset(tiles[t].at, 0, sizeof tiles[t].at); }
inline void load(int t, const void* from, std::int64_t stride) {
    zero(t);
    for (int r = 0; r < tiles[t].rows; r++) std::memcpy(tiles[t].at[r], static_cast<const char*>(from) + r * stride, tiles[t].bytes);
}
inline void store(int t, void* to, std::int64_t stride) {
    for (int r = 0; r < tiles[t].rows; r++) std::memcpy(static_cast<char*>(to) + r * stride, tiles[t].at[r], tiles[t].bytes);
}

// sums[r][c] += the products of the elements of row r of `left`, four bytes at a time, and of column c of `right`.
template <class Sum, class Product>
void multiply(int sums, int left, int right, Product product) {
    for (int r = 0; r < tiles[sums].rows; r++)
        for (int k = 0; k < tiles[left].bytes / 4; k++)
            for (int c = 0; c < tiles[sums].bytes / 4; c++) {
                Sum sum;
                std::memcpy(&sum, tiles[sums].at[r] + 4 * c, 4);
                sum = product(sum, tiles[left].at[r] + 4 * k, tiles[right].at[k] + 4 * c);
                std::memcpy(tiles[sums].at[r] + 4 * c, &sum, 4);
            }
}
inline float bfloat16(const unsigned char* at) {
    const std::uint32_t bits = static_cast<std::uint32_t>(at[1]) << 24 | static_cast<std::uint32_t>(at[0]) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline void multiply_bf16(int sums, int left, int right) {
    multiply<float>(sums, left, right, [](float sum, const unsigned char* a, const unsigned char* b) {
        return sum + bfloat16(a) * bfloat16(b) + bfloat16(a + 2) * bfloat16(b + 2);
    });
}
template <class A, class B>
void multiply_bytes(int sums, int left, int right) {
    multiply<std::int32_t>(sums, left, right, [](std::int32_t sum, const unsigned char* a, const unsigned char* b) {
        for (int i = 0; i < 4; i++) sum += static_cast<A>(a[i]) * static_cast<B>(b[i]);
        return sum;
    });
}

}  // namespace software_tiles

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#undef _tile_dpbsud
#undef _tile_dpbusd
#undef _tile_dpbuud
#define _tile_loadconfig(config) software_tiles::configure(config)
#define _tile_release() software_tiles::release()
#define _tile_zero(t) software_tiles::zero(t)
#define _tile_loadd(t, from, stride) software_tiles::load(t, from, stride)
#define _tile_stored(t, to, stride) software_tiles::store(t, to, stride)
#define _tile_dpbf16ps(sums, a, b) software_tiles::multiply_bf16(sums, a, b)
#define _tile_dpbssd(sums, a, b) software_tiles::multiply_bytes<signed char, signed char>(sums, a, b)
#define _tile_dpbsud(sums, a, b) software_tiles::multiply_bytes<signed char, unsigned char>(sums, a, b)
#define _tile_dpbusd(sums, a, b) software_tiles::multiply_bytes<unsigned char, signed char>(sums, a, b)
#define _tile_dpbuud(sums, a, b) software_tiles::multiply_bytes<unsigned char, unsigned char>(sums, a, b)
#define syscall(...) 0  // the system grants the unit
