"""Every entry of the table as a torch operator, an autograd function and a Python function.

How a call goes, from the cheapest way to the most general:

1. Plain CPU tensors, no gradient wanted, nobody watching: NumPy views, the kernel, a tensor.
2. Under `torch.compile` or `torch.export`: the operator, which they put into their graph. Its fake
   kernel tells shapes and strides, its registered gradient is made of operators.
3. Otherwise: a `torch.autograd.Function`. In contrast to an operator's registered gradient it works
   under `torch.func`, whose transforms it reaches through `setup_context` and a vmap rule.

Both 2 and 3 take their formula from the table, and end at 1 or in the operator's CPU kernel, which
is the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from fastcv import _layout
from fastcv._gradients import (
    TABLE,
    Arrays,
    Backward,
    Batch,
    Functions,
    Op,
    Parameters,
    Result,
)
from fastcv.torch import _cuda

# Torch frees what belongs to a library with the library, so this module keeps it.
LIBRARY: Any = torch.library.Library("fastcv", "DEF")  # type: ignore[no-untyped-call]
KINDS = {
    "boolean": "bool",
    "integer": "int",
    "optional integer": "int?",
    "integers": "int[]",
    "shape": "SymInt[]",
    "optional shape": "SymInt[]?",
    "number": "float",
    "optional number": "float?",
    "name": "str",
    "optional name": "str?",
}
PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter)
FLOATS = (torch.float32, torch.float64)
_HALVES = (torch.float16, torch.bfloat16)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# What a kernel may read somewhere; which array may be what is for the op's own checks to say.
_READABLE = frozenset((*FLOATS, *_INTEGERS, torch.bool))

_OPERATORS: dict[str, Callable[..., Any]] = {}
_AUTOGRAD: dict[str, type[torch.autograd.Function]] = {}


# Tensors and arrays


def _check(op: Op, arrays: Arrays) -> None:
    for name, tensor in zip(op.arrays, arrays, strict=True):
        if tensor is None and name in op.optional:
            continue
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(
                f"{op.name}: {name} must be a torch.Tensor, got {type(tensor).__name__}"
            )
        on_device = tensor.is_cuda and _cuda.takes(op.name)
        if tensor.device.type not in ("cpu", "meta") and not on_device:
            raise ValueError(
                f"{op.name}: {name} must be on the CPU, since this build has no kernels for other "
                f"devices, got a tensor on {tensor.device}"
            )
        if tensor.layout is not torch.strided:
            raise TypeError(f"{op.name}: {name} must be a dense tensor, got {tensor.layout}")
        if name in op.integers:
            if tensor.dtype not in _INTEGERS:
                raise TypeError(
                    f"{op.name}: {name}.dtype must be an integer type, got {tensor.dtype}"
                )
        elif on_device and tensor.dtype in _HALVES:
            continue
        elif tensor.dtype not in FLOATS and not (name in op.masks and tensor.dtype is torch.bool):
            raise TypeError(
                f"{op.name}: {name}.dtype must be float32 or float64, got {tensor.dtype}"
            )


def _run(op: Op, arrays: Arrays, parameters: Parameters) -> Any:
    if any(tensor is not None and tensor.is_cuda for tensor in arrays):
        return _cuda.run(op.name, arrays, parameters)
    return as_tensors(op.run(*map(view, arrays), *parameters))


def as_tensors(results: Any) -> Any:
    """Tensors over the memory of NumPy's arrays: of one, or of several in any nest of tuples."""
    if isinstance(results, np.ndarray):
        return torch.from_numpy(results)
    return type(results)(map(as_tensors, results))


def view(tensor: torch.Tensor | None) -> Any:
    """NumPy's view of a tensor's memory."""
    if tensor is None:
        return None
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


def empty(
    shape: Sequence[int], like: torch.Tensor, keeps_layout: bool, dtype: str | None
) -> torch.Tensor:
    """Return a new result for tensors that may have no memory and symbolic sizes."""
    kind = like.dtype if dtype is None else getattr(torch, dtype)
    if len(shape) < 3 or not keeps_layout or not _is_channels_last(like):
        return like.new_empty(shape, dtype=kind)
    *batch, channels, height, width = shape
    memory = like.new_empty((*batch, height, width, channels), dtype=kind)
    return memory.permute((0, 3, 1, 2) if batch else (2, 0, 1))


def _dtype_of(result: Result, named: dict[str, Any], like: torch.Tensor) -> str | None:
    if result.wide and like.dtype in _HALVES:
        return "float32"
    return result.dtype and named[result.dtype]


