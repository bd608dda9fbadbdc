"""What conv2d and Conv2d promise beyond the values: the same bits, NaN only where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cases import uniform
from cases.conv2d import KINDS, Case, tagged
from closeness import assert_close, same_bits
from shared import algorithms, bound_of, each_dtype, each_kind

from fastcv import Conv2d, conv2d, reference

# The same bits


@each_dtype
@each_kind
def test_bits_do_not_depend_on_threads(
    case: Case, dtype: type, threads: Callable[[int], None]
) -> None:
    # Large enough to be worth more than one thread, and uneven.
    n, c, h, w = case.input_shape
    case = replace(case, input_shape=(n + 1, c, 3 * h + 1, 3 * w + 2))
    x, weight, bias = case.arrays(dtype)
    options = {**case.parameters, "activation": "silu"}
    threads(1)
    alone = conv2d(x, weight, bias, **options)
    alone_packed = Conv2d(weight, bias, **options)(x)
    for count in (1, 2, 7):
        threads(count)
        assert same_bits(alone, conv2d(x, weight, bias, **options))
        assert same_bits(alone_packed, Conv2d(weight, bias, **options)(x))


@pytest.mark.parametrize("case", tagged("resnet"), ids=lambda case: case.name)
def test_bits_do_not_depend_on_threads_in_real_layers(
    case: Case, threads: Callable[[int], None]
) -> None:
    x, weight, bias = case.arrays()
    plan = Conv2d(weight, bias, **case.parameters)
    threads(1)
    alone, alone_packed = conv2d(x, weight, bias, **case.parameters), plan(x)
    for count in (2, 7):
        threads(count)
        assert same_bits(alone, conv2d(x, weight, bias, **case.parameters))
        assert same_bits(alone_packed, plan(x))


@each_dtype
@each_kind
def test_a_sample_does_not_depend_on_its_batch(case: Case, dtype: type) -> None:
    case = replace(case, input_shape=(5, *case.input_shape[1:]))
    x, weight, bias = case.arrays(dtype)
    plan = Conv2d(weight, bias, **case.parameters)
    together, together_packed = conv2d(x, weight, bias, **case.parameters), plan(x)
    for n in range(5):
        assert same_bits(together[n], conv2d(x[n], weight, bias, **case.parameters))
        assert same_bits(together[n : n + 1], conv2d(x[n : n + 1], weight, bias, **case.parameters))
        assert same_bits(together_packed[n], plan(x[n]))
    assert same_bits(together[3:], conv2d(x[3:], weight, bias, **case.parameters))
    assert same_bits(together_packed[:2], plan(x[:2]))


@pytest.mark.parametrize("images", [2, 9, 30, 80])
def test_images_that_share_a_block_do_not_meet(images: int, threads: Callable[[int], None]) -> None:
    # Deep weights over small planes: one lot of images, several, or too many to share.
    rng = np.random.default_rng(images)
    x = uniform(rng, (images, 97, 6, 5), np.float32)
    weight = uniform(rng, (99, 97, 3, 3), np.float32)
    x[images // 2, 3, 2, 2] = np.nan
    plan = Conv2d(weight, padding=1)
    for count in (1, 2, 3):
        threads(count)
        for got in (conv2d(x, weight, padding=1, algorithm="winograd"), plan(x)):
            assert np.isnan(got).any(axis=(1, 2, 3)).nonzero()[0].tolist() == [images // 2]
        together = conv2d(x, weight, padding=1, algorithm="winograd")
        for n in (0, images // 2, images - 1):
            alone = conv2d(x[n], weight, padding=1, algorithm="winograd")
            assert same_bits(together[n], alone)
            assert same_bits(plan(x)[n], plan(x[n]))


@each_kind
def test_run_after_run(case: Case) -> None:
    x, weight, bias = case.arrays()
    first = conv2d(x, weight, bias, **case.parameters)
    for _ in range(5):
        assert same_bits(first, conv2d(x, weight, bias, **case.parameters))


def test_arguments_are_left_alone() -> None:
    for case in KINDS:
        arrays = case.arrays()
        before = [array.copy() for array in arrays]
        conv2d(*arrays, **case.parameters)
        Conv2d(*arrays[1:], **case.parameters)(arrays[0])
        for array, copy in zip(arrays, before, strict=True):
            assert same_bits(array, copy)


def test_integers_of_every_sort() -> None:
    x, weight, bias = KINDS[0].arrays()
    want = conv2d(x, weight, bias, (2, 2), ((1, 1), (1, 1)), (1, 1), 1)
    for two, one in ((2, 1), (np.int64(2), np.int8(1)), (np.uint8(2), np.intp(1))):
        assert same_bits(want, conv2d(x, weight, bias, two, one, one, one))
        assert same_bits(want, conv2d(x, weight, bias, [two, two], [one, one], (one, one), one))
        plan = Conv2d(weight, bias, stride=two, padding=one, dilation=one, groups=one)
        assert same_bits(plan(x), Conv2d(weight, bias, stride=2, padding=1)(x))


# NaN, Inf, denormals


@each_dtype
@each_kind
def test_nan_reaches_the_windows_that_see_it_and_no_others(case: Case, dtype: type) -> None:
    x, weight, bias = case.arrays(dtype)
    finite = conv2d(x, weight, bias, **case.parameters)
    place = (1, case.input_shape[1] // 2, case.input_shape[2] // 2, case.input_shape[3] // 3)
    mark = np.zeros(case.input_shape)
    mark[place] = 1
    seen = reference.conv2d(mark, np.ones(case.weight_shape), **case.parameters) != 0
    for special in (np.nan, np.inf, -np.inf):
        x[place] = special
        for algorithm in algorithms(weight, case.stride, case.dilation):
            result = conv2d(x, weight, bias, **case.parameters, algorithm=algorithm)
            packed = Conv2d(weight, bias, **case.parameters, algorithm=algorithm)(x)
            for got in (result, packed):
                np.testing.assert_array_equal(~np.isfinite(got), seen, str(special))
                bound = 2 * bound_of(finite, weight, bias, case.stride)
                assert_close(got[~seen], finite[~seen].astype(np.float64), bound)


def test_denormals_leave_the_callers_arithmetic_alone() -> None:
    smallest = np.finfo(np.float32).smallest_subnormal
    for case in KINDS:
        x, weight, bias = case.arrays()
        result = conv2d(x * np.float32(1e-39), weight, bias, **case.parameters)
        packed = Conv2d(weight, bias, **case.parameters)(x * np.float32(1e-39))
        want = np.broadcast_to(bias[:, None, None], result.shape)
        np.testing.assert_allclose(result, want, rtol=0, atol=1e-35)
        np.testing.assert_allclose(packed, want, rtol=0, atol=1e-35)
        # Flushed to zero, twice the smallest number would vanish.
        assert np.array([smallest]) * np.float32(2) != 0
