"""Convolution, and what transposed convolution shares with it: padding, activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

from fastcv._checks.arrays import equal_shapes
from fastcv._checks.values import (
    IntOrPair,
    Pair,
    Shape,
    Shape4,
    Sides,
    describe,
    fits,
    integer,
    named,
    pair,
    real,
)

Padding: TypeAlias = IntOrPair | Sequence[IntOrPair] | Literal["valid", "same"]
Activation: TypeAlias = (
    Literal["relu", "relu6", "sigmoid", "tanh", "silu", "gelu"]
    | tuple[Literal["leaky_relu"], float]
    | None
)
Algorithm: TypeAlias = Literal["auto", "direct", "winograd"]

# The codes that the compiled kernels take.
_PLAIN_ACTIVATIONS = {"relu": 1, "relu6": 2, "sigmoid": 4, "tanh": 5, "silu": 6, "gelu": 7}
_LEAKY_RELU = 3
_ALGORITHMS = {"auto": 0, "direct": 1, "winograd": 2}


def padding_sides(op: str, value: Any) -> Sides | Literal["same"]:
    """Return ((top, bottom), (left, right)), or "same", whose sides the window decides."""
    if type(value) is not int:
        if isinstance(value, str):
            if value == "same":
                return "same"
            if value == "valid":
                return (0, 0), (0, 0)
            raise ValueError(f'{op}: padding must be "valid", "same" or integers, got {value!r}')
        if isinstance(value, (tuple, list)) and len(value) == 2:
            rows, columns = value
            return pair(op, "padding[0]", rows, 0), pair(op, "padding[1]", columns, 0)
    every_side = pair(op, "padding", value, 0)
    return every_side, every_side


def activation(op: str, value: Any) -> tuple[int, float]:
    """Return the activation's code and the slope of the leaky one."""
    if value is None:
        return 0, 0.0
    if isinstance(value, str):
        code = _PLAIN_ACTIVATIONS.get(value)
        if code is not None:
            return code, 0.0
    elif not isinstance(value, tuple):
        raise TypeError(f"{op}: activation must be None, a str or a tuple, got {describe(value)}")
    elif len(value) == 2 and isinstance(value[0], str) and value[0] == "leaky_relu":
        return _LEAKY_RELU, real(op, "activation[1]", value[1])
    names = ", ".join(repr(name) for name in _PLAIN_ACTIVATIONS)
    raise ValueError(
        f"{op}: activation must be None, {names} or ('leaky_relu', slope), got {describe(value)}"
    )


class Conv2dParameters(NamedTuple):
    """The parameters of a convolution, checked. "same" padding waits for the window."""

    stride: Pair
    padding: Sides | Literal["same"]
    dilation: Pair
    groups: int


class Conv2dGeometry(NamedTuple):
    """What a convolution's shapes and parameters amount to."""

    input_shape: Shape4
    output_shape: Shape4
    result_shape: Shape  # output_shape, without the batch axis where the input has none
    padding: Pair  # top, left


