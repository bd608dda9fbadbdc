// Transposed convolution by phases of its stride: each output is written once.
//
//   output[c][y][x] = sum over k, r, s with y + pad - r * d = p * stride (x likewise) of weight[k][c][r][s] * input[k][p][q]
//
// Outputs equal modulo the stride form stride * stride phases. In each, the taps that meet it are fixed, so a phase is a small
// ordinary convolution with stride 1 over `input`: no zeros are inserted, no columns buffered. All phases read one padded strip
// (strip.h), or the input itself where each output sees one pixel (a 2x2 window with stride 2), through the pixel-lane tiles of
// conv2d_strip_pixels.hpp. Phases that see the same pixels form a group, whose product has a row for each filter and phase:
//
//   2x2, stride 2: one group of four phases        4x4, stride 2: four groups of one
//
//          pixels p, p + 1, ..                    The rows of some filters wait in the first-level cache until the phases of
//        +--------------------+                   an output row can be interleaved:
//   c0   | phase (0, 0)       |
//   c0   | phase (0, 1)       |                     phase x = 0:  a0 a1 a2 ..  --.
//   c0   | phase (1, 0)       |                                                  +-->  a0 b0 a1 b1 a2 b2 ..
//   c0   | phase (1, 1)       |                     phase x = 1:  b0 b1 b2 ..  --.
//   c1   | phase (0, 0)       |
//   ..
//
// Interleaved vectors go straight to the output, in runs of neighbouring positions over several vectors; its lines are asked for before
// the products that fill them are formed. Both weigh most where sums are shallow or outputs larger than the caches: with pieces of one
// vector that went through a buffered line, 2x2 windows, 45 to 77 channels on 37 x 37 took 0.62 ms on one thread and take 0.46; 64 to 32
// on 112 x 112 took 1.6 on two and take 1.2.
//
// Pixels that are read in place are copied to panels by the first product over them, and weights pass as many panels at a time as half
// a second-level cache holds. With one panel at a time, 2x2 windows, 1024 to 512 channels on 14 x 14 took 2.80 ms on two threads and
// take 2.75; 128 to 64 on 112 x 112 took 3.06 and take 2.87.
//
// Few filters would leave such products with few rows. Then phases are counted from the padded output's corner, which gives more of
// them the same window, at the price of positions at the edge that lie outside the output and are not stored.
//
// Here `input` is (N, K, P, Q) and `output` (N, C, H, W): the letters are those of the convolution that this is the gradient of.
#pragma once

#include <utility>

#include "conv2d_strip_pixels.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int64_t kRowsTogether = 32;  // of filters and phases whose results wait for each other

// One dimension's phases: which taps meet a phase, and how far they reach. Phase b of position j is output j * stride + b - origin.
struct PhaseAxis {
    int64_t size, stride, pad, taps, dilation, origin;

    // Taps r with (phase - origin + pad - r * dilation) divisible by the stride: first, and from one to the next.
    int64_t first_tap(int64_t phase) const {
        for (int64_t r = 0; r < taps && r < stride; r++)
            if ((phase - origin + pad - r * dilation) % stride == 0) return r;
        return taps;
    }
    int64_t tap_step() const { return Axis{0, 0, taps, stride, 0, dilation}.cycle(); }
    int64_t taps_of(int64_t phase) const { return ceil_div(larger(0, taps - first_tap(phase)), tap_step()); }
    // Input position of a tap, relative to the output's.
    int64_t shift(int64_t phase, int64_t tap) const { return (phase - origin + pad - tap * dilation) / stride; }
    int64_t phases() const { return smaller(stride, size + origin); }
    bool same_window(int64_t a, int64_t b) const {
        const int64_t count = taps_of(a);
        return count == taps_of(b) && (count == 0 || shift(a, first_tap(a)) == shift(b, first_tap(b)));
    }

    // The stride-1 window that holds every tap of every phase.
    Axis window(int64_t input) const {
        int64_t low = 0, high = 0;
        bool any = false;
        for (int64_t phase = 0; phase < phases(); phase++)
            for (int64_t r = first_tap(phase); r < taps; r += tap_step()) {
                const int64_t at = shift(phase, r);
                low = any ? smaller(low, at) : at;
                high = any ? larger(high, at) : at;
                any = true;
            }
        return {input, ceil_div(size + origin, stride), high - low + 1, 1, -low, 1};
    }
};

