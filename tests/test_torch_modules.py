"""fastcv.torch for whole models: accelerate, report, override, HungarianMatcher."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import fastcv

torch = pytest.importorskip("torch")
nn = torch.nn
import fastcv.torch as ft  # noqa: E402
from fastcv.torch import _modules, _packed  # noqa: E402

ACTIVATIONS = [nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU]


class FrozenBatchNorm2d(nn.Module):
    """As detection models have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x: Any) -> Any:
        scale = (
            self.weight.reshape(1, -1, 1, 1)
            * (self.running_var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        )
        bias = self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale
        return x * scale + bias


class Block(nn.Module):
    """A residual block whose activation is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding="same"), FrozenBatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Any) -> Any:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


def padded(x: Any) -> Any:
    """A helper whose way depends on sizes."""
    return nn.functional.pad(x, (0, 1, 0, 1)) if x.shape[-1] % 2 else x


class Padded(nn.Module):
    """A layer that calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU6()

    def forward(self, x: Any) -> Any:
        return self.act(self.bn(self.conv(padded(x))))


class Model(nn.Module):
    """Something of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.SiLU())
        self.block = Block()
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(6, 4, 3, 2, groups=2), nn.BatchNorm2d(4), nn.LeakyReLU(0.2)
        )
        self.reflect = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Any) -> Any:
        x = self.block(self.stem(x))
        pooled, indices = self.pool(x)
        x = self.unpool(pooled, indices, output_size=x.shape[-2:])
        return self.reflect(self.up(x))


def model() -> Any:
    torch.manual_seed(0)
    made = Model()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias)
    return made.eval()


def close(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("grad", [False, True], ids=["plain", "grad"])
def test_results_are_the_models(layout: Any, grad: bool) -> None:
    plain = model().to(memory_format=layout)
    fast = ft.accelerate(plain)
    x = torch.randn(2, 3, 21, 22).contiguous(memory_format=layout)
    with torch.set_grad_enabled(grad):
        got = fast(x)
        close(got, plain(x))
    if layout is torch.channels_last:
        with torch.no_grad():
            assert fast.block(fast.stem(x)).is_contiguous(memory_format=layout)
            assert fast.up(fast.stem(x)).is_contiguous(memory_format=layout)
    close(fast.double()(x.double()), plain.double()(x.double()))


class GELUActivation(nn.Module):
    """As `transformers` has it."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.functional.gelu

    def forward(self, x: Any) -> Any:
        return self.act(x)


def perceptron(activation: Any, bias: bool = True) -> Any:
    torch.manual_seed(1)
    layers = nn.Linear(130, 257, bias=bias), activation, nn.Linear(257, 90, bias=bias)
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("activation", [nn.GELU(), nn.ReLU(), GELUActivation()], ids=repr)
def test_linear_layers(activation: Any, bias: bool, dtype: Any) -> None:
    plain = perceptron(copy.deepcopy(activation), bias).to(dtype)
    fast = ft.accelerate(plain)
    assert "0: Linear runs on fastcv, with 1 folded into it in eval mode" in str(ft.report(fast))
    wide = torch.randn(3, 61, 260, dtype=dtype)
    for x in (
        wide[..., :130],
        wide[..., 1::2],
        wide[0, :, :130],
        wide[:, :0, :130],
        wide[0, 0, :130],
    ):
        want = plain(x)
        with torch.no_grad():
            got = fast(x)
        assert got.shape == want.shape and got.is_contiguous()
        close(got, want)
        close(fast(x), want)
        close(fast.train()(x), want)
        fast.eval()
    with torch.no_grad(), pytest.raises(RuntimeError):
        fast(torch.randn(200, 131, dtype=dtype))


def test_linear_layers_run_on_fastcv() -> None:
    # A call that is worth it has packed weights, and one from elsewhere does not fold.
    fast = ft.accelerate(perceptron(nn.GELU()))
    x = torch.randn(100, 130)
    with torch.no_grad():
        folded = fast(x)
        assert all(id(fast[place].weight) in _packed._PLANS for place in (0, 2))
        close(fast[2](nn.functional.gelu(fast[0](x))), folded)
        fast[0](x[:1])
        close(fast[0](x), nn.functional.linear(x, fast[0].weight, fast[0].bias))
        fast[0].weight.mul_(2)
        fast[0].bias.mul_(2)
        close(fast[0](x), nn.functional.linear(x, fast[0].weight, fast[0].bias))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_linear_layers_leave_the_rest_to_torch() -> None:
    plain = nn.Linear(1024, 1024).eval()
    fast = ft.accelerate(plain)
    norm = nn.Sequential(plain, nn.BatchNorm2d(3), nn.ReLU()).eval()
    with torch.no_grad():
        image = torch.randn(2, 3, 5, 1024)
        close(ft.accelerate(norm)(image), norm(image))  # whose channels are not the layer's
        nested = torch.nested.nested_tensor([torch.randn(2, 1024), torch.randn(3, 1024)])
        for one, other in zip(fast(nested).unbind(), plain(nested).unbind(), strict=True):
            close(one, other)
        traced = torch.fx.symbolic_trace(nn.Sequential(fast))
        close(traced(image), plain(image))
        batch = torch.export.Dim("batch", min=1, max=4096)
        rows = torch.randn(3, 1024)
        program = torch.export.export(fast, (rows,), dynamic_shapes=({0: batch},))
        close(program.module()(rows[:2]), plain(rows[:2]))
        with pytest.raises(RuntimeError, match="dtype"):
            fast(rows.double())


def test_state_and_classes_stay() -> None:
    plain = model()
    fast = ft.accelerate(plain)
    assert type(plain.stem[0]) is nn.Conv2d and isinstance(fast.stem[0], nn.Conv2d)
    assert fast.stem[0].weight is not plain.stem[0].weight
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert all(map(torch.equal, fast.state_dict().values(), plain.state_dict().values()))
    assert list(dict(fast.named_modules())) == list(dict(plain.named_modules()))
    assert ft.accelerate(plain, inplace=True) is plain and type(plain.pool) is _modules.MaxPool2d
    x = torch.randn(1, 3, 21, 22)
    with torch.no_grad():
        want = fast(x)
        for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), ft.accelerate(fast)):
            assert torch.equal(again(x), want)


