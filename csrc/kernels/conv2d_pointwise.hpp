// 1 x 1 convolution to channels-last images: a matrix product of pixels, read in place where the input is channels-last too.
//
//   output[pixel][k] = activation(bias[k] + sum over c of input[pixel][c] * weight[k][c])
//
//                NV vectors of filters, packed [panel][c][3 * lanes]
//               +-------+-------+-------+
//    MT pixels, |       |       |       |   a pixel's channels and an output's filters are contiguous, so pixels are broadcast
//    `stride`   |       |       |       |   where they lie and the tile is stored where it belongs: no strip
//    apart      +-------+-------+-------+
//
// Why these tiles: 8 x 3 takes 11 loads for 24 multiply-adds. One core of a Zen 4 runs it at 112 to 117 GFLOP/s of 116 measured
// in registers, for depths from 192 to 3072, pixels a multiple of 4 KiB apart included; 14 x 2, which loads less, at 79 to 112,
// since 14 pixels fight for the first-level cache. A block of pixels stays in the second-level cache while all panels go over it.
//
// Weights come once from far away, so the tiles of a block of pixels ask for what they will multiply by next while they work: the
// next panel, or of a deep one the next part, so that two parts and their pixels fit into the second-level cache. A tile adds a
// further part to what it has stored. With weights of 9.4 MB that lie in the third-level cache or beyond, 49 pixels of 768
// channels to 3072 filters take 0.82 ms on two threads, the other way 1.33; over strips, which ask for nothing, it was 1.40 and
// 1.87.
//
// Other images' pixels, as those of tokens that are a transposed plane, are transposed first, a block at a time.
//
// Neighbouring pixels of a row, of several rows and of several images make one long row where they lie evenly. Threads share out
// pixels, or panels where there are too few pixels to share evenly.
//
// Contract: arguments were checked in Python; `one_tap_to_rows` said yes. Each output is one chain of fused multiply-adds that
// starts with the bias, whatever the blocks and threads.
#pragma once

#include "../epilogue.h"
#include "../geometry.h"
#include "../parallel.h"
#include "../pixel_strip.h"
#include "../tiles.h"
#include "conv2d_strip_blocks.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int64_t kPixelBlockBytes = 384 * 1024;
constexpr int64_t kPartBytes = 192 * 1024;  // the most of a panel that is multiplied by before the next part's turn

struct PointwiseTiles {
    static constexpr int pixels = kManyRegisters ? 8 : 4;
    static constexpr int vectors = 3;
};

// Whether a window is one tap that always sees the input, and outputs hold a pixel's filters side by side.
static bool one_tap_to_rows(const Conv2dShape& s, ChannelsLast last) {
    return last.output && s.R == 1 && s.S == 1 && s.pad_top == 0 && s.pad_left == 0 && (s.P - 1) * s.stride_h < s.H &&
           (s.Q - 1) * s.stride_w < s.W;
}

template <class T>
struct PointwiseTile {
    int64_t depth;
    const T* pixels;
    int64_t pixel_stride;
    const T* packed;
    const T* bias;
    T* output;
    int64_t output_stride;
    int64_t filters;  // to store of the last vector
    bool first, last;  // part of the depth: begins with the bias, ends with the activation
    const char* asked;  // weights that the caches are asked for, so many lines every few steps
    int64_t asked_lines;
    Activation activation;
    T slope;
};

template <class T, int MT, int NV>
FASTCV_NOINLINE void pointwise_tile(const PointwiseTile<T>& t) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MT][NV];
    T* to = t.output;
    FASTCV_UNROLL for (int i = 0; i < MT; i++) {
        FASTCV_UNROLL for (int j = 0; j < NV; j++) {
            if (t.first) {
                acc[i][j] = load(t.bias + j * L);
                __builtin_prefetch(to + j * L, 1, 3);
            } else {
                acc[i][j] = j < NV - 1 ? load(to + j * L) : load_first(to + j * L, t.filters);
            }
        }
        to += t.output_stride;
    }
    strided_product_with_requests<T, MT, NV, 2>(acc, t.depth, {t.pixels, t.pixel_stride, 1, t.packed, L, PointwiseTiles::vectors * L},
                                                {t.asked, t.asked_lines, 64, 1});
    if (t.last) activate_tile<T, MT, NV>(acc, t.activation, t.slope);
    to = t.output;
    FASTCV_UNROLL for (int i = 0; i < MT; i++) {
        FASTCV_UNROLL for (int j = 0; j < NV - 1; j++) store(to + j * L, acc[i][j]);
        if (t.filters == L)
            store(to + (NV - 1) * L, acc[i][NV - 1]);
        else
            store_first(to + (NV - 1) * L, acc[i][NV - 1], t.filters);
        to += t.output_stride;
    }
}

template <class T>
using PointwiseTileFunction = void (*)(const PointwiseTile<T>&);

