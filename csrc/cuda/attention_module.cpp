// Attention's part of the module fastcv._cuda: see module.cpp.
//
// An array is its address and strides in bytes of all axes (batch.., heads, rows, columns), 0 where it broadcasts; a gradient its
// address and whether it is summed over each of these axes; an address of 0 says that there is none.
#include <vector>

#include "module.h"

namespace fastcv::cuda {
namespace {

using Sizes = std::vector<int64_t>;
using PyHeads = std::tuple<uintptr_t, Sizes>;
using PyGradient = std::tuple<uintptr_t, std::vector<bool>>;
// heads, heads of keys, queries, keys, columns, columns of values
using PySizes = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
// scale, softcap, left, right, bottom_right, dropout, seed
using PyOptions = std::tuple<double, double, int64_t, int64_t, bool, double, uint64_t>;
// query, key, value, mask, whether that is boolean, lengths, their bytes
using PyInputs = std::tuple<PyHeads, PyHeads, PyHeads, PyHeads, bool, PyHeads, int>;

HeadTensor head_tensor(const PyHeads& array) {
    const auto& [address, strides] = array;
    HeadTensor t;
    t.data = static_cast<char*>(pointer(address));
    const size_t batch = strides.size() < 3 ? 0 : strides.size() - 3;
    for (size_t i = 0; i < strides.size(); i++) (i < batch ? t.batch_stride_bytes[i] : t.stride_bytes[i - batch]) = strides[i];
    return t;
}

SharedResult shared_result(const PyGradient& gradient) {
    const auto& [address, shared] = gradient;
    SharedResult result{pointer(address), {}};
    for (size_t i = 0; i < shared.size(); i++) result.shared[i] = shared[i];
    return result;
}

AttentionCall call_of(const Sizes& batch, const PySizes& sizes, const PyOptions& options, const PyInputs& inputs) {
    AttentionCall c{};
    AttentionShape& s = c.s;
    s.batch_axes = int(batch.size());
    s.N = 1;
    for (size_t i = 0; i < batch.size(); i++) s.N *= s.batch[i] = batch[i];
    int64_t heads;
    std::tie(heads, s.H, s.L, s.S, s.E, s.F) = sizes;
    s.G = s.H ? heads / s.H : 0;
    std::tie(s.scale, s.softcap, s.left, s.right, s.bottom_right, s.dropout, s.seed) = options;
    const auto& [query, key, value, mask, is_boolean, lengths, length_bytes] = inputs;
    c.query = head_tensor(query), c.key = head_tensor(key), c.value = head_tensor(value), c.mask = head_tensor(mask);
    c.mask_kind = !c.mask.data ? AttentionMask::none : is_boolean ? AttentionMask::boolean : AttentionMask::additive;
    c.lengths = head_tensor(lengths), c.length_bytes = length_bytes;
    return c;
}

void forward(const Sizes& batch, const PySizes& sizes, const PyOptions& options, const PyInputs& inputs, Dtype dtype,
             uintptr_t output, uintptr_t lse, uintptr_t weights, const PyQueue& queue) {
    attention(call_of(batch, sizes, options, inputs), dtype, pointer(output), pointer(lse), pointer(weights), queue_of(queue));
}

// grad_output, output, lse; gradients of query, key, value, mask
using PyGradients = std::tuple<PyHeads, PyHeads, PyHeads, PyGradient, PyGradient, PyGradient, PyGradient>;

AttentionGradients gradients_of(const PyGradients& given) {
    const auto& [grad_output, output, lse, query, key, value, mask] = given;
    return {head_tensor(grad_output), head_tensor(output),  head_tensor(lse),   shared_result(query),
            shared_result(key),       shared_result(value), shared_result(mask)};
}

int64_t workspace_bytes(const Sizes& batch, const PySizes& sizes, const PyOptions& options, const PyInputs& inputs,
                        const PyGradients& gradients, Dtype dtype) {
    return attention_grad_workspace_bytes(call_of(batch, sizes, options, inputs), gradients_of(gradients), dtype);
}

void gradient(const Sizes& batch, const PySizes& sizes, const PyOptions& options, const PyInputs& inputs,
              const PyGradients& gradients, Dtype dtype, uintptr_t workspace, const PyQueue& queue) {
    attention_grad(call_of(batch, sizes, options, inputs), gradients_of(gradients), dtype, pointer(workspace), queue_of(queue));
}

}  // namespace

void add_attention(py::module_& m) {
    const py::call_guard<py::gil_scoped_release> released;
    m.def("scaled_dot_product_attention", &forward, py::arg("batch"), py::arg("sizes"), py::arg("options"), py::arg("inputs"),
          py::arg("dtype"), py::arg("output"), py::arg("lse"), py::arg("weights"), py::arg("queue"), released);
    m.def("scaled_dot_product_attention_grad_workspace_bytes", &workspace_bytes, py::arg("batch"), py::arg("sizes"),
          py::arg("options"), py::arg("inputs"), py::arg("gradients"), py::arg("dtype"));
    m.def("scaled_dot_product_attention_grad", &gradient, py::arg("batch"), py::arg("sizes"), py::arg("options"),
          py::arg("inputs"), py::arg("gradients"), py::arg("dtype"), py::arg("workspace"), py::arg("queue"), released);
}

}  // namespace fastcv::cuda
