"""What a call costs more with torch's tensors than with NumPy's arrays of the same memory.

Arrays are so small that there is nothing to compute, and no gradient is wanted. The two calls take
turns; the figures are the medians of rounds, and of the rounds' differences, on one thread. Run as
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


def compare(name: str, *arrays: np.ndarray, **keywords: Any) -> tuple[float, float, float]:
    """Return what NumPy's call, torch's and the difference take."""
    tensors = [torch.from_numpy(array) for array in arrays]
    ours, torchs = getattr(fastcv, name), getattr(fastcv.torch, name)
    plain, with_torch = [], []
    for _ in range(ROUNDS):
        plain.append(microseconds(lambda: ours(*arrays, **keywords)))
        with_torch.append(microseconds(lambda: torchs(*tensors, **keywords)))
    more = [late - early for early, late in zip(plain, with_torch, strict=True)]
    return statistics.median(plain), statistics.median(with_torch), statistics.median(more)


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
        "linear_sum_assignment_batch": ((image[0],), {}),
    }
    print("| function | NumPy us | torch us | more |\n|---|--:|--:|--:|")
    for name, (arrays, keywords) in cases.items():
        times = " | ".join(f"{time:.1f}" for time in compare(name, *arrays, **keywords))
        print(f"| `{name}` | {times} |")


if __name__ == "__main__":
    main()
