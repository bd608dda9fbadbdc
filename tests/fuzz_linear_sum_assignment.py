"""Random assignment problems against SciPy: every kind of costs, option and memory layout.

    python tests/fuzz_linear_sum_assignment.py                      until something fails
    python tests/fuzz_linear_sum_assignment.py --seconds 60         for a minute
    python tests/fuzz_linear_sum_assignment.py --seed 7 --first 40  from example 40 of another one

A failure prints the example as a call that repeats it. The suite runs the first few hundred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fuzzing
import numpy as np
from cases.linear_sum_assignment import KINDS, costs_of
from layouts import LAYOUTS
from scipy.optimize import linear_sum_assignment as scipys

import fastcv

# Beyond this a forbidden pair stands in for one, where SciPy is to leave it out.
FORBIDDEN = 1e7


@dataclass(frozen=True)
class Example:
    """One problem, and how it is put."""

    seed: int
    kind: str
    shape: tuple[int, int]
    dtype: str
    layout: str
    maximize: bool
    quantile: float | None  # of the costs: the limit
    forbidden: float  # share of pairs that may not be
    nan_policy: str
    threads: int


def draw(seed: int) -> Example:
    """The example that belongs to this seed."""
    rng = np.random.default_rng(seed)

    def pick(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    largest = pick(4, 12, 40, 40, 120, 120, 700 if rng.random() < 0.2 else 20)
    rows, columns = (int(size) for size in rng.integers(1, largest + 1, 2))
    return Example(
        seed=seed,
        kind=pick(*KINDS),
        shape=(rows, rows) if rng.random() < 0.3 else (rows, columns),
        dtype=pick("float64", "float64", "float32"),
        layout=pick("contiguous", pick(*LAYOUTS)),
        maximize=bool(pick(False, False, True)),
        quantile=pick(None, None, 0.02, 0.1, 0.5),
        forbidden=pick(0.0, 0.0, 0.1, 0.6, 0.97),
        nan_policy=pick("raise", "forbid"),
        threads=pick(1, 2, 5),
    )


def least(costs: np.ndarray, limit: float) -> float:
    """What SciPy finds for a partial matching, with a column for each row alone."""
    n, m = costs.shape
    square = np.full((n + m, n + m), np.inf)
    square[:n, :m] = costs - limit
    np.fill_diagonal(square[:n, m:], 0)
    np.fill_diagonal(square[n:, :m], 0)
    square[n:, m:] = 0
    return float(square[scipys(square)].sum())


def check(example: Example) -> None:
    """Every function on this example; AssertionError where one is wrong."""
    rng = np.random.default_rng([example.seed, 1])
    sign = -1.0 if example.maximize else 1.0
    costs = (sign * costs_of(example.kind, example.shape, example.seed)).astype(example.dtype)
    forbidden = rng.random(example.shape) < example.forbidden
    costs[forbidden] = sign * np.inf
    if example.nan_policy == "forbid":
        costs[forbidden & (rng.random(example.shape) < 0.5)] = np.nan
    wide = sign * costs.astype(np.float64)
    wide[forbidden] = np.inf
    finite = np.abs(wide[~forbidden])
    scale = float(finite.max(initial=0)) * sum(example.shape)
    options: dict[str, Any] = {"nan_policy": example.nan_policy}
    if example.quantile is not None and finite.size:
        options["cost_limit"] = sign * float(np.quantile(wide[~forbidden], example.quantile))
    given = LAYOUTS[example.layout](example.shape, costs.dtype).filled(costs)
    fastcv.set_num_threads(example.threads)

    limit = sign * options.get("cost_limit", sign * np.inf)
    try:
        rows, columns, u, v = fastcv.linear_sum_assignment(
            given, example.maximize, **options, return_duals=True
        )
    except ValueError:
        assert example.nan_policy == "raise" and limit == np.inf
        try:
            scipys(wide)
        except ValueError:
            return
        raise AssertionError("refused what SciPy solves") from None
    batch = fastcv.linear_sum_assignment_batch([given, given], None, example.maximize, **options)
    want = np.full(example.shape[0], -1)
    want[rows] = columns
    assert (batch == want).all(), "a batch finds other pairs"
    assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)
    assert not forbidden[rows, columns].any()
    got = float(wide[rows, columns].sum())
    tolerance = 1e-13 * scale
    if limit < np.inf:
        tolerance += 1e-13 * abs(limit) * sum(example.shape)
        assert abs(got - limit * len(rows) - least(wide, limit)) <= tolerance
    elif len(rows) == min(example.shape):
        assert abs(got - wide[scipys(wide)].sum()) <= max(tolerance, 1e-12 * abs(got))
    elif scale < FORBIDDEN / 100:
        open_costs = np.where(forbidden, FORBIDDEN, wide)
        best = scipys(open_costs)
        pairs = int((~forbidden[best]).sum())
        assert len(rows) == pairs, "there is a matching with more pairs"
        assert abs(got - wide[best][~forbidden[best]].sum()) <= 1e-9 * FORBIDDEN
    if np.isfinite(u).all() and np.isfinite(v).all():
        slack = wide - sign * (u[:, None] + v)
        assert slack.min(initial=0) >= -tolerance, "a dual is too large"
        assert np.abs(slack[rows, columns]).max(initial=0) <= tolerance, "a pair is not tight"


if __name__ == "__main__":
    fuzzing.main(draw, check, __doc__)
