// Depthwise convolution with channels in lanes (channel_lanes.h): narrow planes, whose rows would not fill vectors.
//
//   output[c * M + m][p][q] = sum over r, s of weight[c * M + m][r][s] * x[p * stride + r * d][q * stride + s * d][lane c]
//
// x is the padded input of one block of channels, any stride and dilation an offset into it; up to 8 pixels of a row share a loaded
// weight, and rows of the window that see only padding are skipped. Planes without gaps between rows are transposed in squares that
// run on across row ends, each pixel going to its place in x: a 7x7 plane is 4 squares, not 7. Its padding is cleared once.
//
// Measured, two threads, 960 channels of 7x7 under 3x3: 30 us with a square for every row, 16 us so.
#pragma once

#include "../channel_lanes.h"
#include "../epilogue.h"
#include "../geometry.h"
#include "../parallel.h"
#include "../strip.h"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int64_t kWholePlanePixels = 1024;  // of output that wait in the first-level cache to be transposed back at once

template <class T>
struct ChannelLaneCall {
    Conv2dShape shape;
    Tensor input, output;
    Weights weight;
    int64_t multiplier, block_rows, columns;  // columns of x, padding included
    const int64_t* offset;                    // elements to each tap
    const int32_t* place;                     // elements to each input pixel; null: planes are read row by row
    bool whole_output;                        // planes of the output are written as one row
    const T* bias;
    Activation activation;
    T slope;
};

// NV pixels of a row, `step` elements apart.
template <class T, int NV>
FASTCV_NOINLINE void channel_pixels(const T* x, int64_t step, const int64_t* offset, int64_t taps, const T* weight, Vec<T> bias,
                                    Activation activation, T slope, T* to) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[NV];
    FASTCV_UNROLL for (int v = 0; v < NV; v++) acc[v] = bias;
    for (int64_t tap = 0; tap < taps; tap++) {
        const Vec<T> w = load(weight + tap * L);
        const T* p = x + offset[tap];
        FASTCV_UNROLL for (int v = 0; v < NV; v++) acc[v] = fma(load(p + v * step), w, acc[v]);
    }
    FASTCV_UNROLL for (int v = 0; v < NV; v++) store(to + v * L, activate<T>(acc[v], activation, slope));
}
template <class T>
using ChannelPixels = void (*)(const T*, int64_t, const int64_t*, int64_t, const T*, Vec<T>, Activation, T, T*);
template <class T, int NV = 1>
static ChannelPixels<T> find_channel_pixels(int64_t pixels) {
    if constexpr (NV < 8) {
        if (pixels > NV) return find_channel_pixels<T, NV + 1>(pixels);
    }
    return channel_pixels<T, NV>;
}

// Weights of one block of channels: to[tap][lane], zeros behind the last channel. Has room for whole squares.
template <class T>
static void gather_taps(const Conv2dShape& s, const Weights& w, int64_t channel, int64_t m, T* to) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    const int64_t taps = s.R * s.S, channels = smaller(L, s.C - channel);
    const char* first = w.at(channel, m, 0);
    if (w.column_bytes == size && w.row_bytes == s.S * size) {
        load_channel_lanes(to, taps, first, w.group_bytes, size, channels, 0, taps);
    } else if (w.column_bytes == -size && w.row_bytes == -s.S * size) {
        load_channel_lanes(to, taps, first - (taps - 1) * size, w.group_bytes, size, channels, 0, taps);
        for (int64_t i = 0, j = taps - 1; i < j; i++, j--) {
            const Vec<T> a = load(to + i * L), b = load(to + j * L);
            store(to + i * L, b);
            store(to + j * L, a);
        }
    } else {
        for (int64_t lane = 0; lane < L; lane++)
            for (int64_t r = 0; r < s.R; r++)
                for (int64_t t = 0; t < s.S; t++)
                    to[(r * s.S + t) * L + lane] =
                        lane < channels ? load_scalar<T>(first + lane * w.group_bytes + r * w.row_bytes + t * w.column_bytes)
                                        : T(0);
    }
}

