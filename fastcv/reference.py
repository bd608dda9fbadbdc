"""The ops in plain NumPy: what the compiled kernels compute, to read and to compare with.

Each function takes what its namesake in `fastcv` takes (but `algorithm` and `out`), checks shapes
and parameters alike, and computes in float64 whatever the dtype of its arrays.

Shapes: N images, C input channels, K filters, G groups, a window of R x S taps, H x W input pixels,
P x Q output pixels.
"""

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
    taps = _Taps("conv2d", np.shape(input), np.shape(weight), stride, padding, dilation, groups)
    image, filters = taps.padded(input), taps.matrices(weight)
    output = np.zeros(taps.output_shape)
    for tap, seen in taps:
        output += filters[tap] @ image[seen].reshape(taps.pixel_shape)
    result = output.reshape(taps.geometry.result_shape)
    if bias is not None:
        result += np.reshape(bias, (-1, 1, 1))
    _checks.activation("conv2d", activation)
    return _activate(result, activation)


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
    taps = _Taps(
        "conv2d_grad_input", input_shape, np.shape(weight), stride, padding, dilation, groups
    )
    filters, grads = taps.matrices(weight), taps.gradients(grad_output)
    image = taps.padded(np.zeros(input_shape))
    for tap, seen in taps:
        image[seen] += (filters[tap].swapaxes(-1, -2) @ grads).reshape(image[seen].shape)
    return taps.cropped(image).reshape(input_shape)


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
    taps = _Taps(
        "conv2d_grad_weight", np.shape(input), weight_shape, stride, padding, dilation, groups
    )
    image, grads = taps.padded(input), taps.gradients(grad_output)
    filters = taps.matrices(np.zeros(weight_shape))
    for tap, seen in taps:
        pixels = image[seen].reshape(taps.pixel_shape)
        filters[tap] = (grads @ pixels.swapaxes(-1, -2)).sum(axis=0)
    return filters.transpose(2, 3, 4, 0, 1).reshape(weight_shape)


class _Taps:
    """A convolution as one matrix product per tap of its window.

    Iterating gives the taps (r, s), each with the index of the pixels that it sees in a padded
    image: one pixel per output.
    """

    def __init__(
        self,
        op: str,
        input_shape: tuple[int, ...],
        weight_shape: tuple[int, ...],
        stride: _checks.IntOrPair,
        padding: _checks.Padding,
        dilation: _checks.IntOrPair,
        groups: int,
    ) -> None:
        self.parameters = _checks.conv2d_parameters(op, stride, padding, dilation, groups)
        self.geometry = _checks.conv2d_geometry(
            op, tuple(input_shape), tuple(weight_shape), self.parameters
        )
        self.window = weight_shape[2:]
        batch, channels, self.height, self.width = self.geometry.input_shape
        _, filters, self.rows, self.columns = self.geometry.output_shape
        outputs = self.rows * self.columns
        self.image_shape = (batch, groups, channels // groups, self.height, self.width)
        self.pixel_shape = (batch, groups, channels // groups, outputs)
        self.output_shape = (batch, groups, filters // groups, outputs)
        self.weight_shape = (groups, filters // groups, channels // groups, *self.window)
        self.sides = _checks.conv2d_sides(weight_shape, self.parameters)

    def __iter__(self) -> Iterator[tuple[tuple[int, int], tuple[Any, ...]]]:
        (down, across), _, (row_step, column_step), _ = self.parameters
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

    def cropped(self, image: Array) -> Array:
        """Undo `padded`."""
        (top, _), (left, _) = self.sides
        return image[..., top : top + self.height, left : left + self.width]

    def matrices(self, weight: ArrayLike) -> Array:
        """(K, C / G, R, S) -> (R, S, G, K / G, C / G)."""
        filters = np.asarray(weight, np.float64).reshape(self.weight_shape)
        return filters.transpose(3, 4, 0, 1, 2).copy()

    def gradients(self, grad_output: ArrayLike) -> Array:
        """(N, K, P, Q) -> (N, G, K / G, P * Q)."""
        return np.asarray(grad_output, np.float64).reshape(self.output_shape)


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
