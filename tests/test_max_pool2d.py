"""max_pool2d and its gradient: worked numbers, and every parameter against the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import uniform
from cases.max_pool2d import CASES, KINDS, Case, tagged
from closeness import assert_close, same_bits
from layouts import LAYOUTS, guarded, read_only
from shared import each_dtype

from fastcv import max_pool2d, max_pool2d_grad_input, reference

each_kind = pytest.mark.parametrize("case", KINDS, ids=lambda case: case.name)
each_index = pytest.mark.parametrize("index_dtype", (np.int64, np.int32))


def check(x: np.ndarray, **parameters: Any) -> None:
    """Values and indices, to the last bit: taking the largest rounds nothing."""
    want, places = reference.max_pool2d(x, **parameters, return_indices=True)
    label = f"input {x.shape} {x.strides}, {parameters}"
    for index_dtype in (np.int64, np.int32):
        output, indices = max_pool2d(x, **parameters, return_indices=True, index_dtype=index_dtype)
        assert output.dtype == x.dtype and indices.dtype == index_dtype
        np.testing.assert_array_equal(indices, places, label)
        assert same_bits(output, want.astype(x.dtype)), label
    assert same_bits(max_pool2d(x, **parameters), output), label


def check_gradient(grad: np.ndarray, indices: np.ndarray, shape: tuple[int, ...]) -> None:
    """In float64 the reference adds in the same order; in float32 a sum rounds."""
    want = reference.max_pool2d_grad_input(grad, indices, shape)
    got = max_pool2d_grad_input(grad, indices, shape)
    assert got.dtype == grad.dtype
    if grad.dtype == np.float64:
        assert same_bits(got, want)
    terms = reference.max_pool2d_grad_input(np.abs(grad), indices, shape).max(initial=0)
    assert_close(got, want, 200 * np.finfo(grad.dtype).eps * terms)


# Worked numbers


def test_by_hand() -> None:
    image = np.array([[[1, 2, 3, 0], [4, 9, 5, 1], [7, 8, 9, 2], [0, 1, 2, 3]]], np.float32)
    output, indices = max_pool2d(image, 2, return_indices=True)
    np.testing.assert_array_equal(output, [[[9, 5], [8, 9]]])
    np.testing.assert_array_equal(indices, [[[5, 6], [9, 10]]])
    # 3x3 windows that overlap: the 9 in the second row is the first of two in three of them.
    output, indices = max_pool2d(image, 3, 1, return_indices=True)
    np.testing.assert_array_equal(output, [[[9, 9], [9, 9]]])
    np.testing.assert_array_equal(indices, [[[5, 5], [5, 5]]])
    grad = max_pool2d_grad_input(np.array([[[1, 2], [3, 4]]], np.float32), indices, (1, 4, 4))
    want = np.zeros((1, 4, 4))
    want[0, 1, 1] = 10
    np.testing.assert_array_equal(grad, want)


def test_padding_takes_no_part() -> None:
    # Zeros around the image would be more than its pixels.
    image = np.full((1, 3, 3), -5.0)
    output, indices = max_pool2d(image, 3, 2, 1, return_indices=True)
    np.testing.assert_array_equal(output, np.full((1, 2, 2), -5))
    np.testing.assert_array_equal(indices, [[[0, 1], [3, 4]]])


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_sizes_by_hand(ceil_mode: bool) -> None:
    image = np.zeros((1, 1, 112, 6), np.float32)
    # (112 - 3) / 2 + 1 = 55.5, and (6 - 3) / 2 + 1 = 2.5.
    output = max_pool2d(image, 3, 2, ceil_mode=ceil_mode)
    assert output.shape == ((1, 1, 56, 3) if ceil_mode else (1, 1, 55, 2))
    # The third window would start in the right padding: there is none.
    assert max_pool2d(np.zeros((1, 1, 2, 3)), 2, 2, 1, ceil_mode=ceil_mode).shape[3] == 2


def node(size: int, **parameters: Any) -> tuple[np.ndarray, np.ndarray]:
    """A square plane of 1, 2, 3 .. and its pooling with indices."""
    image = np.arange(1.0, size * size + 1, dtype=np.float32).reshape(1, 1, size, size)
    return max_pool2d(image, **parameters, return_indices=True)


def test_nodes_as_onnx_works_them_out() -> None:
    # The examples that accompany the definition of ONNX's MaxPool.
    output, indices = node(5, kernel_size=5, stride=1, padding=2)
    rows = [[13, 14, 15, 15, 15], [18, 19, 20, 20, 20]] + [[23, 24, 25, 25, 25]] * 3
    np.testing.assert_array_equal(output[0, 0], rows)
    np.testing.assert_array_equal(indices[0, 0], np.array(rows) - 1)
    np.testing.assert_array_equal(node(5, kernel_size=2, stride=2)[0][0, 0], [[7, 9], [17, 19]])
    np.testing.assert_array_equal(
        node(4, kernel_size=3, stride=2, ceil_mode=True)[0][0, 0], [[11, 12], [15, 16]]
    )
    np.testing.assert_array_equal(
        node(4, kernel_size=2, stride=1, dilation=2)[0][0, 0], [[11, 12], [15, 16]]
    )
    # The window of the last output in each direction starts in the image and ends far outside.
    output, _ = node(2, kernel_size=1, stride=2, ceil_mode=True)
    np.testing.assert_array_equal(output[0, 0], [[1]])


# The reference


@each_dtype
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_case(case: Case, dtype: type) -> None:
    # All rows and columns, some of the channels: the reference needs its time.
    image = case.input(dtype)[:2, :19]
    assert max_pool2d(image, **case.parameters).shape[2:] == case.output_shape[2:]
    check(image, **case.parameters)
    _, indices = max_pool2d(image, **case.parameters, return_indices=True)
    check_gradient(case.grad_output(dtype)[:2, :19], indices, image.shape)


@each_dtype
@each_kind
def test_kind(case: Case, dtype: type) -> None:
    x = case.input(dtype)
    assert max_pool2d(x, **case.parameters).shape == case.output_shape
    check(x, **case.parameters)
    check(x[0], **case.parameters)
    check(np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1), **case.parameters)
    if case.name != "missed":
        _, indices = max_pool2d(x, **case.parameters, return_indices=True)
        grad = case.grad_output(dtype)
        check_gradient(grad, indices, x.shape)
        check_gradient(grad[0], indices[0], x.shape[1:])
        last = LAYOUTS["channels_last"]
        grad, indices = (last(a.shape, a.dtype).filled(a) for a in (grad, indices))
        check_gradient(grad, indices, x.shape)


def test_a_window_that_misses_the_image() -> None:
    # Taps at rows -1 and 3 of an image of rows 0, 1, 2: nothing is there; as in torch, the index is
    # that of row 3.
    image = np.arange(18.0).reshape(1, 3, 6)
    options: dict[str, Any] = {"padding": (1, 0), "dilation": (4, 1), "return_indices": True}
    for x in (image, np.concatenate([image] * 2)[None]):
        output, indices = max_pool2d(x, (2, 1), **options)
        assert (output == -np.inf).all()
        np.testing.assert_array_equal(indices, np.broadcast_to(np.arange(18, 24), indices.shape))
    with pytest.raises(IndexError, match=r"^max_pool2d_grad_input: indices\[0, 0, 0, 0\]"):
        max_pool2d_grad_input(output, indices, x.shape)


AROUND_LANES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 34)


@each_dtype
@pytest.mark.parametrize(
    "parameters",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": 6, "stride": 1, "padding": 3},
        {"kernel_size": 3, "padding": 1},
    ],
    ids=str,
)
def test_sizes_around_lanes(parameters: dict[str, Any], dtype: type) -> None:
    rng = np.random.default_rng(3)
    for size in AROUND_LANES:
        check(uniform(rng, (1, 2, 5, size), dtype), **parameters) if size > 2 else None
        check(uniform(rng, (2, size, 4), dtype), **parameters) if size > 2 else None
        pixels = uniform(rng, (2, 4, 5, size), dtype)
        check(np.moveaxis(pixels, -1, 1), **parameters)


@each_dtype
def test_windows(dtype: type) -> None:
    rng = np.random.default_rng(5)
    planes = uniform(rng, (2, 3, 19, 37), dtype)
    pixels = np.moveaxis(uniform(rng, (1, 14, 13, 18), dtype), -1, 1)
    for rows, columns in product(range(1, 10), range(1, 10)):
        for stride, dilation in product(((1, 1), (2, 2), (1, 3), (4, 1)), ((1, 1), (2, 1), (1, 2))):
            for x in (planes, pixels):
                spans = [d * (k - 1) + 1 for d, k in zip(dilation, (rows, columns), strict=True)]
                padding = (rows // 2, columns // 2)
                if spans[0] <= x.shape[2] and spans[1] <= x.shape[3]:
                    check(
                        x,
                        kernel_size=(rows, columns),
                        stride=stride,
                        padding=padding,
                        dilation=dilation,
                    )


def test_zero_images() -> None:
    for layout in ("contiguous", "channels_last"):
        x = LAYOUTS[layout]((0, 3, 8, 8), np.float32).view
        output, indices = max_pool2d(x, 2, return_indices=True)
        assert output.shape == indices.shape == (0, 3, 4, 4)
        assert max_pool2d_grad_input(output, indices, (0, 3, 8, 8)).shape == (0, 3, 8, 8)


def test_huge_parameters_that_are_right() -> None:
    rng = np.random.default_rng(1)
    x = rng.random((1, 4, 5, 6))
    whole = x.max(axis=(2, 3), keepdims=True)
    np.testing.assert_array_equal(max_pool2d(x, (5, 6), stride=2**62), whole)
    np.testing.assert_array_equal(max_pool2d(x, 1, stride=1, dilation=2**62), x)
    far = 2**40
    np.testing.assert_array_equal(max_pool2d(x, 2 * far, far, far), whole)
    assert max_pool2d(x, 2 * far, 1, far, ceil_mode=True).shape == (1, 4, 6, 7)
    check(x, kernel_size=(40, 50), stride=1, padding=(20, 25))
    check(x, kernel_size=2, stride=1, padding=1, dilation=(6, 7))


def test_a_plane_of_more_positions_than_32_bits_count() -> None:
    # Broadcast: it has them without taking the memory.
    row = np.zeros((1, 1, 1, 2**16 + 3), np.float32)
    row[..., 2**16] = 1
    x = np.broadcast_to(row, (1, 1, 2**16, 2**16 + 3))
    output, indices = max_pool2d(x, 3, stride=2**15, padding=1, return_indices=True)
    assert output.shape == (1, 1, 2, 3)
    np.testing.assert_array_equal(output[0, 0, 1], [0, 0, 1])
    width = 2**16 + 3
    first = (2**15 - 1) * width
    np.testing.assert_array_equal(indices[0, 0, 1], [first, first + 2**15 - 1, first + 2**16])
    with pytest.raises(ValueError, match=r"H \* W must be less than 2\*\*31"):
        max_pool2d(x, 3, stride=2**15, return_indices=True, index_dtype=np.int32)


# Ties, NaN, infinities


def special_values(dtype: type) -> list[tuple[str, tuple[float, ...]]]:
    return [
        ("ties", (0, 1, 2)),
        ("zeros", (0.0, -0.0)),
        ("few zeros", (-1, -1, -1, 0.0, -0.0)),
        ("some nan", (0, 1, 2, 3, 4, 5, np.nan)),
        ("much nan", (np.nan, np.nan, 1)),
        ("infinities", (-np.inf, -np.inf, -np.inf, np.inf, 1)),
        ("nothing but the least", (-np.inf,)),
        ("nan and the least", (np.nan, -np.inf, -np.inf, -np.inf)),
    ]


@each_dtype
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_kind
def test_ties_and_nan_choose_as_torch_does(case: Case, layout: str, dtype: type) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    for name, values in special_values(dtype):
        x = LAYOUTS[layout](case.input_shape, dtype).filled(rng.choice(values, case.input_shape))
        want, places = torch.nn.functional.max_pool2d(
            torch.from_numpy(x), **case.parameters, return_indices=True
        )
        output, indices = max_pool2d(x, **case.parameters, return_indices=True)
        np.testing.assert_array_equal(indices, places.numpy(), name)
        assert same_bits(output, want.numpy()), name
        assert same_bits(max_pool2d(x, **case.parameters), want.numpy()), name
        _, places = reference.max_pool2d(x, **case.parameters, return_indices=True)
        np.testing.assert_array_equal(indices, places, name)


@each_dtype
def test_one_nan_is_seen_by_its_windows_alone(dtype: type) -> None:
    for case in KINDS:
        x = case.input(dtype)
        clean = max_pool2d(x, **case.parameters)
        place = (1, case.input_shape[1] // 2, case.input_shape[2] // 2, case.input_shape[3] // 3)
        mark = np.full(case.input_shape, -np.inf)
        mark[place] = 1
        seen = reference.max_pool2d(mark, **case.parameters) == 1
        x[place] = np.nan
        got = max_pool2d(x, **case.parameters)
        np.testing.assert_array_equal(np.isnan(got), seen)
        assert same_bits(got[~seen], clean[~seen])


def test_denormals() -> None:
    # Compared and copied, never calculated with: they stay what they are.
    tiny = np.finfo(np.float32).smallest_subnormal
    x = np.array([[[0, tiny, -tiny, 0], [0, 0, -tiny, -tiny]]], np.float32)
    output, indices = max_pool2d(x, (2, 2), return_indices=True)
    assert output.shape == (1, 1, 2) and indices.shape == (1, 1, 2)
    assert np.array([tiny]) * np.float32(2) != 0


# Memory


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@each_kind
def test_layouts(case: Case, layout: Callable[..., Any], dtype: type) -> None:
    values = case.input(dtype)
    x = read_only(layout(values.shape, dtype).filled(values))
    check(x, **case.parameters)
    check(x[0], **case.parameters)
    if case.name == "missed":
        return
    _, indices = max_pool2d(values, **case.parameters, return_indices=True)
    grad = case.grad_output(dtype)
    place = layout(grad.shape, dtype).filled(grad)
    for index_dtype in (np.int64, np.int32):
        names = layout(indices.shape, index_dtype).filled(indices)
        check_gradient(place, indices, values.shape)
        check_gradient(grad, read_only(names), values.shape)
        check_gradient(place, names, values.shape)


@each_kind
def test_channels_last_stays_channels_last(case: Case) -> None:
    def in_channels_last(result: np.ndarray) -> bool:
        return np.moveaxis(result, -3, -1).flags.c_contiguous

    values = case.input()
    x = LAYOUTS["channels_last"](values.shape, np.float32).filled(values)
    for image in (x, x[0]):
        output, indices = max_pool2d(image, **case.parameters, return_indices=True)
        assert in_channels_last(output) and in_channels_last(indices)
        assert in_channels_last(max_pool2d(image, **case.parameters))
        # One pixel counts as NCHW; a window that misses the image has its place outside.
        if case.name != "missed" and case.output_shape[2:] != (1, 1):
            assert in_channels_last(max_pool2d_grad_input(output, indices, image.shape))
    output, indices = max_pool2d(values, **case.parameters, return_indices=True)
    assert output.flags.c_contiguous and indices.flags.c_contiguous


def test_broadcast_arrays() -> None:
    for case in KINDS:
        x = np.broadcast_to(case.input()[:1], (3, *case.input_shape[1:]))
        check(x, **case.parameters)
        check(np.broadcast_to(np.float32(1), case.input_shape), **case.parameters)


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

    check(place(case.input(dtype)), **case.parameters)
    if case.name != "missed":
        _, indices = max_pool2d(case.input(dtype), **case.parameters, return_indices=True)
        grad = place(case.grad_output(dtype))
        check_gradient(grad, place(indices), case.input_shape)
        check_gradient(grad, place(indices.astype(np.int32)), case.input_shape)


# Promises


@each_dtype
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_kind
def test_bits_do_not_depend_on_threads_or_the_batch(
    case: Case, layout: str, dtype: type, threads: Callable[[int], None]
) -> None:
    n, c, h, w = case.input_shape
    case = replace(case, input_shape=(n + 1, 4 * c + 1, 2 * h + 1, 2 * w + 1))
    values = case.input(dtype)
    x = LAYOUTS[layout](values.shape, dtype).filled(values)
    grad = case.grad_output(dtype)
    grad = LAYOUTS[layout](grad.shape, dtype).filled(grad)
    threads(1)
    output, indices = max_pool2d(x, **case.parameters, return_indices=True)
    grad_input = max_pool2d_grad_input(grad, indices, x.shape)
    for count in (1, 2, 7):
        threads(count)
        again, places = max_pool2d(x, **case.parameters, return_indices=True)
        assert same_bits(again, output) and same_bits(places, indices)
        assert same_bits(max_pool2d(x, **case.parameters), output)
        assert same_bits(max_pool2d_grad_input(grad, indices, x.shape), grad_input)
    for image in range(n + 1):
        assert same_bits(max_pool2d(x[image], **case.parameters), output[image])
        alone = max_pool2d_grad_input(grad[image], indices[image], x.shape[1:])
        assert same_bits(alone, grad_input[image])


@each_dtype
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_gradient_of_any_indices(layout: str, dtype: type) -> None:
    # No pooling need have made them: they may repeat and lie anywhere.
    rng = np.random.default_rng(4)
    for (h, w), (p, q) in product(((8, 34), (5, 7), (1, 3)), ((4, 17), (5, 7), (9, 40))):
        for values in (h * w, 2):
            indices = rng.integers(0, values, (2, 6, p, q))
            grad = uniform(rng, indices.shape, dtype)
            names = LAYOUTS[layout](indices.shape, np.int64).filled(indices)
            place = LAYOUTS[layout](grad.shape, dtype).filled(grad)
            check_gradient(place, names, (2, 6, h, w))
            check_gradient(place, indices, (2, 6, h, w))
            check_gradient(grad, names, (2, 6, h, w))


@each_kind
def test_adjoint(case: Case) -> None:
    # With the indices fixed, pooling is a linear map, and the gradient its transpose.
    if case.name == "missed":
        return
    x, grad = case.input(np.float64), case.grad_output(np.float64)
    output, indices = max_pool2d(x, **case.parameters, return_indices=True)
    left = (output * grad).sum()
    right = (x * max_pool2d_grad_input(grad, indices, x.shape)).sum()
    assert left == pytest.approx(right, rel=1e-12, abs=1e-12)


def test_finite_differences() -> None:
    for case in tagged("odd"):
        x, grad = case.input(np.float64)[:, :2], case.grad_output(np.float64)[:, :2]
        _, indices = max_pool2d(x, **case.parameters, return_indices=True)
        got = max_pool2d_grad_input(grad, indices, x.shape)
        rng, step = np.random.default_rng(6), 1e-7
        for _ in range(40):
            place = tuple(rng.integers(0, x.shape))
            moved = x.copy()
            moved[place] += step
            up = (max_pool2d(moved, **case.parameters) * grad).sum()
            moved[place] -= 2 * step
            down = (max_pool2d(moved, **case.parameters) * grad).sum()
            assert (up - down) / (2 * step) == pytest.approx(got[place], abs=1e-6)


def test_the_comparison_can_fail() -> None:
    case = KINDS[0]
    x = case.input()
    output, indices = max_pool2d(x, **case.parameters, return_indices=True)
    for wrong in (np.roll(output, 1, -1), output * np.float32(1 + 1e-6), output + 0 * np.nan):
        assert not same_bits(output, wrong)
    grad = case.grad_output()
    want = reference.max_pool2d_grad_input(grad, np.roll(indices, 1, -1), x.shape)
    with pytest.raises(AssertionError, match="differ by more than"):
        assert_close(max_pool2d_grad_input(grad, indices, x.shape), want, 1e-5)


def test_arguments_are_left_alone_and_integers_of_every_sort() -> None:
    case = KINDS[0]
    x = case.input()
    before = x.copy()
    want = max_pool2d(x, 2, 2, 1, 1)
    for two, one in ((np.int64(2), np.int8(1)), (np.uint8(2), np.intp(1)), ([2, 2], (1, 1))):
        assert same_bits(max_pool2d(x, two, two, one, one, np.False_), want)
    for dtype in (np.int32, "int32", np.dtype("int32")):
        _, indices = max_pool2d(x, 2, return_indices=True, index_dtype=dtype)
        assert indices.dtype == np.int32
    assert same_bits(x, before)
