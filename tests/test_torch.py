"""fastcv.torch: the same results for tensors, gradients of both orders, what torch composes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import CALLS, Call, each_call, one_call_each
from closeness import same_bits

import fastcv
from fastcv._gradients import TABLE

torch = pytest.importorskip("torch")
import fastcv.torch as ft  # noqa: E402

ACTIVATIONS = ["relu", "relu6", ("leaky_relu", 0.1), "sigmoid", "tanh", "silu", "gelu"]


def tensors(call: Call, dtype: type = np.float64, grad: bool = False) -> list[Any]:
    """A call's arrays as tensors."""
    return [
        None if array is None else torch.from_numpy(array).requires_grad_(grad)
        for array in call.arrays(dtype)
    ]


def function_and_inputs(call: Call, grad: bool = True) -> tuple[Callable[..., Any], list[Any]]:
    """A function of the tensors that are there, and those."""
    present = [t for t in tensors(call, grad=grad) if t is not None]
    places = call.differentiable
    whole = call.within(ft)

    def function(*arguments: Any) -> Any:
        by_place = dict(zip(places, arguments, strict=True))
        return whole(*(by_place.get(i) for i in range(len(call.shapes))))

    return function, present


def assert_all_close(got: Any, want: Any) -> None:
    torch.testing.assert_close(tuple(got), tuple(want), rtol=1e-10, atol=1e-10)


# Values and memory


@each_call
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("grad", [False, True], ids=["plain", "grad"])
def test_values(call: Call, dtype: type, grad: bool) -> None:
    got = call.within(ft)(*tensors(call, dtype, grad))
    assert got.requires_grad == grad
    assert same_bits(got.detach().numpy(), call.numpy(*call.arrays(dtype)))


def test_namespace() -> None:
    assert set(ft.__all__) == set(TABLE)
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


def test_compiled_activation_is_fused_without_gradients() -> None:
    torch._dynamo.reset()
    x, weight = torch.randn(2, 3, 6, 5), torch.randn(3, 3, 3, 2)
    want = ft.conv2d(x, weight, activation=("leaky_relu", 0.1))
    compiled = torch.compile(ft.conv2d, fullgraph=True, backend="aot_eager")
    for grad in (False, True):
        got = compiled(x, weight.requires_grad_(grad), activation=("leaky_relu", 0.1))
        torch.testing.assert_close(got.detach(), want)


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


# torch.func


@each_call
def test_func_grad_and_jacrev(call: Call) -> None:
    function, inputs = function_and_inputs(call)
    numbers = tuple(range(len(inputs)))
    plain = [t.detach() for t in inputs]

    def loss(*arguments: Any) -> Any:
        return function(*arguments).pow(3).sum()

    want = torch.autograd.grad(loss(*inputs), inputs)
    assert_all_close(torch.func.grad(loss, numbers)(*plain), want)
    jacobian = torch.func.jacrev(function, numbers)(*plain)
    assert_all_close(jacobian, torch.autograd.functional.jacobian(function, tuple(plain)))


@one_call_each
def test_func_hessian(call: Call) -> None:
    function, inputs = function_and_inputs(call, grad=False)

    def loss(*arguments: Any) -> Any:
        return function(*arguments).pow(3).sum()

    count = min(2, len(inputs))
    numbers, first, rest = tuple(range(count)), tuple(inputs[:count]), inputs[count:]
    got = torch.func.jacrev(torch.func.jacrev(loss, numbers), numbers)(*inputs)
    want = torch.autograd.functional.hessian(lambda *arguments: loss(*arguments, *rest), first)
    for row in numbers:
        assert_all_close(got[row], want[row])


@each_call
def test_vmap_over_any_of_the_tensors(call: Call) -> None:
    function, inputs = function_and_inputs(call, grad=False)
    number, size = len(inputs), 3
    for mask in range(1, 2**number):
        axes = tuple(0 if mask >> i & 1 else None for i in range(number))
        stacks = [
            torch.stack([t * (k + 1) for k in range(size)]) if axis == 0 else t
            for t, axis in zip(inputs, axes, strict=True)
        ]
        got = torch.func.vmap(function, axes)(*stacks)
        want = [
            function(*(t[k] if axis == 0 else t for t, axis in zip(stacks, axes, strict=True)))
            for k in range(size)
        ]
        torch.testing.assert_close(got, torch.stack(want))


def test_gradient_of_each_sample() -> None:
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)

    def loss(weight: Any, image: Any) -> Any:
        return ft.conv2d(image, weight, padding=1, activation="tanh").square().sum()

    got = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, x)
    want = [torch.func.grad(loss)(weight, image) for image in x]
    torch.testing.assert_close(got, torch.stack(want))


def test_vmap_over_another_axis() -> None:
    x, weight = torch.randn(2, 3, 5, 8, 8), torch.randn(4, 3, 3, 3)
    got = torch.func.vmap(ft.conv2d, (2, None), 1)(x, weight)
    want = torch.stack([ft.conv2d(x[:, :, i], weight) for i in range(5)], 1)
    torch.testing.assert_close(got, want)


# Compiling and exporting


@one_call_each
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(call: Call, dynamic: bool) -> None:
    torch._dynamo.reset()
    function, inputs = function_and_inputs(call)

    def loss(*arguments: Any) -> Any:
        return (2 * function(*arguments)).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    want, got = loss(*inputs), compiled(*inputs)
    torch.testing.assert_close(got, want)
    assert_all_close(torch.autograd.grad(got, inputs), torch.autograd.grad(want, inputs))


def test_compile_by_inductor_keeps_channels_last() -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 3, 8, 9).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)

    def function(x: Any, weight: Any) -> Any:
        return ft.conv2d(torch.sin(x), weight, padding=1, activation="relu") + 1

    compiled = torch.compile(function, fullgraph=True)
    got, want = compiled(x, weight), function(x, weight)
    torch.testing.assert_close(got, want)
    assert got.stride() == want.stride()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, weight), want)


