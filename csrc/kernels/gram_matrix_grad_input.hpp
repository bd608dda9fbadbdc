// The gradient of Gram matrices by their input.
//
//   grad_input[n][i][p] = scale * sum over k of (G[n][i][k] + G[n][k][i]) * x[n][k][p],   G = grad_output
//
// The matrix A = scale * (G + G') is symmetric; it is formed first, L x L squares at a time, so that G is read twice in all and
// may have any strides. What remains is a matrix product over the channels. Pixels go where they are finest in the result:
//
//   NCHW: rows are channels, columns pixels          channels-last: rows are pixels, columns channels
//
//             strips of x, [channel][NV * L]                      panels of A, [channel][L]
//            +-----------+-----------+                           +---+---+---+
//   rows of  |           |           |                 pixels of |   |   |   |
//   A, MT at | MT x NV   |           |                 x, MT at  | MT x NV   |
//   a time   +-----------+-----------+                 a time    +---+---+---+
//
// A block of pixels is copied to scratch: strips for the one form, rows of channels for the other. So x may have any strides,
// and the tile reads one contiguous stream whatever the distance between channels, which is often a power of two. A strip is
// copied just before all rows of A pass it, by parts of its channels that stay in the first-level cache; where strips are few,
// A is the larger, and is read in one go instead. So 96 x 24 x 24 went from 0.34 to 0.31 ms on two threads, 128 x 128 x 128 from
// 2.07 to 1.92, 512 x 16 x 16 from 0.67 to 0.61.
//
// From two channels in channels-last memory to half as many as there are lanes, most of a tile would be idle. There lanes are
// elements as they lie, of as many whole pixels as a vector holds, and each lane's pixel brings channel after channel:
//
//   memory          [r0 g0 b0 r1 g1 b1 ..     times A's row for
//   channel 0       [r0 r0 r0 r1 r1 r1 ..     r: [A00 A01 A02 A00 A01 A02 ..
//   channel 1       [g0 g0 g0 g1 g1 g1 ..     g: [A10 A11 A12 A10 A11 A12 ..   and so on
//
// 3 x 224 x 224 on one core: 122 microseconds by tiles and 17.5 so; 8 x 224 x 224: 185 and 81.
//
// Each sum runs over the channels in their order; threads share out blocks of pixels and, where these are few, rows of the
// result.
#pragma once

#include "gram_matrix.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

template <class T>
struct GramGradCall {
    GramShape shape;
    Tensor grad_output, input, grad_input;
    T scale;
    int64_t pixels, width;
    bool channels_last;                  // of grad_input
    int64_t square_row, square_column;   // A: elements from row to row, and from L columns to the next L
    int64_t square;                      // elements of A
    int64_t block, blocks;               // pixels of a block, and how many there are
    int64_t groups;                      // of rows (NCHW) or columns (channels-last) that a block's result is cut into

    GramImage image(int64_t n) const { return gram_image(input, n, width); }
    char* result(int64_t n, int64_t channel, int64_t pixel) const {
        const int64_t* b = grad_input.stride_bytes;
        return grad_input.data + n * b[0] + channel * b[1] + pixel * b[3];
    }
};

// A's rows [k, k + L): L x L squares of G and of its mirror image, added and scaled.
template <class T>
static void fill_gram_square(const GramGradCall<T>& c, int64_t n, int64_t k, T* square) {
    constexpr int64_t L = kLanes<T>;
    const int64_t* b = c.grad_output.stride_bytes;
    const char* G = c.grad_output.data + n * b[0];
    const int64_t C = c.shape.C, rows = smaller(L, C - k);
    for (int64_t i = 0; i < C; i += L) {
        T below[L * L], beside[L * L];  // G[k + r][i + l], and G[i + l][k + r]
        load_channel_lanes<T>(below, rows, G + k * b[1] + i * b[2], b[2], b[1], smaller(L, C - i), 0, rows);
        load_channel_lanes<T>(beside, rows, G + i * b[1] + k * b[2], b[1], b[2], smaller(L, C - i), 0, rows);
        for (int64_t r = 0; r < rows; r++)
            store(square + i / L * c.square_column + (k + r) * c.square_row,
                  (load(below + r * L) + load(beside + r * L)) * splat(c.scale));
    }
}

