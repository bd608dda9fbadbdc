"""Where the elements of an image lie in memory: NCHW, or channels-last (an NCHW view of NHWC)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastcv import _core

FloatT = TypeVar("FloatT", np.float32, np.float64)
ScalarT = TypeVar("ScalarT", bound=np.generic)


def batched(array: NDArray[ScalarT]) -> NDArray[ScalarT]:
    """Return (C, H, W) as a view (1, C, H, W), and (N, C, H, W) as it is."""
    return array if array.ndim == 4 else array[None]


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


# Where a line's alignment shows; making such a view takes 0.2 us longer than `np.empty`.
_ALIGNED_BYTES = 256 << 10
# Smaller pieces stay in the process when they are freed; glibc gives these back to the system.
_LARGE_BYTES = 32 << 20


def new(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a new C-contiguous array, like `np.empty`.

    Those that are not small begin at a cache line, and large ones use dead ones' memory again.
    """
    # It takes address space alone, and says what is wrong with a size that cannot be had.
    array = np.empty(shape, dtype)
    size = array.nbytes
    if size < _ALIGNED_BYTES:
        return array
    del array  # before the same address space is asked for again
    if _LARGE_BYTES <= size <= _core.kept_result_bytes:
        return _core.large_result(size).view(dtype).reshape(shape)
    return _core.aligned_result(shape, dtype)


def empty(
    shape: tuple[int, ...], like: NDArray[Any], dtype: np.dtype[Any] | None = None
) -> NDArray[Any]:
    """Return a new array (..., C, H, W) with the memory order of `like`, and its dtype or another.

    It is C-contiguous or channels-last.
    """
    if dtype is None:
        dtype = like.dtype
    if not is_channels_last(like):
        return new(shape, dtype)
    *batch, channels, height, width = shape
    memory = new((*batch, height, width, channels), dtype)
    return memory.transpose((0, 3, 1, 2) if batch else (2, 0, 1))


_TOGETHER_BYTES = 32 << 20


def empty_together(dtype: np.dtype[Any], *shapes: tuple[int, ...]) -> list[NDArray[Any]]:
    """Return new C-contiguous arrays, which share one piece of memory where that is small.

    The C library gives freed memory back to the system once it is more than twice its largest
    piece. Three pieces of a megabyte, freed together, come back as pages to be cleared in every
    call: the gradient of 16 x 12 windows of 49 x 32 took 2.1 ms so, and 1.2 into arrays that stay.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if sum(sizes) * dtype.itemsize > _TOGETHER_BYTES:
        return [new(shape, dtype) for shape in shapes]
    starts = list(accumulate((-(-size // 16) * 16 for size in sizes), initial=0))
    memory = new((starts[-1],), dtype)
    return [
        memory[start : start + size].reshape(shape)
        for start, size, shape in zip(starts[:-1], sizes, shapes, strict=True)
    ]
