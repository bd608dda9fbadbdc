// Element types. float16 and bfloat16 are stored as such and computed with as float32.
#pragma once

#include "launch.h"

#if !defined(FASTCV_CUDA_EMULATION)
#include <cuda_fp16.h>
#endif

namespace fastcv::cuda {

struct Half {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(Half x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ inline float widen(BFloat16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

// What sums of T are kept in.
template <class T>
struct Wide {
    using type = float;
};
template <>
struct Wide<double> {
    using type = double;
};

// To the nearest, of two equally near ones to the even one.
template <class T>
__device__ inline T narrow(typename Wide<T>::type x) {
    return x;
}
template <>
__device__ inline Half narrow<Half>(float x) {
    return {__half_as_ushort(__float2half_rn(x))};
}
template <>
__device__ inline BFloat16 narrow<BFloat16>(float x) {
    const uint32_t bits = __float_as_uint(x);
    // A NaN stays one where the bits that make it one are cut off.
    if (x != x) return {uint16_t(bits >> 16 | 0x40)};
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// Calls run with a value of the type, whose type alone matters.
template <class Run>
void with_type(Dtype dtype, const Run& run) {
    switch (dtype) {
        case Dtype::float32: return run(float());
        case Dtype::float64: return run(double());
        case Dtype::float16: return run(Half());
        case Dtype::bfloat16: return run(BFloat16());
    }
}

// For elements that are moved and not looked at: an integer of their size.
template <class Run>
void with_size(Dtype dtype, const Run& run) {
    switch (item_bytes(dtype)) {
        case 2: return run(uint16_t());
        case 4: return run(uint32_t());
        default: return run(uint64_t());
    }
}

}  // namespace fastcv::cuda
