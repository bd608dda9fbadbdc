// max_pool2d: the largest element of each window, and where it lies.
//
//   output[n][c][p][q]  = max over r, s of input[n][c][p * stride - pad + r * dilation][q * stride - pad + s * dilation]
//   indices[n][c][p][q] = y * W + x of that element in its plane
//
// Elements outside the image take no part; max_pool2d_best.hpp says which of equal elements is found, and what NaN does. Planes
// have neighbouring outputs in lanes, channels-last images (max_pool2d_channels.hpp) channels. Planes with short windows go by
// rows (max_pool2d_rows.hpp), where every lane is loaded from its place and nothing waits in scratch. Measured with two threads
// before and after there was this way, with indices: 512 planes of 28 x 28, 2 x 2 at stride 2: 70 and 31 microseconds; 64 of
// 112 x 112, 3 x 3 at stride 2: 134 and 84; 192 of 28 x 28, 3 x 3 at stride 1: 70 and 34; 128 of 56 x 56, 4 x 4 at stride 4: 50
// and 26. Other planes (max_pool2d_planar.hpp) and images have two ways, and the choice counts takes, i.e. comparisons of a
// vector with the best so far:
//
//   direct   R * S - 1 for each output
//   shared   stride_h rows of S - 1 along the row, R - 1 down the columns, and kPass for each pass through scratch;
//            long windows need about log2 of their length (Doubling)
//
// Planes may also be turned into channels-last images in scratch, a group of as many planes as there are lanes at a time, by
// bands of rows. Where rows are narrow, most lanes and the masks at both ends are lost otherwise; and with a stride of 3 and more
// a vector of outputs would be put together from single elements. Measured on one core, 256 planes of 13 x 13, 3 x 3 at stride 2
// with indices: 59 microseconds by rows, 12 turned; 64 of 111 x 111, 3 x 3 at stride 3: 909 and 164; but 256 of 56 x 56, 2 x 2
// at stride 2: 140 and 216.
//
// The caller has checked sizes; results are planar or channels-last as the input is, with neighbouring elements.
#pragma once

#include "../parallel.h"
#include "max_pool2d_channels.hpp"
#include "max_pool2d_planar.hpp"
#include "max_pool2d_rows.hpp"
#include "max_pool2d_window.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// Writing a best to scratch and reading it again costs about as much as taking one.
constexpr int64_t kPass = 1;
// A band's bests stay close by. Where bands overlap, so that rows are searched twice, a band may be larger.
constexpr int64_t kBandBytes = int64_t(64) << 10, kLargeBandBytes = int64_t(384) << 10;

// How shared work is cut: into tiles of columns and bands of output rows. No rows: direct.
struct PoolBands {
    int64_t rows = 0, columns = 0;
    int64_t scratch_rows = 0, pitch = 0;

    template <class T>
    int64_t scratch_bytes() const {
        return round_up(scratch_rows * pitch * int64_t(sizeof(T) + sizeof(Position<T>)), 64);
    }
    template <class T>
    BestRows<T> scratch(char* data) const {
        return {reinterpret_cast<T*>(data), reinterpret_cast<Position<T>*>(data + scratch_rows * pitch * int64_t(sizeof(T))), pitch};
    }
};

static inline int64_t output_rows_of(int64_t scratch_rows, const Axis& y) {
    const int64_t window = (y.taps - 1) * y.dilation + 1;
    return scratch_rows < window ? 0 : (scratch_rows - window) / y.stride + 1;
}

static inline int64_t shared_takes(const Axis& y, const Axis& x) {
    const Doubling along(x.taps), down(y.taps);
    const int64_t row_takes = x.stride == 1 ? along.takes() + kPass * along.passes : x.taps - 1;
    return y.stride * (row_takes + kPass) + smaller(y.taps, y.stride * (down.takes() + kPass * down.passes));
}

