"""conv_transpose2d and ConvTranspose2d: worked numbers, every parameter, memory, promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import uniform
from cases.conv_transpose2d import BY_NAME, CASES, KINDS, Case
from closeness import ACTIVATION, assert_close, corruptions, rms, same_bits, widened
from layouts import LAYOUTS, guarded, read_only
from shared import each_dtype
from transposed import bound_of, check, each_kind

from fastcv import ConvTranspose2d, conv2d, conv2d_grad_input, conv_transpose2d, reference

ACTIVATIONS = (None, "relu", "relu6", ("leaky_relu", 0.1), "sigmoid", "tanh", "silu", "gelu")


def both(x: np.ndarray, weight: np.ndarray, *bias: np.ndarray, **options: Any) -> list[np.ndarray]:
    """By one call, and packed."""
    return [
        conv_transpose2d(x, weight, *bias, **options),
        ConvTranspose2d(weight, *bias, **options)(x),
    ]


# Worked numbers

WINDOW = np.array([[[[1, 2, 3], [2, 3, 4], [3, 4, 5]]]], np.float64)


@pytest.mark.parametrize(
    ("image", "window", "want"),
    [
        # Each pixel lays its multiple of the window down, one place further to the right or down:
        # 1 * window at (0, 0), 2 * window at (0, 1), 1 * window at (1, 1), so that the place
        # (1, 1) gets 1 * 3 + 2 * 2 + 1 * 1 = 8.
        (
            [[1, 2], [0, 1]],
            WINDOW,
            [[1, 4, 7, 6], [2, 8, 12, 11], [3, 12, 16, 14], [0, 3, 4, 5]],
        ),
        (
            [[1, 2], [3, 4]],
            WINDOW,
            [[1, 4, 7, 6], [5, 17, 27, 20], [9, 27, 37, 26], [9, 24, 31, 20]],
        ),
        # With the window turned by half a turn it is the full correlation: conv2d with padding 2.
        (
            [[1, 2], [3, 4]],
            WINDOW[..., ::-1, ::-1],
            [[5, 14, 11, 6], [19, 43, 33, 16], [15, 33, 23, 10], [9, 18, 11, 4]],
        ),
    ],
    ids=["with_a_zero", "all_pixels", "turned"],
)
@each_dtype
def test_stride_1_by_hand(image: Any, window: np.ndarray, want: Any, dtype: type) -> None:
    for got in (
        *both(np.array([image], dtype), window.astype(dtype)),
        reference.conv_transpose2d([image], window),
    ):
        np.testing.assert_allclose(got, [want], rtol=0, atol=1e-5 if dtype is np.float32 else 1e-12)


def test_turned_is_the_full_correlation() -> None:
    image = np.array([[[1, 2], [3, 4]]], np.float64)
    turned = np.ascontiguousarray(WINDOW[..., ::-1, ::-1])
    want = conv2d(image, WINDOW, padding=2)
    np.testing.assert_allclose(conv_transpose2d(image, turned), want, rtol=1e-12)


def test_stride_2_by_hand() -> None:
    # Windows of 2 x 2 lie side by side: each pixel becomes a multiple of the window.
    image = np.array([[[1, 2], [3, 4]]], np.float32)
    window = np.array([[[[1, 10], [100, 1000]]]], np.float32)
    want = [[[1, 10, 2, 20], [100, 1000, 200, 2000], [3, 30, 4, 40], [300, 3000, 400, 4000]]]
    for got in both(image, window, stride=2):
        np.testing.assert_array_equal(got, want)
    # Padding cuts the rim off, output padding gives the lower and right part of it back.
    for got in both(image, window, stride=2, padding=1):
        np.testing.assert_array_equal(got, np.array(want)[:, 1:3, 1:3])
    for got in both(image, window, stride=2, padding=1, output_padding=1):
        np.testing.assert_array_equal(got, np.array(want)[:, 1:4, 1:4])


def test_output_padding_that_nothing_reaches() -> None:
    image, window = np.ones((1, 2, 2), np.float32), np.full((1, 1, 1, 1), 7, np.float32)
    want = np.zeros((1, 6, 6))
    want[:, ::3, ::3] = 7
    bias = np.array([5], np.float32)
    for got in both(image, window, stride=3, output_padding=2):
        np.testing.assert_array_equal(got, want)
    for got in both(image, window, bias, stride=3, output_padding=2):
        np.testing.assert_array_equal(got, want + 5)


def test_bilinear_upsampling_keeps_a_plane() -> None:
    # The tent of a bilinear filter sums to one over the taps of each phase, so away from the rim
    # what is linear stays so.
    tent = 1 - np.abs(np.arange(4) - 1.5) / 2
    window = np.outer(tent, tent)[None, None]
    y, x = np.mgrid[:6, :7]
    result = conv_transpose2d((3.0 * y + x)[None], window, stride=2, padding=1)[0]
    rows, columns = np.mgrid[:12, :14]
    want = 3 * ((rows + 0.5) / 2 - 0.5) + (columns + 0.5) / 2 - 0.5
    np.testing.assert_allclose(result[1:-1, 1:-1], want[1:-1, 1:-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("plane", "parameters", "kernel", "want"),
    [
        ((14, 14), {"stride": 2}, (2, 2), (28, 28)),
        ((4, 4), {"stride": 2, "padding": 1}, (4, 4), (8, 8)),
        ((64, 64), {"stride": 3, "padding": 4, "output_padding": 2}, (9, 9), (192, 192)),
        ((35, 35), {"stride": 8}, (16, 16), (288, 288)),
        ((1, 1), {}, (4, 4), (4, 4)),
        (
            (5, 6),
            {"stride": (1, 3), "dilation": (4, 1), "output_padding": (3, 2)},
            (3, 1),
            (16, 18),
        ),
    ],
)
def test_output_sizes_by_hand(plane: Any, parameters: Any, kernel: Any, want: Any) -> None:
    x, weight = np.zeros((2, 3, *plane), np.float32), np.zeros((3, 5, *kernel), np.float32)
    bias = np.arange(5, dtype=np.float32)
    for got in both(x, weight, bias, **parameters):
        assert got.shape == (2, 5, *want)
        np.testing.assert_array_equal(got, np.broadcast_to(bias[:, None, None], got.shape))


# Against the reference


@each_dtype
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_case(case: Case, dtype: type) -> None:
    case = case.reduced()
    x, weight, bias = case.arrays(dtype)
    assert conv_transpose2d(x, weight, bias, **case.parameters).shape == case.output_shape
    check(x, weight, bias, **case.parameters)


@each_dtype
@each_kind
def test_kind(case: Case, dtype: type) -> None:
    x, weight, bias = case.arrays(dtype)
    check(x, weight, bias, **case.parameters)
    check(x, weight, **case.parameters)
    check(x[0], weight, bias, **case.parameters)


@each_dtype
@each_kind
def test_the_comparison_can_fail(case: Case, dtype: type) -> None:
    x, weight, bias = case.arrays(dtype)
    want = reference.conv_transpose2d(*widened(x, weight, bias), **case.parameters)
    bound = bound_of(x, weight, bias, **case.parameters)
    assert_close(want.astype(dtype), want, bound)
    for wrong in corruptions(want.astype(dtype)):
        with pytest.raises(AssertionError, match="differ by more than"):
            assert_close(wrong, want, bound)


def sequential_sum(x: np.ndarray, weight: np.ndarray, case: Case) -> np.ndarray:
    """The plainest sum over channels and taps, one rounded addition after the other."""
    (top, left), (rows, columns) = case.padding, case.output_shape[2:]
    shape = (len(x), weight.shape[1], rows + 2 * top, columns + 2 * left)
    total = np.zeros(shape, x.dtype)
    height, width = ((n - 1) * s + 1 for n, s in zip(x.shape[2:], case.stride, strict=True))
    for c, r, s in product(range(len(weight)), *map(range, weight.shape[2:])):
        y, z = r * case.dilation[0], s * case.dilation[1]
        place = (..., slice(y, y + height, case.stride[0]), slice(z, z + width, case.stride[1]))
        total[place] += weight[c, :, r, s, None, None] * x[:, c, None]
    return total[..., top : top + rows, left : left + columns]


@pytest.mark.parametrize(
    "name",
    [
        "unet_2x2_s2_512_256_28",
        "dcgan_4x4_s2_256_128_16_batch8",
        "fcn_16x16_s8_21_21_35",
        "up_5x5_s2_64_32_56",
        "same_3x3_64_64_56",
        "dilated_3x3_d2_s2_32_32_40",
    ],
)
def test_as_accurate_as_three_plain_sums(name: str) -> None:
    case = BY_NAME[name].reduced()
    x, weight, _ = case.arrays(seed=7)
    some = slice(0, 16)
    want = reference.conv_transpose2d(*widened(x, weight[:, some]), **case.parameters)
    allowed = 3 * rms(sequential_sum(x, weight[:, some], case) - want)
    for got in both(x, weight, **case.parameters):
        assert rms(got[:, some] - want) <= allowed


AROUND_LANES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17)


@each_dtype
@pytest.mark.parametrize(
    ("kernel", "parameters"),
    [
        ((2, 2), {"stride": 2}),
        ((4, 4), {"stride": 2, "padding": 1}),
        ((3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
        ((3, 3), {"padding": 1}),
        ((5, 4), {"stride": (3, 2), "padding": (1, 0)}),
    ],
    ids=["2x2_s2", "4x4_s2", "3x3_s2", "3x3", "5x4_s3x2"],
)
@pytest.mark.parametrize("varied", ["channels_filters", "filters_width", "height_width"])
def test_sizes_around_lanes(kernel: Any, parameters: Any, varied: str, dtype: type) -> None:
    rng = np.random.default_rng(3)
    for a, b in product(AROUND_LANES, repeat=2):
        channels, filters, height, width = {
            "channels_filters": (a, b, 3, 9),
            "filters_width": (6, a, 3, b),
            "height_width": (5, 6, a, b),
        }[varied]
        x = uniform(rng, (1, channels, height, width), dtype)
        weight = uniform(rng, (channels, filters, *kernel), dtype)
        check(x, weight, uniform(rng, (filters,), dtype), **parameters)


@each_dtype
@pytest.mark.parametrize("groups", [1, 3], ids=["dense", "grouped"])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (4, 2), (1, 5), (7, 6)])
def test_parameters(kernel: tuple[int, int], groups: int, dtype: type) -> None:
    rng = np.random.default_rng(5)
    x = uniform(rng, (2, 6, 5, 8), dtype)
    weight = uniform(rng, (6, 9 // groups, *kernel), dtype)
    bias = uniform(rng, (9,), dtype)
    for stride, padding, dilation, appended in product(
        (1, 2, (1, 3), (4, 2), (9, 7)),
        (0, (1, 2), (0, 5)),
        (1, 2, (3, 5)),
        ((0, 0), (0, 1), (1, 0), (2, 4)),
    ):
        steps, distances, cut = (np.broadcast_to(v, 2) for v in (stride, dilation, padding))
        if (np.array(appended) >= np.maximum(steps, distances)).any():
            continue
        reach = (np.array(x.shape[2:]) - 1) * steps + distances * (np.array(kernel) - 1) + 1
        if (reach + appended - 2 * cut < 1).any():
            continue
        parameters = {"stride": stride, "padding": padding, "dilation": dilation}
        check(x, weight, bias, **parameters, groups=groups, output_padding=appended)


@each_dtype
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (4, 4), (5, 5), (8, 8), (2, 5)])
def test_depthwise(kernel: tuple[int, int], multiplier: int, dtype: type) -> None:
    rng = np.random.default_rng(6)
    for channels, width, stride in product((1, 5, 17), (7, 16, 33), (1, 2, (4, 3))):
        x = uniform(rng, (2, channels, 6, width), dtype)
        weight = uniform(rng, (channels, multiplier, *kernel), dtype)
        check(x, weight, stride=stride, groups=channels)
        check(LAYOUTS["channels_last"](x.shape, dtype).filled(x), weight, groups=channels)


@each_dtype
def test_no_images(dtype: type) -> None:
    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    for got in both(zeros(0, 3, 8, 8), zeros(3, 4, 3, 3), zeros(4), stride=2):
        assert got.shape == (0, 4, 17, 17)
    # Without images, a plane may be empty as well.
    assert conv_transpose2d(zeros(0, 3, 0, 8), zeros(3, 4, 3, 3)).shape == (0, 4, 2, 10)


def test_large_strides_leave_gaps() -> None:
    rng = np.random.default_rng(7)
    x, weight = uniform(rng, (1, 3, 2, 3), np.float32), uniform(rng, (3, 2, 2, 3), np.float32)
    for stride in (5, 64, (97, 1), (1, 300)):
        check(x, weight, stride=stride)
    for got in both(x[..., :1, :1], weight, stride=2**62):
        np.testing.assert_allclose(got, conv_transpose2d(x[..., :1, :1], weight), rtol=1e-6)


def test_strides_beyond_the_image() -> None:
    # A stride that is never taken costs nothing, however large.
    rng = np.random.default_rng(8)
    for shape, window in (((1, 1, 1, 1), (1, 1)), ((2, 3, 4, 5), (1, 1)), ((2, 3, 4, 5), (2, 3))):
        size = (shape[0], 2, *shape[2:])
        weight = uniform(rng, (3, 2, *window), np.float32)[: shape[1]]
        grad = uniform(rng, (shape[0], weight.shape[0], 1, 1), np.float32)
        want = reference.conv2d_grad_input(*widened(grad, weight), size, stride=7)
        for stride in (7, 10**9, 2**40, 2**61, 2**62 + 1, 2**63 - 1):
            got = conv2d_grad_input(grad, weight, size, stride=stride)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_reached_outputs_of_some_images_at_a_time() -> None:
    rng = np.random.default_rng(9)
    x, weight = uniform(rng, (5, 2, 256, 257), np.float32), uniform(rng, (2, 16, 1, 1), np.float32)
    together = conv_transpose2d(x, weight, stride=2)
    apart = [conv_transpose2d(each[None], weight, stride=2) for each in x]
    same_bits(together, np.concatenate(apart))
    np.testing.assert_allclose(
        together[4, :, ::2, ::2],
        np.einsum("cij,ck->kij", x[4], weight[..., 0, 0]),
        rtol=1e-5,
        atol=1e-6,
    )
    assert not together[4, :, 1::2].any()


# ONNX's examples of ConvTranspose, whose windows are ones


@pytest.mark.parametrize(
    ("parameters", "shape"),
    [
        ({}, (1, 2, 5, 5)),
        ({"stride": (3, 2), "output_padding": (1, 1)}, (1, 2, 10, 8)),
        ({"stride": (3, 2), "padding": (1, 2)}, (1, 2, 7, 3)),
        ({"dilation": (2, 2)}, (1, 2, 7, 7)),
    ],
    ids=["plain", "output_padding", "pads", "dilations"],
)
def test_onnx_examples(parameters: dict[str, Any], shape: tuple[int, ...]) -> None:
    x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    weight = np.ones((1, 2, 3, 3), np.float32)
    want = np.zeros(shape)
    (step_y, step_x), (far_y, far_x), (top, left) = (
        parameters.get(name, default)
        for name, default in (("stride", (1, 1)), ("dilation", (1, 1)), ("padding", (0, 0)))
    )
    for y, x_, r, s in product(range(3), repeat=4):
        p, q = y * step_y + r * far_y - top, x_ * step_x + s * far_x - left
        if 0 <= p < shape[2] and 0 <= q < shape[3]:
            want[:, :, p, q] += x[0, 0, y, x_]
    for got in both(x, weight, **parameters):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def test_onnx_plain_example_by_hand() -> None:
    x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    want = [
        [0, 1, 3, 3, 2],
        [3, 8, 15, 12, 7],
        [9, 21, 36, 27, 15],
        [9, 20, 33, 24, 13],
        [6, 13, 21, 15, 8],
    ]
    for got in both(x, np.ones((1, 2, 3, 3), np.float32)):
        np.testing.assert_allclose(got, [[want, want]], rtol=0, atol=1e-4)


# Activations


@each_dtype
@pytest.mark.parametrize("activation", ACTIVATIONS[1:], ids=str)
@each_kind
def test_activation(case: Case, activation: Any, dtype: type) -> None:
    x, weight, bias = case.arrays(dtype)
    options = {**case.parameters, "activation": activation}
    want = reference.conv_transpose2d(*widened(x, weight, bias), **options)
    own = ACTIVATION * np.finfo(dtype).eps * max(1.0, np.abs(want).max())
    bound = 2 * bound_of(x, weight, bias, **case.parameters) + own
    for got in both(x, weight, bias, **options):
        assert_close(got, want, bound)


# Memory


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@each_kind
def test_layouts(case: Case, layout: Callable[..., Any], dtype: type) -> None:
    arrays = case.arrays(dtype)
    want = reference.conv_transpose2d(*widened(*arrays), **case.parameters)
    bound = bound_of(*arrays, **case.parameters)
    x, weight, bias = (read_only(layout(a.shape, dtype).filled(a)) for a in arrays)
    for moved in ((x, *arrays[1:]), (arrays[0], weight, bias), (x, weight, bias)):
        for got in both(*moved, **case.parameters):
            assert_close(got, want, bound)
    plan = ConvTranspose2d(weight, bias, **case.parameters)
    for call in (
        lambda out: conv_transpose2d(x, weight, bias, **case.parameters, out=out),
        lambda out: plan(x, out=out),
        lambda out: plan(arrays[0], out),
    ):
        place = layout(case.output_shape, dtype)
        assert call(place.view) is place.view
        assert_close(place.view.copy(), want, bound)
        assert place.untouched()


@each_kind
def test_channels_last_stays_channels_last(case: Case) -> None:
    arrays = case.arrays()
    x = LAYOUTS["channels_last"](case.input_shape, np.float32).filled(arrays[0])
    # One pixel per plane is both orders at once, and then counts as NCHW.
    if case.input_shape[2:] != (1, 1):
        for image in (x, x[0]):
            for got in both(image, *arrays[1:], **case.parameters):
                assert np.moveaxis(got, -3, -1).flags.c_contiguous
    assert conv_transpose2d(*arrays, **case.parameters).flags.c_contiguous


@each_kind
def test_broadcast_arrays(case: Case) -> None:
    # Stride 0: one image for the whole batch, one window for all channels.
    arrays = case.arrays()
    shapes = ((3, *case.input_shape[1:]), case.weight_shape, (case.filters,))
    repeated = (np.broadcast_to(a[:1], shape) for a, shape in zip(arrays, shapes, strict=True))
    check(*repeated, **case.parameters)


@each_dtype
@pytest.mark.parametrize("at_end", [False, True], ids=["start", "end"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_kind
def test_nothing_outside_the_arrays_is_touched(
    case: Case, layout: str, at_end: bool, dtype: type
) -> None:
    def place(array: np.ndarray) -> np.ndarray:
        view = guarded(array.shape, dtype, at_end=at_end, layout=LAYOUTS[layout])
        view[...] = array
        return view

    arrays = case.arrays(dtype)
    want = reference.conv_transpose2d(*widened(*arrays), **case.parameters)
    x, weight, bias = map(place, arrays)
    out = place(np.zeros(case.output_shape, dtype))
    for call in (
        lambda: conv_transpose2d(x, weight, bias, **case.parameters, out=out),
        lambda: ConvTranspose2d(weight, bias, **case.parameters)(x, out),
    ):
        out.fill(np.nan)
        call()
        assert_close(out, want, bound_of(*arrays, **case.parameters))


def test_out_keeps_its_identity_without_a_batch() -> None:
    case = KINDS[0]
    x, weight, bias = case.arrays()
    out = np.empty(case.output_shape[1:], np.float32)
    assert conv_transpose2d(x[0], weight, bias, **case.parameters, out=out) is out
    assert same_bits(out, conv_transpose2d(x[0], weight, bias, **case.parameters))


def test_arguments_are_left_alone() -> None:
    for case in KINDS:
        arrays = case.arrays()
        before = [array.copy() for array in arrays]
        both(*arrays, **case.parameters)
        for array, copy in zip(arrays, before, strict=True):
            assert same_bits(array, copy)


# Promises


@each_dtype
@each_kind
def test_bits_do_not_depend_on_threads(
    case: Case, dtype: type, threads: Callable[[int], None]
) -> None:
    # Large enough to be worth more than one thread, and uneven.
    n, c, h, w = case.input_shape
    case = replace(case, input_shape=(n + 1, c, 3 * h + 1, 3 * w + 2))
    arrays = case.arrays(dtype)
    options = {**case.parameters, "activation": "silu"}
    threads(1)
    alone = both(*arrays, **options)
    for count in (1, 2, 7):
        threads(count)
        for one, other in zip(alone, both(*arrays, **options), strict=True):
            assert same_bits(one, other)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bits_do_not_depend_on_threads_in_real_layers(
    case: Case, threads: Callable[[int], None]
) -> None:
    case = replace(case, input_shape=(1, *case.input_shape[1:]))
    x, weight, bias = case.arrays()
    plan = ConvTranspose2d(weight, bias, **case.parameters)
    threads(1)
    alone = conv_transpose2d(x, weight, bias, **case.parameters), plan(x)
    threads(2)
    assert same_bits(alone[0], conv_transpose2d(x, weight, bias, **case.parameters))
    assert same_bits(alone[1], plan(x))


@each_dtype
@each_kind
def test_a_sample_does_not_depend_on_its_batch(case: Case, dtype: type) -> None:
    case = replace(case, input_shape=(5, *case.input_shape[1:]))
    x, *constants = case.arrays(dtype)
    together = both(x, *constants, **case.parameters)
    for n in range(5):
        for whole, alone in zip(together, both(x[n], *constants, **case.parameters), strict=True):
            assert same_bits(whole[n], alone)
    for whole, some in zip(together, both(x[3:], *constants, **case.parameters), strict=True):
        assert same_bits(whole[3:], some)


@each_dtype
@pytest.mark.parametrize("layout", ["NCHW", "channels-last"])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7, 8, 9, 17])
def test_small_planes_of_several_images(width: int, layout: str, dtype: type) -> None:
    # Rows of several images share a tile; 17 do not fill them evenly.
    rng = np.random.default_rng(11)
    x = uniform(rng, (17, 130, 3, width), dtype)
    if layout == "channels-last":
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    weight, bias = uniform(rng, (130, 61, 4, 4), dtype), uniform(rng, (61,), dtype)
    parameters = {"stride": 2, "padding": 1}
    check(x, weight, bias, **parameters)
    for count in range(1, 17):
        for whole, some in zip(
            both(x, weight, bias, **parameters),
            both(x[:count], weight, bias, **parameters),
            strict=True,
        ):
            assert same_bits(whole[:count], some)


@each_dtype
def test_small_planes_in_several_strips(dtype: type) -> None:
    # An image of 512 channels takes 100 KiB and more of a strip: two strips and more hold 41.
    rng = np.random.default_rng(12)
    x = uniform(rng, (41, 512, 4, 4), dtype)
    weight, bias = uniform(rng, (512, 32, 4, 4), dtype), uniform(rng, (32,), dtype)
    parameters = {"stride": 2, "padding": 1}
    check(x, weight, bias, **parameters)
    whole = conv_transpose2d(x, weight, bias, **parameters)
    for first, last in ((0, 1), (13, 14), (20, 22), (19, 41), (40, 41)):
        assert same_bits(
            whole[first:last], conv_transpose2d(x[first:last], weight, bias, **parameters)
        )


@each_kind
def test_run_after_run(case: Case) -> None:
    arrays = case.arrays()
    first = both(*arrays, **case.parameters)
    for _ in range(5):
        for one, other in zip(first, both(*arrays, **case.parameters), strict=True):
            assert same_bits(one, other)


@each_dtype
@each_kind
def test_nan_reaches_what_its_windows_cover_and_nothing_else(case: Case, dtype: type) -> None:
    x, weight, bias = case.arrays(dtype)
    finite = conv_transpose2d(x, weight, bias, **case.parameters)
    place = (1, case.input_shape[1] // 2, case.input_shape[2] // 2, case.input_shape[3] // 3)
    mark = np.zeros(case.input_shape)
    mark[place] = 1
    ones = np.ones(case.weight_shape)
    covered = reference.conv_transpose2d(mark, ones, **case.parameters) != 0
    bound = 2 * bound_of(x, weight, bias, **case.parameters)
    for special in (np.nan, np.inf, -np.inf):
        x[place] = special
        for got in both(x, weight, bias, **case.parameters):
            np.testing.assert_array_equal(~np.isfinite(got), covered, str(special))
            assert_close(got[~covered], finite[~covered].astype(np.float64), bound)


@each_kind
def test_weights_that_are_not_finite(case: Case) -> None:
    # They reach what the taps cover, and may meet the zeros around the image, in one channel.
    x, weight, bias = case.arrays()
    finite = conv_transpose2d(x, weight, bias, **case.parameters)
    weight[0, 0, 0, 0] = np.inf
    mark = np.zeros(case.weight_shape)
    mark[0, 0, 0, 0] = 1
    covered = reference.conv_transpose2d(np.ones(x.shape), mark, **case.parameters) != 0
    bound = 2 * bound_of(x, np.where(np.isfinite(weight), weight, 1), bias, **case.parameters)
    for got in both(x, weight, bias, **case.parameters):
        assert not np.isfinite(got[covered]).any()
        assert_close(got[:, 1:], finite[:, 1:].astype(np.float64), bound)


def test_denormals_leave_the_callers_arithmetic_alone() -> None:
    smallest = np.finfo(np.float32).smallest_subnormal
    for case in KINDS:
        x, weight, bias = case.arrays()
        for got in both(x * np.float32(1e-39), weight, bias, **case.parameters):
            want = np.broadcast_to(bias[:, None, None], got.shape)
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-35)
        # Flushed to zero, twice the smallest number would vanish.
        assert np.array([smallest]) * np.float32(2) != 0


def test_integers_of_every_sort() -> None:
    case = next(case for case in KINDS if case.name == "overlapping_3x3")
    x, weight, bias = case.arrays()
    want = conv_transpose2d(x, weight, bias, (2, 2), (1, 1), (1, 1), 1, (1, 1))
    for two, one in ((2, 1), (np.int64(2), np.int8(1)), (np.uint8(2), np.intp(1))):
        assert same_bits(want, conv_transpose2d(x, weight, bias, two, one, one, one, one))
        lists = [two, two], [one, one], [one, one], one, (one, one)
        assert same_bits(want, conv_transpose2d(x, weight, bias, *lists))
