"""Convolution, transposed convolution and their gradients, tap by tap."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcv import _checks

Array = NDArray[np.float64]


def conv2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: _checks.IntOrPair = 1,
    padding: _checks.Padding = 0,
    dilation: _checks.IntOrPair = 1,
    groups: int = 1,
    *,
    activation: _checks.Activation = None,
) -> Array:
    """Weigh the pixels that each tap sees, and sum over the taps and the channels."""
    op = "conv2d"
    taps, shape = _conv2d(op, np.shape(input), np.shape(weight), stride, padding, dilation, groups)
    return _finished(op, taps.gathered(input, weight).reshape(shape), bias, activation)


def conv2d_grad_input(
    grad_output: ArrayLike,
    weight: ArrayLike,
    input_shape: tuple[int, ...],
    *,
    stride: _checks.IntOrPair = 1,
    padding: _checks.Padding = 0,
    dilation: _checks.IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """Hand each output's gradient back to the pixels that each tap saw, and drop the padding."""
    op = "conv2d_grad_input"
    taps, _ = _conv2d(op, input_shape, np.shape(weight), stride, padding, dilation, groups)
    return taps.scattered(grad_output, weight).reshape(input_shape)


def conv2d_grad_weight(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight_shape: tuple[int, ...],
    *,
    stride: _checks.IntOrPair = 1,
    padding: _checks.Padding = 0,
    dilation: _checks.IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """Correlate the outputs' gradients with the pixels that each tap saw, and sum over images."""
    op = "conv2d_grad_weight"
    taps, _ = _conv2d(op, np.shape(input), weight_shape, stride, padding, dilation, groups)
    return taps.correlated(grad_output, input).reshape(weight_shape)


def conv_transpose2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: _checks.IntOrPair = 1,
    padding: _checks.IntOrPair = 0,
    output_padding: _checks.IntOrPair = 0,
    groups: int = 1,
    dilation: _checks.IntOrPair = 1,
    *,
    activation: _checks.Activation = None,
) -> Array:
    """Add each pixel, weighed, to the outputs that each tap leads to, and drop the padding."""
    op = "conv_transpose2d"
    shapes, sizes = (np.shape(input), np.shape(weight)), (stride, padding, output_padding)
    taps, shape = _conv_transpose2d(op, *shapes, *sizes, groups, dilation)
    return _finished(op, taps.scattered(input, weight).reshape(shape), bias, activation)


def conv_transpose2d_grad_input(
    grad_output: ArrayLike,
    weight: ArrayLike,
    input_shape: tuple[int, ...],
    *,
    stride: _checks.IntOrPair = 1,
    padding: _checks.IntOrPair = 0,
    output_padding: _checks.IntOrPair = 0,
    groups: int = 1,
    dilation: _checks.IntOrPair = 1,
) -> Array:
    """Weigh the gradients of the outputs that each tap led to: an ordinary convolution."""
    op = "conv_transpose2d_grad_input"
    shapes, sizes = (input_shape, np.shape(weight)), (stride, padding, output_padding)
    taps, _ = _conv_transpose2d(op, *shapes, *sizes, groups, dilation)
    return taps.gathered(grad_output, weight).reshape(input_shape)


def conv_transpose2d_grad_weight(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight_shape: tuple[int, ...],
    *,
    stride: _checks.IntOrPair = 1,
    padding: _checks.IntOrPair = 0,
    output_padding: _checks.IntOrPair = 0,
    groups: int = 1,
    dilation: _checks.IntOrPair = 1,
) -> Array:
    """Correlate pixels with the gradients of the outputs that each tap led to."""
    op = "conv_transpose2d_grad_weight"
    shapes, sizes = (np.shape(input), weight_shape), (stride, padding, output_padding)
    taps, _ = _conv_transpose2d(op, *shapes, *sizes, groups, dilation)
    return taps.correlated(input, grad_output).reshape(weight_shape)


def _conv2d(
    op: str,
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: _checks.IntOrPair,
    padding: _checks.Padding,
    dilation: _checks.IntOrPair,
    groups: int,
) -> tuple[_Taps, tuple[int, ...]]:
    """Check a convolution; return its taps and the shape of its result."""
    parameters = _checks.conv2d_parameters(op, stride, padding, dilation, groups)
    geometry = _checks.conv2d_geometry(op, tuple(input_shape), tuple(weight_shape), parameters)
    taps = _Taps(
        geometry.input_shape,
        tuple(weight_shape),
        geometry.output_shape,
        parameters.stride,
        _checks.conv2d_sides(tuple(weight_shape), parameters),
        parameters.dilation,
        parameters.groups,
    )
    return taps, geometry.result_shape


def _conv_transpose2d(
    op: str,
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: _checks.IntOrPair,
    padding: _checks.IntOrPair,
    output_padding: _checks.IntOrPair,
    groups: int,
    dilation: _checks.IntOrPair,
) -> tuple[_Taps, tuple[int, ...]]:
    """Check a transposed convolution; return its convolution's taps, and the result's shape."""
    parameters = _checks.conv_transpose2d_parameters(
        op, stride, padding, output_padding, groups, dilation
    )
    geometry = _checks.conv_transpose2d_geometry(
        op, tuple(input_shape), tuple(weight_shape), parameters
    )
    rows, columns = parameters.padding
    taps = _Taps(
        geometry.output_shape,
        tuple(weight_shape),
        geometry.input_shape,
        parameters.stride,
        ((rows, rows), (columns, columns)),
        parameters.dilation,
        parameters.groups,
    )
    return taps, geometry.result_shape


