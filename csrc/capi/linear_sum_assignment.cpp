// Assignments for other compiled code.
#include <new>

#include "arrays.h"

namespace fastcv::capi {
namespace {

AssignmentRules rules_of(Check& check, const fastcv_assignment_parameters* p) {
    AssignmentRules rules;
    check.parameter(p && p->cost_limit == p->cost_limit);
    if (check.failed()) return rules;
    rules.maximize = p->maximize != 0;
    rules.forbid_nan = p->forbid != 0;
    rules.cost_limit = p->cost_limit;
    return rules;
}

CostMatrix matrix(const Array& a, int first_axis, const char* data) {
    return {data, a.shape[first_axis], a.shape[first_axis + 1],
            {a.stride_bytes[first_axis], a.stride_bytes[first_axis + 1]}, a.itemsize};
}

}  // namespace

int linear_sum_assignment(const fastcv_array* costs, const fastcv_assignment_parameters* p, int64_t* rows, int64_t* columns,
                          int64_t* pairs, double* u, double* v, int64_t* fault) {
    Check check;
    const Array c = check.floats(costs, 2, 2);
    const AssignmentRules rules = rules_of(check, p);
    check.need(pairs && (c.empty() || (rows && columns)), FASTCV_BAD_ARRAY);
    if (check.failed()) return check.status();
    Assignment result{rows, columns, 0, u, v};
    AssignmentFault found{};
    const Status status = kernels().linear_sum_assignment(matrix(c, 0, c.data), rules, &result, &found);
    *pairs = status == Status::ok ? result.pairs : 0;
    if (fault) fault[0] = found.row, fault[1] = found.column;
    return status_of(status);
}

int linear_sum_assignment_batch(const fastcv_array* costs, const fastcv_assignment_parameters* p, int64_t* columns,
                                int64_t* fault) {
    Check check;
    const Array c = check.floats(costs, 3, 3);
    const AssignmentRules rules = rules_of(check, p);
    check.need(columns || c.shape[0] == 0 || c.shape[1] == 0, FASTCV_BAD_ARRAY);
    if (check.failed()) return check.status();
    const int64_t count = c.shape[0];
    CostMatrix* const problems = new (std::nothrow) CostMatrix[size_t(count)];
    if (!problems) return FASTCV_OUT_OF_MEMORY;
    for (int64_t i = 0; i < count; i++) problems[i] = matrix(c, 1, c.data + i * c.stride_bytes[0]);
    AssignmentFault found{};
    const Status status = kernels().linear_sum_assignment_batch(problems, count, rules, columns, c.shape[1], &found);
    delete[] problems;
    if (fault) fault[0] = found.problem, fault[1] = found.row, fault[2] = found.column;
    return status_of(status);
}

}  // namespace fastcv::capi
