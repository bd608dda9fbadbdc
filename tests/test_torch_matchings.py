"""Assignments and detr_match of tensors: eager, in graphs, and where a mode looks on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from closeness import same_bits

import fastcv

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import fastcv.torch as ft  # noqa: E402

RNG = np.random.default_rng(3)
COSTS = torch.from_numpy(RNG.random((3, 4, 6)))
COSTS32 = COSTS.float()
VARYING = COSTS[0].clone().requires_grad_()
FORBIDDEN = COSTS[0].masked_fill(COSTS[0] > 0.5, float("nan"))
SIZES = torch.tensor([[4, 6], [2, 3], [0, 0]])
LOGITS, BOXES = torch.randn(2, 5, 3), torch.rand(2, 5, 4)
LABELS = [torch.tensor([0, 2]), torch.tensor([1])]
OBJECTS = [torch.rand(2, 4), torch.rand(1, 4)]

CALLS: dict[str, Callable[[], Any]] = {
    "one": lambda: ft.linear_sum_assignment(COSTS[0]),
    "one, transposed": lambda: ft.linear_sum_assignment(COSTS32[0].T, maximize=True),
    "duals": lambda: ft.linear_sum_assignment(COSTS[0], return_duals=True),
    "limit": lambda: ft.linear_sum_assignment(COSTS[0], cost_limit=0.3),
    "forbidden": lambda: ft.linear_sum_assignment(FORBIDDEN, nan_policy="forbid"),
    "batch": lambda: ft.linear_sum_assignment_batch(COSTS, SIZES, cost_limit=0.4),
    "list": lambda: ft.linear_sum_assignment_batch([COSTS[0], COSTS[1, :2]], maximize=True),
    "lists": lambda: ft.linear_sum_assignment_batch(COSTS, [[4, 6], [2, 3], [0, 0]]),
    "detr": lambda: ft.detr_match(LOGITS, BOXES, LABELS, OBJECTS),
    "detr, costs": lambda: ft.detr_match(
        LOGITS, BOXES, LABELS, OBJECTS, cost_giou=1.0, class_cost="focal", return_cost=True
    ),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def same(got: Any, want: Any) -> None:
    if isinstance(want, torch.Tensor):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)
    else:
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            same(one, other)


def test_assignments() -> None:
    costs = torch.randn(3, 4, 5, requires_grad=True)
    rows, columns = ft.linear_sum_assignment(costs[0])
    wanted = fastcv.linear_sum_assignment(costs[0].detach().numpy())
    assert same_bits(rows.numpy(), wanted[0]) and same_bits(columns.numpy(), wanted[1])
    assert costs[0][rows, columns].sum().requires_grad
    whole = ft.linear_sum_assignment_batch(costs, torch.tensor([[4, 5], [2, 3], [0, 0]]))
    assert torch.equal(whole[0], columns) and whole.dtype == torch.int64
    assert torch.equal(ft.linear_sum_assignment_batch([costs[0], costs[1]])[0], columns)
    duals = ft.linear_sum_assignment(costs[0], return_duals=True)[2:]
    total = costs[0].detach()[rows, columns].sum().double()
    torch.testing.assert_close(duals[0].sum() + duals[1].sum(), total)


def test_detr_match() -> None:
    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 6, 4, requires_grad=True), torch.rand(2, 6, 4)
    labels = [torch.tensor([1, 3, 0]), torch.empty(0, dtype=torch.int64)]
    targets = [torch.rand(3, 4), torch.empty(0, 4)]
    got, cost = ft.detr_match(logits, boxes, labels, targets, return_cost=True)
    want = fastcv.detr_match(
        logits.detach().numpy(),
        boxes.numpy(),
        [t.numpy() for t in labels],
        [t.numpy() for t in targets],
    )
    assert len(got) == 2 and cost.shape == (2,)
    for one, other in zip(got, want, strict=True):
        assert isinstance(one, tuple)
        assert all(same_bits(a.numpy(), b) for a, b in zip(one, other, strict=True))


def test_matchings_take_bfloat16() -> None:
    cost = torch.tensor([[1, 2, 3], [3, 1, 2], [2, 3, 1.5]]).bfloat16()
    for one, other in zip(
        ft.linear_sum_assignment(cost), ft.linear_sum_assignment(cost.float()), strict=True
    ):
        assert torch.equal(one, other)


@each_call
def test_compile_fullgraph(call: Callable[[], Any]) -> None:
    want = call()
    torch._dynamo.reset()
    same(torch.compile(call, fullgraph=True, backend="aot_eager")(), want)


@each_call
def test_compile_with_breaks(call: Callable[[], Any]) -> None:
    """Where a size depends on costs the graph breaks, and what runs in between is not looked at."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Dynamo does not know")
        same(torch.compile(call, backend="aot_eager")(), call())


