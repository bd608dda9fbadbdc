// max_pool2d of planes whose windows are short: lanes are outputs of one row, and every lane is loaded where it is needed.
//
// A vector of outputs takes the elements under its windows from as many neighbouring vectors as the stride:
//
//   row of the image   [a b c d e f g h i j k l ..        stride 2: taps 0, 1 from the even and odd elements of two vectors,
//   window of 3, step 2 \___/                             tap 2 from the even ones two columns on; stride 3 and 4 alike
//                         \___/
//
// Which lanes of those vectors lie in the row is worked out once for a call; the others become -infinity. In the middle of a row
// all do, and nothing is masked. Rows with at most half or a quarter as many outputs as there are lanes put those of 2 or 4
// planes side by side, so that the rows of a plane are still gone through alike:
//
//   lanes              [row p of plane c | row p of plane c + 1 | ..
//
// direct: windows look at all their rows. shared: where square windows overlap, a vector goes down its column of outputs, and the
// bests along rows that the next window sees as well stay in registers; for a few rows at a time, so that memory is gone through
// in about its own order. (A ring of rows' bests in memory took 1.5 times as long.)
//
// Whether there was NaN is found by one comparison of two loaded vectors. A block of rows that held one is done again element by
// element.
#pragma once

#include "../parallel.h"
#include "max_pool2d_best.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// Vectors that a window's taps come from, and vectors of a row that are not all inside; more are left to other ways.
constexpr int kMaxLoads = 8, kMaxEdges = 4;

// One vector of outputs, its lanes those of kPlanes planes. Loads of lane g begin at `column` of the plane's row.
template <class T, int kPlanes>
struct OutputVector {
    int64_t column;
    Mask<T> loads[kMaxLoads][kPlanes], stores[kPlanes];
    Vec<Position<T>> start, first;  // where windows start, and where they first meet the row
};


// Planes that are pooled together. Pointers are moved such that a lane's place does not depend on its plane.
template <class T, int kPlanes>
struct PlaneGroup {
    const char* inputs[kPlanes];
    T* outputs[kPlanes];
    char* indices[kPlanes];
    int64_t row_bytes;
    int index_bytes, planes;
};

// The rows of the image that a row of windows sees.
struct WindowRows {
    int64_t top, row, rows;  // the windows' first row; the first one inside the image, and their number

    WindowRows(const Axis& y, int64_t p) : top(p * y.stride - y.pad), row(top), rows(y.taps) {
        if (top >= 0 && top + (y.taps - 1) * y.dilation < y.input) return;
        const int64_t first = y.first_tap(p);
        row += first * y.dilation;
        rows = larger(0, y.last_tap(p) - first);
    }
};

template <int kStride>
FASTCV_INLINE int64_t loads_of(const Axis& x) {
    return x.dilation == 1 ? ceil_div(x.taps, kStride) * kStride : x.taps * kStride;
}
// Load i's distance from the first.
template <class T, int kStride>
FASTCV_INLINE int64_t offset_of(const Axis& x, int64_t i) {
    return i / kStride * (x.dilation == 1 ? kStride : x.dilation) + i % kStride * kLanes<T>;
}

// A row's vectors: `edges` of them, of which the first `left` begin the row; between them those that lie inside.
template <class T, int kStride, int kPlanes>
struct RowPlan {
    OutputVector<T, kPlanes> edge[kMaxEdges];
    int64_t vectors, left, edges;

    // Whether the row can be planned.
    bool make(const Axis& x) {
        constexpr int64_t L = kLanes<T>;
        vectors = ceil_div(x.output, L), left = edges = 0;
        const int64_t loads = loads_of<kStride>(x), reach = offset_of<T, kStride>(x, loads - 1) + L;
        if (loads > kMaxLoads) return false;
        const auto whole = [&](int64_t v) {
            const int64_t column = v * L * kStride - x.pad;
            return kPlanes == 1 && (v + 1) * L <= x.output && column >= 0 && column + reach <= x.input;
        };
        while (left < vectors && !whole(left))
            if (++left > kMaxEdges) return false;
        int64_t right = vectors;
        while (right > left && !whole(right - 1))
            if (left + vectors - --right > kMaxEdges) return false;
        for (int64_t v = 0; v < vectors; v++) {
            if (v == left) v = right;
            if (v < vectors) make(x, v * L, edge[edges++]);
        }
        return true;
    }

