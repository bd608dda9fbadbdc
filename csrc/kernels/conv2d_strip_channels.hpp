// Convolution over a strip of pixels (pixel_strip.h) with channel lanes: vectors of filters from packed weights, pixels
// broadcast.
//
//             2 vectors of filters
//           +----------+----------+
//   up to   |          |          |   a pixel's channels lie side by side, so that 14 pixels are 14 lines of the
//   14      |          |          |   caches, each good for many steps of the depth (r, s, c); packed weights are loaded
//   pixels  +----------+----------+   and asked for ahead; the tile is transposed on its way out
//
// Over a planar strip each step of the depth read another page: on two threads 256 channels on 28 x 28, 3 x 3 stride 2, to 256
// filters took 0.94 ms and take 0.73, 512 on 14 x 14 1.22 and 0.80, 128 on 17 x 17, 5 x 5, 0.76 and 0.69. Rows of the window that
// see only padding are skipped. Rows of few pixels go two to a tile.
#pragma once

#include "../memory.h"
#include "../pixel_strip.h"
#include "conv2d_strip_blocks.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

template <class T>
struct WindowTile {
    int64_t rows, runs, depth;  // of the window: its rows x runs of a row x steps of a run
    const T* pixels;
    int64_t row_step, run_step, pixel_stride, part_stride;
    const T *packed, *bias;
    T tile[StripTiles<T>::pixels * 2 * kLanes<T>];  // [pixel][2 * lanes]
    Activation activation;
    T slope;
};

template <class T, int MT, int NV, int PARTS = 1>
FASTCV_NOINLINE void window_tile(WindowTile<T>& t) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MT][NV];
    start_tile<T, MT, NV>(acc, t.bias);
    const T* packed = t.packed;
    for (int64_t r = 0; r < t.rows; r++)
        for (int64_t s = 0; s < t.runs; s++, packed += t.depth * 2 * L)
            pixel_rows<T, MT, NV, PARTS>(acc, t.depth, packed, t.pixels + r * t.row_step + s * t.run_step, t.pixel_stride,
                                         t.part_stride);
    activate_tile<T, MT, NV>(acc, t.activation, t.slope);
    store_tile<T, MT, NV>(acc, t.tile, 2 * L);
}

template <class T>
using WindowTileFunction = void (*)(WindowTile<T>&);

template <class T, int MT = 1>
static WindowTileFunction<T> find_window_tile(int64_t pixels, int64_t filters) {
    if constexpr (MT < StripTiles<T>::pixels) {
        if (pixels > MT) return find_window_tile<T, MT + 1>(pixels, filters);
    }
    return filters > kLanes<T> ? window_tile<T, MT, 2> : window_tile<T, MT, 1>;
}
// Of so many pixels in each of two rows.
template <class T, int MT = 1>
static WindowTileFunction<T> find_two_row_tile(int64_t pixels, int64_t filters) {
    if constexpr (MT < StripTiles<T>::pixels / 2) {
        if (pixels > MT) return find_two_row_tile<T, MT + 1>(pixels, filters);
    }
    return filters > kLanes<T> ? window_tile<T, 2 * MT, 2, 2> : window_tile<T, 2 * MT, 1, 2>;
}

// tile[pixel][filter] -> output; NCHW rows are written after a transpose.
template <class T>
static void store_channel_tile(const T* tile, int64_t pixels, int64_t filters, char* output, const int64_t* stride_bytes) {
    constexpr int L = kLanes<T>;
    constexpr int width = 2 * L;
    const int64_t filter_bytes = stride_bytes[1], column_bytes = stride_bytes[3];
    if (filter_bytes == int64_t(sizeof(T))) {
        for (int64_t i = 0; i < pixels; i++)
            for (int64_t k = 0; k < filters; k += L)
                store_first(reinterpret_cast<T*>(output + i * column_bytes) + k, load(tile + i * width + k), filters - k);
    } else if (column_bytes == int64_t(sizeof(T))) {
        for (int64_t k = 0; k < filters; k += L)
            for (int64_t i = 0; i < pixels; i += L) {
                Vec<T> square[L];
                FASTCV_UNROLL for (int j = 0; j < L; j++)
                    square[j] = i + j < pixels ? load(tile + (i + j) * width + k) : zero<T>();
                transpose<T>(square);
                FASTCV_UNROLL for (int j = 0; j < L; j++)
                    if (k + j < filters)
                        store_first(reinterpret_cast<T*>(output + (k + j) * filter_bytes) + i, square[j], pixels - i);
            }
    } else {
        for (int64_t i = 0; i < pixels; i++)
            for (int64_t k = 0; k < filters; k++)
                store_scalar(output + k * filter_bytes + i * column_bytes, tile[i * width + k]);
    }
}

