// linear_sum_assignment: a user's matrix to rows of costs, the choice of a solver, and its answer in the user's terms.
//
//   rows x columns        at most as many rows as columns: in place, where a row is contiguous
//   tall, turned, strided, maximize: one copy, in which the shorter side is the rows, contiguous, negated to maximize
//   NaN, infinity, overflow: found by the solver's first pass; a second look says what it was, and where
#pragma once

#include "assignment_sparse.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// Sums of costs below this stay finite, with room for 2**64 of them. Beyond it costs are scaled, which is exact but for
// costs 300 decades smaller.
constexpr double kLargest = 0x1p960;
constexpr double kScale = 0x1p-64;

// A user's matrix as the solver is to see it: n <= m.
template <class T>
struct View {
    const char* data;
    int64_t n, m;
    int64_t row_stride_bytes, column_stride_bytes;

    explicit View(const CostMatrix& c)
        : data(c.data),
          n(smaller(c.rows, c.columns)),
          m(larger(c.rows, c.columns)),
          row_stride_bytes(c.stride_bytes[c.rows > c.columns]),
          column_stride_bytes(c.stride_bytes[c.rows <= c.columns]) {}
    // One column has any stride.
    bool contiguous() const { return column_stride_bytes == int64_t(sizeof(T)) || m == 1; }
    const T* address(int64_t i, int64_t j) const {
        return reinterpret_cast<const T*>(data + i * row_stride_bytes + j * column_stride_bytes);
    }
    T at(int64_t i, int64_t j) const { return load_scalar<T>(address(i, j)); }
};

// Goes by columns of a block of rows, so that a turned matrix is read by whole cache lines. Where its columns are contiguous,
// squares of lanes are turned in registers: the whole solve of 2500 x 400 takes 0.57 ms, and 1.04 number by number.
template <class T>
static Costs<T> copied(const View<T>& view, bool negate, bool clean, double scale, char* memory) {
    constexpr int64_t kRows = 64;
    constexpr int L = kLanes<T>;
    T* const to = reinterpret_cast<T*>(memory);
    const bool squares = view.row_stride_bytes == int64_t(sizeof(T)) && !clean;
    const int64_t whole_rows = squares ? view.n / L * L : 0, whole_columns = squares ? view.m / L * L : 0;
    const auto one = [&](int64_t i, int64_t j) {
        T x = view.at(i, j);
        if (negate) x = -x;
        if (clean) x = x == x ? T(x * scale) : kInfinity<T>;
        to[i * view.m + j] = x;
    };
    for (int64_t first = 0; first < view.n; first += kRows) {
        const int64_t last = smaller(first + kRows, view.n);
        for (int64_t j = 0; j < whole_columns; j += L)
            for (int64_t i = first; i < smaller(last, whole_rows); i += L) {
                Vec<T> x[L];
                FASTCV_UNROLL for (int l = 0; l < L; l++) x[l] = load(view.address(i, j + l));
                transpose<T>(x);
                FASTCV_UNROLL for (int l = 0; l < L; l++) store(to + (i + l) * view.m + j, negate ? -x[l] : x[l]);
            }
        for (int64_t j = 0; j < view.m; j++)
            for (int64_t i = j < whole_columns ? larger(first, whole_rows) : first; i < last; i++) one(i, j);
    }
    return {memory, view.m * int64_t(sizeof(T)), view.n, view.m};
}

struct Findings {
    bool invalid, nan, infinite, huge;
};

// Looks at every cost, in the user's order: at the first that may not be, or at all of them.
template <class T>
static Findings inspect(const CostMatrix& c, const AssignmentRules& rules, AssignmentFault* fault) {
    Findings found{};
    const T forbidden = rules.maximize ? -kInfinity<T> : kInfinity<T>;
    for (int64_t i = 0; i < c.rows; i++)
        for (int64_t j = 0; j < c.columns; j++) {
            const T x = load_scalar<T>(c.data + i * c.stride_bytes[0] + j * c.stride_bytes[1]);
            if (__builtin_expect(double(x) > -kLargest && double(x) < kLargest, 1)) continue;
            const bool nan = x != x;
            if (x == -forbidden || (nan && !rules.forbid_nan)) {
                fault->row = i;
                fault->column = j;
                found.invalid = true;
                return found;
            }
            found.nan |= nan;
            found.infinite |= nan || x == forbidden;
            found.huge |= !nan && x != forbidden;
        }
    return found;
}

template <class T>
static bool needs_copy(const View<T>& view, const AssignmentRules& rules) {
    return rules.maximize || !view.contiguous();
}

template <class T>
static int64_t copy_bytes(const View<T>& view) {
    return round_up(view.n * view.m * int64_t(sizeof(T)), 64);
}

