// max_pool2d of planes with one window each, as before a network's last layer: lanes are elements of the window.
//
//   window of a plane     [a b c d | e f g h | i . . .]   vectors of its rows; rows that follow each other are one long row
//   best of each lane     [a f c h]                        of equal elements the first one
//   lanes x lanes planes  bests [plane][lane]  --square-->  [lane][plane], whose best is a result in each lane
//
// Which of equal elements came first is no longer known from the order in which lanes are compared. So the largest value is found
// first, and then the smallest position among those that have it. A long row is searched in kChains places at a time, since each
// comparison waits for the one before it.
//
// Planes that hold NaN, or zeros of both signs as their best, are done again element by element. Measured on one core, with indices, by bands of rows and this way: 512
// planes of 7 x 7: 11.0 and 5.3 microseconds; 64 of 56 x 56: 312 and 9.2.
#pragma once

#include "max_pool2d_best.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int kChains = 4;
// Behind every position.
template <class At>
constexpr At kLastPosition = At(uint64_t(-1) >> (65 - 8 * sizeof(At)));

// The best of bests that were found in any order. `again` where equal ones differ in the sign of zero.
template <class T, bool kPosition, int kCount>
FASTCV_INLINE Best<T> best_in_any_order(const Best<T>* bests, Mask<T>& again) {
    using At = Position<T>;
    Best<T> best = bests[0];
    FASTCV_UNROLL for (int i = 1; i < kCount; i++) best.value = upper(bests[i].value, best.value);
    Vec<At> differing = splat(At(0));
    FASTCV_UNROLL for (int i = 0; i < kCount; i++) {
        const Vec<T> equal = choose(more(best.value, bests[i].value), best.value, bests[i].value);
        differing |= reinterpret_cast<Vec<At>>(equal) ^ reinterpret_cast<Vec<At>>(best.value);
    }
    // The sign bit, spread over all others, is a NaN.
    const Vec<T> spread = reinterpret_cast<Vec<T>>(differing >> (8 * int(sizeof(T)) - 1));
    again = Mask<T>(again | unordered(spread, spread));
    if constexpr (kPosition) {
        const Vec<At> nowhere = splat(kLastPosition<At>);
        best.position = nowhere;
        FASTCV_UNROLL for (int i = 0; i < kCount; i++) {
            const Vec<At> at = choose(more(best.value, bests[i].value), nowhere, bests[i].position);
            best.position = at < best.position ? at : best.position;
        }
    }
    return best;
}

// The window's rows, `length` neighbouring elements each, the first one at `position` of the plane.
struct WholeWindow {
    int64_t rows, length, row_bytes, row_positions, position;
};

// The best of each lane in a window that begins at `first`.
template <class T, bool kPosition>
FASTCV_INLINE Best<T> search_window(const WholeWindow& w, const char* first, Mask<T>& again) {
    constexpr int64_t L = kLanes<T>;
    using At = Position<T>;
    Best<T> bests[kChains];
    FASTCV_UNROLL for (int i = 0; i < kChains; i++) bests[i] = {splat(-kInfinity<T>), splat(At(w.position))};
    for (int64_t r = 0; r < w.rows; r++) {
        const T* row = reinterpret_cast<const T*>(first + r * w.row_bytes);
        Vec<At> at = lane_indices<T>() + At(w.position + r * w.row_positions);
        int64_t e = 0;
        for (; e + kChains * L <= w.length; e += kChains * L, at += At(kChains * L)) {
            FASTCV_UNROLL for (int i = 0; i < kChains; i += 2) {
                const Vec<T> a = load(row + e + i * L), b = load(row + e + (i + 1) * L);
                again = Mask<T>(again | unordered(a, b));
                take<T, kPosition, false>(bests[i], a, at + At(i * L));
                take<T, kPosition, false>(bests[i + 1], b, at + At((i + 1) * L));
            }
        }
        for (; e < w.length; e += L, at += At(L)) {
            const Mask<T> there = lanes_between<T>(0, w.length - e);
            const Vec<T> v = e + L <= w.length ? load(row + e) : load_where<T>(there, row + e, splat(-kInfinity<T>));
            again = Mask<T>(again | unordered(v, v));
            take<T, kPosition, false>(bests[0], v, at);
        }
    }
    if (w.length < kChains * L) return bests[0];
    return best_in_any_order<T, kPosition, kChains>(bests, again);
}

// As many windows as there are lanes, or fewer; whether they have to be done again.
template <class T, bool kPosition>
static bool pool_windows(const WholeWindow& w, const char* const* windows, int64_t planes, T* output, char* indices,
                         int index_bytes) {
    constexpr int64_t L = kLanes<T>;
    Mask<T> again{};
    Vec<T> values[L], positions[L];
    for (int64_t i = 0; i < L; i++) {
        if (i >= planes) {
            values[i] = positions[i] = zero<T>();
            continue;
        }
        const Best<T> best = search_window<T, kPosition>(w, windows[i], again);
        values[i] = best.value;
        if constexpr (kPosition) positions[i] = reinterpret_cast<Vec<T>>(best.position);
    }
    transpose<T>(values);
    if constexpr (kPosition) transpose<T>(positions);
    Best<T> bests[L];
    FASTCV_UNROLL for (int64_t l = 0; l < L; l++) bests[l] = {values[l], reinterpret_cast<Vec<Position<T>>>(positions[l])};
    const Best<T> best = best_in_any_order<T, kPosition, int(L)>(bests, again);
    store_first(output, best.value, planes);
    if constexpr (kPosition) store_positions(indices, index_bytes, 0, best.position, planes);
    return any<T>(again);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
