"""Gram matrices."""

from __future__ import annotations

import math
from typing import Any

from fastcv._checks.values import Shape, fits, named, real


def gram_matrix_shape(op: str, input_shape: Shape) -> Shape:
    """Return the shape of an image's Gram matrix, (N, C, C) or (C, C)."""
    if len(input_shape) not in (3, 4):
        raise ValueError(
            f"{op}: input.shape must have 4 axes (N, C, H, W) or 3 (C, H, W), "
            f"got {len(input_shape)} {named({'input': input_shape})}"
        )
    result = (*input_shape[:-3], input_shape[-3], input_shape[-3])
    fits(op, "the result", result)
    return result


def gram_matrix_scale(op: str, scale: Any, input_shape: Shape) -> float:
    """Return the factor as a float; None is one over the number of values in an image."""
    if scale is None:
        return 1.0 / (math.prod(input_shape[-3:]) or 1)
    return real(op, "scale", scale)
