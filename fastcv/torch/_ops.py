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

import torch

from fastcv import _layout
from fastcv._gradients import TABLE, Arrays, Functions, Op, Parameters

# Torch frees what belongs to a library with the library, so this module keeps it.
_LIBRARY: Any = torch.library.Library("fastcv", "DEF")  # type: ignore[no-untyped-call]
_KINDS = {
    "integer": "int",
    "integers": "int[]",
    "shape": "SymInt[]",
    "number": "float",
    "optional number": "float?",
    "name": "str",
    "optional name": "str?",
}
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_FLOATS = (torch.float32, torch.float64)
_HALVES = (torch.float16, torch.bfloat16)

_OPERATORS: dict[str, Callable[..., torch.Tensor]] = {}
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
        if tensor.device.type not in ("cpu", "meta"):
            raise ValueError(
                f"{op.name}: {name} must be on the CPU, since this build has no kernels for other "
                f"devices, got a tensor on {tensor.device}"
            )
        if tensor.layout is not torch.strided:
            raise TypeError(f"{op.name}: {name} must be a dense tensor, got {tensor.layout}")
        if tensor.dtype not in _FLOATS:
            raise TypeError(
                f"{op.name}: {name}.dtype must be float32 or float64, got {tensor.dtype}"
            )


def _run(op: Op, arrays: Arrays, parameters: Parameters) -> torch.Tensor:
    return torch.from_numpy(op.run(*map(_view, arrays), *parameters))


def _view(tensor: torch.Tensor | None) -> Any:
    """NumPy's view of a tensor's memory."""
    if tensor is None:
        return None
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


def _empty(shape: Sequence[int], like: torch.Tensor, keeps_layout: bool) -> torch.Tensor:
    """`_layout.empty` for tensors that may have no memory and symbolic sizes."""
    if not keeps_layout or not _is_channels_last(like):
        return like.new_empty(shape)
    *batch, channels, height, width = shape
    memory = like.new_empty((*batch, height, width, channels))
    return memory.permute((0, 3, 1, 2) if batch else (2, 0, 1))


def _is_channels_last(tensor: torch.Tensor) -> bool:
    if tensor.is_contiguous():
        return False
    return _layout.steps_are_channels_last(tensor.shape, tensor.stride())


# The three ways


def _needs_gradient(arrays: Arrays) -> bool:
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in arrays
    )


def _is_plain(arrays: Arrays) -> bool:
    """Whether a call's tensors are memory that NumPy can see, and nothing but the result counts."""
    wants_gradient = False
    for tensor in arrays:
        if tensor is None:
            continue
        if type(tensor) not in _PLAIN or tensor.dtype not in _FLOATS or not tensor.is_cpu:
            return False
        if tensor.layout is not torch.strided or tensor.is_neg():
            return False
        wants_gradient = wants_gradient or tensor.requires_grad
    return not (
        (wants_gradient and torch.is_grad_enabled())
        # There is no public way to ask whether a transform, a mode or a tracer looks on.
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state()
    )


def _call(name: str, *arguments: Any) -> torch.Tensor:
    """Run an op on arrays and parameters in the table's form."""
    if torch.compiler.is_compiling():
        return _OPERATORS[name](*arguments)
    op = TABLE[name]
    arrays = arguments[: len(op.arrays)]
    if _is_plain(arrays):
        return _run(op, arrays, arguments[len(op.arrays) :])
    result: torch.Tensor = _AUTOGRAD[name].apply(*arguments)  # type: ignore[no-untyped-call]
    return result


_CALLS: Functions = {name: functools.partial(_call, name) for name in TABLE}


def _cast(arrays: Arrays) -> Arrays:
    """Inside autocast: compute in float32, as torch does with what it has no lower kernel for."""
    return tuple(
        tensor.float() if isinstance(tensor, torch.Tensor) and tensor.dtype in _HALVES else tensor
        for tensor in arrays
    )


