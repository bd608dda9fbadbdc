// conv2d: which algorithm, and the way to it.
//
//   output[n][k][p][q] = activation(bias[k] + sum over c, r, s of weight[k][c][r][s] * input[n][c][p * stride + r * dilation - pad][..])
//
// The choice compares estimated cycles of one sample on one core, counted from the work itself: vectors of multiply-adds at two a
// cycle, tile waste included, vectors moved, and bytes of weights streamed. It looks neither at the batch nor at the threads, because
// they must not change a sample's bits.
//
// The constants below the names were fitted once on one machine (AVX-512, 1 MiB second-level, 32 MiB third-level cache), over the
// named benchmark cases; where an estimate is off by a tenth, so is the loser's time.
#pragma once

#include "conv2d_clipped.hpp"
#include "conv2d_depthwise.hpp"
#include "conv2d_grad_weight.hpp"
#include "conv2d_grad_weight_winograd.hpp"
#include "conv2d_pointwise.hpp"
#include "conv2d_strip.hpp"
#include "conv2d_strip_channels.hpp"
#include "conv2d_winograd.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

struct CostModel {
    static constexpr double multiply_add = 0.54;   // cycles a vector, at 93% of two a cycle
    static constexpr double pixel_multiply_add = 0.585;  // the same with pixel lanes, some of whose steps fill panels
    static constexpr double move = 3;              // to copy a vector
    static constexpr double fill = 8;              // the same into a strip, from beyond the second-level cache
    static constexpr double transpose = 5;         // a vector's share of a square, loads and stores included
    static constexpr double gather = 11;           // the same from planes beyond the second-level cache
    static constexpr double input_tile = 130;      // transforms of a full tile and one vector of channels
    static constexpr double output_tile = 90;
    static constexpr double gather_weight = 115, transform_weight = 95;  // of one vector of filters and one channel
    static constexpr double spread_weight = 450;     // more, where a call writes all transformed weights to memory
    static constexpr double near_bytes = 24, far_bytes = 12;  // a cycle, of packed weights up to and beyond kNear
    static constexpr double kNear = 20e6;
    // What Winograd's passes wait for each other, against products that run through; whole phases are few and wait little. A machine with
    // one multiply-add a cycle waits less.
    static constexpr double waiting = 1.35;
    static constexpr double gigahertz = 4;         // for showing, not for choosing
};

// A sum of fewer terms has so little error of its own that tiles of four outputs would have more than three times as much.
constexpr int64_t kTermsOfLargeTiles = 72;

// Filling strips. A block fills the rows under its whole window again: at large dilation, many for each row of outputs.
template <class T>
static double fill_cost(const Conv2dShape& s, ChannelsLast last) {
    const Axis y = vertical(s), x = horizontal(s);
    const int64_t pitch = make_strip<T>(y, x, 1, s.P, s.Q).pitch;
    const double planes = double(s.C / s.G) * double(y.slots() * x.slots());
    const double fitting = double(kStripBytes) / (planes * double(pitch) * double(sizeof(T))) - double(y.steps());
    const double block_rows = fitting < 1 ? 1 : fitting < double(s.P) ? fitting : double(s.P);
    const double rows = double(s.P) / block_rows * (block_rows + double(y.steps()));
    return double(s.G) * planes * double(ceil_div(pitch, kLanes<T>)) * rows *
           (last.input ? CostModel::transpose : CostModel::fill);
}

template <class T>
static double pixel_lane_cost(const Conv2dShape& s, ChannelsLast last) {
    constexpr int64_t L = kLanes<T>;
    const double depth = double(s.C / s.G) * double(s.R * s.S);
    const int64_t pitch = make_strip<T>(vertical(s), horizontal(s), 1, s.P, s.Q).pitch;
    const int64_t vectors = smaller(ceil_div(s.P * pitch, L), s.P * ceil_div(s.Q, L));
    const double stored = last.output ? double(s.P * s.Q * s.K) / L * 2 * CostModel::transpose : 0;
    const bool in_place = !last.input && s.R * s.S == 1 && s.stride_h == 1 && s.stride_w == 1 && s.P == s.H && s.Q == s.W;
    return double(vectors) * double(s.K) * depth * CostModel::pixel_multiply_add + (in_place ? 0 : fill_cost<T>(s, last)) + stored;
}

