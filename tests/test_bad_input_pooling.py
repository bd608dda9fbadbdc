"""Pooling: every way to be wrong raises as documented, and writes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from shared import ones

from fastcv import max_pool2d, max_pool2d_grad_input, max_unpool2d, max_unpool2d_grad_input

pytestmark = pytest.mark.usefixtures("process_stays_sound")


IMAGE, POOLED = ones(2, 3, 8, 9), ones(2, 3, 4, 4)
PLACES = np.zeros(POOLED.shape, np.int64)
POOLINGS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "max_pool2d": (
        max_pool2d,
        {
            "input": IMAGE,
            "kernel_size": 2,
            "stride": 2,
            "padding": 0,
            "dilation": 1,
            "ceil_mode": False,
            "return_indices": True,
            "index_dtype": np.int32,
        },
    ),
    "max_pool2d_grad_input": (
        max_pool2d_grad_input,
        {"grad_output": POOLED, "indices": PLACES, "input_shape": IMAGE.shape},
    ),
    "max_unpool2d": (
        max_unpool2d,
        {
            "input": POOLED,
            "indices": PLACES,
            "kernel_size": 2,
            "stride": 2,
            "padding": 0,
            "output_size": (8, 9),
        },
    ),
    "max_unpool2d_grad_input": (
        max_unpool2d_grad_input,
        {"grad_output": IMAGE, "indices": PLACES},
    ),
}

WRONG_POOLINGS: list[tuple[str, str, Any, type[Exception], str]] = [
    ("max_pool2d", "input", [1.0], TypeError, "input must be a numpy.ndarray, got list"),
    ("max_pool2d", "input", IMAGE.astype(np.int32), TypeError, "got int32"),
    ("max_pool2d", "input", ones(8, 9), ValueError, "or 3 (C, H, W), got 2 (input (8, 9))"),
    ("max_pool2d", "input", ones(1, 1, 3, 8, 9), ValueError, "got 5 (input (1, 1, 3, 8, 9))"),
    ("max_pool2d", "input", ones(2, 0, 8, 9), ValueError, "input.shape[1:] must be at least 1"),
    ("max_pool2d", "input", ones(0, 8, 9), ValueError, "input.shape[0:] must be at least 1"),
    ("max_pool2d", "input", ones(2, 3, 0, 9), ValueError, "got 3 x 0 x 9 (input (2, 3, 0, 9))"),
    ("max_pool2d", "kernel_size", 2.0, TypeError, "kernel_size must be an integer, got 2.0"),
    ("max_pool2d", "kernel_size", None, TypeError, "kernel_size must be an integer, got None"),
    ("max_pool2d", "kernel_size", (2, True), TypeError, "kernel_size[1] must be an integer"),
    ("max_pool2d", "kernel_size", 0, ValueError, "kernel_size must be at least 1, got 0"),
    ("max_pool2d", "kernel_size", (2,), ValueError, "an integer or a pair, got (2,)"),
    (
        "max_pool2d",
        "kernel_size",
        (2, 10),
        ValueError,
        "dilation[1] * (kernel_size[1] - 1) + 1 must be at most input.shape[3] + 2 * padding[1], "
        "got 1 * (10 - 1) + 1 > 9 + 2 * 0 (input (2, 3, 8, 9))",
    ),
    ("max_pool2d", "stride", 0, ValueError, "stride must be at least 1, got 0"),
    ("max_pool2d", "stride", (1, 1.5), TypeError, "stride[1] must be an integer, got 1.5"),
    ("max_pool2d", "padding", -1, ValueError, "padding must be at least 0, got -1"),
    (
        "max_pool2d",
        "padding",
        (1, 2),
        ValueError,
        "padding[1] must be at most kernel_size[1] // 2, got 2 > 2 // 2",
    ),
    ("max_pool2d", "dilation", 0, ValueError, "dilation must be at least 1, got 0"),
    ("max_pool2d", "dilation", 8, ValueError, "got 8 * (2 - 1) + 1 > 8 + 2 * 0"),
    ("max_pool2d", "dilation", 2**62, ValueError, f"{2**62} * (2 - 1) + 1 > 8"),
    ("max_pool2d", "ceil_mode", 1, TypeError, "ceil_mode must be a bool, got 1 (int)"),
    ("max_pool2d", "return_indices", None, TypeError, "return_indices must be a bool, got None"),
    ("max_pool2d", "index_dtype", np.uint32, TypeError, "index_dtype must be int64 or int32"),
    ("max_pool2d", "index_dtype", None, TypeError, "index_dtype must be int64 or int32, got None"),
    ("max_pool2d", "index_dtype", "ints", TypeError, "got 'ints' (str)"),
    ("max_pool2d_grad_input", "grad_output", 1.0, TypeError, "grad_output must be a numpy.ndarray"),
    ("max_pool2d_grad_input", "grad_output", PLACES, TypeError, "grad_output.dtype must be"),
    ("max_pool2d_grad_input", "indices", [0], TypeError, "indices must be a numpy.ndarray"),
    ("max_pool2d_grad_input", "indices", POOLED, TypeError, "int64 or int32 in native byte order"),
    (
        "max_pool2d_grad_input",
        "indices",
        PLACES.astype(PLACES.dtype.newbyteorder()),
        TypeError,
        "indices.dtype must be int64 or int32 in native byte order",
    ),
    (
        "max_pool2d_grad_input",
        "indices",
        PLACES[..., :3],
        ValueError,
        "indices.shape must equal grad_output.shape, got (2, 3, 4, 3) != (2, 3, 4, 4)",
    ),
    ("max_pool2d_grad_input", "input_shape", 5, TypeError, "must be a tuple of integers"),
    ("max_pool2d_grad_input", "input_shape", (2, 3, 8.0, 9), TypeError, "input_shape[2] must be"),
    ("max_pool2d_grad_input", "input_shape", (2, 3, -8, 9), ValueError, "at least 0, got -8"),
    ("max_pool2d_grad_input", "input_shape", (3, 8, 9), ValueError, "got (2, 3) != (3,)"),
    ("max_pool2d_grad_input", "input_shape", (2, 4, 8, 9), ValueError, "got (2, 3) != (2, 4)"),
    ("max_pool2d_grad_input", "input_shape", (2, 3, 0, 9), ValueError, "got 3 x 0 x 9"),
    ("max_pool2d_grad_input", "input_shape", (2, 3, 2**40, 2**40), ValueError, f"{2**40}"),
    ("max_unpool2d", "input", (1.0,), TypeError, "input must be a numpy.ndarray, got tuple"),
    ("max_unpool2d", "input", ones(2, 3, 4, 5), ValueError, "got (2, 3, 4, 4) != (2, 3, 4, 5)"),
    ("max_unpool2d", "indices", None, TypeError, "indices must be a numpy.ndarray, got NoneType"),
    ("max_unpool2d", "indices", PLACES.astype(np.int16), TypeError, "got int16"),
    ("max_unpool2d", "kernel_size", True, TypeError, "kernel_size must be an integer"),
    ("max_unpool2d", "stride", 0, ValueError, "stride must be at least 1, got 0"),
    ("max_unpool2d", "padding", -1, ValueError, "padding must be at least 0, got -1"),
    ("max_unpool2d", "output_size", 8, TypeError, "output_size must be a tuple of integers"),
    ("max_unpool2d", "output_size", (8,), ValueError, "output_size must have 2 axes (H, W) or 4"),
    (
        "max_unpool2d",
        "output_size",
        (8, 10),
        ValueError,
        "output_size[-1] must be between 7 and 9, less than stride[1] from the usual 8, got 10",
    ),
    ("max_unpool2d", "output_size", (6, 8), ValueError, "output_size[-2] must be between 7 and 9"),
    ("max_unpool2d_grad_input", "grad_output", 1, TypeError, "grad_output must be a numpy.ndarray"),
    ("max_unpool2d_grad_input", "indices", POOLED, TypeError, "indices.dtype must be int64 or"),
    (
        "max_unpool2d_grad_input",
        "indices",
        PLACES[:1],
        ValueError,
        "grad_output.shape[:-2] must equal indices.shape[:-2], got (2, 3) != (1, 3)",
    ),
    ("max_unpool2d_grad_input", "indices", PLACES[0, 0], ValueError, "got 2 (indices (4, 4))"),
]


@pytest.mark.parametrize(
    ("op", "name", "value", "error", "text"),
    [
        pytest.param(*case, id=f"{number}-{case[0]}-{case[1]}")
        for number, case in enumerate(WRONG_POOLINGS)
    ],
)
def test_wrong_poolings(op: str, name: str, value: Any, error: type[Exception], text: str) -> None:
    call, arguments = POOLINGS[op]
    call(**arguments)
    with pytest.raises(error, match=rf"^{op}: .*{re.escape(text)}"):
        call(**{**arguments, name: value})


def test_poolings_in_combination() -> None:
    # With ceil_mode a window may reach out by less than a stride.
    assert max_pool2d(ones(1, 4, 4), 5, 2, ceil_mode=True).shape == (1, 1, 1)
    with pytest.raises(
        ValueError, match=r"\+ stride\[0\] - 1, got 1 \* \(6 - 1\) \+ 1 > 4 \+ 2 \*"
    ):
        max_pool2d(ones(1, 4, 4), 6, 2, ceil_mode=True)
    with pytest.raises(ValueError, match=r"must be at least 0, got \(1 - 1\) \* 1 - 2 \* 1 \+ 1"):
        max_unpool2d(ones(1, 1, 1), np.zeros((1, 1, 1), np.int64), 1, 1, 1)
    with pytest.raises(ValueError, match="the output must have fewer than"):
        max_unpool2d(POOLED, PLACES, 2, 2**40)
    with pytest.raises(MemoryError):
        max_unpool2d(POOLED, PLACES, 2, 2**26)
    with pytest.raises(MemoryError):
        max_pool2d_grad_input(POOLED[:1, :1], PLACES[:1, :1], (1, 1, 2**27, 2**27))


def test_indices_that_another_thread_changes_meanwhile() -> None:
    # The report looks for the wrong index after the kernel has; by then it may be gone.
    from fastcv import _checks

    error = _checks.index_error("max_unpool2d", PLACES, 8, 9)
    assert str(error).startswith("max_unpool2d: indices must be at least 0")


def test_sizes_that_only_equal_remembered_ones_are_refused() -> None:
    """2.0 and True equal 2 and 1, and hash as they do."""
    max_pool2d(IMAGE, (2, 1), (2, 1), (0, 0), (1, 1), False)
    for wrong in ((2.0, 1), (2, True), [2.0, 1]):
        with pytest.raises(TypeError, match="must be an integer"):
            max_pool2d(IMAGE, wrong, (2, 1), (0, 0), (1, 1), False)
    with pytest.raises(TypeError, match="ceil_mode must be a bool"):
        max_pool2d(IMAGE, (2, 1), (2, 1), (0, 0), (1, 1), 0)
    max_unpool2d(POOLED, PLACES, 2, 2, 0, (8, 9))
    with pytest.raises(TypeError, match="must be an integer"):
        max_unpool2d(POOLED, PLACES, 2, 2, 0, (8.0, 9))
