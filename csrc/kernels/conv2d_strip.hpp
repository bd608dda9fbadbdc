// Convolution tap by tap, as a matrix product over a padded strip: no im2col buffer.
//
//   output[k][p][q] = sum over c, r, s of weight[k][c][r][s] * strip[offset(c, r, s) + p * pitch + q]
//
// The strip (strip.h) makes every depth step (c, r, s) one fixed offset, so the inner loops know nothing of strides,
// dilation or padding: they read `strip + offset[depth]`. One strip holds a block of output rows that fits into half the
// second-level cache, and serves all filters.
//
//   pixel lanes (small depth, any K)             channel lanes (deep layers on small planes)
//          NV vectors of pixels                         NV vectors of filters
//        +-----+-----+-----+                          +-----+-----+
//   MT   |     |     |     |  weights are        MT   |     |     |  pixels are broadcast,
//   fil- |     |     |     |  broadcast from     pix- |     |     |  packed weights are loaded;
//   ters +-----+-----+-----+  where they lie     els  +-----+-----+  the tile is transposed on its way out
//
// Why these tiles: 8 x 3 fills 28 of 32 registers and needs 11 loads for 24 multiply-adds; 4 x 6 serves layers with few
// filters. On 16 registers it is 4 x 3. Planes whose pixels don't fill vectors (7 x 7 is 3.06 vectors) go to channel
// lanes, where 14 pixels of a row fill a tile exactly. What did not matter when measured: cutting the depth into chunks,
// a constant stride instead of the offset table, aligned strips.
//
// Filling waits for memory more than it works: at windows as large as their stride it is 12% of the time (25 cycles a vector,
// from the third-level cache). So each row asks for the next channel's (strip.h), and threads rather take rows than fill the
// same strip each for a share of the filters, unless that wastes more lanes.
//
// A 1x1 window with stride 1 and no padding needs no strip: its offsets step through the input itself, and the last
// vector of a plane is moved back so that it ends with the plane. But there a channel is a page away from the next, and vectors
// begin anywhere, for which a core with two multiply-adds a cycle waits. Where many filters share the cost, the pixels of a tile are
// copied to a panel [channel][vector] that all filters read: on one core with two, 256 to 64 channels on 56 x 56 took 1.07 ms and
// take 0.88, 64 to 256 0.94 and 0.86. Strips gain nothing from it.
//
// Contract: arguments were checked in Python. `output` overlaps nothing. Each output is one chain of fused multiply-adds in
// a fixed order, whatever the blocks and threads.
#pragma once

#include "../epilogue.h"
#include "../parallel.h"
#include "../strip.h"
#include "../tiles.h"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int64_t kStripBytes = 512 * 1024;  // half of a second-level cache of 1 MiB
constexpr int64_t kVectorsPerBlock = 2048;   // bounds the position list
constexpr double kFillVector = 20;           // multiply-adds that take as long as to copy a vector from beyond the L2 cache
constexpr int64_t kTilesPerSweep = 12;       // positions that one tile of weights serves before the next is taken
constexpr int64_t kRowsOfPanel = 64;         // rows of a product from which on pixels are copied to panels
constexpr int64_t kPanelBytes = 512 * 1024;  // and the most that one may hold

template <class T>
struct StripTiles {
    static constexpr int filters = kManyRegisters ? 8 : 4;
    static constexpr int vectors = 3;
    static constexpr int few_filters = kManyRegisters ? 4 : 2;  // up to so many, a tile takes more vectors
    static constexpr int more_vectors = kManyRegisters ? 6 : 4;
    static constexpr int pixels = kManyRegisters ? 14 : 6;      // channel lanes
};

// One vector of outputs.
struct PixelVector {
    int64_t strip;   // elements into the strip
    int64_t output;  // elements into the filter's plane, where the first valid lane goes
    int32_t y, x;    // of lane 0, within the block
    uint32_t lanes;  // valid ones
};

template <class T>
struct PixelTile {
    int64_t depth;
    const T* weight;
    int64_t filter_stride;
    const T* strip;
    const DepthStep* step;
    const PixelVector* vectors;
    const T* bias;
    char* output;                 // filter 0 of this tile
    int64_t output_filter_bytes;
    Activation activation;
    T slope;
    bool prefetch;
};

