// Transposed convolution by phases, filters in lanes: deep layers on planes too small to fill vectors of pixels.
//
//             2 vectors of filters of one phase
//           +----------------+----------------+
//   up to   |                |                |   pixels of one row of positions are broadcast from the strip; packed weights are
//   14      |                |                |   loaded; rows of the window that see only padding are skipped
//   pixels  +----------------+----------------+
//
// Where rows are shorter than that, a tile takes the same row of several images: of 16 images of 1024 channels of 4 x 4, with 4 x
// 4 windows and stride 2, to 512, two threads take 16.5 ms, where four pixels at a time took 33.
//
// A band of rows of one phase of x waits in tiles for the other phases, is transposed to rows of pixels, and interleaved
// (conv_transpose2d_phases.hpp). All images that fit stand side by side in one strip, so that a phase's weights of a panel, half
// a MiB at 1024 channels, are read once for all of them.
#pragma once

#include "conv_transpose2d_phases.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int64_t kImagesBytes = 2 * 1024 * 1024;  // of strips side by side
constexpr int64_t kTilesBytes = 256 * 1024;        // of products that wait for the other phases', or else one row of one image

// Depth runs (r, s, k): rows of the window that see only padding cut it short at either end. The tile is
// [image][pixel][2 * lanes].
template <class T>
struct ChannelTile {
    int64_t depth;
    const T *packed, *pixels;
    int64_t image_stride;
    const int32_t* offset;
    const T* bias;
    T* tile;
    Activation activation;
    T slope;
};

template <class T, int MT, int IMAGES = 1>
FASTCV_NOINLINE void channel_tile(const ChannelTile<T>& t) {
    constexpr int L = kLanes<T>, NV = 2;
    Vec<T> acc[MT][NV];
    start_tile<T, MT, NV>(acc, t.bias);
    channel_lanes<T, MT, NV, IMAGES>(acc, t.depth, t.packed, t.pixels, t.offset, t.image_stride);
    activate_tile<T, MT, NV>(acc, t.activation, t.slope);
    store_tile<T, MT, NV>(acc, t.tile, 2 * L);
}

template <class T>
using ChannelTileFunction = void (*)(const ChannelTile<T>&);

// A phase's product: weights [group][panel][tap][channel][2 * lanes] from `weight` on, and where its pixels lie.
struct ChannelPhase {
    int64_t depth, weight;
    const int32_t* offset;
};

// Pixels of a tile: no more than a square has.
template <class T>
constexpr int64_t kTilePixels = StripTiles<T>::pixels < kLanes<T> ? StripTiles<T>::pixels : kLanes<T>;

template <class T, int MT = 1>
static ChannelTileFunction<T> find_channel_tile(int64_t pixels) {
    if constexpr (MT < kTilePixels<T>) {
        if (pixels > MT) return find_channel_tile<T, MT + 1>(pixels);
    }
    return channel_tile<T, MT>;
}

template <class T>
static int64_t panels_of_group(const Conv2dShape& s) {
    return ceil_div(s.C / s.G, 2 * kLanes<T>);
}
template <class T>
static int64_t channel_phase_weights(const Conv2dShape& s) {
    return s.G * panels_of_group<T>(s) * 2 * kLanes<T> * (s.K / s.G) * s.R * s.S;
}

// Fills phase[] but for the offsets.
template <class T>
static void lay_out_phases(const Conv2dShape& s, const PhaseAxes& axes, ChannelPhase* phase) {
    for (int64_t i = 0, weight = 0; i < axes.phases(); weight += phase[i++].depth * s.G * panels_of_group<T>(s) * 2 * kLanes<T>)
        phase[i] = {s.K / s.G * axes.taps_of(i), weight, nullptr};
}

// Where tap (r, t) goes: panel p of all groups' and channel c to start + p * stride + c * 2 * lanes.
template <class T>
static void place_taps(const Conv2dShape& s, const PhaseAxes& axes, const ChannelPhase* phase, TapPlace* place) {
    constexpr int64_t width = 2 * kLanes<T>;
    for (int64_t i = 0; i < s.R * s.S; i++) place[i].start = -1;
    const PhaseAxis &py = axes.y, &px = axes.x;
    for (int64_t i = 0; i < axes.phases(); i++) {
        int64_t start = phase[i].weight;
        for (int64_t r = py.first_tap(i / px.phases()); r < s.R; r += py.tap_step())
            for (int64_t t = px.first_tap(i % px.phases()); t < s.S; t += px.tap_step(), start += s.K / s.G * width)
                place[r * s.S + t] = {start, phase[i].depth * width};
    }
}

