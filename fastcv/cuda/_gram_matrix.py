"""Gram matrices on a device: the arguments and results of the functions for NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastcv import _checks
from fastcv.cuda._extension import extension
from fastcv.cuda._memory import (
    FLOATS,
    Framework,
    checked,
    empty_images,
    is_channels_last,
    same_device,
    shape4,
)


def gram_matrix(framework: Framework, input: Any, scale: Any = None) -> Any:
    op = "gram_matrix"
    x = checked(framework, op, "input", input, FLOATS)
    shape = _checks.gram_matrix_shape(op, x.shape)
    factor = _checks.gram_matrix_scale(op, scale, x.shape)
    kernels = extension()
    dtype = getattr(kernels.Dtype, x.dtype)
    output = framework.empty(shape, x.dtype, input)
    workspace_bytes = kernels.gram_matrix_workspace_bytes(shape4(x.shape), dtype)
    workspace = framework.empty((workspace_bytes,), "uint8", input)
    kernels.gram_matrix(
        shape4(x.shape),
        dtype,
        factor,
        x.argument,
        framework.memory(output).address,
        framework.memory(workspace).address,
        (x.device, framework.stream(input)),
    )
    return output


def gram_matrix_grad_input(
    framework: Framework, grad_output: Any, input: Any, scale: Any = None
) -> Any:
    op = "gram_matrix_grad_input"
    grad = checked(framework, op, "grad_output", grad_output, FLOATS)
    x = checked(framework, op, "input", input, (grad.dtype,))
    same_device(op, "input", x, "grad_output", grad)
    shape = _checks.gram_matrix_shape(op, x.shape)
    _checks.equal_shapes(
        op, "grad_output.shape", grad.shape, "the shape of the Gram matrices", shape
    )
    factor = _checks.gram_matrix_scale(op, scale, x.shape)
    last = is_channels_last(x)
    grad_input = empty_images(framework, x.shape, x.dtype, input, last)
    kernels = extension()
    strides = (0,) * (3 - len(grad.strides)) + grad.strides + (0,)
    kernels.gram_matrix_grad_input(
        shape4(x.shape),
        getattr(kernels.Dtype, x.dtype),
        factor,
        (grad.address, strides),
        x.argument,
        (framework.memory(grad_input).address, last),
        (grad.device, framework.stream(grad_output)),
    )
    return grad_input


FLAT: dict[str, Callable[..., Any]] = {
    "gram_matrix": gram_matrix,
    "gram_matrix_grad_input": gram_matrix_grad_input,
}
