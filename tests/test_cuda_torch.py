"""fastcv.torch on CUDA devices: tensors and streams by emulated kernels, and the whole on a device.

The tests that need a device are skipped where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cuda_emulated import built, use
from shared import SANITIZED

import fastcv
import fastcv.cuda
from fastcv.cuda._memory import Memory

torch = pytest.importorskip("torch")
import fastcv.torch as ft  # noqa: E402
from fastcv.torch import _cuda  # noqa: E402

ATTENTION = "scaled_dot_product_attention"
original = _cuda.run_plain

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_format = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=str
)


def image(dtype: Any, memory_format: Any, device: str = "cpu") -> Any:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(-8, 8, (2, 16, 13, 15), generator=generator)
    return whole.to(device, dtype).contiguous(memory_format=memory_format)


# Emulated


@pytest.fixture(scope="module")
def module() -> Any:
    if SANITIZED:
        pytest.skip("fibers have stacks that the sanitizer does not know")
    return built(few_blocks=False)


@pytest.fixture
def emulated(module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The CPU's memory as device 0's."""

    class OnCpu(_cuda._Torch):
        def has(self, value: Any) -> bool:
            return isinstance(value, torch.Tensor)

        def memory(self, array: Any) -> Memory:
            return super().memory(array)._replace(device=0)

        def stream(self, array: Any) -> int:
            return 0

    monkeypatch.setattr(_cuda, "_FRAMEWORK", OnCpu())
    yield from use(module, monkeypatch)


@each_dtype
@each_format
def test_tensors_reach_the_kernels(emulated: None, dtype: Any, memory_format: Any) -> None:
    x = image(dtype, memory_format)
    flat = ((3, 3), (2, 2), (1, 1), (1, 1), False)
    values, indices = _cuda.run("max_pool2d", (x,), (*flat, True, "int64"))
    want = torch.nn.functional.max_pool2d(x, 3, 2, 1, return_indices=True)
    for got, wanted in zip((values, indices), want, strict=True):
        assert got.dtype == wanted.dtype and torch.equal(got, wanted)
        assert got.is_contiguous(memory_format=memory_format)
    alone, nothing = _cuda.run("max_pool2d", (x,), (*flat, False, "int32"))
    assert torch.equal(alone, values) and nothing.shape == (0,) and nothing.dtype == torch.int32

    wide = values.double()
    got = _cuda.run("max_pool2d_grad_input", (values, indices), (list(x.shape),))
    assert torch.equal(got.double(), ft.max_pool2d_grad_input(wide, indices, tuple(x.shape)))
    window = ([3, 3], [2, 2], [1, 1], [*x.shape])
    got = _cuda.run("max_unpool2d", (values, indices), window)
    assert torch.equal(got.double(), ft.max_unpool2d(wide, indices, *window))
    got = _cuda.run("max_unpool2d_grad_input", (x, indices), ())
    assert torch.equal(got, values) and got.is_contiguous(memory_format=memory_format)


def predictions(device: str = "cpu") -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Any:
        return torch.rand(shape, generator=generator).to(device)

    counts = (3, 0, 30, 12)
    labels = [torch.randint(0, 5, (count,), generator=generator).to(device) for count in counts]
    return 4 * random(4, 20, 5), random(4, 20, 4), labels, [random(count, 4) for count in counts]


def equal(got: Any, want: Any) -> bool:
    if isinstance(got, (list, tuple)):
        return len(got) == len(want) and all(map(equal, got, want))
    return got.dtype == want.dtype and torch.equal(got.cpu(), want)


