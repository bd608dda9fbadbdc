// Up to three rows of attention, as in decoding, against keys and values that are read where they lie.
#pragma once

#include "scaled_dot_product_attention_parts.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// A few rows against keys that are read where they lie: packing them would cost more than the sums over lanes that it saves.
// Keys are read in the order of memory, four at a time, and asked for kAhead keys early. Needs whole vectors of columns.
constexpr int64_t kAhead = 16;
template <class T>
static void dot_scores(T* scores, int64_t pitch, const T* queries, int64_t columns, int64_t rows, const char* key,
                       int64_t key_bytes, int64_t keys) {
    constexpr int64_t L = kLanes<T>, kTogether = L < 4 ? L : 4;
    for (int64_t j = 0; j < keys; j += L)
        for (int64_t i = 0; i < rows; i++) {
            Vec<T> sums[L];
            FASTCV_UNROLL for (int64_t k = 0; k < L; k += kTogether) {
                // Behind the last key, the last one is read again: what it gives is hidden.
                const T* from[kTogether];
                FASTCV_UNROLL for (int64_t g = 0; g < kTogether; g++) {
                    from[g] = reinterpret_cast<const T*>(key + smaller(j + k + g, keys - 1) * key_bytes);
                    sums[k + g] = zero<T>();
                }
                for (int64_t e = 0; e < columns; e += L) {
                    const Vec<T> q = load(queries + i * columns + e);
                    FASTCV_UNROLL for (int64_t g = 0; g < kTogether; g++) {
                        __builtin_prefetch(reinterpret_cast<const char*>(from[g] + e) + kAhead * key_bytes);
                        sums[k + g] = fma(load(from[g] + e), q, sums[k + g]);
                    }
                }
            }
            FASTCV_UNROLL for (int64_t half = L / 2; half > 0; half /= 2)
                FASTCV_UNROLL for (int64_t k = 0; k < half; k++)
                    sums[k] = interleave_low<T>(sums[k], sums[k + half]) + interleave_high<T>(sums[k], sums[k + half]);
            store(scores + i * pitch + j, sums[0]);
        }
}
// out[..] = the sum over keys of weights[j] value[j][..] for a few vectors of columns, values read where they lie: four sums of
// every fourth key, so that none waits for itself.
constexpr int kKeySums = 4;
template <class T, int NV, bool kCare>
static void weighted_values(T* out, const T* weights, const char* value, int64_t value_bytes, int64_t keys) {
    constexpr int64_t L = kLanes<T>;
    Vec<T> sums[kKeySums][NV];
    clear_tile<T, kKeySums, NV>(sums);
    const auto add = [&](int64_t j, Vec<T>(&sum)[NV]) {
        if (kCare && weights[j] == 0) return;
        const T* row = reinterpret_cast<const T*>(value + j * value_bytes);
        const Vec<T> weight = splat(weights[j]);
        FASTCV_UNROLL for (int v = 0; v < NV; v++) {
            __builtin_prefetch(reinterpret_cast<const char*>(row + v * L) + kAhead * value_bytes);
            sum[v] = fma(load(row + v * L), weight, sum[v]);
        }
    };
    int64_t j = 0;
    for (; j + kKeySums <= keys; j += kKeySums) FASTCV_UNROLL for (int k = 0; k < kKeySums; k++) add(j + k, sums[k]);
    FASTCV_UNROLL for (int k = 0; k < kKeySums - 1; k++)
        if (j + k < keys) add(j + k, sums[k]);
    FASTCV_UNROLL for (int v = 0; v < NV; v++) store(out + v * L, (sums[0][v] + sums[1][v]) + (sums[2][v] + sums[3][v]));
}
// The same for whole rows; with care, values whose weight is zero are left out. Returns whether all is finite.
template <class T, bool kCare>
static bool few_rows_of_values(T* out, int64_t columns, int64_t rows, const T* weights, int64_t pitch, const char* value,
                               int64_t value_bytes, int64_t keys) {
    constexpr int64_t L = kLanes<T>;
    constexpr int NV = kManyRegisters ? 4 : 2;
    Vec<T> seen = zero<T>();
    for (int64_t i = 0; i < rows; i++) {
        T* to = out + i * columns;
        int64_t f = 0;
        for (; f + NV * L <= columns; f += NV * L)
            weighted_values<T, NV, kCare>(to + f, weights + i * pitch, value + f * int64_t(sizeof(T)), value_bytes, keys);
        for (; f < columns; f += L)
            weighted_values<T, 1, kCare>(to + f, weights + i * pitch, value + f * int64_t(sizeof(T)), value_bytes, keys);
        for (f = 0; f < columns; f += L) seen = fma(load(to + f), zero<T>(), seen);
    }
    const T sum = lanes_sum<T>(seen);
    return sum == sum;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
