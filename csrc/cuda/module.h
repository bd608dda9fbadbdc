// Arrays, results and queues as Python names them, for module.cpp and the files that add to it.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <tuple>

#include "ops.h"

namespace py = pybind11;

namespace fastcv::cuda {

using PyArray = std::tuple<uintptr_t, std::array<int64_t, 4>>;
using PyResult = std::tuple<uintptr_t, bool>;
using PyQueue = std::tuple<int, uintptr_t>;
using Pair = std::array<int64_t, 2>;
using Shape4 = std::array<int64_t, 4>;

inline void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }
inline Tensor tensor(uintptr_t address, const std::array<int64_t, 4>& strides) {
    return {static_cast<char*>(pointer(address)), {strides[0], strides[1], strides[2], strides[3]}};
}
inline Tensor tensor(const PyArray& a) { return tensor(std::get<0>(a), std::get<1>(a)); }
inline Result result(const PyResult& r) { return {pointer(std::get<0>(r)), std::get<1>(r)}; }
inline Queue queue_of(const PyQueue& q) { return {std::get<0>(q), pointer(std::get<1>(q))}; }

// In the files *_module.cpp.
void add_convolution(py::module_&);
void add_assignment(py::module_&);
void add_gram_matrix(py::module_&);
void add_attention(py::module_&);

}  // namespace fastcv::cuda
