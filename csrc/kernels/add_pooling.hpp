// What isa/*/pooling.cpp compiles: max_pool2d and max_unpool2d, and the one symbol that it exports.
#pragma once

#include "max_pool2d.hpp"
#include "max_unpool2d.hpp"

namespace fastcv::FASTCV_ISA {

void add_pooling(KernelTable& t) {
    t.max_pool2d = max_pool2d;
    t.max_pool2d_grad_input = max_pool2d_grad_input;
    t.max_unpool2d = max_unpool2d;
    t.max_unpool2d_grad_input = max_unpool2d_grad_input;
}

}  // namespace fastcv::FASTCV_ISA
