// conv2d and conv_transpose2d, which is its gradient by the input: two ways to walk over the same taps.
//
//   conv2d             output[n][k][p][q] = sum over c, r, s of input[n][c][h][w] * weight[k][c][r][s]
//   conv_transpose2d   output[n][c][h][w] = sum over k, r, s of input[n][k][p][q] * weight[k][c][r][s]
//
// where h = p * stride - pad + r * dilation, and w alike of q and s.
//
// Both gather: every output is written once, by one thread, from a sum in a fixed order. An axis of the second falls into as many
// phases as the stride: outputs f, f + stride, .. see the taps first, first + cycle, .. alone, each a fixed step from the last,
// so a phase is a convolution without a stride. Along an axis, output number i of a phase lies at start + i * step, and its tap
// number t at i * scale + base + t * tap_step of the input, with the weight first + t * cycle.
//
//   gemm     an implicit matrix product for each group and phase (implicit_gemm.h): rows are pixels of all images, columns output
//            channels, depth taps and channels, channels innermost. Where the input's channels are neighbours and divide into
//            16 bytes they are loaded so; otherwise one by one, threads side by side along the pixels
//   direct   groups of one channel: a thread an output, or 16 bytes of channels. Rows of a window come again from the cache
//   pack     before either: the weights in the order in which they are read, in the workspace
//
// Small groups are made one of up to 32 channels by zero weights between them, which should cost less than idle columns and loads
// of a few bytes. Where zero meets a NaN or an infinity of another group, the sum is NaN: those are summed anew, alone. Sums of
// two-byte types are kept in float32, and rounded once behind bias and activation.
//
// 8 instances of gemm and 8 of direct. No figure has been measured.
#include "activate.h"
#include "conv2d.h"
#include "implicit_gemm.h"

namespace fastcv::cuda {
namespace {

// One direction's side of a shape: what the kernel calls input and output.
struct Sides {
    bool transposed;
    int64_t channels, outputs;  // a group's, of the input and of the output
    int64_t groups;
};

Sides sides_of(const Conv2dShape& s, bool transposed) {
    const int64_t C = s.C / s.G, K = s.K / s.G;
    return {transposed, transposed ? K : C, transposed ? C : K, s.G};
}

// Groups that are made one: as many as leave both sides with up to 32 channels.
int64_t groups_together(const Sides& s) {
    constexpr int64_t kMost = 32;
    const int64_t larger = s.channels > s.outputs ? s.channels : s.outputs;
    int64_t together = 1;
    for (int64_t n = 2; n <= s.groups && n * larger <= kMost; n++)
        if (s.groups % n == 0) together = n;
    return together;
}
bool is_direct(const Sides& s) { return s.groups > 1 && s.channels == 1; }

struct TapAxis {
    int64_t input, output, taps, stride, pad, dilation, cycle;
    bool transposed;

