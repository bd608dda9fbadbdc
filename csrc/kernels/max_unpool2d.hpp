// max_unpool2d: numbers back to where they came from, and zeros elsewhere; and the two gradients that do the like.
//
//   max_unpool2d             output[n][c][indices[n][c][p][q]] = input[n][c][p][q], in row-major order of p and q
//   max_pool2d_grad_input    the same, added up in that order instead
//   max_unpool2d_grad_input  grad_input[n][c][p][q] = grad_output[n][c][indices[n][c][p][q]]
//
// An index counts along the rows of its own H x W plane. Nobody has checked indices when they come here: a kernel looks at each
// one that it loads before it goes there, and gives up where one is outside its plane. What it wrote until then is a result that
// nobody gets to see.
//
// scatter: a plane is cleared and the numbers go to their places one by one. Four planes take turns, so that a sum need not wait
// until the one before it is in memory.
//
// blocks (max_unpool2d_blocks.hpp): if windows did not overlap, each number's place is in a block of its own, of stride_h x
// stride_w pixels, and each pixel is written once. The sizes suggest the blocks; comparisons say whether every number is in its
// own. If one is not, its plane is done by scatter, and so are those after it. All give the same bits: an added number is added
// to zero in both.
//
// gather: 3 x 3 windows at stride 2 are the usual ones that overlap. A pixel lies in at most four of them, so its sum takes the
// numbers of those whose index is the pixel's, in row-major order; again each pixel is written once:
//
//   numbers           a     b     c  ..        starting at columns 2q - 1, or 2q (`before` 1 or 0)
//   even columns      a     b     c            of a row of pixels, with before 1
//   odd columns      a+b   b+c   c+d           as far as their indices say so
//
// If not every number was found that way, windows were others, and the plane is done by scatter.
#pragma once

#include "../channel_lanes.h"
#include "../ops.h"
#include "../parallel.h"
#include "../simd.h"
#include "max_unpool2d_blocks.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

static inline bool outside(int64_t index, int64_t size) { return uint64_t(index) >= uint64_t(size); }

template <class T, bool kAdd>
FASTCV_INLINE void put(char* to, T value) {
    store_scalar(to, kAdd ? load_scalar<T>(to) + value : value);
}

// ---- planes

// kPlanes planes of results, one after another in memory; false: an index is outside.
template <class T, class I, bool kAdd, int kPlanes>
FASTCV_NOINLINE bool scatter_planes(const IndexedShape& s, const IndexedNumbers<T, I>* numbers, char* result) {
    const int64_t size = s.H * s.W, plane_bytes = size * int64_t(sizeof(T)), P = s.P, Q = s.Q;
    const int64_t value_step = numbers->value_bytes[3], index_step = numbers->index_bytes[3];
    __builtin_memset(result, 0, size_t(kPlanes * plane_bytes));
    for (int64_t p = 0; p < P; p++) {
        // Copies, which a store to the result cannot change.
        const char *values[kPlanes], *indices[kPlanes];
        FASTCV_UNROLL for (int i = 0; i < kPlanes; i++) {
            values[i] = numbers[i].values + p * numbers[i].value_bytes[2];
            indices[i] = numbers[i].indices + p * numbers[i].index_bytes[2];
        }
        for (int64_t q = 0; q < Q; q++)
            FASTCV_UNROLL for (int i = 0; i < kPlanes; i++) {
                const int64_t index = load_scalar<I>(indices[i] + q * index_step);
                if (outside(index, size)) return false;
                put<T, kAdd>(result + i * plane_bytes + index * int64_t(sizeof(T)), load_scalar<T>(values[i] + q * value_step));
            }
    }
    return true;
}

// Two rows of numbers with their positions; there is room for one before and a vector behind them, which are nowhere.
template <class T>
struct GatherScratch {
    static constexpr int64_t kWidest = 1 << 13;
    T* values[2];
    Position<T>* positions[2];

