"""The functions without gradients: matchings of tensors' values.

Eager calls are NumPy's functions on views of the tensors. In graphs (`torch.compile` and
`torch.export`) there are operators, ``torch.ops.fastcv.linear_sum_assignment`` and so on. Their
results' shapes follow from the arguments' shapes, except where the number of pairs depends on the
costs: a graph has a size of its own for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fastcv._gradients import PLAIN
from fastcv.torch import _cuda
from fastcv.torch._ops import LIBRARY, as_tensors, describe

_least: Any = torch.sym_min  # of sizes, which may be symbols
_most: Any = torch.sym_max


def _values(name: str, value: Any) -> Any:
    """NumPy's views of all tensors in an argument."""
    if isinstance(value, torch.Tensor):
        if not value.is_cpu:
            raise ValueError(
                f"{name}: tensors must be on the CPU, since this build has no kernels for other "
                f"devices, got a tensor on {value.device}"
            )
        if value.dtype is torch.bfloat16:  # NumPy has no such dtype
            value = value.float()
        return value.detach().resolve_neg().numpy()
    if isinstance(value, (list, tuple)):
        return [_values(name, each) for each in value]
    return value


def _run(name: str, *args: Any, **keywords: Any) -> Any:
    if any(map(_cuda.has, (*args, *keywords.values()))) and _cuda.takes(name):
        return _cuda.run_plain(name, args, keywords)
    values = [_values(name, value) for value in args]
    named = {key: _values(name, value) for key, value in keywords.items()}
    return as_tensors(PLAIN[name](*values, **named))


# In graphs


