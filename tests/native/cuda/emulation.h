// Stands in for CUDA where csrc/cuda/*.cu are compiled for the CPU: g++ -x c++ -include tests/native/cuda/emulation.h.
//
// A launch runs when it is made. Blocks come one after another, a block's threads as fibers that take turns at barriers, so every
// launch, index and barrier of a kernel happens as its source says; what hardware does at once happens in one of many orders.
// FASTCV_CUDA_EMULATION_ORDER chooses it: "forwards", "backwards" or "shuffled", of blocks and, between barriers, of threads.
// Results that differ between them would depend on a race. A barrier that some threads do not reach is an error, and so are
// launches that no device takes. Memory is the process's own.
#pragma once

#define FASTCV_CUDA_EMULATION

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <memory>
#include <vector>

#define __global__
#define __device__
// Blocks run one at a time, so one copy will do.
#define __shared__ static

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
inline dim3 gridDim, blockDim, blockIdx, threadIdx;

// ---- fibers

namespace fastcv_emulation {

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    enum { ready, waiting, finished } state;
};
inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline Fiber* running = nullptr;
inline void (*body)() = nullptr;

inline void run_fiber() {
    body();
    running->state = Fiber::finished;
    swapcontext(&running->context, &scheduler);
}

// The i-th of n in the order that was asked for. 65521 is prime: with it every number comes once unless n is a multiple.
inline unsigned in_order(unsigned i, unsigned n) {
    const char* order = getenv("FASTCV_CUDA_EMULATION_ORDER");
    if (order && strcmp(order, "backwards") == 0) return n - 1 - i;
    if (order && strcmp(order, "shuffled") == 0 && n % 65521) return unsigned((uint64_t(i) * 65521 + n / 2) % n);
    return i;
}

inline void start_fiber(Fiber& fiber) {
    constexpr size_t kStackBytes = size_t(64) << 10;
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
    fiber.state = Fiber::ready;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
}

// False where a barrier was not reached by all.
inline bool run_block(unsigned threads) {
    if (fibers.size() < threads) fibers.resize(threads);
    for (unsigned t = 0; t < threads; t++) start_fiber(fibers[t]);
    for (;;) {
        unsigned waiting = 0;
        for (unsigned i = 0; i < threads; i++) {
            const unsigned t = in_order(i, threads);
            running = &fibers[t];
            threadIdx = dim3(t, 0, 0);
            swapcontext(&scheduler, &running->context);
            waiting += running->state == Fiber::waiting;
        }
        if (waiting == 0) return true;
        if (waiting < threads) return false;
    }
}

}  // namespace fastcv_emulation

inline void __syncthreads() {
    using namespace fastcv_emulation;
    running->state = Fiber::waiting;
    swapcontext(&running->context, &scheduler);
}

// ---- the runtime

enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration, cudaErrorInvalidDevice, cudaErrorLaunchFailure };
using cudaStream_t = struct CUstream_st*;
constexpr unsigned cudaHostAllocPortable = 1, cudaHostAllocMapped = 2;

inline const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorInvalidConfiguration ? "invalid configuration argument"
           : error == cudaErrorInvalidDevice      ? "invalid device ordinal"
                                                  : "a barrier that not all threads of a block reach";
}
inline int emulated_device = 0;
inline cudaError_t cudaGetDevice(int* device) { return *device = emulated_device, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device > 1) return cudaErrorInvalidDevice;
    return emulated_device = device, cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 2, cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) { return *memory = malloc(bytes), cudaSuccess; }

template <class Arguments>
cudaError_t cudaLaunchKernel(void (*kernel)(Arguments), dim3 grid, dim3 block, void** arguments, size_t, cudaStream_t) {
    using namespace fastcv_emulation;
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;
    if (threads < 1 || threads > 1024 || grid.x < 1 || grid.x > 0x7fffffff || grid.y != 1 || grid.z != 1 || threads != block.x)
        return cudaErrorInvalidConfiguration;
    if (sizeof(Arguments) > 4096) return cudaErrorInvalidConfiguration;
    static void (*launched)(Arguments);
    static const Arguments* given;
    launched = kernel, given = static_cast<const Arguments*>(arguments[0]);
    body = [] { launched(*given); };
    gridDim = grid, blockDim = block;
    for (unsigned i = 0; i < grid.x; i++) {
        blockIdx = dim3(in_order(i, grid.x), 0, 0);
        if (!run_block(block.x)) return cudaErrorLaunchFailure;
    }
    return cudaSuccess;
}

// ---- functions of the device

inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }
inline float __uint_as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
struct __half {
    uint16_t bits;
};
inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline uint16_t __half_as_ushort(__half x) { return x.bits; }
inline float __half2float(__half x) {
    const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    float size;
    if (exponent == 31)
        size = fraction ? NAN : INFINITY;
    else
        size = exponent ? ldexpf(float(1024 + fraction), exponent - 25) : ldexpf(float(fraction), -24);
    return x.bits >> 15 ? -size : size;
}
inline __half __float2half_rn(float x) {
    const uint16_t sign = uint16_t(__float_as_uint(x) >> 16 & 0x8000);
    if (isnan(x)) return {0x7fff};
    if (isinf(x)) return {uint16_t(sign | 0x7c00)};
    int exponent;
    frexpf(x, &exponent);  // |x| in [2**(exponent - 1), 2**exponent)
    if (exponent < -13 || x == 0) exponent = -13;
    if (exponent > 16) return {uint16_t(sign | 0x7c00)};
    // Units in the last place, rounded by the machine; a carry goes on into the exponent as it should.
    const uint32_t units = uint32_t(nearbyintf(ldexpf(fabsf(x), 11 - exponent)));
    return {uint16_t(sign | (uint32_t(exponent + 13) * 1024 + units))};
}
