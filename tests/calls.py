"""Small calls of every function in the frameworks' table, for the tests of each framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from cases import uniform

import fastcv
from fastcv._gradients import TABLE


@dataclass(frozen=True)
class Call:
    """A function's name, the shapes of its arrays, and what follows them.

    In place of a shape there may be a function that makes the array, of a generator and a dtype.
    """

    name: str
    shapes: tuple[Any, ...]
    rest: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def present(self) -> tuple[int, ...]:
        """Positions of the arrays that are there."""
        return tuple(i for i, shape in enumerate(self.shapes) if shape is not None)

    @property
    def differentiable(self) -> tuple[int, ...]:
        """Positions of the arrays that may vary on their own, and that have gradients."""
        return tuple(i for i, shape in enumerate(self.shapes) if isinstance(shape, tuple))

    def arrays(self, dtype: type = np.float64) -> list[np.ndarray | None]:
        rng = np.random.default_rng(len(self.name))
        return [
            shape(rng, dtype)
            if callable(shape)
            else None
            if shape is None
            else uniform(rng, shape, dtype)
            for shape in self.shapes
        ]

    def numpy(self, *arrays: np.ndarray | None) -> np.ndarray:
        return getattr(fastcv, self.name)(*arrays, *self.rest, **self.keywords)

    def options(self, as_array: Callable[[np.ndarray], Any]) -> dict[str, Any]:
        """The keywords, arrays among them made a framework's."""
        return {
            name: as_array(value) if isinstance(value, np.ndarray) else value
            for name, value in self.keywords.items()
        }

    def within(self, namespace: Any, as_array: Callable[[np.ndarray], Any] = np.asarray) -> Any:
        """The same function of a framework's arrays, with the rest filled in."""
        function, options = getattr(namespace, self.name), self.options(as_array)
        return lambda *arrays: function(*arrays, *self.rest, **options)


_UNEVEN = {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2), "groups": 2}
_ENLARGED = {
    "stride": (2, 3),
    "padding": (1, 0),
    "output_padding": (1, 2),
    "dilation": (1, 2),
    "groups": 2,
}


def _indices(shape: tuple[int, ...], plane: int, dtype: type = np.int64) -> Any:
    """Places that differ within each plane."""

    def make(rng: np.random.Generator, _: type) -> np.ndarray:
        *planes, rows, columns = shape
        places = np.broadcast_to(np.arange(plane), (*planes, plane))
        return rng.permuted(places, axis=-1)[..., : rows * columns].reshape(shape).astype(dtype)

    return make


def _booleans(shape: tuple[int, ...]) -> Any:
    return lambda rng, _: rng.random(shape) < 0.7


def _attended(number: int) -> Any:
    """The arrays that a gradient of attention takes, one of those that belong together."""

    def make(_: Any, dtype: type) -> np.ndarray:
        rng = np.random.default_rng(7)
        shapes = ((2, 4, 3, 2), (2, 2, 5, 2), (2, 2, 5, 3))
        inputs = [uniform(rng, shape, dtype) for shape in shapes]
        mask = uniform(rng, (4, 3, 5), dtype)
        results = fastcv.scaled_dot_product_attention(*inputs, mask, **_HEADS, return_lse=True)
        return (*inputs, *results, mask)[number]

    return make


_HEADS = {"enable_gqa": True, "softcap": 2.0, "is_causal": True, "causal_alignment": "bottom_right"}
_LIMITED = {
    "dropout_p": 0.4,
    "seed": 2**63 + 5,
    "window": (2, 1),
    "scale": 0.7,
    "kv_lengths": np.array([[3], [5]]),
}
_POOLED = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "ceil_mode": True}

