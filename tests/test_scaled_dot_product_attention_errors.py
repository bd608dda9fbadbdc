"""Every way to call an attention wrongly: the documented exception, and the numbers in its text."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from fastcv import scaled_dot_product_attention, scaled_dot_product_attention_grad


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


GOOD: dict[str, Any] = {
    "query": ones(2, 4, 5, 8),
    "key": ones(2, 2, 7, 8),
    "value": ones(2, 2, 7, 6),
    "attn_mask": ones(4, 5, 7),
    "dropout_p": 0.0,
    "is_causal": False,
    "scale": None,
    "enable_gqa": True,
    "causal_alignment": "top_left",
    "softcap": 0.0,
    "window": None,
    "kv_lengths": np.array([7, 3]),
    "seed": None,
}
OUTPUTS = {
    "grad_output": ones(2, 4, 5, 6),
    "output": ones(2, 4, 5, 6),
    "lse": ones(2, 4, 5),
}

TYPE_ERRORS: list[tuple[str, Any, str]] = [
    ("query", None, "query must be a numpy.ndarray, got NoneType"),
    ("query", [[1.0]], "query must be a numpy.ndarray, got list"),
    ("query", ones(2, 4, 5, 8, dtype=np.float16), "query.dtype must be float32 or float64"),
    ("key", ones(2, 2, 7, 8, dtype=np.float64), "key.dtype must equal query.dtype"),
    ("value", ones(2, 2, 7, 6, dtype=np.int32), "value.dtype must be float32 or float64"),
    ("attn_mask", [[True]], "attn_mask must be a numpy.ndarray, got list"),
    ("attn_mask", ones(4, 5, 7, dtype=np.float64), "got float64 and float32"),
    ("attn_mask", ones(4, 5, 7, dtype=np.uint8), "attn_mask.dtype must be bool or query.dtype"),
    ("dropout_p", "0", "dropout_p must be a real number, got '0' (str)"),
    ("dropout_p", True, "dropout_p must be a real number, got True (bool)"),
    ("is_causal", 1, "is_causal must be a bool, got 1 (int)"),
    ("is_causal", None, "is_causal must be a bool, got None"),
    ("scale", "1", "scale must be a real number, got '1' (str)"),
    ("enable_gqa", 1, "enable_gqa must be a bool, got 1 (int)"),
    ("causal_alignment", 0, "causal_alignment must be 'top_left' or 'bottom_right', got 0"),
    ("softcap", None, "softcap must be a real number, got None"),
    ("window", 3, "window must be None or a pair of integers, got 3 (int)"),
    ("window", (1.0, 2), "window[0] must be an integer, got 1.0 (float)"),
    ("window", (1, True), "window[1] must be an integer, got True (bool)"),
    ("kv_lengths", [7, 3], "kv_lengths must be a numpy.ndarray, got list"),
    ("kv_lengths", ones(2), "kv_lengths.dtype must be an integer type, got float32"),
    ("kv_lengths", np.ones(2, bool), "kv_lengths.dtype must be an integer type, got bool"),
    ("seed", 1.0, "seed must be an integer, got 1.0 (float)"),
    ("seed", True, "seed must be an integer, got True (bool)"),
]
VALUE_ERRORS: list[tuple[str, Any, str]] = [
    ("query", ones(8), "query.shape must have from 2 to 11 axes"),
    ("query", ones(*(12 * (1,))), "query.shape must have from 2 to 11 axes"),
    ("query", ones(2, 4, 5, 9), "key.shape[-1] must equal query.shape[-1], got 8 != 9"),
    ("query", ones(3, 4, 5, 8), "the axes before the heads must broadcast, got query (3, 4, 5, 8)"),
    ("query", ones(2, 3, 5, 8), "query.shape[-3] must be a multiple of key.shape[-3], got 3 and 2"),
    ("key", ones(2, 2, 6, 8), "value.shape[-2] must equal key.shape[-2], got 7 != 6"),
    ("key", ones(2, 3, 7, 8), "value.shape[-3] must equal key.shape[-3] or one of them be 1"),
    ("value", ones(7), "value.shape must have from 2 to 11 axes"),
    ("enable_gqa", False, "or one of them be 1 unless enable_gqa, got 4 != 2"),
    ("attn_mask", ones(5, 8), "must broadcast to (..., Hq, L, S), got (5, 8) and (2, 4, 5, 7)"),
    ("attn_mask", ones(3, 1, 1, 7), "got (3, 1, 1, 7) and (2, 4, 5, 7)"),
    ("attn_mask", ones(1, 2, 4, 5, 7), "got (1, 2, 4, 5, 7) and (2, 4, 5, 7)"),
    ("dropout_p", -0.1, "dropout_p must be from 0 to 1, got -0.1"),
    ("dropout_p", 1.5, "dropout_p must be from 0 to 1, got 1.5"),
    ("dropout_p", float("nan"), "dropout_p must be from 0 to 1, got nan"),
    ("dropout_p", 0.5, "dropout_p above 0 needs a seed, got dropout_p 0.5 and None"),
    ("causal_alignment", "left", "must be 'top_left' or 'bottom_right', got 'left'"),
    ("softcap", -1.0, "softcap must be at least 0 and finite, got -1.0"),
    ("softcap", float("inf"), "softcap must be at least 0 and finite, got inf"),
    ("window", (1, 2, 3), "window must be an integer or a pair, got (1, 2, 3)"),
    ("window", (-2, 0), "window[0] must be at least -1, got -2"),
    ("window", (0, 2**63), f"got {2**63}"),
    ("kv_lengths", np.array([7]), "kv_lengths.shape must equal the axes of query before the heads"),
    ("kv_lengths", np.array([8, 1]), "from 0 to key.shape[-2], got 1 to 8 and 7 keys"),
    ("kv_lengths", np.array([-1, 1]), "from 0 to key.shape[-2], got -1 to 1 and 7 keys"),
    ("seed", -1, "seed must be at least 0, got -1"),
    ("seed", 2**64, f"seed must be at most {2**64 - 1}, got {2**64}"),
]


def both(arguments: dict[str, Any]) -> list[tuple[str, Any, dict[str, Any]]]:
    return [
        ("scaled_dot_product_attention", scaled_dot_product_attention, arguments),
        (
            "scaled_dot_product_attention_grad",
            scaled_dot_product_attention_grad,
            {**OUTPUTS, **arguments},
        ),
    ]


def test_the_good_call_is_right() -> None:
    for _, function, arguments in both(GOOD):
        function(**arguments)
        function(**{**arguments, "window": (2**62, 2**63 - 1)})


@pytest.mark.parametrize(("name", "value", "text"), TYPE_ERRORS)
def test_wrong_types(name: str, value: Any, text: str) -> None:
    for op, function, arguments in both({**GOOD, name: value}):
        with pytest.raises(TypeError, match=rf"^{op}: .*{re.escape(text)}"):
            function(**arguments)


@pytest.mark.parametrize(("name", "value", "text"), VALUE_ERRORS)
def test_wrong_values(name: str, value: Any, text: str) -> None:
    for op, function, arguments in both({**GOOD, name: value}):
        with pytest.raises(ValueError, match=rf"^{op}: .*{re.escape(text)}"):
            function(**arguments)


def test_wrong_types_of_one_function() -> None:
    for name in ("return_lse", "return_weights"):
        with pytest.raises(TypeError, match=f"{name} must be a bool, got 1"):
            scaled_dot_product_attention(**GOOD, **{name: 1})
    with pytest.raises(TypeError, match="need_mask_grad must be a bool, got 1"):
        scaled_dot_product_attention_grad(**OUTPUTS, **GOOD, need_mask_grad=1)


@pytest.mark.parametrize("name", list(OUTPUTS))
def test_wrong_outputs(name: str) -> None:
    for value, error, text in (
        (None, TypeError, f"{name} must be a numpy.ndarray, got NoneType"),
        (OUTPUTS[name].astype(np.float64), TypeError, f"{name}.dtype must equal query.dtype"),
        (ones(2, 4, 6), ValueError, f"{name}.shape must equal .*got \\(2, 4, 6\\) != "),
    ):
        arguments = {**OUTPUTS, **GOOD, name: value}
        with pytest.raises(error, match=f"^scaled_dot_product_attention_grad: {text}"):
            scaled_dot_product_attention_grad(**arguments)


def test_no_gradient_of_such_a_mask() -> None:
    for mask, text in ((None, "None"), (ones(5, 7) > 0, "a boolean mask")):
        arguments = {**OUTPUTS, **GOOD, "attn_mask": mask, "need_mask_grad": True}
        with pytest.raises(
            ValueError, match=f"need_mask_grad needs an additive attn_mask, got {text}"
        ):
            scaled_dot_product_attention_grad(**arguments)


def test_sizes_that_no_memory_holds() -> None:
    one = ones(1, 1, 1)
    rows = np.broadcast_to(np.float32(1), (1, 2**30, 1))
    with pytest.raises(MemoryError):
        scaled_dot_product_attention(np.broadcast_to(rows, (2**17, 2**30, 1)), one, one)
    with pytest.raises(ValueError, match=r"the output must have fewer than 2\*\*60 elements"):
        scaled_dot_product_attention(np.broadcast_to(rows, (2**29, 2**30, 1)), one, ones(1, 1, 4))
    with pytest.raises(ValueError, match=r"the weights must have fewer than 2\*\*60 elements"):
        scaled_dot_product_attention(rows, rows, rows, return_weights=True)
