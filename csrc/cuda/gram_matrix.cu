// gram_matrix and gram_matrix_grad_input: products of an image's channels, and what a gradient of them makes of the image.
//
//   output[n][i][j]      = scale * sum over p of input[n][i][p] input[n][j][p]
//   grad_input[n][i][p]  = scale * sum over k of (grad_output[n][i][k] + grad_output[n][k][i]) input[n][k][p]
//
// input (N, C, H W), output (N, C, C); p counts pixels.
//
//            j                       A block makes a tile of 64 x 64 products (32 x 32 in float64), see tiles.h, over a part of
//     +--+--+--+--+                  the pixels: at least 1024 of them, and so many that there are at most 64 parts. One image
//     |0 |1 |2 |3 |   tiles on and   of few channels is a single tile, and parts are what keeps a device busy then. Parts depend
//   i +--+--+--+--+   above the      on the number of pixels alone. Their sums go to the workspace, and `join_parts` adds them in
//     |  |4 |5 |6 |   diagonal       order; a single part is stored straight away.
//     +--+--+--+--+
//     |  |  |7 |8 |                  Each product is made once and stored twice, so results are exactly symmetric.
//     +--+--+--+--+
//
// The gradient is a product of the symmetric sum of the gradients, which is added up and scaled as it is read, and the image.
// Rows of its tiles are channels and columns pixels; channels-last it is the other way round, so that lanes write neighbours.
//
// Lanes read along whichever of channels and pixels lies side by side. No figure has been measured.
#include "tiles.h"

namespace fastcv::cuda {
namespace {

constexpr int64_t kPartPixels = 1024, kMostParts = 64;

// Pixels of a part: whole panels.
int64_t part_pixels(int64_t pixels) {
    const int64_t even = tiles_of(tiles_of(pixels, kMostParts), kDepth) * kDepth;
    return even > kPartPixels ? even : kPartPixels;
}
int64_t parts_of(int64_t pixels) {
    const int64_t parts = tiles_of(pixels, part_pixels(pixels));
    return parts < 1 ? 1 : parts;
}
int64_t tile_of(Dtype dtype) { return dtype == Dtype::float64 ? kTile<double> : kTile<float>; }
int64_t pairs_of(int64_t tiles) { return tiles * (tiles + 1) / 2; }

// An image's pixels, channel by channel.
struct Pixels {
    const char* data;
    int64_t channel_stride_bytes, row_stride_bytes, pixel_stride_bytes;
    bool flat;  // rows follow each other as pixels do
    Divisor width;

