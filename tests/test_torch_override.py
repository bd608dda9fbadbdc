"""fastcv.torch.override and HungarianMatcher."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastcv
from fastcv._gradients import TABLE

torch = pytest.importorskip("torch")
nn = torch.nn
from torch_models import close  # noqa: E402

import fastcv.torch as ft  # noqa: E402

KERNELS = [name for name in TABLE if not name.startswith("gram_matrix")]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that have been called."""
    names: list[str] = []
    for name in KERNELS:
        kernel = getattr(fastcv._core, name)

        def spy(*args: Any, name: str = name, kernel: Any = kernel, **keywords: Any) -> Any:
            names.append(name)
            return kernel(*args, **keywords)

        monkeypatch.setattr(fastcv._core, name, spy)
    return names


def test_override(seen: list[str]) -> None:
    functional = nn.functional
    x = torch.randn(2, 4, 9, 8, requires_grad=True)
    conv, up = nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 3, 2, 2)
    q, k, v = torch.randn(3, 2, 3, 5, 4, requires_grad=True).unbind()

    def run() -> tuple[Any, ...]:
        y = conv(x)
        pooled, indices = functional.max_pool2d(y, 2, return_indices=True)
        z = functional.max_unpool2d(functional.max_pool2d(y, 2), indices, 2, output_size=[7, 6])
        z = up(functional.conv2d(z, conv.weight.transpose(0, 1).detach(), padding=1))
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        wanted = (x, conv.weight, up.weight, q, k, v)
        loss = z.sin().sum() + attended.cos().sum()
        return (z, pooled, attended, *torch.autograd.grad(loss, wanted))

    want = run()
    assert not seen
    with ft.override():
        close(run(), want)
    assert set(seen) == set(KERNELS)
    seen.clear()
    close(run(), want)
    assert not seen


def test_override_leaves_to_torch_what_fastcv_does_not_take(seen: list[str]) -> None:
    functional = nn.functional
    x, weight = torch.randn(1, 4, 9, 8), torch.randn(6, 4, 3, 3)
    with ft.override():
        assert functional.conv2d(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
        with pytest.raises(RuntimeError):
            functional.conv2d(x, weight[:, :1])
        functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5)
        with torch.autocast("cpu", torch.bfloat16):
            assert functional.conv2d(x, weight).dtype == torch.bfloat16
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, x)
            tangent = torch.autograd.forward_ad.unpack_dual(functional.conv2d(dual, weight)).tangent
        close(tangent, functional.conv2d(x, weight))
    assert seen == ["conv2d"]


@torch.no_grad()
def test_override_of_what_is_compiled(seen: list[str]) -> None:
    torch._dynamo.reset()
    model, x = nn.Conv2d(4, 6, 3), torch.randn(1, 4, 9, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    want = compiled(x)
    assert not seen
    with ft.override():
        close(compiled(x), want)
    assert seen == ["conv2d"]
    compiled(x)
    assert seen == ["conv2d"]


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
