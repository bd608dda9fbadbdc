// emulation.h's warps, and csrc/cuda/mma.h over them: barriers, shuffles, ballots, products of matrices. Prints what is wrong.
//
//   g++ -std=c++17 -include tests/native/cuda/emulation.h tests/native/cuda/warps.cpp
#include <stdio.h>

#include "../../../csrc/cuda/mma.h"

using namespace fastcv::cuda;

static int failed = 0;

static void expect(bool right, const char* what, int64_t which) {
    if (!right && failed++ < 10) printf("%s %lld\n", what, static_cast<long long>(which));
}

struct Nothing {};
static constexpr int kWarps = 3;
static int memory[32 * kWarps];

// Each lane's neighbour writes first, whatever the order of threads.
static void barriers(Nothing) {
    const int t = int(threadIdx.x), neighbour = t / 32 * 32 + (t + 1) % 32;
    for (int round = 0; round < 3; round++) {
        memory[t] = 100 * round + t;
        __syncwarp();
        expect(memory[neighbour] == 100 * round + neighbour, "a barrier of a warp", t);
        __syncwarp();
    }
    // Parts of a warp wait apart.
    const uint32_t half = t % 32 < 16 ? 0xffff : 0xffff0000;
    for (int round = 0; round < (t % 32 < 16 ? 1 : 4); round++) __syncwarp(half);
    __syncthreads();
}
static void some_lanes_do_not_come(Nothing) {
    if (threadIdx.x != 40) __syncwarp();
}
static void lanes_of_two_kinds(Nothing) { threadIdx.x < 32 ? __syncwarp() : __syncthreads(); }

static void shuffles(Nothing) {
    const int t = int(threadIdx.x), lane = t % 32, first = t - lane;
    expect(__shfl_sync(0xffffffff, t, 5) == first + 5, "shfl", t);
    expect(__shfl_sync(0xffffffff, t, lane * 7) == first + lane * 7 % 32, "shfl by lanes", t);
    expect(__shfl_sync(0xffffffff, t, 1, 8) == t / 8 * 8 + 1, "shfl in parts", t);
    expect(__shfl_xor_sync(0xffffffff, double(t), 6) == (t ^ 6), "shfl_xor", t);
    expect(__shfl_down_sync(0xffffffff, t, 3) == (lane + 3 < 32 ? t + 3 : t), "shfl_down", t);
    expect(__shfl_down_sync(0xffffffff, t, 3, 16) == (lane % 16 + 3 < 16 ? t + 3 : t), "shfl_down in parts", t);
    expect(__shfl_up_sync(0xffffffff, t, 3) == (lane >= 3 ? t - 3 : t), "shfl_up", t);
    expect(__ballot_sync(0xffffffff, lane % 3 == 0) == 0x49249249u, "ballot", t);
    expect(__any_sync(0xffffffff, lane == 9) && !__all_sync(0xffffffff, lane == 9) && __all_sync(0xffffffff, 1), "votes", t);
    int sum = lane;
    for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffff, sum, by);
    expect(sum == 496, "a sum over lanes", t);
}

// Small integers: every order of summation is exact.
static float entry(int row, int column) { return float((row * 37 + column * 101 + 7) % 23 - 11); }
static uint32_t bits_of(Half, float x) { return narrow<Half>(x).bits; }
static uint32_t bits_of(BFloat16, float x) { return narrow<BFloat16>(x).bits; }
static uint32_t bits_of(float, float x) { return to_tf32(x); }

template <class T, int kEach>
static void products(Nothing) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4, depth = 8 * kEach;
    uint32_t a[4] = {}, b[2] = {};
    for (int i = 0; i < 4; i++)
        for (int e = 0; e < kEach; e++) a[i] |= bits_of(T(), entry(g + 8 * (i % 2), kEach * (t + 4 * (i / 2)) + e)) << (e * 16);
    for (int i = 0; i < 2; i++)
        for (int e = 0; e < kEach; e++) b[i] |= bits_of(T(), entry(kEach * (t + 4 * i) + e, g + 50)) << (e * 16);
    float d[2][4];
    for (auto& each : d)
        for (int i = 0; i < 4; i++) each[i] = float(i);
    if constexpr (kEach == 2)
        multiply_add_halves<T>(d[0], a, b);
    else
        multiply_add_tf32(d[0], a, b);
    multiply_add_by_shuffles<T, kEach>(d[1], a, b);
    for (int i = 0; i < 4; i++) {
        float want = float(i);
        for (int k = 0; k < depth; k++) want += entry(g + 8 * (i / 2), k) * entry(k, 2 * t + i % 2 + 50);
        expect(d[0][i] == want, "a product", lane * 4 + i);
        expect(d[1][i] == want, "a product by shuffles", lane * 4 + i);
    }
}

static void run(void (*kernel)(Nothing)) {
    Nothing nothing;
    void* arguments[] = {&nothing};
    expect(cudaLaunchKernel(kernel, dim3(2), dim3(32 * kWarps), arguments, 0, nullptr) == cudaSuccess, "a launch", 0);
}
static void refused(void (*kernel)(Nothing)) {
    Nothing nothing;
    void* arguments[] = {&nothing};
    const auto error = cudaLaunchKernel(kernel, dim3(1), dim3(32 * kWarps), arguments, 0, nullptr);
    expect(error == cudaErrorLaunchFailure, "a barrier that not all reach", 0);
}

int main() {
    for (const char* order : {"forwards", "backwards", "shuffled"}) {
        setenv("FASTCV_CUDA_EMULATION_ORDER", order, 1);
        run(barriers);
        run(shuffles);
        run(products<Half, 2>);
        run(products<BFloat16, 2>);
        run(products<float, 1>);
        refused(some_lanes_do_not_come);
        refused(lanes_of_two_kinds);
    }
    expect(to_tf32(1.0f + 0x1p-11f) == __float_as_uint(1.0f + 0x1p-10f), "to_tf32", 0);
    expect(to_tf32(1.0f + 0x1p-12f) == __float_as_uint(1.0f), "to_tf32", 1);
    expect(to_tf32(INFINITY) == __float_as_uint(INFINITY), "to_tf32", 2);
    printf("%d failed\n", failed);
    return failed != 0;
}
