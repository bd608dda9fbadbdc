// What isa/*/matrices.cpp compiles: Gram matrices, attention, and the machine's peak, and the one symbol that it exports.
#pragma once

#include "gram_matrix_grad_input.hpp"
#include "measure.hpp"
#include "scaled_dot_product_attention.hpp"
#include "scaled_dot_product_attention_grad.hpp"

namespace fastcv::FASTCV_ISA {

void add_matrices(KernelTable& t) {
    t.gram_matrix = gram_matrix;
    t.gram_matrix_grad_input = gram_matrix_grad_input;
    t.attention = attention;
    t.attention_grad = attention_grad;
    t.measure_peak = measure_peak;
}

}  // namespace fastcv::FASTCV_ISA
