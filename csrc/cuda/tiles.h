// Products of matrices by one block of threads, which the attention and the Gram matrices are made of.
//
//        right: depth x 64 columns     256 threads. Sums are in registers, sixteen a thread; in float64, whose tiles have 32
//        +-----------------------+     rows and columns, four. Two ways:
//   left +-----------------------+
//  +-+-+ |                       |     float32, float64: multiply-adds. Thread (y, x) of 16 x 16 has rows y, y + 16, .. and
//  | | | |      a tile of        |     columns x, x + 16, .. What it reads of a panel at one depth so is a piece of 16 bytes,
//  | | | |      64 x 64 sums     |     and lanes that read at once find different banks of shared memory.
//  | | | |                       |
//  +-+-+ +-----------------------+     float16, bfloat16: tensor cores, by mma.h. Warp w has the 16 rows from 16 (w % 4) on and
//                                      the 32 columns from 32 (w / 4) on, as fragments have them: two rows and eight columns a
//                                      lane.
//
// Panels of 16 depths lie in shared memory; the next ones are read into registers while these are multiplied. A panel comes from
// memory with any strides; what is outside the matrix is zero there and is not read. Or the left side is a `Square`, a tile of
// numbers that the block itself has made: weights of attention and the like. Where such a weight is zero it takes no part,
// whatever it meets: what is not finite in a panel is multiplied apart, and then replaced by zero.
//
// Tensor cores take numbers of two bytes. What the block has made has more digits: these go in two parts, a number and what its
// rounding has left, so that products are nearly those of float32. In float16 numbers below 6e-8 become zero, and above 65504
// there are none.
//
// Sums run over the depth in order, so they do not depend on the order of threads.
#pragma once

#include "mma.h"

#if defined(FASTCV_CUDA_EMULATION)
#define FASTCV_UNROLL
#else
#define FASTCV_UNROLL _Pragma("unroll")
#endif

namespace fastcv::cuda {

constexpr int kSide = 16, kDepth = 16, kTileThreads = kSide * kSide;

// Of sums in float or double.
template <class W>
constexpr int kMicro = int(16 / sizeof(W));
template <class W>
constexpr int kTile = kSide * kMicro<W>;

inline int64_t tiles_of(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// ---- which sums a thread has

template <class T>
constexpr bool kTensorCores = sizeof(T) == 2;
template <class T>
constexpr int kRows = kTensorCores<T> ? 2 : kMicro<typename Wide<T>::type>;
template <class T>
constexpr int kColumns = kTensorCores<T> ? 8 : kMicro<typename Wide<T>::type>;
// Threads that have a part of one row.
template <class T>
constexpr int kRowPieces = kTensorCores<T> ? 8 : kSide;

__device__ inline int thread_y() { return int(threadIdx.x) / kSide; }
__device__ inline int thread_x() { return int(threadIdx.x) % kSide; }
__device__ inline int warp_row() { return int(threadIdx.x) / 32 % 4 * 16; }
__device__ inline int warp_column() { return int(threadIdx.x) / 128 * 32; }
__device__ inline int lane_row() { return int(threadIdx.x) % 32 / 4; }
__device__ inline int lane_column() { return int(threadIdx.x) % 4 * 2; }

template <class T>
__device__ int row_of(int i) {
    return kTensorCores<T> ? warp_row() + lane_row() + 8 * i : thread_y() + kSide * i;
}
template <class T>
__device__ int column_of(int j) {
    return kTensorCores<T> ? warp_column() + j / 2 * 8 + lane_column() + j % 2 : thread_x() + kSide * j;
}
// This thread among those that have a part of its rows.
template <class T>
__device__ int row_piece() {
    return kTensorCores<T> ? int(threadIdx.x) / 128 * 4 + int(threadIdx.x) % 4 : thread_x();
}

template <class T>
struct Sums {
    typename Wide<T>::type at[kRows<T>][kColumns<T>];

    __device__ void clear() {
        FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++)
            FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) at[i][j] = 0;
    }
};

// ---- shared memory

// What a thread reads of a side: rows that are 16 apart.
template <class W>
struct alignas(16) Piece {
    W at[kMicro<W>];
};

