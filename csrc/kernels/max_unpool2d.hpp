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
// Sums over windows that overlap, such as 3 x 3 at stride 2, are scattered as well. Gathering did not help: each pixel of a row
// from the at most four windows over it, their indices compared in lanes, so that it is written once. Shifts, nine comparisons
// for each number and masked ends cost more than the nanosecond of a scattered number. Measured on one core, gathered and
// scattered: 64 planes of 112 x 112: 158 and 153 microseconds with AVX-512, 252 and 173 with AVX2, 435 and 172 with SSE2;
// 256 of 13 x 13: 21 and 9 with AVX-512, 56 and 10 with AVX2; 128 of 7 x 7: 9 and 2.4, 14 and 2.5.
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

// The ways to do a plane, those that write each pixel once first.
enum HandBack { short_blocks, long_blocks, scatter };

template <class T, class I>
static bool way_applies(int way, const IndexedShape& s, const IndexedNumbers<T, I>& numbers, const BlockPlan<T>& plan) {
    if (way == scatter) return true;
    if (way == short_blocks) return plan.count > 0;
    return numbers.neighbours(3) && s.H * s.W < INT32_MAX && s.Q > kLanes<T> && s.H >= s.P && (s.W / s.Q == 1 || s.W / s.Q == 2);
}

// Planes [first, last) of all images' planes; false: an index is outside. A way that fails is not tried again.
template <class T, class I, bool kAdd>
static bool hand_back_planes(const IndexedShape& s, const IndexedNumbers<T, I>& numbers, const BlockPlan<T>& plan, char* result,
                             int64_t first, int64_t last) {
    const int64_t plane_bytes = s.H * s.W * int64_t(sizeof(T));
    const auto plane_at = [&](int64_t i) { return numbers.at(i / s.C, i % s.C); };
    int way = short_blocks;
    for (int64_t i = first; i < last;) {
        char* to = result + i * plane_bytes;
        const IndexedNumbers<T, I> plane = plane_at(i);
        bool done = false;
        int64_t planes = 1;
        if (!way_applies<T, I>(way, s, numbers, plan)) {
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
    const BlockPlan<T> plan(s, numbers);
    parallel(threads, [&](Team team) {
        const int64_t items = planar ? s.N * s.C : s.N, first = team.begin(items), last = team.end(items);
        const bool done = planar ? hand_back_planes<T, I, kAdd>(s, numbers, plan, result.data, first, last)
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
