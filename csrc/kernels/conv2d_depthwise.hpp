// Depthwise convolution: every filter sees one channel, so there is no sum over channels to hide loads behind.
//
//   output[c * M + m][p][q] = sum over r, s of weight[c * M + m][r][s] * strip[slot][p + step(r)][q + step(s)]
//
// One channel's plane is copied into a padded strip (strip.h) that stays in the first- or second-level cache; padding is
// cleared once, since every plane overwrites the same inside. Lanes are pixels of a row:
//
//   rows in flight:  4 output rows x up to 4 vectors.  An input vector is loaded once per column tap and feeds all the
//                    output rows whose window it lies in: (4 + R - 1) loads for 4 * R multiply-adds.
//
// Rows that share input are `row_step` apart: 1, or the dilation. With a stride, taps of one phase are such a set on their own,
// so a window is a list of groups of taps, each a small stride-1 window. Groups hold at most 7 taps, whose weights stay in
// registers.
//
// Planes narrower than a vector would waste lanes: there vectors run on across row ends instead.
//
// Channels-last: lanes are channels, pixels of a row share a loaded weight, taps outside the input are skipped.
//
// Why not fewer rows: a vector load that crosses a cache line costs two, and shifted loads nearly all do; loading each tap anew
// left 3x3 at half the speed and 7x7 at a third. More rows or vectors spill.
#pragma once

#include "conv2d_strip.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int kGroupTaps = 7;

struct DepthwiseTiles {
    static constexpr int rows = 4;
    static constexpr int vectors = kManyRegisters ? 4 : 2;
};

// Taps r, r + cycle, .. of one phase: their rows in the strip are `row_step` apart.
struct TapGroup {
    int64_t strip;   // elements to the first tap's row
    int64_t weight;  // elements to the first tap's row of weights
    int taps;
};

template <class T>
struct DepthwiseCall {
    Conv2dShape shape;
    Tensor input, output;
    Axis y, x;
    Strip strip;
    bool across_rows;          // vectors run on across row ends
    int64_t block_rows, multiplier;
    int64_t row_step;          // strip rows between output rows that share input
    int64_t group_stride;      // elements between two taps' weights of one group
    int64_t groups;
    const TapGroup* group;
    const int64_t* column;     // elements to column tap s
    const T* weight;           // [K][R * S]
    const T* bias;
    Activation activation;
    T slope;
};

// acc[o][v] += taps J x (all column taps) for output rows o, `row` elements apart.
template <class T, int Rows, int NV, int J>
FASTCV_INLINE void add_taps(Vec<T> (&acc)[Rows][NV], const T* strip, int64_t row, const int64_t* column, int64_t columns,
                            const T* weight, int64_t tap_stride) {
    for (int64_t s = 0; s < columns; s++) {
        Vec<T> w[J];
        FASTCV_UNROLL for (int j = 0; j < J; j++) w[j] = splat(weight[s + j * tap_stride]);
        const T* p = strip + column[s];
        FASTCV_UNROLL for (int i = 0; i < Rows + J - 1; i++) {
            FASTCV_UNROLL for (int v = 0; v < NV; v++) {
                Vec<T> x = load(p + v * kLanes<T>);
                keep(x);
                FASTCV_UNROLL for (int o = 0; o < Rows; o++)
                    if (i - o >= 0 && i - o < J) acc[o][v] = fma(x, w[i - o], acc[o][v]);
            }
            p += row;
        }
    }
}

// Where a tile goes: `rows` of its rows, the last vector cut to `last` lanes.
struct TileSink {
    char* output;
    int64_t row_bytes, rows, last;
};

