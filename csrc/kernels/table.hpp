// What a file in isa/ compiles: every kernel, and the one symbol that it exports.
#pragma once

#include "conv_transpose2d.hpp"
#include "detr_match.hpp"
#include "gram_matrix_grad_input.hpp"
#include "linear_sum_assignment.hpp"
#include "max_pool2d.hpp"
#include "max_unpool2d.hpp"
#include "measure.hpp"
#include "scaled_dot_product_attention.hpp"
#include "scaled_dot_product_attention_grad.hpp"

namespace fastcv::FASTCV_ISA {

#define FASTCV_STRING_(x) #x
#define FASTCV_STRING(x) FASTCV_STRING_(x)

const KernelTable* table() {
    static const KernelTable kernels = {
        FASTCV_STRING(FASTCV_ISA), kVectorBytes,
        conv2d_choose, conv2d, conv2d_packed_bytes, conv2d_pack, conv2d_packed, conv2d_grad_weight,
        conv_transpose2d_choose, conv_transpose2d, conv_transpose2d_packed_bytes, conv_transpose2d_pack, conv_transpose2d_packed,
        gram_matrix, gram_matrix_grad_input,
        max_pool2d, max_pool2d_grad_input, max_unpool2d, max_unpool2d_grad_input,
        attention, attention_grad,
        linear_sum_assignment, linear_sum_assignment_batch, detr_match,
        measure_peak,
    };
    return &kernels;
}

}  // namespace fastcv::FASTCV_ISA
