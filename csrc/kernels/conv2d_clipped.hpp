// Convolution at large dilation: each output sums the taps that see the image, and no zeros.
//
//   output[k][p][q] = sum over c and the live (r, s) of weight[k][c][r][s] * input[c][p * stride + r * d - pad][q + s * d - pad]
//
// Where the distance between taps is near the size of the plane, most taps of most outputs see padding: with rate 24 on 33 x 33, 73% of
// a 3x3 window's. The live taps of an output are a range of rows times a range of columns, and neighbouring outputs share them:
//
//              q: taps 1, 2 | tap 1 | taps 0, 1
//   p: taps 1, 2    2 x 2   | 2 x 1 |   2 x 2       a row of outputs is cut where its live columns change; each piece is a tile of
//            -------------------------------        channel lanes over its own taps
//      tap  1       1 x 2   | 1 x 1 |   1 x 2
//            -------------------------------
//      taps 0, 1    2 x 2   | 2 x 1 |   2 x 2
//
// Live taps lie inside the image, so nothing is padded or copied: pixels are broadcast from where they are. That needs columns that
// are contiguous; for others conv2d_strip_channels.hpp does the same sums over a strip, from the same packed weights.
//
// Cutting the plane into nine convolutions with strips of their own lost: such a strip holds (R - 1) * d rows that no tap reads.
#pragma once

#include "conv2d_strip_channels.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// The taps that output o sees: [first, last).
struct TapRange {
    int64_t first, last;
    int64_t count() const { return last - first; }
};
static inline TapRange live_taps(const Axis& a, int64_t o) {
    const int64_t start = o * a.stride - a.pad;
    TapRange live{0, a.taps};
    while (live.first < live.last && start + live.first * a.dilation < 0) live.first++;
    while (live.last > live.first && start + (live.last - 1) * a.dilation >= a.input) live.last--;
    return live;
}
// Where outputs from o on stop to share their live taps.
static inline int64_t end_of_piece(const Axis& a, int64_t o) {
    const TapRange live = live_taps(a, o);
    int64_t end = o + 1;
    for (; end < a.output; end++) {
        const TapRange next = live_taps(a, end);
        if (next.first != live.first || next.last != live.last) break;
    }
    return end;
}

// Multiply-adds of one filter and channel, tiles of few pixels counted as five: they wait for their chains.
template <class T>
static double clipped_products(const Conv2dShape& s) {
    const Axis y = vertical(s), x = horizontal(s);
    double rows = 0, columns = 0;
    for (int64_t p = 0; p < s.P; p++) rows += double(live_taps(y, p).count());
    for (int64_t q = 0, end; q < s.Q; q = end) {
        end = end_of_piece(x, q);
        const int64_t tiles = ceil_div(end - q, StripTiles<T>::pixels);
        columns += double(larger(end - q, 5 * tiles) * live_taps(x, q).count());
    }
    return rows * columns;
}

// Contiguous columns, and strides that count elements.
template <class T>
static bool readable_without_strip(const Conv2dShape& s, Tensor input) {
    constexpr int64_t size = int64_t(sizeof(T));
    const int64_t* b = input.stride_bytes;
    const double span = double(s.C / s.G) * double(b[1]) + double(s.H) * double(b[2]);
    return b[3] == size && b[1] >= 0 && b[2] >= 0 && b[1] % size == 0 && b[2] % size == 0 && span / size < INT32_MAX;
}

// One row of the window's live taps: a contiguous part of the packed panel.
template <class T>
struct LiveRow {
    const T* packed;
    const int32_t* offset;
};

template <class T, int MT>
FASTCV_NOINLINE void clipped_tile(const LiveRow<T>* rows, int64_t count, int64_t depth, const T* pixels, const T* bias, T* tile,
                                  Activation activation, T slope) {
    constexpr int L = kLanes<T>, NV = 2;
    Vec<T> acc[MT][NV];
    FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = load(bias + j * L);
    for (int64_t r = 0; r < count; r++) channel_lanes<T, MT, NV>(acc, depth, rows[r].packed, pixels, rows[r].offset);
    FASTCV_UNROLL for (int i = 0; i < MT; i++)
        FASTCV_UNROLL for (int j = 0; j < NV; j++) store(tile + (i * NV + j) * L, activate<T>(acc[i][j], activation, slope));
}
template <class T>
using ClippedTile = void (*)(const LiveRow<T>*, int64_t, int64_t, const T*, const T*, T*, Activation, T);
template <class T, int MT = 1>
static ClippedTile<T> find_clipped_tile(int64_t pixels) {
    if constexpr (MT < StripTiles<T>::pixels) {
        if (pixels > MT) return find_clipped_tile<T, MT + 1>(pixels);
    }
    return clipped_tile<T, MT>;
}