    // Vectors [left, inside_end()) are no edges, the first of them inside().
    int64_t inside_end() const { return vectors - (edges - left); }
    int64_t number(int64_t e) const { return e < left ? e : inside_end() + e - left; }
    OutputVector<T, kPlanes> inside(const Axis& x) const {
        OutputVector<T, kPlanes> o;
        o.column = left * kLanes<T> * kStride - x.pad;
        o.start = splat(Position<T>(o.column)) + lane_indices<T>() * Position<T>(kStride);
        return o;
    }
    static void next(OutputVector<T, kPlanes>& o) {
        o.column += kLanes<T> * kStride;
        o.start += Position<T>(kLanes<T> * kStride);
    }

private:
    static void make(const Axis& x, int64_t from, OutputVector<T, kPlanes>& o) {
        constexpr int64_t L = kLanes<T>;
        using At = Position<T>;
        o.column = from * kStride - x.pad;
        o.start = splat(At(o.column)) + lane_indices<T>() * At(kStride);
        o.first = first_inside<T>(x, o.column, kStride);
        for (int64_t g = 0; g < kPlanes; g++) {
            // The plane's outputs are lanes [begin, end); its row begins at load lane `row`.
            const int64_t begin = kPlanes == 1 ? 0 : g * x.output, end = kPlanes == 1 ? x.output - from : begin + x.output;
            const int64_t row = begin * kStride - o.column;
            o.stores[g] = lanes_between<T>(begin, end);
            if (g > 0) {
                const Vec<At> there = splat(At(-begin * kStride));
                const Mask<T> mine = lanes_from<T>(begin);
                o.first = choose(mine, first_inside<T>(x, o.column - begin * kStride, kStride), o.first);
                o.start = choose(mine, splat(At(o.column)) + lane_indices<T>() * At(kStride) + there, o.start);
            }
            for (int64_t i = 0; i < loads_of<kStride>(x); i++) {
                const int64_t offset = offset_of<T, kStride>(x, i), shift = i % kStride * L;
                const int64_t in = larger(row - offset, begin * kStride - shift);
                const int64_t out = smaller(row + x.input - offset, end * kStride - shift);
                o.loads[i][g] = lanes_between<T>(in, out);
            }
        }
    }
};

// Elements t, t + 3, t + 6 .. of three vectors next to each other.
template <class T>
FASTCV_INLINE Vec<T> every_third(const Vec<T>* v, int64_t t) {
    using At = Position<T>;
    const Vec<At> at = lane_indices<T>() * At(3) + At(t);
    const Vec<At> then = at < At(2 * kLanes<T>) ? lane_indices<T>() : at - At(kLanes<T>);
    return __builtin_shuffle(__builtin_shuffle(v[0], v[1], at), v[2], then);
}

// Tap t of the vectors that hold kStride taps each, 0 <= t < kStride.
template <class T, int kStride>
FASTCV_INLINE Vec<T> every(const Vec<T>* v, int64_t t) {
    if constexpr (kStride == 1) return v[0];
    else if constexpr (kStride == 2) return t == 0 ? even<T>(v[0], v[1]) : odd<T>(v[0], v[1]);
    else if constexpr (kStride == 3) return every_third<T>(v, t);
    else {
        const Vec<T> a = t % 2 == 0 ? even<T>(v[0], v[1]) : odd<T>(v[0], v[1]);
        const Vec<T> b = t % 2 == 0 ? even<T>(v[2], v[3]) : odd<T>(v[2], v[3]);
        return t < 2 ? even<T>(a, b) : odd<T>(a, b);
    }
}

// The best along the windows of one row. kTaps: their taps, not dilated; 0: any. kWhole: a vector that is not an edge.
template <class T, int kStride, int kTaps, int kPlanes, bool kPosition, bool kWhole>
FASTCV_INLINE Best<T> search_row(const char* const* rows, const Axis& x, const OutputVector<T, kPlanes>& o, int64_t position,
                                 Mask<T>& nan) {
    using At = Position<T>;
    const int64_t dilation = kTaps ? 1 : x.dilation;
    Vec<At> start{};
    if constexpr (kPosition) start = o.start + At(position);
    Best<T> best;
    Vec<T> loaded[kStride] = {};
    const auto tap = [&](int64_t t) __attribute__((always_inline)) {
        const int64_t phase = dilation == 1 ? t % kStride : 0;
        if (phase == 0) {
            FASTCV_UNROLL for (int i = 0; i < kStride; i++) {
                const int64_t column = o.column + t * dilation + i * kLanes<T>;
                if constexpr (kWhole) {
                    loaded[i] = load(reinterpret_cast<const T*>(rows[0]) + column);
                } else {
                    loaded[i] = splat(-kInfinity<T>);
                    FASTCV_UNROLL for (int g = 0; g < kPlanes; g++)
                        loaded[i] = load_where<T>(o.loads[(dilation == 1 ? t : t * kStride) + i][g],
                                                  reinterpret_cast<const T*>(rows[g]) + column, loaded[i]);
                }
                if (i % 2 == 1 || i == kStride - 1) nan = Mask<T>(nan | unordered(loaded[i], loaded[i % 2 == 1 ? i - 1 : i]));
            }
        }
        const Vec<T> v = every<T, kStride>(loaded, phase);
        if (t == 0) {
            best.value = v;
            best.position = kWhole || !kPosition ? start : o.first + At(position);
        } else {
            take<T, kPosition, false>(best, v, start + At(t * dilation));
        }
    };
    if constexpr (kTaps != 0) {
        FASTCV_UNROLL for (int t = 0; t < kTaps; t++) tap(t);
    } else {
        for (int64_t t = 0; t < x.taps; t++) tap(t);
    }
    return best;
}

