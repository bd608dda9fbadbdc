"""Scaled dot product attention and its gradient."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastcv import _checks, _core
from fastcv._layout import FloatT
from fastcv.ops._device import run_on_device

_OP = "scaled_dot_product_attention"
_ATTENTIONS, _GRADIENTS = _core.KnownCalls(), _core.KnownCalls()


def scaled_dot_product_attention(
    query: NDArray[FloatT],
    key: NDArray[FloatT],
    value: NDArray[FloatT],
    attn_mask: NDArray[Any] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    causal_alignment: Literal["top_left", "bottom_right"] = "top_left",
    softcap: float = 0.0,
    window: tuple[int, int] | None = None,
    kv_lengths: NDArray[Any] | None = None,
    seed: int | None = None,
    return_lse: bool = False,
    return_weights: bool = False,
) -> Any:
    """Average values, weighted by how well their keys match each query.

    Parameters
    ----------
    query : ndarray, shape (..., Hq, L, E), float32 or float64
        L queries of E numbers for each of Hq heads, with any strides. Two axes (L, E) are one
        head. At most 8 axes may precede the heads.
    key : ndarray, shape (..., Hkv, S, E)
        S keys. Same dtype as `query`. The axes before the heads broadcast, as do the heads.
    value : ndarray, shape (..., Hkv, S, Ev)
        A value for each key. Same dtype as `query`.
    attn_mask : ndarray, broadcastable to (..., Hq, L, S), optional
        Boolean: True takes part. Of the queries' dtype: added to the scores; -inf hides a key
        whatever its score.
    dropout_p : float, default 0
        Probability from 0 to 1 that a weight becomes zero. The others are divided by
        ``1 - dropout_p``. Needs `seed`.
    is_causal : bool, default False
        Each query sees its own key and those before it. May be combined with `attn_mask`.
    scale : float, optional
        Factor on the scores. None means ``1 / sqrt(E)``.
    enable_gqa : bool, default False
        Let Hq be a multiple of Hkv: query heads ``h * Hq // Hkv`` and on share head h of the keys.
    causal_alignment : {"top_left", "bottom_right"}
        Which key is a query's own, for `is_causal` and `window`: the first key is the first
        query's, or the last key (of the sample's `kv_lengths`) is the last query's.
    softcap : float, default 0
        Where positive, scores become ``softcap * tanh(score / softcap)`` before the mask.
    window : (int, int), optional
        How many keys before and after its own a query sees; -1 is no limit.
    kv_lengths : ndarray of integers, shape (...), optional
        Number of each sample's keys, one for every entry of the axes before the heads, shape (1,)
        where there are none. Later keys take no part and are not read.
    seed : int, optional
        From 0 to 2**64 - 1: which weights are dropped. The same on every machine.
    return_lse : bool, default False
        Return the logarithm of the sum of exponentials of each query's scores as well.
    return_weights : bool, default False
        Return the weights that multiplied the values as well, dropout included.

    Returns
    -------
    output : ndarray, shape (..., Hq, L, Ev)
        A new C-contiguous array. Zeros for a query that may attend to nothing.
    lse : ndarray, shape (..., Hq, L)
        Natural logarithms. -inf for such a query. Only if `return_lse`.
    weights : ndarray, shape (..., Hq, L, S)
        Only if `return_weights`.

    Raises
    ------
    TypeError
        If an array is not a NumPy array of float32 or float64, dtypes differ, a mask is neither
        boolean nor of the queries' dtype, or another argument has a wrong type.
    ValueError
        If shapes do not fit each other, a number is out of its range, a name is unknown, or
        `dropout_p` is positive without a `seed`.
    MemoryError
        If memory for the results or for scratch cannot be had.

    See Also
    --------
    scaled_dot_product_attention_grad : Its gradients.

    Notes
    -----
    With j over the keys that query l sees::

        score[l, j]  = scale * sum over e of query[l, e] * key[j, e]
        weight[l, j] = exp(score[l, j] + attn_mask[l, j] - lse[l])
        output[l]    = sum over j of weight[l, j] * value[j]

    This costs ``2 * Hq * L * S * (E + Ev)`` operations a sample. Scores are not kept: scratch
    memory is bounded, and arrays are read where they lie but for blocks of keys. Sums accumulate
    in the arrays' dtype. The bits do not depend on the number of threads, on other samples, or on
    keys that a query does not see. NaN comes through; a key whose weight is zero takes no part,
    whatever its value holds.

    References
    ----------
    Ashish Vaswani et al.: Attention is all you need. NeurIPS 2017. Tri Dao: FlashAttention-2. 2023.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> query = np.array([[[10.0, 0.0], [0.0, 10.0]]])
    >>> key = np.array([[[10.0, 0.0], [0.0, 10.0], [0.0, 10.0]]])
    >>> value = np.array([[[1.0], [2.0], [4.0]]])
    >>> fastcv.scaled_dot_product_attention(query, key, value)[0, :, 0]
    array([1., 3.])
    >>> fastcv.scaled_dot_product_attention(query, key, value, is_causal=True)[0, :, 0]
    array([1., 2.])
    """
    call = (
        query,
        key,
        value,
        attn_mask,
        dropout_p,
        is_causal,
        scale,
        enable_gqa,
        causal_alignment,
        softcap,
        window,
        seed,
        return_lse,
        return_weights,
    )
    plan = _ATTENTIONS.find(call)
    if plan is None:
        checked = _checks.attention(_OP, *call[:12])
        if checked is None:
            return run_on_device(_OP, locals())
        g: _checks.AttentionGeometry = checked.geometry
        want_lse = _checks.boolean(_OP, "return_lse", return_lse)
        want_weights = _checks.boolean(_OP, "return_weights", return_weights)
        shapes = {"output": (*g.rows_shape, g.value_columns)}
        if want_lse:
            shapes["lse"] = g.rows_shape
        if want_weights:
            shapes["weights"] = (*g.rows_shape, g.keys)
            _checks.fits(_OP, "the weights", shapes["weights"])
        layouts = {name: _core.ResultLayout(shape, query.dtype) for name, shape in shapes.items()}
        plan = _attention(checked), g, layouts
        if not checked.parameters["dropout"]:  # seeds seldom come twice
            _ATTENTIONS.keep(call, plan)
    attention, geometry, layouts = plan
    lengths = _checks.key_lengths(_OP, kv_lengths, geometry)
    output = layouts["output"].new()
    lse = layouts["lse"].new() if return_lse else None
    weights = layouts["weights"].new() if return_weights else None
    _core.scaled_dot_product_attention(
        attention, query, key, value, attn_mask, lengths, output, lse, weights
    )
    if lse is None and weights is None:
        return output
    return tuple(array for array in (output, lse, weights) if array is not None)


def scaled_dot_product_attention_grad(
    grad_output: NDArray[FloatT],
    query: NDArray[FloatT],
    key: NDArray[FloatT],
    value: NDArray[FloatT],
    output: NDArray[FloatT],
    lse: NDArray[FloatT],
    attn_mask: NDArray[Any] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    causal_alignment: Literal["top_left", "bottom_right"] = "top_left",
    softcap: float = 0.0,
    window: tuple[int, int] | None = None,
    kv_lengths: NDArray[Any] | None = None,
    seed: int | None = None,
    need_mask_grad: bool = False,
) -> tuple[NDArray[FloatT], ...]:
    """Gradients of an attention with respect to queries, keys and values, and to its mask.

    Parameters
    ----------
    grad_output : ndarray, shape (..., Hq, L, Ev), float32 or float64
        Gradient with respect to the output of `scaled_dot_product_attention`, with any strides.
    query, key, value : ndarray
        As in the forward call.
    output : ndarray, shape (..., Hq, L, Ev)
        What the forward call returned.
    lse : ndarray, shape (..., Hq, L)
        What it returned with `return_lse`.
    attn_mask, dropout_p, is_causal, scale, enable_gqa
        As in the forward call.
    causal_alignment, softcap, window, kv_lengths, seed
        As in the forward call.
    need_mask_grad : bool, default False
        Return the gradient with respect to an additive `attn_mask` as well.

    Returns
    -------
    grad_query, grad_key, grad_value : ndarray
        New C-contiguous arrays in the shapes of `query`, `key` and `value`.
    grad_mask : ndarray, shape of `attn_mask`
        Summed over the axes along which the mask broadcasts. Only if `need_mask_grad`.

    Raises
    ------
    TypeError
        As `scaled_dot_product_attention`.
    ValueError
        As `scaled_dot_product_attention`; if `grad_output`, `output` or `lse` does not have the
        shape that belongs to these inputs; if `need_mask_grad` meets no mask or a boolean one.
    MemoryError
        If memory for the results or for scratch cannot be had.

    See Also
    --------
    scaled_dot_product_attention : The forward call.

    Notes
    -----
    Scores and weights are computed again, block by block, and dropped weights drawn again from the
    seed::

        grad_weight[l, j] = sum over f of grad_output[l, f] * value[j, f]
        grad_mask[l, j]   = weight[l, j] * (grad_weight[l, j] - grad_output[l] @ output[l])
        grad_query[l]     = scale * sum over j of grad_mask[l, j] * key[j]
        grad_key[j]       = scale * sum over l of grad_mask[l, j] * query[l]
        grad_value[j]     = sum over l of weight[l, j] * grad_output[l]

    Five products in all cost ``2 * Hq * L * S * (3 * E + 2 * Ev)`` operations a sample. A query
    that may attend to nothing gives and gets zero gradients. Sums run in one order whatever the
    number of threads. Where an input was broadcast along the axes before the heads, its gradient
    is made in full and then summed.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> query, key = np.zeros((1, 1, 2)), np.eye(2)[None]
    >>> value = np.array([[[1.0], [3.0]]])
    >>> output, lse = fastcv.scaled_dot_product_attention(query, key, value, return_lse=True)
    >>> grads = fastcv.scaled_dot_product_attention_grad(
    ...     np.ones((1, 1, 1)), query, key, value, output, lse, scale=1.0
    ... )
    >>> grads[0], grads[2]
    (array([[[-0.5,  0.5]]]), array([[[0.5],
            [0.5]]]))
    """
    op = _OP + "_grad"
    call = (
        query,
        key,
        value,
        attn_mask,
        dropout_p,
        is_causal,
        scale,
        enable_gqa,
        causal_alignment,
        softcap,
        window,
        seed,
        grad_output,
        output,
        lse,
        need_mask_grad,
    )
    plan = _GRADIENTS.find(call)
    if plan is None:
        checked = _checks.attention(op, *call[:12])
        if checked is None:
            found: tuple[NDArray[FloatT], ...] = run_on_device(op, locals())
            return found
        need_mask_grad = _checks.attention_gradient(
            op, grad_output, query, output, lse, attn_mask, checked.geometry, need_mask_grad
        )
        g: _checks.AttentionGeometry = checked.geometry
        # An input that broadcasts gets its gradient in full first.
        shapes = (
            (*g.batch, g.heads, g.queries, g.columns),
            (*g.batch, g.kv_heads, g.keys, g.columns),
            (*g.batch, g.kv_heads, g.keys, g.value_columns),
        )
        layouts = [_core.ResultLayout(shape, query.dtype) for shape in shapes]
        plan = _attention(checked), g, layouts
        if not checked.parameters["dropout"]:
            _GRADIENTS.keep(call, plan)
    attention, geometry, layouts = plan
    lengths = _checks.key_lengths(op, kv_lengths, geometry)
    grad_query, grad_key, grad_value = _core.ResultLayout.new_together(layouts)
    grad_mask = None
    if need_mask_grad and attn_mask is not None:
        grad_mask = np.zeros(attn_mask.shape, query.dtype)
    _core.scaled_dot_product_attention_grad(
        attention,
        query,
        key,
        value,
        grad_output,
        output,
        lse[..., None],
        attn_mask,
        lengths,
        grad_query,
        grad_key,
        grad_value,
        grad_mask,
    )
    results: list[NDArray[FloatT]] = [
        _summed(grad_query, query.shape),
        _summed(grad_key, key.shape),
        _summed(grad_value, value.shape),
    ]
    if grad_mask is not None:
        results.append(grad_mask)
    return tuple(results)


def _attention(checked: _checks.AttentionCall) -> _core.Attention:
    g = checked.geometry
    return _core.Attention(
        g.batch,
        g.heads,
        g.kv_heads,
        g.queries,
        g.keys,
        g.columns,
        g.value_columns,
        **checked.parameters,
    )


def _summed(array: NDArray[FloatT], shape: tuple[int, ...]) -> NDArray[FloatT]:
    """Sum over the axes that an argument of this shape was broadcast along."""
    if array.shape == shape:
        return array
    missing = array.ndim - len(shape)
    full = (1,) * missing + shape
    axes = tuple(axis for axis, size in enumerate(full) if size == 1 and array.shape[axis] != 1)
    result: NDArray[FloatT] = array.sum(axis=axes, keepdims=True).reshape(shape)
    return result
