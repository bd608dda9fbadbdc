"""Torch's own samples of conv_transpose2d: the same values and gradients, errors where it has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from closeness import assert_close, sum_bound
from transposed import bound_of

from fastcv import (
    ConvTranspose2d,
    conv_transpose2d,
    conv_transpose2d_grad_input,
    conv_transpose2d_grad_weight,
)

torch = pytest.importorskip("torch")
# No skip where torch is there: without the package expecttest, which this needs, it is an error.
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

(OP,) = (op for op in op_db if op.name == "nn.functional.conv_transpose2d")
DTYPES = (torch.float32, torch.float64)
SAMPLES = [
    pytest.param(sample, id=f"{str(dtype)[6:]}-{index}")
    for dtype in DTYPES
    for index, sample in enumerate(OP.sample_inputs("cpu", dtype, requires_grad=True))
]


def arrays_of(sample: Any) -> list[np.ndarray | None]:
    """Input, weight and bias."""
    tensors = [sample.input, *sample.args]
    return [None if tensor is None else tensor.detach().numpy() for tensor in tensors]


@pytest.mark.parametrize("sample", SAMPLES)
def test_values_and_gradients(sample: Any) -> None:
    result = OP.op(sample.input, *sample.args, **sample.kwargs)
    grad = torch.testing.make_tensor(result.shape, dtype=result.dtype, device="cpu")
    grad_x, grad_w = torch.autograd.grad(result, (sample.input, sample.args[0]), grad)

    x, weight, bias = arrays_of(sample)
    assert x is not None and weight is not None
    y, options = grad.numpy(), sample.kwargs
    wide = result.detach().double().numpy()
    # Torch rounds as well, so both may be off.
    bound = 2 * bound_of(x, weight, bias, **options)
    assert_close(conv_transpose2d(x, weight, bias, **options), wide, bound)
    assert_close(ConvTranspose2d(weight, bias, **options)(x), wide, bound)

    bound = 2 * sum_bound(math.prod(weight.shape[1:]), y, weight, winograd=True)
    got = conv_transpose2d_grad_input(y, weight, x.shape, **options)
    assert_close(got, grad_x.double().numpy(), bound)
    bound = 2 * sum_bound(x.size, y, x, winograd=True)
    got = conv_transpose2d_grad_weight(y, x, weight.shape, **options)
    assert_close(got, grad_w.double().numpy(), bound)


def test_there_are_samples() -> None:
    assert len(SAMPLES) >= 24


def test_errors() -> None:
    # Torch's list of errors has none for this op: what it refuses, beside what it takes.
    ones = torch.ones
    for x, weight, options in (
        (ones(2, 4, 4), ones(3, 5, 3, 3), {}),
        (ones(2, 3, 4, 4), ones(4, 5, 3, 3), {}),
        (ones(2, 3, 4, 4), ones(3, 5, 3, 3), {"groups": 2}),
        (ones(2, 3, 4, 4), ones(3, 5, 3, 3), {"stride": 0}),
        (ones(2, 3, 4, 4), ones(3, 5, 3, 3), {"padding": -1}),
        (ones(2, 3, 4, 4), ones(3, 5, 3, 3), {"output_padding": 1}),
        (ones(2, 3, 4, 4), ones(3, 5, 3, 3), {"output_padding": 3, "stride": 3, "dilation": 2}),
        (ones(2, 3, 4, 4), ones(3, 5, 3, 3), {"output_padding": -1, "stride": 2}),
        (ones(2, 3, 4, 4), ones(3, 5, 3, 3), {"dilation": 0}),
        (ones(2, 3, 4, 4), ones(3, 5, 3, 3), {"padding": "same"}),
        (ones(2, 3, 0, 4), ones(3, 5, 3, 3), {}),
        (ones(2, 0, 4, 4), ones(0, 5, 3, 3), {}),
        (ones(2, 3, 4, 4), ones(3, 0, 3, 3), {}),
        (ones(2, 3, 4, 4), ones(3, 5, 0, 3), {}),
        (ones(2, 3, 1, 4), ones(3, 5, 1, 3), {"padding": 1}),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            OP.op(x, weight, **options)
        with pytest.raises((TypeError, ValueError), match=r"^conv_transpose2d: "):
            conv_transpose2d(x.numpy(), weight.numpy(), **options)


@pytest.mark.parametrize("stride", [1, 2, (3, 1)])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (4, 3), (6, 5)])
@pytest.mark.parametrize("groups", [1, 2])
def test_every_combination(stride: Any, kernel: tuple[int, int], groups: int) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.random((2, 4, 7, 6)), rng.random((4, 3, *kernel))
    bias = rng.random(3 * groups)
    for padding in (0, 1, (0, 2)):
        for dilation, appended in ((1, 0), (3, 2), ((1, 2), (0, 1))):
            options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
            options["output_padding"] = appended
            try:
                want = OP.op(*map(torch.from_numpy, (x, weight, bias)), **options)
            except RuntimeError:
                continue  # too little is left of a small window
            got = conv_transpose2d(x, weight, bias, **options)
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-12)
