"""Assignment on a device: the arguments and results of the functions for NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise, starmap
from typing import Any, NamedTuple

from fastcv import _checks
from fastcv.cuda._extension import extension
from fastcv.cuda._memory import Framework, Memory, checked, same_device

_COSTS = ("float32", "float64")
# What is read as another type, which holds all its numbers but for those of 64 bits beyond 2**53.
_WIDENED = dict.fromkeys(("float16", "bfloat16"), "float32") | dict.fromkeys(
    ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"), "float64"
)
_INTEGERS = tuple(name for name in _WIDENED if "int" in name)
# Columns are counted twice in 32 bits.
_MOST = 2**30


class _Held(NamedTuple):
    """An array that has to stay until the work on it is queued, and its memory."""

    array: Any
    memory: Memory


def raise_late(fault: str, op: str, device: int) -> None:
    """Raise what `take_assignment_fault` says, if anything."""
    if fault:
        raise _checks.late_assignment_error(op, device, fault)


def _cost_array(framework: Framework, op: str, name: str, array: Any) -> _Held:
    dtype = framework.memory(array).dtype
    if dtype in _WIDENED:
        array = framework.cast(array, _WIDENED[dtype])
    elif dtype not in _COSTS:
        raise TypeError(
            f"{op}: Cannot cast array data from {dtype} to float64 according to the rule 'safe', "
            f"{name} must have real numbers"
        )
    memory = checked(framework, op, name, array, _COSTS)
    for axis, size in enumerate(memory.shape):
        if size >= _MOST:
            raise ValueError(
                f"{op}: {name}.shape[{axis}] must be less than 2**30 on a device, got {size}"
            )
    return _Held(array, memory)


def _cost_matrix(framework: Framework, op: str, name: str, array: Any) -> _Held:
    if not framework.has(array):
        raise TypeError(
            f"{op}: {name} must be an array on a device, as others are, got {type(array).__name__}"
        )
    _checks.cost_axes(op, name, framework.memory(array).shape)
    return _cost_array(framework, op, name, array)


def _problem(memory: Memory, shape: Sequence[int]) -> tuple[Any, ...]:
    return memory.address, memory.strides[-2:], *shape


def _solve(
    framework: Framework,
    op: str,
    held: _Held,
    problems: Any,
    sizes: int,
    ask: tuple[bool, bool, float],
    columns: tuple[int, int],
    pairs: Sequence[int],
) -> None:
    """Queue the work on problems like that array's, or raise what an earlier call found."""
    kernels = extension()
    dtype = getattr(kernels.Dtype, held.memory.dtype)
    workspace_bytes = kernels.assignment_workspace_bytes(problems, dtype, ask)
    workspace = framework.empty((workspace_bytes,), "uint8", held.array)
    device = held.memory.device
    fault = kernels.linear_sum_assignment(
        problems,
        sizes,
        dtype,
        ask,
        columns,
        pairs,
        framework.memory(workspace).address,
        (device, framework.stream(held.array)),
    )
    raise_late(fault, op, device)


def linear_sum_assignment(
    framework: Framework,
    cost_matrix: Any,
    maximize: Any = False,
    *,
    cost_limit: Any = None,
    nan_policy: Any = "raise",
    return_duals: Any = False,
) -> tuple[Any, ...]:
    op = "linear_sum_assignment"
    maximize = bool(maximize)
    held = _cost_matrix(framework, op, "cost_matrix", cost_matrix)
    limit = _checks.cost_limit(op, cost_limit, maximize)
    forbid_nan = _checks.nan_policy(op, nan_policy)
    rows, columns = held.memory.shape
    most = min(rows, columns)
    like = held.array
    found = [framework.empty((most,), "int64", like) for _ in range(2)]
    duals = [framework.empty((n,), "float64", like) for n in (rows, columns) if return_duals]
    # Only where pairs may be fewer does their number have to be known here, and waited for.
    partial = forbid_nan or limit != (-math.inf if maximize else math.inf)
    count = framework.empty((1,), "int64", like) if partial else None
    results = [*found, count, *(duals or (None, None))]
    addresses = [0 if each is None else framework.memory(each).address for each in results]
    problem = (_problem(held.memory, (rows, columns)), 1, 0)
    _solve(framework, op, held, problem, 0, (maximize, forbid_nan, limit), (0, 0), addresses)
    if count is not None:
        pairs = framework.number(count)
        raise_late(extension().take_assignment_fault(held.memory.device), op, held.memory.device)
        found = [each[:pairs] for each in found]
    return *found, *duals


def linear_sum_assignment_batch(
    framework: Framework,
    costs: Any,
    sizes: Any = None,
    maximize: Any = False,
    *,
    cost_limit: Any = None,
    nan_policy: Any = "raise",
) -> Any:
    op = "linear_sum_assignment_batch"
    maximize = bool(maximize)
    alike = framework.has(costs)
    if alike:
        _checks.batch_axes(op, framework.memory(costs).shape)
        held = [_cost_array(framework, op, "costs", costs)]
        whole = held[0].memory
        count, most_rows, most_columns = whole.shape
    else:
        held = _one_dtype(framework, op, costs)
        count, most_rows = len(held), max(each.memory.shape[0] for each in held)
    of_device = sizes is not None and framework.has(sizes)
    if of_device:
        sizes = _device_sizes(framework, op, sizes, held[0].memory, count)
    problems: Any
    if alike and (of_device or sizes is None):
        problems = (_problem(whole, (most_rows, most_columns)), count, whole.strides[0])
    else:
        matrices = _matrices(whole) if alike else [each.memory for each in held]
        used = _checks.problem_sizes(op, None if of_device else sizes, matrices)
        shapes = [each.shape for each in matrices] if used is None else used.tolist()
        problems = list(starmap(_problem, zip(matrices, shapes, strict=True)))
    limit = _checks.cost_limit(op, cost_limit, maximize)
    forbid_nan = _checks.nan_policy(op, nan_policy)
    result = framework.empty((count, most_rows), "int64", held[0].array)
    _solve(
        framework,
        op,
        held[0],
        problems,
        framework.memory(sizes).address if of_device else 0,
        (maximize, forbid_nan, limit),
        (framework.memory(result).address, most_rows),
        (0,) * 5,
    )
    return result


