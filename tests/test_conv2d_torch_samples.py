"""Torch's own samples of conv2d: the same values and gradients, an error where torch has one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from closeness import assert_close, sum_bound

from fastcv import Conv2d, conv2d, conv2d_grad_input, conv2d_grad_weight

torch = pytest.importorskip("torch")
# No skip where torch is there: without the package expecttest, which this needs, it is an error.
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

(OP,) = (op for op in op_db if op.name == "nn.functional.conv2d")
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
    depth = math.prod(weight.shape[1:])
    wide = result.detach().double().numpy()
    # Torch rounds as well, so both may be off.
    bound = 2 * sum_bound(depth, x, weight, bias, winograd=True)
    assert_close(conv2d(x, weight, bias, **options), wide, bound)
    assert_close(Conv2d(weight, bias, **options)(x), wide, bound)

    groups = options.get("groups", 1)
    bound = 2 * sum_bound(depth * len(weight) // groups, y, weight, winograd=True)
    parameters = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | options
    got = conv2d_grad_input(y, weight, x.shape, **parameters)
    assert_close(got, grad_x.double().numpy(), bound)
    bound = 2 * sum_bound(y.size, y, x, winograd=True)
    got = conv2d_grad_weight(y, x, weight.shape, **parameters)
    assert_close(got, grad_w.double().numpy(), bound)


def test_there_are_samples() -> None:
    assert len(SAMPLES) >= 40


@pytest.mark.parametrize(
    "sample", [pytest.param(e, id=str(i)) for i, e in enumerate(OP.error_inputs("cpu"))]
)
def test_errors(sample: Any) -> None:
    case = sample.sample_input
    with pytest.raises(sample.error_type, match=sample.error_regex):
        OP.op(case.input, *case.args, **case.kwargs)
    with pytest.raises((TypeError, ValueError), match=r"^conv2d: "):
        conv2d(*arrays_of(case), **case.kwargs)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (4, 3), (6, 5)])
@pytest.mark.parametrize("dilation", [1, 2, (3, 1)])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_padding_by_name(padding: str, kernel: tuple[int, int], dilation: Any) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.random((2, 3, 17, 16)), rng.random((4, 3, *kernel))
    want = torch.nn.functional.conv2d(
        torch.from_numpy(x), torch.from_numpy(weight), padding=padding, dilation=dilation
    )
    got = conv2d(x, weight, padding=padding, dilation=dilation)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-12)
