// conv2d_grad_weight: sums over all pixels of all images.
//
//   grad_weight[k][c][r][s] = sum over n, p, q of
//       grad_output[n][k][p][q] * input[n][c][p * stride - pad + r * dilation][q * stride - pad + s * dilation]
//
// The sums are long and few, so they are cut into parts of pixels, by sizes alone; the parts' sums go to the workspace, and are
// added in order. So there is nothing atomic, and the same call has the same bits.
//
//   gemm     an implicit matrix product (implicit_gemm.h) for each group and part: rows are the group's filters, columns taps and
//            channels, depth pixels. Threads lie along whatever is neighbours in memory, and load one by one
//   few      groups of few weights: a warp for each weight and part, a lane each 32nd pixel; the lanes' sums are added in a tree
//   add      the parts' sums, rounded once
//
// 4 instances of each. Loads of 16 bytes of channels would need transposing in registers, and are not there. No figure has been
// measured.
#include "conv2d.h"
#include "implicit_gemm.h"

namespace fastcv::cuda {
namespace {

constexpr int64_t kLeastPixels = 2048, kMostParts = 256, kMostBytes = int64_t(64) << 20, kFewWeights = 64;

struct Parts {
    int64_t pixels, parts;  // of a part; how many
};

Parts parts_of(const Conv2dShape& s, int64_t sum_bytes) {
    const int64_t pixels = s.N * s.P * s.Q, weights = s.K * (s.C / s.G) * s.R * s.S;
    const int64_t room = weights > 0 ? kMostBytes / (weights * sum_bytes) : kMostParts;
    const int64_t most = room < 1 ? 1 : room < kMostParts ? room : kMostParts;
    int64_t each = (pixels + most - 1) / most;
    if (each < kLeastPixels) each = kLeastPixels;
    each = (each + 63) / 64 * 64;
    return {each, pixels > 0 ? (pixels + each - 1) / each : 1};
}

struct Arguments {
    Conv2dShape s;
    Tensor grad_output, input;
    void *result, *sums;
    int64_t channels, filters, pixels, weights;  // a group's channels and filters; pixels of all images; weights of all groups
    Parts parts;
    int64_t tiles_y, tiles_x, tiles;
    bool filters_side_by_side, channels_side_by_side;
    Divisor by_q, by_p, by_channels, by_s;

    // What tap (r, s) of output (p, q) sees, or null.
    __device__ const char* seen(int64_t n, int64_t c, int64_t p, int64_t q, int64_t r, int64_t tap_s) const {
        const int64_t y = p * s.stride_h - s.pad_top + r * s.dilation_h, x = q * s.stride_w - s.pad_left + tap_s * s.dilation_w;
        if (uint64_t(y) >= uint64_t(s.H) || uint64_t(x) >= uint64_t(s.W)) return nullptr;
        return element(input, {n, c, y, x});
    }
    // Pixel number i as n, p (y) and q (x).
    __device__ Place pixel(int64_t i) const {
        const int64_t line = by_q.quotient(i), n = by_p.quotient(line);
        return {n, 0, line - n * s.P, i - line * s.Q};
    }
};

template <class T>
struct Correlation {
    const Arguments& all;
    int64_t group, row0, column0;
    bool a_along_rows, b_along_rows;

