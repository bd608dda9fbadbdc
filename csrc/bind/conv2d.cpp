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
            const Convolution& c) {
    const Conv2dShape s = shape_of(input, weight, output, c);
    const Epilogue e = epilogue_of(bias, c);
    const Tensor x = image_tensor(input), w = tensor(weight), y = image_tensor(output);
    const int itemsize = int(input.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().conv2d(s, itemsize, static_cast<Conv2dAlgorithm>(c.algorithm), x, w, y, e);
    }
    raise_unless_ok(status);
}

void conv2d_grad_input(const py::array& grad_output, const py::array& weight, const py::array& grad_input,
                       const Convolution& c) {
    const Conv2dShape s = shape_of(grad_input, weight, grad_output, c);
    const Tensor dy = image_tensor(grad_output), w = tensor(weight), dx = image_tensor(grad_input);
    const int itemsize = int(weight.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().conv_transpose2d(s, itemsize, dy, w, dx, Epilogue{});
    }
    raise_unless_ok(status);
}

void conv2d_grad_weight(const py::array& grad_output, const py::array& input, const py::array& grad_weight,
                        const Convolution& c) {
    const Conv2dShape s = shape_of(input, grad_weight, grad_output, c);
    const Tensor dy = image_tensor(grad_output), x = image_tensor(input), dw = tensor(grad_weight);
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
                                                  const std::vector<int64_t>& output_shape, int itemsize,
                                                  const Convolution& convolution, bool packed) {
    const Conv2dShape s = shape_of(input_shape.data(), weight_shape.data(), output_shape.data(), convolution);
    // Contiguous arrays, of which those of one pixel are channels-last as well.
    const ChannelsLast last{s.H * s.W == 1, s.P * s.Q == 1};
    const Conv2dChoice c =
        kernels().conv2d_choose(s, itemsize, static_cast<Conv2dAlgorithm>(convolution.algorithm), packed, last);
    return {name_of(c), reason_of(c)};
}

// A convolution whose weights are packed once, for each algorithm that its inputs turn out to want.
class Conv2dPlan {
public:
    Conv2dPlan(py::array weight, std::optional<py::array> bias, const Convolution& convolution)
        : weight_(std::move(weight)),
          bias_(std::move(bias)),
          convolution_(convolution),
          weights_(tensor(weight_)),
          epilogue_(epilogue_of(bias_, convolution)) {}

    void run(const py::array& input, const py::array& output) {
        const Conv2dShape s = shape_of(input, weight_, output, convolution_);
        const Tensor x = image_tensor(input), y = image_tensor(output);
        const int itemsize = int(weight_.itemsize());
        Status status;
        {
            py::gil_scoped_release release;
            const Conv2dAlgorithm algorithm = static_cast<Conv2dAlgorithm>(convolution_.algorithm);
            const Conv2dChoice choice = kernels().conv2d_choose(s, itemsize, algorithm, true, channels_last(x, y, itemsize));
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
    Convolution convolution_;
    Tensor weights_;
    Epilogue epilogue_;
    Packings<Conv2dPacked> packings_;
};

}  // namespace

void bind_conv2d(py::module_& m) {
    py::class_<Convolution>(m, "Convolution")
        .def(py::init([](Pair stride, Pair padding, Pair dilation, int64_t groups, int activation, double slope, int algorithm) {
                 return Convolution{stride, padding, dilation, groups, activation, slope, algorithm};
             }),
             py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"), py::arg("activation") = 0,
             py::arg("slope") = 0.0, py::arg("algorithm") = 0);
    m.def("conv2d", &conv2d, py::arg("input"), py::arg("weight"), py::arg("bias").none(true), py::arg("output"),
          py::arg("convolution"));
    m.def("conv2d_grad_input", &conv2d_grad_input, py::arg("grad_output"), py::arg("weight"), py::arg("grad_input"),
          py::arg("convolution"));
    m.def("conv2d_grad_weight", &conv2d_grad_weight, py::arg("grad_output"), py::arg("input"), py::arg("grad_weight"),
          py::arg("convolution"));
    m.def("conv2d_choice", &conv2d_choice, py::arg("input_shape"), py::arg("weight_shape"), py::arg("output_shape"),
          py::arg("itemsize"), py::arg("convolution"), py::arg("packed"));
    py::class_<Conv2dPlan>(m, "Conv2dPlan")
        .def(py::init<py::array, std::optional<py::array>, const Convolution&>(), py::arg("weight"), py::arg("bias").none(true),
             py::arg("convolution"))
        .def("run", &Conv2dPlan::run, py::arg("input"), py::arg("output"));
}

}  // namespace fastcv
