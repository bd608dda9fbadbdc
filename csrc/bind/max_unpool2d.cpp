// max_unpool2d and its gradient.
#include "core.h"

#include "../dispatch.h"

namespace fastcv {
namespace {

void max_unpool2d(const py::array& input, const py::array& indices, const py::array& output) {
    const IndexedShape s = indexed_shape(input, output);
    const Tensor x = image_tensor(input), at = image_tensor(indices), y = image_tensor(output);
    const int itemsize = int(input.itemsize()), index_bytes = int(indices.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().max_unpool2d(s, itemsize, index_bytes, x, at, y);
    }
    raise_unless_ok(status);
}

void max_unpool2d_grad_input(const py::array& grad_output, const py::array& indices, const py::array& grad_input) {
    const IndexedShape s = indexed_shape(indices, grad_output);
    const Tensor dy = image_tensor(grad_output), at = image_tensor(indices), dx = image_tensor(grad_input);
    const int itemsize = int(grad_output.itemsize()), index_bytes = int(indices.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().max_unpool2d_grad_input(s, itemsize, index_bytes, dy, at, dx);
    }
    raise_unless_ok(status);
}

}  // namespace

void bind_max_unpool2d(py::module_& m) {
    m.def("max_unpool2d", &max_unpool2d, py::arg("input"), py::arg("indices"), py::arg("output"));
    m.def("max_unpool2d_grad_input", &max_unpool2d_grad_input, py::arg("grad_output"), py::arg("indices"), py::arg("grad_input"));
}

}  // namespace fastcv
