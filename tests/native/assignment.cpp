// Assignments, one at a time and as a batch.
#include "check.h"


namespace fastcv::check {
namespace {

// That pairs are a matching, and that the duals prove it to be the best: no slack is below 0, and pairs have none.
template <class T>
void check_assignment(const KernelTable& table, int64_t n, int64_t m, double limit, bool turned) {
    snprintf(current, sizeof current, "%s float%d linear_sum_assignment %lld x %lld, limit %g%s", table.isa, 8 * int(sizeof(T)),
             static_cast<long long>(n), static_cast<long long>(m), limit, turned ? ", turned" : "");
    const Numbers numbers = random_numbers(n * m, 11);
    const Layout layout = turned ? kTurned : kMisaligned;
    Array<T> costs(Size4{{1, 1, n, m}}, layout, numbers);
    const Tensor t = costs.tensor();
    const CostMatrix matrix{t.data, n, m, {t.stride_bytes[2], t.stride_bytes[3]}, int(sizeof(T))};
    AssignmentRules rules;
    rules.cost_limit = limit;
    const int64_t most = n < m ? n : m;
    std::vector<int64_t> row(size_t(most + 1)), column(size_t(most + 1));
    Numbers u(size_t(n + 1)), v(size_t(m + 1));
    Assignment result{row.data(), column.data(), 0, u.data(), v.data()};
    AssignmentFault fault{};
    const Status status = table.linear_sum_assignment(matrix, rules, &result, &fault);
    bool right = status == Status::ok && (limit < INFINITY || result.pairs == most);
    const double tolerance = 1e-13 * double(n + m);
    const auto cost = [&](int64_t i, int64_t j) { return double(T(numbers[size_t(i * m + j)])); };
    std::vector<int> taken(size_t(m + 1));
    for (int64_t k = 0; right && k < result.pairs; k++) {
        const int64_t i = row[size_t(k)], j = column[size_t(k)];
        right = i >= 0 && i < n && j >= 0 && j < m && (k == 0 || row[size_t(k - 1)] < i) && !taken[size_t(j)]++ &&
                fabs(cost(i, j) - u[size_t(i)] - v[size_t(j)]) <= tolerance;
    }
    for (int64_t i = 0; right && i < n; i++)
        for (int64_t j = 0; right && j < m; j++) right = cost(i, j) - u[size_t(i)] - v[size_t(j)] >= -tolerance;
    double sum = 0;
    for (int64_t k = 0; k < result.pairs; k++) sum += cost(row[size_t(k)], column[size_t(k)]);
    if (limit < INFINITY) sum += limit * double(n - result.pairs);
    for (int64_t i = 0; i < n; i++) sum -= u[size_t(i)];
    for (int64_t j = 0; j < m; j++) sum -= v[size_t(j)];
    right = right && fabs(sum) <= 10 * tolerance * double(n + m);
    if (right)
        passed++;
    else
        fail("status %d, %lld pairs, the duals are %g short", int(status), static_cast<long long>(result.pairs), sum);

    // The same as part of a batch.
    const CostMatrix two[] = {matrix, matrix};
    std::vector<int64_t> columns(size_t(2 * n + 1), -2);
    right = table.linear_sum_assignment_batch(two, 2, rules, columns.data(), n, &fault) == status;
    for (int64_t k = 0; right && k < result.pairs; k++)
        for (int64_t b = 0; b < 2; b++) right = right && columns[size_t(b * n + row[size_t(k)])] == column[size_t(k)];
    if (right)
        passed++;
    else
        fail("a batch finds other pairs");
}

template <class T>
void check_assignments(const KernelTable& table) {
    for (const int64_t n : kAroundLanes)
        for (const int64_t m : {n, n + 1, 3 * n, int64_t(2)})
            for (const double limit : {double(INFINITY), -0.9, 0.0})
                for (const bool turned : {false, true}) check_assignment<T>(table, n, m, limit, turned);
    for (const double limit : {double(INFINITY), -0.99}) {
        check_assignment<T>(table, 300, 640, limit, false);
        check_assignment<T>(table, 650, 650, limit, true);
    }
}

}  // namespace

void assignment(const KernelTable& table) {
    check_assignments<float>(table);
    check_assignments<double>(table);
}

}  // namespace fastcv::check
