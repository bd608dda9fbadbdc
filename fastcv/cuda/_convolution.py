"""Convolutions on a device: the arguments and results of the functions for NumPy.

A transposed convolution is another convolution's gradient by its input, so three kernels serve six
functions: only names and roles change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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
)

_FORWARD, _BACKWARD = "conv2d", "conv_transpose2d"  # kernels


class _Convolution(NamedTuple):
    """A convolution's shape as kernels take it, and those of its arrays as the user sees them."""

    argument: tuple[Any, ...]
    image: _checks.Shape
    weight: _checks.Shape
    windows: _checks.Shape


def _conv2d(
    op: str, image: _checks.Shape, weight: _checks.Shape, flat: tuple[Any, ...], **names: str
) -> _Convolution:
    """From the table's flat parameters: stride, (top, bottom, left, right), dilation, groups."""
    stride, (top, bottom, left, right), dilation, groups = flat
    sides = ((top, bottom), (left, right))
    checked_ones = _checks.conv2d_parameters(op, tuple(stride), sides, tuple(dilation), groups)
    geometry = _checks.conv2d_geometry(op, image, weight, checked_ones, **names)
    argument = (
        geometry.input_shape,
        weight,
        geometry.output_shape[2:],
        checked_ones.stride,
        geometry.padding,
        checked_ones.dilation,
        checked_ones.groups,
    )
    return _Convolution(argument, image, weight, geometry.result_shape)


def _conv_transpose2d(
    op: str, windows: _checks.Shape, weight: _checks.Shape, flat: tuple[Any, ...], **names: str
) -> _Convolution:
    """From stride, padding, output_padding, dilation, groups: what it transposes."""
    stride, padding, output_padding, dilation, groups = flat
    checked_ones = _checks.conv_transpose2d_parameters(
        op, tuple(stride), tuple(padding), tuple(output_padding), groups, tuple(dilation)
    )
    geometry = _checks.conv_transpose2d_geometry(op, windows, weight, checked_ones, **names)
    argument = (
        geometry.output_shape,
        weight,
        geometry.input_shape[2:],
        checked_ones.stride,
        checked_ones.padding,
        checked_ones.dilation,
        checked_ones.groups,
    )
    return _Convolution(argument, geometry.result_shape, weight, windows)


def _arrays(framework: Framework, op: str, **arrays: Any) -> list[Memory]:
    """Memory of arrays of one dtype on one device."""
    found: list[Memory] = []
    first_name = next(iter(arrays))
    for name, array in arrays.items():
        memory = checked(framework, op, name, array, FLOATS)
        if found:
            same_device(op, name, memory, first_name, found[0])
            if memory.dtype != found[0].dtype:
                raise TypeError(
                    f"{op}: {name}.dtype must equal {first_name}.dtype, got {memory.dtype} != "
                    f"{found[0].dtype}"
                )
        found.append(memory)
    return found


def _convolve(
    framework: Framework,
    kernel: str,
    convolution: _Convolution,
    like: Any,
    x: Memory,
    weight: Memory,
    epilogue: tuple[int, int, int, float] = (0, 0, 0, 0.0),
) -> Any:
    shape = convolution.windows if kernel == _FORWARD else convolution.image
    last = is_channels_last(x)
    result = empty_images(framework, shape, x.dtype, like, last)
    kernels = extension()
    dtype = getattr(kernels.Dtype, x.dtype)
    workspace_bytes = kernels.conv2d_workspace_bytes(convolution.argument, dtype)
    workspace = framework.empty((workspace_bytes,), "uint8", like)
    getattr(kernels, kernel)(
        convolution.argument,
        dtype,
        x.argument,
        weight.argument,
        (framework.memory(result).address, last),
        epilogue,
        framework.memory(workspace).address,
        (x.device, framework.stream(like)),
    )
    return result


def _correlate(
    framework: Framework, convolution: _Convolution, like: Any, windows: Memory, images: Memory
) -> Any:
    result = framework.empty(convolution.weight, windows.dtype, like)
    kernels = extension()
    dtype = getattr(kernels.Dtype, windows.dtype)
    workspace_bytes = kernels.conv2d_grad_weight_workspace_bytes(convolution.argument, dtype)
    workspace = framework.empty((workspace_bytes,), "uint8", like)
    kernels.conv2d_grad_weight(
        convolution.argument,
        dtype,
        windows.argument,
        images.argument,
        framework.memory(result).address,
        framework.memory(workspace).address,
        (windows.device, framework.stream(like)),
    )
    return result


def _epilogue(
    op: str, bias: Memory | None, activation: str | None, slope: float
) -> tuple[int, int, int, float]:
    chosen = (activation, slope) if activation == "leaky_relu" else activation
    code, checked_slope = _checks.activation(op, chosen)
    address, stride = (0, 0) if bias is None else (bias.address, bias.strides[0])
    return address, stride, code, checked_slope


