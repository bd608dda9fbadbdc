"""Attention and its gradient.

The gradient has a kernel that needs no L x S matrix. What has none is written here with matrices:
the gradient of the gradient, and that by log-sum-exps and weights. With Z the masked scores,
T = 1 - (score / softcap)^2 the slope of the cap, D what dropout multiplies by, and o elementwise:

    P = softmax(Z)      W = D o P       O = W V
    dP = D o (dO V')    dZ = P o (dP - sum_j P o dP)      dS = scale dZ o T
    dQ = dS K           dK = dS' Q                        dV = W' dO

The gradient of <dQ, A> + <dK, B> + <dV, C> + <dZ, M>, with Y = scale (A K' + Q B') o T + M and
y = sum_j P o Y, runs back through these lines; `_second` does that. All of it consists of functions
that the framework can differentiate further.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import fastcv
from fastcv import _checks
from fastcv._gradients.op import (
    Arguments,
    Arrays,
    Backward,
    Batch,
    Kind,
    Op,
    Parameters,
    Result,
    Shape,
)

_FORWARD = "scaled_dot_product_attention"
_GRADIENT = "scaled_dot_product_attention_grad"

_PARAMETERS: dict[str, Kind] = {
    "dropout_p": "number",
    "is_causal": "boolean",
    "scale": "optional number",
    "enable_gqa": "boolean",
    "causal_alignment": "name",
    "softcap": "number",
    "window": "integers",
    "seed": "optional integer",
}
_COUNT = len(_PARAMETERS)
_DROPOUT, _SCALE, _GQA, _CAP = (
    list(_PARAMETERS).index(name) for name in ("dropout_p", "scale", "enable_gqa", "softcap")
)


# From a user's call to the flat form, and back


def _flat(
    op: str,
    dropout_p: Any = 0.0,
    is_causal: Any = False,
    scale: Any = None,
    enable_gqa: Any = False,
    *,
    causal_alignment: Any = "top_left",
    softcap: Any = 0.0,
    window: Any = None,
    seed: Any = None,
) -> Parameters:
    if not isinstance(causal_alignment, str):
        raise TypeError(
            f"{op}: causal_alignment must be a name, got {type(causal_alignment).__name__}"
        )
    seed = None if seed is None else _checks.integer(op, "seed", seed, 0, 2**64 - 1)
    return (
        _checks.real(op, "dropout_p", dropout_p),
        _checks.boolean(op, "is_causal", is_causal),
        None if scale is None else _checks.real(op, "scale", scale),
        _checks.boolean(op, "enable_gqa", enable_gqa),
        causal_alignment,
        _checks.real(op, "softcap", softcap),
        (-1, -1) if window is None else _checks.pair(op, "window", window, -1),
        # Operators have signed integers.
        seed - 2**64 if seed is not None and seed >= 2**63 else seed,
    )


def _keywords(parameters: Parameters) -> dict[str, Any]:
    keywords = dict(zip(_PARAMETERS, parameters, strict=True))
    seed = keywords["seed"]
    window = tuple(keywords["window"])
    return keywords | {"window": window, "seed": None if seed is None else seed % 2**64}


def _arguments(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    *parameters: Any,
    kv_lengths: Any = None,
    return_lse: Any = False,
    return_weights: Any = False,
    **keywords: Any,
) -> Arguments:
    flat = _flat(_FORWARD, *parameters, **keywords)
    with_lse = _checks.boolean(_FORWARD, "return_lse", return_lse)
    with_weights = _checks.boolean(_FORWARD, "return_weights", return_weights)
    chosen = (0, *((1,) * with_lse), *((2,) * with_weights))
    arrays = (query, key, value, attn_mask, kv_lengths)
    return Arguments(arrays, (*flat, with_lse, with_weights), chosen=chosen)


def run_by(
    function: Callable[..., Any],
    nothing: Callable[[str, Any], Any],
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    kv_lengths: Any,
    *parameters: Any,
) -> tuple[Any, ...]:
    """Call a function that takes a user's arguments.

    `nothing(name, query)` stands for a result that is not wanted.
    """
    *flat, with_lse, with_weights = parameters
    found = function(
        query,
        key,
        value,
        attn_mask,
        kv_lengths=kv_lengths,
        return_lse=with_lse,
        return_weights=with_weights,
        **_keywords(tuple(flat)),
    )
    each = iter(found if isinstance(found, tuple) else (found,))
    wanted = {"output": True, "lse": with_lse, "weights": with_weights}
    return tuple(next(each) if wanted[name] else nothing(name, query) for name in wanted)


def _nothing(name: str, query: Any) -> Any:
    return np.empty(0, query.dtype)


def _run(*arguments: Any) -> tuple[Any, ...]:
    return run_by(fastcv.scaled_dot_product_attention, _nothing, *arguments)


def _geometry(op: str, shapes: tuple[Any, ...], gqa: bool) -> _checks.AttentionGeometry:
    # Past the cache, which cannot hash symbolic sizes.
    geometry: _checks.AttentionGeometry = _checks.attention_geometry.__wrapped__(
        op, *map(tuple, shapes), gqa
    )
    return geometry


def _shape(shapes: tuple[Any, ...], parameters: Parameters) -> tuple[Shape, ...]:
    geometry = _geometry(_FORWARD, shapes[:3], parameters[_GQA])
    rows = geometry.rows_shape
    lse = rows if parameters[_COUNT] else (0,)
    weights = (*rows, geometry.keys) if parameters[_COUNT + 1] else (0,)
    return (*rows, geometry.value_columns), lse, weights


def _grad_arguments(
    grad_output: Any,
    query: Any,
    key: Any,
    value: Any,
    output: Any,
    lse: Any,
    attn_mask: Any = None,
    *parameters: Any,
    kv_lengths: Any = None,
    need_mask_grad: Any = False,
    **keywords: Any,
) -> Arguments:
    flat = _flat(_GRADIENT, *parameters, **keywords)
    with_mask = _checks.boolean(_GRADIENT, "need_mask_grad", need_mask_grad)
    arrays = (grad_output, query, key, value, output, lse, attn_mask, kv_lengths)
    return Arguments(arrays, (*flat, with_mask), chosen=(0, 1, 2, *((3,) * with_mask)))


def run_gradient_by(
    function: Callable[..., Any],
    nothing: Callable[[str, Any], Any],
    grad_output: Any,
    query: Any,
    key: Any,
    value: Any,
    output: Any,
    lse: Any,
    attn_mask: Any,
    kv_lengths: Any,
    *parameters: Any,
) -> tuple[Any, ...]:
    """As `run_by`."""
    *flat, with_mask = parameters
    found = function(
        grad_output,
        query,
        key,
        value,
        output,
        lse,
        attn_mask,
        kv_lengths=kv_lengths,
        need_mask_grad=with_mask,
        **_keywords(tuple(flat)),
    )
    return tuple(found) if with_mask else (*found, nothing("grad_mask", query))


def _grad_run(*arguments: Any) -> tuple[Any, ...]:
    return run_gradient_by(fastcv.scaled_dot_product_attention_grad, _nothing, *arguments)


def _grad_shape(shapes: tuple[Any, ...], parameters: Parameters) -> tuple[Shape, ...]:
    _geometry(_GRADIENT, shapes[1:4], parameters[_GQA])
    mask = shapes[6] if parameters[_COUNT] else (0,)
    return tuple(tuple(shape) for shape in (*shapes[1:4], mask))


# The matrices


class _Matrices(NamedTuple):
    """All arrays at full size, heads repeated, and what the forward call computes."""

    query: Any
    key: Any
    value: Any
    scale: float
    cap: float
    capped: Any  # tanh(scale * score / softcap); None without a cap
    slope: Any  # by which the cap changes a gradient: T; 1 without a cap
    weights: Any  # P, before dropout
    dropped: Any  # D; 1 without dropout

    def through_cap(self, grad: Any) -> Any:
        return grad if self.capped is None else grad * self.slope


def _matrices(
    call: Backward, query: Any, key: Any, value: Any, attn_mask: Any, kv_lengths: Any, lse: Any
) -> _Matrices:
    ops, namespace, parameters = call.ops, call.namespace, call.parameters
    geometry = _geometry(_FORWARD, (query.shape, key.shape, value.shape), parameters[_GQA])
    scale = parameters[_SCALE]
    if scale is None:
        scale = 1 / math.sqrt(geometry.columns) if geometry.columns else 1.0
    # Equal scores give a weight to whatever a query sees, and what dropout leaves keeps it.
    quiet = [namespace.zeros_like(array) for array in (query, key, value)]
    is_boolean = attn_mask is not None and "bool" in str(attn_mask.dtype)
    blank = (*quiet, attn_mask if is_boolean else None, kv_lengths)

    def visible(dropout: float) -> Any:
        changed = (dropout, *parameters[1:_COUNT])
        return _full(ops[_FORWARD](*blank, *changed, False, True)[2], geometry) > 0

    seen = visible(0.0)
    query, key, value = (_repeated(namespace, array, geometry) for array in (query, key, value))
    cap = parameters[_CAP]
    scores = scale * (query @ key.swapaxes(-1, -2))
    capped, slope = None, 1.0
    if cap:
        capped = namespace.tanh(scores / cap)
        scores, slope = cap * capped, 1 - capped * capped
    if attn_mask is not None and not is_boolean:
        scores = scores + _full(attn_mask, geometry)
    dropped: Any = 1.0
    dropout = parameters[_DROPOUT]
    if dropout:
        factor = 1 / (1 - dropout) if dropout < 1 else 0.0
        dropped = namespace.where(visible(dropout), namespace.zeros_like(scores) + factor, 0.0)
    # A query that sees nothing has -inf there.
    top = _full(lse[..., None], geometry)
    top = namespace.where(top == -math.inf, 0.0, top)
    # Exponentials of what is not seen might overflow, so they are not taken.
    powers = namespace.where(seen, namespace.exp(namespace.where(seen, scores - top, 0.0)), 0.0)
    total = _row_sums(powers)
    weights = powers / namespace.where(total == 0, 1.0, total)
    return _Matrices(query, key, value, scale, cap, capped, slope, weights, dropped)


def _full(array: Any, geometry: _checks.AttentionGeometry) -> Any:
    """(..., rows, columns) of an array that may lack heads, with all axes in front of them."""
    ones = (1,) * (len(geometry.batch) + 3 - array.ndim)
    return array.reshape((*ones, *array.shape))


def _repeated(namespace: ModuleType, array: Any, geometry: _checks.AttentionGeometry) -> Any:
    """Put each head before all the query heads that share it."""
    array = _full(array, geometry)
    *batch, own, rows, columns = array.shape
    heads = geometry.heads
    if own in (1, heads):
        return array
    shape = (*batch, own, heads // own, rows, columns)
    array = namespace.broadcast_to(array.reshape((*batch, own, 1, rows, columns)), shape)
    return array.reshape((*batch, heads, rows, columns))


def _summed(array: Any, shape: Shape) -> Any:
    """Undo `_repeated` for a gradient: sum over what an array of this shape was repeated along."""
    shape = tuple(shape)
    *_, heads, rows, columns = array.shape
    own = shape[-3] if len(shape) > 2 else 1
    if own not in (1, heads):
        array = array.reshape((*array.shape[:-3], own, heads // own, rows, columns)).sum(-3)
    full = (*((1,) * (array.ndim - len(shape))), *shape)
    for axis, size in enumerate(full):
        if size == 1 and array.shape[axis] != 1:
            array = array.sum(axis, keepdims=True)
    return array.reshape(shape)


def _transposed(array: Any) -> Any:
    return array.swapaxes(-1, -2)


def _row_sums(array: Any) -> Any:
    return array.sum(-1)[..., None]


# Gradients


def _gradients(call: Backward) -> Arrays:
    query, key, value, attn_mask, kv_lengths = call.arrays
    output, lse, _ = call.results
    by_output = call.grads[0]
    by_lse, by_weights = (
        grad if is_there else None
        for grad, is_there in zip(call.grads[1:], call.parameters[_COUNT:], strict=True)
    )
    if by_lse is None and by_weights is None:
        if by_output is None:
            return (None,) * 5
        need_mask = call.needed[3]
        found = call.ops[_GRADIENT](
            by_output,
            query,
            key,
            value,
            output,
            lse,
            attn_mask,
            kv_lengths,
            *call.parameters[:_COUNT],
            need_mask,
        )
        four = tuple(found[i] if call.needed[i] else None for i in range(4))
        return (*four, None)
    m = _matrices(call, query, key, value, attn_mask, kv_lengths, lse)
    geometry = _geometry(_FORWARD, (query.shape, key.shape, value.shape), call.parameters[_GQA])
    by_value = None
    by_kept = call.namespace.zeros_like(m.weights)
    if by_output is not None:
        by_output = _full(by_output, geometry)
        by_value = _summed(_transposed(m.dropped * m.weights) @ by_output, value.shape)
        by_kept = by_output @ _transposed(m.value)
    if by_weights is not None:
        by_kept = by_kept + _full(by_weights, geometry)
    by_weight = m.dropped * by_kept
    change = by_weight - _row_sums(m.weights * by_weight)
    if by_lse is not None:
        change = change + _full(by_lse[..., None], geometry)
    by_masked = m.weights * change
    by_score = m.scale * m.through_cap(by_masked)
    return (
        _summed(by_score @ m.key, query.shape) if call.needed[0] else None,
        _summed(_transposed(by_score) @ m.query, key.shape) if call.needed[1] else None,
        by_value if call.needed[2] else None,
        _summed(by_masked, attn_mask.shape) if call.needed[3] else None,
        None,
    )


def _second(call: Backward) -> Arrays:
    """Differentiate the gradient; `output` and `lse` count as functions of the other inputs."""
    grad_output, query, key, value, _, lse, attn_mask, kv_lengths = call.arrays
    flat = call.parameters[:_COUNT]
    m = _matrices(call, query, key, value, attn_mask, kv_lengths, lse)
    geometry = _geometry(_FORWARD, (query.shape, key.shape, value.shape), flat[_GQA])
    a, b, c = (
        None if grad is None else _repeated(call.namespace, grad, geometry)
        for grad in call.grads[:3]
    )
    by_output = _full(grad_output, geometry)
    nothing = call.namespace.zeros_like(m.weights)

    by_kept = by_output @ _transposed(m.value)
    by_weight = m.dropped * by_kept  # dP
    delta = _row_sums(m.weights * by_weight)
    by_masked = m.weights * (by_weight - delta)  # dZ

    x = nothing
    if a is not None:
        x = x + m.scale * (a @ _transposed(m.key))
    if b is not None:
        x = x + m.scale * (m.query @ _transposed(b))
    y = m.through_cap(x)
    if call.grads[3] is not None and call.parameters[_COUNT]:
        y = y + _full(call.grads[3], geometry)
    centred = y - _row_sums(m.weights * y)

    r = m.dropped * m.weights * centred
    for_output = r @ m.value
    for_value = _transposed(r) @ by_output
    for_weights = by_weight * centred - delta * y
    if c is not None:
        for_output = for_output + (m.dropped * m.weights) @ c
        for_weights = for_weights + m.dropped * (by_output @ _transposed(c))
    for_masked = m.weights * (for_weights - _row_sums(m.weights * for_weights))
    for_score = m.through_cap(for_masked)
    if m.capped is not None:
        for_score = for_score - by_masked * x * (2 / m.cap) * m.capped * m.slope
    for_score = m.scale * for_score
    for_query = for_score @ m.key
    for_key = _transposed(for_score) @ m.query
    by_x = m.scale * m.through_cap(by_masked)
    if b is not None:
        for_query = for_query + by_x @ b
    if a is not None:
        for_key = for_key + _transposed(by_x) @ a
    return (
        _summed(for_output, grad_output.shape) if call.needed[0] else None,
        _summed(for_query, query.shape) if call.needed[1] else None,
        _summed(for_key, key.shape) if call.needed[2] else None,
        _summed(for_value, value.shape) if call.needed[3] else None,
        None,
        None,
        _summed(for_masked, attn_mask.shape) if call.needed[6] else None,
        None,
    )


# A batch of calls is a further axis before the heads


def _in_front(batch: Batch, axes: Sequence[int], geometry: _checks.AttentionGeometry) -> list[Any]:
    """Give every array the batch's axis, and behind it as many axes as the largest has.

    `axes` says how many an array has from the heads on, 0 for one without heads.
    """
    placed: list[Any] = []
    for place, count in enumerate(axes):
        array = batch.whole(place)
        if array is None:
            placed.append(None)
            continue
        own = array.shape[1:]
        if count == 0 and not geometry.batch:
            own = ()
        ones = (1,) * (len(geometry.batch) + count - len(own))
        placed.append(array.reshape((batch.size, *ones, *own)))
    return placed


def _call_shapes(batch: Batch) -> tuple[Any, ...]:
    """Shapes without the batch's axis."""
    return tuple(
        None if array is None else array.shape[has_it:]
        for array, has_it in zip(batch.arrays, batch.flags, strict=True)
    )


