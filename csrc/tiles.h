// The register tiles that the ops share: a few rows of one operand times a few vectors of the other.
//
//                vectors j = 0 .. NV-1
//              +--------+--------+--------+
//   rows i     |        |        |        |     acc[i][j] += row operand (one element, broadcast)
//   0 .. MT-1  |        |        |        |                * column operand (one vector)
//              +--------+--------+--------+
//
// The largest tiles fill the registers: MT * NV accumulators, NV vectors, one broadcast. Both fused multiply-add pipes
// are busy from about 8 accumulators on; the larger the tile, the fewer loads a multiply-add costs.
#pragma once

#include "simd.h"

namespace fastcv::FASTCV_ISA {
namespace {

// Packed weights are read once by each tile, from beyond the first-level cache, and are asked for so many steps ahead. On two
// threads Winograd's products took 3 to 18% less time so; 8 and 32 steps ahead gained as much or less. Strided products, whose
// operands are near, took 3 to 10% more. In channel lanes 1 x 1 and 16 x 16 windows gained 3 to 4%, deep transposed ones 28%.
constexpr int kStepsAhead = 16;
// Elements of a cache line.
template <class T>
constexpr int kLine = 64 / int(sizeof(T));

template <class T, int MT, int NV>
FASTCV_INLINE void clear_tile(Vec<T> (&acc)[MT][NV]) {
    FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = zero<T>();
}

// Rows that begin with the same vectors, such as filters' biases.
template <class T, int MT, int NV>
FASTCV_INLINE void start_tile(Vec<T> (&acc)[MT][NV], const T* row) {
    FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = load(row + j * kLanes<T>);
}
template <class T, int MT, int NV>
FASTCV_INLINE void store_tile(const Vec<T> (&acc)[MT][NV], T* to, int64_t row_stride) {
    FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++)
        store(to + i * row_stride + j * kLanes<T>, acc[i][j]);
}

template <class T, int MT, int NV>
FASTCV_INLINE void multiply_add(Vec<T> (&acc)[MT][NV], int i, T row, const Vec<T> (&columns)[NV]) {
    Vec<T> x = splat<T>(row);
    if constexpr (NV > 1) keep(x);
    FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = fma(x, columns[j], acc[i][j]);
}

// Where depth step k reads: elements into the strip, and into a filter's weights.
struct DepthStep {
    int32_t pixel, weight;
};

// Pixel lanes. Rows are filters, read where they lie, `filter_stride` elements apart; columns are pixels of a strip. Three row
// pointers, each serving three filters by base + {0, 1, 2} * stride, keep the addresses of eight filters in few integer
// registers. Where COPIED, the pixels also go to a panel [step][NV * lanes], `copy_pitch` elements from step to step.
template <class T, int MT, int NV, bool COPIED = false>
FASTCV_INLINE void pixel_lanes(Vec<T> (&acc)[MT][NV], int64_t depth, const T* weight, int64_t filter_stride,
                               const T* const (&pixels)[NV], const DepthStep* step, T* copy = nullptr, int64_t copy_pitch = 0) {
    for (int64_t k = 0; k < depth; k++) {
        const int64_t pixel = step[k].pixel, tap = step[k].weight;
        Vec<T> columns[NV];
        FASTCV_UNROLL for (int j = 0; j < NV; j++) {
            columns[j] = load(pixels[j] + pixel);
            keep(columns[j]);
            if constexpr (COPIED) store(copy + j * kLanes<T>, columns[j]);
        }
        if constexpr (COPIED) copy += copy_pitch;
        FASTCV_UNROLL for (int i = 0; i < (MT + 2) / 3; i++) {
            const T* row = weight + 3 * i * filter_stride + tap;
            FASTCV_UNROLL for (int m = 0; m < 3; m++)
                if (3 * i + m < MT) multiply_add<T>(acc, 3 * i + m, load_scalar<T>(row + m * filter_stride), columns);
        }
    }
}

// Channel lanes. Rows are MT / IMAGES neighbouring pixels of each of IMAGES images, which lie `image_stride` apart and are read
// at `offset[k]`; columns are the first NV vectors of filters of a panel, packed [k][2 * lanes].
template <class T, int MT, int NV, int IMAGES = 1>
FASTCV_INLINE void channel_lanes(Vec<T> (&acc)[MT][NV], int64_t depth, const T* packed, const T* pixels,
                                 const int32_t* offset, int64_t image_stride = 0) {
    constexpr int L = kLanes<T>, PIXELS = MT / IMAGES;
    for (int64_t k = 0; k < depth; k++) {
        const T* p = pixels + offset[k];
        FASTCV_UNROLL for (int j = 0; j < NV * L; j += kLine<T>) __builtin_prefetch(packed + kStepsAhead * 2 * L + j);
        Vec<T> columns[NV];
        FASTCV_UNROLL for (int j = 0; j < NV; j++) {
            columns[j] = load(packed + j * L);
            keep(columns[j]);
        }
        FASTCV_UNROLL for (int n = 0; n < IMAGES; n++)
            FASTCV_UNROLL for (int i = 0; i < PIXELS; i++)
                multiply_add<T>(acc, n * PIXELS + i, load_scalar<T>(p + n * image_stride + i), columns);
        packed += 2 * L;
    }
}

// The same from pixels whose channels lie side by side: MT / PARTS pixels `pixel_stride` apart in each of PARTS rows of them,
// which lie `part_stride` apart.
template <class T, int MT, int NV, int PARTS = 1>
FASTCV_INLINE void pixel_rows(Vec<T> (&acc)[MT][NV], int64_t depth, const T* packed, const T* pixels, int64_t pixel_stride,
                              int64_t part_stride) {
    constexpr int L = kLanes<T>, PIXELS = MT / PARTS;
    for (int64_t k = 0; k < depth; k++, pixels++, packed += 2 * L) {
        FASTCV_UNROLL for (int j = 0; j < NV * L; j += kLine<T>) __builtin_prefetch(packed + kStepsAhead * 2 * L + j);
        Vec<T> columns[NV];
        FASTCV_UNROLL for (int j = 0; j < NV; j++) {
            columns[j] = load(packed + j * L);
            keep(columns[j]);
        }
        FASTCV_UNROLL for (int n = 0; n < PARTS; n++)
            FASTCV_UNROLL for (int i = 0; i < (PIXELS + 2) / 3; i++) {
                const T* three = pixels + n * part_stride + 3 * i * pixel_stride;
                FASTCV_UNROLL for (int m = 0; m < 3; m++)
                    if (3 * i + m < PIXELS)
                        multiply_add<T>(acc, n * PIXELS + 3 * i + m, load_scalar<T>(three + m * pixel_stride), columns);
            }
    }
}

// Panel product. Rows come from a panel [block of lanes][row][lane], `block_stride` elements from block to block;
// columns from a packed panel [k][NV * lanes]. The depth is a multiple of lanes. Blocks are in different pages, which the hardware
// does not follow, so the next one's lines are asked for: 512 to 256 channels on 33 x 33 at rate 6 took 3.9 ms, and take 3.6.
template <class T, int MT, int NV>
FASTCV_INLINE void panel_product(Vec<T> (&acc)[MT][NV], int64_t blocks, const T* rows, int64_t block_stride,
                                 const T* packed) {
    constexpr int L = kLanes<T>;
    constexpr int kUnroll = L < 4 ? L : 4, kLines = (MT * L + kLine<T> - 1) / kLine<T>;
    for (int64_t b = 0; b < blocks; b++) {
        const T *row = rows, *next = rows + block_stride;
        for (int k = 0; k < L; k += kUnroll) {
            FASTCV_UNROLL for (int line = 0; line < kLines; line += L / kUnroll, next += kLine<T>) __builtin_prefetch(next);
            FASTCV_UNROLL for (int u = 0; u < kUnroll; u++) {
                Vec<T> columns[NV];
                FASTCV_UNROLL for (int j = 0; j < NV * L; j += kLine<T>) __builtin_prefetch(packed + kStepsAhead * NV * L + j);
                FASTCV_UNROLL for (int j = 0; j < NV; j++) columns[j] = load(packed + j * L);
                FASTCV_UNROLL for (int i = 0; i < MT; i++) multiply_add<T>(acc, i, load_scalar<T>(row + i * L + u), columns);
                packed += NV * L;
            }
            row += kUnroll;
        }
        rows += block_stride;
    }
}

// Strided product. Row i is read at rows + i * row_stride, and moves on by `row_step` with each step of the depth; column vector
// j at columns + j * vector_stride, and moves on by `column_step`. Three row pointers serve three rows each, as above.
template <class T>
struct Operands {
    const T* rows;
    int64_t row_stride, row_step;
    const T* columns;
    int64_t vector_stride, column_step;
};
template <class T, int MT, int NV>
FASTCV_INLINE void strided_product(Vec<T> (&acc)[MT][NV], int64_t depth, const Operands<T>& o) {
    const T *row = o.rows, *column = o.columns;
    const int64_t row_stride = o.row_stride, vector_stride = o.vector_stride;
    for (int64_t k = 0; k < depth; k++) {
        Vec<T> columns[NV];
        FASTCV_UNROLL for (int j = 0; j < NV; j++) {
            columns[j] = load(column + j * vector_stride);
            keep(columns[j]);
        }
        FASTCV_UNROLL for (int i = 0; i < (MT + 2) / 3; i++) {
            const T* three = row + 3 * i * row_stride;
            FASTCV_UNROLL for (int m = 0; m < 3; m++)
                if (3 * i + m < MT) multiply_add<T>(acc, 3 * i + m, load_scalar<T>(three + m * row_stride), columns);
        }
        row += o.row_step;
        column += o.column_step;
    }
}

// What a tile asks the caches for while it multiplies: with every eight steps of its depth, `rows` more rows of `lines` cache
// lines.
struct Requests {
    const char* at;
    int64_t rows, row_bytes, lines;
};
constexpr int64_t kStepsBetweenRequests = 8;
template <class T, int MT, int NV, int LEVEL>
FASTCV_INLINE void strided_product_with_requests(Vec<T> (&acc)[MT][NV], int64_t depth, Operands<T> o, Requests r) {
    if (r.rows)
        for (; depth > kStepsBetweenRequests; depth -= kStepsBetweenRequests) {
            for (int64_t i = 0; i < r.rows; i++, r.at += r.row_bytes)
                for (int64_t line = 0; line < r.lines; line++) __builtin_prefetch(r.at + line * 64, 0, LEVEL);
            strided_product<T, MT, NV>(acc, kStepsBetweenRequests, o);
            o.rows += kStepsBetweenRequests * o.row_step;
            o.columns += kStepsBetweenRequests * o.column_step;
        }
    strided_product<T, MT, NV>(acc, depth, o);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
