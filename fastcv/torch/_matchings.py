"""The functions without gradients: matchings of tensors' values.

Calls with plain tensors are NumPy's functions on views of them. In graphs (`torch.compile` and
`torch.export`), and where a transform or a mode looks on, there are operators,
``torch.ops.fastcv.linear_sum_assignment`` and so on. Their results' shapes follow from the
arguments' shapes, except where the number of pairs depends on the costs: a graph has a size of its
own for that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree

from fastcv._gradients import PLAIN
from fastcv._gradients.matching_shapes import RESULTS, Graph, check_options
from fastcv.torch import _cuda
from fastcv.torch._ops import LIBRARY, PLAIN_TENSORS, as_tensors, describe, is_watched


def _check_device(name: str, tensor: torch.Tensor) -> None:
    if not (tensor.is_cpu or tensor.is_meta or (tensor.is_cuda and _cuda.takes(name))):
        raise ValueError(
            f"{name}: tensors must be on the CPU, since this build has no kernels for other "
            f"devices, got a tensor on {tensor.device}"
        )


def _values(name: str, value: Any) -> Any:
    """NumPy's views of all tensors in an argument."""
    if isinstance(value, torch.Tensor):
        _check_device(name, value)
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

# The functions' own parameters, of which all are given, and whether the costs are one array.
_SCHEMAS = {
    "linear_sum_assignment": "(Tensor cost_matrix, bool maximize, float? cost_limit, "
    "str nan_policy, bool return_duals) -> Tensor[]",
    "linear_sum_assignment_batch": "(Tensor[] costs, Tensor? sizes, bool maximize, "
    "float? cost_limit, str nan_policy, bool one_array) -> Tensor[]",
    "detr_match": "(Tensor logits, Tensor boxes, Tensor[] target_labels, Tensor[] target_boxes, "
    "float cost_class, float cost_bbox, float cost_giou, str class_cost, bool return_cost) "
    "-> Tensor[]",
}


def _pairs_unknown() -> Any:
    return torch.library.get_ctx().new_dynamic_size()


def _operator(name: str) -> Any:
    """Define the operator of graphs: all results of the function in one list."""
    LIBRARY.define(name + _SCHEMAS[name], tags=(torch.Tag.pt2_compliant_tag,))
    operator = getattr(torch.ops.fastcv, name).default
    names = [argument.name for argument in operator._schema.arguments]

    def given(arguments: Sequence[Any]) -> dict[str, Any]:
        named = dict(zip(names, arguments, strict=True))
        if named.pop("one_array", False):
            (named["costs"],) = named["costs"]
        return named

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def kernel(*arguments: Any) -> list[torch.Tensor]:
        results = pytree.tree_leaves(_run(name, **given(arguments)))
        # An operator's results share no memory.
        return [each.clone() if each._is_view() else each for each in results]

    def fake(*arguments: Any) -> list[torch.Tensor]:
        tensors = [each for each in pytree.tree_leaves(arguments) if torch.is_tensor(each)]
        for tensor in tensors:
            _check_device(name, tensor)

        # A tensor without values makes results that have none either.
        device = next((each.device for each in tensors if each.is_meta), tensors[0].device)

        def result(dtype: str, *shape: Any) -> torch.Tensor:
            return torch.empty(shape, dtype=getattr(torch, dtype), device=device)

        graph = Graph(result, _pairs_unknown, torch.sym_min, torch.sym_max)
        return pytree.tree_leaves(RESULTS[name](given(arguments), graph))

    LIBRARY.impl(name, kernel, "CPU")
    LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
    if _cuda.takes(name):
        LIBRARY.impl(name, kernel, "CUDA")
    torch.library.register_fake(f"fastcv::{name}", fake, lib=LIBRARY)
    return operator


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, np.ndarray) and not torch.compiler.is_compiling():
        value = np.array(value, value.dtype.newbyteorder("="))  # torch takes neither other order
    return torch.as_tensor(value).detach()


def _by_operator(name: str) -> Callable[..., Any]:
    """Return the function by way of its operator, bound in a way that graphs can record."""
    operator = _operator(name)
    parameters = inspect.signature(PLAIN[name]).parameters
    defaults = {
        key: parameter.default
        for key, parameter in parameters.items()
        if parameter.default is not parameter.empty
    }
    order = [key for key, each in parameters.items() if each.kind is not each.KEYWORD_ONLY]
    kinds = {argument.name: str(argument.type) for argument in operator._schema.arguments}
    several = [key for key, kind in kinds.items() if kind == "List[Tensor]"]
    single = [key for key, kind in kinds.items() if "Tensor" in kind and key not in several]

    def function(*args: Any, **keywords: Any) -> Any:
        if len(args) > len(order):
            raise TypeError(f"{name}: takes {len(order)} arguments by position, got {len(args)}")
        for key in order[: len(args)]:
            if key in keywords:
                raise TypeError(f"{name}: got {key} by position and by name")
        named = {**defaults, **dict(zip(order, args, strict=False)), **keywords}
        for key in named:
            if key not in parameters:
                raise TypeError(f"{name}: got an unexpected argument {key!r}")
        for key in parameters:
            if key not in named:
                raise TypeError(f"{name}: {key} is missing")
        check_options(name, named)
        if name == "linear_sum_assignment_batch":
            named["one_array"] = isinstance(named["costs"], (torch.Tensor, np.ndarray))
            if named["one_array"]:
                named["costs"] = [named["costs"]]
            elif len(named["costs"]) == 0 and named["sizes"] is None:
                return torch.empty((0, 0), dtype=torch.int64)
        for key in single:
            if named[key] is not None:
                named[key] = _tensor(named[key])
        for key in several:
            if not isinstance(named[key], (list, tuple)):
                kind = type(named[key]).__name__
                raise TypeError(f"{name}: {key} must be a list of arrays, got {kind}")
            named[key] = [_tensor(each) for each in named[key]]
        found = operator(**named)
        if name == "linear_sum_assignment":
            return tuple(found)
        if name == "linear_sum_assignment_batch":
            return found[0]
        count = 2 * len(named["target_labels"])
        matches = list(zip(found[0:count:2], found[1:count:2], strict=True))
        return (matches, found[count]) if named["return_cost"] else matches

    return function


def _function(name: str) -> Callable[..., Any]:
    """Return what the user calls."""
    by_operator = _by_operator(name)

    def function(*args: Any, **keywords: Any) -> Any:
        if (
            torch.compiler.is_compiling()
            or is_watched()
            or not (_have_values(args) and _have_values(keywords.values()))
        ):
            return by_operator(*args, **keywords)
        return _run(name, *args, **keywords)

    describe(
        function,
        PLAIN[name],
        f"`fastcv.{name}` for tensors: the same arguments. Its results have no gradients.",
    )
    return function


def _have_values(values: Iterable[Any]) -> bool:
    return all(map(_has_values, values))


def _has_values(value: Any) -> bool:
    """Whether all tensors in an argument are memory that can be read."""
    if isinstance(value, (list, tuple)):
        return _have_values(value)
    if isinstance(value, torch.Tensor):
        return type(value) in PLAIN_TENSORS and not value.is_meta
    return True


MATCHINGS = {name: _function(name) for name in PLAIN}