def _apart(batch: Batch, results: Arrays, shapes: Sequence[Shape], there: Sequence[Any]) -> Arrays:
    return tuple(
        result.reshape((batch.size, *shape))
        if is_there
        else batch.namespace.broadcast_to(result, (batch.size, 0))
        for result, shape, is_there in zip(results, shapes, there, strict=True)
    )


def _one_by_one(op: Callable[..., Any], batch: Batch) -> Arrays:
    """Make every call by itself: what dropout drops depends on a sample's place in its batch."""
    calls = [
        op(
            *(a[i] if has_it else a for a, has_it in zip(batch.arrays, batch.flags, strict=True)),
            *batch.parameters,
        )
        for i in range(batch.size)
    ]
    return tuple(batch.namespace.stack(results) for results in zip(*calls, strict=True))


def _batched(batch: Batch) -> Any:
    run, parameters = batch.ops[_FORWARD], batch.parameters
    if parameters[_DROPOUT]:
        return _one_by_one(run, batch)
    shapes = _call_shapes(batch)
    geometry = _geometry(_FORWARD, shapes[:3], parameters[_GQA])
    results = run(*_in_front(batch, (3, 3, 3, 3, 0), geometry), *parameters)
    return _apart(batch, results, _shape(shapes, parameters), (True, *parameters[_COUNT:]))


