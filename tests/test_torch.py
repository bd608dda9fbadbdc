"""fastcv.torch: the same results for tensors, gradients of both orders, autocast, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from calls import CALLS, Call, each_call, one_call_each
from closeness import same_bits
from lenet import torchs_losses
from pages import run_examples

import fastcv
from fastcv._gradients import PLAIN, TABLE

torch = pytest.importorskip("torch")
from torch_calls import (  # noqa: E402
    assert_all_close,
    cube,
    function_and_inputs,
    several,
    tensors,
)

import fastcv.torch as ft  # noqa: E402

ACTIVATIONS = ["relu", "relu6", ("leaky_relu", 0.1), "sigmoid", "tanh", "silu", "gelu"]


# Values and memory


@each_call
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("grad", [False, True], ids=["plain", "grad"])
def test_values(call: Call, dtype: type, grad: bool) -> None:
    got = call.within(ft, torch.from_numpy)(*tensors(call, dtype, grad))
    want = several(call.numpy(*call.arrays(dtype)))
    for one, other in zip(several(got), want, strict=True):
        assert one.requires_grad == grad
        assert same_bits(one.detach().numpy(), other)


def test_namespace() -> None:
    more = {"HungarianMatcher", "Report", "accelerate", "override", "report"}
    assert set(ft.__all__) == {*TABLE, *PLAIN, *more}
    for name in ft.__all__:
        assert getattr(ft, name).__name__ == name
        assert getattr(ft, name).__doc__


@pytest.mark.parametrize("grad", [False, True], ids=["plain", "grad"])
def test_nothing_is_copied(grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reads the tensor's memory, and the result is the memory that it wrote."""
    from fastcv import _core

    seen = []
    kernel = _core.conv2d

    def spy(x: np.ndarray, weight: np.ndarray, bias: Any, out: np.ndarray, *rest: Any) -> None:
        seen.append([array.__array_interface__["data"][0] for array in (x, weight, out)])
        kernel(x, weight, bias, out, *rest)

    monkeypatch.setattr(_core, "conv2d", spy)
    x, weight = torch.rand(2, 3, 8, 9), torch.rand(4, 3, 3, 3, requires_grad=grad)
    strided = torch.rand(2, 3, 9, 8).transpose(2, 3)
    for image in (x, x.contiguous(memory_format=torch.channels_last), strided):
        y = ft.conv2d(image, weight)
        assert seen.pop() == [image.data_ptr(), weight.data_ptr(), y.data_ptr()]


@pytest.mark.parametrize("grad", [False, True], ids=["plain", "grad"])
def test_channels_last(grad: bool) -> None:
    x = torch.rand(2, 3, 8, 9).contiguous(memory_format=torch.channels_last).requires_grad_(grad)
    weight = torch.rand(4, 3, 3, 3)
    for y in (ft.conv2d(x, weight), ft.conv_transpose2d(x, weight.transpose(0, 1).contiguous())):
        assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
        if grad:
            (g,) = torch.autograd.grad(y, x, torch.ones_like(y))
            assert g.is_contiguous(memory_format=torch.channels_last)


def test_expanded_sliced_and_empty_tensors() -> None:
    weight = torch.rand(4, 3, 3, 3, dtype=torch.float64)
    base = torch.rand(1, 3, 20, 20, dtype=torch.float64)
    for x in (base.expand(5, 3, 20, 20), base[:, :, ::2, 1::3], base.mT, base[:0]):
        for grad in (False, True):
            got = ft.conv2d(x.detach().requires_grad_(grad), weight)
            want = torch.nn.functional.conv2d(x, weight)
            torch.testing.assert_close(got.detach(), want)
    x = base[:0].requires_grad_()
    w = weight.requires_grad_()
    grads = torch.autograd.grad(ft.conv2d(x, w).sum(), (x, w))
    assert grads[0].shape == x.shape and not grads[1].any()