// `unit`: a column's elements in scratch.
template <class T>
static PoolBands plan_bands(const Axis& y, const Axis& x, int64_t unit) {
    const Doubling along(x.taps);
    const bool doubled = x.stride == 1 && along.passes > 0;
    const int64_t window = (y.taps - 1) * y.dilation + 1, halo = doubled ? (x.taps - along.taps) * x.dilation : 0;
    constexpr int64_t kFar = 1 << 16;  // beyond, no scratch would do, and products might overflow
    PoolBands bands;
    if (y.stride > kFar || window > kFar || halo > kFar) return bands;
    if (shared_takes(y, x) >= x.taps * y.taps) return bands;

    const int64_t all = round_up(x.output, unit == 1 ? kLanes<T> : 1);
    for (int64_t columns = smaller(all, larger(1024 / unit, 4 * halo)); bands.rows == 0; columns = columns / 4) {
        if (columns * unit < kLanes<T>) return PoolBands();
        bands.columns = unit == 1 ? round_up(columns, kLanes<T>) : columns;
        bands.pitch = round_up((bands.columns + halo) * unit, kLanes<T>) + kLanes<T>;
        const int64_t row_bytes = bands.pitch * int64_t(sizeof(T) + sizeof(Position<T>));
        const int64_t close = output_rows_of(kBandBytes / row_bytes, y), far = output_rows_of(kLargeBandBytes / row_bytes, y);
        const int64_t worthwhile = ceil_div(4 * window, y.stride);  // then a fifth of the rows are searched twice
        bands.rows = smaller(y.output, larger(close, smaller(far, worthwhile)));
    }
    bands.scratch_rows = (bands.rows - 1) * y.stride + window;
    return bands;
}

// A call, its window without the taps that nobody sees.
struct PoolCall {
    int64_t N, C;
    Axis y, x;
    Tensor input, output, indices;
    int index_bytes, threads;
};

// Of a square window that is not dilated along its rows; or 0.
static inline int64_t square_size(const PoolCall& call) {
    return call.x.taps == call.y.taps && call.x.dilation == 1 ? call.x.taps : 0;
}

// ---- planes

// Each of them first without a look at NaN, and, if there was one, with.
template <class T>
struct PlaneKernels {
    bool (*row[2])(const PoolPlane<T>&, const Axis& y, const Axis& x, int64_t p, bool whole);
    bool (*band[2])(const PoolPlane<T>&, const Axis& y, const Axis& x, int64_t first, int64_t last, int64_t left, int64_t right,
                    const BestRows<T>&);
};
template <class T, bool kPosition, int kStride>
constexpr PlaneKernels<T> kPlaneKernels = {
    {pool_row_directly<T, kStride, kPosition, false>, pool_row_directly<T, kStride, kPosition, true>},
    {pool_band<T, kStride, kPosition, false>, pool_band<T, kStride, kPosition, true>},
};
template <class T, bool kPosition>
static const PlaneKernels<T>& plane_kernels(const PoolCall& call) {
    const int64_t stride = call.x.stride;
    if (call.input.stride_bytes[3] != int64_t(sizeof(T)) || stride > 2) return kPlaneKernels<T, kPosition, 0>;
    return stride == 1 ? kPlaneKernels<T, kPosition, 1> : kPlaneKernels<T, kPosition, 2>;
}

