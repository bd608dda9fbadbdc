// Depthwise convolution by square windows of 3, 5 or 7 taps, strides 1 and 2, that reads rows where they lie: no padded copy.
//
//   output[c * M + m][p][q] =
//       sum over r, s of weight[c * M + m][r][s] * input[c][p * stride + r * d - pad][q * stride + s * d - pad]
//
// Lanes are pixels of a row. A row is loaded once, masked at the image's edges, and its columns' neighbours are made in registers:
//
//   stride 1:  x0 = row[q ..]                  stride 2:  even, odd = row[2q ..] split by one shuffle each
//              x1 = x0 and its right                      taps 0, 2, 4: even, moved by 0, 1, 2 lanes
//                   neighbour, moved a lane               taps 1, 3, 5: odd, likewise
//
// With a dilation d (and stride 1) each tap is a masked load of its own, and the rows in flight are d apart.
//
// Each then feeds all output rows in flight whose window it lies in: `rows` of them, one or two vectors wide. Rows of the window
// outside the image are skipped.
//
// Why not shifted loads from a padded copy: nearly every one crosses a cache line and costs two, three of them to nine
// multiply-adds, and the copy's stores delay them. Moves between registers run beside the multipliers. Two threads, 144 channels
// of 56x56 under 3x3: 78 us so and 52 us here; 7x7 on 14x14, 384 channels: 57 and 40 us.
//
// This takes masked loads and 32 registers, so it is for AVX-512. With AVX2's 16 it was slower than the copy, 193 us for 88 on the
// first of these.
#pragma once

#include "../epilogue.h"
#include "../geometry.h"
#include "../parallel.h"
#include "../simd.h"

#if defined(__AVX512F__)

namespace fastcv::FASTCV_ISA {
namespace {

template <class T>
struct DepthwiseRowsCall {
    Conv2dShape shape;
    Tensor input, output;
    Activation activation;
    T slope;
};

// A column of outputs of one filter, one or two vectors wide.
template <class T>
struct OutputColumn {
    const char* plane;
    const T* weight;
    T bias;
    int64_t input_row, input_column;  // of the first output's first tap; may lie outside
    char* output;
    int64_t rows;
    LaneRange<T> last;                // to store of the last vector
};

// How the taps of an input row come into registers: tap<S>(v) after load(p), p at the row's first tap.

// Without dilation: the row's vectors by phase of the stride, and moves between them.
template <class T, int NV, int Window, int Stride>
struct NeighbourTaps {
    static constexpr int L = kLanes<T>, stride = Stride;
    static constexpr int furthest = (Window - 1) / Stride;  // lanes that the last tap lies further right
    static_assert(furthest < L && (Stride == 1 || furthest <= L / 2), "or more vectors would have to be loaded");
    static constexpr int loads = Stride * NV + 1;
    LaneRange<T> range[loads];
    Vec<T> x[Stride][NV + 1];

    NeighbourTaps(int64_t first, int64_t width, int64_t) {
        for (int i = 0; i < loads; i++) range[i] = LaneRange<T>(-first - i * L, width - first - i * L);
    }
    void load(const T* p) {
        FASTCV_UNROLL for (int v = 0; v <= NV; v++) {
            const Vec<T> a = load_range(p + v * Stride * L, range[v * Stride]);
            if constexpr (Stride == 1) {
                x[0][v] = a;
            } else {
                const Vec<T> b = v < NV ? load_range(p + (v * 2 + 1) * L, range[v * 2 + 1]) : zero<T>();
                x[0][v] = even<T>(a, b);
                x[1][v] = odd<T>(a, b);
            }
        }
    }
    template <int S>
    Vec<T> tap(int v) const {
        if constexpr (S < Stride) return x[S][v];
        else return shift_lanes<T, S / Stride>(x[S % Stride][v], x[S % Stride][v + 1]);
    }
};

// With dilation: a load for each tap.
template <class T, int NV, int Window>
struct DilatedTaps {
    static constexpr int L = kLanes<T>, stride = 1;
    LaneRange<T> range[Window][NV];
    int64_t dilation;
    const T* row;

