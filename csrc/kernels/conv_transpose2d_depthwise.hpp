// Transposed depthwise convolution with stride 2, and one or two channels per group: no sum over channels to hide loads behind.
//
// Counted from the padded output's corner, output row 2 j + b (b = 0, 1) sees input rows j - t through taps r = 2 t + b, and columns
// alike. So a vector of input pixels feeds four phases of output at once:
//
//                      columns   2 j      2 j + 1            under 3x3, for input rows j and j - 1
//        output row 2 j        a(t, t')   b(t, t')           a: taps 0, 2    b: tap 1
//        output row 2 j + 1    c(t, t')   d(t, t')
//
// An input plane is copied into a zero-padded strip in the first-level cache. A tile is some rows j by one vector, times four phases;
// each pixel is loaded once per column of taps, each sum stays in a register until two phases are interleaved into a row of output.
#pragma once

#include "../epilogue.h"
#include "../parallel.h"
#include "../strip.h"

namespace fastcv::FASTCV_ISA {
namespace {

struct TransposedDepthwiseSizes {
    static constexpr int tile_rows = kManyRegisters ? 4 : 2;
    int64_t reach;                 // taps of a phase, at most
    int64_t first_row, first_column;  // j of the first output row and column
    int64_t rows, columns;            // of j
    int64_t pitch, strip_rows;