    static int64_t pitch(int64_t width) { return round_up(width + 1, kLanes<T>) + kLanes<T>; }
    static int64_t bytes(int64_t width) { return 4 * pitch(width) * int64_t(sizeof(T)); }
    GatherScratch(char* data, int64_t width) {
        for (int64_t i = 0; i < 2; i++) {
            values[i] = reinterpret_cast<T*>(data) + i * pitch(width);
            positions[i] = reinterpret_cast<Position<T>*>(data) + (2 + i) * pitch(width);
        }
    }
    // Row p of the numbers, which may be no row at all.
    template <class I>
    void fill(int64_t slot, const IndexedShape& s, const IndexedNumbers<T, I>& numbers, int64_t p) const {
        using At = Position<T>;
        const bool there = p >= 0 && p < s.P;
        const T* from = reinterpret_cast<const T*>(numbers.values + p * numbers.value_bytes[2]);
        const char* indices = numbers.indices + p * numbers.index_bytes[2];
        store_scalar(positions[slot], At(-1));
        store_scalar(values[slot], T(0));
        for (int64_t q = 0; q + 1 < pitch(s.Q); q += kLanes<T>) {
            const int64_t n = there ? larger(0, s.Q - q) : 0;
            const int64_t room = pitch(s.Q) - 1 - q;
            Vec<T> v = zero<T>();
            Vec<At> at = splat(At(-1));
            if (n > 0) {
                v = load_first(from + q, n);
                at = choose(lanes_from<T>(n), at, load_positions<T>(indices, int(sizeof(I)), q, n));
            }
            store_first(values[slot] + 1 + q, v, room);
            store_first(reinterpret_cast<T*>(positions[slot]) + 1 + q, reinterpret_cast<Vec<T>>(at), room);
        }
    }
};

template <class T>
FASTCV_INLINE void add_where(Vec<T>& sum, Vec<Position<T>>& found, Vec<Position<T>> at, Vec<Position<T>> here, Vec<T> v) {
    const Mask<T> mine = equal(at, here);
    sum = choose(mine, sum + v, sum);
    found = choose(mine, found + Position<T>(1), found);
}

// A row of pixels from the numbers of `rows` rows of windows, the upper one in scratch slot `slot`.
template <class T, int kBefore>
static void gather_row(const IndexedShape& s, const GatherScratch<T>& scratch, int64_t slot, int64_t rows, int64_t y, char* result,
                       Vec<Position<T>>& found) {
    constexpr int64_t L = kLanes<T>;
    using At = Position<T>;
    T* pixels = reinterpret_cast<T*>(result) + y * s.W;
    for (int64_t j = 0; 2 * j < s.W; j += L) {
        // Lanes beyond the row are nowhere, and not the next row's pixels: nothing may be found twice.
        const Vec<At> at = splat(At(y * s.W + 2 * j)) + lane_indices<T>() * At(2), nowhere = splat(At(-2));
        const Vec<At> even_at = choose(lanes_from<T>((s.W - 2 * j + 1) / 2), nowhere, at);
        const Vec<At> odd_at = choose(lanes_from<T>((s.W - 2 * j) / 2), nowhere, at + At(1));
        Vec<T> even_sum = zero<T>(), odd_sum = zero<T>();
        for (int64_t r = 0; r < rows; r++) {
            const T* values = scratch.values[(slot + r) % 2] + j + kBefore;
            const At* positions = scratch.positions[(slot + r) % 2] + j + kBefore;
            const Vec<T> left = load(values), right = load(values + 1);
            const Vec<At> left_at = load(positions), right_at = load(positions + 1);
            if constexpr (kBefore == 1) {
                add_where<T>(even_sum, found, left_at, even_at, left);
                add_where<T>(odd_sum, found, left_at, odd_at, left);
                add_where<T>(odd_sum, found, right_at, odd_at, right);
            } else {
                add_where<T>(even_sum, found, left_at, even_at, left);
                add_where<T>(even_sum, found, right_at, even_at, right);
                add_where<T>(odd_sum, found, right_at, odd_at, right);
            }
        }
        const int64_t n = s.W - 2 * j;
        store_first(pixels + 2 * j, interleave_low<T>(even_sum, odd_sum), n);
        store_first(pixels + 2 * j + L, interleave_high<T>(even_sum, odd_sum), n - L);
    }
}

