"""detr_match against the published matcher, its reference, and costs worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases.detr_match import problem, published
from layouts import LAYOUTS

import fastcv
from fastcv import detr_match, reference

optimize = pytest.importorskip("scipy.optimize")


def total(cost: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]) -> float:
    return float(cost[pairs].sum())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("class_cost", ["softmax", "focal"])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [(5, 100, 92, 20), (3, 7, 5, 30), (2, 33, 2, 33), (4, 1, 3, 4), (2, 300, 17, 60)],
    ids=str,
)
def test_against_the_reference(
    sizes: tuple[int, int, int, int], trained: bool, class_cost: Any, dtype: Any
) -> None:
    arrays = problem(*sizes, dtype, trained=trained)
    options: dict[str, Any] = {"class_cost": class_cost, "cost_class": 2.0}
    costs = [
        reference.detr_costs(*image, weights=(2.0, 5.0, 2.0), class_cost=class_cost)
        for image in zip(*arrays, strict=True)
    ]
    matches, summed = detr_match(*arrays, **options, return_cost=True)
    eps = float(np.finfo(dtype).eps)
    for cost, pairs, by_image, right in zip(
        costs, matches, summed, reference.detr_match(*arrays, **options), strict=True
    ):
        query, target = pairs
        assert query.dtype == target.dtype == np.int64
        assert (np.diff(query) > 0).all() and len(set(target)) == len(target) == min(cost.shape)
        tolerance = 64 * eps * (1 + len(query)) * float(np.abs(cost).max(initial=0))
        assert total(cost, pairs) == pytest.approx(total(cost, right), abs=tolerance)
        assert by_image == pytest.approx(total(cost, pairs), abs=tolerance)
    assert summed.dtype == np.float64


@pytest.mark.parametrize("class_cost", ["softmax", "focal"])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("sizes", [(16, 100, 92, 20), (4, 900, 92, 30), (3, 10, 5, 25)], ids=str)
def test_the_published_matcher_agrees(
    sizes: tuple[int, int, int, int], trained: bool, class_cost: Any
) -> None:
    torch = pytest.importorskip("torch")
    for seed in range(3):
        logits, boxes, labels, targets = problem(*sizes, trained=trained, seed=seed)
        tensors = [torch.from_numpy(logits), torch.from_numpy(boxes)]
        tensors += [[torch.from_numpy(array) for array in arrays] for arrays in (labels, targets)]
        want = published(torch, tensors, (1.0, 5.0, 2.0), class_cost)
        matches = detr_match(logits, boxes, labels, targets, class_cost=class_cost)
        for got, right in zip(matches, want, strict=True):
            np.testing.assert_array_equal(got[0], right[0])
            np.testing.assert_array_equal(got[1], right[1])


def test_costs_worked_by_hand() -> None:
    # Two queries, one object. The classes are even, so both cost -1/2 there.
    logits = np.zeros((1, 2, 2))
    objects = [np.array([[0.5, 0.5, 0.4, 0.4]])]
    # The first query is shifted by half a width: L1 0.2; intersection 0.2 * 0.4 = 0.08, union
    # 0.24, hull the same: GIoU 1/3. The second is apart: L1 0.5 + 0.3 + 0.3 = 1.1 ...
    boxes = np.array([[[0.7, 0.5, 0.4, 0.4], [0.5, 0.0, 0.1, 0.1]]])
    # ... no intersection, union 0.17, hull 0.4 * 0.75 = 0.3: GIoU 0 - 0.13 / 0.3.
    first = 5 * 0.2 - 2 / 3 - 0.5
    second = 5 * 1.1 + 2 * 0.13 / 0.3 - 0.5
    matches, cost = detr_match(logits, boxes, [[1]], objects, return_cost=True)
    assert [pair.tolist() for pair in matches[0]] == [[0], [0]]
    assert cost[0] == pytest.approx(first)
    costs = reference.detr_costs(logits[0], boxes[0], [1], objects[0])
    np.testing.assert_allclose(costs[:, 0], [first, second])
    # Each weight on its own.
    for weights, want in (((1, 0, 0), -0.5), ((0, 1, 0), 0.2), ((0, 0, 1), -1 / 3)):
        names = dict(zip(("cost_class", "cost_bbox", "cost_giou"), weights, strict=True))
        _, cost = detr_match(logits[:, :1], boxes[:, :1], [[1]], objects, **names, return_cost=True)
        assert cost[0] == pytest.approx(want)


def test_degenerate_boxes_cost_a_finite_sum() -> None:
    logits = np.zeros((1, 3, 2), np.float32)
    boxes = np.array([[[0.5, 0.5, 0, 0], [0.5, 0.5, 0.2, 0], [0.1, 0.1, 0, 0.3]]], np.float32)
    for target in ([0.5, 0.5, 0, 0], [0.5, 0.5, 0.2, 0], [0.9, 0.2, 0, 0.1], [0, 0, 0, 0]):
        objects = [np.array([target], np.float32)]
        matches, cost = detr_match(logits, boxes, [[0]], objects, return_cost=True)
        assert np.isfinite(cost).all() and len(matches[0][0]) == 1
        want = reference.detr_costs(logits[0], boxes[0], [0], objects[0])
        assert np.isfinite(want).all()
        assert cost[0] == pytest.approx(want.min(), rel=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layouts(layout: str, dtype: Any) -> None:
    logits, boxes, labels, targets = problem(3, 20, 9, 8, dtype)
    place = LAYOUTS[layout]
    want = detr_match(logits, boxes, labels, targets)
    got = detr_match(
        place(logits.shape, dtype).filled(logits),
        place(boxes.shape, dtype).filled(boxes),
        labels,
        [place(target.shape, dtype).filled(target) for target in targets],
    )
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_threads_and_other_images_change_nothing(threads: Callable[[int], None]) -> None:
    logits, boxes, labels, targets = problem(40, 100, 40, 25)
    for class_cost in ("softmax", "focal"):
        threads(1)
        alone = [
            detr_match(
                logits[b : b + 1],
                boxes[b : b + 1],
                labels[b : b + 1],
                targets[b : b + 1],
                class_cost=class_cost,
                return_cost=True,
            )
            for b in range(40)
        ]
        for number in (1, 2, 5):
            threads(number)
            matches, cost = detr_match(
                logits, boxes, labels, targets, class_cost=class_cost, return_cost=True
            )
            assert cost.tolist() == [costs[0] for _, costs in alone]
            for pairs, (right, _) in zip(matches, alone, strict=True):
                np.testing.assert_array_equal(pairs, right[0])


@pytest.mark.parametrize("shape", [(0, 5, 4), (2, 0, 4), (2, 5, 4)])
def test_nothing_to_match(shape: tuple[int, int, int]) -> None:
    images, queries, _ = shape
    nothing = [np.empty((0, 4))] * images
    result = detr_match(np.ones(shape), np.ones((images, queries, 4)), [[]] * images, nothing)
    assert [(len(q), len(t)) for q, t in result] == [(0, 0)] * images
    if queries == 0 and images:
        objects = [np.ones((3, 4))] * images
        result = detr_match(np.ones(shape), np.ones((2, 0, 4)), [[0, 1, 2]] * 2, objects)
        assert [(len(q), len(t)) for q, t in result] == [(0, 0)] * images


def good() -> dict[str, Any]:
    logits, boxes, labels, targets = problem(3, 6, 5, 4, np.float64, seed=5)
    labels[1], targets[1] = np.array([0, 1]), np.full((2, 4), 0.25)
    return {"logits": logits, "boxes": boxes, "target_labels": labels, "target_boxes": targets}


BAD: list[tuple[str, Callable[[Any], Any], type[Exception], str]] = [
    ("logits", lambda x: x.tolist(), TypeError, "logits must be a numpy.ndarray"),
    ("logits", lambda x: x.astype(np.float16), TypeError, "logits.dtype must be float32"),
    ("logits", lambda x: x.astype(np.float32), TypeError, "boxes.dtype must equal logits.dtype"),
    ("logits", lambda x: x[0], ValueError, r"3 axes \(B, Q, K\), got 2"),
    ("boxes", lambda x: x[:, :5], ValueError, r"boxes.shape must equal .* \(3, 5, 4\)"),
    ("boxes", lambda x: x[..., :3], ValueError, r"got \(3, 6, 3\) != \(3, 6, 4\)"),
    ("target_labels", lambda x: x[:2], ValueError, r"len\(target_labels\) must equal .* 2 != 3"),
    ("target_boxes", lambda x: x[:2], ValueError, r"len\(target_boxes\) must equal .* 2 != 3"),
    ("target_labels", lambda x: None, TypeError, "target_labels must be a list"),
    ("target_boxes", lambda x: x[1], TypeError, "target_boxes must be a list"),
    ("target_labels", lambda x: [x[0], [[0, 1]], x[2]], ValueError, r"\[1\] must have 1 axis"),
    ("target_labels", lambda x: [x[0], [0.0, 1.0], x[2]], TypeError, "integer type, got float64"),
    ("target_labels", lambda x: [x[0], [0, 5], x[2]], IndexError, r"target_labels\[1\]\[1\] .* 5"),
    ("target_labels", lambda x: [x[0], [-1, 2], x[2]], IndexError, r"target_labels\[1\]\[0\] .*-1"),
    ("target_labels", lambda x: [x[0], [1], x[2]], ValueError, r"target_boxes\[1\].shape must"),
    ("target_boxes", lambda x: [x[0], x[1].tolist(), x[2]], TypeError, r"target_boxes\[1\] must"),
    ("target_boxes", lambda x: [x[0], x[1].astype("f4"), x[2]], TypeError, "!= float64"),
    ("cost_class", lambda x: "1", TypeError, "cost_class must be a real number"),
    ("cost_bbox", lambda x: math.nan, ValueError, "cost_bbox must be finite"),
    ("cost_giou", lambda x: math.inf, ValueError, "cost_giou must be finite"),
    ("class_cost", lambda x: "sigmoid", ValueError, "must be 'softmax' or 'focal', got 'sigmoid'"),
    ("class_cost", lambda x: None, TypeError, "must be 'softmax' or 'focal', got None"),
]


@pytest.mark.parametrize(("name", "change", "error", "text"), BAD)
def test_bad_input(
    name: str, change: Callable[[Any], Any], error: type[Exception], text: str
) -> None:
    arguments = good()
    arguments[name] = change(arguments.get(name))
    with pytest.raises(error, match="detr_match: .*" + text):
        detr_match(**arguments)


def test_costs_that_are_not_finite_are_named() -> None:
    for name, index, value in (
        ("logits", (1, 4, 1), np.nan),
        ("boxes", (1, 4, 2), np.nan),
        ("logits", (1, 4, 0), np.inf),
    ):
        arguments = good()
        arguments[name][index] = value
        with pytest.raises(ValueError, match=r"costs must be finite, .* image 1 for query 4"):
            detr_match(**arguments)
    arguments = good()
    arguments["boxes"][2] = np.nan  # nobody asks for the boxes of an image without objects
    arguments["target_labels"][2], arguments["target_boxes"][2] = [], np.empty((0, 4))
    assert len(fastcv.detr_match(**arguments)[2][0]) == 0
