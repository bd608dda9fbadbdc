"""Transposed convolutions of JAX's arrays on the CPU: fastcv.jax against jax.lax.conv_transpose.

Forward, the gradients by input and weight, and both together as a step of training has them, under
jit, in alternating rounds; the medians and their ratio. `python bench/jax_conv_transpose2d.py`
prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fastcv.jax

# name: N, C, H, W, K, window, stride, padding
CASES = {
    "DCGAN 4x4 -> 8x8": (1, 512, 4, 4, 256, 4, 2, 1),
    "DCGAN 16x16 -> 32x32, batch 8": (8, 128, 16, 16, 64, 4, 2, 1),
    "DCGAN 32x32 -> 64x64 RGB": (1, 64, 32, 32, 3, 4, 2, 1),
    "U-Net 28x28 -> 56x56": (1, 256, 28, 28, 128, 2, 2, 0),
    "U-Net 64x64 -> 128x128": (1, 64, 64, 64, 32, 2, 2, 0),
    "decoder 3x3 stride 2": (1, 64, 40, 40, 64, 3, 2, 1),
    "FCN-8s 8x upsampling": (1, 21, 20, 20, 21, 16, 8, 4),
    "stride 1": (1, 64, 32, 32, 64, 3, 1, 1),
}


def ours(stride: int, padding: int, size: int) -> Callable[..., Any]:
    return lambda x, w: fastcv.jax.conv_transpose2d(x, w, None, stride, padding)


def theirs(stride: int, padding: int, size: int) -> Callable[..., Any]:
    around = size - 1 - padding
    return lambda x, w: jax.lax.conv_transpose(
        x,
        w,
        (stride, stride),
        [(around, around)] * 2,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        transpose_kernel=True,
    )


def forward(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, w, g: function(x, w)


def gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, w, g: jax.vjp(function, x, w)[1](g)


def step(function: Callable[..., Any]) -> Callable[..., Any]:
    def both(x: Any, w: Any, g: Any) -> Any:
        y, pull = jax.vjp(function, x, w)
        return y, pull(g)

    return both


WAYS = {"forward": forward, "gradients": gradients, "both": step}


def seconds(function: Callable[..., Any], arrays: tuple[Any, ...], budget: float) -> float:
    """Median of single calls, as many as fit in the budget, at least three."""
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(function(*arrays))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.05, help="per measurement")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    heads = [f"{way}: JAX ms | fastcv ms | ratio" for way in WAYS]
    print("| case |", " | ".join(heads), "|")
    print("|---|" + "--:|--:|--:|" * len(WAYS))
    ratios: dict[str, list[float]] = {way: [] for way in WAYS}
    for name, (n, c, height, width, k, size, stride, padding) in CASES.items():
        x = jnp.asarray(rng.standard_normal((n, c, height, width), np.float32))
        w = jnp.asarray(rng.standard_normal((c, k, size, size), np.float32) / math.sqrt(c * size))
        pair = [f(stride, padding, size) for f in (theirs, ours)]
        g = jnp.asarray(rng.standard_normal(pair[1](x, w).shape, np.float32))
        cells = [name]
        for way, make in WAYS.items():
            functions = [jax.jit(make(function)) for function in pair]
            results = [jax.tree.leaves(function(x, w, g)) for function in functions]
            for one, other in zip(*results, strict=True):
                scale = float(jnp.abs(one).max())
                np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-4 * scale)
            rounds = [
                [seconds(function, (x, w, g), options.seconds) for function in functions]
                for _ in range(options.rounds)
            ]
            jax_s, fastcv_s = (statistics.median(times) for times in zip(*rounds, strict=True))
            ratios[way].append(jax_s / fastcv_s)
            cells += [f"{jax_s * 1e3:.3g}", f"{fastcv_s * 1e3:.3g}", f"{jax_s / fastcv_s:.1f}"]
        print("|", " | ".join(cells), "|", flush=True)
    means = [math.exp(statistics.fmean(map(math.log, column))) for column in ratios.values()]
    print("| geometric mean", "".join(f"| | | {mean:.1f} " for mean in means) + "|")


if __name__ == "__main__":
    main()
