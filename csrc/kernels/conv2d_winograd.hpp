// Convolution by Winograd's minimal filtering, fused from input to output: windows of 2 to 5 taps along either axis or both,
// and larger ones in parts.
//
//   Y = A' [ sum over c of (G w G') .* (B' x B) ] A        for tiles of 4x4 (3x3, 2x2) outputs under a 3x3 window
//
// F(4x4, 3x3) needs 36 multiplications where a direct sum needs 144. With six points, the most whose rounding errors are small, a
// tile of r outputs under t taps has r + t - 1 <= 6: F(3x3, 4x4) does 36 for 144 as well, F(2x2, 5x5) 36 for 100, F(4x4, 2x2) 25 for
// 64, and along one axis F(4, 3), F(3, 4) and F(2, 5) do 6 for 12, 12 and 10. Lanes are channels everywhere:
//
//   input rows -> X[row][column][lane]             squares of pixels x channels are transposed, padding included
//              -> V[point][C / lanes][tile][lane]  input transform B' x B
//   V * U      -> M[point][panel][tile][2 * lanes] per point a matrix product over C (tiles.h), U = G w G' packed
//              -> Z[row][column][lane]             output transform, bias, activation
//              -> output                           transposed back (not for channels-last)
//
// Points 0, +-5/8, +-3/2 and infinity: their transforms lose less than half of the accuracy that 0, +-1, +-2 lose. U is computed
// in float64 where it is packed once, in the arrays' type for a single call: ahead for all panels, or, where one image has few
// tiles, panel by panel in the second-level cache just before the products, which writes no U to memory.
//
// Edge tiles. A tile that needs only r < 4 outputs in a dimension uses a subset of the points (three taps, r = 1: +-5/8, inf; 2: and
// 0; 3: and 3/2), with the scale between the two sets of polynomials folded into B'. So the same U serves all tiles, each point has
// its own number of tiles, and a plane of 14 = 3 * 4 + 2 rows costs what it needs. Tiles are sorted by class, full ones first.
// Taking 3 or 2 as the largest tile is F(3x3) and F(2x2): U shrinks from 36 to 25 or 16 points, which pays where reading U is
// what takes the time (512 channels on 7x7).
//
// Parts. A window of 7 taps is two of 4, the last of them zero, whose products add up in M as more channels do. A window with stride s
// is s windows of every s-th tap, each over the pixels that are equal modulo s: a 5x5 one with stride 2 is four of 3x3, 36 * 4
// multiplications for 400. All parts of a block read the one X.
//
// Interleaved outputs. A transposed convolution with a stride is one convolution for each phase of its outputs, all over the same
// input (conv_transpose2d_winograd.hpp). Its filters are vectors of one phase, and a tile's outputs go to Z at the phases' distance.
//
// Dilation d. Output pixels equal modulo d form d * d independent undilated convolutions. Their tiles stand side by side in
// one block: the transforms read X at a pixel stride of d and write Z likewise, so nothing is copied apart and no channel of
// the products knows of it. A "span" is the 4 * d outputs that the tiles of all phases cover in one dimension.
//
// Whole phases. Where the dilation is so large that a phase has three outputs or two, the zeros around them are known, and it takes
// four or three multiplications (conv2d_winograd_transforms.hpp): for 512 to 256 channels on 33 x 33, 6.0 ms for 8.6 at rate 12
// and 5.7 for the 9.6 of the taps that see the image at rate 18, on one core.
//
// NaN and infinity. A transform would spread one such value over a whole tile. Samples that hold any are found while X is loaded,
// and done again tap by tap; so are all samples if the weights hold any.
//
// Images of few tiles share a block: their tiles follow one another in V and M, so that U is read once for all of them.
//
// Threads take blocks; where there are too few, or U is large, or with dilation, all work on one: first on V, then each on its own panels
// of filters. Layers of few filters have no panels to divide: their few tiles are cut into blocks of a quarter of a product's tiles and more (32 channels and
// filters at 16 x 16 on two threads: 15 us for 24).
//
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. Points: Barabasz et al., ACM TOMS 46 (2020).
#pragma once

#include "../channel_lanes.h"
#include "../epilogue.h"
#include "../geometry.h"
#include "../memory.h"
#include "../parallel.h"
#include "../tiles.h"
#include "conv2d_strip.hpp"
#include "conv2d_winograd_weights.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int64_t kWeightBytes = 512 * 1024;  // that stay in a second-level cache, or the room that others need beside V
constexpr int64_t kFreshChannels = 64;        // weights transformed at a time within a call: 288 KiB of a panel

// ---- the products