def _function(op: Op) -> Callable[..., torch.Tensor]:
    """Return what the user calls."""
    signature = inspect.signature(op.public)
    shown = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "out"
    ]
    count = len(op.arrays)
    required = count - len(op.optional)
    parameter_names = {parameter.name for parameter in shown} - set(op.arrays)

    def function(*args: Any, **keywords: Any) -> torch.Tensor:
        arrays = args[:count]
        if (
            not torch.compiler.is_compiling()
            and len(arrays) >= required
            and keywords.keys() <= parameter_names
            and _is_plain(arrays)
        ):
            # The same call, with NumPy's views of the tensors: it checks all the rest.
            views = [_view(tensor) for tensor in arrays]
            return torch.from_numpy(op.public(*views, *args[count:], **keywords))
        arrays, parameters, activation = op.arguments(*args, **keywords)
        if torch.is_autocast_enabled("cpu"):
            arrays = _cast(arrays)
        _check(op, arrays)
        if activation is None:
            return _call(op.name, *arrays, *parameters)
        if torch.compiler.is_compiling() and not _needs_gradient(arrays):
            return _call(op.name, *arrays, *op.fused(parameters, activation))
        name, *slope = (activation,) if isinstance(activation, str) else activation
        activate = getattr(torch.nn.functional, name)
        result: torch.Tensor = activate(_call(op.name, *arrays, *parameters), *slope)
        return result

    function.__name__ = function.__qualname__ = op.name
    function.__module__ = "fastcv.torch"
    function.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    function.__doc__ = (
        f"`fastcv.{op.name}` for tensors: the same arguments without `out`, and differentiable."
    )
    return function


def _register(op: Op) -> None:
    """Define the operator, with all that torch wants to know about it."""
    arrays = [f"Tensor{'?' * (name in op.optional)} {name}" for name in op.arrays]
    parameters = [f"{_KINDS[kind]} {name}" for name, kind in op.parameters.items()]
    _LIBRARY.define(
        f"{op.name}({', '.join(arrays + parameters)}) -> Tensor",
        tags=(torch.Tag.pt2_compliant_tag,),
    )
    count = len(op.arrays)

    def kernel(*arguments: Any) -> torch.Tensor:
        _check(op, arguments[:count])
        return _run(op, arguments[:count], arguments[count:])

    def fake(*arguments: Any) -> torch.Tensor:
        _check(op, arguments[:count])
        shapes = tuple(None if tensor is None else tensor.shape for tensor in arguments[:count])
        shape = op.shape(shapes, arguments[count:])
        return _empty(shape, arguments[op.layout_of or 0], op.layout_of is not None)

    def setup_context(ctx: Any, inputs: Arrays, output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[:count])
        ctx.parameters = inputs[count:]

    def backward(ops: Functions, ctx: Any, grad: torch.Tensor) -> Arrays:
        gradients = op.gradients(
            ops, ctx.needs_input_grad[:count], grad, ctx.saved_tensors, ctx.parameters
        )
        return (*gradients, *(None for _ in ctx.parameters))

    def vmap(
        ops: Functions, info: Any, axes: Sequence[int | None], *arguments: Any
    ) -> tuple[torch.Tensor, int]:
        tensors = tuple(
            tensor if axis is None else tensor.movedim(axis, 0)
            for tensor, axis in zip(arguments[:count], axes, strict=False)
        )
        flags = [axis is not None for axis in axes[:count]]
        size, parameters = info.batch_size, arguments[count:]
        return op.batched(ops, torch, size, tensors, flags, parameters), 0

    operator = getattr(torch.ops.fastcv, op.name).default
    name = f"fastcv::{op.name}"
    _LIBRARY.impl(op.name, kernel, "CPU")
    torch.library.register_fake(name, fake, lib=_LIBRARY)
    torch.library.register_autograd(
        name,
        functools.partial(backward, _OPERATORS),
        setup_context=setup_context,
        lib=_LIBRARY,
    )
    torch.library.register_vmap(name, functools.partial(vmap, _OPERATORS), lib=_LIBRARY)
    _OPERATORS[op.name] = operator

    def forward(*arguments: Any) -> torch.Tensor:
        arrays = arguments[:count]
        if _is_plain(arrays):
            return _run(op, arrays, arguments[count:])
        result: torch.Tensor = operator(*arguments)
        return result

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
