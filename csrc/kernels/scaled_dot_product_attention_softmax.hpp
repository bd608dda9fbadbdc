// What both ways to compute attention share: the call, and scores of a few rows in a strip, which are masked, have their largest
// found, and become weights.
//
// Scores that are masked in registers get the mask's numbers added and nothing else: a key that is hidden by -infinity has the
// score -infinity then, unless its own is NaN or infinite, and a sum of weights is NaN. Rows with such a sum are computed again
// by `masked_with_care`, which replaces what a mask hides. Looking at every element beforehand took two operations of eight.
#pragma once

#include "scaled_dot_product_attention_parts.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

template <class T>
struct AttentionCall {
    const AttentionShape& s;
    const HeadTensor &query, &key, &value;
    AttentionMask mask_kind;
    const HeadTensor& mask;
    T *output, *lse, *weights;

    int64_t E, F;           // columns, padded to whole vectors
    Parts tiles;            // of a head's rows
    int64_t chunk;          // tiles of a work item at most
    int64_t block, pitch;   // keys; elements from one row of scores to the next

    // Of few rows, items are parts of a head's keys, whose results are put together in their order. Parts begin at multiples of
    // kPartKeys, whatever the number of keys, so that hidden ones change no bit. With four rows packing pays already.
    static constexpr int64_t kPartKeys = 512;
    bool few_rows() const {
        constexpr int64_t element = sizeof(T);
        return s.G * s.L <= 3 && s.E == E && s.F == F && s.E > 0 && key.stride_bytes[2] == element &&
               value.stride_bytes[2] == element;
    }
    // Whether the elements of a head's queries are read where they lie. Rows of heads that share keys may be anywhere; long rows
    // are copied cheaply in comparison, and their copies share fewer sets of the cache.
    bool queries_in_place() const {
        constexpr int64_t element = sizeof(T);
        return s.G == 1 && E <= 128 && query.stride_bytes[2] == element && query.stride_bytes[1] % element == 0;
    }
    int64_t parts() const { return few_rows() ? larger(1, ceil_div(s.S, kPartKeys)) : 1; }
};

// A row's scores, masked, in place; returns the largest of each lane. A NaN is not noticed here: it makes the sum of weights NaN.
template <class T>
FASTCV_INLINE Vec<T> largest_scores(T* x, int64_t width, const T* bias, int64_t keys) {
    constexpr int64_t L = kLanes<T>;
    const Vec<T> hidden = splat(-kInfinity<T>), log2e = splat(T(kLog2E));
    Vec<T> largest = hidden;
    if (!bias) {
        for (int64_t i = 0; i < width; i += L) largest = upper(load(x + i), largest);
        return largest;
    }
    for (int64_t i = 0; i < keys; i += L) {
        const Vec<T> add = i + L <= keys ? load(bias + i) : load_first(bias + i, keys - i);
        Vec<T> score = fma(add, log2e, load(x + i));
        score = add == hidden ? hidden : score;
        store(x + i, score);
        largest = upper(score, largest);
    }
    return largest;
}

// Scores of a tile whose rows see all `keys` keys, with an additive mask or none: masked without care, and their largest found,
// while they are in registers. The lanes behind the last key become -infinity.
template <class T, int MT, int NV>
FASTCV_NOINLINE void score_tile(const Operands<T>& o, int64_t depth, T* out, int64_t out_stride, const T* const* bias,
                                int64_t bias_offset, int64_t keys, Vec<T>* largest) {
    constexpr int L = kLanes<T>;
    const Vec<T> hidden = splat(-kInfinity<T>), log2e = splat(T(kLog2E));
    Vec<T> acc[MT][NV];
    clear_tile<T, MT, NV>(acc);
    strided_product<T, MT, NV>(acc, depth, o);
    const int64_t last = keys - (NV - 1) * L;
    if (bias)
        FASTCV_UNROLL for (int i = 0; i < MT; i++) {
            const T* const row = bias[i] + bias_offset;
            FASTCV_UNROLL for (int j = 0; j < NV - 1; j++) acc[i][j] = fma(load(row + j * L), log2e, acc[i][j]);
            const Vec<T> add = last < L ? load_first(row + (NV - 1) * L, last) : load(row + (NV - 1) * L);
            acc[i][NV - 1] = fma(add, log2e, acc[i][NV - 1]);
        }
    if (last < L)
        FASTCV_UNROLL for (int i = 0; i < MT; i++) acc[i][NV - 1] = lane_numbers<T>() >= T(last) ? hidden : acc[i][NV - 1];
    FASTCV_UNROLL for (int i = 0; i < MT; i++) {
        Vec<T> most = largest[i];
        FASTCV_UNROLL for (int j = 0; j < NV; j++) {
            store(out + i * out_stride + j * L, acc[i][j]);
            most = upper(acc[i][j], most);
        }
        largest[i] = most;
    }
}
template <class T>
struct ScoreTile {
    template <int MT, int NV>
    static constexpr auto tile = &score_tile<T, MT, NV>;
};
template <class T>
static void masked_scores(int64_t rows, int64_t keys, int64_t depth, const Operands<T>& o, T* out, int64_t out_stride,
                          const T* const* bias, Vec<T>* largest) {
    constexpr int64_t L = kLanes<T>;
    const Parts passes(ceil_div(keys, L), ProductTiles::vectors);
    for (int64_t p = 0; p < passes.number; p++) {
        const int64_t v = passes.begin(p), n = passes.begin(p + 1) - v;
        const Operands<T> tile{o.rows, o.row_stride, o.row_step, o.columns + v * o.vector_stride, o.vector_stride, o.column_step};
        find_tile<ScoreTile<T>>(rows, n)(tile, depth, out + v * L, out_stride, bias, v * L, keys - v * L, largest);
    }
}