template <class T, int MT, int NV>
FASTCV_NOINLINE void pixel_tile(const PixelTile<T>& t) {
    Vec<T> acc[MT][NV];
    const T* pixels[NV];
    FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = splat(t.bias[i]);
    FASTCV_UNROLL for (int j = 0; j < NV; j++) pixels[j] = t.strip + t.vectors[j].strip;
    if (t.prefetch)
        for (int j = 0; j < NV; j++)
            for (int i = 0; i < MT; i++)
                __builtin_prefetch(t.output + i * t.output_filter_bytes + t.vectors[j].output * int64_t(sizeof(T)), 1, 3);
    pixel_lanes<T, MT, NV>(acc, t.depth, t.weight, t.filter_stride, pixels, t.step);
    if (t.activation != Activation::none)
        FASTCV_UNROLL for (int i = 0; i < MT; i++)
            FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = activate<T>(acc[i][j], t.activation, t.slope);
    FASTCV_UNROLL for (int j = 0; j < NV; j++) {
        T* to = reinterpret_cast<T*>(t.output) + t.vectors[j].output;
        const uint32_t lanes = t.vectors[j].lanes;
        FASTCV_UNROLL for (int i = 0; i < MT; i++) {
            T* p = reinterpret_cast<T*>(reinterpret_cast<char*>(to) + i * t.output_filter_bytes);
            if (lanes == (uint32_t(1) << kLanes<T>) - 1)
                store(p, acc[i][j]);
            else
                store_lanes(p, acc[i][j], lanes);
        }
    }
}

template <class T>
using PixelTileFunction = void (*)(const PixelTile<T>&);

template <class T, int MT>
static PixelTileFunction<T> pixel_tile_of_width(int vectors) {
    if constexpr (MT <= StripTiles<T>::few_filters) {
        switch (vectors) {
            case 4: return pixel_tile<T, MT, 4>;
            case 5: if constexpr (kManyRegisters) return pixel_tile<T, MT, 5>; break;
            case 6: if constexpr (kManyRegisters) return pixel_tile<T, MT, 6>; break;
        }
    }
    return vectors == 1 ? pixel_tile<T, MT, 1> : vectors == 2 ? pixel_tile<T, MT, 2> : pixel_tile<T, MT, 3>;
}

template <class T>
static PixelTileFunction<T> find_pixel_tile(int filters, int vectors) {
    if constexpr (kManyRegisters) {
        switch (filters) {
            case 5: return pixel_tile_of_width<T, 5>(vectors);
            case 6: return pixel_tile_of_width<T, 6>(vectors);
            case 7: return pixel_tile_of_width<T, 7>(vectors);
            case 8: return pixel_tile_of_width<T, 8>(vectors);
        }
    }
    switch (filters) {
        case 1: return pixel_tile_of_width<T, 1>(vectors);
        case 2: return pixel_tile_of_width<T, 2>(vectors);
        case 3: return pixel_tile_of_width<T, 3>(vectors);
        default: return pixel_tile_of_width<T, 4>(vectors);
    }
}

// How a convolution is cut into blocks of outputs, and the blocks' filters into parts, for so many threads.
struct StripBlocks {
    int64_t rows, columns;              // outputs of a block
    int64_t row_blocks, column_blocks;
    int64_t filter_parts;

    int64_t per_image() const { return row_blocks * column_blocks; }
};

template <class T>
static StripBlocks cut_into_blocks(const Conv2dShape& s, const Axis& y, const Axis& x, int threads, bool in_place) {
    constexpr int64_t L = kLanes<T>;
    const int64_t channels = s.C / s.G, filters = s.K / s.G;
    const int64_t slots = y.slots() * x.slots();
    const int64_t row_bytes = in_place ? 0 : channels * slots * (x.output + x.steps()) * int64_t(sizeof(T));
    StripBlocks b;
    // Whole rows, as many as fit; a block narrower than the plane only where not even a window's rows fit.
    b.columns = x.output;
    const int64_t fitting = row_bytes ? kStripBytes / row_bytes : y.output + y.steps();
    b.rows = larger(1, smaller(y.output, fitting - y.steps()));
    if (fitting <= y.steps() && row_bytes * (y.steps() + 1) > 4 * kStripBytes) {
        const int64_t column_bytes = row_bytes / (x.output + x.steps()) * (y.steps() + 1);
        b.columns = smaller(x.output, larger(4 * L, round_up(larger(1, 2 * kStripBytes / column_bytes - x.steps()), L)));
    }
    const int64_t vectors_in_row = ceil_div(b.columns, L) + 1;
    if (vectors_in_row > kVectorsPerBlock) {
        b.columns = (kVectorsPerBlock / 2) * L;
        b.rows = 1;
    } else {
        b.rows = smaller(b.rows, larger(1, kVectorsPerBlock / vectors_in_row));
    }
    b.row_blocks = ceil_div(y.output, b.rows);
    b.column_blocks = ceil_div(x.output, b.columns);
    b.filter_parts = 1;
    // Whole blocks for every thread: more, smaller blocks where rows (or, in one row, columns) allow it; or each thread takes a
    // share of the filters. Smaller blocks waste lanes, shares of filters fill the same strips more than once.
    const int64_t others = s.N * s.G;
    int64_t& cuts = y.output > 1 ? b.row_blocks : b.column_blocks;
    const int64_t lines = y.output > 1 ? y.output : ceil_div(x.output, L);
    if (others * b.per_image() % threads && others * b.per_image() < 8 * threads) {
        int64_t more = cuts;
        while (others * b.per_image() / cuts * more % threads) more++;
        const int64_t outputs_left = y.output > 1 ? ceil_div(lines, more) * x.output : ceil_div(lines, more) * L;
        const double wasted = double(ceil_div(outputs_left, L) * L * more) / double(y.output * x.output) - 1;
        // A vector of outputs and a channel: `slots` vectors to fill, filters * taps multiply-adds.
        const double filling = in_place ? 0 : kFillVector * double(slots) / double(filters * s.R * s.S);
        const bool share = filters >= 2 * StripTiles<T>::filters * threads;
        if (more <= lines && (!share || wasted <= filling * double(threads - 1)))
            cuts = more;
        else if (share)
            b.filter_parts = threads;
    }
    b.rows = ceil_div(y.output, b.row_blocks);
    b.columns = round_up(ceil_div(x.output, b.column_blocks), b.column_blocks > 1 ? L : 1);
    // In place, the last block's last vector is moved back to end with the plane: the block must be a vector wide.
    while (in_place && b.columns < x.output && x.output % b.columns != 0 && x.output % b.columns < L) b.columns += L;
    b.row_blocks = ceil_div(y.output, b.rows);
    b.column_blocks = ceil_div(x.output, b.columns);
    return b;
}

