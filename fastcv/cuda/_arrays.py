"""`fastcv`'s own functions on arrays of a device, whoever they belong to.

Torch's tensors go to fastcv.torch. All others are read by CuPy, and results are CuPy's: its arrays
as they are, others through `__dlpack__` or, where they have none, `__cuda_array_interface__`, both
of which have the work before on the array's own stream come first. Kernels run on CuPy's current
stream of the device.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fastcv import _checks
from fastcv.cuda._extension import extension
from fastcv.cuda._memory import Memory
from fastcv.cuda._table import FLAT, PLAIN


def call(name: str, variables: Mapping[str, Any]) -> Any:
    """Run a public function; its arguments are among the variables, under their names."""
    import fastcv

    public = getattr(fastcv, name)
    arguments = {each: variables[each] for each in inspect.signature(public).parameters}
    if arguments.pop("out", None) is not None:
        raise TypeError(f"{name}: out must be None for arrays on a device")
    if "torch" in sys.modules and _any(_is_tensor, arguments.values()):
        import fastcv.torch

        return getattr(fastcv.torch, name)(**arguments)
    if name not in FLAT and name not in PLAIN:
        raise TypeError(f"{name}: arrays must be NumPy's: there are no CUDA kernels of it")
    extension()
    try:
        framework = _CuPy()
    except ImportError as error:
        raise TypeError(
            f"{name}: arrays on a device that are not torch's need CuPy, whose arrays results are"
        ) from error
    if name in PLAIN:
        return PLAIN[name](framework, **{key: framework.own(x) for key, x in arguments.items()})
    return _run_flat(framework, name, arguments)


def _run_flat(framework: _CuPy, name: str, arguments: Mapping[str, Any]) -> Any:
    from fastcv._gradients import TABLE

    op = TABLE[name]
    given, parameters, activation, chosen = op.arguments(**arguments)
    for key, array in zip(op.arrays, given, strict=True):
        if not (array is None and key in op.optional) and not _checks.on_device(array):
            raise TypeError(
                f"{name}: {key} must be an array on a device, as others are, got "
                f"{type(array).__name__}"
            )
    if activation is not None:
        parameters = op.fused(parameters, activation)
    results = FLAT[name](framework, *map(framework.own, given), *parameters)
    if len(op.results) == 1:
        return results
    found = tuple(results[position] for position in chosen)
    return found if len(found) > 1 else found[0]


def _any(what: Any, values: Any) -> bool:
    return any(
        _any(what, value) if isinstance(value, (list, tuple)) else what(value) for value in values
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, sys.modules["torch"].Tensor) and _checks.on_device(value)


class _CuPy:
    """What fastcv.cuda needs to know about CuPy's arrays."""

    def __init__(self) -> None:
        import cupy

        self._cupy: Any = cupy

    def own(self, value: Any) -> Any:
        """Return an array on a device as CuPy's, over the same memory; else the value itself."""
        if isinstance(value, (list, tuple)):
            return [self.own(each) for each in value]
        if self.has(value) or not _checks.on_device(value):
            return value
        if hasattr(value, "__dlpack__"):
            return self._cupy.from_dlpack(value)
        return self._cupy.asarray(value)

    def has(self, value: Any) -> bool:
        return isinstance(value, self._cupy.ndarray)

    def memory(self, array: Any) -> Memory:
        return Memory(
            int(array.data.ptr),
            tuple(array.shape),
            tuple(array.strides),
            array.dtype.name,
            int(array.device.id),
        )

    def empty(self, shape: Sequence[int], dtype: str, like: Any) -> Any:
        with self._cupy.cuda.Device(like.device.id):
            return self._cupy.empty(tuple(shape), dtype)

    def cast(self, array: Any, dtype: str) -> Any:
        with self._cupy.cuda.Device(array.device.id):
            return self._cupy.ascontiguousarray(array, dtype)

    def number(self, array: Any) -> int:
        return int(array.item())

    def permuted(self, array: Any, axes: Sequence[int]) -> Any:
        return array.transpose(tuple(axes))

    def stream(self, array: Any) -> int:
        with self._cupy.cuda.Device(array.device.id):
            return int(self._cupy.cuda.get_current_stream().ptr)