def _is_channels_last(tensor: torch.Tensor) -> bool:
    if tensor.is_contiguous():
        return False
    return _layout.steps_are_channels_last(tensor.shape, tensor.stride())


# The three ways


def needs_gradient(arrays: Arrays) -> bool:
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in arrays
    )


def serves(*tensors: torch.Tensor | None) -> bool:
    """Whether modules may compute with these tensors, in whatever mode they are called."""
    return (
        not torch.is_autocast_enabled("cpu")
        and not _in_forward_mode()
        and all(
            tensor is None
            or (isinstance(tensor, torch.Tensor) and tensor.is_cpu and tensor.dtype in FLOATS)
            for tensor in tensors
        )
    )


def _in_forward_mode() -> bool:
    """Whether tensors may have tangents, which torch has no public way to ask."""
    return forward_ad._current_level >= 0


def _only_result_on_device(arrays: Arrays) -> bool:
    """Whether nobody will ask for a gradient of a call on a device, which is never plain."""
    return (
        arrays[0].is_cuda
        and not needs_gradient(arrays)
        and not torch._C._are_functorch_transforms_active()
    )


def is_plain(arrays: Arrays) -> bool:
    """Whether a call's tensors are memory that NumPy can see, and nothing but the result counts."""
    wants_gradient = False
    for tensor in arrays:
        if tensor is None:
            continue
        if type(tensor) not in PLAIN_TENSORS or tensor.dtype not in _READABLE or not tensor.is_cpu:
            return False
        if tensor.layout is not torch.strided or tensor.is_neg() or tensor.is_nested:
            return False
        wants_gradient = wants_gradient or tensor.requires_grad
    return not ((wants_gradient and torch.is_grad_enabled()) or is_watched())


def is_watched() -> bool:
    """Whether a transform, a mode or a tracer looks on, which torch has no public way to ask."""
    return bool(
        torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state()
        or _in_forward_mode()
    )


def _call(name: str, *arguments: Any) -> Any:
    """Run an op on arrays and parameters in the table's form."""
    if torch.compiler.is_compiling():
        return _OPERATORS[name](*arguments)
    op = TABLE[name]
    arrays = arguments[: len(op.arrays)]
    if is_plain(arrays):
        return _run(op, arrays, arguments[len(op.arrays) :])
    return _AUTOGRAD[name].apply(*arguments)  # type: ignore[no-untyped-call]


_CALLS: Functions = {name: functools.partial(_call, name) for name in TABLE}


def _cast(arrays: Arrays) -> Arrays:
    """Inside autocast: compute in float32, as torch does with what it has no lower kernel for."""
    return tuple(
        tensor.float() if isinstance(tensor, torch.Tensor) and tensor.dtype in _HALVES else tensor
        for tensor in arrays
    )


def _function(op: Op) -> Callable[..., Any]:
    """Return what the user calls."""
    names = [parameter.name for parameter in _shown(op.public)]
    # Arrays that come first, in the table's order as in the user's; the others have keywords.
    count = sum(name == array for name, array in zip(names, op.arrays, strict=False))
    required = len(op.arrays) - len(op.optional)

    def function(*args: Any, **keywords: Any) -> Any:
        if not torch.compiler.is_compiling() and len(args) >= required and "out" not in keywords:
            arrays = args[:count]
            named = [name for name in op.arrays if name in keywords] if keywords else ()
            if named:
                arrays = (*arrays, *(keywords[name] for name in named))
            if is_plain(arrays):
                # The same call, with NumPy's views of the tensors: it checks all the rest.
                views = map(view, args[:count])
                more = {name: view(keywords[name]) for name in named}
                return as_tensors(op.public(*views, *args[count:], **(keywords | more)))
        arrays, parameters, activation, chosen = op.arguments(*args, **keywords)
        if torch.is_autocast_enabled("cpu"):
            arrays = _cast(arrays)
        _check(op, arrays)
        compiles = torch.compiler.is_compiling() and not needs_gradient(arrays)
        as_asked = compiles or _only_result_on_device(arrays)
        if activation is not None and as_asked:
            return _call(op.name, *arrays, *op.fused(parameters, activation))
        results = _call(
            op.name, *arrays, *(parameters if as_asked else op.for_gradients(parameters))
        )
        if len(op.results) > 1:
            found = tuple(results[position] for position in chosen)
            return found if len(found) > 1 else found[0]
        if activation is None:
            return results
        name, *slope = (activation,) if isinstance(activation, str) else activation
        return getattr(torch.nn.functional, name)(results, *slope)

    describe(
        function,
        op.public,
        f"`fastcv.{op.name}` for tensors: the same arguments without `out`, and differentiable.",
    )
    return function


