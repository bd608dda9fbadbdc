"""The shapes of matchings, which a framework's graph has to know before there are any costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastcv import _checks


class Graph(NamedTuple):
    """How a framework makes a result, and reckons with sizes, which may be symbols."""

    result: Callable[..., Any]  # of a dtype's name and sizes
    pairs_unknown: Callable[[], Any]  # a size that depends on the costs, or an error
    least: Callable[[Any, Any], Any] = min
    most: Callable[[Any, Any], Any] = max


def check_options(op: str, given: Mapping[str, Any]) -> None:
    """Check what is neither an array nor a list of them."""
    if op == "detr_match":
        _checks.detr_weights(given["cost_class"], given["cost_bbox"], given["cost_giou"])
        _checks.detr_class_cost(given["class_cost"])
    else:
        _checks.cost_limit(op, given["cost_limit"], given["maximize"])
        _checks.nan_policy(op, given["nan_policy"])


def _assignment(given: Mapping[str, Any], graph: Graph) -> Any:
    op = "linear_sum_assignment"
    shape = np.shape(given["cost_matrix"])
    _checks.cost_axes(op, "cost_matrix", shape)
    depends = given["cost_limit"] is not None or given["nan_policy"] == "forbid"
    pairs = graph.pairs_unknown() if depends else graph.least(*shape)
    matched = graph.result("int64", pairs), graph.result("int64", pairs)
    if not given["return_duals"]:
        return matched
    return (*matched, *(graph.result("float64", size) for size in shape))


def _batch(given: Mapping[str, Any], graph: Graph) -> Any:
    op, costs = "linear_sum_assignment_batch", given["costs"]
    if not isinstance(costs, (list, tuple)):
        shape = np.shape(costs)
        _checks.batch_axes(op, shape)
        return graph.result("int64", *shape[:2])
    rows = 0
    for i, each in enumerate(costs):
        shape = np.shape(each)
        _checks.cost_axes(op, f"costs[{i}]", shape)
        rows = graph.most(rows, shape[0])
    return graph.result("int64", len(costs), rows)


def _match(given: Mapping[str, Any], graph: Graph) -> Any:
    logits, labels, boxes = np.shape(given["logits"]), given["target_labels"], given["target_boxes"]
    _checks.detr_shapes(logits, np.shape(given["boxes"]), labels, boxes)
    matches = []
    for image, (label, box) in enumerate(zip(labels, boxes, strict=True)):
        objects = np.shape(label)
        _checks.detr_image_shapes(image, objects, np.shape(box))
        pairs = graph.least(logits[1], objects[0])
        matches.append((graph.result("int64", pairs), graph.result("int64", pairs)))
    return (matches, graph.result("float64", logits[0])) if given["return_cost"] else matches


# By the function's name: its results, in the form in which it returns them. The options are right.
RESULTS: dict[str, Callable[[Mapping[str, Any], Graph], Any]] = {
    "linear_sum_assignment": _assignment,
    "linear_sum_assignment_batch": _batch,
    "detr_match": _match,
}