// Filling strips of pixels, whose blocks share the rows between their windows.
template <class T>
static double pixel_strip_cost(const Conv2dShape& s, ChannelsLast last) {
    const PixelStrip<T> whole(vertical(s), horizontal(s), s.C / s.G, s.P, s.Q);
    const double shared = double(larger(0, whole.rows - s.P * whole.y.stride));
    const double blocks = double(whole.elements()) * double(sizeof(T)) / double(kStripBytes);
    const double rows = double(whole.rows) + (blocks > 1 ? blocks - 1 : 0) * shared;
    return rows * double(whole.columns) * double(s.C) / kLanes<T> * (last.input ? CostModel::move : CostModel::gather);
}

// Tiles of whole panels; rows of the window that see only padding are skipped.
template <class T>
static double channel_lane_cost(const Conv2dShape& s, ChannelsLast last, bool packed) {
    constexpr int64_t L = kLanes<T>;
    const Axis y = vertical(s);
    double rows = 0;
    for (int64_t r = 0; r < s.R; r++) rows += double(y.last_output(r) - y.first_output(r));
    const double lanes = double(s.G * round_up(s.K / s.G, L) / L), pixels = double(s.P * s.Q);
    const double products = rows * double(s.Q * s.S) * double(s.C / s.G) * lanes;
    // A tile of few pixels waits for its chains of multiply-adds, and reads as many weights as a full one.
    const int64_t pieces = ceil_div(s.Q, StripTiles<T>::pixels);
    const double of_tile = double(s.Q) / double(pieces) * (s.P > 1 && 2 * s.Q <= StripTiles<T>::pixels ? 2 : 1);
    const double thin = of_tile < 5 ? 5 / of_tile : 1;
    const double stored = pixels * lanes * (last.output ? CostModel::move : 2 * CostModel::transpose);
    const double packing = packed ? 0 : double(s.C / s.G) * double(s.R * s.S) * lanes * CostModel::transpose;
    return products * CostModel::multiply_add * thin + stored + pixel_strip_cost<T>(s, last) + packing;
}

// Packed for the call at the rate of a transpose, where it is not packed ahead.
template <class T>
static double pointwise_cost(const Conv2dShape& s, ChannelsLast last, bool packed) {
    constexpr int64_t L = kLanes<T>;
    const double lanes = double(s.G * round_up(s.K / s.G, L) / L), channels = double(s.C / s.G), pixels = double(s.P * s.Q);
    const double gathered = last.input ? 0 : pixels * double(s.C) / L * 2 * CostModel::transpose;
    return lanes * (pixels * (channels * CostModel::multiply_add + CostModel::move) + (packed ? 0 : channels * CostModel::transpose)) +
           gathered;
}

// The same.
template <class T>
static double clipped_cost(const Conv2dShape& s, bool packed) {
    constexpr int64_t L = kLanes<T>;
    const double lanes = double(s.G * round_up(s.K / s.G, 2 * L) / L), channels = double(s.C / s.G);
    const double products = clipped_products<T>(s) * channels * lanes;
    const double packing = packed ? 0 : channels * double(s.R * s.S) * lanes * CostModel::transpose;
    return products * CostModel::multiply_add + double(s.P * s.Q) * lanes * 2 * CostModel::transpose + packing;
}