def test_assignment_takes_tensors(emulated: None) -> None:
    costs = torch.randn(3, 9, 12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    plain = costs.detach().numpy()
    for options in ({}, {"maximize": True}, {"cost_limit": -0.5}):
        got = ft.linear_sum_assignment(costs[0], **options)
        want = fastcv.linear_sum_assignment(plain[0], **options)
        assert equal(got, [*map(torch.from_numpy, want)])
    want = torch.from_numpy(fastcv.linear_sum_assignment_batch(plain))
    sizes = torch.tensor([[9, 12]] * 3)
    for call in ((costs,), (list(costs),), (costs, sizes), (costs, sizes.tolist())):
        assert equal(ft.linear_sum_assignment_batch(*call), want)
    turned = ft.linear_sum_assignment_batch(costs.bfloat16().transpose(1, 2))
    wide = costs.detach().bfloat16().double().transpose(1, 2).numpy()
    assert equal(turned, torch.from_numpy(fastcv.linear_sum_assignment_batch(wide)))


def test_hungarian_matcher_takes_tensors(emulated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, boxes, labels, objects = predictions()
    targets = [{"labels": x, "boxes": y} for x, y in zip(labels, objects, strict=True)]
    matcher = ft.HungarianMatcher(2, 5, 2)
    outputs = {"pred_logits": logits.requires_grad_(), "pred_boxes": boxes}
    ran = []
    monkeypatch.setattr(_cuda, "run_plain", lambda *call: ran.append(call) or original(*call))
    got = matcher(outputs, targets)
    assert len(ran) == 1 and isinstance(got[0], tuple)
    monkeypatch.setattr(_cuda, "has", lambda value: False)
    assert equal(got, matcher(outputs, targets)) and len(ran) == 1


@each_dtype
@each_format
@pytest.mark.parametrize("groups", [1, 4, 16])
def test_convolutions_reach_the_kernels(
    emulated: None, dtype: Any, memory_format: Any, groups: int
) -> None:
    """Small integers: their sums are exact in every dtype."""
    x = image(torch.int32, memory_format).remainder(3).to(dtype)
    w = (torch.arange(16 * (16 // groups) * 4) % 3 - 1).reshape(16, -1, 2, 2).to(dtype)
    flat = ([2, 1], [1, 1, 0, 0], [1, 1], groups)
    y = _cuda.run("conv2d", (x, w, None), (*flat, None, 0.0, "auto"))
    keywords = {"stride": (2, 1), "padding": (1, 0), "groups": groups}
    assert torch.equal(y.double(), torch.nn.functional.conv2d(x.double(), w.double(), **keywords))
    assert y.dtype == dtype and y.is_contiguous(memory_format=memory_format)
    signs = y.sign()
    got = _cuda.run("conv2d_grad_input", (signs, w), (list(x.shape), *flat))
    want = torch.nn.grad.conv2d_input(x.shape, w.double(), signs.double(), **keywords)
    assert torch.equal(got.double(), want) and got.is_contiguous(memory_format=memory_format)
    got = _cuda.run("conv2d_grad_weight", (signs, x), (list(w.shape), *flat))
    want = torch.nn.grad.conv2d_weight(x.double(), w.shape, signs.double(), **keywords)
    # Of a bfloat16 not every whole number of this size is one.
    assert torch.equal(got.double(), want.to(dtype).double())


@each_dtype
def test_shapes_of_tensors_on_a_device(emulated: None, dtype: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(2, 16, 13, 15, device="cuda", dtype=dtype)
        values, indices = torch.ops.fastcv.max_pool2d(
            x.to(memory_format=torch.channels_last),
            *([3, 3], [2, 2], [1, 1], [1, 1]),
            False,
            True,
            "int32",
        )
        assert values.is_cuda and values.dtype == dtype and indices.dtype == torch.int32
        assert values.shape == indices.shape == (2, 16, 7, 8)
        assert values.is_contiguous(memory_format=torch.channels_last)


@each_dtype
def test_tensors_reach_the_kernels_of_matrices(emulated: None, dtype: Any) -> None:
    # Sums of small integers are exact in every dtype.
    x = torch.randint(-2, 3, (2, 5, 3, 4)).to(dtype)
    flat = x.double().flatten(2)
    gram = _cuda.run("gram_matrix", (x,), (1.0,))
    assert gram.dtype == dtype and torch.equal(gram.double(), flat @ flat.mT)
    grad = _cuda.run("gram_matrix_grad_input", (gram, x), (0.125,))
    assert torch.equal(grad.double().flatten(2), (gram.double() @ flat / 4).to(dtype).double())

    # Equal scores: weights of one in four.
    zeros, value = (
        torch.zeros(2, 3, 4, 5, dtype=dtype),
        torch.randint(-8, 8, (2, 3, 4, 6)).to(dtype),
    )
    options = (0.0, False, None, False, "top_left", 0.0, [-1, -1], None)
    arrays = (zeros, zeros, value)
    output, lse, weights = _cuda.run(ATTENTION, (*arrays, None, None), (*options, True, True))
    assert output.dtype == weights.dtype == dtype
    assert torch.equal(output.double(), value.double().mean(-2, keepdim=True).expand(2, 3, 4, 6))
    assert lse.dtype == (dtype if dtype is torch.float64 else torch.float32)
    torch.testing.assert_close(lse.double(), torch.full((2, 3, 4), 4.0).double().log())
    assert (weights == 0.25).all()
    alone, nothing, neither = _cuda.run(ATTENTION, (*arrays, None, None), (*options, False, False))
    assert torch.equal(alone, output) and nothing.dtype == lse.dtype
    assert nothing.shape == neither.shape == (0,)
    mask, lengths = torch.zeros(4, 4, dtype=dtype), torch.tensor([4, 4], dtype=torch.int32)
    arrays = (output, *arrays, output, lse, mask, lengths)
    grads = _cuda.run(f"{ATTENTION}_grad", arrays, (*options, True))
    assert [each.shape for each in grads] == [each.shape for each in (*arrays[1:4], mask)]
    assert torch.equal(grads[2].double(), output.double())
    none = _cuda.run(f"{ATTENTION}_grad", (*arrays[:6], None, None), (*options, False))[3]
    assert none.shape == (0,) and none.dtype == dtype


@each_dtype
def test_shapes_of_attention_on_a_device(emulated: None, dtype: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(2, 3, 4, 5, device="cuda", dtype=dtype)
        options = (0.0, False, None, False, "top_left", 0.0, [-1, -1], None)
        operator = torch.ops.fastcv.scaled_dot_product_attention
        output, lse, weights = operator(x, x, x, None, None, *options, True, False)
        assert output.is_cuda and output.shape == x.shape and output.dtype == dtype
        assert lse.shape == (2, 3, 4)
        assert lse.dtype == (dtype if dtype is torch.float64 else torch.float32)
        assert weights.shape == (0,) and weights.dtype == dtype
        assert torch.ops.fastcv.gram_matrix(x, None).shape == (2, 3, 3)


def test_without_kernels_for_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(_cuda, "takes", lambda name: False)
    with FakeTensorMode():
        x = torch.empty(1, 3, 8, 8, device="cuda")
        with pytest.raises(ValueError, match=r"^max_pool2d: input must be on the CPU.*cuda:0"):
            ft.max_pool2d(x, 2)


# On a device


def _why_no_device() -> str:
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return "" if _cuda.takes("max_pool2d") else "fastcv was built without CUDA"


on_device = pytest.mark.skipif(bool(_why_no_device()), reason=_why_no_device() or "runs")


@on_device
@each_dtype
@each_format
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2)], ids=str)
def test_on_a_device(dtype: Any, memory_format: Any, window: tuple[int, int, int]) -> None:
    x = image(dtype, memory_format, "cuda").requires_grad_()
    wide = image(torch.float64, memory_format).requires_grad_()
    values, indices = ft.max_pool2d(x, *window, return_indices=True)
    want, places = ft.max_pool2d(wide, *window, return_indices=True)
    assert torch.equal(values.cpu().double(), want) and torch.equal(indices.cpu(), places)
    # Small integers: their sums are exact in every dtype.
    (grad,) = torch.autograd.grad(values, x, values.detach())
    (want_grad,) = torch.autograd.grad(want, wide, want.detach())
    assert torch.equal(grad.cpu().double(), want_grad)
    again = [torch.autograd.grad(ft.max_pool2d(x, *window), x, values.detach())[0] for _ in "123"]
    assert all(torch.equal(grad, other) for other in again)
    unpooled = ft.max_unpool2d(values, indices, *window, output_size=x.shape)
    wanted = ft.max_unpool2d(want, places, *window, output_size=x.shape)
    assert torch.equal(unpooled.detach().cpu().double(), wanted.detach())
    random = torch.randint(0, 13 * 15, indices.shape, device="cuda")
    got = ft.max_unpool2d(values, random, *window, output_size=x.shape)
    wanted = ft.max_unpool2d(want, random.cpu(), *window, output_size=x.shape)
    assert torch.equal(got.detach().cpu().double(), wanted.detach())
    fastcv.cuda.synchronize()


def check_assignment(shape: tuple[int, int], dtype: Any) -> None:
    costs = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)

    def total(pairs: Any, limit: float = 0.0) -> float:
        return float((given.double()[pairs[0].cpu(), pairs[1].cpu()] - limit).sum())

    for given in (costs, (20 * costs).floor()):
        got = ft.linear_sum_assignment(given.cuda(), return_duals=True)
        assert all(each.is_cuda for each in got)
        assert total(got) == pytest.approx(total(ft.linear_sum_assignment(given)), rel=1e-12)
        u, v = got[2].cpu(), got[3].cpu()
        assert float(u.sum() + v.sum()) == pytest.approx(total(got), rel=1e-10)
        assert bool((given - (u[:, None] + v) >= -1e-10).all())
        again = ft.linear_sum_assignment(given.cuda(), return_duals=True)
        assert all(map(torch.equal, got, again))
    spoiled = costs.masked_fill(costs > 0.6, float("nan"))
    options: dict[str, Any]
    for given, options in ((costs, {"cost_limit": 0.05}), (spoiled, {"nan_policy": "forbid"})):
        got = ft.linear_sum_assignment(given.cuda(), **options)
        want = ft.linear_sum_assignment(given, **options)
        assert total(got, 0.05) == pytest.approx(total(want, 0.05), rel=1e-10, abs=1e-12)


@on_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_assignment_on_a_device(dtype: Any) -> None:
    for shape in ((1, 1), (40, 7), (33, 33), (9, 50), (70, 130)):
        check_assignment(shape, dtype)
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand(70, 30, 40, generator=generator, dtype=dtype)
    for costs in (batch, batch.transpose(1, 2)):
        want = ft.linear_sum_assignment_batch(costs)
        assert equal(ft.linear_sum_assignment_batch(costs.cuda()), want)
        assert equal(ft.linear_sum_assignment_batch(list(costs.cuda())), want)
    fastcv.cuda.synchronize()


@on_device
@pytest.mark.parametrize("shape", [(300, 100), (300, 300), (40, 2100), (1500, 1500)])
def test_larger_costs(shape: tuple[int, int]) -> None:
    check_assignment(shape, torch.float32)


@on_device
@pytest.mark.parametrize("class_cost", ["softmax", "focal"])
def test_detr_match_on_a_device(class_cost: str) -> None:
    want = ft.detr_match(*predictions(), class_cost=class_cost, return_cost=True)
    arrays = predictions("cuda")
    torch.cuda.set_sync_debug_mode("error")  # where a call of torch's would wait
    try:
        got = ft.detr_match(*arrays, class_cost=class_cost, return_cost=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert equal(got[0], want[0])
    torch.testing.assert_close(got[1].cpu(), want[1], rtol=1e-5, atol=1e-5)
    logits, boxes, labels, objects = predictions("cuda")
    targets = [{"labels": x, "boxes": y} for x, y in zip(labels, objects, strict=True)]
    matches = ft.HungarianMatcher(1, 5, 2)({"pred_logits": logits, "pred_boxes": boxes}, targets)
    assert all(each.is_cuda for pairs in matches for each in pairs)
    fastcv.cuda.synchronize()


@on_device
def test_late_errors_of_assignment() -> None:
    costs = torch.ones(2, 3, 3, device="cuda")
    costs[1, 2, 2] = float("nan")
    with pytest.raises(ValueError, match="invalid numeric entries"):
        ft.linear_sum_assignment_batch(costs)
        fastcv.cuda.synchronize()
    logits, boxes, labels, objects = predictions("cuda")
    labels[0][0] = 7
    with pytest.raises(IndexError, match="a label was not from 0"):
        ft.detr_match(logits, boxes, labels, objects)
        fastcv.cuda.synchronize()
    fastcv.cuda.synchronize()


def close(got: Any, want: Any, dtype: Any) -> None:
    """As close as sums in float32, rounded to the type, are to float64."""
    unit = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3}.get(dtype, 3e-2)
    assert got.dtype == dtype
    error = (got.detach().cpu().double() - want.detach()).abs().max()
    assert error <= unit * (want.detach().abs().max() + 1e-2)


@on_device
@each_dtype
@each_format
@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolution_on_a_device(
    dtype: Any, memory_format: Any, groups: int, stride: int, transposed: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    name = "conv_transpose2d" if transposed else "conv2d"
    weight = torch.randint(-1, 2, (16, 16 // groups, 3, 3), generator=generator)
    bias = torch.randint(-4, 5, (16,), generator=generator)
    whole = image(torch.int32, memory_format).remainder(3)

    def both(own: bool) -> list[Any]:
        functions = ft if own else torch.nn.functional
        kind, device = (dtype, "cuda") if own else (torch.float64, "cpu")
        arrays = [each.to(device, kind).requires_grad_() for each in (whole, weight, bias)]
        y = getattr(functions, name)(*arrays, stride=stride, padding=1, groups=groups)
        return [y, *torch.autograd.grad(y, arrays[:2], y.detach().sign())]

    results = both(own=True)
    for got, want in zip(results, both(own=False), strict=True):
        assert torch.equal(got.detach().cpu().double(), want.detach().to(dtype).double())
    assert results[0].is_contiguous(memory_format=memory_format)
    assert all(torch.equal(a, b) for a, b in zip(results, both(own=True), strict=True))
    fastcv.cuda.synchronize()


@on_device
def test_fastcv_itself_takes_tensors() -> None:
    x = image(torch.float32, torch.contiguous_format, "cuda")
    got = fastcv.max_pool2d(x, 2)
    assert got.is_cuda and torch.equal(got, ft.max_pool2d(x, 2))


@on_device
def test_cupy_s_arrays() -> None:
    cupy = pytest.importorskip("cupy")
    x = image(torch.float32, torch.contiguous_format, "cuda")
    values, indices = fastcv.max_pool2d(cupy.from_dlpack(x), 2, return_indices=True)
    assert isinstance(values, cupy.ndarray)
    want = ft.max_pool2d(x, 2, return_indices=True)
    assert equal([torch.from_dlpack(values), torch.from_dlpack(indices)], [y.cpu() for y in want])
    costs = torch.rand(20, 30, generator=torch.Generator().manual_seed(0))
    got = fastcv.linear_sum_assignment(cupy.asarray(costs.numpy()))
    assert equal([torch.from_dlpack(each) for each in got], ft.linear_sum_assignment(costs))


@on_device
@each_dtype
@each_format
@pytest.mark.parametrize("shape", [(2, 64, 56, 56), (3, 130, 9, 7), (1, 512, 28, 28)], ids=str)
def test_gram_matrices_on_a_device(dtype: Any, memory_format: Any, shape: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.rand(shape, generator=generator).to(dtype).double()
    x = exact.to("cuda", dtype).contiguous(memory_format=memory_format).requires_grad_()
    wide = exact.requires_grad_()
    got, want = ft.gram_matrix(x), ft.gram_matrix(wide)
    assert torch.equal(got, got.mT)
    close(got, want, dtype)
    (grad,) = torch.autograd.grad(got, x, got.detach())
    (wanted,) = torch.autograd.grad(want, wide, got.detach().cpu().double())
    close(grad, wanted, dtype)
    again = ft.gram_matrix(x)
    assert torch.equal(again, got)


@on_device
@each_dtype
@pytest.mark.parametrize("columns", [32, 64, 128])
@pytest.mark.parametrize("tokens", [49, 144, 515])
@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"window": (40, 7), "softcap": 3.0}, {"dropout_p": 0.2, "seed": 5}],
    ids=str,
)
def test_attention_on_a_device(dtype: Any, columns: int, tokens: int, options: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, tokens, columns)] * 3 + [(3, tokens, tokens)]
    exact = [torch.randn(shape, generator=generator).to(dtype).double() for shape in shapes]
    tensors = [each.to("cuda", dtype).requires_grad_() for each in exact]
    wide = [each.requires_grad_() for each in exact]
    got = ft.scaled_dot_product_attention(*tensors, **options)
    want = ft.scaled_dot_product_attention(*wide, **options)
    close(got, want, dtype)
    if set(options) <= {"is_causal"}:
        mask = wide[3]
        if options:
            hidden = torch.ones(tokens, tokens, dtype=torch.bool).tril().logical_not()
            mask = mask.masked_fill(hidden, -torch.inf)
        torchs = torch.nn.functional.scaled_dot_product_attention(*wide[:3], mask)
        close(got, torchs, dtype)
    grads = torch.autograd.grad(got, tensors, got.detach())
    wanted = torch.autograd.grad(want, wide, got.detach().cpu().double())
    for one, other in zip(grads, wanted, strict=True):
        close(one, other, dtype)
    again = ft.scaled_dot_product_attention(*tensors, **options)
    repeated = torch.autograd.grad(again, tensors, got.detach())
    assert torch.equal(again, got)
    assert all(torch.equal(one, other) for one, other in zip(grads, repeated, strict=True))


@on_device
def test_attention_with_lengths_and_groups_on_a_device() -> None:
    query, key = torch.randn(2, 8, 70, 40, device="cuda"), torch.randn(2, 2, 200, 40, device="cuda")
    lengths = torch.tensor([3, 180], device="cuda")
    options: dict[str, Any] = {"enable_gqa": True, "return_lse": True, "return_weights": True}
    mask = torch.rand(2, 1, 1, 200, device="cuda") < 0.8
    got = ft.scaled_dot_product_attention(query, key, key, mask, kv_lengths=lengths, **options)
    wide = (query.cpu().double(), key.cpu().double(), key.cpu().double(), mask.cpu())
    want = ft.scaled_dot_product_attention(*wide, kv_lengths=lengths.cpu(), **options)
    for one, other in zip(got, want, strict=True):
        close(one.nan_to_num(neginf=-9), other.nan_to_num(neginf=-9), torch.float32)


@on_device
def test_on_another_stream() -> None:
    stream = torch.cuda.Stream()
    x = torch.zeros(8, 64, 256, 256, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(20):
            x.add_(1)
            got = ft.max_pool2d(x, 2)
    stream.synchronize()
    assert bool((got == 20).all())


@on_device
def test_a_wrong_index_on_a_device() -> None:
    values = torch.ones(1, 1, 2, 2, device="cuda")
    indices = torch.tensor([[[[0, 1], [2, 99]]]], device="cuda")
    with pytest.raises(IndexError, match="device 0 was not at least 0"):
        ft.max_unpool2d(values, indices, 2)
        fastcv.cuda.synchronize()
    fastcv.cuda.synchronize()


@on_device
def test_more_than_32_bits_of_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("takes 24 GiB of memory")
    x = torch.zeros(1, 3, 32768, 32768, device="cuda", dtype=torch.float16)
    x[0, 2, -1, -1] = 1
    values, indices = ft.max_pool2d(x, 2, return_indices=True, index_dtype="int32")
    assert values[0, 2, -1, -1] == 1 and indices[0, 2, -1, -1] == 2**30 - 1
    grad = ft.max_pool2d_grad_input(values, indices, tuple(x.shape))
    assert torch.equal(grad, x)
