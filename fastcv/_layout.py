"""Where the elements of an image lie in memory: NCHW, or channels-last (an NCHW view of NHWC)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastcv import _core

FloatT = TypeVar("FloatT", np.float32, np.float64)


def is_channels_last(array: NDArray[Any]) -> bool:
    """Whether (N, C, H, W) or (C, H, W) lies in memory with C finest, then W, H and N.

    A crop of a channels-last image counts as well. With one channel or one pixel both orders
    describe the same memory; such an array counts as NCHW.
    """
    if array.flags.c_contiguous:
        return False
    return steps_are_channels_last(array.shape, array.strides)


def steps_are_channels_last(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """`is_channels_last`, from shape and strides of an array that is not contiguous.

    The strides' unit does not matter.
    """
    channels, height, width = shape[-3:]
    if channels == 1 or height * width == 1:
        return False
    *between_images, between_channels, down, across = map(abs, strides)
    pixel = channels * between_channels
    row = width * across if width > 1 else pixel
    image = height * down if height > 1 else row
    return (
        between_channels > 0
        and (width == 1 or across >= pixel)
        and (height == 1 or down >= row)
        and (len(shape) == 3 or shape[0] == 1 or between_images[0] >= image)
    )


def result(
    shape: tuple[int, ...], like: NDArray[Any], dtype: np.dtype[Any] | None = None
) -> _core.ResultLayout:
    """Return the layout of results (..., C, H, W) in the memory order of `like`.

    They are C-contiguous or channels-last, and of the dtype of `like` or another.
    """
    return _core.ResultLayout(shape, dtype or like.dtype, is_channels_last(like))


def new(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a new C-contiguous array, like `np.empty`.

    Those that are not small begin at a cache line, and large ones use dead ones' memory again.
    """
    return _core.ResultLayout(shape, dtype).new()