// Packs weights for channel lanes: [group][panel of 2 vectors][r][s][c][filter], zeros behind the last filter.
template <class T>
static int64_t channel_lane_weights(const Conv2dShape& s) {
    return s.G * ceil_div(s.K / s.G, 2 * kLanes<T>) * 2 * kLanes<T> * (s.C / s.G) * s.R * s.S;
}
template <class T>
static void pack_for_channel_lanes(const Conv2dShape& s, const Weights& weight, T* packed, Team team) {
    constexpr int64_t L = kLanes<T>, width = 2 * L, size = int64_t(sizeof(T));
    const int64_t filters = s.K / s.G, channels = s.C / s.G, panels = ceil_div(filters, width);
    const int64_t window = s.R * s.S, depth = window * channels;
    const bool contiguous = (s.S == 1 || weight.column_bytes == size) && (s.R == 1 || weight.row_bytes == s.S * size) &&
                            (channels == 1 || weight.channel_bytes == window * size) && weight.filter_bytes % size == 0;
    for (int64_t panel = team.begin(s.G * panels); panel < team.end(s.G * panels); panel++) {
        const int64_t first = panel % panels * width, count = smaller(width, filters - first);
        const char* from = weight.at(panel / panels, first, 0);
        T* to = packed + panel * depth * width;
        if (contiguous) {
            // A filter's weights are one row [c][r][s]: squares of filters x weights are transposed.
            const T* row = reinterpret_cast<const T*>(from);
            const int64_t filter_stride = weight.filter_bytes / int64_t(sizeof(T));
            for (int64_t k = 0; k < width; k += L)
                for (int64_t e = 0; e < depth; e += L) {
                    Vec<T> square[L];
                    FASTCV_UNROLL for (int64_t i = 0; i < L; i++)
                        square[i] = k + i < count ? load_first(row + (k + i) * filter_stride + e, depth - e) : zero<T>();
                    transpose<T>(square);
                    for (int64_t i = 0, c = e / window, tap = e % window; i < smaller(L, depth - e); i++) {
                        store(to + (tap * channels + c) * width + k, square[i]);
                        if (++tap == window) tap = 0, c++;
                    }
                }
            continue;
        }
        for (int64_t r = 0; r < s.R; r++)
            for (int64_t t = 0; t < s.S; t++)
                for (int64_t c = 0; c < channels; c++, to += width) {
                    const char* tap = from + c * weight.channel_bytes + r * weight.row_bytes + t * weight.column_bytes;
                    for (int64_t k = 0; k < width; k++) to[k] = k < count ? load_scalar<T>(tap + k * weight.filter_bytes) : T(0);
                }
    }
}

// All filters [first_panel, last_panel) x 2 vectors of a block.
template <class T>
static void channel_lane_block(const Conv2dShape& s, const PixelStrip<T>& strip, const T* pixels, const Block& b, WindowTile<T>& t,
                               const T* packed, const T* bias, int64_t first_panel, int64_t last_panel, const Tensor& output) {
    constexpr int64_t width = 2 * kLanes<T>, most = StripTiles<T>::pixels;
    const int64_t filters = s.K / s.G, panels = ceil_div(filters, width), row_depth = s.S * strip.channels;
    const int64_t* stride = output.stride_bytes;
    const bool two_rows_fit = 2 * b.columns <= most;
    for (int64_t panel = b.g * panels + first_panel; panel < b.g * panels + last_panel; panel++) {
        const int64_t filter = (panel - b.g * panels) * width, count = smaller(width, filters - filter);
        t.bias = bias + panel * width;
        for (int64_t y = 0, rows; y < b.rows; y += rows) {
            const int64_t first = strip.window_y.first_tap(b.y + y), last = larger(first, strip.window_y.last_tap(b.y + y));
            rows = two_rows_fit && y + 1 < b.rows && strip.window_y.first_tap(b.y + y + 1) == first &&
                           strip.window_y.last_tap(b.y + y + 1) == last
                       ? 2
                       : 1;
            t.rows = last - first;
            t.packed = packed + (panel * s.R + first) * row_depth * width;
            const int64_t pieces = ceil_div(b.columns, most);
            for (int64_t piece = 0; piece < pieces; piece++) {
                const int64_t x = b.columns * piece / pieces, columns = b.columns * (piece + 1) / pieces - x;
                t.pixels = pixels + y * t.part_stride + first * t.row_step + x * t.pixel_stride;
                (rows == 2 ? find_two_row_tile<T> : find_window_tile<T>)(columns, count)(t);
                char* to = output.data + b.n * stride[0] + (b.g * filters + filter) * stride[1] + (b.y + y) * stride[2] +
                           (b.x + x) * stride[3];
                for (int64_t row = 0; row < rows; row++)
                    store_channel_tile(t.tile + row * columns * width, columns, count, to + row * stride[2], stride);
            }
        }
    }
}

