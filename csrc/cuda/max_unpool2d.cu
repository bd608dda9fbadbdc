// max_unpool2d, max_pool2d_grad_input, max_unpool2d_grad_input: numbers of P x Q windows and pixels of H x W planes, by indices.
//
//   max_unpool2d              output[n][c][y][x] = the last input[n][c][p][q], in row-major order, whose index is y * W + x; or 0
//   max_pool2d_grad_input     output[n][c][y][x] = their sum, in row-major order from zero
//   max_unpool2d_grad_input   output[n][c][p][q] = input[n][c] at indices[n][c][p][q]
//
// The first two are scatters, which on a device would have to be atomic, and then the order of what arrives shows. Here each
// pixel gathers instead: it looks at the windows that may name it, in order, and is written once. Which those are, nobody says:
// indices may be anything. So with a step of about H / P pixels down and W / Q across, window (p, q) is thought to begin at pixel
// (p * step, q * step), and the reach is how far indices lie from there:
//
//        first <= y - p * step <= last          2 x 2 at stride 2: 0 .. 1      3 x 3 at stride 2, padding 1: -1 .. 1
//
//   probe    one block: takes a sample of the indices, and their reach for that of all; clears a flag for each plane
//   gather   a thread a pixel: the windows within reach whose index is the pixel's. The pixel where a window begins looks also
//            whether that window's index is within reach; if not, it sets its plane's flag
//   mend     a block a plane: where the flag is set, finds the reach of all indices of the plane, and gathers anew
//
// So indices that come from windows are gathered at the cost of the windows that overlap, whatever their size, stride and
// dilation, and any others are right too, if slow: at worst each pixel looks at all windows of its plane. `mend` has a block for
// a plane, which is little where few large planes have such indices. Which way a pixel went does not show in its bits: the order
// of windows is the same. Where H < P or W < Q windows do not begin at pixels of their own, and all planes are mended.
//
// Sums of float16 and bfloat16 are kept in float32 and rounded once. An index outside its plane is skipped and noted (faults.h).
// Numbers and indices have any strides. No figure has been measured.
#include "dtypes.h"
#include "faults.h"

namespace fastcv::cuda {
namespace {

constexpr int kProbeThreads = 256, kProbeSamples = 16384;

struct Span {
    int64_t first, last;
};
struct Reach {
    Span y, x;
};

// One axis: `windows` of them that begin `step` pixels apart, in `pixels`.
struct Steps {
    int64_t windows;
    Divisor step;

    Steps(int64_t windows_, int64_t pixels, int64_t step_)
        : windows(windows_), step(step_, pixels + (windows_ + 1) * step_) {}
    // Windows that may name a pixel.
    __device__ Span candidates(int64_t pixel, Span reach) const {
        const int64_t from = pixel - reach.last, to = pixel - reach.first;
        const int64_t first = from <= 0 ? 0 : step.quotient(from + step.size - 1);
        const int64_t last = to < 0 ? -1 : step.quotient(to);
        return {first, last < windows ? last : windows - 1};
    }
};

struct Arguments {
    IndexedShape s;
    Tensor numbers;
    Indices indices;
    void* output;
    Walk walk;  // over the output
    Steps down, across;
    Divisor width;  // W, for indices
    bool mends_all;
    Reach* reach;
    uint8_t* flags;  // one for each plane
    uint32_t* fault;

    __device__ int64_t index(int64_t n, int64_t c, int64_t p, int64_t q) const {
        return load_index(element(indices.tensor, {n, c, p, q}), indices.bytes);
    }
    __device__ bool inside(int64_t index) const { return uint64_t(index) < uint64_t(s.H * s.W); }
    // From where window (p, q) begins to its index, down and across.
    __device__ int64_t away_y(int64_t index, int64_t p) const { return width.quotient(index) - p * down.step.size; }
    __device__ int64_t away_x(int64_t index, int64_t q) const {
        return index - width.quotient(index) * s.W - q * across.step.size;
    }
};

// ---- what a pixel makes of the windows that name it

// The last one's number, moved as it is.
template <class T>
struct Last {
    using Element = T;
    static __device__ T gather(const Arguments& a, const Place& at, const Reach& reach) {
        const Span rows = a.down.candidates(at.y, reach.y), columns = a.across.candidates(at.x, reach.x);
        for (int64_t p = rows.last; p >= rows.first; p--)
            for (int64_t q = columns.last; q >= columns.first; q--)
                if (a.index(at.n, at.c, p, q) == at.y * a.s.W + at.x)
                    return *reinterpret_cast<const T*>(element(a.numbers, {at.n, at.c, p, q}));
        return T(0);
    }
};

template <class T>
struct Sum {
    using Element = T;
    static __device__ T gather(const Arguments& a, const Place& at, const Reach& reach) {
        const Span rows = a.down.candidates(at.y, reach.y), columns = a.across.candidates(at.x, reach.x);
        typename Wide<T>::type sum = 0;
        for (int64_t p = rows.first; p <= rows.last; p++)
            for (int64_t q = columns.first; q <= columns.last; q++)
                if (a.index(at.n, at.c, p, q) == at.y * a.s.W + at.x)
                    sum += widen(*reinterpret_cast<const T*>(element(a.numbers, {at.n, at.c, p, q})));
        return narrow<T>(sum);
    }
};

// ---- reaches

// Larger than any distance. Of no index at all the reach is empty: no window may name a pixel.
constexpr int64_t kFar = int64_t(1) << 62;

struct WidestReach {
    Reach reach{{kFar, -kFar}, {kFar, -kFar}};

