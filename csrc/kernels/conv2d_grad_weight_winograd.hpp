// Weight gradient of convolution by Winograd's minimal filtering: F(3x3, 4x4) for windows of 3x3, and likewise those of 2 and 4 taps
// along either axis or both, larger ones in parts, 5 taps as twice 3; with whole phases of a large dilation as tiles.
//
//   grad_weight[k][c] = A' [ sum over tiles of (G y G') .* (B' x B) ] A        y: 4x4 outputs' gradients, x: 6x6 inputs
//
// The same points as in the forward pass (conv2d_winograd.hpp), so B' x B is the forward's input transform to the letter, blocks,
// edge classes, dilation and the parts of a strided window included; y takes the place of the weights, the window that of the
// outputs. Per point, what remains is a matrix product over tiles:
//
//   D[point][K / lanes][tile][lane]   transformed gradients, 8 filters broadcast
//   V[point][part][C / lanes][tile][lane]   transformed input, 3 vectors of channels
//   M[point][k][c] += D * V           in memory over all blocks and images, A' M A at the end
//
// Filters are taken in chunks that bound M. Threads take whole groups where there are enough; else each point and each 8 filters
// belong to one thread, which adds up all blocks in order: the bits do not depend on the threads.
#pragma once

#include "conv2d_grad_weight.hpp"
#include "conv2d_winograd.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// Parts of five taps would have more than three times the error of a plain sum.
constexpr int64_t kMostTapsOfGradient = 4;
constexpr int64_t kProductBytes = int64_t(12) << 20;  // M of a chunk of filters
constexpr int64_t kDepthBytes = int64_t(2) << 20;     // V of a block

// One dimension of G y: R gradients to their N points, as R taps of a window would be.
template <class T, int N, int R>
FASTCV_INLINE void gradient_points(const Vec<T> (&y)[R], Vec<T>* points) {
    if constexpr (N == kWhole + 3) {
        const Vec<T> difference = splat(T(1 / kInner)) * (y[2] - y[0]), sum = splat(T(1 / kOuter)) * (y[0] + y[2]);
        points[1] = difference - y[1];
        points[2] = zero<T>() - difference - y[1];
        points[3] = y[1] + sum;
        points[4] = y[1] - sum;
        return;
    }
    if constexpr (N == kWhole + 2) {
        points[1] = y[0];
        points[2] = y[1];
        points[5] = y[0] + y[1];
        return;
    }
    if constexpr (N == kWhole + 1) {
        points[5] = y[0];
        return;
    }
    // Even and odd powers of a pair of opposite points are shared.
    FASTCV_UNROLL for (int pair = 0; pair < 2; pair++) {
        const int i = kPair[pair][0];
        if (!uses_point(N, i)) continue;
        Vec<T> even_part = splat(T(weight_coefficient(R, i, 0))) * y[0];
        Vec<T> odd_part = zero<T>();
        if constexpr (R > 1) odd_part = splat(T(weight_coefficient(R, i, 1))) * y[1];
        if constexpr (R > 2) even_part = fma(splat(T(weight_coefficient(R, i, 2))), y[2], even_part);
        if constexpr (R > 3) odd_part = fma(splat(T(weight_coefficient(R, i, 3))), y[3], odd_part);
        // The divisors of opposite points are equal: only odd powers change sign.
        points[i] = even_part + odd_part;
        points[i + 1] = even_part - odd_part;
    }
    points[0] = splat(T(weight_coefficient(R, 0, 0))) * y[0];
    points[5] = y[R - 1];
}