// Zeros stand behind the last filter.
template <class T>
static void pack_channel_phases(const Conv2dShape& s, const TapPlace* place, Tensor weight, T* to, Team team) {
    constexpr int64_t L = kLanes<T>, width = 2 * L, size = int64_t(sizeof(T));
    const int64_t* b = weight.stride_bytes;
    const int64_t filters = s.C / s.G, channels = s.K / s.G, window = s.R * s.S, panels = panels_of_group<T>(s);
    const bool contiguous = (s.S == 1 || b[3] == size) && (s.R == 1 || b[2] == s.S * size);
    const int64_t halves = s.G * panels * 2;
    for (int64_t half = team.begin(halves); half < team.end(halves); half++) {
        const int64_t g = half / 2 / panels, k = half / 2 % panels * width + half % 2 * L;
        const int64_t count = smaller(L, larger(0, filters - k));
        for (int64_t c = 0; c < channels; c++) {
            const char* from = weight.data + (g * channels + c) * b[0] + k * b[1];
            for (int64_t first = 0; first < window; first += L) {
                const int64_t last = smaller(window, first + L);
                Vec<T> square[L];  // filters x taps, then taps x filters
                if (contiguous) {
                    FASTCV_UNROLL for (int64_t i = 0; i < L; i++)
                        square[i] =
                            i < count ? load_first(reinterpret_cast<const T*>(from + i * b[1]) + first, window - first) : zero<T>();
                    transpose<T>(square);
                } else {
                    for (int64_t tap = first; tap < last; tap++) {
                        square[tap - first] = zero<T>();
                        for (int64_t i = 0; i < count; i++)
                            square[tap - first][i] = load_scalar<T>(from + i * b[1] + tap / s.S * b[2] + tap % s.S * b[3]);
                    }
                }
                for (int64_t tap = first; tap < last; tap++)
                    if (place[tap].start >= 0)
                        store(to + place[tap].start + half / 2 * place[tap].stride + c * width + half % 2 * L, square[tap - first]);
            }
        }
    }
}

template <class T>
struct ChannelPhaseCall {
    Conv2dShape shape;
    Tensor output;
    PhaseAxes axes;
    Strip strip;
    int64_t band;  // rows of positions that a phase covers before the next one
    const ChannelPhase* phase;
    const T *weights, *bias;
    Activation activation;
    T slope;
};

// How many images share a tile, which then has the whole row of each. Images of one column do not: they would need as many tiles
// again.
template <class T>
static int64_t images_of_tile(int64_t positions) {
    return positions > 1 && positions <= kTilePixels<T> ? StripTiles<T>::pixels / positions : 1;
}
template <class T, int PIXELS = 2, int IMAGES = 2>
static ChannelTileFunction<T> find_images_tile(int64_t pixels, int64_t images) {
    constexpr int most = StripTiles<T>::pixels;
    if constexpr (PIXELS * 2 + 2 <= most) {
        if (pixels > PIXELS) return find_images_tile<T, PIXELS + 1>(pixels, images);
    }
    if constexpr (PIXELS * IMAGES + PIXELS <= most) {
        if (images > IMAGES) return find_images_tile<T, PIXELS, IMAGES + 1>(pixels, images);
    }
    return channel_tile<T, PIXELS * IMAGES, IMAGES>;
}

// How a row of positions of several images is cut into tiles, which lie one behind the other, [image][pixel][2 * lanes] each.
template <class T>
struct ChannelTiles {
    int64_t images, positions;
    int64_t groups = ceil_div(images, images_of_tile<T>(positions)), pieces = ceil_div(positions, kTilePixels<T>);

