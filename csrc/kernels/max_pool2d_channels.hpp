// max_pool2d of channels-last images: lanes are channels.
//
// A window's taps are then whole vectors, any stride apart, and one pixel's position serves all lanes. Taps outside the image are
// left out. NaN is looked for in every comparison, unless it is known that there is none (kExact false).
//
// direct: each output pixel looks at its whole window, all channels of it before the next pixel. shared: for one vector of
// channels at a time, rows of a band are searched along their windows, and then columns of those bests (see max_pool2d_best.hpp).
//
// turned: narrow planes, and windows whose steps no permutation takes out, come this way as well. As many planes as there are
// lanes are transposed into scratch, which also says whether they hold NaN, pooled there, and the results transposed back:
//
//   planes [lane][pixel]  --squares-->  image [pixel][lane]  --pool-->  bests [pixel][lane]  --squares-->  results [lane][pixel]
#pragma once

#include "../channel_lanes.h"
#include "../parallel.h"
#include "max_pool2d_best.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// One channels-last image and its results. Without kPosition there are no indices.
template <class T>
struct PoolImage {
    const char* input;
    int64_t row_bytes, column_bytes, channel_bytes;
    T* output;
    char* indices;
    int index_bytes;
    int64_t channels;
};

// A pixel's channels from c on. kWhole: there are as many as lanes, and they are neighbours.
template <class T, bool kWhole>
FASTCV_INLINE Vec<T> load_channels(const PoolImage<T>& image, const char* pixel, int64_t c) {
    if constexpr (kWhole) return load(reinterpret_cast<const T*>(pixel) + c);
    const int64_t n = image.channels - c;
    if (image.channel_bytes == int64_t(sizeof(T))) return load_first(reinterpret_cast<const T*>(pixel) + c, n);
    T lanes[kLanes<T>] = {};
    for (int64_t l = 0; l < smaller(n, kLanes<T>); l++) lanes[l] = load_scalar<T>(pixel + (c + l) * image.channel_bytes);
    return load(lanes);
}

template <class T, bool kPosition, bool kWhole>
FASTCV_INLINE void store_best(const PoolImage<T>& image, int64_t pixel, int64_t c, const Best<T>& best) {
    const int64_t at = pixel * image.channels + c, n = kWhole ? kLanes<T> : image.channels - c;
    store_first(image.output + at, best.value, n);
    if constexpr (kPosition) store_positions(image.indices, image.index_bytes, at, best.position, n);
}

// The best of `rows` x `taps` pixels that all lie inside the image, in channels from c on; the first one at `position`.
// kRows, kTaps: those numbers, or 0: any.
template <class T, bool kPosition, bool kExact, bool kWhole, int kRows, int kTaps>
FASTCV_INLINE Best<T> search_pixels(const PoolImage<T>& image, int64_t some_rows, int64_t some_taps, int64_t row_dilation,
                                    int64_t dilation, const char* pixel, int64_t position, int64_t width, int64_t c) {
    using At = Position<T>;
    const int64_t rows = kRows ? kRows : some_rows, taps = kTaps ? kTaps : some_taps;
    const int64_t row_step = row_dilation * image.row_bytes, step = dilation * image.column_bytes;
    Best<T> best{load_channels<T, kWhole>(image, pixel, c), splat(At(position))};
    for (int64_t r = 0; r < rows; r++)
        for (int64_t t = r == 0; t < taps; t++)
            take<T, kPosition, kExact>(best, load_channels<T, kWhole>(image, pixel + r * row_step + t * step, c),
                                       splat(At(position + r * row_dilation * width + t * dilation)));
    return best;
}

// ---- direct

// A row of output pixels.
template <class T, bool kPosition, bool kExact, bool kWhole, int kSize>
static void pool_pixels_directly(const PoolImage<T>& image, const Axis& y, const Axis& x, int64_t p) {
    constexpr int64_t L = kLanes<T>;
    using At = Position<T>;
    const int64_t top = p * y.stride - y.pad, first_row = y.first_tap(p), rows = larger(0, y.last_tap(p) - first_row);
    const int64_t h = top + first_row * y.dilation, start = y.first_inside(top) * x.input;
    const char* row = image.input + h * image.row_bytes;
    const auto search = [&](int64_t q, int64_t first, int64_t taps) {
        const int64_t column = q * x.stride - x.pad + first * x.dilation;
        const char* pixel = row + column * image.column_bytes;
        for (int64_t c = 0; c < image.channels; c += L)
            store_best<T, kPosition, kWhole>(
                image, p * x.output + q, c,
                search_pixels<T, kPosition, kExact, kWhole, 0, 0>(image, rows, taps, y.dilation, x.dilation, pixel, h * x.input + column,
                                                                  x.input, c));
    };
    const auto edge = [&](int64_t q) {
        const int64_t first = x.first_tap(q), last = x.last_tap(q);
        if (rows > 0 && first < last) return search(q, first, last - first);
        const Best<T> nothing{splat(T(-__builtin_inf())), splat(At(start + x.first_inside(q * x.stride - x.pad)))};
        for (int64_t c = 0; c < image.channels; c += L) store_best<T, kPosition, kWhole>(image, p * x.output + q, c, nothing);
    };
    const int64_t first_whole = rows > 0 ? x.first_whole() : x.output, last_whole = rows > 0 ? x.last_whole() : x.output;
    for (int64_t q = 0; q < first_whole; q++) edge(q);
    if (kSize != 0 && rows == kSize) {
        for (int64_t q = first_whole; q < last_whole; q++) {
            const int64_t column = q * x.stride - x.pad;
            const char* pixel = row + column * image.column_bytes;
            for (int64_t c = 0; c < image.channels; c += L)
                store_best<T, kPosition, kWhole>(image, p * x.output + q, c,
                                                 search_pixels<T, kPosition, kExact, kWhole, kSize, kSize>(
                                                     image, rows, x.taps, y.dilation, x.dilation, pixel, h * x.input + column, x.input, c));
        }
    } else {
        for (int64_t q = first_whole; q < last_whole; q++) search(q, 0, x.taps);
    }
    for (int64_t q = larger(first_whole, last_whole); q < x.output; q++) edge(q);
}

