// Rows with channels in lanes: row[column][lane], the form that Winograd's transforms and small depthwise planes work in.
//
// From NCHW, squares of pixels x channels are transposed on the way in and out; from channels-last they are copied.
#pragma once

#include "simd.h"

namespace fastcv::FASTCV_ISA {
namespace {

// Whether n whole vectors hold neither NaN nor infinity, nor values so large that a transform of them might: x * 4096 * 0 is 0 for
// all others.
template <class T>
static bool all_finite(const T* x, int64_t n) {
    Vec<T> seen = zero<T>();
    for (int64_t i = 0; i < n; i++) seen = fma(load(x + i * kLanes<T>) * T(4096), zero<T>(), seen);
    const T sum = sum_lanes<T>(seen);
    return sum == sum;
}
FASTCV_INLINE void raise_flag(int* flag) { __atomic_store_n(flag, 1, __ATOMIC_RELAXED); }

// to[column][lane] = input row, `channels` of them in lanes; zeros outside the row.
template <class T>
static void load_channel_lanes(T* to, int64_t columns, const char* row, int64_t channel_bytes, int64_t column_bytes,
                               int64_t channels, int64_t first, int64_t width) {
    constexpr int64_t L = kLanes<T>;
    const int64_t begin = smaller(columns, larger(0, -first));
    const int64_t end = larger(begin, smaller(columns, width - first));
    for (int64_t e = 0; e < begin; e++) store(to + e * L, zero<T>());
    if (column_bytes == int64_t(sizeof(T))) {
        for (int64_t e = begin; e < end; e += L) {
            Vec<T> square[L];
            const char* from = row + (first + e) * column_bytes;
            if (end - e >= L && channels >= L) {
                FASTCV_UNROLL for (int64_t c = 0; c < L; c++)
                    square[c] = load(reinterpret_cast<const T*>(from + c * channel_bytes));
            } else {
                FASTCV_UNROLL for (int64_t c = 0; c < L; c++)
                    square[c] = c < channels ? load_first(reinterpret_cast<const T*>(from + c * channel_bytes), end - e)
                                             : zero<T>();
            }
            transpose<T>(square);
            FASTCV_UNROLL for (int64_t i = 0; i < L; i++) store(to + (e + i) * L, square[i]);
        }
    } else if (channel_bytes == int64_t(sizeof(T))) {
        for (int64_t e = begin; e < end; e++)
            store(to + e * L, load_first(reinterpret_cast<const T*>(row + (first + e) * column_bytes), channels));
    } else {
        for (int64_t e = begin; e < end; e++) {
            store(to + e * L, zero<T>());
            for (int64_t c = 0; c < channels; c++)
                to[e * L + c] = load_scalar<T>(row + (first + e) * column_bytes + c * channel_bytes);
        }
    }
    for (int64_t e = end; e < columns; e++) store(to + e * L, zero<T>());
}

// to[place[pixel] + lane] = pixels that lie side by side, row ends included: planes without gaps, whose rows would fill squares badly.
template <class T>
static void load_plane_lanes(T* to, const int32_t* place, int64_t pixels, const char* plane, int64_t channel_bytes, int64_t channels) {
    constexpr int64_t L = kLanes<T>;
    for (int64_t e = 0; e < pixels; e += L) {
        Vec<T> square[L];
        const char* from = plane + e * int64_t(sizeof(T));
        if (pixels - e >= L && channels >= L) {
            FASTCV_UNROLL for (int64_t c = 0; c < L; c++) square[c] = load(reinterpret_cast<const T*>(from + c * channel_bytes));
            transpose<T>(square);
            FASTCV_UNROLL for (int64_t i = 0; i < L; i++) store(to + place[e + i], square[i]);
        } else {
            FASTCV_UNROLL for (int64_t c = 0; c < L; c++)
                square[c] = c < channels ? load_first(reinterpret_cast<const T*>(from + c * channel_bytes), pixels - e) : zero<T>();
            transpose<T>(square);
            FASTCV_UNROLL for (int64_t i = 0; i < L; i++)
                if (e + i < pixels) store(to + place[e + i], square[i]);
        }
    }
}

// The way back: `filters` lanes of each column go out.
template <class T>
static void store_channel_lanes(const T* from, int64_t columns, char* row, int64_t filter_bytes, int64_t column_bytes,
                                int64_t filters) {
    constexpr int64_t L = kLanes<T>;
    if (column_bytes == int64_t(sizeof(T))) {
        for (int64_t e = 0; e < columns; e += L) {
            Vec<T> square[L];
            FASTCV_UNROLL for (int64_t i = 0; i < L; i++) square[i] = load(from + (e + i) * L);
            transpose<T>(square);
            char* to = row + e * column_bytes;
            if (columns - e >= L && filters >= L) {
                FASTCV_UNROLL for (int64_t k = 0; k < L; k++) store(reinterpret_cast<T*>(to + k * filter_bytes), square[k]);
            } else {
                FASTCV_UNROLL for (int64_t k = 0; k < L; k++)
                    if (k < filters) store_first(reinterpret_cast<T*>(to + k * filter_bytes), square[k], columns - e);
            }
        }
    } else if (filter_bytes == int64_t(sizeof(T))) {
        for (int64_t e = 0; e < columns; e++)
            store_first(reinterpret_cast<T*>(row + e * column_bytes), load(from + e * L), filters);
    } else {
        for (int64_t e = 0; e < columns; e++)
            for (int64_t k = 0; k < filters; k++) store_scalar(row + e * column_bytes + k * filter_bytes, from[e * L + k]);
    }
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
