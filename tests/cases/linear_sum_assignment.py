"""Costs of every kind that assignment problems have, for the tests and the benchmarks alike."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Case:
    """Problems of one kind and shape; a limit is given as a share of the costs below it."""

    name: str
    kind: str
    shape: tuple[int, int]
    count: int = 1
    share_below_limit: float | None = None
    tags: frozenset[str] = frozenset()

    def costs(self) -> np.ndarray:
        """Float64, (B, n, m)."""
        return np.stack([costs_of(self.kind, self.shape, seed) for seed in range(self.count)])


def _cases() -> tuple[Case, ...]:
    flat, square = ((10, 100), (12, 100), (20, 300), (60, 900)), (128, 400, 1200, 2500)
    shapes = (*flat, *((size, size) for size in square))
    single = [
        Case(f"{kind} {n}x{m}", kind, (n, m), tags=frozenset({"single", kind}))
        for kind in ("uniform", "geometric", "integer")
        for n, m in shapes
    ]
    hard = [
        Case(f"{kind} {size}x{size}", kind, (size, size), tags=frozenset({"hard", kind}))
        for kind in ("products", "clustered", "decades")
        for size in (100, 400, 1000, 1700)
    ]
    tall = [
        Case(f"{kind} {n}x{m}", kind, (n, m), tags=frozenset({"hard", "tall"}))
        for kind in ("uniform", "geometric")
        for n, m in ((900, 60), (2500, 400))
    ]
    batches = [
        Case(f"{kind} {count} x {n}x{m}", kind, (n, m), count, tags=frozenset({"batch", kind}))
        for kind in ("uniform", "geometric", "integer")
        for count, n, m in ((16, 20, 100), (64, 100, 100), (8, 300, 300), (96, 30, 300))
    ]
    limits = [
        Case(
            f"limit {kind} {n}x{m}",
            kind,
            (n, m),
            share_below_limit=2 / n,
            tags=frozenset({"limit", kind}),
        )
        for kind in ("uniform", "geometric", "clustered")
        for n, m in ((550, 500), (2000, 2500))
    ]
    return (*single, *hard, *tall, *batches, *limits)


CASES = _cases()