template <class T>
static double winograd_cost(const Conv2dShape& s, const Interleave& interleave, int tile, bool packed, double waiting) {
    constexpr double L = kLanes<T>;
    const WinogradWeights<T> layout(s, tile);
    const TileAxis y = tile_axis(vertical(s), tile, layout.window.y), x = tile_axis(horizontal(s), tile, layout.window.x);
    const double groups = double(s.G), channels = double(layout.channels), filters = double(round_up(s.K / s.G, kLanes<T>));
    const double tiles = double(y.tiles()) * double(x.tiles()), size = double(sizeof(T));
    const double area = double(layout.points) / 36;
    const double products = double(y.points()) * double(x.points()) * channels * filters / L * CostModel::multiply_add;
    const double transforms = tiles * area * (channels / L * CostModel::input_tile + filters / L * CostModel::output_tile);
    const double moves = (double(s.H * s.W) * double(layout.part_channels) + double(s.P * s.Q) * filters) / L * CostModel::transpose;
    const double bytes = double(layout.points) * channels * filters * size * groups;
    const double passes = tiles < 112 ? 1 : tiles / (s.dilation_h > 1 ? 112 : 56);  // as tiles_of_block() cuts
    double cost = groups * (products + transforms + moves) * waiting;
    const bool by_panel = !packed && transforms_by_panel(WinogradCall<T>(s, interleave, tile), 1);
    if (bytes > 512 * 1024 && !by_panel)
        cost += passes * bytes / (bytes < CostModel::kNear ? CostModel::near_bytes : CostModel::far_bytes);
    const double transform = CostModel::gather_weight + (CostModel::transform_weight + (by_panel ? 0 : CostModel::spread_weight)) * area;
    if (!packed) cost += groups * channels * filters / L * transform;
    return cost;
}

// Taps of one dimension that see the input at all; at least one, which then sees zeros. At large dilation most of a window may be dead.
struct LiveTaps {
    int64_t first, count;

    explicit LiveTaps(const Axis& a) : first(0), count(a.taps) {
        while (count > 1 && a.first_output(first) >= a.last_output(first)) first++, count--;
        while (count > 1 && a.first_output(first + count - 1) >= a.last_output(first + count - 1)) count--;
    }
};

static Conv2dShape clip_window(Conv2dShape s, const LiveTaps& y, const LiveTaps& x) {
    s.pad_top -= y.first * s.dilation_h;
    s.pad_left -= x.first * s.dilation_w;
    s.R = y.count;
    s.S = x.count;
    // What a window of one tap does not have counts as 1, so that no size depends on it; the same for steps that are never taken.
    if (s.R == 1) s.dilation_h = 1;
    if (s.S == 1) s.dilation_w = 1;
    if (s.P == 1) s.stride_h = 1;
    if (s.Q == 1) s.stride_w = 1;
    return s;
}
static Conv2dShape clip_window(const Conv2dShape& s) { return clip_window(s, LiveTaps(vertical(s)), LiveTaps(horizontal(s))); }
static Weights clip_weights(const Conv2dShape& s, Weights w) {
    w.data += LiveTaps(vertical(s)).first * w.row_bytes + LiveTaps(horizontal(s)).first * w.column_bytes;
    return w;
}

