// Transposed convolution, which is the input gradient of convolution, with a stride: each output is written once.
//
//   output[c][y][x] = sum over k, r, s with y + pad - r * d = p * stride (x likewise) of weight[k][c][r][s] * input[k][p][q]
//
// Outputs equal modulo the stride form stride * stride phases. In each, the taps that meet it are fixed, so a phase is a small
// ordinary convolution with stride 1 over `input`: no zeros are inserted, no columns buffered. All phases read one padded strip
// (strip.h) through the pixel-lane tiles of conv2d_strip.hpp; their results wait in a first-level buffer until a row's phases
// can be interleaved:
//
//   phase x = 0:  a0 a1 a2 ..  --.
//                                +-->  a0 b0 a1 b1 a2 b2 ..   one contiguous row of output
//   phase x = 1:  b0 b1 b2 ..  --.
//
// Here `input` is (N, K, P, Q) and `output` (N, C, H, W): the letters are those of the convolution that this is the gradient of.
// With stride 1 there is one phase, and the turned weights make it an ordinary convolution: conv2d.hpp sends it there.
#pragma once

#include "conv2d_strip.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// One dimension's phases: which taps meet a phase, and how far they reach.
struct PhaseAxis {
    int64_t size, stride, pad, taps, dilation;

    // Taps r with (phase + pad - r * dilation) divisible by the stride: first, and from one to the next.
    int64_t first_tap(int64_t phase) const {
        for (int64_t r = 0; r < taps && r < stride; r++)
            if ((phase + pad - r * dilation) % stride == 0) return r;
        return taps;
    }
    int64_t tap_step() const { return Axis{0, 0, taps, stride, 0, dilation}.cycle(); }
    // Input position of a tap, relative to the output's index within its phase.
    int64_t shift(int64_t phase, int64_t tap) const { return (phase + pad - tap * dilation) / stride; }
    int64_t phases() const { return smaller(stride, size); }

    // The stride-1 window that holds every tap of every phase.
    Axis window(int64_t input) const {
        int64_t low = 0, high = 0;
        bool any = false;
        for (int64_t phase = 0; phase < phases(); phase++)
            for (int64_t r = first_tap(phase); r < taps; r += tap_step()) {
                const int64_t at = shift(phase, r);
                low = any ? smaller(low, at) : at;
                high = any ? larger(high, at) : at;
                any = true;
            }
        return {input, ceil_div(size, stride), high - low + 1, 1, -low, 1};
    }
};

struct Phase {
    int64_t depth, weight;  // elements into the packed weights
    const DepthStep* steps;
};

// to[filter][k][r][t]: the taps of one phase, which lie far apart in memory and are read for every tile of positions.
template <class T>
static void pack_phase(const Conv2dShape& s, const PhaseAxis& py, const PhaseAxis& px, int64_t y, int64_t x, const Weights& w, T* to,
                       Team team) {
    const int64_t filters = s.C / s.G, channels = s.K / s.G;
    const int64_t r0 = py.first_tap(y), r_step = py.tap_step(), t0 = px.first_tap(x), t_step = px.tap_step();
    const int64_t window = ceil_div(larger(0, s.R - r0), r_step) * ceil_div(larger(0, s.S - t0), t_step);
    const int64_t depth = channels * window, first = r0 * w.row_bytes + t0 * w.column_bytes;
    if (depth == 0) return;
    if (window == 1 && w.filter_bytes == int64_t(sizeof(T))) {
        // A matrix with filters contiguous: squares are transposed.
        constexpr int64_t L = kLanes<T>;
        const int64_t squares = ceil_div(channels, L);
        for (int64_t i = team.begin(s.G * squares); i < team.end(s.G * squares); i++)
            for (int64_t k = 0, c = i % squares * L; k < filters; k += L) {
                Vec<T> square[L];
                FASTCV_UNROLL for (int64_t j = 0; j < L; j++)
                    square[j] = c + j < channels
                                    ? load_first(reinterpret_cast<const T*>(w.at(i / squares, k, c + j) + first), filters - k)
                                    : zero<T>();
                transpose<T>(square);
                FASTCV_UNROLL for (int64_t j = 0; j < L; j++)
                    if (k + j < filters) store_first(to + (i / squares * filters + k + j) * depth + c, square[j], channels - c);
            }
        return;
    }
    // Channels are the outer loop because filters lie closer together in memory.
    for (int64_t i = team.begin(s.K); i < team.end(s.K); i++)
        for (int64_t k = 0, g = i / channels, c = i % channels; k < filters; k++) {
            const char* from = w.at(g, k, c);
            T* p = to + (g * filters + k) * depth + c * window;
            for (int64_t r = r0; r < s.R; r += r_step)
                for (int64_t t = t0; t < s.S; t += t_step)
                    *p++ = load_scalar<T>(from + r * w.row_bytes + t * w.column_bytes);
        }
}

