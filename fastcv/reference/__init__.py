"""The ops in plain NumPy: what the compiled kernels compute, to read and to compare with.

Each function takes what its namesake in `fastcv` takes (but `algorithm` and `out`), checks shapes
and parameters alike, and computes in float64 whatever the dtype of its arrays.

Shapes: N images, C input channels, K filters, G groups, a window of R x S taps, H x W input pixels,
P x Q output pixels.
"""

from fastcv.reference.assignment import detr_costs, detr_match, linear_sum_assignment
from fastcv.reference.attention import (
    scaled_dot_product_attention,
    scaled_dot_product_attention_grad,
)
from fastcv.reference.convolution import (
    conv2d,
    conv2d_grad_input,
    conv2d_grad_weight,
    conv_transpose2d,
    conv_transpose2d_grad_input,
    conv_transpose2d_grad_weight,
)
from fastcv.reference.gram_matrix import gram_matrix, gram_matrix_grad_input
from fastcv.reference.pooling import (
    max_pool2d,
    max_pool2d_grad_input,
    max_unpool2d,
    max_unpool2d_grad_input,
)

__all__ = [
    "conv2d",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "conv_transpose2d",
    "conv_transpose2d_grad_input",
    "conv_transpose2d_grad_weight",
    "detr_costs",
    "detr_match",
    "gram_matrix",
    "gram_matrix_grad_input",
    "linear_sum_assignment",
    "max_pool2d",
    "max_pool2d_grad_input",
    "max_unpool2d",
    "max_unpool2d_grad_input",
    "scaled_dot_product_attention",
    "scaled_dot_product_attention_grad",
]