// Tiles of R x Q gradients, to NR x NQ points.
template <class T, int NR, int R, int NQ, int Q>
FASTCV_NOINLINE void gradient_tiles(const T* z, const TilePlace* tiles, int64_t count, int64_t row, int64_t column, T* d,
                                    const int64_t* offset) {
    for (int64_t t = 0; t < count; t++, d += kLanes<T>) {
        const T* tile = z + tiles[t].output;
        Vec<T> half[kPoints][Q];
        FASTCV_UNROLL for (int j = 0; j < Q; j++) {
            Vec<T> y[R], points[kPoints];
            FASTCV_UNROLL for (int i = 0; i < R; i++) y[i] = load(tile + i * row + j * column);
            gradient_points<T, NR, R>(y, points);
            FASTCV_UNROLL for (int i = 0; i < kPoints; i++)
                if (uses_point(NR, i)) half[i][j] = points[i];
        }
        FASTCV_UNROLL for (int i = 0; i < kPoints; i++) {
            if (!uses_point(NR, i)) continue;
            Vec<T> points[kPoints];
            gradient_points<T, NQ, Q>(half[i], points);
            FASTCV_UNROLL for (int j = 0; j < kPoints; j++)
                if (uses_point(NQ, j)) store(d + offset[i * kPoints + j], points[j]);
        }
    }
}
template <class T>
using GradientTiles = void (*)(const T*, const TilePlace*, int64_t, int64_t, int64_t, T*, const int64_t*);
template <class T, int TR, int R, int TQ, int Q = largest_tile(TQ)>
static GradientTiles<T> find_gradient_tiles_of_row(int64_t q) {
    if constexpr (Q > 1)
        if (q < Q) return find_gradient_tiles_of_row<T, TR, R, TQ, Q - 1>(q);
    return gradient_tiles<T, R + TR - 1, R, Q + TQ - 1, Q>;
}
template <class T, int TR, int TQ, int R = largest_tile(TR)>
static GradientTiles<T> find_gradient_tiles_of_window(int64_t r, int64_t q) {
    if constexpr (R > 1)
        if (r < R) return find_gradient_tiles_of_window<T, TR, TQ, R - 1>(r, q);
    return find_gradient_tiles_of_row<T, TR, R, TQ>(q);
}
template <class T, int Taps>
static GradientTiles<T> find_gradient_tiles(int64_t taps_y, int64_t r, int64_t taps_x, int64_t q) {
    return taps_y == 1   ? find_gradient_tiles_of_window<T, 1, Taps>(r, q)
           : taps_x == 1 ? find_gradient_tiles_of_window<T, Taps, 1>(r, q)
                         : find_gradient_tiles_of_window<T, Taps, Taps>(r, q);
}
template <class T>
static GradientTiles<T> find_gradient_phases(int64_t r, int64_t q) {
    return r == 3   ? gradient_tiles<T, kWhole + 3, 3, kWhole + 3, 3>
           : r == 2 ? (q == 2 ? gradient_tiles<T, kWhole + 2, 2, kWhole + 2, 2> : gradient_tiles<T, kWhole + 2, 2, kWhole + 1, 1>)
                    : (q == 2 ? gradient_tiles<T, kWhole + 1, 1, kWhole + 2, 2> : gradient_tiles<T, kWhole + 1, 1, kWhole + 1, 1>);
}
template <class T>
static GradientTiles<T> find_gradient_tiles(int64_t taps_y, int64_t r, int64_t taps_x, int64_t q) {
    const int64_t taps = larger(taps_y, taps_x);
    return taps == 4   ? find_gradient_tiles<T, 4>(taps_y, r, taps_x, q)
           : taps == 3 ? find_gradient_tiles<T, 3>(taps_y, r, taps_x, q)
                       : find_gradient_tiles<T, 2>(taps_y, r, taps_x, q);
}

// M[i][...] (+)= sum over tiles of d[tile][i] * v[tile][...]: 8 (or 4) filters x NV vectors of channels, `block` elements apart.
constexpr int kGradientRows = kManyRegisters ? 8 : 4;
template <class T, int NV>
FASTCV_NOINLINE void tile_product(int64_t tiles, const T* d, const T* v, int64_t block, T* m, int64_t m_row, bool first) {
    constexpr int L = kLanes<T>, MT = kGradientRows < L ? kGradientRows : L;
    Vec<T> acc[MT][NV];
    clear_tile<T, MT, NV>(acc);
    for (int64_t t = 0; t < tiles; t++) {
        Vec<T> channels[NV];
        FASTCV_UNROLL for (int j = 0; j < NV; j++) {
            channels[j] = load(v + j * block);
            keep(channels[j]);
        }
        FASTCV_UNROLL for (int i = 0; i < MT; i++) multiply_add<T>(acc, i, d[i], channels);
        d += L;
        v += L;
    }
    FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++) {
        T* to = m + i * m_row + j * L;
        store(to, first ? acc[i][j] : load(to) + acc[i][j]);
    }
}