// Both dimensions' phases.
struct PhaseAxes {
    PhaseAxis y, x;

    PhaseAxes(const Conv2dShape& s, bool from_padded_corner)
        : y{s.H, s.stride_h, s.pad_top, s.R, s.dilation_h, 0}, x{s.W, s.stride_w, s.pad_left, s.S, s.dilation_w, 0} {
        if (!from_padded_corner) return;
        if (s.pad_top > 0) y.origin = s.pad_top % s.stride_h;
        if (s.pad_left > 0) x.origin = s.pad_left % s.stride_w;
    }
    int64_t phases() const { return y.phases() * x.phases(); }
    bool same_window(int64_t a, int64_t b) const {
        return y.same_window(a / x.phases(), b / x.phases()) && x.same_window(a % x.phases(), b % x.phases());
    }
    int64_t taps_of(int64_t phase) const { return y.taps_of(phase / x.phases()) * x.taps_of(phase % x.phases()); }
};

// Few filters need phases with one window. This must not depend on the image's size: packed weights serve any.
static bool counts_from_padded_corner(const Conv2dShape& s) { return s.C / s.G <= 4; }

// Phases that see the same pixels.
struct PhaseGroup {
    int64_t first, count;  // phases of groups before it, and its own
    int64_t depth, weight;  // elements into the packed weights
    const DepthStep* steps;
};
struct Phase {
    int64_t group, index;  // its place in the group
};

// Fills phase[] and the counts of group[]; returns how many groups there are.
static int64_t group_phases(const PhaseAxes& axes, Phase* phase, PhaseGroup* group) {
    int64_t groups = 0;
    const int64_t phases = axes.phases();
    // A group's first phase stands for it; until all are known it is kept in `first`.
    for (int64_t i = 0; i < phases; i++) {
        int64_t g = 0;
        while (g < groups && !axes.same_window(group[g].first, i)) g++;
        if (g == groups) group[groups++] = {i, 0, 0, 0, nullptr};
        phase[i] = {g, group[g].count++};
    }
    for (int64_t g = 0, before = 0; g < groups; before += group[g++].count) group[g].first = before;
    return groups;
}

// How deep each group's products are, and where its weights begin.
static void lay_out_groups(const Conv2dShape& s, const PhaseAxes& axes, const Phase* phase, PhaseGroup* group, int64_t groups) {
    for (int64_t i = 0; i < axes.phases(); i++)
        if (phase[i].index == 0) group[phase[i].group].depth = s.K / s.G * axes.taps_of(i);
    for (int64_t g = 0, weight = 0; g < groups; weight += group[g].depth * group[g].count * s.C, g++) group[g].weight = weight;
}

// Where the weights of a tap go. A start of -1: no output sees the tap.
struct TapPlace {
    int64_t start, stride;
};
// Tap (r, t) of filter k and channel c: to start + k * stride + c.
static void place_taps(const Conv2dShape& s, const PhaseAxes& axes, const Phase* phase, const PhaseGroup* group,
                       TapPlace* place) {
    for (int64_t i = 0; i < s.R * s.S; i++) place[i].start = -1;
    const PhaseAxis &py = axes.y, &px = axes.x;
    for (int64_t i = 0; i < axes.phases(); i++) {
        const PhaseGroup& g = group[phase[i].group];
        int64_t start = g.weight + phase[i].index * g.depth;
        for (int64_t r = py.first_tap(i / px.phases()); r < s.R; r += py.tap_step())
            for (int64_t t = px.first_tap(i % px.phases()); t < s.S; t += px.tap_step(), start += s.K / s.G)
                place[r * s.S + t] = {start, g.count * g.depth};
    }
}

