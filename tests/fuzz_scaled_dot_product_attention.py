"""Random attentions against the reference, over every option and memory layout.

    python tests/fuzz_scaled_dot_product_attention.py                      until something fails
    python tests/fuzz_scaled_dot_product_attention.py --seconds 60         for a minute
    python tests/fuzz_scaled_dot_product_attention.py --seed 7 --first 40  or from a later example

A failure prints the example as a call that repeats it. The suite runs the first examples of seed 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fuzzing
import numpy as np
import test_scaled_dot_product_attention as forward
import test_scaled_dot_product_attention_gradients as backward
from cases import uniform
from layouts import LAYOUTS

import fastcv

# An example has no more scores than this, so that hundreds take seconds.
SCORES = 2**15


@dataclass(frozen=True)
class Example:
    """One attention, with all that it takes to draw its arrays and make its calls."""

    seed: int
    dtype: str
    batch: tuple[int, ...]
    kv_heads: int
    group: int
    queries: int
    keys: int
    columns: int
    value_columns: int
    mask: str | None  # a kind of test_scaled_dot_product_attention
    is_causal: bool
    causal_alignment: str
    softcap: float
    window: tuple[int, int] | None
    padded: bool
    dropout_p: float
    threads: int
    layouts: tuple[str, str, str, str]  # of query, key, value, gradient


def draw(seed: int) -> Example:
    """The example that belongs to this seed."""
    rng = np.random.default_rng(seed)

    def pick(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    def size(large: int) -> int:
        return int(rng.integers(1, pick(2, 9, 20, 70, large) + 1))

    while True:
        example = Example(
            seed=seed,
            dtype=pick("float32", "float32", "float64"),
            batch=(pick(1, 1, 2, 3),),
            kv_heads=pick(1, 1, 2, 3),
            group=pick(1, 1, 1, 2, 3),
            queries=size(300),
            keys=size(1200),
            columns=size(130),
            value_columns=size(130),
            mask=pick(None, None, "bool", "float", "row", "key", "head"),
            is_causal=pick(False, False, True),
            causal_alignment=pick("top_left", "bottom_right"),
            softcap=pick(0.0, 0.0, 2.0),
            window=pick(None, None, (size(70), -1), (size(70), size(70) - 1), (-1, size(70))),
            padded=pick(False, False, True),
            dropout_p=pick(0.0, 0.0, 0.25),
            threads=pick(1, 2, 3, 7),
            layouts=tuple(pick("contiguous", pick(*LAYOUTS)) for _ in range(4)),
        )
        heads = example.batch[0] * example.kv_heads * example.group
        if heads * example.queries * example.keys <= SCORES:
            return example


def check(example: Example) -> None:
    """Forward and gradient on this example; AssertionError where one is wrong."""
    rng = np.random.default_rng([example.seed, 1])
    dtype = np.dtype(example.dtype)
    heads = example.kv_heads * example.group
    shapes = (
        (*example.batch, heads, example.queries, example.columns),
        (*example.batch, example.kv_heads, example.keys, example.columns),
        (*example.batch, example.kv_heads, example.keys, example.value_columns),
        (*example.batch, heads, example.queries, example.value_columns),
    )
    query, key, value, grad = (
        LAYOUTS[layout](shape, dtype).filled(uniform(rng, shape, dtype))
        for shape, layout in zip(shapes, example.layouts, strict=True)
    )
    full = (*example.batch, heads, example.queries, example.keys)
    mask = forward.mask_of(rng, example.mask, full, dtype)
    options: dict[str, Any] = {
        "is_causal": example.is_causal,
        "causal_alignment": example.causal_alignment,
        "softcap": example.softcap,
        "window": example.window,
        "dropout_p": example.dropout_p,
        "seed": example.seed,
        "enable_gqa": example.group > 1,
    }
    if example.padded:
        options["kv_lengths"] = rng.integers(0, example.keys + 1, example.batch)
    fastcv.set_num_threads(example.threads)
    forward.check(query, key, value, mask, **options)
    backward.check(grad, query, key, value, mask, **options)


if __name__ == "__main__":
    fuzzing.main(draw, check, __doc__ or "")
