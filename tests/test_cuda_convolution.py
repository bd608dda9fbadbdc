"""Convolutions' CUDA kernels, compiled for the CPU and run thread by thread, against the reference.

As test_cuda_pooling.py does it; sums are compared within the bounds of closeness.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from closeness import ACTIVATION, DIRECT, assert_close, corruptions, rms, same_bits
from cuda_emulated import (
    ALIGNED,
    ORDERS,
    Emulated,
    from_bfloat16,
    in_order,
    on_fibers,
    placed,
    to_bfloat16,
)

import fastcv
from fastcv import reference
from fastcv.cuda._convolution import FLAT

pytestmark = on_fibers

DEVICE = Emulated()


class Case(NamedTuple):
    image: tuple[int, int, int, int]
    filters: int
    window: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def weight(self) -> tuple[int, ...]:
        return (self.filters, self.image[1] // self.groups, *self.window)

    @property
    def flat(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def keywords(self) -> dict[str, Any]:
        top, bottom, left, right = self.padding
        return {
            "stride": self.stride,
            "padding": ((top, bottom), (left, right)),
            "dilation": self.dilation,
            "groups": self.groups,
        }

    @property
    def windows(self) -> tuple[int, ...]:
        shapes = np.zeros(self.image, np.float32), np.zeros(self.weight, np.float32)
        return fastcv.conv2d(*shapes, **self.keywords).shape

    def random(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        return np.random.default_rng(seed).uniform(-1, 1, shape)


CASES = {
    "dense": Case((2, 16, 7, 6), 24),
    "several tiles": Case((1, 8, 12, 13), 70),
    "odd": Case((2, 3, 6, 9), 5, (2, 3), (2, 1), (0, 1, 2, 0)),
    "strided": Case((1, 8, 9, 9), 9, (3, 3), (2, 2)),
    "dilated": Case((1, 5, 11, 10), 6, (3, 2), (1, 1), (2, 3, 1, 0), (2, 3)),
    "strides and dilations that share a factor": Case(
        (1, 4, 14, 15), 4, (3, 3), (4, 6), (3, 2, 0, 4), (2, 4)
    ),
    "stride beyond the window": Case((2, 4, 10, 11), 3, (2, 1), (4, 3), (0, 0, 0, 0)),
    "stride beyond the image": Case((2, 4, 3, 3), 3, (3, 3), (7, 9), (1, 0, 0, 1)),
    "pointwise": Case((2, 24, 4, 5), 16, (1, 1), (1, 1), (0, 0, 0, 0)),
    "padding beyond the window": Case((1, 2, 3, 3), 3, (2, 2), (1, 1), (4, 3, 0, 5)),
    "grouped": Case((1, 16, 6, 5), 8, groups=4),
    "many groups": Case((1, 80, 4, 5), 40, groups=20),
    "wide groups": Case((1, 72, 4, 4), 80, groups=2),
    "depthwise": Case((2, 16, 6, 7), 16, groups=16),
    "depthwise, strided": Case((1, 8, 9, 8), 8, (5, 3), (2, 3), (2, 2, 1, 0), (1, 2), groups=8),
    "depthwise, several filters each": Case((1, 6, 5, 6), 18, groups=6),
    "one output a group": Case((1, 12, 5, 5), 4, groups=4),
    "no channels": Case((2, 0, 4, 4), 4),
    "no images": Case((0, 4, 4, 4), 8),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
each_order = pytest.mark.parametrize("order", ORDERS, indirect=True)
in_one_order = pytest.mark.parametrize("order", ["shuffled"], indirect=True)


@pytest.fixture
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An order of threads, and with one of them a small grid."""
    for _ in in_order(request.param, monkeypatch):
        yield request.param


def stored(array: np.ndarray, dtype: str) -> np.ndarray:
    return to_bfloat16(array) if dtype == "bfloat16" else array.astype(dtype)


def wide(array: np.ndarray) -> np.ndarray:
    values = from_bfloat16(array) if array.dtype == np.uint16 else array
    return values.astype(np.float64)


def bound(dtype: str, depth: int, x: np.ndarray, w: np.ndarray, want: np.ndarray) -> float:
    """The sum's roundings in what it is kept in, and that of the result."""
    kept = np.finfo(np.float64 if dtype == "float64" else np.float32).eps
    result = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(dtype, 0.0)
    largest = float(np.abs(want).max()) if want.size else 0.0
    return DIRECT * float(kept) * (depth * rms(x) * rms(w) + 1) + result * largest


def check(got: np.ndarray, want: np.ndarray, dtype: str, depth: int, *arrays: np.ndarray) -> None:
    x, w = map(wide, arrays)
    assert_close(wide(got), want, bound(dtype, depth, x, w, want))