// Interleaves `count` columns of `stride` phases into a row: phase x of column j goes to j * stride + x, up to `limit`.
template <class T>
static void interleave_row(const T* const* phase, int64_t stride, int64_t count, char* output, int64_t column_bytes, int64_t limit) {
    constexpr int64_t L = kLanes<T>;
    if (stride == 2 && column_bytes == int64_t(sizeof(T))) {
        T* to = reinterpret_cast<T*>(output);
        for (int64_t j = 0; j < count; j += L) {
            const Vec<T> a = load(phase[0] + j), b = load(phase[1] + j);
            store_first(to + 2 * j, interleave_low<T>(a, b), limit - 2 * j);
            store_first(to + 2 * j + L, interleave_high<T>(a, b), limit - 2 * j - L);
        }
        return;
    }
    for (int64_t x = 0; x < stride; x++)
        for (int64_t j = 0; j < count && j * stride + x < limit; j++)
            store_scalar(output + (j * stride + x) * column_bytes, phase[x][j]);
}

template <class T>
static Status conv_transpose2d_phases(const Conv2dShape& s, Tensor input, Tensor weight, Tensor output, const Epilogue& epilogue) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    using Tiles = StripTiles<T>;
    const PhaseAxis py{s.H, s.stride_h, s.pad_top, s.R, s.dilation_h}, px{s.W, s.stride_w, s.pad_left, s.S, s.dilation_w};
    const int64_t phases = py.phases() * px.phases();

    StripCall<T> c;
    c.y = py.window(s.P);
    c.x = px.window(s.Q);
    c.shape = s;  // of the stride-1 convolution over all phases' taps
    c.shape.C = s.K, c.shape.H = s.P, c.shape.W = s.Q;
    c.shape.K = s.C, c.shape.P = c.y.output, c.shape.Q = c.x.output;
    c.shape.R = c.y.taps, c.shape.S = c.x.taps;
    c.input = input;
    c.output = output;
    c.in_place = false;
    if (strip_too_large(c.y, c.x, c.channels())) return Status::out_of_memory;
    c.activation = epilogue.activation;
    c.slope = T(epilogue.slope);
    const int threads = threads_for(2 * multiply_adds(s));
    c.blocks = cut_into_blocks<T>(c.shape, c.y, c.x, threads, false);
    c.strip = make_strip<T>(c.y, c.x, c.channels(), c.blocks.rows, c.blocks.columns);

    if (c.strip.elements > INT32_MAX) return Status::out_of_memory;
    const int64_t filters = c.filters();
    const int64_t height = smaller(filters, Tiles::filters);
    const int64_t tile_elements = height * Tiles::vectors * L;
    const int64_t offsets = c.channels() * s.R * s.S;
    const int64_t phase_bytes = round_up(phases * int64_t(sizeof(Phase)), 64);
    const int64_t offset_bytes = round_up(offsets * int64_t(sizeof(DepthStep)), 64);
    const int64_t* b = weight.stride_bytes;
    const Weights exchanged{weight.data, s.K / s.G * b[0], b[1], b[0], b[2], b[3]};
    const int64_t weight_bytes = round_up(s.K * (s.C / s.G) * s.R * s.S * size, 64);
    const int64_t bias_bytes = round_up((s.C + L) * size, 64);
    const int64_t list_bytes = round_up((2 * kVectorsPerBlock + 4) * int64_t(sizeof(PixelVector)), 64);
    const int64_t tile_bytes = round_up(phases * tile_elements * size, 64);
    const int64_t row_bytes = round_up(px.phases() * int64_t(sizeof(T*)), 64);
    const int64_t thread_bytes = list_bytes + tile_bytes + row_bytes + round_up(c.strip.elements * size, 64);
    Scratch scratch(phase_bytes + offset_bytes + weight_bytes + bias_bytes + threads * thread_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    Phase* phase = reinterpret_cast<Phase*>(scratch.data());
    DepthStep* step = reinterpret_cast<DepthStep*>(scratch.data() + phase_bytes);
    T* weights = reinterpret_cast<T*>(scratch.data() + phase_bytes + offset_bytes);
    T* bias = reinterpret_cast<T*>(scratch.data() + phase_bytes + offset_bytes + weight_bytes);
    char* per_thread = scratch.data() + phase_bytes + offset_bytes + weight_bytes + bias_bytes;

    for (int64_t i = 0; i < s.C + L; i++)
        bias[i] = epilogue.bias && i < s.C ? load_scalar<T>(epilogue.bias + i * epilogue.bias_stride_bytes) : T(0);
    int64_t weight_at = 0;
    for (int64_t i = 0; i < phases; i++) {
        const int64_t y = i / px.phases(), x = i % px.phases();
        phase[i].steps = step;
        phase[i].weight = weight_at;
        const int64_t r0 = py.first_tap(y), r_step = py.tap_step(), t0 = px.first_tap(x), t_step = px.tap_step();
        for (int64_t k = 0; k < c.channels(); k++)
            for (int64_t r = r0; r < s.R; r += r_step)
                for (int64_t t = t0; t < s.S; t += t_step, step++)
                    *step = {int32_t(c.strip.offset(k, py.shift(y, r) + c.y.pad, px.shift(x, t) + c.x.pad)),
                             int32_t(step - phase[i].steps)};
        phase[i].depth = step - phase[i].steps;
        weight_at += phase[i].depth * s.C;
    }

    const int64_t items = s.N * s.G * c.blocks.per_image() * c.blocks.filter_parts;
    parallel(threads, [&](Team team) {
        for (int64_t i = 0; i < phases; i++)
            pack_phase(s, py, px, i / px.phases(), i % px.phases(), exchanged, weights + phase[i].weight, team);
        team.wait_for_all();
        char* mine = per_thread + team.id * thread_bytes;
        PixelVector* list = reinterpret_cast<PixelVector*>(mine);
        T* tiles = reinterpret_cast<T*>(mine + list_bytes);
        const T** row = reinterpret_cast<const T**>(mine + list_bytes + tile_bytes);
        T* buffer = reinterpret_cast<T*>(mine + list_bytes + tile_bytes + row_bytes);
        for (int64_t item = team.begin(items); item < team.end(items); item++) {
            const Block block = block_at(c, item / c.blocks.filter_parts);
            const int64_t part = item % c.blocks.filter_parts, all_tiles = ceil_div(filters, height);
            const T* strip = strip_of_block(c, block, buffer);
            // Row by row, so that a tile's vectors are neighbours in one row.
            const int64_t per_row = ceil_div(block.columns, L);
            const int64_t last = smaller(filters, all_tiles * (part + 1) / c.blocks.filter_parts * height);
            for (int64_t k = all_tiles * part / c.blocks.filter_parts * height; k < last; k += height) {
                const int64_t tall = smaller(height, last - k), filter = block.g * filters + k;
                for (int64_t y = 0; y < block.rows; y++)
                    for (int64_t v = 0, wide; v < per_row; v += wide) {
                        wide = smaller(Tiles::vectors, per_row - v);
                        for (int64_t j = 0; j < wide; j++)
                            list[j] = {y * c.strip.pitch + (v + j) * L, j * L, 0, 0, (uint32_t(1) << L) - 1};
                        PixelTile<T> t{};
                        t.strip = strip;
                        t.vectors = list;
                        t.bias = bias + filter;
                        t.output_filter_bytes = wide * L * size;
                        t.activation = c.activation;
                        t.slope = c.slope;
                        for (int64_t i = 0; i < phases; i++) {
                            t.depth = t.filter_stride = phase[i].depth;
                            t.weight = weights + phase[i].weight + filter * phase[i].depth;
                            t.step = phase[i].steps;
                            t.output = reinterpret_cast<char*>(tiles + i * tile_elements);
                            find_pixel_tile<T>(int(tall), int(wide))(t);
                        }
                        const int64_t column = (block.x + v * L) * px.stride;
                        for (int64_t m = 0; m < tall; m++)
                            for (int64_t i = 0; i < py.phases(); i++) {
                                const int64_t out_row = (block.y + y) * py.stride + i;
                                if (out_row >= s.H) break;
                                for (int64_t x = 0; x < px.phases(); x++)
                                    row[x] = tiles + (i * px.phases() + x) * tile_elements + m * wide * L;
                                const int64_t columns = smaller(wide * L, block.columns - v * L);
                                interleave_row(row, px.phases(), columns,
                                               c.output_plane(block.n, filter + m) + out_row * output.stride_bytes[2] +
                                                   column * output.stride_bytes[3],
                                               output.stride_bytes[3], s.W - column);
                            }
                    }
            }
        }
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
