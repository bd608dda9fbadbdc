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
// (Rows of one plane side by side, whose results would follow each other: 512 planes of 14 x 14, 2 x 2 at stride 2, took 29
// microseconds instead of 23, since pointers change with every vector.)
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

// Vectors that a window's taps come from, vectors of a row that are not all inside, and planes side by side.
constexpr int kMaxLoads = 8, kMaxEdges = 4, kMaxPlanes = 4;

// A vector of outputs of one plane, whose windows lie inside the row. Loads begin at `column`.
template <class T>
struct InnerVector {
    static constexpr bool kInner = true;
    int64_t column;
    Vec<Position<T>> start;  // where windows start
};
// Any other, with the lanes of each plane that are loaded and stored.
template <class T>
struct EdgeVector {
    static constexpr bool kInner = false;
    int64_t column;
    Vec<Position<T>> start, first;  // first: where windows first meet the row
    Mask<T> loads[kMaxLoads][kMaxPlanes], stores[kMaxPlanes];
};

// Planes that are pooled together. Pointers are moved such that a lane's place does not depend on its plane.
template <class T>
struct PlaneGroup {
    const char* inputs[kMaxPlanes];
    T* outputs[kMaxPlanes];
    char* indices[kMaxPlanes];
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

static inline int64_t loads_of(const Axis& x) { return x.dilation == 1 ? round_up(x.taps, x.stride) : x.taps * x.stride; }
// Load i's distance from the first.
template <class T>
static int64_t offset_of(const Axis& x, int64_t i) {
    return i / x.stride * (x.dilation == 1 ? x.stride : x.dilation) + i % x.stride * kLanes<T>;
}

// A row's vectors: `edges` of them, of which the first `left` begin the row; between them those that lie inside.
template <class T>
struct RowPlan {
    EdgeVector<T> edge[kMaxEdges];
    int64_t vectors, left, edges;
    int64_t few;  // rows of outputs that a vector goes down before the next one's turn

    // For rows of `planes` planes side by side; whether they can be planned.
    __attribute__((noinline)) bool make(const Axis& x, int64_t planes) {
        constexpr int64_t L = kLanes<T>;
        vectors = ceil_div(x.output, L), left = edges = 0;
        const int64_t loads = loads_of(x), reach = offset_of<T>(x, loads - 1) + L;
        if (loads > kMaxLoads) return false;
        const auto whole = [&](int64_t v) {
            const int64_t column = v * L * x.stride - x.pad;
            return planes == 1 && (v + 1) * L <= x.output && column >= 0 && column + reach <= x.input;
        };
        while (left < vectors && !whole(left))
            if (++left > kMaxEdges) return false;
        int64_t right = vectors;
        while (right > left && !whole(right - 1))
            if (left + vectors - --right > kMaxEdges) return false;
        for (int64_t v = 0; v < vectors; v++) {
            if (v == left) v = right;
            if (v < vectors) make_edge(x, v * L, planes, edge[edges++]);
        }
        return true;
    }

