"""Transposed convolution."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from fastcv._checks.arrays import equal_shapes
from fastcv._checks.convolution import conv2d_weight
from fastcv._checks.values import Pair, Shape, Shape4, fits, integer, named, pair


class ConvTranspose2dParameters(NamedTuple):
    """The parameters of a transposed convolution, checked."""

    stride: Pair
    padding: Pair
    output_padding: Pair
    dilation: Pair
    groups: int


class ConvTranspose2dGeometry(NamedTuple):
    """What a transposed convolution's shapes and parameters amount to."""

    input_shape: Shape4
    output_shape: Shape4
    result_shape: Shape  # output_shape, without the batch axis where the input has none


def conv_transpose2d_parameters(
    op: str, stride: Any, padding: Any, output_padding: Any, groups: Any, dilation: Any
) -> ConvTranspose2dParameters:
    """Check the parameters that shapes play no part in."""
    parameters = ConvTranspose2dParameters(
        pair(op, "stride", stride, 1),
        pair(op, "padding", padding, 0),
        pair(op, "output_padding", output_padding, 0),
        pair(op, "dilation", dilation, 1),
        integer(op, "groups", groups, 1),
    )
    for axis in (0, 1):
        step, distance = parameters.stride[axis], parameters.dilation[axis]
        if parameters.output_padding[axis] >= max(step, distance):
            raise ValueError(
                f"{op}: output_padding[{axis}] must be less than stride[{axis}] or "
                f"dilation[{axis}], got {parameters.output_padding[axis]} >= "
                f"max({step}, {distance})"
            )
    return parameters


def conv_transpose2d_weight(op: str, name: str, weight_shape: Shape, groups: int) -> None:
    """Check the weight's shape as far as the input plays no part in it."""
    conv2d_weight(op, name, weight_shape, groups, "(C, K // groups, R, S)", 1)


def conv_transpose2d_bias(op: str, bias_shape: Shape, weight_shape: Shape, groups: int) -> None:
    """Require one bias per output channel."""
    expected = (weight_shape[1] * groups,)
    equal_shapes(op, "bias.shape", bias_shape, "(weight.shape[1] * groups,)", expected)


def conv_transpose2d_grad_output(
    op: str, grad_shape: Shape, geometry: ConvTranspose2dGeometry
) -> None:
    """Require a gradient in the shape of the transposed convolution's output."""
    relation = "the shape of the transposed convolution's output"
    equal_shapes(op, "grad_output.shape", grad_shape, relation, geometry.result_shape)


@lru_cache(maxsize=256)
def conv_transpose2d_geometry(
    op: str,
    input_shape: Shape,
    weight_shape: Shape,
    parameters: ConvTranspose2dParameters,
    input_name: str = "input.shape",
    weight_name: str = "weight.shape",
) -> ConvTranspose2dGeometry:
    """Check shapes against each other and work out the output's."""
    stride, padding, output_padding, dilation, groups = parameters
    conv_transpose2d_weight(op, weight_name, weight_shape, groups)
    shapes = named({input_name: input_shape, weight_name: weight_shape})

    if len(input_shape) not in (3, 4):
        raise ValueError(
            f"{op}: {input_name} must have 4 axes (N, C, H, W) or 3 (C, H, W), "
            f"got {len(input_shape)} {shapes}"
        )
    batch_axes = len(input_shape) - 3
    batch, channels, height, width = (1,) * (1 - batch_axes) + input_shape
    if weight_shape[0] != channels:
        raise ValueError(
            f"{op}: {weight_name}[0] must equal {input_name}[{batch_axes}], "
            f"got {weight_shape[0]} != {channels} {shapes}"
        )
    if batch and not (height and width):
        raise ValueError(
            f"{op}: {input_name}[{batch_axes + 1}:] must be at least 1 unless there are no images, "
            f"got {height} x {width} {shapes}"
        )

    filters = weight_shape[1] * groups
    reaches: list[int] = []
    extents: list[int] = []
    for axis, size in enumerate((height, width)):
        taps, step, distance = weight_shape[2 + axis], stride[axis], dilation[axis]
        # What all windows cover together, and the rows or columns that are appended.
        reach = (size - 1) * step + distance * (taps - 1) + 1 + output_padding[axis]
        if reach - 2 * padding[axis] < 1:
            raise ValueError(
                f"{op}: ({input_name}[{batch_axes + 1 + axis}] - 1) * stride[{axis}] - "
                f"2 * padding[{axis}] + dilation[{axis}] * ({weight_name}[{2 + axis}] - 1) + "
                f"output_padding[{axis}] + 1 must be at least 1, got ({size} - 1) * {step} - "
                f"2 * {padding[axis]} + {distance} * ({taps} - 1) + {output_padding[axis]} + 1 = "
                f"{reach - 2 * padding[axis]} {shapes}"
            )
        reaches.append(reach)
        extents.append(reach - 2 * padding[axis])

    output_shape = (batch, filters, extents[0], extents[1])
    fits(op, "the output with its padding", (batch, filters, *reaches))
    fits(op, "the input", (batch, channels, height, width))
    return ConvTranspose2dGeometry(
        input_shape=(batch, channels, height, width),
        output_shape=output_shape,
        result_shape=output_shape[1 - batch_axes :],
    )
