"""Assignment's CUDA kernels, compiled for the CPU and run thread by thread, against the CPU's.

That is no proof that they run on a device; it is one of every index, launch, barrier and decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases.detr_match import problem
from cases.linear_sum_assignment import KINDS, costs_of
from closeness import same_bits
from cuda_emulated import ALIGNED, ORDERS, Emulated, in_order, on_fibers
from layouts import LAYOUTS, guarded
from shared import each_dtype
from test_linear_sum_assignment import check_duals, scale_of

import fastcv
import fastcv.cuda
from fastcv import reference
from fastcv.cuda import _assignment, _extension

optimize = pytest.importorskip("scipy.optimize")

pytestmark = on_fibers

DEVICE = Emulated()
SHAPES = [(1, 1), (1, 9), (8, 8), (40, 7), (33, 33), (9, 50)]

each_kind = pytest.mark.parametrize("kind", KINDS)
in_each_order = pytest.mark.parametrize("kernels", ORDERS, indirect=True)


@pytest.fixture(autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, with threads and blocks in one of the orders."""
    yield from in_order(getattr(request, "param", "forwards"), monkeypatch)


def solve(costs: Any, maximize: bool = False, **options: Any) -> tuple[Any, ...]:
    return _assignment.linear_sum_assignment(DEVICE, costs, maximize, **options)


def solve_all(costs: Any, *arguments: Any, **options: Any) -> Any:
    return _assignment.linear_sum_assignment_batch(DEVICE, costs, *arguments, **options)


def match(*arguments: Any, **options: Any) -> Any:
    return _assignment.detr_match(DEVICE, *arguments, **options)


def in_guarded(array: np.ndarray) -> np.ndarray:
    """The same numbers at the end of readable memory."""
    filled = guarded(array.shape, array.dtype, at_end=True)
    filled[...] = array
    return filled


def same_optimum(
    costs: np.ndarray, got: tuple[Any, ...], want: tuple[Any, ...], limit: float = 0.0
) -> None:
    """Whether two matchings are one and cost the same, up to rounding in one order of addition."""
    wide = costs.astype(np.float64)
    rows, columns = got[:2]
    assert rows.dtype == columns.dtype == np.int64
    assert (np.diff(rows) > 0).all() and len(set(columns)) == len(columns)
    totals = [math.fsum(wide[pairs[0], pairs[1]] - limit) for pairs in (got, want)]
    assert abs(totals[0] - totals[1]) <= scale_of(costs) + 1e-14 * abs(limit)


# One problem


@in_each_order
@each_kind
def test_against_the_cpu_and_scipy(kind: str) -> None:
    for seed, shape in enumerate(SHAPES):
        dtype = np.float32 if seed % 2 else np.float64
        costs = in_guarded(costs_of(kind, shape, seed).astype(dtype))
        for maximize in (False, True):
            got = solve(costs, maximize, return_duals=True)
            sign = -1 if maximize else 1
            signed = (*got[:2], *(sign * dual for dual in got[2:]))
            check_duals(sign * costs, signed)
            same_optimum(costs, got, fastcv.linear_sum_assignment(costs, maximize))
            same_optimum(costs, got, optimize.linear_sum_assignment(costs, maximize))
        if kind in ("uniform", "normal", "geometric"):  # one matching is the best
            want = fastcv.linear_sum_assignment(costs, True)
            assert all(same_bits(a, b) for a, b in zip(got, want, strict=False))


@pytest.mark.parametrize("kind", ["uniform", "ties", "products", "integer"])
def test_any_order_of_threads_gives_the_same_bits(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shape in ((33, 33), (20, 70)):
        costs = costs_of(kind, shape, 3)
        costs[0, ::3] = np.nan
        for options in ({}, {"cost_limit": float(np.nanmedian(costs))}):
            found = []
            for order in ORDERS:
                monkeypatch.setenv("FASTCV_CUDA_EMULATION_ORDER", order)
                found.append(solve(costs, nan_policy="forbid", return_duals=True, **options))
            for other in found[1:]:
                assert all(same_bits(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("value", [0, -3.5, 1e-300, 1e300])
@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5), (70, 70)])
def test_constant_costs_give_the_identity(shape: tuple[int, int], value: float) -> None:
    rows, columns = solve(np.full(shape, value))
    np.testing.assert_array_equal(rows, np.arange(min(shape)))
    np.testing.assert_array_equal(columns, np.arange(min(shape)))