template <class T, int MT, int NV>
FASTCV_INLINE void store_gram_grad(const Vec<T> (&acc)[MT][NV], char* result, int64_t result_row_bytes, int64_t column_count) {
    constexpr int L = kLanes<T>;
    FASTCV_UNROLL for (int i = 0; i < MT; i++) {
        T* to = reinterpret_cast<T*>(result + i * result_row_bytes);
        FASTCV_UNROLL for (int j = 0; j < NV; j++) store_first(to + j * L, acc[i][j], column_count - j * L);
    }
}
// result[i][j] = sum over k of rows[i][k] * columns[k][j]; of the tile's columns the first ones go out. Rows are A's, columns a
// strip, and what came before may have begun the sum,
template <class T, int MT, int NV>
FASTCV_NOINLINE void gram_grad_planes_tile(const T* rows, int64_t row_pitch, const T* strip, int64_t depth, bool first,
                                           char* result, int64_t result_row_bytes, int64_t column_count) {
    constexpr int64_t L = kLanes<T>;
    Vec<T> acc[MT][NV];
    if (first)
        clear_tile<T, MT, NV>(acc);
    else
        FASTCV_UNROLL for (int i = 0; i < MT; i++) {
            const T* from = reinterpret_cast<const T*>(result + i * result_row_bytes);
            FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = load_first(from + j * L, column_count - j * L);
        }
    strided_product<T, MT, NV>(acc, depth, {rows, row_pitch, 1, strip, L, GramTiles::vectors * L});
    store_gram_grad<T, MT, NV>(acc, result, result_row_bytes, column_count);
}
// or rows are pixels of a panel, [block of lanes][pixel][lane], and columns A's.
template <class T, int MT, int NV>
FASTCV_NOINLINE void gram_grad_rows_tile(const T* rows, const T* columns, int64_t vector_stride, int64_t depth,
                                         const DepthStep* step, char* result, int64_t result_row_bytes, int64_t column_count) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MT][NV];
    clear_tile<T, MT, NV>(acc);
    const T* vectors[NV];
    FASTCV_UNROLL for (int j = 0; j < NV; j++) vectors[j] = columns + j * vector_stride;
    pixel_lanes<T, MT, NV>(acc, depth, rows, L, vectors, step);
    store_gram_grad<T, MT, NV>(acc, result, result_row_bytes, column_count);
}
template <class T>
struct GramGradPlanes {
    template <int MT, int NV>
    static constexpr auto tile = &gram_grad_planes_tile<T, MT, NV>;
};
template <class T>
struct GramGradRows {
    template <int MT, int NV>
    static constexpr auto tile = &gram_grad_rows_tile<T, MT, NV>;
};
// The function of Kind for so many rows and columns.
template <class T, class Kind, int MT = 1>
static auto find_gram_grad_tile(int64_t rows, int64_t columns) {
    constexpr int64_t L = kLanes<T>;
    if constexpr (MT < GramTiles::rows<T>) {
        if (rows > MT) return find_gram_grad_tile<T, Kind, MT + 1>(rows, columns);
    }
    return columns > 2 * L ? Kind::template tile<MT, 3> : columns > L ? Kind::template tile<MT, 2> : Kind::template tile<MT, 1>;
}

// Rows are shared out among as few tiles as they need, equally: 6 + 6 + 5 rather than 8 + 8 + 1.
template <class T>
struct GramRows {
    int64_t rows, tiles;
    explicit GramRows(int64_t n) : rows(n), tiles(ceil_div(n, GramTiles::rows<T>)) {}
    int64_t begin(int64_t tile) const { return rows * tile / tiles; }
};

