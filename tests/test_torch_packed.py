"""Packed weights of accelerated models: what they notice, and graphs that have them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn
from torch_models import Model, close, model  # noqa: E402

import fastcv.torch as ft  # noqa: E402
from fastcv.torch import _packed  # noqa: E402


def test_changed_weights_are_noticed() -> None:
    plain = model()
    fast = ft.accelerate(plain)
    x = torch.randn(1, 3, 21, 22)

    def both_agree() -> None:
        with torch.no_grad():
            close(fast(x), plain(x))

    both_agree()
    with torch.no_grad():
        for each in (plain, fast):
            each.stem[0].weight.mul_(2)
            each.block.bn1.running_mean.add_(1)
            each.up[1].bias.sub_(1)
    both_agree()
    torch.manual_seed(1)
    fresh = Model().state_dict()
    plain.load_state_dict(fresh), fast.load_state_dict(fresh)
    both_agree()
    for each in (plain, fast):
        each.stem[0].weight = nn.Parameter(torch.ones_like(each.stem[0].weight))
    both_agree()
    for each in (plain, fast):
        each.stem[0].weight.data.mul_(-1)
        each.train().eval()
    both_agree()


@pytest.mark.parametrize("module", [nn.Linear(1024, 1024), nn.Conv2d(4, 8, 3)], ids=repr)
def test_borrowed_weights_are_noticed(module: nn.Module) -> None:
    # Each call's weights are gone when the next ones are made, perhaps in the same memory.
    fast = ft.accelerate(module.eval())
    x = torch.randn(4, 1024) if isinstance(module, nn.Linear) else torch.randn(1, 4, 9, 9)
    with torch.no_grad():
        for factor in range(1, 9):
            weights = {name: each * factor for name, each in module.named_parameters()}
            got = torch.func.functional_call(fast, weights, (x,))
            close(got, torch.func.functional_call(module, weights, (x,)))
            del weights


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_weights_made_in_inference_mode_may_change(kind: Any) -> None:
    with torch.inference_mode():
        module = (nn.Linear(1024, 1024) if kind is nn.Linear else nn.Conv2d(4, 8, 3)).eval()
        x = torch.randn(4, 1024) if kind is nn.Linear else torch.randn(1, 4, 9, 9)
        fast = ft.accelerate(module)
        close(fast(x), module(x))
        for each in (fast, module):
            each.weight.mul_(2)
        close(fast(x), module(x))


def test_weights_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = ft.accelerate(model())
    x = torch.randn(1, 3, 21, 22)
    with torch.no_grad():
        fast(x)
        monkeypatch.setattr(_packed, "_pack", None)
        fast(x)
    with torch.inference_mode():
        fast(x)


def test_plans_live_as_long_as_their_weights() -> None:
    fast = ft.accelerate(nn.Conv2d(2, 3, 3).eval())
    x = torch.randn(1, 2, 8, 8)
    key = id(fast.weight)
    with torch.no_grad():
        fast(x)
        assert len(_packed._PLANS[key].by_use) == 1
    other = copy.deepcopy(fast)
    assert id(other.weight) not in _packed._PLANS
    del fast
    assert key not in _packed._PLANS


def test_layers_that_share_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    # One convolution for all levels, with a batch norm for each.
    plain = nn.ModuleList(
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(3)
    ).eval()
    for each in plain[1:]:
        each[0].weight = plain[0][0].weight
    for each in plain:
        each[1].running_mean.uniform_(-1, 1)
    fast = ft.accelerate(plain)
    x = torch.randn(1, 4, 9, 9)
    packed = []
    pack = _packed._pack
    monkeypatch.setattr(_packed, "_pack", lambda *args: packed.append(0) or pack(*args))
    with torch.no_grad():
        for _ in range(3):
            for one, other in zip(fast, plain, strict=True):
                close(one(x), other(x))
    assert len(packed) == 3


def test_changed_parameters_and_dtypes_are_noticed() -> None:
    plain = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.1)).eval()
    fast = ft.accelerate(plain)
    x = torch.randn(1, 4, 9, 9)
    with torch.no_grad():
        close(fast(x), plain(x))
        for each in (plain, fast):
            each[0].stride, each[0].padding, each[0].dilation = (2, 2), (1, 1), (2, 2)
            each[1].eps, each[2].negative_slope = 0.5, 0.7
        close(fast(x), plain(x))
        for each in (plain, fast):
            each.bfloat16().float()
        close(fast(x), plain(x))


def test_norms_that_want_gradients_are_not_folded() -> None:
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).eval()
    plain[0].requires_grad_(False)
    fast = ft.accelerate(plain)
    x = torch.randn(1, 2, 6, 7)
    for each in (plain, fast):
        each(x).square().sum().backward()
    close(fast[1].weight.grad, plain[1].weight.grad)


def test_eval_leaves_a_spectral_norm_alone() -> None:
    from torch.nn.utils import parametrizations

    plain = nn.Conv2d(4, 6, 3)
    fast = ft.accelerate(plain)
    for each in (plain, fast):
        torch.manual_seed(0)
        parametrizations.spectral_norm(each)
    x = torch.randn(1, 4, 9, 9)
    with torch.no_grad():
        for each in (plain, fast):
            each.train()(x), each.eval()
        close(fast(x), plain(x))
    for one, other in zip(fast.buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, other)


def test_pruned_and_parametrized_weights() -> None:
    from torch.nn.utils import parametrizations, prune

    plain = nn.Conv2d(4, 6, 3).eval()
    fast = ft.accelerate(plain)
    x = torch.randn(1, 4, 9, 9)

    def both_agree() -> None:
        with torch.no_grad():
            close(fast(x), plain(x))

    both_agree()
    for each in (plain, fast):
        prune.l1_unstructured(each, "weight", 0.5), prune.l1_unstructured(each, "bias", 0.5)
    both_agree()
    for each in (plain, fast):
        prune.remove(each, "weight"), prune.remove(each, "bias")
    both_agree()
    for each in (plain, fast):
        parametrizations.weight_norm(each)
    both_agree()
    with torch.no_grad():
        for each in (plain, fast):
            each.parametrizations.weight.original0.mul_(2)
    both_agree()


def test_accelerated_model_compiles_and_exports() -> None:
    torch._dynamo.reset()
    plain = model()
    fast = ft.accelerate(plain)
    x = torch.randn(1, 3, 21, 22)
    with torch.no_grad():
        close(torch.compile(fast, fullgraph=True, backend="aot_eager")(x), plain(x))
        program = torch.export.export(fast, (x,))
        close(program.module()(x), plain(x))
        with torch.autocast("cpu", torch.bfloat16):
            got, want = fast(x), plain(x)
            assert got.dtype == want.dtype
            torch.testing.assert_close(got, want, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_graphs_have_packed_weights_and_what_is_folded(layout: Any) -> None:
    torch._dynamo.reset()
    plain = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, bias=False),
        nn.BatchNorm2d(6),
        nn.SiLU(),
        nn.ConvTranspose2d(6, 4, 3, 2, groups=2),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool2d(16),
        nn.Flatten(),
        nn.Linear(1024, 1024),
        nn.GELU(),
    )
    plain = plain.eval().to(memory_format=layout)
    fast = ft.accelerate(plain)
    called: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        called.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    compiled = torch.compile(fast, fullgraph=True, backend=backend)
    x = torch.randn(2, 3, 33, 34).contiguous(memory_format=layout)
    with torch.no_grad():
        got = compiled(x)
        assert sum("fastcv.packed" in name for name in called) == 3
        assert not any(
            each in name
            for name in called
            for each in ("norm", "silu", "relu", "gelu", "built-in function linear")
        )
        close(got, plain(x))
        # The graph reads the tensors as they are at each call.
        for each in (plain, fast):
            each[0].weight.mul_(2), each[4].running_mean.add_(1), each[8].bias.sub_(1)
        close(compiled(x), plain(x))
        for each in (plain, fast):
            each[8].weight = nn.Parameter(each[8].weight * 3)
        close(compiled(x), plain(x))
        # What follows is folded only where the module that calls both is running.
        part = torch.compile(fast[3], fullgraph=True, backend="eager")
        y = torch.randn(1, 6, 5, 6)
        close(part(y), plain[3](y))
    # With gradients, in train mode and in autocast, each module computes by itself.
    called.clear()
    close(compiled(x), plain(x))
    assert not any("fastcv.packed" in name for name in called)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("kind", "norm"),
    [
        ("conv2d", False),
        ("conv2d", True),
        ("conv_transpose2d", False),
        ("conv_transpose2d", True),
        ("linear", False),  # nothing folds a batch norm into rows
    ],
)
def test_packed_operators(kind: str, norm: bool) -> None:
    made = {
        "conv2d": lambda: nn.Conv2d(6, 4, 3, 2, groups=2),
        "conv_transpose2d": lambda: nn.ConvTranspose2d(6, 4, 3, 2, groups=2),
        "linear": lambda: nn.Linear(6, 4),
    }[kind]()
    layer = ft.accelerate(made.eval())
    followers = [ft.accelerate(nn.Sequential(made, nn.BatchNorm2d(4)).eval())[1]] if norm else []
    for each in followers:
        each.running_mean.uniform_(-1, 1), each.running_var.uniform_(0.5, 2)
    x = torch.randn((2, 5, 6) if kind == "linear" else (2, 6, 7, 8))
    weight, bias, *more = (getattr(*each).detach() for each in layer._sources(followers))
    options = layer._options(followers)
    operator = _packed.OPERATORS[kind]
    torch.library.opcheck(operator, (x, weight, bias, more, *options))
    want = nn.Sequential(made, *followers)(x)
    close(operator(x, weight, bias, more, *options), want.detach())
    if kind != "linear":
        last = x.contiguous(memory_format=torch.channels_last)
        torch.library.opcheck(operator, (last, weight, None, more, *options))


def test_linear_layers_of_any_number_of_rows_compile() -> None:
    torch._dynamo.reset()
    plain = nn.Linear(64, 64).eval()
    fast = torch.compile(ft.accelerate(plain), dynamic=True, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for rows in (3, 300, 7):
            x = torch.randn(rows, 64)
            close(fast(x), plain(x))
    torch._dynamo.reset()
