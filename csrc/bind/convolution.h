// What conv2d and conv_transpose2d share: shapes, what follows a sum, and the packed weights of a plan.
#pragma once

#include <stdlib.h>

#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core.h"

namespace fastcv {

// The parameters of a call, or of a plan.
struct Convolution {
    Pair stride, padding, dilation;
    int64_t groups;
    int activation;
    double slope;
    int algorithm;
};

// input (N, C, H, W), weight (K, C // G, R, S), output (N, K, P, Q)
inline Conv2dShape shape_of(const int64_t* input, const int64_t* weight, const int64_t* output, const Convolution& c) {
    Conv2dShape s{};
    s.N = input[0], s.C = input[1], s.H = input[2], s.W = input[3];
    s.K = weight[0], s.R = weight[2], s.S = weight[3];
    s.P = output[2], s.Q = output[3];
    s.stride_h = c.stride.first, s.stride_w = c.stride.second;
    s.pad_top = c.padding.first, s.pad_left = c.padding.second;
    s.dilation_h = c.dilation.first, s.dilation_w = c.dilation.second;
    s.G = c.groups;
    return s;
}
inline Conv2dShape shape_of(const py::array& input, const py::array& weight, const py::array& output, const Convolution& c) {
    int64_t dims[3][4];
    const py::array* arrays[3] = {&input, &weight, &output};
    for (int a = 0; a < 3; a++)
        for (int i = 0; i < 4; i++) dims[a][i] = image_size(*arrays[a], i);
    return shape_of(dims[0], dims[1], dims[2], c);
}

inline Epilogue epilogue_of(const std::optional<py::array>& bias, const Convolution& c) {
    Epilogue e;
    if (bias) {
        e.bias = static_cast<const char*>(bias->data());
        e.bias_stride_bytes = bias->strides(0);
    }
    e.activation = static_cast<Activation>(c.activation);
    e.slope = c.slope;
    return e;
}

// The name of the algorithm that a choice stands for, and the estimates that decided.
std::string name_of(const Conv2dChoice& choice);
std::string reason_of(const Conv2dChoice& choice);

inline bool same_packing(const Conv2dChoice& a, const Conv2dChoice& b) {
    return a.kind == b.kind && a.tile == b.tile && a.first_row == b.first_row && a.rows == b.rows &&
           a.first_column == b.first_column && a.columns == b.columns;
}
inline bool same_packing(const ConvTranspose2dChoice& a, const ConvTranspose2dChoice& b) {
    return a.kind == b.kind && same_packing(a.as_convolution, b.as_convolution);
}

// A plan's packed weights: one packing serves every input that chooses the same kernel. Any thread may ask.
template <class Packed>
class Packings {
public:
    Packings() = default;
    Packings(const Packings&) = delete;
    Packings& operator=(const Packings&) = delete;
    ~Packings() {
        for (const Packed& p : packed_) free(p.data);
    }

    // The packing for this choice. `pack` fills `bytes` bytes and says whether all weights are finite; it is called if there is
    // none yet. With no bytes the kernel reads the weights where they lie.
    template <class Choice, class Pack>
    Status find(const Choice& choice, int64_t bytes, Packed* packed, const Pack& pack) {
        packed->choice = choice;
        if (bytes == 0) return Status::ok;
        const std::lock_guard<std::mutex> lock(mutex_);
        for (const Packed& known : packed_)
            if (same_packing(known.choice, choice)) {
                packed->data = known.data;
                packed->finite = known.finite;
                return Status::ok;
            }
        packed_.reserve(packed_.size() + 1);
        packed->data = aligned_alloc(4096, size_t((bytes + 4095) / 4096 * 4096));
        if (!packed->data) return Status::out_of_memory;
        packed->finite = pack(packed->data);
        packed_.push_back(*packed);
        return Status::ok;
    }

private:
    std::mutex mutex_;
    std::vector<Packed> packed_;
};

}  // namespace fastcv
