"""Fast computer-vision kernels for NumPy arrays."""

from fastcv._config import get_include, get_num_threads, set_num_threads, show_config
from fastcv.ops.conv2d import Conv2d, conv2d, conv2d_grad_input, conv2d_grad_weight
from fastcv.ops.conv_transpose2d import (
    ConvTranspose2d,
    conv_transpose2d,
    conv_transpose2d_grad_input,
    conv_transpose2d_grad_weight,
)
from fastcv.ops.detr_match import detr_match
from fastcv.ops.gram_matrix import gram_matrix, gram_matrix_grad_input
from fastcv.ops.linear_sum_assignment import linear_sum_assignment, linear_sum_assignment_batch
from fastcv.ops.max_pool2d import max_pool2d, max_pool2d_grad_input
from fastcv.ops.max_unpool2d import max_unpool2d, max_unpool2d_grad_input
from fastcv.ops.scaled_dot_product_attention import (
    scaled_dot_product_attention,
    scaled_dot_product_attention_grad,
)

__all__ = [
    "Conv2d",
    "ConvTranspose2d",
    "conv2d",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "conv_transpose2d",
    "conv_transpose2d_grad_input",
    "conv_transpose2d_grad_weight",
    "detr_match",
    "get_include",
    "get_num_threads",
    "gram_matrix",
    "gram_matrix_grad_input",
    "linear_sum_assignment",
    "linear_sum_assignment_batch",
    "max_pool2d",
    "max_pool2d_grad_input",
    "max_unpool2d",
    "max_unpool2d_grad_input",
    "scaled_dot_product_attention",
    "scaled_dot_product_attention_grad",
    "set_num_threads",
    "show_config",
]


def __getattr__(name: str) -> str:
    # Looked up when asked for: importlib.metadata would double the time that the import takes.
    if name == "__version__":
        from fastcv._config import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
