"""The table of ops that the framework namespaces loop over: what runs, and what its gradient is.

An entry knows its op over NumPy arrays, the shape of its result, and its gradients. Gradients are
written in terms of other entries, which a framework hands in as functions of its own arrays. So
each gradient is itself differentiable, to any order.

Parameters have one flat form here, which a framework's operator schema can carry: tuples of
integers, padding as (top, bottom, left, right), shapes, names. `Op.arguments` brings a user's call
into that form, or raises what the function for NumPy arrays would raise.
"""

from collections.abc import Callable
from typing import Any

import fastcv
from fastcv._gradients import attention, convolution, gram_matrix, pooling
from fastcv._gradients.op import Arrays, Backward, Batch, Functions, Op, Parameters, Result

TABLE: dict[str, Op] = {
    op.name: op for file in (convolution, pooling, gram_matrix, attention) for op in file.ENTRIES
}

# Functions without gradients, whose results differ in number or size with their arguments: a
# framework calls them with its arrays' values, and says itself what shapes a graph may expect.
PLAIN: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        fastcv.linear_sum_assignment,
        fastcv.linear_sum_assignment_batch,
        fastcv.detr_match,
    )
}

__all__ = [
    "PLAIN",
    "TABLE",
    "Arrays",
    "Backward",
    "Batch",
    "Functions",
    "Op",
    "Parameters",
    "Result",
]
