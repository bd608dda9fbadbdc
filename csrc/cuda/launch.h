// What every kernel file shares: launches with a check, grids over 64-bit numbers of items, divisions by sizes.
//
// tests/native/cuda/emulation.h stands in for CUDA where the same files are compiled for the CPU, to be tested without a device.
// A kernel may use what it has: blockIdx.x and the like, __shared__, __syncthreads and __umulhi.
#pragma once

#if !defined(FASTCV_CUDA_EMULATION)
#include <cuda_runtime.h>
#endif

#include <stdexcept>
#include <string>

#include "ops.h"

namespace fastcv::cuda {

inline void require(cudaError_t error, const char* what) {
    if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Makes a device the current one, and then the one again that was.
class OnDevice {
public:
    explicit OnDevice(int device) {
        require(cudaGetDevice(&before_), "cudaGetDevice");
        require(cudaSetDevice(device), "cudaSetDevice");
    }
    ~OnDevice() { cudaSetDevice(before_); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

private:
    int before_ = 0;
};

// Threads of a block where a kernel has no reason for another number, and the most blocks of a grid: beyond, a thread takes
// several items, in steps of the grid. Tests make grids small to get there.
constexpr int kThreads = 256;
#if defined(FASTCV_CUDA_MAX_BLOCKS)
constexpr int64_t kMaxBlocks = FASTCV_CUDA_MAX_BLOCKS;
#else
constexpr int64_t kMaxBlocks = int64_t(1) << 20;
#endif
inline unsigned blocks_for(int64_t items, int64_t per_block) {
    const int64_t blocks = (items + per_block - 1) / per_block;
    return unsigned(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

// Queues a kernel whose arguments are one struct. cudaLaunchKernel reports this launch alone, and leaves what others may want to
// learn from cudaGetLastError.
template <class Arguments>
void launch(const char* op, void (*kernel)(Arguments), unsigned blocks, int threads, Queue queue, Arguments arguments) {
    if (blocks == 0) return;
    void* pointers[] = {&arguments};
    const auto stream = static_cast<cudaStream_t>(queue.stream);
    require(cudaLaunchKernel(kernel, dim3(blocks), dim3(unsigned(threads)), pointers, 0, stream), op);
}

// The items of this thread: first_item(), and on by item_step().
__device__ inline int64_t first_item() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t item_step() { return int64_t(gridDim.x) * blockDim.x; }

// Quotients by a size. A 64-bit division takes some hundred instructions; where dividends and size are less than 2**31, this is
// a multiplication (Granlund and Montgomery, Division by invariant integers using multiplication, 1994). All threads of a launch
// go the same way.
struct Divisor {
    int64_t size;
    uint32_t factor, shift;
    bool quick;

    // For dividends from 0 to `largest`. By a size of 0 nobody divides.
    __host__ __device__ Divisor(int64_t size_, int64_t largest)
        : size(size_ > 0 ? size_ : 1), factor(0), shift(0), quick(size < kQuick && largest < kQuick) {
        if (!quick) return;
        while ((int64_t(1) << shift) < size) shift++;
        factor = uint32_t((uint64_t(1) << 32) * ((uint64_t(1) << shift) - uint64_t(size)) / uint64_t(size) + 1);
    }
    __device__ int64_t quotient(int64_t n) const {
        if (quick) return (__umulhi(uint32_t(n), factor) + uint32_t(n)) >> shift;
        return n / size;
    }

private:
    static constexpr int64_t kQuick = int64_t(1) << 31;
};

struct Place {
    int64_t n, c, y, x;
};

// The items of images (N, C, H, W), each of so many neighbouring channels, in the order of their memory.
struct Walk {
    int64_t items, channels;  // channels an item
    bool channels_last;
    Divisor inner, middle, outer;

    Walk(int64_t N, int64_t C, int64_t H, int64_t W, bool last, int64_t channels_ = 1)
        : items(N * C * H * W / channels_),
          channels(channels_),
          channels_last(last),
          inner(last ? C / channels_ : W, items),
          middle(last ? W : H, items),
          outer(last ? H : C, items) {}
    __device__ Place place(int64_t item) const {
        const int64_t rows = inner.quotient(item), a = item - rows * inner.size;
        const int64_t planes = middle.quotient(rows), b = rows - planes * middle.size;
        const int64_t n = outer.quotient(planes), c = planes - n * outer.size;
        return channels_last ? Place{n, a * channels, c, b} : Place{n, c, b, a};
    }
};

__device__ inline const char* element(const Tensor& t, const Place& at) {
    return t.data + at.n * t.stride_bytes[0] + at.c * t.stride_bytes[1] + at.y * t.stride_bytes[2] + at.x * t.stride_bytes[3];
}

__device__ inline int64_t load_index(const char* at, int bytes) {
    return bytes == 8 ? *reinterpret_cast<const int64_t*>(at) : *reinterpret_cast<const int32_t*>(at);
}

}  // namespace fastcv::cuda
