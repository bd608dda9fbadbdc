// scaled_dot_product_attention and its gradient.
#include "core.h"

#include <optional>
#include <vector>

#include "../dispatch.h"

namespace fastcv {
namespace {

using Optional = std::optional<py::array>;

using Shape = std::vector<int64_t>;

// An array (batch axes .., heads, rows, columns) that broadcasts to `full`, whose last axes are its own: where a size is 1, the
// stride is 0. Axes in front may be missing.
HeadTensor head_tensor(const py::array& a, const Shape& full) {
    HeadTensor t;
    t.data = const_cast<char*>(static_cast<const char*>(a.data()));
    const int axes = int(full.size()), missing = axes - int(a.ndim());
    for (int i = missing; i < axes; i++) {
        const bool same = a.shape(i - missing) == full[size_t(i)];
        (i < axes - 3 ? t.batch_stride_bytes[i] : t.stride_bytes[i - (axes - 3)]) = same ? a.strides(i - missing) : 0;
    }
    return t;
}

void* data_of(const Optional& a) { return a ? const_cast<void*>(a->data()) : nullptr; }

// What shapes and options amount to, and the full shape of each kind of array.
struct Attention {
    AttentionShape s{};
    Shape query, key, value, output, lse, mask;

    Attention(const Shape& batch, int64_t heads, int64_t kv_heads, int64_t queries, int64_t keys, int64_t columns,
              int64_t value_columns, double scale, double softcap, int64_t left, int64_t right, bool bottom_right, double dropout,
              uint64_t seed) {
        s.batch_axes = int(batch.size());
        s.N = 1;
        for (int i = 0; i < s.batch_axes; i++) s.N *= s.batch[i] = batch[size_t(i)];
        s.H = kv_heads, s.G = kv_heads ? heads / kv_heads : 0;
        s.L = queries, s.S = keys, s.E = columns, s.F = value_columns;
        s.scale = scale, s.softcap = softcap;
        s.left = left, s.right = right, s.bottom_right = bottom_right;
        s.dropout = dropout, s.seed = seed;
        const auto full = [&](int64_t h, int64_t rows, int64_t width) {
            Shape shape = batch;
            shape.insert(shape.end(), {h, rows, width});
            return shape;
        };
        query = full(heads, s.L, s.E), key = full(kv_heads, s.S, s.E), value = full(kv_heads, s.S, s.F);
        output = full(heads, s.L, s.F), lse = full(heads, s.L, 1), mask = full(heads, s.L, s.S);
    }

    AttentionShape with(const Optional& kv_lengths) const {
        AttentionShape shape = s;
        shape.kv_lengths = static_cast<const int64_t*>(data_of(kv_lengths));
        return shape;
    }
};

AttentionMask kind_of(const Optional& mask) {
    return !mask ? AttentionMask::none : mask->itemsize() == 1 ? AttentionMask::boolean : AttentionMask::additive;
}

void attention(const Attention& c, const py::array& query, const py::array& key, const py::array& value, const Optional& mask,
               const Optional& kv_lengths, const py::array& output, const Optional& lse, const Optional& weights) {
    const AttentionShape s = c.with(kv_lengths);
    const HeadTensor q = head_tensor(query, c.query), k = head_tensor(key, c.key), v = head_tensor(value, c.value);
    const AttentionMask kind = kind_of(mask);
    const HeadTensor m = mask ? head_tensor(*mask, c.mask) : HeadTensor();
    const int itemsize = int(query.itemsize());
    void *const o = const_cast<void*>(output.data()), *const l = data_of(lse), *const w = data_of(weights);
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().attention(s, itemsize, q, k, v, kind, m, o, l, w);
    }
    raise_unless_ok(status);
}

void attention_grad(const Attention& c, const py::array& query, const py::array& key, const py::array& value,
                    const py::array& grad_output, const py::array& output, const py::array& lse, const Optional& mask,
                    const Optional& kv_lengths, const py::array& grad_query, const py::array& grad_key,
                    const py::array& grad_value, const Optional& grad_mask) {
    const AttentionShape s = c.with(kv_lengths);
    const HeadTensor g = grad_mask ? head_tensor(*grad_mask, c.mask) : HeadTensor();
    AttentionGradArrays a{};
    a.query = head_tensor(query, c.query), a.key = head_tensor(key, c.key), a.value = head_tensor(value, c.value);
    a.grad_output = head_tensor(grad_output, c.output), a.output = head_tensor(output, c.output);
    a.lse = head_tensor(lse, c.lse);
    a.mask_kind = kind_of(mask);
    if (mask) a.mask = head_tensor(*mask, c.mask);
    a.grad_query = const_cast<void*>(grad_query.data());
    a.grad_key = const_cast<void*>(grad_key.data());
    a.grad_value = const_cast<void*>(grad_value.data());
    if (grad_mask) a.grad_mask = &g;
    const int itemsize = int(query.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().attention_grad(s, itemsize, a);
    }
    raise_unless_ok(status);
}

}  // namespace

void bind_scaled_dot_product_attention(py::module_& m) {
    py::class_<Attention>(m, "Attention")
        .def(py::init<const Shape&, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, double, double, int64_t, int64_t, bool,
                      double, uint64_t>(),
             py::arg("batch"), py::arg("heads"), py::arg("kv_heads"), py::arg("queries"), py::arg("keys"), py::arg("columns"),
             py::arg("value_columns"), py::arg("scale"), py::arg("softcap"), py::arg("left"), py::arg("right"),
             py::arg("bottom_right"), py::arg("dropout"), py::arg("seed"));
    m.def("scaled_dot_product_attention", &attention, py::arg("attention"), py::arg("query"), py::arg("key"), py::arg("value"),
          py::arg("mask").none(true), py::arg("kv_lengths").none(true), py::arg("output"), py::arg("lse").none(true),
          py::arg("weights").none(true));
    m.def("scaled_dot_product_attention_grad", &attention_grad, py::arg("attention"), py::arg("query"), py::arg("key"),
          py::arg("value"), py::arg("grad_output"), py::arg("output"), py::arg("lse"), py::arg("mask").none(true),
          py::arg("kv_lengths").none(true), py::arg("grad_query"), py::arg("grad_key"), py::arg("grad_value"),
          py::arg("grad_mask").none(true));
}

}  // namespace fastcv
