"""Named transposed convolutions, taken from networks that people run.

``CASES`` holds every case, ``BY_NAME`` finds one. ``KINDS`` are small made-up ones, for tests that
go through every way to compute a transposed convolution. A case is named after its layer: window,
stride, input and output channels, input plane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cases import uniform

Pair = tuple[int, int]

# A reduced case costs at most this many multiply-adds, so that its float64 reference stays quick.
REDUCED_MULTIPLY_ADDS = 2**26


@dataclass(frozen=True)
class Case:
    """One transposed convolution: its shapes, its parameters, and tags to select it by."""

    name: str
    input_shape: tuple[int, int, int, int]
    filters: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    groups: int = 1
    dilation: Pair = (1, 1)
    tags: frozenset[str] = frozenset()

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.input_shape[1], self.filters // self.groups, *self.kernel)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        rows, columns = (
            (size - 1) * stride - 2 * padding + dilation * (taps - 1) + extra + 1
            for size, stride, padding, dilation, taps, extra in zip(
                self.input_shape[2:],
                self.stride,
                self.padding,
                self.dilation,
                self.kernel,
                self.output_padding,
                strict=True,
            )
        )
        return (self.input_shape[0], self.filters, rows, columns)

    @property
    def depth(self) -> int:
        """Terms in the longest sum behind an output: those of the taps that meet one phase."""
        taps = (
            -(-k * math.gcd(s, d) // s)
            for k, s, d in zip(self.kernel, self.stride, self.dilation, strict=True)
        )
        return self.input_shape[1] // self.groups * math.prod(taps)

    @property
    def multiply_adds(self) -> int:
        """Every tap for every pixel, those whose output is cut off included."""
        return math.prod(self.input_shape) * math.prod(self.weight_shape[1:])

    @property
    def flops(self) -> int:
        return 2 * self.multiply_adds

    @property
    def parameters(self) -> dict[str, Any]:
        """The keyword arguments that the op, its plan and both gradients share."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
            "groups": self.groups,
            "dilation": self.dilation,
        }

    def reduced(self) -> Case:
        """The same layer with a smaller plane, then fewer channels, for a float64 reference."""
        case = self
        while case.multiply_adds > REDUCED_MULTIPLY_ADDS:
            n, c, h, w = case.input_shape
            if min(h, w) > 8:
                case = replace(case, input_shape=(n, c, (h + 1) // 2, (w + 1) // 2))
            else:
                case = replace(
                    case,
                    input_shape=(max(1, n // 2), c // 2, h, w),
                    filters=max(1, case.filters // 2),
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
    tags: str = "",
    *,
    batch: int = 1,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: int | Pair = 1,
) -> Case:
    return Case(
        name,
        (batch, channels, *_pair(plane)),
        filters,
        _pair(kernel),
        _pair(stride),
        _pair(padding),
        _pair(output_padding),
        groups,
        _pair(dilation),
        frozenset(tags.split()),
    )


# "tiling": windows that lie side by side; "overlapping": windows that a stride lets overlap.
# fmt: off
CASES = (
    _case("unet_2x2_s2_1024_512_14", 1024, 512, 14, 2, "unet tiling", stride=2),
    _case("unet_2x2_s2_512_256_28", 512, 256, 28, 2, "unet tiling", stride=2),
    _case("unet_2x2_s2_256_128_56", 256, 128, 56, 2, "unet tiling", stride=2),
    _case("unet_2x2_s2_128_64_112", 128, 64, 112, 2, "unet tiling", stride=2),

    _case("fcn_4x4_s2_21_21_35", 21, 21, 35, 4, "fcn overlapping", stride=2),
    _case("fcn_16x16_s8_21_21_35", 21, 21, 35, 16, "fcn overlapping", stride=8),
    _case("fcn_32x32_s16_21_21_20", 21, 21, 20, 32, "fcn overlapping", stride=16),

    _case("dcgan_4x4_100_1024_1_batch16", 100, 1024, 1, 4, "dcgan batch stride1", batch=16),
    _case("dcgan_4x4_s2_1024_512_4_batch16", 1024, 512, 4, 4, "dcgan overlapping batch",
          batch=16, stride=2, padding=1),
    _case("dcgan_4x4_s2_256_128_16_batch8", 256, 128, 16, 4, "dcgan overlapping batch",
          batch=8, stride=2, padding=1),
    _case("dcgan_4x4_s2_64_3_32_batch16", 64, 3, 32, 4, "dcgan overlapping batch last",
          batch=16, stride=2, padding=1),

    _case("fsrcnn_9x9_s3_56_1_64", 56, 1, 64, 9, "fsrcnn overlapping last",
          stride=3, padding=4, output_padding=2),
    _case("fsrcnn_9x9_s4_56_1_64", 56, 1, 64, 9, "fsrcnn overlapping last",
          stride=4, padding=4, output_padding=3),

    _case("up_3x3_s2_128_64_64", 128, 64, 64, 3, "overlapping",
          stride=2, padding=1, output_padding=1),
    _case("up_4x4_s2_256_256_28", 256, 256, 28, 4, "overlapping", stride=2, padding=1),
    _case("up_5x5_s2_64_32_56", 64, 32, 56, 5, "overlapping",
          stride=2, padding=2, output_padding=1),
    _case("up_8x8_s4_64_32_40", 64, 32, 40, 8, "overlapping", stride=4, padding=2),
    _case("same_3x3_64_64_56", 64, 64, 56, 3, "stride1", padding=1),
    _case("dilated_3x3_d2_s2_32_32_40", 32, 32, 40, 3, "overlapping dilated",
          stride=2, padding=2, output_padding=1, dilation=2),
    _case("depthwise_4x4_s2_64_56", 64, 64, 56, 4, "depthwise", stride=2, padding=1, groups=64),
    _case("grouped_4x4_s2_g4_128_64_28", 128, 64, 28, 4, "grouped overlapping",
          stride=2, padding=1, groups=4),
    _case("odd_2x2_s2_45_77_37", 45, 77, 37, 2, "odd tiling", stride=2),
    _case("odd_4x4_s2_37_53_29x41", 37, 53, (29, 41), 4, "odd overlapping", stride=2, padding=1),
)

# One small case for each way to compute one, of sizes that no vector divides.
KINDS = (
    _case("stride1", 24, 40, (11, 17), 3, batch=2, padding=1),
    _case("stride1_large", 17, 21, (9, 12), 5, batch=2, padding=1),
    _case("stride1_from_a_pixel", 21, 35, 1, 4, batch=2),
    _case("stride1_depthwise", 19, 19, (9, 18), 3, batch=2, padding=1, groups=19),
    _case("tiling", 35, 27, (9, 19), 2, batch=2, stride=2),
    _case("tiling_uneven", 13, 18, (7, 10), (3, 2), batch=2, stride=(3, 2)),
    _case("tiling_wide", 5, 3, (3, 70), 2, batch=2, stride=2),
    _case("tiling_thirds", 14, 10, (5, 37), 3, batch=2, stride=3),
    _case("overlapping", 18, 22, (11, 17), 4, batch=2, stride=2, padding=1),
    _case("overlapping_3x3", 19, 33, (10, 13), 3, batch=2, stride=2, padding=1, output_padding=1),
    _case("overlapping_5x5", 9, 20, (8, 19), 5, batch=2, stride=2, padding=2,
          output_padding=(0, 1)),
    _case("overlapping_last", 14, 1, (11, 21), 9, batch=2, stride=3, padding=4, output_padding=2),
    _case("overlapping_far", 6, 7, (5, 6), 16, batch=2, stride=8, padding=3),
    _case("rows_only", 12, 17, (9, 19), 4, batch=2, stride=(2, 1), padding=1),
    _case("columns_only", 12, 17, (9, 19), 4, batch=2, stride=(1, 2), padding=(2, 1)),
    _case("gaps", 7, 20, (6, 9), 2, batch=2, stride=3, padding=(1, 0), output_padding=(0, 2)),
    _case("pointwise", 21, 18, (7, 17), 1, batch=2, stride=2, output_padding=1),
    _case("dilated", 11, 19, (8, 11), 3, batch=2, stride=2, padding=2, dilation=2),
    _case("dilated_coprime", 10, 18, (9, 8), 3, batch=2, stride=(2, 3), padding=(2, 1),
          output_padding=(1, 2), dilation=(3, 2)),
    _case("dilated_reached", 18, 17, (9, 12), 3, batch=2, stride=2, padding=(2, 1),
          output_padding=(1, 0), dilation=2),
    _case("dilated_reached_phases", 9, 21, (7, 10), 3, batch=2, stride=(4, 6), padding=(1, 5),
          output_padding=(1, 3), dilation=(2, 3)),
    # More rows and columns than a stride are appended: windows end well before the output does.
    _case("dilated_appended", 9, 17, (6, 9), 3, batch=2, stride=2, padding=1, output_padding=4,
          dilation=5),
    _case("cut_off", 8, 19, (9, 10), 3, batch=2, stride=2, padding=(5, 7)),
    _case("depthwise", 21, 21, (9, 18), 4, batch=2, stride=2, padding=1, groups=21),
    _case("depthwise_large", 9, 18, (13, 21), 5, batch=2, stride=2, padding=2, output_padding=1,
          groups=9),
    _case("depthwise_pairs", 22, 11, (7, 35), 3, batch=2, stride=2, padding=(0, 1), groups=11),
    _case("multiplier", 6, 18, (9, 11), 3, batch=2, stride=2, padding=1, output_padding=1,
          groups=6),
    _case("grouped", 24, 36, (7, 13), 4, batch=2, stride=2, padding=1, groups=6),
    _case("small_plane", 40, 31, (5, 6), 4, batch=3, stride=2, padding=1),
    _case("small_tiling", 133, 32, 5, 2, batch=3, stride=2),
    _case("small_uneven", 47, 61, (6, 5), (5, 3), batch=2, stride=(3, 2), padding=(2, 0),
          output_padding=(1, 0)),
    _case("small_grouped", 90, 60, (3, 5), 3, batch=3, stride=2, padding=1, groups=2),
    _case("small_dilated", 35, 30, (4, 5), 4, batch=2, stride=3, padding=2, dilation=2),
    _case("a_row", 18, 9, (1, 23), (1, 4), batch=2, stride=(1, 2), padding=(0, 1)),
    _case("a_column", 18, 9, (23, 1), (4, 1), batch=2, stride=(2, 1), padding=(1, 0)),
)
# fmt: on

BY_NAME = {case.name: case for case in CASES}
assert len(BY_NAME) == len(CASES), "two cases share a name"