// 3 x 3 windows at stride 2 that start kBefore pixels before 2p and 2q; false: not every number was found.
template <class T, class I, int kBefore>
static bool gather_plane(const IndexedShape& s, const GatherScratch<T>& scratch, const IndexedNumbers<T, I>& numbers, char* result) {
    Vec<Position<T>> found{};
    scratch.fill((kBefore + 1) % 2, s, numbers, kBefore - 1);
    for (int64_t i = 0; 2 * i < s.H; i++) {
        const int64_t upper = (i + kBefore + 1) % 2, lower = (i + kBefore) % 2;
        scratch.fill(lower, s, numbers, i + kBefore);
        gather_row<T, kBefore>(s, scratch, upper, kBefore == 1 ? 1 : 2, 2 * i, result, found);
        if (2 * i + 1 < s.H)
            gather_row<T, kBefore>(s, scratch, kBefore == 1 ? upper : lower, kBefore == 1 ? 2 : 1, 2 * i + 1, result, found);
        if (i == 0 && 2 * count_found<T>(found) < s.Q) return false;  // most of the first row should be there
    }
    return count_found<T>(found) == s.P * s.Q;
}

// The ways to do a plane, those that write each pixel once first.
enum HandBack { short_blocks, long_blocks, gather_before, gather_at, scatter };

template <class T, class I, bool kAdd>
static bool way_applies(int way, const IndexedShape& s, const IndexedNumbers<T, I>& numbers, const BlockPlan<T>& plan) {
    if (way == scatter) return true;
    if (way == short_blocks) return plan.count > 0;
    if (!numbers.neighbours(3) || s.H * s.W >= INT32_MAX) return false;
    if (way == long_blocks) return s.Q > kLanes<T> && s.H >= s.P && (s.W / s.Q == 1 || s.W / s.Q == 2);
    if (!kAdd || s.Q > GatherScratch<T>::kWidest) return false;
    const auto fits = [way](int64_t size, int64_t windows) {
        return way == gather_before ? windows == (size + 1) / 2 : windows == (size - 1) / 2 || windows == size / 2;
    };
    return fits(s.H, s.P) && fits(s.W, s.Q);
}

// Planes [first, last) of all images' planes; false: an index is outside. A way that fails is not tried again.
template <class T, class I, bool kAdd>
static bool hand_back_planes(const IndexedShape& s, const IndexedNumbers<T, I>& numbers, const BlockPlan<T>& plan, char* result,
                             int64_t first, int64_t last, char* scratch_data) {
    const int64_t plane_bytes = s.H * s.W * int64_t(sizeof(T));
    const GatherScratch<T> scratch(scratch_data, s.Q);
    const auto plane_at = [&](int64_t i) { return numbers.at(i / s.C, i % s.C); };
    int way = short_blocks;
    for (int64_t i = first; i < last;) {
        char* to = result + i * plane_bytes;
        const IndexedNumbers<T, I> plane = plane_at(i);
        bool done = false;
        int64_t planes = 1;
        if (!way_applies<T, I, kAdd>(way, s, numbers, plan)) {
            way++;
            continue;
        }
        if (way == short_blocks) {
            planes = smaller(plan.planes, last - i);
            done = fill_short_rows<T, I, kAdd>(s, plan, plane, planes, to);
        }
        if (way == long_blocks)
            done = s.W / s.Q == 1 ? fill_long_rows<T, I, kAdd, 1>(s, s.H / s.P, plane, to)
                                  : fill_long_rows<T, I, kAdd, 2>(s, s.H / s.P, plane, to);
        if constexpr (kAdd) {
            if (way == gather_before) done = gather_plane<T, I, 1>(s, scratch, plane, to);
            if (way == gather_at) done = gather_plane<T, I, 0>(s, scratch, plane, to);
        }
        if (way != scatter) {
            i += done ? planes : 0;
            way += !done;
        } else if (last - i >= 4) {
            const IndexedNumbers<T, I> planes[4] = {plane, plane_at(i + 1), plane_at(i + 2), plane_at(i + 3)};
            if (!scatter_planes<T, I, kAdd, 4>(s, planes, to)) return false;
            i += 4;
        } else {
            if (!scatter_planes<T, I, kAdd, 1>(s, &plane, to)) return false;
            i++;
        }
    }
    return true;
}

