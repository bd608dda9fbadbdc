// conv_transpose2d, its gradients, and the plan that packs weights once.
//
// Everything here is a convolution's: a transposed convolution maps the convolution's outputs to its inputs, so what Python calls
// input stands where `shape_of` and the kernels have the output, and the other way round. The weight array is the same.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../dispatch.h"
#include "convolution.h"

namespace fastcv {
namespace {

void conv_transpose2d(const py::array& input, const py::array& weight, const std::optional<py::array>& bias,
                      const py::array& output, const Convolution& c) {
    const Conv2dShape s = shape_of(output, weight, input, c);
    const Epilogue e = epilogue_of(bias, c);
    const Tensor x = image_tensor(input), w = tensor(weight), y = image_tensor(output);
    const int itemsize = int(input.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().conv_transpose2d(s, itemsize, x, w, y, e);
    }
    raise_unless_ok(status);
}

void conv_transpose2d_grad_input(const py::array& grad_output, const py::array& weight, const py::array& grad_input,
                                 const Convolution& c) {
    const Conv2dShape s = shape_of(grad_output, weight, grad_input, c);
    const Tensor dy = image_tensor(grad_output), w = tensor(weight), dx = image_tensor(grad_input);
    const int itemsize = int(weight.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().conv2d(s, itemsize, Conv2dAlgorithm::automatic, dy, w, dx, Epilogue{});
    }
    raise_unless_ok(status);
}

void conv_transpose2d_grad_weight(const py::array& grad_output, const py::array& input, const py::array& grad_weight,
                                  const Convolution& c) {
    const Conv2dShape s = shape_of(grad_output, grad_weight, input, c);
    const Tensor dy = image_tensor(grad_output), x = image_tensor(input), dw = tensor(grad_weight);
    const int itemsize = int(input.itemsize());
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().conv2d_grad_weight(s, itemsize, x, dy, dw);
    }
    raise_unless_ok(status);
}

std::pair<std::string, std::string> conv_transpose2d_choice(const std::vector<int64_t>& input_shape,
                                                            const std::vector<int64_t>& weight_shape,
                                                            const std::vector<int64_t>& output_shape, int itemsize,
                                                            const Convolution& convolution, bool packed) {
    const Conv2dShape s = shape_of(output_shape.data(), weight_shape.data(), input_shape.data(), convolution);
    const ConvTranspose2dChoice c = kernels().conv_transpose2d_choose(s, itemsize, packed, {s.P * s.Q == 1, s.H * s.W == 1});
    if (c.kind == ConvTranspose2dChoice::convolution) return {name_of(c.as_convolution), reason_of(c.as_convolution)};
    if (c.kind == ConvTranspose2dChoice::depthwise)
        return {"depthwise", "with stride 2, a pixel feeds four phases of the outputs"};
    if (c.kind == ConvTranspose2dChoice::pixel) return {"pixel", "an image of one pixel scales whole windows"};
    const std::string phases = "with a stride, each phase of the outputs is a convolution of its own";
    if (c.kind == ConvTranspose2dChoice::winograd)
        return {name_of(c.as_convolution), phases + "; one transform of the input serves them all"};
    if (c.kind == ConvTranspose2dChoice::phases) return {"phases", phases};
    return {"phases_channels", phases + "; rows are too short for vectors of pixels"};
}

// A transposed convolution whose weights are packed once, for each kernel that its inputs turn out to want.
class ConvTranspose2dPlan {
public:
    ConvTranspose2dPlan(py::array weight, std::optional<py::array> bias, const Convolution& convolution)
        : weight_(std::move(weight)),
          bias_(std::move(bias)),
          convolution_(convolution),
          weights_(tensor(weight_)),
          epilogue_(epilogue_of(bias_, convolution)) {}

    void run(const py::array& input, const py::array& output) {
        const Conv2dShape s = shape_of(output, weight_, input, convolution_);
        const Tensor x = image_tensor(input), y = image_tensor(output);
        const int itemsize = int(weight_.itemsize());
        Status status;
        {
            py::gil_scoped_release release;
            const ConvTranspose2dChoice choice =
                kernels().conv_transpose2d_choose(s, itemsize, true, channels_last(x, y, itemsize));
            const int64_t bytes = kernels().conv_transpose2d_packed_bytes(s, itemsize, choice);
            ConvTranspose2dPacked packed;
            status = packings_.find(choice, bytes, &packed, [&](void* to) {
                return kernels().conv_transpose2d_pack(s, itemsize, choice, weights_, to);
            });
            if (status == Status::ok)
                status = kernels().conv_transpose2d_packed(s, itemsize, packed, x, weights_, y, epilogue_);
        }
        raise_unless_ok(status);
    }

private:
    py::array weight_;
    std::optional<py::array> bias_;
    Convolution convolution_;
    Tensor weights_;
    Epilogue epilogue_;
    Packings<ConvTranspose2dPacked> packings_;
};

}  // namespace

void bind_conv_transpose2d(py::module_& m) {
    m.def("conv_transpose2d", &conv_transpose2d, py::arg("input"), py::arg("weight"), py::arg("bias").none(true),
          py::arg("output"), py::arg("convolution"));
    m.def("conv_transpose2d_grad_input", &conv_transpose2d_grad_input, py::arg("grad_output"), py::arg("weight"),
          py::arg("grad_input"), py::arg("convolution"));
    m.def("conv_transpose2d_grad_weight", &conv_transpose2d_grad_weight, py::arg("grad_output"), py::arg("input"),
          py::arg("grad_weight"), py::arg("convolution"));
    m.def("conv_transpose2d_choice", &conv_transpose2d_choice, py::arg("input_shape"), py::arg("weight_shape"),
          py::arg("output_shape"), py::arg("itemsize"), py::arg("convolution"), py::arg("packed"));
    py::class_<ConvTranspose2dPlan>(m, "ConvTranspose2dPlan")
        .def(py::init<py::array, std::optional<py::array>, const Convolution&>(), py::arg("weight"), py::arg("bias").none(true),
             py::arg("convolution"))
        .def("run", &ConvTranspose2dPlan::run, py::arg("input"), py::arg("output"));
}

}  // namespace fastcv