// Lists the vectors that cover rows x columns outputs of a block. Where outputs of neighbouring rows are contiguous,
// vectors may run on across row ends (over `pitch`): that, or rows cut one by one, whichever takes fewer.
template <class T>
static int64_t list_vectors(PixelVector* list, int64_t rows, int64_t columns, int64_t pitch, int64_t output_row,
                            bool move_last_back) {
    constexpr int64_t L = kLanes<T>;
    constexpr uint32_t all = (uint32_t(1) << L) - 1;
    int64_t n = 0;
    const int64_t flat = rows * pitch - (pitch - columns);
    if (output_row == columns && ceil_div(flat, L) < rows * ceil_div(columns, L)) {
        int64_t y = 0, x = 0;
        for (int64_t f = 0; f < flat; f += L, x += L) {
            while (x >= pitch) {
                x -= pitch;
                y++;
            }
            uint32_t lanes = x + L <= columns ? all : 0;
            if (!lanes) {
                int64_t yy = y, xx = x;
                for (int64_t i = 0; i < L && yy < rows; i++) {
                    if (xx < columns) lanes |= uint32_t(1) << i;
                    if (++xx == pitch) {
                        xx = 0;
                        yy++;
                    }
                }
            }
            const int64_t output = x < columns ? y * output_row + x : (y + 1) * output_row;
            if (lanes) list[n++] = {f, output, int32_t(y), int32_t(x), lanes};
        }
        return n;
    }
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < columns; x += L) {
            const int64_t left = columns - x;
            if (left < L && move_last_back && columns >= L) x = columns - L;
            const uint32_t lanes = columns - x >= L ? all : (uint32_t(1) << (columns - x)) - 1;
            list[n++] = {y * pitch + x, y * output_row + x, int32_t(y), int32_t(x), lanes};
        }
    return n;
}

// Everything that a call prepares once and its threads share.
template <class T>
struct StripCall {
    Conv2dShape shape;
    Tensor input, output;
    Axis y, x;
    StripBlocks blocks;
    Strip strip;
    bool in_place;              // 1x1: the input is its own strip
    bool rows_stored;           // outputs of a row are contiguous
    int64_t depth;
    Weights weight;             // pixel lanes: any strides that are whole elements
    const T* packed;            // channel lanes
    const T* bias;              // K elements, and zeros up to a whole tile
    const DepthStep* step;      // pixel lanes, in the strip
    const DepthStep* in_panel;  // and in a panel, where they are copied to one; or null
    const int32_t* offset;      // channel lanes
    Activation activation;
    T slope;

    int64_t channels() const { return shape.C / shape.G; }
    int64_t filters() const { return shape.K / shape.G; }
    Planes planes(int64_t n, int64_t g) const {
        const char* data = input.data + n * input.stride_bytes[0] + g * channels() * input.stride_bytes[1];
        return {data, input.stride_bytes[1], input.stride_bytes[2], input.stride_bytes[3]};
    }
    char* output_plane(int64_t n, int64_t filter) const {
        return output.data + n * output.stride_bytes[0] + filter * output.stride_bytes[1];
    }
};

// One block, given by its first output and size.
struct Block {
    int64_t n, g, y, x, rows, columns;
};

template <class T>
static Block block_at(const StripCall<T>& c, int64_t index) {
    const StripBlocks& b = c.blocks;
    Block block;
    block.x = index % b.column_blocks * b.columns;
    index /= b.column_blocks;
    block.y = index % b.row_blocks * b.rows;
    index /= b.row_blocks;
    block.g = index % c.shape.G;
    block.n = index / c.shape.G;
    block.rows = smaller(b.rows, c.y.output - block.y);
    block.columns = smaller(b.columns, c.x.output - block.x);
    return block;
}

