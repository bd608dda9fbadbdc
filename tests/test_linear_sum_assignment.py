"""linear_sum_assignment against SciPy, brute force, and its own duals."""

from __future__ import annotations

import itertools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases.linear_sum_assignment import KINDS, costs_of
from closeness import same_bits
from layouts import LAYOUTS, guarded, read_only

from fastcv import linear_sum_assignment, reference

optimize = pytest.importorskip("scipy.optimize")

SHAPES = [(1, 1), (1, 9), (7, 8), (8, 8), (9, 33), (16, 17), (31, 31), (40, 100), (65, 64), (90, 7)]

each_kind = pytest.mark.parametrize("kind", KINDS)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")


def scale_of(costs: np.ndarray) -> float:
    """What rounding errors of a sum are to be compared with."""
    finite = np.abs(costs[np.isfinite(costs)].astype(np.float64))
    return 1e-14 * (sum(costs.shape) + 10) * float(finite.max(initial=0))


def check_duals(costs: np.ndarray, result: tuple[np.ndarray, ...], limit: float = math.inf) -> None:
    """That a matching is one, and that the duals prove that no other costs less."""
    rows, columns, u, v = result
    wide = costs.astype(np.float64)
    tolerance = scale_of(wide) + (1e-13 * abs(limit) if math.isfinite(limit) else 0)
    assert rows.dtype == columns.dtype == np.int64
    assert (np.diff(rows) > 0).all()
    assert len(set(columns)) == len(columns)
    slack = wide - (u[:, None] + v)
    assert slack.min(initial=0) >= -tolerance
    assert np.abs(slack[rows, columns]).max(initial=0) <= tolerance
    alone_u, alone_v = np.delete(u, rows), np.delete(v, columns)
    if math.isfinite(limit):
        assert (u <= limit + tolerance).all() and (v <= tolerance).all()
        assert (np.abs(alone_u - limit) <= tolerance).all()
        assert (np.abs(alone_v) <= tolerance).all()
    else:
        assert len(rows) == min(costs.shape)
        # Whoever has no partner must not be worth one.
        for alone, all_of_them in ((alone_u, u), (alone_v, v)):
            if len(alone):
                assert all_of_them.max() <= tolerance and np.abs(alone).max() <= tolerance


# What SciPy's own tests ask for


def test_an_array_without_two_axes() -> None:
    for wrong in ([1, 2, 3], 5.0, np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match="expected a matrix"):
            linear_sum_assignment(wrong)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_lists_and_matrices() -> None:
    costs = [[1, 2, 3], [4, 5, 6]]
    want = linear_sum_assignment(np.array(costs, float))
    for given in (costs, np.array(costs), np.asmatrix(costs), np.array(costs, np.float16)):
        np.testing.assert_array_equal(linear_sum_assignment(given), want)


def test_bool_and_integer_costs() -> None:
    identity = np.identity(3)
    want = linear_sum_assignment(identity)
    for dtype in (bool, np.int8, np.uint16, np.int64, np.uint64, ">f8", ">f4"):
        np.testing.assert_array_equal(linear_sum_assignment(identity.astype(dtype)), want)


@pytest.mark.parametrize("dtype", [str, object, complex, np.longdouble, "M8[s]"])
def test_costs_that_are_no_numbers(dtype: Any) -> None:
    with pytest.raises(TypeError, match="Cannot cast array data"):
        linear_sum_assignment(np.zeros((2, 2)).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 3), (3, 3), (5, 3), (20, 50), (50, 20)])
def test_the_first_invalid_cost_is_named(shape: tuple[int, int], dtype: Any) -> None:
    for wrong, maximize in ((np.nan, False), (-np.inf, False), (np.nan, True), (np.inf, True)):
        costs = np.ones(shape, dtype)
        costs[0, 2] = costs[-1, -1] = wrong
        text = rf"matrix contains invalid numeric entries, got cost_matrix\[0, 2\] = {wrong}"
        with pytest.raises(ValueError, match=text):
            linear_sum_assignment(costs, maximize)
        costs[0, 0] = -np.inf if maximize else np.inf
        with pytest.raises(ValueError, match=text):
            linear_sum_assignment(costs, maximize)


