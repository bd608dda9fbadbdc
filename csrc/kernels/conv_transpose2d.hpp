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
// With stride 1 there is one phase, and the turned weights make it an ordinary convolution, Winograd included.
#pragma once

#include "conv2d.hpp"

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
    int64_t taps_of(int64_t phase) const { return ceil_div(larger(0, taps - first_tap(phase)), tap_step()); }

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

// Weights as [phase][group][filter][channel][tap].
template <class T>
static void pack_phases(const Conv2dShape& s, Tensor weight, T* to, Team team) {
    const PhaseAxis py{s.H, s.stride_h, s.pad_top, s.R, s.dilation_h}, px{s.W, s.stride_w, s.pad_left, s.S, s.dilation_w};
    const int64_t* b = weight.stride_bytes;
    const Weights exchanged{weight.data, s.K / s.G * b[0], b[1], b[0], b[2], b[3]};
    for (int64_t y = 0; y < py.phases(); y++)
        for (int64_t x = 0; x < px.phases(); x++) {
            pack_phase(s, py, px, y, x, exchanged, to, team);
            to += s.K * (s.C / s.G) * py.taps_of(y) * px.taps_of(x);
        }
}

// `packed` may be null: the weights are then packed for this call.
template <class T>
static Status conv_transpose2d_phases(const Conv2dShape& s, Tensor input, Tensor weight, const T* packed, Tensor output,
                                      const Epilogue& epilogue) {
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
    const int64_t weight_bytes = packed ? 0 : round_up(s.K * (s.C / s.G) * s.R * s.S * size, 64);
    const int64_t bias_bytes = round_up((s.C + L) * size, 64);
    const int64_t list_bytes = round_up((2 * kVectorsPerBlock + 4) * int64_t(sizeof(PixelVector)), 64);
    const int64_t tile_bytes = round_up(phases * tile_elements * size, 64);
    const int64_t row_bytes = round_up(px.phases() * int64_t(sizeof(T*)), 64);
    const int64_t thread_bytes = list_bytes + tile_bytes + row_bytes + round_up(c.strip.elements * size, 64);
    Scratch scratch(phase_bytes + offset_bytes + weight_bytes + bias_bytes + threads * thread_bytes);
    if (!scratch.data()) return Status::out_of_memory;
    Phase* phase = reinterpret_cast<Phase*>(scratch.data());
    DepthStep* step = reinterpret_cast<DepthStep*>(scratch.data() + phase_bytes);
    T* fresh = reinterpret_cast<T*>(scratch.data() + phase_bytes + offset_bytes);
    const T* const weights = packed ? packed : fresh;
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
        if (!packed) {
            pack_phases(s, weight, fresh, team);
            team.wait_for_all();
        }
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

// The ordinary convolution that a transposed one with stride 1 is.
static Conv2dShape convolution_of(const Conv2dShape& s) {
    Conv2dShape g = s;
    g.C = s.K, g.H = s.P, g.W = s.Q;
    g.K = s.C, g.P = s.H, g.Q = s.W;
    g.pad_top = (s.R - 1) * s.dilation_h - s.pad_top;
    g.pad_left = (s.S - 1) * s.dilation_w - s.pad_left;
    g.stride_h = g.stride_w = 1;  // also where a stride is never taken
    return g;
}

// The window without taps that no output sees, and whether that is the whole window, so that packed weights serve it.
struct TransposedWindow {
    Conv2dShape shape;
    Tensor weight;
    bool whole;

    TransposedWindow(const Conv2dShape& s, Tensor w) : shape(clip_window(s)), weight(w) {
        weight.data += LiveTaps(vertical(s)).first * w.stride_bytes[2] + LiveTaps(horizontal(s)).first * w.stride_bytes[3];
        whole = shape.R == s.R && shape.S == s.S && shape.stride_h == s.stride_h && shape.stride_w == s.stride_w &&
                s.H >= s.stride_h && s.W >= s.stride_w;
    }
};

static bool empty_output(const Conv2dShape& s) { return s.N == 0 || s.C == 0 || s.H == 0 || s.W == 0; }

template <class T>
static ConvTranspose2dChoice choose_transposed(const Conv2dShape& s, bool packed) {
    if (empty_output(s)) return {ConvTranspose2dChoice::phases, {}};
    const Conv2dShape clipped = clip_window(s);
    if (clipped.stride_h > 1 || clipped.stride_w > 1) return {ConvTranspose2dChoice::phases, {}};
    return {ConvTranspose2dChoice::convolution, choose<T>(convolution_of(s), Conv2dAlgorithm::automatic, packed)};
}

template <class T>
static Status run_transposed(const Conv2dShape& s, const ConvTranspose2dChoice& choice, const void* packed, Tensor input, Tensor weight,
                             Tensor output, const Epilogue& epilogue) {
    if (empty_output(s)) return Status::ok;
    if (choice.kind == ConvTranspose2dChoice::convolution)
        return run<T>(convolution_of(s), choice.as_convolution, packed, input, turned_weights(s, weight), output, epilogue);
    const TransposedWindow window(s, weight);
    return conv_transpose2d_phases<T>(window.shape, input, window.weight, window.whole ? static_cast<const T*>(packed) : nullptr, output,
                                      epilogue);
}

template <class T>
static int64_t packed_elements_transposed(const Conv2dShape& s, const ConvTranspose2dChoice& choice) {
    if (empty_output(s)) return 0;
    if (choice.kind == ConvTranspose2dChoice::convolution) return packed_elements<T>(convolution_of(s), choice.as_convolution);
    return TransposedWindow(s, Tensor{}).whole ? s.K * (s.C / s.G) * s.R * s.S : 0;
}

template <class T>
static bool pack_transposed(const Conv2dShape& s, const ConvTranspose2dChoice& choice, Tensor weight, T* to) {
    if (choice.kind == ConvTranspose2dChoice::convolution)
        return pack(convolution_of(s), choice.as_convolution, turned_weights(s, weight), to);
    parallel(threads_for(double(packed_elements_transposed<T>(s, choice))), [&](Team team) { pack_phases(s, weight, to, team); });
    return true;
}

// ---- the entries of the table

static ConvTranspose2dChoice conv_transpose2d_choose(const Conv2dShape& s, int itemsize, bool packed) {
    return itemsize == 4 ? choose_transposed<float>(s, packed) : choose_transposed<double>(s, packed);
}
static Status conv_transpose2d(const Conv2dShape& s, int itemsize, Tensor input, Tensor weight, Tensor output, const Epilogue& epilogue) {
    const ConvTranspose2dChoice choice = conv_transpose2d_choose(s, itemsize, false);
    return itemsize == 4 ? run_transposed<float>(s, choice, nullptr, input, weight, output, epilogue)
                         : run_transposed<double>(s, choice, nullptr, input, weight, output, epilogue);
}
static int64_t conv_transpose2d_packed_bytes(const Conv2dShape& s, int itemsize, const ConvTranspose2dChoice& choice) {
    return itemsize * (itemsize == 4 ? packed_elements_transposed<float>(s, choice) : packed_elements_transposed<double>(s, choice));
}
static bool conv_transpose2d_pack(const Conv2dShape& s, int itemsize, const ConvTranspose2dChoice& choice, Tensor weight, void* packed) {
    return itemsize == 4 ? pack_transposed(s, choice, weight, static_cast<float*>(packed))
                         : pack_transposed(s, choice, weight, static_cast<double*>(packed));
}
static Status conv_transpose2d_packed(const Conv2dShape& s, int itemsize, const ConvTranspose2dPacked& packed, Tensor input,
                                      Tensor weight, Tensor output, const Epilogue& epilogue) {
    // Weights that hold a NaN or an infinity are not for Winograd: a plain call does such images tap by tap.
    if (!packed.finite) return conv_transpose2d(s, itemsize, input, weight, output, epilogue);
    return itemsize == 4 ? run_transposed<float>(s, packed.choice, packed.data, input, weight, output, epilogue)
                         : run_transposed<double>(s, packed.choice, packed.data, input, weight, output, epilogue);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
