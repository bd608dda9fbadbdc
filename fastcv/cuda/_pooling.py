"""Max pooling and unpooling on a device: the arguments and results of the functions for NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastcv import _checks
from fastcv.cuda._extension import extension
from fastcv.cuda._memory import (
    FLOATS,
    Framework,
    Memory,
    checked,
    empty_images,
    is_channels_last,
    same_device,
    shape4,
)

_INDICES = ("int64", "int32")


def _raise_if(fault: bool, op: str, device: int) -> None:
    if fault:
        raise _checks.late_index_error(op, device)


def _numbers_and_indices(
    framework: Framework, op: str, name: str, numbers: Any, indices: Any
) -> tuple[Memory, Memory]:
    x = checked(framework, op, name, numbers, FLOATS)
    at = checked(framework, op, "indices", indices, _INDICES)
    same_device(op, "indices", at, name, x)
    return x, at


def max_pool2d(
    framework: Framework,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: Any = False,
    return_indices: Any = False,
    *,
    index_dtype: Any = np.int64,
) -> Any:
    op = "max_pool2d"
    x = checked(framework, op, "input", input, FLOATS)
    parameters = _checks.pool2d_parameters(op, kernel_size, stride, padding, dilation, ceil_mode)
    shape = _checks.max_pool2d_shape(op, x.shape, parameters)
    with_indices = _checks.boolean(op, "return_indices", return_indices)
    dtype = _checks.index_dtype(op, index_dtype)
    last = is_channels_last(x)
    output = empty_images(framework, shape, x.dtype, input, last)
    indices, index_argument = None, (0, 0)
    if with_indices:
        _checks.max_pool2d_index_dtype(op, dtype, x.shape)
        indices = empty_images(framework, shape, dtype.name, input, last)
        index_argument = (framework.memory(indices).address, dtype.itemsize)
    kernels = extension()
    fault = kernels.max_pool2d(
        shape4(x.shape),
        shape[-2:],
        parameters[:4],
        getattr(kernels.Dtype, x.dtype),
        x.argument,
        (framework.memory(output).address, last),
        index_argument,
        (x.device, framework.stream(input)),
    )
    _raise_if(fault, op, x.device)
    return (output, indices) if with_indices else output


def _to_planes(
    framework: Framework,
    op: str,
    numbers: Any,
    x: Memory,
    at: Memory,
    shape: _checks.Shape,
) -> Any:
    last = is_channels_last(x)
    result = empty_images(framework, shape, x.dtype, numbers, last)
    kernels = extension()
    workspace_bytes = kernels.indexed_workspace_bytes(math.prod(shape[:-2]))
    workspace = framework.empty((workspace_bytes,), "uint8", numbers)
    fault = getattr(kernels, op)(
        shape4(shape),
        x.shape[-2:],
        getattr(kernels.Dtype, x.dtype),
        x.argument,
        (*at.argument, at.itemsize),
        (framework.memory(result).address, last),
        framework.memory(workspace).address,
        (x.device, framework.stream(numbers)),
    )
    _raise_if(fault, op, x.device)
    return result


def max_pool2d_grad_input(
    framework: Framework, grad_output: Any, indices: Any, input_shape: Any
) -> Any:
    op = "max_pool2d_grad_input"
    grad, at = _numbers_and_indices(framework, op, "grad_output", grad_output, indices)
    shape = _checks.shape(op, "input_shape", input_shape)
    _checks.max_pool2d_grad_shapes(op, grad.shape, at.shape, shape)
    return _to_planes(framework, op, grad_output, grad, at, shape)


def max_unpool2d(
    framework: Framework,
    input: Any,
    indices: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Any:
    op = "max_unpool2d"
    x, at = _numbers_and_indices(framework, op, "input", input, indices)
    parameters = _checks.pool2d_parameters(op, kernel_size, stride, padding)
    size = None if output_size is None else _checks.shape(op, "output_size", output_size)
    shape = _checks.max_unpool2d_shape(op, x.shape, at.shape, parameters, size)
    return _to_planes(framework, op, input, x, at, shape)


def max_unpool2d_grad_input(framework: Framework, grad_output: Any, indices: Any) -> Any:
    op = "max_unpool2d_grad_input"
    grad, at = _numbers_and_indices(framework, op, "grad_output", grad_output, indices)
    _checks.max_unpool2d_grad_shapes(op, grad.shape, at.shape)
    last = is_channels_last(grad)
    result = empty_images(framework, at.shape, grad.dtype, grad_output, last)
    kernels = extension()
    fault = kernels.max_unpool2d_grad_input(
        shape4(grad.shape),
        at.shape[-2:],
        getattr(kernels.Dtype, grad.dtype),
        grad.argument,
        (*at.argument, at.itemsize),
        (framework.memory(result).address, last),
        (grad.device, framework.stream(grad_output)),
    )
    _raise_if(fault, op, grad.device)
    return result


# Arrays and parameters as fastcv._gradients has them


def _flat_pool(framework: Framework, input: Any, *parameters: Any) -> tuple[Any, Any]:
    *window, with_indices, dtype = parameters
    kernel_size, stride, padding, dilation, ceil_mode = window
    found = max_pool2d(
        framework,
        input,
        kernel_size,
        stride,
        padding,
        dilation,
        ceil_mode,
        with_indices,
        index_dtype=dtype,
    )
    return found if with_indices else (found, framework.empty((0,), dtype, input))


def _flat_grad_input(framework: Framework, grad_output: Any, indices: Any, shape: Any) -> Any:
    return max_pool2d_grad_input(framework, grad_output, indices, tuple(shape))


def _flat_unpool(
    framework: Framework,
    input: Any,
    indices: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    size: Any,
) -> Any:
    size = None if size is None else tuple(size)
    return max_unpool2d(framework, input, indices, kernel_size, stride, padding, size)


FLAT: dict[str, Callable[..., Any]] = {
    "max_pool2d": _flat_pool,
    "max_pool2d_grad_input": _flat_grad_input,
    "max_unpool2d": _flat_unpool,
    "max_unpool2d_grad_input": max_unpool2d_grad_input,
}
