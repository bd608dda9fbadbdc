// How a convolution over a strip is cut: blocks of outputs, their filters in parts, the threads' shares; and where a block reads.
//
// Filling waits for memory more than it works: at windows as large as their stride it is 12% of the time (25 cycles a vector,
// from the third-level cache). So each row asks for the next channel's (strip.h), and threads rather take rows than fill the
// same strip each for a share of the filters, unless that wastes more lanes.
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

template <class T>
struct StripTiles {
    static constexpr int filters = kManyRegisters ? 8 : 4;
    static constexpr int vectors = 3;
    static constexpr int few_filters = kManyRegisters ? 4 : 2;  // up to so many, a tile takes more vectors
    static constexpr int more_vectors = kManyRegisters ? 6 : 4;
    static constexpr int pixels = kManyRegisters ? 14 : 6;      // channel lanes
};

template <class T>
constexpr int64_t kPanelPitch = StripTiles<T>::vectors * kLanes<T>;

// How a convolution is cut into blocks of outputs, and the blocks' filters into parts, for so many threads.
struct StripBlocks {
    int64_t height, width;              // outputs of a plane
    int64_t rows, columns;              // outputs of a block
    int64_t row_blocks, column_blocks;
    int64_t filter_parts;

    int64_t per_image() const { return row_blocks * column_blocks; }
};

// What a strip takes: so many bytes for a row of outputs, and as many again for each of `steps` rows that a window reaches beyond its
// output's own. A row is its outputs' columns and `beyond` more. It should not take more than `most`; a tile takes `together` outputs.
struct StripBytes {
    int64_t row, steps, beyond, most, together;
};
template <class T>
static StripBytes bytes_of_planar_strip(const Conv2dShape& s, const Axis& y, const Axis& x) {
    const int64_t slots = y.slots() * x.slots();
    return {s.C / s.G * slots * (x.output + x.steps()) * int64_t(sizeof(T)), y.steps(), x.steps(), kStripBytes, kLanes<T>};
}

template <class T>
static StripBlocks cut_into_blocks(const Conv2dShape& s, const Axis& y, const Axis& x, int threads, bool in_place,
                                   const StripBytes& strip, int64_t filters_of_tile) {
    constexpr int64_t L = kLanes<T>;
    const int64_t filters = s.K / s.G, row_bytes = in_place ? 0 : strip.row;
    StripBlocks b;
    b.height = y.output;
    b.width = x.output;
    // Whole rows, as many as fit; a block narrower than the plane only where not even a window's rows fit.
    b.columns = x.output;
    const int64_t fitting = row_bytes ? strip.most / row_bytes : y.output + strip.steps;
    b.rows = larger(1, smaller(y.output, fitting - strip.steps));
    // Columns that several rows and columns of taps share are filled again for each block; a single row of pixels can be cut anywhere.
    const int64_t most = y.output == 1 && strip.steps == 0 ? strip.most : 4 * strip.most;
    if (fitting <= strip.steps && row_bytes * (strip.steps + 1) > most) {
        const int64_t column_bytes = row_bytes / (x.output + strip.beyond) * (strip.steps + 1);
        const int64_t some = smaller(most, 2 * strip.most) / larger(1, column_bytes) - strip.beyond;
        b.columns = smaller(x.output, larger(4 * L, round_up(larger(1, some), L)));
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
        const double wasted = double(round_up(outputs_left, strip.together) * more) / double(y.output * x.output) - 1;
        // A vector of outputs and a channel: `slots` vectors to fill, filters * taps multiply-adds.
        const double filling = in_place ? 0 : kFillVector * double(y.slots() * x.slots()) / double(filters * s.R * s.S);
        const bool share = filters >= filters_of_tile * threads;
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

// The bias of whole panels of so many filters, zeros behind a group's last.
template <class T>
static void fill_panel_bias(const Conv2dShape& s, int64_t width, const Epilogue& epilogue, T* bias) {
    const int64_t filters = s.K / s.G, padded = round_up(filters, width);
    for (int64_t i = 0; i < s.G * padded; i++) {
        const int64_t k = i / padded * filters + i % padded;
        bias[i] = epilogue.bias && i % padded < filters ? load_scalar<T>(epilogue.bias + k * epilogue.bias_stride_bytes) : T(0);
    }
}

// The channels of a group of an image.
static inline Planes planes_of(const Conv2dShape& s, const Tensor& input, int64_t n, int64_t g) {
    const int64_t* b = input.stride_bytes;
    return {input.data + n * b[0] + g * (s.C / s.G) * b[1], b[1], b[2], b[3]};
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
    bool panels;                // the first tile over some pixels leaves them in a panel for the others
    bool rows_stored;           // outputs of a row are contiguous
    int64_t depth;
    Weights weight;             // any strides that are whole elements
    const T* bias;              // K elements, and zeros up to a whole tile
    const DepthStep* step;
    Activation activation;
    T slope;

    int64_t channels() const { return shape.C / shape.G; }
    int64_t filters() const { return shape.K / shape.G; }
    // Elements from a channel to the next in the input or the strip.
    int64_t from_channel() const { return in_place ? input.stride_bytes[1] / int64_t(sizeof(T)) : strip.channel; }
    // What a thread has to hold: a strip, and a panel behind it.
    int64_t strip_elements() const { return in_place ? 0 : round_up(strip.elements, kLanes<T>); }
    int64_t buffer_elements() const { return strip_elements() + (panels ? depth * kPanelPitch<T> : 0); }
    char* output_plane(int64_t n, int64_t filter) const {
        return output.data + n * output.stride_bytes[0] + filter * output.stride_bytes[1];
    }
};

// One block, given by its first output and size.
struct Block {
    int64_t n, g, y, x, rows, columns;
};

static inline Block block_at(const StripBlocks& b, int64_t groups, int64_t index) {
    Block block;
    block.x = index % b.column_blocks * b.columns;
    index /= b.column_blocks;
    block.y = index % b.row_blocks * b.rows;
    index /= b.row_blocks;
    block.g = index % groups;
    block.n = index / groups;
    block.rows = smaller(b.rows, b.height - block.y);
    block.columns = smaller(b.columns, b.width - block.x);
    return block;
}

// Where a block reads from: its filled strip, or the input itself.
template <class T>
static const T* strip_of_block(const StripCall<T>& c, const Block& b, T* buffer) {
    const Planes in = planes_of(c.shape, c.input, b.n, b.g);
    if (c.in_place) return reinterpret_cast<const T*>(in.data) + b.x;
    fill_strip(c.strip, buffer, in, b.y, b.x, b.rows + c.y.steps());
    return buffer;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
