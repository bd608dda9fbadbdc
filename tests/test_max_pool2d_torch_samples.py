"""Torch's own samples of pooling and unpooling: the same bits, gradients too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from closeness import same_bits

from fastcv import (
    max_pool2d,
    max_pool2d_grad_input,
    max_unpool2d,
    max_unpool2d_grad_input,
)

torch = pytest.importorskip("torch")
# No skip where torch is there: without the package expecttest, which this needs, it is an error.
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

DTYPES = (torch.float32, torch.float64)


def samples(name: str, dtype: Any) -> list[Any]:
    (op,) = (op for op in op_db if op.name == name and not op.variant_test_name)
    return list(op.sample_inputs("cpu", dtype, requires_grad=True))


def one_or_two(value: Any) -> Any:
    """Torch takes a pair of one number for two equal ones, and an empty one for none."""
    if isinstance(value, (tuple, list)) and len(value) < 2:
        return value[0] if value else None
    return value


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pooling(dtype: Any) -> None:
    count = 0
    for sample in samples("nn.functional.max_pool2d", dtype):
        options = {name: one_or_two(value) for name, value in sample.kwargs.items()}
        with_indices = options.pop("return_indices", False)
        result = torch.nn.functional.max_pool2d(
            sample.input, **{**sample.kwargs, "return_indices": True}
        )
        want, places = (tensor.detach().numpy() for tensor in result)
        x = sample.input.detach().numpy()
        output, indices = max_pool2d(x, **options, return_indices=True)
        # Torch decides layouts in its own way; NumPy's tobytes() goes by the elements' order.
        assert same_bits(output, want), sample
        assert same_bits(indices, places), sample
        if not with_indices:
            assert same_bits(max_pool2d(x, **options), want), sample

        grad = torch.testing.make_tensor(want.shape, dtype=dtype, device="cpu")
        (grad_x,) = torch.autograd.grad(result[0], sample.input, grad)
        got = max_pool2d_grad_input(grad.numpy(), indices, x.shape)
        np.testing.assert_allclose(got, grad_x.numpy(), rtol=1e-5, atol=1e-6)
        count += 1
    assert count >= 400


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unpooling(dtype: Any) -> None:
    count = 0
    for sample in samples("nn.functional.max_unpool2d", dtype):
        names = sample.args[0] if sample.args else sample.kwargs["indices"]
        options = {n: one_or_two(v) for n, v in sample.kwargs.items() if n != "indices"}
        result = torch.nn.functional.max_unpool2d(
            sample.input,
            names,
            *sample.args[1:],
            **{n: v for n, v in sample.kwargs.items() if n != "indices"},
        )
        x, indices = sample.input.detach().numpy(), names.numpy()
        arguments = [one_or_two(value) for value in sample.args[1:]]
        got = max_unpool2d(x, indices, *arguments, **options)
        assert same_bits(got, result.detach().numpy()), sample

        grad = torch.testing.make_tensor(result.shape, dtype=dtype, device="cpu")
        (grad_x,) = torch.autograd.grad(result, sample.input, grad)
        assert same_bits(max_unpool2d_grad_input(grad.numpy(), indices), grad_x.numpy()), sample
        count += 1
    assert count >= 100


def test_errors() -> None:
    (op,) = (op for op in op_db if op.name == "nn.functional.max_pool2d")
    count = 0
    for error in op.error_inputs("cpu"):
        case = error.sample_input
        options = {name: one_or_two(value) for name, value in case.kwargs.items()}
        with pytest.raises((TypeError, ValueError), match=r"^max_pool2d: "):
            max_pool2d(case.input.numpy(), *case.args, **options)
        count += 1
    assert count >= 5
