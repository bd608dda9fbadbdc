// Gram matrices and their gradient.
#include "core.h"

#include "../dispatch.h"

namespace fastcv {
namespace {

GramShape shape_of(const py::array& input) {
    return {image_size(input, 0), image_size(input, 1), image_size(input, 2), image_size(input, 3)};
}
// Matrices (N, C, C), or (C, C): axes 1 and 2 of an image's four are theirs.
Tensor matrices(const py::array& a) {
    const Tensor t = image_tensor(a);
    return {t.data, {t.stride_bytes[1], t.stride_bytes[2], t.stride_bytes[3], 0}};
}

void gram_matrix(const py::array& input, const py::array& output, double scale) {
    const GramShape s = shape_of(input);
    const Tensor x = image_tensor(input), y = matrices(output);
    const int itemsize = int(input.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().gram_matrix(s, itemsize, scale, x, y);
    }
    raise_unless_ok(status);
}

void gram_matrix_grad_input(const py::array& grad_output, const py::array& input, const py::array& grad_input, double scale) {
    const GramShape s = shape_of(input);
    const Tensor dy = matrices(grad_output), x = image_tensor(input), dx = image_tensor(grad_input);
    const int itemsize = int(input.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().gram_matrix_grad_input(s, itemsize, scale, dy, x, dx);
    }
    raise_unless_ok(status);
}

}  // namespace

void bind_gram_matrix(py::module_& m) {
    m.def("gram_matrix", &gram_matrix, py::arg("input"), py::arg("output"), py::arg("scale"));
    m.def("gram_matrix_grad_input", &gram_matrix_grad_input, py::arg("grad_output"), py::arg("input"), py::arg("grad_input"),
          py::arg("scale"));
}

}  // namespace fastcv