// Weights as [group of phases][filter][phase][tap][channel].
template <class T>
static void pack_phases(const Conv2dShape& s, const TapPlace* place, Tensor weight, T* to, Team team) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    const int64_t* b = weight.stride_bytes;
    const int64_t filters = s.C / s.G, channels = s.K / s.G, window = s.R * s.S, squares = ceil_div(channels, L);
    const bool contiguous =
        (s.S == 1 || b[3] == size) && (s.R == 1 || b[2] == s.S * size) && (filters == 1 || b[1] == window * size);
    for (int64_t item = team.begin(s.G * squares); item < team.end(s.G * squares); item++) {
        const int64_t g = item / squares, c = item % squares * L, count = smaller(L, channels - c);
        const char* from = weight.data + (g * channels + c) * b[0];
        if (contiguous) {
            // A channel's weights are one row [filter][tap]: squares of channels x weights are transposed.
            for (int64_t e = 0; e < filters * window; e += L) {
                Vec<T> square[L];
                FASTCV_UNROLL for (int64_t i = 0; i < L; i++)
                    square[i] = i < count ? load_first(reinterpret_cast<const T*>(from + i * b[0]) + e, filters * window - e) : zero<T>();
                transpose<T>(square);
                for (int64_t i = 0, k = e / window, tap = e % window; i < smaller(L, filters * window - e); i++) {
                    if (place[tap].start >= 0)
                        store_first(to + place[tap].start + (g * filters + k) * place[tap].stride + c, square[i], count);
                    if (++tap == window) tap = 0, k++;
                }
            }
            continue;
        }
        for (int64_t k = 0; k < filters; k++)
            for (int64_t tap = 0; tap < window; tap++)
                for (int64_t i = 0; i < count && place[tap].start >= 0; i++)
                    to[place[tap].start + (g * filters + k) * place[tap].stride + c + i] =
                        load_scalar<T>(from + i * b[0] + k * b[1] + tap / s.S * b[2] + tap % s.S * b[3]);
    }
}

// Vector X of three interleaved ones, whose element e is element e / 3 of vector e % 3: two of them meet first, then the third.
template <class T, int X, int... I>
FASTCV_INLINE Vec<T> interleave_third(Vec<T> a, Vec<T> b, Vec<T> c, std::integer_sequence<int, I...>) {
    constexpr int L = kLanes<T>;
    const Vec<T> two = __builtin_shufflevector(a, b, ((X * L + I) / 3 + (X * L + I) % 3 % 2 * L)...);
    return __builtin_shufflevector(two, c, ((X * L + I) % 3 == 2 ? L + (X * L + I) / 3 : I)...);
}
// Interleaves vectors: element j of vector x becomes element j * S + x of all.
template <class T, int S>
FASTCV_INLINE void interleave(Vec<T> (&v)[S]) {
    if constexpr (S == 3) {
        constexpr std::make_integer_sequence<int, kLanes<T>> lanes{};
        const Vec<T> a = v[0], b = v[1], c = v[2];
        v[0] = interleave_third<T, 0>(a, b, c, lanes);
        v[1] = interleave_third<T, 1>(a, b, c, lanes);
        v[2] = interleave_third<T, 2>(a, b, c, lanes);
    } else {
        static_assert((S & (S - 1)) == 0);
        Vec<T> other[S];
        FASTCV_UNROLL for (int done = 1; done < S; done *= 2) {
            FASTCV_UNROLL for (int i = 0; i < S / 2; i++) {
                other[2 * i] = interleave_low<T>(v[i], v[i + S / 2]);
                other[2 * i + 1] = interleave_high<T>(v[i], v[i + S / 2]);
            }
            FASTCV_UNROLL for (int i = 0; i < S; i++) v[i] = other[i];
        }
    }
}

// Columns [at, at + count) of S phases, interleaved, to contiguous elements [begin, end) of `to`; begin < S.
template <class T, int S>
static void interleave_columns(const T* const* phase, int64_t at, T* to, int64_t begin, int64_t end) {
    constexpr int64_t L = kLanes<T>;
    for (; end > 0; at += L, to += S * L, end -= S * L) {
        Vec<T> v[S];
        FASTCV_UNROLL for (int x = 0; x < S; x++) v[x] = load(phase[x] + at);
        interleave<T>(v);
        if (begin == 0 && end >= S * L) {
            FASTCV_UNROLL for (int x = 0; x < S; x++) store(to + x * L, v[x]);
        } else if (begin == 0) {
            FASTCV_UNROLL for (int x = 0; x < S; x++) store_first(to + x * L, v[x], end - x * L);
        } else {
            T line[S * L];
            FASTCV_UNROLL for (int x = 0; x < S; x++) store(line + x * L, v[x]);
            copy_row(to + begin, reinterpret_cast<const char*>(line + begin), int64_t(sizeof(T)), smaller(end, S * L) - begin);
            begin = 0;
        }
    }
}

