// max_pool2d and its gradient.
#include "core.h"

#include <optional>

#include "../dispatch.h"

namespace fastcv {
namespace {

// A pooling's parameters, converted once for all calls with the same ones.
struct Pool2dWindow {
    Pair kernel_size, stride, padding, dilation;
};

void max_pool2d(const py::array& input, const py::array& output, const std::optional<py::array>& indices,
                const Pool2dWindow& window) {
    Pool2dShape s{};
    s.N = image_size(input, 0), s.C = image_size(input, 1), s.H = image_size(input, 2), s.W = image_size(input, 3);
    s.R = window.kernel_size.first, s.S = window.kernel_size.second;
    s.P = image_size(output, 2), s.Q = image_size(output, 3);
    s.stride_h = window.stride.first, s.stride_w = window.stride.second;
    s.pad_top = window.padding.first, s.pad_left = window.padding.second;
    s.dilation_h = window.dilation.first, s.dilation_w = window.dilation.second;
    const Tensor x = image_tensor(input), y = image_tensor(output), at = indices ? image_tensor(*indices) : Tensor{};
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
    const Tensor dy = image_tensor(grad_output), at = image_tensor(indices), dx = image_tensor(grad_input);
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
    py::class_<Pool2dWindow>(m, "Pool2dWindow")
        .def(py::init<Pair, Pair, Pair, Pair>(), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"),
             py::arg("dilation"));
    m.def("max_pool2d", &max_pool2d, py::arg("input"), py::arg("output"), py::arg("indices").none(true), py::arg("window"));
    m.def("max_pool2d_grad_input", &max_pool2d_grad_input, py::arg("grad_output"), py::arg("indices"), py::arg("grad_input"));
}

}  // namespace fastcv
