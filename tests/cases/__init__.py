"""Named cases, one file per operation, for the tests and the benchmarks alike."""

from __future__ import annotations

import numpy as np


def uniform(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.typing.DTypeLike
) -> np.ndarray:
    """Values in [-1, 1) drawn in ``dtype`` itself, so that casting them to float64 is exact."""
    return 2 * rng.random(shape, dtype) - np.ones((), dtype)
