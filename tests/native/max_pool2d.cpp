// Pooling, unpooling and their gradients against naive loops: they move elements, so all bits have to agree.
#include "check.h"

namespace fastcv::check {
namespace {

// Inputs lie anyhow, indices too; results are planar or channels-last.
struct PoolLayouts {
    Layout input, indices, result;
} const kPoolLayouts[] = {
    {kPlanar, kPlanar, kPlanar},    {kChannelsLast, kChannelsLast, kChannelsLast}, {kMisaligned, kMisaligned, kPlanar},
    {kEveryOther, kTurned, kPlanar}, {kBackwards, kEveryOther, kPlanar},            {kTurned, kChannelsLast, kPlanar},
    {kEveryOther, kPlanar, kChannelsLast},
};

struct PoolRow {
    int64_t N, C, H, W, R, S;
    int64_t stride_h = 1, stride_w = 1, top = 0, left = 0, dilation_h = 1, dilation_w = 1;
};
const PoolRow kPools[] = {
    {2, 3, 8, 10, 2, 2, 2, 2},
    {1, 19, 9, 70, 2, 2, 2, 2},
    {2, 5, 11, 37, 3, 3, 2, 2, 1, 1},
    {2, 19, 3, 4, 3, 3, 2, 2, 1, 1},
    {1, 18, 12, 41, 3, 3, 2, 2},
    {1, 17, 9, 35, 3, 3, 1, 1, 1, 1},
    {1, 4, 15, 20, 3, 3, 1, 1, 1, 1, 2, 2},
    {1, 3, 13, 50, 3, 3, 3, 3},
    {1, 20, 16, 18, 5, 5, 1, 1, 2, 2},
    {1, 5, 16, 37, 13, 13, 1, 1, 6, 6},
    {1, 3, 31, 40, 7, 7, 1, 1, 2, 2, 2, 3},
    {1, 3, 29, 45, 9, 7, 2, 2, 4, 3},
    {1, 6, 20, 19, 4, 1, 4, 1},
    {1, 2, 23, 44, 2, 5, 5, 3, 1, 2},
    {1, 33, 7, 6, 7, 6},
    {2, 5, 23, 37, 23, 37},
    {1, 18, 9, 70, 7, 67, 50, 50},
    {2, 21, 6, 10, 2, 2, 2, 2},
    {1, 9, 7, 11, 2, 3, 2, 3},
    {1, 2, 3, 9, 2, 1, 1, 1, 1, 0, 4, 1},  // misses the image
    {1, 1, 300, 40, 3, 3, 1, 1, 1, 1},      // several bands
    {1, 2, 9, 1500, 5, 9, 1, 1, 2, 4},      // several tiles
    {0, 2, 8, 8, 2, 2, 2, 2},
};

Pool2dShape pool_shape_of(const PoolRow& row) {
    const auto outputs = [](int64_t size, int64_t pad, int64_t taps, int64_t dilation, int64_t stride) {
        return (size + 2 * pad - (taps - 1) * dilation - 1) / stride + 1;
    };
    return {row.N,
            row.C,
            row.H,
            row.W,
            row.R,
            row.S,
            outputs(row.H, row.top, row.R, row.dilation_h, row.stride_h),
            outputs(row.W, row.left, row.S, row.dilation_w, row.stride_w),
            row.stride_h,
            row.stride_w,
            row.top,
            row.left,
            row.dilation_h,
            row.dilation_w};
}

// In row-major order, as torch does: more than the best so far, or NaN.
void naive_max_pool2d(const Pool2dShape& s, const Numbers& input, Numbers* output, Numbers* indices) {
    for (int64_t plane = 0; plane < s.N * s.C; plane++)
        for (int64_t p = 0; p < s.P; p++)
            for (int64_t q = 0; q < s.Q; q++) {
                int64_t top = p * s.stride_h - s.pad_top, left = q * s.stride_w - s.pad_left;
                const int64_t bottom = top + (s.R - 1) * s.dilation_h, right = left + (s.S - 1) * s.dilation_w;
                while (top < 0) top += s.dilation_h;
                while (left < 0) left += s.dilation_w;
                double best = -INFINITY;
                int64_t index = top * s.W + left;
                for (int64_t y = top; y <= bottom && y < s.H; y += s.dilation_h)
                    for (int64_t x = left; x <= right && x < s.W; x += s.dilation_w) {
                        const double v = input[size_t((plane * s.H + y) * s.W + x)];
                        if (v > best || isnan(v)) best = v, index = y * s.W + x;
                    }
                output->push_back(best);
                indices->push_back(double(index));
            }
}

// Whether elements are what they should be, NaN for NaN.
template <class T>
bool same_numbers(const std::vector<T>& got, const Numbers& want) {
    for (size_t i = 0; i < got.size(); i++)
        if (got[i] != T(want[i]) && !(isnan(double(got[i])) && isnan(want[i]))) {
            fail("element %zu is %.9g, not %.9g", i, double(got[i]), want[i]);
            return false;
        }
    return true;
}

// Runs a kernel that writes to a result of T, and compares.
template <class T, class Run>
void check_moves(const Size4& size, const Layout& layout, const Numbers& want, const Run& run) {
    bool right = true;
    for (const int threads : {1, 2, 3}) {
        if (!right) break;
        set_num_threads(threads);
        Array<T> result(size, layout);
        const Status status = run(result.tensor());
        right = same_numbers(result.take_elements(), want);
        if (status != Status::ok || !result.untouched()) {
            fail("status %d, or wrote outside the result", int(status));
            right = false;
        }
    }
    if (right) passed++;
}

template <class T, class I>
void check_pool(const KernelTable& table, const PoolRow& row, const PoolLayouts& layouts, bool with_nan) {
    const Pool2dShape s = pool_shape_of(row);
    const int itemsize = int(sizeof(T)), index_bytes = int(sizeof(I));
    const Size4 in{{s.N, s.C, s.H, s.W}}, out{{s.N, s.C, s.P, s.Q}};
    // Few different values, so that there are ties.
    Numbers input = random_numbers(in.elements(), 1, 8), want, places;
    for (double& v : input) v = with_nan && floor(v) == 3 ? NAN : floor(v);
    naive_max_pool2d(s, input, &want, &places);
    const auto name = [&](const char* what) {
        snprintf(current, sizeof current, "%s %s%s %s %s %s -> %s, %lldx%lldx%lldx%lld window %lldx%lld stride %lld,%lld", table.isa,
                 itemsize == 4 ? "float" : "double", with_nan ? " nan" : "", what, layouts.input.name, layouts.indices.name,
                 layouts.result.name, static_cast<long long>(s.N), static_cast<long long>(s.C), static_cast<long long>(s.H),
                 static_cast<long long>(s.W), static_cast<long long>(s.R), static_cast<long long>(s.S),
                 static_cast<long long>(s.stride_h), static_cast<long long>(s.stride_w));
    };
    const Array<T> x(in, layouts.input, input);
    name("max_pool2d");
    check_moves<T>(out, layouts.result, want, [&](Tensor y) { return table.max_pool2d(s, itemsize, 0, x.tensor(), y, Tensor{}); });
    name("max_pool2d with indices");
    check_moves<T>(out, layouts.result, want, [&](Tensor y) {
        Array<I> indices(out, layouts.result);
        const Status status = table.max_pool2d(s, itemsize, index_bytes, x.tensor(), y, indices.tensor());
        return same_numbers(indices.take_elements(), places) && indices.untouched() ? status : Status::index_out_of_range;
    });

    bool inside = true;
    for (const double place : places) inside = inside && place < double(s.H * s.W);
    if (!inside) return;
    const IndexedShape indexed{s.N, s.C, s.H, s.W, s.P, s.Q};
    const Array<I> indices(out, layouts.indices, places);
    const Array<T> numbers(out, layouts.input, want);
    Numbers unpooled(input.size()), summed(input.size()), fetched;
    for (size_t i = 0; i < want.size(); i++) {
        const size_t plane = i / size_t(s.P * s.Q), at = plane * size_t(s.H * s.W) + size_t(places[i]);
        unpooled[at] = want[i];
        summed[at] += want[i];  // small integers: exact
        fetched.push_back(input[at]);
    }
    name("max_unpool2d");
    check_moves<T>(in, layouts.result, unpooled, [&](Tensor y) {
        return table.max_unpool2d(indexed, itemsize, index_bytes, numbers.tensor(), indices.tensor(), y);
    });
    name("max_pool2d_grad_input");
    check_moves<T>(in, layouts.result, summed, [&](Tensor y) {
        return table.max_pool2d_grad_input(indexed, itemsize, index_bytes, numbers.tensor(), indices.tensor(), y);
    });
    name("max_unpool2d_grad_input");
    check_moves<T>(out, layouts.result, fetched, [&](Tensor y) {
        return table.max_unpool2d_grad_input(indexed, itemsize, index_bytes, x.tensor(), indices.tensor(), y);
    });
    if (places.empty()) return;
    places.back() = double(s.H * s.W);
    const Array<I> outside(out, layouts.indices, places);
    Array<T> to(in, layouts.result), from(out, layouts.result);
    name("an index outside");
    const bool seen =
        table.max_unpool2d(indexed, itemsize, index_bytes, numbers.tensor(), outside.tensor(), to.tensor()) ==
            Status::index_out_of_range &&
        table.max_pool2d_grad_input(indexed, itemsize, index_bytes, numbers.tensor(), outside.tensor(), to.tensor()) ==
            Status::index_out_of_range &&
        table.max_unpool2d_grad_input(indexed, itemsize, index_bytes, x.tensor(), outside.tensor(), from.tensor()) ==
            Status::index_out_of_range;
    to.take_elements();
    from.take_elements();
    if (seen && to.untouched() && from.untouched())
        passed++;
    else
        fail("not refused, or written outside the result");
}

template <class T>
void check_pools(const KernelTable& table) {
    for (const PoolRow& row : kPools)
        for (const PoolLayouts& layouts : kPoolLayouts)
            for (const bool with_nan : {false, true}) {
                check_pool<T, int64_t>(table, row, layouts, with_nan);
                check_pool<T, int32_t>(table, row, layouts, with_nan);
            }
    for (const int64_t n : kAroundLanes)
        for (const PoolLayouts* layouts = kPoolLayouts; layouts < kPoolLayouts + 2; layouts++) {
            check_pool<T, int64_t>(table, {1, 2, 6, 2 * n, 2, 2, 2, 2}, *layouts, false);
            check_pool<T, int32_t>(table, {1, n, 5, 4, 2, 2, 2, 2}, *layouts, false);
            check_pool<T, int64_t>(table, {1, 2, 5, n, 3, 3, 2, 2, 1, 1}, *layouts, true);
            check_pool<T, int64_t>(table, {1, n, 5, 4, 3, 3, 1, 1, 1, 1}, *layouts, false);
        }
}

}  // namespace

void max_pool2d(const KernelTable& table) {
    check_pools<float>(table);
    check_pools<double>(table);
}

}  // namespace fastcv::check