    int64_t row_elements() const { return images * positions * 2 * kLanes<T>; }
    // body(image, images, position, positions, elements into a row): every tile of a row.
    template <class Body>
    void for_each(const Body& body) const {
        for (int64_t i = 0; i < groups; i++) {
            const int64_t n = images * i / groups, some = images * (i + 1) / groups - n;
            for (int64_t piece = 0; piece < pieces; piece++) {
                const int64_t x = positions * piece / pieces, pixels = positions * (piece + 1) / pieces - x;
                body(n, some, x, pixels, (n * positions + some * x) * 2 * kLanes<T>);
            }
        }
    }
};

// One image's part of a tile, of each phase of x `phase_elements` behind the last: turned to rows of pixels, and interleaved into
// row `to` of `filters` planes, from position x on.
template <class T>
static void store_channel_phases(const ChannelPhaseCall<T>& c, const T* tile, int64_t phase_elements, int64_t x, int64_t pixels,
                                 int64_t filters, char* to, T* rows, const T** phase_row) {
    constexpr int64_t L = kLanes<T>, width = 2 * L;
    const PhaseAxis& px = c.axes.x;
    for (int64_t p = 0; p < px.phases(); p++)
        for (int64_t half = 0; half < 2; half++) {
            Vec<T> square[L];
            FASTCV_UNROLL for (int64_t j = 0; j < L; j++)
                square[j] = j < pixels ? load(tile + p * phase_elements + j * width + half * L) : zero<T>();
            transpose<T>(square);
            FASTCV_UNROLL for (int64_t j = 0; j < L; j++) store(rows + (p * width + half * L + j) * L, square[j]);
        }
    for (int64_t k = 0; k < filters; k++) {
        for (int64_t p = 0; p < px.phases(); p++) phase_row[p] = rows + (p * width + k) * L;
        interleave_row(phase_row, px.phases(), 0, pixels, to + k * c.output.stride_bytes[1], c.output.stride_bytes[3], x * px.stride,
                       c.shape.W);
    }
}

// One panel of filters, `images` images from n0 on: a phase of rows at a time, so that its weights stay near for all rows and
// images. tile[phase of x][y][tile][..] and rows[phase of x][filter][lanes] are scratch.
template <class T>
static void channel_phases(const ChannelPhaseCall<T>& c, const T* strip, int64_t n0, int64_t images, int64_t g, int64_t panel, T* tile,
                           T* rows, const T** phase_row) {
    constexpr int64_t width = 2 * kLanes<T>;
    const Conv2dShape& s = c.shape;
    const PhaseAxis &py = c.axes.y, &px = c.axes.x;
    const int64_t all_panels = panels_of_group<T>(s), channels = s.K / s.G, count = smaller(width, s.C / s.G - panel * width);
    const ChannelTiles<T> tiles{images, c.strip.x.output};
    const int64_t row_elements = tiles.row_elements(), phase_elements = c.band * row_elements;
    const int64_t* stride = c.output.stride_bytes;
    char* planes = c.output.data + n0 * stride[0] + (g * (s.C / s.G) + panel * width) * stride[1];
    ChannelTile<T> t{};
    t.image_stride = c.strip.columns;
    t.bias = c.bias + (g * all_panels + panel) * width;
    t.activation = c.activation;
    t.slope = c.slope;
    for (int64_t i = 0; i < py.phases(); i++) {
        const int64_t height = ceil_div(s.H - i, py.stride), tap = py.first_tap(i), step = py.tap_step();
        for (int64_t y0 = 0; y0 < height; y0 += c.band) {
            const int64_t y1 = smaller(height, y0 + c.band);
            for (int64_t p = 0; p < px.phases(); p++) {
                const ChannelPhase& phase = c.phase[i * px.phases() + p];
                const int64_t row = px.taps_of(p) * channels;
                for (int64_t y = y0; y < y1; y++) {
                    // Rows of the window inside the input: the taps of a phase go up, their pixels down.
                    int64_t r0 = 0, r1 = py.taps_of(i);
                    while (r0 < r1 && y + py.shift(i, tap + r0 * step) >= s.P) r0++;
                    while (r1 > r0 && y + py.shift(i, tap + (r1 - 1) * step) < 0) r1--;
                    t.depth = (r1 - r0) * row;
                    t.packed = c.weights + phase.weight + ((g * all_panels + panel) * phase.depth + r0 * row) * width;
                    t.offset = phase.offset + r0 * row;
                    T* to = tile + p * phase_elements + (y - y0) * row_elements;
                    tiles.for_each([&](int64_t n, int64_t some, int64_t x, int64_t pixels, int64_t at) {
                        t.pixels = strip + y * c.strip.pitch + n * c.strip.columns + x;
                        t.tile = to + at;
                        (some > 1 ? find_images_tile<T>(pixels, some) : find_channel_tile<T>(pixels))(t);
                    });
                }
            }
            for (int64_t y = y0; y < y1; y++)
                tiles.for_each([&](int64_t n, int64_t some, int64_t x, int64_t pixels, int64_t at) {
                    for (int64_t image = 0; image < some; image++)
                        store_channel_phases(c, tile + (y - y0) * row_elements + at + image * pixels * width, phase_elements, x, pixels,
                                             count, planes + (n + image) * stride[0] + (y * py.stride + i) * stride[2], rows,
                                             phase_row);
                });
        }
    }
}

