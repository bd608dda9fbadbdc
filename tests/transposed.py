"""What the test files of conv_transpose2d share: its bound, and the whole check."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases.conv_transpose2d import KINDS
from closeness import assert_close, sum_bound, widened

from fastcv import ConvTranspose2d, conv_transpose2d, reference

each_kind = pytest.mark.parametrize("case", KINDS, ids=lambda case: case.name)

Pair = tuple[int, int]


def pair(value: int | Pair) -> Pair:
    return value if isinstance(value, tuple) else (value, value)


def depth_of(
    weight: np.ndarray, stride: int | Pair = 1, dilation: int | Pair = 1, groups: int = 1
) -> int:
    """Terms in the longest sum behind an output."""
    taps = (
        -(-k * math.gcd(s, d) // s)
        for k, s, d in zip(weight.shape[2:], pair(stride), pair(dilation), strict=True)
    )
    return weight.shape[0] // groups * math.prod(taps)


def bound_of(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: int | Pair = 1,
    dilation: int | Pair = 1,
    groups: int = 1,
    **_: Any,
) -> float:
    """How far an output may be off. Winograd may be taken; with a stride, without dilation only.

    That is for the outputs that taps reach: a common factor of stride and dilation is taken out.
    """
    window = weight.shape[2:]
    factors = [
        math.gcd(s, d if k > 1 else s)
        for k, s, d in zip(window, pair(stride), pair(dilation), strict=True)
    ]
    plain = all(k == 1 or d == f for k, d, f in zip(window, pair(dilation), factors, strict=True))
    strides = zip(x.shape[-2:], pair(stride), factors, strict=True)
    winograd = 1 < math.prod(window) <= 121 and (
        plain or all(n == 1 or s == f for n, s, f in strides)
    )
    return sum_bound(depth_of(weight, stride, dilation, groups), x, weight, bias, winograd=winograd)


def check(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, **parameters: Any
) -> None:
    """In one call and packed, against the reference."""
    want = reference.conv_transpose2d(*widened(x, weight, bias), **parameters)
    bound = bound_of(x, weight, bias, **parameters)
    label = f"(input {x.shape}, weight {weight.shape}, {parameters})"
    got = conv_transpose2d(x, weight, bias, **parameters)
    assert got.dtype == x.dtype
    assert_close(got, want, bound, label)
    packed = ConvTranspose2d(weight, bias, **parameters)
    assert_close(packed(x), want, bound, f"packed {label}")
