// max_unpool2d and the gradient of max_pool2d where windows did not overlap: each pixel from the number of its own block.
//
// short rows: as many rows of numbers as fill a vector are a chunk. All its pixels, whatever columns are left over at the right
// included, follow each other in memory. A vector of them takes its lanes from the numbers whose blocks they lie in, and keeps
// those whose index names the pixel; which lanes these are is worked out once for a call:
//
//   numbers of a chunk       a     b     c     d ..     2 x 2 blocks, planes 6 pixels wide: row a b c, row d e f, ..
//   pixels, 16 at a time    [a a b b c c | a a b b c c | d d e e]   lanes of the numbers
//                           [0 1 0 1 0 1 | 6 7 6 7 6 7 | 0 1 0 1]   indices that name these pixels, from their blocks' corners on
//
// Planes that follow each other without rows left over at the bottom are gone through as one. Each pixel belongs to one block, so
// every number is found at most once: if as many were found as there are, all lay in their blocks.
//
// long rows: blocks of 1 or 2 columns, a vector of numbers at a time
//
//   numbers      a     b     c  ..            place in block: a 1, b 2, c 0
//   row 2p     0 a | 0 0 | c 0  ..            two masked copies, interleaved
//   row 2p+1   0 0 | b 0 | 0 0  ..
//
// Blocks of 3 columns and more: clearing and scattering costs no more than the comparisons.
//
// Measured on one core, all rows as long ones and now: 512 planes of 14 x 14, 2 x 2 blocks: 31.6 and 15.5 microseconds; 16 of
// 8 x 8: 0.61 and 0.26; 512 of 4 x 4 and one block each: 4.8 and 1.1.
#pragma once

#include "../ops.h"
#include "../simd.h"

namespace fastcv::FASTCV_ISA {
namespace {

// Numbers with an index each, any strides. I: int32_t or int64_t.
template <class T, class I>
struct IndexedNumbers {
    const char *values, *indices;
    int64_t value_bytes[4], index_bytes[4];

    IndexedNumbers(Tensor v, Tensor i) : values(v.data), indices(i.data) {
        for (int d = 0; d < 4; d++) value_bytes[d] = v.stride_bytes[d], index_bytes[d] = i.stride_bytes[d];
    }
    IndexedNumbers at(int64_t n, int64_t c) const {
        IndexedNumbers plane = *this;
        plane.values += n * value_bytes[0] + c * value_bytes[1];
        plane.indices += n * index_bytes[0] + c * index_bytes[1];
        return plane;
    }
    bool neighbours(int d) const { return apart(d, 1); }
    // Whether steps along axis d are `elements` elements long.
    bool apart(int d, int64_t elements) const {
        return value_bytes[d] == elements * int64_t(sizeof(T)) && index_bytes[d] == elements * int64_t(sizeof(I));
    }
};

template <class T>
static int64_t count_found(Vec<Position<T>> found) {
    int64_t sum = 0;
    for (int l = 0; l < kLanes<T>; l++) sum += found[l];
    return sum;
}

// ---- rows of at most as many numbers as there are lanes

// A vector of a chunk's pixels.
template <class T>
struct BlockVector {
    Vec<Position<T>> number, place;  // the numbers' lanes; indices that name these pixels, from their blocks' corners on
    Mask<T> owned;                   // lanes that lie in a block
};

// How a call's numbers are cut into chunks.
template <class T>
struct BlockPlan {
    static constexpr int kMost = 32;
    static constexpr int64_t kLargest = int64_t(1) << 30;  // pixels of a plane, so that corners fit their lanes
    BlockVector<T> vectors[kMost];
    Vec<Position<T>> row, column;  // where the blocks of the first chunk's numbers begin: pixels above in the plane, and before
    int64_t height, width;         // of a block
    int64_t rows, planes;          // of numbers in a chunk; planes that are gone through as one
    int64_t count;                 // vectors; none where this is not the way

