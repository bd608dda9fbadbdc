// What isa/*/assignment.cpp compiles: linear_sum_assignment and detr_match, and the one symbol that it exports.
#pragma once

#include "detr_match.hpp"
#include "linear_sum_assignment.hpp"

namespace fastcv::FASTCV_ISA {

void add_assignment(KernelTable& t) {
    t.linear_sum_assignment = linear_sum_assignment;
    t.linear_sum_assignment_batch = linear_sum_assignment_batch;
    t.detr_match = detr_match;
}

}  // namespace fastcv::FASTCV_ISA
