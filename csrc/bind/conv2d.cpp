// conv2d, its gradients, and the plan that packs weights once.
#include "core.h"

#include <stdio.h>
#include <stdlib.h>

#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../dispatch.h"

namespace fastcv {
namespace {

// input (N, C, H, W), weight (K, C // G, R, S), output (N, K, P, Q)
Conv2dShape shape_of(const int64_t* input, const int64_t* weight, const int64_t* output, Pair stride, Pair padding,
                     Pair dilation, int64_t groups) {
    Conv2dShape s{};
    s.N = input[0], s.C = input[1], s.H = input[2], s.W = input[3];
    s.K = weight[0], s.R = weight[2], s.S = weight[3];
    s.P = output[2], s.Q = output[3];
    s.stride_h = stride.first, s.stride_w = stride.second;
    s.pad_top = padding.first, s.pad_left = padding.second;
    s.dilation_h = dilation.first, s.dilation_w = dilation.second;
    s.G = groups;
    return s;
}
Conv2dShape shape_of(const py::array& input, const py::array& weight, const py::array& output, Pair stride, Pair padding,
                     Pair dilation, int64_t groups) {
    int64_t dims[3][4];
    const py::array* arrays[3] = {&input, &weight, &output};
    for (int a = 0; a < 3; a++)
        for (int i = 0; i < 4; i++) dims[a][i] = arrays[a]->shape(i);
    return shape_of(dims[0], dims[1], dims[2], stride, padding, dilation, groups);
}

Epilogue epilogue_of(const std::optional<py::array>& bias, int activation, double slope) {
    Epilogue e;
    if (bias) {
        e.bias = static_cast<const char*>(bias->data());
        e.bias_stride_bytes = bias->strides(0);
    }
    e.activation = static_cast<Activation>(activation);
    e.slope = slope;
    return e;
}

void conv2d(const py::array& input, const py::array& weight, const std::optional<py::array>& bias, const py::array& output,
            Pair stride, Pair padding, Pair dilation, int64_t groups, int activation, double slope, int algorithm) {
    const Conv2dShape s = shape_of(input, weight, output, stride, padding, dilation, groups);
    const Epilogue e = epilogue_of(bias, activation, slope);
    const Tensor x = tensor(input), w = tensor(weight), y = tensor(output);
    const int itemsize = int(input.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().conv2d(s, itemsize, static_cast<Conv2dAlgorithm>(algorithm), x, w, y, e);
    }
    raise_unless_ok(status);
}

void conv2d_grad_input(const py::array& grad_output, const py::array& weight, const py::array& grad_input, Pair stride,
                       Pair padding, Pair dilation, int64_t groups) {
    const Conv2dShape s = shape_of(grad_input, weight, grad_output, stride, padding, dilation, groups);
    const Tensor dy = tensor(grad_output), w = tensor(weight), dx = tensor(grad_input);
    const int itemsize = int(weight.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().conv_transpose2d(s, itemsize, dy, w, dx, Epilogue{});
    }
    raise_unless_ok(status);
}

void conv2d_grad_weight(const py::array& grad_output, const py::array& input, const py::array& grad_weight, Pair stride,
                        Pair padding, Pair dilation, int64_t groups) {
    const Conv2dShape s = shape_of(input, grad_weight, grad_output, stride, padding, dilation, groups);
    const Tensor dy = tensor(grad_output), x = tensor(input), dw = tensor(grad_weight);
    const int itemsize = int(input.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().conv2d_grad_weight(s, itemsize, dy, x, dw);
    }
    raise_unless_ok(status);
}

const char* name_of(const Conv2dChoice& choice) {
    switch (choice.kind) {
        case Conv2dChoice::strip_pixels: return "strip_pixels";
        case Conv2dChoice::strip_channels: return "strip_channels";
        case Conv2dChoice::clipped: return "clipped";
        case Conv2dChoice::depthwise: return "depthwise";
        default: return choice.tile == 4 ? "winograd_f4" : choice.tile == 3 ? "winograd_f3" : "winograd_f2";
    }
}

std::pair<std::string, std::string> conv2d_choice(const std::vector<int64_t>& input_shape,
                                                  const std::vector<int64_t>& weight_shape,
                                                  const std::vector<int64_t>& output_shape, int itemsize, Pair stride,
                                                  Pair padding, Pair dilation, int64_t groups, int algorithm, bool packed) {
    const Conv2dShape s =
        shape_of(input_shape.data(), weight_shape.data(), output_shape.data(), stride, padding, dilation, groups);
    const Conv2dChoice c = kernels().conv2d_choose(s, itemsize, static_cast<Conv2dAlgorithm>(algorithm), packed);
    char reason[160];
    snprintf(reason, sizeof reason, "estimated ms of a sample on one core: direct %.3g, Winograd %s%.3g", c.direct_cost,
             c.winograd_cost > 1e30 ? "does not apply: " : "", c.winograd_cost);
    return {name_of(c), reason};
}

// A convolution whose weights are packed once, for each algorithm that its inputs turn out to want.
class Conv2dPlan {
public:
    Conv2dPlan(py::array weight, std::optional<py::array> bias, Pair stride, Pair padding, Pair dilation, int64_t groups,
               int activation, double slope, int algorithm)
        : weight_(std::move(weight)),
          bias_(std::move(bias)),
          stride_(stride),
          padding_(padding),
          dilation_(dilation),
          groups_(groups),
          algorithm_(static_cast<Conv2dAlgorithm>(algorithm)),
          weights_(tensor(weight_)),
          epilogue_(epilogue_of(bias_, activation, slope)) {}
    Conv2dPlan(const Conv2dPlan&) = delete;
    Conv2dPlan& operator=(const Conv2dPlan&) = delete;
    ~Conv2dPlan() {
        for (const Conv2dPacked& p : packed_) free(p.data);
    }

