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

// (N, C, P, Q) numbers and their (N, C, H, W) planes.
inline IndexedShape indexed_shape(const py::array& numbers, const py::array& planes) {
    return {planes.shape(0), planes.shape(1), planes.shape(2), planes.shape(3), numbers.shape(2), numbers.shape(3)};
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

}  // namespace fastcv