template <class T>
static Status pool_planes(const PoolCall& call) {
    const Axis &y = call.y, &x = call.x;
    const bool positions = call.indices.data != nullptr;
    const PlaneKernels<T>& kernels = positions ? plane_kernels<T, true>(call) : plane_kernels<T, false>(call);
    const auto plane_at = [&](int64_t index) {
        const int64_t* b = call.input.stride_bytes;
        const int64_t result = index * y.output * x.output;
        return PoolPlane<T>{call.input.data + index / call.C * b[0] + index % call.C * b[1],
                            b[2],
                            b[3],
                            reinterpret_cast<T*>(call.output.data) + result,
                            positions ? call.indices.data + result * call.index_bytes : nullptr,
                            call.index_bytes};
    };
    const PoolBands bands = plan_bands<T>(y, x, 1);
    if (bands.rows == 0) {
        parallel(call.threads, [&](Team team) {
            const int64_t rows = call.N * call.C * y.output, end = team.end(rows);
            const int64_t first_whole = y.first_whole(), last_whole = y.last_whole();
            for (int64_t row = team.begin(rows); row < end;) {
                const PoolPlane<T> plane = plane_at(row / y.output);
                const int64_t first = row % y.output, last = smaller(y.output, first + end - row);
                for (int64_t p = first; p < last; p++) {
                    const bool whole = p >= first_whole && p < last_whole;
                    if (kernels.row[0](plane, y, x, p, whole)) kernels.row[1](plane, y, x, p, whole);
                }
                row += last - first;
            }
        });
        return Status::ok;
    }
    const int64_t bytes = bands.scratch_bytes<T>();
    const Scratch scratch(bytes * call.threads);
    if (!scratch.data()) return Status::out_of_memory;
    parallel(call.threads, [&](Team team) {
        const BestRows<T> rows = bands.scratch<T>(scratch.data() + bytes * team.id);
        const int64_t tiles = ceil_div(x.output, bands.columns), per_plane = tiles * ceil_div(y.output, bands.rows);
        const int64_t items = call.N * call.C * per_plane;
        for (int64_t item = team.begin(items); item < team.end(items); item++) {
            const PoolPlane<T> plane = plane_at(item / per_plane);
            const int64_t first = item % per_plane / tiles * bands.rows, left = item % tiles * bands.columns;
            const int64_t last = smaller(y.output, first + bands.rows), right = smaller(x.output, left + bands.columns);
            if (kernels.band[0](plane, y, x, first, last, left, right, rows))
                kernels.band[1](plane, y, x, first, last, left, right, rows);
        }
    });
    return Status::ok;
}

// ---- planes with short windows

// One element after another: rows of outputs [first, last) of a plane.
template <class T>
FASTCV_NOINLINE void pool_plainly(const PoolCall& call, int64_t n, int64_t c, int64_t first, int64_t last) {
    const Axis &y = call.y, &x = call.x;
    const auto at = [&](const Tensor& t, int64_t row, int64_t column) {
        return t.data + n * t.stride_bytes[0] + c * t.stride_bytes[1] + row * t.stride_bytes[2] + column * t.stride_bytes[3];
    };
    for (int64_t p = first; p < last; p++)
        for (int64_t q = 0; q < x.output; q++) {
            const int64_t top = p * y.stride - y.pad, column = q * x.stride - x.pad;
            T best = T(-__builtin_inf());
            int64_t position = y.first_inside(top) * x.input + x.first_inside(column);
            for (int64_t r = y.first_tap(p); r < y.last_tap(p); r++)
                for (int64_t s = x.first_tap(q); s < x.last_tap(q); s++) {
                    const int64_t h = top + r * y.dilation, w = column + s * x.dilation;
                    const T v = load_scalar<T>(at(call.input, h, w));
                    if (v > best || v != v) {
                        best = v;
                        position = h * x.input + w;
                    }
                }
            store_scalar(at(call.output, p, q), best);
            if (call.index_bytes == 8) store_scalar(at(call.indices, p, q), position);
            if (call.index_bytes == 4) store_scalar(at(call.indices, p, q), int32_t(position));
        }
}

