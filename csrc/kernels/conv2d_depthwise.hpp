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
// This is for what faster kernels do not take: with AVX-512, conv2d_depthwise_rows.hpp reads the rows of common windows in
// place; conv2d_depthwise_pixels.hpp reads channels-last images in place; conv2d_depthwise_lanes.hpp puts channels in lanes, for narrow
// planes. conv2d_depthwise() decides.
//
// Why not fewer rows: a vector load that crosses a cache line costs two, and shifted loads nearly all do; loading each tap anew
// left 3x3 at half the speed and 7x7 at a third. More rows or vectors spill.
#pragma once

#include "conv2d_depthwise_lanes.hpp"
#include "conv2d_depthwise_pixels.hpp"
#include "conv2d_depthwise_rows.hpp"
#include "conv2d_strip_blocks.hpp"

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

// Estimated cycles of one plane either way: rows waste lanes and setup on narrow planes, channel lanes pay for transposes.
template <class T>
static bool prefers_channel_lanes(const Conv2dShape& s, Tensor input, Tensor output) {
    if (!ChannelLaneSizes<T>::fit(s)) return false;
    const double L = kLanes<T>, taps = double(s.R * s.S), lanes_used = double(s.C) / double(round_up(s.C, kLanes<T>));
    const double row_vectors = double(s.P * ceil_div(s.Q, kLanes<T>));
    double by_rows = row_vectors * (taps + 5) + double(s.H) * (6 + double(ceil_div(s.W, kLanes<T>)) * 2) + 150;
#if defined(__AVX512F__)
    if (rows_in_place_fit<T>(s, input, output)) by_rows = row_vectors * (taps + (s.stride_h == 1 ? 4 : 12)) + 40;
#endif
    const int64_t size = int64_t(sizeof(T));
    const bool channels_last = input.stride_bytes[3] != size && output.stride_bytes[3] != size;
    const double moved = double(s.H * s.W + s.P * s.Q) / L * (channels_last ? 3 : 9);
    const bool first_level = ChannelLaneSizes<T>(s).x_elements(s) * size <= 64 * 1024;
    return double(s.P * s.Q) * taps / L * (first_level ? 1.2 : 1.4) + moved + 15 < (channels_last ? 10 : 1) * by_rows * lanes_used;
}

template <class T>
static Status conv2d_depthwise(const Conv2dShape& s, Tensor input, const Weights& weight, Tensor output, const Epilogue& epilogue) {
    if (depthwise_pixels_fit<T>(s, input, output)) return conv2d_depthwise_pixels<T>(s, input, weight, output, epilogue);
    if (prefers_channel_lanes<T>(s, input, output)) return conv2d_depthwise_lanes<T>(s, input, weight, output, epilogue);
#if defined(__AVX512F__)
    if (rows_in_place_fit<T>(s, input, output)) return conv2d_depthwise_rows<T>(s, input, weight, output, epilogue);
#endif
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
    for (int64_t t = 0; t < s.S; t++) column[t] = c.strip.offset(0, t);
    c.column = column;
    c.groups = 0;
    const int64_t cycle = c.y.cycle();
    for (int64_t slot = 0; slot < smaller(s.R, cycle); slot++)
        for (int64_t r = slot; r < s.R; r += kGroupTaps * cycle)
            group[c.groups++] = {c.strip.offset(r, 0), r * s.S, int(smaller(kGroupTaps, ceil_div(s.R - r, cycle)))};
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