@each_call
@pytest.mark.parametrize("grad", [False, True], ids=["plain", "grad"])
def test_any_strides(call: Call, grad: bool) -> None:
    """Every tensor transposed in memory, with gaps, and at an odd offset."""
    given = tensors(call)
    function = call.within(ft, torch.from_numpy)

    def spread(tensor: Any) -> Any:
        if tensor is None:
            return None
        memory = torch.zeros([2 * n + 1 for n in reversed(tensor.shape)], dtype=tensor.dtype)
        inner = memory[(slice(1, None, 2),) * tensor.ndim].permute(*range(tensor.ndim)[::-1])
        inner.copy_(tensor)
        return inner

    strided = [spread(tensor) for tensor in given]
    for place in call.differentiable:
        given[place].requires_grad_(grad)
        strided[place].requires_grad_(grad)
    want, got = function(*given), function(*strided)
    assert_all_close(several(got), several(want))
    if grad:
        places = call.differentiable
        assert_all_close(
            torch.autograd.grad(cube(got), [strided[i] for i in places]),
            torch.autograd.grad(cube(want), [given[i] for i in places]),
        )


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_activations(activation: Any, name: str) -> None:
    function = getattr(ft, name)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    weight = torch.randn(3, 3, 3, 2, dtype=torch.float64)
    fused = function(x, weight, activation=activation)
    torch.testing.assert_close(
        function(x, weight.requires_grad_(), activation=activation).detach(), fused
    )
    assert torch.autograd.gradcheck(lambda w: function(x, w, activation=activation), weight)


def test_keywords_and_defaults_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    x, weight, bias = rng.random((1, 4, 7, 7)), rng.random((4, 2, 3, 3)), rng.random(4)
    x_t, weight_t, bias_t = map(torch.from_numpy, (x, weight, bias))
    options = {"groups": 2, "stride": 2, "algorithm": "direct"}
    want = fastcv.conv2d(bias=bias, weight=weight, input=x, **options)
    for grad in (False, True):
        got = ft.conv2d(bias=bias_t.requires_grad_(grad), weight=weight_t, input=x_t, **options)
        assert same_bits(got.detach().numpy(), want)
    assert same_bits(
        ft.conv2d(x_t, weight_t.detach(), padding="same", groups=2).numpy(),
        fastcv.conv2d(x, weight, padding="same", groups=2),
    )


# Gradients


@each_call
def test_first_and_second_gradients(call: Call) -> None:
    function, inputs = function_and_inputs(call)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_third_gradient() -> None:
    function, inputs = function_and_inputs(CALLS[0])
    x, weight, bias = inputs

    def second(x: Any, weight: Any) -> Any:
        y = function(x, weight, bias).pow(3).sum()
        (g,) = torch.autograd.grad(y, weight, create_graph=True)
        return torch.autograd.grad(g.pow(2).sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, (x, weight))


def test_only_wanted_gradients_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastcv import _core

    monkeypatch.delattr(_core, "conv2d_grad_input")
    x = torch.rand(1, 3, 6, 6)
    weight = torch.rand(4, 3, 3, 3, requires_grad=True)
    ft.conv2d(x, weight).sum().backward()
    assert weight.grad is not None


# Several results


def test_pooling_with_indices() -> None:
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    for dtype in (np.int64, np.int32):
        output, indices = ft.max_pool2d(x, 3, 2, 1, return_indices=True, index_dtype=dtype)
        wanted = torch.nn.functional.max_pool2d(x, 3, 2, 1, return_indices=True)
        assert torch.equal(output, wanted[0]) and torch.equal(indices.long(), wanted[1])
        assert indices.dtype == getattr(torch, dtype.__name__) and not indices.requires_grad
        (g,) = torch.autograd.grad(output.sum(), x)
        torch.testing.assert_close(g, torch.autograd.grad(wanted[0].sum(), x)[0])
    with torch.no_grad():
        assert not ft.max_pool2d(x, 3, return_indices=True)[0].requires_grad


