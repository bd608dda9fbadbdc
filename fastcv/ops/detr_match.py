"""The matching between predictions and objects that DETR is trained with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcv import _checks, _core
from fastcv.ops._device import run_on_device

Matches: TypeAlias = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


@overload
def detr_match(
    logits: NDArray[Any],
    boxes: NDArray[Any],
    target_labels: Sequence[ArrayLike],
    target_boxes: Sequence[NDArray[Any]],
    *,
    cost_class: float = 1.0,
    cost_bbox: float = 5.0,
    cost_giou: float = 2.0,
    class_cost: Literal["softmax", "focal"] = "softmax",
    return_cost: Literal[False] = False,
) -> Matches: ...
@overload
def detr_match(
    logits: NDArray[Any],
    boxes: NDArray[Any],
    target_labels: Sequence[ArrayLike],
    target_boxes: Sequence[NDArray[Any]],
    *,
    cost_class: float = 1.0,
    cost_bbox: float = 5.0,
    cost_giou: float = 2.0,
    class_cost: Literal["softmax", "focal"] = "softmax",
    return_cost: Literal[True],
) -> tuple[Matches, NDArray[np.float64]]: ...
def detr_match(
    logits: NDArray[Any],
    boxes: NDArray[Any],
    target_labels: Sequence[ArrayLike],
    target_boxes: Sequence[NDArray[Any]],
    *,
    cost_class: float = 1.0,
    cost_bbox: float = 5.0,
    cost_giou: float = 2.0,
    class_cost: Literal["softmax", "focal"] = "softmax",
    return_cost: bool = False,
) -> Matches | tuple[Matches, NDArray[np.float64]]:
    """Match each image's queries to its objects at the least cost, for a whole batch.

    Parameters
    ----------
    logits : ndarray, shape (B, Q, K), float32 or float64
        Scores of K classes for each of Q queries of each of B images, with any strides.
    boxes : ndarray, shape (B, Q, 4)
        Predicted boxes as (cx, cy, w, h) in units of the image's size. Same dtype as `logits`.
    target_labels : sequence of B array_likes of int, shape (T_b,)
        Class of each object of each image, from 0 to K - 1.
    target_boxes : sequence of B ndarrays, shape (T_b, 4)
        Their boxes, in the form and dtype of `boxes`.
    cost_class, cost_bbox, cost_giou : float, optional
        Weights of the three parts of a cost.
    class_cost : {"softmax", "focal"}, optional
        The first part: DETR's [1]_, by probabilities over the classes, or Deformable DETR's [2]_,
        by the focal loss.
    return_cost : bool, optional
        Return the costs of the matchings as well.

    Returns
    -------
    list of B tuples (query_index, target_index)
        ndarrays of int64, shape (min(Q, T_b),): the pairs of each image, in order of the queries.
    cost : ndarray of float64, shape (B,)
        Only with `return_cost`: the sum over each image's pairs.

    Raises
    ------
    TypeError
        If `logits`, `boxes` or one of `target_boxes` is not an ndarray of float32 or float64, if
        their dtypes differ, if labels are no integers, or if a weight is not a real number.
    ValueError
        If shapes do not fit, if `class_cost` is unknown, if a weight is not finite, or if a cost
        comes out as NaN or infinite.
    IndexError
        If a label is less than 0 or not less than K.
    MemoryError
        If memory for the result or for scratch cannot be had.

    See Also
    --------
    linear_sum_assignment_batch : The same for costs of one's own.

    Notes
    -----
    The cost of query q for object t is, with the L1 distance of (cx, cy, w, h) and the generalised
    intersection over union [3]_ of the boxes::

        cost_bbox * l1(q, t) - cost_giou * giou(q, t) + cost_class * c(q, t)

    where c is ``-softmax(logits[q])[label]``, or for "focal", with p the sigmoid of the label's
    logit, ``0.25 * (1 - p)**2 * -log(p + 1e-8) - 0.75 * p**2 * -log(1 - p + 1e-8)``. Boxes without
    an area have a finite generalised IoU: what would be 0 / 0 counts as 0.

    Costs are computed in the dtype of the arrays, for pairs of one image only, and written where
    the solver reads them. All decoder layers of a model go in one call: stack their predictions to
    (layers * B, Q, ...) and repeat the lists of targets.

    References
    ----------
    .. [1] N. Carion et al., "End-to-end object detection with transformers", ECCV 2020.
    .. [2] X. Zhu et al., "Deformable DETR", ICLR 2021.
    .. [3] H. Rezatofighi et al., "Generalized intersection over union", CVPR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> logits = np.array([[[0.0, 4.0], [4.0, 0.0], [0.0, 0.0]]])
    >>> boxes = np.array([[[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.3], [0.5, 0.5, 1.0, 1.0]]])
    >>> labels = [np.array([0, 1])]
    >>> objects = [np.array([[0.7, 0.6, 0.3, 0.4], [0.3, 0.3, 0.2, 0.2]])]
    >>> fastcv.detr_match(logits, boxes, labels, objects)
    [(array([0, 1]), array([1, 0]))]
    """
    weights = _checks.detr_weights(cost_class, cost_bbox, cost_giou)
    focal = _checks.detr_class_cost(class_cost)
    targets = _checks.detr_targets(logits, boxes, target_labels, target_boxes)
    if targets is None:
        found: Matches = run_on_device("detr_match", locals())
        return found
    images, queries, _ = logits.shape
    pairs_begin = np.zeros(images + 1, np.int64)
    np.cumsum(np.minimum(np.diff(targets.begin), queries), out=pairs_begin[1:])
    query, target = np.empty((2, pairs_begin[-1]), np.int64)
    cost = np.empty(images)
    try:
        _core.detr_match(
            logits,
            boxes,
            targets.labels,
            targets.boxes,
            targets.begin,
            pairs_begin,
            *weights,
            focal,
            query,
            target,
            cost,
        )
    except _core.CostError as error:
        raise ValueError(_checks.detr_fault(error.args)) from None
    ends = pairs_begin.tolist()
    matches = [(query[first:last], target[first:last]) for first, last in pairwise(ends)]
    return (matches, cost) if return_cost else matches
