// conv2d, its gradients, and the plan that packs weights once.
#include <stdio.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../dispatch.h"
#include "convolution.h"

namespace fastcv {

std::string name_of(const Conv2dChoice& choice) {
    switch (choice.kind) {
        case Conv2dChoice::strip_pixels: return "strip_pixels";
        case Conv2dChoice::strip_channels: return "strip_channels";
        case Conv2dChoice::clipped: return "clipped";
        case Conv2dChoice::depthwise: return "depthwise";
        case Conv2dChoice::pointwise: return "pointwise";
        default:
            if (choice.tile > kWholePhases) return "winograd_whole";
            return choice.tile == 4 ? "winograd_f4" : choice.tile == 3 ? "winograd_f3" : "winograd_f2";
    }
}

std::string reason_of(const Conv2dChoice& choice) {
    char reason[160];
    snprintf(reason, sizeof reason, "estimated ms of a sample on one core: direct %.3g, Winograd %s%.3g", choice.direct_cost,
             choice.winograd_cost > 1e30 ? "does not apply: " : "", choice.winograd_cost);
    return reason;
}

namespace {

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

std::pair<std::string, std::string> conv2d_choice(const std::vector<int64_t>& input_shape,
                                                  const std::vector<int64_t>& weight_shape,
                                                  const std::vector<int64_t>& output_shape, int itemsize, Pair stride,
                                                  Pair padding, Pair dilation, int64_t groups, int algorithm, bool packed) {
    const Conv2dShape s =
        shape_of(input_shape.data(), weight_shape.data(), output_shape.data(), stride, padding, dilation, groups);
    // Contiguous arrays, of which those of one pixel are channels-last as well.
    const ChannelsLast last{s.H * s.W == 1, s.P * s.Q == 1};
    const Conv2dChoice c = kernels().conv2d_choose(s, itemsize, static_cast<Conv2dAlgorithm>(algorithm), packed, last);
    return {name_of(c), reason_of(c)};
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

    void run(const py::array& input, const py::array& output) {
        const Conv2dShape s = shape_of(input, weight_, output, stride_, padding_, dilation_, groups_);
        const Tensor x = tensor(input), y = tensor(output);
        const int itemsize = int(weight_.itemsize());
        Status status;
        {
            py::gil_scoped_release release;
            const Conv2dChoice choice = kernels().conv2d_choose(s, itemsize, algorithm_, true, channels_last(x, y, itemsize));
            Conv2dPacked packed;
            status = packings_.find(choice, kernels().conv2d_packed_bytes(s, itemsize, choice), &packed, [&](void* to) {
                return kernels().conv2d_pack(s, itemsize, choice, weights_, to);
            });
            if (status == Status::ok) status = kernels().conv2d_packed(s, itemsize, packed, x, weights_, y, epilogue_);
        }
        raise_unless_ok(status);
    }

private:
    py::array weight_;
    std::optional<py::array> bias_;
    Pair stride_, padding_, dilation_;
    int64_t groups_;
    Conv2dAlgorithm algorithm_;
    Tensor weights_;
    Epilogue epilogue_;
    Packings<Conv2dPacked> packings_;
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