template <class T>
static Conv2dChoice choose(const Conv2dShape& whole, Conv2dAlgorithm algorithm, bool packed, ChannelsLast last) {
    const LiveTaps live_y(vertical(whole)), live_x(horizontal(whole));
    const Conv2dShape s = clip_window(whole, live_y, live_x);
    Conv2dChoice best{Conv2dChoice::strip_pixels, 0, live_y.first, live_y.count, live_x.first, live_x.count, 0, __builtin_inf()};
    if (s.N == 0 || s.K == 0 || s.P == 0 || s.Q == 0 || s.C == 0) return best;
    const double milliseconds = 1e-6 / CostModel::gigahertz;
    const bool bounded = vertical(s).steps() < 4096 && horizontal(s).steps() < 4096;
    if (s.C == s.G && (s.K / s.G <= 2 || s.G >= 4) && bounded) best.kind = Conv2dChoice::depthwise;
    best.direct_cost = pixel_lane_cost<T>(s, last) * milliseconds;
    const bool deep = s.C / s.G * s.R * s.S >= 64;
    // A plain call packs the weights for channel lanes, which takes some pixels to pay.
    if (best.kind == Conv2dChoice::strip_pixels && fits_pixel_strip(s) && (packed || s.P * s.Q >= 8) && deep) {
        const double cost = channel_lane_cost<T>(s, last, packed) * milliseconds;
        if (cost < best.direct_cost) {
            best.kind = Conv2dChoice::strip_channels;
            best.direct_cost = cost;
        }
    }
    const bool dilated = s.dilation_h > 1 || s.dilation_w > 1;
    if (best.kind != Conv2dChoice::depthwise && !last.input && s.stride_w == 1 && dilated && deep) {
        const double cost = clipped_cost<T>(s, packed) * milliseconds;
        if (cost < best.direct_cost) {
            best.kind = Conv2dChoice::clipped;
            best.direct_cost = cost;
        }
    }
    if (best.kind != Conv2dChoice::depthwise && one_tap_to_rows(s, last)) {
        const double cost = pointwise_cost<T>(s, last, packed) * milliseconds;
        if (cost < best.direct_cost) {
            best.kind = Conv2dChoice::pointwise;
            best.direct_cost = cost;
        }
    }
    const bool possible = WinogradWindow(s).possible(s);
    // A sum of few channels has little error of its own to hide the transforms' in: theirs would be over three times as large.
    const bool accurate = s.C / s.G >= 8 || algorithm == Conv2dAlgorithm::winograd;
    if (!possible || !accurate || algorithm == Conv2dAlgorithm::direct) return best;
    int tile = 0;
    const bool large = s.C / s.G * s.R * s.S >= kTermsOfLargeTiles || algorithm == Conv2dAlgorithm::winograd;
    const auto consider = [&](int t) {
        const double waiting = t > kWholePhases ? 1 : CostModel::waiting;
        const double cost = winograd_cost<T>(s, Interleave(s), t, packed, waiting) * milliseconds;
        if (cost < best.winograd_cost) {
            best.winograd_cost = cost;
            tile = t;
        }
    };
    for (int t = smaller(large ? 4 : 3, WinogradWindow::largest_tile(s)); t >= 2; t--) consider(t);
    if (const int phase = WinogradWindow::whole_phase(s)) consider(kWholePhases + phase);
    if (best.kind == Conv2dChoice::depthwise && algorithm == Conv2dAlgorithm::automatic) return best;
    if (best.winograd_cost < best.direct_cost || algorithm == Conv2dAlgorithm::winograd) {
        best.kind = Conv2dChoice::winograd;
        best.tile = tile;
    }
    return best;
}

// Runs a choice. `packed` may be null for winograd: the weights are then transformed for this call.
template <class T>
static Status run(const Conv2dShape& whole, const Conv2dChoice& choice, const void* packed, Tensor input, const Weights& all_weights,
                  Tensor output, const Epilogue& epilogue) {
    if (whole.N == 0 || whole.K == 0 || whole.P == 0 || whole.Q == 0) return Status::ok;
    const Conv2dShape s = clip_window(whole);
    const Weights weight = clip_weights(whole, all_weights);
    const T* weights = static_cast<const T*>(packed);
    switch (choice.kind) {
        case Conv2dChoice::winograd: return conv2d_winograd<T>(s, choice.tile, input, weight, weights, output, epilogue);
        case Conv2dChoice::depthwise: return conv2d_depthwise<T>(s, input, weight, output, epilogue);
        case Conv2dChoice::clipped:
            if (readable_without_strip<T>(s, input)) return conv2d_clipped<T>(s, input, weight, weights, output, epilogue);
            return conv2d_strip_channels<T>(s, input, weight, weights, output, epilogue);
        case Conv2dChoice::pointwise: return conv2d_pointwise<T>(s, input, weight, weights, output, epilogue);
        case Conv2dChoice::strip_channels: return conv2d_strip_channels<T>(s, input, weight, weights, output, epilogue);
        default: return conv2d_strip_pixels<T>(s, input, weight, output, epilogue);
    }
}