// ---- channels-last images

template <class T, class I, bool kAdd>
static bool scatter_image(const IndexedShape& s, const IndexedNumbers<T, I>& image, char* result) {
    const int64_t size = s.H * s.W, pixel_bytes = s.C * int64_t(sizeof(T));
    __builtin_memset(result, 0, size_t(size * pixel_bytes));
    for (int64_t p = 0; p < s.P; p++)
        for (int64_t q = 0; q < s.Q; q++) {
            const char* values = image.values + p * image.value_bytes[2] + q * image.value_bytes[3];
            const char* indices = image.indices + p * image.index_bytes[2] + q * image.index_bytes[3];
            for (int64_t c = 0; c < s.C; c++) {
                const int64_t index = load_scalar<I>(indices + c * image.index_bytes[1]);
                if (outside(index, size)) return false;
                put<T, kAdd>(result + index * pixel_bytes + c * int64_t(sizeof(T)), load_scalar<T>(values + c * image.value_bytes[1]));
            }
        }
    return true;
}

// Blocks of `height` x `width` pixels; false: a number is not in its own.
template <class T, class I, bool kAdd>
static bool fill_blocks_of_channels(const IndexedShape& s, int64_t height, int64_t width, const IndexedNumbers<T, I>& image,
                                    char* result) {
    constexpr int64_t L = kLanes<T>;
    using At = Position<T>;
    const int64_t pixel_bytes = s.C * int64_t(sizeof(T)), row_bytes = s.W * pixel_bytes, filled = s.Q * width;
    for (int64_t p = 0; p < s.P; p++) {
        char* block_row = result + p * height * row_bytes;
        for (int64_t q = 0; q < s.Q; q++) {
            const T* values = reinterpret_cast<const T*>(image.values + p * image.value_bytes[2] + q * image.value_bytes[3]);
            const char* indices = image.indices + p * image.index_bytes[2] + q * image.index_bytes[3];
            const At corner = At(p * height * s.W + q * width);
            Mask<T> lost{};
            for (int64_t c = 0; c < s.C; c += L) {
                const int64_t n = s.C - c;
                Vec<T> v = load_first(values + c, n);
                if constexpr (kAdd) v += zero<T>();
                const Vec<At> place = load_positions<T>(indices, int(sizeof(I)), c, n) - corner;
                Mask<T> found = lanes_from<T>(n);
                for (int64_t r = 0; r < height; r++)
                    for (int64_t j = 0; j < width; j++) {
                        const Mask<T> here = equal(place, splat(At(r * s.W + j)));
                        found = Mask<T>(found | here);
                        char* pixel = block_row + r * row_bytes + (q * width + j) * pixel_bytes;
                        store_first(reinterpret_cast<T*>(pixel) + c, choose(here, v, zero<T>()), n);
                    }
                lost = Mask<T>(lost | Mask<T>(~found));
            }
            if (any<T>(lost)) return false;
        }
        for (int64_t r = 0; r < height; r++)
            __builtin_memset(block_row + r * row_bytes + filled * pixel_bytes, 0, size_t((s.W - filled) * pixel_bytes));
    }
    __builtin_memset(result + s.P * height * row_bytes, 0, size_t((s.H - s.P * height) * row_bytes));
    return true;
}