// Rows of one block of filters' gradients in channel lanes, zeros outside, then D.
template <class T>
static void transform_gradient(const WinogradCall<T>& c, const TileBlock& b, int64_t image, int64_t g, int64_t filter,
                               int64_t d_block, T* z, T* d, int* not_finite) {
    constexpr int64_t L = kLanes<T>;
    const Conv2dShape& s = c.shape;
    const int64_t filters = s.K / s.G, phases = b.rows.phases(), first_column = b.columns.first_span * c.x.span();
    // Tiles that are whole phases are read as a whole, with zeros behind the last row and column.
    const int64_t shown = smaller(s.Q, b.columns.last_span * c.x.span()) - first_column;
    const int64_t columns = c.x.whole ? c.x.span() : shown;
    const char* planes = c.output.data + (b.first_image + image) * c.output.stride_bytes[0] + (g * filters + filter) * c.output.stride_bytes[1];
    for (int64_t i = 0; i < b.rows.spans() * c.y.tile; i++)
        for (int64_t p = 0; p < phases; p++) {
            const int64_t row = (b.rows.first_span * c.y.tile + i) * c.y.dilation + b.rows.first_phase + p;
            T* to = z + (i * phases + p) * c.z_pitch * L;
            if (row >= s.P) {
                for (int64_t e = 0; c.y.whole && e < columns; e++) store(to + e * L, zero<T>());
                continue;
            }
            load_channel_lanes(to, columns, planes + row * c.output.stride_bytes[2] + first_column * c.output.stride_bytes[3],
                               c.output.stride_bytes[1], c.output.stride_bytes[3], smaller(L, filters - filter), 0, shown);
            if (!all_finite(to, columns)) raise_flag(not_finite);
        }
    for (int i = 0; i < b.n_classes; i++) {
        const TileClass& cls = b.classes[i];
        int64_t offset[kPoints * kPoints];
        for (int point = 0; point < kPoints * kPoints; point++)
            offset[point] = cls.v_offset[point] + c.layout.place_of_point(point) * (d_block - c.v_point) + image * b.tiles_of_point[point] * L;
        const auto transform = c.y.whole ? find_gradient_phases<T>(cls.r, cls.q) : find_gradient_tiles<T>(c.y.taps, cls.r, c.x.taps, cls.q);
        transform(z, b.places + cls.first, cls.count, phases * c.z_pitch * L, c.x.dilation * L, d, offset);
    }
}

// One dimension of A' m: the taps' gradients from their N points.
template <class T, int N, int Taps>
FASTCV_INLINE void tap_gradients(const Vec<T> (&m)[kPoints], Vec<T>* taps) {
    if constexpr (N == kWhole + 3) {
        const Vec<T> inner = m[1] + m[2], outer = m[3] + m[4], quarter = splat(T(0.25));
        taps[0] = quarter * (outer + inner);
        taps[1] = fma(splat(T(kInner / 4)), m[1] - m[2], splat(T(kOuter / 4)) * (m[3] - m[4]));
        taps[2] = quarter * (outer - inner);
    } else if constexpr (N == kWhole + 2) {
        taps[0] = m[2];
        taps[1] = m[5] - (m[1] + m[2]);
        taps[2] = m[1];
    } else {
        output_points<T, N, Taps>(m, taps);
    }
}

constexpr int points_of_taps(int taps) { return largest_tile(taps) + taps - 1; }

