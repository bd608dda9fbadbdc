"""fastcv.torch.accelerate and report: which modules run on fastcv, and what they fold."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn
from torch_models import GELUActivation, Padded, close, model, perceptron  # noqa: E402

import fastcv.torch as ft  # noqa: E402
from fastcv.torch import _modules, _packed  # noqa: E402

ACTIVATIONS = [nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU]


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
    assert "subclass" in texts[0] and "torch.bfloat16" in texts[1]
    assert texts[2] == "runs on fastcv, with nothing folded into it: ModuleList does not call it"
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


class Branching(nn.Module):
    """A layer whose way depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(2, 2, 3), nn.ReLU()

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        return self.relu(y) if y.sum() > 0 else y


def test_report_says_where_nothing_can_be_folded() -> None:
    fast = ft.accelerate(nn.Sequential(Branching(), nn.Conv2d(2, 2, 1), nn.ReLU()).eval())
    assert str(ft.report(fast)).splitlines() == [
        "0.conv: Conv2d runs on fastcv, with nothing folded into it: Branching has a forward that "
        "cannot be recorded",
        "1: Conv2d runs on fastcv, with 2 folded into it in eval mode",
    ]
    layers = ft.accelerate(nn.ModuleList([nn.Conv2d(2, 2, 1), nn.ReLU()]).eval(), inplace=True)
    whole = ft.accelerate(nn.Sequential(*layers).eval(), inplace=True)
    assert str(ft.report(whole)) == "0: Conv2d runs on fastcv, with 1 folded into it in eval mode"


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


class Fails(nn.Module):
    """A part that fails when it is told to."""

    fails = False

    def forward(self, x: Any) -> Any:
        if self.fails:
            raise RuntimeError("told to")
        return x


def test_a_forward_that_fails_folds_nothing_later() -> None:
    fast = ft.accelerate(nn.Sequential(Fails(), nn.Conv2d(4, 4, 3), nn.ReLU()).eval())
    x = torch.randn(1, 4, 9, 9)
    with torch.no_grad():
        want = fast[1](x)
        assert (want < 0).any()
        fast[0].fails = True
        with pytest.raises(RuntimeError, match="told to"):
            fast(x)
        assert torch.equal(fast[1](x), want)


def test_forward_mode_is_torchs() -> None:
    plain = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3)).eval()
    fast = ft.accelerate(plain)
    x, direction = torch.randn(2, 1, 4, 9, 9)
    with torch.no_grad():
        want, got = (torch.func.jvp(m, (x,), (direction,)) for m in (plain, fast))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, direction)
            _, tangent = torch.autograd.forward_ad.unpack_dual(fast(dual))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(tangent, want[1])


def test_report_names_layers_that_torch_computes_whole() -> None:
    fast = ft.accelerate(nn.TransformerEncoderLayer(16, 2, batch_first=True).eval())
    assert str(ft.report(fast)).startswith(
        "(model): TransformerEncoderLayer is computed whole by torch"
    )


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
