// Gram matrices' part of the module fastcv._cuda: see module.cpp.
#include "module.h"

namespace fastcv::cuda {
namespace {

GramShape shape_of(const Shape4& s) { return {s[0], s[1], s[2], s[3]}; }

int64_t workspace_bytes(const Shape4& shape, Dtype dtype) { return gram_matrix_workspace_bytes(shape_of(shape), dtype); }

void forward(const Shape4& shape, Dtype dtype, double scale, const PyArray& input, uintptr_t output, uintptr_t workspace,
             const PyQueue& queue) {
    gram_matrix(shape_of(shape), dtype, scale, tensor(input), pointer(output), pointer(workspace), queue_of(queue));
}

void gradient(const Shape4& shape, Dtype dtype, double scale, const PyArray& grad_output, const PyArray& input,
              const PyResult& grad_input, const PyQueue& queue) {
    const Result result{pointer(std::get<0>(grad_input)), std::get<1>(grad_input)};
    gram_matrix_grad_input(shape_of(shape), dtype, scale, tensor(grad_output), tensor(input), result, queue_of(queue));
}

}  // namespace

void add_gram_matrix(py::module_& m) {
    const py::call_guard<py::gil_scoped_release> released;
    m.def("gram_matrix_workspace_bytes", &workspace_bytes, py::arg("shape"), py::arg("dtype"));
    m.def("gram_matrix", &forward, py::arg("shape"), py::arg("dtype"), py::arg("scale"), py::arg("input"), py::arg("output"),
          py::arg("workspace"), py::arg("queue"), released);
    m.def("gram_matrix_grad_input", &gradient, py::arg("shape"), py::arg("dtype"), py::arg("scale"), py::arg("grad_output"),
          py::arg("input"), py::arg("grad_input"), py::arg("queue"), released);
}

}  // namespace fastcv::cuda
