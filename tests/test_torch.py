"""fastcv.torch: the same results for tensors, gradients of both orders, what torch composes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from calls import CALLS, Call, each_call, one_call_each, subsets
from closeness import same_bits
from lenet import torchs_losses
from pages import run_examples

import fastcv
from fastcv._gradients import PLAIN, TABLE

torch = pytest.importorskip("torch")
import fastcv.torch as ft  # noqa: E402

ACTIVATIONS = ["relu", "relu6", ("leaky_relu", 0.1), "sigmoid", "tanh", "silu", "gelu"]


def tensors(call: Call, dtype: type = np.float64, grad: bool = False) -> list[Any]:
    """A call's arrays as tensors."""
    differs = call.differentiable
    return [
        None if array is None else torch.from_numpy(array).requires_grad_(grad and i in differs)
        for i, array in enumerate(call.arrays(dtype))
    ]


def function_and_inputs(call: Call, grad: bool = True) -> tuple[Callable[..., Any], list[Any]]:
    """A function of the tensors that are there, and those."""
    given = tensors(call, grad=grad)
    places = call.differentiable
    whole = call.within(ft, torch.from_numpy)

    def function(*arguments: Any) -> Any:
        by_place = dict(zip(places, arguments, strict=True))
        return whole(*(by_place.get(i, tensor) for i, tensor in enumerate(given)))

    return function, [given[i] for i in places]


def cube(results: Any) -> Any:
    """A number of all results."""
    return sum(each.pow(3).sum() for each in several(results))


def several(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def assert_all_close(got: Any, want: Any) -> None:
    torch.testing.assert_close(tuple(got), tuple(want), rtol=1e-10, atol=1e-10)


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


# Assignments


def test_assignments() -> None:
    costs = torch.randn(3, 4, 5, requires_grad=True)
    rows, columns = ft.linear_sum_assignment(costs[0])
    wanted = fastcv.linear_sum_assignment(costs[0].detach().numpy())
    assert same_bits(rows.numpy(), wanted[0]) and same_bits(columns.numpy(), wanted[1])
    assert costs[0][rows, columns].sum().requires_grad
    whole = ft.linear_sum_assignment_batch(costs, torch.tensor([[4, 5], [2, 3], [0, 0]]))
    assert torch.equal(whole[0], columns) and whole.dtype == torch.int64
    assert torch.equal(ft.linear_sum_assignment_batch([costs[0], costs[1]])[0], columns)
    duals = ft.linear_sum_assignment(costs[0], return_duals=True)[2:]
    total = costs[0].detach()[rows, columns].sum().double()
    torch.testing.assert_close(duals[0].sum() + duals[1].sum(), total)


def test_detr_match() -> None:
    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 6, 4, requires_grad=True), torch.rand(2, 6, 4)
    labels = [torch.tensor([1, 3, 0]), torch.empty(0, dtype=torch.int64)]
    targets = [torch.rand(3, 4), torch.empty(0, 4)]
    got, cost = ft.detr_match(logits, boxes, labels, targets, return_cost=True)
    want = fastcv.detr_match(
        logits.detach().numpy(),
        boxes.numpy(),
        [t.numpy() for t in labels],
        [t.numpy() for t in targets],
    )
    assert len(got) == 2 and cost.shape == (2,)
    for one, other in zip(got, want, strict=True):
        assert isinstance(one, tuple)
        assert all(same_bits(a.numpy(), b) for a, b in zip(one, other, strict=True))


# torch.func


@each_call
def test_func_grad_and_jacrev(call: Call) -> None:
    function, inputs = function_and_inputs(call)
    numbers = tuple(range(len(inputs)))
    plain = [t.detach() for t in inputs]

    def loss(*arguments: Any) -> Any:
        return cube(function(*arguments))

    want = torch.autograd.grad(loss(*inputs), inputs)
    assert_all_close(torch.func.grad(loss, numbers)(*plain), want)
    jacobian = torch.func.jacrev(function, numbers)(*plain)
    assert_all_close(jacobian, torch.autograd.functional.jacobian(function, tuple(plain)))