__device__ inline uint16_t bits_of(Half x) { return x.bits; }
__device__ inline uint16_t bits_of(BFloat16 x) { return x.bits; }

// Two-byte numbers [row][depth], in words of two depths. The gaps keep lanes of a fragment in different banks.
template <class T, int kDepths>
struct HalfRows {
    uint16_t at[64][kDepths + 8];

    __device__ uint32_t word(int row, int depth) const { return *reinterpret_cast<const uint32_t*>(&at[row][depth]); }
    __device__ float number(int row, int depth) const { return widen(T{at[row][depth]}); }
    __device__ void set(int row, int depth, float x) { at[row][depth] = bits_of(narrow<T>(x)); }
    // What rounding to T leaves of x.
    __device__ void set_rest(int row, int depth, float x) { set(row, depth, x - widen(narrow<T>(x))); }
};

template <class T, bool kHalves = kTensorCores<T>>
struct Panel {
    using W = T;
    Piece<W> at[kDepth][kSide + 1];

    __device__ void set(int step, int row, const Piece<W>& piece) { at[step][row] = piece; }
    __device__ void set_rest(int, int, const Piece<W>&) {}
};
template <class T>
struct alignas(4) Panel<T, true> : HalfRows<T, kDepth> {
    __device__ void set(int step, int row, const Piece<float>& piece) {
        FASTCV_UNROLL for (int i = 0; i < 4; i++) HalfRows<T, kDepth>::set(row + i * kSide, step, piece.at[i]);
    }
    __device__ void set_rest(int step, int row, const Piece<float>& piece) {
        FASTCV_UNROLL for (int i = 0; i < 4; i++) HalfRows<T, kDepth>::set_rest(row + i * kSide, step, piece.at[i]);
    }
};

// A tile of numbers [depth][row], for the left side.
template <class T, bool kHalves = kTensorCores<T>>
struct Square {
    using W = T;
    Piece<W> at[kTile<W>][kSide + 1];

    __device__ W number(int depth, int row) const { return at[depth][row % kSide].at[row / kSide]; }
};
template <class T>
struct alignas(4) Square<T, true> {
    HalfRows<T, 64> high, low;

    __device__ float number(int depth, int row) const { return high.number(row, depth) + low.number(row, depth); }
    __device__ void set(int depth, int row, float x) { high.set(row, depth, x), low.set_rest(row, depth, x); }
};

// Sums to the square, their rows or their columns being its depth.
template <class T>
__device__ void store_by_row(Square<T>& square, const Sums<T>& numbers) {
    FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++)
        FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) {
            if constexpr (kTensorCores<T>)
                square.set(row_of<T>(i), column_of<T>(j), numbers.at[i][j]);
            else
                square.at[row_of<T>(i)][thread_x()].at[j] = numbers.at[i][j];
        }
}
template <class T>
__device__ void store_by_column(Square<T>& square, const Sums<T>& numbers) {
    FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++)
        FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) {
            if constexpr (kTensorCores<T>)
                square.set(column_of<T>(j), row_of<T>(i), numbers.at[i][j]);
            else
                square.at[column_of<T>(j)][thread_y()].at[i] = numbers.at[i][j];
        }
}

template <class T>
struct TileMemory {
    Panel<T> left, right;
};
template <class T>
struct SquareMemory {
    TileMemory<T> panels;
    Square<T> square;
    bool careful;  // a panel was not finite
};

// ---- products

template <class T>
__device__ typename Wide<T>::type load_wide(const char* at) {
    return widen(*reinterpret_cast<const T*>(at));
}

// One side of a product in memory: its rows (or columns) and its depth. `along_depth`: neighbours in depth are neighbours in
// memory, and lanes read them together.
struct Side {
    const char* data;
    int64_t rows, row_stride_bytes, depth, depth_stride_bytes;
    bool along_depth;