// Where a block reads from: its filled strip, or the input itself.
template <class T>
static const T* strip_of_block(const StripCall<T>& c, const Block& b, T* buffer) {
    const Planes in = c.planes(b.n, b.g);
    if (c.in_place) return reinterpret_cast<const T*>(in.data) + b.x;
    fill_strip(c.strip, buffer, in, b.y, b.x, b.rows + c.y.steps());
    return buffer;
}

// Whether pixels are copied to panels where a product has so many rows.
template <class T>
static bool panels_pay(int64_t rows, int64_t depth) {
    return rows >= kRowsOfPanel && depth >= 64 && depth <= kPanelBytes / (StripTiles<T>::vectors * kVectorBytes);
}
// Steps through a panel, of a tile that else steps through the strip.
template <class T>
static void step_through_panel(const DepthStep* step, int64_t depth, DepthStep* to) {
    for (int64_t k = 0; k < depth; k++) to[k] = {int32_t(k * StripTiles<T>::vectors * kLanes<T>), step[k].weight};
}
// Copies what a tile's products read to a panel, [depth step][vector].
template <class T>
static void fill_panel(const T* strip, const DepthStep* step, int64_t depth, const PixelVector* list, int64_t vectors, T* panel) {
    constexpr int64_t L = kLanes<T>;
    for (int64_t k = 0; k < depth; k++, panel += StripTiles<T>::vectors * L)
        for (int64_t j = 0; j < vectors; j++) store(panel + j * L, load(strip + step[k].pixel + list[j].strip));
}

// Tiles whose rows can't be stored as vectors. Where filters are contiguous (channels-last), squares are transposed and stored pixel by
// pixel; else lane by lane.
template <class T>
static void scatter_tile(const T* tile, int64_t filters, int64_t vectors, const PixelVector* list, int64_t pitch, char* output,
                         const int64_t* stride_bytes) {
    constexpr int64_t L = kLanes<T>;
    const bool transposed = stride_bytes[1] == int64_t(sizeof(T)) && filters <= L;
    for (int64_t j = 0; j < vectors; j++) {
        T pixels[L * L];
        if (transposed) {
            Vec<T> square[L];
            FASTCV_UNROLL for (int64_t k = 0; k < L; k++)
                square[k] = k < filters ? load(tile + (k * vectors + j) * L) : zero<T>();
            transpose<T>(square);
            FASTCV_UNROLL for (int64_t i = 0; i < L; i++) store(pixels + i * L, square[i]);
        }
        int64_t y = list[j].y, x = list[j].x;
        for (int64_t i = 0; i < L; i++) {
            char* to = output + y * stride_bytes[2] + x * stride_bytes[3];
            if (list[j].lanes >> i & 1) {
                if (transposed)
                    store_first(reinterpret_cast<T*>(to), load(pixels + i * L), filters);
                else
                    for (int64_t k = 0; k < filters; k++) store_scalar(to + k * stride_bytes[1], tile[(k * vectors + j) * L + i]);
            }
            if (++x == pitch) {
                x = 0;
                y++;
            }
        }
    }
}

