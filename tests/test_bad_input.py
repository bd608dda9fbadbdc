"""Every way to be wrong: the documented exception, the numbers in its text, nothing written."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from closeness import same_bits
from shared import SANITIZED

from fastcv import (
    Conv2d,
    ConvTranspose2d,
    conv2d,
    conv2d_grad_input,
    conv2d_grad_weight,
    conv_transpose2d,
    conv_transpose2d_grad_input,
    conv_transpose2d_grad_weight,
    get_num_threads,
    gram_matrix,
    gram_matrix_grad_input,
    max_pool2d,
    max_pool2d_grad_input,
    max_unpool2d,
    max_unpool2d_grad_input,
    set_num_threads,
    show_config,
)


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


# A call that is right. Each case below changes one thing about it.
GOOD: dict[str, Any] = {
    "input": ones(2, 8, 9, 10),
    "weight": ones(6, 4, 3, 3),
    "bias": ones(6),
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 2,
    "activation": None,
    "algorithm": "auto",
}
GOOD_SHAPE = (2, 6, 7, 8)
CALL_ONLY = ("input",)  # what a Conv2d takes when it is called


@pytest.fixture(autouse=True)
def process_stays_sound() -> Iterator[None]:
    """Whatever a test provoked, the next call is right."""
    yield
    np.testing.assert_allclose(conv2d(**GOOD), np.full(GOOD_SHAPE, 37), rtol=1e-5)


def call_conv2d(**arguments: Any) -> None:
    """Calls with an ``out`` that must stay as it is."""
    out = np.full(GOOD_SHAPE, -1, np.float32)
    try:
        conv2d(**arguments, out=out)
    finally:
        assert (out == -1).all(), "written before the error"


def call_plan(**arguments: Any) -> None:
    """The same through a Conv2d."""
    image = arguments.pop("input")
    out = np.full(GOOD_SHAPE, -1, np.float32)
    try:
        Conv2d(**arguments)(image, out)
    finally:
        assert (out == -1).all(), "written before the error"


each_way = pytest.mark.parametrize(
    ("op", "call"), [("conv2d", call_conv2d), ("Conv2d", call_plan)], ids=["call", "plan"]
)

TYPE_ERRORS: list[tuple[str, Any, str]] = [
    ("input", [[[[1.0]]]], "input must be a numpy.ndarray, got list"),
    ("input", None, "input must be a numpy.ndarray, got NoneType"),
    ("input", ones(2, 8, 9, 10, dtype=np.float16), "input.dtype must be float32 or float64"),
    ("input", ones(2, 8, 9, 10, dtype=np.int32), "got int32"),
    ("input", ones(2, 8, 9, 10, dtype=np.complex64), "got complex64"),
    ("input", ones(2, 8, 9, 10, dtype=np.longdouble), f"got {np.dtype(np.longdouble)}"),
    ("input", ones(2, 8, 9, 10, dtype=object), "got object"),
    ("input", ones(2, 8, 9, 10, dtype=np.dtype(np.float32).newbyteorder()), "native byte order"),
    ("input", ones(2, 8, 9, 10, dtype=np.float64), "float64"),
    ("weight", 1.0, "weight must be a numpy.ndarray, got float"),
    ("weight", ones(6, 4, 3, 3, dtype=np.int64), "weight.dtype must be float32 or float64"),
    ("weight", ones(6, 4, 3, 3, dtype=np.float64), "float64"),
    ("bias", (1.0,) * 6, "bias must be a numpy.ndarray, got tuple"),
    ("bias", ones(6, dtype=np.float16), "bias.dtype must be float32 or float64"),
    ("bias", ones(6, dtype=np.float64), "bias.dtype must equal"),
    ("stride", 1.0, "stride must be an integer, got 1.0 (float)"),
    ("stride", True, "stride must be an integer, got True (bool)"),
    ("stride", np.True_, "stride must be an integer"),
    ("stride", None, "stride must be an integer, got None"),
    ("stride", "1", "stride must be an integer, got '1' (str)"),
    ("stride", (1, 1.0), "stride[1] must be an integer, got 1.0 (float)"),
    ("stride", (False, 1), "stride[0] must be an integer, got False (bool)"),
    ("stride", ((1, 1), (1, 1)), "stride[0] must be an integer"),
    ("padding", 0.5, "padding must be an integer, got 0.5 (float)"),
    ("padding", False, "padding must be an integer, got False (bool)"),
    ("padding", (0, 0.0), "padding[1] must be an integer, got 0.0 (float)"),
    ("padding", ((0, 1), (1, 0.0)), "padding[1][1] must be an integer, got 0.0 (float)"),
    ("dilation", np.float32(1), "dilation must be an integer"),
    ("dilation", (1, True), "dilation[1] must be an integer, got True (bool)"),
    ("groups", 2.0, "groups must be an integer, got 2.0 (float)"),
    ("groups", True, "groups must be an integer, got True (bool)"),
    ("groups", (2, 2), "groups must be an integer, got (2, 2) (tuple)"),
    ("activation", 1, "activation must be"),
    ("activation", np.tanh, "activation must be"),
    ("activation", ("leaky_relu", "0.1"), "activation[1] must be a real number, got '0.1' (str)"),
    ("activation", ("leaky_relu", True), "activation[1] must be a real number, got True (bool)"),
    ("algorithm", 0, "algorithm must be"),
    ("algorithm", None, "algorithm must be"),
]

VALUE_ERRORS: list[tuple[str, Any, str]] = [
    ("input", ones(9, 10), "4 axes (N, C, H, W) or 3 (C, H, W), got 2 (input (9, 10)"),
    ("input", ones(1, 2, 8, 9, 10), "got 5 (input (1, 2, 8, 9, 10)"),
    ("input", ones(), "got 0 (input ()"),
    ("input", ones(2, 7, 9, 10), "7 and 2 (input (2, 7, 9, 10), weight (6, 4, 3, 3))"),
    (
        "input",
        ones(2, 16, 9, 10),
        "weight.shape[1] must equal input.shape[1] // groups, got 4 != 16 // 2 "
        "(input (2, 16, 9, 10), weight (6, 4, 3, 3))",
    ),
    (
        "input",
        ones(16, 9, 10),
        "weight.shape[1] must equal input.shape[0] // groups, got 4 != 16 // 2",
    ),
    ("input", ones(2, 8, 2, 10), "1 * (3 - 1) + 1 > 2 + 0 + 0 (input (2, 8, 2, 10)"),
    ("input", ones(2, 8, 9, 2), "1 * (3 - 1) + 1 > 2 + 0 + 0 (input (2, 8, 9, 2)"),
    ("input", ones(2, 8, 0, 10), "0 x 10 (input (2, 8, 0, 10)"),
    ("weight", ones(6, 4, 3), "weight.shape must have 4 axes (K, C // groups, R, S), got 3"),
    ("weight", ones(5, 4, 3, 3), "weight.shape[0] must be a positive multiple of groups, got 5"),
    ("weight", ones(0, 4, 3, 3), "weight.shape[0] must be a positive multiple of groups, got 0"),
    ("weight", ones(6, 8, 3, 3), "got 8 != 8 // 2 (input (2, 8, 9, 10), weight (6, 8, 3, 3))"),
    ("weight", ones(6, 4, 0, 3), "weight.shape[2:] must be at least 1, got 0 x 3"),
    ("weight", ones(6, 4, 3, 0), "weight.shape[2:] must be at least 1, got 3 x 0"),
    ("weight", ones(6, 4, 10, 3), "1 * (10 - 1) + 1 > 9 + 0 + 0"),
    ("bias", ones(5), "bias.shape must equal (weight.shape[0],), got (5,) != (6,)"),
    ("bias", ones(1), "got (1,) != (6,)"),
    ("bias", ones(), "got () != (6,)"),
    ("bias", ones(6, 1, 1), "got (6, 1, 1) != (6,)"),
    ("stride", 0, "stride must be at least 1, got 0"),
    ("stride", -1, "stride must be at least 1, got -1"),
    ("stride", (1, 0), "stride[1] must be at least 1, got 0"),
    ("stride", (1, 1, 1), "stride must be an integer or a pair, got (1, 1, 1)"),
    ("stride", (), "stride must be an integer or a pair, got ()"),
    ("stride", 2**63, f"got {2**63}"),
    ("padding", -1, "padding must be at least 0, got -1"),
    ("padding", (0, -2), "padding[1] must be at least 0, got -2"),
    ("padding", ((0, -3), 0), "padding[0][1] must be at least 0, got -3"),
    ("padding", (0, 0, 0), "got (0, 0, 0)"),
    ("padding", "full", """padding must be "valid", "same" or integers, got 'full'"""),
    ("padding", 2**63, f"got {2**63}"),
    ("dilation", 0, "dilation must be at least 1, got 0"),
    ("dilation", (-1, 1), "dilation[0] must be at least 1, got -1"),
    ("dilation", 5, "5 * (3 - 1) + 1 > 9 + 0 + 0 (input (2, 8, 9, 10), weight (6, 4, 3, 3))"),
    ("dilation", (1, 6), "6 * (3 - 1) + 1 > 10 + 0 + 0"),
    ("dilation", 2**62, f"{2**62} * (3 - 1) + 1 > 9 + 0 + 0"),
    ("groups", 0, "groups must be at least 1, got 0"),
    ("groups", -2, "groups must be at least 1, got -2"),
    ("groups", 3, "8 and 3 (input (2, 8, 9, 10), weight (6, 4, 3, 3))"),
    ("groups", 4, "weight.shape[0] must be a positive multiple of groups, got 6 and 4"),
    ("activation", "swish", "got 'swish' (str)"),
    ("activation", "leaky_relu", "('leaky_relu', slope), got 'leaky_relu' (str)"),
    ("activation", ("leaky_relu",), "('leaky_relu', slope), got ('leaky_relu',)"),
    ("activation", ("relu", 1.0), "got ('relu', 1.0)"),
    ("algorithm", "fft", "got 'fft' (str)"),
]


def named(cases: list[tuple[str, Any, str]]) -> list[Any]:
    return [
        pytest.param(name, value, text, id=f"{index}-{name}")
        for index, (name, value, text) in enumerate(cases)
    ]


@each_way
@pytest.mark.parametrize(("name", "value", "text"), named(TYPE_ERRORS))
def test_wrong_type(name: str, value: Any, text: str, op: str, call: Callable[..., None]) -> None:
    with pytest.raises(TypeError, match=rf"^{op}: .*{re.escape(text)}"):
        call(**{**GOOD, name: value})


@each_way
@pytest.mark.parametrize(("name", "value", "text"), named(VALUE_ERRORS))
def test_wrong_value(name: str, value: Any, text: str, op: str, call: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match=rf"^{op}: .*{re.escape(text)}"):
        call(**{**GOOD, name: value})


def test_the_text_as_documented() -> None:
    with pytest.raises(ValueError) as caught:
        conv2d(ones(8, 32, 28, 28), ones(64, 16, 3, 3), groups=4)
    assert str(caught.value) == (
        "conv2d: weight.shape[1] must equal input.shape[1] // groups, got 16 != 32 // 4 "
        "(input (8, 32, 28, 28), weight (64, 16, 3, 3))"
    )


@each_way
def test_combinations(op: str, call: Callable[..., None]) -> None:
    for changes, text in (
        ({"padding": "same", "stride": 2}, 'padding "same" needs stride 1, got stride (2, 2)'),
        (
            {"algorithm": "winograd", "stride": 2, "dilation": 2},
            "stride (2, 2) and dilation (2, 2)",
        ),
        ({"algorithm": "winograd", "weight": ones(6, 4, 11, 12), "padding": 6}, "(11, 12)"),
        ({"algorithm": "winograd", "weight": ones(6, 4, 1, 1)}, "(1, 1)"),
    ):
        with pytest.raises(ValueError, match=rf"^{op}: .*{re.escape(text)}"):
            call(**{**GOOD, **changes})


def test_a_plan_is_refused_before_there_is_an_input() -> None:
    parameters = {name: value for name, value in GOOD.items() if name not in CALL_ONLY}
    for name, value in (
        ("weight", ones(5, 4, 3, 3)),
        ("bias", ones(5)),
        ("stride", 0),
        ("padding", -1),
        ("activation", "swish"),
        ("algorithm", "fft"),
    ):
        with pytest.raises(ValueError, match=r"^Conv2d: "):
            Conv2d(**{**parameters, name: value})


def test_arguments_that_do_not_exist() -> None:
    with pytest.raises(TypeError):
        conv2d(GOOD["input"], GOOD["weight"], pad=1)
    with pytest.raises(TypeError):
        conv2d(GOOD["input"], GOOD["weight"], None, 1, 0, 1, 2, "relu")
    with pytest.raises(TypeError):
        conv2d(GOOD["input"])


# out


def outs() -> Iterator[tuple[Any, type[Exception], str]]:
    good = np.zeros(GOOD_SHAPE, np.float32)
    yield [[1.0]], TypeError, "out must be a numpy.ndarray, got list"
    yield good.astype(np.float64), TypeError, "out.dtype must equal"
    yield good.astype(np.int32), TypeError, "out.dtype must be float32 or float64"
    yield good[0], ValueError, "got (6, 7, 8) != (2, 6, 7, 8)"
    yield good[:1], ValueError, "got (1, 6, 7, 8) != (2, 6, 7, 8)"
    yield np.zeros((2, 6, 8, 7), np.float32), ValueError, "got (2, 6, 8, 7) != (2, 6, 7, 8)"
    yield np.zeros((2, 6, 9, 10), np.float32), ValueError, "got (2, 6, 9, 10) != (2, 6, 7, 8)"
    refusing = good.copy()
    refusing.flags.writeable = False
    yield refusing, ValueError, "out must be writable"
    overlaid = np.lib.stride_tricks.as_strided(good, GOOD_SHAPE, (0, 4, 32, 4))
    yield overlaid, ValueError, "out must not overlap itself"


@pytest.mark.parametrize(("out", "error", "text"), list(outs()))
def test_wrong_out(out: Any, error: type[Exception], text: str) -> None:
    before = np.array(out)
    for op, call in (
        ("conv2d", lambda: conv2d(**GOOD, out=out)),
        (
            "Conv2d",
            lambda: Conv2d(**{n: v for n, v in GOOD.items() if n != "input"})(GOOD["input"], out),
        ),
    ):
        with pytest.raises(error, match=rf"^{op}: .*{re.escape(text)}"):
            call()
        assert same_bits(before, np.array(out))


@pytest.mark.parametrize("argument", ["input", "weight", "bias"])
def test_out_over_an_argument(argument: str) -> None:
    rng = np.random.default_rng(0)
    shape = GOOD[argument].shape
    # Shared to the last byte, shared in part, and merely interleaved, which is no overlap.
    memory = rng.random(4 * max(GOOD[argument].size, 672), np.float32)
    size = GOOD[argument].size
    array = memory[:size].reshape(shape)
    for start in (0, 1, size - 1):
        out = memory[start : start + 672].reshape(GOOD_SHAPE)
        before = memory.copy()
        with pytest.raises(ValueError, match=f"^conv2d: out must not overlap {argument}"):
            conv2d(**{**GOOD, argument: array}, out=out)
        assert same_bits(before, memory)

    out = memory[size : size + 672].reshape(GOOD_SHAPE)
    want = conv2d(**{**GOOD, argument: array})
    assert same_bits(conv2d(**{**GOOD, argument: array}, out=out), want)

    pairs = rng.random((max(size, 672), 2), np.float32)
    array, out = pairs[:size, 0].reshape(shape), pairs[:672, 1].reshape(GOOD_SHAPE)
    want = conv2d(**{**GOOD, argument: array})
    assert same_bits(conv2d(**{**GOOD, argument: array}, out=out), want)


# Gradients

GRAD = ones(2, 6, 7, 8)
GRAD_GOOD: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 2}


def grad_input(**changes: Any) -> np.ndarray:
    arguments = {
        "grad_output": GRAD,
        "weight": GOOD["weight"],
        "input_shape": (2, 8, 9, 10),
        **GRAD_GOOD,
        **changes,
    }
    return conv2d_grad_input(**arguments)


def grad_weight(**changes: Any) -> np.ndarray:
    arguments = {
        "grad_output": GRAD,
        "input": GOOD["input"],
        "weight_shape": (6, 4, 3, 3),
        **GRAD_GOOD,
        **changes,
    }
    return conv2d_grad_weight(**arguments)


@pytest.mark.parametrize(
    ("op", "call"), [("conv2d_grad_input", grad_input), ("conv2d_grad_weight", grad_weight)]
)
@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("grad_output", [1.0], TypeError, "grad_output must be a numpy.ndarray, got list"),
        ("grad_output", GRAD.astype(np.float64), TypeError, "float64"),
        ("grad_output", GRAD.astype(np.float16), TypeError, "grad_output.dtype must be"),
        ("grad_output", GRAD[0], ValueError, "got (6, 7, 8) != (2, 6, 7, 8)"),
        ("grad_output", GRAD[:, :4], ValueError, "got (2, 4, 7, 8) != (2, 6, 7, 8)"),
        ("grad_output", ones(2, 6, 8, 7), ValueError, "got (2, 6, 8, 7) != (2, 6, 7, 8)"),
        ("stride", 2, ValueError, "got (2, 6, 7, 8) != (2, 6, 4, 4)"),
        ("stride", 0, ValueError, "stride must be at least 1, got 0"),
        ("padding", 1, ValueError, "got (2, 6, 7, 8) != (2, 6, 9, 10)"),
        ("padding", -1, ValueError, "padding must be at least 0, got -1"),
        ("dilation", 1.0, TypeError, "dilation must be an integer, got 1.0 (float)"),
        ("dilation", 9, ValueError, "9 * (3 - 1) + 1 > 9 + 0 + 0"),
        ("groups", 3, ValueError, "8 and 3"),
        ("groups", True, TypeError, "groups must be an integer, got True (bool)"),
    ],
)
def test_wrong_gradient_arguments(
    name: str, value: Any, error: type[Exception], text: str, op: str, call: Callable[..., Any]
) -> None:
    with pytest.raises(error, match=rf"^{op}: .*{re.escape(text)}"):
        call(**{name: value})


@pytest.mark.parametrize(
    ("name", "call"), [("input_shape", grad_input), ("weight_shape", grad_weight)]
)
def test_wrong_shapes_of_gradients(name: str, call: Callable[..., Any]) -> None:
    for value, error, text in (
        (7, TypeError, f"{name} must be a tuple of integers, got 7 (int)"),
        ("2899", TypeError, f"{name} must be a tuple of integers"),
        ((2, 8, 9.0, 10), TypeError, f"{name}[2] must be an integer, got 9.0 (float)"),
        ((6, True, 3, 3), TypeError, f"{name}[1] must be an integer, got True (bool)"),
        ((2, 8, -9, 10), ValueError, f"{name}[2] must be at least 0, got -9"),
        ((2, 8), ValueError, "got 2"),
        ((2, 8, 9, 10, 1), ValueError, "got 5"),
        ((2, 8, 2**63, 10), ValueError, f"got {2**63}"),
    ):
        with pytest.raises(error, match=rf"^conv2d_{call.__name__}: .*{re.escape(text)}"):
            call(**{name: value})


# Transposed convolution

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
    parameters = {name: value for name, value in TRANSPOSED.items() if name not in CALL_ONLY}
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
    parameters = {name: value for name, value in TRANSPOSED.items() if name not in CALL_ONLY}
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


def transposed_grad_input(**changes: Any) -> np.ndarray:
    arguments = {
        "grad_output": ones(*TRANSPOSED_SHAPE),
        "weight": TRANSPOSED["weight"],
        "input_shape": (2, 8, 5, 6),
        "stride": 2,
        "padding": 1,
        "output_padding": 1,
        "groups": 2,
        **changes,
    }
    return conv_transpose2d_grad_input(**arguments)


def transposed_grad_weight(**changes: Any) -> np.ndarray:
    arguments = {
        "grad_output": ones(*TRANSPOSED_SHAPE),
        "input": TRANSPOSED["input"],
        "weight_shape": (8, 3, 3, 3),
        "stride": 2,
        "padding": 1,
        "output_padding": 1,
        "groups": 2,
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


# Pooling

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


# Sizes that no memory holds


def test_sizes_whose_product_overflows() -> None:
    one, window = ones(1, 1, 1, 1), ones(1, 1, 1, 1)
    for padding in (2**31, 2**40, 2**61, 2**63 - 1):
        for call in (
            lambda p=padding: conv2d(one, window, padding=p),
            lambda p=padding: Conv2d(window, padding=p)(one),
        ):
            with pytest.raises(ValueError, match=rf"(?i)^conv2d: .*{2 * padding + 1}"):
                call()
    with pytest.raises(ValueError, match=rf"^conv2d_grad_input: .*{2**40}"):
        conv2d_grad_input(one, window, (1, 1, 2**40, 2**40), stride=2**40)
    with pytest.raises(ValueError, match=rf"^conv2d_grad_weight: .*{2**40}"):
        conv2d_grad_weight(one, one, (1, 1, 2**40, 2**40), padding=2**39)


def test_memory_that_cannot_be_had() -> None:
    # 2**54 elements and more: the sizes are sound, the address space is not large enough.
    one, window = ones(1, 1, 1, 1), ones(1, 1, 1, 1)
    with pytest.raises(MemoryError):
        conv2d(one, window, padding=2**26)
    with pytest.raises(MemoryError):
        Conv2d(window, padding=2**26)(one)
    with pytest.raises(MemoryError):
        conv2d_grad_input(ones(1, 1, 2, 2), window, (1, 1, 2**27, 2**27), stride=2**26)


# Runs in a process that may not grow: counts the calls that fail, then, with the limit lifted,
# prints the sum of a result.
SCRATCH = """
import resource, numpy as np, fastcv
rng = np.random.default_rng(0)
x, w = rng.random((1, 64, 60, 60), np.float32), rng.random((96, 64, 3, 3), np.float32)
grad = rng.random((1, 96, 60, 60), np.float32)
out = np.empty_like(grad)
fastcv.set_num_threads(1)
_, hard = resource.getrlimit(resource.RLIMIT_AS)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), hard))
failures = 0
for call in 3 * [
    lambda: fastcv.conv2d(x, w, padding=1, out=out),
    lambda: fastcv.Conv2d(w, padding=1)(x, out),
    lambda: fastcv.conv2d_grad_input(grad, w, x.shape, padding=1),
    lambda: fastcv.conv2d_grad_weight(grad, x, w.shape, padding=1),
    lambda: fastcv.conv_transpose2d(grad[..., :30, :30], w, stride=2, padding=1),
    lambda: fastcv.ConvTranspose2d(w, stride=2, padding=1)(grad[..., :30, :30]),
]:
    try:
        call()
    except MemoryError:
        failures += 1
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
print(failures, fastcv.conv2d(x, w, padding=1).astype(float).sum())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.skipif(SANITIZED, reason="a sanitizer ends a process that runs out of memory")
def test_scratch_that_cannot_be_had(run_python: Callable[..., Any]) -> None:
    done = run_python(SCRATCH)
    assert done.returncode == 0, done.stderr
    failures, total = done.stdout.split()
    assert int(failures) >= 1, "nothing needed memory, so nothing was tested"
    rng = np.random.default_rng(0)
    x, w = rng.random((1, 64, 60, 60), np.float32), rng.random((96, 64, 3, 3), np.float32)
    assert float(total) == float(conv2d(x, w, padding=1).astype(float).sum())


