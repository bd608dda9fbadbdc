"""Conv2d as an object: immutable, picklable, for any thread and any shape of input."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cases import uniform
from cases.conv2d import BY_NAME, KINDS, Case
from closeness import assert_close, same_bits, sum_bound, widened
from shared import each_kind

from fastcv import Conv2d, conv2d, reference

ALGORITHMS = {
    "winograd_f4",
    "winograd_f3",
    "winograd_f2",
    "winograd_whole",
    "strip_pixels",
    "strip_channels",
    "clipped",
    "depthwise",
}


def plan_of(case: Case, **options: Any) -> tuple[Conv2d[Any], np.ndarray]:
    x, weight, bias = case.arrays()
    return Conv2d(weight, bias, **case.parameters, **options), x


@each_kind
def test_later_writes_to_the_weights_change_nothing(case: Case) -> None:
    x, weight, bias = case.arrays()
    plan = Conv2d(weight, bias, **case.parameters)
    want = Conv2d(weight.copy(), bias.copy(), **case.parameters)(x)
    weight.fill(np.nan)
    bias.fill(np.nan)
    assert same_bits(plan(x), want)


def test_attributes() -> None:
    _, weight, bias = BY_NAME["odd_3x3_17_33_19"].arrays()
    plan = Conv2d(
        weight, bias, stride=1, padding=((0, 1), (2, 3)), dilation=(1, 2), activation="relu"
    )
    assert same_bits(plan.weight, weight)
    assert plan.bias is not None and same_bits(plan.bias, bias)
    assert plan.stride == (1, 1)
    assert plan.padding == ((0, 1), (2, 3))
    assert plan.dilation == (1, 2)
    assert plan.groups == 1
    assert plan.activation == "relu"
    assert plan.algorithm == "auto"
    assert repr(plan).startswith("Conv2d(17, 33, kernel_size=(3, 3), ")


def test_immutable() -> None:
    plan, _ = plan_of(KINDS[0])
    for name in ("weight", "stride", "padding", "activation", "something_new"):
        with pytest.raises(AttributeError, match=name):
            setattr(plan, name, None)
    with pytest.raises(AttributeError, match="weight"):
        del plan.weight
    assert plan.bias is not None
    for array in (plan.weight, plan.bias):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@each_kind
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_copies_give_the_same_bits(case: Case, used: bool) -> None:
    plan, x = plan_of(case, activation=("leaky_relu", 0.2))
    want = plan(x)
    if not used:
        plan, _ = plan_of(case, activation=("leaky_relu", 0.2))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert same_bits(pickle.loads(pickle.dumps(plan, protocol))(x), want)
    for twin in (copy.copy(plan), copy.deepcopy(plan)):
        assert same_bits(twin(x), want)
        assert repr(twin) == repr(plan)


@each_kind
def test_one_plan_many_shapes(case: Case) -> None:
    # Packed for the first shape, used for others that may ask for another algorithm, and again.
    plan, x = plan_of(case)
    rng = np.random.default_rng(2)
    rows, columns = case.window
    shapes = [
        x.shape,
        (1, x.shape[1], rows, columns),
        (3, x.shape[1], rows + 5, columns + 40),
        (x.shape[1], 40 + rows, 3 + columns),
        (1, x.shape[1], rows + 1, columns + 1),
        x.shape,
    ]
    assert plan.bias is not None
    for shape in shapes:
        image = uniform(rng, shape, np.float32)
        want = reference.conv2d(*widened(image, plan.weight, plan.bias), **case.parameters)
        bound = sum_bound(case.depth, image, plan.weight, plan.bias, winograd=True)
        assert_close(plan(image), want, bound, str(shape))
        fresh = Conv2d(plan.weight, plan.bias, **case.parameters)
        assert same_bits(plan(image), fresh(image))


def test_same_padding_waits_for_no_input() -> None:
    x, weight, _ = BY_NAME["odd_3x3_7_5_11"].arrays()
    plan = Conv2d(weight, padding="same", dilation=2)
    assert plan.padding == "same"
    assert same_bits(plan(x), Conv2d(weight, padding=2, dilation=2)(x))


def test_first_calls_from_many_threads_at_once() -> None:
    # All find the plan unpacked.
    for case in KINDS:
        plan, x = plan_of(case)
        want = plan_of(case)[0](x)
        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(lambda _, plan=plan, x=x: plan(x), range(32)))
        assert all(same_bits(result, want) for result in results)


def test_float64_plan() -> None:
    for case in KINDS:
        x, weight, bias = case.arrays(np.float64)
        want = reference.conv2d(x, weight, bias, **case.parameters)
        got = Conv2d(weight, bias, **case.parameters)(x)
        assert_close(got, want, sum_bound(case.depth, x, weight, bias, winograd=True))


@each_kind
@pytest.mark.parametrize("algorithm", ["auto", "direct"])
def test_explain(case: Case, algorithm: str) -> None:
    plan, x = plan_of(case, algorithm=algorithm)
    name, reason = plan.explain(x.shape).split(": ", 1)
    assert name in ALGORITHMS
    assert reason
    assert plan.explain(x.shape[1:]).startswith(f"{name}:")
    if algorithm == "direct":
        assert not name.startswith("winograd")


def test_winograd_where_it_was_asked_for_and_where_it_pays() -> None:
    _, weight, _ = BY_NAME["small_3x3_8_16"].arrays()
    assert (
        Conv2d(weight, padding=1, algorithm="winograd").explain((8, 16, 16)).startswith("winograd")
    )
    for name in ("resnet_3x3_64_56", "vgg_3x3_256_56", "dilated_3x3_d2_256_28"):
        plan, x = plan_of(BY_NAME[name])
        assert plan.explain(x.shape).startswith("winograd"), name
    for name in ("mobilenet_dw3x3_144_56", "convnext_dw7x7_96_56"):
        plan, x = plan_of(BY_NAME[name])
        assert plan.explain(x.shape).startswith("depthwise"), name


def test_agrees_with_the_plain_call() -> None:
    for case in KINDS:
        x, weight, bias = case.arrays(np.float64)
        packed, plain = (
            Conv2d(weight, bias, **case.parameters)(x),
            conv2d(x, weight, bias, **case.parameters),
        )
        bound = 2 * sum_bound(case.depth, x, weight, bias, winograd=True)
        assert_close(packed, plain, bound)
