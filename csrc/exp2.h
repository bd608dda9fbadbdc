// Powers of two: exp2(x) = 2^n * p(x - n), n the integer nearest to x, p a polynomial on [-1/2, 1/2].
//
// `exp2_shifted(x, shift)` is 2^(x - shift) for an integer `shift`. The shift goes into the exponent alone, so it rounds
// nothing: results under two shifts differ by an exact power of two as long as neither underflows. What is below the normal
// numbers becomes zero, NaN comes through, and x = -infinity gives zero.
//
// Largest error, measured over a million values in [-126, 0] ([-1022, 0]): float 0.94 ulp, double 0.81 (1.17 and 1.07 where there
// is no fused multiply-add). Degree 6, minimax to 2e-9 relative; degree 13, Taylor's, truncated at 4e-18.
#pragma once

#include "simd.h"

namespace fastcv::FASTCV_ISA {
namespace {

// An integer beyond this is too large for the rounding by addition below, once x is as large.
template <class T>
constexpr T kLargestShift = T(1 << 20);

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

// Needs |shift| <= kLargestShift, and x at most about as large.
template <class T>
FASTCV_INLINE Vec<T> exp2_shifted(Vec<T> x, Vec<T> shift) {
    x = upper(splat<T>(-2 * kLargestShift<T>), x);  // a NaN stays
    const Vec<T> n = round_to_integer(x);
    return times_power(exp2_fraction(x - n), n - shift);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