// m (+)= v * u over `blocks` vectors of channels.
template <class T, int MT, int NV>
FASTCV_NOINLINE void point_product(int64_t blocks, const T* v, int64_t v_block, const T* u, T* m, bool first) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MT][NV];
    if (first)
        clear_tile<T, MT, NV>(acc);
    else
        FASTCV_UNROLL for (int i = 0; i < MT; i++)
            FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = load(m + (i * NV + j) * L);
    panel_product<T, MT, NV>(acc, blocks, v, v_block, u);
    FASTCV_UNROLL for (int i = 0; i < MT; i++)
        FASTCV_UNROLL for (int j = 0; j < NV; j++) store(m + (i * NV + j) * L, acc[i][j]);
}
template <class T>
using PointProduct = void (*)(int64_t, const T*, int64_t, const T*, T*, bool);
constexpr int kTilesOfProduct = kManyRegisters ? 14 : 6;
template <class T, int NV, int MT = 1>
static PointProduct<T> find_point_product(int64_t tiles) {
    if constexpr (MT < kTilesOfProduct) {
        if (tiles > MT) return find_point_product<T, NV, MT + 1>(tiles);
    }
    return point_product<T, MT, NV>;
}

// ---- blocks of tiles

// One dimension cut into spans (the tiles of all phases side by side) and, where a span is too much, into phases.
struct SpanRange {
    int64_t first_span, last_span, first_phase, last_phase;
    int64_t spans() const { return last_span - first_span; }
    int64_t phases() const { return last_phase - first_phase; }
};

struct TileAxis {
    int64_t output, dilation, pad, tile, taps;
    bool whole;  // tiles are whole phases, between zeros that nobody reads

    int64_t span() const { return tile * dilation; }
    int64_t spans() const { return ceil_div(output, span()); }
    // Outputs of the tile of this phase in this span: 0 .. tile.
    int64_t outputs(int64_t span_index, int64_t phase) const {
        if (whole && tile == 3) return tile;
        const int64_t left = output - span_index * span() - phase;
        return left <= 0 ? 0 : smaller(tile, dilation == 1 ? left : ceil_div(left, dilation));
    }
    // Every span but the last is full: all phases have a tile of `tile` outputs.
    int64_t full_spans() const { return output / span(); }
    int64_t tiles() const { return full_spans() * dilation + smaller(dilation, output % span()); }
    // The set of points of a tile. Where there are phases of three pixels, those of two count as three.
    int64_t points_of(int64_t outputs) const { return whole ? kWhole + (tile == 3 ? tile : outputs) : outputs + taps - 1; }
    // Sum over the tiles of their points: what the products cost in this dimension.
    int64_t points() const {
        const int64_t left = output % span(), full = left / dilation, rest = left % dilation;
        const auto count = [this](int64_t outputs) { return int64_t(count_points(points_of(outputs))); };
        return full_spans() * dilation * count(tile) + rest * count(full + 1) + (full ? (dilation - rest) * count(full) : 0);
    }
};

static inline TileAxis tile_axis(const Axis& a, int tile, const WindowAxis& w) {
    if (tile > kWholePhases) return {a.output, a.dilation, 0, tile - kWholePhases, w.taps, true};
    return {a.output, a.dilation, a.pad, w.all == 1 ? 1 : tile, w.taps, false};
}

// Tiles of one class: r x q outputs. Sorted within a block, full tiles first.
struct TileClass {
    int64_t r, q, first, count;
    int64_t v_offset[kPoints * kPoints];  // of the class's first tile, by point
    int64_t m_offset[kPoints * kPoints];
};

template <class T>
struct WinogradCall {
    Conv2dShape shape;
    Interleave interleave;
    Tensor input, output;
    WinogradWeights<T> layout;
    TileAxis y, x;
    const T* packed;
    const T* bias;  // [group][panels * 2 * lanes]
    Activation activation;
    T slope;
    // Cutting: blocks of rows (spans, or phases of a span) x blocks of columns (spans).
    int64_t row_blocks, phase_blocks, column_blocks;
    int64_t images_together;  // in a block; more than one only where a block is a whole image
    // Strides and sizes, for the largest block.
    int64_t x_pitch, z_pitch, max_tiles, panels_together;
    int64_t v_point, v_block, m_point;
    int64_t x_elements, v_elements, m_elements, z_elements;

    WinogradCall(const Conv2dShape& s, const Interleave& i, int t, int64_t most_taps = kMostTapsOfPart)
        : shape(s),
          interleave(i),
          layout(s, t, most_taps),
          y(tile_axis(vertical(s), t, layout.window.y)),
          x(tile_axis(horizontal(s), t, layout.window.x)) {}

