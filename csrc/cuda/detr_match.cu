// detr_match: what each query of an image would cost for each of its objects, and the cheapest way to give out all.
//
//   cost[q][t] = cost_bbox * |box_q - box_t|_1 - cost_giou * giou(box_q, box_t) + cost_class * class(q, label_t)
//
//   softmax   class = -p,  p = exp(logit[q][label]) / sum over k of exp(logit[q][k])
//   focal     class = 0.25 (1-p)^2 (-log(p + 1e-8)) - 0.75 p^2 (-log(1-p + 1e-8)),  p = sigmoid(logit[q][label])
//   giou      i / u - (h - u) / h: areas of the intersection, the union and the smallest box around both, 0 / 0 being 0
//
//   soften   a warp a query: the largest logit, and 1 / sum of exp(logit - largest), the only thing that reads all K classes;
//            not for focal
//   price    a thread a pair: its cost, in the arrays' precision, to where `solve` (assignment.cu) reads rows, objects
//            or queries, whichever are fewer. Only pairs of one image, and of the classes only the objects' own
//   solve    a block an image
//
// The terms and their order are those of kernels/detr_match.hpp; sums over classes are in another order, and the compiler fuses
// multiplications and additions, so that costs differ by rounding. A label outside 0 .. K - 1 is noted (faults.h), and its costs
// are NaN, which the solver notes too and which leaves the image without a result; so does any other cost that is NaN.
#include "assignment_rows.h"
#include "dtypes.h"
#include "faults.h"

namespace fastcv::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffff;
constexpr int64_t kPairsAtOnce = 1024;  // of a block, in one turn

template <class T>
struct Softened {
    T largest, factor;
};

struct Arguments {
    DetrImages images;
    DeviceProblems problems;
    int64_t parts;  // of the image with the most pairs
    void* softened;  // (B, Q)
    uint32_t* faults;
};

template <class T>
__device__ inline T number_at(const char* at) {
    return *reinterpret_cast<const T*>(at);
}

template <class T>
__global__ void soften(Arguments a) {
    const DetrImages& d = a.images;
    const int lane = int(threadIdx.x) % kWarp;
    const int64_t step = item_step() / kWarp;
    for (int64_t query = first_item() / kWarp; query < d.B * d.Q; query += step) {
        const char* const logits = d.logits + query / d.Q * d.logits_stride_bytes[0] + query % d.Q * d.logits_stride_bytes[1];
        T largest = T(-INFINITY), sum = 0;
        for (int64_t k = lane; k < d.K; k += kWarp) {
            const T x = number_at<T>(logits + k * d.logits_stride_bytes[2]);
            if (x > largest) largest = x;
        }
        for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
            const T x = __shfl_xor_sync(kAllLanes, largest, lanes);
            if (x > largest) largest = x;
        }
        for (int64_t k = lane; k < d.K; k += kWarp) sum += exp(number_at<T>(logits + k * d.logits_stride_bytes[2]) - largest);
        for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
        if (lane == 0) static_cast<Softened<T>*>(a.softened)[query] = {largest, 1 / sum};
    }
}

template <class T>
struct Box {
    T cx, cy, w, h, x0, y0, x1, y1, area;

    __device__ Box(const char* at, int64_t stride_bytes)
        : cx(number_at<T>(at)),
          cy(number_at<T>(at + stride_bytes)),
          w(number_at<T>(at + 2 * stride_bytes)),
          h(number_at<T>(at + 3 * stride_bytes)),
          x0(cx - T(0.5) * w),
          y0(cy - T(0.5) * h),
          x1(cx + T(0.5) * w),
          y1(cy + T(0.5) * h),
          area((x1 - x0) * (y1 - y0)) {}
};

// NaN of `a` comes through all of them.
template <class T>
__device__ inline T positive(T a) {
    return a < 0 ? T(0) : a;
}
template <class T>
__device__ inline T least(T a, T b) {
    return b < a ? b : a;
}
template <class T>
__device__ inline T most(T a, T b) {
    return b > a ? b : a;
}
template <class T>
__device__ inline T quotient(T a, T b) {
    return b == 0 ? b : a / b;
}
template <class T>
__device__ inline T distance(T a, T b) {
    return a < b ? b - a : a - b;
}