@pytest.mark.parametrize(
    "shape", [(3, 400), (400, 3), (150, 170), (171, 160), (4, 1500), (4, 2100), (2100, 5)]
)
def test_sizes_of_every_arena(shape: tuple[int, int]) -> None:
    """Arrays in little shared memory, in more of it, in the workspace; one warp and several."""
    for kind, dtype in (("uniform", np.float64), ("integer", np.float32)):
        costs = costs_of(kind, shape, 1).astype(dtype)
        got = solve(costs, return_duals=True)
        check_duals(costs, got)
        same_optimum(costs, got, fastcv.linear_sum_assignment(costs))


@each_dtype
@pytest.mark.parametrize("layout", ALIGNED)
def test_layouts_give_the_same_pairs(layout: str, dtype: Any) -> None:
    for shape in ((1, 1), (3, 1), (9, 9), (17, 40), (70, 35)):
        costs = costs_of("integer", shape, 2).astype(dtype)
        placed = guarded(shape, dtype, at_end=True, layout=LAYOUTS[layout])
        placed[...] = costs
        for options in ({}, {"maximize": True}, {"cost_limit": 20.0}):
            want, got = solve(costs, **options), solve(placed, **options)
            assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))
        np.testing.assert_array_equal(placed, costs)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0)])
def test_no_costs(shape: tuple[int, int]) -> None:
    for options in ({}, {"cost_limit": 2.0}, {"nan_policy": "forbid"}):
        got = solve(np.empty(shape), **options, return_duals=True)
        want = fastcv.linear_sum_assignment(np.empty(shape), **options, return_duals=True)
        assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))


def test_other_types_are_widened() -> None:
    costs = costs_of("integer", (9, 12), 4)
    want = solve(costs)
    for dtype in (bool, np.int8, np.uint16, np.int64, np.float16):
        given = costs.astype(dtype)
        right = solve(given.astype(np.float64))
        assert all(same_bits(a, b) for a, b in zip(solve(given), right, strict=True))
    assert same_bits(solve(costs.astype(np.int32))[1], want[1])
    with pytest.raises(TypeError, match=r"^linear_sum_assignment: Cannot cast array data from co"):
        solve(costs.astype(np.complex64))


# Limits, and pairs that may not be


@in_each_order
@pytest.mark.parametrize("kind", ["uniform", "integer", "ties", "clustered"])
def test_limits(kind: str) -> None:
    for seed, shape in enumerate([(1, 4), (12, 12), (9, 33), (40, 17), (33, 33)]):
        costs = costs_of(kind, shape, seed)
        for part in (0.02, 0.2, 0.6):
            limit = float(np.quantile(costs, part))
            got = solve(costs, cost_limit=limit, return_duals=True)
            check_duals(costs, got, limit)
            want = fastcv.linear_sum_assignment(costs, cost_limit=limit)
            same_optimum(costs, got, want, limit)
            got = solve(-costs, True, cost_limit=-limit)
            same_optimum(-costs, got, want, -limit)
    costs = costs_of(kind, (5, 7), 0)
    assert solve(costs, cost_limit=-math.inf)[0].size == 0
    assert solve(costs, cost_limit=math.inf)[0].size == 5