@one_call_each
def test_func_hessian(call: Call) -> None:
    function, inputs = function_and_inputs(call, grad=False)

    def loss(*arguments: Any) -> Any:
        return cube(function(*arguments))

    count = min(2, len(inputs))
    numbers, first, rest = tuple(range(count)), tuple(inputs[:count]), inputs[count:]
    got = torch.func.jacrev(torch.func.jacrev(loss, numbers), numbers)(*inputs)
    want = torch.autograd.functional.hessian(lambda *arguments: loss(*arguments, *rest), first)
    for row in numbers:
        assert_all_close(got[row], want[row])


def variants(tensor: Any, count: int) -> Any:
    """A batch whose samples differ: values in size, and places in order."""
    if tensor.is_floating_point():
        return torch.stack([tensor * (k + 1) for k in range(count)])
    return torch.stack([tensor.roll(k, -1) for k in range(count)])


@each_call
def test_vmap_over_any_of_the_tensors(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tensors(call)
    function = call.within(ft, torch.from_numpy)
    size, calls = 3, []
    kernel = getattr(fastcv._core, call.name)
    monkeypatch.setattr(
        fastcv._core, call.name, lambda *a, **b: (calls.append(1), kernel(*a, **b))[1]
    )
    for mask in subsets(len(call.present)):
        mapped = [place for i, place in enumerate(call.present) if mask >> i & 1]
        axes = tuple(0 if place in mapped else None for place in range(len(given)))
        stacks = [variants(t, size) if place in mapped else t for place, t in enumerate(given)]
        calls.clear()
        got = torch.func.vmap(function, axes)(*stacks)
        # A sample drops what it would alone.
        assert len(calls) == (size if call.keywords.get("dropout_p") else 1)
        want = [
            function(*(t[k] if axis == 0 else t for t, axis in zip(stacks, axes, strict=True)))
            for k in range(size)
        ]
        stacked = map(torch.stack, zip(*map(several, want), strict=True))
        assert_all_close(several(got), stacked)


def test_vmap_over_lengths() -> None:
    query, keys, values = (torch.randn(2, 2, n, 4) for n in (3, 5, 5))
    lengths = torch.tensor([[3, 5], [1, 2], [0, 4]])

    def attend(lengths: Any) -> Any:
        return ft.scaled_dot_product_attention(query, keys, values, kv_lengths=lengths)

    want = torch.stack([attend(each) for each in lengths])
    torch.testing.assert_close(torch.func.vmap(attend)(lengths), want)


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


# Torch's own samples

SAMPLED = ["conv2d", "conv_transpose2d", "max_pool2d", "max_unpool2d"]
SAMPLED += ["scaled_dot_product_attention"]


def infos(name: str) -> list[Any]:
    from torch.testing._internal.common_methods_invocations import op_db

    found = [info for info in op_db if info.name == f"nn.functional.{name}"]
    assert found
    return found


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torchs_samples(name: str, dtype: Any) -> None:
    function = getattr(ft, name)
    for info in infos(name):
        count = 0
        for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
            if sample.kwargs.get("dropout_p"):
                continue  # Other numbers decide what is dropped.
            arguments = (sample.input, *sample.args)
            inputs = [t for t in arguments if isinstance(t, torch.Tensor) and t.requires_grad]
            want = info.op(*arguments, **sample.kwargs)
            got = function(*arguments, **sample.kwargs)
            tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {}
            torch.testing.assert_close(got, want, **tolerance)
            if sample.kwargs.get("return_indices"):
                assert torch.equal(got[1], want[1])
                got, want = got[0], want[0]
            grad = torch.randn_like(want)
            torch.testing.assert_close(
                torch.autograd.grad(got, inputs, grad),
                torch.autograd.grad(want, inputs, grad),
                **tolerance,
            )
            count += 1
        assert count >= 10


@pytest.mark.parametrize("name", ["conv2d", "max_pool2d", "max_unpool2d"])
def test_torchs_errors(name: str) -> None:
    cases = [
        error.sample_input
        for info in infos(name)
        if info.error_inputs_func
        for error in info.error_inputs("cpu")
    ]
    assert cases
    for case in cases:
        with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
            getattr(ft, name)(case.input, *case.args, **case.kwargs)


def rand(*shape: int) -> Any:
    return torch.rand(shape)


# Torch has no such samples of these two.
WRONG = {
    "conv_transpose2d": {
        "rank": ((rand(3, 5), rand(3, 2, 3, 3)), {}),
        "weight's rank": ((rand(1, 3, 5, 5), rand(3, 2, 3)), {}),
        "channels": ((rand(1, 3, 5, 5), rand(4, 2, 3, 3)), {}),
        "bias": ((rand(1, 3, 5, 5), rand(3, 2, 3, 3), rand(3)), {}),
        "groups": ((rand(1, 3, 5, 5), rand(3, 2, 3, 3)), {"groups": 2}),
        "no groups": ((rand(1, 3, 5, 5), rand(3, 2, 3, 3)), {"groups": 0}),
        "stride": ((rand(1, 3, 5, 5), rand(3, 2, 3, 3)), {"stride": 0}),
        "padding": ((rand(1, 3, 5, 5), rand(3, 2, 3, 3)), {"padding": -1}),
        "dilation": ((rand(1, 3, 5, 5), rand(3, 2, 3, 3)), {"dilation": 0}),
        "output padding": ((rand(1, 3, 5, 5), rand(3, 2, 3, 3)), {"output_padding": 1}),
        "result": ((rand(1, 3, 1, 1), rand(3, 2, 2, 2)), {"padding": 2}),
        "dtypes": ((rand(1, 3, 5, 5), rand(3, 2, 3, 3).double()), {}),
    },
    "scaled_dot_product_attention": {
        "rank": ((rand(4), rand(3, 4), rand(3, 4)), {}),
        "features": ((rand(2, 3, 4), rand(2, 3, 5), rand(2, 3, 4)), {}),
        "keys": ((rand(2, 3, 4), rand(2, 5, 4), rand(2, 6, 4)), {}),
        "batch": ((rand(2, 3, 4), rand(3, 5, 4), rand(3, 5, 4)), {}),
        "heads": ((rand(1, 4, 3, 4), rand(1, 3, 5, 4), rand(1, 3, 5, 4)), {"enable_gqa": True}),
        "mask's shape": ((rand(2, 3, 4),) * 3, {"attn_mask": rand(2, 2)}),
        "mask's dtype": ((rand(2, 3, 4),) * 3, {"attn_mask": torch.ones(3, 3, dtype=torch.int64)}),
        "dropout": ((rand(2, 3, 4),) * 3, {"dropout_p": 1.5}),
        "dtypes": ((rand(2, 3, 4), rand(2, 3, 4).double(), rand(2, 3, 4)), {}),
    },
}


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, cases in WRONG.items() for case in cases]
)
def test_what_torch_refuses(name: str, case: str) -> None:
    arguments, keywords = WRONG[name][case]
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        getattr(torch.nn.functional, name)(*arguments, **keywords)
    first, *rest = arguments
    for grad in (False, True):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
            getattr(ft, name)(first.clone().requires_grad_(grad), *rest, **keywords)


# Autocast


def test_tangents_are_refused() -> None:
    x, weight = torch.randn(1, 1, 5, 5), torch.randn(1, 1, 3, 3)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(NotImplementedError, match="jvp"):
            ft.conv2d(dual, weight)
        inside = ft.conv2d(x, weight)
    assert torch.equal(inside, ft.conv2d(x, weight))


def test_matchings_take_bfloat16() -> None:
    cost = torch.tensor([[1, 2, 3], [3, 1, 2], [2, 3, 1.5]]).bfloat16()
    for one, other in zip(
        ft.linear_sum_assignment(cost), ft.linear_sum_assignment(cost.float()), strict=True
    ):
        assert torch.equal(one, other)


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
