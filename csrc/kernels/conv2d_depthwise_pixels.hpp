// Depthwise convolution of channels-last images, read and written where they lie.
//
//   output[p][q][c] = sum over r, s of weight[c][r][s] * input[p * stride + r * d - pad][q * stride + s * d - pad][c]
//
//              channels c
//            +--------------+--------------+
//   8 pixels |  one vector, |  the next    |  ...      a loaded weight serves 8 pixels; memory goes by in long rows
//   of a row |  all taps    |  vector      |
//            +--------------+--------------+
//
// Pixels whose window sticks out of a row skip the taps outside, one pixel and a few vectors at a time. Where they are many, planes are
// narrow: those are for conv2d_depthwise_lanes.hpp, which copies one vector of channels of a block of rows, a line here and a line there.
//
// Measured, two threads, 128 channels of 128x128 under 3x3: 1.37 ms with blocks copied, 0.57 so; 256 of 64x64 0.60 and 0.31.
#pragma once

#include "conv2d_depthwise_lanes.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int kPixelsTogether = 8;
constexpr int kVectorsTogether = 4;

// Taps of a window, or outputs of a row: [first, last).
struct Range {
    int64_t first, last;
};

template <class T>
struct PixelTaps {
    const T* input;  // where the window's first tap lies, which may be outside
    int64_t row, column, pixel;  // elements to the next tap's row and column, and to the next output's window
    Range rows, columns;  // of the window, that see the input
    const T* weight;  // [tap][lane] of a vector of channels, the next vector's `window` further on
    int64_t window_columns, window;
    const T* bias;
    T* output;
    int64_t output_pixel;
    int64_t lanes;  // of the last vector
    Activation activation;
    T slope;
};

// NP pixels and NC vectors of channels, the last of which may be incomplete.
template <class T, int NP, int NC, bool Whole>
FASTCV_INLINE void depthwise_pixels_tile(const PixelTaps<T>& t) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[NP][NC];
    FASTCV_UNROLL for (int i = 0; i < NP; i++) FASTCV_UNROLL for (int j = 0; j < NC; j++) acc[i][j] = load(t.bias + j * L);
    for (int64_t r = t.rows.first; r < t.rows.last; r++)
        for (int64_t s = t.columns.first; s < t.columns.last; s++) {
            const T* from = t.input + r * t.row + s * t.column;
            const T* weight = t.weight + (r * t.window_columns + s) * L;
            FASTCV_UNROLL for (int j = 0; j < NC; j++) {
                const Vec<T> w = load(weight + j * t.window);
                FASTCV_UNROLL for (int i = 0; i < NP; i++) {
                    const T* p = from + i * t.pixel + j * L;
                    acc[i][j] = fma(Whole || j < NC - 1 ? load(p) : load_first(p, t.lanes), w, acc[i][j]);
                }
            }
        }
    FASTCV_UNROLL for (int i = 0; i < NP; i++)
        FASTCV_UNROLL for (int j = 0; j < NC; j++) {
            const Vec<T> y = activate<T>(acc[i][j], t.activation, t.slope);
            T* to = t.output + i * t.output_pixel + j * L;
            if (Whole || j < NC - 1)
                store(to, y);
            else
                store_first(to, y, t.lanes);
        }
}
template <class T, int NP, int NC>
FASTCV_NOINLINE void depthwise_pixels(const PixelTaps<T>& t) {
    if (t.lanes == kLanes<T>)
        depthwise_pixels_tile<T, NP, NC, true>(t);
    else
        depthwise_pixels_tile<T, NP, NC, false>(t);
}
template <class T>
using DepthwisePixels = void (*)(const PixelTaps<T>&);
template <class T, int NP = 1>
static DepthwisePixels<T> find_depthwise_pixels(int64_t pixels) {
    if constexpr (NP < kPixelsTogether) {
        if (pixels > NP) return find_depthwise_pixels<T, NP + 1>(pixels);
    }
    return depthwise_pixels<T, NP, 1>;
}
template <class T, int NC = 1>
static DepthwisePixels<T> find_depthwise_vectors(int64_t vectors) {
    if constexpr (NC < kVectorsTogether) {
        if (vectors > NC) return find_depthwise_vectors<T, NC + 1>(vectors);
    }
    return depthwise_pixels<T, 1, NC>;
}

