// gram_matrix and its gradient for other compiled code.
#include "arrays.h"

namespace fastcv::capi {
namespace {

GramShape shape_of(Check& check, const Array& image, const Array& gram) {
    check.same_dtype(image, gram);
    check.shape(gram.shape[0] == image.shape[0] && gram.shape[1] == image.shape[1] && gram.shape[2] == image.shape[1]);
    return {image.shape[0], image.shape[1], image.shape[2], image.shape[3]};
}

}  // namespace

int gram_matrix(const fastcv_array* input, const fastcv_array* output, double scale) {
    Check check;
    const Array x = check.image(input), y = check.batched(check.floats(output, 2, 3), 3);
    const GramShape s = shape_of(check, x, y);
    if (!check.failed()) check.shape(input->ndim == output->ndim + 1);
    check.need(y.shape[2] <= 1 || y.stride_bytes[2] == y.itemsize, FASTCV_BAD_ARRAY);
    if (check.failed()) return check.status();
    return status_of(kernels().gram_matrix(s, x.itemsize, scale, x.tensor(), y.tensor()));
}

int gram_matrix_grad_input(const fastcv_array* grad_output, const fastcv_array* input, const fastcv_array* grad_input,
                           double scale) {
    Check check;
    const Array dy = check.batched(check.floats(grad_output, 2, 3), 3), x = check.image(input), dx = check.image(grad_input);
    const GramShape s = shape_of(check, x, dy);
    check.same_dtype(x, dx);
    check.both_batched(input, grad_input);
    check.same_axes(x, dx, 0, 4);
    if (!check.failed()) check.shape(input->ndim == grad_output->ndim + 1);
    check.need(dx.packed(), FASTCV_BAD_ARRAY);
    if (check.failed()) return check.status();
    return status_of(kernels().gram_matrix_grad_input(s, x.itemsize, scale, dy.tensor(), x.tensor(), dx.tensor()));
}

}  // namespace fastcv::capi
