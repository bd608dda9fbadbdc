// Convolution over a strip with channel lanes: vectors of filters from packed weights, pixels broadcast; and that packing.
#pragma once

#include "conv2d_strip_blocks.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// Depth runs (r, s, c): rows of the window that see only padding cut it short at either end. The tile is
// [image][pixel][2 * lanes].
template <class T>
struct ChannelTile {
    int64_t depth;
    const T *packed, *pixels;
    int64_t image_stride;
    const int32_t* offset;
    const T* bias;
    T* tile;
    Activation activation;
    T slope;
};

template <class T, int MT, int NV, int IMAGES = 1>
FASTCV_NOINLINE void channel_tile(const ChannelTile<T>& t) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MT][NV];
    FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = load(t.bias + j * L);
    channel_lanes<T, MT, NV, IMAGES>(acc, t.depth, t.packed, t.pixels, t.offset, t.image_stride);
    if (t.activation != Activation::none)
        FASTCV_UNROLL for (int i = 0; i < MT; i++)
            FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = activate<T>(acc[i][j], t.activation, t.slope);
    FASTCV_UNROLL for (int i = 0; i < MT; i++)
        FASTCV_UNROLL for (int j = 0; j < NV; j++) store(t.tile + (2 * i + j) * L, acc[i][j]);
}

template <class T>
using ChannelTileFunction = void (*)(const ChannelTile<T>&);

template <class T, int MT = 1>
static ChannelTileFunction<T> find_channel_tile(int64_t pixels, int64_t filters) {
    if constexpr (MT < StripTiles<T>::pixels) {
        if (pixels > MT) return find_channel_tile<T, MT + 1>(pixels, filters);
    }
    return filters > kLanes<T> ? channel_tile<T, MT, 2> : channel_tile<T, MT, 1>;
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

template <class T>
static void channel_lane_block(const StripCall<T>& c, const Block& b, const T* strip, int64_t first_filter,
                               int64_t last_filter) {
    constexpr int L = kLanes<T>;
    constexpr int width = 2 * L;
    const int64_t pieces = ceil_div(b.columns, StripTiles<T>::pixels);
    const int64_t panels_of_group = ceil_div(c.filters(), width);
    const int64_t pitch = c.in_place ? b.columns : c.strip.pitch;
    const int64_t row_depth = c.shape.S * c.channels();
    T tile[StripTiles<T>::pixels * width];
    ChannelTile<T> t{};
    t.tile = tile;
    t.activation = c.activation;
    t.slope = c.slope;
    for (int64_t k = first_filter; k < last_filter; k += width) {
        const int64_t panel = b.g * panels_of_group + k / width, filters = smaller(width, c.filters() - k);
        const T* packed = c.packed + panel * c.depth * width;
        for (int64_t y = 0; y < b.rows; y++) {
            // Rows of the window inside the input.
            int64_t r0 = 0, r1 = c.shape.R;
            const int64_t top = (b.y + y) * c.y.stride - c.y.pad;
            while (r0 < r1 && top + r0 * c.y.dilation < 0) r0++;
            while (r1 > r0 && top + (r1 - 1) * c.y.dilation >= c.shape.H) r1--;
            for (int64_t piece = 0; piece < pieces; piece++) {
                const int64_t x = b.columns * piece / pieces, pixels = b.columns * (piece + 1) / pieces - x;
                t.depth = (r1 - r0) * row_depth;
                t.packed = packed + r0 * row_depth * width;
                t.pixels = strip + y * pitch + x;
                t.offset = c.offset + r0 * row_depth;
                t.bias = c.bias + b.g * panels_of_group * width + k;
                find_channel_tile<T>(pixels, filters)(t);
                char* output = c.output_plane(b.n, b.g * c.filters() + k) + (b.y + y) * c.output.stride_bytes[2] +
                               (b.x + x) * c.output.stride_bytes[3];
                store_channel_tile(tile, pixels, filters, output, c.output.stride_bytes);
            }
        }
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

}  // namespace
}  // namespace fastcv::FASTCV_ISA