// Outputs of a row whose whole window lies inside the input's.
static Range inner_columns(const Conv2dShape& s) { return {horizontal(s).first_whole(), horizontal(s).last_whole()}; }

template <class T>
static bool depthwise_pixels_fit(const Conv2dShape& s, Tensor input, Tensor output) {
    const ChannelsLast last = channels_last(input, output, int(sizeof(T)));
    const Range inner = inner_columns(s);
    return last.input && last.output && s.K == s.G && s.C >= kLanes<T> / 2 && 4 * (inner.last - inner.first) >= 3 * s.Q;
}

template <class T>
static Status conv2d_depthwise_pixels(const Conv2dShape& s, Tensor input, const Weights& weight, Tensor output, const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    const int64_t vectors = ceil_div(s.C, L), taps = s.R * s.S;
    // Weights are gathered in squares: room for a whole one behind each vector's.
    const int64_t window = round_up(taps, L) * L, bias_bytes = vectors * L * size, weight_bytes = vectors * window * size;
    Scratch scratch(bias_bytes + weight_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    T* bias = reinterpret_cast<T*>(scratch.data());
    T* weights = reinterpret_cast<T*>(scratch.data() + bias_bytes);
    for (int64_t k = 0; k < vectors * L; k++)
        bias[k] = epilogue.bias && k < s.K ? load_scalar<T>(epilogue.bias + k * epilogue.bias_stride_bytes) : T(0);

    const Axis vertical_axis = vertical(s), horizontal_axis = horizontal(s);
    const Range inner = inner_columns(s);
    const int64_t pieces = ceil_div(inner.last - inner.first, kPixelsTogether);
    const int64_t *in = input.stride_bytes, *out = output.stride_bytes;
    parallel(threads_for(4 * multiply_adds(s)), [&](Team team) {
        for (int64_t v = team.begin(vectors); v < team.end(vectors); v++) gather_taps(s, weight, v * L, 0, weights + v * window);
        team.wait_for_all();
        for (int64_t item = team.begin(s.N * s.P); item < team.end(s.N * s.P); item++) {
            const int64_t n = item / s.P, y = item % s.P, top = y * s.stride_h - s.pad_top;
            const Range rows{vertical_axis.first_tap(y), vertical_axis.last_tap(y)};
            const auto taps_from = [&](int64_t q, Range columns, int64_t v) {
                const int64_t left = q * s.stride_w - s.pad_left;
                return PixelTaps<T>{
                    reinterpret_cast<const T*>(input.data + n * in[0] + top * in[2] + left * in[3]) + v * L,
                    s.dilation_h * in[2] / size, s.dilation_w * in[3] / size, s.stride_w * in[3] / size,
                    rows, columns,
                    weights + v * window, s.S, window, bias + v * L,
                    reinterpret_cast<T*>(output.data + n * out[0] + y * out[2] + q * out[3]) + v * L, out[3] / size,
                    L, epilogue.activation, T(epilogue.slope)};
            };
            const auto edge = [&](int64_t from, int64_t to) {
                for (int64_t q = from; q < to; q++)
                    for (int64_t v = 0; v < vectors; v += kVectorsTogether) {
                        const int64_t count = smaller(kVectorsTogether, vectors - v);
                        PixelTaps<T> t = taps_from(q, {horizontal_axis.first_tap(q), horizontal_axis.last_tap(q)}, v);
                        t.lanes = smaller(L, s.C - (v + count - 1) * L);
                        find_depthwise_vectors<T>(count)(t);
                    }
            };
            edge(0, inner.first);
            for (int64_t piece = 0; piece < pieces; piece++) {
                const int64_t columns = inner.last - inner.first;
                const int64_t q = inner.first + columns * piece / pieces, count = inner.first + columns * (piece + 1) / pieces - q;
                const DepthwisePixels<T> tile = find_depthwise_pixels<T>(count);
                PixelTaps<T> t = taps_from(q, {0, s.S}, 0);
                for (int64_t v = 0; v < vectors; v++) {
                    t.lanes = smaller(L, s.C - v * L);
                    tile(t);
                    t.input += L;
                    t.output += L;
                    t.bias += L;
                    t.weight += window;
                }
            }
            edge(inner.last, s.Q);
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