    SpanRange row_range(int64_t block) const {
        if (phase_blocks == 1) return {y.spans() * block / row_blocks, y.spans() * (block + 1) / row_blocks, 0, y.dilation};
        const int64_t span = block / phase_blocks, part = block % phase_blocks;
        return {span, span + 1, y.dilation * part / phase_blocks, y.dilation * (part + 1) / phase_blocks};
    }
    SpanRange column_range(int64_t block) const {
        return {x.spans() * block / column_blocks, x.spans() * (block + 1) / column_blocks, 0, x.dilation};
    }
    int64_t blocks() const { return row_blocks * phase_blocks * column_blocks; }
    int64_t weight_bytes() const { return layout.elements(shape) * int64_t(sizeof(T)); }  // of all groups
    int64_t batches() const { return ceil_div(shape.N, images_together); }
};

// The tiles of a block, listed and sorted as they are in each of its images; scratch that each thread has.
struct TileBlock {
    int64_t first_image, images;
    SpanRange rows, columns;
    TileClass classes[16];
    int n_classes;
    int64_t tiles_of_point[kPoints * kPoints];
    TilePlace* places;
};

template <class T>
static void list_tiles(const WinogradCall<T>& c, int64_t batch, int64_t block, TileBlock& b) {
    constexpr int64_t L = kLanes<T>;
    b.first_image = batch * c.images_together;
    b.images = smaller(c.images_together, c.shape.N - b.first_image);
    b.rows = c.row_range(block / c.column_blocks);
    b.columns = c.column_range(block % c.column_blocks);
    const int64_t phases = b.rows.phases();
    int64_t n = 0;
    b.n_classes = 0;
    for (int64_t point = 0; point < kPoints * kPoints; point++) b.tiles_of_point[point] = 0;
    for (int64_t r = c.y.tile; r >= 1; r--)
        for (int64_t q = c.x.tile; q >= 1; q--) {
            TileClass& cls = b.classes[b.n_classes];
            cls.r = r;
            cls.q = q;
            cls.first = n;
            for (int64_t span = b.rows.first_span; span < b.rows.last_span; span++)
                for (int64_t p = b.rows.first_phase; p < b.rows.last_phase; p++) {
                    if (c.y.outputs(span, p) != r) continue;
                    const int64_t row = (span - b.rows.first_span) * c.y.tile * phases + p - b.rows.first_phase;
                    for (int64_t column_span = b.columns.first_span; column_span < b.columns.last_span; column_span++) {
                        const int64_t left = c.x.output - column_span * c.x.span();
                        for (int64_t px = 0; px < smaller(c.x.dilation, left); px++) {
                            if (c.x.outputs(column_span, px) != q) continue;
                            const int64_t column = (column_span - b.columns.first_span) * c.x.span() + px;
                            b.places[n++] = {(row * c.shape.stride_h * c.x_pitch + column * c.shape.stride_w) * L,
                                             (row * c.z_pitch + column * c.interleave.stride_w) * L};
                        }
                    }
                }
            cls.count = n - cls.first;
            if (cls.count == 0) continue;
            b.n_classes++;
            for (int i = 0; i < kPoints; i++)
                for (int j = 0; j < kPoints; j++) {
                    const int point = i * kPoints + j;
                    const int64_t at = rank_of_point(c.layout.points_y, i) * c.layout.count_x + rank_of_point(c.layout.points_x, j);
                    cls.v_offset[point] = at * c.v_point + b.tiles_of_point[point] * L;
                    cls.m_offset[point] = at * c.m_point;  // plus tiles before it times the panel's width
                    if (uses_point(c.y.points_of(r), i) && uses_point(c.x.points_of(q), j)) b.tiles_of_point[point] += cls.count;
                }
        }
}

// How the input of a block's outputs lies in X: how many rows (or columns) it takes, how far the pixels of a tile are apart, and the
// pixels that neighbouring taps of the window meet. `phases` of the dilation lie side by side; a stride excludes dilation.
struct InputAxis {
    int64_t size, step, tap_step;

    InputAxis(const TileAxis& a, const WindowAxis& w, int64_t stride, int64_t outputs, int64_t phases)
        : size(a.whole      ? outputs * phases
               : stride > 1 ? (outputs + w.taps - 1) * stride
                            : (outputs + w.parts * w.taps - 1) * phases),
          step(stride > 1 ? stride : phases),
          tap_step(stride > 1 ? 1 : phases) {}
};

