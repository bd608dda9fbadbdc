// The module fastcv._cuda: integers that name memory of a device, to kernels. Nothing here is needed by fastcv._core.
//
// An array is its address and four strides in bytes, (N, C, H, W); a result its address and whether it is channels-last; a queue
// the device and its stream. Every kernel's function returns whether an index outside its plane has been noted on the device, by
// this call or an earlier one.
#include "module.h"

#define FASTCV_TEXT_OF(x) #x
#define FASTCV_TEXT(x) FASTCV_TEXT_OF(x)

namespace fastcv::cuda {

namespace {

using PyIndices = std::tuple<uintptr_t, std::array<int64_t, 4>, int>;

Indices indices_of(const PyIndices& a) { return {tensor(std::get<0>(a), std::get<1>(a)), std::get<2>(a)}; }
IndexedShape indexed_shape(const Shape4& planes, const Pair& windows) {
    return {planes[0], planes[1], planes[2], planes[3], windows[0], windows[1]};
}

bool py_max_pool2d(const Shape4& shape, const Pair& outputs, const std::tuple<Pair, Pair, Pair, Pair>& window, Dtype dtype,
                   const PyArray& input, const PyResult& output, const std::tuple<uintptr_t, int>& indices,
                   const PyQueue& queue) {
    const auto& [kernel_size, stride, padding, dilation] = window;
    const Pool2dShape s{shape[0],   shape[1],  shape[2],  shape[3],   kernel_size[0], kernel_size[1], outputs[0],
                        outputs[1], stride[0], stride[1], padding[0], padding[1],     dilation[0],    dilation[1]};
    const Queue q = queue_of(queue);
    max_pool2d(s, dtype, tensor(input), result(output), pointer(std::get<0>(indices)), std::get<1>(indices), q);
    return take_index_fault(q.device);
}

// Of max_pool2d_grad_input and max_unpool2d.
template <void (*kKernel)(const IndexedShape&, Dtype, Tensor, Indices, Result, void*, Queue)>
bool to_planes(const Shape4& planes, const Pair& windows, Dtype dtype, const PyArray& numbers, const PyIndices& indices,
               const PyResult& output, uintptr_t workspace, const PyQueue& queue) {
    const Queue q = queue_of(queue);
    kKernel(indexed_shape(planes, windows), dtype, tensor(numbers), indices_of(indices), result(output), pointer(workspace), q);
    return take_index_fault(q.device);
}

bool py_max_unpool2d_grad_input(const Shape4& planes, const Pair& windows, Dtype dtype, const PyArray& grad_output,
                                const PyIndices& indices, const PyResult& grad_input, const PyQueue& queue) {
    const Queue q = queue_of(queue);
    const IndexedShape s = indexed_shape(planes, windows);
    max_unpool2d_grad_input(s, dtype, tensor(grad_output), indices_of(indices), result(grad_input), q);
    return take_index_fault(q.device);
}

}  // namespace
}  // namespace fastcv::cuda

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
    using namespace fastcv::cuda;
    m.doc() = "CUDA kernels of fastcv. Arguments are trusted: fastcv's Python functions check them.";
    m.attr("archs") = std::string(FASTCV_TEXT(FASTCV_CUDA_ARCHS));

    py::enum_<Dtype>(m, "Dtype")
        .value("float32", Dtype::float32)
        .value("float64", Dtype::float64)
        .value("float16", Dtype::float16)
        .value("bfloat16", Dtype::bfloat16);

    m.def("device_count", &device_count);
    m.def("synchronize", &synchronize, py::arg("device"), py::call_guard<py::gil_scoped_release>());
    m.def("take_index_fault", &take_index_fault, py::arg("device"));
    m.def("indexed_workspace_bytes", &indexed_workspace_bytes, py::arg("planes"));

    // A launch may wait where a stream's queue is full.
    const py::call_guard<py::gil_scoped_release> released;
    m.def("max_pool2d", &py_max_pool2d, py::arg("shape"), py::arg("outputs"), py::arg("window"), py::arg("dtype"),
          py::arg("input"), py::arg("output"), py::arg("indices"), py::arg("queue"), released);
    m.def("max_pool2d_grad_input", &to_planes<max_pool2d_grad_input>, py::arg("planes"), py::arg("windows"), py::arg("dtype"),
          py::arg("grad_output"), py::arg("indices"), py::arg("grad_input"), py::arg("workspace"), py::arg("queue"), released);
    m.def("max_unpool2d", &to_planes<max_unpool2d>, py::arg("planes"), py::arg("windows"), py::arg("dtype"), py::arg("input"),
          py::arg("indices"), py::arg("output"), py::arg("workspace"), py::arg("queue"), released);
    m.def("max_unpool2d_grad_input", &py_max_unpool2d_grad_input, py::arg("planes"), py::arg("windows"), py::arg("dtype"),
          py::arg("grad_output"), py::arg("indices"), py::arg("grad_input"), py::arg("queue"), released);
    add_convolution(m);
    add_assignment(m);
    add_attention(m);
    add_gram_matrix(m);
}