    // Vectors [left, inside_end()) are no edges, the first of them inside().
    int64_t inside_end() const { return vectors - (edges - left); }
    int64_t number(int64_t e) const { return e < left ? e : inside_end() + e - left; }
    template <int kStride>
    InnerVector<T> inside(const Axis& x) const {
        const int64_t column = left * kLanes<T> * kStride - x.pad;
        return {column, splat(Position<T>(column)) + lane_indices<T>() * Position<T>(kStride)};
    }
    template <int kStride>
    static void next(InnerVector<T>& o) {
        o.column += kLanes<T> * kStride;
        o.start += Position<T>(kLanes<T> * kStride);
    }

private:
    static void make_edge(const Axis& x, int64_t from, int64_t planes, EdgeVector<T>& o) {
        constexpr int64_t L = kLanes<T>;
        using At = Position<T>;
        o.column = from * x.stride - x.pad;
        o.start = splat(At(o.column)) + lane_indices<T>() * At(x.stride);
        o.first = first_inside<T>(x, o.column, x.stride);
        for (int64_t g = 0; g < planes; g++) {
            // The plane's outputs are lanes [begin, end); its row begins at load lane `row`.
            const int64_t begin = planes == 1 ? 0 : g * x.output, end = planes == 1 ? x.output - from : begin + x.output;
            const int64_t row = begin * x.stride - o.column;
            o.stores[g] = lanes_between<T>(begin, end);
            if (g > 0) {
                const Vec<At> there = splat(At(-begin * x.stride));
                const Mask<T> mine = lanes_from<T>(begin);
                o.first = choose(mine, first_inside<T>(x, o.column - begin * x.stride, x.stride), o.first);
                o.start = choose(mine, splat(At(o.column)) + lane_indices<T>() * At(x.stride) + there, o.start);
            }
            for (int64_t i = 0; i < loads_of(x); i++) {
                const int64_t offset = offset_of<T>(x, i), shift = i % x.stride * L;
                const int64_t in = larger(row - offset, begin * x.stride - shift);
                const int64_t out = smaller(row + x.input - offset, end * x.stride - shift);
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

// The best along the windows of row h of kPlanes planes. kTaps: their taps, not dilated; 0: any. V: InnerVector or EdgeVector.
template <class T, int kStride, int kTaps, int kPlanes, bool kPosition, class V>
FASTCV_INLINE Best<T> search_row(const PlaneGroup<T>& group, const Axis& x, const V& o, int64_t h, Mask<T>& nan) {
    using At = Position<T>;
    const int64_t dilation = kTaps ? 1 : x.dilation;
    const int64_t row = h * group.row_bytes, position = h * x.input;
    Vec<At> start{};
    if constexpr (kPosition) start = o.start + At(position);
    Best<T> best;
    Vec<T> loaded[kStride] = {};
    const auto tap = [&](int64_t t) __attribute__((always_inline)) {
        const int64_t phase = dilation == 1 ? t % kStride : 0;
        if (phase == 0) {
            FASTCV_UNROLL for (int i = 0; i < kStride; i++) {
                const int64_t column = o.column + t * dilation + i * kLanes<T>;
                const auto from = [&](int g) { return reinterpret_cast<const T*>(group.inputs[g] + row) + column; };
                if constexpr (V::kInner) {
                    loaded[i] = load(from(0));
                } else {
                    const Mask<T>* lanes = o.loads[(dilation == 1 ? t : t * kStride) + i];
                    loaded[i] = splat(-kInfinity<T>);
                    FASTCV_UNROLL for (int g = 0; g < kPlanes; g++) loaded[i] = load_where<T>(lanes[g], from(g), loaded[i]);
                }
                if (i % 2 == 1 || i == kStride - 1) nan = Mask<T>(nan | unordered(loaded[i], loaded[i % 2 == 1 ? i - 1 : i]));
            }
        }
        const Vec<T> v = every<T, kStride>(loaded, phase);
        if (t == 0) {
            best.value = v;
            best.position = start;
            if constexpr (kPosition && !V::kInner) best.position = o.first + At(position);
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

template <class T, int kPlanes, bool kPosition, class V>
FASTCV_INLINE void store_best(const PlaneGroup<T>& group, const V& o, int64_t at, const Best<T>& best) {
    if constexpr (V::kInner) {
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
// Where windows of row h are found that see nothing.
template <class T, class V>
FASTCV_INLINE Best<T> nothing_in_row(const V& o, int64_t h, const Axis& x) {
    if constexpr (V::kInner) return {splat(-kInfinity<T>), o.start + Position<T>(h * x.input)};
    else return {splat(-kInfinity<T>), o.first + Position<T>(h * x.input)};
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
template <class T, int kStride, int kTaps, int kPlanes, bool kPosition, class V>
FASTCV_INLINE Best<T> search_rows(const PlaneGroup<T>& group, const V& o, const WindowRows& window, const Axis& y, const Axis& x,
                                  Mask<T>& nan) {
    if (window.rows == 0) return nothing_in_row<T>(o, y.first_inside(window.top), x);
    Best<T> best{};
    for_each_row<kTaps>(window, y, [&](int64_t r, int64_t h) __attribute__((always_inline)) {
        take_next<T, kPosition>(best, search_row<T, kStride, kTaps, kPlanes, kPosition>(group, x, o, h, nan), r == 0);
    });
    return best;
}

// Pools rows of outputs [first, last) of `count` groups; whether they met NaN. Of several, `carried` has room for
// kTaps - kStride bests of each vector.
template <class T>
using RowKernel = bool (*)(const PlaneGroup<T>* groups, int64_t count, const RowPlan<T>& plan, const Axis& y, const Axis& x,
                           int64_t first, int64_t last, Best<T>* carried);

// Each row's windows on their own: row by row where nothing is masked, as memory likes it, and then the edges.
template <class T, int kStride, int kTaps, int kPlanes, bool kPosition>
static bool pool_rows_directly(const PlaneGroup<T>* groups, int64_t count, const RowPlan<T>& plan, const Axis& y, const Axis& x,
                               int64_t first, int64_t last, Best<T>*) {
    constexpr int64_t L = kLanes<T>;
    Mask<T> nan{};
    for (int64_t i = 0; kPlanes == 1 && plan.left < plan.inside_end() && i < count; i++)
        for (int64_t p = first; p < last; p++) {
            const WindowRows window(y, p);
            InnerVector<T> o = plan.template inside<kStride>(x);
            for (int64_t v = plan.left; v < plan.inside_end(); v++, plan.template next<kStride>(o))
                store_best<T, kPlanes, kPosition>(groups[i], o, p * x.output + v * L,
                                         search_rows<T, kStride, kTaps, kPlanes, kPosition>(groups[i], o, window, y, x, nan));
        }
    for (int64_t e = 0; e < plan.edges; e++) {
        const EdgeVector<T> o = plan.edge[e];  // a copy, so that its masks stay in registers
        for (int64_t i = 0; i < count; i++)
            for (int64_t p = first; p < last; p++)
                store_best<T, kPlanes, kPosition>(groups[i], o, p * x.output + plan.number(e) * L,
                                         search_rows<T, kStride, kTaps, kPlanes, kPosition>(groups[i], o, WindowRows(y, p), y, x, nan));
    }
    return any<T>(nan);
}

// ---- shared: square windows of kTaps, not dilated, less than kTaps apart

// The best along row h, which may lie outside.
template <class T, int kStride, int kTaps, int kPlanes, bool kPosition, class V>
FASTCV_INLINE Best<T> search_row_or_padding(const PlaneGroup<T>& group, const V& o, int64_t h, const Axis& y, const Axis& x,
                                            Mask<T>& nan) {
    if (__builtin_expect(uint64_t(h) >= uint64_t(y.input), 0)) return nothing_in_row<T>(o, larger(h, 0), x);
    return search_row<T, kStride, kTaps, kPlanes, kPosition>(group, x, o, h, nan);
}

// Outputs [first, last) below each other of the vector whose bests are at `at` of the outputs and `carried` between calls.
template <class T, int kStride, int kTaps, int kPlanes, bool kPosition, class V>
FASTCV_INLINE void pool_column(const PlaneGroup<T>& group, const V& o, const Axis& y, const Axis& x, int64_t first, int64_t last,
                               int64_t at, bool begins, Best<T>* carried, Mask<T>& nan) {
    constexpr int kCarried = kTaps - kStride;
    const auto search = [&](int64_t h) __attribute__((always_inline)) {
        return search_row_or_padding<T, kStride, kTaps, kPlanes, kPosition>(group, o, h, y, x, nan);
    };
    Best<T> bests[kTaps];
    FASTCV_UNROLL for (int i = 0; i < kCarried; i++) bests[i] = begins ? search(first * kStride - y.pad + i) : carried[i];
    for (int64_t p = first; p < last; p++) {
        FASTCV_UNROLL for (int i = kCarried; i < kTaps; i++) bests[i] = search(p * kStride - y.pad + i);
        Best<T> best = bests[0];
        FASTCV_UNROLL for (int i = 1; i < kTaps; i++) take<T, kPosition, false>(best, bests[i].value, bests[i].position);
        store_best<T, kPlanes, kPosition>(group, o, p * x.output + at, best);
        FASTCV_UNROLL for (int i = 0; i < kCarried; i++) bests[i] = bests[i + kStride];
    }
    FASTCV_UNROLL for (int i = 0; i < kCarried; i++) carried[i] = bests[i];
}

template <class T, int kStride, int kTaps, int kPlanes, bool kPosition>
static bool pool_rows_shared(const PlaneGroup<T>* groups, int64_t count, const RowPlan<T>& plan, const Axis& y, const Axis& x,
                             int64_t first, int64_t last, Best<T>* carried) {
    constexpr int64_t L = kLanes<T>, kCarried = kTaps - kStride;
    Mask<T> nan{};
    for (int64_t p = first; p < last; p += plan.few) {
        const int64_t end = smaller(last, p + plan.few);
        for (int64_t i = 0; kPlanes == 1 && plan.left < plan.inside_end() && i < count; i++) {
            InnerVector<T> o = plan.template inside<kStride>(x);
            for (int64_t v = plan.left; v < plan.inside_end(); v++, plan.template next<kStride>(o))
                pool_column<T, kStride, kTaps, kPlanes, kPosition>(groups[i], o, y, x, p, end, v * L, p == first,
                                                          carried + (i * plan.vectors + v) * kCarried, nan);
        }
        for (int64_t e = 0; e < plan.edges; e++) {
            const EdgeVector<T> o = plan.edge[e];
            const int64_t v = plan.number(e);
            for (int64_t i = 0; i < count; i++)
                pool_column<T, kStride, kTaps, kPlanes, kPosition>(groups[i], o, y, x, p, end, v * L, p == first,
                                                          carried + (i * plan.vectors + v) * kCarried, nan);
        }
    }
    return any<T>(nan);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
