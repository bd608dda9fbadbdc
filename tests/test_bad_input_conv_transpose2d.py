"""Transposed convolution: every way to be wrong raises as documented, and writes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from shared import ones

from fastcv import (
    ConvTranspose2d,
    conv_transpose2d,
    conv_transpose2d_grad_input,
    conv_transpose2d_grad_weight,
)

pytestmark = pytest.mark.usefixtures("process_stays_sound")


TRANSPOSED: dict[str, Any] = {
    "input": ones(2, 8, 5, 6),
    "weight": ones(8, 3, 3, 3),
    "bias": ones(6),
    "stride": 2,
    "padding": 1,
    "output_padding": 1,
    "groups": 2,
    "dilation": 1,
    "activation": None,
}
TRANSPOSED_SHAPE = (2, 6, 10, 12)


def call_conv_transpose2d(**arguments: Any) -> None:
    """Calls with an ``out`` that must stay as it is."""
    out = np.full(TRANSPOSED_SHAPE, -1, np.float32)
    try:
        conv_transpose2d(**arguments, out=out)
    finally:
        assert (out == -1).all(), "written before the error"


def call_transposed_plan(**arguments: Any) -> None:
    """The same through a ConvTranspose2d."""
    image = arguments.pop("input")
    out = np.full(TRANSPOSED_SHAPE, -1, np.float32)
    try:
        ConvTranspose2d(**arguments)(image, out)
    finally:
        assert (out == -1).all(), "written before the error"


each_transposed_way = pytest.mark.parametrize(
    ("op", "call"),
    [("conv_transpose2d", call_conv_transpose2d), ("ConvTranspose2d", call_transposed_plan)],
    ids=["call", "plan"],
)


def test_transposed_good() -> None:
    assert conv_transpose2d(**TRANSPOSED).shape == TRANSPOSED_SHAPE


@each_transposed_way
@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("input", [1.0], TypeError, "input must be a numpy.ndarray, got list"),
        ("input", ones(2, 8, 5, 6, dtype=np.int32), TypeError, "got int32"),
        ("input", ones(2, 8, 5, 6, dtype=np.float64), TypeError, "float64"),
        ("weight", None, TypeError, "weight must be a numpy.ndarray, got NoneType"),
        ("weight", ones(8, 3, 3, 3, dtype=np.float16), TypeError, "weight.dtype must be"),
        ("bias", ones(6, dtype=np.float64), TypeError, "bias.dtype must equal"),
        ("stride", 2.0, TypeError, "stride must be an integer, got 2.0 (float)"),
        ("stride", (2, True), TypeError, "stride[1] must be an integer, got True (bool)"),
        ("padding", 1.0, TypeError, "padding must be an integer, got 1.0 (float)"),
        ("padding", "same", TypeError, "padding must be an integer, got 'same' (str)"),
        ("padding", ((1, 1), (1, 1)), TypeError, "padding[0] must be an integer"),
        ("output_padding", False, TypeError, "output_padding must be an integer, got False (bool)"),
        ("output_padding", (0, 1.0), TypeError, "output_padding[1] must be an integer, got 1.0"),
        ("groups", 2.0, TypeError, "groups must be an integer, got 2.0 (float)"),
        ("dilation", None, TypeError, "dilation must be an integer, got None (NoneType)"),
        ("activation", 1, TypeError, "activation must be"),
        ("activation", ("leaky_relu", "x"), TypeError, "activation[1] must be a real number"),
        (
            "input",
            ones(5, 6),
            ValueError,
            "4 axes (N, C, H, W) or 3 (C, H, W), got 2 (input (5, 6)",
        ),
        ("input", ones(1, 2, 8, 5, 6), ValueError, "got 5 (input (1, 2, 8, 5, 6)"),
        (
            "input",
            ones(2, 6, 5, 6),
            ValueError,
            "weight.shape[0] must equal input.shape[1], got 8 != 6 "
            "(input (2, 6, 5, 6), weight (8, 3, 3, 3))",
        ),
        (
            "input",
            ones(6, 5, 6),
            ValueError,
            "weight.shape[0] must equal input.shape[0], got 8 != 6",
        ),
        (
            "input",
            ones(2, 8, 0, 6),
            ValueError,
            "input.shape[2:] must be at least 1 unless there are no images, got 0 x 6",
        ),
        (
            "weight",
            ones(8, 3, 3),
            ValueError,
            "weight.shape must have 4 axes (C, K // groups, R, S)",
        ),
        (
            "weight",
            ones(7, 3, 3, 3),
            ValueError,
            "weight.shape[0] must be a positive multiple of groups, got 7 and 2",
        ),
        ("weight", ones(0, 3, 3, 3), ValueError, "positive multiple of groups, got 0 and 2"),
        ("weight", ones(8, 0, 3, 3), ValueError, "weight.shape[1] must be at least 1, got 0"),
        ("weight", ones(8, 3, 0, 3), ValueError, "weight.shape[2:] must be at least 1, got 0 x 3"),
        (
            "bias",
            ones(8),
            ValueError,
            "bias.shape must equal (weight.shape[1] * groups,), got (8,) != (6,)",
        ),
        ("bias", ones(), ValueError, "got () != (6,)"),
        ("stride", 0, ValueError, "stride must be at least 1, got 0"),
        ("stride", (1, 1, 1), ValueError, "stride must be an integer or a pair, got (1, 1, 1)"),
        ("stride", 2**63, ValueError, f"got {2**63}"),
        ("stride", 2**62, ValueError, "must have fewer than 2**60 elements"),
        ("padding", -1, ValueError, "padding must be at least 0, got -1"),
        (
            "padding",
            (1, 7),
            ValueError,
            "(input.shape[3] - 1) * stride[1] - 2 * padding[1] + dilation[1] * "
            "(weight.shape[3] - 1) + output_padding[1] + 1 must be at least 1, got (6 - 1) * 2 - "
            "2 * 7 + 1 * (3 - 1) + 1 + 1 = 0 (input (2, 8, 5, 6), weight (8, 3, 3, 3))",
        ),
        ("output_padding", -1, ValueError, "output_padding must be at least 0, got -1"),
        (
            "output_padding",
            (1, 2),
            ValueError,
            "output_padding[1] must be less than stride[1] or dilation[1], got 2 >= max(2, 1)",
        ),
        ("stride", 1, ValueError, "output_padding[0] must be less than"),
        ("groups", 0, ValueError, "groups must be at least 1, got 0"),
        ("groups", 3, ValueError, "positive multiple of groups, got 8 and 3"),
        ("dilation", (0, 1), ValueError, "dilation[0] must be at least 1, got 0"),
        ("dilation", 2**62, ValueError, "must have fewer than 2**60 elements"),
        ("activation", "swish", ValueError, "got 'swish' (str)"),
    ],
)
def test_wrong_transposed_arguments(
    name: str, value: Any, error: type[Exception], text: str, op: str, call: Callable[..., None]
) -> None:
    with pytest.raises(error, match=rf"^{op}: .*{re.escape(text)}"):
        call(**{**TRANSPOSED, name: value})


def test_a_transposed_plan_is_refused_before_there_is_an_input() -> None:
    parameters = {name: value for name, value in TRANSPOSED.items() if name != "input"}
    for name, value in (
        ("weight", ones(7, 3, 3, 3)),
        ("bias", ones(5)),
        ("stride", 0),
        ("padding", -1),
        ("output_padding", 2),
        ("activation", "swish"),
    ):
        with pytest.raises(ValueError, match=r"^ConvTranspose2d: "):
            ConvTranspose2d(**{**parameters, name: value})


def test_transposed_arguments_that_do_not_exist() -> None:
    with pytest.raises(TypeError):
        conv_transpose2d(TRANSPOSED["input"], TRANSPOSED["weight"], pad=1)
    with pytest.raises(TypeError):
        conv_transpose2d(TRANSPOSED["input"], TRANSPOSED["weight"], None, 2, 0, 0, 2, 1, "relu")
    with pytest.raises(TypeError):
        ConvTranspose2d(TRANSPOSED["weight"], algorithm="direct")


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (TRANSPOSED_SHAPE[1:], "got (6, 10, 12) != (2, 6, 10, 12)"),
        ((2, 6, 9, 11), "got (2, 6, 9, 11) != (2, 6, 10, 12)"),
        (TRANSPOSED_SHAPE, "out must be writable"),
    ],
)
def test_wrong_transposed_out(shape: tuple[int, ...], text: str) -> None:
    out = np.zeros(shape, np.float32)
    out.flags.writeable = shape != TRANSPOSED_SHAPE
    parameters = {name: value for name, value in TRANSPOSED.items() if name != "input"}
    for op, call in (
        ("conv_transpose2d", lambda: conv_transpose2d(**TRANSPOSED, out=out)),
        ("ConvTranspose2d", lambda: ConvTranspose2d(**parameters)(TRANSPOSED["input"], out)),
    ):
        with pytest.raises(ValueError, match=rf"^{op}: .*{re.escape(text)}"):
            call()
        assert not out.any()


@pytest.mark.parametrize("argument", ["input", "weight", "bias"])
def test_transposed_out_over_an_argument(argument: str) -> None:
    array = TRANSPOSED[argument]
    memory = np.ones(array.size + 1440, np.float32)
    out = memory[array.size - 1 : array.size + 1439].reshape(TRANSPOSED_SHAPE)
    arguments = {**TRANSPOSED, argument: memory[: array.size].reshape(array.shape)}
    with pytest.raises(ValueError, match=f"^conv_transpose2d: out must not overlap {argument}"):
        conv_transpose2d(**arguments, out=out)
    assert (memory == 1).all()


# Of both gradients.
PARAMETERS = {name: TRANSPOSED[name] for name in ("stride", "padding", "output_padding", "groups")}


def transposed_grad_input(**changes: Any) -> np.ndarray:
    arguments = {
        "grad_output": ones(*TRANSPOSED_SHAPE),
        "weight": TRANSPOSED["weight"],
        "input_shape": (2, 8, 5, 6),
        **PARAMETERS,
        **changes,
    }
    return conv_transpose2d_grad_input(**arguments)


def transposed_grad_weight(**changes: Any) -> np.ndarray:
    arguments = {
        "grad_output": ones(*TRANSPOSED_SHAPE),
        "input": TRANSPOSED["input"],
        "weight_shape": (8, 3, 3, 3),
        **PARAMETERS,
        **changes,
    }
    return conv_transpose2d_grad_weight(**arguments)


@pytest.mark.parametrize(
    ("op", "call"),
    [
        ("conv_transpose2d_grad_input", transposed_grad_input),
        ("conv_transpose2d_grad_weight", transposed_grad_weight),
    ],
)
@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("grad_output", [1.0], TypeError, "grad_output must be a numpy.ndarray, got list"),
        ("grad_output", ones(2, 6, 10, 12, dtype=np.float64), TypeError, "float64"),
        ("grad_output", ones(6, 10, 12), ValueError, "got (6, 10, 12) != (2, 6, 10, 12)"),
        ("grad_output", ones(2, 6, 9, 11), ValueError, "got (2, 6, 9, 11) != (2, 6, 10, 12)"),
        ("output_padding", 0, ValueError, "got (2, 6, 10, 12) != (2, 6, 9, 11)"),
        ("output_padding", 2, ValueError, "output_padding[0] must be less than stride[0]"),
        ("stride", 2.0, TypeError, "stride must be an integer, got 2.0 (float)"),
        ("padding", -1, ValueError, "padding must be at least 0, got -1"),
        ("dilation", 0, ValueError, "dilation must be at least 1, got 0"),
        ("groups", 3, ValueError, "positive multiple of groups, got 8 and 3"),
    ],
)
def test_wrong_transposed_gradient_arguments(
    name: str, value: Any, error: type[Exception], text: str, op: str, call: Callable[..., Any]
) -> None:
    assert call().shape  # right without the change
    with pytest.raises(error, match=rf"^{op}: .*{re.escape(text)}"):
        call(**{name: value})


@pytest.mark.parametrize(
    ("name", "call"),
    [("input_shape", transposed_grad_input), ("weight_shape", transposed_grad_weight)],
)
def test_wrong_shapes_of_transposed_gradients(name: str, call: Callable[..., Any]) -> None:
    for value, error, text in (
        (7, TypeError, f"{name} must be a tuple of integers, got 7 (int)"),
        ((8, 3.0, 3, 3), TypeError, f"{name}[1] must be an integer, got 3.0 (float)"),
        ((8, 3, -3, 3), ValueError, f"{name}[2] must be at least 0, got -3"),
        ((8, 3), ValueError, "got 2"),
        ((7, 3, 3, 3), ValueError, f"{name}["),
    ):
        op = call.__name__.replace("transposed", "conv_transpose2d")
        with pytest.raises(error, match=rf"^{op}: .*{re.escape(text)}"):
            call(**{name: value})


def test_transposed_sizes_and_memory_that_cannot_be_had() -> None:
    pixels, window = ones(1, 1, 2, 2), ones(1, 1, 1, 1)
    for call in (
        lambda n: conv_transpose2d(pixels, window, stride=n),
        lambda n: ConvTranspose2d(window, stride=n)(pixels),
    ):
        for stride in (2**31, 2**61, 2**63 - 1):
            with pytest.raises(ValueError, match=r"(?i)^conv_?transpose2d: .*2\*\*60 elements"):
                call(stride)
        with pytest.raises(MemoryError):
            call(2**27)