@in_each_order
def test_forbidden_pairs() -> None:
    rng = np.random.default_rng(7)
    for trial in range(60):
        shape = tuple(rng.integers(1, 30, 2))
        costs = rng.random(shape) if trial % 2 else rng.integers(0, 9, shape).astype(float)
        costs[rng.random(shape) < rng.choice([0.3, 0.7, 0.9])] = np.nan
        limit = [None, 0.4, 5.0][trial % 3]
        options: dict[str, Any] = {"nan_policy": "forbid", "cost_limit": limit}
        got = solve(costs, **options, return_duals=True)
        want = fastcv.linear_sum_assignment(costs, **options, return_duals=True)
        if limit is None:
            assert len(got[0]) == len(want[0])
        same_optimum(costs, got, want, limit or 0.0)
        for dual, right in zip(got[2:], want[2:], strict=True):
            assert (np.isfinite(dual) == np.isfinite(right)).all()


def test_infinite_costs_where_a_matching_is_left() -> None:
    rng = np.random.default_rng(3)
    for shape in ((20, 20), (12, 30), (30, 12)):
        costs = rng.random(shape)
        costs[rng.random(shape) < 0.5] = np.inf
        costs[np.arange(min(shape)), np.arange(min(shape))] = 9.0
        got = solve(costs, return_duals=True)
        same_optimum(costs, got, fastcv.linear_sum_assignment(costs))
        assert (costs - (got[2][:, None] + got[3]) >= -1e-12).all()


@pytest.mark.parametrize("scale", [1e305, 1e-305])
def test_costs_near_the_ends_of_float64(scale: float) -> None:
    for shape in ((20, 20), (9, 30), (30, 9)):
        costs = scale * costs_of("uniform", shape, 5)
        got = solve(costs, return_duals=True)
        want = fastcv.linear_sum_assignment(costs)
        assert same_bits(got[1], want[1])
        low = np.float64(2) ** -70 * costs
        duals = np.float64(2) ** -70 * np.add.outer(got[2], got[3])
        assert (low - duals >= -1e-14 * low.max()).all()


# Batches


@in_each_order
@each_dtype
def test_a_batch_gives_each_problem_its_own_pairs(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 20, (7, 11, 9)).astype(dtype)
    sizes = np.array([[11, 9], [3, 9], [11, 2], [0, 4], [5, 5], [1, 1], [11, 0]])
    for costs in (whole, whole[::-1, :, ::-1], np.asfortranarray(whole)):
        for used in (None, sizes):
            want = np.full((7, 11), -1)
            for index, matrix in enumerate(costs):
                rows, columns = (11, 9) if used is None else used[index]
                pairs = solve(np.ascontiguousarray(matrix[:rows, :columns]))
                want[index, pairs[0]] = pairs[1]
            host = None if used is None else used.tolist()
            assert same_bits(solve_all(costs, host), want)
            if used is not None:  # which then lie on the device
                assert same_bits(solve_all(costs, used), want)
                assert same_bits(solve_all(costs, used.astype(np.int32)[:, ::-1][:, ::-1]), want)
    for options in ({"cost_limit": 5.0}, {"nan_policy": "forbid"}):
        got = solve_all(whole, None, True, **options)
        for index, matrix in enumerate(whole):
            rows, columns = solve(matrix, True, **options)
            assert same_bits(got[index][rows], columns) and (got[index] >= 0).sum() == len(rows)


@in_each_order
def test_lists_of_any_shapes() -> None:
    rng = np.random.default_rng(1)
    shapes = [tuple(rng.integers(0, 14, 2)) for _ in range(107)]  # more than a launch brings
    costs = [rng.integers(0, 9, shape).astype(np.float32) for shape in shapes]
    got = solve_all(costs)
    assert got.shape == (107, max(rows for rows, _ in shapes))
    for matrix, found in zip(costs, got, strict=True):
        want = np.full(got.shape[1], -1)
        rows, columns = solve(matrix)
        want[rows] = columns
        assert same_bits(found, want)
    mixed = [costs[0], costs[1].astype(np.float64), costs[2].astype(np.int16)]
    assert same_bits(solve_all(mixed), solve_all(costs[:3]))
    assert same_bits(solve_all(costs, shapes), got)
    assert same_bits(solve_all(tuple(costs), np.array(shapes)), got)


