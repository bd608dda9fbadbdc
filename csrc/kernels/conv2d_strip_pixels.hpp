// Convolution over a strip with pixel lanes: vectors of neighbouring outputs, filters broadcast from where they lie.
//
// A 1x1 window with stride 1 and no padding needs no strip: its offsets step through the input itself, and the last
// vector of a plane is moved back so that it ends with the plane. But there a channel is a page away from the next, and vectors
// begin anywhere, for which a core with two multiply-adds a cycle waits; and steps through a strip are read from a table. Where
// there are many filters, the first tile of them leaves its pixels in a panel [step of the depth][vector], which the others go
// through in even steps, as through their weights. On two threads, in place, 256 to 256 channels on 64 x 64 took 2.09 ms and take
// 1.80; from strips, 3 to 64 on 224 x 224, 7 x 7 stride 2, 0.85 and 0.75. Copying them apart from multiplying took 11 x 11
// windows with stride 4 10% more.
//
// While they multiply, tiles in place ask for the pixels of the next panel: 256 to 64 channels on 56 x 56 takes 5% less.
//
// A tile asks for the lines that it will write while it multiplies. Where it is done before they come, it asks for the next
// tile's: on two threads, 3 to 64 channels on 224 x 224 took 0.83 ms and take 0.75, 1 to 64 on 188 x 188 0.29 and 0.24.
#pragma once

#include "conv2d_strip_blocks.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int64_t kTilesPerSweep = 12;       // positions that one tile of weights serves before the next is taken
constexpr int64_t kRowsOfPanel = 64;         // rows of a product from which on pixels are copied to panels
constexpr int64_t kPanelBytes = 512 * 1024;  // and the most that one may hold
constexpr int64_t kDepthThatHidesOutputs = 64;  // sums as deep take longer than the lines of their outputs

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
    int64_t filter_stride, weight_step;  // elements from filter to filter, and of a panel's product from step to step
    const T* strip;
    const DepthStep* step;
    T* panel;                     // where a tile that reads the strip leaves the panel for the others, if not null
    const PixelVector* vectors;
    const T* bias;
    char* output;                 // filter 0 of this tile
    int64_t output_filter_bytes;
    Activation activation;
    T slope;
    const PixelVector* prefetched;  // vectors of outputs that this tile asks the caches for
    int prefetched_count;
    Requests requests;
};

