"""Gram matrices: every way to be wrong raises as documented, and writes nothing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from shared import ones

from fastcv import gram_matrix, gram_matrix_grad_input

pytestmark = pytest.mark.usefixtures("process_stays_sound")


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"input": [[[1.0]]]}, TypeError, "input must be a numpy.ndarray, got list"),
        ({"input": ones(2, 3, 4, 5, dtype=np.float16)}, TypeError, "got float16"),
        ({"input": ones(2, 3, 4, 5, dtype=np.int64)}, TypeError, "got int64"),
        ({"scale": "1"}, TypeError, "scale must be a real number, got '1' (str)"),
        ({"scale": True}, TypeError, "scale must be a real number, got True (bool)"),
        ({"scale": np.True_}, TypeError, "scale must be a real number"),
        ({"scale": 1j}, TypeError, "scale must be a real number, got 1j (complex)"),
        ({"scale": ones(1)}, TypeError, "scale must be a real number"),
        ({"scale": 10**400}, ValueError, "scale must fit in a float64"),
        ({"input": ones(4, 5)}, ValueError, "4 axes (N, C, H, W) or 3 (C, H, W), got 2"),
        ({"input": ones(1, 2, 3, 4, 5)}, ValueError, "got 5 (input (1, 2, 3, 4, 5))"),
        ({"grad_output": 1.0}, TypeError, "grad_output must be a numpy.ndarray, got float"),
        ({"grad_output": ones(2, 3, 3, dtype=np.float64)}, TypeError, "float32 != float64"),
        (
            {"grad_output": ones(2, 3, 4)},
            ValueError,
            "grad_output.shape must equal the shape of the Gram matrices, "
            "got (2, 3, 4) != (2, 3, 3)",
        ),
        ({"grad_output": ones(3, 3)}, ValueError, "got (3, 3) != (2, 3, 3)"),
        ({"grad_output": ones(1, 3, 3)}, ValueError, "got (1, 3, 3) != (2, 3, 3)"),
    ],
)
def test_gram_matrix(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    good = {"grad_output": ones(2, 3, 3), "input": ones(2, 3, 4, 5), "scale": None}
    with pytest.raises(error, match=rf"^gram_matrix_grad_input: .*{re.escape(text)}"):
        gram_matrix_grad_input(**{**good, **changes})
    if "grad_output" not in changes:
        del good["grad_output"]
        with pytest.raises(error, match=rf"^gram_matrix: .*{re.escape(text)}"):
            gram_matrix(**{**good, **changes})


def test_gram_matrix_beyond_memory() -> None:
    channels = np.broadcast_to(np.float32(1), (2**30, 1, 1))
    with pytest.raises(ValueError, match=rf"2\*\*60 elements, got {2**30} \* {2**30}"):
        gram_matrix(channels)
    with pytest.raises(MemoryError):
        gram_matrix(channels[: 2**27])
    with pytest.raises(MemoryError):
        grad = np.broadcast_to(np.float32(1), (2**27, 2**27))
        gram_matrix_grad_input(grad, channels[: 2**27])
