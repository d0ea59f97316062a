// Dot products of pairs of bfloat16 (AVX-512 BF16), for processors without the tile unit: a tile of sums at a time.
//
// A window of 64 rows (FS-LSTM-2 700/400) took 0.51 of the time of float32, forward and backward, on one core of an AMD
// Zen 4. Two or three parts would take three or six times as many products, and so longer than float32.
#pragma once
#include "bf16.h"

#ifdef FASTSLOW_BF16

namespace fastslow {
namespace bf16 {

struct DotProducts {
    template <int PARTS>
    void add(const Sums& sums, const Left& left, i64 blocks, const u16* b0, const u16* b1, const Ahead& ahead) const {
        static_assert(PARTS == 1, "more parts are slower than float32");
        for (int c = 0; c < 1 + sums.two_columns; c++) {
            const u16* b = c ? b1 : b0;
            // What is read next is fetched once per column: half of it each time.
            const Ahead mine{c ? ahead.second : ahead.first, nullptr, ahead.bytes};
            some_rows(sums.upper, sums.home[c], sums.row, left.a, left.jump, blocks, b, mine);
            if (sums.lower) some_rows(sums.lower, sums.home[c], sums.row + SIDE, left.a + left.second, left.jump, blocks, b, {});
        }
    }

    // A tile's first `rows` rows. Up to three rows more are computed than are stored.
    static void some_rows(i64 rows, const Tile<float>& home, i64 row, const u16* a, i64 jump, i64 blocks, const u16* b,
                          const Ahead& ahead) {
        if (rows > 12) tile<16>(rows, home, row, a, jump, blocks, b, ahead);
        else if (rows > 8) tile<12>(rows, home, row, a, jump, blocks, b, ahead);
        else if (rows > 4) tile<8>(rows, home, row, a, jump, blocks, b, ahead);
        else tile<4>(rows, home, row, a, jump, blocks, b, ahead);
    }

    template <int ROWS>
    static void tile(i64 rows, const Tile<float>& home, i64 row, const u16* a, i64 jump, i64 blocks, const u16* b,
                     const Ahead& ahead) {
        float* at = home.at + row * home.ld;
        __m512 sums[ROWS];
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++)
            sums[r] = home.add && r < rows ? _mm512_loadu_ps(at + r * home.ld) : _mm512_setzero_ps();
        for (i64 j = 0; j < blocks; j++, a += jump, b += TILE) {
            for (i64 i = 0; i < ahead.bytes; i += 64) __builtin_prefetch(ahead.first + j * ahead.bytes + i, 0, 2);
#pragma GCC unroll 2
            for (int pair = 0; pair < STEP / 2; pair++) {
                const __m512i columns = _mm512_loadu_si512(b + pair * STEP);
#pragma GCC unroll 16
                for (int r = 0; r < ROWS; r++) {
                    int both;
                    std::memcpy(&both, a + r * STEP + 2 * pair, sizeof both);
                    sums[r] = _mm512_dpbf16_ps(sums[r], (__m512bh)_mm512_set1_epi32(both), (__m512bh)columns);
                }
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++)
            if (r < rows) _mm512_storeu_ps(at + r * home.ld, sums[r]);
    }
};

}  // namespace bf16
}  // namespace fastslow
#endif
