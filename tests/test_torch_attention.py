"""Attention modules and models of `transformers`, accelerated."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn
from torch_models import close  # noqa: E402

import fastcv.torch as ft  # noqa: E402
from fastcv.torch import _modules  # noqa: E402


def vision_transformer() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
    config = transformers.ViTConfig(num_hidden_layers=2, num_attention_heads=4, **sizes)
    return transformers.ViTModel(config).eval()


def test_attention_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = vision_transformer()
    x = torch.randn(2, 3, 32, 32)
    fast = ft.accelerate(plain)
    assert plain.config._attn_implementation == "sdpa"
    assert "(model): ViTModel calls fastcv's attention" in str(ft.report(fast))
    left = ft.accelerate(plain, filter_fn=lambda module, name: isinstance(module, nn.Linear))
    assert "calls fastcv's attention" not in str(ft.report(left))
    want = plain(x).last_hidden_state
    want.square().sum().backward()
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", None)
    with torch.no_grad():
        close(fast(x).last_hidden_state, want)
    got = fast(x).last_hidden_state
    close(got, want)
    got.square().sum().backward()
    for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("mask", ["none", "boolean", "added", "causal"])
def test_the_function_that_transformers_calls(heads: int, mask: str) -> None:
    sdpa = pytest.importorskip("transformers.integrations.sdpa_attention")
    from fastcv.torch._transformers import _attention

    module = nn.Module()
    module.is_causal, module.num_key_value_groups = mask == "causal", 4 // heads
    query, key, value = (torch.randn(2, n, 9, 8) for n in (4, heads, heads))
    masks = {"boolean": torch.rand(2, 1, 9, 9) < 0.8, "added": torch.randn(2, 1, 9, 9)}
    for options in ({}, {"scaling": 0.3}, {"position_bias": torch.randn(1, 4, 9, 9)}):
        arguments = (module, query, key, value, masks.get(mask))
        got, want = (f(*arguments, **options) for f in (_attention, sdpa.sdpa_attention_forward))
        close(got[0], want[0])
        assert got[1] is None and got[0].is_contiguous()


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("other", [False, True], ids=["self", "other"])
def test_multihead_attention(weights: bool, batch_first: bool, other: bool) -> None:
    sizes = {"kdim": 6, "vdim": 5} if other else {}
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(8, 2, batch_first=batch_first, **sizes).double()
    nn.init.uniform_(plain.in_proj_bias)
    fast = ft.accelerate(plain)
    assert type(fast) is _modules.MultiheadAttention
    shapes = [(3, 4, 8), (3, 5, 6), (3, 5, 5)] if other else [(3, 4, 8)] * 3
    q, k, v = (torch.randn(s).double() for s in shapes)
    if not other:
        k = v = q
    if not batch_first:
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    keys = 5 if other else 4
    padding = torch.zeros(3, keys, dtype=torch.bool)
    padding[1, -1] = True
    hidden = torch.zeros(4, keys, dtype=torch.bool)
    hidden[0, 1] = True
    added = torch.randn(6, 4, keys).double()
    for options in (
        {},
        {"attn_mask": hidden},
        {"attn_mask": added},
        {"key_padding_mask": padding},
        {"key_padding_mask": padding, "attn_mask": hidden},
        {"key_padding_mask": torch.zeros(3, keys).double(), "attn_mask": added},
        {"average_attn_weights": False},
    ):
        got = fast(q, k, v, need_weights=weights, **options)
        want = plain(q, k, v, need_weights=weights, **options)
        torch.testing.assert_close(got[0], want[0])
        assert (got[1] is None) == (want[1] is None)
        if weights:
            torch.testing.assert_close(got[1], want[1])
        loss = [
            each[0].sin().sum() + (each[1].cos().sum() if weights else 0) for each in (got, want)
        ]
        first = torch.autograd.grad(loss[0], fast.parameters())
        second = torch.autograd.grad(loss[1], plain.parameters())
        torch.testing.assert_close(first, second)


def test_multihead_attention_without_batch_or_with_dropout_is_torchs() -> None:
    plain = nn.MultiheadAttention(8, 2, dropout=0.5)
    fast = ft.accelerate(plain)
    x = torch.randn(4, 8)
    close(fast.eval()(x, x, x), plain.eval()(x, x, x))
    x = torch.randn(4, 2, 8)
    results = []
    for each in (fast.train(), plain.train()):
        torch.manual_seed(0)
        results.append(each(x, x, x)[0])
    close(*results)