template <class T>
static void pixel_lane_block(const StripCall<T>& c, const Block& b, const T* strip, T* panel, PixelVector* list,
                             int64_t first_filter, int64_t last_filter) {
    constexpr int L = kLanes<T>;
    using Tiles = StripTiles<T>;
    const int64_t pitch = c.in_place ? b.columns : c.strip.pitch;
    const int64_t output_row = c.rows_stored ? c.output.stride_bytes[2] / int64_t(sizeof(T)) : b.columns;
    const int64_t count = list_vectors<T>(list, b.rows, b.columns, pitch, output_row, c.in_place);
    const bool few = c.filters() <= Tiles::few_filters;
    const int64_t width = few ? Tiles::more_vectors : Tiles::vectors;
    const int64_t height = few ? c.filters() : Tiles::filters;
    const int64_t sweep = c.in_panel ? width : kTilesPerSweep * width;

    PixelVector vectors[Tiles::more_vectors];
    T buffer[Tiles::filters * Tiles::vectors > Tiles::few_filters * Tiles::more_vectors
                 ? Tiles::filters * Tiles::vectors * L
                 : Tiles::few_filters * Tiles::more_vectors * L];

    PixelTile<T> t;
    t.depth = c.depth;
    t.filter_stride = c.weight.filter_bytes / int64_t(sizeof(T));
    t.strip = c.in_panel ? panel : strip;
    t.step = c.in_panel ? c.in_panel : c.step;
    t.activation = c.activation;
    t.slope = c.slope;
    t.prefetch = c.rows_stored && c.depth >= 64;
    for (int64_t v0 = 0; v0 < count; v0 += sweep) {
        const int64_t v1 = smaller(count, v0 + sweep);
        if (c.in_panel) fill_panel(strip, c.step, c.depth, list + v0, v1 - v0, panel);
        for (int64_t k = first_filter; k < last_filter; k += height) {
            const int64_t tall = smaller(height, last_filter - k);
            const int64_t filter = b.g * c.filters() + k;
            t.weight = reinterpret_cast<const T*>(c.weight.at(b.g, k, 0));
            t.bias = c.bias + filter;
            char* output = c.output_plane(b.n, filter) + b.y * c.output.stride_bytes[2] + b.x * c.output.stride_bytes[3];
            for (int64_t v = v0, wide; v < v1; v += wide) {
                wide = smaller(width, v1 - v);
                t.vectors = list + v;
                if (c.in_panel) {
                    t.vectors = vectors;
                    for (int64_t j = 0; j < wide; j++) {
                        vectors[j] = list[v + j];
                        vectors[j].strip = j * L;
                    }
                }
                if (c.rows_stored) {
                    t.output = output;
                    t.output_filter_bytes = c.output.stride_bytes[1];
                    find_pixel_tile<T>(int(tall), int(wide))(t);
                    continue;
                }
                for (int64_t j = 0; j < wide; j++)
                    vectors[j] = {t.vectors[j].strip, j * L, 0, 0, (uint32_t(1) << L) - 1};
                t.vectors = vectors;
                t.output = reinterpret_cast<char*>(buffer);
                t.output_filter_bytes = wide * L * int64_t(sizeof(T));
                find_pixel_tile<T>(int(tall), int(wide))(t);
                scatter_tile(buffer, tall, wide, list + v, pitch, output, c.output.stride_bytes);
            }
        }
    }
}

// ---- channel lanes

// Depth runs (r, s, c): rows of the window that see only padding cut it short at either end. The tile is [pixel][2 * lanes].
template <class T, int MT, int NV>
FASTCV_NOINLINE void channel_tile(int64_t depth, const T* packed, const T* pixels, const int32_t* offset, const T* bias,
                                  T* tile, Activation activation, T slope) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MT][NV];
    FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = load(bias + j * L);
    channel_lanes<T, MT, NV>(acc, depth, packed, pixels, offset);
    if (activation != Activation::none)
        FASTCV_UNROLL for (int i = 0; i < MT; i++)
            FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = activate<T>(acc[i][j], activation, slope);
    FASTCV_UNROLL for (int i = 0; i < MT; i++)
        FASTCV_UNROLL for (int j = 0; j < NV; j++) store(tile + (2 * i + j) * L, acc[i][j]);
}

template <class T>
using ChannelTileFunction = void (*)(int64_t, const T*, const T*, const int32_t*, const T*, T*, Activation, T);

template <class T, int MT = 1>
static ChannelTileFunction<T> find_channel_tile(int64_t pixels, int64_t filters) {
    if constexpr (MT < StripTiles<T>::pixels) {
        if (pixels > MT) return find_channel_tile<T, MT + 1>(pixels, filters);
    }
    return filters > kLanes<T> ? channel_tile<T, MT, 2> : channel_tile<T, MT, 1>;
}

// tile[pixel][filter] -> output; NCHW rows are written after a transpose.
template <class T>
static void store_channel_tile(const T* tile, int64_t pixels, int64_t filters, char* output, const int64_t* stride_bytes) {
    constexpr int L = kLanes<T>;
    constexpr int width = 2 * L;
    const int64_t filter_bytes = stride_bytes[1], column_bytes = stride_bytes[3];
    if (filter_bytes == int64_t(sizeof(T))) {
        for (int64_t i = 0; i < pixels; i++)
            for (int64_t k = 0; k < filters; k += L)
                store_first(reinterpret_cast<T*>(output + i * column_bytes) + k, load(tile + i * width + k), filters - k);
    } else if (column_bytes == int64_t(sizeof(T))) {
        for (int64_t k = 0; k < filters; k += L)
            for (int64_t i = 0; i < pixels; i += L) {
                Vec<T> square[L];
                FASTCV_UNROLL for (int j = 0; j < L; j++)
                    square[j] = i + j < pixels ? load(tile + (i + j) * width + k) : zero<T>();
                transpose<T>(square);
                FASTCV_UNROLL for (int j = 0; j < L; j++)
                    if (k + j < filters)
                        store_first(reinterpret_cast<T*>(output + (k + j) * filter_bytes) + i, square[j], pixels - i);
            }
    } else {
        for (int64_t i = 0; i < pixels; i++)
            for (int64_t k = 0; k < filters; k++)
                store_scalar(output + k * filter_bytes + i * column_bytes, tile[i * width + k]);
    }
}

