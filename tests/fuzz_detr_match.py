"""Random predictions and objects: detr_match against its reference, its costs and its promises.

    python tests/fuzz_detr_match.py                      until something fails
    python tests/fuzz_detr_match.py --seconds 60         for a minute
    python tests/fuzz_detr_match.py --seed 7 --first 40  from example 40 of another one

A failure prints the example as a call that repeats it. The suite runs the first few hundred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fuzzing
import numpy as np
from cases.detr_match import problem
from layouts import LAYOUTS

import fastcv
from fastcv import reference


@dataclass(frozen=True)
class Example:
    """A batch of images, and how it is put."""

    seed: int
    sizes: tuple[int, int, int, int]  # images, queries, classes, objects at most
    dtype: str
    layout: str
    weights: tuple[float, float, float]
    class_cost: str
    trained: bool
    degenerate: float  # share of boxes without an area, or with a negative one
    logit_scale: float
    threads: int


def draw(seed: int) -> Example:
    """The example that belongs to this seed."""
    rng = np.random.default_rng(seed)

    def pick(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    most = pick(3, 20, 20, 70, 300)
    images, classes = pick(0, 1, 2, 5), pick(1, 2, 5, 17, 92)
    queries, objects = int(rng.integers(0, most + 1)), int(rng.integers(0, pick(3, 12, 50) + 1))
    return Example(
        seed=seed,
        sizes=(images, queries, classes, objects),
        dtype=pick("float32", "float64"),
        layout=pick("contiguous", pick(*LAYOUTS)),
        weights=pick(
            (1.0, 5.0, 2.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (-2.0, 3.0, 0.5)
        ),
        class_cost=pick("softmax", "focal"),
        trained=bool(pick(False, True)),
        degenerate=pick(0.0, 0.0, 0.3, 1.0),
        logit_scale=pick(1.0, 1.0, 0.0, 30.0),
        threads=pick(1, 2, 5),
    )


def check(example: Example) -> None:
    """The function on this example; AssertionError where it is wrong."""
    rng = np.random.default_rng([example.seed, 1])
    logits, boxes, labels, targets = problem(
        *example.sizes, example.dtype, trained=example.trained, seed=example.seed
    )
    logits = (logits * example.logit_scale).astype(example.dtype)
    for array in (boxes, *targets):
        spoilt = rng.random(array.shape[:-1]) < example.degenerate
        array[spoilt, 2 + rng.integers(2)] = 0
        array[spoilt & (rng.random(spoilt.shape) < 0.3), 2:] *= -0.5
        array[spoilt & (rng.random(spoilt.shape) < 0.2), 2:] = 0
    place = LAYOUTS[example.layout]
    options: dict[str, Any] = {"class_cost": example.class_cost}
    names = ("cost_class", "cost_bbox", "cost_giou")
    options |= dict(zip(names, example.weights, strict=True))
    fastcv.set_num_threads(example.threads)
    matches, summed = fastcv.detr_match(
        place(logits.shape, logits.dtype).filled(logits),
        place(boxes.shape, boxes.dtype).filled(boxes),
        labels,
        targets,
        **options,
        return_cost=True,
    )
    assert len(matches) == len(summed) == example.sizes[0]
    eps = float(np.finfo(example.dtype).eps)
    for image, (query, target) in enumerate(matches):
        one = slice(image, image + 1)
        arrays = logits[image], boxes[image], labels[image], targets[image]
        if example.sizes[1] == 0:
            assert len(query) == len(target) == 0
            continue
        cost = reference.detr_costs(*arrays, weights=example.weights, class_cost=example.class_cost)
        pairs = min(cost.shape)
        assert len(query) == len(set(target)) == pairs and (np.diff(query) > 0).all()
        # A cost is the sum of a few terms, each as exact as its dtype, and a box that nearly has no
        # area leaves little of the digits of a union.
        terms = sum(map(abs, example.weights)) * (4 + example.logit_scale)
        each = 64 * eps * (terms + float(np.abs(cost).max(initial=0)))
        if example.degenerate and example.weights[2]:
            each = max(each, 2e-3 if example.dtype == "float32" else 1e-9)
        tolerance = (1 + pairs) * each
        least = float(cost[reference.linear_sum_assignment(cost)].sum())
        got = float(cost[query, target].sum())
        assert abs(got - least) <= tolerance, f"image {image} costs {got}, not {least}"
        assert abs(got - summed[image]) <= tolerance, f"{summed[image]} is not its cost, {got}"
        (alone,), _ = fastcv.detr_match(
            logits[one], boxes[one], labels[one], targets[one], **options, return_cost=True
        )
        assert (alone[0] == query).all() and (alone[1] == target).all(), "not the same alone"


if __name__ == "__main__":
    fuzzing.main(draw, check, __doc__)