// Rows [first, first + rows) of the padded input of one block of channels.
template <class T>
static void load_padded_rows(const Conv2dShape& s, Tensor input, int64_t n, int64_t channel, int64_t first, int64_t rows,
                             int64_t columns, T* x) {
    constexpr int64_t L = kLanes<T>;
    const char* planes = input.data + n * input.stride_bytes[0] + channel * input.stride_bytes[1];
    for (int64_t i = 0; i < rows; i++) {
        const int64_t y = first + i - s.pad_top;
        T* to = x + i * columns * L;
        if (y < 0 || y >= s.H)
            fill_zeros(to, columns * L);
        else
            load_channel_lanes(to, columns, planes + y * input.stride_bytes[2], input.stride_bytes[1], input.stride_bytes[3],
                               smaller(L, s.C - channel), -s.pad_left, s.W);
    }
}

// Output rows [y, y + rows) of one block of channels of image n.
template <class T>
static void depthwise_channel_lanes(const ChannelLaneCall<T>& c, int64_t n, int64_t channel, int64_t y, int64_t rows, T* x, T* w,
                                    T* z) {
    constexpr int64_t L = kLanes<T>;
    const Conv2dShape& s = c.shape;
    const int64_t* in = c.input.stride_bytes;
    if (c.place)
        load_plane_lanes(x, c.place, s.H * s.W, c.input.data + n * in[0] + channel * in[1], in[1], smaller(L, s.C - channel));
    else
        load_padded_rows(s, c.input, n, channel, y * s.stride_h, (rows - 1) * s.stride_h + (s.R - 1) * s.dilation_h + 1, c.columns,
                         x);
    const int64_t pieces = ceil_div(s.Q, 8), lanes = smaller(L, s.C - channel);
    const int64_t* stride = c.output.stride_bytes;
    for (int64_t m = 0; m < c.multiplier; m++) {
        gather_taps(s, c.weight, channel, m, w);
        Vec<T> bias = zero<T>();
        for (int64_t i = 0; i < lanes; i++) bias[i] = c.bias[(channel + i) * c.multiplier + m];
        char* planes = c.output.data + n * stride[0] + (channel * c.multiplier + m) * stride[1] + y * stride[2];
        for (int64_t row = 0; row < rows; row++) {
            // Rows of the window that see the input.
            const int64_t top = (y + row) * s.stride_h - s.pad_top, d = s.dilation_h;
            const int64_t r0 = top >= 0 ? 0 : smaller(s.R, ceil_div(-top, d));
            const int64_t r1 = top >= s.H ? r0 : larger(r0, smaller(s.R, (s.H - 1 - top) / d + 1));
            T* to = c.whole_output ? z + row * s.Q * L : z;
            for (int64_t piece = 0; piece < pieces; piece++) {
                const int64_t q = s.Q * piece / pieces, pixels = s.Q * (piece + 1) / pieces - q;
                find_channel_pixels<T>(pixels)(x + (row * s.stride_h * c.columns + q * s.stride_w) * L, s.stride_w * L,
                                               c.offset + r0 * s.S, (r1 - r0) * s.S, w + r0 * s.S * L, bias, c.activation, c.slope,
                                               to + q * L);
            }
            if (!c.whole_output) store_channel_lanes(z, s.Q, planes + row * stride[2], c.multiplier * stride[1], stride[3], lanes);
        }
        if (c.whole_output) store_channel_lanes(z, rows * s.Q, planes, c.multiplier * stride[1], stride[3], lanes);
    }
}

// Sizes of the channel-lane kernel's scratch, which forward and weight gradient share.
template <class T>
struct ChannelLaneSizes {
    int64_t columns, block_rows;

    // Whether a block stays a few MiB: absurd strides and dilations do not.
    static bool fit(const Conv2dShape& s) {
        return (double(s.Q) * double(s.stride_w) + double(s.S) * double(s.dilation_w)) *
                   (4 * double(s.stride_h) + double(s.R) * double(s.dilation_h)) <
               1e5;
    }

    explicit ChannelLaneSizes(const Conv2dShape& s) {
        columns = larger(larger((s.Q - 1) * s.stride_w + (s.S - 1) * s.dilation_w, s.pad_left + s.W - 1) + 1, 1) | 1;
        const int64_t row_bytes = columns * kVectorBytes;
        const int64_t fitting = kStripBytes / 2 / row_bytes - (s.R - 1) * s.dilation_h;
        block_rows = smaller(s.P, larger(4, fitting / s.stride_h));
    }
    int64_t rows(const Conv2dShape& s) const {
        return larger((block_rows - 1) * s.stride_h + (s.R - 1) * s.dilation_h + 1, block_rows == s.P ? s.pad_top + s.H : 0);
    }
    int64_t x_elements(const Conv2dShape& s) const { return (rows(s) * columns + kLanes<T>) * kLanes<T>; }
};

