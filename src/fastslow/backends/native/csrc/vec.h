// Vectors of the machine's width, as the compiler's vector types: AVX-512, AVX2, SSE and NEON from one source.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define FS_BYTES 64
#elif defined(__AVX__)
#define FS_BYTES 32
#else
#define FS_BYTES 16
#endif

// Vector registers of the instruction set.
#if defined(__AVX512F__) || defined(__aarch64__)
#define FS_REGISTERS 32
#else
#define FS_REGISTERS 16
#endif

#define FS_INLINE inline __attribute__((always_inline))

namespace fastslow {

using i64 = std::int64_t;
using u32 = std::uint32_t;

// V: W elements; VU: the same, unaligned; I: W integers of the element's size; S: W int32; U: W uint32.
template <class T>
struct Simd;

template <>
struct Simd<float> {
    static constexpr int W = FS_BYTES / 4;
    typedef float V __attribute__((vector_size(FS_BYTES)));
    typedef float VU __attribute__((vector_size(FS_BYTES), aligned(4), may_alias));
    typedef std::int32_t I __attribute__((vector_size(FS_BYTES)));
    typedef std::int32_t S __attribute__((vector_size(FS_BYTES)));
    typedef u32 U __attribute__((vector_size(FS_BYTES)));
    static FS_INLINE I widen(S s) { return s; }
};

template <>
struct Simd<double> {
    static constexpr int W = FS_BYTES / 8;
    typedef double V __attribute__((vector_size(FS_BYTES)));
    typedef double VU __attribute__((vector_size(FS_BYTES), aligned(8), may_alias));
    typedef std::int64_t I __attribute__((vector_size(FS_BYTES)));
    typedef std::int32_t S __attribute__((vector_size(FS_BYTES / 2)));
    typedef u32 U __attribute__((vector_size(FS_BYTES / 2)));
    static FS_INLINE I widen(S s) { return __builtin_convertvector(s, I); }
};

template <class T> using Vec = typename Simd<T>::V;
template <class T> using Ints = typename Simd<T>::I;

template <class T>
FS_INLINE Vec<T> load(const T* p) {
    return *reinterpret_cast<const typename Simd<T>::VU*>(p);
}

template <class T>
FS_INLINE void store(T* p, Vec<T> v) {
    *reinterpret_cast<typename Simd<T>::VU*>(p) = v;
}

template <class T>
FS_INLINE Vec<T> splat(T s) {
    return s - Vec<T>{};  // s - 0 is s, signed zero included, so this folds to a broadcast
}

template <class T>
FS_INLINE T sum(Vec<T> v) {
    T total[Simd<T>::W];
    store(total, v);
    // Pairwise, in a fixed order.
    for (int half = Simd<T>::W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) total[i] += total[i + half];
    return total[0];
}

#if defined(__AVX512F__)
template <>
FS_INLINE float sum<float>(Vec<float> v) {
    return _mm512_reduce_add_ps((__m512)v);  // also by halves, within the registers
}
template <>
FS_INLINE double sum<double>(Vec<double> v) {
    return _mm512_reduce_add_pd((__m512d)v);
}
#endif

// totals[i] = sum(v[i]), the same bits.
template <class T>
FS_INLINE void sum_four(const Vec<T>* v, T* totals) {
    for (int i = 0; i < 4; i++) totals[i] = sum<T>(v[i]);
}

#if defined(__AVX512F__)
template <>
FS_INLINE void sum_four<float>(const Vec<float>* v, float* totals) {
    // The same halves for four vectors at a time: each takes a quarter of the last vector.
    const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
    const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xEE));
    __m512 all = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
    all = _mm512_add_ps(all, _mm512_permute_ps(all, 0x4E));
    all = _mm512_add_ps(all, _mm512_permute_ps(all, 0xB1));
    const __m512i firsts = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12));
    _mm_storeu_ps(totals, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, all)));
}
#endif

// 0, 1, 2, ...
template <class T>
FS_INLINE typename Simd<T>::U lane_numbers() {
    typename Simd<T>::U lanes;
    for (int i = 0; i < Simd<T>::W; i++) lanes[i] = static_cast<u32>(i);
    return lanes;
}

// All ones in the first n lanes.
template <class T>
FS_INLINE Ints<T> first_lanes(i64 n) {
    typename Simd<T>::S lanes;
    for (int i = 0; i < Simd<T>::W; i++) lanes[i] = i < n ? -1 : 0;
    return Simd<T>::widen(lanes);
}