def test_no_finite_matching() -> None:
    costs = np.identity(3)
    costs[:, 0] = np.inf
    for given in (costs, costs.T, costs[:, :1]):
        for sign in (1, -1):
            with pytest.raises(ValueError, match="cost matrix is infeasible"):
                linear_sum_assignment(sign * given, maximize=sign < 0)
    with pytest.raises(ValueError, match=r"\(3 x 3\) match fewer than 3 pairs"):
        linear_sum_assignment(costs)


@pytest.mark.parametrize("value", [0, 1, -3.5, 1e-300, 1e300])
@pytest.mark.parametrize("shape", [(8, 8), (5, 30), (30, 5), (650, 650), (300, 700)])
def test_constant_costs_give_the_identity(shape: tuple[int, int], value: float) -> None:
    rows, columns = linear_sum_assignment(np.full(shape, value))
    np.testing.assert_array_equal(rows, np.arange(min(shape)))
    np.testing.assert_array_equal(columns, np.arange(min(shape)))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0)])
def test_no_costs(shape: tuple[int, int]) -> None:
    rows, columns, u, v = linear_sum_assignment(np.empty(shape), return_duals=True)
    assert rows.dtype == columns.dtype == np.int64
    assert len(rows) == len(columns) == 0
    assert u.shape == shape[:1] and v.shape == shape[1:]
    assert not u.any() and not v.any()


@pytest.mark.parametrize(
    ("costs", "want"),
    [
        ([[400, 150, 400], [400, 450, 600], [300, 225, 300]], [150, 400, 300]),
        ([[400, 150, 400, 1], [400, 450, 600, 2], [300, 225, 300, 3]], [150, 2, 300]),
        ([[10, 10, 8], [9, 8, 1], [9, 7, 4]], [10, 1, 7]),
        ([[10, 10, 8, 11], [9, 8, 1, 1], [9, 7, 4, 10]], [10, 1, 4]),
        ([[math.inf, 11, 8], [math.inf, 10, 1], [10, 7, 12]], [11, 1, 10]),
    ],
)
def test_small_costs_worked_by_hand(costs: Any, want: list[float]) -> None:
    costs = np.array(costs, float)
    for sign in (1, -1):
        rows, columns = linear_sum_assignment(sign * costs, maximize=sign < 0)
        assert costs[rows, columns].sum() == sum(want)
        turned = linear_sum_assignment(sign * costs.T, maximize=sign < 0)
        assert costs.T[turned].sum() == sum(want)


def test_many_forbidden_pairs() -> None:
    rng = np.random.default_rng(12)
    outcomes = set()
    for _ in range(100):
        costs = np.where(rng.random((100, 100)) < 0.06, rng.integers(1, 100, (100, 100)), np.inf)
        try:
            want = costs[optimize.linear_sum_assignment(costs)].sum()
        except ValueError:
            want = None
            with pytest.raises(ValueError, match="infeasible"):
                linear_sum_assignment(costs)
        else:
            assert costs[linear_sum_assignment(costs)].sum() == want
        outcomes.add(want is None)
    assert outcomes == {True, False}


# Optimality


@each_kind
@each_shape
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_optimal(kind: str, shape: tuple[int, int], dtype: Any) -> None:
    for seed in range(3):
        costs = costs_of(kind, shape, seed).astype(dtype)
        for maximize in (False, True):
            given = -costs if maximize else costs
            rows, columns, u, v = linear_sum_assignment(given, maximize, return_duals=True)
            check_duals(costs, (rows, columns, -u, -v) if maximize else (rows, columns, u, v))
            wide = costs.astype(np.float64)
            want = wide[optimize.linear_sum_assignment(wide)].sum()
            assert wide[rows, columns].sum() == pytest.approx(want, rel=1e-12, abs=scale_of(wide))


def test_thousands_of_problems() -> None:
    rng = np.random.default_rng(0)
    for seed in range(3000):
        kind = KINDS[seed % len(KINDS)]
        shape = tuple(int(size) for size in rng.integers(1, rng.choice([5, 12, 40]), 2))
        costs = costs_of(kind, shape, seed)
        want = costs[optimize.linear_sum_assignment(costs)].sum()
        got = costs[linear_sum_assignment(costs)].sum()
        assert got == pytest.approx(want, rel=1e-12, abs=scale_of(costs)), (kind, shape, seed)


