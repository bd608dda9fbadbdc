"""Gram matrices and their gradient."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcv import _checks

Array = NDArray[np.float64]


def gram_matrix(input: ArrayLike, scale: float | None = None) -> Array:
    """Multiply every two channels, pixel by pixel, and sum."""
    op = "gram_matrix"
    _checks.gram_matrix_shape(op, np.shape(input))
    pixels = _pixels(input)
    return pixels @ pixels.swapaxes(-1, -2) * _checks.gram_matrix_scale(op, scale, np.shape(input))


def gram_matrix_grad_input(
    grad_output: ArrayLike, input: ArrayLike, scale: float | None = None
) -> Array:
    """Each pixel's channels, weighed by the gradients of all the products that they are part of."""
    op = "gram_matrix_grad_input"
    _checks.gram_matrix_shape(op, np.shape(input))
    grads = np.asarray(grad_output, np.float64)
    result = (grads + grads.swapaxes(-1, -2)) @ _pixels(input)
    result *= _checks.gram_matrix_scale(op, scale, np.shape(input))
    return result.reshape(np.shape(input))


def _pixels(image: ArrayLike) -> Array:
    """(..., C, H, W) -> (..., C, H * W)."""
    *rest, height, width = np.shape(image)
    return np.asarray(image, np.float64).reshape(*rest, height * width)
