"""The same values in other memory: every layout that an argument may have.

Each layout is a function (shape, dtype) -> Placed. What lies between and around the elements has
all bits set: NaN, so that a kernel which reads it is found out, and a pattern that ``untouched``
knows.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Placed:
    """An array to pass, and all the memory that it was cut from."""

    view: np.ndarray
    memory: np.ndarray

    def filled(self, values: np.ndarray) -> np.ndarray:
        """The array, with these values."""
        self.view[...] = values
        return self.view

    def untouched(self) -> bool:
        """Whether nothing but the array's own elements was written. Overwrites those."""
        itemsize = self.view.dtype.itemsize
        self.view[...] = np.frombuffer(b"\xff" * itemsize, self.view.dtype)[0]
        return bool((self.memory == 0xFF).all())


Layout = Callable[[Shape, np.typing.DTypeLike], Placed]


def _memory(shape: Shape, dtype: np.typing.DTypeLike) -> tuple[np.ndarray, np.ndarray]:
    memory = np.full(math.prod(shape) * np.dtype(dtype).itemsize, 0xFF, np.uint8)
    return memory.view(dtype).reshape(shape), memory


def contiguous(shape: Shape, dtype: np.typing.DTypeLike) -> Placed:
    return Placed(*_memory(shape, dtype))


def sliced(shape: Shape, dtype: np.typing.DTypeLike) -> Placed:
    """Every second element of a row."""
    whole, memory = _memory((*shape[:-1], 2 * shape[-1] + 1), dtype)
    return Placed(whole[..., 1::2], memory)


def cropped(shape: Shape, dtype: np.typing.DTypeLike) -> Placed:
    """The middle of something larger in every direction."""
    whole, memory = _memory(tuple(size + 3 for size in shape), dtype)
    return Placed(whole[tuple(slice(1, size + 1) for size in shape)], memory)


def transposed(shape: Shape, dtype: np.typing.DTypeLike) -> Placed:
    """The last axis outermost."""
    whole, memory = _memory(shape[::-1], dtype)
    return Placed(whole.transpose(), memory)


def channels_last(shape: Shape, dtype: np.typing.DTypeLike) -> Placed:
    """(N, C, H, W) over N, H, W, C memory, and (C, H, W) likewise. One axis alone stays."""
    if len(shape) < 3:
        return contiguous(shape, dtype)
    *batch, channels, height, width = shape
    whole, memory = _memory((*batch, height, width, channels), dtype)
    return Placed(np.moveaxis(whole, -1, -3), memory)


def channels_last_cropped(shape: Shape, dtype: np.typing.DTypeLike) -> Placed:
    """Some channels of some pixels of a larger channels-last image."""
    larger = channels_last(tuple(size + 3 for size in shape), dtype)
    return Placed(larger.view[tuple(slice(2, size + 2) for size in shape)], larger.memory)


def reversed_axes(shape: Shape, dtype: np.typing.DTypeLike) -> Placed:
    """Negative strides throughout."""
    whole, memory = _memory(shape, dtype)
    return Placed(whole[(slice(None, None, -1),) * len(shape)], memory)


def misaligned(shape: Shape, dtype: np.typing.DTypeLike) -> Placed:
    """One byte off."""
    memory = np.full(math.prod(shape) * np.dtype(dtype).itemsize + 8, 0xFF, np.uint8)
    return Placed(memory[1:-7].view(dtype).reshape(shape), memory)


def misaligned_pixels(shape: Shape, dtype: np.typing.DTypeLike) -> Placed:
    """One byte between elements, so that strides are no multiple of the element's size either."""
    record = np.dtype([("value", dtype), ("gap", np.uint8)])
    memory = np.full(math.prod(shape) * record.itemsize, 0xFF, np.uint8)
    return Placed(memory.view(record).reshape(shape)["value"], memory)


LAYOUTS: dict[str, Layout] = {
    layout.__name__: layout
    for layout in (
        contiguous,
        sliced,
        cropped,
        transposed,
        channels_last,
        channels_last_cropped,
        reversed_axes,
        misaligned,
        misaligned_pixels,
    )
}


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that refuses to be written."""
    view = array.view()
    view.flags.writeable = False
    return view


def guarded(
    shape: Shape, dtype: np.typing.DTypeLike, *, at_end: bool, layout: Layout = contiguous
) -> np.ndarray:
    """An array that begins or ends where readable memory does: one byte further is a crash.

    Sanitizers do not see what masked vector instructions read; the page table does.
    """
    if sys.platform != "linux":
        raise NotImplementedError("guard pages are set up for Linux only")
    template = layout(shape, dtype)
    size, page = template.memory.size, mmap.PAGESIZE
    pages = -(-size // page)
    region = mmap.mmap(-1, (pages + 2) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    libc = ctypes.CDLL(None, use_errno=True)
    for guard in (start, start + (pages + 1) * page):
        if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect failed")
    offset = (pages + 1) * page - size if at_end else page
    memory = np.frombuffer(region, np.uint8, size, offset)
    first = template.view.__array_interface__["data"][0] - template.memory.ctypes.data
    return np.ndarray(shape, dtype, memory, first, template.view.strides)
