"""NumPy arrays: dtypes, results, memory that two of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastcv._checks.values import Shape, describe

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_INDICES = (np.dtype(np.int64), np.dtype(np.int32))

# Whether two strided arrays share memory can take exponential time to find out. After this many
# steps numpy.may_share_memory says that they do. (NumPy's stubs know two special values only.)
_OVERLAP_STEPS: Any = 10_000


def float_arrays(op: str, arrays: Mapping[str, Any], or_device: bool = False) -> bool:
    """Require NumPy arrays of one dtype, float32 or float64 in the machine's own byte order.

    With `or_device`, return whether one is an array on a device instead, which others check.
    """
    first_name, first_dtype = "", None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            if or_device and on_device(array):
                return True
            raise TypeError(f"{op}: {name} must be a numpy.ndarray, got {type(array).__name__}")
        dtype = array.dtype
        if dtype not in FLOATS:
            raise TypeError(
                f"{op}: {name}.dtype must be float32 or float64 in native byte order, got {dtype}"
            )
        if first_dtype is None:
            first_name, first_dtype = name, dtype
        elif dtype != first_dtype:
            raise TypeError(
                f"{op}: {name}.dtype must equal {first_name}.dtype, got {dtype} != {first_dtype}"
            )
    return False


# What `__dlpack_device__` says of memory that CUDA's kernels reach: a device's, and managed.
_CUDA_MEMORY = (2, 13)


def on_device(value: Any) -> bool:
    """Whether this is an array in the memory of a CUDA device, whoever it belongs to."""
    if hasattr(value, "__cuda_array_interface__"):
        return True
    device = getattr(type(value), "__dlpack_device__", None)
    return device is not None and int(device(value)[0]) in _CUDA_MEMORY


def index_array(op: str, array: Any) -> None:
    """Require indices in a NumPy array of int64 or int32 in the machine's own byte order."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{op}: indices must be a numpy.ndarray, got {type(array).__name__}")
    if array.dtype not in _INDICES:
        raise TypeError(
            f"{op}: indices.dtype must be int64 or int32 in native byte order, got {array.dtype}"
        )


def index_dtype(op: str, value: Any) -> np.dtype[Any]:
    """Return the dtype that indices are asked for in."""
    if value is np.int64:
        return _INDICES[0]
    try:
        wanted = None if value is None else np.dtype(value)
    except TypeError:
        wanted = None
    for dtype in _INDICES:
        if wanted == dtype:
            return dtype
    raise TypeError(f"{op}: index_dtype must be int64 or int32, got {describe(value)}")


def index_error(op: str, indices: NDArray[Any], height: int, width: int) -> IndexError:
    """Name the first index, in row-major order, that is outside its plane."""
    relation = "must be at least 0 and less than H * W"
    for place in np.argwhere((indices < 0) | (indices >= height * width))[:1]:
        position = tuple(map(int, place))
        return IndexError(
            f"{op}: indices{list(position)} {relation}, got {indices[position]} and "
            f"{height} * {width} (indices {indices.shape})"
        )
    # Another thread has written to the array in the meantime.
    return IndexError(f"{op}: indices {relation}, {height} * {width} (indices {indices.shape})")


def late_index_error(op: str, device: int) -> IndexError:
    """Of a device, which found it after the call had returned."""
    return IndexError(
        f"{op}: an index of this call or an earlier one on device {device} was not at least 0 and "
        "less than H * W (with CUDA_LAUNCH_BLOCKING=1 the call that it was given to says so)"
    )


def equal_shapes(op: str, name: str, actual: Shape, relation: str, expected: Shape) -> None:
    """Require `actual`, the shape called `name`, to be `expected`, which `relation` explains."""
    if actual != expected:
        raise ValueError(f"{op}: {name} must equal {relation}, got {actual} != {expected}")


def output_array(op: str, out: Any, expected_shape: Shape, inputs: dict[str, NDArray[Any]]) -> None:
    """Require an `out` that can take the result and that writing to changes nothing else."""
    float_arrays(op, inputs | {"out": out})
    equal_shapes(op, "out.shape", out.shape, "the shape of the result", expected_shape)
    if not out.flags.writeable:
        raise ValueError(f"{op}: out must be writable, got a read-only array")
    if not _axes_nest(out):
        raise ValueError(
            f"{op}: out must not overlap itself, got strides {out.strides} for shape {out.shape}"
        )
    for name, array in inputs.items():
        if np.may_share_memory(out, array, max_work=_OVERLAP_STEPS):
            raise ValueError(f"{op}: out must not overlap {name}, got arrays that share memory")


def _axes_nest(array: NDArray[Any]) -> bool:
    """Whether each axis steps over all that the finer axes cover, so that no two elements meet."""
    if array.flags.c_contiguous:
        return True
    covered = array.itemsize
    for stride, size in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if size > 1:
            if stride < covered:
                return False
            covered += stride * (size - 1)
    return True
