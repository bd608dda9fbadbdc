// Gram matrices.
//
//   output[n][i][j] = scale * sum over p of x[n][i][p] * x[n][j][p]
//
// x: C channels of H * W pixels p. The result is symmetric, so only tiles on and above the diagonal are computed; its other
// half is their mirror image. The sum runs over pixels, and there are two ways to fill vectors:
//
//   dot tiles                                    panels
//   lanes are pixels, as they lie in NCHW        lanes are channels, as they lie in channels-last
//
//          j   R channels                               j   3 vectors of channels
//        +-----+-----+---                             +---------------+---
//   i  R |  \  |     |     R x R vectors of        i  |     |    |    |     MT channels, broadcast,
//        |   \ |     |     partial sums; lanes        +-- MT x 3 ------+     times 3 vectors
//        +-----+-----+     are added up at the end    |     |    |    |
//              |  \  |     of a block                 +-----+----+----+
//                                                           |    |    |
//
// Dot tiles waste nothing on the diagonal, where they are triangles, and need no transposition, but a block of pixels has to
// pay for adding up lanes. Panels waste up to a vector of channels on the diagonal, and NCHW has to be transposed: squares of
// lanes x lanes go to [C / lanes][pixel][lane], from which both operands of a tile are read. `plan_gram` counts both and takes
// the cheaper one; in channels-last memory it is panels.
//
// Two or three channels in channels-last memory, such as an image's own, would leave most lanes of panels idle. There memory is
// multiplied with itself, shifted by 0, 1 and 2 elements; element e belongs to channel e % C, and lanes are told apart at the
// end. 3 x 224 x 224 on two threads takes 10 us, as panels 78.
//
// A large image with few channels is cut into parts, each summed by itself. There are as many as give sums of 1024 pixels and
// more and partial matrices of at most 1 MB together: what adding them costs is then below 1%. That depends on the shape of an
// image alone. Threads share out parts and images and, where these are few, groups of columns; so neither they nor the batch
// change a bit.
#pragma once

#include "../channel_lanes.h"
#include "../ops.h"
#include "../parallel.h"
#include "../tiles.h"

namespace fastcv::FASTCV_ISA {
namespace {

// As large as the registers allow: 25 or 9 sums of dot tiles with 6 or 4 operands, 8 x 3 or 4 x 3 of panels with 4.
struct GramTiles {
    static constexpr int dots = kManyRegisters ? 5 : 3;  // channels along either side of a dot tile
    static constexpr int vectors = 3;
    // Rows of a panel tile; they lie in one vector of channels.
    template <class T>
    static constexpr int rows = int(kManyRegisters ? (kLanes<T> < 8 ? kLanes<T> : 8) : (kLanes<T> < 4 ? kLanes<T> : 4));
};

// One image: C channels of H x W pixels.
struct GramImage {
    const char* data;
    int64_t channel_bytes, row_bytes, pixel_bytes, width;

