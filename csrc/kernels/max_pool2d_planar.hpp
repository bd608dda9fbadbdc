// max_pool2d of planes: lanes are neighbouring outputs of a row.
//
//   row of the image   . . [a b c d e f g h i j k l ..          . padding
//   window of 3, step 2    \_____/
//                            \_____/                            lane l's first tap is at column + l * stride
//
// A vector of outputs loads tap after tap: at stride 1 as the elements lie, at stride 2 two taps from the even and the odd
// elements of two vectors, and otherwise, or where columns are not neighbours in memory, element by element. Lanes whose tap
// misses the image get -infinity; vectors inside the image need not look. A row's last vector is moved left to end with the row.
//
// direct: each output looks at its whole window. shared: the rows of a band are searched along their windows first, and then
// columns of those bests, so that windows that overlap share the work:
//
//   band of input rows  --along windows-->  bests [row][column]  --down windows-->  rows of outputs
//
// Whether a vector held NaN is found by one comparison of two loaded vectors. If one did, the row or the band is done again
// with comparisons that see NaN, which cost twice as much.
#pragma once

#include "../parallel.h"
#include "max_pool2d_best.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// One image plane and its results. Without kPosition there are no indices.
template <class T>
struct PoolPlane {
    const char* input;
    int64_t row_bytes, column_bytes;
    T* output;
    char* indices;
    int index_bytes;
};

struct PoolRow {
    const char* data;
    int64_t column_bytes;
    int64_t position;  // of its first pixel
};

// Lanes outside the row are -infinity: neighbours in memory, or `step` columns apart and anywhere.
#if defined(__AVX512F__)
FASTCV_INLINE Vec<float> load_inside(const float* row, int64_t column, int64_t width) {
    const unsigned inside = first_lanes(width - column) & ~first_lanes(-column);
    return _mm512_mask_loadu_ps(splat(-__builtin_inff()), __mmask16(inside), row + column);
}
FASTCV_INLINE Vec<double> load_inside(const double* row, int64_t column, int64_t width) {
    const unsigned inside = first_lanes(width - column) & ~first_lanes(-column);
    return _mm512_mask_loadu_pd(splat(-__builtin_inf()), __mmask8(inside), row + column);
}
#else
template <class T>
FASTCV_INLINE Vec<T> load_inside(const T* row, int64_t column, int64_t width) {
    if (column >= 0 && column + kLanes<T> <= width) return load(row + column);
    T lanes[kLanes<T>];
    for (int l = 0; l < kLanes<T>; l++)
        lanes[l] = column + l >= 0 && column + l < width ? load_scalar<T>(row + column + l) : T(-__builtin_inf());
    return load(lanes);
}
#endif
template <class T>
FASTCV_INLINE Vec<T> gather_inside(const PoolRow& row, int64_t column, int64_t step, int64_t width) {
    T lanes[kLanes<T>];
    for (int l = 0; l < kLanes<T>; l++, column += step)
        lanes[l] = column >= 0 && column < width ? load_scalar<T>(row.data + column * row.column_bytes) : T(-__builtin_inf());
    return load(lanes);
}