// Of whole images, side by side.
template <class T>
static Strip strip_of_images(const Conv2dShape& s, const PhaseAxes& axes, int64_t images) {
    const Axis y = axes.y.window(s.P), x = axes.x.window(s.Q);
    return make_strip<T>(y, x, s.K / s.G, y.output, x.output, images);
}

// How many fit: their strip, and one row of their products.
template <class T>
static int64_t most_images(const Conv2dShape& s, const PhaseAxes& axes) {
    constexpr int64_t size = int64_t(sizeof(T));
    const Strip one = strip_of_images<T>(s, axes, 1);
    const int64_t row_bytes = ChannelTiles<T>{1, one.x.output}.row_elements() * axes.x.phases() * size;
    int64_t images = smaller(s.N, smaller(kImagesBytes / (one.elements * size), kTilesBytes / row_bytes));
    // Side by side they share no padding, and each row ends in a vector more.
    while (images > 1 && strip_of_images<T>(s, axes, images).elements * size > kImagesBytes) images -= ceil_div(images, 8);
    return larger(1, images);
}

// Whether vectors of pixels would be so empty that this pays. Each thread holds the strip of some images.
template <class T>
static bool prefers_channel_phases(const Conv2dShape& s) {
    constexpr int64_t L = kLanes<T>;
    const PhaseAxes axes(s, false);
    const Axis y = axes.y.window(s.P), x = axes.x.window(s.Q);
    const int64_t filters = s.C / s.G, depth = s.K / s.G * ceil_div(s.R, s.stride_h) * ceil_div(s.S, s.stride_w);
    if (filters < L || depth < 128 || axes.phases() > 16 || strip_too_large(y, x, s.K / s.G)) return false;
    if (double(strip_of_images<T>(s, axes, 1).elements) * sizeof(T) > kImagesBytes) return false;
    const int64_t pitch = x.output + x.steps(), by_rows = y.output * ceil_div(x.output, L);
    const double pixel_lanes = double(y.output * x.output) / double(L * smaller(by_rows, ceil_div(y.output * pitch, L)));
    const double filter_lanes = double(filters) / double(round_up(filters, 2 * L));
    return pixel_lanes < 0.96 * filter_lanes;
}