// Input of one block's image and one block of channels: X, then V.
template <class T>
static void transform_input(const WinogradCall<T>& c, const TileBlock& b, int64_t image, int64_t g, int64_t channel_block, T* x, T* v,
                            int* not_finite) {
    constexpr int64_t L = kLanes<T>;
    const Conv2dShape& s = c.shape;
    const int64_t n = b.first_image + image;
    const WindowAxis &wy = c.layout.window.y, &wx = c.layout.window.x;
    const int64_t channels = s.C / s.G, first_channel = channel_block * L;
    const char* planes = c.input.data + n * c.input.stride_bytes[0] + (g * channels + first_channel) * c.input.stride_bytes[1];
    const int64_t phases = b.rows.phases();
    const InputAxis rows(c.y, wy, s.stride_h, b.rows.spans() * c.y.tile, phases);
    const InputAxis columns(c.x, wx, s.stride_w, b.columns.spans() * c.x.tile, c.x.dilation);
    const int64_t first_row = b.rows.first_span * c.y.tile * s.stride_h;
    const int64_t first_column = b.columns.first_span * c.x.span() * s.stride_w - c.x.pad;
    for (int64_t i = 0; i < rows.size; i++) {
        const int64_t row = (first_row + i / phases) * c.y.dilation + b.rows.first_phase + i % phases - c.y.pad;
        T* to = x + i * c.x_pitch * L;
        if (row < 0 || row >= s.H) {
            for (int64_t e = 0; e < columns.size; e++) store(to + e * L, zero<T>());
            continue;
        }
        load_channel_lanes(to, columns.size, planes + row * c.input.stride_bytes[2], c.input.stride_bytes[1], c.input.stride_bytes[3],
                           smaller(L, channels - first_channel), first_column, s.W);
        if (!all_finite(to, columns.size)) raise_flag(not_finite);
    }
    const int64_t channel_blocks = c.layout.part_channels / L;
    for (int i = 0; i < b.n_classes; i++) {
        const TileClass& cls = b.classes[i];
        int64_t offset[kPoints * kPoints];
        for (int point = 0; point < kPoints * kPoints; point++)
            offset[point] = cls.v_offset[point] + image * b.tiles_of_point[point] * L;
        const auto transform = find_input_tiles<T>(c.y.points_of(cls.r), c.x.points_of(cls.q));
        for (int64_t part = 0; part < c.layout.window.parts(); part++) {
            const int64_t row = wy.first(part / wx.parts) * rows.tap_step, column = wx.first(part % wx.parts) * columns.tap_step;
            transform(x + (row * c.x_pitch + column) * L, b.places + cls.first, cls.count, rows.step * c.x_pitch * L, columns.step * L,
                      v + (part * channel_blocks + channel_block) * c.v_block, offset);
        }
    }
}

// Transformed weights of some panels, over some blocks of channels.
template <class T>
struct PanelWeights {
    const T* u;
    int64_t panel_stride, rows;      // of filters, for each point
    int64_t first_block, blocks;     // of V: where they begin
};

// Products of one block for panels [first, last).
template <class T>
static void multiply_panels(const WinogradCall<T>& c, const TileBlock& b, const PanelWeights<T>& weights, int64_t first, int64_t last,
                            const T* v, T* m) {
    constexpr int64_t L = kLanes<T>;
    const int64_t filters = c.shape.K / c.shape.G, points_y = c.layout.points_y, points_x = c.layout.points_x;
    for (int i = 0; i < kPoints; i++)
        for (int j = 0; j < kPoints; j++) {
            if (!uses_point(points_y, i) || !uses_point(points_x, j)) continue;
            const int64_t at = rank_of_point(points_y, i) * c.layout.count_x + rank_of_point(points_x, j);
            const int64_t tiles = b.images * b.tiles_of_point[i * kPoints + j], pieces = ceil_div(tiles, kTilesOfProduct);
            const T* rows = v + at * c.v_point + weights.first_block * c.v_block;
            for (int64_t panel = first; panel < last; panel++) {
                const int64_t vectors = filters - panel * 2 * L > L ? 2 : 1;
                const T* u = weights.u + (panel - first) * weights.panel_stride + at * weights.rows * vectors * L;
                T* to = m + at * c.m_point + (panel - first) * c.max_tiles * 2 * L;
                for (int64_t piece = 0; piece < pieces; piece++) {
                    const int64_t t0 = tiles * piece / pieces, t1 = tiles * (piece + 1) / pieces;
                    (vectors == 2 ? find_point_product<T, 2>(t1 - t0) : find_point_product<T, 1>(t1 - t0))(
                        weights.blocks, rows + t0 * L, c.v_block, u, to + t0 * vectors * L, weights.first_block == 0);
                }
            }
        }
}