    __device__ static void widen_span(Span& span, Span by) {
        if (by.first < span.first) span.first = by.first;
        if (by.last > span.last) span.last = by.last;
    }
    __device__ void add(const Reach& other) {
        widen_span(reach.y, other.y);
        widen_span(reach.x, other.x);
    }
    __device__ void add_index(const Arguments& a, int64_t index, int64_t p, int64_t q) {
        const int64_t y = a.away_y(index, p), x = a.away_x(index, q);
        add({{y, y}, {x, x}});
    }
};

// The widest of all threads' reaches, for every thread. `shared` has one for each; all threads of the block come here.
__device__ inline Reach widest_of_block(const WidestReach& mine, Reach* shared) {
    shared[threadIdx.x] = mine.reach;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            WidestReach both{shared[threadIdx.x]};
            both.add(shared[threadIdx.x + half]);
            shared[threadIdx.x] = both.reach;
        }
    }
    __syncthreads();
    const Reach all = shared[0];
    __syncthreads();  // before anybody writes there again
    return all.y.first > all.y.last ? Reach{{0, -1}, {0, -1}} : all;
}

__global__ void probe(Arguments a) {
    __shared__ Reach shared[kProbeThreads];
    const IndexedShape& s = a.s;
    for (int64_t plane = threadIdx.x; plane < s.N * s.C; plane += blockDim.x) a.flags[plane] = 0;
    const int64_t windows = s.N * s.C * s.P * s.Q, samples = windows < kProbeSamples ? windows : kProbeSamples;
    const int64_t apart = windows / samples;
    WidestReach mine;
    for (int64_t sample = threadIdx.x; sample < samples; sample += blockDim.x) {
        const int64_t row = sample * apart / s.Q, q = sample * apart - row * s.Q, plane = row / s.P, p = row - plane * s.P;
        const int64_t index = a.index(plane / s.C, plane % s.C, p, q);
        if (a.inside(index)) mine.add_index(a, index, p, q);
    }
    const Reach all = widest_of_block(mine, shared);
    if (threadIdx.x == 0) *a.reach = all;
}

template <class Way>
__global__ void gather(Arguments a) {
    using T = typename Way::Element;
    const Reach reach = *a.reach;
    for (int64_t item = first_item(); item < a.walk.items; item += item_step()) {
        const Place at = a.walk.place(item);
        static_cast<T*>(a.output)[item] = Way::gather(a, at, reach);
        const int64_t p = a.down.step.quotient(at.y), q = a.across.step.quotient(at.x);
        const bool begins = p * a.down.step.size == at.y && q * a.across.step.size == at.x && p < a.s.P && q < a.s.Q;
        if (!begins) continue;
        const int64_t index = a.index(at.n, at.c, p, q);
        if (!a.inside(index)) {
            *a.fault = 1;
            continue;
        }
        const int64_t y = a.away_y(index, p), x = a.away_x(index, q);
        if (y < reach.y.first || y > reach.y.last || x < reach.x.first || x > reach.x.last) a.flags[at.n * a.s.C + at.c] = 1;
    }
}

template <class Way>
__global__ void mend(Arguments a) {
    using T = typename Way::Element;
    __shared__ Reach shared[kThreads];
    const IndexedShape& s = a.s;
    for (int64_t plane = blockIdx.x; plane < s.N * s.C; plane += gridDim.x) {
        if (!a.mends_all && !a.flags[plane]) continue;
        const int64_t n = plane / s.C, c = plane % s.C;
        WidestReach mine;
        for (int64_t window = threadIdx.x; window < s.P * s.Q; window += blockDim.x) {
            const int64_t p = window / s.Q, q = window - p * s.Q, index = a.index(n, c, p, q);
            if (a.inside(index))
                mine.add_index(a, index, p, q);
            else
                *a.fault = 1;
        }
        const Reach reach = widest_of_block(mine, shared);
        for (int64_t pixel = threadIdx.x; pixel < s.H * s.W; pixel += blockDim.x) {
            const int64_t y = a.width.quotient(pixel), x = pixel - y * s.W;
            const int64_t item = a.walk.channels_last ? (n * s.H * s.W + pixel) * s.C + c : plane * s.H * s.W + pixel;
            static_cast<T*>(a.output)[item] = Way::gather(a, {n, c, y, x}, reach);
        }
    }
}