// Windows much smaller than their stride would leave most of such a strip unread.
static bool fits_pixel_strip(const Conv2dShape& s) {
    const Axis y = vertical(s), x = horizontal(s);
    return PixelAxis(y).stride <= 2 * s.R && PixelAxis(x).stride <= 2 * s.S;
}

template <class T>
static StripBytes bytes_of_pixel_strip(const Conv2dShape& s, const Axis& y, const Axis& x) {
    const PixelStrip<T> row(y, x, s.C / s.G, 1, s.Q);
    const int64_t beyond = row.columns - s.Q * row.x.stride;
    // Weights that do not stay in the second-level cache beside a strip come again for each block: with strips of 1 MiB, 192 to 384
    // channels on 40 x 40, stride 2, went from 1.61 to 1.52 ms, 256 to 256 on 56 x 56 from 3.11 to 2.89.
    const bool many_weights = channel_lane_weights<T>(s) / s.G * int64_t(sizeof(T)) > kStripBytes;
    return {row.y.stride * row.row * int64_t(sizeof(T)), larger(0, ceil_div(row.rows - row.y.stride, row.y.stride)),
            larger(0, ceil_div(beyond, row.x.stride)), many_weights ? second_level_cache_bytes() / 2 : kStripBytes,
            StripTiles<T>::pixels};
}

// `packed` may be null: the weights are then packed for this call.
template <class T>
static Status conv2d_strip_channels(const Conv2dShape& original, Tensor input, const Weights& weight, const T* packed, Tensor output,
                                    const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>, width = 2 * L, size = int64_t(sizeof(T));
    const Conv2dShape s = flatten_pointwise(original, input, output);
    const Axis y = vertical(s), x = horizontal(s);
    const int64_t channels = s.C / s.G, panels = ceil_div(s.K / s.G, width);
    if (strip_too_large(y, x, channels)) return Status::out_of_memory;
    const int threads = threads_for(2 * multiply_adds(s));
    const StripBlocks blocks = cut_into_blocks<T>(s, y, x, threads, false, bytes_of_pixel_strip<T>(s, y, x), width);
    const PixelStrip<T> strip(y, x, channels, blocks.rows, blocks.columns);

    const int64_t bias_bytes = round_up(s.G * panels * width * size, 64);
    const int64_t weight_bytes = packed ? 0 : round_up(channel_lane_weights<T>(s) * size, 64);
    const int64_t strip_bytes = round_up(strip.elements() * size, 64);
    Scratch scratch(bias_bytes + weight_bytes + threads * strip_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    T* bias = reinterpret_cast<T*>(scratch.data());
    T* fresh = reinterpret_cast<T*>(scratch.data() + bias_bytes);
    fill_panel_bias(s, width, epilogue, bias);
    const int64_t items = s.N * s.G * blocks.per_image() * blocks.filter_parts;
    parallel(threads, [&](Team team) {
        if (!packed) {
            pack_for_channel_lanes<T>(s, weight, fresh, team);
            team.wait_for_all();
        }
        T* pixels = reinterpret_cast<T*>(scratch.data() + bias_bytes + weight_bytes + team.id * strip_bytes);
        WindowTile<T> t;
        t.runs = strip.one_run() ? 1 : s.S;
        t.depth = s.S * channels / t.runs;
        t.row_step = strip.y.tap * strip.row;
        t.run_step = strip.x.tap * strip.pixel;
        t.pixel_stride = strip.x.stride * strip.pixel;
        t.part_stride = strip.y.stride * strip.row;
        t.activation = epilogue.activation;
        t.slope = T(epilogue.slope);
        for (int64_t item = team.begin(items); item < team.end(items); item++) {
            const Block b = block_at(blocks, s.G, item / blocks.filter_parts);
            const int64_t part = item % blocks.filter_parts;
            // A block's filters in parts follow one another: what the last one filled may serve the next.
            if (item == team.begin(items) || part == 0)
                fill_pixel_strip(strip, pixels, planes_of(s, input, b.n, b.g), b.y, b.x, b.rows);
            channel_lane_block(s, strip, pixels, b, t, packed ? packed : fresh, bias, panels * part / blocks.filter_parts,
                               panels * (part + 1) / blocks.filter_parts, output);
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