// NCHW: a group of channels of one block of pixels.
template <class T>
static void gram_grad_planes(const GramGradCall<T>& c, int64_t n, int64_t first, int64_t last, int64_t group, const T* square,
                             T* packed, const DepthStep*) {
    constexpr int64_t kStrip = GramTiles::vectors * kLanes<T>, kPartBytes = 24 << 10;
    const int64_t C = c.shape.C, strips = ceil_div(last - first, kStrip);
    const int64_t parts = strips < 4 ? 1 : ceil_div(C * kStrip * int64_t(sizeof(T)), kPartBytes);
    const GramRows<T> rows(C);
    const GramImage image = c.image(n);
    for (int64_t p = first; p < last; p += kStrip) {
        pack_gram_rows<T>(image, C, p, smaller(last, p + kStrip), packed, kStrip);
        for (int64_t part = 0; part < parts; part++) {
            const int64_t k = C * part / parts, depth = C * (part + 1) / parts - k;
            for (int64_t t = rows.tiles * group / c.groups; t < rows.tiles * (group + 1) / c.groups; t++) {
                const int64_t i = rows.begin(t), count = rows.begin(t + 1) - i;
                const auto tile = find_gram_grad_tile<T, GramGradPlanes<T>>(count, last - p);
                tile(square + i * c.square_row + k, c.square_row, packed + k * kStrip, depth, part == 0, c.result(n, i, p),
                     c.grad_input.stride_bytes[1], last - p);
            }
        }
    }
}

// Channels-last: a group of channels of one block of pixels.
template <class T>
static void gram_grad_rows(const GramGradCall<T>& c, int64_t n, int64_t first, int64_t last, int64_t group, const T* square,
                           T* packed, const DepthStep* step) {
    constexpr int64_t L = kLanes<T>;
    const int64_t C = c.shape.C, panels = ceil_div(C, L), end = panels * (group + 1) / c.groups;
    const GramRows<T> rows(last - first);
    pack_gram_panels<T>(c.image(n), C, first, last, packed, c.block * L);
    for (int64_t j = panels * group / c.groups; j < end;) {
        const int64_t take = gram_panels_at_once(end - j);
        for (int64_t t = 0; t < rows.tiles; t++) {
            const int64_t p = rows.begin(t), count = rows.begin(t + 1) - p;
            const auto tile = find_gram_grad_tile<T, GramGradRows<T>>(count, take * L);
            tile(packed + p * L, square + j * c.square_column, c.square_column, C, step, c.result(n, j * L, first + p),
                 c.grad_input.stride_bytes[3], C - j * L);
        }
        j += take;
    }
}

// Few channels, channels-last: the pixels of one block.
template <class T, int kC>
FASTCV_INLINE void gram_grad_piece(const T* from, T* to, int64_t elements, const Vec<T>* factors) {
    using At = Position<T>;
    constexpr int64_t kFilled = kLanes<T> / kC * kC;
    Vec<At> lanes[kC];
    FASTCV_UNROLL for (int k = 0; k < kC; k++) lanes[k] = lane_indices<T>() / At(kC) * At(kC) + At(k);
    const auto sums = [&](Vec<T> x) __attribute__((always_inline)) {
        Vec<T> sum = zero<T>();
        FASTCV_UNROLL for (int k = 0; k < kC; k++) sum = fma(__builtin_shuffle(x, lanes[k]), factors[k], sum);
        return sum;
    };
    int64_t e = 0;
    // Lanes behind the last whole pixel are written again by the next vector.
    for (; e + kLanes<T> <= elements; e += kFilled) store(to + e, sums(load(from + e)));
    for (; e < elements; e += kFilled)
        store_first(to + e, sums(load_first(from + e, elements - e)), smaller(kFilled, elements - e));
}
template <class T, int kC>
static void gram_grad_interleaved(const GramGradCall<T>& c, int64_t n, int64_t first, int64_t last, int64_t, const T* square, T*,
                                  const DepthStep*) {
    Vec<T> factors[kC];
    for (int k = 0; k < kC; k++)
        for (int l = 0; l < kLanes<T>; l++) factors[k][l] = square[k * c.square_row + l % kC];
    c.image(n).for_each_piece(first, last, [&](int64_t before, int64_t count, const char* from) {
        T* to = reinterpret_cast<T*>(c.result(n, 0, first + before));
        gram_grad_piece<T, kC>(reinterpret_cast<const T*>(from), to, count * kC, factors);
    });
}
template <class T>
using GramGradBlock = void (*)(const GramGradCall<T>&, int64_t n, int64_t first, int64_t last, int64_t group, const T* square,
                               T* packed, const DepthStep*);
// The kernel for so many channels, or null.
template <class T, int kC = 2>
static GramGradBlock<T> find_gram_grad_interleaved(int64_t channels) {
    if constexpr (2 * kC > kLanes<T>) return nullptr;
    else return channels == kC ? gram_grad_interleaved<T, kC> : find_gram_grad_interleaved<T, kC + 1>(channels);
}

