"""ConvTranspose2d as an object: immutable, picklable, for any thread and any shape of input."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cases import uniform
from cases.conv_transpose2d import KINDS, Case
from closeness import assert_close, same_bits, widened
from transposed import bound_of, each_kind

from fastcv import ConvTranspose2d, conv_transpose2d, reference


def plan_of(case: Case, **options: Any) -> tuple[ConvTranspose2d[Any], np.ndarray]:
    x, weight, bias = case.arrays()
    return ConvTranspose2d(weight, bias, **case.parameters, **options), x


@each_kind
def test_later_writes_to_the_weights_change_nothing(case: Case) -> None:
    x, weight, bias = case.arrays()
    plan = ConvTranspose2d(weight, bias, **case.parameters)
    want = ConvTranspose2d(weight.copy(), bias.copy(), **case.parameters)(x)
    weight.fill(np.nan)
    bias.fill(np.nan)
    assert same_bits(plan(x), want)


def test_attributes() -> None:
    weight, bias = np.ones((6, 4, 3, 5), np.float32), np.ones(8, np.float32)
    plan = ConvTranspose2d(
        weight,
        bias,
        stride=(2, 3),
        padding=1,
        output_padding=(1, 2),
        groups=2,
        dilation=(1, 2),
        activation="relu",
    )
    assert same_bits(plan.weight, weight)
    assert plan.bias is not None and same_bits(plan.bias, bias)
    assert plan.stride == (2, 3)
    assert plan.padding == (1, 1)
    assert plan.output_padding == (1, 2)
    assert plan.dilation == (1, 2)
    assert plan.groups == 2
    assert plan.activation == "relu"
    assert repr(plan) == (
        "ConvTranspose2d(6, 8, kernel_size=(3, 5), stride=(2, 3), padding=(1, 1), "
        "output_padding=(1, 2), dilation=(1, 2), groups=2, activation='relu', dtype=float32)"
    )


def test_immutable() -> None:
    plan, _ = plan_of(KINDS[0])
    for name in ("weight", "stride", "padding", "activation", "something_new"):
        with pytest.raises(AttributeError, match=f"ConvTranspose2d: {name}"):
            setattr(plan, name, None)
    with pytest.raises(AttributeError, match="ConvTranspose2d: weight"):
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
    channels, rows, columns = x.shape[1:]
    assert plan.bias is not None
    for shape in (
        x.shape,
        (1, channels, rows + 3, columns),
        (channels, rows, columns + 41),
        (3, channels, rows + 1, columns + 1),
        (1, channels, max(rows // 2, 7), max(columns // 2, 9)),
        x.shape,
    ):
        image = uniform(rng, shape, np.float32)
        arrays = (image, plan.weight, plan.bias)
        want = reference.conv_transpose2d(*widened(*arrays), **case.parameters)
        assert_close(plan(image), want, bound_of(*arrays, **case.parameters), str(shape))
        fresh = ConvTranspose2d(plan.weight, plan.bias, **case.parameters)
        assert same_bits(plan(image), fresh(image))


def test_one_pixel_then_a_plane() -> None:
    # Of one pixel a stride is never taken; what is packed for it must not serve a plane.
    rng = np.random.default_rng(3)
    weight = uniform(rng, (18, 20, 4, 4), np.float32)
    plan = ConvTranspose2d(weight, stride=2)
    for plane in ((1, 1), (1, 9), (9, 1), (9, 9), (1, 1)):
        image = uniform(rng, (2, 18, *plane), np.float32)
        want = reference.conv_transpose2d(*widened(image, weight), stride=2)
        assert_close(plan(image), want, bound_of(image, weight, stride=2), str(plane))


def test_first_calls_from_many_threads_at_once() -> None:
    # All find the plan unpacked.
    for case in KINDS:
        plan, x = plan_of(case)
        want = plan_of(case)[0](x)
        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(lambda _, plan=plan, x=x: plan(x), range(32)))
        assert all(same_bits(result, want) for result in results)


@each_kind
def test_explain(case: Case) -> None:
    plan, x = plan_of(case)
    name, reason = plan.explain(x.shape).split(": ", 1)
    assert name.isidentifier()
    assert reason
    assert plan.explain(x.shape[1:]).startswith(f"{name}:")


@each_kind
def test_agrees_with_the_plain_call(case: Case) -> None:
    arrays = case.arrays(np.float64)
    packed = ConvTranspose2d(*arrays[1:], **case.parameters)(arrays[0])
    plain = conv_transpose2d(*arrays, **case.parameters)
    assert_close(packed, plain, 2 * bound_of(*arrays, **case.parameters))