def test_report() -> None:
    report = ft.report(ft.accelerate(model(), filter_fn=lambda module, name: name != "pool"))
    text = str(report)
    assert "stem.0: Conv2d runs on fastcv, with stem.1 and stem.2 folded into it" in text
    assert "block.conv1: Conv2d runs on fastcv, with block.bn1 and block.relu folded" in text
    assert "block.conv2: Conv2d runs on fastcv, with block.bn2 folded" in text
    assert "up.0: ConvTranspose2d runs on fastcv, with up.1 and up.2 folded" in text
    assert "pool: MaxPool2d is left: not chosen" in text
    assert "reflect: Conv2d is left: padding_mode is 'reflect'" in text
    assert {entry.name for entry in report if not entry.swapped} == {"pool", "reflect"}

    class Own(nn.Conv2d):
        pass

    others = nn.ModuleList([Own(1, 1, 1), nn.Conv2d(1, 1, 1).bfloat16(), nn.Conv2d(1, 1, 1)])
    others.append(nn.Conv2d(1, 1, 1, device="meta"))
    others.append(nn.MultiheadAttention(4, 2, add_bias_kv=True))
    texts = [entry.text for entry in ft.report(ft.accelerate(others))]
    assert "subclass" in texts[0] and "torch.bfloat16" in texts[1] and texts[2] == "runs on fastcv"
    assert "on meta" in texts[3] and "keys of its own" in texts[4]


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_what_is_folded_is_computed_once(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), kind()).eval()
    plain[1].running_mean.uniform_(-1, 1)
    fast = ft.accelerate(plain)
    x = torch.randn(1, 2, 6, 7)
    with torch.no_grad():
        want = plain(x)
        for each in (nn.BatchNorm2d, kind):
            monkeypatch.setattr(each, "forward", None, raising=False)
        close(fast(x), want)


def test_only_what_follows_is_folded() -> None:
    """Parts of a model that are called by themselves compute themselves."""
    plain = model()
    fast = ft.accelerate(plain)
    x = torch.randn(1, 3, 21, 22)
    with torch.no_grad():
        fast(x)
        for name in ("stem.0", "block.conv1", "up.0"):
            channels = plain.get_submodule(name).in_channels
            y = torch.randn(1, channels, 9, 8)
            close(fast.get_submodule(name)(y), plain.get_submodule(name)(y))
        close(fast.stem[:2](x), plain.stem[:2](x))
        seen = []
        fast.stem[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
        close(fast(x), plain(x))
        close(seen[0], plain.stem[0](x))
        # In train mode a batch norm measures its input.
        fast.stem[1].train(), plain.stem[1].train()
        close(fast(x), plain(x))
        close(fast.stem[1].running_mean, plain.stem[1].running_mean)


def test_shared_modules_are_not_folded() -> None:
    norm, conv = nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)
    plain = nn.Sequential(conv, norm, nn.Sequential(norm, conv, nn.ReLU()), conv).eval()
    norm.running_mean.uniform_(-1, 1)
    fast = ft.accelerate(plain)
    x = torch.randn(1, 2, 5, 5)
    with torch.no_grad():
        close(fast(x), plain(x))
    assert "folded" not in str(ft.report(fast))


def test_helpers_that_look_at_sizes_do_not_hinder() -> None:
    plain = Padded().eval()
    plain.bn.running_mean.uniform_(-1, 1)
    fast = ft.accelerate(plain)
    assert "with bn and act folded" in str(ft.report(fast))
    with torch.no_grad():
        for size in (6, 7):
            x = torch.randn(1, 2, 6, size)
            close(fast(x), plain(x))


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


