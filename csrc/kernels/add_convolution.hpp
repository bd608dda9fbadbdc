// What isa/*/convolution.cpp compiles: conv2d and conv_transpose2d, and the one symbol that it exports.
#pragma once

#include "conv_transpose2d.hpp"

namespace fastcv::FASTCV_ISA {

void add_convolution(KernelTable& t) {
    t.conv2d_choose = conv2d_choose;
    t.conv2d = conv2d;
    t.conv2d_packed_bytes = conv2d_packed_bytes;
    t.conv2d_pack = conv2d_pack;
    t.conv2d_packed = conv2d_packed;
    t.conv2d_grad_weight = conv2d_grad_weight;
    t.conv_transpose2d_choose = conv_transpose2d_choose;
    t.conv_transpose2d = conv_transpose2d;
    t.conv_transpose2d_packed_bytes = conv_transpose2d_packed_bytes;
    t.conv_transpose2d_pack = conv_transpose2d_pack;
    t.conv_transpose2d_packed = conv_transpose2d_packed;
}

}  // namespace fastcv::FASTCV_ISA