def test_huge_parameters_that_are_right() -> None:
    # Far out, but a small result: neither the offsets nor the scratch may grow with them.
    rng = np.random.default_rng(1)
    x, weight = rng.random((1, 4, 5, 6)), rng.random((3, 4, 3, 3))
    centre = np.ascontiguousarray(weight[:, :, 1:2, 1:2])
    np.testing.assert_allclose(
        conv2d(x, weight, stride=2**62), conv2d(x, weight)[..., :1, :1], rtol=1e-12
    )
    np.testing.assert_allclose(conv2d(x, centre, dilation=2**62), conv2d(x, centre), rtol=1e-12)
    for far in (7, 2**10, 2**20, 2**26):
        got = conv2d(x, weight, padding=far, dilation=far)
        np.testing.assert_allclose(got, conv2d(x, centre), rtol=1e-12)
        want = np.zeros((1, 3, 3, 3))
        want[..., 1, 1] = conv2d(x, centre)[..., 0, 0]
        got = conv2d(x, centre, stride=far, padding=far)
        np.testing.assert_allclose(got, want, rtol=1e-12)


# Gram matrices


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


# The rest of the package


def test_threads_and_configuration() -> None:
    before = get_num_threads()
    for error, values in ((ValueError, (0, -1, 2**63)), (TypeError, (1.0, True, None))):
        for value in values:
            with pytest.raises(error, match=r"^set_num_threads: n must be"):
                set_num_threads(value)
            assert get_num_threads() == before
    with pytest.raises(ValueError, match=r"^show_config: mode must be .* got 'json'"):
        show_config(mode="json")
