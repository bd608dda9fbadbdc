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
// Narrow planes would waste lanes, and channels-last planes are not rows: there lanes are channels (channel_lanes.h), any stride and
// dilation is an offset, and 8 pixels of a row share a loaded weight. prefers_channel_lanes() decides.
//
// Why not fewer rows: a vector load that crosses a cache line costs two, and shifted loads nearly all do; loading each tap anew
// left 3x3 at half the speed and 7x7 at a third. More rows or vectors spill.
#pragma once

#include "../channel_lanes.h"
#include "conv2d_strip.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int kGroupTaps = 7;
constexpr int64_t kFirstLevelShare = 8 * 1024;  // two strips of so much stay in a first-level cache of 32 KiB

struct DepthwiseTiles {
    static constexpr int vectors = kManyRegisters ? 4 : 2;
    // Eight chains of multiply-adds or more keep both pipes busy: narrow planes take more rows.
    static constexpr int rows(int64_t vectors) { return vectors == 1 ? 8 : 4; }
    static constexpr int most_rows = 8;
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
    int64_t block_rows, multiplier;
    int64_t row_step;          // strip rows between output rows that share input
    int64_t group_stride;      // elements between two taps' weights of one group
    bool plain3x3;             // one group of 3 taps, 3 columns
    int64_t groups;
    const TapGroup* group;
    const int64_t* column;     // elements to column tap s
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
        FASTCV_UNROLL for (int j = 0; j < J; j++) w[j] = splat(load_scalar<T>(weight + s + j * tap_stride));
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

// A column of tiles: output rows first, first + step, .., `vectors` wide.
template <class T>
struct TileColumn {
    const T* strip;   // of the first output row
    const T* weight;
    T bias;
    char* output;     // of the first output row
    int64_t row_bytes;
    int64_t rows;     // to store; the strip holds enough for whole tiles
    int64_t last;     // lanes to store of the last vector
};

// Window 3: the plain 3x3, whose nine weights stay in registers. Window 0: any.
template <class T, int Rows, int NV, int Window>
FASTCV_NOINLINE void depthwise_column(const DepthwiseCall<T>& c, const TileColumn<T>& t) {
    const int64_t row = c.row_step * c.strip.pitch, columns = c.shape.S;
    const T* strip = t.strip;
    char* output = t.output;
    for (int64_t left = t.rows; left > 0; left -= Rows, strip += Rows * row, output += Rows * t.row_bytes) {
        Vec<T> acc[Rows][NV];
        FASTCV_UNROLL for (int o = 0; o < Rows; o++) FASTCV_UNROLL for (int v = 0; v < NV; v++) acc[o][v] = splat(t.bias);
        if constexpr (Window == 3) {
            add_taps<T, Rows, NV, 3>(acc, strip, row, c.column, 3, t.weight, 3);
        } else {
            for (int64_t g = 0; g < c.groups; g++) {
                const T* p = strip + c.group[g].strip;
                const T* w = t.weight + c.group[g].weight;
                switch (c.group[g].taps) {
                    case 1: add_taps<T, Rows, NV, 1>(acc, p, row, c.column, columns, w, c.group_stride); break;
                    case 2: add_taps<T, Rows, NV, 2>(acc, p, row, c.column, columns, w, c.group_stride); break;
                    case 3: add_taps<T, Rows, NV, 3>(acc, p, row, c.column, columns, w, c.group_stride); break;
                    case 4: add_taps<T, Rows, NV, 4>(acc, p, row, c.column, columns, w, c.group_stride); break;
                    case 5: add_taps<T, Rows, NV, 5>(acc, p, row, c.column, columns, w, c.group_stride); break;
                    case 6: add_taps<T, Rows, NV, 6>(acc, p, row, c.column, columns, w, c.group_stride); break;
                    default: add_taps<T, Rows, NV, 7>(acc, p, row, c.column, columns, w, c.group_stride); break;
                }
            }
        }
        if (c.activation != Activation::none)
            FASTCV_UNROLL for (int o = 0; o < Rows; o++)
                FASTCV_UNROLL for (int v = 0; v < NV; v++) acc[o][v] = activate<T>(acc[o][v], c.activation, c.slope);
        FASTCV_UNROLL for (int o = 0; o < Rows; o++) {
            if (o >= left) break;
            T* to = reinterpret_cast<T*>(output + o * t.row_bytes);
            FASTCV_UNROLL for (int v = 0; v < NV - 1; v++) store(to + v * kLanes<T>, acc[o][v]);
            store_first(to + (NV - 1) * kLanes<T>, acc[o][NV - 1], t.last);
        }
    }
}

template <class T>
using DepthwiseColumn = void (*)(const DepthwiseCall<T>&, const TileColumn<T>&);
template <class T, int Window>
static DepthwiseColumn<T> find_depthwise_column(int64_t vectors) {
    if constexpr (DepthwiseTiles::vectors == 4) {
        if (vectors == 4) return depthwise_column<T, DepthwiseTiles::rows(4), 4, Window>;
        if (vectors == 3) return depthwise_column<T, DepthwiseTiles::rows(3), 3, Window>;
    }
    return vectors == 2 ? depthwise_column<T, DepthwiseTiles::rows(2), 2, Window>
                        : depthwise_column<T, DepthwiseTiles::rows(1), 1, Window>;
}

// Output rows [0, rows) of one filter from its filled strip.
template <class T>
static void depthwise_rows(const DepthwiseCall<T>& c, const T* strip, const T* weight, T bias, char* output, int64_t rows) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    const int64_t* stride = c.output.stride_bytes;
    const int64_t vectors = ceil_div(c.x.output, L), pieces = ceil_div(vectors, DepthwiseTiles::vectors);
    for (int64_t first = 0; first < smaller(c.row_step, rows); first++)
        for (int64_t piece = 0; piece < pieces; piece++) {
            const int64_t v0 = vectors * piece / pieces, wide = vectors * (piece + 1) / pieces - v0;
            const int64_t columns = smaller(wide * L, c.x.output - v0 * L), count = ceil_div(rows - first, c.row_step);
            const auto run = c.plain3x3 ? find_depthwise_column<T, 3>(wide) : find_depthwise_column<T, 0>(wide);
            const T* from = strip + first * c.strip.pitch + v0 * L;
            char* to = output + first * stride[2] + v0 * L * stride[3];
            if (stride[3] == size) {
                run(c, {from, weight, bias, to, c.row_step * stride[2], count, columns - (wide - 1) * L});
                continue;
            }
            // Outputs of a row are not neighbours: by way of a buffer, row by row.
            T buffer[DepthwiseTiles::vectors * L];
            for (int64_t i = 0; i < count; i++) {
                run(c, {from + i * c.row_step * c.strip.pitch, weight, bias, reinterpret_cast<char*>(buffer), 0, 1, L});
                for (int64_t x = 0; x < columns; x++)
                    store_scalar(to + i * c.row_step * stride[2] + x * stride[3], buffer[x]);
            }
        }
}

