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
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <memory>
#include <vector>

#define __global__
#define __launch_bounds__(...)
#define __device__
#define __host__
// Blocks run one at a time, so one copy will do.
#define __shared__ static

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
inline dim3 gridDim, blockDim, blockIdx, threadIdx;

// ---- fibers

namespace fastcv_emulation {

constexpr unsigned kLanes = 32;
constexpr size_t kLaneBytes = 32;

struct Fiber {
    ucontext_t context;
    jmp_buf at;
    std::unique_ptr<char[]> stack;
    enum { fresh, ready, in_block, in_warp, finished } state;  // in_block, in_warp: at a barrier
    uint32_t lanes;  // that a warp's barrier is for
    unsigned exchanges;
    // What this lane shows the others of its warp, in turns: a lane that is one exchange ahead leaves the last one's alone.
    alignas(16) char shown[2][kLaneBytes];
};
inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline jmp_buf scheduler_at;
inline Fiber* running = nullptr;
inline void (*body)() = nullptr;

// swapcontext asks the system for the signal mask each time, so only a fiber's start is left to it.
inline void leave_fiber() {
    if (_setjmp(running->at) == 0) _longjmp(scheduler_at, 1);
}
inline void run_fiber() {
    body();
    running->state = Fiber::finished;
    _longjmp(scheduler_at, 1);
}
inline void enter_fiber(Fiber& fiber) {
    running = &fiber;
    if (_setjmp(scheduler_at) != 0) return;
    if (fiber.state != Fiber::fresh) _longjmp(fiber.at, 1);
    fiber.state = Fiber::ready;
    swapcontext(&scheduler, &fiber.context);
}

// The i-th of n in the order that was asked for. 65521 is prime: with it every number comes once unless n is a multiple.
inline const char* order = nullptr;
inline unsigned in_order(unsigned i, unsigned n) {
    if (order && strcmp(order, "backwards") == 0) return n - 1 - i;
    if (order && strcmp(order, "shuffled") == 0 && n % 65521) return unsigned((uint64_t(i) * 65521 + n / 2) % n);
    return i;
}

inline void start_fiber(Fiber& fiber) {
    constexpr size_t kStackBytes = size_t(64) << 10;
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
    fiber.state = Fiber::fresh;
    fiber.exchanges = 0;
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
        unsigned ran = 0, waiting = 0, finished = 0;
        for (unsigned i = 0; i < threads; i++) {
            const unsigned t = in_order(i, threads);
            waiting += fibers[t].state == Fiber::in_block;
            finished += fibers[t].state == Fiber::finished;
            if (fibers[t].state != Fiber::ready && fibers[t].state != Fiber::fresh) continue;
            threadIdx = dim3(t, 0, 0);
            enter_fiber(fibers[t]);
            ran++;
        }
        if (ran > 0) continue;
        if (finished == threads) return true;
        if (waiting < threads) return false;
        for (unsigned t = 0; t < threads; t++) fibers[t].state = Fiber::ready;
    }
}

// ---- warps: 32 threads in a row. A barrier of lanes is passed once all of them are there, and asked for the same lanes.

inline Fiber* warp() { return &fibers[threadIdx.x / kLanes * kLanes]; }

inline void wait_for_lanes(uint32_t lanes) {
    running->state = Fiber::in_warp;
    running->lanes = lanes;
    Fiber* const first = warp();
    bool all = lanes >> (threadIdx.x % kLanes) & 1;
    for (unsigned lane = 0; lane < kLanes && all; lane++) {
        if (!(lanes >> lane & 1)) continue;
        all = threadIdx.x / kLanes * kLanes + lane < blockDim.x && first[lane].state == Fiber::in_warp &&
              first[lane].lanes == lanes;
    }
    if (!all) return leave_fiber();
    for (unsigned lane = 0; lane < kLanes; lane++)
        if (lanes >> lane & 1) first[lane].state = Fiber::ready;
}

// Shows a value to the other lanes. The result finds what another lane shows, until this lane's exchange after the next.
template <class T>
class Exchange {
public:
    Exchange(uint32_t lanes, const T& mine) : first_(warp()), turn_(running->exchanges++ % 2), lanes_(lanes) {
        static_assert(sizeof(T) <= kLaneBytes);
        memcpy(running->shown[turn_], &mine, sizeof mine);
        wait_for_lanes(lanes);
    }
    bool takes_part(unsigned lane) const { return lane < kLanes && (lanes_ >> lane & 1); }
    T of(unsigned lane) const {
        T value;
        memcpy(&value, first_[lane].shown[turn_], sizeof value);
        return value;
    }

private:
    const Fiber* first_;
    unsigned turn_;
    uint32_t lanes_;
};

// Of a lane that takes no part CUDA promises nothing; here it is a lane's own value.
template <class T>
T shuffled(uint32_t lanes, T mine, unsigned from) {
    const Exchange<T> all(lanes, mine);
    return all.takes_part(from) ? all.of(from) : mine;
}

}  // namespace fastcv_emulation

