// Winograd's weights: the window cut into parts, and U = G w G' in the order in which the products read it.
//
//   U[group][panel][point][part][C rounded up to lanes][2 * lanes]
//
// conv2d_winograd.hpp says what parts are, and where U meets V.
#pragma once

#include "../channel_lanes.h"
#include "../geometry.h"
#include "../parallel.h"
#include "conv2d_winograd_transforms.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// ---- the window in parts

constexpr int64_t kMostTapsOfPart = kPoints - 1;

// One dimension: `parts` windows of `taps` taps. Taps of a part are `step` apart; what lies beyond the window counts as zero.
struct WindowAxis {
    int64_t all, taps, parts, step;

    WindowAxis(const Axis& a, int64_t most) : all(a.taps), taps(a.taps), parts(1), step(a.taps > 1 ? a.stride : 1) {
        if (step > 1) {
            parts = smaller(step, all);
            taps = ceil_div(all, step);
        } else if (all > most) {
            parts = ceil_div(all, 4);
            taps = ceil_div(all, parts);
        }
    }
    int64_t first(int64_t part) const { return step > 1 ? part : part * taps; }
    int64_t tap(int64_t part, int64_t i) const { return first(part) + i * step; }
};

struct WinogradWindow {
    WindowAxis y, x;

    explicit WinogradWindow(const Conv2dShape& s, int64_t most = kMostTapsOfPart) : y(vertical(s), most), x(horizontal(s), most) {
        const int64_t taps = larger(y.taps, x.taps);
        if (y.all > 1) y.taps = taps;
        if (x.all > 1) x.taps = taps;
    }
    int64_t parts() const { return y.parts * x.parts; }
    int64_t taps() const { return larger(y.taps, x.taps); }
    int64_t taps_at_once() const { return y.all * x.all; }
    // Strides and dilation exclude each other: their phases would have to be cut out of each other.
    bool possible(const Conv2dShape& s) const {
        const bool simple = (y.step == 1 || s.dilation_h == 1) && (x.step == 1 || s.dilation_w == 1);
        return simple && taps() > 1 && taps() < kPoints && taps_at_once() <= kMostTaps;
    }
    // Outputs of the longest phase along either axis of a convolution that keeps the plane's size; 0 if it is too long for a tile.
    static int whole_phase(const Conv2dShape& s) {
        const Axis y = vertical(s), x = horizontal(s);
        return has_short_phases(y) && has_short_phases(x) ? int(larger(phase(y), phase(x))) : 0;
    }
    static constexpr int64_t kMostTaps = 121;  // bounds what lies on the stack while weights are transformed
    static int largest_tile(const Conv2dShape& s) { return fastcv::FASTCV_ISA::largest_tile(WinogradWindow(s).taps()); }

private:
    static int64_t phase(const Axis& a) { return ceil_div(a.output, a.dilation); }
    static bool has_short_phases(const Axis& a) {
        const bool keeps_size = a.taps == 3 && a.stride == 1 && a.pad == a.dilation && a.output == a.input;
        return keeps_size && phase(a) >= 2 && phase(a) <= kLargestPhase;
    }
};

// ---- outputs

// Where filters' outputs go. Those of a transposed convolution form stride_h * stride_w phases, which interleave: vector q of a group's
// filters holds phase q % phases() of `lanes` filters, and row i of its phase b is row i * stride_h + b - origin_y of the output.
struct Interleave {
    int64_t stride_h, stride_w, origin_y, origin_x;
    int64_t filters, rows, columns;  // of the output; filters of a group
    int64_t R, S;                    // taps of all phases

    explicit Interleave(const Conv2dShape& s)
        : stride_h(1), stride_w(1), origin_y(0), origin_x(0), filters(s.K / s.G), rows(s.P), columns(s.Q), R(s.R), S(s.S) {}

    int64_t phases() const { return stride_h * stride_w; }
    // Panels of two vectors after which a row's phases are all there.
    int64_t panels_of_row() const { return stride_w == 1 ? 1 : stride_w % 2 ? stride_w : stride_w / 2; }
};

// ---- the layout, and G w G'

