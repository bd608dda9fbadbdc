"""What a call costs more with torch's tensors than with NumPy's arrays of the same memory.

Arrays are so small that there is nothing to compute, and no gradient is wanted. The two calls take
turns; the figure is the difference of their medians, on one thread. Run as
`python bench/torch_call.py`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import fastcv
import fastcv.torch

ROUNDS, CALLS = 15, 2000


def microseconds(call: Callable[[], Any]) -> float:
    """Time one round."""
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def compare(name: str, *arrays: np.ndarray, **keywords: Any) -> tuple[float, float]:
    """Return the medians of NumPy's call and torch's."""
    tensors = [torch.from_numpy(array) for array in arrays]
    ours, torchs = getattr(fastcv, name), getattr(fastcv.torch, name)
    rounds: tuple[list[float], list[float]] = [], []
    for _ in range(ROUNDS):
        rounds[0].append(microseconds(lambda: ours(*arrays, **keywords)))
        rounds[1].append(microseconds(lambda: torchs(*tensors, **keywords)))
    return statistics.median(rounds[0]), statistics.median(rounds[1])


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    image, window = rng.random((1, 1, 4, 4), np.float32), rng.random((1, 1, 3, 3), np.float32)
    pooled, indices = fastcv.max_pool2d(image, 2, return_indices=True)
    tokens = rng.random((1, 1, 4, 16), np.float32)
    cases: dict[str, tuple[tuple[np.ndarray, ...], dict[str, Any]]] = {
        "conv2d": ((image, window), {}),
        "conv_transpose2d": ((image, window), {}),
        "max_pool2d": ((image,), {"kernel_size": 2}),
        "max_unpool2d": ((pooled, indices), {"kernel_size": 2}),
        "gram_matrix": ((image,), {}),
        "scaled_dot_product_attention": ((tokens,) * 3, {}),
        "linear_sum_assignment": ((image[0, 0],), {}),
    }
    print("| function | NumPy us | torch us | more |\n|---|--:|--:|--:|")
    for name, (arrays, keywords) in cases.items():
        plain, torchs = compare(name, *arrays, **keywords)
        print(f"| `{name}` | {plain:.1f} | {torchs:.1f} | {torchs - plain:.1f} |")


if __name__ == "__main__":
    main()