    template <class I>
    __attribute__((noinline)) BlockPlan(const IndexedShape& s, const IndexedNumbers<T, I>& numbers)
        : row{}, column{}, height(s.H / s.P), width(s.W / s.Q), rows(1), planes(1), count(0) {
        using At = Position<T>;
        constexpr int64_t L = kLanes<T>, kPixels = 1 << 14;
        if (!numbers.neighbours(3) || s.Q > L || height < 1 || width < 1 || s.H * s.W >= kLargest) return;
        if (numbers.apart(2, s.Q)) {
            rows = L / s.Q;
            const bool images_together = s.N == 1 || numbers.apart(0, s.C * s.P * s.Q);
            if (numbers.apart(1, s.P * s.Q) && images_together && s.H == s.P * height) planes = larger(1, kPixels / (s.H * s.W));
            rows = smaller(rows, planes * s.P);
        }
        const int64_t pixels = rows * height * s.W;
        if (pixels > kMost * L) return;
        // A pixel: row and column in its block, the first number of its row and its own, columns left.
        int64_t h = 0, w = 0, row_number = 0, number = 0, left = s.W;
        for (int64_t pixel = 0; pixel < pixels;) {
            BlockVector<T>& v = vectors[count++];
            Vec<At> owned{};
            for (int64_t l = 0; l < L; l++, pixel++) {
                const bool mine = pixel < pixels && number - row_number < s.Q;
                owned[l] = mine;
                v.number[l] = mine ? At(number) : 0;
                v.place[l] = At(h * s.W + w);
                if (++w == width) w = 0, number++;
                if (--left > 0) continue;
                left = s.W, w = 0;
                if (++h == height) h = 0, row_number += s.Q;
                number = row_number;
            }
            v.owned = equal(owned, splat(At(1)));
        }
        for (int64_t l = 0, p = 0, q = 0; l < L; l++) {
            row[l] = At(p * height * s.W), column[l] = At(q * width);
            if (++q < s.Q) continue;
            q = 0;
            if (++p == s.P) p = 0;
        }
    }
};

// The pixels of some planes one after another; false: a number is not in its own block.
template <class T, class I, bool kAdd>
FASTCV_NOINLINE bool fill_short_rows(const IndexedShape& s, const BlockPlan<T>& plan, const IndexedNumbers<T, I>& numbers,
                                     int64_t planes, char* result) {
    constexpr int64_t L = kLanes<T>;
    using At = Position<T>;
    const int64_t rows = planes * s.P, block_row = plan.height * s.W, vectors = plan.count;
    const Vec<At> step = splat(At(plan.rows % s.P * block_row)), size = splat(At(s.P * block_row));
    Vec<At> above = plan.row, found{};
    int64_t left = rows * block_row;
    for (int64_t row = 0; row < rows; row += plan.rows) {
        const int64_t n = smaller(plan.rows, rows - row) * s.Q;
        T* pixels = reinterpret_cast<T*>(result) + row * block_row;
        Vec<T> v = load_first(reinterpret_cast<const T*>(numbers.values + row * numbers.value_bytes[2]), n);
        if constexpr (kAdd) v += zero<T>();
        const Vec<At> place =
            load_positions<T>(numbers.indices + row * numbers.index_bytes[2], int(sizeof(I)), 0, n) - (above + plan.column);
        const auto pixels_of = [&](const BlockVector<T>& b, Mask<T> lanes) __attribute__((always_inline)) {
            const Mask<T> mine = equal_where<T>(lanes, __builtin_shuffle(place, b.number), b.place);
            found = choose(mine, found + At(1), found);
            return choose(mine, __builtin_shuffle(v, b.number), zero<T>());
        };
        // The last vector may reach into the next chunk's pixels, which are written after it.
        if (vectors * L <= left) {
            for (int64_t i = 0; i < vectors; i++) store(pixels + i * L, pixels_of(plan.vectors[i], plan.vectors[i].owned));
        } else {
            for (int64_t i = 0; i * L < left; i++) {
                const BlockVector<T>& b = plan.vectors[i];
                const int64_t n = left - i * L;
                store_first(pixels + i * L, pixels_of(b, Mask<T>(b.owned & lanes_between<T>(0, n))), n);
            }
        }
        if (row == 0 && count_found<T>(found) < n) return false;
        above += step;
        above = above < size ? above : above - size;  // rows of the next plane
        left -= plan.rows * block_row;
    }
    const int64_t pixels = rows * block_row;
    __builtin_memset(result + pixels * int64_t(sizeof(T)), 0, size_t(planes * (s.H * s.W) - pixels) * sizeof(T));
    return count_found<T>(found) == rows * s.Q;
}

// ---- longer rows

// Blocks of kWidth columns and `height` rows; false: a number is not in its own.
template <class T, class I, bool kAdd, int kWidth>
FASTCV_NOINLINE bool fill_long_rows(const IndexedShape& s, int64_t height, const IndexedNumbers<T, I>& numbers, char* result) {
    constexpr int64_t L = kLanes<T>;
    using At = Position<T>;
    const int64_t row_bytes = s.W * int64_t(sizeof(T)), filled = s.Q * kWidth;
    for (int64_t p = 0; p < s.P; p++) {
        const T* values = reinterpret_cast<const T*>(numbers.values + p * numbers.value_bytes[2]);
        const char* indices = numbers.indices + p * numbers.index_bytes[2];
        char* block = result + p * height * row_bytes;
        Mask<T> lost{};
        for (int64_t q = 0; q < s.Q; q += L) {
            const int64_t n = s.Q - q;
            Vec<T> v = load_first(values + q, n);
            if constexpr (kAdd) v += zero<T>();
            const Vec<At> corner = splat(At(p * height * s.W + q * kWidth)) + lane_indices<T>() * At(kWidth);
            const Vec<At> place = load_positions<T>(indices, int(sizeof(I)), q, n) - corner;
            Mask<T> found = lanes_from<T>(n);
            for (int64_t r = 0; r < height; r++) {
                Vec<T> pixels[kWidth];
                FASTCV_UNROLL for (int j = 0; j < kWidth; j++) {
                    const Mask<T> here = equal(place, splat(At(r * s.W + j)));
                    found = Mask<T>(found | here);
                    pixels[j] = choose(here, v, zero<T>());
                }
                T* row = reinterpret_cast<T*>(block + r * row_bytes) + q * kWidth;
                if constexpr (kWidth == 1) {
                    store_first(row, pixels[0], n);
                } else {
                    store_first(row, interleave_low<T>(pixels[0], pixels[1]), 2 * n);
                    store_first(row + L, interleave_high<T>(pixels[0], pixels[1]), 2 * n - L);
                }
            }
            lost = Mask<T>(lost | Mask<T>(~found));
        }
        if (any<T>(lost)) return false;
        for (int64_t r = 0; r < height && filled < s.W; r++)
            __builtin_memset(block + r * row_bytes + filled * int64_t(sizeof(T)), 0, size_t(s.W - filled) * sizeof(T));
    }
    __builtin_memset(result + s.P * height * row_bytes, 0, size_t((s.H - s.P * height) * row_bytes));
    return true;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
