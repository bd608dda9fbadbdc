"""fastcv.jax: NumPy's results, JAX's own results and gradients, transforms, load, training."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lenet
import numpy as np
import pytest
from calls import Call, each_call, one_call_each, subsets
from closeness import same_bits
from pages import run_examples

import fastcv
from fastcv._gradients import PLAIN, TABLE

pytest.importorskip("jax")
import jax
import jax.numpy as jnp
from jax.test_util import check_grads

import fastcv.jax as fj


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """float64 is there unless a test turns it off; for all threads, those of callbacks too."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def test_xla_takes_the_handlers() -> None:
    # Otherwise the other tests would pass through Python.
    assert fj._handlers_work()


def several(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def total(results: Any) -> Any:
    """One number that depends on all of a call's floating results."""
    return sum(jnp.sum(jnp.tanh(r)) for r in several(results) if jnp.issubdtype(r.dtype, float))


def assert_all_close(got: Any, want: Any) -> None:
    for one, other in zip(several(got), several(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def function_and_inputs(call: Call) -> tuple[Callable[..., Any], list[Any]]:
    """The call as a function of those of its arrays that a gradient is taken by."""
    places = call.differentiable
    whole = call.within(fj)
    arrays = call.arrays()

    def function(*arguments: Any) -> Any:
        by_place = dict(zip(places, arguments, strict=True))
        return whole(*(by_place.get(i, array) for i, array in enumerate(arrays)))

    return function, [jnp.asarray(arrays[i]) for i in places]


# Values and transforms


@each_call
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values(call: Call, dtype: type) -> None:
    arrays = call.arrays(dtype)
    want = several(call.numpy(*arrays))
    for function in (call.within(fj), jax.jit(call.within(fj))):
        got = several(function(*arrays))
        assert all(same_bits(np.asarray(one), other) for one, other in zip(got, want, strict=True))


@each_call
def test_first_and_second_gradients(call: Call) -> None:
    function, inputs = function_and_inputs(call)
    check_grads(function, inputs, order=2, modes=["rev"], rtol=1e-6, atol=1e-6)


@one_call_each
def test_gradients_under_jit(call: Call) -> None:
    function, inputs = function_and_inputs(call)

    def loss(*inputs: Any) -> Any:
        return total(function(*inputs))

    places = tuple(range(len(inputs)))
    for transform in (jax.grad(loss, places), jax.jacrev(jax.grad(loss), places)):
        for got, want in zip(jax.jit(transform)(*inputs), transform(*inputs), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def variants(array: Any, count: int) -> Any:
    """A batch, by its last axis, whose samples differ: values in size, and places in order."""
    if jnp.issubdtype(array.dtype, np.floating):
        return jnp.stack([array * (k + 1) for k in range(count)], -1)
    return jnp.stack([jnp.roll(array, k, -1) for k in range(count)], -1)


@each_call
def test_vmap_over_any_of_the_arrays(call: Call) -> None:
    given, size = call.arrays(), 3
    present = [place for place, array in enumerate(given) if array is not None]
    whole = call.within(fj)

    def function(*present_arrays: Any) -> Any:
        by_place = dict(zip(present, present_arrays, strict=True))
        return whole(*(by_place.get(place) for place in range(len(given))))

    arrays = [jnp.asarray(given[place]) for place in present]
    for chosen in subsets(len(present)):
        axes = [-1 if chosen >> i & 1 else None for i in range(len(present))]
        batches = [
            array if axis is None else variants(array, size)
            for array, axis in zip(arrays, axes, strict=True)
        ]
        single = [
            function(*(a if x is None else a[..., i] for a, x in zip(batches, axes, strict=True)))
            for i in range(size)
        ]
        want = jax.tree.map(lambda *results: np.stack(results), *single)
        together = jax.jit(jax.vmap(function, axes)).lower(*batches)
        # A sample drops what it would alone.
        calls = size if call.keywords.get("dropout_p") else 1
        assert together.as_text().count(f"@fastcv_{call.name}(") == calls
        assert_all_close(together.compile()(*batches), want)


def test_vmap_over_lengths() -> None:
    rng = np.random.default_rng(9)
    query, keys, values = (jnp.asarray(rng.random((2, 2, n, 4))) for n in (3, 5, 5))
    lengths = jnp.asarray([[3, 5], [1, 2], [0, 4]])

    def attend(lengths: Any) -> Any:
        return fj.scaled_dot_product_attention(query, keys, values, kv_lengths=lengths)

    assert_all_close(jax.vmap(attend)(lengths), jnp.stack([attend(each) for each in lengths]))


@one_call_each
def test_vmap_of_gradients_and_gradients_of_vmap(call: Call) -> None:
    function, inputs = function_and_inputs(call)
    rng = np.random.default_rng(1)
    first = jnp.asarray(rng.random((3, *inputs[0].shape)))

    def gradient(array: Any) -> Any:
        return jax.grad(lambda x: total(function(x, *inputs[1:])))(array)

    want = np.stack([gradient(array) for array in first])
    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(first), want, rtol=1e-9, atol=1e-12)

    def together(arrays: Any) -> Any:
        return total(jax.vmap(lambda x: function(x, *inputs[1:]))(arrays))

    np.testing.assert_allclose(jax.grad(together)(first), want, rtol=1e-9, atol=1e-12)


def test_checkpoint_scan_and_nested_vmap() -> None:
    rng = np.random.default_rng(2)
    x, weight = jnp.asarray(rng.random((2, 3, 5, 5))), jnp.asarray(rng.random((3, 3, 3, 3)))

    def deep(weight: Any, step: Any) -> Any:
        def body(carry: Any, _: Any) -> Any:
            return jnp.tanh(step(carry, weight)), None

        return jnp.sum(jax.lax.scan(body, x, None, length=3)[0])

    def step(x: Any, weight: Any) -> Any:
        return fj.conv2d(x, weight, padding=1)

    want = jax.grad(lambda w: jnp.sum(jnp.tanh(step(jnp.tanh(step(jnp.tanh(step(x, w)), w)), w))))(
        weight
    )
    np.testing.assert_allclose(jax.grad(deep)(weight, step), want, rtol=1e-9)
    np.testing.assert_allclose(jax.grad(deep)(weight, jax.checkpoint(step)), want, rtol=1e-9)
    many = jnp.asarray(rng.random((2, 4, 2, 3, 5, 5)))
    got = jax.vmap(jax.vmap(lambda x: step(x, weight)))(many)
    np.testing.assert_allclose(got[1, 2], step(many[1, 2], weight), rtol=1e-9)


# JAX's own functions


def same_gradients(
    ours: Callable[..., Any], theirs: Callable[..., Any], *inputs: Any, rtol: float = 1e-10
) -> None:
    np.testing.assert_allclose(ours(*inputs), theirs(*inputs), rtol=rtol, atol=1e-12)
    cotangent = jnp.asarray(np.random.default_rng(3).random(theirs(*inputs).shape))
    got = jax.vjp(ours, *inputs)[1](cotangent)
    want = jax.vjp(theirs, *inputs)[1](cotangent)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-2 * rtol)


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize("groups", [1, 2])
def test_conv2d_is_jaxs(stride: Any, dilation: Any, groups: int) -> None:
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.random((2, 4, 9, 10)))
    weight = jnp.asarray(rng.random((6, 4 // groups, 3, 2)))
    padding = ((1, 0), (2, 1))

    def ours(x: Any, weight: Any) -> Any:
        return fj.conv2d(
            x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups
        )

    def theirs(x: Any, weight: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, weight, stride, padding, rhs_dilation=dilation, feature_group_count=groups
        )

    same_gradients(ours, theirs, x, weight)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_conv_transpose2d_is_jaxs(stride: int) -> None:
    rng = np.random.default_rng(5)
    x, weight = jnp.asarray(rng.random((2, 4, 5, 6))), jnp.asarray(rng.random((4, 3, 3, 3)))

    def ours(x: Any, weight: Any) -> Any:
        return fj.conv_transpose2d(x, weight, stride=stride)

    def theirs(x: Any, weight: Any) -> Any:
        dimensions = ("NCHW", "OIHW", "NCHW")
        return jax.lax.conv_transpose(
            x,
            weight,
            (stride, stride),
            [(2, 2), (2, 2)],
            dimension_numbers=dimensions,
            transpose_kernel=True,
        )

    same_gradients(ours, theirs, x, weight)


def test_gram_matrix_is_jaxs() -> None:
    x = jnp.asarray(np.random.default_rng(6).random((2, 5, 6, 7)))

    def theirs(x: Any) -> Any:
        rows = x.reshape(2, 5, 42)
        return rows @ rows.swapaxes(1, 2) / (5 * 42)

    same_gradients(fj.gram_matrix, theirs, x)


# Activations, dtypes, errors


@pytest.mark.parametrize(
    "activation", ["relu", "relu6", ("leaky_relu", 0.2), "sigmoid", "tanh", "silu", "gelu"]
)
def test_activations(activation: Any) -> None:
    rng = np.random.default_rng(7)
    x, weight = rng.random((1, 2, 5, 5)) - 0.5, 4 * rng.random((3, 2, 3, 3))

    def ours(weight: Any) -> Any:
        return fj.conv2d(x, weight, activation=activation)

    want = fastcv.conv2d(x, weight, activation=activation)
    assert same_bits(np.asarray(ours(weight)), want)
    np.testing.assert_allclose(jax.vjp(ours, jnp.asarray(weight))[0], want, rtol=1e-12)
    check_grads(ours, (jnp.asarray(weight),), order=2, modes=["rev"], rtol=1e-5, atol=1e-5)


def test_float32_without_x64() -> None:
    with jax.enable_x64(False):
        x, weight = np.ones((1, 2, 5, 5), np.float32), np.ones((3, 2, 3, 3), np.float32)
        got = jax.jit(jax.grad(lambda w: jnp.sum(fj.conv2d(x, w) ** 2)))(weight)
        assert got.dtype == np.float32
        y = fastcv.conv2d(x, weight)
        want = fastcv.conv2d_grad_weight(2 * y, x, weight.shape)
        np.testing.assert_allclose(got, want, rtol=1e-6)
        with pytest.raises(TypeError, match=r"conv2d: input.dtype must be float32 unless JAX"):
            fj.conv2d(x.astype(np.float64), weight)


def test_errors_are_those_of_numpy() -> None:
    x, weight = jnp.ones((1, 3, 8, 8)), jnp.ones((4, 2, 3, 3))
    for transform in (lambda f: f, jax.jit, jax.grad):
        with pytest.raises(ValueError, match=r"^conv2d: weight.shape\[1\] must equal"):
            transform(lambda w: jnp.sum(fj.conv2d(x, w)))(weight)
    with pytest.raises(TypeError, match=r"weight must be a jax.Array, got list"):
        fj.conv2d(x, [1.0])
    with pytest.raises(TypeError, match=r"input.dtype must be float32 or float64, got int"):
        fj.conv2d(x.astype(int), weight)
    with pytest.raises(TypeError, match=r"weight.dtype must equal input.dtype"):
        fj.conv2d(x, jnp.ones((4, 3, 3, 3), np.float32))
    with pytest.raises(ValueError, match="algorithm must be one of"):
        fj.conv2d(x, jnp.ones((4, 3, 3, 3)), algorithm="fast")
    with pytest.raises(TypeError, match="out"):
        fj.conv2d(x, weight, out=x)


def test_sizes_of_zero() -> None:
    assert fj.conv2d(jnp.ones((0, 2, 5, 5)), jnp.ones((3, 2, 3, 3))).shape == (0, 3, 3, 3)
    assert fj.gram_matrix(jnp.ones((2, 0, 3, 3))).shape == (2, 0, 0)


def test_namespace() -> None:
    assert set(fj.__all__) == {*TABLE, *PLAIN}


def test_assignments() -> None:
    costs = np.random.default_rng(10).random((4, 6))
    rows, columns = fj.linear_sum_assignment(jnp.asarray(costs), maximize=True)
    want = fastcv.linear_sum_assignment(costs, maximize=True)
    assert (rows == want[0]).all() and (columns == want[1]).all()
    batch = [jnp.asarray(costs), jnp.asarray(costs[:2])]
    want_batch = fastcv.linear_sum_assignment_batch([costs, costs[:2]])
    assert (fj.linear_sum_assignment_batch(batch) == want_batch).all()


def test_matchings_under_jit() -> None:
    costs = jnp.asarray(np.random.default_rng(4).random((3, 4, 6)))

    def least(cost: Any) -> Any:
        rows, columns = fj.linear_sum_assignment(cost)
        return cost[rows, columns].sum()

    rows, columns = fastcv.linear_sum_assignment(np.asarray(costs[0]))
    want = np.zeros((4, 6))
    want[rows, columns] = 1
    value, grad = jax.jit(jax.value_and_grad(least))(costs[0])
    assert value == np.asarray(costs)[0, rows, columns].sum()
    assert (np.asarray(grad) == want).all()
    assert (jax.jit(jax.vmap(least))(costs) == jnp.stack([least(each) for each in costs])).all()
    sizes = np.array([[4, 6], [2, 2], [0, 1]])
    for call in (
        lambda c: fj.linear_sum_assignment(c[0], return_duals=True),
        lambda c: fj.linear_sum_assignment_batch(c, sizes, cost_limit=0.3),
        lambda c: fj.linear_sum_assignment_batch([c[0], c[1, :2]], maximize=True),
    ):
        for one, other in zip(several(jax.jit(call)(costs)), several(call(costs)), strict=True):
            assert one.dtype == other.dtype
            assert (one == other).all()
    with pytest.raises(TypeError, match="arrays must have a known size"):
        jax.jit(lambda c: fj.linear_sum_assignment(c, cost_limit=0.3))(costs[0])
    with pytest.raises(ValueError, match="as cost_matrix, got a 3-D array"):
        jax.jit(fj.linear_sum_assignment)(costs)
    with pytest.raises(ValueError, match="nan_policy must be 'raise' or 'forbid', got 'x'"):
        jax.jit(lambda c: fj.linear_sum_assignment(c, nan_policy="x"))(costs[0])
    with pytest.raises(ValueError, match=r"^detr_match: boxes.shape must equal"):
        jax.jit(lambda c: fj.detr_match(c, c, [c[0, 0]] * 3, [c[0]] * 3))(costs)
    with pytest.raises(Exception, match="invalid numeric entries"):
        jax.jit(fj.linear_sum_assignment)(costs[0] * jnp.nan)[0].block_until_ready()


def test_detr_match_under_jit() -> None:
    rng = np.random.default_rng(5)
    logits, boxes = rng.random((2, 5, 3)), rng.random((2, 5, 4))
    labels, objects = [np.array([0, 2]), np.array([1])], [rng.random((2, 4)), rng.random((1, 4))]
    want, cost = fastcv.detr_match(logits, boxes, labels, objects, return_cost=True)

    @jax.jit
    def match(*arrays: Any) -> Any:
        return fj.detr_match(*arrays, return_cost=True)

    got, got_cost = match(jnp.asarray(logits), boxes, labels, objects)
    assert (got_cost == cost).all()
    for (a, b), (c, d) in zip(got, want, strict=True):
        assert (a == c).all()
        assert (b == d).all()


def test_pooling_is_jaxs_and_bad_indices_are_told() -> None:
    x = jnp.asarray(np.random.default_rng(11).permutation(2 * 3 * 9 * 7).reshape(2, 3, 9, 7) / 1.0)

    def theirs(x: Any) -> Any:
        window, stride = (1, 1, 3, 2), (1, 1, 2, 2)
        padding = ((0, 0), (0, 0), (1, 1), (1, 1))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, stride, padding)

    same_gradients(lambda x: fj.max_pool2d(x, (3, 2), 2, 1), theirs, x)
    with jax.enable_x64(False):
        assert (
            fj.max_pool2d(np.ones((1, 2, 2), np.float32), 2, return_indices=True)[1].dtype
            == np.int32
        )
    with pytest.raises(Exception, match="an index is outside its plane"):
        jax.block_until_ready(fj.max_unpool2d(x[..., :2, :2], jnp.full((2, 3, 2, 2), 99), 2))


def test_attention_is_jaxs() -> None:
    rng = np.random.default_rng(12)
    query, key, value = (jnp.asarray(rng.random((2, 3, n, 4))) for n in (5, 7, 7))

    def theirs(query: Any, key: Any, value: Any) -> Any:
        moved = (jnp.moveaxis(a, 1, 2) for a in (query, key, value))
        return jnp.moveaxis(jax.nn.dot_product_attention(*moved, is_causal=True), 1, 2)

    def ours(query: Any, key: Any, value: Any) -> Any:
        return fj.scaled_dot_product_attention(query, key, value, is_causal=True)

    # JAX takes the softmax in float32, whatever the dtype.
    same_gradients(ours, theirs, query, key, value, rtol=1e-5)


# XLA's threads, and XLAs that do not take the handlers


def test_under_load(run_python: Callable[..., Any]) -> None:
    # Many Python threads with several calls in flight each, in one process with XLA's own threads.
    code = """
import threading
import jax, jax.numpy as jnp, numpy as np
import fastcv, fastcv.jax as fj
rng = np.random.default_rng(0)
x = rng.random((4, 16, 40, 40), np.float32)
weight = rng.random((16, 16, 3, 3), np.float32)

@jax.jit
def step(x, weight):
    def loss(weight):
        branches = [fj.conv2d(x + i, weight, padding=1) for i in range(4)]
        branches += [fj.conv_transpose2d(x, weight, stride=2)[..., :40, :40]]
        return sum(jnp.sum(jnp.tanh(b)) for b in branches) + jnp.sum(x @ jnp.swapaxes(x, 2, 3))
    return jax.value_and_grad(loss)(weight)

want = [np.asarray(part) for part in step(x, weight)]
wrong = []

def work():
    for _ in range(5):
        for got in [step(x, weight) for _ in range(4)]:
            for part, other in zip(got, want):
                if not np.allclose(part, other, rtol=1e-4):
                    wrong.append(part)
    fastcv.conv2d(x, weight)

workers = [threading.Thread(target=work) for _ in range(6)]
for worker in workers: worker.start()
for worker in workers: worker.join()
print(len(wrong))
"""
    for threads in ("1", "4"):
        done = run_python(code, timeout=300, OMP_NUM_THREADS=threads)
        assert done.stdout.strip() == "0", done.stderr


@pytest.mark.parametrize("falls_back", [False, True])
def test_callbacks_under_load(falls_back: bool, run_python: Callable[..., Any]) -> None:
    # More calls in flight than XLA's pool has threads, each of which calls Python.
    code = f"""
import threading, warnings
import jax, jax.numpy as jnp, numpy as np
import fastcv, fastcv.jax as fj
from fastcv import _core
warnings.simplefilter("ignore", RuntimeWarning)
if {falls_back}:
    _core.xla_handlers["gram_matrix"] = _core.xla_handlers["conv2d"]
x = np.random.default_rng(0).random((300, 300), np.float32)

@jax.jit
def step(x):
    costs = x @ x + fj.gram_matrix(x[:, None])
    return costs, fj.linear_sum_assignment(costs)[1]

wrong = []

def work(number):
    for i in range(5):
        costs, columns = map(np.asarray, step(x + number + i))
        if not (columns == fastcv.linear_sum_assignment(costs)[1]).all():
            wrong.append(i)

workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
for worker in workers: worker.start()
for worker in workers: worker.join()
print(len(wrong))
"""
    done = run_python(code, timeout=100)
    assert done.stdout.strip() == "0", done.stderr


def test_same_bits_for_any_number_of_threads(threads: Callable[[int], None]) -> None:
    rng = np.random.default_rng(8)
    x, weight = rng.random((2, 16, 30, 30)), rng.random((16, 16, 3, 3))
    function = jax.jit(jax.grad(lambda x, w: jnp.sum(fj.conv2d(x, w) ** 2), (0, 1)))
    found = []
    for number in (1, 2, 5):
        threads(number)
        found.append([np.asarray(part) for part in function(x, weight)])
    assert all(
        same_bits(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True)
    )


def test_calls_from_many_threads_at_first_use(run_python: Callable[..., Any]) -> None:
    code = """
import threading, numpy as np, jax, fastcv.jax as fj
x, weight, results = np.ones((1, 2, 6, 6), np.float32), np.ones((3, 2, 3, 3), np.float32), []
workers = [
    threading.Thread(target=lambda: results.append(jax.jit(fj.conv2d)(x, weight)))
    for _ in range(8)
]
for worker in workers: worker.start()
for worker in workers: worker.join()
print(all((np.asarray(r) == 18).all() for r in results), len(results))
"""
    done = run_python(code)
    assert done.stdout.strip() == "True 8", done.stderr


def test_falls_back_to_python_and_warns(run_python: Callable[..., Any]) -> None:
    # A handler that the runtime refuses stands for one of an interface that it does not know.
    code = """
import warnings
import jax, jax.numpy as jnp, numpy as np
import fastcv, fastcv.jax as fj
from fastcv import _core
_core.xla_handlers["gram_matrix"] = _core.xla_handlers["conv2d"]
x, weight = np.ones((2, 2, 6, 6), np.float32), np.ones((3, 2, 3, 3), np.float32)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    got = jax.jit(jax.grad(lambda w: jnp.sum(fj.conv2d(x, w) ** 2)))(weight)
    fj.conv2d(x, weight)
    batch = jax.vmap(lambda w: fj.conv2d(x, w))(np.stack([weight, 2 * weight]))
assert (batch[1] == 36).all()
want = fastcv.conv2d_grad_weight(2 * fastcv.conv2d(x, weight), x, weight.shape)
assert np.allclose(got, want)
told = [str(w.message) for w in caught if w.category is RuntimeWarning]
print(len(told), "goes through Python" in told[0])
"""
    done = run_python(code)
    assert done.stdout.strip() == "1 True", done.stdout + done.stderr


def test_every_function_falls_back(run_python: Callable[..., Any]) -> None:
    code = f"""
import sys, warnings
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np, jax
jax.config.update("jax_enable_x64", True)
from calls import CALLS
from closeness import same_bits
import fastcv.jax as fj
from fastcv import _core
_core.xla_handlers["gram_matrix"] = _core.xla_handlers["conv2d"]
warnings.simplefilter("ignore", RuntimeWarning)
for call in CALLS:
    arrays = call.arrays()
    function = jax.jit(call.within(fj))
    assert "fastcv_" not in function.lower(*arrays).as_text()
    got, want = jax.tree.leaves(function(*arrays)), jax.tree.leaves(call.numpy(*arrays))
    assert len(got) == len(want)
    assert all(same_bits(np.asarray(a), b) for a, b in zip(got, want)), call
print("all")
"""
    done = run_python(code)
    assert done.stdout.strip() == "all", done.stderr


# Training


class Jaxs:
    @staticmethod
    def conv2d(x: Any, weight: Any, bias: Any) -> Any:
        return jax.lax.conv_general_dilated(x, weight, (1, 1), "VALID") + bias[:, None, None]

    @staticmethod
    def max_pool2d(x: Any, size: int) -> Any:
        window = (1, 1, size, size)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-5), (np.float64, 1e-9)])
