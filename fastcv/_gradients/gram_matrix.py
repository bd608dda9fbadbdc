"""Gram matrices: output = s X X', where X has a row of pixels for each channel.

By X the gradient is s (G + G') X, which is an op of its own. Its gradients, for A in X's shape, are
s (A X' + X A') by G, and s (G + G') A by X, which is the op again.
"""

from __future__ import annotations

import math
from typing import Any

import fastcv
from fastcv import _checks
from fastcv._gradients.op import (
    Arguments,
    Arrays,
    Backward,
    Batch,
    Op,
    Parameters,
    Shape,
    images_together,
)

_FORWARD, _GRADIENT = "gram_matrix", "gram_matrix_grad_input"


def _scale(scale: float | None, input: Any) -> Any:
    return 1.0 / (math.prod(input.shape[-3:]) or 1) if scale is None else scale


def _arguments(input: Any, scale: Any = None) -> Arguments:
    checked = None if scale is None else _checks.real(_FORWARD, "scale", scale)
    return Arguments((input,), (checked,))


def _shape(shapes: tuple[Any, ...], parameters: Parameters) -> Shape:
    return _checks.gram_matrix_shape(_FORWARD, tuple(shapes[0]))


def _gradients(call: Backward) -> Arrays:
    (grad,) = call.grads
    return (call.ops[_GRADIENT](grad, *call.arrays, *call.parameters) if call.needed[0] else None,)


def _batched(batch: Batch) -> Any:
    (input,) = batch.arrays
    result = batch.ops[_FORWARD](images_together(input), *batch.parameters)
    return result.reshape(*input.shape[:-2], input.shape[-3])


def _grad_arguments(grad_output: Any, input: Any, scale: Any = None) -> Arguments:
    checked = None if scale is None else _checks.real(_GRADIENT, "scale", scale)
    return Arguments((grad_output, input), (checked,))


def _grad_shape(shapes: tuple[Any, ...], parameters: Parameters) -> Shape:
    grad_shape, input_shape = map(tuple, shapes)
    expected = _checks.gram_matrix_shape(_GRADIENT, input_shape)
    relation = "the shape of the Gram matrices"
    _checks.equal_shapes(_GRADIENT, "grad_output.shape", grad_shape, relation, expected)
    return input_shape


def _grad_gradients(call: Backward) -> Arrays:
    (grad,) = call.grads
    grad_output, input = call.arrays
    by_output = None
    if call.needed[0]:
        *batch, channels, height, width = input.shape
        rows = input.reshape(*batch, channels, height * width)
        products = grad.reshape(*batch, channels, height * width) @ rows.swapaxes(-1, -2)
        by_output = _scale(call.parameters[0], input) * (products + products.swapaxes(-1, -2))
    return by_output, call.ops[_GRADIENT](grad_output, grad, *call.parameters) if call.needed[
        1
    ] else None


def _grad_batched(batch: Batch) -> Any:
    grad_output, input = batch.whole(0), batch.whole(1)
    result = batch.ops[_GRADIENT](
        images_together(grad_output, 3), images_together(input), *batch.parameters
    )
    return result.reshape(*input.shape)


ENTRIES = (
    Op(
        name=_FORWARD,
        arrays=("input",),
        parameters={"scale": "optional number"},
        public=fastcv.gram_matrix,
        arguments=_arguments,
        run=fastcv.gram_matrix,
        shape=_shape,
        gradients=_gradients,
        batched=_batched,
    ),
    Op(
        name=_GRADIENT,
        arrays=("grad_output", "input"),
        parameters={"scale": "optional number"},
        public=fastcv.gram_matrix_grad_input,
        arguments=_grad_arguments,
        run=fastcv.gram_matrix_grad_input,
        shape=_grad_shape,
        gradients=_grad_gradients,
        batched=_grad_batched,
        layout_of=1,
    ),
)