    struct ARow {
        int64_t k;  // -1: no such row
    };
    struct BRow {
        int64_t c, r, s;  // c -1: no such column
    };
    __device__ ARow a_row(int i) const { return {row0 + i < all.filters ? group * all.filters + row0 + i : -1}; }
    __device__ BRow b_row(int i) const {
        const int64_t column = column0 + i, tap = all.by_channels.quotient(column), r = all.by_s.quotient(tap);
        if (column >= all.channels * all.s.R * all.s.S) return {-1, 0, 0};
        return {group * all.channels + column - tap * all.channels, r, tap - r * all.s.S};
    }
    // The vector of the pixels from k on; at(pixel) says where each is, or null.
    template <class At>
    __device__ Vector<T> pixels(int64_t k, int64_t last, const At& at) const {
        Vector<T> v{};
        Place pixel = all.pixel(k);
#pragma unroll
        for (int e = 0; e < Vector<T>::kSize; e++) {
            if (k + e >= last) break;
            const char* const from = at(pixel);
            if (from) v.of[e] = *reinterpret_cast<const T*>(from);
            if (++pixel.x < all.s.Q) continue;
            pixel.x = 0;
            if (++pixel.y < all.s.P) continue;
            pixel.y = 0, pixel.n++;
        }
        return v;
    }
    __device__ Vector<T> a(const ARow& row, int64_t k, int64_t last) const {
        if (row.k < 0 || k >= last) return {};
        return pixels(k, last, [&](const Place& at) { return element(all.grad_output, {at.n, row.k, at.y, at.x}); });
    }
    __device__ Vector<T> b(const BRow& row, int64_t k, int64_t last) const {
        if (row.c < 0 || k >= last) return {};
        return pixels(k, last, [&](const Place& at) { return all.seen(at.n, row.c, at.y, at.x, row.r, row.s); });
    }
};

__device__ inline int64_t end_of_part(const Arguments& a, int64_t part) {
    const int64_t end = (part + 1) * a.parts.pixels;
    return end < a.pixels ? end : a.pixels;
}

template <class T>
__global__ void __launch_bounds__(kGemmThreads, kGemmBlocks<T>) gemm(Arguments a) {
    using W = typename Wide<T>::type;
    for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        int64_t rest = tile;
        const int64_t tile_x = rest % a.tiles_x;
        rest /= a.tiles_x;
        const int64_t tile_y = rest % a.tiles_y;
        rest /= a.tiles_y;
        const int64_t part = rest % a.parts.parts, group = rest / a.parts.parts;
        const Correlation<T> problem{
            a, group, tile_y * kRows, tile_x * kColumns, a.filters_side_by_side, a.channels_side_by_side};
        const auto sums = multiply<T>(problem, part * a.parts.pixels, end_of_part(a, part));
        sums.each([&](int i, int j, W sum) {
            const auto row = problem.a_row(i);
            const auto column = problem.b_row(j);
            if (row.k < 0 || column.c < 0) return;
            const int64_t c = column.c - group * a.channels;
            const int64_t at = ((row.k * a.channels + c) * a.s.R + column.r) * a.s.S + column.s;
            static_cast<W*>(a.sums)[part * a.weights + at] = sum;
        });
    }
}

template <class T>
__global__ void few(Arguments a) {
    using W = typename Wide<T>::type;
    const int64_t lane = threadIdx.x % 32;
    for (int64_t item = first_item() / 32; item < a.weights * a.parts.parts; item += item_step() / 32) {
        const int64_t part = item / a.weights, at = item - part * a.weights;
        const int64_t row = at / a.s.S, s = at - row * a.s.S, filter = row / a.s.R, r = row - filter * a.s.R;
        const int64_t k = filter / a.channels, c = k / a.filters * a.channels + filter - k * a.channels;
        const int64_t end = end_of_part(a, part);
        W sum = 0;
        for (int64_t i = part * a.parts.pixels + lane; i < end; i += 32) {
            const Place p = a.pixel(i);
            const char* const from = a.seen(p.n, c, p.y, p.x, r, s);
            if (!from) continue;
            const T y = *reinterpret_cast<const T*>(element(a.grad_output, {p.n, k, p.y, p.x}));
            sum = fma(widen(y), widen(*reinterpret_cast<const T*>(from)), sum);
        }
        for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
        if (lane == 0) static_cast<W*>(a.sums)[item] = sum;
    }
}

template <class T>
__global__ void add(Arguments a) {
    using W = typename Wide<T>::type;
    for (int64_t at = first_item(); at < a.weights; at += item_step()) {
        W sum = static_cast<const W*>(a.sums)[at];
        for (int64_t part = 1; part < a.parts.parts; part++) sum += static_cast<const W*>(a.sums)[part * a.weights + at];
        static_cast<T*>(a.result)[at] = narrow<T>(sum);
    }
}

int64_t sum_bytes(Dtype dtype) { return dtype == Dtype::float64 ? 8 : 4; }

}  // namespace

int64_t conv2d_grad_weight_workspace_bytes(const Conv2dShape& s, Dtype dtype) {
    return parts_of(s, sum_bytes(dtype)).parts * s.K * (s.C / s.G) * s.R * s.S * sum_bytes(dtype);
}

void conv2d_grad_weight(const Conv2dShape& s, Dtype dtype, Tensor grad_output, Tensor input, void* grad_weight, void* workspace,
                        Queue queue) {
    const OnDevice here(queue.device);
    const char* const op = "conv2d_grad_weight";
    const int64_t C = s.C / s.G, K = s.K / s.G, pixels = s.N * s.P * s.Q, columns = C * s.R * s.S;
    const Parts parts = parts_of(s, sum_bytes(dtype));
    const int64_t tiles_y = (K + kRows - 1) / kRows, tiles_x = (columns + kColumns - 1) / kColumns;
    const int64_t itemsize = item_bytes(dtype);
    const Arguments a{s,
                      grad_output,
                      input,
                      grad_weight,
                      workspace,
                      C,
                      K,
                      pixels,
                      s.K * columns,
                      parts,
                      tiles_y,
                      tiles_x,
                      tiles_y * tiles_x * parts.parts * s.G,
                      grad_output.stride_bytes[1] == itemsize,
                      input.stride_bytes[1] == itemsize,
                      Divisor(s.Q, pixels + 1),
                      Divisor(s.P, pixels + 1),
                      Divisor(C, columns + kColumns),
                      Divisor(s.S, s.R * s.S + kColumns)};
    if (a.weights == 0) return;
    with_type(dtype, [&](auto value) {
        using T = decltype(value);
        if (C * K <= kFewWeights)
            launch(op, few<T>, blocks_for(a.weights * parts.parts * 32, kThreads), kThreads, queue, a);
        else
            launch(op, gemm<T>, blocks_for(a.tiles, 1), kGemmThreads, queue, a);
        launch(op, add<T>, blocks_for(a.weights, kThreads), kThreads, queue, a);
    });
}

}  // namespace fastcv::cuda
