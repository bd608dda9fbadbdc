"""Assignment, and DETR's matching."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastcv._checks.arrays import FLOATS, equal_shapes, float_arrays, on_device
from fastcv._checks.values import Shape, describe, real


def cost_matrix(op: str, name: str, value: Any) -> NDArray[Any] | None:
    """Return costs as a 2-D array of float32 or float64 in native byte order, as they are if so.

    Whatever else NumPy casts safely to float64, lists included, is cast. The texts hold SciPy's.
    None: they are on a device.
    """
    if type(value) is np.ndarray:
        costs: NDArray[Any] = value
    elif on_device(value):
        return None
    else:
        costs = np.asarray(value)
    if costs.ndim != 2:
        cost_axes(op, name, costs.shape)
    return _real_costs(op, name, costs)


def cost_axes(op: str, name: str, shape: Shape) -> None:
    """Require two axes."""
    if len(shape) != 2:
        raise ValueError(
            f"{op}: expected a matrix (2-D array) as {name}, got a {len(shape)}-D array of shape "
            f"{shape}"
        )


def _real_costs(op: str, name: str, costs: NDArray[Any]) -> NDArray[Any]:
    if costs.dtype in FLOATS:
        return costs
    if not np.can_cast(costs.dtype, np.float64, "safe"):
        raise TypeError(
            f"{op}: Cannot cast array data from {costs.dtype!r} to dtype('float64') according to "
            f"the rule 'safe', {name} must have real numbers"
        )
    return costs.astype(np.float64)


def cost_matrices(op: str, value: Any) -> NDArray[Any] | list[NDArray[Any]] | None:
    """Return the costs of many problems: an array with three axes, or a list of matrices.

    None: they, or some of them, are on a device.
    """
    if isinstance(value, np.ndarray):
        batch_axes(op, value.shape)
        return _real_costs(op, "costs", value)
    if not isinstance(value, (list, tuple)):
        if on_device(value):
            return None
        raise TypeError(
            f"{op}: costs must be a numpy.ndarray with 3 axes or a list of matrices, got "
            f"{type(value).__name__}"
        )
    matrices = []
    for index, given in enumerate(value):
        costs = cost_matrix(op, f"costs[{index}]", given)
        if costs is None:
            return None
        matrices.append(costs)
    return matrices


def batch_axes(op: str, shape: Shape) -> None:
    """Require three axes."""
    if len(shape) != 3:
        raise ValueError(
            f"{op}: costs must be an array with 3 axes (B, n, m) or a list of matrices, got "
            f"{len(shape)} axes (costs {shape})"
        )


def problem_sizes(
    op: str, value: Any, costs: NDArray[Any] | Sequence[Any]
) -> NDArray[np.int64] | None:
    """Return the used part of each problem as a contiguous (B, 2), or None for all of it.

    Of a list of costs only their shapes are looked at.
    """
    if value is None:
        return None
    sizes: NDArray[Any] = np.asarray(value)
    expected = (len(costs), 2)
    if sizes.shape != expected:
        raise ValueError(f"{op}: sizes.shape must equal (B, 2), got {sizes.shape} != {expected}")
    if sizes.dtype.kind not in "iu" and sizes.size:
        raise TypeError(f"{op}: sizes.dtype must be an integer type, got {sizes.dtype}")
    shapes = (
        np.broadcast_to(costs.shape[1:], expected)
        if isinstance(costs, np.ndarray)
        else np.array([each.shape for each in costs], np.int64).reshape(expected)
    )
    wrong = np.argwhere((sizes < 0) | (sizes > shapes))
    if len(wrong):
        problem, axis = (int(index) for index in wrong[0])
        raise ValueError(
            f"{op}: sizes[{problem}, {axis}] must be from 0 to {shapes[problem, axis]}, the size "
            f"of costs[{problem}], got {sizes[problem, axis]}"
        )
    return np.ascontiguousarray(sizes, np.int64)


def cost_limit(op: str, value: Any, maximize: bool) -> float:
    """Return the limit as a float, which is infinite where there is none."""
    if value is None:
        return -math.inf if maximize else math.inf
    limit = real(op, "cost_limit", value)
    if math.isnan(limit):
        raise ValueError(f"{op}: cost_limit must be a number or None, got nan")
    return limit


def nan_policy(op: str, value: Any) -> bool:
    """Return whether NaN pairs are forbidden rather than refused."""
    if isinstance(value, str) and value in ("raise", "forbid"):
        return value == "forbid"
    wrong = ValueError if isinstance(value, str) else TypeError
    raise wrong(f"{op}: nan_policy must be 'raise' or 'forbid', got {describe(value)}")


def cost_fault(name: str, costs: NDArray[Any], fault: tuple[str, int, int, int]) -> str:
    """Say what the kernel found wrong with a matrix, in SciPy's words and then in numbers."""
    kind, _, row, column = fault
    if kind == "invalid":
        return (
            f"matrix contains invalid numeric entries, got {name}[{row}, {column}] = "
            f"{costs[row, column]}"
        )
    rows, columns = costs.shape
    return (
        f"cost matrix is infeasible: the finite costs of {name} ({rows} x {columns}) match fewer "
        f"than {min(rows, columns)} pairs"
    )


_LATE = {
    "label": (IndexError, "a label was not from 0 to logits.shape[2] - 1"),
    "sizes": (ValueError, "a number of sizes was not from 0 to the size of its costs"),
    "invalid": (
        ValueError,
        "a matrix contains invalid numeric entries: NaN, or an infinity of the wrong sign",
    ),
    "infeasible": (ValueError, "a cost matrix is infeasible: its finite costs match too few pairs"),
}


