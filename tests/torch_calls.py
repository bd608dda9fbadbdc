"""Small calls with torch's tensors, and how their results are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from calls import Call

torch = pytest.importorskip("torch")
import fastcv.torch as ft  # noqa: E402


def tensors(call: Call, dtype: type = np.float64, grad: bool = False) -> list[Any]:
    """A call's arrays as tensors."""
    differs = call.differentiable
    return [
        None if array is None else torch.from_numpy(array).requires_grad_(grad and i in differs)
        for i, array in enumerate(call.arrays(dtype))
    ]


def function_and_inputs(call: Call, grad: bool = True) -> tuple[Callable[..., Any], list[Any]]:
    """A function of the tensors that are there, and those."""
    given = tensors(call, grad=grad)
    places = call.differentiable
    whole = call.within(ft, torch.from_numpy)

    def function(*arguments: Any) -> Any:
        by_place = dict(zip(places, arguments, strict=True))
        return whole(*(by_place.get(i, tensor) for i, tensor in enumerate(given)))

    return function, [given[i] for i in places]


def cube(results: Any) -> Any:
    """A number of all results."""
    return sum(each.pow(3).sum() for each in several(results))


def several(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def assert_all_close(got: Any, want: Any) -> None:
    torch.testing.assert_close(tuple(got), tuple(want), rtol=1e-10, atol=1e-10)