template <class T>
struct WinogradWeights {
    WinogradWindow window;
    int64_t points_y, points_x;       // of the largest tile: a set of points that uses_point() knows
    int64_t count_x, points;          // how many
    int64_t part_channels, channels;  // of a part, and of all: the depth of the products
    int64_t panels, panel_elements;

    WinogradWeights(const Conv2dShape& s, int tile, int64_t most_taps = kMostTapsOfPart)
        : window(s, most_taps),
          points_y(largest_points(window.y, tile)),
          points_x(largest_points(window.x, tile)),
          count_x(count_points(points_x)),
          points(count_points(points_y) * count_x),
          part_channels(round_up(s.C / s.G, kLanes<T>)),
          channels(part_channels * window.parts()),
          panels(ceil_div(s.K / s.G, 2 * kLanes<T>)),
          panel_elements(points * channels * 2 * kLanes<T>) {}
    int64_t elements(const Conv2dShape& s) const { return s.G * panels * panel_elements; }
    // Of point i * kPoints + j.
    bool uses(int64_t point) const {
        return uses_point(points_y, int(point / kPoints)) && uses_point(points_x, int(point % kPoints));
    }
    int64_t place_of_point(int64_t point) const {
        return rank_of_point(points_y, int(point / kPoints)) * count_x + rank_of_point(points_x, int(point % kPoints));
    }

private:
    static int64_t largest_points(const WindowAxis& w, int tile) {
        return tile > kWholePhases ? kWhole + tile - kWholePhases : w.all == 1 ? 1 : tile + w.taps - 1;
    }
};

// A window of three taps for whole phases (conv2d_winograd_transforms.hpp has the formulas).
template <class D, int Taps>
FASTCV_INLINE void phase_points(int64_t n, const Vec<D> (&tap)[Taps], D* points, int64_t point_stride) {
    const Vec<D> before = tap[0], at = tap[1 % Taps], after = tap[2 % Taps];
    if (n == kWhole + 2) {
        store(points, after - at);
        store(points + point_stride, before - at);
        store(points + 2 * point_stride, at);
        return;
    }
    const Vec<D> quarter = splat(D(0.25)), sum = quarter * (before + after), difference = quarter * (before - after);
    const Vec<D> inner = splat(D(kInner / 4)) * at, outer = splat(D(kOuter / 4)) * at;
    store(points, difference + inner);
    store(points + point_stride, difference - inner);
    store(points + 2 * point_stride, sum + outer);
    store(points + 3 * point_stride, sum - outer);
}

// One dimension of G w for `width` filters side by side: w[tap] to n points, in the order of their ranks.
template <class D, int Taps>
FASTCV_INLINE void weight_points_of(int64_t n, const D* const* w, int64_t width, D* points, int64_t point_stride) {
    for (int64_t k = 0; k < width; k += kLanes<D>) {
        Vec<D> tap[Taps];
        FASTCV_UNROLL for (int t = 0; t < Taps; t++) tap[t] = load(w[t] + k);
        D* to = points + k;
        if (Taps == 3 && n > kWhole) {
            phase_points<D>(n, tap, to, point_stride);
            continue;
        }
        if (uses_point(n, 0)) {
            store(to, splat(D(weight_coefficient(Taps, 0, 0))) * tap[0]);
            to += point_stride;
        }
        // Opposite points share their even and odd parts.
        FASTCV_UNROLL for (int pair = 1; pair < kPoints - 1; pair += 2) {
            if (!uses_point(n, pair)) continue;
            Vec<D> even_part = splat(D(weight_coefficient(Taps, pair, 0))) * tap[0], odd_part = zero<D>();
            FASTCV_UNROLL for (int t = 2; t < Taps; t += 2)
                even_part = fma(splat(D(weight_coefficient(Taps, pair, t))), tap[t], even_part);
            if (Taps > 1) odd_part = splat(D(weight_coefficient(Taps, pair, 1))) * tap[1 % Taps];
            FASTCV_UNROLL for (int t = 3; t < Taps; t += 2)
                odd_part = fma(splat(D(weight_coefficient(Taps, pair, t))), tap[t], odd_part);
            store(to, even_part + odd_part);
            to += point_stride;
            if (!uses_point(n, pair + 1)) continue;
            store(to, even_part - odd_part);
            to += point_stride;
        }
        store(to, tap[Taps - 1]);
    }
}
template <class D>
static void weight_points(int64_t n, int64_t taps, const D* const* w, int64_t width, D* points, int64_t point_stride) {
    switch (taps) {
        case 1: weight_points_of<D, 1>(n, w, width, points, point_stride); break;
        case 2: weight_points_of<D, 2>(n, w, width, points, point_stride); break;
        case 3: weight_points_of<D, 3>(n, w, width, points, point_stride); break;
        case 4: weight_points_of<D, 4>(n, w, width, points, point_stride); break;
        default: weight_points_of<D, 5>(n, w, width, points, point_stride); break;
    }
}

