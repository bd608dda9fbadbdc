"""conv2d and Conv2d on arrays of every memory layout, and what they leave alone there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases.conv2d import KINDS, Case
from closeness import assert_close, same_bits, widened
from layouts import LAYOUTS, guarded, read_only
from shared import algorithms, bound_of, check, each_dtype, each_kind

from fastcv import Conv2d, conv2d, reference


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@each_kind
def test_layouts(case: Case, layout: Callable[..., Any], dtype: type) -> None:
    arrays = case.arrays(dtype)
    want = reference.conv2d(*widened(*arrays), **case.parameters)
    bound = bound_of(*arrays, case.stride)
    x, weight, bias = (read_only(layout(a.shape, dtype).filled(a)) for a in arrays)
    for moved in ((x, *arrays[1:]), (arrays[0], weight, bias), (x, weight, bias)):
        assert_close(conv2d(*moved, **case.parameters), want, bound)
        assert_close(Conv2d(*moved[1:], **case.parameters)(moved[0]), want, bound)

    for call in (
        lambda out: conv2d(x, weight, bias, **case.parameters, out=out),
        lambda out: Conv2d(weight, bias, **case.parameters)(x, out=out),
        lambda out: Conv2d(weight, bias, **case.parameters)(arrays[0], out),
    ):
        place = layout(case.output_shape, dtype)
        assert call(place.view) is place.view
        assert_close(place.view.copy(), want, bound)
        assert place.untouched()


@each_dtype
@each_kind
def test_channels_last_stays_channels_last(case: Case, dtype: type) -> None:
    def in_channels_last(result: np.ndarray) -> bool:
        return np.moveaxis(result, -3, -1).flags.c_contiguous

    arrays = case.arrays(dtype)
    x = LAYOUTS["channels_last"](case.input_shape, dtype).filled(arrays[0])
    weight, bias = arrays[1:]
    for image in (x, x[0]):
        assert in_channels_last(conv2d(image, weight, bias, **case.parameters))
        assert in_channels_last(Conv2d(weight, bias, **case.parameters)(image))
    assert conv2d(*arrays, **case.parameters).flags.c_contiguous


@each_dtype
@pytest.mark.parametrize("layout", ["channels_last", "channels_last_cropped"])
@pytest.mark.parametrize("groups", [1, 3])
def test_pixels_multiplied_as_they_lie(groups: int, layout: str, dtype: type) -> None:
    # Tiles are 8 pixels by 3 vectors, or smaller: every rest of either, in one row and in several.
    rng = np.random.default_rng(5)
    for filters in (1, 3, 4, 5, 8, 9, 12, 13, 24, 25, 47, 48, 49, 97):
        for batch, height, width in ((1, 1, 1), (2, 1, 3), (1, 3, 5), (3, 5, 7), (1, 17, 23)):
            channels = int(rng.integers(1, 40))
            x = rng.uniform(-1, 1, (batch, channels * groups, height, width)).astype(dtype)
            weight = rng.uniform(-1, 1, (filters * groups, channels, 1, 1)).astype(dtype)
            bias = rng.uniform(-1, 1, filters * groups).astype(dtype)
            moved = LAYOUTS[layout](x.shape, dtype).filled(x)
            for stride in ((1, 1), (2, 3)):
                check(moved, weight, bias, stride=stride, groups=groups)


@each_dtype
@pytest.mark.parametrize("layout", ["contiguous", "sliced", "reversed_axes", "misaligned_pixels"])
@pytest.mark.parametrize("groups", [1, 3])
def test_pixels_of_planes_to_channels_last(groups: int, layout: str, dtype: type) -> None:
    rng = np.random.default_rng(8)
    for batch, height, width in ((1, 1, 1), (2, 1, 3), (3, 5, 7), (1, 17, 23)):
        for channels, filters in ((5, 33), (16, 9), (33, 49)):
            x = rng.uniform(-1, 1, (batch, channels * groups, height, width)).astype(dtype)
            weight = rng.uniform(-1, 1, (filters * groups, channels, 1, 1)).astype(dtype)
            bias = rng.uniform(-1, 1, filters * groups).astype(dtype)
            moved = LAYOUTS[layout](x.shape, dtype).filled(x)
            for stride in ((1, 1), (2, 3)):
                parameters: Any = {"stride": stride, "groups": groups}
                want = reference.conv2d(*widened(x, weight, bias), **parameters)
                out = LAYOUTS["channels_last"](want.shape, dtype).view
                for call in (
                    lambda: conv2d(moved, weight, bias, **parameters, out=out),  # noqa: B023
                    lambda: Conv2d(weight, bias, **parameters)(moved, out=out),  # noqa: B023
                ):
                    out.fill(np.nan)
                    call()
                    assert_close(out, want, bound_of(x, weight, bias, stride))


@each_dtype
@pytest.mark.parametrize("channels", [1023, 1025, 2100])
def test_deep_sums_of_pixels_part_by_part(channels: int, dtype: type) -> None:
    # With float32 and vectors of 16, a part has up to 1024 channels.
    rng = np.random.default_rng(6)
    x = rng.uniform(-1, 1, (2, channels, 3, 5)).astype(dtype)
    weight = rng.uniform(-1, 1, (70, channels, 1, 1)).astype(dtype)
    bias = rng.uniform(-1, 1, 70).astype(dtype)
    moved = LAYOUTS["channels_last"](x.shape, dtype).filled(x)
    for activation in (None, "relu", "gelu"):
        check(moved, weight, bias, activation=activation)


@each_dtype
@pytest.mark.parametrize("channels", [7, 8, 16, 37, 70])
def test_depthwise_pixels_as_they_lie(channels: int, dtype: type) -> None:
    # Whole windows for at least three quarters of a row; borders of all widths.
    rng = np.random.default_rng(7)
    for window, parameters in (
        ((3, 3), {"padding": 1}),
        ((3, 5), {"padding": ((0, 3), (5, 1)), "dilation": (1, 2)}),
        ((2, 3), {"stride": (2, 3)}),
        ((7, 7), {"padding": 3}),
        ((5, 1), {"padding": "same"}),
    ):
        for height, width in ((4, 29), (9, 40)):
            x = rng.uniform(-1, 1, (2, channels, height, width)).astype(dtype)
            weight = rng.uniform(-1, 1, (channels, 1, *window)).astype(dtype)
            bias = rng.uniform(-1, 1, channels).astype(dtype)
            moved = LAYOUTS["channels_last"](x.shape, dtype).filled(x)
            check(moved, weight, bias, groups=channels, **parameters)


@each_kind
def test_broadcast_arrays(case: Case) -> None:
    # Stride 0: one image for the whole batch, one filter for all.
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
    want = reference.conv2d(*widened(*arrays), **case.parameters)
    x, weight, bias = map(place, arrays)
    out = place(np.zeros(case.output_shape, dtype))
    for algorithm in algorithms(weight, case.stride, case.dilation):
        out.fill(np.nan)
        conv2d(x, weight, bias, **case.parameters, algorithm=algorithm, out=out)
        assert_close(out, want, bound_of(*arrays, case.stride, algorithm), algorithm)
        out.fill(np.nan)
        Conv2d(weight, bias, **case.parameters, algorithm=algorithm)(x, out)
        assert_close(out, want, bound_of(*arrays, case.stride, algorithm), algorithm)


def test_out_keeps_its_identity_without_a_batch() -> None:
    case = KINDS[0]
    x, weight, bias = case.arrays()
    out = np.empty(case.output_shape[1:], np.float32)
    assert conv2d(x[0], weight, bias, **case.parameters, out=out) is out
    assert same_bits(out, conv2d(x[0], weight, bias, **case.parameters))