template <class T>
static Status conv2d_depthwise_lanes(const Conv2dShape& s, Tensor input, const Weights& weight, Tensor output,
                                     const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    const ChannelLaneSizes<T> sizes(s);
    const int64_t *in = input.stride_bytes, *out = output.stride_bytes;
    const bool whole_input = sizes.block_rows == s.P && in[3] == size && in[2] == s.W * size && s.pad_top >= 0 && s.pad_left >= 0;
    const bool whole_output = out[3] == size && out[2] == s.Q * size && sizes.block_rows * s.Q <= kWholePlanePixels;
    ChannelLaneCall<T> c{s,       input,   output,       weight,  s.K / s.G,           sizes.block_rows,  sizes.columns,
                         nullptr, nullptr, whole_output, nullptr, epilogue.activation, T(epilogue.slope)};
    const int threads = threads_for(4 * multiply_adds(s));
    const int64_t taps = s.R * s.S;
    const int64_t offset_bytes = round_up(taps * 8, 64), bias_bytes = round_up(s.K * size, 64);
    const int64_t place_bytes = whole_input ? round_up(s.H * s.W * 4, 64) : 0;
    const int64_t z_pixels = (whole_output ? sizes.block_rows * s.Q : s.Q) + L;
    const int64_t thread_bytes = round_up((sizes.x_elements(s) + (round_up(taps, L) + z_pixels) * L) * size, 64);
    Scratch scratch(offset_bytes + bias_bytes + place_bytes + threads * thread_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    int64_t* offset = reinterpret_cast<int64_t*>(scratch.data());
    T* bias = reinterpret_cast<T*>(scratch.data() + offset_bytes);
    int32_t* place = reinterpret_cast<int32_t*>(scratch.data() + offset_bytes + bias_bytes);
    for (int64_t r = 0; r < s.R; r++)
        for (int64_t t = 0; t < s.S; t++) offset[r * s.S + t] = (r * s.dilation_h * sizes.columns + t * s.dilation_w) * L;
    for (int64_t k = 0; k < s.K; k++)
        bias[k] = epilogue.bias ? load_scalar<T>(epilogue.bias + k * epilogue.bias_stride_bytes) : T(0);
    if (whole_input)
        for (int64_t y = 0; y < s.H; y++)
            for (int64_t q = 0; q < s.W; q++) place[y * s.W + q] = int32_t(((s.pad_top + y) * sizes.columns + s.pad_left + q) * L);
    c.offset = offset;
    c.bias = bias;
    c.place = whole_input ? place : nullptr;
    const int64_t blocks = ceil_div(s.P, c.block_rows), channel_blocks = ceil_div(s.C, L), items = s.N * channel_blocks * blocks;
    parallel(threads, [&](Team team) {
        T* x = reinterpret_cast<T*>(scratch.data() + offset_bytes + bias_bytes + place_bytes + team.id * thread_bytes);
        T* w = x + sizes.x_elements(s);
        if (whole_input) fill_zeros(x, sizes.x_elements(s));  // once: all planes overwrite the same inside
        for (int64_t item = team.begin(items); item < team.end(items); item++) {
            const int64_t y = item % blocks * c.block_rows, channel = item / blocks % channel_blocks * L;
            depthwise_channel_lanes(c, item / blocks / channel_blocks, channel, y, smaller(c.block_rows, s.P - y), x, w,
                                    w + round_up(taps, L) * L);
        }
    });
    return Status::ok;
}

// ---- weight gradient: sum over pixels of x[pixel + tap] * y[pixel], channels in lanes

// MT taps over `rows` x `columns` pixels; sum[tap][lane] += ..
template <class T, int MT>
FASTCV_NOINLINE void tap_sums(const T* x, int64_t x_row, int64_t x_step, const int64_t* offset, const T* y, int64_t y_row,
                              int64_t rows, int64_t columns, T* sum) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MT];
    FASTCV_UNROLL for (int i = 0; i < MT; i++) acc[i] = load(sum + i * L);
    for (int64_t p = 0; p < rows; p++) {
        const T* taps[MT];
        FASTCV_UNROLL for (int i = 0; i < MT; i++) taps[i] = x + p * x_row + offset[i];
        for (int64_t q = 0; q < columns; q++) {
            const Vec<T> grad = load(y + p * y_row + q * L);
            FASTCV_UNROLL for (int i = 0; i < MT; i++) acc[i] = fma(load(taps[i] + q * x_step), grad, acc[i]);
        }
    }
    FASTCV_UNROLL for (int i = 0; i < MT; i++) store(sum + i * L, acc[i]);
}
constexpr int kTapsTogether = kManyRegisters ? 9 : 8;
template <class T>
using TapSums = void (*)(const T*, int64_t, int64_t, const int64_t*, const T*, int64_t, int64_t, int64_t, T*);
template <class T, int MT = 1>
static TapSums<T> find_tap_sums(int64_t taps) {
    if constexpr (MT < kTapsTogether) {
        if (taps > MT) return find_tap_sums<T, MT + 1>(taps);
    }
    return tap_sums<T, MT>;
}