// Columns [at, at + count) of a row's phases go to an output row that holds [0, width), from column `first` on.
template <class T>
static void interleave_row(const T* const* phase, int64_t stride, int64_t at, int64_t count, char* row, int64_t column_bytes,
                           int64_t first, int64_t width) {
    const int64_t begin = larger(0, -first), end = smaller(count * stride, width - first);
    if (column_bytes == int64_t(sizeof(T))) {
        T* to = reinterpret_cast<T*>(row) + first;
        switch (stride) {
            case 1: return interleave_columns<T, 1>(phase, at, to, begin, end);
            case 2: return interleave_columns<T, 2>(phase, at, to, begin, end);
            case 3: return interleave_columns<T, 3>(phase, at, to, begin, end);
            case 4: return interleave_columns<T, 4>(phase, at, to, begin, end);
            case 8: return interleave_columns<T, 8>(phase, at, to, begin, end);
            case 16: return interleave_columns<T, 16>(phase, at, to, begin, end);
        }
    }
    for (int64_t x = 0; x < stride; x++)
        for (int64_t j = 0; j < count; j++) {
            const int64_t column = j * stride + x;
            if (column >= begin && column < end) store_scalar(row + (first + column) * column_bytes, phase[x][at + j]);
        }
}

template <class T>
struct PhaseCall {
    StripCall<T> strip;  // of the stride-1 convolution over all phases' taps
    PhaseAxes axes;
    int64_t height, width;  // of the output
    int64_t columns;        // positions of a row: Q, where the strip is the input and its rows run into each other
    const Phase* phase;
    const PhaseGroup* group;
    int64_t groups;
    const T* weights;
};

// Some filters, all phases, at `wide` vectors of positions: rows[group][filter][phase][wide * lanes]. The first product over a panel that
// is neither null nor filled fills it for the others.
template <class T>
static void phase_products(const PhaseCall<T>& c, const T* strip, T* panel, bool filled, const PixelVector* list, int64_t wide,
                           int64_t filter, int64_t tall, const T* row_bias, T* rows) {
    constexpr int64_t L = kLanes<T>;
    using Tiles = StripTiles<T>;
    PixelVector vectors[Tiles::more_vectors];
    for (int64_t j = 0; j < wide; j++) vectors[j] = {list[j].strip, j * L, 0, 0, (uint32_t(1) << L) - 1};
    PixelTile<T> t{};
    t.strip = strip;
    t.panel = panel;
    t.weight_step = 1;
    t.vectors = vectors;
    t.output_filter_bytes = wide * L * int64_t(sizeof(T));
    t.activation = c.strip.activation;
    t.slope = c.strip.slope;
    for (int64_t i = 0; i < c.groups; i++) {
        const PhaseGroup& g = c.group[i];
        const int64_t count = tall * g.count, pieces = ceil_div(count, Tiles::filters);
        t.depth = t.filter_stride = g.depth;
        t.step = g.steps;
        for (int64_t piece = 0; piece < pieces; piece++) {
            const int64_t r0 = count * piece / pieces, r1 = count * (piece + 1) / pieces;
            t.weight = c.weights + g.weight + (filter * g.count + r0) * g.depth;
            t.bias = row_bias + g.first * tall + r0;
            t.output = reinterpret_cast<char*>(rows + (g.first * tall + r0) * wide * L);
            (panel && filled ? find_pixel_tile<T, true> : find_pixel_tile<T, false>)(int(r1 - r0), int(wide))(t);
            filled = filled || t.depth;
        }
    }
}

// Neighbouring positions of one row of them, whose results are neighbours in the rows of products.
struct PhaseRun {
    int64_t at, count, y, x;
};
template <class T>
constexpr int64_t kMostRuns = StripTiles<T>::more_vectors * kLanes<T>;