ATTENTIONS = [
    {},
    {"is_causal": True, "softcap": 1.5},
    {"dropout_p": 0.3, "seed": 1, "window": (1, 2), "causal_alignment": "bottom_right"},
]


@pytest.mark.parametrize("options", ATTENTIONS, ids=str)
def test_attentions_other_results_have_gradients(options: dict[str, Any]) -> None:
    shapes = [(2, 2, 3, 2), (2, 2, 4, 2), (2, 2, 4, 3), (3, 4)]
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]

    def attend(*arrays: Any) -> Any:
        return ft.scaled_dot_product_attention(
            *arrays, **options, return_lse=True, return_weights=True
        )

    assert torch.autograd.gradcheck(attend, inputs)
    assert torch.autograd.gradgradcheck(attend, inputs)
    assert torch.autograd.gradcheck(lambda *arrays: attend(*arrays)[1], inputs)
    assert torch.autograd.gradcheck(lambda *arrays: attend(*arrays)[2], inputs)


def test_a_query_that_sees_nothing_has_no_gradient() -> None:
    q, k, v = (torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.zeros(3, 3, dtype=torch.float64)
    mask[1] = -torch.inf
    for m in (mask, mask == 0):
        y = ft.scaled_dot_product_attention(q, k, v, m)
        assert not y[:, :, 1].any()
        (g,) = torch.autograd.grad(y.sin().sum(), q, create_graph=True)
        assert not g[:, :, 1].any()
        (g,) = torch.autograd.grad(g.sin().sum(), q)
        assert not g[:, :, 1].any() and g.isfinite().all()


# Autocast


def test_tangents_are_refused() -> None:
    x, weight = torch.randn(1, 1, 5, 5), torch.randn(1, 1, 3, 3)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(NotImplementedError, match="jvp"):
            ft.conv2d(dual, weight)
        inside = ft.conv2d(x, weight)
    assert torch.equal(inside, ft.conv2d(x, weight))


@each_call
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_takes_halves(call: Call, half: Any) -> None:
    function = call.within(ft, torch.from_numpy)
    given = tensors(call, np.float32)
    low = [t.to(half) if t is not None and t.is_floating_point() else t for t in given]
    as_float = [t.float() if t is not None and t.is_floating_point() else t for t in low]
    want = several(function(*as_float))
    with torch.autocast("cpu", half):
        got = several(function(*low))
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_autocast_computes_in_float32() -> None:
    x, weight = torch.rand(1, 3, 6, 6), torch.rand(4, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        low = torch.nn.functional.relu(torch.nn.functional.conv2d(x, weight.detach()))
        assert low.dtype == torch.bfloat16
        y = ft.conv2d(low, torch.rand(2, 4, 3, 3))
        assert y.dtype == torch.float32
        y = ft.conv2d(x.bfloat16(), weight)
        assert y.dtype == torch.float32
    y.sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32


# Bad input


@one_call_each
def test_what_is_refused(call: Call) -> None:
    function = call.within(ft, torch.from_numpy)
    good = tensors(call)
    for place in call.differentiable:
        name = TABLE[call.name].arrays[place]

        def refused(
            value: Any, wrong: type[Exception], text: str, place: int = place, name: str = name
        ) -> None:
            arguments = [*good]
            arguments[place] = value
            with pytest.raises(wrong, match=f"^{call.name}: {name}.*{text}"):
                function(*arguments)

        tensor = good[place]
        refused(tensor.numpy(), TypeError, "must be a torch.Tensor, got ndarray")
        refused(tensor.half(), TypeError, "dtype must be float32 or float64, got torch.float16")
        refused(tensor.to_sparse(), TypeError, "must be a dense tensor, got torch.sparse_coo")
    if len(call.differentiable) == 1:
        return
    mixed = [t.float() if i in call.differentiable[1:] else t for i, t in enumerate(good)]
    with pytest.raises(TypeError, match=f"^{call.name}: .*dtype must equal"):
        function(*mixed)
    with pytest.raises(TypeError, match=f"^{call.name}: .*dtype must equal"):
        function(
            *(t.requires_grad_() if i in call.differentiable else t for i, t in enumerate(mixed))
        )


def test_cuda_tensors_are_refused() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, weight = torch.empty(1, 3, 8, 8, device="cuda"), torch.empty(4, 3, 3, 3)
        with pytest.raises(ValueError, match=r"^conv2d: input must be on the CPU.*cuda:0"):
            ft.conv2d(x, weight)


def test_errors_are_those_of_numpy() -> None:
    x, weight = torch.rand(1, 3, 8, 8), torch.rand(4, 2, 3, 3)
    for grad in (False, True):
        weight.requires_grad_(grad)
        with pytest.raises(ValueError, match=r"^conv2d: weight.shape\[1\] must equal"):
            ft.conv2d(x, weight)
        with pytest.raises(TypeError, match=r"^conv2d: stride must be an integer"):
            ft.conv2d(x, weight, stride=1.5)
        with pytest.raises(TypeError, match="out"):
            ft.conv2d(x, weight, out=x)


def test_a_fused_activation_has_no_gradient() -> None:
    x = torch.rand(1, 1, 4, 4, requires_grad=True)
    flat = ((1, 1), (0, 0, 0, 0), (1, 1), 1, "relu", 0.0, "auto")
    y = torch.ops.fastcv.conv2d(x, torch.rand(1, 1, 2, 2), None, *flat)
    with pytest.raises(ValueError, match="fused activation has no gradient"):
        y.sum().backward()


# The process


def test_without_torch(run_python: Callable[..., Any]) -> None:
    code = """
import sys
sys.modules["torch"] = None
import fastcv
try:
    import fastcv.torch
except ImportError as error:
    print(error)
"""
    done = run_python(code)
    assert done.stdout.strip() == "fastcv.torch needs PyTorch: pip install torch", done.stderr


@pytest.mark.parametrize("order", ["torch, fastcv.torch", "fastcv.torch, torch"])
def test_threads_are_torchs(order: str, run_python: Callable[..., Any]) -> None:
    pytest.importorskip("threadpoolctl")
    code = f"""
import {order}
from threadpoolctl import threadpool_info
torch.set_num_threads(1)
assert fastcv.get_num_threads() == 1
torch.set_num_threads(2)
assert fastcv.get_num_threads() == 2
x, w = torch.rand(1, 16, 40, 40), torch.rand(16, 16, 3, 3)
torch.testing.assert_close(fastcv.torch.conv2d(x, w), torch.nn.functional.conv2d(x, w))
runtimes = {{pool["filepath"] for pool in threadpool_info() if pool["user_api"] == "openmp"}}
assert len(runtimes) == 1, runtimes
"""
    done = run_python(code, FASTCV_NUM_THREADS=None)
    assert done.returncode == 0, done.stderr


def test_as_many_threads_work_as_torch_is_told(run_python: Callable[..., Any]) -> None:
    code = """
import os, torch, fastcv.torch
x, w = torch.rand(1, 64, 80, 80), torch.rand(64, 64, 3, 3)
counts = []
for threads in (1, 1, 3, 4):
    torch.set_num_threads(threads)
    fastcv.torch.conv2d(x, w)
    counts.append(len(os.listdir("/proc/self/task")))
print([count - counts[0] for count in counts])
"""
    done = run_python(code, FASTCV_NUM_THREADS=None, OMP_NUM_THREADS=None)
    assert done.stdout.strip() == "[0, 0, 2, 3]", done.stdout + done.stderr


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-5), (np.float64, 1e-9)])
def test_trains_like_torch(dtype: type, bound: float) -> None:
    want = torchs_losses(torch.nn.functional, dtype)
    assert torchs_losses(ft, dtype) == pytest.approx(want, abs=bound)


def test_examples_of_the_docs() -> None:
    run_examples("docs/frameworks.md", "fastcv.torch")
