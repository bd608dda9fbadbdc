"""max_unpool2d and its gradient: worked numbers, and every parameter against the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import uniform
from cases.max_pool2d import CASES, KINDS, Case
from closeness import same_bits
from layouts import LAYOUTS, guarded, read_only
from shared import each_dtype

from fastcv import max_pool2d, max_unpool2d, max_unpool2d_grad_input, reference

UNPOOLED = tuple(case for case in KINDS if "unpooled" in case.tags)
each_kind = pytest.mark.parametrize("case", UNPOOLED, ids=lambda case: case.name)


def pooled(case: Case, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    return max_pool2d(case.input(dtype), **case.parameters, return_indices=True)


def check(values: np.ndarray, indices: np.ndarray, *window: Any, **options: Any) -> np.ndarray:
    """To the last bit: numbers are only moved. Returns the result."""
    want = reference.max_unpool2d(values, indices, *window, **options)
    got = max_unpool2d(values, indices, *window, **options)
    assert same_bits(got, want.astype(values.dtype))
    return got


def check_gradient(grad: np.ndarray, indices: np.ndarray) -> None:
    want = reference.max_unpool2d_grad_input(grad, indices)
    assert same_bits(max_unpool2d_grad_input(grad, indices), want.astype(grad.dtype))


# Worked numbers


def test_by_hand() -> None:
    values = np.array([[[9, 5], [8, 9]]], np.float32)
    indices = np.array([[[5, 6], [9, 10]]])
    want = [[[0, 0, 0, 0], [0, 9, 5, 0], [0, 8, 9, 0], [0, 0, 0, 0]]]
    np.testing.assert_array_equal(max_unpool2d(values, indices, 2), want)
    grad = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    np.testing.assert_array_equal(max_unpool2d_grad_input(grad, indices), indices)


def test_nodes_as_onnx_works_them_out() -> None:
    # The two examples that accompany the definition of ONNX's MaxUnpool.
    values = np.array([[[[1, 2], [3, 4]]]], np.float32)
    indices = np.array([[[[5, 7], [13, 15]]]])
    want = [[0, 0, 0, 0], [0, 1, 0, 2], [0, 0, 0, 0], [0, 3, 0, 4]]
    np.testing.assert_array_equal(max_unpool2d(values, indices, 2, 2)[0, 0], want)
    values = np.array([[[[5, 6], [7, 8]]]], np.float32)
    indices = np.array([[[[5, 7], [13, 15]]]])
    want = [[0, 0, 0, 0, 0], [5, 0, 6, 0, 0], [0, 0, 0, 7, 0], [8, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    got = max_unpool2d(values, indices, 2, 2, output_size=(5, 5))
    np.testing.assert_array_equal(got[0, 0], want)


def test_the_last_one_wins() -> None:
    values = np.arange(1.0, 7.0).reshape(1, 2, 3)
    indices = np.array([[[4, 0, 4], [0, 4, 1]]])
    want = [[[4, 6, 0, 0, 5, 0], [0] * 6, [0] * 6, [0] * 6]]
    np.testing.assert_array_equal(max_unpool2d(values, indices, 2), want)


def test_output_size() -> None:
    values, indices = np.ones((1, 2, 3, 3), np.float32), np.zeros((1, 2, 3, 3), np.int64)
    assert max_unpool2d(values, indices, 3, 2, 1).shape == (1, 2, 5, 5)
    for size in product((4, 5, 6), (4, 5, 6)):
        for whole in (size, (1, 2, *size), list(size)):
            assert max_unpool2d(values, indices, 3, 2, 1, whole).shape == (1, 2, *size)
        assert max_unpool2d(values[0], indices[0], 3, 2, 1, size).shape == (2, *size)


# The reference


@each_dtype
@pytest.mark.parametrize(
    "case", [case for case in CASES if "unpooled" in case.tags], ids=lambda case: case.name
)
def test_named_case(case: Case, dtype: type) -> None:
    some = replace(case, input_shape=(*case.input_shape[:1], 3, *case.input_shape[2:]))
    values, indices = pooled(some, dtype)
    result = check(values, indices, **some.unpooling)
    check_gradient(uniform(np.random.default_rng(2), result.shape, dtype), indices)


@each_dtype
@each_kind
def test_kind(case: Case, dtype: type) -> None:
    values, indices = pooled(case, dtype)
    grad = uniform(np.random.default_rng(2), case.input_shape, dtype)
    for layout in ("contiguous", "channels_last"):
        for index_dtype in (np.int64, np.int32):
            place = LAYOUTS[layout](values.shape, dtype).filled(values)
            names = LAYOUTS[layout](values.shape, index_dtype).filled(indices)
            check(place, names, **case.unpooling)
            check(place[0], names[0], **{**case.unpooling, "output_size": case.input_shape[2:]})
            check_gradient(LAYOUTS[layout](grad.shape, dtype).filled(grad), names)
            check_gradient(grad[0], names[0])


@each_dtype
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_any_indices(layout: str, dtype: type) -> None:
    # They may repeat and lie anywhere; some rows are as if windows did not overlap.
    rng = np.random.default_rng(4)
    for p, q in product((1, 2, 5), (1, 3, 8, 16, 17, 33)):
        for kind in ("any", "few", "mostly apart"):
            shape = (2, 6, p, q)
            indices = rng.integers(0, 4 if kind == "few" else 4 * p * q, shape)
            if kind == "mostly apart":
                row, column = (
                    2 * np.mgrid[:p, :q]
                    + rng.integers(0, 2, (2, 2, 6, p, q)).transpose(1, 2, 0, 3, 4)
                ).transpose(2, 0, 1, 3, 4)
                indices[:] = row * 2 * q + column
                indices[1, 3, p - 1, q - 1] = 0
            values = uniform(rng, shape, dtype)
            place = LAYOUTS[layout](shape, dtype).filled(values)
            names = LAYOUTS[layout](shape, np.int64).filled(indices)
            for arrays in ((place, names), (values, names), (place, indices)):
                check(*arrays, 2)
            grad = uniform(rng, (2, 6, 2 * p, 2 * q), dtype)
            grad = LAYOUTS[layout](grad.shape, dtype).filled(grad)
            check_gradient(grad, names)
            check_gradient(grad, indices)


def test_zero_images() -> None:
    values, indices = np.zeros((0, 3, 4, 4), np.float32), np.zeros((0, 3, 4, 4), np.int64)
    assert max_unpool2d(values, indices, 2).shape == (0, 3, 8, 8)
    grad = np.zeros((0, 3, 8, 8), np.float32)
    assert max_unpool2d_grad_input(grad, indices).shape == (0, 3, 4, 4)
    # A plane of no pixels has no place for anything.
    with pytest.raises(IndexError, match=r"got 0 and 0 \* 0"):
        max_unpool2d(np.ones((1, 1, 2, 2)), np.zeros((1, 1, 2, 2), np.int64), 1, 1, 1)


# Indices outside


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("index_dtype", [np.int64, np.int32])
@pytest.mark.parametrize("wrong", [-1, 128, 2**31 - 1, -(2**31), 2**32 + 5, 2**63 - 1, -(2**63)])
def test_an_index_outside_its_plane(
    wrong: int, index_dtype: type, layout: str, threads: Callable[[int], None]
) -> None:
    info = np.iinfo(index_dtype)
    if not info.min <= wrong <= info.max:
        return
    p, q = np.mgrid[:4, :8]
    apart = np.broadcast_to(2 * p * 16 + 2 * q, (2, 35, 4, 8))
    values = np.ones(apart.shape, np.float32)
    for count, indices in product((1, 2), (apart, np.zeros_like(apart))):
        threads(count)
        for place in ((0, 0, 0, 0), (1, 17, 2, 5), (1, 34, 3, 7)):
            names = LAYOUTS[layout](apart.shape, index_dtype).filled(indices)
            names[1, 34, 3, 7] = names[place] = wrong
            text = rf"indices\[{', '.join(map(str, place))}\] .* got {wrong} and 8 \* 16"
            arrays = LAYOUTS[layout](values.shape, np.float32).filled(values)
            with pytest.raises(IndexError, match=rf"^max_unpool2d: {text} \(indices"):
                max_unpool2d(arrays, names, 2)
            with pytest.raises(IndexError, match=rf"^max_unpool2d_grad_input: {text}"):
                max_unpool2d_grad_input(np.ones((2, 35, 8, 16), np.float32), names)


# Memory


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@each_kind
def test_layouts(case: Case, layout: Callable[..., Any], dtype: type) -> None:
    values, indices = pooled(case, dtype)
    place = read_only(layout(values.shape, dtype).filled(values))
    names = read_only(layout(values.shape, np.int64).filled(indices))
    for arrays in ((place, indices), (values, names), (place, names)):
        check(*arrays, **case.unpooling)
    grad = uniform(np.random.default_rng(2), case.input_shape, dtype)
    placed_grad = layout(grad.shape, dtype).filled(grad)
    check_gradient(placed_grad, indices)
    check_gradient(placed_grad, names)
    check_gradient(grad, names)


@each_kind
def test_channels_last_stays_channels_last(case: Case) -> None:
    def in_channels_last(result: np.ndarray) -> bool:
        return np.moveaxis(result, -3, -1).flags.c_contiguous

    values, indices = pooled(case)
    last = LAYOUTS["channels_last"]
    place = last(values.shape, np.float32).filled(values)
    grad = last(case.input_shape, np.float32).filled(case.input())
    if values.shape[2] * values.shape[3] > 1:  # else both orders are the same
        assert in_channels_last(max_unpool2d(place, indices, **case.unpooling))
    assert in_channels_last(max_unpool2d_grad_input(grad, indices))
    assert max_unpool2d(values, indices, **case.unpooling).flags.c_contiguous


@each_dtype
@pytest.mark.parametrize("at_end", [False, True], ids=["start", "end"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_kind
def test_nothing_outside_the_arrays_is_read(
    case: Case, layout: str, at_end: bool, dtype: type
) -> None:
    def place(array: np.ndarray) -> np.ndarray:
        view = guarded(array.shape, array.dtype, at_end=at_end, layout=LAYOUTS[layout])
        view[...] = array
        return view

    values, indices = pooled(case, dtype)
    check(place(values), place(indices), **case.unpooling)
    check(place(values), place(indices.astype(np.int32)), **case.unpooling)
    check_gradient(place(case.input(dtype)), place(indices))


# Promises


@each_dtype
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_kind
def test_bits_do_not_depend_on_threads_or_the_batch(
    case: Case, layout: str, dtype: type, threads: Callable[[int], None]
) -> None:
    n, c, h, w = case.input_shape
    case = replace(case, input_shape=(n + 1, 4 * c + 1, 2 * h + 1, 2 * w + 1))
    values, indices = pooled(case, dtype)
    values = LAYOUTS[layout](values.shape, dtype).filled(values)
    grad = LAYOUTS[layout](case.input_shape, dtype).filled(case.input(dtype))
    threads(1)
    result = max_unpool2d(values, indices, **case.unpooling)
    grad_input = max_unpool2d_grad_input(grad, indices)
    for count in (2, 7):
        threads(count)
        assert same_bits(max_unpool2d(values, indices, **case.unpooling), result)
        assert same_bits(max_unpool2d_grad_input(grad, indices), grad_input)
    options = {**case.unpooling, "output_size": case.input_shape[2:]}
    for image in range(n + 1):
        assert same_bits(max_unpool2d(values[image], indices[image], **options), result[image])


@each_dtype
@each_kind
def test_pooling_again_finds_the_same(case: Case, dtype: type) -> None:
    # What is positive stands out from the zeros between.
    x = case.input(dtype) + dtype(2)
    output, indices = max_pool2d(x, **case.parameters, return_indices=True)
    unpooled = max_unpool2d(output, indices, **case.unpooling)
    again, places = max_pool2d(unpooled, **case.parameters, return_indices=True)
    assert same_bits(again, output)
    assert same_bits(places, indices)


@each_kind
def test_adjoint(case: Case) -> None:
    # Where no two elements go to one place, unpooling is linear and the gradient its transpose.
    values, indices = pooled(case, np.float64)
    for plane in indices.reshape(-1, indices[0, 0].size):
        plane[:] = np.random.default_rng(0).permutation(case.input_shape[2] * case.input_shape[3])[
            : plane.size
        ]
    grad = case.input(np.float64, seed=3)
    left = (max_unpool2d(values, indices, **case.unpooling) * grad).sum()
    right = (values * max_unpool2d_grad_input(grad, indices)).sum()
    assert left == pytest.approx(right, rel=1e-12)


def test_every_bit_is_moved() -> None:
    # NaN with a payload, denormals, negative zero: not calculated with, so not changed.
    bits = np.array([0x7FC12345, 0xFFC54321, 0x00000001, 0x80000000], np.uint32)
    values = bits.view(np.float32).reshape(1, 2, 2)
    for indices in (np.array([[[0, 2], [8, 15]]]), np.array([[[15, 2], [8, 0]]])):
        got = max_unpool2d(values, indices, 2).ravel().view(np.uint32)[indices.ravel()]
        np.testing.assert_array_equal(got, bits)
        back = max_unpool2d_grad_input(max_unpool2d(values, indices, 2), indices)
        np.testing.assert_array_equal(back.ravel().view(np.uint32), bits)


def test_the_comparison_can_fail() -> None:
    values, indices = pooled(UNPOOLED[0])
    want = max_unpool2d(values, indices, **UNPOOLED[0].unpooling)
    assert not same_bits(np.roll(want, 1, -1), want)
    wrong = np.where(want == 0, np.float32(-0.0), want)
    np.testing.assert_array_equal(wrong, want)
    assert not same_bits(wrong, want)