// Those of `wide` vectors, whose lanes may run on into the next row of positions. Returns how many there are.
template <class T>
static int64_t list_runs(const PhaseCall<T>& c, const Block& b, const PixelVector* list, int64_t wide, int64_t pitch, PhaseRun* run) {
    constexpr int64_t L = kLanes<T>;
    const bool flat = c.strip.in_place;
    const int64_t columns = flat ? c.columns : b.columns, row = flat ? columns : pitch;
    int64_t n = 0;
    for (int64_t j = 0; j < wide; j++) {
        int64_t y = flat ? (b.x + list[j].x) / columns : b.y + list[j].y, x = flat ? (b.x + list[j].x) % columns : list[j].x;
        for (int64_t lane = 0; lane < L && list[j].lanes >> lane;) {
            const int64_t count = smaller(columns - x, L - lane);
            if (count > 0) {
                const int64_t at = j * L + lane, first = flat ? x : b.x + x;
                if (n > 0 && run[n - 1].y == y && run[n - 1].x + run[n - 1].count == first && run[n - 1].at + run[n - 1].count == at)
                    run[n - 1].count += count;
                else
                    run[n++] = {at, count, y, first};
                lane += count;
                x += count;
            }
            lane += row - x;
            x = 0;
            y++;
        }
    }
    return n;
}

// Asks for the lines of the output that runs go to, to be written.
template <class T>
static void prefetch_runs(const PhaseCall<T>& c, const Block& b, const PhaseRun* run, int64_t runs, int64_t filter, int64_t tall) {
    constexpr int64_t size = int64_t(sizeof(T));
    const PhaseAxis &py = c.axes.y, &px = c.axes.x;
    const int64_t* stride = c.strip.output.stride_bytes;
    for (int64_t m = 0; m < tall; m++)
        for (int64_t i = 0; i < py.phases(); i++)
            for (int64_t r = 0; r < runs; r++) {
                const char* to = c.strip.output_plane(b.n, filter + m) + (run[r].y * py.stride + i - py.origin) * stride[2] +
                                 (run[r].x * px.stride - px.origin) * size;
                for (int64_t at = 0; at < run[r].count * px.stride * size; at += 64) __builtin_prefetch(to + at, 1, 3);
            }
}

// Interleaves the rows of products into the output. from[phase of x] and step[phase of x] are scratch.
template <class T>
static void store_phases(const PhaseCall<T>& c, const Block& b, const PhaseRun* run, int64_t runs, int64_t wide, int64_t filter,
                         int64_t tall, const T* rows, const T** from, int64_t* step) {
    constexpr int64_t L = kLanes<T>;
    const PhaseAxis &py = c.axes.y, &px = c.axes.x;
    const int64_t* stride = c.strip.output.stride_bytes;
    for (int64_t i = 0; i < py.phases(); i++) {
        for (int64_t p = 0; p < px.phases(); p++) {
            const Phase& at = c.phase[i * px.phases() + p];
            const PhaseGroup& g = c.group[at.group];
            from[p] = rows + (g.first * tall + at.index) * wide * L;
            step[p] = g.count * wide * L;
        }
        for (int64_t m = 0; m < tall; m++) {
            char* plane = c.strip.output_plane(b.n, filter + m);
            for (int64_t r = 0; r < runs; r++) {
                const int64_t row = run[r].y * py.stride + i - py.origin;
                if (row >= 0 && row < c.height)
                    interleave_row(from, px.phases(), run[r].at, run[r].count, plane + row * stride[2], stride[3],
                                   run[r].x * px.stride - px.origin, c.width);
            }
            for (int64_t p = 0; p < px.phases(); p++) from[p] += step[p];
        }
    }
}

