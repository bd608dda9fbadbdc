"""Named poolings, taken from networks that people run; some are also unpooled.

``CASES`` holds every case, ``BY_NAME`` finds one, ``tagged("unpooled")`` selects some. ``KINDS``
are small made-up ones, for tests that go through every way to pool. A case is named after its
layer; sizes follow the library's letters: N batch, C channels, R x S window, H x W input, P x Q
output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cases import uniform

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One pooling: its input, its window, and tags to select it by."""

    name: str
    input_shape: tuple[int, int, int, int]
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False
    tags: frozenset[str] = frozenset()

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        extents = []
        for size, taps, step, pad, distance in zip(
            self.input_shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True
        ):
            room = size + 2 * pad - distance * (taps - 1) - 1
            extent = (room + (step - 1 if self.ceil_mode else 0)) // step + 1
            if self.ceil_mode and (extent - 1) * step >= size + pad:
                extent -= 1
            extents.append(extent)
        return (*self.input_shape[:2], extents[0], extents[1])

    @property
    def parameters(self) -> dict[str, Any]:
        """The keyword arguments of ``max_pool2d``."""
        return {
            "kernel_size": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "ceil_mode": self.ceil_mode,
        }

    @property
    def unpooling(self) -> dict[str, Any]:
        """The keyword arguments of ``max_unpool2d`` that lead back to the input's size."""
        return {
            "kernel_size": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "output_size": self.input_shape,
        }

    def input(self, dtype: np.typing.DTypeLike = np.float32, seed: int = 0) -> np.ndarray:
        """Uniform in [-1, 1), the same for the same seed."""
        return uniform(np.random.default_rng(seed), self.input_shape, dtype)

    def grad_output(self, dtype: np.typing.DTypeLike = np.float32, seed: int = 1) -> np.ndarray:
        return uniform(np.random.default_rng(seed), self.output_shape, dtype)


def _pair(value: int | Pair) -> Pair:
    return value if isinstance(value, tuple) else (value, value)


def _case(
    name: str,
    channels: int,
    plane: int | Pair,
    kernel: int | Pair,
    tags: str,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
    batch: int = 1,
) -> Case:
    return Case(
        name,
        (batch, channels, *_pair(plane)),
        _pair(kernel),
        _pair(kernel if stride is None else stride),
        _pair(padding),
        _pair(dilation),
        ceil_mode,
        frozenset(tags.split()),
    )


# "apart": windows do not overlap; "dense": they move pixel by pixel; "far": more than caches hold.
# "unpooled": also run as an unpooling.
# fmt: off
CASES = (
    _case("vgg_2x2_64_224", 64, 224, 2, "vgg apart unpooled"),
    _case("vgg_2x2_128_112", 128, 112, 2, "vgg apart unpooled"),
    _case("vgg_2x2_256_56", 256, 56, 2, "vgg apart unpooled"),
    _case("vgg_2x2_512_28", 512, 28, 2, "vgg apart unpooled"),
    _case("vgg_2x2_512_14", 512, 14, 2, "vgg apart unpooled"),
    _case("vgg_2x2_128_56_batch8", 128, 56, 2, "vgg apart unpooled", batch=8),
    _case("segnet_2x2_64_360x480", 64, (360, 480), 2, "apart far unpooled"),
    _case("unet_2x2_64_568", 64, 568, 2, "apart far unpooled"),
    _case("lenet_2x2_6_28", 6, 28, 2, "apart small unpooled"),
    _case("crnn_2x1_256_8x100", 256, (8, 100), (2, 1), "apart unpooled"),
    _case("crnn_2x2_s2x1_256_8x50", 256, (8, 50), 2, "row", stride=(2, 1), padding=(0, 1)),
    _case("apart_3x3_64_112", 64, 111, 3, "apart unpooled"),
    _case("apart_4x4_128_56", 128, 56, 4, "apart unpooled"),

    _case("resnet_3x3_s2_64_112", 64, 112, 3, "resnet strided unpooled", stride=2, padding=1),
    _case("resnet_3x3_s2_64_112_batch8", 64, 112, 3, "resnet strided far",
          stride=2, padding=1, batch=8),
    _case("strided_3x3_s2_64_160", 64, 160, 3, "strided", stride=2, padding=1),
    _case("alexnet_3x3_s2_64_55", 64, 55, 3, "alexnet strided unpooled", stride=2),
    _case("alexnet_3x3_s2_256_13", 256, 13, 3, "alexnet strided small", stride=2),
    _case("googlenet_3x3_s2_192_56", 192, 56, 3, "googlenet strided", stride=2, ceil_mode=True),
    _case("googlenet_3x3_s2_480_28", 480, 28, 3, "googlenet strided", stride=2, ceil_mode=True),
    _case("inception_3x3_s2_288_35", 288, 35, 3, "inception strided", stride=2),

    _case("googlenet_3x3_192_28", 192, 28, 3, "googlenet dense", stride=1, padding=1),
    _case("googlenet_3x3_832_7", 832, 7, 3, "googlenet dense", stride=1, padding=1),
    _case("centernet_3x3_80_128", 80, 128, 3, "dense", stride=1, padding=1),
    _case("tinyyolo_2x2_512_13", 512, 13, 2, "dense", stride=1),
    _case("yolo_5x5_512_13", 512, 13, 5, "yolo dense", stride=1, padding=2),
    _case("yolo_9x9_512_13", 512, 13, 9, "yolo dense", stride=1, padding=4),
    _case("yolo_13x13_512_13", 512, 13, 13, "yolo dense", stride=1, padding=6),
    _case("yolo_5x5_256_20", 256, 20, 5, "yolo dense", stride=1, padding=2),
    _case("yolo_13x13_256_16", 256, 16, 13, "yolo dense", stride=1, padding=6),
    _case("dense_13x13_64_76", 64, 76, 13, "dense", stride=1, padding=6),
    _case("dilated_3x3_d2_64_56", 64, 56, 3, "dilated dense", stride=1, padding=1, dilation=2),
    _case("dilated_3x3_s2_d2_64_112", 64, 112, 3, "dilated strided",
          stride=2, padding=1, dilation=2),
    _case("global_7x7_512_7", 512, 7, 7, "global small"),
    _case("odd_3x3_s2_45_37x53", 45, (37, 53), 3, "odd strided unpooled", stride=2, padding=1),
    _case("odd_2x2_17_33x31", 17, (33, 31), 2, "odd apart unpooled", ceil_mode=True),
    _case("small_2x2_16_8", 16, 8, 2, "small apart unpooled"),
)

