// Weight gradient of convolution.
//
//   grad_weight[k][c][r][s] = sum over n, p, q of grad_output[n][k][p][q] * strip[offset(c, r, s) + p * pitch + q]
//
// The strip (strip.h) is the padded, phase-split input that the forward pass reads, so any stride and dilation looks alike. The sum
// runs over pixels, which leaves two ways to fill vectors:
//
//   filter lanes (half a vector of filters and more)  pixel lanes (fewer)
//        NV vectors of filters                             a vector of pixels at a time
//   MT +-----+-----+-----+                            KT +---------+
//   taps|    |     |     |  grad_output transposed   fil-|  dot    |  JT taps; lanes are summed once,
//      +-----+-----+-----+  to [pixel][filter]       ters+---------+  at the end of the block
//
// Filter lanes: 9 taps x 3 vectors fill 31 of 32 registers and are one 3x3 window of one channel; x is read by broadcast.
// Accumulators live over a block of rows and are then added to sum[panel][tap][filter], which is transposed into grad_weight last.
//
// 1 x 1 windows with stride 1 and no padding read the input where it lies: 256 to 64 channels on 56 x 56 takes 0.41 ms on two threads, and
// took 0.71 over strips. Not so planes that are a multiple of 4 KiB apart, of which a tile reads nine at a time.
//
// Threads share out panels of filters, or channels; every sum runs over images and blocks in the same order whatever their number.
#pragma once

#include "conv2d_strip_blocks.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

struct GradWeightTiles {
    static constexpr int taps = kManyRegisters ? 9 : 4;
    static constexpr int vectors = 3;
    static constexpr int dot_filters = kManyRegisters ? 3 : 2;
    static constexpr int dot_taps = kManyRegisters ? 8 : 4;
};

template <class T>
struct GradWeightCall {
    Conv2dShape shape;
    Tensor grad_output, input, grad_weight;
    Axis y, x;
    Strip strip;           // of all channels of a part
    bool in_place;         // 1x1: the input is its own strip
    int64_t block_rows;
    const int32_t* offset;

    int64_t channels() const { return shape.C / shape.G; }
    int64_t filters() const { return shape.K / shape.G; }
    const char* grad_plane(int64_t n, int64_t k) const {
        return grad_output.data + n * grad_output.stride_bytes[0] + k * grad_output.stride_bytes[1];
    }
};

// sum[i][...] (+)= over a block's pixels of x[i] * y, i = 0 .. MT-1.
template <class T, int MT, int NV>
FASTCV_NOINLINE void tap_tile(const T* strip, const int32_t* offset, int64_t pitch, const T* y, int64_t rows, int64_t columns,
                              T* sum, bool first) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MT][NV];
    clear_tile<T, MT, NV>(acc);
    const T* x[MT];
    FASTCV_UNROLL for (int i = 0; i < MT; i++) x[i] = strip + offset[i];
    for (int64_t p = 0; p < rows; p++)
        for (int64_t q = p * pitch; q < p * pitch + columns; q++) {
            Vec<T> filters[NV];
            FASTCV_UNROLL for (int j = 0; j < NV; j++) {
                filters[j] = load(y + j * L);
                keep(filters[j]);
            }
            FASTCV_UNROLL for (int i = 0; i < MT; i++) multiply_add<T>(acc, i, load_scalar<T>(x[i] + q), filters);
            y += NV * L;
        }
    FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++) {
        T* to = sum + (i * NV + j) * L;
        store(to, first ? acc[i][j] : load(to) + acc[i][j]);
    }
}
template <class T>
using TapTile = void (*)(const T*, const int32_t*, int64_t, const T*, int64_t, int64_t, T*, bool);
template <class T, int NV, int MT = 1>
static TapTile<T> find_tap_tile(int64_t taps) {
    if constexpr (MT < GradWeightTiles::taps) {
        if (taps > MT) return find_tap_tile<T, NV, MT + 1>(taps);
    }
    return tap_tile<T, MT, NV>;
}
template <class T>
static TapTile<T> find_tap_tile(int64_t taps, int64_t vectors) {
    return vectors == 3 ? find_tap_tile<T, 3>(taps) : vectors == 2 ? find_tap_tile<T, 2>(taps) : find_tap_tile<T, 1>(taps);
}

