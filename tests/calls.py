"""Small calls of every function in the frameworks' table, for the tests of each framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from cases import uniform

import fastcv
from fastcv._gradients import TABLE


@dataclass(frozen=True)
class Call:
    """A function's name, the shapes of its arrays, and what follows them."""

    name: str
    shapes: tuple[tuple[int, ...] | None, ...]
    rest: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def differentiable(self) -> tuple[int, ...]:
        """Positions of the arrays that are there."""
        return tuple(i for i, shape in enumerate(self.shapes) if shape is not None)

    def arrays(self, dtype: type = np.float64) -> list[np.ndarray | None]:
        rng = np.random.default_rng(len(self.name))
        return [None if shape is None else uniform(rng, shape, dtype) for shape in self.shapes]

    def numpy(self, *arrays: np.ndarray | None) -> np.ndarray:
        return getattr(fastcv, self.name)(*arrays, *self.rest, **self.keywords)

    def within(self, namespace: Any) -> Any:
        """The same function of a framework's arrays, with the rest filled in."""
        function = getattr(namespace, self.name)
        return lambda *arrays: function(*arrays, *self.rest, **self.keywords)


_UNEVEN = {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2), "groups": 2}
_ENLARGED = {
    "stride": (2, 3),
    "padding": (1, 0),
    "output_padding": (1, 2),
    "dilation": (1, 2),
    "groups": 2,
}

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
)
# Of each function the one with the most parameters.
ONE_EACH = tuple(
    {call.name: call for call in sorted(CALLS, key=lambda c: len(c.keywords))}.values()
)


def each(calls: tuple[Call, ...]) -> Any:
    """Parametrize a test with these calls."""
    names = [f"{call.name}-{CALLS.index(call)}" for call in calls]
    return pytest.mark.parametrize("call", calls, ids=names)


each_call = each(CALLS)
one_call_each = each(ONE_EACH)

assert {call.name for call in CALLS} == set(TABLE), "each function needs an example"