def permutations(costs: np.ndarray) -> Iterator[float]:
    """The costs of all complete matchings of n rows and m >= n columns."""
    n, m = costs.shape
    for columns in itertools.permutations(range(m), n):
        yield float(costs[np.arange(n), columns].sum())


@pytest.mark.parametrize("shape", [(n, m) for n in range(1, 8) for m in range(n, 8)])
def test_brute_force(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    for costs in (
        rng.integers(-9, 9, shape).astype(float),
        rng.integers(0, 3, shape).astype(float),
    ):
        assert costs[linear_sum_assignment(costs)].sum() == min(permutations(costs))
        assert costs[linear_sum_assignment(costs, True)].sum() == max(permutations(costs))
        assert costs[reference.linear_sum_assignment(costs)].sum() == min(permutations(costs))


def test_a_matching_that_costs_more_is_refused() -> None:
    costs = costs_of("uniform", (20, 30), 0)
    rows, columns, u, v = linear_sum_assignment(costs, return_duals=True)
    check_duals(costs, (rows, columns, u, v))
    swapped = columns.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    for wrong in (
        (rows, swapped, u, v),
        (rows, np.full_like(columns, 3), u, v),
        (rows[:-1], columns[:-1], u, v),
        (rows, columns, u + 1e-6, v),
        (rows, columns, u - 1e-6, v + 1e-6),
        (rows, columns, u * np.nan, v),
    ):
        with pytest.raises(AssertionError):
            check_duals(costs, wrong)


@each_kind
@pytest.mark.parametrize("shape", [(640, 640), (301, 650), (700, 310), (641, 650)])
def test_optimal_where_lists_are_used(kind: str, shape: tuple[int, int]) -> None:
    for dtype in (np.float64, np.float32):
        costs = costs_of(kind, shape, 1).astype(dtype)
        result = linear_sum_assignment(costs, return_duals=True)
        check_duals(costs, result)
        wide = costs.astype(np.float64)
        want = wide[optimize.linear_sum_assignment(wide)].sum()
        assert wide[result[:2]].sum() == pytest.approx(want, rel=1e-12, abs=scale_of(wide))


@pytest.mark.parametrize("shape", [(30, 30), (20, 50), (650, 650)])
def test_costs_at_the_ends_of_the_range(shape: tuple[int, int]) -> None:
    unit = costs_of("normal", shape, 3)
    want = unit[optimize.linear_sum_assignment(unit)].sum()
    for exponent in (1020, 990, 500, -500, -960):
        costs = unit * 2.0**exponent
        rows, columns, u, v = linear_sum_assignment(costs, return_duals=True)
        assert unit[rows, columns].sum() == pytest.approx(want, rel=1e-12)
        assert (u * 2.0**-exponent).sum() + (v * 2.0**-exponent).sum() == pytest.approx(want)
    # Denormal costs are numbers like others.
    tiny = np.round(unit * 100) * 5e-324
    whole = np.round(unit * 100)
    want = whole[optimize.linear_sum_assignment(whole)].sum()
    assert whole[linear_sum_assignment(tiny)].sum() == want


# Partial matchings


def augmented(costs: np.ndarray, limit: float) -> float:
    """The least sum of cost - limit over partial matchings, from an (n + m) x (n + m) problem."""
    n, m = costs.shape
    square = np.full((n + m, n + m), np.inf)
    square[:n, :m] = costs - limit
    np.fill_diagonal(square[:n, m:], 0)
    np.fill_diagonal(square[n:, :m], 0)
    square[n:, m:] = 0
    return float(square[optimize.linear_sum_assignment(square)].sum())


@each_kind
@each_shape
def test_cost_limit(kind: str, shape: tuple[int, int]) -> None:
    costs = costs_of(kind, shape, 4)
    for quantile in (0, 0.03, 0.2, 0.7, 1):
        limit = float(np.quantile(costs, quantile))
        want = augmented(costs, limit)
        tolerance = scale_of(costs) + 1e-13 * abs(limit) * min(shape)
        result = linear_sum_assignment(costs, cost_limit=limit, return_duals=True)
        check_duals(costs, result, limit)
        assert (costs[result[:2]] <= limit + tolerance).all()
        assert (costs[result[:2]] - limit).sum() == pytest.approx(want, rel=1e-12, abs=tolerance)
        rows, columns = linear_sum_assignment(-costs, True, cost_limit=-limit)
        assert (costs[rows, columns] - limit).sum() == pytest.approx(want, rel=1e-12, abs=tolerance)


@pytest.mark.parametrize("shape", [(320, 700), (660, 450), (650, 650)])
def test_cost_limit_where_lists_are_used(shape: tuple[int, int]) -> None:
    for kind in KINDS:
        costs = costs_of(kind, shape, 5)
        limit = float(np.quantile(costs, 0.004))
        result = linear_sum_assignment(costs, cost_limit=limit, return_duals=True)
        check_duals(costs, result, limit)
        assert (costs[result[:2]] - limit).sum() == pytest.approx(
            augmented(costs, limit), rel=1e-12, abs=scale_of(costs)
        )


def test_cost_limit_worked_by_hand() -> None:
    costs = np.array([[1.0, 9.0], [2.0, 8.0], [7.0, 7.0]])
    for limit, rows, columns in (
        (0.5, [], []),
        (1.0, [0], [0]),  # a pair at the limit itself is made
        (7.5, [0, 2], [0, 1]),
        (100, [0, 2], [0, 1]),
        (math.inf, [0, 2], [0, 1]),
        (-math.inf, [], []),
    ):
        got = linear_sum_assignment(costs, cost_limit=limit)
        np.testing.assert_array_equal(got, [rows, columns])


def test_a_limit_below_every_cost_or_beyond_every_sum() -> None:
    for shape in ((6, 6), (6, 9), (9, 6), (650, 650)):
        costs = costs_of("normal", shape, 0)
        result = linear_sum_assignment(costs, cost_limit=-1e3, return_duals=True)
        assert len(result[0]) == len(result[1]) == 0
        check_duals(costs, result, -1e3)
        result = linear_sum_assignment(costs, cost_limit=1e9)
        np.testing.assert_array_equal(result, linear_sum_assignment(costs))


def test_forbidden_pairs_with_a_limit_are_never_infeasible() -> None:
    costs = np.array([[1.0, np.inf], [2.0, np.inf], [3.0, 4.0]])
    np.testing.assert_array_equal(linear_sum_assignment(costs, cost_limit=9.0), [[0, 2], [0, 1]])
    nothing = np.full((3, 2), np.inf)
    assert len(linear_sum_assignment(nothing, cost_limit=9.0)[0]) == 0


# Forbidden pairs


@pytest.mark.parametrize("shape", [*SHAPES, (650, 660), (700, 200)])
@pytest.mark.parametrize("share", [0.05, 0.4, 0.8, 0.97, 0.997])
def test_nan_policy_forbid(shape: tuple[int, int], share: float) -> None:
    rng = np.random.default_rng(7)
    for kind in ("uniform", "integer", "normal"):
        costs = costs_of(kind, shape, 7)
        costs[rng.random(shape) < share] = np.nan
        costs[rng.random(shape) < share / 2] = np.inf
        rows, columns = linear_sum_assignment(costs, nan_policy="forbid")
        assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)
        assert np.isfinite(costs[rows, columns]).all()
        # As many pairs as there can be, and at the least cost for that many.
        cost = 1e6
        open_costs = np.where(np.isfinite(costs), costs, cost)
        best = optimize.linear_sum_assignment(open_costs)
        pairs = int(np.isfinite(costs[best]).sum())
        assert len(rows) == pairs
        want = open_costs[best].sum() - cost * (min(shape) - pairs)
        assert costs[rows, columns].sum() == pytest.approx(want, rel=1e-9, abs=1e-6)
        got = reference.linear_sum_assignment(costs, nan_policy="forbid")
        assert costs[got].sum() == pytest.approx(want, rel=1e-9, abs=1e-6)
        # With a limit as well.
        limit = 0.6
        rows, columns = linear_sum_assignment(costs, nan_policy="forbid", cost_limit=limit)
        open_costs = np.where(np.isfinite(costs), costs, 1e3)
        want = augmented(open_costs, limit)
        assert (costs[rows, columns] - limit).sum() == pytest.approx(want, abs=1e-9)