# Arrays and parameters as fastcv._gradients has them


def _forward(
    framework: Framework,
    input: Any,
    weight: Any,
    bias: Any,
    *parameters: Any,
) -> Any:
    op = "conv2d"
    # A device has one algorithm for all, which is direct.
    *flat, activation, slope, algorithm = parameters
    named = {"input": input, "weight": weight} | ({} if bias is None else {"bias": bias})
    x, w, *rest = _arrays(framework, op, **named)
    convolution = _conv2d(op, x.shape, w.shape, tuple(flat))
    _, _, _, stride, _, dilation, _ = convolution.argument
    _checks.conv2d_algorithm(op, algorithm, w.shape, stride, dilation)
    if algorithm == "winograd":
        raise ValueError(f"{op}: algorithm 'winograd' is the CPU's alone, got tensors on a device")
    if rest:
        _checks.conv2d_bias(op, rest[0].shape, w.shape)
    epilogue = _epilogue(op, rest[0] if rest else None, activation, slope)
    return _convolve(framework, _FORWARD, convolution, input, x, w, epilogue)


def _grad_input(framework: Framework, grad_output: Any, weight: Any, shape: Any, *flat: Any) -> Any:
    op = "conv2d_grad_input"
    y, w = _arrays(framework, op, grad_output=grad_output, weight=weight)
    image = _checks.shape(op, "input_shape", tuple(shape))
    convolution = _conv2d(op, image, w.shape, flat, input_name="input_shape")
    relation = "the shape of the convolution's output"
    _checks.equal_shapes(op, "grad_output.shape", y.shape, relation, convolution.windows)
    return _convolve(framework, _BACKWARD, convolution, grad_output, y, w)


def _grad_weight(framework: Framework, grad_output: Any, input: Any, shape: Any, *flat: Any) -> Any:
    op = "conv2d_grad_weight"
    y, x = _arrays(framework, op, grad_output=grad_output, input=input)
    weight = _checks.shape(op, "weight_shape", tuple(shape))
    convolution = _conv2d(op, x.shape, weight, flat, weight_name="weight_shape")
    relation = "the shape of the convolution's output"
    _checks.equal_shapes(op, "grad_output.shape", y.shape, relation, convolution.windows)
    return _correlate(framework, convolution, grad_output, y, x)


def _transpose(framework: Framework, input: Any, weight: Any, bias: Any, *parameters: Any) -> Any:
    op = "conv_transpose2d"
    *flat, activation, slope = parameters
    named = {"input": input, "weight": weight} | ({} if bias is None else {"bias": bias})
    x, w, *rest = _arrays(framework, op, **named)
    convolution = _conv_transpose2d(op, x.shape, w.shape, tuple(flat))
    if rest:
        _checks.conv_transpose2d_bias(op, rest[0].shape, w.shape, convolution.argument[-1])
    epilogue = _epilogue(op, rest[0] if rest else None, activation, slope)
    return _convolve(framework, _BACKWARD, convolution, input, x, w, epilogue)


def _transpose_grad_input(
    framework: Framework, grad_output: Any, weight: Any, shape: Any, *flat: Any
) -> Any:
    op = "conv_transpose2d_grad_input"
    y, w = _arrays(framework, op, grad_output=grad_output, weight=weight)
    windows = _checks.shape(op, "input_shape", tuple(shape))
    convolution = _conv_transpose2d(op, windows, w.shape, flat, input_name="input_shape")
    relation = "the shape of the transposed convolution's output"
    _checks.equal_shapes(op, "grad_output.shape", y.shape, relation, convolution.image)
    return _convolve(framework, _FORWARD, convolution, grad_output, y, w)


def _transpose_grad_weight(
    framework: Framework, grad_output: Any, input: Any, shape: Any, *flat: Any
) -> Any:
    op = "conv_transpose2d_grad_weight"
    y, x = _arrays(framework, op, grad_output=grad_output, input=input)
    weight = _checks.shape(op, "weight_shape", tuple(shape))
    convolution = _conv_transpose2d(op, x.shape, weight, flat, weight_name="weight_shape")
    relation = "the shape of the transposed convolution's output"
    _checks.equal_shapes(op, "grad_output.shape", y.shape, relation, convolution.image)
    return _correlate(framework, convolution, grad_output, x, y)


FLAT: dict[str, Callable[..., Any]] = {
    "conv2d": _forward,
    "conv2d_grad_input": _grad_input,
    "conv2d_grad_weight": _grad_weight,
    "conv_transpose2d": _transpose,
    "conv_transpose2d_grad_input": _transpose_grad_input,
    "conv_transpose2d_grad_weight": _transpose_grad_weight,
}