template <class T, int MT = 1>
static PointwiseTileFunction<T> find_pointwise_tile(int64_t pixels, int64_t vectors) {
    if constexpr (MT < PointwiseTiles::pixels) {
        if (pixels > MT) return find_pointwise_tile<T, MT + 1>(pixels, vectors);
    }
    return vectors == 1 ? pointwise_tile<T, MT, 1> : vectors == 2 ? pointwise_tile<T, MT, 2> : pointwise_tile<T, MT, 3>;
}

// The pixels of a call: images x rows x columns, of which trailing axes are one where they lie evenly in both arrays.
struct PixelRows {
    int64_t images, rows, columns;
    int64_t from_image, from_row, from_column, to_image, to_row, to_column;  // strides in bytes

    PixelRows(const Conv2dShape& s, const Tensor& input, const Tensor& output)
        : images(s.N), rows(s.P), columns(s.Q),
          from_image(input.stride_bytes[0]), from_row(input.stride_bytes[2] * s.stride_h), from_column(input.stride_bytes[3] * s.stride_w),
          to_image(output.stride_bytes[0]), to_row(output.stride_bytes[2]), to_column(output.stride_bytes[3]) {
        if (columns == 1) from_column = from_row, to_column = to_row, columns = rows, rows = 1;
        if (rows == 1 || (from_row == columns * from_column && to_row == columns * to_column)) columns *= rows, rows = 1;
        if (columns == 1) from_column = from_image, to_column = to_image, columns = images, images = 1;
        if (images > 1 && rows == 1 && from_image == columns * from_column && to_image == columns * to_column)
            columns *= images, images = 1;
    }
};

template <class T>
static int64_t pointwise_weights(const Conv2dShape& s) {
    constexpr int64_t width = PointwiseTiles::vectors * kLanes<T>;
    return s.G * round_up(s.K / s.G, width) * (s.C / s.G);
}

// [group][panel][c][filter], zeros behind the last filter.
template <class T>
static void pack_pointwise(const Conv2dShape& s, const Weights& weight, T* packed, Team team) {
    constexpr int64_t L = kLanes<T>, width = PointwiseTiles::vectors * L, size = int64_t(sizeof(T));
    const int64_t filters = s.K / s.G, channels = s.C / s.G, panels = ceil_div(filters, width);
    const bool rows_of_channels = (channels == 1 || weight.channel_bytes == size) && weight.filter_bytes % size == 0;
    const bool rows_of_filters = weight.filter_bytes == size;  // a transposed convolution's
    for (int64_t panel = team.begin(s.G * panels); panel < team.end(s.G * panels); panel++) {
        const int64_t first = panel % panels * width, count = smaller(width, filters - first);
        const char* from = weight.at(panel / panels, first, 0);
        T* to = packed + panel * channels * width;
        if (!rows_of_channels) {
            for (int64_t c = 0; c < channels; c++, to += width, from += weight.channel_bytes)
                for (int64_t k = 0; k < width; k += rows_of_filters ? L : 1)
                    if (rows_of_filters)
                        store(to + k, load_first(reinterpret_cast<const T*>(from) + k, count - k));
                    else
                        to[k] = k < count ? load_scalar<T>(from + k * weight.filter_bytes) : T(0);
            continue;
        }
        for (int64_t k = 0; k < width; k += L)
            for (int64_t c = 0; c < channels; c += L) {
                Vec<T> square[L];
                FASTCV_UNROLL for (int64_t i = 0; i < L; i++) {
                    const T* row = reinterpret_cast<const T*>(from + (k + i) * weight.filter_bytes) + c;
                    square[i] = k + i < count ? load_first(row, channels - c) : zero<T>();
                }
                transpose<T>(square);
                FASTCV_UNROLL for (int64_t i = 0; i < L; i++)
                    if (c + i < channels) store(to + (c + i) * width + k, square[i]);
            }
    }
}