def test_what_forbid_does_not_forgive() -> None:
    costs = np.ones((3, 3))
    costs[1, 2] = -np.inf
    with pytest.raises(ValueError, match=r"cost_matrix\[1, 2\] = -inf"):
        linear_sum_assignment(costs, nan_policy="forbid")
    costs[1, 2] = np.inf
    with pytest.raises(ValueError, match=r"cost_matrix\[1, 2\] = inf"):
        linear_sum_assignment(costs, True, nan_policy="forbid")


def test_nothing_but_nan() -> None:
    for shape in ((1, 1), (4, 9), (9, 4), (650, 650)):
        costs = np.full(shape, np.nan)
        rows, columns, u, v = linear_sum_assignment(costs, nan_policy="forbid", return_duals=True)
        assert len(rows) == len(columns) == 0
        assert u.shape == shape[:1] and v.shape == shape[1:]


# Memory, threads, time


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layouts_give_the_same_pairs(layout: str, dtype: Any) -> None:
    for shape in ((1, 1), (3, 1), (1, 5), (9, 9), (17, 40), (40, 17), (320, 650)):
        # Many ties, which are broken by the costs' places alone.
        costs = costs_of("integer", shape, 2).astype(dtype)
        placed = read_only(LAYOUTS[layout](shape, dtype).filled(costs))
        for options in ({}, {"maximize": True}, {"cost_limit": 20.0}):
            want = linear_sum_assignment(costs, **options)
            got = linear_sum_assignment(placed, **options)
            assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))
        np.testing.assert_array_equal(placed, costs)


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_is_read_beyond_the_costs(dtype: Any, at_end: bool) -> None:
    try:
        guarded((1,), dtype, at_end=True)
    except NotImplementedError as error:
        pytest.skip(str(error))
    for shape in ((1, 1), (3, 5), (9, 9), (13, 33), (33, 13), (603, 641)):
        costs = guarded(shape, dtype, at_end=at_end)
        costs[...] = costs_of("uniform", shape, 6)
        want = linear_sum_assignment(np.array(costs))
        np.testing.assert_array_equal(linear_sum_assignment(costs), want)