template <class T>
static Status gram_matrix_grad_input(const GramShape& s, double scale, Tensor grad_output, Tensor input, Tensor grad_input) {
    constexpr int64_t L = kLanes<T>, MT = GramTiles::rows<T>, kStrip = GramTiles::vectors * L;
    constexpr int64_t kElement = int64_t(sizeof(T)), kBlockBytes = int64_t(256) << 10, kWaveBytes = int64_t(4) << 20;
    GramGradCall<T> c{};
    c.shape = s, c.grad_output = grad_output, c.input = input, c.grad_input = grad_input;
    c.scale = T(scale);
    c.pixels = s.H * s.W, c.width = gram_width(s, input);
    if (s.N == 0 || s.C == 0 || c.pixels == 0) return Status::ok;
    c.channels_last = grad_input.stride_bytes[1] == kElement && grad_input.stride_bytes[3] != kElement;

    GramGradBlock<T> block_kernel = c.channels_last ? gram_grad_rows<T> : gram_grad_planes<T>;
    const GramGradBlock<T> interleaved = find_gram_grad_interleaved<T>(s.C);
    if (interleaved && c.channels_last && input.stride_bytes[1] == kElement && input.stride_bytes[3] == s.C * kElement)
        block_kernel = interleaved;

    const int64_t channels = round_up(s.C, L);
    c.square_row = c.channels_last ? L : channels + L, c.square_column = c.channels_last ? s.C * L : L;
    c.square = channels * (channels + L);
    const int64_t unit = c.channels_last ? MT : kStrip;
    c.block = unit * larger(1, smaller(ceil_div(c.pixels, unit), kBlockBytes / (unit * channels * kElement)));
    c.blocks = ceil_div(c.pixels, c.block);
    const int threads = threads_for(gram_work(s));
    const int64_t wave = smaller(s.N, larger(1, kWaveBytes / (c.square * kElement)));
    c.groups = block_kernel == interleaved ? 1 : gram_groups(wave * c.blocks, threads);

    const int64_t steps = c.channels_last ? s.C : 0, step_bytes = round_up(steps * int64_t(sizeof(DepthStep)), 64);
    const int64_t packed = round_up(((c.channels_last ? c.block : kStrip) + L) * channels, 64);
    const Scratch scratch(step_bytes + (wave * c.square + threads * packed) * kElement);
    if (!scratch.data()) return Status::out_of_memory;
    DepthStep* step = reinterpret_cast<DepthStep*>(scratch.data());
    T* squares = reinterpret_cast<T*>(scratch.data() + step_bytes);
    for (int64_t k = 0; k < steps; k++) step[k] = DepthStep{int32_t(k * L), int32_t(k / L * c.block * L + k % L)};

    parallel(threads, [&](Team team) {
        T* mine = squares + wave * c.square + team.id * packed;
        for (int64_t n0 = 0; n0 < s.N; n0 += wave) {
            const int64_t images = smaller(wave, s.N - n0), rows = images * (channels / L), items = images * c.blocks * c.groups;
            for (int64_t r = team.begin(rows); r < team.end(rows); r++)
                fill_gram_square<T>(c, n0 + r / (channels / L), r % (channels / L) * L, squares + r / (channels / L) * c.square);
            team.wait_for_all();
            for (int64_t item = team.begin(items); item < team.end(items); item++) {
                const int64_t image = item / (c.blocks * c.groups), block = item / c.groups % c.blocks, group = item % c.groups;
                const int64_t first = block * c.block, last = smaller(c.pixels, first + c.block);
                block_kernel(c, n0 + image, first, last, group, squares + image * c.square, mine, step);
            }
            if (n0 + images < s.N) team.wait_for_all();
        }
    });
    return Status::ok;
}

static Status gram_matrix_grad_input(const GramShape& s, int itemsize, double scale, Tensor grad_output, Tensor input,
                                     Tensor grad_input) {
    return itemsize == 4 ? gram_matrix_grad_input<float>(s, scale, grad_output, input, grad_input)
                         : gram_matrix_grad_input<double>(s, scale, grad_output, input, grad_input);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