def test_batches_without_problems() -> None:
    assert solve_all(np.empty((0, 3, 4))).shape == (0, 3)
    assert solve_all(np.empty((2, 0, 4))).shape == (2, 0)
    assert (solve_all(np.empty((2, 3, 0))) == -1).all()


# Faults


@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (20, 50), (50, 20)])
def test_what_the_device_finds(shape: tuple[int, int], kernels: Any) -> None:
    for wrong, maximize in ((np.nan, False), (-np.inf, False), (np.nan, True), (np.inf, True)):
        costs = np.ones((2, *shape), np.float32)
        costs[1, -1, 1] = wrong
        # What is emulated is done when the call returns, as under CUDA_LAUNCH_BLOCKING=1.
        with pytest.raises(ValueError, match=r"^linear_sum_assignment_batch: a matrix contains in"):
            solve_all(costs, None, maximize)
        with pytest.raises(ValueError, match=r"^linear_sum_assignment: .* on device 0, whose"):
            solve(costs[1], maximize)
        assert not kernels.take_assignment_fault(0)
        with pytest.raises(
            ValueError, match=r"^linear_sum_assignment: a cost matrix is infeasible"
        ):
            blocked = np.full(shape, -np.inf if maximize else np.inf)
            solve(blocked, maximize)
        assert solve(blocked, maximize, cost_limit=0.0)[0].size == 0
    assert not kernels.take_index_fault(0)


def test_a_problem_at_fault_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    monkeypatch.setattr(_assignment, "raise_late", lambda fault, op, device: found.append(fault))
    costs = costs_of("uniform", (5, 24), 0).reshape(5, 4, 6)
    want = fastcv.linear_sum_assignment_batch(costs)
    costs[1, 2, 3], costs[3, 0] = np.nan, np.inf
    want[[1, 3]] = -1
    assert same_bits(solve_all(costs), want)
    assert found == ["invalid"]
    assert _extension.extension().take_assignment_fault(0) == ""
    sizes = np.array([[4, 6], [1, 1], [5, 6], [0, 0], [4, -1]])
    got = solve_all(costs, sizes)
    assert found[-1] == "sizes" and (got[2:] == -1).all() and same_bits(got[0], want[0])
    rows, columns, u, v = solve(costs[1], return_duals=True)
    assert (rows == -1).all() and (columns == -1).all() and len(rows) == 4
    assert np.isnan(u).all() and np.isnan(v).all()


def test_synchronize_raises_what_was_found(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_assignment, "raise_late", lambda *found: None)
    monkeypatch.setattr(_extension.extension(), "take_assignment_fault", lambda device: "label")
    with pytest.raises(IndexError, match=r"^synchronize: a label was not from 0 to logits.shape"):
        fastcv.cuda.synchronize()


def test_what_is_refused() -> None:
    costs = np.ones((2, 3, 4))
    with pytest.raises(ValueError, match=r"^linear_sum_assignment: expected a matrix"):
        solve(costs)
    with pytest.raises(ValueError, match=r"costs must be an array with 3 axes"):
        solve_all(costs[0])
    with pytest.raises(ValueError, match=r"expected a matrix \(2-D array\) as costs\[1\]"):
        solve_all([costs[0], costs])
    with pytest.raises(TypeError, match=r"costs\[1\] must be an array on a device"):
        solve_all([costs[0], [[1.0]]])
    with pytest.raises(TypeError, match=r"costs must be an array with 3 axes or a list"):
        solve_all(3)
    with pytest.raises(ValueError, match=r"sizes\[1, 0\] must be from 0 to 3"):
        solve_all(costs, [[3, 4], [4, 4]])
    with pytest.raises(ValueError, match=r"sizes.shape must equal \(B, 2\)"):
        solve_all(costs, np.ones((2, 3), np.int64))
    with pytest.raises(TypeError, match=r"sizes.dtype must be an integer type, got float64"):
        solve_all(costs, np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"cost_limit must be a number"):
        solve(costs[0], cost_limit=math.nan)
    with pytest.raises(ValueError, match=r"nan_policy must be"):
        solve(costs[0], nan_policy="ignore")
    with pytest.raises(ValueError, match=r"address and strides must be multiples"):
        solve(LAYOUTS["misaligned"]((3, 3), np.float64).filled(np.ones((3, 3))))
    with pytest.raises(ValueError, match=r"shape\[1\] must be less than 2\*\*30"):
        solve(np.lib.stride_tricks.as_strided(costs[0], (1, 2**30), (0, 0)))
    device = Emulated()
    other = np.ones((3, 4))
    device.on_second.append(other)
    with pytest.raises(ValueError, match=r"costs\[1\] must be on the device of costs\[0\]"):
        _assignment.linear_sum_assignment_batch(device, [costs[0], other])