    Pixels(const Tensor& t, const GramShape& s)
        : data(t.data),
          channel_stride_bytes(t.stride_bytes[1]),
          row_stride_bytes(t.stride_bytes[2]),
          pixel_stride_bytes(t.stride_bytes[3]),
          flat(t.stride_bytes[2] == s.W * t.stride_bytes[3]),
          width(s.W, s.H * s.W) {}
    __device__ int64_t offset(int64_t pixel) const {
        if (flat) return pixel * pixel_stride_bytes;
        const int64_t y = width.quotient(pixel);
        return y * row_stride_bytes + (pixel - y * width.size) * pixel_stride_bytes;
    }
};

struct Arguments {
    GramShape s;
    double scale;
    Pixels pixels;
    int64_t image_stride_bytes;
    Tensor grad_output;
    void* output;
    void* parts_memory;
    int64_t tiles, parts, part_pixels;
    bool channels_side_by_side;  // of the input
    bool channels_last;          // the gradient
};

struct Pair {
    int64_t row, column;
};
// The tiles on and above the diagonal, row by row.
__device__ inline Pair tile_pair(int64_t index, int64_t tiles) {
    int64_t row = 0;
    while (index >= tiles - row) index -= tiles - row, row++;
    return {row, row + index};
}

// A finished sum, scaled, and its mirror image.
template <class T>
__device__ void store_both(const Arguments& a, int64_t n, int64_t row, int64_t column, typename Wide<T>::type sum) {
    const T product = narrow<T>(sum * typename Wide<T>::type(a.scale));
    T* const output = static_cast<T*>(a.output) + n * a.s.C * a.s.C;
    output[row * a.s.C + column] = product;
    output[column * a.s.C + row] = product;
}

template <class T>
__global__ void products(Arguments a) {
    using W = typename Wide<T>::type;
    __shared__ TileMemory<T> memory;
    const int64_t C = a.s.C, pairs = a.tiles * (a.tiles + 1) / 2;
    for (int64_t item = blockIdx.x; item < a.s.N * pairs * a.parts; item += gridDim.x) {
        const int64_t part = item % a.parts, pair = item / a.parts % pairs, n = item / a.parts / pairs;
        const Pair tile = tile_pair(pair, a.tiles);
        const int64_t begin = part * a.part_pixels, all = a.s.H * a.s.W - begin;
        const int64_t depth = all < a.part_pixels ? all : a.part_pixels;
        const auto side = [&](int64_t channel) {
            const char* data = a.pixels.data + n * a.image_stride_bytes + channel * a.pixels.channel_stride_bytes;
            return Side{data, C - channel, a.pixels.channel_stride_bytes, depth, 0, !a.channels_side_by_side};
        };
        const auto fetch = [&](const Side& s, int64_t from) {
            Piece<W> piece;
            const int64_t k = from + s.step();
            const char* at = s.data + s.row() * s.row_stride_bytes + (k < depth ? a.pixels.offset(begin + k) : 0);
            FASTCV_UNROLL for (int i = 0; i < kMicro<W>; i++)
                piece.at[i] = k < depth && s.row() + i * kSide < s.rows ? load_wide<T>(at + i * kSide * s.row_stride_bytes) : 0;
            return piece;
        };
        const Side left = side(tile.row * kTile<W>), right = side(tile.column * kTile<W>);
        Sums<T> sums;
        sums.clear();
        multiply_panels(
            sums, memory, depth, left, right, [&](int64_t k) { return fetch(left, k); },
            [&](int64_t k) { return fetch(right, k); });
        FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++)
            FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) {
                const int64_t y = row_of<T>(i), x = column_of<T>(j);
                if (a.parts > 1) {
                    static_cast<W*>(a.parts_memory)[(item * kTile<W> + y) * kTile<W> + x] = sums.at[i][j];
                    continue;
                }
                const int64_t row = tile.row * kTile<W> + y, column = tile.column * kTile<W> + x;
                if (row > column || column >= C) continue;
                store_both<T>(a, n, row, column, sums.at[i][j]);
            }
    }
}

template <class T>
__global__ void join_parts(Arguments a) {
    using W = typename Wide<T>::type;
    const int64_t C = a.s.C, pairs = a.tiles * (a.tiles + 1) / 2;
    for (int64_t item = first_item(); item < a.s.N * C * C; item += item_step()) {
        const int64_t n = item / (C * C), row = item / C % C, column = item % C;
        if (row > column) continue;
        const int64_t i = row / kTile<W>, j = column / kTile<W>, pair = i * a.tiles - i * (i - 1) / 2 + j - i;
        const W* from = static_cast<const W*>(a.parts_memory) + (n * pairs + pair) * a.parts * kTile<W> * kTile<W> +
                        row % kTile<W> * kTile<W> + column % kTile<W>;
        W sum = 0;
        for (int64_t part = 0; part < a.parts; part++) sum += from[part * kTile<W> * kTile<W>];
        store_both<T>(a, n, row, column, sum);
    }
}