// Copies a channel's rows into the strip's inside; what lies around was cleared before.
template <class T>
static void copy_plane(const DepthwiseCall<T>& c, T* strip, const char* plane, int64_t first_row, int64_t rows) {
    const int64_t* stride = c.input.stride_bytes;
    for (int64_t slot_y = 0; slot_y < c.y.slots(); slot_y++) {
        // Rows of this phase inside the input.
        const int64_t top = c.y.phase_of_slot(slot_y) - c.y.pad;
        const int64_t from = larger(0, ceil_div(-top, c.y.stride) - first_row);
        const int64_t until = smaller(rows, (c.y.input - 1 - top >= 0 ? (c.y.input - 1 - top) / c.y.stride + 1 : 0) - first_row);
        if (until <= from) continue;
        const char* row = plane + ((first_row + from) * c.y.stride + top) * stride[2];
        T* to = strip + slot_y * c.x.slots() * c.strip.plane + from * c.strip.pitch;
        int64_t begin[2];
        for (int64_t slot = 0; slot < smaller(2, c.x.slots()); slot++)
            begin[slot] = larger(0, ceil_div(c.x.pad - c.x.phase_of_slot(slot), c.x.stride));
        if (c.x.stride == 2 && c.x.slots() == 2 && stride[3] == int64_t(sizeof(T)) && c.x.pad >= 0) {
            const int64_t even_slot = c.x.pad % 2, odd_slot = 1 - even_slot;
            T* even_to = to + even_slot * c.strip.plane + begin[even_slot];
            T* odd_to = to + odd_slot * c.strip.plane + begin[odd_slot];
            const int64_t evens = smaller(ceil_div(c.x.input, 2), c.strip.pitch - begin[even_slot]);
            const int64_t odds = smaller(c.x.input / 2, c.strip.pitch - begin[odd_slot]);
            for (int64_t r = from; r < until; r++, even_to += c.strip.pitch, odd_to += c.strip.pitch, row += c.y.stride * stride[2])
                split_row(even_to, odd_to, reinterpret_cast<const T*>(row), evens, odds, c.x.input);
            continue;
        }
        for (int64_t slot = 0; slot < c.x.slots(); slot++) {
            const int64_t first = c.x.phase_of_slot(slot) - c.x.pad;
            const int64_t left = first >= 0 ? 0 : smaller(c.strip.pitch, ceil_div(-first, c.x.stride));
            const int64_t right = first >= c.x.input ? left : smaller(c.strip.pitch, (c.x.input - 1 - first) / c.x.stride + 1);
            const char* column = row + (left * c.x.stride + first) * stride[3];
            T* p = to + slot * c.strip.plane + left;
            for (int64_t r = from; r < until; r++, p += c.strip.pitch, column += c.y.stride * stride[2])
                copy_row(p, column, c.x.stride * stride[3], right - left);
        }
    }
}

