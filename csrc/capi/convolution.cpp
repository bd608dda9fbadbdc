// conv2d, conv_transpose2d and their gradients for other compiled code.
//
// All six are one relation between three arrays: a convolution maps `wide` to `narrow`, a transposed one the other way round, and
// which of the three is the result makes the function or one of its gradients.
#include "arrays.h"

namespace fastcv::capi {
namespace {

constexpr fastcv_conv2d_parameters kDefaults = FASTCV_CONV2D_DEFAULTS;

// wide (N, C, H, W), weight (K, C // G, R, S), narrow (N, K, P, Q): the shape that the kernels take.
Conv2dShape relation(Check& check, const Array& wide, const Array& weight, const Array& narrow, const fastcv_conv2d_parameters& p,
                     bool transposed) {
    Conv2dShape s{};
    check.same_dtype(wide, weight);
    check.same_dtype(wide, narrow);
    check.parameter(p.groups >= 1);
    for (int axis = 0; axis < 2; axis++)
        check.parameter(p.stride[axis] >= 1 && p.stride[axis] <= kMaxSize && p.dilation[axis] >= 1 && p.dilation[axis] <= kMaxSize);
    for (const int64_t side : p.padding) check.parameter(side >= 0 && side <= kMaxSize);
    if (check.failed()) return s;

    s.N = wide.shape[0], s.C = wide.shape[1], s.H = wide.shape[2], s.W = wide.shape[3];
    s.K = weight.shape[0], s.R = weight.shape[2], s.S = weight.shape[3];
    s.P = narrow.shape[2], s.Q = narrow.shape[3];
    s.stride_h = p.stride[0], s.stride_w = p.stride[1];
    s.pad_top = p.padding[0], s.pad_left = p.padding[2];
    s.dilation_h = p.dilation[0], s.dilation_w = p.dilation[1];
    s.G = p.groups;
    check.shape(narrow.shape[0] == s.N && narrow.shape[1] == s.K);
    check.shape(s.C % s.G == 0 && s.K % s.G == 0 && weight.shape[1] == s.C / s.G && s.R >= 1 && s.S >= 1);
    check.shape(s.N == 0 || (transposed ? s.P && s.Q : s.C == 0 || (s.H && s.W)));
    double padded = double(s.N) * double(s.C);
    for (int axis = 0; axis < 2; axis++) {
        const Wide large = wide.shape[2 + axis], small = narrow.shape[2 + axis], stride = p.stride[axis];
        const Wide padding = Wide(p.padding[2 * axis]) + p.padding[2 * axis + 1];
        const Wide window = Wide(p.dilation[axis]) * (weight.shape[2 + axis] - 1) + 1;
        padded *= double(large + padding);
        if (transposed) {
            // What lies beyond the windows is output_padding: less than the stride or the dilation.
            const Wide beyond = large + padding - (stride * (small - 1) + window);
            check.shape(large >= 1 && beyond >= 0 && (beyond < stride || beyond < p.dilation[axis]));
        } else {
            check.shape(window <= large + padding && small == (large + padding - window) / stride + 1);
        }
    }
    check.shape(padded < double(kMaxSize));
    return s;
}

Epilogue epilogue(Check& check, const fastcv_array* bias, const Array& like, int64_t filters, const fastcv_conv2d_parameters& p) {
    Epilogue e;
    check.parameter(p.activation >= FASTCV_NO_ACTIVATION && p.activation <= FASTCV_GELU);
    if (bias) {
        const Array b = check.floats(bias, 1, 1);
        check.same_dtype(b, like);
        check.shape(b.shape[0] == filters);
        e.bias = b.data, e.bias_stride_bytes = b.stride_bytes[0];
    }
    e.activation = static_cast<Activation>(p.activation);
    e.slope = p.slope;
    return e;
}

// Minimal filtering serves dense windows of several taps, at most 11 x 11, that split into phases of at most 5.
bool winograd_applies(const Conv2dShape& s) {
    const auto axis = [](int64_t taps, int64_t stride, int64_t dilation) {
        return taps == 1 || stride == 1 || (dilation == 1 && (taps + stride - 1) / stride <= 5);
    };
    return s.R * s.S > 1 && s.R * s.S <= 121 && axis(s.R, s.stride_h, s.dilation_h) && axis(s.S, s.stride_w, s.dilation_w);
}

int run_conv2d(const fastcv_array* input, const fastcv_array* weight, const fastcv_array* bias, const fastcv_array* output,
               const fastcv_conv2d_parameters& p, bool transposed) {
    Check check;
    const Array x = check.image(input), w = check.floats(weight, 4, 4), y = check.image(output);
    check.both_batched(input, output);
    const Conv2dShape s = relation(check, x, w, y, p, transposed);
    const Epilogue e = epilogue(check, bias, x, s.K, p);
    check.parameter(p.algorithm == FASTCV_AUTO || p.algorithm == FASTCV_DIRECT ||
                    (p.algorithm == FASTCV_WINOGRAD && !check.failed() && winograd_applies(s)));
    if (check.failed()) return check.status();
    return status_of(kernels().conv2d(s, x.itemsize, static_cast<Conv2dAlgorithm>(p.algorithm), x.tensor(), w.tensor(), y.tensor(), e));
}

int run_transposed(const fastcv_array* input, const fastcv_array* weight, const fastcv_array* bias, const fastcv_array* output,
                   const fastcv_conv2d_parameters& p, bool transposed) {
    Check check;
    const Array x = check.image(input), w = check.floats(weight, 4, 4), y = check.image(output);
    check.both_batched(input, output);
    const Conv2dShape s = relation(check, y, w, x, p, transposed);
    const Epilogue e = epilogue(check, bias, x, s.C, p);
    if (check.failed()) return check.status();
    return status_of(kernels().conv_transpose2d(s, x.itemsize, x.tensor(), w.tensor(), y.tensor(), e));
}

int run_grad_weight(const fastcv_array* wide, const fastcv_array* narrow, const fastcv_array* grad_weight,
                    const fastcv_conv2d_parameters& p, bool transposed) {
    Check check;
    const Array x = check.image(wide), y = check.image(narrow), w = check.floats(grad_weight, 4, 4);
    check.both_batched(wide, narrow);
    const Conv2dShape s = relation(check, x, w, y, p, transposed);
    if (check.failed()) return check.status();
    return status_of(kernels().conv2d_grad_weight(s, x.itemsize, y.tensor(), x.tensor(), w.tensor()));
}

const fastcv_conv2d_parameters& or_defaults(const fastcv_conv2d_parameters* p) { return p ? *p : kDefaults; }

// Gradients take the parameters of their function, whose activation they do not know.
fastcv_conv2d_parameters plain(const fastcv_conv2d_parameters* p) {
    fastcv_conv2d_parameters result = or_defaults(p);
    result.activation = FASTCV_NO_ACTIVATION;
    result.algorithm = FASTCV_AUTO;
    return result;
}

}  // namespace

int conv2d(const fastcv_array* input, const fastcv_array* weight, const fastcv_array* bias, const fastcv_array* output,
           const fastcv_conv2d_parameters* p) {
    return run_conv2d(input, weight, bias, output, or_defaults(p), false);
}
int conv2d_grad_input(const fastcv_array* grad_output, const fastcv_array* weight, const fastcv_array* grad_input,
                      const fastcv_conv2d_parameters* p) {
    return run_transposed(grad_output, weight, nullptr, grad_input, plain(p), false);
}
int conv2d_grad_weight(const fastcv_array* grad_output, const fastcv_array* input, const fastcv_array* grad_weight,
                       const fastcv_conv2d_parameters* p) {
    return run_grad_weight(input, grad_output, grad_weight, plain(p), false);
}

int conv_transpose2d(const fastcv_array* input, const fastcv_array* weight, const fastcv_array* bias, const fastcv_array* output,
                     const fastcv_conv2d_parameters* p) {
    return run_transposed(input, weight, bias, output, or_defaults(p), true);
}
int conv_transpose2d_grad_input(const fastcv_array* grad_output, const fastcv_array* weight, const fastcv_array* grad_input,
                                const fastcv_conv2d_parameters* p) {
    return run_conv2d(grad_output, weight, nullptr, grad_input, plain(p), true);
}
int conv_transpose2d_grad_weight(const fastcv_array* grad_output, const fastcv_array* input, const fastcv_array* grad_weight,
                                 const fastcv_conv2d_parameters* p) {
    return run_grad_weight(grad_output, input, grad_weight, plain(p), true);
}

}  // namespace fastcv::capi