// The kernel for a call's windows, or null. `shared`: some of a window's rows are also the next one's.
template <class T, int kPlanes, bool kPosition>
static RowKernel<T> row_kernel(const PoolCall& call, bool shared) {
    const Axis &y = call.y, &x = call.x;
    const int64_t taps = x.dilation == 1 ? x.taps : 0;
    if (shared) {
        constexpr int64_t kWidest = 1 << 14;  // outputs of a row whose bests are carried
        if (taps != y.taps || y.dilation != 1 || x.stride != y.stride || x.output > kWidest) return nullptr;
        if (x.stride == 1 && taps == 2) return pool_rows_shared<T, 1, 2, kPlanes, kPosition>;
        if (x.stride == 1 && taps == 3) return pool_rows_shared<T, 1, 3, kPlanes, kPosition>;
        if (x.stride == 2 && taps == 3) return pool_rows_shared<T, 2, 3, kPlanes, kPosition>;
        return nullptr;
    }
    switch (x.stride) {
        case 1:
            return taps == 1   ? pool_rows_directly<T, 1, 1, kPlanes, kPosition>
                   : taps == 2 ? pool_rows_directly<T, 1, 2, kPlanes, kPosition>
                               : pool_rows_directly<T, 1, 0, kPlanes, kPosition>;
        case 2:
            return taps == 2 ? pool_rows_directly<T, 2, 2, kPlanes, kPosition> : pool_rows_directly<T, 2, 0, kPlanes, kPosition>;
        case 3:
            return taps == 3 ? pool_rows_directly<T, 3, 3, kPlanes, kPosition> : pool_rows_directly<T, 3, 0, kPlanes, kPosition>;
        case 4:
            return taps == 4 ? pool_rows_directly<T, 4, 4, kPlanes, kPosition> : pool_rows_directly<T, 4, 0, kPlanes, kPosition>;
        default: return nullptr;
    }
}
// Planes that lie side by side: as many as fit, where rows of 4 outputs would fill a vector.
template <class T>
static int64_t planes_side_by_side(const Axis& x) {
    const int64_t fit = kLanes<T> / x.output;
    return kLanes<T> >= 16 && fit >= 4 ? 4 : kLanes<T> >= 8 && fit >= 2 ? 2 : 1;
}
template <class T, bool kPosition>
static RowKernel<T> row_kernel(const PoolCall& call, bool shared) {
    const int64_t planes = planes_side_by_side<T>(call.x);
    if constexpr (kLanes<T> >= 16)
        if (planes == 4) return row_kernel<T, 4, kPosition>(call, shared);
    if constexpr (kLanes<T> >= 8)
        if (planes == 2) return row_kernel<T, 2, kPosition>(call, shared);
    return row_kernel<T, 1, kPosition>(call, shared);
}

// Whether planes were pooled that way: it can be done, and is better than turning them, which would take `turned` cycles for as
// many planes as there are lanes.
template <class T>
static bool pool_rows(const PoolCall& call, double turned, Status* status) {
    constexpr int64_t kCloseBytes = int64_t(16) << 10;  // of input that a vector's column goes down before the next one's turn
    constexpr int64_t kBatch = 8;
    const Axis &y = call.y, &x = call.x;
    if (call.input.stride_bytes[3] != int64_t(sizeof(T)) || y.stride > 1 << 16 || y.dilation > 1 << 16) return false;
    bool shared = false;
    for (int64_t r = 1; r < y.taps; r++) shared = shared || (y.output > 1 && r * y.dilation % y.stride == 0);
    const bool positions = call.indices.data != nullptr;
    const RowKernel<T> kernel = positions ? row_kernel<T, true>(call, shared) : row_kernel<T, false>(call, shared);
    if (!kernel) return false;
    const int64_t side_by_side = planes_side_by_side<T>(x);
    const double takes = shared ? double(x.stride * x.taps + x.taps - 1) : double(x.taps) * double(y.taps);
    const double vectors = double(ceil_div(x.output, kLanes<T>)) * double(y.output) * kLanes<T> / double(side_by_side);
    RowPlan<T> plan;
    if (vectors * (10 + 3 * takes) > turned || !plan.make(x, side_by_side)) return false;

    const int64_t plane = y.output * x.output, planes = call.N * call.C, groups = ceil_div(planes, side_by_side);
    // Short enough that NaN does not cost much; where rows are shared, long enough that few are searched twice.
    const int64_t row_bytes = side_by_side * y.stride * x.input * int64_t(sizeof(T));
    const int64_t block = smaller(y.output, larger(kBandBytes / row_bytes, shared ? 32 : 1)), blocks = ceil_div(y.output, block);
    plan.few = larger(2, kCloseBytes / row_bytes);
    // Small planes are done some groups at a time, since what a vector needs has to be brought into registers first.
    const int64_t batch = smaller(kBatch, larger(1, kCloseBytes / (row_bytes * y.output))), batches = ceil_div(groups, batch);
    const int64_t bytes = shared ? batch * plan.vectors * (x.taps - x.stride) * int64_t(sizeof(Best<T>)) : 0;
    const Scratch scratch(bytes * call.threads);
    if (!scratch.data() && bytes > 0) {
        *status = Status::out_of_memory;
        return true;
    }
    parallel(call.threads, [&](Team team) {
        Best<T>* carried = reinterpret_cast<Best<T>*>(scratch.data() + bytes * team.id);
        for (int64_t item = team.begin(batches * blocks); item < team.end(batches * blocks); item++) {
            const int64_t begin = item / blocks * batch * side_by_side, end = smaller(planes, begin + batch * side_by_side);
            const int64_t first = item % blocks * block, last = smaller(y.output, first + block);
            PlaneGroup<T> group[kBatch];
            int64_t n = begin / call.C, c = begin % call.C, count = 0;
            for (int64_t i = begin; i < end; count++) {
                PlaneGroup<T>& of = group[count];
                of.row_bytes = call.input.stride_bytes[2], of.index_bytes = call.index_bytes;
                of.planes = int(smaller(side_by_side, end - i));
                for (int64_t g = 0; g < side_by_side; g++) {
                    if (g > 0 && g >= of.planes) {  // lanes that nobody stores look at the last plane again
                        of.inputs[g] = of.inputs[g - 1] - x.output * x.stride * int64_t(sizeof(T));
                        continue;
                    }
                    const int64_t skipped = g * x.output, result = i++ * plane - skipped;
                    of.inputs[g] = call.input.data + n * call.input.stride_bytes[0] + c * call.input.stride_bytes[1] -
                                   skipped * x.stride * int64_t(sizeof(T));
                    of.outputs[g] = reinterpret_cast<T*>(call.output.data) + result;
                    of.indices[g] = positions ? call.indices.data + result * call.index_bytes : nullptr;
                    if (++c == call.C) c = 0, n++;
                }
            }
            const bool nan = kernel(group, count, plan, y, x, first, last, carried);
            for (int64_t i = begin; nan && i < end; i++) pool_plainly<T>(call, i / call.C, i % call.C, first, last);
        }
    });
    *status = Status::ok;
    return true;
}

