// The tile unit (AMX) of a processor: 2 x 2 tiles of sums at a time.
//
// Measured on one core (Xeon with AMX; 64 rows, 2800 x 828): 262, 460 and 950 GFLOP/s with 3, 2 and 1 parts, compared with
// at most 165 for float32 fused multiply-adds.
#pragma once
#include "bf16.h"

#if defined(FASTSLOW_BF16) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#define FASTSLOW_AMX 1
#include <sys/syscall.h>
#include <unistd.h>

namespace fastslow {
namespace bf16 {

// Requests the tile unit from the system, once per process; false if it is denied.
inline bool allowed() {
    static const bool granted = [] {
        constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
        return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
    }();
    return granted;
}

// Tiles 0 to 3 are sums, 4 and 5 left factors, 6 and 7 right factors. `upper`: rows in the first of two row blocks;
// `lower`: rows in the second (0 if there is none).
struct Shape {
    i64 upper = 0, lower = 0;

    void set(i64 new_upper, i64 new_lower) {
        if (new_upper == upper && new_lower == lower) return;
        upper = new_upper, lower = new_lower;
        struct alignas(64) {
            unsigned char palette = 1, start = 0, reserved[14] = {};
            u16 bytes[16] = {};
            unsigned char rows[16] = {};
        } config;
        const i64 second = lower ? lower : 1;
        const i64 rows[8] = {upper, upper, second, second, upper, second, SIDE, SIDE};
        for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = static_cast<unsigned char>(rows[i]);
        _tile_loadconfig(&config);
    }
    ~Shape() {
        if (upper) { _tile_release(); }  // releases the tile state of the core
    }
};

// Up to 2 x 2 tiles of sums over `blocks` STEPs: rows at left.a and, if two_rows, `left.second` further; columns b0
// and, if two_columns, b1. Consecutive partial products share one factor, to load as few tiles as possible.
template <int PARTS, bool TWO_ROWS, bool TWO_COLUMNS>
inline void multiply(const Left& left, i64 blocks, const u16* b0, const u16* b1, const Ahead& ahead) {
    const i64 stride = left.ld * 2;
    const u16* a = left.a;
    auto take_left = [&](i64 part) __attribute__((always_inline)) {
        _tile_loadd(4, a + part * left.plane, stride);
        if (TWO_ROWS) { _tile_loadd(5, a + part * left.plane + left.second, stride); }
    };
    auto take_right = [&](i64 part) __attribute__((always_inline)) {
        _tile_loadd(6, b0 + part * TILE, 64);
        if (TWO_COLUMNS) { _tile_loadd(7, b1 + part * TILE, 64); }
    };
    auto add_products = [&]() __attribute__((always_inline)) {
        _tile_dpbf16ps(0, 4, 6);
        if (TWO_COLUMNS) { _tile_dpbf16ps(1, 4, 7); }
        if (TWO_ROWS) { _tile_dpbf16ps(2, 5, 6); }
        if (TWO_ROWS && TWO_COLUMNS) { _tile_dpbf16ps(3, 5, 7); }
    };
    for (i64 j = 0; j < blocks; j++, a += left.jump, b0 += PARTS * TILE, b1 += PARTS * TILE) {
        ahead.fetch(j);
        take_right(0);
        if (PARTS == 3) { take_left(2); add_products(); }
        if (PARTS >= 2) { take_left(1); add_products(); }
        if (PARTS == 3) { take_right(1); add_products(); }
        take_left(0);
        if (PARTS == 2) { take_right(1); }
        if (PARTS >= 2) { add_products(); }
        if (PARTS == 3) { take_right(2); add_products(); }
        if (PARTS >= 2) { take_right(0); }
        add_products();
    }
}

template <int PARTS>
inline void multiply(const Left& left, i64 blocks, const u16* b0, const u16* b1, bool two_rows, bool two_columns,
                     const Ahead& ahead) {
    if (two_rows && two_columns) multiply<PARTS, true, true>(left, blocks, b0, b1, ahead);
    else if (two_rows) multiply<PARTS, true, false>(left, blocks, b0, b1, ahead);
    else if (two_columns) multiply<PARTS, false, true>(left, blocks, b0, b1, ahead);
    else multiply<PARTS, false, false>(left, blocks, b0, b1, ahead);
}

inline void load_sums(int index, const Tile<float>& tile, i64 row) {
    const float* at = tile.at + row * tile.ld;
    const i64 stride = tile.ld * 4;
    switch (index * 2 + tile.add) {  // tile numbers must be constants in the instructions
        case 0: { _tile_zero(0); break; }
        case 1: { _tile_loadd(0, at, stride); break; }
        case 2: { _tile_zero(1); break; }
        case 3: { _tile_loadd(1, at, stride); break; }
        case 4: { _tile_zero(2); break; }
        case 5: { _tile_loadd(2, at, stride); break; }
        case 6: { _tile_zero(3); break; }
        default: { _tile_loadd(3, at, stride); break; }
    }
}

inline void store_sums(int index, const Tile<float>& tile, i64 row) {
    float* at = tile.at + row * tile.ld;
    const i64 stride = tile.ld * 4;
    switch (index) {
        case 0: { _tile_stored(0, at, stride); break; }
        case 1: { _tile_stored(1, at, stride); break; }
        case 2: { _tile_stored(2, at, stride); break; }
        default: { _tile_stored(3, at, stride); }
    }
}


struct TileUnit {
    Shape shape;

    template <int PARTS>
    void add(const Sums& sums, const Left& left, i64 blocks, const u16* b0, const u16* b1, const Ahead& ahead) {
        const bool two_rows = sums.lower > 0;
        shape.set(sums.upper, sums.lower);
        for (int c = 0; c < 1 + sums.two_columns; c++) {
            load_sums(c, sums.home[c], sums.row);
            if (two_rows) load_sums(2 + c, sums.home[c], sums.row + SIDE);
        }
        multiply<PARTS>(left, blocks, b0, b1, two_rows, sums.two_columns, ahead);
        for (int c = 0; c < 1 + sums.two_columns; c++) {
            store_sums(c, sums.home[c], sums.row);
            if (two_rows) store_sums(2 + c, sums.home[c], sums.row + SIDE);
        }
    }
};

}  // namespace bf16
}  // namespace fastslow
#endif
