"""Max pooling and unpooling, and their gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcv import _checks

Array = NDArray[np.float64]
Indices = NDArray[Any]


def max_pool2d(
    input: ArrayLike,
    kernel_size: _checks.IntOrPair,
    stride: _checks.IntOrPair | None = None,
    padding: _checks.IntOrPair = 0,
    dilation: _checks.IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Indices]:
    """Go through the window in row-major order; take what is more than the best so far, or NaN."""
    op = "max_pool2d"
    parameters = _checks.pool2d_parameters(op, kernel_size, stride, padding, dilation, ceil_mode)
    image = np.asarray(input, np.float64)
    result_shape = _checks.max_pool2d_shape(op, image.shape, parameters)
    height, width = image.shape[-2:]
    (rows, columns), (down, across) = parameters.kernel_size, parameters.dilation
    # Where each window starts; and where it first meets the image, or would if that went on.
    top, left = (
        np.arange(extent) * step - before
        for extent, step, before in zip(
            result_shape[-2:], parameters.stride, parameters.padding, strict=True
        )
    )
    first_h, first_w = np.where(top < 0, top % down, top), np.where(left < 0, left % across, left)
    output = np.full(result_shape, -np.inf)
    indices = np.broadcast_to(first_h[:, None] * width + first_w, result_shape).copy()
    for r in range(rows):
        for s in range(columns):
            h, w = top[:, None] + r * down, left + s * across
            inside = (h >= 0) & (h < height) & (w >= 0) & (w < width)
            values = image[..., h.clip(0, height - 1), w.clip(0, width - 1)]
            better = inside & ((values > output) | np.isnan(values))
            output = np.where(better, values, output)
            indices = np.where(better, h * width + w, indices)
    return (output, indices) if return_indices else output


def max_pool2d_grad_input(
    grad_output: ArrayLike, indices: ArrayLike, input_shape: tuple[int, ...]
) -> Array:
    """Add each gradient to the element that its index names."""
    op = "max_pool2d_grad_input"
    grads, names = np.asarray(grad_output, np.float64), np.asarray(indices)
    _checks.max_pool2d_grad_shapes(op, grads.shape, names.shape, tuple(input_shape))
    planes, names, grads = _named_elements(op, input_shape, names, grads)
    np.add.at(planes, (np.arange(len(planes))[:, None], names), grads)
    return planes.reshape(input_shape)


def max_unpool2d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: _checks.IntOrPair,
    stride: _checks.IntOrPair | None = None,
    padding: _checks.IntOrPair = 0,
    output_size: tuple[int, ...] | None = None,
) -> Array:
    """Put each element, one after another, where its index says."""
    op = "max_unpool2d"
    values, names = np.asarray(input, np.float64), np.asarray(indices)
    parameters = _checks.pool2d_parameters(op, kernel_size, stride, padding)
    size = None if output_size is None else _checks.shape(op, "output_size", output_size)
    shape = _checks.max_unpool2d_shape(op, values.shape, names.shape, parameters, size)
    planes, names, values = _named_elements(op, shape, names, values)
    for element in range(names.shape[1]):
        planes[np.arange(len(planes)), names[:, element]] = values[:, element]
    return planes.reshape(shape)


def max_unpool2d_grad_input(grad_output: ArrayLike, indices: ArrayLike) -> Array:
    """Fetch for each element the gradient of the place where it went."""
    op = "max_unpool2d_grad_input"
    grads, names = np.asarray(grad_output, np.float64), np.asarray(indices)
    _checks.max_unpool2d_grad_shapes(op, grads.shape, names.shape)
    planes, flat, _ = _named_elements(op, grads.shape, names, names)
    planes[...] = grads.reshape(planes.shape)
    return np.take_along_axis(planes, flat, axis=1).reshape(names.shape)


def _named_elements(
    op: str, planes_shape: tuple[int, ...], indices: Indices, values: NDArray[Any]
) -> tuple[Array, Indices, NDArray[Any]]:
    """Planes of zeros, and the indices and values of each, in a row each."""
    height, width = planes_shape[-2:]
    if indices.size and not 0 <= indices.min() <= indices.max() < height * width:
        raise _checks.index_error(op, indices, height, width)
    count, size = math.prod(planes_shape[:-2]), math.prod(indices.shape[-2:])
    return (
        np.zeros((count, height * width)),
        indices.reshape(count, size),
        values.reshape(count, size),
    )