inline void __syncthreads() {
    using namespace fastcv_emulation;
    running->state = Fiber::in_block;
    leave_fiber();
}
inline void __syncwarp(uint32_t lanes = 0xffffffff) { fastcv_emulation::wait_for_lanes(lanes); }

// `width`, a power of two, cuts the warp into parts that keep to themselves.
template <class T>
T __shfl_sync(uint32_t lanes, T mine, int from, int width = 32) {
    const unsigned lane = threadIdx.x % 32, part = lane & ~unsigned(width - 1);
    return fastcv_emulation::shuffled(lanes, mine, part + (unsigned(from) & unsigned(width - 1)));
}
template <class T>
T __shfl_xor_sync(uint32_t lanes, T mine, int bits, int width = 32) {
    const unsigned lane = threadIdx.x % 32, from = lane ^ unsigned(bits);
    return fastcv_emulation::shuffled(lanes, mine, from / unsigned(width) <= lane / unsigned(width) ? from : lane);
}
template <class T>
T __shfl_down_sync(uint32_t lanes, T mine, unsigned by, int width = 32) {
    const unsigned lane = threadIdx.x % 32, from = lane + by;
    return fastcv_emulation::shuffled(lanes, mine, from / unsigned(width) == lane / unsigned(width) ? from : lane);
}
template <class T>
T __shfl_up_sync(uint32_t lanes, T mine, unsigned by, int width = 32) {
    const unsigned lane = threadIdx.x % 32;
    return fastcv_emulation::shuffled(lanes, mine, by <= lane % unsigned(width) ? lane - by : lane);
}
inline uint32_t __ballot_sync(uint32_t lanes, int predicate) {
    const fastcv_emulation::Exchange<int> all(lanes, predicate);
    uint32_t bits = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        if (all.takes_part(lane) && all.of(lane)) bits |= uint32_t(1) << lane;
    return bits;
}
inline int __any_sync(uint32_t lanes, int predicate) { return __ballot_sync(lanes, predicate) != 0; }
inline int __all_sync(uint32_t lanes, int predicate) { return __ballot_sync(lanes, !predicate) == 0; }

// ---- tensor cores, as csrc/cuda/mma.h has them. Lane l holds, with g = l / 4 and t = l % 4 (PTX ISA, "Matrix fragments"):
//
//   16 bits   a[i]: A[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + (0, 1)]    b[i]: B[2 * t + 8 * i + (0, 1)][g]
//   32 bits   a[i]: A[g + 8 * (i % 2)][t + 4 * (i / 2)]                 b[i]: B[t + 4 * i][g]
//   sums      d[i]: D[g + 8 * (i / 2)][2 * t + i % 2]
//
// Products are exact. Their sum is cut to float32 towards zero, which is what devices are seen to do, or a little worse.

namespace fastcv_emulation {

inline float cut(double sum) {
    const float nearest = float(sum);
    return fabs(double(nearest)) > fabs(sum) ? nextafterf(nearest, 0) : nearest;
}

struct Fragments {
    uint32_t a[4], b[2];
};

// kEach: numbers in a register. `number(register, which)` is one of them.
template <int kEach, class Number>
void multiply_fragments(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Number& number) {
    const Exchange<Fragments> all(0xffffffff, Fragments{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
    const unsigned g = threadIdx.x % kLanes / 4, t = threadIdx.x % 4;
    double sums[4] = {d[0], d[1], d[2], d[3]};
    for (unsigned other = 0; other < 4; other++) {
        const Fragments row = all.of(4 * g + other);
        for (unsigned column = 0; column < 2; column++) {
            const Fragments of = all.of(4 * (2 * t + column) + other);
            for (int i = 0; i < 4; i++)
                for (int which = 0; which < kEach; which++)
                    sums[i % 2 * 2 + column] += double(number(row.a[i], which)) * double(number(of.b[i / 2], which));
        }
    }
    for (int i = 0; i < 4; i++) d[i] = cut(sums[i]);
}

}  // namespace fastcv_emulation

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
    order = getenv("FASTCV_CUDA_EMULATION_ORDER");
    gridDim = grid, blockDim = block;
    for (unsigned i = 0; i < grid.x; i++) {
        blockIdx = dim3(in_order(i, grid.x), 0, 0);
        if (!run_block(block.x)) return cudaErrorLaunchFailure;
    }
    return cudaSuccess;
}

// ---- functions of the device

// One thread runs at a time, so nothing comes in between.
template <class T>
T atomicMin(T* at, T x) {
    const T before = *at;
    if (x < before) *at = x;
    return before;
}
template <class T>
T atomicOr(T* at, T x) {
    const T before = *at;
    *at = before | x;
    return before;
}
template <class T>
T atomicAdd(T* at, T x) {
    const T before = *at;
    *at = before + x;
    return before;
}
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
