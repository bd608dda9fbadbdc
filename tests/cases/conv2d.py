"""Named convolutions, taken from networks that people run.

``CASES`` holds every case, ``BY_NAME`` finds one, ``tagged("depthwise")`` selects some. ``KINDS``
are small made-up ones, for tests that go through every way to compute a convolution. A case is
named after its layer; sizes follow the library's letters: N batch, C input channels, K filters,
R x S window, H x W input, P x Q output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cases import uniform

Pair = tuple[int, int]
Padding = int | Pair | tuple[Pair, Pair]

# A reduced case costs at most this many multiply-adds, so that its float64 reference stays quick.
REDUCED_MULTIPLY_ADDS = 2**27


@dataclass(frozen=True)
class Case:
    """One convolution: its shapes, its parameters, and tags to select it by."""

    name: str
    input_shape: tuple[int, int, int, int]
    filters: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1
    tags: frozenset[str] = frozenset()

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.filters, self.input_shape[1] // self.groups, *self.kernel)

    @property
    def window(self) -> Pair:
        """Rows and columns that the dilated window spans."""
        rows, columns = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        return rows, columns

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        rows, columns = (
            (size + sum(padding) - window) // stride + 1
            for size, padding, window, stride in zip(
                self.input_shape[2:], self.padding, self.window, self.stride, strict=True
            )
        )
        return (self.input_shape[0], self.filters, rows, columns)

    @property
    def depth(self) -> int:
        """Terms in the sum behind one output: C / groups * R * S."""
        return math.prod(self.weight_shape[1:])

    @property
    def multiply_adds(self) -> int:
        return math.prod(self.output_shape) * self.depth

    @property
    def flops(self) -> int:
        """Operations of the direct convolution, taps that fall on the padding included."""
        return 2 * self.multiply_adds

    @property
    def parameters(self) -> dict[str, Any]:
        """The keyword arguments that ``conv2d``, ``Conv2d`` and both gradients share."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def reduced(self) -> Case:
        """The same layer, small enough for a float64 reference.

        The plane is halved first, as long as windows keep room to move in it, then the channels
        (and with them the groups). Window, stride, padding and dilation stay as they are.
        """
        case = self
        while case.multiply_adds > REDUCED_MULTIPLY_ADDS:
            n, c, h, w = case.input_shape
            halves = ((h + 1) // 2, (w + 1) // 2)
            room = (
                half + before >= window + 2 * stride
                for half, (before, _), window, stride in zip(
                    halves, case.padding, case.window, case.stride, strict=True
                )
            )
            if all(room):
                case = replace(case, input_shape=(n, c, *halves))
            else:
                case = replace(
                    case,
                    input_shape=(n, c // 2, h, w),
                    filters=case.filters // 2,
                    groups=max(1, case.groups // 2),
                )
        return case

    def arrays(
        self, dtype: np.typing.DTypeLike = np.float32, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Input, weight and bias, uniform in [-1, 1), the same for the same seed."""
        rng = np.random.default_rng(seed)
        return (
            uniform(rng, self.input_shape, dtype),
            uniform(rng, self.weight_shape, dtype),
            uniform(rng, (self.filters,), dtype),
        )


def _pair(value: int | Pair) -> Pair:
    return value if isinstance(value, tuple) else (value, value)


def _case(
    name: str,
    channels: int,
    filters: int,
    plane: int | Pair,
    kernel: int | Pair,
    tags: str,
    *,
    batch: int = 1,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Case:
    top, left = _pair(padding)
    return Case(
        name,
        (batch, channels, *_pair(plane)),
        filters,
        _pair(kernel),
        _pair(stride),
        ((top, top), (left, left)),
        _pair(dilation),
        groups,
        frozenset(tags.split()),
    )


def _depthwise(
    name: str,
    channels: int,
    plane: int | Pair,
    kernel: int | Pair,
    tags: str,
    *,
    multiplier: int = 1,
    **parameters: Any,
) -> Case:
    return _case(
        name,
        channels,
        channels * multiplier,
        plane,
        kernel,
        f"depthwise {tags}",
        groups=channels,
        **parameters,
    )


# "pointwise": 1x1; "first": an image's few channels come in; "last": few filters go out.
# fmt: off
CASES = (
    _case("resnet_7x7_s2_3_64_224", 3, 64, 224, 7, "resnet first strided", stride=2, padding=3),
    _case("resnet_3x3_64_56", 64, 64, 56, 3, "resnet 3x3", padding=1),
    _case("resnet_3x3_128_28", 128, 128, 28, 3, "resnet 3x3", padding=1),
    _case("resnet_3x3_256_14", 256, 256, 14, 3, "resnet 3x3", padding=1),
    _case("resnet_3x3_512_7", 512, 512, 7, 3, "resnet 3x3", padding=1),
    _case("resnet_3x3_s2_128_56", 128, 128, 56, 3, "resnet strided", stride=2, padding=1),
    _case("resnet_3x3_s2_64_128_56", 64, 128, 56, 3, "resnet strided", stride=2, padding=1),
    _case("resnet_1x1_64_256_56", 64, 256, 56, 1, "resnet pointwise"),
    _case("resnet_1x1_256_64_56", 256, 64, 56, 1, "resnet pointwise"),
    _case("resnet_1x1_1024_256_14", 1024, 256, 14, 1, "resnet pointwise"),
    _case("resnet_1x1_512_2048_7", 512, 2048, 7, 1, "resnet pointwise"),
    _case("resnet_1x1_s2_256_512_56", 256, 512, 56, 1, "resnet pointwise strided", stride=2),
    _case("resnet_3x3_64_56_batch8", 64, 64, 56, 3, "resnet 3x3 batch", batch=8, padding=1),
    _case("resnet_3x3_512_7_batch8", 512, 512, 7, 3, "resnet 3x3 batch", batch=8, padding=1),

    _case("vgg_3x3_3_64_224", 3, 64, 224, 3, "vgg first", padding=1),
    _case("vgg_3x3_64_224", 64, 64, 224, 3, "vgg 3x3", padding=1),
    _case("vgg_3x3_256_56", 256, 256, 56, 3, "vgg 3x3", padding=1),
    _case("vgg_3x3_512_28", 512, 512, 28, 3, "vgg 3x3", padding=1),
    _case("vgg_3x3_512_14", 512, 512, 14, 3, "vgg 3x3", padding=1),

    _case("mobilenet_3x3_s2_3_32_224", 3, 32, 224, 3, "mobilenet first strided",
          stride=2, padding=1),
    _depthwise("mobilenet_dw3x3_144_56", 144, 56, 3, "mobilenet", padding=1),
    _depthwise("mobilenet_dw3x3_s2_96_112", 96, 112, 3, "mobilenet strided", stride=2, padding=1),
    _depthwise("mobilenet_dw3x3_960_7", 960, 7, 3, "mobilenet", padding=1),
    _depthwise("mobilenet_dw5x5_s2_120_28", 120, 28, 5, "mobilenet strided", stride=2, padding=2),
    _case("mobilenet_1x1_96_24_56", 96, 24, 56, 1, "mobilenet pointwise"),
    _case("mobilenet_1x1_24_144_56", 24, 144, 56, 1, "mobilenet pointwise"),
    _case("mobilenet_1x1_960_160_7", 960, 160, 7, 1, "mobilenet pointwise"),

    _case("convnext_4x4_s4_3_96_224", 3, 96, 224, 4, "convnext first strided", stride=4),
    _case("convnext_2x2_s2_96_192_56", 96, 192, 56, 2, "convnext strided", stride=2),
    _depthwise("convnext_dw7x7_96_56", 96, 56, 7, "convnext", padding=3),
    _depthwise("convnext_dw7x7_384_14", 384, 14, 7, "convnext", padding=3),
    _case("vit_16x16_s16_3_768_224", 3, 768, 224, 16, "vit first strided", stride=16),
    _case("alexnet_11x11_s4_3_64_224", 3, 64, 224, 11, "alexnet first strided",
          stride=4, padding=2),
    _case("alexnet_5x5_64_192_27", 64, 192, 27, 5, "alexnet large", padding=2),

    _case("deeplab_3x3_d6_512_256_33", 512, 256, 33, 3, "deeplab dilated", padding=6, dilation=6),
    _case("deeplab_3x3_d12_512_256_33", 512, 256, 33, 3, "deeplab dilated",
          padding=12, dilation=12),
    _case("deeplab_3x3_d18_512_256_33", 512, 256, 33, 3, "deeplab dilated",
          padding=18, dilation=18),
    _case("deeplab_3x3_d24_512_256_33", 512, 256, 33, 3, "deeplab dilated",
          padding=24, dilation=24),
    _case("deeplab_3x3_d12_512_256_65", 512, 256, 65, 3, "deeplab dilated",
          padding=12, dilation=12),
    _case("deeplab_3x3_d24_512_256_65", 512, 256, 65, 3, "deeplab dilated",
          padding=24, dilation=24),
    _case("dilated_3x3_d2_256_28", 256, 256, 28, 3, "dilated", padding=2, dilation=2),
    _case("dilated_3x3_d4_64_56", 64, 64, 56, 3, "dilated", padding=4, dilation=4),
    _depthwise("dilated_dw3x3_d12_256_33", 256, 33, 3, "dilated", padding=12, dilation=12),

    _case("unet_3x3_1_64_188", 1, 64, 188, 3, "unet first"),
    _case("unet_3x3_64_128", 64, 64, 128, 3, "unet 3x3"),
    _case("unet_3x3_128_64", 128, 128, 64, 3, "unet 3x3"),
    _case("unet_3x3_256_128_52", 256, 128, 52, 3, "unet 3x3"),
    _case("unet_1x1_64_2_100", 64, 2, 100, 1, "unet pointwise last"),

    _case("superres_9x9_1_64_128", 1, 64, 128, 9, "superres first large", padding=4),
    _case("superres_5x5_64_32_128", 64, 32, 128, 5, "superres large", padding=2),
    _case("superres_5x5_32_64_64", 32, 64, 64, 5, "superres large", padding=2),
    _case("superres_9x9_64_3_128", 64, 3, 128, 9, "superres last large", padding=4),
    _case("superres_3x3_64_2_128", 64, 2, 128, 3, "superres last", padding=1),
    _case("superres_3x3_32_112", 32, 32, 112, 3, "superres 3x3", padding=1),
    _case("superres_3x3_16_112", 16, 16, 112, 3, "superres 3x3", padding=1),

    _case("lenet_5x5_1_6_28", 1, 6, 28, 5, "lenet first small", padding=2),
    _case("lenet_5x5_6_16_14", 6, 16, 14, 5, "lenet small"),
    _case("small_3x3_8_16", 8, 8, 16, 3, "small", padding=1),
    _case("small_3x3_16_8", 16, 16, 8, 3, "small", padding=1),
    _case("small_1x1_4_4", 4, 4, 4, 1, "small pointwise"),
    _case("odd_3x3_45_77_37", 45, 77, 37, 3, "odd", padding=1),
    _case("odd_3x3_17_33_19", 17, 33, 19, 3, "odd", padding=1),
    _case("odd_3x3_7_5_11", 7, 5, 11, 3, "odd small", padding=1),
    _case("odd_5x5_13_29_31x23", 13, 29, (31, 23), 5, "odd large", padding=2),
    _case("odd_1x1_37_53_29", 37, 53, 29, 1, "odd pointwise"),
    _case("odd_3x3_s2_31_43_41", 31, 43, 41, 3, "odd strided", stride=2, padding=1),
    _case("odd_2x3_s3x2_19_23_17x29", 19, 23, (17, 29), (2, 3), "odd strided", stride=(3, 2)),

    _case("grouped_3x3_g32_128_56", 128, 128, 56, 3, "grouped", padding=1, groups=32),
    _case("grouped_3x3_g16_64_56", 64, 64, 56, 3, "grouped", padding=1, groups=16),
    _case("grouped_3x3_g8_256_28", 256, 256, 28, 3, "grouped", padding=1, groups=8),
    _case("grouped_3x3_s2_g32_128_56", 128, 128, 56, 3, "grouped strided",
          stride=2, padding=1, groups=32),
    _case("grouped_1x1_g4_240_28", 240, 240, 28, 1, "grouped pointwise", groups=4),
    _depthwise("multiplier2_dw3x3_32_56", 32, 56, 3, "multiplier", multiplier=2, padding=1),
    _depthwise("multiplier3_dw5x5_24_28", 24, 28, 5, "multiplier", multiplier=3, padding=2),

    _case("strided_5x5_s2_32_64_64", 32, 64, 64, 5, "strided large", stride=2, padding=2),
    _case("row_1x7_128_17", 128, 128, 17, (1, 7), "separated", padding=(0, 3)),
    _case("column_7x1_128_17", 128, 128, 17, (7, 1), "separated", padding=(3, 0)),
    _case("row_1x3_64_35", 64, 64, 35, (1, 3), "separated", padding=(0, 1)),
)

# One small case for each way that a convolution may be computed, of sizes that no vector divides.
KINDS = (
    _case("winograd", 24, 40, (13, 18), 3, "", batch=2, padding=1),
    _case("winograd_valid", 17, 35, (9, 11), 3, "", batch=2),
    _case("winograd_batch", 18, 34, (7, 5), 3, "", batch=11, padding=1),
    _case("winograd_dilated", 20, 36, (17, 14), 3, "", batch=2, padding=3, dilation=3),
    _case("winograd_whole_3", 22, 38, (14, 16), 3, "", batch=2, padding=6, dilation=6),
    _case("winograd_whole_2", 19, 36, (13, 11), 3, "", batch=2, padding=(7, 8), dilation=(7, 8)),
    _case("winograd_whole_mixed", 18, 34, (5, 14), 3, "", batch=2, padding=(4, 5),
          dilation=(4, 5)),
    _case("winograd_grouped", 40, 70, (10, 9), 3, "", batch=2, padding=1, groups=2),
    _case("winograd_large", 17, 35, (13, 12), 5, "", batch=2, padding=2),
    _case("winograd_strided", 18, 37, (17, 19), 5, "", batch=2, stride=2, padding=2),
    _case("winograd_parts", 20, 33, (15, 11), 7, "", batch=2, padding=3),
    _case("winograd_parts_dilated", 19, 34, (9, 26), (1, 7), "", batch=2, padding=(0, 6),
          dilation=2),
    _case("clipped", 26, 35, (19, 16), 3, "", batch=2, padding=(14, 13), dilation=(15, 12)),
    _case("clipped_strided", 14, 40, (25, 17), (3, 5), "", batch=2, stride=(2, 1),
          padding=(9, 10), dilation=(9, 5)),
    _case("channel_lanes_two_rows", 50, 70, (14, 13), 3, "", batch=2, stride=2, padding=1),
    _case("channel_lanes_three_columns", 40, 70, (10, 6), 3, "", batch=2, stride=2, padding=1),
    _case("channel_lanes_few_filters", 60, 7, (14, 13), 3, "", batch=2, stride=2, padding=1),
    _case("channel_lanes_pitch", 128, 37, (9, 35), 3, "", batch=2, stride=2, padding=(1, 0)),
    _case("channel_lanes_dilated", 24, 66, (15, 13), 3, "", batch=2, stride=2, padding=2,
          dilation=2),
    _case("strided_gaps", 33, 34, (17, 20), 2, "", batch=2, stride=(3, 4)),
    _case("pointwise_panels", 70, 67, (9, 13), 1, "", batch=2),
    _case("few_channels", 3, 21, (15, 19), 3, "", batch=2, padding=1),
    _case("pointwise", 35, 27, (9, 13), 1, "", batch=2),
    _case("pointwise_strided", 19, 34, (11, 12), 1, "", batch=2, stride=2),
    _case("pointwise_padded", 6, 18, (7, 5), 1, "", batch=2, padding=1),
    _case("strided", 18, 22, (15, 17), 3, "", batch=2, stride=2, padding=1),
    _case("strided_deep", 20, 40, 9, 4, "", batch=3, stride=2, padding=1),
    _case("strided_dilated", 9, 20, (19, 21), 3, "", batch=2, stride=2, padding=2, dilation=2),
    _case("first", 3, 20, (29, 31), 7, "", batch=2, stride=2, padding=3),
    _case("patch", 3, 26, (24, 28), 4, "", batch=2, stride=4),
    _case("large", 9, 33, (13, 11), 5, "", batch=2, padding=2),
    _case("last", 17, 3, (14, 19), 9, "", batch=2, padding=4),
    _case("row", 13, 19, (7, 23), (1, 7), "", batch=2, padding=(0, 3)),
    _case("column", 13, 19, (23, 7), (7, 1), "", batch=2, padding=(3, 0)),
    _case("whole_plane", 21, 18, (7, 6), (7, 6), "", batch=2),
    _depthwise("depthwise", 21, (13, 18), 3, "", batch=2, padding=1),
    _depthwise("depthwise_strided", 19, (15, 35), 5, "", batch=2, stride=2, padding=2),
    _depthwise("depthwise_dilated", 18, (17, 21), 3, "", batch=2, padding=5, dilation=5),
    _depthwise("depthwise_large", 17, (14, 15), 7, "", batch=2, padding=3),
    _depthwise("depthwise_wide", 5, (21, 53), 3, "", batch=2, padding=1),
    _depthwise("depthwise_narrow", 35, 7, 3, "", batch=2, padding=1),
    _depthwise("depthwise_window", 7, (12, 21), (2, 5), "", batch=2, padding=(1, 2)),
    _depthwise("multiplier", 11, (12, 13), 3, "", multiplier=3, batch=2, padding=1),
    _case("grouped", 24, 24, (11, 13), 3, "", batch=2, padding=1, groups=6),
    _case("grouped_strided", 18, 36, (12, 17), 3, "", batch=2, stride=2, padding=1, groups=6),
    _case("grouped_pointwise", 20, 15, (9, 11), 1, "", batch=2, groups=5),
)
# fmt: on

BY_NAME = {case.name: case for case in CASES}
assert len(BY_NAME) == len(CASES), "two cases share a name"


def tagged(*tags: str) -> tuple[Case, ...]:
    """The cases that carry every one of ``tags``."""
    return tuple(case for case in CASES if case.tags.issuperset(tags))
