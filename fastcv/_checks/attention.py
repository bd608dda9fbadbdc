"""Attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastcv._checks.arrays import equal_shapes, float_arrays
from fastcv._checks.values import (
    Pair,
    Shape,
    boolean,
    describe,
    fits,
    integer,
    named,
    pair,
    real,
)


class AttentionGeometry(NamedTuple):
    """What the shapes of queries, keys and values amount to."""

    batch: Shape  # the axes before the heads, broadcast
    heads: int
    kv_heads: int
    queries: int
    keys: int
    columns: int  # of queries and keys
    value_columns: int
    rows_shape: Shape  # (*batch, heads, queries), without the heads where no input has them


class AttentionCall(NamedTuple):
    """The arguments of an attention, checked."""

    geometry: AttentionGeometry
    parameters: dict[str, Any]  # what the kernels take by these names


_MAX_BATCH_AXES = 8


def attention(
    op: str,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    dropout_p: Any,
    is_causal: Any,
    scale: Any,
    enable_gqa: Any,
    causal_alignment: Any,
    softcap: Any,
    window: Any,
    seed: Any,
) -> AttentionCall | None:
    """Check what forward and gradient have in common. None: arrays are on a device."""
    if float_arrays(op, {"query": query, "key": key, "value": value}, True):
        return None
    geometry = attention_geometry(
        op, query.shape, key.shape, value.shape, boolean(op, "enable_gqa", enable_gqa)
    )
    if attn_mask is not None:
        _attention_mask(op, attn_mask, query.dtype, geometry)
    parameters = attention_parameters(
        op, geometry, dropout_p, is_causal, scale, causal_alignment, softcap, window, seed
    )
    return AttentionCall(geometry, parameters)


def attention_parameters(
    op: str,
    geometry: AttentionGeometry,
    dropout_p: Any,
    is_causal: Any,
    scale: Any,
    causal_alignment: Any,
    softcap: Any,
    window: Any,
    seed: Any,
) -> dict[str, Any]:
    """Check the options, and return what the kernels take by these names."""
    dropout = real(op, "dropout_p", dropout_p)
    if not 0 <= dropout <= 1:
        raise ValueError(f"{op}: dropout_p must be from 0 to 1, got {dropout}")
    if seed is not None:
        seed = integer(op, "seed", seed, 0, 2**64 - 1)
    elif dropout > 0:
        raise ValueError(f"{op}: dropout_p above 0 needs a seed, got dropout_p {dropout} and None")
    cap = real(op, "softcap", softcap)
    if not 0 <= cap < math.inf:
        raise ValueError(f"{op}: softcap must be at least 0 and finite, got {cap}")
    if scale is None:
        factor = 1 / math.sqrt(geometry.columns) if geometry.columns else 1.0
    else:
        factor = real(op, "scale", scale)
    left, right = _attention_window(op, window, geometry)
    if boolean(op, "is_causal", is_causal):
        right = 0
    if not isinstance(causal_alignment, str):
        raise TypeError(
            f"{op}: causal_alignment must be 'top_left' or 'bottom_right', "
            f"got {describe(causal_alignment)}"
        )
    if causal_alignment not in ("top_left", "bottom_right"):
        raise ValueError(
            f"{op}: causal_alignment must be 'top_left' or 'bottom_right', got {causal_alignment!r}"
        )
    return {
        "scale": factor,
        "softcap": cap,
        "left": left,
        "right": right,
        "bottom_right": causal_alignment == "bottom_right",
        "dropout": dropout,
        "seed": seed or 0,
    }


@lru_cache(maxsize=256)
def attention_geometry(
    op: str, query_shape: Shape, key_shape: Shape, value_shape: Shape, enable_gqa: bool
) -> AttentionGeometry:
    """Check shapes against each other and work out the result's."""
    all_shapes = {"query": query_shape, "key": key_shape, "value": value_shape}
    shapes = named(all_shapes)
    for name, sizes in all_shapes.items():
        if not 2 <= len(sizes) <= 3 + _MAX_BATCH_AXES:
            raise ValueError(
                f"{op}: {name}.shape must have from 2 to {3 + _MAX_BATCH_AXES} axes "
                f"(..., heads, rows, columns), got {len(sizes)} {shapes}"
            )
        fits(op, name, sizes)
    if query_shape[-1] != key_shape[-1]:
        raise ValueError(
            f"{op}: key.shape[-1] must equal query.shape[-1], "
            f"got {key_shape[-1]} != {query_shape[-1]} {shapes}"
        )
    if key_shape[-2] != value_shape[-2]:
        raise ValueError(
            f"{op}: value.shape[-2] must equal key.shape[-2], "
            f"got {value_shape[-2]} != {key_shape[-2]} {shapes}"
        )
    with_heads = [(1,) * (3 - len(sizes)) + sizes for sizes in all_shapes.values()]
    try:
        batch = _broadcast([sizes[:-3] for sizes in with_heads])
    except ValueError:
        raise ValueError(
            f"{op}: the axes before the heads must broadcast, got {shapes[1:-1]}"
        ) from None
    heads, key_heads, value_heads = (sizes[-3] for sizes in with_heads)
    kv_heads = value_heads if key_heads == 1 else key_heads
    if value_heads not in (1, kv_heads):
        raise ValueError(
            f"{op}: value.shape[-3] must equal key.shape[-3] or one of them be 1, "
            f"got {value_heads} != {key_heads} {shapes}"
        )
    if enable_gqa:
        if kv_heads == 0 or heads % kv_heads:
            raise ValueError(
                f"{op}: with enable_gqa query.shape[-3] must be a multiple of key.shape[-3], "
                f"got {heads} and {kv_heads} {shapes}"
            )
    elif kv_heads != heads and 1 not in (heads, kv_heads):
        raise ValueError(
            f"{op}: query.shape[-3] must equal key.shape[-3] or one of them be 1 unless "
            f"enable_gqa, got {heads} != {kv_heads} {shapes}"
        )
    else:
        heads = kv_heads if heads == 1 else heads
    has_heads = max(map(len, all_shapes.values())) > 2
    rows_shape = (*batch, *((heads,) * has_heads), query_shape[-2])
    fits(op, "the output", (*rows_shape, value_shape[-1]))
    return AttentionGeometry(
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        queries=query_shape[-2],
        keys=key_shape[-2],
        columns=query_shape[-1],
        value_columns=value_shape[-1],
        rows_shape=rows_shape,
    )


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    """`np.broadcast_shapes` for sizes that may be a framework's symbols."""
    axes = max(map(len, shapes))
    result: list[int] = []
    for sizes in zip(*((1,) * (axes - len(shape)) + shape for shape in shapes), strict=True):
        size = next((size for size in sizes if size != 1), 1)
        if any(other not in (1, size) for other in sizes):
            raise ValueError("shapes do not broadcast")
        result.append(size)
    return tuple(result)