// The same for one panel whose weights are transformed on the way, some channels at a time, in the second-level cache.
template <class T>
static void multiply_fresh_panel(const WinogradCall<T>& c, const TileBlock& b, WeightTransform<T, T>& transform, int64_t g, int64_t panel,
                                 const T* v, T* u, T* m) {
    constexpr int64_t L = kLanes<T>;
    const int64_t width = c.shape.K / c.shape.G - panel * 2 * L > L ? 2 * L : L;
    for (int64_t first = 0; first < c.layout.channels; first += kFreshChannels) {
        // One row more than there are channels, so that points do not compete for the same cache sets.
        const int64_t channels = smaller(kFreshChannels, c.layout.channels - first), rows = channels + 1;
        for (int64_t i = 0; i < channels; i++) transform.run(g, panel, first + i, u + i * width, rows * width, 0);
        multiply_panels(c, b, {u, 0, rows, first / L, channels / L}, panel, panel + 1, v, m);
    }
}

template <class T>
static void transform_output(const WinogradCall<T>& c, const TileBlock& b, int64_t image, int64_t g, int64_t first, int64_t last,
                             const T* m, T* z) {
    constexpr int64_t L = kLanes<T>;
    const Conv2dShape& s = c.shape;
    const Interleave& out = c.interleave;
    const int64_t filters = s.K / s.G, phases = b.rows.phases();
    const int64_t first_column = b.columns.first_span * c.x.span();
    const int64_t columns = smaller(s.Q, b.columns.last_span * c.x.span()) - first_column;
    // Columns of the output, those before its first one left out.
    const int64_t left = first_column * out.stride_w - out.origin_x, hidden = larger(0, -left);
    const int64_t shown = smaller(columns * out.stride_w, out.columns - left) - hidden;
    for (int64_t k = first * 2 * L; k < smaller(filters, last * 2 * L); k += L) {
        const int64_t panel = k / (2 * L), vectors = filters - panel * 2 * L > L ? 2 : 1;
        const int64_t phase = k / L % out.phases(), phase_x = phase % out.stride_w, filter = k / L / out.phases() * L;
        const TileEpilogue<T> epilogue{load(c.bias + g * c.layout.panels * 2 * L + k), c.activation, c.slope};
        const T* from = m + (panel - first) * c.max_tiles * 2 * L + k % (2 * L);
        int64_t tiles_before[kPoints * kPoints];
        for (int point = 0; point < kPoints * kPoints; point++) tiles_before[point] = image * b.tiles_of_point[point];
        for (int i = 0; i < b.n_classes; i++) {
            const TileClass& cls = b.classes[i];
            int64_t offset[kPoints * kPoints];
            for (int point = 0; point < kPoints * kPoints; point++) {
                offset[point] = cls.m_offset[point] + tiles_before[point] * vectors * L;
                if (uses_point(c.y.points_of(cls.r), point / kPoints) && uses_point(c.x.points_of(cls.q), point % kPoints))
                    tiles_before[point] += cls.count;
            }
            const auto transform =
                c.y.whole ? find_output_phases<T>(cls.r, cls.q) : find_output_tiles<T>(c.y.taps, cls.r, c.x.taps, cls.q);
            transform(from, vectors * L, offset, z + phase_x * L, b.places + cls.first, cls.count, phases * c.z_pitch * L,
                      c.x.dilation * out.stride_w * L, epilogue);
        }
        if (phase_x < out.stride_w - 1) continue;
        char* planes =
            c.output.data + (b.first_image + image) * c.output.stride_bytes[0] + (g * out.filters + filter) * c.output.stride_bytes[1];
        for (int64_t i = 0; i < b.rows.spans() * c.y.tile; i++)
            for (int64_t p = 0; p < phases; p++) {
                const int64_t position = (b.rows.first_span * c.y.tile + i) * c.y.dilation + b.rows.first_phase + p;
                const int64_t row = position * out.stride_h + phase / out.stride_w - out.origin_y;
                if (position >= s.P || row < 0 || row >= out.rows) continue;
                store_channel_lanes(z + ((i * phases + p) * c.z_pitch + hidden) * L, shown,
                                    planes + row * c.output.stride_bytes[2] + (left + hidden) * c.output.stride_bytes[3],
                                    c.output.stride_bytes[1], c.output.stride_bytes[3], smaller(L, out.filters - filter));
            }
    }
}

// Whether threads share each block, and divide its panels of filters. With dilation, blocks hold tiles of unequal classes; and where U
// is near the size of a third-level cache, it is read once for all threads that way.
constexpr int64_t kMostOwnWeights = int64_t(12) << 20;
template <class T>
static bool shares_blocks(const WinogradCall<T>& c) {
    return c.y.dilation > 1 || c.weight_bytes() > kMostOwnWeights;
}

