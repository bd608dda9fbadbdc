"""Assignment, one row after the other, and DETR's costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcv import _checks

Array = NDArray[np.float64]


def linear_sum_assignment(
    cost_matrix: ArrayLike,
    maximize: bool = False,
    *,
    cost_limit: float | None = None,
    nan_policy: Literal["raise", "forbid"] = "raise",
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Match rows to columns at the least sum of costs, one row after the other.

    Where several matchings have the least cost, `fastcv` may choose another one.
    """
    op = "linear_sum_assignment"
    given: Any = _checks.cost_matrix(op, "cost_matrix", np.asarray(cost_matrix))
    costs: Array = given.astype(np.float64)
    limit = _checks.cost_limit(op, cost_limit, maximize)
    forbid = _checks.nan_policy(op, nan_policy)
    if maximize:
        costs, limit = -costs, -limit
    if forbid:
        costs[np.isnan(costs)] = np.inf
    invalid = np.argwhere(np.isnan(costs) | (costs == -np.inf))
    if len(invalid):
        fault = ("invalid", 0, *invalid[0])
        raise ValueError(
            f"{op}: {_checks.cost_fault('cost_matrix', np.asarray(cost_matrix), fault)}"
        )
    rows, columns = costs.shape
    if rows > columns:
        col_ind, row_ind = _match(costs.T, limit, forbid)
        order = np.argsort(row_ind)
        row_ind, col_ind = row_ind[order], col_ind[order]
    else:
        row_ind, col_ind = _match(costs, limit, forbid)
    if limit == np.inf and not forbid and len(row_ind) < min(rows, columns):
        fault = ("infeasible", 0, 0, 0)
        raise ValueError(
            f"{op}: {_checks.cost_fault('cost_matrix', np.asarray(cost_matrix), fault)}"
        )
    return row_ind, col_ind


def detr_match(
    logits: ArrayLike,
    boxes: ArrayLike,
    target_labels: Sequence[ArrayLike],
    target_boxes: Sequence[ArrayLike],
    *,
    cost_class: float = 1.0,
    cost_bbox: float = 5.0,
    cost_giou: float = 2.0,
    class_cost: Literal["softmax", "focal"] = "softmax",
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Match each image's queries to its objects at the least cost."""
    weights = (cost_class, cost_bbox, cost_giou)
    images = zip(logits, boxes, target_labels, target_boxes, strict=True)  # type: ignore[arg-type]
    return [
        linear_sum_assignment(detr_costs(*image, weights=weights, class_cost=class_cost))
        for image in images
    ]


def detr_costs(
    logits: ArrayLike,
    boxes: ArrayLike,
    target_labels: ArrayLike,
    target_boxes: ArrayLike,
    *,
    weights: tuple[float, float, float] = (1.0, 5.0, 2.0),
    class_cost: Literal["softmax", "focal"] = "softmax",
) -> Array:
    """Work out what each query of one image costs for each object, (Q, T)."""
    scores, box = np.asarray(logits, np.float64), np.asarray(boxes, np.float64)
    labels, objects = np.asarray(target_labels, np.int64), np.asarray(target_boxes, np.float64)
    cost_class, cost_bbox, cost_giou = weights
    if class_cost == "softmax":
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        by_class = -(exponentials / exponentials.sum(axis=1, keepdims=True))[:, labels]
    else:
        p, other = 1 / (1 + np.exp(-scores[:, labels])), 1 / (1 + np.exp(scores[:, labels]))
        by_class = 0.25 * other**2 * -np.log(p + 1e-8) - 0.75 * p**2 * -np.log(other + 1e-8)
    distance = np.abs(box[:, None] - objects).sum(axis=2)
    giou = _generalised_iou(box[:, None], objects[None])
    result: Array = cost_bbox * distance + cost_class * by_class - cost_giou * giou
    return result


def _generalised_iou(first: Array, second: Array) -> Array:
    low, high = first[..., :2] - first[..., 2:] / 2, first[..., :2] + first[..., 2:] / 2
    low2, high2 = second[..., :2] - second[..., 2:] / 2, second[..., :2] + second[..., 2:] / 2
    both = np.prod(np.maximum(np.minimum(high, high2) - np.maximum(low, low2), 0), axis=-1)
    either = np.prod(high - low, axis=-1) + np.prod(high2 - low2, axis=-1) - both
    hull = np.prod(np.maximum(np.maximum(high, high2) - np.minimum(low, low2), 0), axis=-1)
    result: Array = np.divide(both, either, out=np.zeros_like(either), where=either != 0)
    result -= np.divide(hull - either, hull, out=np.zeros_like(hull), where=hull != 0)
    return result


def _match(costs: Array, limit: float, forbid: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the cheapest way for each row in turn to get a column, if need be another row's."""
    rows, columns = costs.shape
    if limit < np.inf or forbid:
        # A column for each row alone, at the limit or at a price that nobody pays without need.
        if limit == np.inf:
            finite = np.abs(costs[np.isfinite(costs)])
            limit = 4.0 * (rows + 1) * float(finite.max(initial=0.0)) + 1
        alone = np.full((rows, rows), np.inf)
        np.fill_diagonal(alone, limit)
        costs = np.hstack([costs, alone])
    u, v = np.zeros(rows), np.zeros(costs.shape[1])
    row_of = np.full(costs.shape[1], -1)
    for row in range(rows):
        distance = np.full(costs.shape[1], np.inf)
        previous = np.full(costs.shape[1], -1)
        seen = np.zeros(costs.shape[1], bool)
        i, shortest, path = row, 0.0, [(row, 0.0)]
        while True:
            through_i = shortest + costs[i] - u[i] - v
            closer = ~seen & (through_i < distance)
            distance[closer], previous[closer] = through_i[closer], i
            j = int(np.argmin(np.where(seen, np.inf, distance)))
            shortest = distance[j]
            seen[j] = True
            if row_of[j] < 0 or shortest == np.inf:
                break
            i = row_of[j]
            path.append((i, shortest))
        if shortest == np.inf:
            continue
        for i, reached in path:
            u[i] += shortest - reached
        v[seen] -= shortest - distance[seen]
        while True:  # hand each column on the way to the row before
            i = previous[j]
            row_of[j], j = i, int(np.flatnonzero(row_of == i)[0]) if i != row else -1
            if i == row:
                break
    col_ind = np.full(rows, -1)
    col_ind[row_of[:columns][row_of[:columns] >= 0]] = np.flatnonzero(row_of[:columns] >= 0)
    row_ind = np.flatnonzero(col_ind >= 0)
    return row_ind, col_ind[row_ind]