// ---- planes with one window

// Whether planes were pooled that way.
template <class T>
static bool pool_whole_windows(const PoolCall& call) {
    const Axis &y = call.y, &x = call.x;
    const int64_t* b = call.input.stride_bytes;
    const auto inside = [](const Axis& a) { return a.output == 1 && a.pad <= 0 && a.input + a.pad > (a.taps - 1) * a.dilation; };
    if (!inside(y) || !inside(x) || x.dilation != 1 || b[3] != int64_t(sizeof(T))) return false;
    WholeWindow w{y.taps, x.taps, y.dilation * b[2], y.dilation * x.input, -y.pad * x.input - x.pad};
    if (w.row_bytes == x.taps * int64_t(sizeof(T)) && w.row_positions == x.taps) w.length *= w.rows, w.rows = 1;
    const int64_t planes = call.N * call.C;
    // In terms of threads_for(): about 4 microseconds of one core's work are worth a second one.
    const double plane_work = (600 + 20 * double(y.taps) * double(x.taps)) * (call.indices.data ? 1.5 : 1);
    const int threads = threads_for(double(planes) * plane_work);
    const int64_t group = smaller(kLanes<T>, ceil_div(planes, threads)), groups = ceil_div(planes, group);
    const auto kernel = call.indices.data ? pool_windows<T, true> : pool_windows<T, false>;
    parallel(threads, [&](Team team) {
        for (int64_t g = team.begin(groups); g < team.end(groups); g++) {
            const int64_t begin = g * group, count = smaller(group, planes - begin);
            const char* windows[kLanes<T>];
            int64_t n = begin / call.C, c = begin % call.C;
            for (int64_t i = 0; i < count; i++) {
                windows[i] = call.input.data + n * b[0] + c * b[1] - y.pad * b[2] - x.pad * b[3];
                if (++c == call.C) c = 0, n++;
            }
            char* indices = call.indices.data ? call.indices.data + begin * call.index_bytes : nullptr;
            if (!kernel(w, windows, count, reinterpret_cast<T*>(call.output.data) + begin, indices, call.index_bytes)) continue;
            for (int64_t i = begin; i < begin + count; i++) pool_plainly<T>(call, i / call.C, i % call.C, 0, 1);
        }
    });
    return true;
}

// ---- channels-last images

