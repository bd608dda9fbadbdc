// Transposed convolution whose stride and dilation have a common factor: the outputs that no tap reaches.
//
//   stride 2, dilation 2:   . a . b . c .     taps reach every second output of a row and every second row
//                           . . . . . . .     a b c: a transposed convolution of their own, with stride 1 and dilation 1,
//                           . d . e . f .     and so an ordinary one, Winograd included;   . is activation(bias)
//
// A tap r reaches output p * stride + r * dilation - pad: all of them are equal modulo the factor. A window of one tap has no dilation:
// there the factor is the stride, and a 1x1 window with any stride is a pointwise product. The reached outputs are computed as a dense
// array of their own, some images at a time, and spread in a second pass, which writes each output once. 3x3, stride and dilation 2,
// 32 channels on 40 x 40 take 0.11 ms so on two threads, and took 0.35 ms as four phases of which three have no taps; other channels and
// planes gained a factor of 1.9 to 3.4, 1x1 windows 1.05.
//
// Here `input` is (N, K, P, Q) and `output` (N, C, H, W): the letters are those of the convolution that this is the gradient of.
#pragma once

#include "conv_transpose2d_phases.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int64_t kReachedBytes = int64_t(16) << 20;  // of dense arrays, unless one image's is larger

// In one dimension: output first + j * step is reached output j.
struct ReachedAxis {
    int64_t step, first, count;

    ReachedAxis(int64_t size, int64_t taps, int64_t& stride, int64_t& pad, int64_t& dilation) {
        step = taps > 1 ? stride / Axis{0, 0, taps, stride, 0, dilation}.cycle() : stride;  // their greatest common divisor
        first = (step - pad % step) % step;
        count = size > first ? ceil_div(size - first, step) : 0;
        stride /= step;
        pad = pad / step + (pad % step > 0);  // (pad + first) / step, without the sum
        dilation = taps > 1 ? dilation / step : 1;
    }
};

// The transposed convolution of the reached outputs, and where they lie. It depends on the image's size by H and W alone.
struct ReachedOutputs {
    Conv2dShape shape;
    ReachedAxis y, x;

    explicit ReachedOutputs(const Conv2dShape& s)
        : shape(s),
          y(s.H, s.R, shape.stride_h, shape.pad_top, shape.dilation_h),
          x(s.W, s.S, shape.stride_w, shape.pad_left, shape.dilation_w) {
        shape.H = y.count;
        shape.W = x.count;
    }
    bool all(const Conv2dShape& s) const { return y.count == s.H && x.count == s.W; }
};

// compute(to) fills a dense array of reached outputs; this spreads them.
template <class T, class Compute>
static Status spread_reached(const Conv2dShape& s, const ReachedOutputs& reached, Tensor output, const Epilogue& epilogue,
                             const Compute& compute) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    const ReachedAxis &y = reached.y, &x = reached.x;
    const int64_t* stride = output.stride_bytes;
    const bool channels_last = stride[1] == size;  // as the choice of an algorithm may require of the dense array as well
    // Where the next reached output would lie outside, a row is one position, however long the step.
    const int64_t pixels = y.count * x.count, step = smaller(x.step, s.W), positions = ceil_div(s.W, step);
    const int threads = threads_for(double(s.N) * double(s.C) * double(s.H) * double(s.W));
    const int64_t dense_bytes = round_up((s.N * s.C * pixels + L) * size, 64), empty_bytes = round_up(s.C * size, 64);
    const int64_t row_bytes = round_up((positions + L) * size, 64), pointer_bytes = round_up(step * int64_t(sizeof(T*)), 64);
    Scratch scratch(dense_bytes + empty_bytes + threads * (row_bytes + pointer_bytes));
    if (!scratch.data()) return Status::out_of_memory;
    T* dense = reinterpret_cast<T*>(scratch.data());
    T* empty = reinterpret_cast<T*>(scratch.data() + dense_bytes);  // what outputs hold that are not reached
    char* per_thread = scratch.data() + dense_bytes + empty_bytes;

    for (int64_t c = 0; c < s.C; c++) {
        const T bias = epilogue.bias ? load_scalar<T>(epilogue.bias + c * epilogue.bias_stride_bytes) : T(0);
        empty[c] = activate<T>(splat(bias), epilogue.activation, T(epilogue.slope))[0];
    }
    const Tensor to = channels_last
                          ? Tensor{scratch.data(), {s.C * pixels * size, size, s.C * x.count * size, s.C * size}}
                          : Tensor{scratch.data(), {s.C * pixels * size, pixels * size, x.count * size, size}};
    const Status status = compute(to);
    if (status != Status::ok) return status;

    const int64_t planes = channels_last ? s.N : s.N * s.C, items = planes * s.H;
    parallel(threads, [&](Team team) {
        T* constant = reinterpret_cast<T*>(per_thread + team.id * (row_bytes + pointer_bytes));
        const T** phase = reinterpret_cast<const T**>(per_thread + team.id * (row_bytes + pointer_bytes) + row_bytes);
        for (int64_t item = team.begin(items), last = -1; item < team.end(items); item++) {
            const int64_t plane = item / s.H, at = item % s.H - y.first, j = at / y.step;
            const bool row_reached = at >= 0 && at % y.step == 0;
            if (channels_last) {
                char* row = output.data + plane * stride[0] + item % s.H * stride[2];
                for (int64_t i = 0, next = row_reached ? x.first : s.W, n = 0; i < s.W; i++) {
                    const bool here = i == next;
                    const T* from = here ? dense + ((plane * y.count + j) * x.count + n++) * s.C : empty;
                    if (here) next += x.step;
                    copy_row(reinterpret_cast<T*>(row + i * stride[3]), reinterpret_cast<const char*>(from), size, s.C);
                }
                continue;
            }
            const int64_t n = plane / s.C, c = plane % s.C;
            if (last != plane)
                for (int64_t i = 0; i < positions + L; i++) constant[i] = empty[c];
            last = plane;
            for (int64_t i = 0; i < step; i++) phase[i] = constant;
            if (row_reached && x.count > 0) phase[x.first] = dense + (plane * y.count + j) * x.count;
            interleave_row(phase, step, 0, positions, output.data + n * stride[0] + c * stride[1] + item % s.H * stride[2], stride[3], 0,
                           s.W);
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