    TapAxis(int64_t image, int64_t windows, int64_t taps_, int64_t stride_, int64_t pad_, int64_t dilation_, bool transposed_)
        : input(transposed_ ? windows : image),
          output(transposed_ ? image : windows),
          taps(taps_),
          stride(stride_),
          pad(pad_),
          dilation(dilation_),
          transposed(transposed_) {
        int64_t a = stride, b = dilation % stride;
        while (b) {
            const int64_t rest = a % b;
            a = b, b = rest;
        }
        cycle = stride / a;
    }
    int64_t phases() const { return !transposed ? 1 : stride < output ? stride : output; }
    int64_t most_outputs() const { return transposed ? (output + stride - 1) / stride : output; }
};

struct Phase {
    int64_t start, step, outputs, scale, base, tap_step, taps, first, cycle;
};

__device__ inline Phase phase_of(const TapAxis& a, int64_t f) {
    if (!a.transposed) return {0, 1, a.output, a.stride, -a.pad, a.dilation, a.taps, 0, 1};
    Phase phase{f, a.stride, (a.output - f + a.stride - 1) / a.stride, 1, 0, -(a.cycle * a.dilation / a.stride), 0, 0, a.cycle};
    for (int64_t r = 0; r < a.taps && r < a.cycle; r++) {
        const int64_t at = f + a.pad - r * a.dilation;
        if (at % a.stride != 0) continue;
        phase.base = at / a.stride, phase.first = r, phase.taps = (a.taps - r + a.cycle - 1) / a.cycle;
        break;
    }
    return phase;
}

__device__ inline bool inside(int64_t at, int64_t size) { return uint64_t(at) < uint64_t(size); }

struct Arguments {
    Tensor input, output;
    const char* packed;
    Epilogue epilogue;
    TapAxis y, x;
    int64_t N, channels, outputs, groups;  // groups as they are multiplied
    int64_t own_channels, own_outputs;  // of the groups that were made one
    int64_t taps;  // R * S
    int64_t phases_y, phases_x, tiles_y, tiles_x, tiles;
    Divisor by_channels, rows, columns;  // columns, rows: a phase's outputs, at most
    Walk walk;  // direct: over the output
};

// ---- weights

struct PackArguments {
    Tensor weight;
    char* packed;
    Sides s;
    int64_t R, S, together;
    bool outputs_last;  // [tap][output], for `direct`; otherwise [group][output][tap][channel]
    int64_t items;
};

template <class U>
__global__ void pack(PackArguments a) {
    const int64_t channels = a.s.channels * a.together, outputs = a.s.outputs * a.together, taps = a.R * a.S;
    for (int64_t item = first_item(); item < a.items; item += item_step()) {
        int64_t c = 0, tap, o, g = 0;
        if (a.outputs_last) {
            const int64_t all = a.s.outputs * a.s.groups;
            tap = item / all, o = item % all;
        } else {
            c = item % channels, tap = item / channels % taps;
            o = item / channels / taps % outputs, g = item / channels / taps / outputs;
        }
        // In the array of all groups' channels and outputs.
        const int64_t output = g * outputs + o, group = output / a.s.outputs, from = g * a.together + c / a.s.channels;
        U value = 0;
        if (a.outputs_last || group == from) {
            const int64_t filter = a.s.transposed ? group * a.s.channels + c % a.s.channels : output;
            const int64_t channel = a.s.transposed ? output % a.s.outputs : c % a.s.channels;
            value = *reinterpret_cast<const U*>(element(a.weight, {filter, channel, tap / a.S, tap % a.S}));
        }
        reinterpret_cast<U*>(a.packed)[item] = value;
    }
}

// ---- gemm

// kVectors: channels of input and packed weights are loaded 16 bytes at a time.
template <class T, bool kVectors>
struct Gather {
    const Arguments& all;
    Phase y, x;
    Divisor across;  // the phase's taps of a row
    int64_t group, row0, column0;
    static constexpr bool a_along_rows = !kVectors, b_along_rows = false;

    struct ARow {
        const char* from;  // null: no such row
        int64_t y, x;
    };
    using BRow = const T*;

