// Convolutions in the module fastcv._cuda. A shape is that of the convolution, also where its gradients run.
#include "module.h"

namespace fastcv::cuda {
namespace {

// (N, C, H, W), (K, C / G, R, S), (P, Q), stride, (top, left), dilation, groups
using PyConvolution = std::tuple<Shape4, Shape4, Pair, Pair, Pair, Pair, int64_t>;
// address and stride of the bias, 0 for none; activation, slope
using PyEpilogue = std::tuple<uintptr_t, int64_t, int, double>;

Conv2dShape shape_of(const PyConvolution& c) {
    const auto& [image, weight, outputs, stride, padding, dilation, groups] = c;
    return {image[0],   image[1],  image[2],  image[3],   weight[0],  weight[2],   weight[3],   outputs[0],
            outputs[1], stride[0], stride[1], padding[0], padding[1], dilation[0], dilation[1], groups};
}

template <void (*kKernel)(const Conv2dShape&, Dtype, Tensor, Tensor, Result, const Epilogue&, void*, Queue)>
void convolve(const PyConvolution& shape, Dtype dtype, const PyArray& input, const PyArray& weight, const PyResult& output,
              const PyEpilogue& epilogue, uintptr_t workspace, const PyQueue& queue) {
    const auto& [bias, stride_bytes, activation, slope] = epilogue;
    const Epilogue e{static_cast<const char*>(pointer(bias)), stride_bytes, Activation(activation), slope};
    kKernel(shape_of(shape), dtype, tensor(input), tensor(weight), result(output), e, pointer(workspace), queue_of(queue));
}

void grad_weight(const PyConvolution& shape, Dtype dtype, const PyArray& grad_output, const PyArray& input, uintptr_t result,
                 uintptr_t workspace, const PyQueue& queue) {
    conv2d_grad_weight(shape_of(shape), dtype, tensor(grad_output), tensor(input), pointer(result), pointer(workspace),
                       queue_of(queue));
}

}  // namespace

void add_convolution(py::module_& m) {
    const py::call_guard<py::gil_scoped_release> released;
    m.def("conv2d", &convolve<conv2d>, py::arg("shape"), py::arg("dtype"), py::arg("input"), py::arg("weight"), py::arg("output"),
          py::arg("epilogue"), py::arg("workspace"), py::arg("queue"), released);
    m.def("conv_transpose2d", &convolve<conv_transpose2d>, py::arg("shape"), py::arg("dtype"), py::arg("input"),
          py::arg("weight"), py::arg("output"), py::arg("epilogue"), py::arg("workspace"), py::arg("queue"), released);
    m.def("conv2d_grad_weight", &grad_weight, py::arg("shape"), py::arg("dtype"), py::arg("grad_output"), py::arg("input"),
          py::arg("grad_weight"), py::arg("workspace"), py::arg("queue"), released);
    m.def(
        "conv2d_workspace_bytes", [](const PyConvolution& s, Dtype d) { return conv2d_workspace_bytes(shape_of(s), d); },
        py::arg("shape"), py::arg("dtype"));
    m.def(
        "conv2d_grad_weight_workspace_bytes",
        [](const PyConvolution& s, Dtype d) { return conv2d_grad_weight_workspace_bytes(shape_of(s), d); }, py::arg("shape"),
        py::arg("dtype"));
}

}  // namespace fastcv::cuda
