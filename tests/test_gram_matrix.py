"""Gram matrices and their gradient: values, memory, and what is promised beyond the values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import uniform
from cases.gram_matrix import CASES, KINDS, Case
from closeness import assert_close, corruptions, rms, same_bits, sum_bound, widened
from layouts import LAYOUTS, guarded, read_only
from shared import each_dtype

from fastcv import gram_matrix, gram_matrix_grad_input, reference

each_kind = pytest.mark.parametrize("case", KINDS, ids=lambda case: case.name)


def bound_of(x: np.ndarray) -> float:
    """How far an element of the Gram matrix may be off.

    On the diagonal no term cancels another: after k of n terms the sum stands near k s^2, and the
    roundings on the way add up to some 0.7 n^1.5 eps s^2 at six standard deviations. Kernels hold
    a sum of at most 256 terms in a register, which makes that 11 n eps s^2.
    """
    pixels = x.shape[-1] * x.shape[-2]
    return 3 * sum_bound(pixels, x, x)


def grad_bound_of(x: np.ndarray, grad: np.ndarray) -> float:
    """The same for the gradient, whose terms may be of one sign as well."""
    return 3 * sum_bound(2 * x.shape[-3], grad, x)


def check(x: np.ndarray, grad: np.ndarray) -> None:
    """Both functions against the reference."""
    wide_x, wide_grad = widened(x, grad)
    got = gram_matrix(x, 1)
    assert got.dtype == x.dtype
    assert got.flags.c_contiguous
    assert same_bits(got, np.ascontiguousarray(got.swapaxes(-1, -2)))
    assert_close(got, reference.gram_matrix(wide_x, 1), bound_of(x), x.shape)
    got = gram_matrix_grad_input(grad, x, 1)
    assert got.dtype == x.dtype
    want = reference.gram_matrix_grad_input(wide_grad, wide_x, 1)
    assert_close(got, want, grad_bound_of(x, grad), x.shape)


# Worked numbers


@each_dtype
def test_by_formula(dtype: type) -> None:
    # Channel c is c + 1 at every one of 35 pixels: the products are 35 (i + 1) (j + 1).
    steps = np.arange(1, 41, dtype=dtype)
    x = np.broadcast_to(steps[:, None, None], (40, 5, 7))
    np.testing.assert_array_equal(gram_matrix(x, 1), 35 * np.outer(steps, steps))
    np.testing.assert_array_equal(gram_matrix(x, 2.0), 70 * np.outer(steps, steps))
    # Pixels 0, 1, 2, ... in two channels, one of them turned round: sums of squares and products.
    n = 200
    ramp = np.arange(n, dtype=dtype).reshape(1, 20, 10)
    x = np.concatenate([ramp, ramp[:, ::-1, ::-1]])
    squares = (n - 1) * n * (2 * n - 1) / 6
    crossed = (n - 1) ** 2 * n / 2 - squares
    np.testing.assert_array_equal(gram_matrix(x, 1), [[squares, crossed], [crossed, squares]])


def test_orthogonal_channels() -> None:
    # Every channel has one pixel of its own.
    x = np.eye(36, dtype=np.float32).reshape(36, 6, 6)
    np.testing.assert_array_equal(gram_matrix(x, 1), np.eye(36))


@each_dtype
def test_scale(dtype: type) -> None:
    x, grad = KINDS[0].arrays(dtype)
    for scale in (1 / (13 * 33 * 29), np.float64(1 / (13 * 33 * 29))):
        assert same_bits(gram_matrix(x), gram_matrix(x, scale))
        assert same_bits(
            gram_matrix_grad_input(grad, x), gram_matrix_grad_input(grad, x, scale=scale)
        )
    for scale in (2, -4.0, np.float32(0.5), np.int8(8)):
        assert same_bits(gram_matrix(x, scale), gram_matrix(x, 1) * dtype(scale))
    assert not gram_matrix(x, 0).any()


def test_grad_by_hand() -> None:
    # (G + G') x = [[2, 2], [2, 0]] [[1, 2], [5, 6]]
    grad = np.array([[1.0, 0.0], [2.0, 0.0]])
    x = np.array([[[1.0, 2.0]], [[5.0, 6.0]]])
    want = [[[12, 16]], [[2, 4]]]
    np.testing.assert_array_equal(gram_matrix_grad_input(grad, x, 1), want)


# Against the reference


@each_dtype
@each_kind
def test_kinds(case: Case, dtype: type) -> None:
    check(*case.arrays(dtype))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_cases(case: Case) -> None:
    check(*replace(case, input_shape=(1, *case.input_shape[1:])).arrays())


def sizes() -> Iterator[tuple[int, int, int, int]]:
    for channels in (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65):
        for plane in ((1, 1), (1, 15), (4, 4), (1, 17), (3, 16), (7, 7), (255, 1), (2, 129)):
            yield (1, channels, *plane)
    yield from ((0, 5, 4, 4), (2, 5, 0, 4), (2, 5, 4, 0), (0, 0, 0, 0), (2, 0, 3, 3))


@each_dtype
def test_sizes(dtype: type) -> None:
    rng = np.random.default_rng(0)
    for size in sizes():
        for layout in ("contiguous", "channels_last"):
            x = LAYOUTS[layout](size, dtype).filled(uniform(rng, size, dtype))
            check(x, uniform(rng, (size[0], size[1], size[1]), dtype))


def test_no_pixels_is_an_empty_sum() -> None:
    for shape in ((3, 0, 4), (2, 3, 5, 0)):
        x = np.ones(shape, np.float32)
        assert same_bits(gram_matrix(x), np.zeros((*shape[:-3], 3, 3), np.float32))
        grad = np.ones((*shape[:-3], 3, 3), np.float32)
        assert gram_matrix_grad_input(grad, x).shape == shape


@each_dtype
@each_kind
def test_without_a_batch(case: Case, dtype: type) -> None:
    x, grad = case.arrays(dtype)
    assert same_bits(gram_matrix(x[0]), gram_matrix(x)[0])
    got, want = gram_matrix_grad_input(grad[0], x[0]), gram_matrix_grad_input(grad, x)[0]
    assert same_bits(got, want)
    assert got.strides == want.strides


@each_dtype
@each_kind
def test_comparison_refuses_corrupted_results(case: Case, dtype: type) -> None:
    x, grad = case.arrays(dtype)
    wide_x, wide_grad = widened(x, grad)
    for got, want, bound in (
        (gram_matrix(x, 1), reference.gram_matrix(wide_x, 1), bound_of(x)),
        (
            gram_matrix_grad_input(grad, x, 1),
            reference.gram_matrix_grad_input(wide_grad, wide_x, 1),
            grad_bound_of(x, grad),
        ),
    ):
        for wrong in corruptions(got):
            with pytest.raises(AssertionError):
                assert_close(wrong, want, bound)


# The gradient as a gradient


@each_kind
def test_gradient_is_the_adjoint_of_the_derivative(case: Case) -> None:
    # The derivative of x x' in direction d is d x' + x d'.
    x, grad = case.arrays(np.float64)
    direction = case.arrays(np.float64, seed=1)[0]
    both = gram_matrix(x + direction, 1) - gram_matrix(x, 1) - gram_matrix(direction, 1)
    left = np.vdot(both, grad)
    right = np.vdot(direction, gram_matrix_grad_input(grad, x, 1))
    assert left == pytest.approx(right, rel=1e-9, abs=1e-9 * x.size)


@each_kind
def test_finite_differences(case: Case) -> None:
    x, grad = case.arrays(np.float64)
    got = gram_matrix_grad_input(grad, x, 0.25)
    step = 1e-3
    rng = np.random.default_rng(3)
    for _ in range(5):
        place = tuple(int(rng.integers(size)) for size in x.shape)
        there, back = x.copy(), x.copy()
        there[place] += step
        back[place] -= step
        difference = gram_matrix(there, 0.25) - gram_matrix(back, 0.25)
        assert np.vdot(difference, grad) / (2 * step) == pytest.approx(got[place], abs=1e-7)


# Memory


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@each_kind
def test_layouts(case: Case, layout: Callable[..., Any], dtype: type) -> None:
    x, grad = (read_only(layout(a.shape, dtype).filled(a)) for a in case.arrays(dtype))
    check(x, grad)


@each_kind
def test_channels_last_stays_channels_last(case: Case) -> None:
    x, grad = case.arrays()
    x = LAYOUTS["channels_last"](x.shape, np.float32).filled(x)
    assert np.moveaxis(gram_matrix_grad_input(grad, x), 1, 3).flags.c_contiguous
    assert np.moveaxis(gram_matrix_grad_input(grad[0], x[0]), 0, 2).flags.c_contiguous
    x = np.ascontiguousarray(x)
    assert gram_matrix_grad_input(grad, x).flags.c_contiguous


@each_kind
def test_broadcast_arrays(case: Case) -> None:
    # Stride 0: one image for the whole batch, one channel for all.
    x, grad = case.arrays()
    check(np.broadcast_to(x[:1], x.shape), np.broadcast_to(grad[:1], grad.shape))
    check(np.broadcast_to(x[:, :1], x.shape), np.broadcast_to(grad[:, :, :1], grad.shape))


@each_dtype
@pytest.mark.parametrize("at_end", [False, True], ids=["start", "end"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@each_kind
def test_nothing_outside_the_arrays_is_touched(
    case: Case, layout: str, at_end: bool, dtype: type
) -> None:
    def place(array: np.ndarray) -> np.ndarray:
        view = guarded(array.shape, dtype, at_end=at_end, layout=LAYOUTS[layout])
        view[...] = array
        return view

    check(*map(place, case.arrays(dtype)))


# The same bits


@each_dtype
@each_kind
def test_bits_do_not_depend_on_threads(
    case: Case, dtype: type, threads: Callable[[int], None]
) -> None:
    n, c, h, w = case.input_shape
    for shape in ((n, c, 3 * h + 1, 3 * w + 2), (1, 4 * c + 3, h, 2 * w)):
        x, grad = replace(case, input_shape=shape).arrays(dtype)
        threads(1)
        alone, alone_grad = gram_matrix(x), gram_matrix_grad_input(grad, x)
        for count in (2, 3, 7):
            threads(count)
            assert same_bits(alone, gram_matrix(x))
            assert same_bits(alone_grad, gram_matrix_grad_input(grad, x))


@each_dtype
@each_kind
def test_a_sample_does_not_depend_on_its_batch(case: Case, dtype: type) -> None:
    case = replace(case, input_shape=(37, *case.input_shape[1:]))
    x, grad = case.arrays(dtype)
    together, together_grad = gram_matrix(x), gram_matrix_grad_input(grad, x)
    for n in (0, 1, 17, 36):
        assert same_bits(together[n], gram_matrix(x[n]))
        assert same_bits(together_grad[n], gram_matrix_grad_input(grad[n], x[n]))
    assert same_bits(together[33:], gram_matrix(x[33:]))
    assert same_bits(together_grad[:3], gram_matrix_grad_input(grad[:3], x[:3]))


@each_kind
def test_run_after_run_and_arguments_left_alone(case: Case) -> None:
    arrays = case.arrays()
    before = [array.copy() for array in arrays]
    first = gram_matrix(arrays[0]), gram_matrix_grad_input(*arrays[::-1])
    for _ in range(3):
        assert same_bits(first[0], gram_matrix(arrays[0]))
        assert same_bits(first[1], gram_matrix_grad_input(*arrays[::-1]))
    assert all(map(np.array_equal, arrays, before))


# NaN, Inf, denormals


@each_dtype
@each_kind
def test_nan_and_infinity(case: Case, dtype: type) -> None:
    x, grad = case.arrays(dtype)
    channel = case.input_shape[1] // 2
    finite, finite_grad = gram_matrix(x), gram_matrix_grad_input(grad, x)
    place = (1, channel, case.input_shape[2] // 2, case.input_shape[3] // 3)
    for special in (np.nan, np.inf, -np.inf):
        x[place] = special
        # Products with that channel, and the gradients at that pixel.
        got, hit = gram_matrix(x), np.zeros(case.output_shape, bool)
        hit[1, channel], hit[1, :, channel] = True, True
        np.testing.assert_array_equal(~np.isfinite(got), hit)
        assert same_bits(got[~hit], finite[~hit])
        got, hit = gram_matrix_grad_input(grad, x), np.zeros(case.input_shape, bool)
        hit[1, :, place[2], place[3]] = True
        np.testing.assert_array_equal(~np.isfinite(got), hit)
        assert same_bits(got[~hit], finite_grad[~hit])
    # The channel's own product with itself.
    assert np.isposinf(gram_matrix(x)[1, channel, channel])


def test_denormals_leave_the_callers_arithmetic_alone() -> None:
    smallest = np.finfo(np.float32).smallest_subnormal
    for case in KINDS:
        x, grad = case.arrays()
        tiny = x * np.float32(1e-39)
        assert np.abs(gram_matrix(tiny, 1)).max() < 1e-35
        assert np.abs(gram_matrix_grad_input(grad, tiny, 1)).max() < 1e-35
        assert np.array([smallest]) * np.float32(2) != 0


# Accuracy, as documented


@each_dtype
@pytest.mark.parametrize("name", ["vgg_64_256", "vgg_512_32", "vgg_256_64_cl"])
def test_stated_accuracy(name: str, dtype: type) -> None:
    case = next(case for case in CASES if case.name == name)
    x, grad = case.arrays(dtype)
    wide_x, wide_grad = (array.astype(np.longdouble) for array in (x, grad))
    pixels = wide_x.reshape(*x.shape[:2], -1)
    products = np.einsum("ncp,nkp->nck", pixels[:, :16], pixels)
    weights = (wide_grad + wide_grad.swapaxes(1, 2))[:, :16]
    slopes = np.einsum("nck,nkp->ncp", weights, pixels).reshape(x[:, :16].shape)
    for got, want in (
        (gram_matrix(x, 1)[:, :16], products),
        (gram_matrix_grad_input(grad, x, 1)[:, :16], slopes),
    ):
        assert rms(got - want) <= 4 * np.finfo(dtype).eps * rms(want)