CALLS = (
    Call("conv2d", ((2, 3, 5, 4), (4, 3, 3, 2), (4,))),
    Call("conv2d", ((2, 4, 5, 6), (4, 2, 3, 2), (4,)), (), _UNEVEN),
    Call("conv2d", ((3, 4, 5), (2, 3, 2, 2), None), (1, "same")),
    Call("conv2d", ((2, 3, 5, 5), (3, 1, 3, 3), (3,)), (2, 1, 1, 3)),
    Call("conv2d_grad_input", ((2, 4, 2, 7), (4, 2, 3, 2)), ((2, 4, 5, 6),), _UNEVEN),
    Call("conv2d_grad_input", ((2, 3, 4), (2, 3, 2, 2)), ((3, 4, 5),)),
    Call("conv2d_grad_weight", ((2, 4, 2, 7), (2, 4, 5, 6)), ((4, 2, 3, 2),), _UNEVEN),
    Call("conv2d_grad_weight", ((2, 3, 4), (3, 4, 5)), ((2, 3, 2, 2),)),
    Call("conv_transpose2d", ((2, 3, 3, 2), (3, 2, 2, 3), (2,)), (2, 1)),
    Call("conv_transpose2d", ((2, 4, 3, 2), (4, 1, 2, 2), (2,)), (), _ENLARGED),
    Call("conv_transpose2d", ((3, 2, 3), (3, 2, 2, 2), None)),
    Call("conv_transpose2d_grad_input", ((2, 2, 5, 8), (4, 1, 2, 2)), ((2, 4, 3, 2),), _ENLARGED),
    Call("conv_transpose2d_grad_input", ((2, 3, 4), (3, 2, 2, 2)), ((3, 2, 3),)),
    Call("conv_transpose2d_grad_weight", ((2, 2, 5, 8), (2, 4, 3, 2)), ((4, 1, 2, 2),), _ENLARGED),
    Call("conv_transpose2d_grad_weight", ((2, 3, 4), (3, 2, 3)), ((3, 2, 2, 2),)),
    Call("gram_matrix", ((2, 3, 2, 4),)),
    Call("gram_matrix", ((3, 2, 2),), (), {"scale": 0.3}),
    Call("gram_matrix_grad_input", ((3, 3), (3, 2, 2))),
    Call("gram_matrix_grad_input", ((2, 3, 3), (2, 3, 2, 4)), (), {"scale": 0.3}),
    Call("max_pool2d", ((2, 3, 5, 4),), (2,)),
    Call("max_pool2d", ((2, 2, 6, 7),), ((3, 2),), _POOLED),
    Call("max_pool2d", ((2, 5, 4),), (3, 1), {"index_dtype": np.int32}),
    Call("max_pool2d_grad_input", ((2, 2, 2, 3), _indices((2, 2, 2, 3), 20)), ((2, 2, 5, 4),)),
    Call("max_unpool2d", ((2, 2, 2, 3), _indices((2, 2, 2, 3), 20)), (2, None, 0, (4, 5))),
    Call("max_unpool2d", ((2, 2, 3), _indices((2, 2, 3), 24, np.int32)), (2,)),
    Call("max_unpool2d_grad_input", ((2, 2, 5, 4), _indices((2, 2, 2, 3), 20))),
    Call("scaled_dot_product_attention", ((3, 2), (4, 2), (4, 3)), (None, 0.0, True)),
    Call("scaled_dot_product_attention", ((1, 2, 3, 2), (2, 1, 4, 2), (2, 4, 1), (1, 3, 4))),
    Call("scaled_dot_product_attention", ((2, 4, 3, 2), (1, 2, 5, 2), (2, 5, 3)), (), _HEADS),
    Call(
        "scaled_dot_product_attention",
        ((2, 1, 2, 3, 2), (2, 1, 2, 5, 2), (2, 1, 2, 5, 2), _booleans((3, 5))),
        (),
        _LIMITED,
    ),
    Call(
        "scaled_dot_product_attention_grad",
        ((2, 4, 3, 3), *map(_attended, range(6))),
        (),
        _HEADS | {"need_mask_grad": True},
    ),
)
# Of each function the one with the most parameters.
ONE_EACH = tuple(
    {call.name: call for call in sorted(CALLS, key=lambda c: len(c.keywords))}.values()
)


def subsets(number: int) -> list[int]:
    """Those of so many arrays, as bits: all, or of many each array alone and all together."""
    whole = 2**number
    return list(range(1, whole)) if number < 5 else [1 << i for i in range(number)] + [whole - 1]


def each(calls: tuple[Call, ...]) -> Any:
    """Parametrize a test with these calls."""
    names = [f"{call.name}-{CALLS.index(call)}" for call in calls]
    return pytest.mark.parametrize("call", calls, ids=names)


each_call = each(CALLS)
one_call_each = each(ONE_EACH)

assert {call.name for call in CALLS} == set(TABLE), "each function needs an example"
