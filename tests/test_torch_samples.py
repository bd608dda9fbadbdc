"""fastcv.torch on torch's own samples: values, gradients, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastcv.torch as ft  # noqa: E402

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