template <class T>
__global__ void gradient(Arguments a) {
    using W = typename Wide<T>::type;
    __shared__ TileMemory<T> memory, rests;  // the weights are no numbers of T
    const int64_t C = a.s.C, pixels = a.s.H * a.s.W, pixel_tiles = (pixels + kTile<W> - 1) / kTile<W>;
    for (int64_t item = blockIdx.x; item < a.s.N * a.tiles * pixel_tiles; item += gridDim.x) {
        const int64_t tile = item % a.tiles, n = item / a.tiles / pixel_tiles;
        const int64_t channel = tile * kTile<W>, pixel = item / a.tiles % pixel_tiles * kTile<W>;
        const char* const grads = a.grad_output.data + n * a.grad_output.stride_bytes[0];
        const char* const image = a.pixels.data + n * a.image_stride_bytes;
        // Channels of the gradient against all channels; these against pixels.
        const Side weights{grads, C - channel, 0, C, 0, true};
        const Side columns{image, pixels - pixel, 0, C, a.pixels.channel_stride_bytes, a.channels_side_by_side};
        const auto fetch_weights = [&](int64_t from) {
            Piece<W> piece;
            const int64_t k = from + weights.step(), down = a.grad_output.stride_bytes[1], across = a.grad_output.stride_bytes[2];
            FASTCV_UNROLL for (int i = 0; i < kMicro<W>; i++) {
                const int64_t c = channel + weights.row() + i * kSide;
                const bool inside = k < C && c < C;
                const W sum =
                    inside ? load_wide<T>(grads + c * down + k * across) + load_wide<T>(grads + k * down + c * across) : W(0);
                piece.at[i] = sum * W(a.scale);
            }
            return piece;
        };
        const auto fetch_pixels = [&](int64_t from) {
            Piece<W> piece;
            const int64_t k = from + columns.step();
            FASTCV_UNROLL for (int i = 0; i < kMicro<W>; i++) {
                const int64_t p = pixel + columns.row() + i * kSide;
                const bool inside = k < C && p < pixels;
                piece.at[i] = inside ? load_wide<T>(image + k * columns.depth_stride_bytes + a.pixels.offset(p)) : 0;
            }
            return piece;
        };
        Sums<T> sums;
        sums.clear();
        if (a.channels_last)
            multiply_panels(sums, memory, C, columns, weights, fetch_pixels, fetch_weights, &rests);
        else
            multiply_panels(sums, memory, C, weights, columns, fetch_weights, fetch_pixels, &rests);
        FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++)
            FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) {
                const int64_t y = row_of<T>(i), x = column_of<T>(j);
                const int64_t c = channel + (a.channels_last ? x : y), p = pixel + (a.channels_last ? y : x);
                if (c >= C || p >= pixels) continue;
                const int64_t at = a.channels_last ? (n * pixels + p) * C + c : (n * C + c) * pixels + p;
                static_cast<T*>(a.output)[at] = narrow<T>(sums.at[i][j]);
            }
    }
}

Arguments arguments_of(const GramShape& s, Dtype dtype, double scale, Tensor input, void* output) {
    const int64_t pixels = s.H * s.W;
    return {s,
            scale,
            Pixels(input, s),
            input.stride_bytes[0],
            Tensor{},
            output,
            nullptr,
            tiles_of(s.C, tile_of(dtype)),
            parts_of(pixels),
            part_pixels(pixels),
            input.stride_bytes[1] == item_bytes(dtype),
            false};
}

}  // namespace

int64_t gram_matrix_workspace_bytes(const GramShape& s, Dtype dtype) {
    const int64_t parts = parts_of(s.H * s.W), tile = tile_of(dtype), wide = dtype == Dtype::float64 ? 8 : 4;
    return parts > 1 ? s.N * pairs_of(tiles_of(s.C, tile)) * parts * tile * tile * wide : 0;
}

void gram_matrix(const GramShape& s, Dtype dtype, double scale, Tensor input, void* output, void* workspace, Queue queue) {
    const OnDevice here(queue.device);
    Arguments a = arguments_of(s, dtype, scale, input, output);
    a.parts_memory = workspace;
    with_type(dtype, [&](auto value) {
        using T = decltype(value);
        launch("gram_matrix", products<T>, blocks_for(s.N * pairs_of(a.tiles) * a.parts, 1), kTileThreads, queue, a);
        if (a.parts > 1) launch("gram_matrix", join_parts<T>, blocks_for(s.N * s.C * s.C, kThreads), kThreads, queue, a);
    });
}

void gram_matrix_grad_input(const GramShape& s, Dtype dtype, double scale, Tensor grad_output, Tensor input, Result grad_input,
                            Queue queue) {
    const OnDevice here(queue.device);
    Arguments a = arguments_of(s, dtype, scale, input, grad_input.data);
    a.grad_output = grad_output;
    a.channels_last = grad_input.channels_last;
    const int64_t items = s.N * a.tiles * tiles_of(s.H * s.W, tile_of(dtype));
    with_type(dtype, [&](auto value) {
        launch("gram_matrix_grad_input", gradient<decltype(value)>, blocks_for(items, 1), kTileThreads, queue, a);
    });
}

}  // namespace fastcv::cuda
