// detr_match: the cost of giving each object of an image to each of its queries, and the cheapest way to give out all.
//
//   cost[t][q] = cost_bbox * |box_q - box_t|_1 - cost_giou * giou(box_q, box_t) + cost_class * class(q, label_t)
//
//   softmax   class = -p,  p = exp(logit[q][label]) / sum over k of exp(logit[q][k])
//   focal     class = 0.25 (1-p)^2 (-log(p + 1e-8)) - 0.75 p^2 (-log(1-p + 1e-8)),  p = sigmoid(logit[q][label])
//   giou      i / u - (h - u) / h: areas of the intersection, the union and the smallest box around both, 0 / 0 being 0
//
//                     queries, in lanes
//   object t   [ cost cost cost cost .. ]   one row of the solver, padded to whole vectors
//
// Queries' boxes are brought to lanes once an image (corners and areas too), and so is what softmax divides by: the only
// part that reads all K classes. Of the classes themselves only the objects' own are looked at. Sums are in the arrays'
// precision and in the order of the published matcher, whose costs these are but for rounding in exp and log.
//
// N. Carion et al., End-to-end object detection with transformers, ECCV 2020; X. Zhu et al., Deformable DETR, ICLR 2021.
#pragma once

#include <math.h>

#include "../epilogue.h"
#include "linear_sum_assignment.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int kBoxArrays = 9;  // centre, size, corners, area

// One image's queries in lanes. Behind the last query, to the end of a vector, there are zeros.
template <class T>
struct Queries {
    int64_t count;
    T *cx, *cy, *w, *h, *x0, *y0, *x1, *y1, *area;
    T *shift, *factor;  // softmax: p = exp(logit - shift) * factor
    T* logit;           // of one class
    T* rows;            // of as many queries as there are lanes, K classes each, where these lie apart

    static int64_t padded(int64_t n) { return round_up(n, 16); }
    static bool reads_in_place(const DetrProblem& d) { return d.logits_stride_bytes[2] == int64_t(sizeof(T)); }
    static int64_t bytes(const DetrProblem& d) {
        const int64_t copied = d.focal || reads_in_place(d) ? 0 : kLanes<T> * padded(d.K);
        return int64_t(sizeof(T)) * ((kBoxArrays + 3) * padded(d.Q) + copied);
    }
    Queries(char* memory, int64_t Q) : count(Q) {
        T* next = reinterpret_cast<T*>(memory);
        T** const arrays[] = {&cx, &cy, &w, &h, &x0, &y0, &x1, &y1, &area, &shift, &factor, &logit};
        for (T** array : arrays) {
            *array = next;
            next += padded(Q);
        }
        rows = next;
    }
};

template <class T>
static void read_boxes(const DetrProblem& d, int64_t image, const Queries<T>& to) {
    T* const fields[4] = {to.cx, to.cy, to.w, to.h};
    for (int k = 0; k < 4; k++) {
        const char* from = d.boxes + image * d.boxes_stride_bytes[0] + k * d.boxes_stride_bytes[2];
        for (int64_t q = 0; q < to.padded(d.Q); q++)
            fields[k][q] = q < d.Q ? load_scalar<T>(from + q * d.boxes_stride_bytes[1]) : T(0);
    }
    for (int64_t q = 0; q < to.padded(d.Q); q++) {
        to.x0[q] = to.cx[q] - T(0.5) * to.w[q];
        to.y0[q] = to.cy[q] - T(0.5) * to.h[q];
        to.x1[q] = to.cx[q] + T(0.5) * to.w[q];
        to.y1[q] = to.cy[q] + T(0.5) * to.h[q];
        to.area[q] = (to.x1[q] - to.x0[q]) * (to.y1[q] - to.y0[q]);
    }
}

// A vector of a row of K logits; lanes behind the last one are -infinity, whose exp is 0.
template <class T>
FASTCV_INLINE Vec<T> logits_from(const T* row, int64_t k, int64_t K) {
    if (k + kLanes<T> <= K) return load(row + k);
    Vec<Position<T>> lanes;
    for (int l = 0; l < kLanes<T>; l++) lanes[l] = l;
    return lanes < Position<T>(K - k) ? load_first(row + k, K - k) : splat(-kInfinity<T>);
}

// Lane l of the result is the sum, or whatever `join` makes of two, of the lanes of rows[l].
template <class T, class Join>
FASTCV_INLINE Vec<T> join_lanes(Vec<T>* rows, const Join& join) {
    transpose<T>(rows);
    FASTCV_UNROLL for (int width = kLanes<T> / 2; width > 0; width /= 2)
        FASTCV_UNROLL for (int l = 0; l < width; l++) rows[l] = join(rows[l], rows[l + width]);
    return rows[0];
}