    template <class T>
    static TransposedDepthwiseSizes of(const Conv2dShape& s) {
        TransposedDepthwiseSizes z;
        z.reach = (s.R + 1) / 2;
        z.first_row = s.pad_top / 2;
        z.first_column = s.pad_left / 2;
        z.rows = (s.H - 1 + s.pad_top) / 2 - z.first_row + 1;
        z.columns = (s.W - 1 + s.pad_left) / 2 - z.first_column + 1;
        z.pitch = round_up(z.columns, kLanes<T>) + kLanes<T>;
        z.strip_rows = round_up(z.rows, tile_rows) + z.reach - 1;
        return z;
    }
};

template <class T>
static bool transposed_depthwise_fits(const Conv2dShape& s) {
    if (s.stride_h != 2 || s.stride_w != 2 || s.dilation_h != 1 || s.dilation_w != 1 || s.R != s.S || s.R < 2 || s.R > 7) return false;
    if (s.pad_top < 0 || s.pad_left < 0 || s.G < 8 || s.K / s.G > 2) return false;
    // The strip of a channel stays in the second-level cache.
    return double(s.P + s.R + 4) * double(s.Q + s.R + 2 * kLanes<T>) * double(sizeof(T)) < 256 * 1024;
}

template <class T>
struct TransposedDepthwiseCall {
    Conv2dShape shape;
    TransposedDepthwiseSizes sizes;
    int64_t strip;  // elements from one input channel's to the next one's
    const int64_t* output_stride;
    Activation activation;
    T slope;
};

// One output plane from the strips of its group's input channels. weight[channel][tap].
template <class T, int Window>
FASTCV_NOINLINE void transposed_depthwise_plane(const TransposedDepthwiseCall<T>& c, const T* strips, const T* weight, T bias,
                                                char* output) {
    constexpr int L = kLanes<T>, Rows = TransposedDepthwiseSizes::tile_rows, Reach = (Window + 1) / 2;
    const Conv2dShape& s = c.shape;
    const int64_t channels = s.K / s.G, pitch = c.sizes.pitch, first_y = 2 * c.sizes.first_row - s.pad_top;
    T line[2 * Rows][2 * L];
    for (int64_t j0 = 0; j0 < c.sizes.rows; j0 += Rows)
        for (int64_t q0 = 0; q0 < c.sizes.columns; q0 += L) {
            Vec<T> acc[Rows][2][2];
            FASTCV_UNROLL for (int o = 0; o < Rows; o++)
                FASTCV_UNROLL for (int b = 0; b < 4; b++) acc[o][b / 2][b % 2] = splat(bias);
            for (int64_t k = 0; k < channels; k++) {
                const T* w = weight + k * Window * Window;
                const T* row = strips + k * c.strip + j0 * pitch + q0;
                FASTCV_UNROLL for (int i = 0; i < Rows + Reach - 1; i++, row += pitch)
                    FASTCV_UNROLL for (int tx = 0; tx < Reach; tx++) {
                        Vec<T> x = load(row + (Reach - 1 - tx));
                        keep(x);
                        FASTCV_UNROLL for (int r = 0; r < Window; r++) {
                            const int o = i - (Reach - 1) + r / 2;
                            if (o < 0 || o >= Rows) continue;
                            FASTCV_UNROLL for (int b = 0; b < 2; b++)
                                if (2 * tx + b < Window)
                                    acc[o][r % 2][b] = fma(x, splat(load_scalar<T>(w + r * Window + 2 * tx + b)), acc[o][r % 2][b]);
                        }
                    }
            }
            if (c.activation != Activation::none)
                FASTCV_UNROLL for (int o = 0; o < Rows; o++)
                    FASTCV_UNROLL for (int b = 0; b < 4; b++)
                        acc[o][b / 2][b % 2] = activate<T>(acc[o][b / 2][b % 2], c.activation, c.slope);
            const int64_t first = 2 * (c.sizes.first_column + q0) - s.pad_left;  // output column of the first lane
            const int64_t begin = larger(0, -first), end = smaller(2 * L, s.W - first);
            const bool straight = begin == 0 && c.output_stride[3] == int64_t(sizeof(T));
            FASTCV_UNROLL for (int o = 0; o < Rows; o++)
                FASTCV_UNROLL for (int b = 0; b < 2; b++) {
                    const int64_t y = first_y + 2 * (j0 + o) + b;
                    if (y < 0 || y >= s.H) continue;
                    const Vec<T> low = interleave_low<T>(acc[o][b][0], acc[o][b][1]);
                    const Vec<T> high = interleave_high<T>(acc[o][b][0], acc[o][b][1]);
                    T* to = straight ? reinterpret_cast<T*>(output + y * c.output_stride[2]) + first : line[2 * o + b];
                    store_first(to, low, straight ? end : L);
                    store_first(to + L, high, straight ? end - L : L);
                }
            if (straight) continue;
            for (int i = 0; i < 2 * Rows; i++) {
                const int64_t y = first_y + 2 * j0 + i;
                if (y < 0 || y >= s.H) continue;
                char* to = output + y * c.output_stride[2] + (first + begin) * c.output_stride[3];
                if (c.output_stride[3] == int64_t(sizeof(T)))
                    copy_row(reinterpret_cast<T*>(to), reinterpret_cast<const char*>(line[i] + begin), int64_t(sizeof(T)), end - begin);
                else
                    for (int64_t x = begin; x < end; x++, to += c.output_stride[3]) store_scalar(to, line[i][x]);
            }
        }
}

template <class T>
using TransposedDepthwisePlane = void (*)(const TransposedDepthwiseCall<T>&, const T*, const T*, T, char*);
template <class T>
static TransposedDepthwisePlane<T> find_transposed_depthwise_plane(int64_t window) {
    switch (window) {
        case 2: return transposed_depthwise_plane<T, 2>;
        case 3: return transposed_depthwise_plane<T, 3>;
        case 4: return transposed_depthwise_plane<T, 4>;
        case 5: return transposed_depthwise_plane<T, 5>;
        case 6: return transposed_depthwise_plane<T, 6>;
        default: return transposed_depthwise_plane<T, 7>;
    }
}

template <class T>
static Status conv_transpose2d_depthwise(const Conv2dShape& s, Tensor input, Tensor weight, Tensor output, const Epilogue& epilogue) {
    constexpr int64_t size = int64_t(sizeof(T));
    const TransposedDepthwiseSizes z = TransposedDepthwiseSizes::of<T>(s);
    const int64_t channels = s.K / s.G, filters = s.C / s.G, taps = s.R * s.S;
    const TransposedDepthwiseCall<T> c{s,
                                       z,
                                       round_up(z.strip_rows * z.pitch + kLanes<T>, kLanes<T>),
                                       output.stride_bytes,
                                       epilogue.activation,
                                       T(epilogue.slope)};
    const int threads = threads_for(4 * multiply_adds(s));
    const int64_t weight_bytes = round_up(s.C * channels * taps * size, 64), thread_bytes = round_up(channels * c.strip * size, 64);
    Scratch scratch(weight_bytes + threads * thread_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    T* weights = reinterpret_cast<T*>(scratch.data());  // [filter][channel][tap]
    const int64_t* b = weight.stride_bytes;
    for (int64_t k = 0; k < s.C; k++)
        for (int64_t i = 0; i < channels; i++)
            for (int64_t tap = 0; tap < taps; tap++)
                weights[(k * channels + i) * taps + tap] = load_scalar<T>(
                    weight.data + (k / filters * channels + i) * b[0] + k % filters * b[1] + tap / s.S * b[2] + tap % s.S * b[3]);
    // Strip row i holds input row first_row - (reach - 1) + i.
    const int64_t top = z.first_row - (z.reach - 1), left = z.first_column - (z.reach - 1);
    const int64_t y0 = larger(0, top), y1 = smaller(s.P, top + z.strip_rows);
    const int64_t x0 = larger(0, left), x1 = larger(x0, smaller(s.Q, left + z.pitch));
    const auto run = find_transposed_depthwise_plane<T>(s.R);
    parallel(threads, [&](Team team) {
        T* strips = reinterpret_cast<T*>(scratch.data() + weight_bytes + team.id * thread_bytes);
        for (int64_t i = 0; i < channels * c.strip; i += kLanes<T>) store(strips + i, zero<T>());  // all planes overwrite the same inside
        for (int64_t item = team.begin(s.N * s.G); item < team.end(s.N * s.G); item++) {
            const int64_t n = item / s.G, g = item % s.G;
            for (int64_t k = 0; k < channels; k++) {
                const char* plane = input.data + n * input.stride_bytes[0] + (g * channels + k) * input.stride_bytes[1];
                for (int64_t y = y0; y < y1; y++)
                    copy_row(strips + k * c.strip + (y - top) * z.pitch + (x0 - left),
                             plane + y * input.stride_bytes[2] + x0 * input.stride_bytes[3], input.stride_bytes[3], x1 - x0);
            }
            for (int64_t k = g * filters; k < (g + 1) * filters; k++)
                run(c, strips, weights + k * channels * taps,
                    epilogue.bias ? load_scalar<T>(epilogue.bias + k * epilogue.bias_stride_bytes) : T(0),
                    output.data + n * output.stride_bytes[0] + k * output.stride_bytes[1]);
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
