// Tensor cores: D += A B for small matrices that the 32 lanes of a warp hold together, by mma.sync of PTX.
//
//   multiply_add_halves   A 16 x 16, B 16 x 8 of Half or BFloat16, two to a register, the lower k in the lower half
//   multiply_add_tf32     A 16 x 8, B 8 x 8 of float32's bits, of which the upper 19 count (to_tf32 rounds to them)
//
// D is 16 x 8 in float32. With g = lane / 4 and t = lane % 4, a lane's registers are
//
//   halves   a[i]: A[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + (0, 1)]    b[i]: B[2 * t + 8 * i + (0, 1)][g]
//   tf32     a[i]: A[g + 8 * (i % 2)][t + 4 * (i / 2)]                 b[i]: B[t + 4 * i][g]
//   both     d[i]: D[g + 8 * (i / 2)][2 * t + i % 2]
//
// All 32 lanes come here together. Products are exact; how their sum is rounded is the device's affair: towards zero, it seems,
// so long sums are better cut into parts that are added outside.
//
// Devices before sm_80 lack these forms: there lanes show each other their registers and multiply themselves. The same
// numbers are summed, in another order.
#pragma once

#include "dtypes.h"

namespace fastcv::cuda {

__device__ inline float number_of(Half, uint32_t bits, int which) { return widen(Half{uint16_t(bits >> (16 * which))}); }
__device__ inline float number_of(BFloat16, uint32_t bits, int which) { return widen(BFloat16{uint16_t(bits >> (16 * which))}); }
__device__ inline float number_of(float, uint32_t bits, int) { return __uint_as_float(bits & 0xffffe000u); }

// What devices without tensor cores for T do. kEach numbers of T are in a register.
template <class T, int kEach>
__device__ inline void multiply_add_by_shuffles(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const int lane = int(threadIdx.x % 32), g = lane / 4, t = lane % 4;
    for (int other = 0; other < 4; other++) {
        uint32_t row[4], columns[2][2];
        for (int i = 0; i < 4; i++) row[i] = __shfl_sync(0xffffffffu, a[i], 4 * g + other);
        for (int c = 0; c < 2; c++)
            for (int i = 0; i < 2; i++) columns[c][i] = __shfl_sync(0xffffffffu, b[i], 4 * (2 * t + c) + other);
        for (int i = 0; i < 4; i++)
            for (int c = 0; c < 2; c++)
                for (int which = 0; which < kEach; which++)
                    d[i % 2 * 2 + c] += number_of(T(), row[i], which) * number_of(T(), columns[c][i / 2], which);
    }
}

// The nearest number of 10 bits behind the point; of two equally near ones the larger.
__device__ inline uint32_t to_tf32(float x) {
    const uint32_t bits = __float_as_uint(x);
    return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

#if defined(FASTCV_CUDA_EMULATION)

template <class T>
inline void multiply_add_halves(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    fastcv_emulation::multiply_fragments<2>(d, a, b, [](uint32_t bits, int which) { return number_of(T(), bits, which); });
}
inline void multiply_add_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    fastcv_emulation::multiply_fragments<1>(d, a, b, [](uint32_t bits, int which) { return number_of(float(), bits, which); });
}

#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

#define FASTCV_MMA(shape, types)                         \
    asm("mma.sync.aligned." shape ".row.col.f32." types  \
        ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "   \
        "{%0,%1,%2,%3};"                                 \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

template <class T>
__device__ inline void multiply_add_halves(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
__device__ inline void multiply_add_halves<Half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    FASTCV_MMA("m16n8k16", "f16.f16");
}
template <>
__device__ inline void multiply_add_halves<BFloat16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    FASTCV_MMA("m16n8k16", "bf16.bf16");
}
__device__ inline void multiply_add_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    FASTCV_MMA("m16n8k8", "tf32.tf32");
}

#undef FASTCV_MMA

#else

template <class T>
__device__ inline void multiply_add_halves(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    multiply_add_by_shuffles<T, 2>(d, a, b);
}
__device__ inline void multiply_add_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    multiply_add_by_shuffles<float, 1>(d, a, b);
}

#endif

}  // namespace fastcv::cuda