// ---- shared

// Rows of outputs [first, last), columns [left, right), channels from c on, in scratch.
template <class T, bool kPosition, bool kExact, bool kWhole, int kSize>
static void pool_band_of_channels(const PoolImage<T>& image, const Axis& y, const Axis& x, int64_t first, int64_t last,
                                  int64_t left, int64_t right, int64_t c, const BestRows<T>& rows) {
    constexpr int64_t L = kLanes<T>;
    using At = Position<T>;
    const Doubling plan(x.taps);
    const bool doubled = x.stride == 1 && plan.passes > 0;
    // As if windows had the taps of the first pass alone, and the row as many more outputs as the passes need.
    const int64_t width = right - left;
    Axis some = x;
    some.taps = doubled ? plan.taps : x.taps;
    some.output = x.output + (x.taps - some.taps) * x.dilation;
    const int64_t end = right + (x.taps - some.taps) * x.dilation;
    const int64_t whole = larger(left, smaller(end, some.first_whole())), whole_end = larger(whole, smaller(end, some.last_whole()));
    const int64_t count = (last - 1 - first) * y.stride + (y.taps - 1) * y.dilation + 1;
    for (int64_t j = 0; j < count; j++) {
        const int64_t h = first * y.stride - y.pad + j;
        const bool inside = h >= 0 && h < y.input;
        const int64_t position = (inside ? h : y.first_inside(h)) * x.input;
        const char* row = inside ? image.input + h * image.row_bytes : nullptr;
        const auto edge = [&](int64_t q) {
            const int64_t column = q * x.stride - x.pad;
            const int64_t tap = inside ? some.first_tap(q) : 0, taps = inside ? some.last_tap(q) - tap : 0;
            Best<T> best{splat(T(-__builtin_inf())), splat(At(position + x.first_inside(column)))};
            if (taps > 0) {
                const int64_t w = column + tap * x.dilation;
                best = search_pixels<T, kPosition, kExact, kWhole, 1, 0>(image, 1, taps, 0, x.dilation, row + w * image.column_bytes,
                                                                         position + w, x.input, c);
            }
            rows.template put<kPosition>(j * rows.pitch + (q - left) * L, best);
        };
        const int64_t begin = inside ? whole : end, finish = inside ? whole_end : end;
        for (int64_t q = left; q < begin; q++) edge(q);
        for (int64_t q = begin; q < finish; q++) {
            const int64_t w = q * x.stride - x.pad;
            rows.template put<kPosition>(j * rows.pitch + (q - left) * L,
                                         search_pixels<T, kPosition, kExact, kWhole, 1, kSize>(
                                             image, 1, some.taps, 0, x.dilation, row + w * image.column_bytes, position + w, x.input, c));
        }
        for (int64_t q = finish; q < end; q++) edge(q);
        if (doubled && inside) finish_row<T, kPosition, kExact>(rows, j, width * L, x, plan, L);
    }
    search_columns<T, kPosition, kExact>(rows, y, last - first, width * L, [&](int64_t p, int64_t e, const Best<T>& best) {
        store_best<T, kPosition, kWhole>(image, (first + p) * x.output + left + e / L, c, best);
    });
}

// ---- turned

// Positions [pixel][lane], which count from `base` on, to integers of index_bytes [lane][pixel], planes `plane` elements apart.
template <class T>
static void store_position_lanes(const Position<T>* from, int64_t pixels, int64_t base, char* indices, int index_bytes, int64_t plane,
                                 int64_t planes) {
    constexpr int64_t L = kLanes<T>;
    for (int64_t e = 0; e < pixels; e += L) {
        Vec<T> square[L];
        FASTCV_UNROLL for (int64_t i = 0; i < L; i++) square[i] = load(reinterpret_cast<const T*>(from + (e + i) * L));
        transpose<T>(square);
        for (int64_t c = 0; c < smaller(planes, L); c++)
            store_positions(indices, index_bytes, c * plane + e, reinterpret_cast<Vec<Position<T>>>(square[c]) + Position<T>(base),
                            pixels - e);
    }
}

template <class T>
static bool holds_nan(const T* vectors, int64_t n) {
    Mask<T> nan{};
    if (n == 0) return false;
    for (int64_t i = 0; i + 1 < n; i += 2)
        nan = Mask<T>(nan | unordered(load(vectors + i * kLanes<T>), load(vectors + (i + 1) * kLanes<T>)));
    const Vec<T> last = load(vectors + (n - 1) * kLanes<T>);
    return any<T>(Mask<T>(nan | unordered(last, last)));
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