// Tap t of a vector of outputs whose first lane has tap 0 at `column`. At stride 2, taps 2i and 2i + 1 come from the same two
// vectors, and no vector reaches beyond the last tap of the last lane; at strides 3 and 4 as many taps come from as many vectors.
template <class T, bool kEdge>
FASTCV_INLINE Vec<T> load_at(const PoolRow& row, const Axis& x, int64_t column) {
    const T* elements = reinterpret_cast<const T*>(row.data);
    return kEdge ? load_inside(elements, column, x.input) : load(elements + column);
}
template <class T, int kStride, bool kEdge>
FASTCV_INLINE Vec<T> load_tap(const PoolRow& row, const Axis& x, int64_t column, int64_t dilation, int64_t t, int64_t taps) {
    constexpr int64_t L = kLanes<T>;
    if constexpr (kStride == 0) return gather_inside<T>(row, column + t * dilation, x.stride, x.input);
    if constexpr (kStride == 1) return load_at<T, kEdge>(row, x, column + t * dilation);
    const bool odd_half = t % 2 == 1 || (t == taps - 1 && t > 0);
    const int64_t c = column + (dilation == 1 ? t - odd_half : t * dilation - odd_half);
    const Vec<T> a = load_at<T, kEdge>(row, x, c), b = load_at<T, kEdge>(row, x, c + L);
    return odd_half ? odd<T>(a, b) : even<T>(a, b);
}
// The best of windows of `rows` x `taps` for a vector of outputs. Positions count from each window's first tap. kRows: their rows;
// 0: any.
template <class T, int kRows, int kStride, bool kPosition, bool kExact>
FASTCV_INLINE Best<T> search_inside(const PoolRow& first, int64_t row_bytes, int64_t row_positions, int64_t some_rows, const Axis& x,
                                    int64_t taps, int64_t column, Mask<T>& nan) {
    using At = Position<T>;
    const int64_t rows = kRows ? kRows : some_rows, dilation = x.dilation;
    Best<T> best;
    for (int64_t r = 0; r < rows; r++) {
        const PoolRow row{first.data + r * row_bytes, first.column_bytes, 0};
        Best<T> along;
        Vec<T> previous{};
        for (int64_t t = 0; t < taps; t++) {
            const Vec<T> v = load_tap<T, kStride, false>(row, x, column, dilation, t, taps);
            const Vec<At> at = splat(At(r * row_positions + t * dilation));
            if constexpr (!kExact) {
                if (t % 2 == 1 || t == taps - 1) nan = Mask<T>(nan | unordered(v, t % 2 == 1 ? previous : v));
                previous = v;
            }
            if (t == 0)
                along = {v, at};
            else
                take<T, kPosition, kExact>(along, v, at);
        }
        if (r == 0)
            best = along;
        else
            take<T, kPosition, kExact>(best, along.value, along.position);
    }
    return best;
}
// The same where taps miss the row: `best` says where each window first meets the plane. Positions count from the plane's beginning.
template <class T, int kRows, int kStride, bool kPosition, bool kExact>
FASTCV_NOINLINE void search_edge(Best<T>* result, const PoolRow& first, int64_t row_bytes, int64_t row_positions, int64_t some_rows,
                                 const Axis& x, int64_t taps, int64_t column, Mask<T>* nan) {
    using At = Position<T>;
    const int64_t rows = kRows ? kRows : some_rows, dilation = x.dilation;
    const Vec<At> start = lane_indices<T>() * At(kStride ? kStride : x.stride) + At(first.position + column);
    Best<T> best = *result;
    Mask<T> seen{};
    for (int64_t r = 0; r < rows; r++) {
        const PoolRow row{first.data + r * row_bytes, first.column_bytes, 0};
        for (int64_t t = 0; t < taps; t++) {
            const Vec<T> v = load_tap<T, kStride, true>(row, x, column, dilation, t, taps);
            if constexpr (!kExact) seen = Mask<T>(seen | unordered(v, v));
            take<T, kPosition, kExact>(best, v, start + At(r * row_positions + t * dilation));
        }
    }
    *nan = Mask<T>(*nan | seen);
    *result = best;
}

// A row of windows: `rows` rows of the image from `first` on, `taps` of each; outputs [left, left + count). `beyond`: elements behind
// each of those rows that may be read, whatever they are. Bests go to put.whole(output - left, best), or to put.some() where not
// all lanes are outputs. Returns whether NaN was met. kMoveBack: outputs may be put twice, so that a row ends in a whole vector.
template <class T, int kRows, int kStride, bool kPosition, bool kExact, bool kMoveBack, class Put>
FASTCV_INLINE bool search_windows(const PoolRow& first, int64_t row_bytes, int64_t row_positions, int64_t rows, const Axis& x,
                                  int64_t taps, int64_t left, int64_t count, int64_t start_row, int64_t beyond, const Put& put) {
    constexpr int64_t L = kLanes<T>;
    using At = Position<T>;
    Mask<T> nan{}, edge_nan{};
    const int64_t origin = left * x.stride - x.pad;
    const auto edge = [&](int64_t e) {
        const int64_t column = origin + e * x.stride;
        Best<T> best{splat(T(-__builtin_inf())), {}};
        if constexpr (kPosition) best.position = first_inside<T>(x, column, x.stride) + At(start_row);
        if (rows > 0)
            search_edge<T, kRows, kStride, kPosition, kExact>(&best, first, row_bytes, row_positions, rows, x, taps, column,
                                                              &edge_nan);
        put.some(e, best);
    };
    const auto inside = [&](int64_t e, Mask<T>& met) __attribute__((always_inline)) {
        const int64_t column = origin + e * x.stride;
        Best<T> best =
            search_inside<T, kRows, kStride, kPosition, kExact>(first, row_bytes, row_positions, rows, x, taps, column, met);
        if constexpr (kPosition) best.position += lane_indices<T>() * At(kStride) + At(first.position + column);
        return best;
    };
    int64_t e = 0;
    if (rows > 0 && kStride != 0) {
        for (; e < count && origin + e * x.stride < 0; e += L) edge(e);
        // Vectors that begin before `end` read within the row, those before `far` within what may be read.
        const int64_t reach = (taps - 1) * x.dilation + kStride * (L - 1) + (kStride == 2 && taps == 1);
        constexpr int64_t kStep = kStride ? kStride : 1;  // x.stride, which a division had better know
        const int64_t end = ceil_div(larger(0, x.input - reach - origin), kStep);
        const bool no_padding = origin + (count - 1) * x.stride + (taps - 1) * x.dilation < x.input;
        const int64_t far = no_padding ? ceil_div(larger(0, x.input + beyond - reach - origin), kStep) : end;
        for (; e < end && e + L <= count; e += L) put.whole(e, inside(e, nan));
        if (kMoveBack && e < count && count >= L && count - L < end && origin + (count - L) * x.stride >= 0) {
            put.whole(count - L, inside(count - L, nan));
            e = count;
        }
        for (; e < count && e < far; e += L) put.some(e, inside(e, nan));
    }
    for (; e < count; e += L) edge(e);
    return any<T>(Mask<T>(nan | edge_nan));
}