// sum[k][i] += dot products of filter k's gradients and tap i over a block.
template <class T, int KT, int JT>
FASTCV_NOINLINE void dot_tile(const T* strip, const int32_t* offset, int64_t pitch, const T* y, int64_t y_filter, int64_t y_row,
                              int64_t rows, int64_t columns, T* sum, int64_t sum_filter) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[KT][JT];
    clear_tile<T, KT, JT>(acc);
    const T* x[JT];
    FASTCV_UNROLL for (int j = 0; j < JT; j++) x[j] = strip + offset[j];
    for (int64_t p = 0; p < rows; p++) {
        for (int64_t q = 0; q < columns; q += L) {
            Vec<T> grad[KT];
            FASTCV_UNROLL for (int k = 0; k < KT; k++) {
                grad[k] = load_first(y + k * y_filter + p * y_row + q, columns - q);
                keep(grad[k]);
            }
            FASTCV_UNROLL for (int j = 0; j < JT; j++) {
                // Behind the row's end the strip may hold anything, NaN included.
                Vec<T> pixels = load_first(x[j] + p * pitch + q, columns - q);
                keep(pixels);
                FASTCV_UNROLL for (int k = 0; k < KT; k++) acc[k][j] = fma(grad[k], pixels, acc[k][j]);
            }
        }
    }
    FASTCV_UNROLL for (int k = 0; k < KT; k++)
        FASTCV_UNROLL for (int j = 0; j < JT; j++) sum[k * sum_filter + j] += sum_lanes<T>(acc[k][j]);
}
template <class T>
using DotTile = void (*)(const T*, const int32_t*, int64_t, const T*, int64_t, int64_t, int64_t, int64_t, T*, int64_t);
template <class T, int KT, int JT = 1>
static DotTile<T> find_dot_tile(int64_t taps) {
    if constexpr (JT < GradWeightTiles::dot_taps + (KT == 1)) {
        if (taps > JT) return find_dot_tile<T, KT, JT + 1>(taps);
    }
    return dot_tile<T, KT, JT>;
}
template <class T>
static DotTile<T> find_dot_tile(int64_t filters, int64_t taps) {
    if constexpr (GradWeightTiles::dot_filters == 3) {
        if (filters == 3) return find_dot_tile<T, 3>(taps);
    }
    return filters == 2 ? find_dot_tile<T, 2>(taps) : find_dot_tile<T, 1>(taps);
}

// Rows [first, first + rows) of `filters` planes of grad_output -> y[pixel][width], zeros behind the last filter.
template <class T>
static void gather_filters(const GradWeightCall<T>& c, int64_t n, int64_t k, int64_t filters, int64_t width, int64_t first,
                           int64_t rows, T* y) {
    constexpr int64_t L = kLanes<T>;
    const int64_t* stride = c.grad_output.stride_bytes;
    const int64_t columns = c.x.output;
    for (int64_t p = 0; p < rows; p++)
        for (int64_t f = 0; f < width; f += L) {
            const char* row = c.grad_plane(n, k + f) + (first + p) * stride[2];
            T* to = y + p * columns * width + f;
            const int64_t count = larger(0, smaller(L, filters - f));
            if (stride[3] == int64_t(sizeof(T))) {
                for (int64_t q = 0; q < columns; q += L) {
                    Vec<T> square[L];
                    FASTCV_UNROLL for (int64_t i = 0; i < L; i++)
                        square[i] = i < count ? load_first(reinterpret_cast<const T*>(row + i * stride[1]) + q, columns - q)
                                              : zero<T>();
                    transpose<T>(square);
                    FASTCV_UNROLL for (int64_t i = 0; i < L; i++)
                        if (q + i < columns) store(to + (q + i) * width, square[i]);
                }
            } else if (stride[1] == int64_t(sizeof(T))) {
                for (int64_t q = 0; q < columns; q++)
                    store(to + q * width, load_first(reinterpret_cast<const T*>(row + q * stride[3]), count));
            } else {
                for (int64_t q = 0; q < columns; q++) {
                    store(to + q * width, zero<T>());
                    for (int64_t i = 0; i < count; i++)
                        to[q * width + i] = load_scalar<T>(row + q * stride[3] + i * stride[1]);
                }
            }
        }
}

