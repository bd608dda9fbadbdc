"""Max pooling and max unpooling: two entries each, closed under differentiation.

With indices held, pooling gathers and unpooling scatters; where indices repeat, the gradient of a
gather is the scatter that adds:

    max_pool2d               by input: max_pool2d_grad_input, the scatter that adds
    max_unpool2d             by input: max_unpool2d_grad_input, the gather
    max_pool2d_grad_input    by grad_output: the gather
    max_unpool2d_grad_input  by grad_output: the scatter that adds
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fastcv
from fastcv import _checks
from fastcv._gradients.op import (
    Arguments,
    Arrays,
    Backward,
    Batch,
    Kind,
    Op,
    Parameters,
    Result,
    Shape,
    images_together,
)

_POOL, _UNPOOL = "max_pool2d", "max_unpool2d"
_SCATTER, _GATHER = "max_pool2d_grad_input", "max_unpool2d_grad_input"
_INDICES = ("indices",)


# max_pool2d


def _pool_arguments(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: Any = False,
    return_indices: Any = False,
    *,
    index_dtype: Any = np.int64,
) -> Arguments:
    parameters = _checks.pool2d_parameters(_POOL, kernel_size, stride, padding, dilation, ceil_mode)
    with_indices = _checks.boolean(_POOL, "return_indices", return_indices)
    dtype = _checks.index_dtype(_POOL, index_dtype).name
    chosen = (0, 1) if with_indices else (0,)
    return Arguments((input,), (*parameters, with_indices, dtype), chosen=chosen)


def _pool_run(input: Any, *parameters: Any) -> Any:
    *plain, with_indices, dtype = parameters
    found = fastcv.max_pool2d(input, *plain, return_indices=with_indices, index_dtype=dtype)
    return found if with_indices else (found, np.empty(0, dtype))


def _pool_shape(shapes: tuple[Any, ...], parameters: Parameters) -> tuple[Shape, Shape]:
    *plain, with_indices, _ = parameters
    checked = _checks.pool2d_parameters(_POOL, *plain)
    shape = _checks.max_pool2d_shape(_POOL, tuple(shapes[0]), checked)
    return shape, shape if with_indices else (0,)


def _pool_gradients(call: Backward) -> Arrays:
    if not call.needed[0] or call.grads[0] is None:
        return (None,)
    return (call.ops[_SCATTER](call.grads[0], call.results[1], tuple(call.arrays[0].shape)),)


def _pool_batched(batch: Batch) -> Any:
    (input,) = batch.arrays
    found = batch.ops[_POOL](images_together(input), *batch.parameters)
    return tuple(
        _images_apart(each, batch.size, input.ndim)
        if each.ndim == 4
        else batch.namespace.broadcast_to(each, (batch.size, 0))
        for each in found
    )


# max_unpool2d


def _unpool_arguments(
    input: Any,
    indices: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Arguments:
    checked = _checks.pool2d_parameters(_UNPOOL, kernel_size, stride, padding)
    size = None if output_size is None else _checks.shape(_UNPOOL, "output_size", output_size)
    return Arguments((input, indices), (*checked[:3], size))


def _unpool_shape(shapes: tuple[Any, ...], parameters: Parameters) -> Shape:
    *plain, size = parameters
    checked = _checks.pool2d_parameters(_UNPOOL, *plain)
    input, indices = map(tuple, shapes)
    size = None if size is None else tuple(size)
    return _checks.max_unpool2d_shape(_UNPOOL, input, indices, checked, size)


def _unpool_run(input: Any, indices: Any, *parameters: Any) -> Any:
    window, stride, padding, size = parameters
    size = None if size is None else tuple(size)
    return fastcv.max_unpool2d(input, indices, window, stride, padding, size)


def _unpool_gradients(call: Backward) -> Arrays:
    return call.ops[_GATHER](call.grads[0], call.arrays[1]) if call.needed[0] else None, None


def _unpool_batched(batch: Batch) -> Any:
    input, indices = batch.whole(0), batch.whole(1)
    *plain, output_size = batch.parameters
    output_size = None if output_size is None else output_size[-2:]
    images = map(images_together, (input, indices))
    return _images_apart(batch.ops[_UNPOOL](*images, *plain, output_size), batch.size, input.ndim)


# The scatter that adds, and the gather


def _scatter_arguments(grad_output: Any, indices: Any, input_shape: Any) -> Arguments:
    checked = _checks.shape(_SCATTER, "input_shape", input_shape)
    return Arguments((grad_output, indices), (checked,))


def _scatter_run(grad_output: Any, indices: Any, input_shape: Any) -> Any:
    return fastcv.max_pool2d_grad_input(grad_output, indices, tuple(input_shape))


def _scatter_shape(shapes: tuple[Any, ...], parameters: Parameters) -> Shape:
    result = tuple(parameters[0])
    _checks.max_pool2d_grad_shapes.__wrapped__(_SCATTER, *map(tuple, shapes), result)
    return result


def _scatter_gradients(call: Backward) -> Arrays:
    return call.ops[_GATHER](call.grads[0], call.arrays[1]) if call.needed[0] else None, None


def _scatter_batched(batch: Batch) -> Any:
    grad_output, indices = batch.whole(0), batch.whole(1)
    (shape,) = batch.parameters
    images = (batch.size * (shape[0] if len(shape) == 4 else 1), *shape[-3:])
    result = batch.ops[_SCATTER](*map(images_together, (grad_output, indices)), images)
    return result.reshape(batch.size, *shape)


def _gather_arguments(grad_output: Any, indices: Any) -> Arguments:
    return Arguments((grad_output, indices), ())


def _gather_shape(shapes: tuple[Any, ...], parameters: Parameters) -> Shape:
    grad_shape, indices_shape = map(tuple, shapes)
    _checks.max_unpool2d_grad_shapes.__wrapped__(_GATHER, grad_shape, indices_shape)
    return indices_shape


def _gather_gradients(call: Backward) -> Arrays:
    grad_output, indices = call.arrays
    shape = tuple(grad_output.shape)
    return call.ops[_SCATTER](call.grads[0], indices, shape) if call.needed[0] else None, None


def _gather_batched(batch: Batch) -> Any:
    grad_output, indices = batch.whole(0), batch.whole(1)
    result = batch.ops[_GATHER](*map(images_together, (grad_output, indices)))
    return _images_apart(result, batch.size, grad_output.ndim)


# A batch of calls is more images


def _images_apart(images: Any, size: int, axes: int) -> Any:
    """Undo `images_together` of an array with so many axes."""
    if axes == 4:
        return images
    return images.reshape(size, images.shape[0] // size, *images.shape[1:])


_WINDOW: dict[str, Kind] = {
    "kernel_size": "integers",
    "stride": "integers",
    "padding": "integers",
}

ENTRIES = (
    Op(
        name=_POOL,
        arrays=("input",),
        parameters={
            **_WINDOW,
            "dilation": "integers",
            "ceil_mode": "boolean",
            "return_indices": "boolean",
            "index_dtype": "name",
        },
        public=fastcv.max_pool2d,
        arguments=_pool_arguments,
        run=_pool_run,
        shape=_pool_shape,
        gradients=_pool_gradients,
        batched=_pool_batched,
        results=(Result("output"), Result("indices", False, "index_dtype")),
        saves=(1,),
        saving={"return_indices": True},
        layout_of=0,
    ),
    Op(
        name=_SCATTER,
        arrays=("grad_output", "indices"),
        integers=_INDICES,
        parameters={"input_shape": "shape"},
        public=fastcv.max_pool2d_grad_input,
        arguments=_scatter_arguments,
        run=_scatter_run,
        shape=_scatter_shape,
        gradients=_scatter_gradients,
        batched=_scatter_batched,
        layout_of=0,
    ),
    Op(
        name=_UNPOOL,
        arrays=("input", "indices"),
        integers=_INDICES,
        parameters={**_WINDOW, "output_size": "optional shape"},
        public=fastcv.max_unpool2d,
        arguments=_unpool_arguments,
        run=_unpool_run,
        shape=_unpool_shape,
        gradients=_unpool_gradients,
        batched=_unpool_batched,
        layout_of=0,
    ),
    Op(
        name=_GATHER,
        arrays=("grad_output", "indices"),
        integers=_INDICES,
        parameters={},
        public=fastcv.max_unpool2d_grad_input,
        arguments=_gather_arguments,
        run=fastcv.max_unpool2d_grad_input,
        shape=_gather_shape,
        gradients=_gather_gradients,
        batched=_gather_batched,
        layout_of=0,
    ),
)