// `packed` may be null: the weights are then packed for this call.
template <class T>
static Status conv2d_pointwise(const Conv2dShape& s, const Tensor& input, const Weights& weight, const T* packed, const Tensor& output,
                               const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>, width = PointwiseTiles::vectors * L, size = int64_t(sizeof(T));
    const int64_t channels = s.C / s.G, filters = s.K / s.G, panels = ceil_div(filters, width);
    const int threads = threads_for(2 * multiply_adds(s));
    const int64_t bias_bytes = round_up(s.G * panels * width * size, 64);
    const int64_t weight_bytes = packed ? 0 : round_up(pointwise_weights<T>(s) * size, 64);
    const PixelRows pixels(s, input, output);
    const int64_t pieces_of_row = ceil_div(pixels.columns, PointwiseTiles::pixels);
    const int64_t pieces = pixels.images * pixels.rows * pieces_of_row, all_panels = s.G * panels;
    const bool in_place = channels_last(input, int(size));
    const int64_t pitch = in_place ? channels : round_up(channels, L), tile_bytes = PointwiseTiles::pixels * pitch * size;
    const int64_t block = smaller(pieces, larger(4, kPixelBlockBytes / tile_bytes));
    const int64_t thread_bytes = in_place ? 0 : block * tile_bytes;
    Scratch scratch(bias_bytes + weight_bytes + threads * thread_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    T* bias = reinterpret_cast<T*>(scratch.data());
    T* packed_here = reinterpret_cast<T*>(scratch.data() + bias_bytes);
    fill_panel_bias(s, width, epilogue, bias);

    const int64_t parts = ceil_div(channels * width * size, kPartBytes), part = ceil_div(channels, parts);
    // Work for the busiest thread, in units of an even share.
    const auto unevenness = [&](int64_t n) { return double(ceil_div(n, threads)) / double(n); };
    const bool share_panels = unevenness(all_panels) < unevenness(pieces);

    parallel(threads, [&](Team team) {
        if (!packed) {
            pack_pointwise(s, weight, packed_here, team);
            team.wait_for_all();
        }
        const T* panels_from = packed ? packed : packed_here;
        const int64_t first_piece = share_panels ? 0 : team.begin(pieces), last_piece = share_panels ? pieces : team.end(pieces);
        const int64_t first_panel = share_panels ? team.begin(all_panels) : 0, last_panel = share_panels ? team.end(all_panels) : all_panels;
        T* copied = reinterpret_cast<T*>(scratch.data() + bias_bytes + weight_bytes + team.id * thread_bytes);
        // Neighbouring pixels: where they are read and written, and how many.
        struct Piece {
            const char* from;
            char* to;
            int64_t pixels;
        };
        const auto piece_at = [&](int64_t index) {
            const int64_t row = index / pieces_of_row, place = index % pieces_of_row;
            const int64_t image = row / pixels.rows, y = row % pixels.rows, x = pixels.columns * place / pieces_of_row;
            return Piece{input.data + image * pixels.from_image + y * pixels.from_row + x * pixels.from_column,
                         output.data + image * pixels.to_image + y * pixels.to_row + x * pixels.to_column,
                         pixels.columns * (place + 1) / pieces_of_row - x};
        };
        PointwiseTile<T> t;
        t.pixel_stride = in_place ? pixels.from_column / size : pitch;
        t.output_stride = pixels.to_column / size;
        t.activation = epilogue.activation;
        t.slope = T(epilogue.slope);
        const auto multiply = [&](int64_t begin, int64_t end, int64_t panel, int64_t first_channel, int64_t last_channel) {
            const int64_t g = panel / panels, k = panel % panels * width, stored = smaller(width, filters - k);
            t.depth = last_channel - first_channel;
            t.first = first_channel == 0;
            t.last = last_channel == channels;
            t.packed = panels_from + (panel * channels + first_channel) * width;
            t.bias = bias + panel * width;
            t.filters = (stored - 1) % L + 1;
            // What is multiplied by next follows in memory, but where the next block of pixels begins anew.
            const bool again = t.last && panel + 1 == last_panel;
            const T* next = again ? panels_from + first_panel * channels * width : t.packed + t.depth * width;
            const int64_t next_channels = smaller(part, t.last ? channels : channels - last_channel);
            const int64_t next_bytes = again && end == last_piece ? 0 : next_channels * width * size;
            const int64_t requests = (t.depth - 1) / kStepsBetweenRequests;
            const int64_t lines = requests ? ceil_div(next_bytes, (end - begin) * requests * 64) : 0;
            for (int64_t i = begin; i < end; i++) {
                const Piece piece = piece_at(i);
                t.pixels = (in_place ? reinterpret_cast<const T*>(piece.from) + g * channels
                                     : copied + (i - begin) * PointwiseTiles::pixels * pitch) + first_channel;
                t.output = reinterpret_cast<T*>(piece.to) + g * filters + k;
                const int64_t asked_bytes = (i - begin) * requests * lines * 64;
                t.asked = reinterpret_cast<const char*>(next) + asked_bytes;
                t.asked_lines = asked_bytes < next_bytes ? lines : 0;
                find_pointwise_tile<T>(piece.pixels, ceil_div(stored, L))(t);
            }
        };
        for (int64_t begin = first_piece; begin < last_piece; begin += block) {
            const int64_t end = smaller(last_piece, begin + block);
            for (int64_t panel = first_panel; panel < last_panel; panel++) {
                if (!in_place && (panel == first_panel || panel % panels == 0))
                    for (int64_t i = begin; i < end; i++) {
                        const Piece piece = piece_at(i);
                        const char* from = piece.from + panel / panels * channels * input.stride_bytes[1];
                        gather_pixels(from, pixels.from_column, input.stride_bytes[1], piece.pixels, channels,
                                      copied + (i - begin) * PointwiseTiles::pixels * pitch, pitch, from + piece.pixels * pixels.from_column);
                    }
                for (int64_t c = 0; c < channels; c += part) multiply(begin, end, panel, c, smaller(channels, c + part));
            }
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