// taps[R * S][width] of one channel's filters, side by side; zeros behind the last. Windows that are contiguous, forwards or turned,
// are transposed a square at a time.
template <class T>
static void gather_windows(const Interleave& s, const Weights& w, const char* from, int64_t count, int64_t width, T* taps) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    const int64_t n = s.R * s.S;
    const auto lies = [&](int64_t sign) {
        return (s.S == 1 || w.column_bytes == sign * size) && (s.R == 1 || w.row_bytes == sign * s.S * size);
    };
    const bool turned = lies(-1);
    if (lies(1) || turned) {
        for (int64_t k = 0; k < width; k += L)
            for (int64_t t = 0; t < n; t += L) {
                Vec<T> square[L];
                FASTCV_UNROLL for (int64_t i = 0; i < L; i++) {
                    const char* window = from + (k + i) * w.filter_bytes - (turned ? (n - 1) * size : 0);
                    // Eight channels on. Filters are more streams than the hardware follows: 512 x 512 at 14x14 on one
                    // thread take 5.3 ms without, 4.5 with.
                    __builtin_prefetch(window + 8 * n * size);
                    square[i] = k + i < count ? load_first(reinterpret_cast<const T*>(window) + t, n - t) : zero<T>();
                }
                transpose<T>(square);
                FASTCV_UNROLL for (int64_t i = 0; i < L; i++)
                    if (t + i < n) store(taps + (turned ? n - 1 - t - i : t + i) * width + k, square[i]);
            }
        return;
    }
    for (int64_t k = 0; k < width; k++)
        for (int64_t t = 0; t < n; t++)
            taps[t * width + k] =
                k < count ? load_scalar<T>(from + k * w.filter_bytes + t / s.S * w.row_bytes + t % s.S * w.column_bytes) : T(0);
}

// to[i] = from[i], n of them, whole vectors of the narrower type.
template <class From, class To>
FASTCV_INLINE void convert_lanes(const From* from, To* to, int64_t n) {
    if constexpr (sizeof(From) == sizeof(To))
        for (int64_t i = 0; i < n; i += kLanes<From>) store(to + i, load(from + i));
    else
        for (int64_t i = 0; i < n; i++) to[i] = To(from[i]);
}

// Transforms the weights of a panel's filters, channel by channel. D is the type of the transform: double for weights that are packed
// once, T for those of a single call.
template <class T, class D>
struct WeightTransform {
    static constexpr int64_t L = kLanes<T>, W = 2 * L;
    const Conv2dShape& s;
    const Interleave& interleave;
    const WinogradWeights<T>& layout;
    const Weights& weight;
    int* not_finite;
    // Aligned: a load of a line-crossing store just made would wait for it to reach the cache.
    // The last place is a tap beyond the window.
    alignas(64) T gathered[(WinogradWindow::kMostTaps + 1) * W];
    alignas(64) D converted[sizeof(T) == sizeof(D) ? W : (WinogradWindow::kMostTaps + 1) * W], half[kPoints][kPoints][W], row[kPoints][W];

    WeightTransform(const Conv2dShape& shape, const Interleave& i, const WinogradWeights<T>& l, const Weights& w, int* flag)
        : s(shape), interleave(i), layout(l), weight(w), not_finite(flag) {}

