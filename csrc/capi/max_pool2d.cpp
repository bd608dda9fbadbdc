// max_pool2d, max_unpool2d and their gradients for other compiled code.
#include "arrays.h"

namespace fastcv::capi {
namespace {

// (N, C, P, Q) numbers with an index each, and the (N, C, H, W) planes that they point into. The result is packed.
IndexedShape indexed(Check& check, const Array& numbers, const Array& indices, const Array& planes, const Array& result) {
    check.same_dtype(numbers, planes);
    check.same_axes(numbers, indices, 0, 4);
    check.same_axes(numbers, planes, 0, 2);
    check.need(result.packed(), FASTCV_BAD_ARRAY);
    return {planes.shape[0], planes.shape[1], planes.shape[2], planes.shape[3], numbers.shape[2], numbers.shape[3]};
}

}  // namespace

int max_pool2d(const fastcv_array* input, const fastcv_array* output, const fastcv_array* indices,
               const fastcv_pool2d_parameters* p) {
    Check check;
    const Array x = check.image(input), y = check.image(output), at = indices ? check.indices(indices) : Array();
    check.both_batched(input, output);
    check.parameter(p);
    if (check.failed()) return check.status();
    Pool2dShape s{};
    s.N = x.shape[0], s.C = x.shape[1], s.H = x.shape[2], s.W = x.shape[3];
    s.R = p->kernel_size[0], s.S = p->kernel_size[1];
    s.P = y.shape[2], s.Q = y.shape[3];
    s.stride_h = p->stride[0], s.stride_w = p->stride[1];
    s.pad_top = p->padding[0], s.pad_left = p->padding[1];
    s.dilation_h = p->dilation[0], s.dilation_w = p->dilation[1];

    check.same_dtype(x, y);
    check.same_axes(x, y, 0, 2);
    check.shape(s.C && s.H && s.W);
    for (int axis = 0; axis < 2; axis++) {
        const int64_t taps = p->kernel_size[axis], stride = p->stride[axis], pad = p->padding[axis], dilation = p->dilation[axis];
        check.parameter(taps >= 1 && taps <= kMaxSize && stride >= 1 && stride <= kMaxSize && dilation >= 1 &&
                        dilation <= kMaxSize && pad >= 0 && pad <= taps / 2);
        if (check.failed()) return check.status();
        // A last window that reaches beyond the padding (ceil_mode) begins before the image's end.
        const Wide size = x.shape[2 + axis], extent = y.shape[2 + axis], window = Wide(dilation) * (taps - 1) + 1;
        const Wide spare = size + 2 * Wide(pad) - window, last = (extent - 1) * stride;
        const bool usual = spare >= 0 && extent == spare / stride + 1;
        const bool ceiled = spare + stride - 1 >= 0 && extent == (spare + stride - 1) / stride + 1 && last < size + pad;
        check.shape(extent >= 1 && (usual || ceiled));
    }
    check.need(y.packed(), FASTCV_BAD_ARRAY);
    if (indices) {
        check.same_axes(y, at, 0, 4);
        check.need((y.contiguous() && at.contiguous()) || (y.channels_last() && at.channels_last()), FASTCV_BAD_ARRAY);
        check.shape(at.itemsize == 8 || Wide(s.H) * s.W <= INT32_MAX);
    }
    if (check.failed()) return check.status();
    return status_of(kernels().max_pool2d(s, x.itemsize, at.itemsize, x.tensor(), y.tensor(), at.tensor()));
}

int max_pool2d_grad_input(const fastcv_array* grad_output, const fastcv_array* indices, const fastcv_array* grad_input) {
    Check check;
    const Array dy = check.image(grad_output), at = check.indices(indices), dx = check.image(grad_input);
    check.both_batched(grad_output, grad_input);
    const IndexedShape s = indexed(check, dy, at, dx, dx);
    if (check.failed()) return check.status();
    return status_of(kernels().max_pool2d_grad_input(s, dy.itemsize, at.itemsize, dy.tensor(), at.tensor(), dx.tensor()));
}

int max_unpool2d(const fastcv_array* input, const fastcv_array* indices, const fastcv_array* output) {
    Check check;
    const Array x = check.image(input), at = check.indices(indices), y = check.image(output);
    check.both_batched(input, output);
    const IndexedShape s = indexed(check, x, at, y, y);
    if (check.failed()) return check.status();
    return status_of(kernels().max_unpool2d(s, x.itemsize, at.itemsize, x.tensor(), at.tensor(), y.tensor()));
}

int max_unpool2d_grad_input(const fastcv_array* grad_output, const fastcv_array* indices, const fastcv_array* grad_input) {
    Check check;
    const Array dy = check.image(grad_output), at = check.indices(indices), dx = check.image(grad_input);
    check.both_batched(grad_output, grad_input);
    const IndexedShape s = indexed(check, dx, at, dy, dx);
    if (check.failed()) return check.status();
    return status_of(kernels().max_unpool2d_grad_input(s, dy.itemsize, at.itemsize, dy.tensor(), at.tensor(), dx.tensor()));
}

}  // namespace fastcv::capi
