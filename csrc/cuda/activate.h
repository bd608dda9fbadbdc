// Bias and activation of a sum that is about to be stored. NaN comes through all of them, as in ../epilogue.h.
#pragma once

#include "dtypes.h"

namespace fastcv::cuda {

template <class W>
__device__ __attribute__((noinline)) W activate_slowly(W x, Activation activation, double slope) {
    switch (activation) {
        case Activation::relu6: return x < 0 ? W(0) : x > 6 ? W(6) : x;
        case Activation::leaky_relu: return x < 0 ? x * W(slope) : x;
        case Activation::sigmoid: return 1 / (1 + exp(-x));
        case Activation::tanh: return tanh(x);
        case Activation::silu: return x * (1 / (1 + exp(-x)));  // NaN at -inf, as in torch
        case Activation::gelu: return x * W(0.5) * erfc(-x * W(0.70710678118654752440));
        default: return x;
    }
}

// Most layers have none or a ReLU; the others are a call, since a thread finishes dozens of sums in straight code.
template <class W>
__device__ inline W activate(W x, Activation activation, double slope) {
    if (activation == Activation::none) return x;
    if (activation == Activation::relu) return x < 0 ? W(0) : x;
    return activate_slowly(x, activation, slope);
}

template <class T>
__device__ inline T finished(typename Wide<T>::type sum, const Epilogue& e, int64_t channel) {
    if (e.bias) sum += widen(*reinterpret_cast<const T*>(e.bias + channel * e.bias_stride_bytes));
    return narrow<T>(activate(sum, e.activation, e.slope));
}

}  // namespace fastcv::cuda