// Scores become weights 2^(x - shift); returns the sum of each lane.
template <class T>
FASTCV_INLINE Vec<T> weigh(T* x, int64_t width, T shift) {
    constexpr int64_t L = kLanes<T>;
    if (!(shift >= -kLargestShift<T> && shift <= kLargestShift<T>)) {
        // A shift too large to be kept apart is subtracted first: the scores are as coarse there.
        for (int64_t i = 0; i < width; i += L) store(x + i, load(x + i) - shift);
        shift = 0;
    }
    const Vec<T> power = splat(shift);
    Vec<T> sum = zero<T>();
    for (int64_t i = 0; i < width; i += L) {
        const Vec<T> weight = exp2_shifted<T>(load(x + i), power);
        store(x + i, weight);
        sum += weight;
    }
    return sum;
}
// The same for any number of rows. One loop for all of them, small enough for the processor to keep it decoded. Sums come eight at
// a time.
template <class T>
FASTCV_NOINLINE void weigh_rows(T* x, int64_t pitch, int64_t rows, int64_t width, const T* shift, T* sums) {
    for (int64_t first = 0; first < rows; first += kReducedRows) {
        Vec<T> of_lanes[kReducedRows];
        FASTCV_UNROLL for (int i = 0; i < kReducedRows; i++) of_lanes[i] = zero<T>();
        for (int64_t i = 0; i < smaller(kReducedRows, rows - first); i++)
            of_lanes[i] = weigh<T>(x + (first + i) * pitch, width, shift[first + i]);
        reduce_lanes<T>(sums + first, of_lanes, [](Vec<T> a, Vec<T> b) { return a + b; });
    }
}

template <class T>
static bool any_nan(const T* x, int64_t n) {
    constexpr int64_t L = kLanes<T>;
    Vec<T> seen = zero<T>();
    for (int64_t i = 0; i < n; i += L) seen = fma(load_first(x + i, n - i), zero<T>(), seen);
    const T sum = lanes_sum<T>(seen);
    return sum != sum;
}
static inline float round_up_to_integer(float x) { return __builtin_ceilf(x); }
static inline double round_up_to_integer(double x) { return __builtin_ceil(x); }

// 2^-n, the factor by which a maximum raised by an integer n lowers what has been summed; n may be infinite.
template <class T>
static T power_of_minus(T n) {
    return n < 120 ? T(1) / T(int64_t(1) << int64_t(n < 60 ? n : T(60))) / T(int64_t(1) << int64_t(n < 60 ? T(0) : n - 60)) : T(0);
}

// log(sum 2^largest): the sum's own power of two joins the maximum's, so that the result does not depend on the maximum.
template <class T>
static T log_of_sum(T sum, T largest) {
    int exponent = 0;
    const double fraction = frexp(double(sum), &exponent);
    return sum == 0 ? -kInfinity<T> : T((double(largest) + exponent) * kLn2 + log(fraction));
}

// Scores of a tile once more, what its mask hides being -infinity whatever the products gave. `bias` holds a pointer a row.
template <class T>
static void masked_with_care(int64_t rows, int64_t keys, int64_t depth, const Operands<T>& o, T* out, int64_t out_stride,
                             const T* const* bias) {
    const int64_t width = round_up(keys, kLanes<T>);
    multiply<T>(rows, width, depth, o, out, out_stride, nullptr);
    for (int64_t i = 0; i < rows; i++) {
        largest_scores<T>(out + i * out_stride, width, bias[i], keys);
        fill_outside<T>(out + i * out_stride, 0, keys, width, -kInfinity<T>);
    }
}

// Values of keys whose weight is zero left out.
template <class T>
static void add_values_with_care(int64_t rows, int64_t columns, int64_t keys, const T* weights, int64_t pitch,
                                 const RowBlock<T>& values, T* out, const T* start, const T* end) {
    constexpr int64_t L = kLanes<T>;
    for (int64_t i = 0; i < rows; i++) {
        T* to = out + i * columns;
        for (int64_t f = 0; f < columns; f++) to[f] = start ? to[f] * start[i] : T(0);
        for (int64_t j = 0; j < keys; j++) {
            const T weight = weights[i * pitch + j];
            if (weight == 0) continue;
            const T* from = values.data + j * values.stride;
            for (int64_t f = 0; f < columns; f += L) {
                const int64_t lanes = columns - f;
                store_first(to + f, fma(splat(weight), load(from + f), load_first(to + f, lanes)), lanes);
            }
        }
        for (int64_t f = 0; f < columns; f++) to[f] *= end ? end[i] : T(1);
    }
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