// `packed` is what pack_for_channel_lanes() made, or null: then the weights are packed for this call. stride_w is 1, and
// readable_without_strip() holds.
template <class T>
static Status conv2d_clipped(const Conv2dShape& s, Tensor input, const Weights& weight, const T* packed, Tensor output,
                             const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>, width = 2 * L, size = int64_t(sizeof(T));
    const Axis y = vertical(s), x = horizontal(s);
    const int64_t channels = s.C / s.G, filters = s.K / s.G, panels = ceil_div(filters, width), depth = s.R * s.S * channels;
    const int threads = threads_for(2 * clipped_products<T>(s) * double(s.N * s.K) * double(channels));
    const int64_t offset_bytes = round_up(depth * int64_t(sizeof(int32_t)), 64);
    const int64_t bias_bytes = round_up(s.G * panels * width * size, 64);
    const int64_t row_bytes = round_up(s.R * int64_t(sizeof(LiveRow<T>)), 64);
    const int64_t packed_bytes = packed ? 0 : round_up(channel_lane_weights<T>(s) * size, 64);
    Scratch scratch(offset_bytes + bias_bytes + packed_bytes + threads * row_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    int32_t* offset = reinterpret_cast<int32_t*>(scratch.data());
    T* bias = reinterpret_cast<T*>(scratch.data() + offset_bytes);
    T* fresh = reinterpret_cast<T*>(scratch.data() + offset_bytes + bias_bytes);
    char* row_area = scratch.data() + offset_bytes + bias_bytes + packed_bytes;
    const int64_t row_stride = input.stride_bytes[2] / size;
    for (int64_t r = 0; r < s.R; r++)
        for (int64_t t = 0; t < s.S; t++)
            for (int64_t c = 0; c < channels; c++)
                offset[(r * s.S + t) * channels + c] =
                    int32_t(c * (input.stride_bytes[1] / size) + r * s.dilation_h * row_stride + t * s.dilation_w);
    fill_panel_bias(s, width, epilogue, bias);
    // A panel's weights stay in the second-level cache over all rows; rows are shared out where panels are few.
    const int64_t row_parts = s.N * s.G * panels >= 4 * threads ? 1 : smaller(s.P, 4 * threads);
    const int64_t items = s.N * s.G * panels * row_parts;
    parallel(threads, [&](Team team) {
        if (!packed) {
            pack_for_channel_lanes<T>(s, weight, fresh, team);
            team.wait_for_all();
        }
        LiveRow<T>* rows = reinterpret_cast<LiveRow<T>*>(row_area + team.id * row_bytes);
        T tile[StripTiles<T>::pixels * width];
        for (int64_t item = team.begin(items); item < team.end(items); item++) {
            const int64_t part = item % row_parts, panel = item / row_parts % panels;
            const int64_t g = item / row_parts / panels % s.G, n = item / row_parts / panels / s.G;
            const T* weights = (packed ? packed : fresh) + (g * panels + panel) * depth * width;
            const char* image = input.data + n * input.stride_bytes[0] + g * channels * input.stride_bytes[1];
            char* planes = output.data + n * output.stride_bytes[0] + (g * filters + panel * width) * output.stride_bytes[1];
            for (int64_t p = s.P * part / row_parts; p < s.P * (part + 1) / row_parts; p++) {
                const TapRange live_rows = live_taps(y, p);
                for (int64_t q = 0, end; q < s.Q; q = end) {
                    end = end_of_piece(x, q);
                    const TapRange live = live_taps(x, q);
                    for (int64_t r = live_rows.first; r < live_rows.last; r++) {
                        const int64_t at = (r * s.S + live.first) * channels;
                        rows[r - live_rows.first] = {weights + at * width, offset + at};
                    }
                    const int64_t tiles = ceil_div(end - q, StripTiles<T>::pixels);
                    for (int64_t i = 0; i < tiles; i++) {
                        const int64_t column = q + (end - q) * i / tiles, pixels = q + (end - q) * (i + 1) / tiles - column;
                        const char* first = image + (p * s.stride_h - s.pad_top) * input.stride_bytes[2] + (column - s.pad_left) * size;
                        find_clipped_tile<T>(pixels)(rows, live_rows.count(), live.count() * channels,
                                                     reinterpret_cast<const T*>(first), bias + (g * panels + panel) * width, tile,
                                                     epilogue.activation, T(epilogue.slope));
                        store_channel_tile(tile, pixels, smaller(width, filters - panel * width),
                                           planes + p * output.stride_bytes[2] + column * output.stride_bytes[3], output.stride_bytes);
                    }
                }
            }
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