def agrees(case: Case, dtype: str, layout: str) -> None:
    """All three of a convolution, and the same three as those of a transposed one."""
    channels, taps = case.image[1] // case.groups, case.window[0] * case.window[1]
    filters = case.filters // case.groups
    x = placed(stored(case.random(case.image, 0), dtype), layout)
    w = placed(stored(case.random(case.weight, 1), dtype), layout)
    y = placed(stored(case.random(case.windows, 2), dtype), layout)
    bias = stored(case.random((2 * case.filters,), 3), dtype)[::-2]
    options = (None, 0.0, "auto")

    got = FLAT["conv2d"](DEVICE, x, w, bias, *case.flat, *options)
    want = reference.conv2d(wide(x), wide(w), wide(bias), **case.keywords)
    check(got, want, dtype, channels * taps, x, w)
    if layout == "channels_last" and min(case.image[1], case.filters) > 1 and got.size:
        assert got.transpose(0, 2, 3, 1).flags.c_contiguous
    got = FLAT["conv2d_grad_input"](DEVICE, y, w, case.image, *case.flat)
    want = reference.conv2d_grad_input(wide(y), wide(w), case.image, **case.keywords)
    check(got, want, dtype, filters * taps, y, w)
    got = FLAT["conv2d_grad_weight"](DEVICE, y, x, case.weight, *case.flat)
    want = reference.conv2d_grad_weight(wide(y), wide(x), case.weight, **case.keywords)
    check(got, want, dtype, y.size // case.filters, y, x)


@each_case
@in_one_order
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_types(case: Case, order: str, dtype: str, layout: str) -> None:
    agrees(case, dtype, layout)


@pytest.mark.parametrize("name", ["odd", "grouped", "depthwise, strided"])
@in_one_order
@pytest.mark.parametrize("layout", ALIGNED)
def test_strides_of_inputs(name: str, order: str, layout: str) -> None:
    agrees(CASES[name], "float32", layout)


@pytest.mark.parametrize("output_padding", [(0, 0), (1, 2)])
@in_one_order
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transposed(output_padding: tuple[int, int], order: str, groups: int, dtype: str) -> None:
    keywords: dict[str, Any] = {
        "stride": (2, 3),
        "padding": (1, 0),
        "output_padding": output_padding,
        "dilation": (1, 2),
        "groups": groups,
    }
    random = np.random.default_rng(0)
    x, w, bias = (
        stored(random.uniform(-1, 1, shape), dtype)
        for shape in ((2, 8, 4, 3), (8, 16 // groups, 3, 2), (16,))
    )
    flat = tuple(keywords.values())
    got = FLAT["conv_transpose2d"](DEVICE, x, w, bias, *flat, "relu", 0.0)
    want = reference.conv_transpose2d(wide(x), wide(w), wide(bias), **keywords, activation="relu")
    check(got, want, dtype, 8 // groups * 6, x, w)
    y = stored(random.uniform(-1, 1, got.shape), dtype)
    got = FLAT["conv_transpose2d_grad_input"](DEVICE, y, w, x.shape, *flat)
    want = reference.conv_transpose2d_grad_input(wide(y), wide(w), x.shape, **keywords)
    check(got, want, dtype, 16 // groups * 6, y, w)
    got = FLAT["conv_transpose2d_grad_weight"](DEVICE, y, x, w.shape, *flat)
    want = reference.conv_transpose2d_grad_weight(wide(y), wide(x), w.shape, **keywords)
    check(got, want, dtype, x[:, 0].size, y, x)


@in_one_order
@pytest.mark.parametrize(
    "activation", ["relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "gelu"]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("groups", [1, 4])
def test_activations(activation: str, order: str, dtype: str, groups: int) -> None:
    x = np.linspace(-9, 9, 4 * 40).astype(dtype).reshape(1, 4, 5, 8)
    w = np.tile(np.eye(4)[:, ::groups] if groups == 1 else np.ones((4, 1)), 1)
    w = w.reshape(4, 4 // groups, 1, 1).astype(dtype)
    flat = ((1, 1), (0, 0, 0, 0), (1, 1), groups)
    got = FLAT["conv2d"](DEVICE, x, w, None, *flat, activation, 0.125, "auto")
    chosen: Any = (activation, 0.125) if activation == "leaky_relu" else activation
    want = reference.conv2d(x, w, groups=groups, activation=chosen)
    assert_close(got, want, ACTIVATION * float(np.finfo(dtype).eps) * 9)
    # NaN goes through, and only where it is.
    x[0, 1, 2, 3] = np.nan
    got = FLAT["conv2d"](DEVICE, x, w, None, *flat, activation, 0.125, "auto")
    assert np.isnan(got[0, 1, 2, 3]) and np.isnan(got).sum() == (4 if groups == 1 else 1)


@in_one_order
def test_infinity(order: str) -> None:
    x, w = np.full((1, 8, 3, 3), np.inf), np.ones((8, 8, 1, 1))
    for dtype in ("float32", "float16", "bfloat16"):
        arrays = stored(x, dtype), stored(w, dtype)
        flat = ((1, 1), (0, 0, 0, 0), (1, 1), 1)
        got = FLAT["conv2d"](DEVICE, *arrays, None, *flat, None, 0.0, "auto")
        assert (wide(got) == np.inf).all()


@in_one_order
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_groups_keep_to_themselves(order: str, value: float, dtype: str) -> None:
    case = CASES["grouped"]
    x, w = (np.abs(case.random(shape, 0)) for shape in (case.image, case.weight))
    x[0, 5, 2, 3] = value
    arrays = stored(x, dtype), stored(w, dtype)
    got = wide(FLAT["conv2d"](DEVICE, *arrays, None, *case.flat, None, 0.0, "auto"))
    want = reference.conv2d(*map(wide, arrays), **case.keywords)
    assert np.array_equal(np.isnan(got), np.isnan(want)) and np.isfinite(got).any()
    assert np.array_equal(np.isinf(got), np.isinf(want))
    finite = np.isfinite(want)
    assert np.allclose(got[finite], want[finite], rtol=2.0**-8)


@in_one_order
def test_the_comparison_can_fail(order: str) -> None:
    case = CASES["dense"]
    x, w = (case.random(shape, 0).astype(np.float32) for shape in (case.image, case.weight))
    got = FLAT["conv2d"](DEVICE, x, w, None, *case.flat, None, 0.0, "auto")
    want = reference.conv2d(x, w, **case.keywords)
    limit = bound("float32", 144, x, w, want)
    assert_close(got, want, limit)
    for wrong in corruptions(got):
        with pytest.raises(AssertionError):
            assert_close(wrong, want, limit)


def _results(name: str) -> list[np.ndarray]:
    """Of sums that are cut into several parts, too."""
    case = CASES[name]._replace(image=(20, *CASES[name].image[1:]))
    x, w, y = (
        case.random(shape, 5).astype(np.float32)
        for shape in (case.image, case.weight, case.windows)
    )
    return [
        FLAT["conv2d"](DEVICE, x, w, None, *case.flat, None, 0.0, "auto"),
        FLAT["conv2d_grad_input"](DEVICE, y, w, case.image, *case.flat),
        FLAT["conv2d_grad_weight"](DEVICE, y, x, case.weight, *case.flat),
    ]


FIRST: dict[str, list[np.ndarray]] = {}


@each_order
@pytest.mark.parametrize("name", ["strided", "grouped", "depthwise"])
def test_order_of_threads_does_not_show(order: str, name: str) -> None:
    results = _results(name)
    first = FIRST.setdefault(name, results)
    assert all(same_bits(a, b) for a, b in zip(results, first, strict=True))


@in_one_order
@pytest.mark.parametrize("groups", [1, 12])
def test_sums_in_several_parts(order: str, groups: int) -> None:
    case = Case((2, 12, 45, 50), 12, (1, 2), (1, 1), (0, 0, 0, 1), groups=groups)
    y = case.random(case.windows, 0).astype(np.float32)
    x = case.random(case.image, 1).astype(np.float32)
    got = FLAT["conv2d_grad_weight"](DEVICE, y, x, case.weight, *case.flat)
    assert y[:, 0].size > 2 * 2048
    want = reference.conv2d_grad_weight(y, x, case.weight, **case.keywords)
    check(got, want, "float32", y[:, 0].size, y, x)


@in_one_order
def test_a_single_image(order: str) -> None:
    x, w = np.ones((3, 5, 5), np.float32), np.ones((4, 3, 3, 3), np.float32)
    flat = ((1, 1), (1, 1, 1, 1), (1, 1), 1)
    got = FLAT["conv2d"](DEVICE, x, w, None, *flat, None, 0.0, "auto")
    assert same_bits(got, fastcv.conv2d(x, w, padding=1))
    grad = FLAT["conv2d_grad_input"](DEVICE, got, w, x.shape, *flat)
    assert same_bits(grad, fastcv.conv2d_grad_input(got, w, x.shape, padding=1))
    grad = FLAT["conv2d_grad_weight"](DEVICE, got, x, w.shape, *flat)
    assert same_bits(grad, fastcv.conv2d_grad_weight(got, x, w.shape, padding=1))


@in_one_order
def test_what_is_refused(order: str) -> None:
    x, w = np.ones((1, 3, 5, 5), np.float32), np.ones((4, 3, 3, 3), np.float32)
    flat = ((1, 1), (1, 1, 1, 1), (1, 1), 1)

    def conv2d(*arrays: Any, options: Any = (None, 0.0, "auto"), device: Any = DEVICE) -> Any:
        return FLAT["conv2d"](device, *arrays, *flat, *options)

    with pytest.raises(TypeError, match=r"^conv2d: weight.dtype must equal input.dtype"):
        conv2d(x, w.astype(np.float64), None)
    with pytest.raises(TypeError, match=r"^conv2d: input.dtype must be float32"):
        conv2d(x.astype(np.int64), w, None)
    with pytest.raises(ValueError, match=r"^conv2d: bias.shape must equal"):
        conv2d(x, w, np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"^conv2d: algorithm 'winograd' is the CPU's alone"):
        conv2d(x, w, None, options=(None, 0.0, "winograd"))
    with pytest.raises(ValueError, match=r"grad_output.shape"):
        FLAT["conv2d_grad_input"](DEVICE, np.ones((1, 4, 4, 5), np.float32), w, x.shape, *flat)
    device = Emulated()
    device.on_second.append(w)
    with pytest.raises(ValueError, match=r"^conv2d: weight must be on the device of input"):
        conv2d(x, w, None, device=device)