template <class T, int kPlanes, bool kPosition, bool kWhole>
FASTCV_INLINE void store_best(const PlaneGroup<T, kPlanes>& group, const OutputVector<T, kPlanes>& o, int64_t at,
                              const Best<T>& best) {
    if constexpr (kWhole) {
        store(group.outputs[0] + at, best.value);
        if constexpr (kPosition) store_positions(group.indices[0], group.index_bytes, at, best.position, kLanes<T>);
    } else {
        FASTCV_UNROLL for (int g = 0; g < kPlanes; g++) {
            if (g > 0 && g >= group.planes) break;
            store_where<T>(o.stores[g], group.outputs[g] + at, best.value);
            if constexpr (kPosition)
                store_positions_where<T>(o.stores[g], group.indices[g], group.index_bytes, at, best.position);
        }
    }
}

// (Member by member: GCC would copy a whole Best through memory.)
template <class T, bool kPosition>
FASTCV_INLINE void take_next(Best<T>& best, const Best<T>& next, bool is_first) {
    if (is_first) {
        best.value = next.value;
        best.position = next.position;
    } else {
        take<T, kPosition, false>(best, next.value, next.position);
    }
}

// Calls visit for the window's rows from top to bottom. kUsual: how many there mostly are, or 0.
template <int kUsual, class Visit>
FASTCV_INLINE void for_each_row(const WindowRows& window, const Axis& y, const Visit& visit) {
    if (kUsual != 0 && window.rows == kUsual) {
        FASTCV_UNROLL for (int r = 0; r < kUsual; r++) visit(r, window.row + r * y.dilation);
    } else {
        for (int64_t r = 0; r < window.rows; r++) visit(r, window.row + r * y.dilation);
    }
}

// One vector of outputs of the row of windows `window`.
template <class T, int kStride, int kTaps, int kPlanes, bool kPosition, bool kWhole>
FASTCV_INLINE Best<T> search_rows(const PlaneGroup<T, kPlanes>& group, const OutputVector<T, kPlanes>& o, const WindowRows& window,
                                  const Axis& y, const Axis& x, Mask<T>& nan) {
    Best<T> best{splat(-kInfinity<T>), {}};
    if (window.rows == 0) best.position = (kWhole ? o.start : o.first) + Position<T>(y.first_inside(window.top) * x.input);
    for_each_row<kTaps>(window, y, [&](int64_t r, int64_t h) __attribute__((always_inline)) {
        const char* rows[kPlanes];
        FASTCV_UNROLL for (int g = 0; g < kPlanes; g++) rows[g] = group.inputs[g] + h * group.row_bytes;
        const Best<T> along = search_row<T, kStride, kTaps, kPlanes, kPosition, kWhole>(rows, x, o, h * x.input, nan);
        take_next<T, kPosition>(best, along, r == 0);
    });
    return best;
}

// Rows of outputs [first, last), each row's windows on their own: row by row where nothing is masked, as memory likes it, and
// then the edges. Whether they met NaN.
template <class T, int kStride, int kTaps, int kPlanes, bool kPosition>
static bool pool_rows_directly(const PlaneGroup<T, kPlanes>* groups, int64_t count, const RowPlan<T, kStride, kPlanes>& plan,
                               const Axis& y, const Axis& x, int64_t first, int64_t last) {
    constexpr int64_t L = kLanes<T>;
    Mask<T> nan{};
    for (int64_t i = 0; kPlanes == 1 && plan.left < plan.inside_end() && i < count; i++)
        for (int64_t p = first; p < last; p++) {
            const WindowRows window(y, p);
            OutputVector<T, kPlanes> o = plan.inside(x);
            for (int64_t v = plan.left; v < plan.inside_end(); v++, plan.next(o)) {
                const Best<T> best = search_rows<T, kStride, kTaps, kPlanes, kPosition, true>(groups[i], o, window, y, x, nan);
                store_best<T, kPlanes, kPosition, true>(groups[i], o, p * x.output + v * L, best);
            }
        }
    for (int64_t e = 0; e < plan.edges; e++) {
        const OutputVector<T, kPlanes> o = plan.edge[e];
        for (int64_t i = 0; i < count; i++)
            for (int64_t p = first; p < last; p++) {
                const Best<T> best =
                    search_rows<T, kStride, kTaps, kPlanes, kPosition, false>(groups[i], o, WindowRows(y, p), y, x, nan);
                store_best<T, kPlanes, kPosition, false>(groups[i], o, p * x.output + plan.number(e) * L, best);
            }
    }
    return any<T>(nan);
}

