// The contents page of assignment: what assignment_module.cpp binds. As ops.h, which says what holds for all.
#pragma once

#include <string>
#include <vector>

#include "ops.h"

namespace fastcv::cuda {

// One problem as the user has it: costs (rows, columns), or an image with as many queries (rows) and objects (columns).
struct AssignmentProblem {
    const char* data;         // costs, or the objects' boxes (T, 4)
    int64_t stride_bytes[2];  // of `data`
    const char* labels;       // int64, (T)
    int64_t label_stride_bytes;
    int64_t rows, columns;
    int64_t first_pair;  // where its pairs begin among all
    int64_t memory;      // where in the workspace its costs lie as rows; worked out here, whatever it was
};

// All problems of a call: those that are listed, or `count` like `first`, its costs `apart_bytes` from each other.
struct AssignmentProblems {
    std::vector<AssignmentProblem> listed;
    AssignmentProblem first{};
    int64_t count = 0;
    int64_t apart_bytes = 0;
    const int64_t* sizes = nullptr;  // of the device: rows and columns that are used of each, or null for all
};

struct AssignmentAsk {
    bool maximize, forbid_nan;
    double cost_limit;  // +infinity (with maximize: -infinity) for none
};

// Results, null where nobody asks for them. A problem at fault gets -1 in place of columns and pairs, NaN in place of numbers.
struct AssignmentAnswer {
    int64_t* columns;  // for each problem columns_stride of them, one a row; -1 for rows without and behind the last
    int64_t columns_stride;
    int64_t *pair_rows, *pair_columns;  // in order of the rows
    int64_t* pairs;                     // how many
    double* cost;                       // of each problem's pairs together
    double *u, *v;                      // of one problem
};

// A batch of images: logits (B, Q, K), boxes (B, Q, 4).
struct DetrImages {
    int64_t B, Q, K;
    const char *logits, *boxes;
    int64_t logits_stride_bytes[3], boxes_stride_bytes[3];
    double cost_class, cost_bbox, cost_giou;
    bool focal;
};

// Costs are float32 or float64. `workspace` is aligned to 16 bytes; the functions that return its bytes look at sizes alone.
int64_t linear_sum_assignment_workspace_bytes(const AssignmentProblems&, Dtype, const AssignmentAsk&);
void linear_sum_assignment(AssignmentProblems, Dtype, const AssignmentAsk&, const AssignmentAnswer&, void* workspace, Queue);

int64_t detr_match_workspace_bytes(const DetrImages&, const AssignmentProblems&, Dtype);
void detr_match(const DetrImages&, AssignmentProblems, Dtype, const AssignmentAnswer&, void* workspace, Queue);

// "label", "sizes", "invalid" or "infeasible" for what has been noted on this device since the last time somebody asked (the
// first of them, if several), or nothing. See take_index_fault.
std::string take_assignment_fault(int device);

}  // namespace fastcv::cuda
