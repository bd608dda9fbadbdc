"""The shapes of matchings, which a framework's graph has to know before there are any costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Graph(NamedTuple):
    """How a framework makes a result, and reckons with sizes, which may be symbols."""

    result: Callable[..., Any]  # of a dtype's name and sizes
    pairs_unknown: Callable[[], Any]  # a size that depends on the costs, or an error
    least: Callable[[Any, Any], Any] = min
    most: Callable[[Any, Any], Any] = max


def _axes(function: str, name: str, array: Any, count: int) -> Any:
    shape = np.shape(array)
    if len(shape) != count:
        raise ValueError(f"{function}: {name} must have {count} axes, got {len(shape)}")
    return shape


def _assignment(given: Mapping[str, Any], graph: Graph) -> Any:
    rows, columns = _axes("linear_sum_assignment", "cost_matrix", given["cost_matrix"], 2)
    depends = given["cost_limit"] is not None or given["nan_policy"] != "raise"
    pairs = graph.pairs_unknown() if depends else graph.least(rows, columns)
    matched = graph.result("int64", pairs), graph.result("int64", pairs)
    if not given["return_duals"]:
        return matched
    return (*matched, graph.result("float64", rows), graph.result("float64", columns))


def _batch(given: Mapping[str, Any], graph: Graph) -> Any:
    name, costs = "linear_sum_assignment_batch", given["costs"]
    if not isinstance(costs, (list, tuple)):
        return graph.result("int64", *_axes(name, "costs", costs, 3)[:2])
    rows = 0
    for i, each in enumerate(costs):
        rows = graph.most(rows, _axes(name, f"costs[{i}]", each, 2)[0])
    return graph.result("int64", len(costs), rows)


def _match(given: Mapping[str, Any], graph: Graph) -> Any:
    images, queries, _ = _axes("detr_match", "logits", given["logits"], 3)
    matches = []
    for i, labels in enumerate(given["target_labels"]):
        (objects,) = _axes("detr_match", f"target_labels[{i}]", labels, 1)
        pairs = graph.least(queries, objects)
        matches.append((graph.result("int64", pairs), graph.result("int64", pairs)))
    return (matches, graph.result("float64", images)) if given["return_cost"] else matches


# By the function's name: its results, in the form in which it returns them.
RESULTS: dict[str, Callable[[Mapping[str, Any], Graph], Any]] = {
    "linear_sum_assignment": _assignment,
    "linear_sum_assignment_batch": _batch,
    "detr_match": _match,
}
