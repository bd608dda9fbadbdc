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

// x * Phi(x), Phi the normal distribution's integral: one libm call a lane, exact to libm's last bit.
template <class T>
FASTCV_INLINE Vec<T> gelu(Vec<T> x) {
    Vec<T> y = x;
    for (int i = 0; i < kLanes<T>; i++) {
        const T t = x[i];
        y[i] = t * T(0.5) * T(erfc(-double(t) * 0.70710678118654752440));
    }
    return y;
}

template <class T>
FASTCV_NOINLINE Vec<T> activate_slowly(Vec<T> x, Activation activation, T slope) {
    switch (activation) {
        case Activation::relu6: x = x < 0 ? Vec<T>{} : x; return x > 6 ? splat(T(6)) : x;
        case Activation::leaky_relu: return x < 0 ? x * slope : x;
        case Activation::sigmoid: return sigmoid<T>(x);
        case Activation::tanh: return hyperbolic_tangent(x);
        case Activation::silu: return x * sigmoid<T>(x);  // NaN at -inf, as in torch
        case Activation::gelu: return gelu<T>(x);
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

}  // namespace
}  // namespace fastcv::FASTCV_ISA