// What softmax subtracts and divides by, for as many queries at a time as there are lanes: the largest logit, and the sum of
// exp(logit - largest). Classes are in lanes until a query's row is done; then the lanes of all these queries are joined at
// once. NaN goes by the largest, and is then in the sum.
template <class T>
static void prepare_softmax(const DetrProblem& d, int64_t image, const Queries<T>& to) {
    constexpr int L = kLanes<T>;
    const bool in_place = to.reads_in_place(d);
    for (int64_t first = 0; first < d.Q; first += L) {
        const T* rows[L];  // the last one repeated where there are fewer
        for (int l = 0; l < L; l++) {
            const char* const from = d.logits + image * d.logits_stride_bytes[0] +
                                     smaller(first + l, d.Q - 1) * d.logits_stride_bytes[1];
            T* const copy = to.rows + l * to.padded(d.K);
            for (int64_t k = 0; !in_place && k < d.K; k++) copy[k] = load_scalar<T>(from + k * d.logits_stride_bytes[2]);
            rows[l] = in_place ? reinterpret_cast<const T*>(from) : copy;
        }
        Vec<T> joined[L];
        for (int l = 0; l < L; l++) {
            joined[l] = splat(-kInfinity<T>);
            for (int64_t k = 0; k < d.K; k += L) joined[l] = upper(logits_from(rows[l], k, d.K), joined[l]);
        }
        store(to.shift + first, join_lanes<T>(joined, [](Vec<T> a, Vec<T> b) { return upper(a, b); }));
        for (int l = 0; l < L; l++) {
            const Vec<T> largest = splat(to.shift[first + l]);
            joined[l] = zero<T>();
            for (int64_t k = 0; k < d.K; k += L) joined[l] += exp_of_negative(logits_from(rows[l], k, d.K) - largest);
        }
        store(to.factor + first, 1 / join_lanes<T>(joined, [](Vec<T> a, Vec<T> b) { return a + b; }));
    }
}

template <class T>
FASTCV_INLINE Vec<T> positive(Vec<T> x) {
    return x < 0 ? Vec<T>{} : x;  // NaN stays
}
template <class T>
FASTCV_INLINE Vec<T> quotient(Vec<T> a, Vec<T> b) {
    return b == 0 ? b : a / b;
}

// log(x) = e ln(2) + log(1 + f), x = 2^e (1 + f) being a normal number and 1 + f next to 1 (Cephes, logf): within 0.81 units of
// the last place for x from 1e-8 to 1. NaN comes through.
FASTCV_INLINE Vec<float> logarithm(Vec<float> x) {
    typedef Vec<int32_t> Int;
    const Int e = (Int(x) - 0x3f3504f3) >> 23;  // 1 + f is not below the root of 1/2
    const Vec<float> f = Vec<float>(Int(x) - (e << 23)) - 1, power = __builtin_convertvector(e, Vec<float>);
    const Vec<float> square = f * f;
    Vec<float> p = splat(7.0376836292e-2f);
    p = fma(p, f, splat(-1.1514610310e-1f));
    p = fma(p, f, splat(1.1676998740e-1f));
    p = fma(p, f, splat(-1.2420140846e-1f));
    p = fma(p, f, splat(1.4249322787e-1f));
    p = fma(p, f, splat(-1.6668057665e-1f));
    p = fma(p, f, splat(2.0000714765e-1f));
    p = fma(p, f, splat(-2.4999993993e-1f));
    p = fma(p, f, splat(3.3333331174e-1f));
    const Vec<float> low = fma(power, splat(-2.12194440e-4f), f * square * p) - 0.5f * square;
    const Vec<float> y = fma(power, splat(0.693359375f), f + low);  // 0.693359375 has few bits
    return x != x ? x : y;
}
FASTCV_INLINE Vec<double> logarithm(Vec<double> x) {
    for (int i = 0; i < kLanes<double>; i++) x[i] = log(x[i]);
    return x;
}

template <class T>
FASTCV_INLINE Vec<T> class_cost(const Queries<T>& queries, int64_t q, bool focal) {
    const Vec<T> x = load(queries.logit + q);
    if (!focal) {
        const Vec<T> e = x - load(queries.shift + q);
        return (e != e ? e : exp_of_negative(e)) * -load(queries.factor + q);
    }
    // 1 - p would leave nothing of what is small.
    const Vec<T> p = sigmoid<T>(x), other = sigmoid<T>(-x);
    const Vec<T> log_p = logarithm(p + T(1e-8)), log_not = logarithm(other + T(1e-8));
    return T(0.25) * (other * other) * -log_p - T(0.75) * (p * p) * -log_not;
}