template <class T>
struct ImageKernels {
    void (*row)(const PoolImage<T>&, const Axis& y, const Axis& x, int64_t p);
    void (*band)(const PoolImage<T>&, const Axis& y, const Axis& x, int64_t first, int64_t last, int64_t left, int64_t right,
                 int64_t c, const BestRows<T>&);
};
// For windows that are usual for each way, or any. kWhole: see load_channels().
template <class T, bool kPosition, bool kExact, bool kWhole>
static ImageKernels<T> image_kernels(const PoolCall& call) {
    ImageKernels<T> kernels{pool_pixels_directly<T, kPosition, kExact, kWhole, 0>, pool_band_of_channels<T, kPosition, kExact, kWhole, 0>};
    if constexpr (kWhole) {
        if (kExact && square_size(call) == 2) kernels.row = pool_pixels_directly<T, kPosition, true, true, 2>;
        if (square_size(call) == 3) kernels.band = pool_band_of_channels<T, kPosition, kExact, true, 3>;
    }
    return kernels;
}
template <class T, bool kExact, bool kWhole>
static ImageKernels<T> image_kernels(const PoolCall& call) {
    return call.indices.data ? image_kernels<T, true, kExact, kWhole>(call) : image_kernels<T, false, kExact, kWhole>(call);
}

template <class T>
static Status pool_images(const PoolCall& call) {
    constexpr int64_t L = kLanes<T>;
    const Axis &y = call.y, &x = call.x;
    const bool whole = call.C % L == 0 && call.input.stride_bytes[1] == int64_t(sizeof(T));
    const ImageKernels<T> kernels = whole ? image_kernels<T, true, true>(call) : image_kernels<T, true, false>(call);
    const auto image_at = [&](int64_t n) {
        const int64_t* b = call.input.stride_bytes;
        const int64_t result = n * y.output * x.output * call.C;
        return PoolImage<T>{call.input.data + n * b[0],
                            b[2],
                            b[3],
                            b[1],
                            reinterpret_cast<T*>(call.output.data) + result,
                            call.indices.data ? call.indices.data + result * call.index_bytes : nullptr,
                            call.index_bytes,
                            call.C};
    };
    const PoolBands bands = plan_bands<T>(y, x, L);
    if (bands.rows == 0) {
        parallel(call.threads, [&](Team team) {
            const int64_t rows = call.N * y.output;
            for (int64_t row = team.begin(rows); row < team.end(rows); row++)
                kernels.row(image_at(row / y.output), y, x, row % y.output);
        });
        return Status::ok;
    }
    const int64_t bytes = bands.scratch_bytes<T>();
    const Scratch scratch(bytes * call.threads);
    if (!scratch.data()) return Status::out_of_memory;
    parallel(call.threads, [&](Team team) {
        const BestRows<T> rows = bands.scratch<T>(scratch.data() + bytes * team.id);
        const int64_t vectors = ceil_div(call.C, L), tiles = ceil_div(x.output, bands.columns), per_band = vectors * tiles;
        const int64_t per_image = per_band * ceil_div(y.output, bands.rows), items = call.N * per_image;
        for (int64_t item = team.begin(items); item < team.end(items); item++) {
            const int64_t first = item % per_image / per_band * bands.rows, left = item % per_band / vectors * bands.columns;
            kernels.band(image_at(item / per_image), y, x, first, smaller(y.output, first + bands.rows), left,
                         smaller(x.output, left + bands.columns), item % vectors * L, rows);
        }
    });
    return Status::ok;
}

// ---- planes turned into channels-last images, as many as there are lanes at a time

template <class T>
static void pool_turned(const ImageKernels<T>& kernels, const PoolImage<T>& image, const Axis& y, const Axis& x,
                        const PoolBands& bands, const BestRows<T>& rows) {
    for (int64_t p = 0; bands.rows == 0 && p < y.output; p++) kernels.row(image, y, x, p);
    for (int64_t first = 0; bands.rows > 0 && first < y.output; first += bands.rows)
        for (int64_t left = 0; left < x.output; left += bands.columns)
            kernels.band(image, y, x, first, smaller(y.output, first + bands.rows), left, smaller(x.output, left + bands.columns), 0,
                         rows);
}

// Rows of outputs [first, first + y.output) of a plane, as an axis of their own over the input rows from `row` on.
struct PoolRows {
    int64_t first, row;
    Axis y;

