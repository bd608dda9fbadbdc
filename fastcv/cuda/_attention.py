"""Attention on a device: the arguments and results of the functions for NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from fastcv import _checks
from fastcv._gradients.attention import run_by, run_gradient_by
from fastcv.cuda._extension import extension
from fastcv.cuda._memory import FLOATS, Framework, Memory, checked, same_device

_FORWARD = "scaled_dot_product_attention"
_GRADIENT = "scaled_dot_product_attention_grad"
_LENGTHS = ("int64", "int32")
_HALVES = ("float16", "bfloat16")
_NOTHING: tuple[int, tuple[int, ...]] = (0, ())


def _wide(dtype: str) -> str:
    """Return what lse comes in: two bytes are too few for what all weights share."""
    return "float32" if dtype in _HALVES else dtype


class _Shapes(NamedTuple):
    """Each kind of array, with all its axes."""

    batch: tuple[int, ...]
    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]
    output: tuple[int, ...]
    lse: tuple[int, ...]  # one column
    mask: tuple[int, ...]

    @classmethod
    def of(cls, g: _checks.AttentionGeometry) -> _Shapes:
        rows = (*g.batch, g.heads, g.queries)
        keys = (*g.batch, g.kv_heads, g.keys)
        return cls(
            g.batch,
            (*rows, g.columns),
            (*keys, g.columns),
            (*keys, g.value_columns),
            (*rows, g.value_columns),
            (*rows, 1),
            (*rows, g.keys),
        )


def _argument(
    memory: Memory, full: tuple[int, ...], more: tuple[int, ...] = ()
) -> tuple[int, tuple[int, ...]]:
    """Address and strides of all axes; 0 where the array broadcasts. `more` axes of one follow."""
    shape, strides = (*memory.shape, *((1,) * len(more))), (*memory.strides, *more)
    missing = len(full) - len(shape)
    own = (
        stride if size == whole else 0
        for stride, size, whole in zip(strides, shape, full[missing:], strict=True)
    )
    return memory.address, (*((0,) * missing), *own)


def _shared(shape: tuple[int, ...], full: tuple[int, ...]) -> list[bool]:
    """Along which axes an array of this shape broadcasts."""
    whole = (*((1,) * (len(full) - len(shape))), *shape)
    return [size != other for size, other in zip(whole, full, strict=True)]


class _Call(NamedTuple):
    """What forward and gradient have in common."""

    query: Memory
    key: Memory
    value: Memory
    mask: Memory | None
    geometry: _checks.AttentionGeometry
    shapes: _Shapes
    arguments: tuple[Any, ...]  # batch, sizes, options and inputs, as the kernels take them
    dtype: Any


def _checked_call(
    framework: Framework,
    op: str,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    kv_lengths: Any,
    dropout_p: Any,
    is_causal: Any,
    scale: Any,
    enable_gqa: Any,
    causal_alignment: Any,
    softcap: Any,
    window: Any,
    seed: Any,
) -> _Call:
    q = checked(framework, op, "query", query, FLOATS)
    k = checked(framework, op, "key", key, (q.dtype,))
    v = checked(framework, op, "value", value, (q.dtype,))
    g = _checks.attention_geometry(
        op, q.shape, k.shape, v.shape, _checks.boolean(op, "enable_gqa", enable_gqa)
    )
    named = {"key": k, "value": v}
    mask = lengths = None
    if attn_mask is not None:
        mask = checked(framework, op, "attn_mask", attn_mask, (q.dtype, "bool"))
        named["attn_mask"] = mask
        _checks.attention_mask_shape(op, mask.shape, g)
    if kv_lengths is not None:
        lengths = checked(framework, op, "kv_lengths", kv_lengths, _LENGTHS)
        named["kv_lengths"] = lengths
        _checks.key_lengths_shape(op, lengths.shape, g)
    for name, memory in named.items():
        same_device(op, name, memory, "query", q)
    options = _checks.attention_parameters(
        op, g, dropout_p, is_causal, scale, causal_alignment, softcap, window, seed
    )
    shapes = _Shapes.of(g)
    inputs = (
        _argument(q, shapes.query),
        _argument(k, shapes.key),
        _argument(v, shapes.value),
        _NOTHING if mask is None else _argument(mask, shapes.mask),
        mask is not None and mask.dtype == "bool",
        _NOTHING
        if lengths is None
        else (lengths.address, (*(lengths.strides if g.batch else ()), 0, 0, 0)),
        0 if lengths is None else lengths.itemsize,
    )
    sizes = (g.heads, g.kv_heads, g.queries, g.keys, g.columns, g.value_columns)
    arguments = (g.batch, sizes, tuple(options.values()), inputs)
    return _Call(q, k, v, mask, g, shapes, arguments, getattr(extension().Dtype, q.dtype))


def scaled_dot_product_attention(
    framework: Framework,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: Any = 0.0,
    is_causal: Any = False,
    scale: Any = None,
    enable_gqa: Any = False,
    *,
    causal_alignment: Any = "top_left",
    softcap: Any = 0.0,
    window: Any = None,
    kv_lengths: Any = None,
    seed: Any = None,
    return_lse: Any = False,
    return_weights: Any = False,
) -> Any:
    op = _FORWARD
    with_lse = _checks.boolean(op, "return_lse", return_lse)
    with_weights = _checks.boolean(op, "return_weights", return_weights)
    options = (dropout_p, is_causal, scale, enable_gqa, causal_alignment, softcap, window, seed)
    call = _checked_call(framework, op, query, key, value, attn_mask, kv_lengths, *options)
    g, q = call.geometry, call.query
    output = framework.empty((*g.rows_shape, g.value_columns), q.dtype, query)
    lse = weights = None
    if with_lse or with_weights:
        lse = framework.empty(g.rows_shape, _wide(q.dtype), query)
    if with_weights:
        _checks.fits(op, "the weights", (*g.rows_shape, g.keys))
        weights = framework.empty((*g.rows_shape, g.keys), q.dtype, query)
    extension().scaled_dot_product_attention(
        *call.arguments,
        call.dtype,
        framework.memory(output).address,
        0 if lse is None else framework.memory(lse).address,
        0 if weights is None else framework.memory(weights).address,
        (q.device, framework.stream(query)),
    )
    extras = [lse] * with_lse + [weights] * with_weights
    return (output, *extras) if extras else output


def scaled_dot_product_attention_grad(
    framework: Framework,
    grad_output: Any,
    query: Any,
    key: Any,
    value: Any,
    output: Any,
    lse: Any,
    attn_mask: Any = None,
    dropout_p: Any = 0.0,
    is_causal: Any = False,
    scale: Any = None,
    enable_gqa: Any = False,
    *,
    causal_alignment: Any = "top_left",
    softcap: Any = 0.0,
    window: Any = None,
    kv_lengths: Any = None,
    seed: Any = None,
    need_mask_grad: Any = False,
) -> tuple[Any, ...]:
    op = _GRADIENT
    options = (dropout_p, is_causal, scale, enable_gqa, causal_alignment, softcap, window, seed)
    call = _checked_call(framework, op, query, key, value, attn_mask, kv_lengths, *options)
    g, q, shapes, mask = call.geometry, call.query, call.shapes, call.mask
    grad = checked(framework, op, "grad_output", grad_output, (q.dtype,))
    result = checked(framework, op, "output", output, (q.dtype,))
    log_sums = checked(framework, op, "lse", lse, (_wide(q.dtype),))
    for name, memory in {"grad_output": grad, "output": result, "lse": log_sums}.items():
        same_device(op, name, memory, "query", q)
    _checks.attention_gradient_shapes(op, grad.shape, result.shape, log_sums.shape, g)
    is_boolean = mask is not None and mask.dtype == "bool"
    with_mask = _checks.needs_mask_gradient(op, need_mask_grad, attn_mask, is_boolean)
    made = [framework.empty(memory.shape, q.dtype, query) for memory in (q, call.key, call.value)]
    fulls = [shapes.query, shapes.key, shapes.value]
    if with_mask and mask is not None:
        made.append(framework.empty(mask.shape, q.dtype, query))
        fulls.append(shapes.mask)
    memories = map(framework.memory, made)
    targets = [(m.address, _shared(m.shape, full)) for m, full in zip(memories, fulls, strict=True)]
    gradients = (
        _argument(grad, shapes.output),
        _argument(result, shapes.output),
        _argument(log_sums, shapes.lse, (0,)),
        *targets,
        *([(0, [])] * (4 - len(targets))),
    )
    kernels = extension()
    arguments = (*call.arguments, gradients, call.dtype)
    workspace_bytes = kernels.scaled_dot_product_attention_grad_workspace_bytes(*arguments)
    workspace = framework.empty((workspace_bytes,), "uint8", query)
    kernels.scaled_dot_product_attention_grad(
        *arguments, framework.memory(workspace).address, (q.device, framework.stream(query))
    )
    return tuple(made)


# Arrays and parameters as fastcv._gradients has them


def _nothing(framework: Framework) -> Callable[[str, Any], Any]:
    def nothing(name: str, query: Any) -> Any:
        dtype = framework.memory(query).dtype
        return framework.empty((0,), _wide(dtype) if name == "lse" else dtype, query)

    return nothing


def _flat(framework: Framework, *arguments: Any) -> tuple[Any, ...]:
    function = partial(scaled_dot_product_attention, framework)
    return run_by(function, _nothing(framework), *arguments)


def _flat_grad(framework: Framework, *arguments: Any) -> tuple[Any, ...]:
    function = partial(scaled_dot_product_attention_grad, framework)
    return run_gradient_by(function, _nothing(framework), *arguments)


FLAT: dict[str, Callable[..., Any]] = {_FORWARD: _flat, _GRADIENT: _flat_grad}
