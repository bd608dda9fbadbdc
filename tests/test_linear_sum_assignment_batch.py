"""linear_sum_assignment_batch against one call for each problem."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases.linear_sum_assignment import KINDS, costs_of
from closeness import same_bits
from layouts import LAYOUTS

import fastcv
from fastcv import linear_sum_assignment, linear_sum_assignment_batch


def one_by_one(problems: Any, most_rows: int, **options: Any) -> np.ndarray:
    columns = np.full((len(problems), most_rows), -1, np.int64)
    for row, costs in zip(columns, problems, strict=True):
        rows, matched = linear_sum_assignment(costs, **options)
        row[rows] = matched
    return columns


def ragged(count: int, largest: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    dtypes = (np.float32, np.float64, np.int32)
    return [
        costs_of(KINDS[index % len(KINDS)], tuple(rng.integers(0, largest, 2)), index)
        .clip(-1e9, 1e9)
        .astype(dtypes[index % 3])
        for index in range(count)
    ]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"maximize": True},
    {"cost_limit": 0.3},
    {"nan_policy": "forbid"},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


@each_option
@pytest.mark.parametrize("count", [1, 2, 7, 150])
def test_ragged_problems(
    options: dict[str, Any], count: int, threads: Callable[[int], None]
) -> None:
    problems = ragged(count, 40, count)
    most_rows = max(len(costs) for costs in problems)
    want = one_by_one(problems, most_rows, **options)
    for number in (1, 2, 5):
        threads(number)
        got = linear_sum_assignment_batch(problems, **options)
        assert same_bits(got, want)
        assert same_bits(linear_sum_assignment_batch(tuple(problems), **options), want)


@each_option
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
@pytest.mark.parametrize("shape", [(5, 9, 9), (30, 20, 100), (12, 50, 7), (3, 310, 300)])
def test_padded_problems(options: dict[str, Any], shape: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng(3)
    costs = np.stack([costs_of("integer", shape[1:], seed) for seed in range(shape[0])])
    costs = costs.astype(dtype)
    want = one_by_one(costs, shape[1], **options)
    assert same_bits(linear_sum_assignment_batch(costs, **options), want)
    sizes = rng.integers(0, np.array(shape[1:]) + 1, (shape[0], 2))
    if np.issubdtype(dtype, np.floating):  # padding is not looked at
        for problem, (rows, columns) in zip(costs, sizes, strict=True):
            problem[rows:] = problem[:, columns:] = np.nan
    used = [problem[:rows, :columns] for problem, (rows, columns) in zip(costs, sizes, strict=True)]
    want = one_by_one(used, shape[1], **options)
    for given in (sizes, sizes.tolist(), sizes.astype(np.uint8) if sizes.max() < 256 else sizes):
        assert same_bits(linear_sum_assignment_batch(costs, given, **options), want)
    assert same_bits(linear_sum_assignment_batch(list(costs), sizes, **options), want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    shape = (4, 12, 20)
    costs = np.stack([costs_of("ties", shape[1:], seed) for seed in range(4)])
    placed = LAYOUTS[layout](shape, np.float64).filled(costs)
    want = linear_sum_assignment_batch(costs)
    assert same_bits(linear_sum_assignment_batch(placed), want)


@pytest.mark.parametrize(
    ("costs", "shape"),
    [
        ([], (0, 0)),
        (np.empty((0, 3, 4)), (0, 3)),
        (np.empty((3, 0, 4)), (3, 0)),
        (np.empty((3, 4, 0)), (3, 4)),
        ([np.empty((0, 0)), np.ones((2, 1))], (2, 2)),
    ],
)
def test_nothing_to_match(costs: Any, shape: tuple[int, int]) -> None:
    columns = linear_sum_assignment_batch(costs)
    assert columns.shape == shape and columns.dtype == np.int64
    assert (columns >= 0).sum() == (1 if shape == (2, 2) else 0)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_first_fault_is_named(number: int, threads: Callable[[int], None]) -> None:
    threads(number)
    costs = np.stack([costs_of("uniform", (20, 30), seed) for seed in range(60)])
    for problem in (41, 59, 40):
        costs[problem, 3, 7] = np.nan
        costs[problem, 19, 0] = -np.inf
    text = r"linear_sum_assignment_batch: matrix contains .*, got costs\[40\]\[3, 7\] = nan"
    for given in (costs, list(costs)):
        with pytest.raises(ValueError, match=text):
            linear_sum_assignment_batch(given)
    costs[7, :2] = np.inf
    costs[7, :2, 0] = 1
    with pytest.raises(ValueError, match=r"infeasible: the finite costs of costs\[7\] \(20 x 30\)"):
        linear_sum_assignment_batch(costs)
    sizes = np.full((60, 2), (2, 9))
    with pytest.raises(ValueError, match=r"infeasible: the finite costs of costs\[7\] \(2 x 9\)"):
        linear_sum_assignment_batch(costs, sizes)


@pytest.mark.parametrize(
    ("costs", "sizes", "error", "text"),
    [
        (np.ones((2, 3)), None, ValueError, "must be an array with 3 axes"),
        ("costs", None, TypeError, "a list of matrices, got str"),
        (None, None, TypeError, "got NoneType"),
        ([np.ones(3)], None, ValueError, r"expected a matrix \(2-D array\) as costs\[0\]"),
        ([np.ones((1, 1)), np.ones((1, 1), complex)], None, TypeError, r"costs\[1\] must have"),
        (np.ones((2, 3, 4), complex), None, TypeError, "Cannot cast array data"),
        (np.ones((2, 3, 4)), [[1, 2]], ValueError, r"got \(1, 2\) != \(2, 2\)"),
        (np.ones((2, 3, 4)), [[1, 2], [1.0, 2]], TypeError, "integer type, got float64"),
        (np.ones((2, 3, 4)), [[True, True]] * 2, TypeError, "integer type, got bool"),
        (np.ones((2, 3, 4)), [[1, 2], [4, 2]], ValueError, r"sizes\[1, 0\] must be from 0 to 3"),
        (np.ones((2, 3, 4)), [[1, 5], [3, 2]], ValueError, r"sizes\[0, 1\] .* got 5"),
        (np.ones((2, 3, 4)), [[1, -1], [3, 2]], ValueError, r"sizes\[0, 1\] .* got -1"),
        ([np.ones((3, 4)), np.ones((2, 2))], [[3, 4], [3, 2]], ValueError, "from 0 to 2"),
    ],
)
def test_bad_input(costs: Any, sizes: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="linear_sum_assignment_batch: .*" + text):
        linear_sum_assignment_batch(costs, sizes)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="sends itself a signal")
def test_a_long_batch_can_be_interrupted() -> None:
    costs = np.multiply.outer(np.arange(1.0, 5001), np.arange(1.0, 5001))

    def handler(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            linear_sum_assignment_batch([costs] * 3)
        assert time.monotonic() - start < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert fastcv.linear_sum_assignment_batch([costs[:2, :2]]).tolist() == [[1, 0]]
