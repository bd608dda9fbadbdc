"""fastcv.torch under torch.func: gradients, Jacobians, batches."""

from __future__ import annotations

from typing import Any

import pytest
from calls import Call, each_call, one_call_each, subsets

import fastcv

torch = pytest.importorskip("torch")
from torch_calls import (  # noqa: E402
    assert_all_close,
    cube,
    function_and_inputs,
    several,
    tensors,
)

import fastcv.torch as ft  # noqa: E402


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