    // Pixels [first, last), in pieces that lie in one image row: body(pixels before it, pixels, where).
    template <class Body>
    void for_each_piece(int64_t first, int64_t last, const Body& body) const {
        for (int64_t p = first; p < last;) {
            const int64_t row = p / width, column = p % width, count = smaller(width - column, last - p);
            body(p - first, count, data + row * row_bytes + column * pixel_bytes);
            p += count;
        }
    }
};

static inline GramImage gram_image(const Tensor& t, int64_t n, int64_t width) {
    return {t.data + n * t.stride_bytes[0], t.stride_bytes[1], t.stride_bytes[2], t.stride_bytes[3], width};
}
// An image whose rows follow each other without a gap counts as one row.
static inline int64_t gram_width(const GramShape& s, const Tensor& t) {
    return s.H == 1 || t.stride_bytes[2] == s.W * t.stride_bytes[3] ? s.H * s.W : s.W;
}

// For threads_for: moving an element counts as 16 operations, which is what a few channels spend their time on.
static inline double gram_work(const GramShape& s) {
    return double(s.N) * double(s.C) * double(s.H) * double(s.W) * (2.0 * double(s.C) + 16);
}

// Into how many groups of its columns an item's result is cut, so that threads have equally many.
static inline int64_t gram_groups(int64_t items, int threads) {
    int64_t groups = 1;
    if (items < 8 * threads)
        while (items * groups % threads) groups++;
    return groups;
}

// Panels of one row of tiles, of those that are left: 2 + 2 rather than 3 + 1.
static inline int64_t gram_panels_at_once(int64_t left) { return left == 4 ? 2 : smaller(left, GramTiles::vectors); }

template <class T>
struct GramCall {
    GramShape shape;
    Tensor input, output;
    T scale;
    int64_t pixels, width;       // width: of rows that lie in memory without a gap
    int64_t parts, part_pixels;  // what an image is cut into, and ..
    int64_t block;               // .. the pixels that are packed at a time
    int64_t groups;              // of columns
    enum { dots, panels, interleaved } kind;
    bool one_block;              // panels, and a block is all there is
    bool far;                    // the result is too large for the second-level caches
    int64_t stride;              // of the packed block: from channel to channel, or from panel to panel
    int64_t pitch;               // from row to row of a partial matrix

