"""Predictions and objects as DETR's matcher gets them, for the tests and the benchmarks alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


def problem(
    images: int,
    queries: int,
    classes: int,
    objects: int,
    dtype: Any = np.float32,
    *,
    trained: bool = False,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Predictions, and up to so many objects an image; trained ones have found most of them."""
    rng = np.random.default_rng(seed)

    def boxes(*shape: int) -> np.ndarray:
        return np.concatenate(
            [rng.uniform(0.2, 0.8, (*shape, 2)), rng.uniform(0.02, 0.4, (*shape, 2))], axis=-1
        ).astype(dtype)

    logits = rng.standard_normal((images, queries, classes)).astype(dtype)
    predicted = boxes(images, queries)
    counts = rng.integers(0, objects + 1, images)
    labels = [rng.integers(0, max(classes - 1, 1), count) for count in counts]
    targets = [boxes(count) for count in counts]
    if trained:
        logits[..., -1] += 6
        for image, count in enumerate(counts):
            found = rng.permutation(queries)[:count]
            used = min(count, queries)
            logits[image, found, labels[image][:used]] += 9
            predicted[image, found] = targets[image][:used] + 0.01 * rng.standard_normal(
                (used, 4)
            ).astype(dtype)
    return logits, predicted, labels, targets


@dataclass(frozen=True)
class Case:
    """The predictions of a model's decoder layers, all matched with the same objects."""

    name: str
    images: int
    queries: int
    classes: int
    objects: int  # of an image, at most
    layers: int = 1
    class_cost: str = "softmax"
    trained: bool = False
    tags: frozenset[str] = frozenset()

    def arrays(self) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Float32 predictions (layers * images, Q, ..), and the objects of the images."""
        each = [
            problem(
                self.images,
                self.queries,
                self.classes,
                self.objects,
                trained=self.trained,
                seed=layer,
            )
            for layer in range(self.layers)
        ]
        logits, boxes = (np.concatenate([layer[k] for layer in each]) for k in (0, 1))
        return logits, boxes, each[0][2], each[0][3]


def _cases() -> tuple[Case, ...]:
    models = (("detr", 16, 100, 92, 20, "softmax"), ("deformable", 4, 900, 91, 30, "focal"))
    cases = [
        Case(
            f"{name} {images} x {queries}" + (", 6 layers" if layers == 6 else ""),
            images,
            queries,
            classes,
            objects,
            layers,
            class_cost,
            layers == 6,
            frozenset({name}),
        )
        for name, images, queries, classes, objects, class_cost in models
        for layers in (1, 6)
    ]
    return (
        *cases,
        Case("softmax 4 x 900", 4, 900, 92, 30, tags=frozenset({"detr"})),
        Case("one image", 1, 100, 92, 20, tags=frozenset({"detr"})),
        Case("crowded 2 x 300", 2, 300, 91, 120, 6, "focal", tags=frozenset({"deformable"})),
        Case("many classes 8 x 300", 8, 300, 1204, 20, tags=frozenset({"detr"})),
    )


CASES = _cases()


def published(
    torch: Any, tensors: Any, weights: tuple[float, float, float], class_cost: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """DETR's own matcher, on tensors: one matrix for all pairs of the batch, solved by SciPy."""
    from scipy.optimize import linear_sum_assignment

    logits, boxes, labels, targets = tensors
    images, queries = logits.shape[:2]
    box, ids, target = boxes.flatten(0, 1), torch.cat(labels), torch.cat(targets)
    if class_cost == "softmax":
        by_class = -logits.flatten(0, 1).softmax(-1)[:, ids]
    else:
        p = logits.flatten(0, 1).sigmoid()
        negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
        positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
        by_class = positive[:, ids] - negative[:, ids]

    def corners(b: Any) -> Any:
        return torch.cat([b[:, :2] - 0.5 * b[:, 2:], b[:, :2] + 0.5 * b[:, 2:]], dim=1)

    a, b = corners(box), corners(target)
    area = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b)]
    inner = (torch.min(a[:, None, 2:], b[:, 2:]) - torch.max(a[:, None, :2], b[:, :2])).clamp(min=0)
    inter = inner[..., 0] * inner[..., 1]
    union = area[0][:, None] + area[1] - inter
    outer = torch.max(a[:, None, 2:], b[:, 2:]) - torch.min(a[:, None, :2], b[:, :2])
    hull = outer[..., 0] * outer[..., 1]
    giou = inter / union - (hull - union) / hull
    on_class, on_box, on_giou = weights
    cost = on_box * torch.cdist(box, target, p=1) + on_class * by_class - on_giou * giou
    parts = cost.view(images, queries, -1).split([len(label) for label in labels], -1)
    return [linear_sum_assignment(part[i]) for i, part in enumerate(parts)]