template <class T>
static void channel_lane_block(const StripCall<T>& c, const Block& b, const T* strip, int64_t first_filter,
                               int64_t last_filter) {
    constexpr int L = kLanes<T>;
    constexpr int width = 2 * L;
    const int64_t pieces = ceil_div(b.columns, StripTiles<T>::pixels);
    const int64_t panels_of_group = ceil_div(c.filters(), width);
    const int64_t pitch = c.in_place ? b.columns : c.strip.pitch;
    const int64_t row_depth = c.shape.S * c.channels();
    T tile[StripTiles<T>::pixels * width];
    for (int64_t k = first_filter; k < last_filter; k += width) {
        const int64_t panel = b.g * panels_of_group + k / width, filters = smaller(width, c.filters() - k);
        const T* packed = c.packed + panel * c.depth * width;
        for (int64_t y = 0; y < b.rows; y++) {
            // Rows of the window inside the input.
            int64_t r0 = 0, r1 = c.shape.R;
            const int64_t top = (b.y + y) * c.y.stride - c.y.pad;
            while (r0 < r1 && top + r0 * c.y.dilation < 0) r0++;
            while (r1 > r0 && top + (r1 - 1) * c.y.dilation >= c.shape.H) r1--;
            for (int64_t piece = 0; piece < pieces; piece++) {
                const int64_t x = b.columns * piece / pieces, pixels = b.columns * (piece + 1) / pieces - x;
                find_channel_tile<T>(pixels, filters)((r1 - r0) * row_depth, packed + r0 * row_depth * width, strip + y * pitch + x,
                                                      c.offset + r0 * row_depth, c.bias + b.g * panels_of_group * width + k, tile,
                                                      c.activation, c.slope);
                char* output = c.output_plane(b.n, b.g * c.filters() + k) + (b.y + y) * c.output.stride_bytes[2] +
                               (b.x + x) * c.output.stride_bytes[3];
                store_channel_tile(tile, pixels, filters, output, c.output.stride_bytes);
            }
        }
    }
}

// Packs weights for channel lanes: [group][panel of 2 vectors][r][s][c][filter], zeros behind the last filter.
template <class T>
static int64_t channel_lane_weights(const Conv2dShape& s) {
    return s.G * ceil_div(s.K / s.G, 2 * kLanes<T>) * 2 * kLanes<T> * (s.C / s.G) * s.R * s.S;
}
template <class T>
static void pack_for_channel_lanes(const Conv2dShape& s, const Weights& weight, T* packed, Team team) {
    constexpr int64_t L = kLanes<T>, width = 2 * L, size = int64_t(sizeof(T));
    const int64_t filters = s.K / s.G, channels = s.C / s.G, panels = ceil_div(filters, width);
    const int64_t window = s.R * s.S, depth = window * channels;
    const bool contiguous = (s.S == 1 || weight.column_bytes == size) && (s.R == 1 || weight.row_bytes == s.S * size) &&
                            (channels == 1 || weight.channel_bytes == window * size) && weight.filter_bytes % size == 0;
    for (int64_t panel = team.begin(s.G * panels); panel < team.end(s.G * panels); panel++) {
        const int64_t first = panel % panels * width, count = smaller(width, filters - first);
        const char* from = weight.at(panel / panels, first, 0);
        T* to = packed + panel * depth * width;
        if (contiguous) {
            // A filter's weights are one row [c][r][s]: squares of filters x weights are transposed.
            const T* row = reinterpret_cast<const T*>(from);
            const int64_t filter_stride = weight.filter_bytes / int64_t(sizeof(T));
            for (int64_t k = 0; k < width; k += L)
                for (int64_t e = 0; e < depth; e += L) {
                    Vec<T> square[L];
                    FASTCV_UNROLL for (int64_t i = 0; i < L; i++)
                        square[i] = k + i < count ? load_first(row + (k + i) * filter_stride + e, depth - e) : zero<T>();
                    transpose<T>(square);
                    for (int64_t i = 0, c = e / window, tap = e % window; i < smaller(L, depth - e); i++) {
                        store(to + (tap * channels + c) * width + k, square[i]);
                        if (++tap == window) tap = 0, c++;
                    }
                }
            continue;
        }
        for (int64_t r = 0; r < s.R; r++)
            for (int64_t t = 0; t < s.S; t++)
                for (int64_t c = 0; c < channels; c++, to += width) {
                    const char* tap = from + c * weight.channel_bytes + r * weight.row_bytes + t * weight.column_bytes;
                    for (int64_t k = 0; k < width; k++) to[k] = k < count ? load_scalar<T>(tap + k * weight.filter_bytes) : T(0);
                }
    }
}

