"""Named attentions of networks that people run, and small kinds for each way to mask.

Shapes: query (N, H, L, E), key (N, kv_heads, S, E), value (N, kv_heads, S, F).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cases import uniform

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One attention: its shapes, the shape of its mask, its options."""

    name: str
    query_shape: tuple[int, int, int, int]
    keys: int
    value_columns: int
    kv_heads: int
    mask_shape: Shape | None = None
    padded: bool = False  # a boolean mask (N, 1, 1, S) that hides the last keys of each sample
    causal: bool = False
    tags: frozenset[str] = frozenset()

    @property
    def key_shape(self) -> Shape:
        return (self.query_shape[0], self.kv_heads, self.keys, self.query_shape[3])

    @property
    def value_shape(self) -> Shape:
        return (*self.key_shape[:3], self.value_columns)

    @property
    def output_shape(self) -> Shape:
        return (*self.query_shape[:3], self.value_columns)

    @property
    def scores(self) -> int:
        """Scores that are not hidden by causality."""
        samples, heads, queries, _ = self.query_shape
        each = queries * self.keys
        if self.causal:
            each = sum(min(row + 1, self.keys) for row in range(queries))
        return samples * heads * each

    @property
    def flops(self) -> int:
        """Operations of the forward pass."""
        return 2 * self.scores * (self.query_shape[3] + self.value_columns)

    @property
    def options(self) -> dict[str, Any]:
        return {"is_causal": self.causal, "enable_gqa": self.kv_heads != self.query_shape[1]}

    def reduced(self) -> Case:
        """The same, with at most 4 heads in all, so that its float64 reference stays quick."""
        samples, heads, queries, columns = self.query_shape
        if samples * heads * queries * self.keys <= 2**22:
            return self
        group = heads // self.kv_heads
        mask = self.mask_shape
        if mask is not None:
            mask = (min(mask[0], 1), min(mask[1], group), *mask[2:])
        return replace(self, query_shape=(1, group, queries, columns), kv_heads=1, mask_shape=mask)

    def arrays(
        self, dtype: np.typing.DTypeLike = np.float32, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Query, key, value, mask."""
        rng = np.random.default_rng(seed)
        query, key, value = (
            uniform(rng, shape, dtype) * np.dtype(dtype).type(2)
            for shape in (self.query_shape, self.key_shape, self.value_shape)
        )
        mask = None
        if self.mask_shape is not None:
            mask = uniform(rng, self.mask_shape, dtype)
        if self.padded:
            lengths = rng.integers(self.keys // 3, self.keys + 1, self.query_shape[0])
            mask = (np.arange(self.keys) < lengths[:, None])[:, None, None]
        return query, key, value, mask


def _case(
    name: str,
    samples: int,
    heads: int,
    queries: int,
    keys: int,
    columns: int,
    tags: str,
    *,
    value_columns: int | None = None,
    kv_heads: int | None = None,
    bias: Shape | None = None,
    padded: bool = False,
    causal: bool = False,
) -> Case:
    return Case(
        name,
        (samples, heads, queries, columns),
        keys,
        columns if value_columns is None else value_columns,
        kv_heads or heads,
        None if bias is None else (*bias, queries, keys),
        padded,
        causal,
        frozenset(tags.split()),
    )


CASES = (
    _case("vit_b_197", 1, 12, 197, 197, 64, "self"),
    _case("vit_l_257", 1, 16, 257, 257, 64, "self"),
    _case("vit_s_197_x8", 8, 6, 197, 197, 64, "self"),
    _case("dino_s8_785", 1, 6, 785, 785, 64, "self"),
    _case("detr_encoder_850", 1, 8, 850, 850, 32, "self"),
    _case("detr_encoder_1050", 1, 8, 1050, 1050, 32, "self"),
    _case("detr_cross_100_850", 1, 8, 100, 850, 32, "cross"),
    _case("detr_cross_300_1333", 1, 8, 300, 1333, 32, "cross"),
    _case("segformer_b0_4096_256", 1, 1, 4096, 256, 32, "cross"),
    _case("segformer_b2_4096_256", 1, 1, 4096, 256, 64, "cross"),
    _case("segformer_b2_1024_256", 1, 5, 1024, 256, 64, "cross"),
    _case("swin_49_64_windows", 64, 4, 49, 49, 32, "window", bias=(1, 4)),
    _case("swin_49_16_windows", 16, 12, 49, 49, 32, "window", bias=(1, 12)),
    _case("swin_49_shifted", 64, 3, 49, 49, 32, "window", bias=(64, 3)),
    _case("swin_144_16_windows", 16, 6, 144, 144, 32, "window", bias=(1, 6)),
    _case("swin_64_windows_of_64", 64, 6, 64, 64, 32, "window", bias=(1, 6)),
    _case("unet_4096_40", 1, 8, 4096, 4096, 40, "self long"),
    _case("unet_1024_80", 2, 8, 1024, 1024, 80, "self"),
    _case("unet_cross_4096_77", 2, 8, 4096, 77, 40, "cross"),
    _case("context_2304_256", 1, 1, 2304, 2304, 256, "self"),
    _case("context_2304_512", 1, 1, 2304, 2304, 512, "self"),
    _case("context_1600_64_512", 1, 1, 1600, 1600, 64, "self", value_columns=512),
    _case("causal_1024", 1, 8, 1024, 1024, 64, "causal", causal=True),
    _case("causal_2048", 1, 8, 2048, 2048, 64, "causal", causal=True),
    _case("decode_2048", 1, 16, 1, 2048, 64, "decode"),
    _case("decode_4096", 1, 16, 1, 4096, 128, "decode"),
    _case("decode_gqa_2048", 1, 32, 1, 2048, 128, "decode", kv_heads=8),
    _case("clip_text_77", 4, 8, 77, 77, 64, "causal", causal=True),
    _case("text_77_padded", 4, 12, 77, 77, 64, "padded", padded=True),
    _case("bert_384_padded", 2, 12, 384, 384, 64, "padded", padded=True),
)
BY_NAME = {case.name: case for case in CASES}
assert len(BY_NAME) == len(CASES)


def tagged(tag: str) -> tuple[Case, ...]:
    """Cases that have this tag."""
    return tuple(case for case in CASES if tag in case.tags)
