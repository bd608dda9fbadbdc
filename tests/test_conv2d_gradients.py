"""conv2d's gradients: against the reference, as adjoints, against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import uniform
from cases.conv2d import CASES, KINDS, Case
from closeness import (
    assert_close,
    corruptions,
    rms,
    same_bits,
    sum_bound,
    widened,
)
from layouts import LAYOUTS, guarded, read_only
from shared import each_dtype, each_kind, may_take_winograd

from fastcv import conv2d, conv2d_grad_input, conv2d_grad_weight, reference


def grads_of(
    x: np.ndarray, weight: np.ndarray, grad: np.ndarray, **parameters: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Both gradients."""
    return (
        conv2d_grad_input(grad, weight, x.shape, **parameters),
        conv2d_grad_weight(grad, x, weight.shape, **parameters),
    )


def bounds_of(
    x: np.ndarray, weight: np.ndarray, grad: np.ndarray, stride: tuple[int, int], groups: int
) -> tuple[float, float]:
    """How far an element of either gradient may be off."""
    winograd = may_take_winograd(weight, stride)
    filters, _, *window = weight.shape
    rows_columns_images = math.prod(grad.shape) // grad.shape[-3] if grad.size else 0
    return (
        sum_bound(filters // groups * math.prod(window), grad, weight, winograd=winograd),
        sum_bound(rows_columns_images, grad, x, winograd=winograd),
    )


def draw(case: Case, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A case's input, weight and gradient of its output."""
    x, weight, _ = case.arrays(dtype)
    return x, weight, uniform(np.random.default_rng(1), case.output_shape, dtype)


def wanted(
    x: np.ndarray, weight: np.ndarray, grad: np.ndarray, **parameters: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Both gradients of the reference."""
    x, weight, grad = widened(x, weight, grad)
    return (
        reference.conv2d_grad_input(grad, weight, x.shape, **parameters),
        reference.conv2d_grad_weight(grad, x, weight.shape, **parameters),
    )


def check(
    x: np.ndarray,
    weight: np.ndarray,
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    **parameters: Any,
) -> None:
    """Both gradients against the reference."""
    parameters |= {"stride": stride, "groups": groups}
    shape = conv2d(x, weight, **parameters).shape
    grad = uniform(np.random.default_rng(2), shape, x.dtype)
    for name, got, want, bound in zip(
        ("input", "weight"),
        grads_of(x, weight, grad, **parameters),
        wanted(x, weight, grad, **parameters),
        bounds_of(x, weight, grad, stride, groups),
        strict=True,
    ):
        assert got.dtype == x.dtype
        assert_close(got, want, bound, f"(grad_{name}, {x.shape}, {weight.shape}, {parameters})")


# Worked numbers


def test_grad_input_by_hand() -> None:
    # Each gradient lays its multiple of the window onto the image:
    #   1 * window at (0, 0), 2 * window at (0, 1), 3 * window at (1, 0), 4 * window at (1, 1),
    # so the centre gets 1 * 3 + 2 * 2 + 3 * 2 + 4 * 1 = 17.
    grad = np.array([[[1, 2], [3, 4]]], np.float64)
    window = np.array([[[[1, 2, 3], [2, 3, 4], [3, 4, 5]]]], np.float64)
    want = [[[1, 4, 7, 6], [5, 17, 27, 20], [9, 27, 37, 26], [9, 24, 31, 20]]]
    got = conv2d_grad_input(grad, window, (1, 4, 4))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_grad_weight_by_hand() -> None:
    # The 2x2 sums that a window of ones slides over: 1 + 2 + 4 + 5 = 12, 2 + 3 + 5 + 6 = 16, ...
    image = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3)
    ones = np.ones((1, 2, 2), np.float32)
    got = conv2d_grad_weight(ones, image, (1, 1, 2, 2))
    np.testing.assert_array_equal(got, [[[[12, 16], [24, 28]]]])


def test_receptive_field() -> None:
    # Windows of 3 with dilation 1, 2 and 4: one pixel sees 1 + 2 + 4 + 8 = 15 rows and columns.
    grad = np.zeros((1, 31, 31), np.float32)
    grad[0, 15, 15] = 1
    ones = np.ones((1, 1, 3, 3), np.float32)
    for dilation in (4, 2, 1):
        options = {"padding": dilation, "dilation": dilation}
        grad = conv2d_grad_input(grad, ones, (1, 31, 31), **options)
    rows, columns = np.nonzero(np.abs(grad[0]) > 0.5)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 22, 8, 22)


# Against the reference


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_case(case: Case) -> None:
    case = case.reduced()
    x, weight, _ = case.arrays()
    check(x, weight, **case.parameters)


@each_dtype
@each_kind
def test_kind(case: Case, dtype: type) -> None:
    x, weight, _ = case.arrays(dtype)
    check(x, weight, **case.parameters)
    check(x[0], weight, **case.parameters)


@each_dtype
@pytest.mark.parametrize("name", ["winograd", "strided", "depthwise", "pointwise", "grouped"])
def test_the_comparison_can_fail(name: str, dtype: type) -> None:
    case = next(case for case in KINDS if case.name == name)
    arrays = draw(case, dtype)
    bounds = bounds_of(*arrays, case.stride, case.groups)
    for want, bound in zip(wanted(*arrays, **case.parameters), bounds, strict=True):
        assert_close(want.astype(dtype), want, bound)
        for wrong in corruptions(want.astype(dtype)):
            with pytest.raises(AssertionError, match="differ by more than"):
                assert_close(wrong, want, bound)


@each_dtype
@pytest.mark.parametrize(
    ("kernel", "groups"),
    [((1, 1), 1), ((3, 3), 1), ((3, 3), 18), ((2, 4), 1), ((4, 5), 18), ((3, 2), 3)],
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else f"g{value}",
)
def test_parameters(kernel: tuple[int, int], groups: int, dtype: type) -> None:
    rng = np.random.default_rng(5)
    x = uniform(rng, (2, 18, 12, 15), dtype)
    weight = uniform(rng, (36, 18 // groups, *kernel), dtype)
    strides = ((1, 1), (2, 2), (1, 3), (5, 4))
    paddings = (0, ((0, 2), (3, 1)), ((7, 6), (5, 8)))  # the last wider than the window
    dilations = ((1, 1), (2, 3))
    for stride, padding, dilation in product(strides, paddings, dilations):
        check(x, weight, stride, groups, padding=padding, dilation=dilation)
    check(x, weight, groups=groups, padding="same", dilation=(3, 1))


@each_dtype
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)])
@pytest.mark.parametrize("varied", ["channels_filters", "height_width"])
def test_sizes_around_lanes(kernel: tuple[int, int], varied: str, dtype: type) -> None:
    rng = np.random.default_rng(6)
    for a, b in product((1, 3, 4, 5, 7, 8, 9, 15, 16, 17), repeat=2):
        channels, filters, height, width = {
            "channels_filters": (a, b, 5, 7),
            "height_width": (5, 18, a, b),
        }[varied]
        x = uniform(rng, (2, channels, height, width), dtype)
        weight = uniform(rng, (filters, channels, *kernel), dtype)
        check(x, weight, padding=(1, 1))


@each_dtype
def test_depthwise(dtype: type) -> None:
    rng = np.random.default_rng(7)
    for multiplier, kernel, width in product(
        (1, 2, 3), ((1, 1), (3, 3), (7, 7), (2, 5)), (7, 16, 33)
    ):
        x = uniform(rng, (2, 5, 14, width), dtype)
        weight = uniform(rng, (5 * multiplier, 1, *kernel), dtype)
        for stride, dilation in product(((1, 1), (2, 2)), ((1, 1), (2, 1))):
            check(x, weight, stride, 5, padding=(3, 3), dilation=dilation)


@each_dtype
def test_zero_sizes(dtype: type) -> None:
    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    # No images: nothing to hand back, and a weight that nothing depends on.
    assert conv2d_grad_input(zeros(0, 4, 6, 6), zeros(4, 3, 3, 3), (0, 3, 8, 8)).shape == (
        0,
        3,
        8,
        8,
    )
    none = conv2d_grad_weight(zeros(0, 4, 6, 6), zeros(0, 3, 8, 8), (4, 3, 3, 3))
    np.testing.assert_array_equal(none, zeros(4, 3, 3, 3))
    # No channels.
    grad = np.ones((2, 4, 6, 6), dtype)
    assert conv2d_grad_input(grad, zeros(4, 0, 3, 3), (2, 0, 8, 8)).shape == (2, 0, 8, 8)
    assert conv2d_grad_weight(grad, zeros(2, 0, 8, 8), (4, 0, 3, 3)).shape == (4, 0, 3, 3)


def test_pixels_that_no_window_saw_get_zero() -> None:
    # Stride 3 with windows of 1 leaves two of three pixels unseen; so does a last odd column.
    weight = np.full((1, 1, 1, 1), 2.0)
    grad = np.ones((1, 2, 3))
    want = np.zeros((1, 6, 8))
    want[:, ::3, ::3] = 2
    np.testing.assert_array_equal(conv2d_grad_input(grad, weight, (1, 6, 8), stride=3), want)


# Mathematics


@each_kind
def test_adjoints(case: Case) -> None:
    # <conv(x, w), g> = <x, grad_input(g, w)> = <w, grad_weight(g, x)>
    x, weight, grad = draw(case)
    product_of_all = np.vdot(conv2d(x, weight, **case.parameters), grad)
    grad_x, grad_w = grads_of(x, weight, grad, **case.parameters)
    size = case.multiply_adds * case.input_shape[0] * rms(x) * rms(weight) * rms(grad)
    assert abs(np.vdot(x, grad_x) - product_of_all) <= 1e-13 * size
    assert abs(np.vdot(weight, grad_w) - product_of_all) <= 1e-13 * size


@each_kind
def test_finite_differences(case: Case) -> None:
    # loss = sum(sin(conv)), whose gradient at the output is cos(conv), along random directions.
    x, weight, _ = draw(case)
    rng = np.random.default_rng(3)
    x_step, w_step = rng.standard_normal(x.shape), rng.standard_normal(weight.shape)

    def loss(t: float, u: float) -> float:
        return float(np.sin(conv2d(x + t * x_step, weight + u * w_step, **case.parameters)).sum())

    grad = np.cos(conv2d(x, weight, **case.parameters))
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
    bounds = bounds_of(*arrays, case.stride, case.groups)
    want = wanted(*arrays, **case.parameters)
    moved = [read_only(layout(array.shape, dtype).filled(array)) for array in arrays]
    for got, right, bound in zip(grads_of(*moved, **case.parameters), want, bounds, strict=True):
        assert_close(got, right, bound)
    grad_w = conv2d_grad_weight(moved[2], moved[0], arrays[1].shape, **case.parameters)
    assert grad_w.flags.c_contiguous


@each_kind
def test_channels_last_stays_channels_last(case: Case) -> None:
    x, weight, grad = draw(case)
    moved = LAYOUTS["channels_last"](grad.shape, grad.dtype).filled(grad)
    got = conv2d_grad_input(moved, weight, x.shape, **case.parameters)
    # One pixel per plane is both orders at once, and then counts as NCHW.
    if grad.shape[-1] * grad.shape[-2] > 1:
        assert np.moveaxis(got, -3, -1).flags.c_contiguous
    assert conv2d_grad_input(grad, weight, x.shape, **case.parameters).flags.c_contiguous


@each_dtype
@pytest.mark.parametrize("at_end", [False, True], ids=["start", "end"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_kind
def test_nothing_outside_the_arrays_is_read(
    case: Case, layout: str, at_end: bool, dtype: type
) -> None:
    def place(array: np.ndarray) -> np.ndarray:
        view = guarded(array.shape, dtype, at_end=at_end, layout=LAYOUTS[layout])
        view[...] = array
        return view

    arrays = draw(case, dtype)
    bounds = bounds_of(*arrays, case.stride, case.groups)
    want = wanted(*arrays, **case.parameters)
    got = grads_of(*map(place, arrays), **case.parameters)
    for one, right, bound in zip(got, want, bounds, strict=True):
        assert_close(one, right, bound)


@each_dtype
@each_kind
def test_bits_do_not_depend_on_threads(
    case: Case, dtype: type, threads: Callable[[int], None]
) -> None:
    n, c, h, w = case.input_shape
    if case.name != "whole_plane":  # its window spans the plane
        h, w = 2 * h + 1, 2 * w + 2
    arrays = draw(replace(case, input_shape=(n + 1, c, h, w)), dtype)
    threads(1)
    alone = grads_of(*arrays, **case.parameters)
    for count in (1, 2, 7):
        threads(count)
        for one, other in zip(alone, grads_of(*arrays, **case.parameters), strict=True):
            assert same_bits(one, other)


@each_dtype
@each_kind
def test_a_samples_input_gradient_does_not_depend_on_its_batch(case: Case, dtype: type) -> None:
    case = replace(case, input_shape=(3, *case.input_shape[1:]))
    x, weight, grad = draw(case, dtype)
    together = conv2d_grad_input(grad, weight, x.shape, **case.parameters)
    for n in range(3):
        alone = conv2d_grad_input(grad[n], weight, x.shape[1:], **case.parameters)
        assert same_bits(together[n], alone)


@each_kind
def test_nan_reaches_what_depends_on_it_and_nothing_else(case: Case) -> None:
    x, weight, grad = draw(case, np.float32)
    place = (1, grad.shape[1] // 2, grad.shape[2] // 2, grad.shape[3] // 3)
    mark = np.zeros_like(grad)
    mark[place] = 1
    ones = np.ones(case.weight_shape)
    touched = reference.conv2d_grad_input(mark, ones, x.shape, **case.parameters) != 0
    for special in (np.nan, np.inf):
        grad[place] = special
        got = conv2d_grad_input(grad, weight, x.shape, **case.parameters)
        np.testing.assert_array_equal(~np.isfinite(got), touched)
        filters = ~np.isfinite(conv2d_grad_weight(grad, x, weight.shape, **case.parameters))
        assert not np.delete(filters, place[1], axis=0).any()
        assert filters[place[1]].any()