// Whether a group's weights stay in a second-level cache.
template <class T>
static bool has_few_weights(const WinogradCall<T>& c) {
    return c.weight_bytes() / c.shape.G <= kWeightBytes;
}

// Tiles of a block: V leaves 512 KiB of the second-level cache, and is two to four register tiles. With 1.5 MiB of 2 instead of .5,
// 128 channels on 64 x 64 went from 1.52 to 1.27 ms, 192 on 56 x 56 from 2.02 to 1.92. Shared blocks read U from memory, so theirs
// are eight register tiles and more, as long as V has not twice U's size: 512 to 256 channels on 33 x 33 at rate 24 took 2.1 ms in
// six blocks, 1.9 in one.
constexpr int64_t kSharedBytes = int64_t(10) << 20;
template <class T>
static int64_t tiles_of_block(const WinogradCall<T>& c) {
    const int64_t point_bytes = c.layout.points * c.layout.channels * int64_t(sizeof(T));
    if (shares_blocks(c))
        return larger(8 * kTilesOfProduct, smaller(2 * c.weight_bytes() / c.shape.G, kSharedBytes) / point_bytes);
    const int64_t fitting = (second_level_cache_bytes() - kWeightBytes) / point_bytes;
    return larger(2 * kTilesOfProduct, smaller(4 * kTilesOfProduct, fitting));
}

// Whether a plain call transforms a panel's weights just before it needs them, for many tiles at once, instead of all weights
// ahead. Written to a second-level cache they take a third of the time: 2.7 ms for 8.7 at 512 x 512 channels. So where they would
// not stay in that cache anyway, up to three lots of images may transform them anew.
constexpr int64_t kTilesByPanel = 8 * kTilesOfProduct;
template <class T>
static bool transforms_by_panel(const WinogradCall<T>& c, int64_t images) {
    const int64_t tiles = c.x.tiles() * c.y.tiles();
    if (tiles > kTilesByPanel || c.layout.window.parts() > 1) return false;
    return images == 1 || (images * tiles <= 3 * kTilesByPanel && c.weight_bytes() > 2 * kWeightBytes);
}

// Cuts the tiles into blocks of about `wanted`, a multiple of the threads' number of them where that is possible.
template <class T>
static void cut_into_tile_blocks(WinogradCall<T>& c, int threads, int64_t wanted) {
    constexpr int64_t L = kLanes<T>;
    const int64_t rows = c.y.spans(), columns = c.x.spans();
    const int64_t tiles_of_row = c.x.tiles() * c.y.dilation;  // of a row of spans
    c.row_blocks = c.phase_blocks = c.column_blocks = 1;
    const int64_t others = c.shape.N * c.shape.G;
    if (tiles_of_row > 2 * wanted && c.y.dilation > 1) {
        c.row_blocks = rows;
        c.phase_blocks = smaller(c.y.dilation, ceil_div(tiles_of_row, wanted));
    } else {
        const int64_t rows_together = larger(1, wanted / tiles_of_row);
        c.row_blocks = ceil_div(rows, rows_together);
    }
    const int64_t tiles_left = ceil_div(c.x.tiles() * c.y.tiles(), c.row_blocks * c.phase_blocks);
    if (tiles_left > 2 * wanted) c.column_blocks = smaller(columns, ceil_div(tiles_left, wanted));
    // A multiple of the threads' number, if that does not make blocks too small. Weights that stay in a second-level cache can be
    // read again for a few tiles, and rows of tiles may divide about as evenly among threads as few panels of filters would.
    const int64_t tiles = c.x.tiles() * c.y.tiles();
    const auto largest_share = [threads](int64_t n) { return double(ceil_div(n, threads)) / double(n); };
    const bool rows_as_even = largest_share(rows) <= 1.25 * largest_share(c.layout.panels);
    const int64_t fewest = has_few_weights(c) && rows_as_even ? ceil_div(kTilesOfProduct, 4) : kTilesOfProduct;
    while (c.phase_blocks == 1 && others * c.blocks() % threads && c.row_blocks < rows && tiles / (c.blocks() + 1) >= fewest)
        c.row_blocks++;

    // Whole images together, as many as fill a block, in equal numbers and at least one lot for each thread.
    c.images_together = 1;
    if (c.blocks() == 1 && c.shape.N > 1) {
        const int64_t most = larger(1, wanted / (c.x.tiles() * c.y.tiles()));
        c.images_together = ceil_div(c.shape.N, round_up(ceil_div(c.shape.N, most), c.shape.N < threads ? 1 : threads));
    }

    int64_t max_rows = 0, max_outputs = 0, max_spans = 0, max_columns = 0;
    for (int64_t i = 0; i < c.row_blocks * c.phase_blocks; i++) {
        const SpanRange r = c.row_range(i);
        max_rows = larger(max_rows, InputAxis(c.y, c.layout.window.y, c.shape.stride_h, r.spans() * c.y.tile, r.phases()).size);
        max_outputs = larger(max_outputs, r.phases() * r.spans() * c.y.tile);
        max_spans = larger(max_spans, r.spans() * r.phases());
    }
    for (int64_t i = 0; i < c.column_blocks; i++) max_columns = larger(max_columns, c.column_range(i).spans());
    c.max_tiles = max_spans * smaller(max_columns * c.x.dilation, c.x.tiles()) * c.images_together;
    c.x_pitch = InputAxis(c.x, c.layout.window.x, c.shape.stride_w, max_columns * c.x.tile, c.x.dilation).size + L;
    c.z_pitch = max_columns * c.x.span() * c.interleave.stride_w + L;
    c.v_block = c.max_tiles * L;
    c.v_point = c.v_block * (c.layout.channels / L);
    // Points a multiple of 512 bytes apart would compete for the same cache sets.
    if (c.v_point * int64_t(sizeof(T)) % 512 == 0) c.v_point += 5 * L;
    // Whole rows of phases, as their outputs are stored together.
    const int64_t unit = c.interleave.panels_of_row();
    c.panels_together = smaller(c.layout.panels, larger(1, 128 / (2 * L) / unit) * unit);
    c.m_point = c.panels_together * c.max_tiles * 2 * L;
    if (c.m_point * int64_t(sizeof(T)) % 512 == 0) c.m_point += 5 * L;
    c.x_elements = round_up((max_rows * c.x_pitch + L) * L, 16);
    c.z_elements = round_up((max_outputs * c.z_pitch + L) * L, 16);
    c.v_elements = round_up(c.layout.points * c.v_point, 16);
    c.m_elements = round_up(c.layout.points * c.m_point, 16);
}