def test_the_comparison_can_fail() -> None:
    costs = costs_of("uniform", (9, 12), 0)
    rows, columns, u, v = solve(costs, return_duals=True)
    wrong = columns.copy()
    wrong[:2] = wrong[1::-1]
    with pytest.raises(AssertionError):
        same_optimum(costs, (rows, wrong), (rows, columns))
    with pytest.raises(AssertionError):
        check_duals(costs, (rows, wrong, u, v))


# DETR


@in_each_order
@each_dtype
@pytest.mark.parametrize("class_cost", ["softmax", "focal"])
@pytest.mark.parametrize(
    "sizes", [(5, 40, 92, 12), (3, 7, 5, 30), (2, 33, 2, 33), (4, 1, 3, 4), (50, 3, 4, 2)], ids=str
)
def test_detr_match(sizes: tuple[int, int, int, int], class_cost: Any, dtype: Any) -> None:
    arrays = problem(*sizes, dtype, trained=sizes[0] % 2 == 0)
    options: dict[str, Any] = {"class_cost": class_cost, "cost_class": 2.0}
    matches, summed = match(*arrays, **options, return_cost=True)
    right, cost = fastcv.detr_match(*arrays, **options, return_cost=True)
    eps = float(np.finfo(dtype).eps)
    images = zip(*arrays, strict=True)
    for index, (image, pairs, wanted) in enumerate(zip(images, matches, right, strict=True)):
        exact = reference.detr_costs(*image, weights=(2.0, 5.0, 2.0), class_cost=class_cost)
        query, target = pairs
        assert query.dtype == target.dtype == np.int64
        assert (np.diff(query) > 0).all() and len(set(target)) == len(target) == len(wanted[0])
        tolerance = 64 * eps * (1 + len(query)) * float(np.abs(exact).max(initial=0))
        assert exact[pairs].sum() == pytest.approx(exact[wanted].sum(), abs=tolerance)
        assert summed[index] == pytest.approx(cost[index], abs=tolerance)
        assert summed[index] == pytest.approx(exact[pairs].sum(), abs=tolerance)
    assert summed.dtype == np.float64
    alone = match(*(each[:1] for each in arrays), **options)[0]
    assert all(same_bits(a, b) for a, b in zip(alone, matches[0], strict=True))


def test_detr_boxes_without_an_area() -> None:
    logits = np.zeros((1, 3, 2))
    boxes = np.array([[[0.5, 0.5, 0.0, 0.0], [0.2, 0.2, -0.1, 0.1], [0.7, 0.7, 0.2, 0.2]]])
    labels, objects = [np.array([1, 0])], [boxes[0, [0, 1]]]
    got, cost = match(logits, boxes, labels, objects, return_cost=True)
    want, right = fastcv.detr_match(logits, boxes, labels, objects, return_cost=True)
    assert all(same_bits(a, b) for a, b in zip(got[0], want[0], strict=True))
    np.testing.assert_allclose(cost, right, rtol=1e-14)


