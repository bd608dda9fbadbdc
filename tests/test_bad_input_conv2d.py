"""Convolution: every way to be wrong raises as documented, and writes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from closeness import same_bits
from shared import ones

from fastcv import Conv2d, conv2d, conv2d_grad_input, conv2d_grad_weight

pytestmark = pytest.mark.usefixtures("process_stays_sound")


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