def test_many_threads_at_once(threads: Callable[[int], None]) -> None:
    problems = [costs_of(kind, shape, 8) for kind in KINDS for shape in ((20, 30), (650, 650))]
    want = [linear_sum_assignment(costs) for costs in problems]
    wrong: list[int] = []

    def worker(first: int) -> None:
        for step in range(len(problems)):
            index = (first * 5 + step) % len(problems)
            if not all(map(same_bits, linear_sum_assignment(problems[index]), want[index])):
                wrong.append(index)

    workers = [threading.Thread(target=worker, args=(n,)) for n in range(8)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="sends itself a signal")
def test_a_long_solve_can_be_interrupted() -> None:
    # i * j takes tens of seconds at this size; a signal's handler runs well before.
    costs = np.multiply.outer(np.arange(1.0, 6001), np.arange(1.0, 6001))

    class Enough(Exception):
        pass

    def handler(*_: object) -> None:
        raise Enough

    before = signal.signal(signal.SIGALRM, handler)
    try:
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Enough):
            linear_sum_assignment(costs)
        assert time.monotonic() - start < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert linear_sum_assignment(costs[:2, :2])[1].tolist() == [1, 0]


def test_against_the_reference() -> None:
    for kind in KINDS:
        for shape in ((9, 9), (6, 14), (14, 6)):
            costs = costs_of(kind, shape, 9)
            for options in ({}, {"maximize": True}, {"cost_limit": float(np.quantile(costs, 0.2))}):
                limit = options.get("cost_limit", 0)
                got = costs[linear_sum_assignment(costs, **options)] - limit
                want = costs[reference.linear_sum_assignment(costs, **options)] - limit
                assert got.sum() == pytest.approx(want.sum(), rel=1e-12, abs=scale_of(costs))