// From a panel, whose depth has even steps in weights and pixels, or from a strip.
template <class T, int MT, int NV, bool Panel>
FASTCV_NOINLINE void pixel_tile(const PixelTile<T>& t) {
    Vec<T> acc[MT][NV];
    FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = splat(t.bias[i]);
    for (int j = 0; j < t.prefetched_count; j++)
        for (int i = 0; i < MT; i++)
            __builtin_prefetch(t.output + i * t.output_filter_bytes + t.prefetched[j].output * int64_t(sizeof(T)), 1, 3);
    if constexpr (Panel) {
        strided_product_with_requests<T, MT, NV, 3>(
            acc, t.depth, {t.weight, t.filter_stride, t.weight_step, t.panel, kLanes<T>, kPanelPitch<T>}, t.requests);
    } else {
        const T* pixels[NV];
        FASTCV_UNROLL for (int j = 0; j < NV; j++) pixels[j] = t.strip + t.vectors[j].strip;
        if (NV <= StripTiles<T>::vectors && t.panel)
            pixel_lanes<T, MT, NV, true>(acc, t.depth, t.weight, t.filter_stride, pixels, t.step, t.panel, kPanelPitch<T>);
        else
            pixel_lanes<T, MT, NV>(acc, t.depth, t.weight, t.filter_stride, pixels, t.step);
    }
    activate_tile<T, MT, NV>(acc, t.activation, t.slope);
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

template <class T, int MT, bool Panel>
static PixelTileFunction<T> pixel_tile_of_width(int vectors) {
    if constexpr (MT <= StripTiles<T>::few_filters && !Panel) {
        switch (vectors) {
            case 4: return pixel_tile<T, MT, 4, Panel>;
            case 5: if constexpr (kManyRegisters) return pixel_tile<T, MT, 5, Panel>; break;
            case 6: if constexpr (kManyRegisters) return pixel_tile<T, MT, 6, Panel>; break;
        }
    }
    return vectors == 1 ? pixel_tile<T, MT, 1, Panel> : vectors == 2 ? pixel_tile<T, MT, 2, Panel> : pixel_tile<T, MT, 3, Panel>;
}

template <class T, bool Panel>
static PixelTileFunction<T> find_pixel_tile(int filters, int vectors) {
    if constexpr (kManyRegisters) {
        switch (filters) {
            case 5: return pixel_tile_of_width<T, 5, Panel>(vectors);
            case 6: return pixel_tile_of_width<T, 6, Panel>(vectors);
            case 7: return pixel_tile_of_width<T, 7, Panel>(vectors);
            case 8: return pixel_tile_of_width<T, 8, Panel>(vectors);
        }
    }
    switch (filters) {
        case 1: return pixel_tile_of_width<T, 1, Panel>(vectors);
        case 2: return pixel_tile_of_width<T, 2, Panel>(vectors);
        case 3: return pixel_tile_of_width<T, 3, Panel>(vectors);
        default: return pixel_tile_of_width<T, 4, Panel>(vectors);
    }
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

// Whether pixels are copied to panels, where a product has so many rows and is so deep.
template <class T>
static bool panels_pay(int64_t rows, int64_t depth) {
    return rows >= kRowsOfPanel && depth >= 64 && depth <= kPanelBytes / (kPanelPitch<T> * int64_t(sizeof(T)));
}

// Tiles whose rows can't be stored as vectors. Where filters are contiguous (channels-last), squares are transposed and stored
// pixel by pixel; else lane by lane.
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

// What tile number `tile` of `tiles` asks for of a panel, which has so many vectors from `pixels` on: its share of the channels,
// and of each a line a vector, from the end of the first one on, for that line holds the vector's rest wherever it begins.
template <class T>
static Requests requests_of_panel(const StripCall<T>& c, const T* pixels, int64_t vectors, int64_t tile, int64_t tiles) {
    const int64_t channels = ceil_div(c.depth, tiles), step = c.from_channel();
    Requests r{};
    r.at = reinterpret_cast<const char*>(pixels + kLanes<T> - 1 + tile * channels * step);
    r.rows = ceil_div(channels * kStepsBetweenRequests, c.depth);
    r.row_bytes = step * int64_t(sizeof(T));
    r.lines = ceil_div(vectors * kLanes<T>, kLine<T>);
    return r;
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
    const int64_t sweep = c.panels ? width : kTilesPerSweep * width;

    PixelVector vectors[Tiles::more_vectors];
    T buffer[Tiles::filters * Tiles::vectors > Tiles::few_filters * Tiles::more_vectors
                 ? Tiles::filters * Tiles::vectors * L
                 : Tiles::few_filters * Tiles::more_vectors * L];

    PixelTile<T> t;
    t.depth = c.depth;
    t.filter_stride = c.weight.filter_bytes / int64_t(sizeof(T));
    t.weight_step = c.shape.R * c.shape.S == 1 ? c.weight.channel_bytes / int64_t(sizeof(T)) : 1;
    t.strip = strip;
    t.panel = c.panels ? panel : nullptr;
    t.step = c.step;
    t.activation = c.activation;
    t.slope = c.slope;
    const bool next_tiles_outputs = c.depth < kDepthThatHidesOutputs;
    const int64_t heights = ceil_div(last_filter - first_filter, height);
    for (int64_t v0 = 0; v0 < count; v0 += sweep) {
        const int64_t v1 = smaller(count, v0 + sweep);
        const int64_t v2 = smaller(count, v1 + sweep);
        for (int64_t k = first_filter; k < last_filter; k += height) {
            const int64_t tall = smaller(height, last_filter - k);
            const int64_t filter = b.g * c.filters() + k;
            t.weight = reinterpret_cast<const T*>(c.weight.at(b.g, k, 0));
            t.bias = c.bias + filter;
            char* output = c.output_plane(b.n, filter) + b.y * c.output.stride_bytes[2] + b.x * c.output.stride_bytes[3];
            for (int64_t v = v0, wide; v < v1; v += wide) {
                wide = smaller(width, v1 - v);
                t.vectors = list + v;
                const bool from_panel = c.panels && k > first_filter;
                const auto find = from_panel ? find_pixel_tile<T, true> : find_pixel_tile<T, false>;
                t.requests = {};
                if (from_panel && c.in_place && v2 > v1) {
                    const int64_t tile = (k - first_filter) / height - 1;
                    t.requests = requests_of_panel(c, strip + list[v1].strip, v2 - v1, tile, heights - 1);
                }
                if (c.rows_stored) {
                    t.output = output;
                    t.output_filter_bytes = c.output.stride_bytes[1];
                    const int64_t prefetched = next_tiles_outputs ? v + wide : v;
                    t.prefetched = list + prefetched;
                    t.prefetched_count = int(smaller(width, v1 - prefetched));
                    find(int(tall), int(wide))(t);
                    continue;
                }
                for (int64_t j = 0; j < wide; j++)
                    vectors[j] = {t.vectors[j].strip, j * L, 0, 0, (uint32_t(1) << L) - 1};
                t.vectors = vectors;
                t.prefetched_count = 0;
                t.output = reinterpret_cast<char*>(buffer);
                t.output_filter_bytes = wide * L * int64_t(sizeof(T));
                find(int(tall), int(wide))(t);
                scatter_tile(buffer, tall, wide, list + v, pitch, output, c.output.stride_bytes);
            }
        }
    }
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