template <class T, class I, bool kAdd>
static bool hand_back_images(const IndexedShape& s, const IndexedNumbers<T, I>& numbers, char* result, int64_t first, int64_t last) {
    constexpr int64_t kLargest = 16;  // pixels of a block that cost less to compare than to scatter to
    const int64_t image_bytes = s.H * s.W * s.C * int64_t(sizeof(T)), height = s.H / s.P, width = s.W / s.Q;
    bool blocks = numbers.neighbours(1) && height > 0 && width > 0 && height <= kLargest && width <= kLargest &&
                  height * width <= kLargest && s.H * s.W < INT32_MAX;
    for (int64_t n = first; n < last; n++) {
        char* to = result + n * image_bytes;
        if (blocks) blocks = fill_blocks_of_channels<T, I, kAdd>(s, height, width, numbers.at(n, 0), to);
        if (!blocks && !scatter_image<T, I, kAdd>(s, numbers.at(n, 0), to)) return false;
    }
    return true;
}

// ---- the drivers

// What moving an element costs, and finding one, in terms of threads_for(): about 4 microseconds of one core's work are worth a
// second one.
constexpr double kMoved = 32, kFetched = 96;

template <class T, class I, bool kAdd>
static Status hand_back(const IndexedShape& s, Tensor values, Tensor indices, Tensor result) {
    if (s.N == 0 || s.C == 0) return Status::ok;
    if (s.P == 0 || s.Q == 0 || s.H == 0 || s.W == 0) {
        __builtin_memset(result.data, 0, size_t(s.N * s.C * s.H * s.W) * sizeof(T));
        return s.P == 0 || s.Q == 0 ? Status::ok : Status::index_out_of_range;
    }
    const IndexedNumbers<T, I> numbers(values, indices);
    const bool planar = result.stride_bytes[3] == int64_t(sizeof(T));
    int bad = 0;
    const int threads = threads_for(kMoved * double(s.N) * double(s.C) * (double(s.H) * double(s.W) + double(s.P) * double(s.Q)));
    const int64_t bytes = kAdd && planar && s.Q <= GatherScratch<T>::kWidest ? round_up(GatherScratch<T>::bytes(s.Q), 64) : 0;
    const Scratch scratch(bytes * threads);
    if (!scratch.data() && bytes > 0) return Status::out_of_memory;
    const BlockPlan<T> plan(s, numbers);
    parallel(threads, [&](Team team) {
        const int64_t items = planar ? s.N * s.C : s.N, first = team.begin(items), last = team.end(items);
        const bool done = planar ? hand_back_planes<T, I, kAdd>(s, numbers, plan, result.data, first, last,
                                                                   scratch.data() + bytes * team.id)
                                 : hand_back_images<T, I, kAdd>(s, numbers, result.data, first, last);
        if (!done) raise_flag(&bad);
    });
    return bad ? Status::index_out_of_range : Status::ok;
}

// Neighbouring results from a plane of `size` elements in their order; false: an index is outside.
template <class T, class I>
static bool fetch_neighbours(const char* plane, int64_t size, const char* indices, char* to, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        const int64_t index = load_scalar<I>(indices + i * int64_t(sizeof(I)));
        if (outside(index, size)) return false;
        store_scalar(to + i * int64_t(sizeof(T)), load_scalar<T>(plane + index * int64_t(sizeof(T))));
    }
    return true;
}
// The same any steps apart: d is the axis of the results, from.stride_bytes those of the plane's rows and pixels.
template <class T, class I>
static bool fetch_line(const IndexedShape& s, const Tensor& from, const char* plane, int64_t step, const char* indices,
                       int64_t index_step, char* to, int64_t count) {
    const int64_t row_bytes = from.stride_bytes[2], pixel_bytes = from.stride_bytes[3];
    const bool flat = row_bytes == s.W * pixel_bytes;
    for (int64_t i = 0; i < count; i++) {
        const int64_t index = load_scalar<I>(indices + i * index_step);
        if (outside(index, s.H * s.W)) return false;
        const int64_t at = flat ? index * pixel_bytes : index / s.W * row_bytes + index % s.W * pixel_bytes;
        store_scalar(to + i * int64_t(sizeof(T)), load_scalar<T>(plane + i * step + at));
    }
    return true;
}

