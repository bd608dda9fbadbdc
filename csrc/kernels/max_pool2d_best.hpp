// max_pool2d: the best so far, the order in which windows are searched, and rows of bests that windows share.
//
// Torch goes through a window in row-major order and takes an element that is more than the best so far, or NaN; it starts with
// -infinity at the window's first element inside the image. So among equal elements the first one wins, and among NaNs the last.
// Taking one best after another in the same way, pieces of a row from left to right and then rows from top to bottom, finds the
// same element: pieces may even overlap. Columns first would not: of two equal elements it could find the lower one.
//
// A best is a value and its position in its plane, y * W + x, in lanes as wide as the elements. Padding is -infinity at the
// position where its window first meets the image.
#pragma once

#include "../geometry.h"
#include "../simd.h"

namespace fastcv::FASTCV_ISA {
namespace {

template <class T>
struct Best {
    Vec<T> value;
    Vec<Position<T>> position;
};

// kExact: v may hold NaN. Otherwise NaN must be looked for, and all of it done again if there is one.
template <class T, bool kPosition, bool kExact>
FASTCV_INLINE void take(Best<T>& best, Vec<T> v, Vec<Position<T>> at) {
    if constexpr (kPosition || kExact) {
        Mask<T> better = more(v, best.value);
        if constexpr (kExact) better = Mask<T>(better | unordered(v, v));
        if constexpr (kPosition) best.position = choose(better, at, best.position);
        best.value = kExact ? choose(better, v, best.value) : upper(v, best.value);
    } else {
        best.value = upper(v, best.value);
    }
}

// first_inside() of neighbouring windows, `step` pixels apart.
template <class T>
FASTCV_INLINE Vec<Position<T>> first_inside(const Axis& x, int64_t start, int64_t step) {
    using P = Position<T>;
    Vec<P> at = splat(P(start)) + lane_indices<T>() * P(step);
    for (int64_t reached = start; reached < 0; reached += x.dilation) at = at < 0 ? at + P(x.dilation) : at;
    return at;
}

// A long window is put together from two that overlap, those from two shorter ones, and so on: `passes` times, from `taps` taps.
struct Doubling {
    int64_t taps, passes;
    explicit Doubling(int64_t all) : taps(all), passes(0) {
        while (taps > 5) {
            passes++;
            taps = ceil_div(all, int64_t(1) << passes);
        }
    }
    int64_t takes() const { return taps - 1 + passes; }
};

// Bests in scratch, [row][element]: rows of the image, each already searched along its windows.
template <class T>
struct BestRows {
    T* values;
    Position<T>* positions;  // unused where only values are wanted
    int64_t pitch;

    template <bool kPosition>
    Best<T> at(int64_t e) const {
        Best<T> b{load(values + e), {}};
        if constexpr (kPosition) b.position = load(positions + e);
        return b;
    }
    template <bool kPosition>
    void put(int64_t e, const Best<T>& b) const {
        store(values + e, b.value);
        if constexpr (kPosition) store(positions + e, b.position);
    }
};

// The best of `count` elements, `step` apart, the first at e.
template <class T, bool kPosition, bool kExact>
FASTCV_INLINE Best<T> best_of(const BestRows<T>& rows, int64_t e, int64_t count, int64_t step) {
    Best<T> best = rows.template at<kPosition>(e);
    for (int64_t i = 1; i < count; i++) {
        const Best<T> next = rows.template at<kPosition>(e + i * step);
        take<T, kPosition, kExact>(best, next.value, next.position);
    }
    return best;
}

// Replaces each element of [begin, end) by the best of `count`. Ascending, so that what is read is not yet replaced.
template <class T, bool kPosition, bool kExact>
static void search_in_place(const BestRows<T>& rows, int64_t begin, int64_t end, int64_t count, int64_t step) {
    for (int64_t e = begin; e < end; e += kLanes<T>)
        rows.template put<kPosition>(e, best_of<T, kPosition, kExact>(rows, e, count, step));
}

// Windows down the columns, row pitch apart, for `outputs` rows of `width` elements: visit(output row, element, best).
template <class T, bool kPosition, bool kExact, class Visit>
FASTCV_INLINE void search_columns(const BestRows<T>& rows, const Axis& y, int64_t outputs, int64_t width, const Visit& visit) {
    const Doubling plan(y.taps);
    const int64_t step = y.dilation * rows.pitch;
    int64_t count = y.taps, apart = step;
    if (plan.passes > 0 && y.stride * plan.takes() < y.taps) {
        int64_t left = (outputs - 1) * y.stride + (y.taps - plan.taps) * y.dilation + 1, taps = plan.taps;
        for (int64_t j = 0; j < left; j++)
            search_in_place<T, kPosition, kExact>(rows, j * rows.pitch, j * rows.pitch + width, plan.taps, step);
        for (; 2 * taps < y.taps; taps *= 2) {
            left -= taps * y.dilation;
            for (int64_t j = 0; j < left; j++)
                search_in_place<T, kPosition, kExact>(rows, j * rows.pitch, j * rows.pitch + width, 2, taps * step);
        }
        count = 2;
        apart = (y.taps - taps) * step;
    }
    for (int64_t p = 0; p < outputs; p++)
        for (int64_t e = 0; e < width; e += kLanes<T>)
            visit(p, e, best_of<T, kPosition, kExact>(rows, p * y.stride * rows.pitch + e, count, apart));
}

// Windows along a row: the rest of the way from Doubling's first taps to all of them. `step` is one pixel's elements.
template <class T, bool kPosition, bool kExact>
FASTCV_INLINE void finish_row(const BestRows<T>& rows, int64_t row, int64_t width, const Axis& x, const Doubling& plan, int64_t step) {
    int64_t taps = plan.taps;
    for (int64_t pass = 0; pass < plan.passes; pass++) {
        const int64_t next = smaller(2 * taps, x.taps), left = width + (x.taps - next) * x.dilation * step;
        search_in_place<T, kPosition, kExact>(rows, row * rows.pitch, row * rows.pitch + left, 2, (next - taps) * x.dilation * step);
        taps = next;
    }
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