// `packed` holds the transformed weights, or is null: then they are transformed for this call. `directly(n)` does sample n again,
// tap by tap.
template <class T, class Directly>
static Status run_winograd(const Conv2dShape& s, const Interleave& interleave, int tile, Tensor input, const Weights& weight,
                           const T* packed, Tensor output, const Epilogue& epilogue, const Directly& directly) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    WinogradCall<T> c(s, interleave, tile);
    c.input = input;
    c.output = output;
    c.activation = epilogue.activation;
    c.slope = T(epilogue.slope);
    const int threads = threads_for(2 * multiply_adds(s));
    // Few weights that panels would divide unevenly are transformed ahead, channel by channel.
    const bool divisible = c.layout.panels % threads == 0 || !has_few_weights(c);
    const bool fresh_panels = !packed && divisible && transforms_by_panel(c, s.N);
    if (fresh_panels)
        cut_into_tile_blocks(c, 1, kTilesByPanel);
    else
        cut_into_tile_blocks(c, threads, tiles_of_block(c));
    const int64_t items = c.batches() * s.G * c.blocks();
    // Each thread has blocks of its own, or all share one after the other: where there are few, or shares_blocks() says so.
    const bool enough_panels = c.layout.panels >= 2 * threads && shares_blocks(c);
    const bool uneven = items < threads || (items % threads && items < 4 * threads);
    const bool together = threads > 1 && (uneven || enough_panels || (fresh_panels && s.N > 1));

    const int64_t biases = s.G * c.layout.panels * 2 * L;
    const int64_t bias_bytes = round_up(biases * size, 64);
    const int64_t packed_bytes = packed || fresh_panels ? 0 : round_up(c.layout.elements(s) * size, 64);
    const int64_t panel_bytes = fresh_panels ? round_up(c.layout.points * (kFreshChannels + 1) * 2 * L * size, 64) : 0;
    const int64_t v_bytes = round_up(c.v_elements * size, 64);
    const int64_t place_bytes = round_up(c.max_tiles * int64_t(sizeof(TilePlace)), 64);
    const int64_t own_bytes = panel_bytes + round_up((c.x_elements + c.m_elements + c.z_elements) * size, 64) + place_bytes;
    const int64_t flag_bytes = round_up((s.N + 1) * int64_t(sizeof(int)), 64);
    Scratch scratch(flag_bytes + bias_bytes + packed_bytes + (together ? 1 : threads) * v_bytes + threads * own_bytes);
    if (!scratch.data()) return Status::out_of_memory;

    int* sample_not_finite = reinterpret_cast<int*>(scratch.data());
    int* weights_not_finite = sample_not_finite + s.N;
    for (int64_t n = 0; n <= s.N; n++) sample_not_finite[n] = 0;
    T* bias = reinterpret_cast<T*>(scratch.data() + flag_bytes);
    T* fresh = reinterpret_cast<T*>(scratch.data() + flag_bytes + bias_bytes);
    char* v_area = scratch.data() + flag_bytes + bias_bytes + packed_bytes;
    char* own_area = v_area + (together ? 1 : threads) * v_bytes;
    for (int64_t i = 0; i < biases; i++) bias[i] = 0;
    if (epilogue.bias)
        for (int64_t k = 0; k < s.G * interleave.filters; k++) {
            const int64_t g = k / interleave.filters, filter = k % interleave.filters;
            T* to = bias + g * c.layout.panels * 2 * L + filter / L * interleave.phases() * L + filter % L;
            for (int64_t phase = 0; phase < interleave.phases(); phase++)
                to[phase * L] = load_scalar<T>(epilogue.bias + k * epilogue.bias_stride_bytes);
        }
    c.bias = bias;
    c.packed = packed ? packed : fresh;

    parallel(threads, [&](Team team) {
        if (!packed && !fresh_panels) {
            transform_weights<T, T>(s, interleave, tile, weight, fresh, weights_not_finite, team);
            team.wait_for_all();
        }
        char* own = own_area + team.id * own_bytes;
        T* u = reinterpret_cast<T*>(own);
        T* x = reinterpret_cast<T*>(own + panel_bytes);
        T* m = x + c.x_elements;
        T* z = m + c.m_elements;
        TileBlock b;
        b.places = reinterpret_cast<TilePlace*>(own + own_bytes - place_bytes);
        T* v = reinterpret_cast<T*>(v_area + (together ? 0 : team.id) * v_bytes);
        const Team alone{0, 1};
        const Team& share = together ? team : alone;
        const int64_t channel_blocks = c.layout.part_channels / L;
        WeightTransform<T, T> transform(s, c.interleave, c.layout, weight, weights_not_finite);
        for (int64_t item = together ? 0 : team.begin(items); item < (together ? items : team.end(items)); item++) {
            const int64_t g = item / c.blocks() % s.G;
            list_tiles(c, item / c.blocks() / s.G, item % c.blocks(), b);
            for (int64_t cb = share.begin(channel_blocks); cb < share.end(channel_blocks); cb++)
                for (int64_t image = 0; image < b.images; image++)
                    transform_input(c, b, image, g, cb, x, v, sample_not_finite + b.first_image + image);
            share.wait_for_all();
            const int64_t unit = interleave.panels_of_row(), units = ceil_div(c.layout.panels, unit);
            const int64_t end = smaller(c.layout.panels, share.end(units) * unit);
            const int64_t step = fresh_panels ? unit : c.panels_together;
            for (int64_t p = share.begin(units) * unit, last; p < end; p = last) {
                last = smaller(end, p + step);
                if (fresh_panels)
                    for (int64_t q = p; q < last; q++)
                        multiply_fresh_panel(c, b, transform, g, q, v, u, m + (q - p) * c.max_tiles * 2 * L);
                else
                    multiply_panels(c, b,
                                    {c.packed + (g * c.layout.panels + p) * c.layout.panel_elements, c.layout.panel_elements,
                                     c.layout.channels, 0, c.layout.channels / L},
                                    p, last, v, m);
                for (int64_t image = 0; image < b.images; image++) transform_output(c, b, image, g, p, last, m, z);
            }
            share.wait_for_all();
        }
    });
    for (int64_t n = 0; n < s.N; n++) {
        if (!sample_not_finite[n] && !*weights_not_finite) continue;
        const Status status = directly(n);
        if (status != Status::ok) return status;
    }
    return Status::ok;
}

template <class T>
static Status conv2d_winograd(const Conv2dShape& s, int tile, Tensor input, const Weights& weight, const T* packed, Tensor output,
                              const Epilogue& epilogue) {
    return run_winograd(s, Interleave(s), tile, input, weight, packed, output, epilogue, [&](int64_t n) {
        Conv2dShape sample = s;
        sample.N = 1;
        Tensor from = input, to = output;
        from.data += n * input.stride_bytes[0];
        to.data += n * output.stride_bytes[0];
        return conv2d_strip_pixels<T>(sample, from, weight, to, epilogue);
    });
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
