"""Attention and its gradients, with whole matrices of weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcv import _checks

Array = NDArray[np.float64]


def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: NDArray[Any] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    return_lse: bool = False,
    return_weights: bool = False,
    **options: Any,
) -> Any:
    """Average the values, weighted by the softmax of the scores."""
    options |= {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    a = _Attention(
        "scaled_dot_product_attention", query, key, value, attn_mask, enable_gqa, options
    )
    weights = a.weights * a.kept
    output = (weights @ a.value).reshape(*a.rows_shape, a.geometry.value_columns)
    if not (return_lse or return_weights):
        return output
    extras = [a.lse.reshape(a.rows_shape)] * return_lse
    extras += [weights.reshape(*a.rows_shape, a.geometry.keys)] * return_weights
    return (output, *extras)


def scaled_dot_product_attention_grad(
    grad_output: ArrayLike,
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    output: ArrayLike,
    lse: ArrayLike,
    attn_mask: NDArray[Any] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    need_mask_grad: bool = False,
    **options: Any,
) -> tuple[Array, ...]:
    """Differentiate the average, then the softmax, then the scores."""
    options |= {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    op = "scaled_dot_product_attention_grad"
    a = _Attention(op, query, key, value, attn_mask, enable_gqa, options)
    grad = np.asarray(grad_output, np.float64)
    grad = grad.reshape(*a.weights.shape[:3], a.geometry.value_columns)
    grad_weights = (grad @ a.value.swapaxes(-1, -2)) * a.kept
    mean = (a.weights * grad_weights).sum(axis=-1, keepdims=True)
    grad_masked = a.weights * (grad_weights - mean)
    grad_scores = a.scale * grad_masked * a.cap_slope
    grads = [
        a.reduced(grad_scores @ a.key, np.shape(query)),
        a.reduced(grad_scores.swapaxes(-1, -2) @ a.query, np.shape(key)),
        a.reduced((a.weights * a.kept).swapaxes(-1, -2) @ grad, np.shape(value)),
    ]
    if need_mask_grad and attn_mask is not None:
        grads.append(a.reduced(grad_masked, np.shape(attn_mask)))
    return tuple(grads)


class _Attention:
    """Scores and weights of an attention: (N, H, L, S), the shared heads of keys repeated."""

    def __init__(
        self,
        op: str,
        query: ArrayLike,
        key: ArrayLike,
        value: ArrayLike,
        attn_mask: NDArray[Any] | None,
        enable_gqa: bool,
        options: dict[str, Any],
    ) -> None:
        q, k, v = (np.asarray(array, np.float64) for array in (query, key, value))
        mask = attn_mask
        if mask is not None and mask.dtype != np.dtype(bool):
            mask = mask.astype(np.float64)
        defaults = {"causal_alignment": "top_left", "softcap": 0.0, "window": None}
        options = {**defaults, "seed": None, **options}
        kv_lengths = options.pop("kv_lengths", None)
        call: Any = _checks.attention(op, q, k, v, mask, enable_gqa=enable_gqa, **options)
        g = self.geometry = call.geometry
        kv_lengths = _checks.key_lengths(op, kv_lengths, g)
        self.rows_shape = g.rows_shape
        self.scale, cap, left, right, bottom_right, dropout, seed = call.parameters.values()

        samples = math.prod(g.batch)

        def heads(array: Array, number: int) -> Array:
            """(..., heads, rows, columns) -> (N, H, rows, columns)."""
            array = np.broadcast_to(array, (*g.batch, number, *array.shape[-2:]))
            array = array.reshape(samples, number, *array.shape[-2:])
            return np.repeat(array, g.heads // max(1, number), axis=1)

        self.query = heads(q, g.heads)
        self.key, self.value = heads(k, g.kv_heads), heads(v, g.kv_heads)
        scores = self.scale * (self.query @ self.key.swapaxes(-1, -2))
        self.cap_slope: Array = np.ones(())
        if cap > 0:
            bent = np.tanh(scores / cap)
            scores, self.cap_slope = cap * bent, 1 - bent**2

        lengths = np.full(g.batch or 1, g.keys) if kv_lengths is None else kv_lengths
        length = lengths.reshape(-1, 1, 1, 1)
        position = np.arange(g.queries)[:, None] + bottom_right * (length - g.queries)
        after = np.arange(g.keys) - position  # a query's own key
        seen = np.arange(g.keys) < length
        seen = seen & ((left < 0) | (after >= -left)) & ((right < 0) | (after <= right))
        if mask is not None:
            full = np.broadcast_to(mask, (*g.batch, g.heads, g.queries, g.keys))
            full = full.reshape(scores.shape)
            seen = seen & (full if mask.dtype == np.dtype(bool) else full != -np.inf)
            scores = scores if mask.dtype == np.dtype(bool) else scores + np.where(seen, full, 0)
        scores = np.where(seen, scores, -np.inf)

        largest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
        powers = np.exp(scores - np.where(largest == -np.inf, 0, largest))
        total = powers.sum(axis=-1, keepdims=True)
        with np.errstate(divide="ignore"):
            self.lse: Array = (largest + np.log(total))[..., 0]
        self.weights: Array = powers / np.where(total == 0, 1, total)
        self.kept: Array = np.ones(())
        if dropout > 0:
            words = _philox_words(seed, samples * g.heads, g.queries, g.keys)
            kept = words.reshape(scores.shape) >= min(int(dropout * 2**32), 2**32 - 1)
            self.kept = kept / (1 - dropout) if dropout < 1 else np.zeros(scores.shape)

    def reduced(self, array: Array, shape: tuple[int, ...]) -> Array:
        """Sum over the axes along which an argument of this shape was repeated."""
        g = self.geometry
        array = array.reshape(*g.batch, *array.shape[1:])
        full = (1,) * (array.ndim - len(shape)) + tuple(shape)
        heads = full[-3]
        if 1 < heads < g.heads:  # each head of keys served a group of queries
            array = array.reshape(*g.batch, heads, -1, *array.shape[-2:]).sum(axis=-3)
        axes = tuple(axis for axis, size in enumerate(full) if size == 1 and array.shape[axis] != 1)
        total: Array = array.sum(axis=axes, keepdims=True)
        return total.reshape(shape)


def _philox_words(seed: int, heads: int, rows: int, keys: int) -> NDArray[np.uint64]:
    """Random 32-bit words (heads, rows, keys) by Philox4x32-10, see csrc/philox.h."""
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    head, row, key = np.indices((heads, rows, keys), np.uint64, sparse=True)
    block = key // np.uint64(64) * np.uint64(16) + key % np.uint64(16)
    counter = list(np.broadcast_arrays(block, row, head & low, head >> half))
    seeds = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        even = np.uint64(0xD2511F53) * counter[0]
        odd = np.uint64(0xCD9E8D57) * counter[2]
        counter = [
            (odd >> half) ^ counter[1] ^ np.uint64(seeds[0]),
            odd & low,
            (even >> half) ^ counter[3] ^ np.uint64(seeds[1]),
            even & low,
        ]
        seeds = [(seeds[0] + 0x9E3779B9) % 2**32, (seeds[1] + 0xBB67AE85) % 2**32]
    word = np.broadcast_to(key % np.uint64(64) // np.uint64(16), counter[0].shape)
    return np.choose(word.astype(np.int64), counter)