def test_training() -> None:
    plain = model().train().double()
    fast = ft.accelerate(plain)
    x = torch.randn(2, 3, 21, 22, dtype=torch.float64)
    for each in (plain, fast):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            each(x).square().mean().backward()
            optimizer.step()
    for one, other in zip(fast.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        close(fast.eval()(x), plain.eval()(x))


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


def test_linear_layers_of_any_number_of_rows_compile() -> None:
    torch._dynamo.reset()
    plain = nn.Linear(64, 64).eval()
    fast = torch.compile(ft.accelerate(plain), dynamic=True, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for rows in (3, 300, 7):
            x = torch.randn(rows, 64)
            close(fast(x), plain(x))
    torch._dynamo.reset()


def test_calls_from_threads_fold_only_their_own() -> None:
    plain = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    plain[1].running_mean.uniform_(-1, 1)
    fast = ft.accelerate(plain)
    x = torch.randn(1, 4, 9, 9)
    with torch.no_grad():
        whole, part = plain(x), plain[0](x)

    def call(number: int) -> None:
        module, want = (fast, whole) if number % 2 else (fast[0], part)
        with torch.no_grad():
            for _ in range(200):
                close(module(x), want)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(4)))


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


# Attention


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


# override


def test_override(monkeypatch: pytest.MonkeyPatch) -> None:
    functional = nn.functional
    x = torch.randn(2, 4, 9, 8, requires_grad=True)
    conv, up = nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 3, 2, 2)
    q, k, v = torch.randn(3, 2, 3, 5, 4).unbind()
    seen = []
    for name in ("conv2d", "conv_transpose2d", "max_pool2d", "max_unpool2d"):
        kernel = getattr(fastcv._core, name)
        monkeypatch.setattr(
            fastcv._core, name, lambda *a, n=name, k=kernel, **b: (seen.append(n), k(*a, **b))[1]
        )

    def run() -> tuple[Any, ...]:
        y = conv(x)
        pooled, indices = functional.max_pool2d(y, 2, return_indices=True)
        z = functional.max_unpool2d(functional.max_pool2d(y, 2), indices, 2, output_size=[7, 6])
        z = up(functional.conv2d(z, conv.weight.transpose(0, 1).detach(), padding=1))
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return (z, pooled, attended, *torch.autograd.grad(z.sin().sum(), (x, conv.weight)))

    want = run()
    assert not seen
    with ft.override():
        close(run(), want)
        assert {"conv2d", "conv_transpose2d", "max_pool2d", "max_unpool2d"} <= set(seen)
        seen.clear()
        # What fastcv does not take is torch's.
        assert functional.conv2d(x.bfloat16(), conv.weight.bfloat16()).dtype == torch.bfloat16
        with pytest.raises(RuntimeError):
            functional.conv2d(x, conv.weight[:, :1])
        functional.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
        assert not seen
    run()
    assert not seen


# HungarianMatcher


@torch.no_grad()
def detrs_matching(outputs: Any, targets: Any, weights: tuple[float, ...]) -> Any:
    """The matching of the DETR paper's code, with its formulas."""
    scipy = pytest.importorskip("scipy.optimize")
    images, queries = outputs["pred_logits"].shape[:2]
    probabilities = outputs["pred_logits"].flatten(0, 1).softmax(-1)
    boxes = outputs["pred_boxes"].flatten(0, 1)
    labels = torch.cat([t["labels"] for t in targets])
    objects = torch.cat([t["boxes"] for t in targets])

    def corners(b: Any) -> Any:
        return torch.cat([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], -1)

    one, other = corners(boxes)[:, None], corners(objects)[None]
    area = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (one, other)]
    inner = (torch.min(one, other)[..., 2:] - torch.max(one, other)[..., :2]).clamp(0).prod(-1)
    outer = (torch.max(one, other)[..., 2:] - torch.min(one, other)[..., :2]).prod(-1)
    union = area[0] + area[1] - inner
    giou = inner / union - (outer - union) / outer
    cost = (
        weights[1] * torch.cdist(boxes, objects, p=1)
        - weights[0] * probabilities[:, labels]
        - weights[2] * giou
    ).reshape(images, queries, -1)
    sizes = [len(t["boxes"]) for t in targets]
    return [scipy.linear_sum_assignment(c[i]) for i, c in enumerate(cost.split(sizes, -1))]


def test_hungarian_matcher() -> None:
    torch.manual_seed(0)
    outputs = {
        "pred_logits": torch.randn(3, 10, 6, requires_grad=True),
        "pred_boxes": torch.rand(3, 10, 4, requires_grad=True),
    }
    targets = [{"labels": torch.randint(0, 6, (n,)), "boxes": torch.rand(n, 4)} for n in (4, 0, 7)]
    for weights in ((1, 1, 1), (2, 5, 2)):
        matcher = ft.HungarianMatcher(*weights)
        got = matcher(outputs, targets)
        want = detrs_matching(outputs, targets, weights)
        for (queries, objects), (rows, columns) in zip(got, want, strict=True):
            assert queries.dtype == objects.dtype == torch.int64
            assert np.array_equal(queries, rows) and np.array_equal(objects, columns)
    with pytest.raises(ValueError, match="must not all be 0"):
        ft.HungarianMatcher(0, 0, 0)
    with pytest.raises(TypeError, match=r"^accelerate: model must be"):
        ft.accelerate(None)