class Net(torch.nn.Module):
    """Two layers and an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.randn(4, 3, 3, 3))
        self.second = torch.nn.Parameter(torch.randn(4, 2, 2, 2))

    def forward(self, x: Any) -> Any:
        x = ft.conv2d(x, self.first, padding="same", activation="relu")
        return ft.conv_transpose2d(x, self.second, stride=2)


@pytest.mark.parametrize("dynamic", [False, True])
def test_export(dynamic: bool) -> None:
    net = Net()
    shapes = {0: torch.export.Dim("images"), 2: torch.export.Dim("rows", min=3)}
    program = torch.export.export(
        net, (torch.randn(2, 3, 8, 9),), dynamic_shapes=(shapes,) if dynamic else None
    )
    names = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert torch.ops.fastcv.conv2d.default in names
    x = torch.randn(5, 3, 11, 9) if dynamic else torch.randn(2, 3, 8, 9)
    torch.testing.assert_close(program.module()(x), net(x))


@each_call
def test_opcheck(call: Call) -> None:
    op = TABLE[call.name]
    arguments = op.arguments(*tensors(call, grad=True), *call.rest, **call.keywords)
    operator = getattr(torch.ops.fastcv, call.name).default
    flat = (*arguments.arrays, *arguments.parameters)
    torch.library.opcheck(operator, flat)
    last = tuple(
        t.detach().contiguous(memory_format=torch.channels_last)
        if isinstance(t, torch.Tensor) and t.ndim == 4
        else t
        for t in flat
    )
    torch.library.opcheck(operator, last)


def test_a_mode_sees_the_operator() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Watch():
        ft.conv2d(torch.rand(1, 1, 3, 3), torch.rand(1, 1, 2, 2))
    assert torch.ops.fastcv.conv2d.default in seen


def test_meta_tensors_have_shapes() -> None:
    x = torch.empty(2, 3, 8, 9, device="meta")
    y = ft.conv2d(x, torch.empty(4, 3, 3, 3, device="meta"), stride=2)
    assert y.device.type == "meta" and y.shape == (2, 4, 3, 4)


# Torch's own samples


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torchs_samples(name: str, dtype: Any) -> None:
    from torch.testing._internal.common_methods_invocations import op_db

    (info,) = (op for op in op_db if op.name == f"nn.functional.{name}")
    function, count = getattr(ft, name), 0
    for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
        arguments = (sample.input, *sample.args)
        inputs = [t for t in arguments if isinstance(t, torch.Tensor)]
        want = info.op(*arguments, **sample.kwargs)
        got = function(*arguments, **sample.kwargs)
        tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {}
        torch.testing.assert_close(got, want, **tolerance)
        grad = torch.randn_like(want)
        torch.testing.assert_close(
            torch.autograd.grad(got, inputs, grad),
            torch.autograd.grad(want, inputs, grad),
            **tolerance,
        )
        count += 1
    assert count >= 10
    for error in info.error_inputs("cpu") if info.error_inputs_func else ():
        case = error.sample_input
        with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
            function(case.input, *case.args, **case.kwargs)


# Autocast


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
    function = call.within(ft)
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
    if len(good) == 1:
        return
    mixed = [good[0], *(None if t is None else t.float() for t in good[1:])]
    with pytest.raises(TypeError, match=f"^{call.name}: .*dtype must equal"):
        function(*mixed)
    with pytest.raises(TypeError, match=f"^{call.name}: .*dtype must equal"):
        function(*(None if t is None else t.requires_grad_() for t in mixed))


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


def test_trains_like_torch() -> None:
    """LeNet's losses on crops of a photograph, step for step."""
    data = pytest.importorskip("skimage.data")
    photograph = data.astronaut()[:512, :512].reshape(16, 32, 16, 32, 3).transpose(0, 2, 4, 1, 3)
    # In float64: in float32 a unit of torch's or ours may be at the kink of an activation, where
    # rounding decides.
    images = torch.from_numpy(photograph.reshape(256, 3, 32, 32) / 255 - 0.5)
    labels = torch.arange(256) // 16 % 10

    def losses(conv2d: Callable[..., Any]) -> list[float]:
        torch.manual_seed(0)
        functional = torch.nn.functional
        shapes = [(6, 3, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]
        weights = [torch.randn(s).double() / np.sqrt(np.prod(s[1:])) for s in shapes]
        biases = [torch.zeros(s[0], dtype=torch.float64) for s in shapes]
        optimizer = torch.optim.SGD([t.requires_grad_() for t in weights + biases], lr=0.05)
        result = []
        for step in range(50):
            batch = slice(32 * (step % 8), 32 * (step % 8) + 32)
            x = images[batch]
            for w, b in zip(weights[:2], biases[:2], strict=True):
                x = functional.max_pool2d(functional.relu(conv2d(x, w, b)), 2)
            x = x.flatten(1)
            for w, b in zip(weights[2:], biases[2:], strict=True):
                x = functional.linear(x, w, b)
                x = functional.relu(x) if len(b) > 10 else x
            loss = functional.cross_entropy(x, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            result.append(loss.item())
        return result

    want = losses(torch.nn.functional.conv2d)
    assert losses(ft.conv2d) == pytest.approx(want, abs=1e-9)
    assert want[-1] != pytest.approx(want[0], abs=0.01)


def test_examples_of_the_docs() -> None:
    page = Path(__file__).parents[1] / "docs" / "frameworks.md"
    examples = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    ours = [example for example in examples if "fastcv.torch" in example]
    assert ours
    for example in ours:
        exec(compile(example, str(page), "exec"), {})