def _grad_batched(batch: Batch) -> Any:
    run, parameters = batch.ops[_GRADIENT], batch.parameters
    if parameters[_DROPOUT]:
        return _one_by_one(run, batch)
    shapes = _call_shapes(batch)
    geometry = _geometry(_GRADIENT, shapes[1:4], parameters[_GQA])
    results = run(*_in_front(batch, (3, 3, 3, 3, 3, 2, 3, 0), geometry), *parameters)
    there = (True, True, True, parameters[_COUNT])
    return _apart(batch, results, _grad_shape(shapes, parameters), there)


ENTRIES = (
    Op(
        name=_FORWARD,
        arrays=("query", "key", "value", "attn_mask", "kv_lengths"),
        optional=("attn_mask", "kv_lengths"),
        integers=("kv_lengths",),
        masks=("attn_mask",),
        parameters={**_PARAMETERS, "return_lse": "boolean", "return_weights": "boolean"},
        public=fastcv.scaled_dot_product_attention,
        arguments=_arguments,
        run=_run,
        shape=_shape,
        gradients=_gradients,
        batched=_batched,
        results=(Result("output"), Result("lse", wide=True), Result("weights")),
        saves=(0, 1),
        saving={"return_lse": True},
    ),
    Op(
        name=_GRADIENT,
        arrays=(
            "grad_output",
            "query",
            "key",
            "value",
            "output",
            "lse",
            "attn_mask",
            "kv_lengths",
        ),
        optional=("attn_mask", "kv_lengths"),
        integers=("kv_lengths",),
        masks=("attn_mask",),
        parameters={**_PARAMETERS, "need_mask_grad": "boolean"},
        public=fastcv.scaled_dot_product_attention_grad,
        arguments=_grad_arguments,
        run=_grad_run,
        shape=_grad_shape,
        gradients=_second,
        batched=_grad_batched,
        results=(
            Result("grad_query"),
            Result("grad_key"),
            Result("grad_value"),
            Result("grad_mask"),
        ),
    ),
)