// ---- channel lanes

template <class T>
struct ChannelLaneCall {
    Conv2dShape shape;
    Tensor input, output;
    Weights weight;
    int64_t multiplier, block_rows, columns;  // columns of x, padding included
    const int64_t* offset;                    // elements to each tap
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

// Weights of one block of channels: to[tap][lane], zeros behind the last channel.
template <class T>
static void gather_taps(const Conv2dShape& s, const Weights& w, int64_t channel, int64_t m, T* to) {
    constexpr int64_t L = kLanes<T>;
    for (int64_t lane = 0; lane < L; lane++)
        for (int64_t r = 0; r < s.R; r++)
            for (int64_t t = 0; t < s.S; t++)
                to[(r * s.S + t) * L + lane] =
                    channel + lane < s.C
                        ? load_scalar<T>(w.at(channel + lane, m, 0) + r * w.row_bytes + t * w.column_bytes)
                        : T(0);
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
    load_padded_rows(s, c.input, n, channel, y * s.stride_h, (rows - 1) * s.stride_h + (s.R - 1) * s.dilation_h + 1, c.columns, x);
    const int64_t pieces = ceil_div(s.Q, 8), lanes = smaller(L, s.C - channel);
    const int64_t* stride = c.output.stride_bytes;
    for (int64_t m = 0; m < c.multiplier; m++) {
        gather_taps(s, c.weight, channel, m, w);
        Vec<T> bias = zero<T>();
        for (int64_t i = 0; i < lanes; i++) bias[i] = c.bias[(channel + i) * c.multiplier + m];
        char* planes = c.output.data + n * stride[0] + (channel * c.multiplier + m) * stride[1];
        for (int64_t row = 0; row < rows; row++) {
            for (int64_t piece = 0; piece < pieces; piece++) {
                const int64_t q = s.Q * piece / pieces, pixels = s.Q * (piece + 1) / pieces - q;
                find_channel_pixels<T>(pixels)(x + (row * s.stride_h * c.columns + q * s.stride_w) * L, s.stride_w * L, c.offset,
                                               s.R * s.S, w, bias, c.activation, c.slope, z + q * L);
            }
            store_channel_lanes(z, s.Q, planes + (y + row) * stride[2], c.multiplier * stride[1], stride[3], lanes);
        }
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
        columns = larger((s.Q - 1) * s.stride_w + (s.S - 1) * s.dilation_w + 1, 1) + s.stride_w + kLanes<T>;
        const int64_t row_bytes = columns * kVectorBytes;
        const int64_t fitting = kStripBytes / 2 / row_bytes - (s.R - 1) * s.dilation_h;
        block_rows = smaller(s.P, larger(4, fitting / s.stride_h));
    }
    int64_t x_elements(const Conv2dShape& s) const {
        return (((block_rows - 1) * s.stride_h + (s.R - 1) * s.dilation_h + 1) * columns + kLanes<T>) * kLanes<T>;
    }
};

template <class T>
static Status conv2d_depthwise_small(const Conv2dShape& s, Tensor input, const Weights& weight, Tensor output,
                                     const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    const ChannelLaneSizes<T> sizes(s);
    ChannelLaneCall<T> c{s, input, output, weight, s.K / s.G, sizes.block_rows, sizes.columns, nullptr, nullptr,
                         epilogue.activation, T(epilogue.slope)};
    const int threads = threads_for(4 * multiply_adds(s));
    const int64_t taps = s.R * s.S;
    const int64_t offset_bytes = round_up(taps * 8, 64), bias_bytes = round_up(s.K * size, 64);
    const int64_t thread_bytes = round_up((sizes.x_elements(s) + (taps + s.Q + L) * L) * size, 64);
    Scratch scratch(offset_bytes + bias_bytes + threads * thread_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    int64_t* offset = reinterpret_cast<int64_t*>(scratch.data());
    T* bias = reinterpret_cast<T*>(scratch.data() + offset_bytes);
    for (int64_t r = 0; r < s.R; r++)
        for (int64_t t = 0; t < s.S; t++) offset[r * s.S + t] = (r * s.dilation_h * sizes.columns + t * s.dilation_w) * L;
    for (int64_t k = 0; k < s.K; k++)
        bias[k] = epilogue.bias ? load_scalar<T>(epilogue.bias + k * epilogue.bias_stride_bytes) : T(0);
    c.offset = offset;
    c.bias = bias;
    const int64_t blocks = ceil_div(s.P, c.block_rows), channel_blocks = ceil_div(s.C, L), items = s.N * channel_blocks * blocks;
    parallel(threads, [&](Team team) {
        T* x = reinterpret_cast<T*>(scratch.data() + offset_bytes + bias_bytes + team.id * thread_bytes);
        T* w = x + sizes.x_elements(s);
        for (int64_t item = team.begin(items); item < team.end(items); item++) {
            const int64_t y = item % blocks * c.block_rows, channel = item / blocks % channel_blocks * L;
            depthwise_channel_lanes(c, item / blocks / channel_blocks, channel, y, smaller(c.block_rows, s.P - y), x, w,
                                    w + taps * L);
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

// Estimated cycles of one plane either way: a row kernel wastes lanes and setup on narrow planes, channel lanes pay for transposes.
template <class T>
static bool prefers_channel_lanes(const Conv2dShape& s, Tensor input, Tensor output) {
    if (!ChannelLaneSizes<T>::fit(s)) return false;
    const double L = kLanes<T>, taps = double(s.R * s.S), lanes_used = double(s.C) / double(round_up(s.C, kLanes<T>));
    const double row_vectors = double(s.P * ceil_div(s.Q, kLanes<T>));
    const double by_rows = row_vectors * (taps * 0.6 + 4) + double(s.H) * (6 + double(ceil_div(s.W, kLanes<T>)) * 2) + 150;
    const int64_t size = int64_t(sizeof(T));
    const bool channels_last = input.stride_bytes[3] != size && output.stride_bytes[3] != size;
    const double moved = double(s.H * s.W + s.P * s.Q) / L * (channels_last ? 2 : 5);
    const double per_tap = ChannelLaneSizes<T>(s).x_elements(s) * size > 64 * 1024 ? 0.9 : 0.6;  // second-level or first-level cache
    return double(s.P * s.Q) * taps / L * per_tap + moved + 50 < (channels_last ? 10 : 1) * by_rows * lanes_used;
}

// Blocks of rows, channels and images, in the order of their memory.
struct PlaneWalk {
    int64_t blocks, channels, block, channel, n;

    PlaneWalk(int64_t item, int64_t blocks_of_plane, int64_t channels_of_image)
        : blocks(blocks_of_plane),
          channels(channels_of_image),
          block(item % blocks),
          channel(item / blocks % channels),
          n(item / blocks / channels) {}
    void step() {
        if (++block < blocks) return;
        block = 0;
        if (++channel < channels) return;
        channel = 0;
        n++;
    }
};

template <class T>
static Status conv2d_depthwise(const Conv2dShape& s, Tensor input, const Weights& weight, Tensor output, const Epilogue& epilogue) {
    if (prefers_channel_lanes<T>(s, input, output)) return conv2d_depthwise_small<T>(s, input, weight, output, epilogue);
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
    const int64_t row_bytes = c.x.slots() * c.y.slots() * (s.Q + c.x.steps() + L) * size;
    const int64_t fitting = larger(8, kStripBytes / row_bytes - c.y.steps());
    c.block_rows = smaller(s.P, fitting);
    c.row_step = c.y.cycle() < s.R ? c.y.cycle() * s.dilation_h / s.stride_h : 1;
    const int64_t spare = DepthwiseTiles::most_rows * c.row_step;  // rows that a last, incomplete tile reads
    c.strip = make_strip<T>(c.y, c.x, 1, c.block_rows + spare, s.Q);
    // Rows begin on a cache line behind their left padding, so that copying them and reading their middle taps is aligned.
    c.strip.pitch = round_up(s.Q + c.x.steps(), L);
    c.strip.plane = (c.strip.rows + 1) * c.strip.pitch;
    c.strip.elements = c.strip.plane * c.y.slots() * c.x.slots() + (DepthwiseTiles::vectors + 2) * L;
    const int64_t left = larger(0, ceil_div(s.pad_left, s.stride_w)), shift = round_up(left, L) - left;

    const int threads = threads_for(4 * multiply_adds(s));
    const int64_t blocks = ceil_div(s.P, c.block_rows);
    const int64_t groups = c.y.slots() * ceil_div(s.R, kGroupTaps);
    const int64_t group_bytes = round_up(groups * int64_t(sizeof(TapGroup)), 64), column_bytes = round_up(s.S * 8, 64);
    const int64_t window = s.R * s.S;
    const bool in_place = (s.S == 1 || weight.column_bytes == size) && (s.R == 1 || weight.row_bytes == s.S * size);
    const int64_t weight_bytes = in_place ? 0 : round_up(s.K * window * size, 64);
    const int64_t bias_bytes = round_up((s.K + L) * size, 64);
    const int64_t strip_bytes = round_up(c.strip.elements * size, 64);
    Scratch scratch(group_bytes + column_bytes + weight_bytes + bias_bytes + 2 * threads * strip_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    char* free_part = scratch.data();
    const auto take = [&](int64_t bytes) { return (free_part += bytes) - bytes; };
    TapGroup* group = reinterpret_cast<TapGroup*>(take(group_bytes));
    int64_t* column = reinterpret_cast<int64_t*>(take(column_bytes));
    T* weights = reinterpret_cast<T*>(take(weight_bytes));
    T* bias = reinterpret_cast<T*>(take(bias_bytes));

    for (int64_t k = 0; k < s.K + L; k++)
        bias[k] = epilogue.bias && k < s.K ? load_scalar<T>(epilogue.bias + k * epilogue.bias_stride_bytes) : T(0);
    if (!in_place)
        for (int64_t k = 0; k < s.K; k++)
            for (int64_t r = 0; r < s.R; r++)
                for (int64_t t = 0; t < s.S; t++)
                    weights[k * window + r * s.S + t] = load_scalar<T>(
                        weight.at(k / c.multiplier, k % c.multiplier, 0) + r * weight.row_bytes + t * weight.column_bytes);
    c.bias = bias;
    for (int64_t t = 0; t < s.S; t++) column[t] = c.strip.offset(0, 0, t);
    c.column = column;
    c.groups = 0;
    const int64_t cycle = c.y.cycle();
    for (int64_t slot = 0; slot < smaller(s.R, cycle); slot++)
        for (int64_t r = slot; r < s.R; r += kGroupTaps * cycle)
            group[c.groups++] = {c.strip.offset(0, r, 0), r * s.S, int(smaller(kGroupTaps, ceil_div(s.R - r, cycle)))};
    c.group = group;
    c.group_stride = cycle * s.S;
    c.plain3x3 = c.groups == 1 && s.R == 3 && s.S == 3 && cycle == 1;

    const int64_t items = s.N * s.C * blocks;
    parallel(threads, [&](Team team) {
        // Small planes are copied one ahead of the one that is read, into a second strip: loads would wait on stores just made.
        T* strips[2];
        for (int i = 0; i < 2; i++) {
            strips[i] = reinterpret_cast<T*>(free_part + (2 * team.id + i) * strip_bytes) + shift;
            fill_zeros(strips[i] - shift, c.strip.elements - L);
        }
        const bool ahead = strip_bytes <= kFirstLevelShare;
        PlaneWalk copied(team.begin(items), blocks, s.C), current = copied;
        const auto copy_next = [&](int64_t item) {
            if (item >= team.end(items)) return;
            T* strip = strips[item % 2];
            if (blocks > 1) fill_zeros(strip - shift, c.strip.elements - L);
            copy_plane(c, strip, input.data + copied.n * input.stride_bytes[0] + copied.channel * input.stride_bytes[1],
                       copied.block * c.block_rows, smaller(c.block_rows, s.P - copied.block * c.block_rows) + c.y.steps());
            copied.step();
        };
        if (ahead) copy_next(team.begin(items));
        for (int64_t item = team.begin(items); item < team.end(items); item++, current.step()) {
            copy_next(item + ahead);
            const T* strip = strips[item % 2];
            const int64_t y = current.block * c.block_rows, rows = smaller(c.block_rows, s.P - y);
            for (int64_t m = 0; m < c.multiplier; m++) {
                const int64_t k = current.channel * c.multiplier + m;
                char* to = output.data + current.n * output.stride_bytes[0] + k * output.stride_bytes[1] + y * output.stride_bytes[2];
                const T* w = in_place ? reinterpret_cast<const T*>(weight.at(current.channel, m, 0)) : weights + k * window;
                depthwise_rows(c, strip, w, bias[k], to, rows);
            }
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
