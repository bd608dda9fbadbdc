"""Arrays on a device as the kernels see them, whatever framework they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from fastcv import _checks, _layout

FLOATS = ("float32", "float64", "float16", "bfloat16")
_ITEM_BYTES = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
}


class Memory(NamedTuple):
    """An array's memory: address, shape, strides in bytes, name of the dtype, device."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: int

    @property
    def itemsize(self) -> int:
        return _ITEM_BYTES[self.dtype]

    @property
    def argument(self) -> tuple[int, tuple[int, ...]]:
        """Address and strides of (N, C, H, W), of an image alone as well."""
        return self.address, (0,) * (4 - len(self.strides)) + self.strides


class Framework(Protocol):
    """What fastcv needs from whoever an array belongs to."""

    def has(self, value: Any) -> bool:
        """Whether this is one of its arrays, on a device."""

    def memory(self, array: Any) -> Memory: ...

    def empty(self, shape: Sequence[int], dtype: str, like: Any) -> Any:
        """Return a new C-contiguous array on the device of `like`; "uint8" is a dtype too."""

    def cast(self, array: Any, dtype: str) -> Any:
        """Return the array C-contiguous and of that dtype: as it is, or a copy."""

    def number(self, array: Any) -> int:
        """Return the value of an array's only element, once the device has it."""

    def permuted(self, array: Any, axes: Sequence[int]) -> Any:
        """Return the array with its axes in another order, over the same memory."""

    def stream(self, array: Any) -> int:
        """Return the current stream of the array's device."""


def checked(framework: Framework, op: str, name: str, array: Any, dtypes: Sequence[str]) -> Memory:
    """Return an array's memory, of one of these dtypes and naturally aligned."""
    memory = framework.memory(array)
    if memory.dtype not in dtypes:
        raise TypeError(f"{op}: {name}.dtype must be {_either(dtypes)}, got {memory.dtype}")
    if any(number % memory.itemsize for number in (memory.address, *memory.strides)):
        raise ValueError(
            f"{op}: on a device, {name}'s address and strides must be multiples of its elements' "
            f"{memory.itemsize} bytes, got {memory.address:#x} and {memory.strides}"
        )
    return memory


def same_device(op: str, name: str, memory: Memory, other_name: str, other: Memory) -> None:
    """Require two arrays on one device."""
    if memory.device != other.device:
        raise ValueError(
            f"{op}: {name} must be on the device of {other_name}, got {memory.device} != "
            f"{other.device}"
        )


def is_channels_last(memory: Memory) -> bool:
    """As `_layout.is_channels_last`."""
    step, contiguous = memory.itemsize, True
    for size, stride in zip(reversed(memory.shape), reversed(memory.strides), strict=True):
        contiguous = contiguous and (size == 1 or stride == step)
        step *= size
    return not contiguous and _layout.steps_are_channels_last(memory.shape, memory.strides)


def empty_images(
    framework: Framework, shape: tuple[int, ...], dtype: str, like: Any, channels_last: bool
) -> Any:
    """Return a new array (..., C, H, W): C-contiguous, or channels-last."""
    if not channels_last:
        return framework.empty(shape, dtype, like)
    *batch, channels, height, width = shape
    memory = framework.empty((*batch, height, width, channels), dtype, like)
    return framework.permuted(memory, (0, 3, 1, 2) if batch else (2, 0, 1))


def shape4(shape: _checks.Shape) -> tuple[int, ...]:
    """(N, C, H, W), of an image alone as well."""
    return (1,) * (4 - len(shape)) + shape


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