template <class T, int Rows, int NV>
FASTCV_NOINLINE void depthwise_tile(const DepthwiseCall<T>& c, const T* strip, const T* weight, T bias, const TileSink& sink) {
    Vec<T> acc[Rows][NV];
    FASTCV_UNROLL for (int o = 0; o < Rows; o++) FASTCV_UNROLL for (int v = 0; v < NV; v++) acc[o][v] = splat(bias);
    const int64_t row = c.row_step * c.strip.pitch, columns = c.shape.S;
    for (int64_t g = 0; g < c.groups; g++) {
        const TapGroup& group = c.group[g];
        const T* p = strip + group.strip;
        const T* w = weight + group.weight;
        switch (group.taps) {
            case 1: add_taps<T, Rows, NV, 1>(acc, p, row, c.column, columns, w, c.group_stride); break;
            case 2: add_taps<T, Rows, NV, 2>(acc, p, row, c.column, columns, w, c.group_stride); break;
            case 3: add_taps<T, Rows, NV, 3>(acc, p, row, c.column, columns, w, c.group_stride); break;
            case 4: add_taps<T, Rows, NV, 4>(acc, p, row, c.column, columns, w, c.group_stride); break;
            case 5: add_taps<T, Rows, NV, 5>(acc, p, row, c.column, columns, w, c.group_stride); break;
            case 6: add_taps<T, Rows, NV, 6>(acc, p, row, c.column, columns, w, c.group_stride); break;
            default: add_taps<T, Rows, NV, 7>(acc, p, row, c.column, columns, w, c.group_stride); break;
        }
    }
    FASTCV_UNROLL for (int o = 0; o < Rows; o++) {
        if (o >= sink.rows) break;
        T* to = reinterpret_cast<T*>(sink.output + o * sink.row_bytes);
        FASTCV_UNROLL for (int v = 0; v < NV; v++) {
            const Vec<T> result = activate<T>(acc[o][v], c.activation, c.slope);
            if (v < NV - 1)
                store(to + v * kLanes<T>, result);
            else
                store_first(to + v * kLanes<T>, result, sink.last);
        }
    }
}

template <class T>
using DepthwiseTile = void (*)(const DepthwiseCall<T>&, const T*, const T*, T, const TileSink&);
template <class T, int Rows>
static DepthwiseTile<T> find_depthwise_tile(int64_t vectors) {
    if constexpr (DepthwiseTiles::vectors == 4) {
        if (vectors == 4) return depthwise_tile<T, Rows, 4>;
        if (vectors == 3) return depthwise_tile<T, Rows, 3>;
    }
    return vectors == 2 ? depthwise_tile<T, Rows, 2> : depthwise_tile<T, Rows, 1>;
}

// Output rows [0, rows) of one filter from its filled strip.
template <class T>
static void depthwise_rows(const DepthwiseCall<T>& c, const T* strip, const T* weight, T bias, char* output, int64_t rows) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    constexpr int kRows = DepthwiseTiles::rows, kVectors = DepthwiseTiles::vectors;
    const int64_t* stride = c.output.stride_bytes;
    T buffer[kRows * kVectors * L];
    const int64_t vectors = ceil_div(c.x.output, L), pieces = ceil_div(vectors, kVectors);
    for (int64_t first = 0; first < smaller(c.row_step, rows); first++)
        for (int64_t y = first; y < rows; y += kRows * c.row_step) {
            const int64_t tall = smaller(kRows, ceil_div(rows - y, c.row_step));
            for (int64_t piece = 0; piece < pieces; piece++) {
                const int64_t v0 = vectors * piece / pieces, wide = vectors * (piece + 1) / pieces - v0;
                const T* from = strip + y * c.strip.pitch + v0 * L;
                const auto tile = tall == 1 ? find_depthwise_tile<T, 1>(wide) : find_depthwise_tile<T, kRows>(wide);
                char* to = output + y * stride[2] + v0 * L * stride[3];
                const int64_t columns = smaller(wide * L, c.x.output - v0 * L);
                if (stride[3] == size) {
                    tile(c, from, weight, bias, {to, c.row_step * stride[2], tall, columns - (wide - 1) * L});
                    continue;
                }
                tile(c, from, weight, bias, {reinterpret_cast<char*>(buffer), wide * L * size, tall, L});
                for (int64_t o = 0; o < tall; o++)
                    for (int64_t x = 0; x < columns; x++)
                        store_scalar(to + o * c.row_step * stride[2] + x * stride[3], buffer[o * wide * L + x]);
            }
        }
}

