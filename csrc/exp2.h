// Powers of two. `exp2_shifted(x, shift)` is 2^(x - shift) for an integer `shift`. The shift goes into the exponent alone, so it
// rounds nothing: results under two shifts differ by an exact power of two as long as neither underflows. What is below the
// normal numbers becomes zero, NaN comes through, and x = -infinity gives zero. Results of 2^127 and more are not meant.
//
// float where a register of eight or sixteen lanes can be a table: with k the multiple of 1/lanes nearest to x,
//   2^x = 2^floor(k) * table[k's fraction] * p(x - k),   p of degree 3, minimax to 2.7e-8 relative on [-1/16, 1/16]
// which takes half the multiply-adds of a polynomial on [-1/2, 1/2]: a vector of weights took 11.6 cycles on Zen 4, and takes 7.6.
// Everything else: 2^x = 2^n * p(x - n), n the integer nearest to x. Degree 6, minimax to 2e-9 relative; double's 13, Taylor's,
// truncated at 4e-18.
//
// Largest error, measured over a million values in [-126, 0] ([-1022, 0]): float 1.87 ulp by table, double 0.81 (1.17 and 1.07
// where there is no fused multiply-add).
#pragma once

#include "simd.h"

namespace fastcv::FASTCV_ISA {
namespace {

// An integer beyond this is too large for the rounding by addition below, once x is as large.
template <class T>
constexpr T kLargestShift = T(1 << 17);

// The largest power that has an exponent of its own.
template <class T>
constexpr T kLargestExponent = T(sizeof(T) == 4 ? 127 : 1023);

// 2^f for |f| <= 1/2.
FASTCV_INLINE Vec<float> exp2_fraction(Vec<float> f) {
    Vec<float> p = splat(1.535336193e-4f);
    p = fma(p, f, splat(1.33988744e-3f));
    p = fma(p, f, splat(9.618437357e-3f));
    p = fma(p, f, splat(5.550332471e-2f));
    p = fma(p, f, splat(2.402264791e-1f));
    p = fma(p, f, splat(6.931472029e-1f));
    return fma(p, f, splat(1.0f));
}
// ln(2)^k / k!
constexpr double exp2_coefficient(int k) { return k == 0 ? 1 : exp2_coefficient(k - 1) * 0.69314718055994530942 / k; }
FASTCV_INLINE Vec<double> exp2_fraction(Vec<double> f) {
    constexpr double c[14] = {exp2_coefficient(0), exp2_coefficient(1),  exp2_coefficient(2),  exp2_coefficient(3),
                              exp2_coefficient(4), exp2_coefficient(5),  exp2_coefficient(6),  exp2_coefficient(7),
                              exp2_coefficient(8), exp2_coefficient(9),  exp2_coefficient(10), exp2_coefficient(11),
                              exp2_coefficient(12), exp2_coefficient(13)};
    Vec<double> p = splat(c[13]);
    FASTCV_UNROLL for (int k = 12; k >= 0; k--) p = fma(p, f, splat(c[k]));
    return p;
}

#if defined(__AVX512F__)
FASTCV_INLINE Vec<float> round_to_integer(Vec<float> x) { return _mm512_maskz_roundscale_ps(0xffff, x, 0); }
FASTCV_INLINE Vec<double> round_to_integer(Vec<double> x) { return _mm512_maskz_roundscale_pd(0xff, x, 0); }
// p * 2^n for an integer n.
FASTCV_INLINE Vec<float> times_power(Vec<float> p, Vec<float> n) { return _mm512_maskz_scalef_ps(0xffff, p, n); }
FASTCV_INLINE Vec<double> times_power(Vec<double> p, Vec<double> n) { return _mm512_maskz_scalef_pd(0xff, p, n); }
#else
// Adding 1.5 * 2^23 (2^52) leaves no bits for a fraction.
FASTCV_INLINE Vec<float> round_to_integer(Vec<float> x) { return (x + 12582912.0f) - 12582912.0f; }
FASTCV_INLINE Vec<double> round_to_integer(Vec<double> x) { return (x + 6755399441055744.0) - 6755399441055744.0; }
// p * 2^n for an integer n of at most 127 (1023): n, found in the low bits of a sum as above, moves into the exponent.
FASTCV_INLINE Vec<float> times_power(Vec<float> p, Vec<float> n) {
    typedef int32_t Int __attribute__((vector_size(kVectorBytes)));
    const Vec<float> normal = n < -126 ? splat(-126.0f) : n;
    return n < -126 ? zero<float>() : p * Vec<float>((Int(normal + 12582912.0f) + 127) << 23);
}
FASTCV_INLINE Vec<double> times_power(Vec<double> p, Vec<double> n) {
    typedef int64_t Int __attribute__((vector_size(kVectorBytes)));
    const Vec<double> normal = n < -1022 ? splat(-1022.0) : n;
    return n < -1022 ? zero<double>() : p * Vec<double>((Int(normal + 6755399441055744.0) + 1023) << 52);
}
#endif

#if defined(__AVX2__)
constexpr int kTableBits = kLanes<float> == 16 ? 4 : 3;
FASTCV_INLINE Vec<float> exp2_by_table(Vec<float> x, Vec<float> shift) {
    typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
    // The bits of 2^(i / lanes), less what the low bits of k put into the mantissa when k moves into the exponent.
    constexpr uint32_t root[16] = {0x3f800000, 0x3f85aac3, 0x3f8b95c2, 0x3f91c3d3, 0x3f9837f0, 0x3f9ef532, 0x3fa5fed7, 0x3fad583f,
                                   0x3fb504f3, 0x3fbd08a4, 0x3fc5672a, 0x3fce248c, 0x3fd744fd, 0x3fe0ccdf, 0x3feac0c7, 0x3ff5257d};
    constexpr int L = kLanes<float>, place = 23 - kTableBits;
    Bits table{};
    FASTCV_UNROLL for (int i = 0; i < L; i++) table[i] = root[i * 16 / L] - (uint32_t(i) << place);
    // Adding this leaves k in the low bits, and what is above them leaves the exponent again when k moves into it.
    constexpr float kRound = 1.5f * float(1 << place);
    keep(x);  // lest it be read from memory three times
    const Vec<float> rounded = x + kRound, f = x - (rounded - kRound), least = shift - 126.0f;
    const Bits k = reinterpret_cast<Bits>(rounded);
    const Bits exponent = reinterpret_cast<Bits>(__builtin_convertvector(shift, Vec<int32_t>)) << 23;
    const Vec<float> nearest = reinterpret_cast<Vec<float>>(__builtin_shuffle(table, k) + (k << place) - exponent);
    // (nearest * f would lose what is below the normal numbers.)
    const Vec<float> power = fma(fma(fma(splat(0.055511475f), f, splat(0.24025764f)), f, splat(0.6931472f)), f, splat(1.0f));
    // Nothing below `least`, which a NaN is not.
#if defined(__AVX512F__)
    return _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ), nearest, power);
#else
    return _mm256_and_ps(nearest * power, _mm256_cmp_ps(x, least, _CMP_NLT_UQ));
#endif
}
#endif

// Needs |shift| <= kLargestShift, and x at most about as large.
template <class T>
FASTCV_INLINE Vec<T> exp2_shifted(Vec<T> x, Vec<T> shift) {
#if defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return exp2_by_table(x, shift);
#endif
    x = upper(splat<T>(-2 * kLargestShift<T>), x);  // a NaN stays
    const Vec<T> n = round_to_integer(x);
    return times_power(exp2_fraction(x - n), n - shift);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