def _operator(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define an operator of graphs: what it computes, and what shapes its results have."""
    name = schema[: schema.index("(")]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, kernel, "CPU")
    if _cuda.takes(name):
        LIBRARY.impl(name, kernel, "CUDA")
    torch.library.register_fake(f"fastcv::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.fastcv, name).default


def _assign(
    cost_matrix: torch.Tensor,
    maximize: bool,
    cost_limit: float | None,
    nan_policy: str,
    return_duals: bool,
) -> list[torch.Tensor]:
    options = {"cost_limit": cost_limit, "nan_policy": nan_policy, "return_duals": return_duals}
    return list(_run("linear_sum_assignment", cost_matrix, maximize, **options))


def _shapes_of_assign(
    cost_matrix: torch.Tensor,
    maximize: bool,
    cost_limit: float | None,
    nan_policy: str,
    return_duals: bool,
) -> list[torch.Tensor]:
    rows, columns = _axes("linear_sum_assignment", "cost_matrix", cost_matrix, 2)
    pairs = _least(rows, columns)
    if cost_limit is not None or nan_policy != "raise":
        pairs = torch.library.get_ctx().new_dynamic_size()
    results = [cost_matrix.new_empty(pairs, dtype=torch.int64) for _ in range(2)]
    if return_duals:
        results += [cost_matrix.new_empty(n, dtype=torch.float64) for n in (rows, columns)]
    return results


def _assign_batch(
    costs: Sequence[torch.Tensor],
    sizes: torch.Tensor | None,
    maximize: bool,
    cost_limit: float | None,
    nan_policy: str,
    one_array: bool,
) -> torch.Tensor:
    given = costs[0] if one_array else costs
    options = {"cost_limit": cost_limit, "nan_policy": nan_policy}
    result: torch.Tensor = _run("linear_sum_assignment_batch", given, sizes, maximize, **options)
    return result


def _shape_of_assign_batch(
    costs: Sequence[torch.Tensor],
    sizes: torch.Tensor | None,
    maximize: bool,
    cost_limit: float | None,
    nan_policy: str,
    one_array: bool,
) -> torch.Tensor:
    name = "linear_sum_assignment_batch"
    if one_array:
        problems, rows, _ = _axes(name, "costs", costs[0], 3)
    else:
        problems = len(costs)
        rows = 0
        for i, each in enumerate(costs):
            rows = _most(rows, _axes(name, f"costs[{i}]", each, 2)[0])
    return costs[0].new_empty((problems, rows), dtype=torch.int64)


def _match(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    target_labels: Sequence[torch.Tensor],
    target_boxes: Sequence[torch.Tensor],
    weights: Sequence[float],
    class_cost: str,
    return_cost: bool,
) -> list[torch.Tensor]:
    options = dict(zip(("cost_class", "cost_bbox", "cost_giou"), weights, strict=True))
    found = _run(
        "detr_match",
        logits,
        boxes,
        target_labels,
        target_boxes,
        class_cost=class_cost,
        return_cost=return_cost,
        **options,
    )
    matches, *cost = found if return_cost else (found,)
    return [each for pair in matches for each in pair] + cost


def _shapes_of_match(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    target_labels: Sequence[torch.Tensor],
    target_boxes: Sequence[torch.Tensor],
    weights: Sequence[float],
    class_cost: str,
    return_cost: bool,
) -> list[torch.Tensor]:
    images, queries, _ = _axes("detr_match", "logits", logits, 3)
    results: list[torch.Tensor] = []
    for labels in target_labels:
        pairs = _least(queries, *_axes("detr_match", "target_labels", labels, 1))
        results += [logits.new_empty(pairs, dtype=torch.int64) for _ in range(2)]
    if return_cost:
        results.append(logits.new_empty(images, dtype=torch.float64))
    return results


def _axes(function: str, name: str, tensor: torch.Tensor, count: int) -> Sequence[int]:
    if tensor.ndim != count:
        raise ValueError(f"{function}: {name} must have {count} axes, got {tensor.ndim}")
    return tensor.shape


_assign_operator = _operator(
    "linear_sum_assignment(Tensor cost_matrix, bool maximize, float? cost_limit, str nan_policy, "
    "bool return_duals) -> Tensor[]",
    _assign,
    _shapes_of_assign,
)
_batch_operator = _operator(
    "linear_sum_assignment_batch(Tensor[] costs, Tensor? sizes, bool maximize, float? cost_limit, "
    "str nan_policy, bool one_array) -> Tensor",
    _assign_batch,
    _shape_of_assign_batch,
)
_match_operator = _operator(
    "detr_match(Tensor logits, Tensor boxes, Tensor[] target_labels, Tensor[] target_boxes, "
    "float[] weights, str class_cost, bool return_cost) -> Tensor[]",
    _match,
    _shapes_of_match,
)


def _given(value: Any) -> torch.Tensor:
    return torch.as_tensor(value).detach()


def _assign_in_graph(
    cost_matrix: Any,
    maximize: bool = False,
    *,
    cost_limit: float | None = None,
    nan_policy: str = "raise",
    return_duals: bool = False,
) -> tuple[torch.Tensor, ...]:
    cost = _given(cost_matrix)
    return tuple(_assign_operator(cost, maximize, cost_limit, nan_policy, return_duals))


def _assign_batch_in_graph(
    costs: Any,
    sizes: Any = None,
    maximize: bool = False,
    *,
    cost_limit: float | None = None,
    nan_policy: str = "raise",
) -> Any:
    one_array = isinstance(costs, torch.Tensor)
    arrays = [costs.detach()] if one_array else [_given(each) for each in costs]
    used = None if sizes is None else _given(sizes)
    return _batch_operator(arrays, used, maximize, cost_limit, nan_policy, one_array)


def _match_in_graph(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    target_labels: Sequence[Any],
    target_boxes: Sequence[Any],
    *,
    cost_class: float = 1.0,
    cost_bbox: float = 5.0,
    cost_giou: float = 2.0,
    class_cost: str = "softmax",
    return_cost: bool = False,
) -> Any:
    found = _match_operator(
        logits.detach(),
        boxes.detach(),
        [_given(each) for each in target_labels],
        [_given(each) for each in target_boxes],
        (cost_class, cost_bbox, cost_giou),
        class_cost,
        return_cost,
    )
    count = 2 * len(target_labels)
    matches = list(zip(found[0:count:2], found[1:count:2], strict=True))
    return (matches, found[count]) if return_cost else matches


_IN_GRAPHS: dict[str, Callable[..., Any]] = {
    "linear_sum_assignment": _assign_in_graph,
    "linear_sum_assignment_batch": _assign_batch_in_graph,
    "detr_match": _match_in_graph,
}


def _function(name: str) -> Callable[..., Any]:
    """Return what the user calls."""
    in_graph = _IN_GRAPHS[name]

    def function(*args: Any, **keywords: Any) -> Any:
        if torch.compiler.is_compiling():
            return in_graph(*args, **keywords)
        return _run(name, *args, **keywords)

    describe(
        function,
        PLAIN[name],
        f"`fastcv.{name}` for tensors: the same arguments. Its results have no gradients.",
    )
    return function


MATCHINGS = {name: _function(name) for name in PLAIN}