// The same with vectors that run on across row ends.
template <class T>
static void depthwise_across_rows(const DepthwiseCall<T>& c, const T* strip, const T* weight, T bias, char* output,
                                  const PixelVector* list, int64_t count) {
    constexpr int64_t L = kLanes<T>;
    T buffer[DepthwiseTiles::vectors * L];
    for (int64_t v = 0, wide; v < count; v += wide) {
        wide = smaller(DepthwiseTiles::vectors, count - v);
        find_depthwise_tile<T, 1>(wide)(c, strip + list[v].strip, weight, bias, {reinterpret_cast<char*>(buffer), 0, 1, L});
        for (int64_t j = 0; j < wide; j++)
            store_lanes(reinterpret_cast<T*>(output) + list[v + j].output, load(buffer + j * L), list[v + j].lanes);
    }
}

// Copies a channel's rows into the strip's inside; what lies around was cleared before.
template <class T>
static void copy_plane(const DepthwiseCall<T>& c, T* strip, const char* plane, int64_t first_row, int64_t rows) {
    for (int64_t slot_y = 0; slot_y < c.y.slots(); slot_y++)
        for (int64_t slot_x = 0; slot_x < c.x.slots(); slot_x++) {
            T* to = strip + (slot_y * c.x.slots() + slot_x) * c.strip.plane;
            const int64_t first = c.x.phase_of_slot(slot_x) - c.x.pad;
            const int64_t begin = first >= 0 ? 0 : smaller(c.strip.pitch, ceil_div(-first, c.x.stride));
            const int64_t end = first >= c.x.input ? begin : smaller(c.strip.pitch, (c.x.input - 1 - first) / c.x.stride + 1);
            // Rows of this phase inside the input.
            const int64_t top = c.y.phase_of_slot(slot_y) - c.y.pad, step = c.y.stride;
            const int64_t from = larger(0, ceil_div(-top, step) - first_row);
            const int64_t until = smaller(rows, (c.y.input - 1 - top >= 0 ? (c.y.input - 1 - top) / step + 1 : 0) - first_row);
            const char* row = plane + ((first_row + from) * step + top) * c.input.stride_bytes[2] +
                              (begin * c.x.stride + first) * c.input.stride_bytes[3];
            const int64_t row_bytes = step * c.input.stride_bytes[2], column_bytes = c.x.stride * c.input.stride_bytes[3];
            for (int64_t r = from; r < until; r++, row += row_bytes)
                copy_row(to + r * c.strip.pitch + begin, row, column_bytes, end - begin);
        }
}

// ---- channels-last: lanes are channels

template <class T, int NV>
FASTCV_INLINE void channels_last_pixels(const Conv2dShape& s, const char* image, const int64_t* stride, const T* weight,
                                        int64_t weight_tap, int64_t y, int64_t x, int64_t lanes, Vec<T> (&acc)[NV]) {
    for (int64_t r = 0; r < s.R; r++) {
        const int64_t row = y * s.stride_h + r * s.dilation_h - s.pad_top;
        if (row < 0 || row >= s.H) continue;
        for (int64_t t = 0; t < s.S; t++) {
            const Vec<T> w = load(weight + (r * s.S + t) * weight_tap);
            FASTCV_UNROLL for (int v = 0; v < NV; v++) {
                const int64_t column = (x + v) * s.stride_w + t * s.dilation_w - s.pad_left;
                if (column < 0 || column >= s.W) continue;
                acc[v] = fma(load_first(reinterpret_cast<const T*>(image + row * stride[2] + column * stride[3]), lanes), w, acc[v]);
            }
        }
    }
}

