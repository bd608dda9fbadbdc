// What linear_sum_assignment and detr_match share: where a call's problems lie, a block that solves each, and the answer.
//
// A table of problems goes to the device in launches' arguments, so that no memory of the host has to outlive the call, and a
// graph can hold it. A problem that cannot be solved is noted (faults.h), and has -1 and NaN for an answer.
#include "assignment_solver.h"
#include "dtypes.h"
#include "faults.h"

namespace fastcv::cuda {
namespace {

// Of a block's shared memory for a problem's arrays: they fit up to n = m = 199, or up to n = m = 1251.
constexpr int64_t kSmallArena = 7 << 10, kLargeArena = 44 << 10;

struct SolveArguments {
    DeviceProblems problems;
    AssignmentAsk ask;
    AssignmentAnswer answer;
    uint32_t* faults;
};

// ---- the answer, in the user's terms

// `partner`: of rows, or null.
__device__ inline void write_columns(const AssignmentProblem& p, const int* partner, int64_t* to, int64_t count) {
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = partner && i < p.rows && partner[i] >= 0 ? partner[i] : -1;
}

// Each thread has a run of rows, in order.
template <class T>
__device__ void write_pairs(Solver<T>& s, const AssignmentProblem& p, int64_t number, const int* partner, double unscale,
                            const AssignmentAnswer& answer) {
    const int64_t first = p.rows * s.thread() / s.threads(), last = p.rows * (s.thread() + 1) / s.threads();
    int mine = 0;
    for (int64_t i = first; i < last; i++) mine += partner[i] >= 0;
    int at = s.count_before(mine);
    const int pairs = s.shared->counts[s.threads() - 1];
    for (int64_t i = first; i < last; i++) {
        const int j = partner[i];
        if (j < 0) continue;
        answer.pair_rows[p.first_pair + at] = i;
        answer.pair_columns[p.first_pair + at] = j;
        const bool turned = p.rows > p.columns;
        s.d[at++] = turned ? s.cost(j, int(i)) : s.cost(int(i), j);
    }
    if (answer.pairs && s.thread() == 0) answer.pairs[number] = pairs;
    if (!answer.cost) return;
    __syncthreads();
    if (s.thread() > 0) return;
    double sum = 0;
    for (int k = 0; k < pairs; k++) sum += s.d[k] * unscale;
    answer.cost[number] = sum;
}

template <class T>
__device__ void write_duals(const Solver<T>& s, bool turned, double unscale, double* u, double* v) {
    double* const of_rows = turned ? v : u;
    double* const of_columns = turned ? u : v;
    // Where rows and columns have changed places the limit still is on the user's rows.
    const double shift = turned && s.limited() && s.limit > -INFINITY ? s.limit : 0;
    for (int i = s.thread(); i < s.n; i += s.threads()) {
        const int j = s.column_of[i];
        of_rows[i] = ((j >= 0 ? s.cost(i, j) - s.v[j] : s.limit) - shift) * unscale;
    }
    for (int j = s.thread(); j < s.m; j += s.threads()) of_columns[j] = (s.v[j] + shift) * unscale;
}

// Of a problem at fault.
__device__ inline void write_nothing(const AssignmentProblem& p, int64_t number, const AssignmentAnswer& answer) {
    const int64_t pairs = p.rows < p.columns ? p.rows : p.columns;
    const int64_t thread = threadIdx.x, threads = blockDim.x;
    if (answer.pair_rows)
        for (int64_t k = thread; k < pairs; k += threads)
            answer.pair_rows[p.first_pair + k] = answer.pair_columns[p.first_pair + k] = -1;
    if (answer.pairs && thread == 0) answer.pairs[number] = pairs;
    if (answer.cost && thread == 0) answer.cost[number] = NAN;
    for (int64_t i = thread; answer.u && i < p.rows; i += threads) answer.u[i] = NAN;
    for (int64_t j = thread; answer.v && j < p.columns; j += threads) answer.v[j] = NAN;
}

template <class T, int64_t kArena>
__global__ void solve(SolveArguments a) {
    __shared__ double arena[kArena / int64_t(sizeof(double))];
    __shared__ Shared shared;
    const AssignmentAnswer& answer = a.answer;
    for (int64_t number = blockIdx.x; number < a.problems.count; number += gridDim.x) {
        const AssignmentProblem p = a.problems.of(number);
        const bool turned = p.rows > p.columns;
        Solver<T> s;
        s.costs = a.problems.rows_of<T>(p);
        s.n = int(turned ? p.columns : p.rows);
        s.m = int(turned ? p.rows : p.columns);
        s.limit = a.ask.maximize ? -a.ask.cost_limit : a.ask.cost_limit;
        s.incomplete = a.ask.forbid_nan;
        s.shared = &shared;
        char* const behind = reinterpret_cast<char*>(s.costs) + up_to_16(int64_t(s.n) * s.m * int64_t(sizeof(T)));
        s.cut(arrays_bytes(s.n, s.m, s.incomplete) <= kArena ? reinterpret_cast<char*>(arena) : behind);
        const Solved solved = s.solve();
        const double unscale = (a.ask.maximize ? -1 : 1) / s.scale;
        const bool fits = a.problems.sizes_fit(number), right = fits && solved == Solved::yes;
        const int* const partner = turned ? s.row_of : s.column_of;
        if (answer.columns)
            write_columns(p, right ? partner : nullptr, answer.columns + number * answer.columns_stride, answer.columns_stride);
        if (right && answer.pair_rows) write_pairs(s, p, number, partner, unscale, answer);
        if (right && answer.u) write_duals(s, turned, unscale, answer.u, answer.v);
        if (!right) {
            write_nothing(p, number, answer);
            const Fault fault = !fits ? Fault::sizes : solved == Solved::invalid ? Fault::invalid_cost : Fault::infeasible;
            if (threadIdx.x == 0) a.faults[int(fault)] = 1;
        }
        __syncthreads();  // before the arrays are the next problem's
    }
}

// ---- the table

constexpr int kAtOnce = 48;

struct TableArguments {
    AssignmentProblem* to;
    int64_t count;
    AssignmentProblem problems[kAtOnce];
};

__global__ void write_table(TableArguments a) {
    for (int64_t k = threadIdx.x; k < a.count; k += blockDim.x) a.to[k] = a.problems[k];
}

int threads_for(int64_t columns) {
    int threads = kWarp;
    // Every thread has two columns or so, up to the most threads that take turns at an even pace.
    while (threads < kMostThreads && 2 * threads < columns) threads *= 2;
    return threads;
}

}  // namespace

AssignmentLayout::AssignmentLayout(AssignmentProblems& problems, int64_t more_bytes, Dtype dtype, bool forbid_nan) {
    more = up_to_16(int64_t(problems.listed.size() * sizeof(AssignmentProblem)));
    bytes = more + up_to_16(more_bytes);
    most_rows = most_columns = most_arrays = 0;
    const auto place = [&](AssignmentProblem& p) {
        const int64_t n = p.rows < p.columns ? p.rows : p.columns, m = p.rows < p.columns ? p.columns : p.rows;
        const int64_t arrays = arrays_bytes(n, m, forbid_nan);
        p.memory = bytes;
        most_rows = p.rows > most_rows ? p.rows : most_rows;
        most_columns = p.columns > most_columns ? p.columns : most_columns;
        most_arrays = arrays > most_arrays ? arrays : most_arrays;
        return up_to_16(n * m * item_bytes(dtype)) + (arrays > kLargeArena ? arrays : 0);
    };
    if (problems.listed.empty())
        bytes += problems.count * place(problems.first);
    else
        for (AssignmentProblem& p : problems.listed) bytes += place(p);
}

DeviceProblems bring_problems(const char* op, const AssignmentProblems& problems, const AssignmentLayout& layout, void* workspace,
                              Queue queue) {
    DeviceProblems found{};
    found.count = problems.listed.empty() ? problems.count : int64_t(problems.listed.size());
    found.first = problems.first;
    found.apart_bytes = problems.apart_bytes;
    found.sizes = problems.sizes;
    found.workspace = static_cast<char*>(workspace);
    if (problems.listed.empty()) {
        found.memory_apart = found.count ? (layout.bytes - problems.first.memory) / found.count : 0;
        return found;
    }
    AssignmentProblem* const table = reinterpret_cast<AssignmentProblem*>(found.workspace);
    for (int64_t first = 0; first < found.count; first += kAtOnce) {
        TableArguments a{table + first, found.count - first < kAtOnce ? found.count - first : kAtOnce, {}};
        for (int64_t k = 0; k < a.count; k++) a.problems[k] = problems.listed[size_t(first + k)];
        launch(op, write_table, 1, kWarp, queue, a);
    }
    found.table = table;
    return found;
}

void solve_rows(const char* op, const DeviceProblems& problems, const AssignmentLayout& layout, Dtype dtype,
                const AssignmentAsk& ask, const AssignmentAnswer& answer, Queue queue) {
    const int64_t columns = layout.most_rows > layout.most_columns ? layout.most_rows : layout.most_columns;
    const bool small = layout.most_arrays <= kSmallArena;
    const SolveArguments a{problems, ask, answer, fault_words(queue.device)};
    const auto run = [&](auto value) {
        using T = decltype(value);
        const auto kernel = small ? solve<T, kSmallArena> : solve<T, kLargeArena>;
        launch(op, kernel, blocks_for(problems.count, 1), threads_for(columns), queue, a);
    };
    if (dtype == Dtype::float32)
        run(float());
    else
        run(double());
}

std::string take_assignment_fault(int device) {
    std::string found;
    const std::pair<Fault, const char*> names[] = {
        {Fault::label, "label"}, {Fault::sizes, "sizes"}, {Fault::invalid_cost, "invalid"}, {Fault::infeasible, "infeasible"}};
    for (const auto& [fault, name] : names)
        if (take_fault(device, fault) && found.empty()) found = name;
    return found;
}

}  // namespace fastcv::cuda