    PoolRows(const Axis& all, int64_t begin, int64_t end) : first(begin), row(larger(0, begin * all.stride - all.pad)), y(all) {
        const int64_t last = (end - 1) * all.stride - all.pad + (all.taps - 1) * all.dilation;
        y.output = end - begin;
        y.input = larger(0, smaller(all.input, last + 1) - row);  // none, where windows miss the plane
        y.pad = all.pad - begin * all.stride + row;
    }
};

// Output rows of a plane that are turned together.
template <class T>
static int64_t turned_rows(const PoolCall& call) {
    constexpr int64_t kTurnedBytes = int64_t(256) << 10;
    const int64_t input_rows = kTurnedBytes / (kLanes<T> * int64_t(sizeof(T))) / call.x.input;
    return smaller(call.y.output, output_rows_of(input_rows, call.y));
}

template <class T>
static Status pool_turned_planes(const PoolCall& call) {
    constexpr int64_t L = kLanes<T>, kBytes = int64_t(sizeof(T));
    const Axis &y = call.y, &x = call.x;
    const ImageKernels<T> exact = image_kernels<T, true, true>(call), without_nan = image_kernels<T, false, true>(call);
    const PoolBands bands = plan_bands<T>(y, x, L);
    const int64_t block = turned_rows<T>(call), blocks = ceil_div(y.output, block), plane = y.output * x.output;
    const int64_t input_rows = smaller(y.input, (block - 1) * y.stride + (y.taps - 1) * y.dilation + 1);
    // Squares are whole: up to L - 1 pixels more are read and written.
    const int64_t image_bytes = round_up(input_rows * x.input + L, L) * L * kBytes;
    const int64_t result_bytes = round_up(block * x.output, L) * L * kBytes;
    const int64_t bytes = image_bytes + 2 * result_bytes + bands.scratch_bytes<T>();
    const Scratch scratch(bytes * call.threads);
    if (!scratch.data()) return Status::out_of_memory;
    parallel(call.threads, [&](Team team) {
        char* mine = scratch.data() + bytes * team.id;
        T* turned = reinterpret_cast<T*>(mine);
        T* values = reinterpret_cast<T*>(mine + image_bytes);
        char* positions = mine + image_bytes + result_bytes;
        const BestRows<T> rows = bands.scratch<T>(positions + result_bytes);
        const PoolImage<T> image{mine, x.input * L * kBytes, L * kBytes, kBytes, values, positions, int(sizeof(Position<T>)), L};
        const int64_t groups = ceil_div(call.C, L), items = call.N * groups * blocks;
        for (int64_t item = team.begin(items); item < team.end(items); item++) {
            const int64_t group = item / blocks, n = group / groups, c = group % groups * L, planes = smaller(L, call.C - c);
            const int64_t begin = item % blocks * block;
            const PoolRows part(y, begin, smaller(y.output, begin + block));
            const int64_t pixels = part.y.input * x.input, results = part.y.output * x.output;
            const int64_t* b = call.input.stride_bytes;
            const char* from = call.input.data + n * b[0] + c * b[1] + part.row * b[2];
            if (b[2] == x.input * b[3]) {
                load_channel_lanes<T>(turned, pixels, from, b[1], b[3], planes, 0, pixels);
            } else {
                // Rows in ascending order: what a square writes beyond its row, the next row overwrites.
                for (int64_t h = 0; h < part.y.input; h++)
                    load_channel_lanes<T>(turned + h * x.input * L, x.input, from + h * b[2], b[1], b[3], planes, 0, x.input);
            }
            pool_turned(holds_nan(turned, pixels) ? exact : without_nan, image, part.y, x, bands, rows);
            const int64_t result = (n * call.C + c) * plane + begin * x.output;
            store_channel_lanes<T>(values, results, call.output.data + result * kBytes, plane * kBytes, kBytes, planes);
            if (call.indices.data)
                store_position_lanes<T>(reinterpret_cast<const Position<T>*>(positions), results, part.row * x.input,
                                        call.indices.data + result * call.index_bytes, call.index_bytes, plane, planes);
        }
    });
    return Status::ok;
}