// weight[tap][channel], channels rounded up to a vector.
template <class T>
static void depthwise_channels_last(const DepthwiseCall<T>& c, const T* weight, int64_t first, int64_t last) {
    constexpr int64_t L = kLanes<T>;
    constexpr int NV = 6;
    const Conv2dShape& s = c.shape;
    const int64_t padded = round_up(s.C, L);
    for (int64_t item = first; item < last; item++) {
        const int64_t n = item / s.P, y = item % s.P;
        for (int64_t ch = 0; ch < s.C; ch += L) {
            const char* image = c.input.data + n * c.input.stride_bytes[0] + ch * int64_t(sizeof(T));
            char* row = c.output.data + n * c.output.stride_bytes[0] + y * c.output.stride_bytes[2] + ch * int64_t(sizeof(T));
            const int64_t lanes = s.C - ch;
            const auto finish = [&](Vec<T> v, int64_t x) {
                store_first(reinterpret_cast<T*>(row + x * c.output.stride_bytes[3]), activate<T>(v, c.activation, c.slope), lanes);
            };
            int64_t x = 0;
            for (; x + NV <= s.Q; x += NV) {
                Vec<T> acc[NV];
                FASTCV_UNROLL for (int v = 0; v < NV; v++) acc[v] = load(c.bias + ch);
                channels_last_pixels<T, NV>(s, image, c.input.stride_bytes, weight + ch, padded, y, x, lanes, acc);
                FASTCV_UNROLL for (int v = 0; v < NV; v++) finish(acc[v], x + v);
            }
            for (; x < s.Q; x++) {
                Vec<T> acc[1] = {load(c.bias + ch)};
                channels_last_pixels<T, 1>(s, image, c.input.stride_bytes, weight + ch, padded, y, x, lanes, acc);
                finish(acc[0], x);
            }
        }
    }
}