def test_trains_like_jax(dtype: type, bound: float) -> None:
    def losses(functions: Any) -> list[float]:
        @jax.jit
        def step(parameters: Any, images: Any, wanted: Any) -> Any:
            return jax.value_and_grad(
                lambda parameters: lenet.loss(functions, jnp, parameters, images, wanted)
            )(parameters)

        def numpys(*arguments: Any) -> Any:
            return jax.tree.map(np.asarray, step(*arguments))

        return lenet.losses(numpys, dtype)

    ours = losses(fj)
    assert ours == pytest.approx(losses(Jaxs), abs=bound)
    pytest.importorskip("torch")
    import torch

    assert ours == pytest.approx(lenet.torchs_losses(torch.nn.functional, dtype), abs=bound)


# The binary interface


def test_declarations_agree_with_the_header_of_jax() -> None:
    source = Path(__file__).parent / "xla_ffi.cpp"
    command = ["g++", "-std=c++17", "-fsyntax-only", f"-I{jax.ffi.include_dir()}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# The page, and missing JAX


def test_examples_of_the_docs() -> None:
    run_examples("docs/frameworks.md", "fastcv.jax")


def test_without_jax(run_python: Callable[..., Any]) -> None:
    code = """
import sys
sys.modules["jax"] = None
try:
    import fastcv.jax
except ImportError as error:
    print(error)
"""
    done = run_python(code)
    assert done.stdout.strip() == "fastcv.jax needs JAX 0.6.1 or newer: pip install 'jax>=0.6.1'", (
        done.stderr
    )