template <class T>
static int64_t packed_elements(const Conv2dShape& whole, const Conv2dChoice& choice) {
    const Conv2dShape s = clip_window(whole);
    if (choice.kind == Conv2dChoice::winograd) return WinogradWeights<T>(s, choice.tile).elements(s);
    if (choice.kind == Conv2dChoice::pointwise) return pointwise_weights<T>(s);
    if (choice.kind == Conv2dChoice::strip_channels || choice.kind == Conv2dChoice::clipped) return channel_lane_weights<T>(s);
    return 0;
}

template <class T>
static bool pack(const Conv2dShape& whole, const Conv2dChoice& choice, const Weights& all_weights, T* packed) {
    const Conv2dShape s = clip_window(whole);
    const Weights weight = clip_weights(whole, all_weights);
    int not_finite = 0;
    parallel(threads_for(double(packed_elements<T>(whole, choice))), [&](Team team) {
        if (choice.kind == Conv2dChoice::winograd)
            transform_weights<T, double>(s, Interleave(s), choice.tile, weight, packed, &not_finite, team);
        else if (choice.kind == Conv2dChoice::pointwise)
            pack_pointwise<T>(s, weight, packed, team);
        else
            pack_for_channel_lanes<T>(s, weight, packed, team);
    });
    return !not_finite;
}

// Estimated cycles of the weight gradient. Direct multiply-adds run at 80% of peak in whole vectors of filters; Winograd's products at
// 90%, plus transforms and M.
template <class T>
static double direct_gradient_cost(const Conv2dShape& s) {
    const double filters = double(round_up(s.K / s.G, kLanes<T>));
    return double(s.N * s.P * s.Q * s.R * s.S) * double(s.C / s.G) * filters / kLanes<T> * 0.62;
}
template <class T>
static double winograd_gradient_cost(const Conv2dShape& s, int tile) {
    constexpr double L = kLanes<T>;
    const WinogradWeights<T> layout(s, tile, kMostTapsOfGradient);
    const TileAxis y = tile_axis(vertical(s), tile, layout.window.y), x = tile_axis(horizontal(s), tile, layout.window.x);
    const double channels = double(layout.channels), filters = double(round_up(s.K / s.G, kLanes<T>));
    const double products = double(y.points()) * double(x.points()) * channels * filters / L * 0.56;
    const double tiles = double(y.tiles()) * double(x.tiles());
    const double points = double(layout.points);
    const double transforms = tiles * points / 36 * (channels * CostModel::input_tile + filters * 110) / L;
    const double moves = (double(s.H * s.W) * double(layout.part_channels) + double(s.P * s.Q) * filters) / L * CostModel::transpose;
    // M is added up once for every block of about 512 tiles, and transformed once for all.
    const double sums = points * channels * filters / L * 6;
    const double images = double(s.N), blocks = larger(1.0, images * tiles / 512);
    return images * (products + transforms + moves) + (blocks + 5) / 6 * sums;
}
// The size of the tiles by which Winograd is faster; 0 if it is not.
template <class T>
static int winograd_tile_of_gradient(const Conv2dShape& s) {
    const WinogradWindow window(s, kMostTapsOfGradient);
    // Where there are few pixels to sum over, the error would be more than three times a plain sum's.
    if (!window.possible(s) || window.taps() > kMostTapsOfGradient) return 0;
    if (s.C / s.G < kLanes<T> / 2 || s.K / s.G < kLanes<T> / 2) return 0;
    double least = direct_gradient_cost<T>(s);
    int best = 0;
    const auto consider = [&](int tile) {
        const double cost = winograd_gradient_cost<T>(s, tile);
        if (cost >= least) return;
        least = cost;
        best = tile;
    };
    const bool plain = s.R == 3 && s.S == 3 && s.stride_h == 1 && s.stride_w == 1;
    if (plain || s.P * s.Q >= kTermsOfLargeTiles) consider(largest_tile(window.taps()));
    if (const int phase = WinogradWindow::whole_phase(s)) consider(kWholePhases + phase);
    return best;
}