// What one thread works on: some filters and some channels of one group.
struct GradWeightPart {
    int64_t g, first_filter, last_filter, first_channel, last_channel;
};

template <class T>
static Planes planes_of(const GradWeightCall<T>& c, int64_t n, const GradWeightPart& part) {
    const int64_t* stride = c.input.stride_bytes;
    return {c.input.data + n * stride[0] + (part.g * c.channels() + part.first_channel) * stride[1], stride[1], stride[2], stride[3]};
}

// Where a block's taps are read: a filled strip, or the input itself.
template <class T>
static const T* strip_of_rows(const GradWeightCall<T>& c, int64_t n, const GradWeightPart& part, int64_t row, int64_t rows, T* buffer) {
    const Planes in = planes_of(c, n, part);
    if (c.in_place) return reinterpret_cast<const T*>(in.data + row * in.row_bytes);
    Strip s = c.strip;
    s.channels = part.last_channel - part.first_channel;
    fill_strip(s, buffer, in, row, 0, rows + c.y.steps());
    return buffer;
}

// One element of grad_weight.
template <class T>
FASTCV_INLINE void store_gradient(const GradWeightCall<T>& c, int64_t k, int64_t channel, int64_t tap, T value) {
    const int64_t* stride = c.grad_weight.stride_bytes;
    store_scalar(c.grad_weight.data + k * stride[0] + channel * stride[1] + tap / c.shape.S * stride[2] + tap % c.shape.S * stride[3],
                 value);
}

template <class T>
static void filter_lane_part(const GradWeightCall<T>& c, const GradWeightPart& part, T* buffer, T* y, T* sum) {
    constexpr int64_t L = kLanes<T>;
    const int64_t window = c.shape.R * c.shape.S, taps = (part.last_channel - part.first_channel) * window;
    const int64_t filters = part.last_filter - part.first_filter;
    const int64_t all_vectors = ceil_div(filters, L), panels = ceil_div(all_vectors, GradWeightTiles::vectors);
    const int64_t pieces = ceil_div(taps, GradWeightTiles::taps);
    bool first = true;
    if (c.shape.N == 0 || c.y.output == 0 || c.x.output == 0) fill_zeros(sum, taps * round_up(filters, L));
    for (int64_t n = 0; n < c.shape.N; n++)
        for (int64_t row = 0; row < c.y.output; row += c.block_rows, first = false) {
            const int64_t rows = smaller(c.block_rows, c.y.output - row);
            const T* strip = strip_of_rows(c, n, part, row, rows, buffer);
            for (int64_t panel = 0; panel < panels; panel++) {
                const int64_t k = all_vectors * panel / panels * L, vectors = all_vectors * (panel + 1) / panels - k / L;
                gather_filters(c, n, part.g * c.filters() + part.first_filter + k, filters - k, vectors * L, row, rows, y);
                for (int64_t piece = 0; piece < pieces; piece++) {
                    const int64_t t0 = taps * piece / pieces, t1 = taps * (piece + 1) / pieces;
                    find_tap_tile<T>(t1 - t0, vectors)(strip, c.offset + t0, c.strip.pitch, y, rows, c.x.output,
                                                       sum + k * taps + t0 * vectors * L, first);
                }
            }
        }
    const int64_t* stride = c.grad_weight.stride_bytes;
    const int64_t size = int64_t(sizeof(T));
    const bool contiguous = (c.shape.S == 1 || stride[3] == size) && (c.shape.R == 1 || stride[2] == c.shape.S * size) &&
                            (c.channels() == 1 || stride[1] == window * size);
    for (int64_t panel = 0; panel < panels; panel++) {
        const int64_t k = all_vectors * panel / panels * L, vectors = all_vectors * (panel + 1) / panels - k / L;
        for (int64_t v = 0; v < vectors; v++)
            for (int64_t t = 0; t < taps; t += L) {
                const int64_t filter = part.g * c.filters() + part.first_filter + k + v * L, left = filters - k - v * L;
                Vec<T> square[L];
                FASTCV_UNROLL for (int64_t i = 0; i < L; i++)
                    square[i] = t + i < taps ? load(sum + k * taps + ((t + i) * vectors + v) * L) : zero<T>();
                transpose<T>(square);
                T lane[L];
                FASTCV_UNROLL for (int64_t i = 0; i < L; i++) {
                    if (i >= left) continue;
                    if (contiguous) {
                        store_first(reinterpret_cast<T*>(c.grad_weight.data + (filter + i) * stride[0] + part.first_channel * window * size) + t,
                                    square[i], taps - t);
                        continue;
                    }
                    store(lane, square[i]);
                    for (int64_t j = 0; j < smaller(L, taps - t); j++)
                        store_gradient(c, filter + i, part.first_channel + (t + j) / window, (t + j) % window, lane[j]);
                }
            }
    }
}