    __device__ int row() const { return along_depth ? thread_y() : thread_x(); }
    __device__ int step() const { return along_depth ? thread_x() : thread_y(); }
    // This thread's piece of the panel that begins at a depth.
    template <class T>
    __device__ Piece<typename Wide<T>::type> fetch(int64_t from) const {
        Piece<typename Wide<T>::type> piece;
        const int64_t k = from + step();
        const char* at = data + k * depth_stride_bytes + row() * row_stride_bytes;
        FASTCV_UNROLL for (int i = 0; i < kMicro<typename Wide<T>::type>; i++) {
            const bool inside = k < depth && row() + i * kSide < rows;
            piece.at[i] = inside ? load_wide<T>(at + i * kSide * row_stride_bytes) : 0;
        }
        return piece;
    }
};

// Adds the products of one panel; the left side's depths begin at `from`.
template <class T, int kLeft, int kRight>
__device__ void multiply_step(Sums<T>& sums, const HalfRows<T, kLeft>& left, int from, const HalfRows<T, kRight>& right) {
    const int row = warp_row() + lane_row(), k = lane_column();
    const uint32_t a[4] = {left.word(row, from + k), left.word(row + 8, from + k), left.word(row, from + k + 8),
                           left.word(row + 8, from + k + 8)};
    FASTCV_UNROLL for (int n = 0; n < 4; n++) {
        const int column = warp_column() + 8 * n + lane_row();
        const uint32_t b[2] = {right.word(column, k), right.word(column, k + 8)};
        float d[4] = {sums.at[0][2 * n], sums.at[0][2 * n + 1], sums.at[1][2 * n], sums.at[1][2 * n + 1]};
        multiply_add_halves<T>(d, a, b);
        sums.at[0][2 * n] = d[0], sums.at[0][2 * n + 1] = d[1], sums.at[1][2 * n] = d[2], sums.at[1][2 * n + 1] = d[3];
    }
}
template <class T>
__device__ void multiply_step(Sums<T>& sums, const Piece<T>& left, const Piece<T>& right) {
    FASTCV_UNROLL for (int i = 0; i < kMicro<T>; i++)
        FASTCV_UNROLL for (int j = 0; j < kMicro<T>; j++) sums.at[i][j] += left.at[i] * right.at[j];
}
template <class T>
__device__ void multiply_panel(Sums<T>& sums, const Panel<T>& left, const Panel<T>& right) {
    if constexpr (kTensorCores<T>)
        multiply_step(sums, left, 0, right);
    else
        FASTCV_UNROLL for (int d = 0; d < kDepth; d++)
            multiply_step(sums, left.at[d][thread_y()], right.at[d][thread_x()]);
}

// Adds left times right, panel by panel. `fetch_left` and `fetch_right` give this thread's piece from a depth on. All threads of
// the block come here; they leave together, the panels free. `rests` is there where pieces are no numbers of T.
template <class T, class FetchLeft, class FetchRight>
__device__ void multiply_panels(Sums<T>& sums, TileMemory<T>& m, int64_t depth, const Side& left_side, const Side& right_side,
                                const FetchLeft& fetch_left, const FetchRight& fetch_right, TileMemory<T>* rests = nullptr) {
    if (depth <= 0) return;
    auto left = fetch_left(int64_t(0));
    auto right = fetch_right(int64_t(0));
    for (int64_t k = 0; k < depth; k += kDepth) {
        m.left.set(left_side.step(), left_side.row(), left);
        m.right.set(right_side.step(), right_side.row(), right);
        if (kTensorCores<T> && rests) {
            rests->left.set_rest(left_side.step(), left_side.row(), left);
            rests->right.set_rest(right_side.step(), right_side.row(), right);
        }
        __syncthreads();
        if (k + kDepth < depth) left = fetch_left(k + kDepth), right = fetch_right(k + kDepth);
        multiply_panel(sums, m.left, m.right);
        if (kTensorCores<T> && rests) {
            multiply_panel(sums, rests->left, m.right);
            multiply_panel(sums, m.left, rests->right);
        }
        __syncthreads();
    }
}
template <class T>
__device__ void multiply_panels(Sums<T>& sums, TileMemory<T>& m, const Side& left, const Side& right) {
    multiply_panels(
        sums, m, left.depth, left, right, [&](int64_t k) { return left.template fetch<T>(k); },
        [&](int64_t k) { return right.template fetch<T>(k); });
}