template <class T>
FS_INLINE Vec<T> keep_lanes(Ints<T> lanes, Vec<T> v) {
    return (Vec<T>)((Ints<T>)v & lanes);
}

// ---------------------------------------------------------------- functions

// x clamped to [low, high]; NaN stays NaN.
template <class T>
FS_INLINE Vec<T> clamp(Vec<T> x, T low, T high) {
    x = x > splat(high) ? splat(high) : x;
    return x < splat(low) ? splat(low) : x;
}

#if defined(__AVX512F__)
template <>
FS_INLINE Vec<float> clamp<float>(Vec<float> x, float low, float high) {
    // These instructions return their second operand if either is NaN.
    return (Vec<float>)_mm512_max_ps(_mm512_set1_ps(low), _mm512_min_ps(_mm512_set1_ps(high), (__m512)x));
}
#endif

template <class T>
FS_INLINE Vec<T> reciprocal(Vec<T> d) {
    return static_cast<T>(1) / d;
}

#if defined(__AVX512F__)
template <>
FS_INLINE Vec<float> reciprocal<float>(Vec<float> d) {
    // 14 bits, then one Newton step: within 1 ulp of the quotient, in a third of the time of a division.
    Vec<float> y = (Vec<float>)_mm512_maskz_rcp14_ps(0xFFFF, (__m512)d);
    return y + y * (1.0f - d * y);
}
#endif

// exp(x) = scale (1 + p): scale a power of two, p = expm1(r) of the remainder r, |r| <= ln(2) / 2.
template <class T>
struct Exponent {
    Vec<T> scale, p;
};

template <class T>
FS_INLINE Exponent<T> exponent(Vec<T> x);

template <>
FS_INLINE Exponent<float> exponent<float>(Vec<float> x) {
    typedef Vec<float> V;
    typedef Ints<float> I;
    x = clamp<float>(x, -87.0f, 88.0f);
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
    V t = x * 1.44269504088896341f + magic;
    V n = t - magic;
    V r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    V q = splat(1.3933733216e-3f);
    q = q * r + 8.3632353846e-3f;
    q = q * r + 4.1666464167e-2f;
    q = q * r + 1.6666576644e-1f;
    q = q * r + 5.0000000135e-1f;
    I power = ((I)t - 0x4B400000 + 127) << 23;
    return {(V)power, r + r * r * q};
}

template <>
FS_INLINE Exponent<double> exponent<double>(Vec<double> x) {
    typedef Vec<double> V;
    typedef Ints<double> I;
    x = clamp<double>(x, -708.0, 709.0);
    const double magic = 6755399441055744.0;  // 1.5 * 2^52
    V t = x * 1.4426950408889634074 + magic;
    V n = t - magic;
    V r = x - n * 6.93147180369123816490e-01;
    r = r - n * 1.90821492927058770002e-10;
    // The Taylor series of (expm1(r) - r) / r^2, to r^14 / 14!.
    V q = splat(1.0 / 87178291200.0);
    q = q * r + 1.0 / 6227020800.0;
    q = q * r + 1.0 / 479001600.0;
    q = q * r + 1.0 / 39916800.0;
    q = q * r + 1.0 / 3628800.0;
    q = q * r + 1.0 / 362880.0;
    q = q * r + 1.0 / 40320.0;
    q = q * r + 1.0 / 5040.0;
    q = q * r + 1.0 / 720.0;
    q = q * r + 1.0 / 120.0;
    q = q * r + 1.0 / 24.0;
    q = q * r + 1.0 / 6.0;
    q = q * r + 0.5;
    I power = ((I)t - 0x4338000000000000LL + 1023) << 52;
    return {(V)power, r + r * r * q};
}

template <class T>
FS_INLINE Vec<T> sigmoid(Vec<T> x) {
    Exponent<T> e = exponent<T>(-x);
    return reciprocal<T>(static_cast<T>(1) + (e.scale + e.scale * e.p));
}

// Uses expm1 so that small arguments keep their relative precision.
template <class T>
FS_INLINE Vec<T> tanh(Vec<T> x) {
    Exponent<T> e = exponent<T>(x + x);
    Vec<T> m = e.scale * e.p + (e.scale - static_cast<T>(1));
    return m * reciprocal<T>(m + static_cast<T>(2));
}

}  // namespace fastslow