class _Taps:
    """A convolution as one matrix product per tap of its window.

    It maps images (N, C, H, W) to outputs (N, K, P, Q) as `gathered`. Its two transposes are
    `scattered` and `correlated`. Iterating gives the taps (r, s), each with the index of the pixels
    that it sees in a padded image: one pixel per output.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int, int],
        weight_shape: tuple[int, ...],
        output_shape: tuple[int, int, int, int],
        stride: _checks.Pair,
        sides: _checks.Sides,
        dilation: _checks.Pair,
        groups: int,
    ) -> None:
        self.window = weight_shape[2:]
        self.stride, self.sides, self.dilation = stride, sides, dilation
        batch, channels, self.height, self.width = image_shape
        _, filters, self.rows, self.columns = output_shape
        outputs = self.rows * self.columns
        self.image_shape = (batch, groups, channels // groups, self.height, self.width)
        self.pixel_shape = (batch, groups, channels // groups, outputs)
        self.output_shape = (batch, groups, filters // groups, outputs)
        self.weight_shape = (groups, filters // groups, channels // groups, *self.window)

    def gathered(self, image: ArrayLike, weight: ArrayLike) -> Array:
        """Sum up for each output what its taps see of the image."""
        padded, filters = self.padded(image), self.matrices(weight)
        outputs = np.zeros(self.output_shape)
        for tap, seen in self:
            outputs += filters[tap] @ padded[seen].reshape(self.pixel_shape)
        return outputs

    def scattered(self, outputs: ArrayLike, weight: ArrayLike) -> Array:
        """Add each output to the pixels that its taps see."""
        values, filters = self.flattened(outputs), self.matrices(weight)
        padded = self.padded(np.zeros(self.image_shape))
        for tap, seen in self:
            padded[seen] += (filters[tap].swapaxes(-1, -2) @ values).reshape(padded[seen].shape)
        (top, _), (left, _) = self.sides
        return padded[..., top : top + self.height, left : left + self.width]

    def correlated(self, outputs: ArrayLike, image: ArrayLike) -> Array:
        """Multiply each output with the pixels that its taps see, and sum over all outputs."""
        values, padded = self.flattened(outputs), self.padded(image)
        filters = self.matrices(np.zeros(self.weight_shape))
        for tap, seen in self:
            pixels = padded[seen].reshape(self.pixel_shape)
            filters[tap] = (values @ pixels.swapaxes(-1, -2)).sum(axis=0)
        return filters.transpose(2, 3, 4, 0, 1)

    def __iter__(self) -> Iterator[tuple[tuple[int, int], tuple[Any, ...]]]:
        (down, across), (row_step, column_step) = self.stride, self.dilation
        for r in range(self.window[0]):
            for s in range(self.window[1]):
                top, left = r * row_step, s * column_step
                seen_rows = slice(top, top + (self.rows - 1) * down + 1, down)
                seen_columns = slice(left, left + (self.columns - 1) * across + 1, across)
                yield (r, s), (..., seen_rows, seen_columns)

    def padded(self, image: ArrayLike) -> Array:
        """(N, C, H, W) -> (N, G, C / G, top + H + bottom, left + W + right)."""
        pixels = np.asarray(image, np.float64).reshape(self.image_shape)
        return np.pad(pixels, ((0, 0), (0, 0), (0, 0), *self.sides))

    def matrices(self, weight: ArrayLike) -> Array:
        """(K, C / G, R, S) -> (R, S, G, K / G, C / G)."""
        filters = np.asarray(weight, np.float64).reshape(self.weight_shape)
        return filters.transpose(3, 4, 0, 1, 2).copy()

    def flattened(self, outputs: ArrayLike) -> Array:
        """(N, K, P, Q) -> (N, G, K / G, P * Q)."""
        return np.asarray(outputs, np.float64).reshape(self.output_shape)


def _finished(
    op: str, result: Array, bias: ArrayLike | None, activation: _checks.Activation
) -> Array:
    if bias is not None:
        result = result + np.reshape(bias, (-1, 1, 1))
    _checks.activation(op, activation)
    return _activate(result, activation)


def _activate(x: Array, activation: _checks.Activation) -> Array:
    match activation:
        case None:
            return x
        case "relu":
            return np.maximum(x, 0)
        case "relu6":
            return np.clip(x, 0, 6)
        case "leaky_relu", slope:
            return np.where(x > 0, x, slope * x)
        case "tanh":
            return np.tanh(x)
        case "gelu":  # x / 2 * (1 + erf(z)), written so that nothing cancels well below zero
            erfc: Array = np.vectorize(math.erfc, otypes=[np.float64])(-x / math.sqrt(2))
            return x / 2 * erfc
    with np.errstate(over="ignore"):
        denominator = 1 + np.exp(-x)
    return 1 / denominator if activation == "sigmoid" else x / denominator