    void run(const py::array& input, const py::array& output) {
        const Conv2dShape s = shape_of(input, weight_, output, stride_, padding_, dilation_, groups_);
        const Tensor x = tensor(input), y = tensor(output);
        const int itemsize = int(weight_.itemsize());
        Status status;
        {
            py::gil_scoped_release release;
            const Conv2dChoice choice = kernels().conv2d_choose(s, itemsize, algorithm_, true);
            Conv2dPacked packed;
            status = pack(s, itemsize, choice, &packed);
            if (status == Status::ok) status = kernels().conv2d_packed(s, itemsize, packed, x, weights_, y, epilogue_);
        }
        raise_unless_ok(status);
    }

private:
    static bool same_packing(const Conv2dChoice& a, const Conv2dChoice& b) {
        return a.kind == b.kind && a.tile == b.tile && a.first_row == b.first_row && a.rows == b.rows &&
               a.first_column == b.first_column && a.columns == b.columns;
    }

    // One packing serves every input that chooses the same kernel and tile.
    Status pack(const Conv2dShape& s, int itemsize, const Conv2dChoice& choice, Conv2dPacked* packed) {
        const int64_t bytes = kernels().conv2d_packed_bytes(s, itemsize, choice);
        packed->choice = choice;
        if (bytes == 0) return Status::ok;
        const std::lock_guard<std::mutex> lock(mutex_);
        for (const Conv2dPacked& known : packed_)
            if (same_packing(known.choice, choice)) {
                packed->data = known.data;
                packed->finite = known.finite;
                return Status::ok;
            }
        const int64_t size = (bytes + 4095) / 4096 * 4096;
        packed_.reserve(packed_.size() + 1);
        packed->data = aligned_alloc(4096, size_t(size));
        if (!packed->data) return Status::out_of_memory;
        packed->finite = kernels().conv2d_pack(s, itemsize, choice, weights_, packed->data);
        packed_.push_back(*packed);
        return Status::ok;
    }

    py::array weight_;
    std::optional<py::array> bias_;
    Pair stride_, padding_, dilation_;
    int64_t groups_;
    Conv2dAlgorithm algorithm_;
    Tensor weights_;
    Epilogue epilogue_;
    std::mutex mutex_;
    std::vector<Conv2dPacked> packed_;
};

}  // namespace

void bind_conv2d(py::module_& m) {
    m.def("conv2d", &conv2d, py::arg("input"), py::arg("weight"), py::arg("bias").none(true), py::arg("output"),
          py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"), py::arg("activation"),
          py::arg("slope"), py::arg("algorithm"));
    m.def("conv2d_grad_input", &conv2d_grad_input, py::arg("grad_output"), py::arg("weight"), py::arg("grad_input"),
          py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"));
    m.def("conv2d_grad_weight", &conv2d_grad_weight, py::arg("grad_output"), py::arg("input"), py::arg("grad_weight"),
          py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"));
    m.def("conv2d_choice", &conv2d_choice, py::arg("input_shape"), py::arg("weight_shape"), py::arg("output_shape"),
          py::arg("itemsize"), py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"),
          py::arg("algorithm"), py::arg("packed"));
    py::class_<Conv2dPlan>(m, "Conv2dPlan")
        .def(py::init<py::array, std::optional<py::array>, Pair, Pair, Pair, int64_t, int, double, int>(), py::arg("weight"),
             py::arg("bias").none(true), py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"),
             py::arg("activation"), py::arg("slope"), py::arg("algorithm"))
        .def("run", &Conv2dPlan::run, py::arg("input"), py::arg("output"));
}

}  // namespace fastcv
