// Where a window's taps fall: the only place where strides, padding and dilation are worked out.
#pragma once

#include "ops.h"
#include "simd.h"

namespace fastcv::FASTCV_ISA {
namespace {

// One dimension of a convolution or pooling: output o reads input o * stride + tap * dilation - pad.
struct Axis {
    int64_t input, output, taps, stride, pad, dilation;

    // Outputs whose tap lies inside the input: [first, last).
    int64_t first_output(int64_t tap) const {
        const int64_t shift = pad - tap * dilation;
        return shift <= 0 ? 0 : smaller(output, ceil_div(shift, stride));
    }
    int64_t last_output(int64_t tap) const {
        const int64_t room = input - 1 + pad - tap * dilation;
        return room < 0 ? 0 : smaller(output, room / stride + 1);
    }

    // Taps of an output that lie inside the input: [first, last). An output whose taps all miss it has none.
    int64_t first_tap(int64_t o) const {
        const int64_t start = o * stride - pad;
        return start < 0 ? smaller(taps, ceil_div(-start, dilation)) : 0;
    }
    int64_t last_tap(int64_t o) const {
        const int64_t room = input - 1 - (o * stride - pad);
        return room < 0 ? 0 : smaller(taps, room / dilation + 1);
    }
    // Outputs all of whose taps lie inside the input: [first_whole, last_whole).
    int64_t first_whole() const { return first_output(0); }
    int64_t last_whole() const { return larger(first_whole(), last_output(taps - 1)); }
    // The same axis without the taps that no output sees inside the input, and with steps of 1 where none is taken.
    Axis clipped() const {
        Axis a = *this;
        const int64_t first = first_tap(output - 1), last = larger(first + 1, last_tap(0));
        a.taps = smaller(taps, last) - first;
        a.pad -= first * dilation;
        if (taps == 1) a.dilation = 1;
        if (output == 1) a.stride = 1;
        return a;
    }
    // Where a window that starts at `position` first meets the input, or would if the input went on to the right.
    int64_t first_inside(int64_t position) const {
        return position < 0 ? position + ceil_div(-position, dilation) * dilation : position;
    }

    // Splitting the input into phases (positions equal modulo the stride) turns a strided window into one that reads
    // neighbours. Taps 0, 1, 2 .. meet the phases in a cycle; slot j holds the phase that tap j meets.
    int64_t cycle() const {
        int64_t a = stride, b = dilation % stride;
        while (b) {
            const int64_t r = a % b;
            a = b;
            b = r;
        }
        return stride / a;
    }
    int64_t slots() const { return smaller(taps, cycle()); }
    int64_t slot_of(int64_t tap) const { return tap % cycle(); }
    int64_t phase_of_slot(int64_t slot) const { return slot * dilation % stride; }
    int64_t step_of(int64_t tap) const { return tap * dilation / stride; }
    int64_t steps() const { return taps > 0 ? step_of(taps - 1) : 0; }
};

static inline Axis vertical(const Conv2dShape& s) { return {s.H, s.P, s.R, s.stride_h, s.pad_top, s.dilation_h}; }
static inline Axis horizontal(const Conv2dShape& s) { return {s.W, s.Q, s.S, s.stride_w, s.pad_left, s.dilation_w}; }
static inline Axis vertical(const Pool2dShape& s) { return {s.H, s.P, s.R, s.stride_h, s.pad_top, s.dilation_h}; }
static inline Axis horizontal(const Pool2dShape& s) { return {s.W, s.Q, s.S, s.stride_w, s.pad_left, s.dilation_w}; }

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

// A convolution's weights as [group][filter][channel][row][column], any strides: also those of the convolution that an input
// gradient is, which are the same numbers with filters and channels exchanged and the window turned by half a turn.
struct Weights {
    const char* data;
    int64_t group_bytes, filter_bytes, channel_bytes, row_bytes, column_bytes;

    const char* at(int64_t g, int64_t k, int64_t c) const {
        return data + g * group_bytes + k * filter_bytes + c * channel_bytes;
    }
};
static inline Weights forward_weights(const Conv2dShape& s, Tensor w) {
    const int64_t* b = w.stride_bytes;
    return {w.data, s.K / s.G * b[0], b[0], b[1], b[2], b[3]};
}
static inline Weights turned_weights(const Conv2dShape& s, Tensor w) {
    const int64_t* b = w.stride_bytes;
    return {w.data + (s.R - 1) * b[2] + (s.S - 1) * b[3], s.K / s.G * b[0], b[1], b[0], -b[2], -b[3]};
}

static inline double multiply_adds(const Conv2dShape& s) {
    return double(s.N) * double(s.K) * double(s.P) * double(s.Q) * double(s.G ? s.C / s.G : 0) * double(s.R) * double(s.S);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