// Estimated cycles of the ways, for vectors that are moved, transposed and compared, of as many planes as there are lanes; fitted
// to planes of 7 to 112 pixels a side, windows of 2 to 13 and strides of 1 to 4.
static double takes_of(const PoolCall& call, bool shared) {
    return double(shared ? shared_takes(call.y, call.x) : call.x.taps * call.y.taps - 1);
}
template <class T>
static double turned_cycles(const PoolCall& call) {
    constexpr int64_t L = kLanes<T>;
    const Axis &y = call.y, &x = call.x;
    if (turned_rows<T>(call) < 1) return __builtin_inf();
    const double filled = double(call.C) / double(round_up(call.C, L));
    const int64_t block = turned_rows<T>(call), blocks = ceil_div(y.output, block);
    const double repeated = double((blocks - 1) * larger(0, (y.taps - 1) * y.dilation + 1 - y.stride));
    const double pixels = (double(y.input) + repeated) * double(x.input);
    const double takes = takes_of(call, plan_bands<T>(y, x, L).rows > 0);
    return (8 * pixels + double(y.output) * double(x.output) * (33 + 1.5 * takes)) / filled;
}
template <class T>
static double planar_cycles(const PoolCall& call) {
    constexpr int64_t L = kLanes<T>;
    const Axis &y = call.y, &x = call.x;
    const bool gathered = x.stride > 2 || call.input.stride_bytes[3] != int64_t(sizeof(T));
    const PoolBands row_bands = plan_bands<T>(y, x, 1);
    const double takes = takes_of(call, row_bands.rows > 0);
    const bool left_edge = x.pad > 0, right_edge = x.last_whole() < x.output || (row_bands.rows > 0 && x.output < L);
    const double vectors = double(ceil_div(x.output + (row_bands.rows > 0 ? (x.taps - Doubling(x.taps).taps) * x.dilation : 0), L));
    const double edges = gathered ? vectors : smaller(int64_t(vectors), left_edge + right_edge);
    const double take = row_bands.rows > 0 ? 4 : x.stride == 2 ? 8 : 5;
    const double each = 8 + take * takes, edge = gathered ? 60 * takes_of(call, false) : 20 + 6 * takes;
    return double(L) * double(y.output) * (vectors * each + edges * edge);
}

// ---- the table's entry

template <class T>
static Status max_pool2d(const Pool2dShape& s, int index_bytes, Tensor input, Tensor output, Tensor indices) {
    if (s.N == 0 || s.C == 0) return Status::ok;
    const Axis y = vertical(s).clipped(), x = horizontal(s).clipped();
    // In terms of threads_for(): about 8 microseconds of one core's work are worth a second one.
    const double planes = double(s.N) * double(s.C), inputs = double(s.H) * double(s.W), outputs = double(s.P) * double(s.Q);
    const int threads = threads_for(planes * (40 * inputs + 60 * outputs));
    const PoolCall call{s.N, s.C, y, x, input, output, indices, index_bytes, threads};
    const bool planar = output.stride_bytes[3] == int64_t(sizeof(T));
    // The caller gives such planes indices of 8 bytes. A window that misses its plane is found just outside it.
    if (indices.data && sizeof(T) == 4 && double(s.H + 1) * double(s.W + 1) >= 2147483648.0 && index_bytes == 8) {
        for (int64_t plane = 0; plane < s.N * s.C; plane++) pool_plainly<T>(call, plane / s.C, plane % s.C, 0, s.P);
        return Status::ok;
    }
    if (planar) {
        if (pool_whole_windows<T>(call)) return Status::ok;
        const double turned = turned_cycles<T>(call);
        Status status;
        if (pool_rows<T>(call, turned, &status)) return status;
        return turned < planar_cycles<T>(call) ? pool_turned_planes<T>(call) : pool_planes<T>(call);
    }
    return pool_images<T>(call);
}
static Status max_pool2d(const Pool2dShape& s, int itemsize, int index_bytes, Tensor input, Tensor output, Tensor indices) {
    return itemsize == 4 ? max_pool2d<float>(s, index_bytes, input, output, indices)
                         : max_pool2d<double>(s, index_bytes, input, output, indices);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
