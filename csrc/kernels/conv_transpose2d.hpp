// Transposed convolution, which is also the input gradient of convolution: the choice of a kernel, and the entries of the table.
//
//   output[c][y][x] = sum over k, r, s with y + pad - r * d = p * stride (x likewise) of weight[k][c][r][s] * input[k][p][q]
//
// `input` is (N, K, P, Q) and `output` (N, C, H, W): the letters are those of the convolution that this is the gradient of. With
// stride 1 the turned weights make it an ordinary convolution, Winograd included. With a stride it goes by phases: by Winograd's
// minimal filtering (conv_transpose2d_winograd.hpp); tap by tap over vectors of pixels (conv_transpose2d_phases.hpp), or of filters,
// where small planes would not fill those (conv_transpose2d_channels.hpp); conv_transpose2d_depthwise.hpp has groups of one or two
// channels with stride 2, and conv_transpose2d_pixel.hpp images of one pixel. All that is for the outputs that taps can reach: stride
// and dilation may have a common factor (conv_transpose2d_reached.hpp).
#pragma once

#include "conv2d.hpp"
#include "conv_transpose2d_channels.hpp"
#include "conv_transpose2d_depthwise.hpp"
#include "conv_transpose2d_phases.hpp"
#include "conv_transpose2d_pixel.hpp"
#include "conv_transpose2d_reached.hpp"
#include "conv_transpose2d_winograd.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// The ordinary convolution that a transposed one with stride 1 is.
static Conv2dShape convolution_of(const Conv2dShape& s) {
    Conv2dShape g = s;
    g.C = s.K, g.H = s.P, g.W = s.Q;
    g.K = s.C, g.P = s.H, g.Q = s.W;
    g.pad_top = (s.R - 1) * s.dilation_h - s.pad_top;
    g.pad_left = (s.S - 1) * s.dilation_w - s.pad_left;
    g.stride_h = g.stride_w = 1;  // also where a stride is never taken
    return g;
}

// The window without taps that no output sees, and whether that is the whole window, so that packed weights serve it.
struct TransposedWindow {
    Conv2dShape shape;
    Tensor weight;
    bool whole;

    TransposedWindow(const Conv2dShape& s, Tensor w) : shape(clip_window(s)), weight(w) {
        weight.data += LiveTaps(vertical(s)).first * w.stride_bytes[2] + LiveTaps(horizontal(s)).first * w.stride_bytes[3];
        whole = shape.R == s.R && shape.S == s.S && shape.stride_h == s.stride_h && shape.stride_w == s.stride_w &&
                s.H >= s.stride_h && s.W >= s.stride_w;
    }
};

static bool empty_output(const Conv2dShape& s) { return s.N == 0 || s.C == 0 || s.H == 0 || s.W == 0; }

template <class T>
static ConvTranspose2dChoice choose_transposed(const Conv2dShape& s, bool packed, ChannelsLast channels_last) {
    if (empty_output(s)) return {ConvTranspose2dChoice::phases, {}};
    if (one_pixel(s)) return {ConvTranspose2dChoice::pixel, {}};
    const Conv2dShape clipped = clip_window(s);
    if (clipped.stride_h > 1 || clipped.stride_w > 1) {
        if (transposed_depthwise_fits<T>(clipped)) return {ConvTranspose2dChoice::depthwise, {}};
        const bool channels = prefers_channel_phases<T>(clipped);
        if (const int tile = winograd_tile_of_phases<T>(s, phases_cost<T>(clipped, channels), packed)) {
            ConvTranspose2dChoice choice{ConvTranspose2dChoice::winograd, {}};
            choice.as_convolution.kind = Conv2dChoice::winograd;
            choice.as_convolution.tile = tile;
            return choice;
        }
        return {channels ? ConvTranspose2dChoice::phases_channels : ConvTranspose2dChoice::phases, {}};
    }
    return {ConvTranspose2dChoice::convolution, choose<T>(convolution_of(s), Conv2dAlgorithm::automatic, packed, channels_last)};
}