// A 1x1 window over contiguous rows sees one long row.
static Conv2dShape flatten_pointwise(const Conv2dShape& s, Tensor& input, Tensor& output) {
    const bool pointwise = s.R == 1 && s.S == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_top == 0 && s.pad_left == 0 &&
                           s.P == s.H && s.Q == s.W;
    if (!pointwise || input.stride_bytes[2] != s.W * input.stride_bytes[3] ||
        output.stride_bytes[2] != s.Q * output.stride_bytes[3])
        return s;
    Conv2dShape flat = s;
    flat.H = flat.P = 1;
    flat.W = flat.Q = s.H * s.W;
    return flat;
}

// Windows that cover the plane give one output an image: then images are the pixels of one long row, and values of an image its channels,
// in the same order. Pixel lanes would else be full of one pixel, and read all weights for every image.
static Conv2dShape flatten_whole_planes(const Conv2dShape& s, Tensor& input, Weights& weight, Tensor& output) {
    const bool whole = s.N > 1 && s.G == 1 && s.P == 1 && s.Q == 1 && s.R == s.H && s.S == s.W && s.pad_top == 0 && s.pad_left == 0 &&
                       (s.R == 1 || s.dilation_h == 1) && (s.S == 1 || s.dilation_w == 1);
    const auto one_row = [&](int64_t channel, int64_t row, int64_t column) {
        return (s.R == 1 || row == s.S * column) && channel == s.R * s.S * column;
    };
    if (!whole || !one_row(input.stride_bytes[1], input.stride_bytes[2], input.stride_bytes[3]) ||
        !one_row(weight.channel_bytes, weight.row_bytes, weight.column_bytes))
        return s;
    Conv2dShape flat = s;
    flat.N = flat.H = flat.R = flat.S = 1;
    flat.C = s.C * s.R * s.S;
    flat.W = flat.Q = s.N;
    flat.stride_h = flat.stride_w = 1;
    input.stride_bytes[1] = input.stride_bytes[3];
    input.stride_bytes[3] = input.stride_bytes[0];
    weight.channel_bytes = weight.column_bytes;
    output.stride_bytes[3] = output.stride_bytes[0];
    return flat;
}

// Weights are read where they lie if their strides are whole elements and no filter spans more than 2^31 of them.
template <class T>
static bool readable_in_place(const Conv2dShape& s, const Weights& w) {
    constexpr int64_t size = int64_t(sizeof(T));
    const int64_t strides[4] = {w.filter_bytes, w.channel_bytes, w.row_bytes, w.column_bytes};
    const int64_t extents[4] = {1, s.C / s.G, s.R, s.S};
    double span = 0;
    for (int i = 0; i < 4; i++) {
        if (strides[i] % size) return false;
        span += double(extents[i]) * double(strides[i] < 0 ? -strides[i] : strides[i]);
    }
    return span < double(INT32_MAX);
}

// Else they are copied to [group][filter][c][r][s].
template <class T>
static Weights copy_weights(const Conv2dShape& s, const Weights& w, T* to) {
    constexpr int64_t size = int64_t(sizeof(T));
    const int64_t filters = s.K / s.G, channels = s.C / s.G;
    const Weights copy{reinterpret_cast<const char*>(to), filters * channels * s.R * s.S * size, channels * s.R * s.S * size,
                       s.R * s.S * size, s.S * size, size};
    for (int64_t k = 0; k < s.K; k++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t r = 0; r < s.R; r++)
                for (int64_t t = 0; t < s.S; t++)
                    *to++ = load_scalar<T>(w.at(k / filters, k % filters, c) + r * w.row_bytes + t * w.column_bytes);
    return copy;
}