template <class T>
static Status depthwise_grad_weight(const Conv2dShape& s, Tensor grad_output, Tensor input, Tensor grad_weight) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    const ChannelLaneSizes<T> sizes(s);
    const int threads = threads_for(4 * multiply_adds(s));
    const int64_t taps = s.R * s.S, pieces = ceil_div(taps, kTapsTogether), multiplier = s.K / s.G, pitch = s.Q + L;
    const int64_t offset_bytes = round_up(taps * 8, 64);
    const int64_t thread_bytes =
        round_up((sizes.x_elements(s) + (multiplier * taps + sizes.block_rows * pitch + L) * L) * size, 64);
    Scratch scratch(offset_bytes + threads * thread_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    int64_t* offset = reinterpret_cast<int64_t*>(scratch.data());
    for (int64_t r = 0; r < s.R; r++)
        for (int64_t t = 0; t < s.S; t++) offset[r * s.S + t] = (r * s.dilation_h * sizes.columns + t * s.dilation_w) * L;
    const int64_t channel_blocks = ceil_div(s.C, L);
    parallel(threads, [&](Team team) {
        T* x = reinterpret_cast<T*>(scratch.data() + offset_bytes + team.id * thread_bytes);
        T* sum = x + sizes.x_elements(s);
        T* y = sum + multiplier * taps * L;
        for (int64_t cb = team.begin(channel_blocks); cb < team.end(channel_blocks); cb++) {
            const int64_t channel = cb * L, lanes = smaller(L, s.C - channel);
            const int64_t* stride = grad_output.stride_bytes;
            fill_zeros(sum, multiplier * taps * L);
            for (int64_t n = 0; n < s.N; n++)
                for (int64_t first = 0; first < s.P; first += sizes.block_rows) {
                    const int64_t rows = smaller(sizes.block_rows, s.P - first);
                    load_padded_rows(s, input, n, channel, first * s.stride_h,
                                     (rows - 1) * s.stride_h + (s.R - 1) * s.dilation_h + 1, sizes.columns, x);
                    for (int64_t m = 0; m < multiplier; m++) {
                        const char* planes = grad_output.data + n * stride[0] + (channel * multiplier + m) * stride[1];
                        for (int64_t p = 0; p < rows; p++)
                            load_channel_lanes(y + p * pitch * L, s.Q, planes + (first + p) * stride[2], multiplier * stride[1],
                                               stride[3], lanes, 0, s.Q);
                        for (int64_t piece = 0; piece < pieces; piece++) {
                            const int64_t t0 = taps * piece / pieces, t1 = taps * (piece + 1) / pieces;
                            find_tap_sums<T>(t1 - t0)(x, s.stride_h * sizes.columns * L, s.stride_w * L, offset + t0, y, pitch * L,
                                                      rows, s.Q, sum + (m * taps + t0) * L);
                        }
                    }
                }
            for (int64_t lane = 0; lane < lanes; lane++)
                for (int64_t m = 0; m < multiplier; m++) {
                    char* to = grad_weight.data + ((channel + lane) * multiplier + m) * grad_weight.stride_bytes[0];
                    for (int64_t t = 0; t < taps; t++)
                        store_scalar(to + t / s.S * grad_weight.stride_bytes[2] + t % s.S * grad_weight.stride_bytes[3],
                                     sum[(m * taps + t) * L + lane]);
                }
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