template <class T>
static Status run_transposed(const Conv2dShape& s, const ConvTranspose2dChoice& choice, const void* packed, Tensor input,
                             Tensor weight, Tensor output, const Epilogue& epilogue) {
    if (empty_output(s)) return Status::ok;
    if (choice.kind == ConvTranspose2dChoice::pixel) {
        if (rows_of_columns<T>(s, input, weight, output)) return conv_transpose2d_pixel<T>(s, input, weight, output, epilogue);
        return run<T>(convolution_of(s), choose<T>(convolution_of(s), Conv2dAlgorithm::automatic, false, {}), nullptr, input,
                      turned_weights(s, weight), output, epilogue);
    }
    if (choice.kind == ConvTranspose2dChoice::convolution)
        return run<T>(convolution_of(s), choice.as_convolution, packed, input, turned_weights(s, weight), output, epilogue);
    const TransposedWindow window(s, weight);
    if (choice.kind == ConvTranspose2dChoice::depthwise)
        return conv_transpose2d_depthwise<T>(window.shape, input, window.weight, output, epilogue);
    if (choice.kind == ConvTranspose2dChoice::winograd)
        return conv_transpose2d_winograd<T>(s, choice.as_convolution.tile, input, weight, static_cast<const T*>(packed), output, epilogue);
    const T* weights = window.whole ? static_cast<const T*>(packed) : nullptr;
    return choice.kind == ConvTranspose2dChoice::phases_channels
               ? conv_transpose2d_channels<T>(window.shape, input, window.weight, weights, output, epilogue)
               : conv_transpose2d_phases<T>(window.shape, input, window.weight, weights, output, epilogue);
}

template <class T>
static int64_t packed_elements_transposed(const Conv2dShape& s, const ConvTranspose2dChoice& choice) {
    if (empty_output(s) || choice.kind == ConvTranspose2dChoice::pixel) return 0;
    if (choice.kind == ConvTranspose2dChoice::convolution) return packed_elements<T>(convolution_of(s), choice.as_convolution);
    if (choice.kind == ConvTranspose2dChoice::winograd) {
        const PhasesAsFilters<T> phases(s);
        return WinogradWeights<T>(phases.shape, choice.as_convolution.tile).elements(phases.shape);
    }
    if (choice.kind == ConvTranspose2dChoice::depthwise || !TransposedWindow(s, Tensor{}).whole) return 0;
    return choice.kind == ConvTranspose2dChoice::phases_channels ? channel_phase_weights<T>(s) : s.K * (s.C / s.G) * s.R * s.S;
}

template <class T>
static bool pack_transposed(const Conv2dShape& s, const ConvTranspose2dChoice& choice, Tensor weight, T* to) {
    if (choice.kind == ConvTranspose2dChoice::convolution)
        return pack(convolution_of(s), choice.as_convolution, turned_weights(s, weight), to);
    const int threads = threads_for(double(packed_elements_transposed<T>(s, choice)));
    if (choice.kind == ConvTranspose2dChoice::winograd) {
        const PhasesAsFilters<T> phases(s);
        const Weights weights = phase_weights(s, weight);
        int not_finite = 0;
        parallel(threads, [&](Team team) {
            transform_weights<T, double>(phases.shape, phases.interleave, choice.as_convolution.tile, weights, to, &not_finite, team);
        });
        return !not_finite;
    }
    const bool channels = choice.kind == ConvTranspose2dChoice::phases_channels;
    const PhaseAxes axes(s, !channels && counts_from_padded_corner(s));
    const int64_t place_bytes = round_up(s.R * s.S * int64_t(sizeof(TapPlace)), 64);
    const int64_t phase_bytes = round_up(axes.phases() * int64_t(sizeof(Phase)), 64);
    Scratch scratch(place_bytes + phase_bytes + axes.phases() * int64_t(sizeof(PhaseGroup)));
    if (!scratch.data()) return false;
    TapPlace* place = reinterpret_cast<TapPlace*>(scratch.data());
    if (channels) {
        ChannelPhase* phase = reinterpret_cast<ChannelPhase*>(scratch.data() + place_bytes);
        lay_out_phases<T>(s, axes, phase);
        place_taps<T>(s, axes, phase, place);
        parallel(threads, [&](Team team) { pack_channel_phases(s, place, weight, to, team); });
        return true;
    }
    Phase* phase = reinterpret_cast<Phase*>(scratch.data() + place_bytes);
    PhaseGroup* group = reinterpret_cast<PhaseGroup*>(scratch.data() + place_bytes + phase_bytes);
    lay_out_groups(s, axes, phase, group, group_phases(axes, phase, group));
    place_taps(s, axes, phase, group, place);
    parallel(threads, [&](Team team) { pack_phases(s, place, weight, to, team); });
    return true;
}