// Lists pay where reading a row takes longer than walking a list does, unless hardly any row is read twice.
static bool takes_lists(int64_t n, int64_t m) { return m >= 640 && m <= 4 * n; }

// Arrays, lists, a copy: all that a solve needs, but for costs that have to be cleaned.
static int64_t arena_bytes(const CostMatrix& c, const AssignmentRules& rules) {
    const auto bytes = [&](const auto& view) {
        const int64_t lists = takes_lists(view.n, view.m) ? SparseArrays::bytes(view.n, view.m) : 0;
        return Arrays::bytes(view.n, view.m) + lists + (needs_copy(view, rules) ? copy_bytes(view) : 0);
    };
    return c.itemsize == 4 ? bytes(View<float>(c)) : bytes(View<double>(c));
}

template <class T>
static Solved solve(const Costs<T>& costs, const Rules& rules, const Arrays& arrays, char* memory, Watch& watch, Known known) {
    if (!takes_lists(costs.n, costs.m)) return Dense<T>(costs, rules, arrays, watch).solve(known);
    SparseArrays sparse;
    sparse.cut(memory, costs.n, costs.m);
    return Sparse<T>(costs, rules, arrays, sparse, watch).solve(known);
}

// Prices are final: u from each row's own column.
template <class T>
static void duals(const Costs<T>& costs, const Rules& rules, const Arrays& a, bool turned, double unscale, double* u, double* v) {
    double* const of_rows = turned ? v : u;
    double* const of_columns = turned ? u : v;
    // Where rows and columns have changed places the limit still is on the user's rows.
    const double shift = turned && rules.limited() && rules.limit > -kInfinity<double> ? rules.limit : 0;
    for (int64_t i = 0; i < costs.n; i++) {
        const int64_t j = a.column_of[i];
        const double price = j >= 0 ? costs.at(i, j) - a.v[j] : rules.limit;
        of_rows[i] = (price - shift) * unscale;
    }
    for (int64_t j = 0; j < costs.m; j++) of_columns[j] = (a.v[j] + shift) * unscale;
}

// Solves, and hands the answer on: write(costs, rules, unscale), where `unscale` turns duals into the user's.
template <class T, class Write>
static Status answer(const Costs<T>& costs, const Rules& rules, const Arrays& arrays, char* memory, Watch& watch, Known known,
                     double unscale, const Write& write) {
    switch (solve(costs, rules, arrays, memory, watch, known)) {
        case Solved::unusable: return Status::invalid_cost;
        case Solved::infeasible: return Status::infeasible;
        case Solved::interrupted: return Status::interrupted;
        case Solved::yes: break;
    }
    write(costs, rules, unscale);
    return Status::ok;
}

template <class T, class Write>
static Status assign(const CostMatrix& c, const AssignmentRules& asked, const Arrays& arrays, char* memory, Watch& watch,
                     AssignmentFault* fault, const Write& write) {
    const View<T> view(c);
    char* const lists = memory;
    char* const copy = memory + (takes_lists(view.n, view.m) ? SparseArrays::bytes(view.n, view.m) : 0);
    Rules rules;
    rules.limit = asked.maximize ? -asked.cost_limit : asked.cost_limit;
    rules.incomplete = asked.forbid_nan;
    Costs<T> costs{view.data, view.row_stride_bytes, view.n, view.m};
    if (needs_copy(view, asked)) costs = copied(view, asked.maximize, false, 1, copy);
    const double unscale = asked.maximize ? -1 : 1;
    const Status status = answer(costs, rules, arrays, lists, watch, Known::nothing, unscale, write);
    if (status != Status::invalid_cost) return status;

    const Findings found = inspect<T>(c, asked, fault);
    if (found.invalid) return status;
    const Known known = found.infinite ? Known::infinite : Known::finite;
    if (!found.nan && !found.huge) return answer(costs, rules, arrays, lists, watch, known, unscale, write);
    const Scratch cleaned(copy_bytes(view));
    if (!cleaned.data()) return Status::out_of_memory;
    const double scale = found.huge ? kScale : 1;
    costs = copied(view, asked.maximize, true, scale, cleaned.data());
    rules.limit *= scale;
    return answer(costs, rules, arrays, lists, watch, known, unscale / scale, write);
}

// The arrays of a problem are cut from `memory`, and its costs copied there where they have to be.
// found(arrays, turned, costs, rules, unscale)
template <class Found>
static Status assign(const CostMatrix& c, const AssignmentRules& rules, char* memory, Watch& watch, AssignmentFault* fault,
                     const Found& found) {
    const int64_t n = smaller(c.rows, c.columns), m = larger(c.rows, c.columns);
    Arrays arrays;
    arrays.cut(memory, n, m);
    char* const rest = memory + Arrays::bytes(n, m);
    const auto write = [&](const auto& costs, const Rules& r, double unscale) {
        found(arrays, c.rows > c.columns, costs, r, unscale);
    };
    return c.itemsize == 4 ? assign<float>(c, rules, arrays, rest, watch, fault, write)
                           : assign<double>(c, rules, arrays, rest, watch, fault, write);
}

