"""fastcv.autograd: the same results for HIPS autograd, gradients of both orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lenet
import numpy as np
import pytest
from calls import Call, each_call
from closeness import same_bits
from pages import run_examples

import fastcv
from fastcv._gradients import PLAIN, TABLE

pytest.importorskip("autograd")
import autograd.numpy as anp
from autograd import elementwise_grad, grad, jacobian
from autograd.builtins import tuple as autograd_tuple
from autograd.test_util import check_grads

import fastcv.autograd as fa


def function_and_inputs(call: Call) -> tuple[Callable[..., Any], list[np.ndarray]]:
    given, places = call.arrays(), call.differentiable
    whole = call.within(fa)

    def function(*arguments: Any) -> Any:
        by_place = dict(zip(places, arguments, strict=True))
        return whole(*(by_place.get(i, array) for i, array in enumerate(given)))

    return function, [given[i] for i in places]


def several(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


@each_call
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values(call: Call, dtype: type) -> None:
    arrays = call.arrays(dtype)
    got, want = several(call.within(fa)(*arrays)), several(call.numpy(*arrays))
    assert all(map(same_bits, got, want)) and len(got) == len(want)


@each_call
def test_first_and_second_gradients(call: Call) -> None:
    function, inputs = function_and_inputs(call)

    def boxed(*arguments: Any) -> Any:
        results = function(*arguments)
        return autograd_tuple(results) if isinstance(results, tuple) else results

    check_grads(boxed, modes=["rev"], order=2)(*inputs)


def test_gradient_keeps_float32() -> None:
    x, weight = np.ones((1, 2, 5, 5), np.float32), np.ones((3, 2, 3, 3), np.float32)
    got = grad(lambda w: anp.sum(fa.conv2d(x, w) ** 2))(weight)
    assert got.dtype == np.float32
    y = fastcv.conv2d(x, weight)
    np.testing.assert_allclose(got, fastcv.conv2d_grad_weight(2 * y, x, weight.shape), rtol=1e-6)


def test_jacobian_and_elementwise_grad() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.random((1, 1, 3, 3)), rng.random((1, 1, 2, 2))
    assert jacobian(lambda x: fa.conv2d(x, weight))(x).shape == (1, 1, 2, 2, 1, 1, 3, 3)
    assert elementwise_grad(lambda x: fa.conv2d(x, weight))(x).shape == x.shape


def test_activation_is_fused_and_has_no_gradient() -> None:
    x, weight = np.ones((1, 1, 3, 3)), -np.ones((1, 1, 2, 2))
    assert not fa.conv2d(x, weight, activation="relu").any()
    with pytest.raises(ValueError, match="fused activation has no gradient"):
        grad(lambda w: anp.sum(fa.conv2d(x, w, activation="relu")))(weight)


def test_errors_are_those_of_numpy() -> None:
    x, weight = np.ones((1, 3, 8, 8)), np.ones((4, 2, 3, 3))
    with pytest.raises(ValueError, match=r"^conv2d: weight.shape\[1\] must equal"):
        grad(lambda w: anp.sum(fa.conv2d(x, w)))(weight)
    with pytest.raises(TypeError, match="out"):
        fa.conv2d(x, weight, out=x)


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-5), (np.float64, 1e-9)])
def test_trains_like_torch(dtype: type, bound: float) -> None:
    torch = pytest.importorskip("torch")

    def step(parameters: Any, images: Any, wanted: Any) -> Any:
        def value(parameters: Any) -> Any:
            return lenet.loss(fa, anp, parameters, images, wanted)

        return value(parameters), grad(value)(parameters)

    want = lenet.torchs_losses(torch.nn.functional, dtype)
    assert lenet.losses(step, dtype) == pytest.approx(want, abs=bound)


def test_results_beside_the_first() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((1, 2, 6, 6))

    def unpooled(x: Any) -> Any:
        output, indices = fa.max_pool2d(x, 2, return_indices=True)
        assert indices.dtype == np.int64
        return fa.max_unpool2d(anp.sin(output), indices, 2)

    check_grads(unpooled, modes=["rev"], order=2)(x)
    q, k, v = rng.random((3, 2, 3, 4))

    def attended(q: Any, k: Any, v: Any) -> Any:
        options = {"is_causal": True, "return_lse": True, "return_weights": True}
        return autograd_tuple(fa.scaled_dot_product_attention(q, k, v, **options))

    check_grads(attended, modes=["rev"], order=2)(q, k, v)


def test_assignments_take_traced_arrays() -> None:
    costs = np.array([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]])

    def loss(costs: Any) -> Any:
        rows, columns = fa.linear_sum_assignment(costs)
        assert (fa.linear_sum_assignment_batch([costs, costs]) == columns).all()
        return anp.sum(costs[rows, columns])

    assert (grad(loss)(costs) == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]).all()


def test_namespace() -> None:
    assert set(fa.__all__) == {*TABLE, *PLAIN}


def test_examples_of_the_docs() -> None:
    run_examples("docs/frameworks.md", "fastcv.autograd")


def test_without_autograd(run_python: Callable[..., Any]) -> None:
    code = """
import sys
sys.modules["autograd"] = None
try:
    import fastcv.autograd
except ImportError as error:
    print(error)
"""
    done = run_python(code)
    want = "fastcv.autograd needs autograd: pip install autograd"
    assert done.stdout.strip() == want, done.stderr
