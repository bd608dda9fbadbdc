"""Max pooling and unpooling."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastcv._checks.arrays import equal_shapes
from fastcv._checks.convolution import output_extent
from fastcv._checks.values import Pair, Shape, Shape4, boolean, fits, named, pair


class Pool2dParameters(NamedTuple):
    """A pooling's window, checked."""

    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil_mode: bool


def pool2d_parameters(
    op: str,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any = 1,
    ceil_mode: Any = False,
) -> Pool2dParameters:
    """Check the parameters that shapes play no part in."""
    window = pair(op, "kernel_size", kernel_size, 1)
    return Pool2dParameters(
        window,
        window if stride is None else pair(op, "stride", stride, 1),
        pair(op, "padding", padding, 0),
        pair(op, "dilation", dilation, 1),
        boolean(op, "ceil_mode", ceil_mode),
    )


def _planes(op: str, name: str, sizes: Shape) -> Shape4:
    """Return (N, C, H, W) of an image with or without a batch axis, none but N of size 0."""
    if len(sizes) not in (3, 4):
        raise ValueError(
            f"{op}: {name} must have 4 axes (N, C, H, W) or 3 (C, H, W), "
            f"got {len(sizes)} {named({name: sizes})}"
        )
    fits(op, name, sizes)
    channels, height, width = sizes[-3:]
    if not (channels and height and width):
        raise ValueError(
            f"{op}: {name}[{len(sizes) - 3}:] must be at least 1, "
            f"got {channels} x {height} x {width} {named({name: sizes})}"
        )
    return (sizes[0] if len(sizes) == 4 else 1, channels, height, width)


def _same_planes(op: str, grad_shape: Shape, name: str, sizes: Shape) -> None:
    """Require as many images and channels of a gradient as `sizes` has."""
    if len(grad_shape) != len(sizes) or grad_shape[:-2] != sizes[:-2]:
        raise ValueError(
            f"{op}: grad_output.shape[:-2] must equal {name}[:-2], got {grad_shape[:-2]} != "
            f"{sizes[:-2]} {named({'grad_output': grad_shape, name: sizes})}"
        )


def max_pool2d_shape(op: str, input_shape: Shape, parameters: Pool2dParameters) -> Shape:
    """Check the input's shape against the window and work out the result's."""
    batch, channels, *plane = _planes(op, "input.shape", input_shape)
    extents: list[int] = []
    for axis, size in enumerate(plane):
        taps, step = parameters.kernel_size[axis], parameters.stride[axis]
        padding, distance = parameters.padding[axis], parameters.dilation[axis]
        if padding > taps // 2:
            raise ValueError(
                f"{op}: padding[{axis}] must be at most kernel_size[{axis}] // 2, "
                f"got {padding} > {taps} // 2"
            )
        window = distance * (taps - 1) + 1
        spare = step - 1 if parameters.ceil_mode else 0
        if window > size + 2 * padding + spare:
            more = f" + stride[{axis}] - 1" if spare else ""
            raise ValueError(
                f"{op}: dilation[{axis}] * (kernel_size[{axis}] - 1) + 1 must be at most "
                f"input.shape[{len(input_shape) - 2 + axis}] + 2 * padding[{axis}]{more}, got "
                f"{distance} * ({taps} - 1) + 1 > {size} + 2 * {padding}"
                f"{f' + {step} - 1' if spare else ''} {named({'input.shape': input_shape})}"
            )
        extent = output_extent(size + 2 * padding + spare, window, step)
        # With ceil_mode, the last window has to start inside the image or its left padding.
        if parameters.ceil_mode and (extent - 1) * step >= size + padding:
            extent -= 1
        extents.append(extent)
    output_shape = (batch, channels, extents[0], extents[1])
    fits(op, "the output", output_shape)
    return output_shape[4 - len(input_shape) :]


def max_pool2d_index_dtype(op: str, dtype: np.dtype[Any], input_shape: Shape) -> None:
    """Require that the dtype holds every position of a plane."""
    height, width = input_shape[-2:]
    if dtype.itemsize == 4 and height * width >= 2**31:
        raise ValueError(
            f"{op}: H * W must be less than 2**31 for index_dtype int32, got {height} * {width}"
        )


@lru_cache(maxsize=256)
def max_pool2d_grad_shapes(
    op: str, grad_shape: Shape, indices_shape: Shape, input_shape: Shape
) -> None:
    """Require one index for each gradient, and an input of as many planes."""
    equal_shapes(op, "indices.shape", indices_shape, "grad_output.shape", grad_shape)
    _planes(op, "input_shape", input_shape)
    _same_planes(op, grad_shape, "input_shape", input_shape)


def max_unpool2d_shape(
    op: str,
    input_shape: Shape,
    indices_shape: Shape,
    parameters: Pool2dParameters,
    output_size: Shape | None,
) -> Shape:
    """Check shapes against each other and work out the result's."""
    equal_shapes(op, "indices.shape", indices_shape, "input.shape", input_shape)
    batch, channels, *plane = _planes(op, "input.shape", input_shape)
    if output_size is not None and len(output_size) not in (2, 4):
        raise ValueError(
            f"{op}: output_size must have 2 axes (H, W) or 4 (N, C, H, W), "
            f"got {len(output_size)} (output_size {output_size})"
        )
    extents: list[int] = []
    for axis, size in enumerate(plane):
        taps, step = parameters.kernel_size[axis], parameters.stride[axis]
        padding = parameters.padding[axis]
        usual = (size - 1) * step - 2 * padding + taps
        if output_size is None:
            if usual < 0:
                raise ValueError(
                    f"{op}: (input.shape[{len(input_shape) - 2 + axis}] - 1) * stride[{axis}] "
                    f"- 2 * padding[{axis}] + kernel_size[{axis}] must be at least 0, got "
                    f"({size} - 1) * {step} - 2 * {padding} + {taps}"
                )
            extents.append(usual)
            continue
        extent = output_size[axis - 2]
        if not usual - step < extent < usual + step:
            raise ValueError(
                f"{op}: output_size[{axis - 2}] must be between {usual - step + 1} and "
                f"{usual + step - 1}, less than stride[{axis}] from the usual {usual}, got {extent}"
            )
        extents.append(extent)
    output_shape = (batch, channels, extents[0], extents[1])
    fits(op, "the output", output_shape)
    return output_shape[4 - len(input_shape) :]


@lru_cache(maxsize=256)
def max_unpool2d_grad_shapes(op: str, grad_shape: Shape, indices_shape: Shape) -> None:
    """Require indices into the planes of the gradient."""
    _planes(op, "indices.shape", indices_shape)
    _same_planes(op, grad_shape, "indices.shape", indices_shape)