template <class T>
__global__ void fetch(Arguments a) {
    for (int64_t item = first_item(); item < a.walk.items; item += item_step()) {
        const Place at = a.walk.place(item);
        const int64_t index = a.index(at.n, at.c, at.y, at.x);
        T number = 0;
        if (a.inside(index)) {
            const int64_t y = a.width.quotient(index);
            number = *reinterpret_cast<const T*>(element(a.numbers, {at.n, at.c, y, index - y * a.s.W}));
        } else {
            *a.fault = 1;
        }
        static_cast<T*>(a.output)[item] = number;
    }
}

// ---- calls

// About how far apart windows begin: the quotient of the sizes to the nearest, but every window begins inside.
int64_t likely_step(int64_t pixels, int64_t windows) {
    const int64_t nearest = (pixels + (windows - 1) / 2) / windows;
    const int64_t most = windows == 1 ? pixels : (pixels - 1) / (windows - 1);
    const int64_t step = nearest < most ? nearest : most;
    return step < 1 ? 1 : step;
}

Arguments arguments_of(const IndexedShape& s, Tensor numbers, Indices indices, Result output, const Walk& walk, int device) {
    return {s,
            numbers,
            indices,
            output.data,
            walk,
            Steps(s.P, s.H, likely_step(s.H, s.P)),
            Steps(s.Q, s.W, likely_step(s.W, s.Q)),
            Divisor(s.W, s.H * s.W),
            s.H < s.P || s.W < s.Q,
            nullptr,
            nullptr,
            fault_word(device)};
}

template <class Way>
void gather_pixels(const char* op, const IndexedShape& s, Tensor numbers, Indices indices, Result output, void* workspace,
                   Queue queue) {
    const Walk walk(s.N, s.C, s.H, s.W, output.channels_last);
    if (s.N == 0) return;
    Arguments a = arguments_of(s, numbers, indices, output, walk, queue.device);
    a.reach = static_cast<Reach*>(workspace);
    a.flags = reinterpret_cast<uint8_t*>(a.reach + 1);
    if (!a.mends_all) {
        launch(op, probe, 1, kProbeThreads, queue, a);
        launch(op, gather<Way>, blocks_for(walk.items, kThreads), kThreads, queue, a);
    }
    constexpr int64_t kMostMending = 4096;  // blocks; each looks at the flags of its planes
    const unsigned blocks = blocks_for(s.N * s.C, 1);
    launch(op, mend<Way>, blocks < kMostMending ? blocks : unsigned(kMostMending), kThreads, queue, a);
}

}  // namespace

int64_t indexed_workspace_bytes(int64_t planes) { return int64_t(sizeof(Reach)) + planes; }

void max_unpool2d(const IndexedShape& s, Dtype dtype, Tensor input, Indices indices, Result output, void* workspace,
                  Queue queue) {
    const OnDevice here(queue.device);
    with_size(dtype, [&](auto value) {
        gather_pixels<Last<decltype(value)>>("max_unpool2d", s, input, indices, output, workspace, queue);
    });
}

void max_pool2d_grad_input(const IndexedShape& s, Dtype dtype, Tensor grad_output, Indices indices, Result grad_input,
                           void* workspace, Queue queue) {
    const OnDevice here(queue.device);
    with_type(dtype, [&](auto value) {
        gather_pixels<Sum<decltype(value)>>("max_pool2d_grad_input", s, grad_output, indices, grad_input, workspace, queue);
    });
}

void max_unpool2d_grad_input(const IndexedShape& s, Dtype dtype, Tensor grad_output, Indices indices, Result grad_input,
                             Queue queue) {
    const OnDevice here(queue.device);
    const Walk walk(s.N, s.C, s.P, s.Q, grad_input.channels_last);
    const Arguments a = arguments_of(s, grad_output, indices, grad_input, walk, queue.device);
    with_size(dtype, [&](auto value) {
        launch("max_unpool2d_grad_input", fetch<decltype(value)>, blocks_for(walk.items, kThreads), kThreads, queue, a);
    });
}

}  // namespace fastcv::cuda