// Pixel lanes read `weight`; channel lanes read `packed`.
template <class T>
static Status conv2d_strip(const Conv2dShape& original, bool channel_lanes, Tensor input, Weights weight, const T* packed,
                           Tensor output, const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>;
    StripCall<T> c;
    c.shape = flatten_pointwise(channel_lanes ? original : flatten_whole_planes(original, input, weight, output), input, output);
    const Conv2dShape& s = c.shape;
    c.input = input;
    c.output = output;
    c.y = vertical(s);
    c.x = horizontal(s);
    c.depth = c.channels() * s.R * s.S;
    c.activation = epilogue.activation;
    c.slope = T(epilogue.slope);
    const int64_t size = int64_t(sizeof(T));
    c.rows_stored = output.stride_bytes[3] == size && output.stride_bytes[2] % size == 0;
    c.in_place = s.H == 1 && s.R == 1 && s.S == 1 && s.stride_w == 1 && s.pad_top == 0 && s.pad_left == 0 && s.P == 1 &&
                 s.Q == s.W &&
                 s.Q >= (channel_lanes ? 1 : L) && input.stride_bytes[3] == size && input.stride_bytes[1] % size == 0 &&
                 input.stride_bytes[1] >= 0 && input.stride_bytes[1] / size * c.channels() < INT32_MAX;
    if (!c.in_place && strip_too_large(c.y, c.x, c.channels())) return Status::out_of_memory;
    const int threads = threads_for(2 * multiply_adds(s));
    c.blocks = cut_into_blocks<T>(s, c.y, c.x, threads, c.in_place);
    c.strip = make_strip<T>(c.y, c.x, c.channels(), c.blocks.rows, c.blocks.columns);
    if (!c.in_place && c.strip.elements > INT32_MAX) return Status::out_of_memory;

    const int64_t panels = ceil_div(c.filters(), 2 * L);
    const int64_t biases = channel_lanes ? s.G * panels * 2 * L : s.K + L;
    const bool copied_weights = !channel_lanes && !readable_in_place<T>(s, weight);
    const bool in_panels = !channel_lanes && c.in_place && panels_pay<T>(c.filters(), c.depth);
    const int64_t offset_bytes = round_up((in_panels ? 2 : 1) * c.depth * int64_t(sizeof(DepthStep)), 64);
    const int64_t bias_bytes = round_up(biases * size, 64);
    const int64_t weight_bytes = copied_weights ? round_up(s.K * c.depth * size, 64) : 0;
    const int64_t list_bytes = round_up((2 * kVectorsPerBlock + 4) * int64_t(sizeof(PixelVector)), 64);
    const int64_t strip_bytes = c.in_place ? 0 : round_up(c.strip.elements * size, 64);
    const int64_t thread_bytes = list_bytes + strip_bytes + (in_panels ? c.depth * StripTiles<T>::vectors * L * size : 0);
    Scratch scratch(offset_bytes + bias_bytes + weight_bytes + threads * thread_bytes);
    if (!scratch.data()) return Status::out_of_memory;

    DepthStep* step = reinterpret_cast<DepthStep*>(scratch.data());
    int32_t* offset = reinterpret_cast<int32_t*>(scratch.data());
    T* bias = reinterpret_cast<T*>(scratch.data() + offset_bytes);
    T* copied = reinterpret_cast<T*>(scratch.data() + offset_bytes + bias_bytes);
    char* per_thread = scratch.data() + offset_bytes + bias_bytes + weight_bytes;

    c.weight = copied_weights ? copy_weights(s, weight, copied) : weight;
    const int64_t window = s.R * s.S, from_channel = c.in_place ? input.stride_bytes[1] / size : c.strip.channel;
    for (int64_t tap = 0; tap < window; tap++) {
        const int64_t r = tap / s.S, t = tap % s.S, at = c.in_place ? 0 : c.strip.offset(r, t);
        const int64_t weight_at = r * c.weight.row_bytes + t * c.weight.column_bytes;
        for (int64_t ch = 0; ch < c.channels(); ch++)
            if (channel_lanes)
                offset[tap * c.channels() + ch] = int32_t(at + ch * from_channel);
            else
                step[ch * window + tap] = {int32_t(at + ch * from_channel), int32_t((ch * c.weight.channel_bytes + weight_at) / size)};
    }
    for (int64_t i = 0; i < biases; i++) bias[i] = 0;
    if (epilogue.bias)
        for (int64_t k = 0; k < s.K; k++)
            bias[channel_lanes ? k / c.filters() * panels * 2 * L + k % c.filters() : k] =
                load_scalar<T>(epilogue.bias + k * epilogue.bias_stride_bytes);
    c.step = step;
    c.in_panel = in_panels ? step + c.depth : nullptr;
    if (in_panels) step_through_panel<T>(step, c.depth, step + c.depth);
    c.offset = offset;
    c.bias = bias;
    c.packed = packed;

    const int64_t items = s.N * s.G * c.blocks.per_image() * c.blocks.filter_parts;
    parallel(threads, [&](Team team) {
        char* mine = per_thread + team.id * thread_bytes;
        PixelVector* list = reinterpret_cast<PixelVector*>(mine);
        T* buffer = reinterpret_cast<T*>(mine + list_bytes);
        T* panel = reinterpret_cast<T*>(mine + list_bytes + strip_bytes);
        const T* strip = nullptr;
        for (int64_t item = team.begin(items); item < team.end(items); item++) {
            const Block b = block_at(c, item / c.blocks.filter_parts);
            const int64_t part = item % c.blocks.filter_parts;
            const int64_t step = channel_lanes ? 2 * L : StripTiles<T>::filters;
            const int64_t tiles = ceil_div(c.filters(), step);
            const int64_t first = tiles * part / c.blocks.filter_parts * step;
            const int64_t last = smaller(c.filters(), tiles * (part + 1) / c.blocks.filter_parts * step);
            // A block's filters in parts follow one another: what the last one filled may serve the next.
            if (item == team.begin(items) || part == 0) strip = strip_of_block(c, b, buffer);
            if (channel_lanes)
                channel_lane_block(c, b, strip, first, last);
            else
                pixel_lane_block(c, b, strip, panel, list, first, last);
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
