"""fastcv.torch in graphs: torch.compile, torch.export, operators and modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from calls import Call, each_call, one_call_each

from fastcv._gradients import TABLE

torch = pytest.importorskip("torch")
from torch_calls import (  # noqa: E402
    assert_all_close,
    cube,
    function_and_inputs,
    several,
    tensors,
)

import fastcv.torch as ft  # noqa: E402


@one_call_each
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(call: Call, dynamic: bool) -> None:
    torch._dynamo.reset()
    function, inputs = function_and_inputs(call)

    def loss(*arguments: Any) -> Any:
        return cube(function(*arguments))

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    want, got = loss(*inputs), compiled(*inputs)
    torch.testing.assert_close(got, want)
    assert_all_close(torch.autograd.grad(got, inputs), torch.autograd.grad(want, inputs))


@one_call_each
def test_compile_by_inductor(call: Call) -> None:
    torch._dynamo.reset()
    function, inputs = function_and_inputs(call)

    def between(*arguments: Any) -> Any:
        return cube(function(*(torch.sin(each) for each in arguments)))

    want, got = between(*inputs), torch.compile(between, fullgraph=True)(*inputs)
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


class Module(torch.nn.Module):
    """One call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


@one_call_each
def test_export_of_each_function(call: Call) -> None:
    inputs = tensors(call)
    module = Module(call.within(ft, torch.from_numpy))
    program = torch.export.export(module, tuple(inputs))
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert getattr(torch.ops.fastcv, call.name).default in targets
    assert_all_close(several(program.module()(*inputs)), several(module(*inputs)))


@each_call
def test_opcheck(call: Call) -> None:
    op = TABLE[call.name]
    arguments = op.arguments(
        *tensors(call, grad=True), *call.rest, **call.options(torch.from_numpy)
    )
    operator = getattr(torch.ops.fastcv, call.name).default
    flat = (*arguments.arrays, *op.for_gradients(arguments.parameters))
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


def test_compiled_activation_is_fused_without_gradients() -> None:
    torch._dynamo.reset()
    x, weight = torch.randn(2, 3, 6, 5), torch.randn(3, 3, 3, 2)
    want = ft.conv2d(x, weight, activation=("leaky_relu", 0.1))
    compiled = torch.compile(ft.conv2d, fullgraph=True, backend="aot_eager")
    for grad in (False, True):
        got = compiled(x, weight.requires_grad_(grad), activation=("leaky_relu", 0.1))
        torch.testing.assert_close(got.detach(), want)


def test_compiled_gradients_of_attention_are_the_kernel() -> None:
    torch._dynamo.reset()
    graphs: list[Any] = []

    def keep(module: Any, inputs: Any) -> Any:
        graphs.append({n.target for n in module.graph.nodes if n.op == "call_function"})
        return module

    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    backend = aot_autograd(
        fw_compiler=lambda m, i: make_boxed_func(keep(m, i)),
        bw_compiler=lambda m, i: make_boxed_func(keep(m, i)),
    )
    q, k, v = (torch.randn(1, 2, 3, 4, requires_grad=True) for _ in range(3))
    compiled = torch.compile(ft.scaled_dot_product_attention, fullgraph=True, backend=backend)
    compiled(q, k, v, is_causal=True).sum().backward()
    operators = torch.ops.fastcv
    assert operators.scaled_dot_product_attention.default in graphs[0]
    assert operators.scaled_dot_product_attention_grad.default in graphs[1]
    assert len(graphs[1]) <= 4, graphs[1]