// `packed` may be null: the weights are then packed for this call.
template <class T>
static Status conv_transpose2d_channels(const Conv2dShape& s, Tensor input, Tensor weight, const T* packed, Tensor output,
                                        const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>, width = 2 * L, size = int64_t(sizeof(T));
    const PhaseAxes axes(s, false);
    const PhaseAxis &py = axes.y, &px = axes.x;
    const int64_t channels = s.K / s.G, panels = panels_of_group<T>(s);
    const int64_t most = most_images<T>(s, axes), chunks = ceil_div(s.N, most), together = ceil_div(s.N, chunks);
    const Strip strip = strip_of_images<T>(s, axes, together);
    const int64_t row_bytes = ChannelTiles<T>{together, strip.x.output}.row_elements() * px.phases() * size;
    const int64_t band = smaller(strip.y.output, larger(1, kTilesBytes / row_bytes));
    const int threads = threads_for(2 * multiply_adds(s));

    const int64_t phase_bytes = round_up(axes.phases() * int64_t(sizeof(ChannelPhase)), 64);
    const int64_t offset_bytes = round_up(channels * s.R * s.S * 4, 64);
    const int64_t place_bytes = packed ? 0 : round_up(s.R * s.S * int64_t(sizeof(TapPlace)), 64);
    const int64_t weight_bytes = packed ? 0 : round_up(channel_phase_weights<T>(s) * size, 64);
    const int64_t bias_bytes = round_up(s.G * panels * width * size, 64);
    const int64_t tile_bytes = band * row_bytes, turned_bytes = L * px.phases() * width * size;
    const int64_t pointer_bytes = round_up(px.phases() * int64_t(sizeof(T*)), 64);
    const int64_t thread_bytes = tile_bytes + turned_bytes + pointer_bytes + round_up(strip.elements * size, 64);
    Scratch scratch(phase_bytes + offset_bytes + place_bytes + weight_bytes + bias_bytes + threads * thread_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    char* free_part = scratch.data();
    const auto take = [&](int64_t bytes) { return (free_part += bytes) - bytes; };
    ChannelPhase* phase = reinterpret_cast<ChannelPhase*>(take(phase_bytes));
    int32_t* offset = reinterpret_cast<int32_t*>(take(offset_bytes));
    TapPlace* place = reinterpret_cast<TapPlace*>(take(place_bytes));
    T* fresh = reinterpret_cast<T*>(take(weight_bytes));
    T* bias = reinterpret_cast<T*>(take(bias_bytes));
    char* per_thread = free_part;

    lay_out_phases<T>(s, axes, phase);
    for (int64_t i = 0; i < axes.phases(); i++) {
        phase[i].offset = offset;
        const int64_t a = i / px.phases(), b = i % px.phases();
        for (int64_t r = py.first_tap(a); r < s.R; r += py.tap_step())
            for (int64_t t = px.first_tap(b); t < s.S; t += px.tap_step()) {
                const int64_t first = strip.offset(py.shift(a, r) + strip.y.pad, px.shift(b, t) + strip.x.pad);
                for (int64_t k = 0; k < channels; k++) *offset++ = int32_t(first + k * strip.channel);
            }
    }
    if (!packed) place_taps<T>(s, axes, phase, place);
    for (int64_t i = 0; i < s.G * panels * width; i++) bias[i] = 0;
    if (epilogue.bias)
        for (int64_t k = 0, filters = s.C / s.G; k < s.C; k++)
            bias[k / filters * panels * width + k % filters] = load_scalar<T>(epilogue.bias + k * epilogue.bias_stride_bytes);
    const ChannelPhaseCall<T> c{s,    output, axes, strip, band, phase, packed ? packed : fresh, bias, epilogue.activation,
                                T(epilogue.slope)};

    const int64_t items = chunks * s.G * panels;
    parallel(threads, [&](Team team) {
        if (!packed) {
            pack_channel_phases(s, place, weight, fresh, team);
            team.wait_for_all();
        }
        char* mine = per_thread + team.id * thread_bytes;
        T* tile = reinterpret_cast<T*>(mine);
        T* rows = reinterpret_cast<T*>(mine + tile_bytes);
        const T** phase_row = reinterpret_cast<const T**>(mine + tile_bytes + turned_bytes);
        T* images = reinterpret_cast<T*>(mine + tile_bytes + turned_bytes + pointer_bytes);
        for (int64_t item = team.begin(items), filled = -1; item < team.end(items); item++) {
            const int64_t panel = item % panels, g = item / panels % s.G, chunk = item / panels / s.G;
            const int64_t n0 = s.N * chunk / chunks, count = s.N * (chunk + 1) / chunks - n0;
            if (filled != item / panels) {
                filled = item / panels;
                for (int64_t n = 0; n < count; n++) {
                    const Planes in{input.data + (n0 + n) * input.stride_bytes[0] + g * channels * input.stride_bytes[1],
                                    input.stride_bytes[1], input.stride_bytes[2], input.stride_bytes[3]};
                    fill_strip(strip, images + n * strip.columns, in, 0, 0, strip.rows);
                }
            }
            channel_phases(c, images, n0, count, g, panel, tile, rows, phase_row);
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
