// Convolution tap by tap, as a matrix product over a padded strip: no im2col buffer.
//
//   output[k][p][q] = sum over c, r, s of weight[k][c][r][s] * strip[offset(c, r, s) + p * pitch + q]
//
// The strip (strip.h) makes every depth step (c, r, s) one fixed offset, so the inner loops know nothing of strides,
// dilation or padding: they read `strip + offset[depth]`. One strip holds a block of output rows that fits into half the
// second-level cache, and serves all filters.
//
//          NV vectors of pixels
//        +-----+-----+-----+
//   MT   |     |     |     |  weights are broadcast from where they lie; lanes that a row leaves empty run on into the next
//   fil- |     |     |     |
//   ters +-----+-----+-----+
//
// Why these tiles: 8 x 3 fills 28 of 32 registers and needs 11 loads for 24 multiply-adds; 4 x 6 serves layers with few
// filters. On 16 registers it is 4 x 3. Where many filters share a tile's pixels, the first tile leaves them in a panel for the others
// (conv2d_strip_pixels.hpp). What did not matter when measured: cutting the depth into chunks, aligned strips. Deep sums on small
// planes, and most strided windows, go to the channel lanes of conv2d_strip_channels.hpp.
//
// Contract: arguments were checked in Python. `output` overlaps nothing. Each output is one chain of fused multiply-adds in
// a fixed order, whatever the blocks and threads.
#pragma once

#include "conv2d_strip_pixels.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// Windows that cover the plane give one output an image: then images are the pixels of one long row, and values of an image its channels,
// in the same order. Pixel lanes would else be full of one pixel, and read all weights for every image.
static Conv2dShape flatten_whole_planes(const Conv2dShape& s, Tensor& input, Weights& weight, Tensor& output) {
    const bool whole = s.N > 1 && s.G == 1 && s.P == 1 && s.Q == 1 && s.R == s.H && s.S == s.W && s.pad_top == 0 && s.pad_left == 0 &&
                       (s.R == 1 || s.dilation_h == 1) && (s.S == 1 || s.dilation_w == 1);
    const auto one_row = [&](int64_t channel, int64_t row, int64_t column) {
        return (s.R == 1 || row == s.S * column) && channel == s.R * s.S * column;
    };
    if (!whole || !one_row(input.stride_bytes[1], input.stride_bytes[2], input.stride_bytes[3]) ||
        !one_row(weight.channel_bytes, weight.row_bytes, weight.column_bytes))
        return s;
    Conv2dShape flat = s;
    flat.N = flat.H = flat.R = flat.S = 1;
    flat.C = s.C * s.R * s.S;
    flat.W = flat.Q = s.N;
    flat.stride_h = flat.stride_w = 1;
    input.stride_bytes[1] = input.stride_bytes[3];
    input.stride_bytes[3] = input.stride_bytes[0];
    weight.channel_bytes = weight.column_bytes;
    output.stride_bytes[3] = output.stride_bytes[0];
    return flat;
}

// Weights are read where they lie if their strides are whole elements and no filter spans more than 2^31 of them.
template <class T>
static bool readable_in_place(const Conv2dShape& s, const Weights& w) {
    constexpr int64_t size = int64_t(sizeof(T));
    const int64_t strides[4] = {w.filter_bytes, w.channel_bytes, w.row_bytes, w.column_bytes};
    const int64_t extents[4] = {1, s.C / s.G, s.R, s.S};
    double span = 0;
    for (int i = 0; i < 4; i++) {
        if (strides[i] % size) return false;
        span += double(extents[i]) * double(strides[i] < 0 ? -strides[i] : strides[i]);
    }
    return span < double(INT32_MAX);
}

// Else they are copied to [group][filter][c][r][s].
template <class T>
static Weights copy_weights(const Conv2dShape& s, const Weights& w, T* to) {
    constexpr int64_t size = int64_t(sizeof(T));
    const int64_t filters = s.K / s.G, channels = s.C / s.G;
    const Weights copy{reinterpret_cast<const char*>(to), filters * channels * s.R * s.S * size, channels * s.R * s.S * size,
                       s.R * s.S * size, s.S * size, size};
    for (int64_t k = 0; k < s.K; k++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t r = 0; r < s.R; r++)
                for (int64_t t = 0; t < s.S; t++)
                    *to++ = load_scalar<T>(w.at(k / filters, k % filters, c) + r * w.row_bytes + t * w.column_bytes);
    return copy;
}