def _attention_mask(op: str, mask: Any, dtype: np.dtype[Any], geometry: AttentionGeometry) -> None:
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"{op}: attn_mask must be a numpy.ndarray, got {type(mask).__name__}")
    if mask.dtype not in (dtype, np.dtype(bool)):
        raise TypeError(
            f"{op}: attn_mask.dtype must be bool or query.dtype, got {mask.dtype} and {dtype}"
        )
    attention_mask_shape(op, mask.shape, geometry)


def attention_mask_shape(op: str, shape: Shape, geometry: AttentionGeometry) -> None:
    """Require that a mask broadcasts to the scores."""
    full = (*geometry.rows_shape, geometry.keys)
    short = full[max(0, len(full) - len(shape)) :]
    if len(shape) > len(full) or any(
        size not in (1, whole) for size, whole in zip(shape, short, strict=True)
    ):
        raise ValueError(
            f"{op}: attn_mask.shape must broadcast to (..., Hq, L, S), got {shape} and {full}"
        )


def key_lengths(op: str, lengths: Any, geometry: AttentionGeometry) -> NDArray[np.int64] | None:
    """Return a length for each sample as the kernels take them; None: all keys count."""
    if lengths is None:
        return None
    if not isinstance(lengths, np.ndarray):
        raise TypeError(f"{op}: kv_lengths must be a numpy.ndarray, got {type(lengths).__name__}")
    if not np.issubdtype(lengths.dtype, np.integer):
        raise TypeError(f"{op}: kv_lengths.dtype must be an integer type, got {lengths.dtype}")
    key_lengths_shape(op, lengths.shape, geometry)
    if lengths.size and not 0 <= int(lengths.min()) <= int(lengths.max()) <= geometry.keys:
        raise ValueError(
            f"{op}: kv_lengths must be from 0 to key.shape[-2], got {int(lengths.min())} to "
            f"{int(lengths.max())} and {geometry.keys} keys"
        )
    return np.ascontiguousarray(lengths, np.int64)


def key_lengths_shape(op: str, shape: Shape, geometry: AttentionGeometry) -> None:
    """Require a length for each sample."""
    relation = "the axes of query before the heads"
    equal_shapes(op, "kv_lengths.shape", shape, relation, geometry.batch or (1,))


def _attention_window(op: str, window: Any, geometry: AttentionGeometry) -> Pair:
    if window is None:
        return -1, -1
    if not isinstance(window, (tuple, list)):
        raise TypeError(f"{op}: window must be None or a pair of integers, got {describe(window)}")
    # What reaches beyond all keys is no limit, and has to leave room for adding a position.
    reach = geometry.queries + geometry.keys
    left, right = (min(size, reach) for size in pair(op, "window", window, -1))
    return left, right


def attention_gradient(
    op: str,
    grad_output: Any,
    query: Any,
    output: Any,
    lse: Any,
    attn_mask: Any,
    geometry: AttentionGeometry,
    need_mask_grad: Any,
) -> bool:
    """Check what the gradient takes beyond the forward's arguments; return `need_mask_grad`."""
    arrays = {"query": query, "grad_output": grad_output, "output": output, "lse": lse}
    float_arrays(op, arrays)
    attention_gradient_shapes(op, grad_output.shape, output.shape, lse.shape, geometry)
    is_boolean = attn_mask is not None and attn_mask.dtype == np.dtype(bool)
    return needs_mask_gradient(op, need_mask_grad, attn_mask, is_boolean)


def attention_gradient_shapes(
    op: str, grad_output: Shape, output: Shape, lse: Shape, geometry: AttentionGeometry
) -> None:
    """Require that what belongs to the forward call has its results' shapes."""
    shape_of_output = (*geometry.rows_shape, geometry.value_columns)
    relation = "the shape of the attention's output"
    equal_shapes(op, "grad_output.shape", grad_output, relation, shape_of_output)
    equal_shapes(op, "output.shape", output, relation, shape_of_output)
    equal_shapes(op, "lse.shape", lse, "output.shape[:-1]", geometry.rows_shape)


def needs_mask_gradient(op: str, need_mask_grad: Any, attn_mask: Any, is_boolean: bool) -> bool:
    """Return `need_mask_grad`, which only numbers can have."""
    needed = boolean(op, "need_mask_grad", need_mask_grad)
    if needed and (attn_mask is None or is_boolean):
        kind = "None" if attn_mask is None else "a boolean mask"
        raise ValueError(f"{op}: need_mask_grad needs an additive attn_mask, got {kind}")
    return needed