// grad_weight of one filter, one vector of channels and one part of the window, TR x TQ, from its NR x NQ points.
template <class T, int TR, int TQ, int NR = points_of_taps(TR), int NQ = points_of_taps(TQ)>
static void finish_gradient(const WinogradCall<T>& c, const T* m, int64_t m_point, const Tensor& grad_weight, int64_t k, int64_t channel,
                            int64_t channels, int64_t part) {
    constexpr int64_t L = kLanes<T>;
    const WindowAxis &y = c.layout.window.y, &x = c.layout.window.x;
    Vec<T> half[TR][kPoints];
    FASTCV_UNROLL for (int j = 0; j < kPoints; j++) {
        if (!uses_point(NQ, j)) continue;
        Vec<T> points[kPoints], taps[TR];
        FASTCV_UNROLL for (int i = 0; i < kPoints; i++)
            if (uses_point(NR, i)) points[i] = load(m + (rank_of_point(NR, i) * count_points(NQ) + rank_of_point(NQ, j)) * m_point);
        tap_gradients<T, NR, TR>(points, taps);
        FASTCV_UNROLL for (int i = 0; i < TR; i++) half[i][j] = taps[i];
    }
    const int64_t* stride = grad_weight.stride_bytes;
    FASTCV_UNROLL for (int i = 0; i < TR; i++) {
        Vec<T> taps[TQ];
        tap_gradients<T, NQ, TQ>(half[i], taps);
        const int64_t row = y.tap(part / x.parts, i);
        for (int j = 0; j < TQ; j++) {
            const int64_t column = x.tap(part % x.parts, j);
            if (row >= c.shape.R || column >= c.shape.S) continue;
            T lanes[L];
            store(lanes, taps[j]);
            char* to = grad_weight.data + k * stride[0] + channel * stride[1] + row * stride[2] + column * stride[3];
            for (int64_t lane = 0; lane < channels; lane++) store_scalar(to + lane * stride[1], lanes[lane]);
        }
    }
}
template <class T>
using FinishGradient = void (*)(const WinogradCall<T>&, const T*, int64_t, const Tensor&, int64_t, int64_t, int64_t, int64_t);
template <class T, int Taps>
static FinishGradient<T> find_finish_gradient(int64_t taps_y, int64_t taps_x) {
    return taps_y == 1 ? finish_gradient<T, 1, Taps> : taps_x == 1 ? finish_gradient<T, Taps, 1> : finish_gradient<T, Taps, Taps>;
}
template <class T>
static FinishGradient<T> find_finish_gradient(const TileAxis& y, const TileAxis& x) {
    if (y.whole)
        return y.tile == 3 ? finish_gradient<T, 3, 3, kWhole + 3, kWhole + 3> : finish_gradient<T, 3, 3, kWhole + 2, kWhole + 2>;
    const int64_t taps = larger(y.taps, x.taps);
    return taps == 4   ? find_finish_gradient<T, 4>(y.taps, x.taps)
           : taps == 3 ? find_finish_gradient<T, 3>(y.taps, x.taps)
                       : find_finish_gradient<T, 2>(y.taps, x.taps);
}