template <class T>
static Status conv2d_strip_pixels(const Conv2dShape& original, Tensor input, Weights weight, Tensor output, const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>;
    StripCall<T> c;
    c.shape = flatten_pointwise(flatten_whole_planes(original, input, weight, output), input, output);
    const Conv2dShape& s = c.shape;
    c.input = input;
    c.output = output;
    c.y = vertical(s);
    c.x = horizontal(s);
    c.depth = c.channels() * s.R * s.S;
    c.activation = epilogue.activation;
    c.slope = T(epilogue.slope);
    const int64_t size = int64_t(sizeof(T));
    c.rows_stored = output.stride_bytes[3] == size && output.stride_bytes[2] % size == 0;
    c.in_place = s.H == 1 && s.R == 1 && s.S == 1 && s.stride_w == 1 && s.pad_top == 0 && s.pad_left == 0 && s.P == 1 &&
                 s.Q == s.W && s.Q >= L && input.stride_bytes[3] == size && input.stride_bytes[1] % size == 0 &&
                 input.stride_bytes[1] >= 0 && input.stride_bytes[1] / size * c.channels() < INT32_MAX;
    if (!c.in_place && strip_too_large(c.y, c.x, c.channels())) return Status::out_of_memory;
    const int threads = threads_for(2 * multiply_adds(s));
    c.blocks = cut_into_blocks<T>(s, c.y, c.x, threads, c.in_place, bytes_of_planar_strip<T>(s, c.y, c.x),
                                  2 * StripTiles<T>::filters);
    c.strip = make_strip<T>(c.y, c.x, c.channels(), c.blocks.rows, c.blocks.columns);
    if (!c.in_place && c.strip.elements > INT32_MAX) return Status::out_of_memory;

    const int64_t biases = s.K + L;
    const bool copied_weights = !readable_in_place<T>(s, weight);
    const bool even_steps = (s.R * s.S == 1 || weight.channel_bytes == s.R * s.S * size) &&
                            (s.R == 1 || weight.row_bytes == s.S * size) && (s.S == 1 || weight.column_bytes == size);
    c.panels = (copied_weights || even_steps) && panels_pay<T>(c.filters(), c.depth);
    const int64_t offset_bytes = round_up(c.depth * int64_t(sizeof(DepthStep)), 64);
    const int64_t bias_bytes = round_up(biases * size, 64);
    const int64_t weight_bytes = copied_weights ? round_up(s.K * c.depth * size, 64) : 0;
    const int64_t list_bytes = round_up((2 * kVectorsPerBlock + 4) * int64_t(sizeof(PixelVector)), 64);
    const int64_t thread_bytes = list_bytes + round_up(c.buffer_elements() * size, 64);
    Scratch scratch(offset_bytes + bias_bytes + weight_bytes + threads * thread_bytes);
    if (!scratch.data()) return Status::out_of_memory;

    DepthStep* step = reinterpret_cast<DepthStep*>(scratch.data());
    T* bias = reinterpret_cast<T*>(scratch.data() + offset_bytes);
    T* copied = reinterpret_cast<T*>(scratch.data() + offset_bytes + bias_bytes);
    char* per_thread = scratch.data() + offset_bytes + bias_bytes + weight_bytes;

    c.weight = copied_weights ? copy_weights(s, weight, copied) : weight;
    const int64_t window = s.R * s.S, from_channel = c.from_channel();
    for (int64_t tap = 0; tap < window; tap++) {
        const int64_t r = tap / s.S, t = tap % s.S, at = c.in_place ? 0 : c.strip.offset(r, t);
        const int64_t weight_at = r * c.weight.row_bytes + t * c.weight.column_bytes;
        for (int64_t ch = 0; ch < c.channels(); ch++)
            step[ch * window + tap] = {int32_t(at + ch * from_channel), int32_t((ch * c.weight.channel_bytes + weight_at) / size)};
    }
    for (int64_t i = 0; i < biases; i++)
        bias[i] = epilogue.bias && i < s.K ? load_scalar<T>(epilogue.bias + i * epilogue.bias_stride_bytes) : T(0);
    c.step = step;
    c.bias = bias;

    const int64_t items = s.N * s.G * c.blocks.per_image() * c.blocks.filter_parts;
    parallel(threads, [&](Team team) {
        char* mine = per_thread + team.id * thread_bytes;
        PixelVector* list = reinterpret_cast<PixelVector*>(mine);
        T* buffer = reinterpret_cast<T*>(mine + list_bytes);
        const T* strip = nullptr;
        for (int64_t item = team.begin(items); item < team.end(items); item++) {
            const Block b = block_at(c.blocks, s.G, item / c.blocks.filter_parts);
            const int64_t part = item % c.blocks.filter_parts;
            constexpr int64_t tall = StripTiles<T>::filters;
            const int64_t tiles = ceil_div(c.filters(), tall);
            const int64_t first = tiles * part / c.blocks.filter_parts * tall;
            const int64_t last = smaller(c.filters(), tiles * (part + 1) / c.blocks.filter_parts * tall);
            // A block's filters in parts follow one another: what the last one filled may serve the next.
            if (item == team.begin(items) || part == 0) strip = strip_of_block(c, b, buffer);
            pixel_lane_block(c, b, strip, buffer + c.strip_elements(), list, first, last);
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
