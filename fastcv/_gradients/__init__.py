"""The table of ops that the framework namespaces loop over: what runs, and what its gradient is.

An entry knows its op over NumPy arrays, the shape of its result, and its gradients. Gradients are
written in terms of other entries, which a framework hands in as functions of its own arrays. So
each gradient is itself differentiable, to any order.

Parameters have one flat form here, which a framework's operator schema can carry: tuples of
integers, padding as (top, bottom, left, right), shapes, names. `Op.arguments` brings a user's call
into that form, or raises what the function for NumPy arrays would raise.
"""

from fastcv._gradients import convolution, gram_matrix
from fastcv._gradients.op import Arrays, Functions, Op, Parameters, Shape

TABLE: dict[str, Op] = {op.name: op for op in (*convolution.ENTRIES, *gram_matrix.ENTRIES)}

__all__ = ["TABLE", "Arrays", "Functions", "Op", "Parameters", "Shape"]
