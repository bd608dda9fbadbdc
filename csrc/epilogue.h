// Activations, applied to sums in registers just before they are stored. NaN comes through all of them.
#pragma once

#include <math.h>

#include "ops.h"
#include "simd.h"

namespace fastcv::FASTCV_ISA {
namespace {

template <class T>
FASTCV_INLINE Vec<T> vector_abs(Vec<T> x) {
    return x < 0 ? -x : x;
}

// exp(x) = 2^n exp(r), |r| <= ln(2)/2, by a Taylor polynomial in r; relative error below 2e-7 in float. Used for x <= 0.
FASTCV_INLINE Vec<float> exp_of_negative(Vec<float> x) {
    const Vec<float> argument = x;
    x = x < -87.0f ? Vec<float>{} - 87.0f : x;
    const Vec<float> shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
    const Vec<float> n = shifted - 12582912.0f;
    const Vec<float> r = fma(n, splat(-1.42860677e-6f), fma(n, splat(-0.693145752f), x));
    Vec<float> p = splat(1.0f / 720);
    p = fma(p, r, splat(1.0f / 120));
    p = fma(p, r, splat(1.0f / 24));
    p = fma(p, r, splat(1.0f / 6));
    p = fma(p, r, splat(0.5f));
    p = fma(p, r, splat(1.0f));
    p = fma(p, r, splat(1.0f));
    typedef int32_t Int __attribute__((vector_size(kVectorBytes)));
    return argument < -87.0f ? Vec<float>{} : p * Vec<float>((Int(shifted) << 23) + 0x3f800000);
}
FASTCV_INLINE Vec<double> exp_of_negative(Vec<double> x) {
    for (int i = 0; i < kLanes<double>; i++) x[i] = exp(x[i]);
    return x;
}

template <class T>
FASTCV_INLINE Vec<T> sigmoid(Vec<T> x) {
    const Vec<T> e = exp_of_negative(-vector_abs<T>(x));
    const Vec<T> y = (x < 0 ? e : splat(T(1))) / (e + 1);
    return x != x ? x : y;
}

// Below 0.625 the quotient would cancel: an odd polynomial there (Cephes, tanhf), accurate to an ulp or two.
FASTCV_INLINE Vec<float> hyperbolic_tangent(Vec<float> x) {
    const Vec<float> a = vector_abs<float>(x);
    const Vec<float> e = exp_of_negative(-2 * a);
    const Vec<float> large = (1 - e) / (1 + e);
    const Vec<float> s = x * x;
    Vec<float> p = splat(-5.70498872745e-3f);
    p = fma(p, s, splat(2.06390887954e-2f));
    p = fma(p, s, splat(-5.37397155531e-2f));
    p = fma(p, s, splat(1.33314422036e-1f));
    p = fma(p, s, splat(-3.33332819422e-1f));
    const Vec<float> small = fma(p * s, x, x);
    const Vec<float> y = a < 0.625f ? small : (x < 0 ? -large : large);
    return x != x ? x : y;
}
FASTCV_INLINE Vec<double> hyperbolic_tangent(Vec<double> x) {
    for (int i = 0; i < kLanes<double>; i++) x[i] = tanh(x[i]);
    return x;
}

// x * Phi(x), Phi the normal distribution's integral. Near zero Phi is 1/2 and an odd polynomial. Elsewhere, with a = |x| and
// t = 1 / (a + 4.75), the tail is Phi(-a) = exp(-a^2 / 2) * t * p(t), p a minimax polynomial of relative error 1.4e-8. What a^2
// loses when it is rounded is found from half of a's bits, whose square is exact (Dekker, A floating-point technique for
// extending the available precision, 1971), so that the tail keeps its relative accuracy: within 5 units in the last place, 9
// where x < -1.25. From 13.2 on the tail is 0.
FASTCV_INLINE Vec<float> gelu(Vec<float> x) {
    Vec<float> a = vector_abs<float>(x);
    a = a > 14.0f ? splat(14.0f) : a;
    const Vec<float> t = 1.0f / (a + 4.75f), u = fma(t, splat(12.7232143f), splat(-1.67857143f));
    Vec<float> p = splat(-1.2599456e-4f);
    p = fma(p, u, splat(-3.718299e-4f));
    p = fma(p, u, splat(1.5234879e-3f));
    p = fma(p, u, splat(1.547487e-2f));
    p = fma(p, u, splat(6.615595e-2f));
    p = fma(p, u, splat(0.19159853f));
    p = fma(p, u, splat(0.4182194f));
    p = fma(p, u, splat(0.7149922f));
    p = fma(p, u, splat(0.96753335f));
    typedef int32_t Int __attribute__((vector_size(kVectorBytes)));
    const Vec<float> square = a * a, half = Vec<float>(Int(a) & int32_t(0xfffff000));
    const Vec<float> rest = half * half - square + (a - half) * (a + half);
    const Vec<float> e = exp_of_negative(-0.5f * square);
    const Vec<float> tail = p * t * (e * (1 - 0.5f * rest));  // the small factor times e alone might be denormal
    const Vec<float> far = x * (x < 0 ? tail : 1 - tail);
    Vec<float> q = splat(-6.809487e-6f);
    q = fma(q, square, splat(1.11040936e-4f));
    q = fma(q, square, splat(-1.1838366e-3f));
    q = fma(q, square, splat(9.972282e-3f));
    q = fma(q, square, splat(-6.649021e-2f));
    q = fma(q, square, splat(0.39894226f));
    return a < 1.25f ? x * fma(x, q, splat(0.5f)) : far;
}
FASTCV_INLINE Vec<double> gelu(Vec<double> x) {
    for (int i = 0; i < kLanes<double>; i++) x[i] = x[i] * 0.5 * erfc(-x[i] * 0.70710678118654752440);
    return x;
}

template <class T>
FASTCV_NOINLINE Vec<T> activate_slowly(Vec<T> x, Activation activation, T slope) {
    switch (activation) {
        case Activation::relu6: x = x < 0 ? Vec<T>{} : x; return x > 6 ? splat(T(6)) : x;
        case Activation::leaky_relu: return x < 0 ? x * slope : x;
        case Activation::sigmoid: return sigmoid<T>(x);
        case Activation::tanh: return hyperbolic_tangent(x);
        case Activation::silu: return x * sigmoid<T>(x);  // NaN at -inf, as in torch
        case Activation::gelu: return gelu(x);
        default: return x;
    }
}

// Most layers have none or a ReLU: those are two instructions in the tile, the others a call.
template <class T>
FASTCV_INLINE Vec<T> activate(Vec<T> x, Activation activation, T slope) {
    if (activation == Activation::none) return x;
    if (activation == Activation::relu) return x < 0 ? Vec<T>{} : x;
    return activate_slowly<T>(x, activation, slope);
}
template <class T, int MT, int NV>
FASTCV_INLINE void activate_tile(Vec<T> (&acc)[MT][NV], Activation activation, T slope) {
    if (activation == Activation::none) return;
    FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++)
        acc[i][j] = activate<T>(acc[i][j], activation, slope);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