// One object's row of costs.
template <class T>
static void write_row(const DetrProblem& d, int64_t image, const Queries<T>& queries, int64_t target, T* row) {
    constexpr int L = kLanes<T>;
    const char* const logits =
        d.logits + image * d.logits_stride_bytes[0] + d.labels[target] * d.logits_stride_bytes[2];
    for (int64_t q = 0; q < queries.padded(d.Q); q++)
        queries.logit[q] = q < d.Q ? load_scalar<T>(logits + q * d.logits_stride_bytes[1]) : T(0);
    const T* const box = static_cast<const T*>(d.target_boxes) + 4 * target;
    const T cx = box[0], cy = box[1], w = box[2], h = box[3];
    const T x0 = cx - T(0.5) * w, y0 = cy - T(0.5) * h, x1 = cx + T(0.5) * w, y1 = cy + T(0.5) * h;
    const T area = (x1 - x0) * (y1 - y0);
    const auto least = [](Vec<T> a, T b) { return b < a ? splat(b) : a; };
    const auto most = [](Vec<T> a, T b) { return b > a ? splat(b) : a; };
    for (int64_t q = 0; q < d.Q; q += L) {
        const Vec<T> distance = vector_abs<T>(load(queries.cx + q) - cx) + vector_abs<T>(load(queries.cy + q) - cy) +
                                vector_abs<T>(load(queries.w + q) - w) + vector_abs<T>(load(queries.h + q) - h);
        const Vec<T> qx0 = load(queries.x0 + q), qy0 = load(queries.y0 + q);
        const Vec<T> qx1 = load(queries.x1 + q), qy1 = load(queries.y1 + q);
        const Vec<T> both =
            positive<T>(least(qx1, x1) - most(qx0, x0)) * positive<T>(least(qy1, y1) - most(qy0, y0));
        const Vec<T> either = load(queries.area + q) + area - both;
        const Vec<T> hull = positive<T>(most(qx1, x1) - least(qx0, x0)) * positive<T>(most(qy1, y1) - least(qy0, y0));
        const Vec<T> giou = quotient<T>(both, either) - quotient<T>(hull - either, hull);
        store(row + q, T(d.cost_bbox) * distance + T(d.cost_class) * class_cost(queries, q, d.focal) - T(d.cost_giou) * giou);
    }
}

template <class T>
static Status detr_match(const DetrProblem& d, bool (*interrupted)(), int64_t* query, int64_t* target, double* cost,
                         AssignmentFault* fault) {
    AssignmentRules rules;
    rules.cost_limit = kInfinity<double>;
    const int64_t row_bytes = Queries<T>::padded(d.Q) * int64_t(sizeof(T));
    const auto matrix = [&](int64_t image, const char* data) {
        const int64_t objects = d.begin[image + 1] - d.begin[image];
        return CostMatrix{data, objects, d.Q, {row_bytes, int64_t(sizeof(T))}, int(sizeof(T))};
    };
    int64_t most_objects = 0, solver = 0;
    double efforts = 0;
    for (int64_t b = 0; b < d.B; b++) {
        const CostMatrix c = matrix(b, nullptr);
        most_objects = larger(most_objects, c.rows);
        solver = larger(solver, round_up(arena_bytes(c, rules), 64));
        efforts += effort(c) + double(d.Q) * double(20 * d.K + 60 * c.rows);
    }
    const int64_t queries_bytes = round_up(Queries<T>::bytes(d), 64), costs_bytes = most_objects * row_bytes;
    const int64_t arena = queries_bytes + costs_bytes + solver;
    const int threads = int(smaller(threads_for(efforts), larger(d.B, 1)));
    const Scratch scratch(arena * threads);
    if (!scratch.data()) return Status::out_of_memory;
    const auto match = [&](int64_t b, int thread, Watch& watch, AssignmentFault* found) {
        char* const memory = scratch.data() + thread * arena;
        const Queries<T> queries(memory, d.Q);
        char* const costs = memory + queries_bytes;
        const CostMatrix c = matrix(b, costs);
        if (c.rows > 0 && d.Q > 0) {
            read_boxes(d, b, queries);
            if (!d.focal) prepare_softmax(d, b, queries);
        }
        for (int64_t t = 0; t < c.rows; t++)
            write_row(d, b, queries, d.begin[b] + t, reinterpret_cast<T*>(costs + t * row_bytes));
        int64_t pair = d.pairs_begin[b];
        cost[b] = 0;
        return assign(c, rules, costs + costs_bytes, watch, found,
                      [&](const Arrays& arrays, bool turned, const auto&, const Rules&, double) {
                          const int64_t* const of_query = turned ? arrays.column_of : arrays.row_of;
                          for (int64_t q = 0; q < d.Q; q++) {
                              if (of_query[q] < 0) continue;
                              query[pair] = q;
                              target[pair++] = of_query[q];
                              cost[b] += double(load_scalar<T>(costs + of_query[q] * row_bytes + q * int64_t(sizeof(T))));
                          }
                      });
    };
    return each_problem(d.B, efforts, threads, interrupted, fault, match);
}

static Status detr_match(const DetrProblem& d, int itemsize, bool (*interrupted)(), int64_t* query, int64_t* target,
                         double* cost, AssignmentFault* fault) {
    return itemsize == 4 ? detr_match<float>(d, interrupted, query, target, cost, fault)
                         : detr_match<double>(d, interrupted, query, target, cost, fault);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