static Status linear_sum_assignment(const CostMatrix& c, const AssignmentRules& rules, Assignment* result,
                                    AssignmentFault* fault) {
    const Scratch scratch(arena_bytes(c, rules));
    if (!scratch.data()) return Status::out_of_memory;
    bool stop = false;
    Watch watch(rules.interrupted, &stop);
    *fault = {};
    result->pairs = 0;
    return assign(c, rules, scratch.data(), watch, fault,
                  [&](const Arrays& arrays, bool turned, const auto& costs, const Rules& r, double unscale) {
                      const int64_t* const partner = turned ? arrays.row_of : arrays.column_of;
                      for (int64_t i = 0; i < c.rows; i++)
                          if (partner[i] >= 0) {
                              result->row[result->pairs] = i;
                              result->column[result->pairs++] = partner[i];
                          }
                      if (result->u) duals(costs, r, arrays, turned, unscale, result->u, result->v);
                  });
}

// Operations that a solve is like, for the number of threads: half a nanosecond a cost, more the squarer the matrix is.
static double effort(const CostMatrix& c) {
    const double n = double(smaller(c.rows, c.columns)), m = double(larger(c.rows, c.columns));
    return m > 0 ? 50 * n * m * (0.5 + n / m) : 0;
}

// Threads take problem after problem: solve(p, thread, watch, found) -> Status. Small ones are taken some at a time, up to ten
// microseconds' worth, since fetching a number that another thread has just changed takes a tenth of one; but no more
// than a thread's share of half of what is left, so that all end together. Of several that cannot be solved the first is
// reported: when a thread finds one, all before it have been taken, and will be finished.
template <class Solve>
static Status each_problem(int64_t count, double efforts, int threads, bool (*interrupted)(), AssignmentFault* fault,
                           const Solve& solve) {
    constexpr double kEffortAtOnce = 1e6;
    const int64_t most = efforts > kEffortAtOnce * double(count) ? 1 : int64_t(kEffortAtOnce * double(count) / (efforts + 1));
    int64_t next = 0;
    bool stop = false;
    int lock = 0;
    Status status = Status::ok;
    *fault = {count, 0, 0};
    parallel<KeepDenormals>(threads, [&](Team team) {
        Watch watch(team.id == 0 ? interrupted : nullptr, &stop);
        int64_t end = 0;
        for (int64_t p = 0;; p++) {
            if (p == end) {
                p = __atomic_load_n(&next, __ATOMIC_RELAXED);
                do end = p + larger(smaller(ceil_div(count - p, 2 * team.size), most), 1);
                while (!__atomic_compare_exchange_n(&next, &p, end, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
            }
            if (p >= count || p > __atomic_load_n(&fault->problem, __ATOMIC_RELAXED)) return;
            AssignmentFault found{p, 0, 0};
            const Status solved = solve(p, team.id, watch, &found);
            if (solved == Status::ok) continue;
            while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE)) {
            }
            if (p < fault->problem) {
                __atomic_store_n(&fault->problem, p, __ATOMIC_RELAXED);
                fault->row = found.row;
                fault->column = found.column;
                status = solved;
            }
            __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
        }
    });
    return status;
}

static Status linear_sum_assignment_batch(const CostMatrix* problems, int64_t count, const AssignmentRules& rules,
                                          int64_t* columns, int64_t columns_stride, AssignmentFault* fault) {
    int64_t arena = 0;
    double efforts = 0;
    for (int64_t p = 0; p < count; p++) {
        arena = larger(arena, round_up(arena_bytes(problems[p], rules), 64));
        efforts += effort(problems[p]);
    }
    const int threads = int(smaller(threads_for(efforts), larger(count, 1)));
    const Scratch scratch(arena * threads);
    if (!scratch.data()) return Status::out_of_memory;
    return each_problem(count, efforts, threads, rules.interrupted, fault,
                        [&](int64_t p, int thread, Watch& watch, AssignmentFault* found) {
                            const CostMatrix& c = problems[p];
                            int64_t* const of_rows = columns + p * columns_stride;
                            return assign(c, rules, scratch.data() + thread * arena, watch, found,
                                          [&](const Arrays& arrays, bool turned, const auto&, const Rules&, double) {
                                              const int64_t* const partner = turned ? arrays.row_of : arrays.column_of;
                                              for (int64_t i = 0; i < columns_stride; i++)
                                                  of_rows[i] = i < c.rows && partner[i] >= 0 ? partner[i] : -1;
                                          });
                        });
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
