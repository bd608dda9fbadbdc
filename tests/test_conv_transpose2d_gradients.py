"""conv_transpose2d's gradients: against the reference, as adjoints, by finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import uniform
from cases.conv_transpose2d import CASES, KINDS, Case
from closeness import assert_close, corruptions, rms, same_bits, sum_bound, widened
from layouts import LAYOUTS, guarded, read_only
from shared import each_dtype, may_take_winograd
from transposed import each_kind

from fastcv import (
    conv2d,
    conv2d_grad_input,
    conv2d_grad_weight,
    conv_transpose2d,
    conv_transpose2d_grad_input,
    conv_transpose2d_grad_weight,
    reference,
)


def draw(case: Case, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A case's input, weight and gradient of its output."""
    x, weight, _ = case.arrays(dtype)
    return x, weight, uniform(np.random.default_rng(1), case.output_shape, dtype)


def grads_of(
    x: np.ndarray, weight: np.ndarray, grad: np.ndarray, **parameters: Any
) -> tuple[np.ndarray, np.ndarray]:
    return (
        conv_transpose2d_grad_input(grad, weight, x.shape, **parameters),
        conv_transpose2d_grad_weight(grad, x, weight.shape, **parameters),
    )


def wanted(
    x: np.ndarray, weight: np.ndarray, grad: np.ndarray, **parameters: Any
) -> tuple[np.ndarray, np.ndarray]:
    x, weight, grad = widened(x, weight, grad)
    return (
        reference.conv_transpose2d_grad_input(grad, weight, x.shape, **parameters),
        reference.conv_transpose2d_grad_weight(grad, x, weight.shape, **parameters),
    )