// `packed` may be null: the weights are then packed for this call.
template <class T>
static Status conv_transpose2d_phases(const Conv2dShape& s, Tensor input, Tensor weight, const T* packed, Tensor output,
                                      const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    using Tiles = StripTiles<T>;
    PhaseCall<T> call{{}, PhaseAxes(s, counts_from_padded_corner(s)), s.H, s.W, s.Q, nullptr, nullptr, 0, nullptr};
    const PhaseAxis &py = call.axes.y, &px = call.axes.x;
    const int64_t phases = call.axes.phases();

    StripCall<T>& c = call.strip;
    c.y = py.window(s.P);
    c.x = px.window(s.Q);
    c.in_place = c.y.taps == 1 && c.x.taps == 1 && c.y.pad == 0 && c.x.pad == 0 && c.y.output == s.P && c.x.output == s.Q &&
                 s.P * s.Q >= L && input.stride_bytes[3] == size && input.stride_bytes[2] == s.Q * size &&
                 input.stride_bytes[1] % size == 0 && input.stride_bytes[1] >= 0 &&
                 input.stride_bytes[1] / size * (s.K / s.G) < INT32_MAX;
    if (c.in_place) {
        c.x.input = c.x.output = s.P * s.Q;
        c.y.input = c.y.output = 1;
    }
    c.shape = s;
    c.shape.C = s.K, c.shape.H = c.y.input, c.shape.W = c.x.input;
    c.shape.K = s.C, c.shape.P = c.y.output, c.shape.Q = c.x.output;
    c.shape.R = c.y.taps, c.shape.S = c.x.taps;
    c.input = input;
    c.output = output;
    if (!c.in_place && strip_too_large(c.y, c.x, c.channels())) return Status::out_of_memory;
    c.activation = epilogue.activation;
    c.slope = T(epilogue.slope);
    const int threads = threads_for(2 * multiply_adds(s));
    c.blocks = cut_into_blocks<T>(c.shape, c.y, c.x, threads, c.in_place,
                                  bytes_of_planar_strip<T>(c.shape, c.y, c.x), 2 * Tiles::filters);
    c.strip = make_strip<T>(c.y, c.x, c.channels(), c.blocks.rows, c.blocks.columns);

    if (!c.in_place && c.strip.elements > INT32_MAX) return Status::out_of_memory;
    const int64_t filters = c.filters(), chunk = larger(1, smaller(filters, kRowsTogether / phases));
    const int64_t offsets = c.channels() * s.R * s.S;
    const int64_t phase_bytes = round_up(phases * int64_t(sizeof(Phase)), 64);
    const int64_t group_bytes = round_up(phases * int64_t(sizeof(PhaseGroup)), 64);
    // In place a phase has one tap or none, so one panel serves all groups.
    c.panels = c.in_place && panels_pay<T>(filters * phases, c.channels());
    c.depth = c.channels();
    const int64_t offset_bytes = round_up(offsets * int64_t(sizeof(DepthStep)), 64);
    const int64_t place_bytes = packed ? 0 : round_up(s.R * s.S * int64_t(sizeof(TapPlace)), 64);
    const int64_t weight_bytes = packed ? 0 : round_up(s.K * (s.C / s.G) * s.R * s.S * size, 64);
    const int64_t bias_bytes = round_up((s.C + L) * size, 64);
    const int64_t list_bytes = round_up((2 * kVectorsPerBlock + 4) * int64_t(sizeof(PixelVector)), 64);
    const int64_t rows_bytes = round_up((chunk * phases * Tiles::more_vectors + 1) * L * size, 64);
    const int64_t row_bias_bytes = round_up((chunk * phases + L) * size, 64);
    const int64_t pointer_bytes = round_up(px.phases() * int64_t(sizeof(T*)), 64), step_bytes = round_up(px.phases() * 8, 64);
    const int64_t own_bytes = list_bytes + rows_bytes + row_bias_bytes + pointer_bytes + step_bytes;
    const int64_t panel = c.channels() * kPanelPitch<T>;
    const int64_t tiles = c.panels ? smaller(kTilesPerSweep, kPanelBytes / (panel * size)) : kTilesPerSweep;
    const int64_t thread_bytes = own_bytes + round_up((c.panels ? tiles * panel : c.strip_elements()) * size, 64);
    Scratch scratch(phase_bytes + group_bytes + offset_bytes + place_bytes + weight_bytes + bias_bytes + threads * thread_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    char* free_part = scratch.data();
    const auto take = [&](int64_t bytes) { return (free_part += bytes) - bytes; };
    Phase* phase = reinterpret_cast<Phase*>(take(phase_bytes));
    PhaseGroup* group = reinterpret_cast<PhaseGroup*>(take(group_bytes));
    DepthStep* step = reinterpret_cast<DepthStep*>(take(offset_bytes));
    TapPlace* place = reinterpret_cast<TapPlace*>(take(place_bytes));
    c.step = step;
    T* fresh = reinterpret_cast<T*>(take(weight_bytes));
    T* bias = reinterpret_cast<T*>(take(bias_bytes));
    char* per_thread = free_part;

    for (int64_t i = 0; i < s.C + L; i++)
        bias[i] = epilogue.bias && i < s.C ? load_scalar<T>(epilogue.bias + i * epilogue.bias_stride_bytes) : T(0);
    c.bias = bias;
    call.groups = group_phases(call.axes, phase, group);
    lay_out_groups(s, call.axes, phase, group, call.groups);
    for (int64_t i = 0; i < phases; i++) {
        if (phase[i].index > 0) continue;
        PhaseGroup& g = group[phase[i].group];
        g.steps = step;
        const int64_t y = i / px.phases(), x = i % px.phases();
        for (int64_t r = py.first_tap(y); r < s.R; r += py.tap_step())
            for (int64_t t = px.first_tap(x); t < s.S; t += px.tap_step()) {
                const int64_t first = c.in_place ? 0 : c.strip.offset(py.shift(y, r) + c.y.pad, px.shift(x, t) + c.x.pad);
                for (int64_t k = 0; k < c.channels(); k++, step++)
                    *step = {int32_t(first + k * c.from_channel()), int32_t(step - g.steps)};
            }
    }
    call.phase = phase;
    call.group = group;
    call.weights = packed ? packed : fresh;
    if (!packed) place_taps(s, call.axes, phase, group, place);

    const bool prefetch = output.stride_bytes[3] == size && c.channels() >= 64;
    const int64_t items = s.N * s.G * c.blocks.per_image() * c.blocks.filter_parts;
    parallel(threads, [&](Team team) {
        if (!packed) {
            pack_phases(s, place, weight, fresh, team);
            team.wait_for_all();
        }
        char* mine = per_thread + team.id * thread_bytes;
        PixelVector* list = reinterpret_cast<PixelVector*>(mine);
        T* rows = reinterpret_cast<T*>(mine + list_bytes);
        T* row_bias = reinterpret_cast<T*>(mine + list_bytes + rows_bytes);
        const T** from = reinterpret_cast<const T**>(mine + list_bytes + rows_bytes + row_bias_bytes);
        int64_t* step = reinterpret_cast<int64_t*>(mine + list_bytes + rows_bytes + row_bias_bytes + pointer_bytes);
        T* buffer = reinterpret_cast<T*>(mine + own_bytes);
        for (int64_t item = team.begin(items); item < team.end(items); item++) {
            const Block b = block_at(c.blocks, s.G, item / c.blocks.filter_parts);
            const int64_t part = item % c.blocks.filter_parts, chunks = ceil_div(filters, chunk);
            const int64_t first = chunks * part / c.blocks.filter_parts * chunk;
            const int64_t last = smaller(filters, chunks * (part + 1) / c.blocks.filter_parts * chunk);
            const T* strip = strip_of_block(c, b, buffer);
            const int64_t pitch = c.in_place ? b.columns : c.strip.pitch;
            const int64_t count = list_vectors<T>(list, b.rows, b.columns, pitch, b.columns, c.in_place);
            const int64_t width = chunk * phases <= Tiles::few_filters ? Tiles::more_vectors : Tiles::vectors;
            const int64_t sweep = tiles * width;
            for (int64_t v0 = 0; v0 < count; v0 += sweep) {
                const int64_t v1 = smaller(count, v0 + sweep);
                for (int64_t k = first; k < last; k += chunk) {
                    const int64_t tall = smaller(chunk, last - k), filter = b.g * filters + k;
                    for (int64_t i = 0; i < call.groups; i++)
                        for (int64_t m = 0, row = group[i].first * tall; m < tall; m++)
                            for (int64_t j = 0; j < group[i].count; j++) row_bias[row++] = bias[filter + m];
                    for (int64_t v = v0, wide; v < v1; v += wide) {
                        wide = smaller(width, v1 - v);
                        PhaseRun run[kMostRuns<T>];
                        const int64_t runs = list_runs(call, b, list + v, wide, pitch, run);
                        if (prefetch) prefetch_runs(call, b, run, runs, filter, tall);
                        T* const at = c.panels ? buffer + (v - v0) / width * panel : nullptr;
                        phase_products(call, strip, at, k > first, list + v, wide, filter, tall, row_bias, rows);
                        store_phases(call, b, run, runs, wide, filter, tall, rows, from, step);
                    }
                }
            }
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
