// Transposed convolution with a stride by Winograd's minimal filtering.
//
// Counted from the padded output's corner, all phases of a stride see the same window of the input: of ceil(R / stride) x
// ceil(S / stride) pixels. So they are one ordinary convolution with a filter for each filter and phase, whose taps are every
// stride-th of the window, turned; some are zero where the stride does not divide the window:
//
//   4x4, stride 2                       one input tile, transformed once, serves all phases:
//     taps   a b a b                      F(4x4, 2x2): 25 multiplications for the 64 of a direct sum
//            c d c d     phases a b
//            a b a b            c d     6x6 or 5x5, stride 2: windows of 3x3, F(4x4, 3x3): 36 for 144 or 100
//            c d c d                    3x3, stride 2: F(4x4, 2x2): 100 for 144 in all phases, as 7 of 16 taps are zero
//
// Lanes hold filters of one phase. The output transform stores them two (`stride`) pixels apart, so that interleaving costs nothing
// (conv2d_winograd.hpp). Positions at the edge lie outside the output for some phases, and are not stored.
//
// The choice compares estimates as conv2d.hpp does. Dilated windows leave phases without a tap, and are not for this.
//
// Here `input` is (N, K, P, Q) and `output` (N, C, H, W): the letters are those of the convolution that this is the gradient of.
#pragma once

#include "conv2d.hpp"
#include "conv_transpose2d_channels.hpp"
#include "conv_transpose2d_phases.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// One dimension: the window that all phases see.
struct SharedWindow {
    int64_t taps, origin, positions, pad;

    SharedWindow(int64_t window, int64_t stride, int64_t padding, int64_t output)
        : taps(ceil_div(window, stride)),
          origin((padding % stride + stride) % stride),
          positions(ceil_div(output + origin, stride)),
          pad(taps - 1 - (padding - origin) / stride) {}
};

// The convolution over all phases, and where its results go.
template <class T>
struct PhasesAsFilters {
    Conv2dShape shape;
    Interleave interleave;

    explicit PhasesAsFilters(const Conv2dShape& s) : shape(s), interleave(s) {
        const SharedWindow y(s.R, s.stride_h, s.pad_top, s.H), x(s.S, s.stride_w, s.pad_left, s.W);
        interleave.stride_h = s.stride_h, interleave.stride_w = s.stride_w;
        interleave.origin_y = y.origin, interleave.origin_x = x.origin;
        interleave.filters = s.C / s.G;
        interleave.rows = s.H, interleave.columns = s.W;
        shape.C = s.K, shape.H = s.P, shape.W = s.Q;
        shape.K = s.G * round_up(s.C / s.G, kLanes<T>) * interleave.phases();
        shape.R = y.taps, shape.S = x.taps;
        shape.P = y.positions, shape.Q = x.positions;
        shape.pad_top = y.pad, shape.pad_left = x.pad;
        shape.stride_h = shape.stride_w = 1;
    }
    bool possible() const {
        const WinogradWindow window(shape);
        return shape.dilation_h == 1 && shape.dilation_w == 1 && window.possible(shape) && window.parts() == 1 &&
               interleave.R * interleave.S <= WinogradWindow::kMostTaps;
    }
};

// Weights of the transposed convolution as [group][filter][channel].
static inline Weights phase_weights(const Conv2dShape& s, Tensor w) {
    const int64_t* b = w.stride_bytes;
    return {w.data, s.K / s.G * b[0], b[1], b[0], b[2], b[3]};
}

// Estimated cycles of one sample by phases, tap by tap.
template <class T>
static double phases_cost(const Conv2dShape& s, bool channels) {
    constexpr int64_t L = kLanes<T>;
    const PhaseAxes axes(s, !channels && counts_from_padded_corner(s));
    const Axis y = axes.y.window(s.P), x = axes.x.window(s.Q);
    const double depth = double(s.K / s.G) * double(s.R * s.S), filters = double(s.C);
    const double outputs = double(s.C) * double(s.H) * double(s.W) / L * CostModel::transpose;
    const double fill = double(s.K) * double(y.output + y.steps()) * double(ceil_div(x.output, L)) * CostModel::move;
    if (channels) {
        const double lanes = double(s.G * panels_of_group<T>(s) * 2);
        return double(y.output * x.output) * lanes * depth * CostModel::multiply_add + outputs + fill;
    }
    const int64_t pitch = x.output + x.steps();
    const int64_t vectors = smaller(ceil_div(y.output * pitch, L), y.output * ceil_div(x.output, L));
    return double(vectors) * filters * depth * CostModel::multiply_add + outputs + fill;
}

// The size of the tiles by which this is faster than `direct` cycles; 0 if it is not.
template <class T>
static int winograd_tile_of_phases(const Conv2dShape& s, double direct, bool packed) {
    const PhasesAsFilters<T> phases(s);
    if (s.K / s.G < 8 || !phases.possible()) return 0;
    int best = 0;
    // An output is a sum of so many terms, on average.
    const bool accurate = double(s.K / s.G * s.R * s.S) / double(phases.interleave.phases()) >= kTermsOfLargeTiles;
    for (int tile = smaller(accurate ? 4 : 3, WinogradWindow::largest_tile(phases.shape)); tile >= 2; tile--) {
        const double cost = winograd_cost<T>(phases.shape, phases.interleave, tile, packed, 1);  // direct products wait as well
        if (cost >= direct) continue;
        direct = cost;
        best = tile;
    }
    return best;
}

// `packed` may be null: the weights are then transformed for this call.
template <class T>
static Status conv_transpose2d_winograd(const Conv2dShape& s, int tile, Tensor input, Tensor weight, const T* packed, Tensor output,
                                        const Epilogue& epilogue) {
    const PhasesAsFilters<T> phases(s);
    const auto directly = [&](int64_t n) {
        Conv2dShape sample = s;
        sample.N = 1;
        Tensor from = input, to = output;
        from.data += n * input.stride_bytes[0];
        to.data += n * output.stride_bytes[0];
        return conv_transpose2d_phases<T>(sample, from, weight, nullptr, to, epilogue);
    };
    return run_winograd(phases.shape, phases.interleave, tile, input, phase_weights(s, weight), packed, output, epilogue, directly);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
