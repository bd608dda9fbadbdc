"""What several test files need: parameters, a convolution's bound, the whole check."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pytest
from cases.conv2d import KINDS
from closeness import assert_close, sum_bound, widened

from fastcv import Conv2d, conv2d, reference

each_dtype = pytest.mark.parametrize(
    "dtype", (np.float32, np.float64), ids=lambda dtype: dtype.__name__
)
each_kind = pytest.mark.parametrize("case", KINDS, ids=lambda case: case.name)

# Memory that a sanitizer holds back, and its slowness, are not the library's.
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def may_take_winograd(
    weight: np.ndarray,
    stride: tuple[int, int],
    algorithm: str = "auto",
    dilation: tuple[int, int] = (1, 1),
) -> bool:
    """Whether a convolution may run as Winograd, and so is held to that bound."""
    if algorithm == "direct" or not 1 < math.prod(weight.shape[-2:]) <= 121:
        return False
    return all(
        taps == 1 or step == 1 or (distance == 1 and math.ceil(taps / step) <= 5)
        for taps, step, distance in zip(weight.shape[-2:], stride, dilation, strict=True)
    )


def algorithms(
    weight: np.ndarray, stride: tuple[int, int] = (1, 1), dilation: tuple[int, int] = (1, 1)
) -> tuple[str, ...]:
    """Those that this convolution can be asked to take."""
    direct = ("auto", "direct")
    applies = may_take_winograd(weight, stride, dilation=dilation)
    return (*direct, "winograd") if applies else direct


def bound_of(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: tuple[int, int] = (1, 1),
    algorithm: str = "auto",
) -> float:
    """How far an output of this convolution may be off."""
    depth = math.prod(weight.shape[1:])
    winograd = may_take_winograd(weight, stride, algorithm)
    return sum_bound(depth, x, weight, bias, winograd=winograd)


def check(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, **parameters: Any
) -> None:
    """Every algorithm, in one call and packed, against the reference."""
    want = reference.conv2d(*widened(x, weight, bias), **parameters)
    stride = parameters.get("stride", (1, 1))
    for algorithm in algorithms(weight, stride, parameters.get("dilation", (1, 1))):
        bound = bound_of(x, weight, bias, stride, algorithm)
        label = f"({algorithm}, input {x.shape}, weight {weight.shape}, {parameters})"
        got = conv2d(x, weight, bias, **parameters, algorithm=algorithm)
        assert got.dtype == x.dtype
        assert_close(got, want, bound, label)
        packed = Conv2d(weight, bias, **parameters, algorithm=algorithm)
        assert_close(packed(x), want, bound, f"packed {label}")