def test_compile_by_inductor() -> None:
    def total(cost: Any) -> Any:
        rows, columns = ft.linear_sum_assignment(cost, cost_limit=0.3)
        return cost[rows, columns].sum()

    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(total, fullgraph=True)(COSTS[0]), total(COSTS[0]))


def least(cost: Any) -> Any:
    rows, columns = ft.linear_sum_assignment(cost)
    return cost[rows, columns].sum()


def test_whoever_looks_on_sees_the_operator() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    other = COSTS[1].clone()
    assert torch.equal(make_fx(least)(COSTS[0])(other), least(other))
    want = torch.autograd.grad(least(other.requires_grad_()), other)[0]
    assert torch.equal(torch.func.grad(least)(other.detach()), want)
    with FakeTensorMode():
        rows, columns = ft.linear_sum_assignment(torch.empty(4, 6))
        assert rows.shape == columns.shape == (4,)
    assert ft.linear_sum_assignment_batch(COSTS.to("meta")).shape == (3, 4)
    mixed = ft.linear_sum_assignment_batch([COSTS[0], COSTS[1].to("meta")])
    assert mixed.is_meta and mixed.shape == (2, 4)


class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return function(*args, **(kwargs or {}))


def test_arguments_are_the_same_for_whoever_looks_on() -> None:
    backwards = COSTS.numpy()[:, ::-1]
    for call in (
        lambda: ft.linear_sum_assignment_batch(backwards),
        lambda: ft.linear_sum_assignment(backwards[0].astype(">f8")),
        lambda: ft.linear_sum_assignment_batch([]),
        *CALLS.values(),
    ):
        want = call()
        with Watch():
            same(call(), want)
    for error, wrong in (
        (TypeError, lambda: ft.linear_sum_assignment(COSTS[0], cost_limit="a")),
        (TypeError, lambda: ft.linear_sum_assignment(COSTS[0], nan_policy=None)),
        (TypeError, lambda: ft.linear_sum_assignment(COSTS[0], minimize=True)),
        (TypeError, lambda: ft.linear_sum_assignment()),
        (ValueError, lambda: ft.linear_sum_assignment_batch([], nan_policy="x")),
        (ValueError, lambda: ft.detr_match(LOGITS, BOXES, LABELS, OBJECTS, class_cost="x")),
    ):
        with pytest.raises(error):
            wrong()
        with Watch(), pytest.raises(error):
            wrong()


def test_other_devices_are_refused() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        cost = torch.empty(4, 6, device="cuda")
        with pytest.raises(ValueError, match=r"^linear_sum_assignment: .* on the CPU.*cuda:0"):
            ft.linear_sum_assignment(cost)


class Pairs(torch.nn.Module):
    def forward(self, cost: Any) -> Any:
        return ft.linear_sum_assignment(cost, cost_limit=0.3)


def test_export_of_an_unknown_size() -> None:
    program = torch.export.export(Pairs(), (COSTS[0],))
    for cost in COSTS:
        same(program.module()(cost), Pairs()(cost))