    // Channel c of a panel to to[point][part], `point` and `part` elements apart, up to W filters each.
    void run(int64_t g, int64_t panel, int64_t c, T* to, int64_t point, int64_t part_stride) {
        const int64_t phases = interleave.phases(), vector = panel * 2, left = s.K / s.G - vector * L;
        if (phases == 1) {
            const D* taps = gather(g, vector * L, c, W);
            for (int64_t part = 0; part < layout.window.parts(); part++) transform(taps, W, part, left > L ? W : L, to + part * part_stride, point);
            return;
        }
        // Both vectors, of a phase each, mostly take their taps from the same filters.
        const D* taps = nullptr;
        for (int64_t v = 0; v < (left > L ? 2 : 1); v++) {
            if (!taps || (vector + v) % phases == 0) taps = gather(g, (vector + v) / phases * L, c, L);
            transform(taps, L, (vector + v) % phases, L, to + v * L, point);
        }
    }

private:
    // taps[R * S + 1][width] of `width` filters from `first` on.
    const D* gather(int64_t g, int64_t first, int64_t c, int64_t width) {
        const int64_t window = interleave.R * interleave.S;
        int64_t zeros = 0;
        if (c < s.C / s.G) {
            gather_windows(interleave, weight, weight.at(g, first, c), smaller(width, interleave.filters - first), width, gathered);
            zeros = window * width;
        }
        for (int64_t i = zeros; i < (window + 1) * width; i += L) store(gathered + i, zero<T>());
        if (!all_finite(gathered, window * width / L)) raise_flag(not_finite);
        if constexpr (sizeof(T) == sizeof(D)) return gathered;
        convert_lanes<T, D>(gathered, converted, (window + 1) * width);
        return converted;
    }

    // The tap of the whole window that is tap i of a part or, turned, of a phase along one axis; too large a number if there is none.
    int64_t tap_of(const WindowAxis& a, int64_t stride, int64_t all, int64_t part, int64_t i) const {
        return interleave.phases() == 1 ? a.tap(part, i) : i < a.all ? part + (a.all - 1 - i) * stride : all;
    }

    // One part or phase of the windows.
    void transform(const D* taps, int64_t taps_width, int64_t part, int64_t width, T* to, int64_t point) {
        const WindowAxis &y = layout.window.y, &x = layout.window.x;
        const int64_t R = interleave.R, S = interleave.S;
        const int64_t parts_x = interleave.phases() == 1 ? x.parts : interleave.stride_w;
        const D* column[kPoints];
        for (int64_t t = 0; t < x.taps; t++) {
            const int64_t at_x = tap_of(x, interleave.stride_w, S, part % parts_x, t);
            for (int64_t r = 0; r < y.taps; r++) {
                const int64_t at_y = tap_of(y, interleave.stride_h, R, part / parts_x, r);
                column[r] = taps + (at_y < R && at_x < S ? at_y * S + at_x : R * S) * taps_width;
            }
            weight_points<D>(layout.points_y, y.taps, column, width, half[0][t], kPoints * W);
        }
        for (int64_t i = 0; i < count_points(layout.points_y); i++) {
            for (int64_t t = 0; t < x.taps; t++) column[t] = half[i][t];
            T* points = to + i * layout.count_x * point;
            if constexpr (sizeof(T) == sizeof(D)) {
                weight_points<D>(layout.points_x, x.taps, column, width, points, point);
            } else {
                weight_points<D>(layout.points_x, x.taps, column, width, row[0], W);
                for (int64_t j = 0; j < layout.count_x; j++) convert_lanes<D, T>(row[j], points + j * point, width);
            }
        }
    }
};

template <class T, class D>
static void transform_weights(const Conv2dShape& s, const Interleave& interleave, int tile, const Weights& weight, T* packed,
                              int* not_finite, Team team) {
    constexpr int64_t L = kLanes<T>, W = 2 * L;
    const WinogradWeights<T> layout(s, tile);
    WeightTransform<T, D> transform(s, interleave, layout, weight, not_finite);
    const int64_t work = s.G * layout.panels * layout.part_channels;
    for (int64_t item = team.begin(work); item < team.end(work); item++) {
        const int64_t c = item % layout.part_channels, panel = item / layout.part_channels;
        const int64_t width = s.K / s.G - panel % layout.panels * W > L ? W : L;
        transform.run(panel / layout.panels, panel % layout.panels, c, packed + panel * layout.panel_elements + c * width,
                      layout.channels * width, layout.part_channels * width);
    }
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
