// What linear_sum_assignment.cu and detr_match.cu share with assignment.cu: problems on the device, and rows of their costs.
//
// A call's problems lie in a table in the workspace, which their launches' arguments bring there, or are alike and apart by
// strides. Costs become rows in the workspace first, whatever they were: n rows of m columns without gaps, n <= m, to be
// minimised; detr_match writes its own there. Then `solve` has one form to read.
#pragma once

#include "assignment.h"
#include "launch.h"

namespace fastcv::cuda {

// What kernels know of a call's problems.
struct DeviceProblems {
    int64_t count;
    const AssignmentProblem* table;  // null where they are like `first`
    AssignmentProblem first;
    int64_t apart_bytes, memory_apart;
    const int64_t* sizes;
    char* workspace;

    __device__ AssignmentProblem of(int64_t p) const {
        AssignmentProblem problem = table ? table[p] : first;
        if (!table) {
            problem.data += p * apart_bytes;
            problem.memory += p * memory_apart;
        }
        if (sizes) {
            const bool fit = sizes_fit(p);
            problem.rows = fit ? sizes[2 * p] : 0;
            problem.columns = fit ? sizes[2 * p + 1] : 0;
        }
        return problem;
    }
    __device__ bool sizes_fit(int64_t p) const {
        if (!sizes) return true;
        const AssignmentProblem& most = table ? table[p] : first;
        return sizes[2 * p] >= 0 && sizes[2 * p] <= most.rows && sizes[2 * p + 1] >= 0 && sizes[2 * p + 1] <= most.columns;
    }
    template <class T>
    __device__ T* rows_of(const AssignmentProblem& problem) const {
        return reinterpret_cast<T*>(workspace + problem.memory);
    }
};

// Where things lie in the workspace: the table, `more_bytes` for the caller, and for each problem its rows of costs and, where
// they may not fit in shared memory, its arrays.
struct AssignmentLayout {
    int64_t more, bytes;
    int64_t most_rows, most_columns, most_arrays;  // of one problem

    // Writes AssignmentProblem::memory.
    AssignmentLayout(AssignmentProblems&, int64_t more_bytes, Dtype, bool forbid_nan);
};

// The table goes to the device; what kernels need to know.
DeviceProblems bring_problems(const char* op, const AssignmentProblems&, const AssignmentLayout&, void* workspace, Queue);

// Rows of costs, which an earlier launch has written, to the answer.
void solve_rows(const char* op, const DeviceProblems&, const AssignmentLayout&, Dtype, const AssignmentAsk&,
                const AssignmentAnswer&, Queue);

}  // namespace fastcv::cuda