// Line by line of what lies next to each other in the result: of whole planes, of their rows, or of a pixel's channels.
template <class T, class I>
static Status fetch(const IndexedShape& s, Tensor from, Tensor indices, Tensor result) {
    const bool planar = result.stride_bytes[3] == int64_t(sizeof(T));
    const int d = planar ? 3 : 1;
    const bool near = planar && indices.stride_bytes[3] == int64_t(sizeof(I)) && from.stride_bytes[3] == int64_t(sizeof(T)) &&
                      from.stride_bytes[2] == s.W * int64_t(sizeof(T));
    const int64_t rows = near && indices.stride_bytes[2] == s.Q * int64_t(sizeof(I)) ? 1 : s.P;
    const int64_t count = planar ? s.P / rows * s.Q : s.C, others = planar ? s.C : s.Q, channel_step = planar ? 0 : from.stride_bytes[1];
    int bad = 0;
    parallel(threads_for(kFetched * double(s.N) * double(s.C) * double(s.P) * double(s.Q)), [&](Team team) {
        const int64_t lines = s.N * rows * others;
        for (int64_t line = team.begin(lines); line < team.end(lines); line++) {
            // Planar lines count image, channel, row; others image, row, column.
            const int64_t n = line / (rows * others), rest = line % (rows * others);
            const int64_t c = planar ? rest / rows : 0, p = planar ? rest % rows : rest / s.Q, q = planar ? 0 : rest % s.Q;
            const auto start = [&](const Tensor& t) {
                return t.data + n * t.stride_bytes[0] + c * t.stride_bytes[1] + p * t.stride_bytes[2] + q * t.stride_bytes[3];
            };
            const char* plane = from.data + n * from.stride_bytes[0] + c * from.stride_bytes[1];
            const bool done = near ? fetch_neighbours<T, I>(plane, s.H * s.W, start(indices), start(result), count)
                                   : fetch_line<T, I>(s, from, plane, channel_step, start(indices), indices.stride_bytes[d],
                                                      start(result), count);
            if (!done) {
                raise_flag(&bad);
                return;
            }
        }
    });
    return bad ? Status::index_out_of_range : Status::ok;
}

// ---- the table's entries: element and index types become template arguments

template <class T, bool kAdd>
static Status hand_back(const IndexedShape& s, int index_bytes, Tensor values, Tensor indices, Tensor result) {
    return index_bytes == 8 ? hand_back<T, int64_t, kAdd>(s, values, indices, result)
                            : hand_back<T, int32_t, kAdd>(s, values, indices, result);
}
static Status max_unpool2d(const IndexedShape& s, int itemsize, int index_bytes, Tensor input, Tensor indices, Tensor output) {
    return itemsize == 4 ? hand_back<float, false>(s, index_bytes, input, indices, output)
                         : hand_back<double, false>(s, index_bytes, input, indices, output);
}
static Status max_pool2d_grad_input(const IndexedShape& s, int itemsize, int index_bytes, Tensor grad_output, Tensor indices,
                                    Tensor grad_input) {
    return itemsize == 4 ? hand_back<float, true>(s, index_bytes, grad_output, indices, grad_input)
                         : hand_back<double, true>(s, index_bytes, grad_output, indices, grad_input);
}
template <class T>
static Status fetch(const IndexedShape& s, int index_bytes, Tensor from, Tensor indices, Tensor result) {
    return index_bytes == 8 ? fetch<T, int64_t>(s, from, indices, result) : fetch<T, int32_t>(s, from, indices, result);
}
static Status max_unpool2d_grad_input(const IndexedShape& s, int itemsize, int index_bytes, Tensor grad_output, Tensor indices,
                                      Tensor grad_input) {
    return itemsize == 4 ? fetch<float>(s, index_bytes, grad_output, indices, grad_input)
                         : fetch<double>(s, index_bytes, grad_output, indices, grad_input);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
