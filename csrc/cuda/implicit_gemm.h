// The one matrix product behind dense convolutions: D = A B'. Nobody stores A and B; a problem says where their numbers are.
//
// A block of 256 threads makes a tile of D, kRows x kColumns. The depth comes in steps of 64 bytes a row of A and of B. A thread
// fetches 16-byte vectors of neighbouring depth into registers, while the warps multiply the step before out of shared memory:
//
//               64 bytes of depth + 16 of gap
//   A   128 rows |v v v v .|        v: a vector of 8, 4 or 2 numbers. With the gap, eight rows' vectors lie in different banks,
//   B    64 rows |v v v v .|        as do the registers that tensor cores want of eight rows.
//        two stages of both: 30 KiB
//
// Halves go through tensor cores, each of the 8 warps a part of 32 x 32; float32 and float64 through multiply-adds, 8 x 4 sums a
// thread. What is summed in what order depends on sizes alone. 128 x 64 keeps sums of float64 in registers, and but for them two
// blocks fit on a multiprocessor; it is a guess that no device has judged.
//
// A problem has these members:
//   A::Row, B::Row            what a thread keeps of a row
//   a_row(i), b_row(i)        of row i of the tile
//   a(row, k), b(row, k)      the vector of depth k and on; zeros outside
//   a_along_rows, b_...       whether rows, not depth, are neighbours in memory: threads are laid out alike
#pragma once

#include "mma.h"

namespace fastcv::cuda {

constexpr int kRows = 128, kColumns = 64, kRowVectors = 4, kGemmThreads = 256;

// At least so many on a multiprocessor: a limit of 128 registers, or of 255.
template <class T>
constexpr int kGemmBlocks = sizeof(T) == 8 ? 1 : 2;

template <class T>
struct alignas(16) Vector {
    static constexpr int kSize = 16 / int(sizeof(T));
    T of[kSize];
};

// A row has one vector more than is used.
template <class T>
struct Stage {
    Vector<T> a[kRows][kRowVectors + 1], b[kColumns][kRowVectors + 1];
};

// ---- how a step is multiplied: sums of a thread, and where in the tile they belong

template <class T>
struct MultiplyAdd {
    T sums[kRows / 16][kColumns / 16] = {};

    __device__ void add(const Stage<T>& stage) {
        for (int v = 0; v < kRowVectors; v++) {
            Vector<T> b[kColumns / 16];
            for (int j = 0; j < kColumns / 16; j++) b[j] = stage.b[threadIdx.x % 16 + 16 * j][v];
#pragma unroll
            for (int i = 0; i < kRows / 16; i++) {
                const Vector<T> a = stage.a[threadIdx.x / 16 + 16 * i][v];
                for (int e = 0; e < Vector<T>::kSize; e++)
                    for (int j = 0; j < kColumns / 16; j++) sums[i][j] = fma(a.of[e], b[j].of[e], sums[i][j]);
            }
        }
    }
    // store(row, column, sum)
    template <class Store>
    __device__ void each(const Store& store) const {
#pragma unroll
        for (int i = 0; i < kRows / 16; i++)
#pragma unroll
            for (int j = 0; j < kColumns / 16; j++)
                store(int(threadIdx.x) / 16 + 16 * i, int(threadIdx.x) % 16 + 16 * j, sums[i][j]);
    }
};

// Warp w has rows from 32 * (w / 2) and columns from 32 * (w % 2) on.
template <class T>
struct TensorCores {
    float sums[2][4][4] = {};