    DilatedTaps(int64_t first, int64_t width, int64_t d) : dilation(d), row(nullptr) {
        for (int s = 0; s < Window; s++)
            for (int v = 0; v < NV; v++) range[s][v] = LaneRange<T>(-first - s * d - v * L, width - first - s * d - v * L);
    }
    void load(const T* p) { row = p; }
    template <int S>
    Vec<T> tap(int v) const {
        return load_range(row + S * dilation + v * L, range[S][v]);
    }
};

// Weights of a 3x3 window stay in registers; more are read again.
template <class T, int Window>
struct TapWeights {
    const T* weight;
    explicit TapWeights(const T* w) : weight(w) {}
    Vec<T> at(int tap) const { return splat(load_scalar<T>(weight + tap)); }
};
template <class T>
struct TapWeights<T, 3> {
    Vec<T> w[9];
    explicit TapWeights(const T* weight) {
        FASTCV_UNROLL for (int i = 0; i < 9; i++) w[i] = splat(load_scalar<T>(weight + i));
    }
    Vec<T> at(int tap) const { return w[tap]; }
};

// acc[o][v] += taps s = S .. of input row i, counted from the first output's first tap.
template <int S, class T, int Rows, int NV, int Window, class Taps>
FASTCV_INLINE void add_row(Vec<T> (&acc)[Rows][NV], const Taps& taps, const TapWeights<T, Window>& weight, int i) {
    if constexpr (S < Window) {
        Vec<T> x[NV];
        FASTCV_UNROLL for (int v = 0; v < NV; v++) x[v] = taps.template tap<S>(v);
        FASTCV_UNROLL for (int o = 0; o < Rows; o++) {
            const int r = i - o * Taps::stride;
            if (r < 0 || r >= Window) continue;
            const Vec<T> w = weight.at(r * Window + S);
            FASTCV_UNROLL for (int v = 0; v < NV; v++) acc[o][v] = fma(x[v], w, acc[o][v]);
        }
        add_row<S + 1>(acc, taps, weight, i);
    }
}

template <class T, int Rows, int NV, int Window, class Taps>
FASTCV_NOINLINE void depthwise_in_place(const DepthwiseRowsCall<T>& c, const OutputColumn<T>& t) {
    const int64_t step = c.shape.dilation_h;
    const int64_t input_row = step * c.input.stride_bytes[2], output_row = step * c.output.stride_bytes[2];
    Taps taps(t.input_column, c.shape.W, c.shape.dilation_w);
    const TapWeights<T, Window> weight(t.weight);
    const char* const first_tap = t.plane + t.input_row * c.input.stride_bytes[2] + t.input_column * int64_t(sizeof(T));
    // Rows that share input are as far apart as the dilation says.
    for (int64_t first = 0; first < smaller(step, t.rows); first++) {
        int64_t y = t.input_row + first * Taps::stride;
        const char* from = first_tap + first * Taps::stride * c.input.stride_bytes[2];
        char* output = t.output + first * c.output.stride_bytes[2];
        for (int64_t left = step == 1 ? t.rows : ceil_div(t.rows - first, step); left > 0; left -= Rows) {
            Vec<T> acc[Rows][NV];
            FASTCV_UNROLL for (int o = 0; o < Rows; o++) FASTCV_UNROLL for (int v = 0; v < NV; v++) acc[o][v] = splat(t.bias);
            const char* p = from;
            int64_t at = y;
            FASTCV_UNROLL for (int i = 0; i < (Rows - 1) * Taps::stride + Window; i++, p += input_row, at += step) {
                if (__builtin_expect(uint64_t(at) >= uint64_t(c.shape.H), 0)) continue;
                taps.load(reinterpret_cast<const T*>(p));
                add_row<0>(acc, taps, weight, i);
            }
            y += Rows * Taps::stride * step;
            from += Rows * Taps::stride * input_row;
            if (c.activation != Activation::none)
                FASTCV_UNROLL for (int o = 0; o < Rows; o++)
                    FASTCV_UNROLL for (int v = 0; v < NV; v++) acc[o][v] = activate<T>(acc[o][v], c.activation, c.slope);
            FASTCV_UNROLL for (int o = 0; o < Rows; o++, output += output_row) {
                if (o >= left) break;
                T* to = reinterpret_cast<T*>(output);
                FASTCV_UNROLL for (int v = 0; v < NV - 1; v++) store(to + v * kLanes<T>, acc[o][v]);
                store_range(to + (NV - 1) * kLanes<T>, acc[o][NV - 1], t.last);
            }
        }
    }
}

template <class T>
using DepthwiseInPlace = void (*)(const DepthwiseRowsCall<T>&, const OutputColumn<T>&);
template <class T, int NV, int Window>
static DepthwiseInPlace<T> find_depthwise_in_place(const Conv2dShape& s) {
    constexpr int rows = NV == 1 ? 8 : 4;
    if (s.stride_h == 2) return depthwise_in_place<T, rows, NV, Window, NeighbourTaps<T, NV, Window, 2>>;
    if (s.dilation_w == 1) return depthwise_in_place<T, rows, NV, Window, NeighbourTaps<T, NV, Window, 1>>;
    return depthwise_in_place<T, rows, NV, Window, DilatedTaps<T, NV, Window>>;
}
template <class T>
static DepthwiseInPlace<T> find_depthwise_in_place(const Conv2dShape& s, int64_t vectors) {
    switch (s.R) {
        case 3: return vectors == 1 ? find_depthwise_in_place<T, 1, 3>(s) : find_depthwise_in_place<T, 2, 3>(s);
        case 5: return find_depthwise_in_place<T, 1, 5>(s);
        default: return find_depthwise_in_place<T, 1, 7>(s);
    }
}

template <class T>
static bool rows_in_place_fit(const Conv2dShape& s, Tensor input, Tensor output) {
    const bool dilated = s.dilation_h > 1 || s.dilation_w > 1;
    return (s.R == 3 || s.R == 5 || s.R == 7) && s.S == s.R && s.stride_h == s.stride_w &&
           (s.stride_h == 1 || (s.stride_h == 2 && !dilated)) && (s.W == 1 || input.stride_bytes[3] == int64_t(sizeof(T))) &&
           (s.Q == 1 || output.stride_bytes[3] == int64_t(sizeof(T)));
}

template <class T>
static Status conv2d_depthwise_rows(const Conv2dShape& s, Tensor input, const Weights& weight, Tensor output,
                                    const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    const DepthwiseRowsCall<T> c{s, input, output, epilogue.activation, T(epilogue.slope)};
    const int64_t block_rows = smaller(s.P, larger(8, round_up(64 * 1024 / (s.W * s.stride_h * size + 1), 8)));
    const int threads = threads_for(4 * multiply_adds(s));
    const int64_t taps = s.R * s.S, multiplier = s.K / s.G;
    const bool in_place = weight.column_bytes == size && weight.row_bytes == s.S * size;
    const int64_t weight_bytes = in_place ? 0 : round_up(s.K * taps * size, 64);
    Scratch scratch(weight_bytes + 64);
    if (!scratch.data()) return Status::out_of_memory;
    T* weights = reinterpret_cast<T*>(scratch.data());
    if (!in_place)
        for (int64_t k = 0; k < s.K; k++)
            for (int64_t r = 0; r < s.R; r++)
                for (int64_t t = 0; t < s.S; t++)
                    weights[k * taps + r * s.S + t] = load_scalar<T>(
                        weight.at(k / multiplier, k % multiplier, 0) + r * weight.row_bytes + t * weight.column_bytes);
    const int64_t vectors = ceil_div(s.Q, L), most = s.R == 3 ? 2 : 1, blocks = ceil_div(s.P, block_rows);
    const int64_t items = s.N * s.C * blocks;
    const DepthwiseInPlace<T> run[2] = {find_depthwise_in_place<T>(s, 1), find_depthwise_in_place<T>(s, 2)};
    parallel(threads, [&](Team team) {
        PlaneWalk at(team.begin(items), blocks, s.C);
        for (int64_t item = team.begin(items); item < team.end(items); item++, at.step()) {
            const int64_t p = at.block * block_rows, rows = smaller(block_rows, s.P - p);
            const char* plane = input.data + at.n * input.stride_bytes[0] + at.channel * input.stride_bytes[1];
            for (int64_t m = 0, k = at.channel * multiplier; m < multiplier; m++, k++) {
                char* to = output.data + at.n * output.stride_bytes[0] + k * output.stride_bytes[1] + p * output.stride_bytes[2];
                const T* w = in_place ? reinterpret_cast<const T*>(weight.at(at.channel, m, 0)) : weights + k * taps;
                const T bias = epilogue.bias ? load_scalar<T>(epilogue.bias + k * epilogue.bias_stride_bytes) : T(0);
                for (int64_t v = 0, wide; v < vectors; v += wide) {
                    wide = smaller(most, vectors - v);
                    const LaneRange<T> last(0, s.Q - (v + wide - 1) * L);
                    run[wide - 1](c, {plane, w, bias, p * s.stride_h - s.pad_top, v * L * s.stride_w - s.pad_left,
                                      to + v * L * size, rows, last});
                }
            }
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA

#endif
