"""conv2d and Conv2d: worked numbers, and every parameter against the float64 reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import uniform
from cases.conv2d import BY_NAME, CASES, Case
from closeness import (
    ACTIVATION,
    assert_close,
    corruptions,
    rms,
    same_bits,
    widened,
)
from shared import algorithms, bound_of, check, each_dtype, each_kind

from fastcv import Conv2d, conv2d, reference

ACTIVATIONS = (None, "relu", "relu6", ("leaky_relu", 0.1), "sigmoid", "tanh", "silu", "gelu")


# Worked numbers


def test_four_by_four_by_hand() -> None:
    # The padded image, its 2x2 windows at stride 2:
    #     0  0 |  0  0 |  0  0
    #     0  1 |  2  3 |  4  0      1*1              5*2 + 1*3                     5*4
    #    ------+-------+------
    #     0  5 |  6  7 |  8  0      2*5 + 1*9        4*6 + 2*7 + 5*10 + 1*11       4*8 + 5*12
    #     0  9 | 10 11 | 12  0
    #    ------+-------+------
    #     0 13 | 14 15 | 16  0      2*13             4*14 + 2*15                   4*16
    #     0  0 |  0  0 |  0  0
    image = np.arange(1, 17, dtype=np.float32).reshape(1, 4, 4)
    window = np.array([[[[4, 2], [5, 1]]]], np.float32)
    want = [[[1, 13, 20], [19, 99, 92], [26, 86, 64]]]
    np.testing.assert_array_equal(conv2d(image, window, stride=2, padding=1), want)
    np.testing.assert_array_equal(Conv2d(window, stride=2, padding=1)(image), want)


def test_full_correlation_by_hand() -> None:
    # Padding 2 lets every tap of a 3x3 window meet every pixel of a 2x2 image. The window is not
    # flipped: the first output is the lower right tap times the first pixel, 5 * 1, the second
    # 4 * 1 + 5 * 2, and the centre 3 * 1 + 4 * 2 + 4 * 3 + 5 * 4 = 43.
    image = np.array([[[1, 2], [3, 4]]], np.float64)
    window = np.array([[[[1, 2, 3], [2, 3, 4], [3, 4, 5]]]], np.float64)
    want = [[[5, 14, 11, 6], [19, 43, 33, 16], [15, 33, 23, 10], [9, 18, 11, 4]]]
    for algorithm in ("auto", "direct", "winograd"):
        got = conv2d(image, window, padding=2, algorithm=algorithm)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_sobel_on_a_step() -> None:
    # A vertical edge of height 3: the weights 1, 2, 1 of the side that sees it give 4 * 3.
    image = np.zeros((1, 5, 6), np.float32)
    image[..., 3:] = 3
    sobel = np.array([[[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]]], np.float32)
    want = np.tile(np.float32([0, 12, 12, 0]), (1, 3, 1))
    np.testing.assert_allclose(conv2d(image, sobel), want, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "filters", "kernel", "plane", "stride", "padding", "shape", "parameters"),
    [
        # LeNet's first layer: 32 - 5 + 1 = 28; (5 * 5 + 1) * 6 parameters.
        (1, 6, 5, 32, 1, 0, (6, 28, 28), 156),
        # (32 - 4) // 2 + 1 = 15; (4 * 4 + 1) * 5 parameters.
        (1, 5, 4, 32, 2, 0, (5, 15, 15), 85),
        # 64 - 3 + 1 = 62; (32 * 3 * 3 + 1) * 64 parameters.
        (32, 64, 3, 64, 1, 0, (64, 62, 62), 18496),
        # Half the plane: (64 - 3 + 2) // 2 + 1 = 32, the last padded column unused; and a padding
        # far wider than the window comes to the same size: (64 - 3 + 32) // 3 + 1 = 32.
        (32, 64, 3, 64, 2, 1, (64, 32, 32), 18496),
        (32, 64, 3, 64, 3, 16, (64, 32, 32), 18496),
    ],
)
def test_output_sizes_by_hand(
    channels: int,
    filters: int,
    kernel: int,
    plane: int,
    stride: int,
    padding: int,
    shape: tuple[int, ...],
    parameters: int,
) -> None:
    x = np.zeros((channels, plane, plane), np.float32)
    weight = np.zeros((filters, channels, kernel, kernel), np.float32)
    bias = np.arange(filters, dtype=np.float32)
    assert weight.size + bias.size == parameters
    result = conv2d(x, weight, bias, stride, padding)
    assert result.shape == shape
    np.testing.assert_array_equal(result, np.broadcast_to(bias[:, None, None], shape))


# Named layers


@each_dtype
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_case(case: Case, dtype: type) -> None:
    case = case.reduced()
    x, weight, bias = case.arrays(dtype)
    assert conv2d(x, weight, bias, **case.parameters).shape == case.output_shape
    check(x, weight, bias, **case.parameters)


@pytest.mark.parametrize(
    "name", ["vgg_3x3_64_224", "vgg_3x3_512_28", "deeplab_3x3_d24_512_256_65", "unet_3x3_64_128"]
)
def test_full_size(name: str) -> None:
    # A few of the filters tell the large plane's story; the reference skips the others.
    case = BY_NAME[name]
    x, weight, bias = case.arrays()
    some = [0, 1, case.filters // 2, case.filters - 1]
    want = reference.conv2d(*widened(x, weight[some], bias[some]), **case.parameters)
    got = conv2d(x, weight, bias, **case.parameters)
    assert got.shape == case.output_shape
    assert_close(got[:, some], want, bound_of(x, weight, bias))


@each_dtype
@each_kind
def test_kind(case: Case, dtype: type) -> None:
    x, weight, bias = case.arrays(dtype)
    check(x, weight, bias, **case.parameters)
    check(x, weight, **case.parameters)
    check(x[0], weight, bias, **case.parameters)


# Accuracy


def sequential_sum(x: np.ndarray, weight: np.ndarray, case: Case) -> np.ndarray:
    """The direct sum over channels and taps, one rounded addition after the other."""
    padded = np.pad(x, ((0, 0), (0, 0), *case.padding))
    _, _, rows, columns = case.output_shape
    total = np.zeros((x.shape[0], weight.shape[0], rows, columns), x.dtype)
    for c, r, s in product(*map(range, weight.shape[1:])):
        y, z = r * case.dilation[0], s * case.dilation[1]
        tap = weight[:, c, r, s].reshape(-1, 1, 1)
        total += tap * padded[:, c, None, y : y + rows, z : z + columns]
    return total


@pytest.mark.parametrize(
    "name",
    [
        "resnet_3x3_64_56",
        "resnet_3x3_128_28",
        "resnet_3x3_256_14",
        "resnet_3x3_512_7",
        "dilated_3x3_d4_64_56",
    ],
)
@pytest.mark.parametrize("data", ["uniform", "activations"])
def test_default_is_as_accurate_as_three_direct_sums(name: str, data: str) -> None:
    case = BY_NAME[name]
    rng = np.random.default_rng(7)
    if data == "uniform":
        x, weight, _ = case.arrays(seed=7)
    else:  # what a layer sees in a network: nothing negative, and weights of its own scale
        x = np.maximum(rng.standard_normal(case.input_shape, np.float32), 0)
        weight = rng.standard_normal(case.weight_shape, np.float32) / np.float32(
            math.sqrt(case.depth)
        )
    some = slice(0, 16)
    want = reference.conv2d(*widened(x, weight[some]), **case.parameters)
    allowed = 3 * rms(sequential_sum(x, weight[some], case) - want)
    assert rms(conv2d(x, weight, **case.parameters)[:, some] - want) <= allowed
    assert rms(Conv2d(weight, **case.parameters)(x)[:, some] - want) <= allowed


@each_dtype
@pytest.mark.parametrize("name", ["resnet_3x3_512_7", "mobilenet_dw3x3_960_7", "odd_1x1_37_53_29"])
def test_the_comparison_can_fail(name: str, dtype: type) -> None:
    case = BY_NAME[name]
    x, weight, bias = case.arrays(dtype)
    want = reference.conv2d(*widened(x, weight, bias), **case.parameters)
    bound = bound_of(x, weight, bias)
    assert_close(want.astype(dtype), want, bound)
    for wrong in corruptions(want.astype(dtype)):
        with pytest.raises(AssertionError, match="differ by more than"):
            assert_close(wrong, want, bound)
    with pytest.raises(AssertionError, match="shape"):
        assert_close(want[..., :-1], want, bound)


# Sizes around the vectors'

AROUND_LANES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17)


@each_dtype
@pytest.mark.parametrize(
    ("kernel", "parameters"),
    [
        ((3, 3), {"padding": (1, 1)}),
        ((1, 1), {}),
        ((5, 4), {"padding": (2, 1), "stride": (2, 1)}),
        ((3, 3), {"padding": (2, 2), "dilation": (2, 2)}),
    ],
    ids=["3x3", "1x1", "5x4_strided", "3x3_dilated"],
)
@pytest.mark.parametrize("varied", ["channels_filters", "filters_width", "height_width"])
def test_sizes_around_lanes(
    kernel: tuple[int, int], parameters: dict[str, Any], varied: str, dtype: type
) -> None:
    rng = np.random.default_rng(3)
    for a, b in product(AROUND_LANES, repeat=2):
        channels, filters, height, width = {
            "channels_filters": (a, b, 5, 9),
            "filters_width": (16, a, 4, b),
            "height_width": (17, 18, a, b),
        }[varied]
        rows, columns = parameters.get("padding", (0, 0))
        if height + 2 * rows < kernel[0] or width + 2 * columns < kernel[1]:
            continue
        x = uniform(rng, (1, channels, height, width), dtype)
        weight = uniform(rng, (filters, channels, *kernel), dtype)
        check(x, weight, uniform(rng, (filters,), dtype), **parameters)


@each_dtype
def test_depthwise_sizes_around_lanes(dtype: type) -> None:
    rng = np.random.default_rng(4)
    for channels, width in product(AROUND_LANES, AROUND_LANES):
        x = uniform(rng, (1, channels, 6, width), dtype)
        weight = uniform(rng, (channels, 1, 3, 3), dtype)
        check(x, weight, padding=1, groups=channels)
        check(
            np.moveaxis(x, 1, -1).copy().transpose(0, 3, 1, 2), weight, padding=1, groups=channels
        )


@each_dtype
@pytest.mark.parametrize("multiplier", [1, 2, 3])
@pytest.mark.parametrize("kernel", [*((k, k) for k in range(1, 8)), (2, 5), (5, 2), (1, 9)])
def test_depthwise_windows(kernel: tuple[int, int], multiplier: int, dtype: type) -> None:
    rng = np.random.default_rng(5)
    channels = 6
    weight = uniform(rng, (channels * multiplier, 1, *kernel), dtype)
    bias = uniform(rng, (channels * multiplier,), dtype)
    x = uniform(rng, (2, channels, 13, 22), dtype)
    for stride, dilation, padding in product(
        ((1, 1), (2, 2), (3, 1)), ((1, 1), (2, 3)), ((0, 0), (kernel[0] // 2, kernel[1] // 2))
    ):
        if dilation[0] * (kernel[0] - 1) + 1 > 13 + 2 * padding[0]:
            continue
        if dilation[1] * (kernel[1] - 1) + 1 > 22 + 2 * padding[1]:
            continue
        check(x, weight, bias, stride=stride, dilation=dilation, padding=padding, groups=channels)


@each_dtype
@pytest.mark.parametrize("groups", [2, 3, 5, 8])
def test_groups(groups: int, dtype: type) -> None:
    rng = np.random.default_rng(6)
    for channels, filters, kernel in product((1, 2, 4, 9, 16), (1, 3, 4, 8, 17), ((1, 1), (3, 3))):
        x = uniform(rng, (1, groups * channels, 7, 10), dtype)
        weight = uniform(rng, (groups * filters, channels, *kernel), dtype)
        check(x, weight, padding=(1, 1), groups=groups)


@each_dtype
def test_zero_sizes(dtype: type) -> None:
    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    bias = np.arange(4, dtype=dtype)
    assert conv2d(zeros(0, 3, 8, 8), zeros(4, 3, 3, 3), bias).shape == (0, 4, 6, 6)
    assert Conv2d(zeros(4, 3, 3, 3), bias)(zeros(0, 3, 8, 8)).shape == (0, 4, 6, 6)
    assert conv2d(zeros(0, 0, 8, 8), zeros(4, 0, 3, 3)).shape == (0, 4, 6, 6)

    # An empty sum is zero, so what is left is the bias, activated.
    for x in (zeros(2, 0, 8, 8), zeros(0, 8, 8)):
        shape = (*x.shape[:-3], 4, 6, 6)
        want = np.broadcast_to(np.maximum(bias - 1, 0)[:, None, None], shape)
        for algorithm in ("auto", "direct", "winograd"):
            options = {"activation": "relu", "algorithm": algorithm}
            result = conv2d(x, zeros(4, 0, 3, 3), bias - 1, **options)
            np.testing.assert_array_equal(result, want)
            packed = Conv2d(zeros(4, 0, 3, 3), bias - 1, **options)
            np.testing.assert_array_equal(packed(x), want)
        np.testing.assert_array_equal(conv2d(x, zeros(4, 0, 3, 3)), zeros(*shape))


# Padding, dilation, stride


@each_dtype
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (6, 2), (7, 7)])
def test_same_and_valid(kernel: tuple[int, int], dtype: type) -> None:
    rng = np.random.default_rng(8)
    x = uniform(rng, (2, 17, 16, 15), dtype)
    weight = uniform(rng, (18, 17, *kernel), dtype)
    for dilation in ((1, 1), (2, 2), (2, 1)):
        check(x, weight, padding="same", dilation=dilation)
        check(x, weight, padding="valid", dilation=dilation)
        same = conv2d(x, weight, padding="same", dilation=dilation)
        assert same.shape == (2, 18, 16, 15)

        # The odd pixel of an even window's padding goes to the bottom and to the right.
        extra = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = tuple((total // 2, total - total // 2) for total in extra)
        assert same_bits(same, conv2d(x, weight, padding=sides, dilation=dilation))
        valid = conv2d(x, weight, padding="valid", dilation=dilation)
        assert same_bits(valid, conv2d(x, weight, dilation=dilation))


@each_dtype
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (4, 5)])
@pytest.mark.parametrize("groups", [1, 18], ids=["dense", "depthwise"])
def test_asymmetric_padding(kernel: tuple[int, int], groups: int, dtype: type) -> None:
    rng = np.random.default_rng(9)
    x = uniform(rng, (1, 18, 9, 10), dtype)
    weight = uniform(rng, (18, 18 // groups, *kernel), dtype)
    for padding in (
        ((0, 1), (2, 0)),
        ((3, 0), (0, 3)),
        ((0, 0), (0, 7)),
        ((9, 2), (1, 11)),  # larger than the window, so that whole outputs see only padding
        ((0, 12), (12, 0)),
    ):
        check(x, weight, padding=padding, groups=groups)
        check(x, weight, padding=padding, groups=groups, stride=(2, 3))


def test_padding_alone_gives_the_bias() -> None:
    x = np.ones((1, 16, 3, 3), np.float32)
    weight = np.ones((16, 16, 3, 3), np.float32)
    bias = np.arange(16, dtype=np.float32)
    for algorithm in ("direct", "winograd"):
        result = conv2d(x, weight, bias, padding=8, algorithm=algorithm)
        border = np.ones(result.shape[2:], bool)
        border[6:-6, 6:-6] = False
        want = np.broadcast_to(bias[:, None], (16, np.count_nonzero(border)))
        # A Winograd tile that meets the image leaves its rounding in all of its outputs.
        bound = 0.0 if algorithm == "direct" else bound_of(x, weight, bias)
        assert_close(result[0, :, border].T, want.astype(np.float64), bound, algorithm)


@each_dtype
def test_dilation(dtype: type) -> None:
    rng = np.random.default_rng(10)
    x = uniform(rng, (1, 19, 23, 20), dtype)
    weight = uniform(rng, (33, 19, 3, 3), dtype)
    for dilation in ((1, 2), (3, 1), (2, 2), (5, 5), (7, 9), (11, 9)):
        check(x, weight, padding=dilation, dilation=dilation)
        check(x, weight, padding=(2, 1), dilation=dilation, stride=(2, 1))


@each_dtype
def test_strides(dtype: type) -> None:
    rng = np.random.default_rng(11)
    x = uniform(rng, (1, 5, 23, 29), dtype)
    for kernel in ((1, 1), (2, 2), (3, 3), (3, 5)):
        weight = uniform(rng, (18, 5, *kernel), dtype)
        for stride in ((1, 2), (2, 1), (2, 2), (3, 4), (5, 7), (23, 29), (40, 1)):
            check(x, weight, padding=(1, 2), stride=stride)


# Activations


def activated(values: np.ndarray, activation: str | tuple[str, float] | None) -> np.ndarray:
    """The activation in float64, spelt out anew."""

    def sigmoid(v: float) -> float:
        return 1 / (1 + math.exp(-v)) if v > -700 else 0.0

    if isinstance(activation, tuple):
        slope = activation[1]
        return np.where(values > 0, values, slope * values)
    function: Callable[[float], float] = {
        None: lambda v: v,
        "relu": lambda v: max(v, 0.0),
        "relu6": lambda v: min(max(v, 0.0), 6.0),
        "sigmoid": sigmoid,
        "tanh": math.tanh,
        "silu": lambda v: v * sigmoid(v),
        "gelu": lambda v: 0.5 * v * math.erfc(-v / math.sqrt(2)),
    }[activation]
    return np.array([function(v) for v in values.astype(np.float64).flat]).reshape(values.shape)


@each_dtype
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activation_values(activation: Any, dtype: type) -> None:
    small = np.geomspace(1e-30, 1, 61)
    large = np.geomspace(1, 1e4, 101)
    values = np.concatenate(
        [-large, -small, [-0.0, 0.0], small, large, np.linspace(-12, 12, 4801)]
    ).astype(dtype)
    one = np.ones((1, 1, 1, 1), dtype)
    want = activated(values, activation)
    got = conv2d(values.reshape(1, 1, -1), one, activation=activation)[0, 0].astype(np.float64)
    step = ACTIVATION * np.finfo(dtype).eps
    # Near zero, where tanh, silu and gelu are nearly linear, the error is relative.
    allowed = step * np.where(np.abs(values) < 1, np.abs(want), np.maximum(1, np.abs(want)))
    assert not np.isnan(got).any()
    worst = np.argmax(np.abs(got - want) - allowed)
    assert abs(got[worst] - want[worst]) <= allowed[worst], (values[worst], got[worst], want[worst])


def test_tail_of_gelu() -> None:
    # There it vanishes, and its error is relative all the same.
    values = np.linspace(-12.5, -1.25, 20001, dtype=np.float32)
    got = conv2d(values.reshape(1, 1, -1), np.ones((1, 1, 1, 1), np.float32), activation="gelu")
    want = activated(values, "gelu")
    assert np.abs(got[0, 0] / want - 1).max() < 10 * np.finfo(np.float32).eps


@each_dtype
@pytest.mark.parametrize(
    "activation", [*ACTIVATIONS, ("leaky_relu", -2), ("leaky_relu", 0)], ids=str
)
@each_kind
def test_activation_of_each_kind(case: Case, activation: Any, dtype: type) -> None:
    x, weight, bias = case.arrays(dtype)
    want = reference.conv2d(*widened(x, weight, bias), **case.parameters, activation=activation)
    # None of them is steeper than 2, leaky_relu's slope here; their own error comes on top.
    own = ACTIVATION * np.finfo(dtype).eps * max(1.0, np.abs(want).max())
    for algorithm in algorithms(weight, case.stride, case.dilation):
        bound = 2 * bound_of(x, weight, bias, case.stride, algorithm) + own
        options = {**case.parameters, "activation": activation, "algorithm": algorithm}
        assert_close(conv2d(x, weight, bias, **options), want, bound, algorithm)
        assert_close(Conv2d(weight, bias, **options)(x), want, bound, algorithm)


@each_dtype
@pytest.mark.parametrize(
    ("activation", "at_inf", "at_minus_inf"),
    [
        (None, np.inf, [-np.inf]),
        ("relu", np.inf, [0]),
        ("relu6", 6, [0]),
        (("leaky_relu", 0.25), np.inf, [-np.inf]),
        ("sigmoid", 1, [0]),
        ("tanh", 1, [-1]),
        # The limit is 0; -inf * 0, as torch computes it, is NaN.
        ("silu", np.inf, [0, np.nan]),
        ("gelu", np.inf, [0, np.nan]),
    ],
    ids=str,
)
def test_activation_of_what_is_not_finite(
    activation: Any, at_inf: float, at_minus_inf: list[float], dtype: type
) -> None:
    def at(value: float) -> float:
        x = np.full((1, 1, 37), value, dtype)
        result = conv2d(x, np.ones((1, 1, 1, 1), dtype), activation=activation)
        np.testing.assert_array_equal(result, np.full_like(x, result[0, 0, 0]))
        return float(result[0, 0, 0])

    def close(got: float, want: float) -> bool:
        return got == pytest.approx(want, abs=1e-30, nan_ok=True)

    assert np.isnan(at(np.nan))
    assert close(at(np.inf), at_inf)
    assert any(close(at(-np.inf), limit) for limit in at_minus_inf)
    # Large, but finite: at the limit already, where there is one.
    huge = float(np.finfo(dtype).max) / 2
    assert close(at(huge), huge if at_inf == np.inf else at_inf)
    finite = {0: 0, -1: -1}.get(at_minus_inf[0], -huge)
    assert close(at(-huge), 0.25 * finite if isinstance(activation, tuple) else finite)