@pytest.mark.parametrize("layout", ALIGNED)
def test_detr_layouts(layout: str) -> None:
    logits, boxes, labels, objects = problem(3, 20, 7, 9, np.float32)
    want = match(logits, boxes, labels, objects)

    def placed(array: np.ndarray) -> np.ndarray:
        if array.size == 0:
            return array
        filled = guarded(array.shape, array.dtype, at_end=True, layout=LAYOUTS[layout])
        filled[...] = array
        return filled

    short = [placed(label.astype(np.int16)) for label in labels]
    got = match(placed(logits), placed(boxes), short, [placed(each) for each in objects])
    for pairs, right in zip(got, want, strict=True):
        assert all(same_bits(a, b) for a, b in zip(pairs, right, strict=True))
    got = match(logits, boxes, [placed(label) for label in labels], objects)
    for pairs, right in zip(got, want, strict=True):
        assert all(same_bits(a, b) for a, b in zip(pairs, right, strict=True))


def test_detr_without_anything() -> None:
    none = (np.empty((0, 3, 4)), np.empty((0, 3, 4)), [], [])
    assert match(*none) == []
    labels, objects = [np.empty(0, np.int64)] * 2, [np.empty((0, 4))] * 2
    matches, cost = match(np.ones((2, 3, 4)), np.ones((2, 3, 4)), labels, objects, return_cost=True)
    assert [len(each) for pairs in matches for each in pairs] == [0] * 4 and not cost.any()
    labels, objects = [np.zeros(2, np.int64)], [np.ones((2, 4))]
    matches = match(np.ones((1, 0, 4)), np.ones((1, 0, 4)), labels, objects)
    assert [len(each) for each in matches[0]] == [0, 0]


def test_detr_faults(kernels: Any) -> None:
    logits, boxes, labels, objects = problem(3, 8, 5, 20, np.float32, seed=0)
    image = max(range(3), key=lambda each: len(labels[each]))
    assert len(labels[image]) > 1
    for wrong in (-1, 5, 2**40):
        other = [label.copy() for label in labels]
        other[image][1] = wrong
        with pytest.raises(IndexError, match=r"^detr_match: a label was not from 0 to"):
            match(logits, boxes, other, objects)
    for place in ((2, 3), (0, 0)):
        spoiled = logits.copy()
        spoiled[image][place] = np.nan
        with pytest.raises(ValueError, match=r"^detr_match: a matrix contains invalid"):
            match(spoiled, boxes, labels, objects)
    assert not kernels.take_assignment_fault(0)


def test_detr_refusals() -> None:
    logits, boxes, labels, objects = problem(3, 8, 5, 20, np.float32, seed=0)
    with pytest.raises(TypeError, match=r"^detr_match: logits.dtype must be float32 or float64"):
        match(logits.astype(np.float16), boxes, labels, objects)
    with pytest.raises(TypeError, match=r"boxes.dtype must be float32, got float64"):
        match(logits, boxes.astype(np.float64), labels, objects)
    with pytest.raises(TypeError, match=r"target_labels\[0\].dtype must be"):
        match(logits, boxes, [np.ones(len(label)) for label in labels], objects)
    with pytest.raises(TypeError, match=r"target_labels\[0\] must be an array on a device"):
        match(logits, boxes, [label.tolist() for label in labels], objects)
    with pytest.raises(ValueError, match=r"boxes.shape must equal \(B, Q, 4\)"):
        match(logits, boxes[:, 1:], labels, objects)
    with pytest.raises(ValueError, match=r"target_boxes\[0\].shape must equal \(T, 4\)"):
        match(logits, boxes, labels, [each[1:] for each in objects])
    with pytest.raises(ValueError, match=r"len\(target_labels\) must equal logits.shape\[0\]"):
        match(logits, boxes, labels[1:], objects)
    with pytest.raises(ValueError, match=r"class_cost must be"):
        match(logits, boxes, labels, objects, class_cost="hinge")