template <class T, bool kPosition>
FASTCV_INLINE void store_best(const PoolPlane<T>& plane, int64_t at, const Best<T>& best, int64_t n) {
    store_first(plane.output + at, best.value, n);
    if constexpr (kPosition) store_positions(plane.indices, plane.index_bytes, at, best.position, n);
}

template <class T, bool kPosition>
struct PutOutputs {
    const PoolPlane<T>& plane;
    int64_t row, width;

    void whole(int64_t q, const Best<T>& best) const { store_best<T, kPosition>(plane, row + q, best, kLanes<T>); }
    void some(int64_t q, const Best<T>& best) const { store_best<T, kPosition>(plane, row + q, best, width - q); }
};
template <class T, bool kPosition>
struct PutScratch {
    const BestRows<T>& rows;
    int64_t row;

    void whole(int64_t e, const Best<T>& best) const { rows.template put<kPosition>(row + e, best); }
    void some(int64_t e, const Best<T>& best) const { whole(e, best); }
};

// ---- direct

// One row of outputs, `whole` if its windows have all their rows; whether it met NaN.
template <class T, int kStride, bool kPosition, bool kExact>
static bool pool_row_directly(const PoolPlane<T>& plane, const Axis& y, const Axis& x, int64_t p, bool whole) {
    const int64_t tap = whole ? 0 : y.first_tap(p), rows = whole ? y.taps : larger(0, y.last_tap(p) - tap);
    const int64_t top = p * y.stride - y.pad;
    const int64_t h = top + tap * y.dilation;
    const PoolRow first{plane.input + h * plane.row_bytes, plane.column_bytes, h * x.input};
    const int64_t row_bytes = y.dilation * plane.row_bytes, row_positions = y.dilation * x.input;
    const PutOutputs<T, kPosition> put{plane, p * x.output, x.output};
    const int64_t start = y.first_inside(top) * x.input;
    // Behind a row that is not the last one, the next one follows.
    const int64_t below = y.input - 1 - (h + (rows - 1) * y.dilation);
    const int64_t beyond = plane.row_bytes >= x.input * int64_t(sizeof(T)) ? below * x.input : 0;
    return search_windows<T, 0, kStride, kPosition, kExact, true>(first, row_bytes, row_positions, rows, x, x.taps, 0, x.output, start,
                                                                  beyond, put);
}

// ---- shared

// Rows of outputs [first, last), columns [left, right), in scratch; whether they met NaN.
template <class T, int kStride, bool kPosition, bool kExact>
static bool pool_band(const PoolPlane<T>& plane, const Axis& y, const Axis& x, int64_t first, int64_t last, int64_t left,
                      int64_t right, const BestRows<T>& rows) {
    const Doubling plan(x.taps);
    const bool doubled = kStride == 1 && plan.passes > 0;
    const int64_t taps = doubled ? plan.taps : x.taps;
    const int64_t width = right - left, searched = width + (x.taps - taps) * x.dilation;
    const int64_t count = (last - 1 - first) * y.stride + (y.taps - 1) * y.dilation + 1;
    bool nan = false;
    for (int64_t j = 0; j < count; j++) {
        const int64_t h = first * y.stride - y.pad + j;
        const bool inside = h >= 0 && h < y.input;
        const int64_t position = (inside ? h : y.first_inside(h)) * x.input;
        const PoolRow row{inside ? plane.input + h * plane.row_bytes : nullptr, plane.column_bytes, position};
        nan |= search_windows<T, 1, kStride, kPosition, kExact, false>(
            row, 0, 0, inside, x, taps, left, searched, position, 0, PutScratch<T, kPosition>{rows, j * rows.pitch});
        if (doubled && inside) finish_row<T, kPosition, kExact>(rows, j, width, x, plan, 1);
    }
    search_columns<T, kPosition, kExact>(rows, y, last - first, width, [&](int64_t p, int64_t e, const Best<T>& best) {
        store_best<T, kPosition>(plane, (first + p) * x.output + left + e, best, width - e);
    });
    return nan;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