    int64_t matrix() const { return pitch * round_up(shape.C, kLanes<T>); }
    GramImage image(int64_t n) const { return gram_image(input, n, width); }
};

// ---- dot tiles

// The sums over the lanes of L vectors, as one vector: each round adds the halves of register i to those of register
// i + count / 2, interleaved, like the rounds of `transpose`.
template <class T>
FASTCV_INLINE Vec<T> sums_of_lanes(Vec<T>* v) {
    FASTCV_UNROLL for (int count = kLanes<T> / 2; count > 0; count /= 2)
        FASTCV_UNROLL for (int i = 0; i < count; i++)
            v[i] = interleave_low<T>(v[i], v[i + count]) + interleave_high<T>(v[i], v[i + count]);
    return v[0];
}

// sum[i][j] (+)= a[i] . b[j] over `depth` pixels, a multiple of the lanes. On the diagonal a is b, and j >= i is enough.
template <class T, int MT, int NT, bool diagonal>
FASTCV_NOINLINE void gram_dots(const T* a, const T* b, int64_t pitch, int64_t depth, T* sum, int64_t sum_pitch, bool first) {
    constexpr int L = kLanes<T>, count = diagonal ? MT * (MT + 1) / 2 : MT * NT;
    Vec<T> acc[(count + L - 1) / L * L];
    FASTCV_UNROLL for (Vec<T>& v : acc) v = zero<T>();
    for (int64_t k = 0; k < depth; k += L) {
        Vec<T> x[MT];
        FASTCV_UNROLL for (int i = 0; i < MT; i++) {
            x[i] = load(a + i * pitch + k);
            keep(x[i]);
        }
        if constexpr (diagonal) {
            FASTCV_UNROLL for (int j = 0; j < MT; j++)
                FASTCV_UNROLL for (int i = 0; i <= j; i++)
                    acc[j * (j + 1) / 2 + i] = fma(x[i], x[j], acc[j * (j + 1) / 2 + i]);
        } else {
            FASTCV_UNROLL for (int j = 0; j < NT; j++) {
                Vec<T> y = load(b + j * pitch + k);
                keep(y);
                FASTCV_UNROLL for (int i = 0; i < MT; i++) acc[j * MT + i] = fma(x[i], y, acc[j * MT + i]);
            }
        }
    }
    T total[(count + L - 1) / L * L];
    FASTCV_UNROLL for (int g = 0; g < count; g += L) store(total + g, sums_of_lanes<T>(acc + g));
    for (int j = 0; j < NT; j++)
        for (int i = 0; i < (diagonal ? j + 1 : MT); i++) {
            T* to = sum + i * sum_pitch + j;
            const T value = total[(diagonal ? j * (j + 1) / 2 : j * MT) + i];
            *to = first ? value : *to + value;
        }
}
template <class T>
using GramDots = void (*)(const T*, const T*, int64_t, int64_t, T*, int64_t, bool);
template <class T, int MT = GramTiles::dots>
static GramDots<T> find_gram_triangle(int64_t rows) {
    if constexpr (MT > 1) {
        if (rows < MT) return find_gram_triangle<T, MT - 1>(rows);
    }
    return gram_dots<T, MT, MT, true>;
}
// Only the last columns are fewer, and rows are before them.
template <class T, int NT = GramTiles::dots>
static GramDots<T> find_gram_dots(int64_t columns) {
    if constexpr (NT > 1) {
        if (columns < NT) return find_gram_dots<T, NT - 1>(columns);
    }
    return gram_dots<T, GramTiles::dots, NT, false>;
}

// rows[channel][pixel], zeros behind the last pixel.
template <class T>
static void pack_gram_rows(const GramImage& image, int64_t channels, int64_t first, int64_t last, T* rows, int64_t pitch) {
    constexpr int64_t L = kLanes<T>;
    image.for_each_piece(first, last, [&](int64_t before, int64_t count, const char* at) {
        for (int64_t c = 0; c < channels; c++) {
            const char* from = at + c * image.channel_bytes;
            T* to = rows + c * pitch + before;
            int64_t k = 0;
            if (image.pixel_bytes == int64_t(sizeof(T)))
                for (; k < count; k += L) {
                    const T* pixel = reinterpret_cast<const T*>(from) + k;
                    store_first(to + k, load_first(pixel, count - k), count - k);
                }
            else
                for (; k < count; k++) to[k] = load_scalar<T>(from + k * image.pixel_bytes);
        }
    });
    const int64_t count = last - first, padded = round_up(count, L);
    if (padded > count)
        for (int64_t c = 0; c < channels; c++) store_first(rows + c * pitch + count, zero<T>(), padded - count);
}

template <class T>
static void gram_dot_block(const T* rows, int64_t pitch, int64_t depth, int64_t channels, int64_t first_column,
                           int64_t last_column, T* sum, int64_t sum_pitch, bool first) {
    constexpr int64_t R = GramTiles::dots;
    const GramDots<T> full = find_gram_dots<T>(R), last = find_gram_dots<T>(channels % R ? channels % R : R);
    constexpr int64_t kColumns = 60;
    for (int64_t j0 = first_column; j0 < last_column; j0 += kColumns) {
        const int64_t j1 = smaller(last_column, j0 + kColumns);
        for (int64_t i = 0; i < j1; i += R)
            for (int64_t j = larger(i, j0); j < j1; j += R) {
                T* to = sum + i * sum_pitch + j;
                const GramDots<T> tile = i == j ? find_gram_triangle<T>(channels - j) : channels - j < R ? last : full;
                tile(rows + i * pitch, rows + j * pitch, pitch, depth, to, sum_pitch, first);
            }
    }
}

// ---- interleaved channels

constexpr int kInterleaved = 3;

// Adds lanes pixels of C channels to acc[v][d]: vector v times the elements d further on.
template <class T, int C>
FASTCV_INLINE void add_interleaved(Vec<T> (&acc)[C][C], const T* x) {
    constexpr int L = kLanes<T>;
    FASTCV_UNROLL for (int v = 0; v < C; v++)
        FASTCV_UNROLL for (int d = 0; d < C; d++) acc[v][d] = fma(load(x + v * L), load(x + v * L + d), acc[v][d]);
}

// sum[i][j] += over pixels that lie one after the other, j >= i.
template <class T, int C>
static void gram_interleaved(const T* x, int64_t pixels, T* sum, int64_t sum_pitch) {
    constexpr int64_t L = kLanes<T>, kStep = C * L, kReach = C - 1;
    Vec<T> acc[C][C];
    clear_tile<T, C, C>(acc);
    int64_t done = 0;
    for (; done + kStep + kReach <= pixels * C; done += kStep) add_interleaved<T, C>(acc, x + done);
    // The rest from a copy, since the last elements have none behind them.
    T rest[2 * kStep + kReach] = {};
    __builtin_memcpy(rest, x + done, size_t(pixels * C - done) * sizeof(T));
    for (int64_t at = 0; done + at < pixels * C; at += kStep) add_interleaved<T, C>(acc, rest + at);
    T lanes[kStep];
    for (int d = 0; d < C; d++) {
        for (int v = 0; v < C; v++) store(lanes + v * L, acc[v][d]);
        for (int i = 0; i + d < C; i++)
            for (int64_t t = i; t < kStep; t += C) sum[i * sum_pitch + i + d] += lanes[t];
    }
}

// ---- panels

template <class T, int NV>
FASTCV_NOINLINE void gram_panel_tile(const T* rows, const T* columns, int64_t panel_stride, int64_t depth, const DepthStep* step,
                                     T* sum, int64_t sum_pitch, bool first) {
    constexpr int L = kLanes<T>, MT = GramTiles::rows<T>;
    Vec<T> acc[MT][NV];
    clear_tile<T, MT, NV>(acc);
    const T* pixels[NV];
    FASTCV_UNROLL for (int j = 0; j < NV; j++) pixels[j] = columns + j * panel_stride;
    pixel_lanes<T, MT, NV>(acc, depth, rows, 1, pixels, step);
    FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++) {
        T* to = sum + i * sum_pitch + j * L;
        store(to, first ? acc[i][j] : load(to) + acc[i][j]);
    }
}

template <class T>
static void pack_gram_panels(const GramImage& image, int64_t channels, int64_t first, int64_t last, T* panels,
                             int64_t panel_stride) {
    constexpr int64_t L = kLanes<T>;
    for (int64_t c = 0; c < channels; c += L)
        image.for_each_piece(first, last, [&](int64_t before, int64_t count, const char* at) {
            load_channel_lanes<T>(panels + c / L * panel_stride + before * L, count, at + c * image.channel_bytes,
                                  image.channel_bytes, image.pixel_bytes, smaller(L, channels - c), 0, count);
        });
}

// ---- both

// The first of `units` columns of group g, so that groups have equally many tiles: columns before it hold a share of g / groups
// of the triangle.
static inline int64_t first_of_group(int64_t g, int64_t groups, int64_t units) {
    int64_t u = 0;
    while (double(u) * double(u + 1) * double(groups) < double(g) * double(units) * double(units + 1)) u++;
    return u;
}

// Where element (i, j) of image n's result goes.
template <class T>
static T* gram_output(const GramCall<T>& c, int64_t n, int64_t i, int64_t j) {
    return reinterpret_cast<T*>(c.output.data + n * c.output.stride_bytes[0] + i * c.output.stride_bytes[1]) + j;
}

// The part of rows [first, last) and columns [j, end) that is on or above the diagonal, and its mirror image: adds parts up in
// their order and scales. `sums` holds row 0 and column j; j and `first` are multiples of lanes. kGramSquares squares below each
// other become neighbours in the mirror image, and are turned one after the other, since the result's rows may be a power of two
// apart, where a line that is written in pieces leaves the cache in between.
constexpr int64_t kGramSquares = 4;
template <class T>
static void finish_gram(const GramCall<T>& c, int64_t n, int64_t first, int64_t last, int64_t j, int64_t end, T* sums) {
    constexpr int64_t L = kLanes<T>;
    const Vec<T> scale = splat(c.scale);
    for (int64_t i0 = first; i0 < last; i0 += kGramSquares * L) {
        const int64_t i1 = smaller(last, i0 + kGramSquares * L);
        for (int64_t i = i0; i < i1; i++) {
            T* row = sums + i * c.pitch;
            for (int64_t k = larger(j, i / L * L); k < end; k += L) {
                Vec<T> sum = load(row + k - j);
                for (int64_t part = 1; part < c.parts; part++) sum += load(row + k - j + part * c.matrix());
                sum *= scale;
                store(row + k - j, sum);
                store_first(gram_output(c, n, i, k), sum, end - k);
            }
        }
        for (int64_t k = j; k < end; k += L) {
            const int64_t columns = smaller(L, end - k);
            for (int64_t i = i0; i < smaller(i1, k + columns); i += L) {
                Vec<T> square[L];
                FASTCV_UNROLL for (int64_t r = 0; r < L; r++) square[r] = load(sums + (i + r) * c.pitch + k - j);
                transpose<T>(square);
                if (columns == L && i + L <= k) {
                    FASTCV_UNROLL for (int64_t r = 0; r < L; r++) store(gram_output(c, n, k + r, i), square[r]);
                    continue;
                }
                // Up to the diagonal.
                FASTCV_UNROLL for (int64_t r = 0; r < L; r++)
                    if (r < columns && k + r > i) store_first(gram_output(c, n, k + r, i), square[r], k + r - i);
            }
        }
    }
}

// Brings what finish_gram writes near, a row of tiles ahead: rows [i, i + rows) of columns [j, end), and as large a share of
// the mirror image. Stores that miss wait for each other: 2048 channels of 7 x 7 pixels on two threads take 2.2 ms without,
// 1.75 with. Inline, because a call that only prefetches has no effect that GCC would keep it for.
template <class T>
FASTCV_INLINE void prefetch_gram(const GramCall<T>& c, int64_t n, int64_t i, int64_t rows, int64_t j, int64_t end) {
    constexpr int64_t kRows = kGramSquares * kLanes<T>;
    const auto row = [&](int64_t r, int64_t column, int64_t columns) {
        for (int64_t k = 0; k <= columns; k += kLine<T>) __builtin_prefetch(gram_output(c, n, r, column) + k, 1, 2);
    };
    for (int64_t r = 0; r < rows; r++) row(i + r, j, end - j);
    const int64_t share = ceil_div((end - j) * rows, kRows), first = j + i % kRows / rows * share;
    for (int64_t r = first; r < smaller(end, first + share); r++) row(r, i / kRows * kRows, kRows);
}

// Panels [first, last) of columns, over one block of pixels. Where the block is the last of the whole sum, each row of tiles is
// finished while it is in the cache; where it is the first as well, there is never more than that row: `sum` then has no columns
// for those before it.
template <class T>
static void gram_panel_block(const GramCall<T>& c, int64_t n, const T* packed, int64_t depth, const DepthStep* step,
                             int64_t first, int64_t last, T* sum, bool is_first, bool is_last) {
    constexpr int64_t L = kLanes<T>, MT = GramTiles::rows<T>, kFinished = kGramSquares * L;
    for (int64_t j = first; j < last;) {
        const int64_t end = j + gram_panels_at_once(last - j), channels = smaller(end * L, c.shape.C);
        T* sum_j = sum + (c.one_block ? 0 : j * L);
        for (int64_t i = 0; i < channels; i += MT) {
            const int64_t start = larger(j, i / L);
            const T* rows = packed + i / L * c.stride + i % L;
            const T* columns = packed + start * c.stride;
            T* to = sum_j + i * c.pitch + (start - j) * L;
            if (is_last && c.far) prefetch_gram(c, n, i, MT, j * L, channels);
            switch (end - start) {
                case 3: gram_panel_tile<T, 3>(rows, columns, c.stride, depth, step, to, c.pitch, is_first); break;
                case 2: gram_panel_tile<T, 2>(rows, columns, c.stride, depth, step, to, c.pitch, is_first); break;
                default: gram_panel_tile<T, 1>(rows, columns, c.stride, depth, step, to, c.pitch, is_first);
            }
            if (is_last && ((i + MT) % kFinished == 0 || i + MT >= channels))
                finish_gram(c, n, i / kFinished * kFinished, smaller(i + MT, channels), j * L, channels, sum_j);
        }
        j = end;
    }
}

// One part of an image: its triangle, or a group of that triangle's columns.
template <class T>
static void gram_part(const GramCall<T>& c, int64_t n, int64_t part, int64_t group, T* packed, const DepthStep* step, T* sum) {
    constexpr int64_t L = kLanes<T>;
    const int64_t unit = c.kind == c.dots ? GramTiles::dots : L, units = ceil_div(c.shape.C, unit);
    const int64_t u0 = first_of_group(group, c.groups, units), u1 = first_of_group(group + 1, c.groups, units);
    const int64_t channels = smaller(c.shape.C, u1 * unit);
    const GramImage image = c.image(n);
    const int64_t begin = part * c.part_pixels, end = smaller(c.pixels, begin + c.part_pixels);
    if (c.kind == c.interleaved) {
        for (int64_t i = 0; i < c.shape.C; i++) __builtin_memset(sum + i * c.pitch, 0, size_t(c.shape.C) * sizeof(T));
        image.for_each_piece(begin, end, [&](int64_t, int64_t count, const char* at) {
            const auto add = c.shape.C == 2 ? gram_interleaved<T, 2> : gram_interleaved<T, kInterleaved>;
            add(reinterpret_cast<const T*>(at), count, sum, c.pitch);
        });
        return;
    }
    for (int64_t p = begin; p < end; p += c.block) {
        const int64_t last = smaller(end, p + c.block);
        if (c.kind == c.dots) {
            pack_gram_rows<T>(image, channels, p, last, packed, c.stride);
            gram_dot_block<T>(packed, c.stride, round_up(last - p, L), c.shape.C, u0 * unit, channels, sum, c.pitch, p == begin);
        } else {
            pack_gram_panels<T>(image, channels, p, last, packed, c.stride);
            gram_panel_block<T>(c, n, packed, last - p, step, u0, u1, sum, p == begin, c.parts == 1 && last == end);
        }
    }
}

constexpr int64_t kPartsBytes = int64_t(1) << 20;

// Parts, blocks and the kind of tile, by estimated cycles. Returns the elements that a packed block takes.
template <class T>
static int64_t plan_gram(GramCall<T>& c) {
    constexpr int64_t L = kLanes<T>, R = GramTiles::dots, MT = GramTiles::rows<T>;
    const int64_t C = c.shape.C;
    const int64_t panels = ceil_div(C, L);
    const int64_t most_parts = larger(1, kPartsBytes / (C * C * int64_t(sizeof(T))));
    c.parts = 1;
    while (c.parts * 2 <= smaller(most_parts, c.pixels / 1024)) c.parts *= 2;
    c.part_pixels = round_up(ceil_div(c.pixels, c.parts), L);
    c.parts = ceil_div(c.pixels, c.part_pixels);

    // Multiply-adds of vectors, one a cycle, and what surrounds them: adding up a tile's lanes, 100 cycles; copying or
    // transposing a vector of pixels; storing a row of a panel tile.
    c.block = smaller(c.part_pixels, 4096 / int64_t(sizeof(T)));
    const double pixels = double(c.block), vectors = double(ceil_div(c.block, L)), tiles = double(ceil_div(C, R));
    const double squares = tiles * (tiles - 1) / 2 * (R * R * vectors + 100);
    const double triangles = tiles * (R * (R + 1) / 2 * vectors + 70);
    const double dot_cost = squares + triangles + double(C) * vectors * 3;
    const double panel_cost = double(panels) * (double(panels + 1) / 2 * L * (pixels + 8.0 * L / MT) + pixels * 6);
    const int64_t channel_bytes = c.input.stride_bytes[1], pixel_bytes = c.input.stride_bytes[3];
    const bool adjacent = channel_bytes == int64_t(sizeof(T)) && pixel_bytes == C * channel_bytes;
    const bool planar = pixel_bytes == int64_t(sizeof(T)) || c.shape.W == 1;
    c.kind = adjacent && C > 1 && C <= kInterleaved ? c.interleaved : planar && dot_cost < panel_cost ? c.dots : c.panels;
    if (c.kind == c.panels) c.block = smaller(c.part_pixels, 1024 / int64_t(sizeof(T)));
    c.stride = c.kind == c.dots ? round_up(c.block, L) + L : (c.block + 4) * L;
    c.far = C * C * int64_t(sizeof(T)) > (int64_t(2) << 20);
    c.one_block = c.kind == c.panels && c.block >= c.pixels;
    c.pitch = c.one_block ? GramTiles::vectors * L : panels * L + L;
    return c.kind == c.interleaved ? 0 : c.kind == c.dots ? C * c.stride : panels * c.stride + L * L;
}

template <class T>
static Status gram_matrix(const GramShape& s, double scale, Tensor input, Tensor output) {
    if (s.N == 0 || s.C == 0) return Status::ok;
    GramCall<T> c{};
    c.shape = s;
    c.input = input;
    c.output = output;
    c.scale = T(scale);
    c.pixels = s.H * s.W;
    if (c.pixels == 0) {
        for (int64_t n = 0; n < s.N; n++)
            for (int64_t i = 0; i < s.C; i++)
                __builtin_memset(gram_output(c, n, i, 0), 0, size_t(s.C) * sizeof(T));
        return Status::ok;
    }
    c.width = gram_width(s, input);
    const int64_t packed = plan_gram(c);
    const int threads = threads_for(gram_work(s));
    // Partial matrices: each image's in a wave of images, or one for each thread.
    const int64_t matrix = c.matrix(), kWaveBytes = int64_t(4) << 20;
    const int64_t wave = c.one_block ? s.N : smaller(s.N, larger(1, kWaveBytes / (c.parts * matrix * int64_t(sizeof(T)))));
    c.groups = c.kind == c.interleaved ? 1 : gram_groups(wave * c.parts, threads);
    const int64_t sums = (c.one_block ? threads : wave * c.parts) * matrix;
    const int64_t step_bytes = round_up(c.block * int64_t(sizeof(DepthStep)), 64);
    const int64_t packed_stride = round_up(packed, 64);
    const Scratch scratch(step_bytes + (sums + threads * packed_stride) * int64_t(sizeof(T)));
    if (!scratch.data()) return Status::out_of_memory;
    DepthStep* step = reinterpret_cast<DepthStep*>(scratch.data());
    T* sum = reinterpret_cast<T*>(scratch.data() + step_bytes);
    for (int64_t k = 0; k < c.block; k++) step[k] = {int32_t(k * kLanes<T>), int32_t(k * kLanes<T>)};
    parallel(threads, [&](Team team) {
        T* mine = sum + sums + team.id * packed_stride;
        for (int64_t n0 = 0; n0 < s.N; n0 += wave) {
            const int64_t count = smaller(wave, s.N - n0), items = count * c.parts * c.groups;
            for (int64_t item = team.begin(items); item < team.end(items); item++) {
                const int64_t part = item / c.groups;
                gram_part<T>(c, n0 + part / c.parts, part % c.parts, item % c.groups, mine, step,
                             sum + (c.one_block ? team.id : part) * matrix);
            }
            if (c.kind != c.panels || c.parts > 1) {
                team.wait_for_all();
                constexpr int64_t kColumns = GramTiles::vectors * kLanes<T>;
                const int64_t strips = ceil_div(s.C, kColumns);
                for (int64_t item = team.id; item < count * strips; item += team.size) {
                    const int64_t n = item / strips, j = item % strips * kColumns, end = smaller(s.C, j + kColumns);
                    finish_gram(c, n0 + n, 0, end, j, end, sum + n * c.parts * matrix + j);
                }
            }
            if (n0 + count < s.N) team.wait_for_all();
        }
    });
    return Status::ok;
}

static Status gram_matrix(const GramShape& s, int itemsize, double scale, Tensor input, Tensor output) {
    return itemsize == 4 ? gram_matrix<float>(s, scale, input, output) : gram_matrix<double>(s, scale, input, output);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
