// The random words of fastslow/noise.py: the same bits, computed where they are needed.
#pragma once
#include "vec.h"

namespace fastslow {

FS_INLINE u32 mix(u32 x) {
    x ^= x >> 16;
    x *= 0x21F0AAADu;
    x ^= x >> 15;
    x *= 0x735A2D97u;
    x ^= x >> 15;
    return x;
}

// The words a and b of one (step, site, row).
struct RowWords {
    u32 a, b;
};

FS_INLINE RowWords row_words(u32 key_low, u32 key_high, u32 step, u32 site, u32 row) {
    return {mix(row + mix(step + mix(site + mix(key_low)))),
            mix(row ^ mix(step ^ mix(site ^ mix(key_high + 0x9E3779B9u))))};
}

// The bits of units first .. first + W - 1.
template <class T>
FS_INLINE typename Simd<T>::U random_bits(RowWords w, i64 first) {
    typename Simd<T>::U u = (lane_numbers<T>() + static_cast<u32>(first)) * 0x9E3779B9u + w.a;
    u ^= u >> 16;
    u *= 0x21F0AAADu;
    u ^= u >> 15;
    u += w.b;
    u *= 0x735A2D97u;
    u ^= u >> 16;
    return u;
}

// Dropout's factor of units first .. first + W - 1: `scale` where the unit is kept, else 0. threshold <= 2^24.
template <class T>
FS_INLINE Vec<T> dropout_factor(RowWords w, i64 first, u32 threshold, T scale) {
    typename Simd<T>::S keep = (typename Simd<T>::S)(random_bits<T>(w, first) >> 8) >= static_cast<std::int32_t>(threshold);
    return keep_lanes<T>(Simd<T>::widen(keep), splat(scale));
}

// Masks of the units whose h, and whose c, take the new value.
template <class T>
struct Updates {
    Ints<T> h, c;
};

template <class T>
FS_INLINE Updates<T> zoneout_updates(RowWords w, i64 first, u32 threshold_h, u32 threshold_c) {
    typedef typename Simd<T>::S S;
    typename Simd<T>::U bits = random_bits<T>(w, first);
    S h = (S)(bits & 0xFFFFu) >= static_cast<std::int32_t>(threshold_h);
    S c = (S)(bits >> 16) >= static_cast<std::int32_t>(threshold_c);
    return {Simd<T>::widen(h), Simd<T>::widen(c)};
}

}  // namespace fastslow