template <class T>
static void pixel_lane_part(const GradWeightCall<T>& c, const GradWeightPart& part, T* buffer, T* y, T* sum) {
    constexpr int64_t L = kLanes<T>;
    const int64_t window = c.shape.R * c.shape.S, taps = (part.last_channel - part.first_channel) * window;
    const int64_t filters = part.last_filter - part.first_filter;
    const int64_t at_once = smaller(filters, GradWeightTiles::dot_filters);
    const int64_t width = GradWeightTiles::dot_taps + (at_once == 1), pieces = ceil_div(taps, width);
    fill_zeros(sum, filters * taps);
    const int64_t pitch = round_up(c.x.output, L), y_filter = c.block_rows * pitch;
    for (int64_t n = 0; n < c.shape.N; n++)
        for (int64_t row = 0; row < c.y.output; row += c.block_rows) {
            const int64_t rows = smaller(c.block_rows, c.y.output - row);
            const T* strip = strip_of_rows(c, n, part, row, rows, buffer);
            for (int64_t k = 0, count; k < filters; k += count) {
                count = smaller(at_once, filters - k);
                for (int64_t f = 0; f < count; f++)
                    for (int64_t p = 0; p < rows; p++)
                        copy_row(y + f * y_filter + p * pitch,
                                 c.grad_plane(n, part.g * c.filters() + part.first_filter + k + f) +
                                     (row + p) * c.grad_output.stride_bytes[2],
                                 c.grad_output.stride_bytes[3], c.x.output);
                for (int64_t piece = 0; piece < pieces; piece++) {
                    const int64_t t0 = taps * piece / pieces, t1 = taps * (piece + 1) / pieces;
                    find_dot_tile<T>(count, t1 - t0)(strip, c.offset + t0, c.strip.pitch, y, y_filter, pitch, rows, c.x.output,
                                                     sum + k * taps + t0, taps);
                }
            }
        }
    for (int64_t k = 0; k < filters; k++)
        for (int64_t t = 0; t < taps; t++)
            store_gradient(c, part.g * c.filters() + part.first_filter + k, part.first_channel + t / window, t % window,
                           sum[k * taps + t]);
}