def _matrices(whole: Memory) -> list[Memory]:
    """Return each matrix of (B, n, m)."""
    count, *shape = whole.shape
    return [
        whole._replace(address=whole.address + index * whole.strides[0], shape=tuple(shape))
        for index in range(count)
    ]


def _one_dtype(framework: Framework, op: str, costs: Any) -> list[_Held]:
    """Return a list's matrices, all of the widest type among them."""
    if not isinstance(costs, (list, tuple)):
        raise TypeError(
            f"{op}: costs must be an array with 3 axes or a list of matrices, got "
            f"{type(costs).__name__}"
        )
    held = [
        _cost_matrix(framework, op, f"costs[{index}]", each) for index, each in enumerate(costs)
    ]
    for index, each in enumerate(held):
        same_device(op, f"costs[{index}]", each.memory, "costs[0]", held[0].memory)
    if len({each.memory.dtype for each in held}) == 1:
        return held
    wide = [framework.cast(each.array, "float64") for each in held]
    return [_Held(each, framework.memory(each)) for each in wide]


def _device_sizes(framework: Framework, op: str, sizes: Any, costs: Memory, count: int) -> Any:
    memory = framework.memory(sizes)
    expected = (count, 2)
    _checks.equal_shapes(op, "sizes.shape", memory.shape, "(B, 2)", expected)
    if memory.dtype not in _INTEGERS:
        raise TypeError(f"{op}: sizes.dtype must be an integer type, got {memory.dtype}")
    same_device(op, "sizes", memory, "costs", costs)
    return framework.cast(sizes, "int64")


def detr_match(
    framework: Framework,
    logits: Any,
    boxes: Any,
    target_labels: Any,
    target_boxes: Any,
    *,
    cost_class: Any = 1.0,
    cost_bbox: Any = 5.0,
    cost_giou: Any = 2.0,
    class_cost: Any = "softmax",
    return_cost: Any = False,
) -> Any:
    op = "detr_match"
    weights = _checks.detr_weights(cost_class, cost_bbox, cost_giou)
    focal = _checks.detr_class_cost(class_cost)
    predicted = _on_device(framework, op, "logits", logits, _COSTS)
    dtypes = (predicted.dtype,)
    box = _on_device(framework, op, "boxes", boxes, dtypes, predicted)
    _checks.detr_shapes(predicted.shape, box.shape, target_labels, target_boxes)
    images, queries, _ = predicted.shape
    held = []
    for image, (label, objects) in enumerate(zip(target_labels, target_boxes, strict=True)):
        name = f"target_labels[{image}]"
        given = _on_device(framework, op, name, label, _INTEGERS, predicted)
        name = f"target_boxes[{image}]"
        at = _on_device(framework, op, name, objects, dtypes, predicted)
        _checks.detr_image_shapes(image, given.shape, at.shape)
        labels = label if given.dtype == "int64" else framework.cast(label, "int64")
        held.append((_Held(labels, framework.memory(labels)), at))
    counts = [at.shape[0] for _, at in held]
    ends = list(accumulate((min(count, queries) for count in counts), initial=0))
    problems = [
        (at.address, at.strides, each.memory.address, *each.memory.strides, queries, count, first)
        for (each, at), count, first in zip(held, counts, ends, strict=False)
    ]
    both = framework.empty((2, ends[-1]), "int64", logits)
    pairs = (both[0], both[1])
    cost = framework.empty((images,), "float64", logits) if return_cost else None
    kernels = extension()
    dtype = getattr(kernels.Dtype, predicted.dtype)
    workspace_bytes = kernels.detr_match_workspace_bytes(predicted.shape, problems, dtype, focal)
    workspace = framework.empty((workspace_bytes,), "uint8", logits)
    fault = kernels.detr_match(
        predicted.shape,
        (predicted.address, predicted.strides),
        (box.address, box.strides),
        problems,
        dtype,
        weights,
        focal,
        [0 if each is None else framework.memory(each).address for each in (*pairs, cost)],
        framework.memory(workspace).address,
        (predicted.device, framework.stream(logits)),
    )
    raise_late(fault, op, predicted.device)
    matches = [tuple(each[first:last] for each in pairs) for first, last in pairwise(ends)]
    return (matches, cost) if return_cost else matches


def _on_device(
    framework: Framework,
    op: str,
    name: str,
    array: Any,
    dtypes: Sequence[str],
    logits: Memory | None = None,
) -> Memory:
    """Return the memory of an array that has to be where `logits` is."""
    if not framework.has(array):
        raise TypeError(
            f"{op}: {name} must be an array on a device, as others are, got {type(array).__name__}"
        )
    memory = checked(framework, op, name, array, dtypes)
    if logits is not None:
        same_device(op, name, memory, "logits", logits)
    return memory


# Functions without gradients, as fastcv._gradients.PLAIN has them.
PLAIN: dict[str, Callable[..., Any]] = {
    "linear_sum_assignment": linear_sum_assignment,
    "linear_sum_assignment_batch": linear_sum_assignment_batch,
    "detr_match": detr_match,
}