template <class T>
__device__ inline T generalised_iou(const Box<T>& q, const Box<T>& t) {
    const T both = positive(least(q.x1, t.x1) - most(q.x0, t.x0)) * positive(least(q.y1, t.y1) - most(q.y0, t.y0));
    const T either = q.area + t.area - both;
    const T hull = positive(most(q.x1, t.x1) - least(q.x0, t.x0)) * positive(most(q.y1, t.y1) - least(q.y0, t.y0));
    return quotient(both, either) - quotient(hull - either, hull);
}

template <class T>
__device__ inline T focal_cost(T logit) {
    // 1 - p would leave nothing of what is small.
    const T p = 1 / (1 + exp(-logit)), other = 1 / (1 + exp(logit));
    return T(0.25) * (other * other) * -log(p + T(1e-8)) - T(0.75) * (p * p) * -log(other + T(1e-8));
}

template <class T>
__global__ void price(Arguments a) {
    const DetrImages& d = a.images;
    for (int64_t item = blockIdx.x; item < d.B * a.parts; item += gridDim.x) {
        const int64_t image = item / a.parts, first = item % a.parts * kPairsAtOnce;
        const AssignmentProblem p = a.problems.of(image);
        const bool turned = p.rows > p.columns;
        const int64_t across = turned ? p.rows : p.columns, all = p.rows * p.columns;
        const int64_t last = first + kPairsAtOnce < all ? first + kPairsAtOnce : all;
        for (int64_t pair = first + threadIdx.x; pair < last; pair += blockDim.x) {
            const int64_t i = pair / across, j = pair % across;
            const int64_t query = turned ? j : i, object = turned ? i : j;
            const int64_t label = number_at<int64_t>(p.labels + object * p.label_stride_bytes);
            T by_class = T(NAN);
            if (label < 0 || label >= d.K) {
                a.faults[int(Fault::label)] = 1;
            } else {
                const T logit = number_at<T>(d.logits + image * d.logits_stride_bytes[0] + query * d.logits_stride_bytes[1] +
                                             label * d.logits_stride_bytes[2]);
                if (d.focal) {
                    by_class = focal_cost(logit);
                } else {
                    const Softened<T> s = static_cast<const Softened<T>*>(a.softened)[image * d.Q + query];
                    by_class = exp(logit - s.largest) * -s.factor;
                }
            }
            const Box<T> q(d.boxes + image * d.boxes_stride_bytes[0] + query * d.boxes_stride_bytes[1], d.boxes_stride_bytes[2]);
            const Box<T> t(p.data + object * p.stride_bytes[0], p.stride_bytes[1]);
            const T l1 = distance(q.cx, t.cx) + distance(q.cy, t.cy) + distance(q.w, t.w) + distance(q.h, t.h);
            a.problems.rows_of<T>(p)[pair] =
                T(d.cost_bbox) * l1 + T(d.cost_class) * by_class - T(d.cost_giou) * generalised_iou(q, t);
        }
    }
}

int64_t softened_bytes(const DetrImages& d, Dtype dtype) { return d.focal ? 0 : 2 * d.B * d.Q * item_bytes(dtype); }

}  // namespace

int64_t detr_match_workspace_bytes(const DetrImages& d, const AssignmentProblems& problems, Dtype dtype) {
    AssignmentProblems placed = problems;
    return AssignmentLayout(placed, softened_bytes(d, dtype), dtype, false).bytes;
}

void detr_match(const DetrImages& d, AssignmentProblems problems, Dtype dtype, const AssignmentAnswer& answer, void* workspace,
                Queue queue) {
    const char* const op = "detr_match";
    const OnDevice here(queue.device);
    const AssignmentLayout layout(problems, softened_bytes(d, dtype), dtype, false);
    const DeviceProblems found = bring_problems(op, problems, layout, workspace, queue);
    const int64_t parts = (layout.most_rows * layout.most_columns + kPairsAtOnce - 1) / kPairsAtOnce;
    const Arguments a{d, found, parts, found.workspace + layout.more, fault_words(queue.device)};
    const auto run = [&](auto value) {
        using T = decltype(value);
        if (!d.focal && parts > 0) launch(op, soften<T>, blocks_for(d.B * d.Q * kWarp, kThreads), kThreads, queue, a);
        launch(op, price<T>, blocks_for(d.B * parts, 1), kThreads, queue, a);
    };
    if (dtype == Dtype::float32)
        run(float());
    else
        run(double());
    const AssignmentAsk ask{false, false, INFINITY};
    solve_rows(op, found, layout, dtype, ask, answer, queue);
}

}  // namespace fastcv::cuda