template <class T>
static Status grad_weight(const Conv2dShape& whole, Tensor grad_output, Tensor input, Tensor grad) {
    const LiveTaps y(vertical(whole)), x(horizontal(whole));
    const Conv2dShape s = clip_window(whole, y, x);
    if (y.count != whole.R || x.count != whole.S) {
        for (int64_t k = 0; k < whole.K; k++)
            for (int64_t c = 0; c < whole.C / whole.G; c++)
                for (int64_t tap = 0; tap < whole.R * whole.S; tap++)
                    store_scalar(grad.data + k * grad.stride_bytes[0] + c * grad.stride_bytes[1] +
                                     tap / whole.S * grad.stride_bytes[2] + tap % whole.S * grad.stride_bytes[3],
                                 T(0));
        grad.data += y.first * grad.stride_bytes[2] + x.first * grad.stride_bytes[3];
    }
    const bool empty = s.N == 0 || s.P == 0 || s.Q == 0 || s.C == 0 || s.K == 0;
    if (!empty && s.C == s.G && s.C >= kLanes<T> / 2 && ChannelLaneSizes<T>::fit(s))
        return depthwise_grad_weight<T>(s, grad_output, input, grad);
    if (const int tile = empty ? 0 : winograd_tile_of_gradient<T>(s)) return grad_weight_winograd<T>(s, tile, grad_output, input, grad);
    return grad_weight_direct<T>(s, grad_output, input, grad);
}

// ---- the entries of the table: the element type becomes a template argument

static Conv2dChoice conv2d_choose(const Conv2dShape& s, int itemsize, Conv2dAlgorithm algorithm, bool packed, ChannelsLast last) {
    return itemsize == 4 ? choose<float>(s, algorithm, packed, last) : choose<double>(s, algorithm, packed, last);
}
static Status conv2d(const Conv2dShape& s, int itemsize, Conv2dAlgorithm algorithm, Tensor input, Tensor weight, Tensor output,
                     const Epilogue& epilogue) {
    const Conv2dChoice choice = conv2d_choose(s, itemsize, algorithm, false, channels_last(input, output, itemsize));
    const Weights w = forward_weights(s, weight);
    return itemsize == 4 ? run<float>(s, choice, nullptr, input, w, output, epilogue)
                         : run<double>(s, choice, nullptr, input, w, output, epilogue);
}
static int64_t conv2d_packed_bytes(const Conv2dShape& s, int itemsize, const Conv2dChoice& choice) {
    return itemsize * (itemsize == 4 ? packed_elements<float>(s, choice) : packed_elements<double>(s, choice));
}
static bool conv2d_pack(const Conv2dShape& s, int itemsize, const Conv2dChoice& choice, Tensor weight, void* packed) {
    const Weights w = forward_weights(s, weight);
    return itemsize == 4 ? pack(s, choice, w, static_cast<float*>(packed)) : pack(s, choice, w, static_cast<double*>(packed));
}
static Status conv2d_packed(const Conv2dShape& s, int itemsize, const Conv2dPacked& packed, Tensor input, Tensor weight,
                            Tensor output, const Epilogue& epilogue) {
    const Weights w = forward_weights(s, weight);
    if (!packed.finite) return conv2d(s, itemsize, Conv2dAlgorithm::direct, input, weight, output, epilogue);
    return itemsize == 4 ? run<float>(s, packed.choice, packed.data, input, w, output, epilogue)
                         : run<double>(s, packed.choice, packed.data, input, w, output, epilogue);
}
static Status conv2d_grad_weight(const Conv2dShape& s, int itemsize, Tensor grad_output, Tensor input, Tensor grad) {
    return itemsize == 4 ? grad_weight<float>(s, grad_output, input, grad) : grad_weight<double>(s, grad_output, input, grad);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