def conv2d_parameters(
    op: str, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Conv2dParameters:
    """Check the parameters that shapes play no part in."""
    parameters = Conv2dParameters(
        pair(op, "stride", stride, 1),
        padding_sides(op, padding),
        pair(op, "dilation", dilation, 1),
        integer(op, "groups", groups, 1),
    )
    if parameters.padding == "same" and parameters.stride != (1, 1):
        raise ValueError(f'{op}: padding "same" needs stride 1, got stride {parameters.stride}')
    return parameters


def conv2d_weight(
    op: str,
    name: str,
    weight_shape: Shape,
    groups: int,
    axes: str = "(K, C // groups, R, S)",
    fewest: int = 0,
) -> None:
    """Check the weight's shape as far as the input plays no part in it.

    A transposed convolution's has other ``axes``, and the second is at least ``fewest``.
    """
    weight = named({name: weight_shape})
    if len(weight_shape) != 4:
        raise ValueError(f"{op}: {name} must have 4 axes {axes}, got {len(weight_shape)} {weight}")
    first, second, rows, columns = weight_shape
    if first == 0 or first % groups:
        raise ValueError(
            f"{op}: {name}[0] must be a positive multiple of groups, got {first} and {groups} "
            f"{weight}"
        )
    if second < fewest:
        raise ValueError(f"{op}: {name}[1] must be at least {fewest}, got {second} {weight}")
    if rows == 0 or columns == 0:
        raise ValueError(f"{op}: {name}[2:] must be at least 1, got {rows} x {columns} {weight}")
    fits(op, name, weight_shape)


def conv2d_bias(op: str, bias_shape: Shape, weight_shape: Shape) -> None:
    """Require one bias per filter."""
    equal_shapes(op, "bias.shape", bias_shape, "(weight.shape[0],)", weight_shape[:1])


def conv2d_grad_output(op: str, grad_shape: Shape, geometry: Conv2dGeometry) -> None:
    """Require a gradient in the shape of the convolution's output."""
    relation = "the shape of the convolution's output"
    equal_shapes(op, "grad_output.shape", grad_shape, relation, geometry.result_shape)


def conv2d_sides(weight_shape: Shape, parameters: Conv2dParameters) -> Sides:
    """Return ((top, bottom), (left, right)). Where "same" is odd, bottom and right get more."""
    if parameters.padding != "same":
        return parameters.padding
    row_span = parameters.dilation[0] * (weight_shape[2] - 1)
    column_span = parameters.dilation[1] * (weight_shape[3] - 1)
    return (
        (row_span // 2, row_span - row_span // 2),
        (column_span // 2, column_span - column_span // 2),
    )


def conv2d_algorithm(op: str, value: Any, weight_shape: Shape, stride: Pair, dilation: Pair) -> int:
    """Return the algorithm's code, if a convolution with these parameters can have it."""
    code = _ALGORITHMS.get(value) if isinstance(value, str) else None
    if code is None:
        names = ", ".join(repr(name) for name in _ALGORITHMS)
        wrong = ValueError if isinstance(value, str) else TypeError
        raise wrong(f"{op}: algorithm must be one of {names}, got {describe(value)}")
    if value == "winograd" and not _winograd_applies(weight_shape[2:], stride, dilation):
        raise ValueError(
            f"{op}: algorithm 'winograd' needs a window of 2 to 121 taps and, along a stride, no "
            f"dilation and at most 5 taps a stride apart, got weight.shape[2:] "
            f"{weight_shape[2:]}, stride {stride} and dilation {dilation}"
        )
    return code


def _winograd_applies(window: Shape, stride: Pair, dilation: Pair) -> bool:
    along_strides = (
        taps == 1 or step == 1 or (distance == 1 and taps <= 5 * step)
        for taps, step, distance in zip(window, stride, dilation, strict=True)
    )
    return 1 < math.prod(window) <= 121 and all(along_strides)


@lru_cache(maxsize=256)
def conv2d_geometry(
    op: str,
    input_shape: Shape,
    weight_shape: Shape,
    parameters: Conv2dParameters,
    input_name: str = "input.shape",
    weight_name: str = "weight.shape",
) -> Conv2dGeometry:
    """Check shapes against each other and work out the output's."""
    stride, _, dilation, groups = parameters
    conv2d_weight(op, weight_name, weight_shape, groups)
    shapes = named({input_name: input_shape, weight_name: weight_shape})

    if len(input_shape) not in (3, 4):
        raise ValueError(
            f"{op}: {input_name} must have 4 axes (N, C, H, W) or 3 (C, H, W), "
            f"got {len(input_shape)} {shapes}"
        )
    batch_axes = len(input_shape) - 3
    batch, channels, height, width = (1,) * (1 - batch_axes) + input_shape
    filters, group_channels = weight_shape[:2]
    if channels % groups:
        raise ValueError(
            f"{op}: {input_name}[{batch_axes}] must be a multiple of groups, "
            f"got {channels} and {groups} {shapes}"
        )
    if group_channels != channels // groups:
        raise ValueError(
            f"{op}: {weight_name}[1] must equal {input_name}[{batch_axes}] // groups, "
            f"got {group_channels} != {channels} // {groups} {shapes}"
        )
    if batch and channels and not (height and width):
        raise ValueError(
            f"{op}: {input_name}[{batch_axes + 1}:] must be at least 1 unless there are no images "
            f"or no channels, got {height} x {width} {shapes}"
        )

    sides = conv2d_sides(weight_shape, parameters)
    padded: list[int] = []
    extents: list[int] = []
    for axis, size in enumerate((height, width)):
        taps = weight_shape[2 + axis]
        window = dilation[axis] * (taps - 1) + 1
        before, after = sides[axis]
        if window > size + before + after:
            raise ValueError(
                f"{op}: dilation[{axis}] * ({weight_name}[{2 + axis}] - 1) + 1 must be at most "
                f"{input_name}[{batch_axes + 1 + axis}] + padding, got {dilation[axis]} * "
                f"({taps} - 1) + 1 > {size} + {before} + {after} {shapes}"
            )
        padded.append(size + before + after)
        extents.append(output_extent(padded[axis], window, stride[axis]))

    output_shape = (batch, filters, extents[0], extents[1])
    fits(op, "the padded input", (batch, channels, *padded))
    fits(op, "the output", output_shape)
    return Conv2dGeometry(
        input_shape=(batch, channels, height, width),
        output_shape=output_shape,
        result_shape=output_shape[1 - batch_axes :],
        padding=(sides[0][0], sides[1][0]),
    )


def output_extent(padded: int, window: int, stride: int) -> int:
    """How often a window of `window` pixels fits into `padded` pixels in steps of `stride`."""
    return (padded - window) // stride + 1