template <class T>
static Status grad_weight_winograd(const Conv2dShape& s, int tile, Tensor grad_output, Tensor input, Tensor grad_weight) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    constexpr int64_t rows = kGradientRows < L ? kGradientRows : L;
    WinogradCall<T> c(s, Interleave(s), tile, kMostTapsOfGradient);
    c.input = input;
    c.output = grad_output;
    // Larger blocks than the forward pass: they are the depth of the products, and all threads work on one.
    const int64_t tile_bytes = c.layout.points * c.layout.channels * size;
    cut_into_tile_blocks(c, 1, larger(4 * kTilesOfProduct, smaller(512, kDepthBytes / tile_bytes)));
    const int threads = threads_for(2 * multiply_adds(s));
    const int64_t input_blocks = c.layout.part_channels / L, channel_blocks = c.layout.channels / L, points = c.layout.points;
    const int64_t filters = round_up(s.K / s.G, L), m_row = c.layout.channels;
    const int64_t chunk = smaller(filters, larger(L, kProductBytes / (points * m_row * size) / L * L));
    const int64_t m_point = chunk * m_row + 5 * L;
    const int64_t d_block_of_filters = c.max_tiles * L;
    int64_t d_point = d_block_of_filters * (chunk / L);
    if (d_point * size % 512 == 0) d_point += 5 * L;

    const int64_t v_bytes = round_up(c.v_elements * size, 64), d_bytes = round_up(points * d_point * size, 64);
    const int64_t m_bytes = round_up(points * m_point * size, 64);
    const int64_t place_bytes = round_up(c.max_tiles * int64_t(sizeof(TilePlace)), 64);
    const int64_t shared_bytes = v_bytes + d_bytes + m_bytes;
    const int64_t own_bytes = round_up((c.x_elements + c.z_elements) * size, 64) + place_bytes;
    const bool groups_apart = s.G >= 4 * threads || s.G % threads == 0;
    const int64_t shared_areas = groups_apart ? threads : 1;
    Scratch scratch(shared_areas * shared_bytes + threads * own_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    char* own_area = scratch.data() + shared_areas * shared_bytes;

    const FinishGradient<T> finish = find_finish_gradient<T>(c.y, c.x);
    int not_finite = 0;
    parallel(threads, [&](Team team) {
        T* x = reinterpret_cast<T*>(own_area + team.id * own_bytes);
        T* z = x + c.x_elements;
        TileBlock b;
        int64_t tiles_at[kPoints * kPoints];
        b.places = reinterpret_cast<TilePlace*>(own_area + (team.id + 1) * own_bytes - place_bytes);
        char* area = scratch.data() + (groups_apart ? team.id : 0) * shared_bytes;
        T* v = reinterpret_cast<T*>(area);
        T* d = reinterpret_cast<T*>(area + v_bytes);
        T* m = reinterpret_cast<T*>(area + v_bytes + d_bytes);
        const Team share = groups_apart ? Team{0, 1} : team;
        for (int64_t g = groups_apart ? team.begin(s.G) : 0; g < (groups_apart ? team.end(s.G) : s.G); g++)
            for (int64_t k0 = 0; k0 < s.K / s.G; k0 += chunk) {
                const int64_t count = smaller(chunk, round_up(s.K / s.G - k0, L)), row_tiles = count / rows;
                bool first = true;
                for (int64_t batch = 0; batch < c.batches(); batch++)
                    for (int64_t block = 0; block < c.blocks(); block++, first = false) {
                        list_tiles(c, batch, block, b);
                        for (int i = 0; i < kPoints * kPoints; i++)
                            if (c.layout.uses(i)) tiles_at[c.layout.place_of_point(i)] = b.images * b.tiles_of_point[i];
                        const int64_t jobs = input_blocks + count / L;
                        for (int64_t job = share.begin(jobs); job < share.end(jobs); job++) {
                            for (int64_t image = 0; image < b.images; image++)
                                if (job < input_blocks)
                                    transform_input(c, b, image, g, job, x, v, &not_finite);
                                else
                                    transform_gradient(c, b, image, g, k0 + (job - input_blocks) * L, d_point, z,
                                                       d + (job - input_blocks) * d_block_of_filters, &not_finite);
                        }
                        share.wait_for_all();
                        const int64_t products = points * row_tiles;
                        for (int64_t item = share.begin(products); item < share.end(products); item++) {
                            const int64_t point = item / row_tiles, k = item % row_tiles * rows;
                            const int64_t tiles = tiles_at[point];
                            const T* from = d + point * d_point + k / L * d_block_of_filters + k % L;
                            for (int64_t cb = 0, wide; cb < channel_blocks; cb += wide) {
                                const int64_t left = channel_blocks - cb;
                                wide = left == 4 ? 2 : smaller(3, left);
                                const T* channels = v + point * c.v_point + cb * c.v_block;
                                T* to = m + point * m_point + k * m_row + cb * L;
                                (wide == 3 ? tile_product<T, 3> : wide == 2 ? tile_product<T, 2> : tile_product<T, 1>)(
                                    tiles, from, channels, c.v_block, to, m_row, first);
                            }
                        }
                        share.wait_for_all();
                    }
                const int64_t used = smaller(count, s.K / s.G - k0);
                for (int64_t k = share.begin(used); k < share.end(used); k++)
                    for (int64_t cb = 0; cb < channel_blocks; cb++) {
                        const int64_t part = cb / input_blocks, channel = cb % input_blocks * L;
                        finish(c, m + k * m_row + cb * L, m_point, grad_weight, g * (s.K / s.G) + k0 + k, channel,
                               smaller(L, s.C / s.G - channel), part);
                    }
            }
    });
    // A transform spreads NaN and infinity over taps that never met them: all over again, tap by tap.
    return not_finite ? grad_weight_direct<T>(s, grad_output, input, grad_weight) : Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