def bounds_of(
    x: np.ndarray, weight: np.ndarray, grad: np.ndarray, case: Case
) -> tuple[float, float]:
    """How far an element of either gradient may be off: those of conv2d and conv2d_grad_weight."""
    winograd = may_take_winograd(weight, case.stride, dilation=case.dilation)
    return (
        sum_bound(math.prod(weight.shape[1:]), grad, weight, winograd=winograd),
        sum_bound(x.size // x.shape[-3], grad, x, winograd=winograd),
    )


def check(x: np.ndarray, weight: np.ndarray, grad: np.ndarray, case: Case) -> None:
    for name, got, want, bound in zip(
        ("input", "weight"),
        grads_of(x, weight, grad, **case.parameters),
        wanted(x, weight, grad, **case.parameters),
        bounds_of(x, weight, grad, case),
        strict=True,
    ):
        assert got.dtype == x.dtype
        assert_close(got, want, bound, f"(grad_{name} of {case})")


# Worked numbers


def test_grad_input_by_hand() -> None:
    # The convolution with the same window: the 2x2 sums 1 + 2 + 4 + 5 = 12, 16, 24, 28.
    grad = np.arange(1.0, 10.0).reshape(1, 3, 3)
    got = conv_transpose2d_grad_input(grad, np.ones((1, 1, 2, 2)), (1, 2, 2))
    np.testing.assert_allclose(got, [[[12, 16], [24, 28]]], rtol=1e-12)


def test_grad_weight_by_hand() -> None:
    # Windows of 2 x 2 side by side: each tap meets one gradient of each pixel's four,
    # 1 * 1 + 2 * 3 + 3 * 9 + 4 * 11 = 78 the first.
    grad = np.arange(1, 17, dtype=np.float32).reshape(1, 4, 4)
    image = np.array([[[1, 2], [3, 4]]], np.float32)
    got = conv_transpose2d_grad_weight(grad, image, (1, 1, 2, 2), stride=2)
    np.testing.assert_array_equal(got, [[[[78, 88], [118, 128]]]])


# Against the reference


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_case(case: Case) -> None:
    case = case.reduced()
    check(*draw(case, np.float32), case)


@each_dtype
@each_kind
def test_kind(case: Case, dtype: type) -> None:
    x, weight, grad = draw(case, dtype)
    check(x, weight, grad, case)
    check(x[0], weight, grad[0], case)


@each_dtype
@each_kind
def test_the_comparison_can_fail(case: Case, dtype: type) -> None:
    arrays = draw(case, dtype)
    pairs = zip(wanted(*arrays, **case.parameters), bounds_of(*arrays, case), strict=True)
    for want, bound in pairs:
        assert_close(want.astype(dtype), want, bound)
        for wrong in corruptions(want.astype(dtype)):
            if not same_bits(wrong, want.astype(dtype)):  # some gradients are all alike
                with pytest.raises(AssertionError, match="differ by more than"):
                    assert_close(wrong, want, bound)


@pytest.mark.parametrize(
    "case",
    # With more appended than a stride, the convolution's output is larger.
    [c for c in KINDS if all(map(int.__lt__, c.output_padding, c.stride))],
    ids=lambda case: case.name,
)
def test_they_are_the_convolutions_maps(case: Case) -> None:
    # The three maps are those of conv2d, to the bit.
    x, weight, grad = draw(case, np.float32)
    names = ("stride", "padding", "groups", "dilation")
    options = {name: case.parameters[name] for name in names}
    grad_x, grad_w = grads_of(x, weight, grad, **case.parameters)
    assert same_bits(grad_x, conv2d(grad, weight, **options))
    assert same_bits(grad_w, conv2d_grad_weight(x, grad, weight.shape, **options))
    y = conv_transpose2d(x, weight, **case.parameters)
    assert same_bits(y, conv2d_grad_input(x, weight, grad.shape, **options))


def test_no_images() -> None:
    none = np.zeros((0, 3, 8, 8)), np.zeros((3, 4, 3, 3)), np.zeros((0, 4, 17, 17))
    grad_x, grad_w = grads_of(*none, stride=2)
    assert grad_x.shape == (0, 3, 8, 8)
    np.testing.assert_array_equal(grad_w, np.zeros((3, 4, 3, 3)))


# Mathematics


@each_kind
def test_adjoints(case: Case) -> None:
    # <transposed(x, w), g> = <x, grad_input(g, w)> = <w, grad_weight(g, x)>
    x, weight, grad = draw(case)
    product_of_all = np.vdot(conv_transpose2d(x, weight, **case.parameters), grad)
    grad_x, grad_w = grads_of(x, weight, grad, **case.parameters)
    size = case.multiply_adds * rms(x) * rms(weight) * rms(grad)
    assert abs(np.vdot(x, grad_x) - product_of_all) <= 1e-13 * size
    assert abs(np.vdot(weight, grad_w) - product_of_all) <= 1e-13 * size


@each_kind
def test_finite_differences(case: Case) -> None:
    # loss = sum(sin(y)), whose gradient at the output is cos(y), along random directions.
    x, weight, _ = draw(case)
    rng = np.random.default_rng(3)
    x_step, w_step = rng.standard_normal(x.shape), rng.standard_normal(weight.shape)

    def loss(t: float, u: float) -> float:
        y = conv_transpose2d(x + t * x_step, weight + u * w_step, **case.parameters)
        return float(np.sin(y).sum())

    grad = np.cos(conv_transpose2d(x, weight, **case.parameters))
    grad_x, grad_w = grads_of(x, weight, grad, **case.parameters)
    h = 1e-5
    for slope, numerical in (
        (np.vdot(grad_x, x_step), (loss(h, 0) - loss(-h, 0)) / (2 * h)),
        (np.vdot(grad_w, w_step), (loss(0, h) - loss(0, -h)) / (2 * h)),
    ):
        assert numerical == pytest.approx(slope, rel=1e-5, abs=1e-4 * math.sqrt(grad.size))


# Memory and bits


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@each_kind
def test_layouts(case: Case, layout: Callable[..., Any], dtype: type) -> None:
    arrays = draw(case, dtype)
    want, bounds = wanted(*arrays, **case.parameters), bounds_of(*arrays, case)
    moved = [read_only(layout(array.shape, dtype).filled(array)) for array in arrays]
    got = grads_of(*moved, **case.parameters)
    for one, right, bound in zip(got, want, bounds, strict=True):
        assert_close(one, right, bound)
    assert got[1].flags.c_contiguous


@each_kind
def test_channels_last_stays_channels_last(case: Case) -> None:
    x, weight, grad = draw(case)
    moved = LAYOUTS["channels_last"](grad.shape, grad.dtype).filled(grad)
    got = conv_transpose2d_grad_input(moved, weight, x.shape, **case.parameters)
    if grad.shape[1] > 1:  # one channel is both orders at once, and then counts as NCHW
        assert np.moveaxis(got, -3, -1).flags.c_contiguous
    plain = conv_transpose2d_grad_input(grad, weight, x.shape, **case.parameters)
    assert plain.flags.c_contiguous


@each_dtype
@pytest.mark.parametrize("at_end", [False, True], ids=["start", "end"])
@each_kind
def test_nothing_outside_the_arrays_is_read(case: Case, at_end: bool, dtype: type) -> None:
    def place(array: np.ndarray) -> np.ndarray:
        view = guarded(array.shape, dtype, at_end=at_end, layout=LAYOUTS["contiguous"])
        view[...] = array
        return view

    arrays = draw(case, dtype)
    got = grads_of(*map(place, arrays), **case.parameters)
    want, bounds = wanted(*arrays, **case.parameters), bounds_of(*arrays, case)
    for one, right, bound in zip(got, want, bounds, strict=True):
        assert_close(one, right, bound)


@each_kind
def test_bits_do_not_depend_on_threads(case: Case, threads: Callable[[int], None]) -> None:
    n, c, h, w = case.input_shape
    arrays = draw(replace(case, input_shape=(n + 1, c, 2 * h + 1, 2 * w + 2)), np.float32)
    threads(1)
    alone = grads_of(*arrays, **case.parameters)
    for count in (1, 2, 7):
        threads(count)
        for one, other in zip(alone, grads_of(*arrays, **case.parameters), strict=True):
            assert same_bits(one, other)


@each_kind
def test_a_samples_input_gradient_does_not_depend_on_its_batch(case: Case) -> None:
    x, weight, grad = draw(replace(case, input_shape=(3, *case.input_shape[1:])), np.float32)
    together = conv_transpose2d_grad_input(grad, weight, x.shape, **case.parameters)
    for n in range(3):
        alone = conv_transpose2d_grad_input(grad[n], weight, x.shape[1:], **case.parameters)
        assert same_bits(together[n], alone)