def test_compile_with_other_sizes() -> None:
    compiled = torch.compile(ft.linear_sum_assignment, fullgraph=True, dynamic=True)
    for shape in ((4, 6), (7, 3), (5, 5)):
        cost = torch.rand(shape)
        same(compiled(cost), ft.linear_sum_assignment(cost))


OPERATORS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "one": ("linear_sum_assignment", (COSTS[0], False, None, "raise", False)),
    "duals": ("linear_sum_assignment", (COSTS32[0], True, None, "raise", True)),
    "limit": ("linear_sum_assignment", (COSTS[0], False, 0.3, "forbid", False)),
    "grad": (
        "linear_sum_assignment",
        (COSTS[0].clone().requires_grad_(), False, None, "raise", True),
    ),
    "batch": ("linear_sum_assignment_batch", ([COSTS], SIZES, False, None, "raise", True)),
    "list": (
        "linear_sum_assignment_batch",
        ([COSTS[0], COSTS[1, :2]], None, True, None, "raise", False),
    ),
    "detr": ("detr_match", (LOGITS, BOXES, LABELS, OBJECTS, 1.0, 5.0, 2.0, "softmax", True)),
}


@pytest.mark.parametrize(("name", "arguments"), OPERATORS.values(), ids=OPERATORS)
def test_opcheck(name: str, arguments: tuple[Any, ...]) -> None:
    torch.library.opcheck(getattr(torch.ops.fastcv, name).default, arguments)


class Matches(torch.nn.Module):
    def forward(self, logits: Any, boxes: Any, labels: Any, objects: Any) -> Any:
        return ft.detr_match(logits, boxes, [labels], [objects])


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    arguments = (LOGITS[:1], BOXES[:1], LABELS[0], OBJECTS[0])
    objects = torch.export.Dim("objects", min=1)
    shapes = ({}, {}, {0: objects}, {0: objects})
    program = torch.export.export(Matches(), arguments, dynamic_shapes=shapes, strict=strict)
    assert any("detr_match" in str(node.target) for node in program.graph.nodes)
    for count in (2, 3, 6):
        more = (LOGITS[:1], BOXES[:1], torch.arange(count) % 3, torch.rand(count, 4))
        same(program.module()(*more), Matches()(*more))


def test_matcher_in_a_graph() -> None:
    matcher = ft.HungarianMatcher()
    outputs = {"pred_logits": LOGITS.clone().requires_grad_(), "pred_boxes": BOXES}
    targets = [{"labels": a, "boxes": b} for a, b in zip(LABELS, OBJECTS, strict=True)]
    compiled = torch.compile(matcher, fullgraph=True, backend="aot_eager")
    same(compiled(outputs, targets), matcher(outputs, targets))


def test_errors_in_graphs() -> None:
    compiled = torch.compile(ft.linear_sum_assignment, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"as cost_matrix, got a 3-D array"):
        compiled(COSTS)
    with pytest.raises(ValueError, match="invalid numeric entries"):
        compiled(FORBIDDEN)
    with pytest.raises(Exception, match="takes 2 arguments by position, got 3"):
        compiled(COSTS[0], True, 1.0)
    with pytest.raises(Exception, match="minimize"):
        compiled(COSTS[0], minimize=True)
    with pytest.raises(Exception, match="got cost_matrix by position and by name"):
        compiled(COSTS[0], cost_matrix=COSTS[1])
    match = torch.compile(ft.detr_match, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="target_boxes must be a list of arrays, got Tensor"):
        match(LOGITS, BOXES, LABELS, OBJECTS[0])
    with pytest.raises(Exception, match="target_boxes is missing"):
        match(LOGITS, BOXES, LABELS)


def test_no_problems() -> None:
    for function in (
        ft.linear_sum_assignment_batch,
        torch.compile(ft.linear_sum_assignment_batch, fullgraph=True, backend="aot_eager"),
    ):
        assert function([]).shape == (0, 0)