template <class T>
static Status conv2d_depthwise(const Conv2dShape& s, Tensor input, const Weights& weight, Tensor output, const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    DepthwiseCall<T> c;
    c.shape = s;
    c.input = input;
    c.output = output;
    c.y = vertical(s);
    c.x = horizontal(s);
    c.multiplier = s.K / s.G;
    c.activation = epilogue.activation;
    c.slope = T(epilogue.slope);
    const bool channels_last = c.multiplier == 1 && input.stride_bytes[1] == size && output.stride_bytes[1] == size &&
                               input.stride_bytes[3] != size;
    const int64_t row_bytes = c.x.slots() * c.y.slots() * (s.Q + c.x.steps() + L) * size;
    const int64_t fitting = larger(8, kStripBytes / row_bytes - c.y.steps());
    c.block_rows = smaller(s.P, fitting);
    c.row_step = c.y.cycle() * s.dilation_h / s.stride_h;
    const int64_t spare = DepthwiseTiles::rows * c.row_step;  // rows that a last, incomplete tile reads
    c.strip = make_strip<T>(c.y, c.x, 1, c.block_rows + spare, s.Q);
    const bool contiguous_rows = output.stride_bytes[3] == size && output.stride_bytes[2] == s.Q * size;
    const int64_t lanes_by_row = s.P * round_up(s.Q, L), lanes_across = round_up(s.P * c.strip.pitch, L);
    c.across_rows = contiguous_rows && c.block_rows == s.P && s.P * c.strip.pitch <= kVectorsPerBlock * L / 2 &&
                    lanes_across * 3 < lanes_by_row * 2;
    int64_t shift = 0;
    if (!c.across_rows) {
        // Rows begin on a cache line behind their left padding, so that copying them and reading their middle taps is aligned.
        c.strip.pitch = round_up(s.Q + c.x.steps(), L);
        c.strip.plane = (c.strip.rows + 1) * c.strip.pitch;
        c.strip.elements = c.strip.plane * c.y.slots() * c.x.slots() + (DepthwiseTiles::vectors + 2) * L;
        shift = round_up(larger(0, ceil_div(s.pad_left, s.stride_w)), L) - larger(0, ceil_div(s.pad_left, s.stride_w));
    }

    const int threads = threads_for(4 * multiply_adds(s));
    const int64_t blocks = ceil_div(s.P, c.block_rows);
    const int64_t groups = c.y.slots() * ceil_div(s.R, kGroupTaps);
    const int64_t padded = round_up(s.C, L);
    const int64_t group_bytes = round_up(groups * int64_t(sizeof(TapGroup)), 64), column_bytes = round_up(s.S * 8, 64);
    const int64_t weight_bytes = round_up((channels_last ? padded : s.K) * s.R * s.S * size, 64);
    const int64_t bias_bytes = round_up((s.K + L) * size, 64);
    const int64_t list_bytes = c.across_rows ? round_up(ceil_div(s.P * c.strip.pitch, L) * int64_t(sizeof(PixelVector)), 64) : 0;
    const int64_t strip_bytes = channels_last ? 0 : round_up(c.strip.elements * size, 64);
    Scratch scratch(group_bytes + column_bytes + weight_bytes + bias_bytes + list_bytes + threads * strip_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    char* free_part = scratch.data();
    const auto take = [&](int64_t bytes) { return (free_part += bytes) - bytes; };
    TapGroup* group = reinterpret_cast<TapGroup*>(take(group_bytes));
    int64_t* column = reinterpret_cast<int64_t*>(take(column_bytes));
    T* weights = reinterpret_cast<T*>(take(weight_bytes));
    T* bias = reinterpret_cast<T*>(take(bias_bytes));
    PixelVector* list = reinterpret_cast<PixelVector*>(take(list_bytes));

    for (int64_t k = 0; k < s.K + L; k++)
        bias[k] = epilogue.bias && k < s.K ? load_scalar<T>(epilogue.bias + k * epilogue.bias_stride_bytes) : T(0);
    for (int64_t k = 0; k < s.K; k++)
        for (int64_t tap = 0; tap < s.R * s.S; tap++)
            weights[channels_last ? tap * padded + k : k * s.R * s.S + tap] = load_scalar<T>(
                weight.at(k / c.multiplier, k % c.multiplier, 0) + tap / s.S * weight.row_bytes + tap % s.S * weight.column_bytes);
    c.bias = bias;
    c.weight = weights;
    for (int64_t t = 0; t < s.S; t++) column[t] = c.strip.offset(0, 0, t);
    c.column = column;
    c.groups = 0;
    const int64_t cycle = c.y.cycle();
    for (int64_t slot = 0; slot < smaller(s.R, cycle); slot++)
        for (int64_t r = slot; r < s.R; r += kGroupTaps * cycle)
            group[c.groups++] = {c.strip.offset(0, r, 0), r * s.S, int(smaller(kGroupTaps, ceil_div(s.R - r, cycle)))};
    c.group = group;
    c.group_stride = cycle * s.S;
    const int64_t vectors = c.across_rows ? list_vectors<T>(list, s.P, s.Q, c.strip.pitch, s.Q, false) : 0;

    const int64_t items = channels_last ? s.N * s.P : s.N * s.C * blocks;
    parallel(threads, [&](Team team) {
        if (channels_last) {
            depthwise_channels_last(c, weights, team.begin(items), team.end(items));
            return;
        }
        T* strip = reinterpret_cast<T*>(free_part + team.id * strip_bytes) + shift;
        for (int64_t item = team.begin(items); item < team.end(items); item++) {
            const int64_t channel = item / blocks % s.C, n = item / blocks / s.C, y = item % blocks * c.block_rows;
            const int64_t rows = smaller(c.block_rows, s.P - y);
            if (item == team.begin(items) || blocks > 1) fill_zeros(strip - shift, c.strip.elements - L);
            copy_plane(c, strip, input.data + n * input.stride_bytes[0] + channel * input.stride_bytes[1], y, rows + c.y.steps());
            for (int64_t m = 0; m < c.multiplier; m++) {
                const int64_t k = channel * c.multiplier + m;
                char* to = output.data + n * output.stride_bytes[0] + k * output.stride_bytes[1] + y * output.stride_bytes[2];
                const T* w = weights + k * s.R * s.S;
                if (c.across_rows)
                    depthwise_across_rows(c, strip, w, bias[k], to, list, vectors);
                else
                    depthwise_rows(c, strip, w, bias[k], to, rows);
            }
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
