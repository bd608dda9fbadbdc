"""Costs of every kind that assignment problems have, for the tests and the benchmarks alike."""

from __future__ import annotations

import numpy as np

KINDS = (
    "uniform",
    "normal",
    "geometric",
    "clustered",
    "low_rank",
    "products",
    "integer",
    "ties",
    "decades",
    "constant",
)


def costs_of(kind: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    """A float64 matrix of costs."""
    rng = np.random.default_rng([seed, *shape])
    n, m = shape
    match kind:
        case "uniform":
            return rng.random(shape)
        case "normal":  # both signs
            return rng.standard_normal(shape)
        case "geometric":  # distances between points of a square
            return _distances(rng.random((n, 2)), rng.random((m, 2)))
        case "clustered":  # many near neighbours, far from all others
            centres = rng.random((10, 2))
            first, second = (
                centres[rng.integers(0, 10, size)] + 0.01 * rng.standard_normal((size, 2))
                for size in shape
            )
            return _distances(first, second)
        case "low_rank":
            return rng.random((n, 3)) @ rng.random((3, m))
        case "products":  # i * j: every path is long
            return np.multiply.outer(np.arange(1.0, n + 1), np.arange(1.0, m + 1))
        case "integer":
            return rng.integers(0, 100, shape).astype(float)
        case "ties":  # hardly any two costs differ
            return rng.integers(0, 3, shape).astype(float)
        case "decades":  # 24 of them
            return 10 ** rng.uniform(-12, 12, shape)
        case "constant":
            return np.full(shape, 2.5)
    raise ValueError(f"no kind of costs is called {kind!r}")


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.hypot(*(first[:, None] - second).transpose(2, 0, 1))
