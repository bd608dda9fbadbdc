"""Named images whose Gram matrices people take: layers of networks, mostly for style transfer.

``CASES`` holds every case. ``KINDS`` are small made-up ones, for tests that go through every way to
compute a Gram matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cases import uniform


@dataclass(frozen=True)
class Case:
    """A batch of images: its shape, its memory order, and tags to select it by."""

    name: str
    input_shape: tuple[int, int, int, int]
    tags: frozenset[str] = frozenset()

    @property
    def channels_last(self) -> bool:
        return "channels-last" in self.tags

    @property
    def output_shape(self) -> tuple[int, int, int]:
        batch, channels, _, _ = self.input_shape
        return batch, channels, channels

    @property
    def pixels(self) -> int:
        return math.prod(self.input_shape[2:])

    @property
    def flops(self) -> int:
        """Operations of both triangles."""
        return 2 * math.prod(self.output_shape) * self.pixels

    def arrays(
        self, dtype: np.typing.DTypeLike = np.float32, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images, and gradients of their Gram matrices, uniform in [-1, 1)."""
        rng = np.random.default_rng(seed)
        x = uniform(rng, self.input_shape, dtype)
        grad = uniform(rng, self.output_shape, dtype)
        if self.channels_last:
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        return x, grad


def _case(
    name: str, channels: int, plane: int | tuple[int, int], tags: str = "", batch: int = 1
) -> Case:
    height, width = plane if isinstance(plane, tuple) else (plane, plane)
    return Case(name, (batch, channels, height, width), frozenset(tags.split()))


# fmt: off
CASES = (
    _case("vgg_64_256", 64, 256, "vgg"),
    _case("vgg_128_128", 128, 128, "vgg"),
    _case("vgg_256_64", 256, 64, "vgg"),
    _case("vgg_512_32", 512, 32, "vgg"),
    _case("vgg_512_16", 512, 16, "vgg"),
    _case("vgg_64_512", 64, 512, "vgg"),
    _case("vgg_64_112_batch4", 64, 112, "vgg batch", batch=4),
    _case("vgg_256_64_cl", 256, 64, "vgg channels-last"),
    _case("vgg_64_256_cl", 64, 256, "vgg channels-last"),
    _case("vgg_512_16_cl", 512, 16, "vgg channels-last"),
    _case("batch8_96_24", 96, 24, "batch", batch=8),
    _case("batch4_48_100", 48, 100, "batch", batch=4),
    _case("batch4_48_100_cl", 48, 100, "batch channels-last", batch=4),
    _case("batch3_256_14", 256, 14, "batch", batch=3),
    _case("batch16_64_8", 64, 8, "batch small", batch=16),
    _case("resnet_512_7", 512, 7, "resnet"),
    _case("resnet_2048_7", 2048, 7, "resnet"),
    _case("resnet_512_7_cl", 512, 7, "resnet channels-last"),
    _case("image_3_224", 3, 224, "image"),
    _case("image_3_224_cl", 3, 224, "image channels-last"),
    _case("squeezenet_16_111_cl", 16, 111, "odd channels-last"),
    _case("squeezenet_16_111", 16, 111, "odd"),
    _case("squeezenet_192_27", 192, 27, "odd"),
    _case("odd_17_33x31", 17, (33, 31), "odd small"),
    _case("odd_37_29", 37, 29, "odd small"),
    _case("odd_37_29_cl", 37, 29, "odd small channels-last"),
    _case("odd_75_57", 75, 57, "odd"),
    _case("odd_100_56_batch2", 100, 56, "odd batch", batch=2),
    _case("odd_333_19", 333, 19, "odd"),
    _case("small_32_16", 32, 16, "small"),
    _case("small_16_8", 16, 8, "small"),
    _case("small_8_8", 8, 8, "small"),
    _case("small_64_4", 64, 4, "small"),
)
# fmt: on

# Dot tiles, panels, one part and several, of sizes that no vector divides.
KINDS = (
    _case("dots", 13, (33, 29), batch=3),
    _case("dots_parts", 22, (71, 67), batch=2),
    _case("panels", 67, (5, 11), batch=3),
    _case("panels_blocks", 131, (19, 31), batch=2),
    _case("channels_last", 38, (23, 17), "channels-last", batch=3),
    _case("channels_last_parts", 9, (83, 61), "channels-last", batch=2),
    _case("interleaved", 3, (41, 37), "channels-last", batch=2),
    _case("interleaved_parts", 2, (83, 61), "channels-last", batch=2),
    _case("one_channel", 1, (9, 7), batch=2),
    _case("one_pixel", 21, 1, batch=3),
    _case("column", 19, (53, 1), batch=2),
)