def _shown(public: Callable[..., Any]) -> list[inspect.Parameter]:
    return [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(public).parameters.values()
        if parameter.name != "out"
    ]


def describe(function: Any, public: Callable[..., Any], text: str) -> None:
    function.__name__ = function.__qualname__ = public.__name__
    function.__module__ = "fastcv.torch"
    function.__signature__ = inspect.Signature(_shown(public))
    function.__doc__ = text


def _register(op: Op) -> None:
    """Define the operator, with all that torch wants to know about it."""
    arrays = [f"Tensor{'?' * (name in op.optional)} {name}" for name in op.arrays]
    parameters = [f"{KINDS[kind]} {name}" for name, kind in op.parameters.items()]
    several = len(op.results) > 1
    returned = f"({', '.join(['Tensor'] * len(op.results))})" if several else "Tensor"
    LIBRARY.define(
        f"{op.name}({', '.join(arrays + parameters)}) -> {returned}",
        tags=(torch.Tag.pt2_compliant_tag,),
    )
    count = len(op.arrays)
    unused = [i for i, result in enumerate(op.results) if not result.differentiable]

    def kernel(*arguments: Any) -> Any:
        _check(op, arguments[:count])
        return _run(op, arguments[:count], arguments[count:])

    def fake(*arguments: Any) -> Any:
        _check(op, arguments[:count])
        shapes = tuple(None if tensor is None else tensor.shape for tensor in arguments[:count])
        found = op.shape(shapes, arguments[count:])
        named = dict(zip(op.parameters, arguments[count:], strict=True))
        like = arguments[op.layout_of or 0]
        results = tuple(
            empty(shape, like, op.layout_of is not None, _dtype_of(result, named, like))
            for shape, result in zip(found if several else (found,), op.results, strict=True)
        )
        return results if several else results[0]

    def setup_context(ctx: Any, inputs: Arrays, output: Any) -> None:
        results = output if several else (output,)
        ctx.save_for_backward(*inputs[:count], *(results[i] for i in op.saves))
        ctx.parameters = inputs[count:]
        ctx.set_materialize_grads(False)
        if unused:
            ctx.mark_non_differentiable(*(results[i] for i in unused))

    def backward(ops: Functions, ctx: Any, *grads: torch.Tensor | None) -> Arrays:
        if all(grad is None for grad in grads):
            return (None,) * (count + len(ctx.parameters))
        saved = dict(zip(op.saves, ctx.saved_tensors[count:], strict=True))
        call = Backward(
            ops,
            torch,
            ctx.needs_input_grad[:count],
            grads,
            ctx.saved_tensors[:count],
            tuple(saved.get(i) for i in range(len(op.results))),
            ctx.parameters,
        )
        gradients = op.gradients(call)
        return (*gradients, *(None for _ in ctx.parameters))

    def vmap(
        ops: Functions, info: Any, axes: Sequence[int | None], *arguments: Any
    ) -> tuple[Any, Any]:
        tensors = tuple(
            tensor if axis is None else tensor.movedim(axis, 0)
            for tensor, axis in zip(arguments[:count], axes, strict=False)
        )
        flags = [axis is not None for axis in axes[:count]]
        size, parameters = info.batch_size, arguments[count:]
        results = op.batched(Batch(ops, torch, size, tensors, flags, parameters))
        return results, (0,) * len(op.results) if several else 0

    operator = getattr(torch.ops.fastcv, op.name).default
    name = f"fastcv::{op.name}"
    LIBRARY.impl(op.name, kernel, "CPU")
    if op.name in _cuda.FLAT:
        LIBRARY.impl(op.name, kernel, "CUDA")
    torch.library.register_fake(name, fake, lib=LIBRARY)
    torch.library.register_autograd(
        name,
        functools.partial(backward, _OPERATORS),
        setup_context=setup_context,
        lib=LIBRARY,
    )
    torch.library.register_vmap(name, functools.partial(vmap, _OPERATORS), lib=LIBRARY)
    _OPERATORS[op.name] = operator

    def forward(*arguments: Any) -> Any:
        arrays = arguments[:count]
        if is_plain(arrays):
            return _run(op, arrays, arguments[count:])
        return operator(*arguments)

    _AUTOGRAD[op.name] = type(
        f"fastcv_{op.name}",
        (torch.autograd.Function,),
        {
            "forward": staticmethod(forward),
            "setup_context": staticmethod(setup_context),
            "backward": staticmethod(functools.partial(backward, _CALLS)),
            "vmap": staticmethod(functools.partial(vmap, _CALLS)),
        },
    )


for _op in TABLE.values():
    _register(_op)


FUNCTIONS = {name: _function(op) for name, op in TABLE.items()}
