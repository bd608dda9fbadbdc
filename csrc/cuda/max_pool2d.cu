// max_pool2d: the largest element of each window, and where it lies.
//
//   output[n][c][p][q]  = max over r, s of input[n][c][p * stride - pad + r * dilation][q * stride - pad + s * dilation]
//   indices[n][c][p][q] = y * W + x of that element in its plane
//
// A thread has one output, or, in channels-last images whose channels allow it, as many neighbouring channels as fill 16 bytes:
//
//   NCHW            a warp's threads are neighbouring q (and on to the next row): loads stride_w apart, rows again from the cache
//   channels-last   neighbouring channels: every load of a warp is whole lines, 512 bytes of them with 16 bytes a thread
//
// An element is read from memory once as long as the rows of a window stay in the cache; the R * S comparisons of long windows
// are not shared between outputs. Taps outside the image take no part. In row-major order an element counts if it is more than
// the best so far, or NaN: so ties go to the first, and of several NaNs the last counts, as on the CPU and in torch. A window
// that misses the image gives -inf, and the position where it would meet an image that went on.
//
// The input has any strides. No figure has been measured.
#include "dtypes.h"

namespace fastcv::cuda {
namespace {

struct Arguments {
    Pool2dShape s;
    Tensor input;
    void *output, *indices;
    int index_bytes;
    Walk walk;
};

// The most that a thread loads or stores at a time.
constexpr int64_t kPackBytes = 16;

template <class T, int kChannels>
struct alignas(sizeof(T) * kChannels) Pack {
    T of[kChannels];
};

// The first position of a window from `start` on that is inside the image, or would be if the image went on.
__device__ inline int64_t first_inside(int64_t start, int64_t dilation) {
    return start < 0 ? start + (-start + dilation - 1) / dilation * dilation : start;
}
__device__ inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class I, int kChannels>
__device__ inline void store_indices(void* indices, int64_t item, const int64_t (&positions)[kChannels]) {
    constexpr int kAtOnce = kChannels * int64_t(sizeof(I)) < kPackBytes ? kChannels : int(kPackBytes / sizeof(I));
    constexpr int kPacks = kChannels / kAtOnce;
    Pack<I, kAtOnce>* const to = static_cast<Pack<I, kAtOnce>*>(indices) + item * kPacks;
    for (int pack = 0; pack < kPacks; pack++) {
        Pack<I, kAtOnce> some;
        for (int k = 0; k < kAtOnce; k++) some.of[k] = I(positions[pack * kAtOnce + k]);
        to[pack] = some;
    }
}

template <class T, int kChannels>
__global__ void pool(Arguments a) {
    using Channels = Pack<T, kChannels>;
    const Pool2dShape& s = a.s;
    for (int64_t item = first_item(); item < a.walk.items; item += item_step()) {
        const Place at = a.walk.place(item);
        const int64_t top = at.y * s.stride_h - s.pad_top, left = at.x * s.stride_w - s.pad_left;
        const int64_t first_row = first_inside(top, s.dilation_h), first_column = first_inside(left, s.dilation_w);
        const int64_t rows = smaller(s.H, top + (s.R - 1) * s.dilation_h + 1);
        const int64_t columns = smaller(s.W, left + (s.S - 1) * s.dilation_w + 1);
        Channels best;
        int64_t positions[kChannels];
        for (int k = 0; k < kChannels; k++) {
            best.of[k] = narrow<T>(typename Wide<T>::type(-INFINITY));
            positions[k] = first_row * s.W + first_column;
        }
        for (int64_t y = first_row; y < rows; y += s.dilation_h)
            for (int64_t x = first_column; x < columns; x += s.dilation_w) {
                const Channels v = *reinterpret_cast<const Channels*>(element(a.input, {at.n, at.c, y, x}));
                for (int k = 0; k < kChannels; k++) {
                    const auto value = widen(v.of[k]);
                    if (value > widen(best.of[k]) || value != value) {
                        best.of[k] = v.of[k];
                        positions[k] = y * s.W + x;
                    }
                }
            }
        static_cast<Channels*>(a.output)[item] = best;
        if (a.index_bytes == 8) store_indices<int64_t>(a.indices, item, positions);
        if (a.index_bytes == 4) store_indices<int32_t>(a.indices, item, positions);
    }
}

// Whether channels-last arrays can be loaded and stored by packs of neighbouring channels, all of them aligned.
bool fits_packs(const Pool2dShape& s, const Tensor& input, const Result& output, const void* indices, int64_t itemsize) {
    const int64_t* b = input.stride_bytes;
    uint64_t all = uint64_t(b[0]) | uint64_t(b[2]) | uint64_t(b[3]) | uint64_t(s.C * itemsize);
    for (const void* address : {static_cast<const void*>(input.data), static_cast<const void*>(output.data), indices})
        all |= uint64_t(reinterpret_cast<uintptr_t>(address));
    return output.channels_last && b[1] == itemsize && all % uint64_t(kPackBytes) == 0;
}

}  // namespace

void max_pool2d(const Pool2dShape& s, Dtype dtype, Tensor input, Result output, void* indices, int index_bytes, Queue queue) {
    const OnDevice here(queue.device);
    const bool packs = fits_packs(s, input, output, indices, item_bytes(dtype));
    const Walk walk(s.N, s.C, s.P, s.Q, output.channels_last, packs ? kPackBytes / item_bytes(dtype) : 1);
    const Arguments arguments{s, input, output.data, indices, indices ? index_bytes : 0, walk};
    with_type(dtype, [&](auto value) {
        using T = decltype(value);
        const auto kernel = packs ? pool<T, int(kPackBytes / sizeof(T))> : pool<T, 1>;
        launch("max_pool2d", kernel, blocks_for(walk.items, kThreads), kThreads, queue, arguments);
    });
}

}  // namespace fastcv::cuda
