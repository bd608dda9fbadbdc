"""ONNX's own cases of its Attention node, opset 23 and later, those in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastcv import scaled_dot_product_attention

onnx = pytest.importorskip("onnx")


def recorded() -> list[dict[str, Any]]:
    """What the cases hand to the function that would write them to files."""
    from onnx.backend.test.case.node import attention

    cases: list[dict[str, Any]] = []
    before = attention.expect
    attention.expect = lambda node, **rest: cases.append({"node": node, **rest})
    try:
        for name in dir(attention.Attention):
            if name.startswith("export"):
                getattr(attention.Attention, name)()
    finally:
        attention.expect = before
    return cases


CASES = [case for case in recorded() if case["inputs"][0].dtype == np.float32]


def by_heads(array: np.ndarray, heads: int) -> np.ndarray:
    """(N, L, heads * E) -> (N, heads, L, E)."""
    return array.reshape(*array.shape[:2], heads, -1).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(case: dict[str, Any]) -> None:
    node = case["node"]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    given = [name for name in node.input if name]
    arrays = dict(zip(given, case["inputs"], strict=True))
    names = [*node.input, "", "", "", ""][:7]
    query, key, value, mask, past_key, past_value, lengths = (arrays.get(name) for name in names)
    tokens = query.ndim == 3
    if tokens:
        query = by_heads(query, attributes["q_num_heads"])
        key, value = (by_heads(array, attributes["kv_num_heads"]) for array in (key, value))
    options: dict[str, Any] = {
        "is_causal": bool(attributes.get("is_causal", 0)),
        "scale": attributes.get("scale"),
        "softcap": attributes.get("softcap", 0.0),
        "window": (attributes.get("left_window_size", -1), attributes.get("right_window_size", -1)),
    }
    if past_key is not None:
        # The first query stands behind all past keys, the last before or at the last key.
        positioned = options["is_causal"] or options["window"] != (-1, -1)
        if positioned and query.shape[2] != key.shape[2]:
            pytest.skip("an alignment between the two that there are")
        key = np.concatenate((past_key, key), axis=2)
        value = np.concatenate((past_value, value), axis=2)
        options["causal_alignment"] = "bottom_right"
    if lengths is not None:
        options |= {"kv_lengths": lengths, "causal_alignment": "bottom_right"}
    if mask is not None:
        if mask.dtype not in (np.float32, np.bool_):
            pytest.skip("a mask of another type")
        missing = key.shape[2] - mask.shape[-1]
        hidden = False if mask.dtype == bool else -np.inf
        widths = [(0, 0)] * (mask.ndim - 1) + [(0, missing)]
        mask = np.pad(mask, widths, constant_values=hidden)
    got = scaled_dot_product_attention(query, key, value, mask, enable_gqa=True, **options)
    want = case["outputs"][0]
    if tokens:
        got = got.transpose(0, 2, 1, 3).reshape(want.shape)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
