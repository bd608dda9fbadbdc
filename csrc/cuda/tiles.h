// Products of matrices by one block of threads, in fused multiply-adds, which the attention and the Gram matrices are made of.
//
//        right: depth x 64 columns              256 threads as 16 x 16. Thread (y, x) has the sums of rows y, y + 16, ..
//        +-----------------------+              and columns x, x + 16, .., four by four of them; in float64 a tile has
//   left +-----------------------+              32 rows and columns, and a thread two by two. What a thread reads of a
//  +-+-+ |                       |              panel at one depth so is one piece of 16 bytes, and lanes that read at
//  | | | |      a tile of        |              once find different banks of shared memory.
//  | | | |      64 x 64 sums     |
//  | | | |                       |              Panels of 16 depths lie in shared memory, widened; the next ones are read
//  +-+-+ +-----------------------+              into registers while these are multiplied.
//
// A panel comes from memory with any strides; what is outside the matrix is zero there and is not read. Or the left side is a
// `Square`, a tile of numbers that the block itself has made: weights of attention and the like. Where such a weight is zero it
// takes no part, whatever it meets; a panel that is not finite throughout goes through a slower loop that leaves it out.
//
// Sums run over the depth in order, so they do not depend on the order of threads.
#pragma once

#include "dtypes.h"

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

template <class W>
struct alignas(16) Piece {
    W at[kMicro<W>];
};
template <class W>
struct Panel {
    Piece<W> at[kDepth][kSide + 1];
};
template <class W>
struct Square {
    Piece<W> at[kTile<W>][kSide + 1];
};
template <class W>
struct Sums {
    W at[kMicro<W>][kMicro<W>];

    __device__ void clear() {
        FASTCV_UNROLL for (int i = 0; i < kMicro<W>; i++)
            FASTCV_UNROLL for (int j = 0; j < kMicro<W>; j++) at[i][j] = 0;
    }
};

__device__ inline int thread_y() { return int(threadIdx.x) / kSide; }
__device__ inline int thread_x() { return int(threadIdx.x) % kSide; }

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

// The block's shared memory.
template <class W>
struct TileMemory {
    Panel<W> left, right;
};
template <class W>
struct SquareMemory {
    TileMemory<W> panels;
    Square<W> square;
    bool careful;  // a panel was not finite
};

template <class W>
__device__ void multiply_step(Sums<W>& sums, const Piece<W>& left, const Piece<W>& right) {
    FASTCV_UNROLL for (int i = 0; i < kMicro<W>; i++)
        FASTCV_UNROLL for (int j = 0; j < kMicro<W>; j++) sums.at[i][j] += left.at[i] * right.at[j];
}

// Adds left times right, panel by panel. `fetch_left` and `fetch_right` give this thread's piece from a depth on. All threads of
// the block come here; they leave together, the panels free.
template <class W, class FetchLeft, class FetchRight>
__device__ void multiply_panels(Sums<W>& sums, TileMemory<W>& m, int64_t depth, const Side& left_side, const Side& right_side,
                                const FetchLeft& fetch_left, const FetchRight& fetch_right) {
    const int y = thread_y(), x = thread_x();
    if (depth <= 0) return;
    Piece<W> left = fetch_left(int64_t(0)), right = fetch_right(int64_t(0));
    for (int64_t k = 0; k < depth; k += kDepth) {
        m.left.at[left_side.step()][left_side.row()] = left;
        m.right.at[right_side.step()][right_side.row()] = right;
        __syncthreads();
        if (k + kDepth < depth) left = fetch_left(k + kDepth), right = fetch_right(k + kDepth);
        FASTCV_UNROLL for (int d = 0; d < kDepth; d++) multiply_step(sums, m.left.at[d][y], m.right.at[d][x]);
        __syncthreads();
    }
}
template <class T, class W = typename Wide<T>::type>
__device__ void multiply_panels(Sums<W>& sums, TileMemory<W>& m, const Side& left, const Side& right) {
    multiply_panels(
        sums, m, left.depth, left, right, [&](int64_t k) { return left.template fetch<T>(k); },
        [&](int64_t k) { return right.template fetch<T>(k); });
}

// Adds the square, whose pieces are at [depth][row], times panels of `right`, whose depth is at most a tile. The threads may have
// written the square just before.
template <class T, class W = typename Wide<T>::type>
__device__ void multiply_square(Sums<W>& sums, SquareMemory<W>& m, const Side& right) {
    const int y = thread_y(), x = thread_x();
    for (int64_t k = 0; k < right.depth; k += kDepth) {
        const Piece<W> piece = right.template fetch<T>(k);
        bool finite = true;
        FASTCV_UNROLL for (int i = 0; i < kMicro<W>; i++) finite = finite && piece.at[i] - piece.at[i] == 0;
        if (!finite) m.careful = true;
        m.panels.right.at[right.step()][right.row()] = piece;
        __syncthreads();
        if (m.careful) {
            for (int d = 0; d < kDepth; d++) {
                const Piece<W> left = m.square.at[k + d][y], other = m.panels.right.at[d][x];
                FASTCV_UNROLL for (int i = 0; i < kMicro<W>; i++)
                    FASTCV_UNROLL for (int j = 0; j < kMicro<W>; j++)
                        if (left.at[i] != 0) sums.at[i][j] += left.at[i] * other.at[j];
            }
        } else {
            FASTCV_UNROLL for (int d = 0; d < kDepth; d++) multiply_step(sums, m.square.at[k + d][y], m.panels.right.at[d][x]);
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