    __device__ static uint32_t bits(const Vector<T> (&row)[kRowVectors + 1], int pair) {
        return reinterpret_cast<const uint32_t*>(row)[pair];
    }
    __device__ void add(const Stage<T>& stage) {
        const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4, warp = int(threadIdx.x) / 32;
        const int top = warp / 2 * 32 + g, left = warp % 2 * 32 + g;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t a[2][4], b[4][2];
            for (int m = 0; m < 2; m++)
                for (int i = 0; i < 4; i++) a[m][i] = bits(stage.a[top + 16 * m + 8 * (i % 2)], 8 * half + t + 4 * (i / 2));
            for (int n = 0; n < 4; n++)
                for (int i = 0; i < 2; i++) b[n][i] = bits(stage.b[left + 8 * n], 8 * half + t + 4 * i);
            for (int m = 0; m < 2; m++)
                for (int n = 0; n < 4; n++) multiply_add_halves<T>(sums[m][n], a[m], b[n]);
        }
    }
    template <class Store>
    __device__ void each(const Store& store) const {
        const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4, warp = int(threadIdx.x) / 32;
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < 4; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    store(warp / 2 * 32 + 16 * m + g + 8 * (i / 2), warp % 2 * 32 + 8 * n + 2 * t + i % 2, sums[m][n][i]);
    }
};

template <class T>
struct Arithmetic {
    using type = TensorCores<T>;
};
template <>
struct Arithmetic<float> {
    using type = MultiplyAdd<float>;
};
template <>
struct Arithmetic<double> {
    using type = MultiplyAdd<double>;
};

// Vector number i of a thread: its row of the tile, and which of the row's vectors it is.
template <int kHeight>
__device__ inline int row_of(int i, bool along_rows) {
    const int number = int(threadIdx.x) + kGemmThreads * i;
    return along_rows ? number % kHeight : number / kRowVectors;
}
template <int kHeight>
__device__ inline int vector_of(int i, bool along_rows) {
    const int number = int(threadIdx.x) + kGemmThreads * i;
    return along_rows ? number / kHeight : number % kRowVectors;
}

// The tile's sums over the depth [first, last). All threads of the block come here.
template <class T, class Problem>
__device__ inline typename Arithmetic<T>::type multiply(const Problem& p, int64_t first, int64_t last) {
    constexpr int kA = kRows * kRowVectors / kGemmThreads, kB = kColumns * kRowVectors / kGemmThreads;
    constexpr int64_t kSize = Vector<T>::kSize, kStep = kSize * kRowVectors;
    __shared__ Stage<T> stages[2];
    typename Arithmetic<T>::type sums;
    typename Problem::ARow a_rows[kA];
    typename Problem::BRow b_rows[kB];
    Vector<T> a[kA], b[kB];
    for (int i = 0; i < kA; i++) a_rows[i] = p.a_row(row_of<kRows>(i, p.a_along_rows));
    for (int i = 0; i < kB; i++) b_rows[i] = p.b_row(row_of<kColumns>(i, p.b_along_rows));
    const auto fetch = [&](int64_t k) {
        for (int i = 0; i < kA; i++) a[i] = p.a(a_rows[i], k + kSize * vector_of<kRows>(i, p.a_along_rows), last);
        for (int i = 0; i < kB; i++) b[i] = p.b(b_rows[i], k + kSize * vector_of<kColumns>(i, p.b_along_rows), last);
    };
    const auto put = [&](Stage<T>& stage) {
        for (int i = 0; i < kA; i++) stage.a[row_of<kRows>(i, p.a_along_rows)][vector_of<kRows>(i, p.a_along_rows)] = a[i];
        for (int i = 0; i < kB; i++) stage.b[row_of<kColumns>(i, p.b_along_rows)][vector_of<kColumns>(i, p.b_along_rows)] = b[i];
    };
    if (first >= last) return sums;
    fetch(first);
    put(stages[0]);
    __syncthreads();
    int stage = 0;
    for (int64_t k = first; k < last; k += kStep) {
        const bool more = k + kStep < last;
        if (more) fetch(k + kStep);
        sums.add(stages[stage]);
        stage ^= 1;
        if (more) put(stages[stage]);
        __syncthreads();
    }
    return sums;
}

}  // namespace fastcv::cuda