template <class T>
static Status grad_weight_direct(const Conv2dShape& s, Tensor grad_output, Tensor input, Tensor grad_weight) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    if (s.K == 0 || s.C == 0) return Status::ok;
    GradWeightCall<T> c;
    c.shape = s;
    c.grad_output = grad_output;
    c.input = input;
    c.grad_weight = grad_weight;
    c.y = vertical(s);
    c.x = horizontal(s);
    if (strip_too_large(c.y, c.x, c.channels())) return Status::out_of_memory;
    const bool filter_lanes = c.filters() >= kLanes<T> / 2;
    const int threads = threads_for(2 * multiply_adds(s));

    // Groups go to threads whole; a group is cut by filters or by channels. The cuts change nothing in the
    // order of any sum.
    const int64_t panel = filter_lanes ? L : GradWeightTiles::dot_filters;
    int64_t filter_parts = 1, channel_parts = 1;
    if (s.G < 4 * threads && s.G % threads) {
        const int64_t panels = ceil_div(c.filters(), panel);
        if (panels >= 2 * threads)
            filter_parts = threads;
        else if (c.channels() >= threads)
            channel_parts = threads;
        else
            filter_parts = smaller(threads, panels);
    }
    const int64_t part_channels = ceil_div(c.channels(), channel_parts);
    const int64_t part_filters = round_up(ceil_div(ceil_div(c.filters(), panel), filter_parts) * panel, L);

    // Blocks of rows: bounded by the strip and by the transposed gradients, the same for any number of threads.
    const int64_t row_bytes = size * smaller(c.channels(), 64) * c.y.slots() * c.x.slots() * (s.Q + c.x.steps());
    const int64_t widest = filter_lanes ? GradWeightTiles::vectors * L : GradWeightTiles::dot_filters;
    const int64_t gradient_bytes = size * widest * round_up(s.Q, L);
    const int64_t* b = input.stride_bytes;
    c.in_place = s.R == 1 && s.S == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_top == 0 && s.pad_left == 0 && s.P <= s.H &&
                 s.Q <= s.W && b[3] == size && b[2] % size == 0 && b[1] % size == 0 && b[1] >= 0 && (b[1] < 4096 || b[1] % 4096 >= 256) &&
                 double(b[1]) * double(c.channels()) < double(INT32_MAX);
    const int64_t fitting = c.in_place ? s.P : kStripBytes / larger(1, row_bytes) - c.y.steps();
    c.block_rows = larger(1, smaller(s.P, smaller(fitting, kStripBytes / 2 / larger(1, gradient_bytes))));
    c.strip = make_strip<T>(c.y, c.x, part_channels, c.block_rows, s.Q);
    if (c.in_place) c.strip.pitch = b[2] / size, c.strip.channel = b[1] / size, c.strip.elements = 0;
    if (c.strip.elements > INT32_MAX) return Status::out_of_memory;
    const int64_t offset_bytes = round_up(part_channels * s.R * s.S * int64_t(sizeof(int32_t)), 64);
    const int64_t strip_bytes = round_up(c.strip.elements * size, 64);
    const int64_t y_bytes = round_up((c.block_rows * round_up(s.Q, L) * widest + L) * size, 64);
    const int64_t sum_bytes = round_up((part_channels * s.R * s.S * part_filters + L) * size, 64);
    const int64_t thread_bytes = strip_bytes + y_bytes + sum_bytes;
    Scratch scratch(offset_bytes + threads * thread_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    int32_t* offset = reinterpret_cast<int32_t*>(scratch.data());
    for (int64_t tap = 0; tap < s.R * s.S; tap++) {
        const int64_t first = c.in_place ? 0 : c.strip.offset(tap / s.S, tap % s.S);
        for (int64_t ch = 0; ch < part_channels; ch++) offset[ch * s.R * s.S + tap] = int32_t(first + ch * c.strip.channel);
    }
    c.offset = offset;

    const int64_t parts = s.G * filter_parts * channel_parts;
    parallel(threads, [&](Team team) {
        T* strip = reinterpret_cast<T*>(scratch.data() + offset_bytes + team.id * thread_bytes);
        T* y = reinterpret_cast<T*>(reinterpret_cast<char*>(strip) + strip_bytes);
        T* sum = reinterpret_cast<T*>(reinterpret_cast<char*>(y) + y_bytes);
        for (int64_t i = team.begin(parts); i < team.end(parts); i++) {
            const int64_t f = i % filter_parts, ch = i / filter_parts % channel_parts;
            GradWeightPart part;
            part.g = i / filter_parts / channel_parts;
            const int64_t panels = ceil_div(c.filters(), panel);
            part.first_filter = panels * f / filter_parts * panel;
            part.last_filter = smaller(c.filters(), panels * (f + 1) / filter_parts * panel);
            part.first_channel = smaller(c.channels(), ch * part_channels);
            part.last_channel = smaller(c.channels(), (ch + 1) * part_channels);
            if (part.last_channel == part.first_channel || part.last_filter == part.first_filter) continue;
            if (filter_lanes)
                filter_lane_part(c, part, strip, y, sum);
            else
                pixel_lane_part(c, part, strip, y, sum);
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
