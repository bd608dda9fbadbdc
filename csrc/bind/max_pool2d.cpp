// max_pool2d and its gradient.
#include "core.h"

#include <optional>

#include "../dispatch.h"

namespace fastcv {
namespace {

void max_pool2d(const py::array& input, const py::array& output, const std::optional<py::array>& indices, Pair kernel, Pair stride,
                Pair padding, Pair dilation) {
    Pool2dShape s{};
    s.N = input.shape(0), s.C = input.shape(1), s.H = input.shape(2), s.W = input.shape(3);
    s.R = kernel.first, s.S = kernel.second;
    s.P = output.shape(2), s.Q = output.shape(3);
    s.stride_h = stride.first, s.stride_w = stride.second;
    s.pad_top = padding.first, s.pad_left = padding.second;
    s.dilation_h = dilation.first, s.dilation_w = dilation.second;
    const Tensor x = tensor(input), y = tensor(output), at = indices ? tensor(*indices) : Tensor{};
    const int itemsize = int(input.itemsize()), index_bytes = indices ? int(indices->itemsize()) : 0;
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().max_pool2d(s, itemsize, index_bytes, x, y, at);
    }
    raise_unless_ok(status);
}

void max_pool2d_grad_input(const py::array& grad_output, const py::array& indices, const py::array& grad_input) {
    const IndexedShape s = indexed_shape(grad_output, grad_input);
    const Tensor dy = tensor(grad_output), at = tensor(indices), dx = tensor(grad_input);
    const int itemsize = int(grad_output.itemsize()), index_bytes = int(indices.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().max_pool2d_grad_input(s, itemsize, index_bytes, dy, at, dx);
    }
    raise_unless_ok(status);
}

}  // namespace

void bind_max_pool2d(py::module_& m) {
    m.def("max_pool2d", &max_pool2d, py::arg("input"), py::arg("output"), py::arg("indices").none(true), py::arg("kernel_size"),
          py::arg("stride"), py::arg("padding"), py::arg("dilation"));
    m.def("max_pool2d_grad_input", &max_pool2d_grad_input, py::arg("grad_output"), py::arg("indices"), py::arg("grad_input"));
}

}  // namespace fastcv