def late_assignment_error(op: str, device: int, fault: str) -> Exception:
    """Of a device, which found it after the call had returned."""
    error, text = _LATE[fault]
    return error(
        f"{op}: {text}, in this call or an earlier one on device {device}, whose results there are "
        "-1 (with CUDA_LAUNCH_BLOCKING=1 the call that it was given to says so)"
    )


class DetrTargets(NamedTuple):
    """The objects of all images in a row; those of image b are from begin[b] on."""

    labels: NDArray[np.int64]
    boxes: NDArray[Any]
    begin: NDArray[np.int64]


def detr_weights(cost_class: Any, cost_bbox: Any, cost_giou: Any) -> tuple[float, float, float]:
    """Return the weights of a cost's parts as finite floats."""
    named = {"cost_class": cost_class, "cost_bbox": cost_bbox, "cost_giou": cost_giou}
    weights = {name: real("detr_match", name, value) for name, value in named.items()}
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise ValueError(f"detr_match: {name} must be finite, got {weight}")
    return weights["cost_class"], weights["cost_bbox"], weights["cost_giou"]


def detr_class_cost(value: Any) -> bool:
    """Return whether classes cost by the focal loss."""
    if isinstance(value, str) and value in ("softmax", "focal"):
        return value == "focal"
    wrong = ValueError if isinstance(value, str) else TypeError
    raise wrong(f"detr_match: class_cost must be 'softmax' or 'focal', got {describe(value)}")


def detr_shapes(logits: Shape, boxes: Shape, target_labels: Any, target_boxes: Any) -> None:
    """Check the shapes of predictions against each other, and that there are as many targets."""
    op = "detr_match"
    if len(logits) != 3:
        raise ValueError(
            f"{op}: logits must have 3 axes (B, Q, K), got {len(logits)} (logits {logits})"
        )
    images, queries, _ = logits
    relation = "(B, Q, 4) with logits.shape = (B, Q, K)"
    equal_shapes(op, "boxes.shape", boxes, relation, (images, queries, 4))
    for name, each in (("target_labels", target_labels), ("target_boxes", target_boxes)):
        if not isinstance(each, (list, tuple)):
            raise TypeError(f"{op}: {name} must be a list of arrays, got {type(each).__name__}")
        if len(each) != images:
            raise ValueError(
                f"{op}: len({name}) must equal logits.shape[0], got {len(each)} != {images}"
            )


def detr_image_shapes(image: int, labels: Shape, boxes: Shape) -> None:
    """Check the shapes of one image's objects."""
    op = "detr_match"
    if len(labels) != 1:
        raise ValueError(
            f"{op}: target_labels[{image}] must have 1 axis (T,), got {len(labels)} axes"
        )
    relation = f"(T, 4) with target_labels[{image}].shape = (T,)"
    equal_shapes(op, f"target_boxes[{image}].shape", boxes, relation, (*labels, 4))


def detr_targets(
    logits: Any, boxes: Any, target_labels: Any, target_boxes: Any
) -> DetrTargets | None:
    """Check predictions and objects against each other, and join the objects of all images.

    None: the predictions are on a device.
    """
    op = "detr_match"
    if float_arrays(op, {"logits": logits, "boxes": boxes}, True):
        return None
    detr_shapes(logits.shape, boxes.shape, target_labels, target_boxes)
    images, _, classes = logits.shape
    begin = np.zeros(images + 1, np.int64)
    labels: list[NDArray[Any]] = []
    for image, given in enumerate(target_labels):
        label: NDArray[Any] = np.asarray(given)
        if label.ndim != 1:
            detr_image_shapes(image, label.shape, ())
        if label.dtype.kind not in "iu" and label.size:
            raise TypeError(
                f"{op}: target_labels[{image}].dtype must be an integer type, got {label.dtype}"
            )
        box = target_boxes[image]
        if not isinstance(box, np.ndarray) or box.dtype != logits.dtype:
            float_arrays(op, {"logits": logits, f"target_boxes[{image}]": box})
        if box.shape != (len(label), 4):
            detr_image_shapes(image, label.shape, box.shape)
        labels.append(label)
        begin[image + 1] = begin[image] + len(label)
    if begin[-1] == 0:
        return DetrTargets(np.empty(0, np.int64), np.empty((0, 4), logits.dtype), begin)
    all_labels: NDArray[Any] = np.concatenate(labels)
    wrong = (all_labels < 0) | (all_labels >= classes)
    if wrong.any():
        first = int(np.argmax(wrong))
        image = int(np.searchsorted(begin, first, "right")) - 1
        raise IndexError(
            f"{op}: target_labels[{image}][{first - begin[image]}] must be from 0 to "
            f"logits.shape[2] - 1 = {classes - 1}, got {all_labels[first]}"
        )
    return DetrTargets(
        all_labels.astype(np.int64, copy=False),
        np.ascontiguousarray(np.concatenate(target_boxes)),
        begin,
    )


def detr_fault(fault: tuple[str, int, int, int]) -> str:
    """Say whose cost is not finite."""
    kind, image, target, query = fault
    if kind == "infeasible":
        return f"detr_match: costs must be finite, got infinite ones in image {image}"
    return (
        f"detr_match: costs must be finite, got another one in image {image} for query {query} "
        f"and target {target}"
    )