// Adds what numbers of the panel make that are not finite, where the square is not zero.
template <class T>
__device__ void add_not_finite(Sums<T>& sums, const SquareMemory<T>& m, int from) {
    using W = typename Wide<T>::type;
    for (int d = 0; d < kDepth; d++)
        FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++) {
            const W left = m.square.number(from + d, row_of<T>(i));
            FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) {
                W right;
                if constexpr (kTensorCores<T>)
                    right = m.panels.right.number(column_of<T>(j), d);
                else
                    right = m.panels.right.at[d][thread_x()].at[j];
                if (right - right != 0 && left != 0) sums.at[i][j] += left * right;
            }
        }
}

// Adds the square times panels of `right`, whose depth is at most a tile. The threads may have written the square just before.
template <class T>
__device__ void multiply_square(Sums<T>& sums, SquareMemory<T>& m, const Side& right) {
    using W = typename Wide<T>::type;
    for (int k = 0; k < right.depth; k += kDepth) {
        const Piece<W> piece = right.template fetch<T>(k);
        Piece<W> finite = piece;
        bool all_finite = true;
        FASTCV_UNROLL for (int i = 0; i < kMicro<W>; i++) {
            if (piece.at[i] - piece.at[i] == 0) continue;
            finite.at[i] = 0;
            all_finite = false;
        }
        if (!all_finite) m.careful = true;
        m.panels.right.set(right.step(), right.row(), piece);
        __syncthreads();
        if (m.careful) {
            add_not_finite(sums, m, k);
            __syncthreads();
            m.panels.right.set(right.step(), right.row(), finite);
            __syncthreads();
        }
        if constexpr (kTensorCores<T>) {
            multiply_step(sums, m.square.high, k, m.panels.right);
            multiply_step(sums, m.square.low, k, m.panels.right);
        } else {
            FASTCV_UNROLL for (int d = 0; d < kDepth; d++)
                multiply_step(sums, m.square.at[k + d][thread_y()], m.panels.right.at[d][thread_x()]);
        }
        __syncthreads();
    }
}

// ---- sums over planes that broadcasting shares

constexpr int kMaxPlaneAxes = kMaxBatchAxes + 1;

// Planes along several axes, some of them shared: plane `flat(own, k)` is the k-th of those that one plane of the result is the
// sum of.
struct Planes {
    int axes = 0;
    int64_t size[kMaxPlaneAxes] = {};
    bool shared[kMaxPlaneAxes] = {};
    int64_t own = 1, sharing = 1;

    void add(int64_t size_, bool shared_) {
        size[axes] = size_, shared[axes++] = shared_;
        (shared_ ? sharing : own) *= size_;
    }
    __device__ int64_t flat(int64_t which, int64_t k) const {
        int64_t result = 0, unit = 1;
        for (int i = axes - 1; i >= 0; i--) {
            int64_t& rest = shared[i] ? k : which;
            result += rest % size[i] * unit;
            rest /= size[i];
            unit *= size[i];
        }
        return result;
    }
};

struct SumPlanes {
    Planes planes;
    int64_t elements;  // of a plane
    const void* from;  // widened
    void* to;
};

// A thread an element, in the order of the planes.
template <class T>
__global__ void sum_planes(SumPlanes a) {
    using W = typename Wide<T>::type;
    for (int64_t item = first_item(); item < a.planes.own * a.elements; item += item_step()) {
        const int64_t own = item / a.elements, element = item - own * a.elements;
        W sum = 0;
        for (int64_t k = 0; k < a.planes.sharing; k++)
            sum += static_cast<const W*>(a.from)[a.planes.flat(own, k) * a.elements + element];
        static_cast<T*>(a.to)[item] = narrow<T>(sum);
    }
}

template <class T>
void queue_sum_planes(const char* op, const Planes& planes, int64_t elements, const void* from, void* to, Queue queue) {
    launch(op, sum_planes<T>, blocks_for(planes.own * elements, kThreads), kThreads, queue,
           SumPlanes{planes, elements, from, to});
}

}  // namespace fastcv::cuda