// `packed` null: the weights lie in `weight` alone.
template <class T>
static Status run_reached(const Conv2dShape& s, const ConvTranspose2dChoice& choice, const void* packed, Tensor input, Tensor weight,
                          Tensor output, const Epilogue& epilogue) {
    const ReachedOutputs reached(s);
    if (empty_output(s)) return Status::ok;
    if (reached.all(s)) return run_transposed<T>(reached.shape, choice, packed, input, weight, output, epilogue);
    // Some images at a time: the dense arrays of all would grow with the batch.
    const int64_t image_bytes = s.C * reached.y.count * reached.x.count * int64_t(sizeof(T));
    const int64_t together = image_bytes > 0 ? larger(1, kReachedBytes / image_bytes) : s.N;
    for (int64_t n = 0; n < s.N; n += together) {
        Conv2dShape some = s;
        some.N = smaller(together, s.N - n);
        const ReachedOutputs of_some(some);
        Tensor from = input, to = output;
        from.data += n * input.stride_bytes[0], to.data += n * output.stride_bytes[0];
        const auto compute = [&](Tensor dense) { return run_transposed<T>(of_some.shape, choice, packed, from, weight, dense, epilogue); };
        const Status status = spread_reached<T>(some, of_some, to, epilogue, compute);
        if (status != Status::ok) return status;
    }
    return Status::ok;
}

// ---- the entries of the table

static ConvTranspose2dChoice conv_transpose2d_choose(const Conv2dShape& s, int itemsize, bool packed, ChannelsLast channels_last) {
    const ReachedOutputs reached(s);
    return itemsize == 4 ? choose_transposed<float>(reached.shape, packed, channels_last)
                         : choose_transposed<double>(reached.shape, packed, channels_last);
}
static Status conv_transpose2d(const Conv2dShape& s, int itemsize, Tensor input, Tensor weight, Tensor output,
                               const Epilogue& epilogue) {
    const ConvTranspose2dChoice choice = conv_transpose2d_choose(s, itemsize, false, channels_last(input, output, itemsize));
    return itemsize == 4 ? run_reached<float>(s, choice, nullptr, input, weight, output, epilogue)
                         : run_reached<double>(s, choice, nullptr, input, weight, output, epilogue);
}
static int64_t conv_transpose2d_packed_bytes(const Conv2dShape& s, int itemsize, const ConvTranspose2dChoice& choice) {
    const ReachedOutputs reached(s);
    return itemsize * (itemsize == 4 ? packed_elements_transposed<float>(reached.shape, choice)
                                     : packed_elements_transposed<double>(reached.shape, choice));
}
static bool conv_transpose2d_pack(const Conv2dShape& s, int itemsize, const ConvTranspose2dChoice& choice, Tensor weight,
                                  void* packed) {
    const ReachedOutputs reached(s);
    return itemsize == 4 ? pack_transposed(reached.shape, choice, weight, static_cast<float*>(packed))
                         : pack_transposed(reached.shape, choice, weight, static_cast<double*>(packed));
}
static Status conv_transpose2d_packed(const Conv2dShape& s, int itemsize, const ConvTranspose2dPacked& packed, Tensor input,
                                      Tensor weight, Tensor output, const Epilogue& epilogue) {
    // Weights that hold a NaN or an infinity are not for Winograd, and are told apart by a plain call.
    if (!packed.finite) return conv_transpose2d(s, itemsize, input, weight, output, epilogue);
    return itemsize == 4 ? run_reached<float>(s, packed.choice, packed.data, input, weight, output, epilogue)
                         : run_reached<double>(s, packed.choice, packed.data, input, weight, output, epilogue);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