# Small ones of sizes that no vector divides, one for each way to pool.
KINDS = (
    _case("apart", 5, (18, 37), 2, "unpooled", batch=2),
    _case("apart_odd", 19, (13, 41), 2, "unpooled", batch=2),
    _case("apart_ceil", 6, (9, 15), 2, "unpooled", batch=2, ceil_mode=True),
    _case("apart_wide", 3, (12, 50), 3, "unpooled", batch=2),
    _case("apart_four", 5, (13, 78), 4, "unpooled", batch=2),
    _case("apart_narrow", 7, (9, 14), 2, "unpooled", batch=2),
    _case("apart_tall", 4, (20, 19), (4, 1), "unpooled", batch=2),
    _case("strided", 20, (17, 39), 3, "unpooled", batch=2, stride=2, padding=1),
    _case("strided_small", 19, (3, 4), 3, "unpooled", batch=2, stride=2, padding=1),
    _case("strided_ceil", 5, (14, 36), 3, "unpooled", batch=2, stride=2, ceil_mode=True),
    _case("strided_large", 3, (31, 45), 7, "", batch=2, stride=2, padding=3),
    _case("strided_long", 2, (40, 38), 13, "", batch=2, stride=(3, 2), padding=6),
    _case("strided_far", 5, (23, 44), (2, 5), "unpooled", batch=2, stride=(5, 3), padding=(1, 2)),
    _case("dense", 18, (13, 35), 3, "unpooled", batch=2, stride=1, padding=1),
    _case("dense_narrow", 9, (7, 7), 3, "unpooled", batch=2, stride=1, padding=1),
    _case("dense_even", 4, (11, 18), 2, "unpooled", batch=2, stride=1),
    _case("dense_large", 17, (19, 22), 5, "unpooled", batch=2, stride=1, padding=2),
    _case("dense_long", 5, (16, 37), 13, "", batch=2, stride=1, padding=6),
    _case("dense_uneven", 4, (15, 40), (3, 9), "", batch=2, stride=1, padding=(1, 3)),
    _case("dilated", 18, (17, 33), 3, "", batch=2, stride=1, padding=1, dilation=2),
    _case("dilated_strided", 4, (19, 45), 3, "", batch=2, stride=2, padding=1, dilation=3),
    _case("dilated_long", 3, (31, 40), 7, "", batch=2, stride=1, padding=2, dilation=(2, 3)),
    _case("missed", 3, (3, 19), (2, 3), "", batch=2, stride=1, padding=1, dilation=(4, 2)),
    _case("whole_plane", 21, (7, 6), (7, 6), "unpooled", batch=2),
    _case("whole_plane_long", 5, (23, 37), (23, 37), "", batch=2),
    _case("whole_rows", 18, (9, 70), (7, 67), "unpooled", batch=2, stride=50),
    _case("apart_across_planes", 21, (6, 10), 2, "unpooled", batch=2),
    _case("apart_short_left", 9, (7, 11), (2, 3), "unpooled", batch=2),
    _case("one_pixel", 7, (5, 9), 1, "unpooled", batch=2),
    _case("thinned", 7, (9, 41), 1, "unpooled", batch=2, stride=(3, 2)),
)
# fmt: on

BY_NAME = {case.name: case for case in CASES}
assert len(BY_NAME) == len(CASES), "two cases share a name"


def tagged(*tags: str) -> tuple[Case, ...]:
    """The cases that carry every one of ``tags``."""
    return tuple(case for case in CASES if case.tags.issuperset(tags))
