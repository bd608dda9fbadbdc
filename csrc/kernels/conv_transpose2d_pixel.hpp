// Transposed convolution of images of one pixel: a matrix product with the weights as they lie.
//
//   output[n][c][r][s] = sum over k of input[n][k] * weight[k][c][r][s]
//
// As it is whole windows that come out, nothing overlaps and no stride is ever taken. An image's output and a channel's weights
// are one row each of columns (c, r, s):
//
//             3 vectors of columns
//           +--------+--------+--------+
//   up to   |        |        |        |   inputs are broadcast; weights are loaded, once from memory for all images: a panel of
//   8 images|        |        |        |   them is copied where there are more images than rows of a tile, as rows of the weights
//           +--------+--------+--------+   may lie 64 KiB apart and compete for the same cache sets
//
// As an ordinary convolution each output sees one tap of its window inside the image, and a call packs all the weights: 100 to
// 1024 channels, 4x4 taps, 16 images took 3.8 ms so, and 1.2 ms with packed weights; here they take 0.35 ms.
#pragma once

#include "conv2d_strip_blocks.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int kPixelVectors = 3;

// Whether images have one pixel and outputs are whole windows.
static bool one_pixel(const Conv2dShape& s) {
    return s.P == 1 && s.Q == 1 && s.H == s.R && s.W == s.S && s.pad_top == 0 && s.pad_left == 0 &&
           (s.dilation_h == 1 || s.R == 1) && (s.dilation_w == 1 || s.S == 1);
}

// Whether rows of weights and outputs are contiguous, and inputs whole elements apart.
template <class T>
static bool rows_of_columns(const Conv2dShape& s, Tensor input, Tensor weight, Tensor output) {
    constexpr int64_t size = int64_t(sizeof(T));
    const int64_t filters = s.C / s.G;
    const auto contiguous = [&](const int64_t* b) {
        return (s.S == 1 || b[3] == size) && (s.R == 1 || b[2] == s.S * size) && (filters == 1 || b[1] == s.R * s.S * size);
    };
    return contiguous(weight.stride_bytes) && contiguous(output.stride_bytes) && input.stride_bytes[0] % size == 0 &&
           input.stride_bytes[1] % size == 0 && weight.stride_bytes[0] % size == 0;
}

template <class T>
struct PixelImages {
    int64_t depth, columns;  // columns: how many of the tile's are stored
    Operands<T> operands;
    const T* bias;           // of the columns
    char* output;
    int64_t output_bytes;    // from image to image
    Activation activation;
    T slope;
};

template <class T, int MT>
FASTCV_NOINLINE void image_tile(const PixelImages<T>& t) {
    constexpr int NV = kPixelVectors, L = kLanes<T>;
    Vec<T> acc[MT][NV];
    start_tile<T, MT, NV>(acc, t.bias);
    strided_product<T, MT, NV>(acc, t.depth, t.operands);
    FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++) {
        T* to = reinterpret_cast<T*>(t.output + i * t.output_bytes) + j * L;
        const Vec<T> sum = activate<T>(acc[i][j], t.activation, t.slope);
        if (t.columns >= (j + 1) * L)
            store(to, sum);
        else if (t.columns > j * L)
            store_first(to, sum, t.columns - j * L);
    }
}
template <class T, int MT = 1>
static void run_image_tile(int64_t images, const PixelImages<T>& t) {
    if constexpr (MT < StripTiles<T>::filters) {
        if (images > MT) return run_image_tile<T, MT + 1>(images, t);
    }
    image_tile<T, MT>(t);
}

template <class T>
static Status conv_transpose2d_pixel(const Conv2dShape& s, Tensor input, Tensor weight, Tensor output, const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T)), width = kPixelVectors * L, rows = StripTiles<T>::filters;
    const int64_t window = s.R * s.S, columns = s.C / s.G * window, depth = s.K / s.G, panels = ceil_div(columns, width);
    const int threads = threads_for(2 * multiply_adds(s));
    const int64_t panel_bytes = round_up(depth * width * size, 64), thread_bytes = panel_bytes + width * size;
    Scratch scratch(threads * thread_bytes);
    if (!scratch.data()) return Status::out_of_memory;

    const int64_t items = s.G * panels;
    parallel(threads, [&](Team team) {
        T* copy = reinterpret_cast<T*>(scratch.data() + team.id * thread_bytes);
        T* bias = reinterpret_cast<T*>(scratch.data() + team.id * thread_bytes + panel_bytes);
        for (int64_t item = team.begin(items); item < team.end(items); item++) {
            const int64_t g = item / panels, first = item % panels * width, count = smaller(width, columns - first);
            for (int64_t i = 0; i < width; i++)
                bias[i] = epilogue.bias && i < count
                              ? load_scalar<T>(epilogue.bias + (g * (s.C / s.G) + (first + i) / window) * epilogue.bias_stride_bytes)
                              : T(0);
            const int64_t row = weight.stride_bytes[0] / size;
            const T* from = reinterpret_cast<const T*>(weight.data) + g * depth * row + first;
            PixelImages<T> t{depth, count, {nullptr, input.stride_bytes[0] / size, input.stride_bytes[1] / size, from, L, row},
                             bias, nullptr, output.stride_bytes[0], epilogue.activation, T(epilogue.slope)};
            if (s.N > rows || count < width) {
                for (int64_t k = 0; k < depth; k++, from += row)
                    FASTCV_UNROLL for (int64_t j = 0; j < kPixelVectors; j++)
                        store(copy + k * width + j * L, load_first(from + j * L, count - j * L));
                t.operands.columns = copy;
                t.operands.column_step = width;
            }
            const int64_t pieces = ceil_div(s.N, rows);
            for (int64_t piece = 0; piece < pieces; piece++) {
                const int64_t n = s.N * piece / pieces;
                t.operands.rows = reinterpret_cast<const T*>(input.data + n * input.stride_bytes[0] + g * depth * input.stride_bytes[1]);
                t.output = output.data + n * output.stride_bytes[0] + g * (s.C / s.G) * output.stride_bytes[1] + first * size;
                run_image_tile<T>(s.N * (piece + 1) / pieces - n, t);
            }
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