// ---- shared: square windows of kTaps, not dilated, less than kTaps apart

// The best along row h, which may lie outside.
template <class T, int kStride, int kTaps, int kPlanes, bool kPosition, bool kWhole>
FASTCV_INLINE Best<T> search_row_or_padding(const PlaneGroup<T, kPlanes>& group, const OutputVector<T, kPlanes>& o, int64_t h,
                                            const Axis& y, const Axis& x, Mask<T>& nan) {
    if (__builtin_expect(uint64_t(h) >= uint64_t(y.input), 0))
        return {splat(-kInfinity<T>), (kWhole ? o.start : o.first) + Position<T>(larger(h, 0) * x.input)};
    const char* rows[kPlanes];
    FASTCV_UNROLL for (int g = 0; g < kPlanes; g++) rows[g] = group.inputs[g] + h * group.row_bytes;
    return search_row<T, kStride, kTaps, kPlanes, kPosition, kWhole>(rows, x, o, h * x.input, nan);
}

// Outputs [first, last) below each other of the vector whose bests are at `at` of the outputs and `carried` between calls.
template <class T, int kStride, int kTaps, int kPlanes, bool kPosition, bool kWhole>
FASTCV_INLINE void pool_column(const PlaneGroup<T, kPlanes>& group, const OutputVector<T, kPlanes>& o, const Axis& y,
                               const Axis& x, int64_t first, int64_t last, int64_t at, bool begins, Best<T>* carried,
                               Mask<T>& nan) {
    constexpr int kCarried = kTaps - kStride;
    const auto search = [&](int64_t h) __attribute__((always_inline)) {
        return search_row_or_padding<T, kStride, kTaps, kPlanes, kPosition, kWhole>(group, o, h, y, x, nan);
    };
    Best<T> bests[kTaps];
    FASTCV_UNROLL for (int i = 0; i < kCarried; i++) bests[i] = begins ? search(first * kStride - y.pad + i) : carried[i];
    for (int64_t p = first; p < last; p++) {
        FASTCV_UNROLL for (int i = kCarried; i < kTaps; i++) bests[i] = search(p * kStride - y.pad + i);
        Best<T> best = bests[0];
        FASTCV_UNROLL for (int i = 1; i < kTaps; i++) take<T, kPosition, false>(best, bests[i].value, bests[i].position);
        store_best<T, kPlanes, kPosition, kWhole>(group, o, p * x.output + at, best);
        FASTCV_UNROLL for (int i = 0; i < kCarried; i++) bests[i] = bests[i + kStride];
    }
    FASTCV_UNROLL for (int i = 0; i < kCarried; i++) carried[i] = bests[i];
}

// Rows of outputs [first, last), `few` at a time; `carried` has room for kTaps - kStride bests of each vector. Whether they met
// NaN.
template <class T, int kStride, int kTaps, int kPlanes, bool kPosition>
static bool pool_rows_shared(const PlaneGroup<T, kPlanes>* groups, int64_t count, const RowPlan<T, kStride, kPlanes>& plan,
                             const Axis& y, const Axis& x, int64_t first, int64_t last, int64_t few, Best<T>* carried) {
    constexpr int64_t L = kLanes<T>, kCarried = kTaps - kStride;
    Mask<T> nan{};
    for (int64_t p = first; p < last; p += few) {
        const int64_t end = smaller(last, p + few);
        for (int64_t i = 0; kPlanes == 1 && plan.left < plan.inside_end() && i < count; i++) {
            OutputVector<T, kPlanes> o = plan.inside(x);
            for (int64_t v = plan.left; v < plan.inside_end(); v++, plan.next(o))
                pool_column<T, kStride, kTaps, kPlanes, kPosition, true>(
                    groups[i], o, y, x, p, end, v * L, p == first, carried + (i * plan.vectors + v) * kCarried, nan);
        }
        for (int64_t e = 0; e < plan.edges; e++) {
            const OutputVector<T, kPlanes> o = plan.edge[e];
            const int64_t v = plan.number(e);
            for (int64_t i = 0; i < count; i++)
                pool_column<T, kStride, kTaps, kPlanes, kPosition, false>(
                    groups[i], o, y, x, p, end, v * L, p == first, carried + (i * plan.vectors + v) * kCarried, nan);
        }
    }
    return any<T>(nan);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