    __device__ ARow a_row(int i) const {
        const int64_t row = row0 + i, line = all.columns.quotient(row), ox = row - line * all.columns.size;
        const int64_t n = all.rows.quotient(line), oy = line - n * all.rows.size;
        if (n >= all.N || oy >= y.outputs || ox >= x.outputs) return {nullptr, 0, 0};
        return {element(all.input, {n, group * all.channels, 0, 0}), oy * y.scale + y.base, ox * x.scale + x.base};
    }
    __device__ BRow b_row(int i) const {
        const int64_t o = column0 + i;
        if (o >= all.outputs) return nullptr;
        return reinterpret_cast<const T*>(all.packed) + (group * all.outputs + o) * all.taps * all.channels;
    }
    __device__ const char* a_at(const ARow& row, int64_t k) const {
        const int64_t tap = all.by_channels.quotient(k), c = k - tap * all.channels;
        const int64_t ty = across.quotient(tap), tx = tap - ty * x.taps;
        const int64_t iy = row.y + ty * y.tap_step, ix = row.x + tx * x.tap_step;
        if (!inside(iy, all.y.input) || !inside(ix, all.x.input)) return nullptr;
        const int64_t* const b = all.input.stride_bytes;
        return row.from + c * b[1] + iy * b[2] + ix * b[3];
    }
    __device__ const T* b_at(BRow row, int64_t k) const {
        const int64_t tap = all.by_channels.quotient(k), c = k - tap * all.channels;
        const int64_t ty = across.quotient(tap), tx = tap - ty * x.taps;
        return row + ((y.first + ty * y.cycle) * all.x.taps + x.first + tx * x.cycle) * all.channels + c;
    }
    // The sum of row i and column j over the column's own group alone.
    __device__ __attribute__((noinline)) typename Wide<T>::type own_sum(int i, int j) const {
        const ARow row = a_row(i);
        const BRow weights = b_row(j);
        const int64_t first = (column0 + j) / all.own_outputs * all.own_channels;
        typename Wide<T>::type sum = 0;
        for (int64_t tap = 0; tap < y.taps * x.taps; tap++)
            for (int64_t k = tap * all.channels + first; k < tap * all.channels + first + all.own_channels; k++) {
                const char* const at = a_at(row, k);
                if (at) sum = fma(widen(*reinterpret_cast<const T*>(at)), widen(*b_at(weights, k)), sum);
            }
        return sum;
    }
    __device__ Vector<T> a(const ARow& row, int64_t k, int64_t last) const {
        Vector<T> v{};
        if (!row.from || k >= last) return v;
        if constexpr (kVectors) {
            const char* const at = a_at(row, k);
            if (at) v = *reinterpret_cast<const Vector<T>*>(at);
        } else {
#pragma unroll
            for (int e = 0; e < Vector<T>::kSize; e++) {
                const char* const at = k + e < last ? a_at(row, k + e) : nullptr;
                if (at) v.of[e] = *reinterpret_cast<const T*>(at);
            }
        }
        return v;
    }
    __device__ Vector<T> b(BRow row, int64_t k, int64_t last) const {
        Vector<T> v{};
        if (!row || k >= last) return v;
        if constexpr (kVectors) {
            v = *reinterpret_cast<const Vector<T>*>(b_at(row, k));
        } else {
#pragma unroll
            for (int e = 0; e < Vector<T>::kSize; e++)
                if (k + e < last) v.of[e] = *b_at(row, k + e);
        }
        return v;
    }
};

template <class T, bool kVectors>
__global__ void __launch_bounds__(kGemmThreads, kGemmBlocks<T>) gemm(Arguments a) {
    for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        int64_t rest = tile;
        const int64_t tile_x = rest % a.tiles_x;
        rest /= a.tiles_x;
        const int64_t tile_y = rest % a.tiles_y;
        rest /= a.tiles_y;
        const int64_t phase_x = rest % a.phases_x;
        rest /= a.phases_x;
        const Phase y = phase_of(a.y, rest % a.phases_y), x = phase_of(a.x, phase_x);
        const int64_t group = rest / a.phases_y;
        const Gather<T, kVectors> problem{a, y, x, Divisor(x.taps, y.taps * x.taps), group, tile_y * kRows, tile_x * kColumns};
        const auto sums = multiply<T>(problem, 0, y.taps * x.taps * a.channels);
        sums.each([&](int i, int j, typename Wide<T>::type sum) {
            const int64_t row = problem.row0 + i, line = a.columns.quotient(row), ox = row - line * a.columns.size;
            const int64_t n = a.rows.quotient(line), oy = line - n * a.rows.size, o = problem.column0 + j;
            if (n >= a.N || oy >= y.outputs || ox >= x.outputs || o >= a.outputs) return;
            if (sum != sum && a.own_channels < a.channels) sum = problem.own_sum(i, j);
            const int64_t channel = group * a.outputs + o;
            const Place at{n, channel, y.start + oy * y.step, x.start + ox * x.step};
            *reinterpret_cast<T*>(const_cast<char*>(element(a.output, at))) = finished<T>(sum, a.epilogue, channel);
        });
    }
}

// ---- direct

template <class T, int kChannels>
__global__ void direct(Arguments a) {
    struct alignas(sizeof(T) * kChannels) Channels {
        T of[kChannels];
    };
    using W = typename Wide<T>::type;
    const int64_t all_outputs = a.outputs * a.groups;
    for (int64_t item = first_item(); item < a.walk.items; item += item_step()) {
        const Place at = a.walk.place(item);
        const int64_t from = kChannels > 1 ? at.c : at.c / a.outputs;
        // As in a phase of its own, with one output.
        const Phase y = phase_of(a.y, a.y.transposed ? a.rows.quotient(at.y) * -a.rows.size + at.y : 0);
        const Phase x = phase_of(a.x, a.x.transposed ? a.columns.quotient(at.x) * -a.columns.size + at.x : 0);
        const int64_t oy = a.y.transposed ? a.rows.quotient(at.y) : at.y, ox = a.x.transposed ? a.columns.quotient(at.x) : at.x;
        W sums[kChannels] = {};
        for (int64_t t = 0; t < y.taps; t++) {
            const int64_t iy = oy * y.scale + y.base + t * y.tap_step;
            if (!inside(iy, a.y.input)) continue;
            for (int64_t u = 0; u < x.taps; u++) {
                const int64_t ix = ox * x.scale + x.base + u * x.tap_step;
                if (!inside(ix, a.x.input)) continue;
                const int64_t tap = (y.first + t * y.cycle) * a.x.taps + x.first + u * x.cycle;
                const auto v = *reinterpret_cast<const Channels*>(element(a.input, {at.n, from, iy, ix}));
                const auto w = *reinterpret_cast<const Channels*>(a.packed + (tap * all_outputs + at.c) * int64_t(sizeof(T)));
                for (int i = 0; i < kChannels; i++) sums[i] = fma(widen(v.of[i]), widen(w.of[i]), sums[i]);
            }
        }
        Channels result;
        for (int i = 0; i < kChannels; i++) result.of[i] = finished<T>(sums[i], a.epilogue, at.c + i);
        reinterpret_cast<Channels*>(a.output.data)[item] = result;
    }
}

// ---- calls

bool aligned(const Tensor& t, int64_t itemsize) {
    const int64_t* const b = t.stride_bytes;
    const uint64_t all = uint64_t(reinterpret_cast<uintptr_t>(t.data)) | uint64_t(b[0]) | uint64_t(b[2]) | uint64_t(b[3]);
    return b[1] == itemsize && all % 16 == 0;
}

void run(const char* op, const Conv2dShape& s, bool transposed, Dtype dtype, Tensor input, Tensor weight, Result output,
         const Epilogue& epilogue, void* workspace, Queue queue) {
    const OnDevice here(queue.device);
    const Sides sides = sides_of(s, transposed);
    const int64_t itemsize = item_bytes(dtype), taps = s.R * s.S;
    const bool by_channel = is_direct(sides);
    const int64_t together = by_channel ? 1 : groups_together(sides), groups = s.G / together;
    const int64_t channels = sides.channels * together, outputs = sides.outputs * together, all = sides.outputs * s.G;
    const TapAxis y(s.H, s.P, s.R, s.stride_h, s.pad_top, s.dilation_h, transposed);
    const TapAxis x(s.W, s.Q, s.S, s.stride_w, s.pad_left, s.dilation_w, transposed);

    const int64_t packs = groups * outputs * taps * channels;
    const PackArguments packing{weight, static_cast<char*>(workspace), sides, s.R, s.S, together, by_channel, packs};
    with_size(dtype, [&](auto unit) { launch(op, pack<decltype(unit)>, blocks_for(packs, kThreads), kThreads, queue, packing); });

    const int64_t size = Vector<uint8_t>::kSize / itemsize;
    const bool plain = by_channel && sides.outputs == 1 && output.channels_last && all % size == 0;
    const bool vectors = aligned(input, itemsize) && (by_channel ? plain : channels % size == 0);
    const int64_t down = y.most_outputs(), across = x.most_outputs(), rows = s.N * down * across;
    const int64_t tiles_y = (rows + kRows - 1) / kRows, tiles_x = (outputs + kColumns - 1) / kColumns;
    const Arguments a{input,
                      result_tensor(output, itemsize, all, y.output, x.output),
                      static_cast<const char*>(workspace),
                      epilogue,
                      y,
                      x,
                      s.N,
                      channels,
                      outputs,
                      groups,
                      sides.channels,
                      sides.outputs,
                      taps,
                      y.phases(),
                      x.phases(),
                      tiles_y,
                      tiles_x,
                      y.phases() * x.phases() * groups * tiles_y * tiles_x,
                      Divisor(channels, taps * channels + size),
                      by_channel ? Divisor(s.stride_h, y.output) : Divisor(down, rows + kRows),
                      by_channel ? Divisor(s.stride_w, x.output) : Divisor(across, rows + kRows),
                      Walk(s.N, all, y.output, x.output, output.channels_last, by_channel && vectors ? size : 1)};
    with_type(dtype, [&](auto value) {
        using T = decltype(value);
        if (by_channel) {
            const auto kernel = vectors ? direct<T, Vector<T>::kSize> : direct<T, 1>;
            launch(op, kernel, blocks_for(a.walk.items, kThreads), kThreads, queue, a);
        } else if (a.walk.items > 0) {
            launch(op, vectors ? gemm<T, true> : gemm<T, false>, blocks_for(a.tiles, 1), kGemmThreads, queue, a);
        }
    });
}

}  // namespace

int64_t conv2d_workspace_bytes(const Conv2dShape& s, Dtype dtype) {
    // Made one, groups have as many weights each as there are groups together. Both directions need as much.
    const Sides sides = sides_of(s, false);
    const int64_t bytes = s.K * sides.channels * s.R * s.S * groups_together(sides) * item_bytes(dtype);
    return (bytes + 15) / 16 * 16;
}

void conv2d(const Conv2dShape& s, Dtype dtype, Tensor input, Tensor weight, Result output, const Epilogue& epilogue,
            void* workspace, Queue queue) {
    run("conv2d", s, false, dtype, input, weight, output, epilogue, workspace, queue);
}

void conv_transpose2d(const Conv2dShape& s, Dtype dtype, Tensor input, Tensor weight, Result output, const Epilogue& epilogue,
                      void* workspace, Queue queue) {
    run("conv_transpose2d", s, true, dtype, input, weight, output, epilogue, workspace, queue);
}

}  // namespace fastcv::cuda
