// What the files of this folder share: arrays to pointers, status to exception.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <new>
#include <utility>

#include "../ops.h"

namespace py = pybind11;

namespace fastcv {

// An array of at most 4 axes; those that it lacks are at the end, with stride 0.
inline Tensor tensor(const py::array& a) {
    Tensor t{const_cast<char*>(static_cast<const char*>(a.data())), {}};
    for (int i = 0; i < int(a.ndim()); i++) t.stride_bytes[i] = a.strides(i);
    return t;
}

// Axis i of (N, C, H, W), where (C, H, W) is one image.
inline int64_t image_size(const py::array& a, int i) {
    const int axis = i + int(a.ndim()) - 4;
    return axis < 0 ? 1 : a.shape(axis);
}
inline Tensor image_tensor(const py::array& a) {
    Tensor t{const_cast<char*>(static_cast<const char*>(a.data())), {}};
    for (int i = int(a.ndim()) - 1, to = 3; i >= 0; i--, to--) t.stride_bytes[to] = a.strides(i);
    return t;
}

// Numbers (N, C, P, Q) and their planes (N, C, H, W).
inline IndexedShape indexed_shape(const py::array& numbers, const py::array& planes) {
    return {image_size(planes, 0), image_size(planes, 1), image_size(planes, 2),
            image_size(planes, 3), image_size(numbers, 2), image_size(numbers, 3)};
}

inline void raise_unless_ok(Status status) {
    if (status == Status::out_of_memory) throw std::bad_alloc();
    if (status == Status::index_out_of_range) throw py::index_error("an index is outside its plane");
}

using Pair = std::pair<int64_t, int64_t>;

void bind_conv2d(py::module_& m);
void bind_conv_transpose2d(py::module_& m);
void bind_gram_matrix(py::module_& m);
void bind_max_pool2d(py::module_& m);
void bind_max_unpool2d(py::module_& m);
void bind_scaled_dot_product_attention(py::module_& m);
void bind_linear_sum_assignment(py::module_& m);
void bind_capi(py::module_& m);
void bind_results(py::module_& m);
void bind_calls(py::module_& m);

}  // namespace fastcv
