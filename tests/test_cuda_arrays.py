"""fastcv's own functions on arrays of a device, by emulated kernels and a stand-in for CuPy.

The stand-in has what fastcv asks of CuPy and nothing else, over the CPU's memory.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from closeness import same_bits
from cuda_emulated import built, on_fibers, use

import fastcv
import fastcv.cuda
from fastcv._gradients import PLAIN, TABLE
from fastcv.cuda import _extension, _table

pytestmark = on_fibers


class Array:
    """An array of CuPy's, as far as fastcv knows them."""

    def __init__(self, array: np.ndarray, device: int = 0) -> None:
        self.numpy = array
        self.shape, self.strides, self.dtype = array.shape, array.strides, array.dtype
        self.data = SimpleNamespace(ptr=array.__array_interface__["data"][0])
        self.device = SimpleNamespace(id=device)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.numpy.__array_interface__, "version": 3}

    def __array__(self, *arguments: Any, **keywords: Any) -> Any:
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    def __len__(self) -> int:
        return len(self.numpy)

    def __getitem__(self, key: Any) -> Array:
        return Array(self.numpy[key], self.device.id)

    def transpose(self, axes: tuple[int, ...]) -> Array:
        return Array(self.numpy.transpose(axes), self.device.id)

    def item(self) -> Any:
        return self.numpy.item()


class Foreign:
    """An array of another library, which only says where its memory is."""

    def __init__(self, array: np.ndarray, kind: int = 2) -> None:
        self.numpy, self.kind = array, kind

    def __dlpack__(self, **keywords: Any) -> np.ndarray:
        return self.numpy

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0


class Older:
    """One that says so in the way that came before."""

    def __init__(self, array: np.ndarray) -> None:
        self.__cuda_array_interface__ = {"numpy": array}


class CuPy(ModuleType):
    ndarray = Array

    def __init__(self) -> None:
        super().__init__("cupy")
        self.devices: list[int] = []
        self.cuda = SimpleNamespace(
            Device=self._device,
            get_current_stream=lambda: SimpleNamespace(ptr=100 + self.devices[-1]),
        )

    @contextlib.contextmanager
    def _device(self, number: int) -> Iterator[None]:
        self.devices.append(number)
        yield
        self.devices.pop()

    def empty(self, shape: Any, dtype: str) -> Array:
        return Array(np.empty(shape, dtype), self.devices[-1])

    def ascontiguousarray(self, array: Array, dtype: str) -> Array:
        return Array(np.ascontiguousarray(array.numpy, dtype), self.devices[-1])

    def from_dlpack(self, array: Any) -> Array:
        return Array(array.__dlpack__())

    def asarray(self, array: Any) -> Array:
        return Array(array.__cuda_array_interface__["numpy"])


@pytest.fixture(scope="module")
def module() -> Any:
    return built(few_blocks=False)


@pytest.fixture
def cupy(module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[CuPy]:
    stand_in = CuPy()
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    for _ in use(module, monkeypatch):
        yield stand_in


def agree(got: Any, want: Any) -> None:
    if isinstance(want, (list, tuple)):
        assert type(got) is type(want) and len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            agree(one, other)
        return
    assert isinstance(got, Array) and same_bits(got.numpy, want)
    assert got.strides == want.strides


IMAGE = np.floor(9 * np.random.default_rng(0).random((2, 3, 8, 6))).astype(np.float32)
LAST = np.ascontiguousarray(IMAGE.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("image", [IMAGE, LAST, LAST[0], IMAGE[:, :, ::-1]])
@pytest.mark.parametrize("on", [Array, Foreign, Older])
def test_pooling(cupy: CuPy, image: np.ndarray, on: Callable[[np.ndarray], Any]) -> None:
    values, indices = fastcv.max_pool2d(image, 2, return_indices=True)
    agree(fastcv.max_pool2d(on(image), 2), values)
    agree(
        fastcv.max_pool2d(on(image), 3, 2, 1, ceil_mode=True),
        fastcv.max_pool2d(image, 3, 2, 1, ceil_mode=True),
    )
    got = fastcv.max_pool2d(on(image), 2, return_indices=True)
    agree(got, (values, indices))
    narrow = fastcv.max_pool2d(on(image), kernel_size=2, return_indices=True, index_dtype=np.int32)
    assert narrow[1].dtype == np.int32
    at = on(indices)
    agree(fastcv.max_unpool2d(on(values), at, 2), fastcv.max_unpool2d(values, indices, 2))
    want = fastcv.max_pool2d_grad_input(values, indices, image.shape)
    agree(fastcv.max_pool2d_grad_input(on(values), at, image.shape), want)
    want = fastcv.max_unpool2d_grad_input(image, indices)
    agree(fastcv.max_unpool2d_grad_input(on(image), at), want)


def test_two_bytes_an_element(cupy: CuPy) -> None:
    half = IMAGE.astype(np.float16)
    got = fastcv.max_pool2d(Array(half), 2)
    assert same_bits(got.numpy, fastcv.max_pool2d(IMAGE, 2).astype(np.float16))


def test_assignment(cupy: CuPy) -> None:
    costs = np.random.default_rng(1).random((3, 5, 7))
    agree(fastcv.linear_sum_assignment(Array(costs[0])), fastcv.linear_sum_assignment(costs[0]))
    for options in ({"cost_limit": 0.2}, {"maximize": True, "nan_policy": "forbid"}):
        got = fastcv.linear_sum_assignment(Array(costs[0]), **options)
        agree(got, fastcv.linear_sum_assignment(costs[0], **options))
    got = fastcv.linear_sum_assignment(Foreign(costs[1]), return_duals=True)
    agree(got[:2], fastcv.linear_sum_assignment(costs[1]))
    want = fastcv.linear_sum_assignment_batch(costs)
    agree(fastcv.linear_sum_assignment_batch(Array(costs)), want)
    agree(fastcv.linear_sum_assignment_batch([Array(each) for each in costs]), want)
    sizes = np.array([[5, 7], [2, 3], [0, 1]])
    want = fastcv.linear_sum_assignment_batch(costs, sizes)
    for given in (sizes, Array(sizes)):
        agree(fastcv.linear_sum_assignment_batch(Array(costs), given), want)


def test_detr_match(cupy: CuPy) -> None:
    rng = np.random.default_rng(2)
    logits, boxes = rng.standard_normal((2, 9, 4)), rng.random((2, 9, 4))
    labels, objects = [np.array([3, 0, 1]), np.array([2])], [rng.random((3, 4)), rng.random((1, 4))]
    arrays = (Array(logits), Array(boxes), [*map(Array, labels)], [*map(Array, objects)])
    agree(fastcv.detr_match(*arrays), fastcv.detr_match(logits, boxes, labels, objects))
    matches, cost = fastcv.detr_match(*arrays, class_cost="focal", return_cost=True)
    want = fastcv.detr_match(logits, boxes, labels, objects, class_cost="focal", return_cost=True)
    agree(matches, want[0])
    np.testing.assert_allclose(cost.numpy, want[1], rtol=1e-12)


def test_the_array_s_device_and_cupy_s_stream(cupy: CuPy, monkeypatch: pytest.MonkeyPatch) -> None:
    queues = []
    kernels = sys.modules["fastcv._cuda"]
    run = kernels.max_pool2d
    monkeypatch.setattr(
        kernels, "max_pool2d", lambda *given: queues.append(given[-1]) or run(*given)
    )
    for device in (0, 1):
        result = fastcv.max_pool2d(Array(IMAGE, device), 2)
        assert result.device.id == device
    assert queues == [(0, 100), (1, 101)]
    with pytest.raises(ValueError, match=r"^max_unpool2d: indices must be on the device of input"):
        fastcv.max_unpool2d(Array(IMAGE), Array(IMAGE.astype(np.int64), 1), 2)


def test_an_index_outside(cupy: CuPy) -> None:
    values, indices = np.ones((1, 1, 2, 2)), np.full((1, 1, 2, 2), 99)
    with pytest.raises(IndexError, match=r"^max_unpool2d: .* on device 0 was not at least 0"):
        fastcv.max_unpool2d(Array(values), Array(indices), 2)


def test_what_is_refused(cupy: CuPy, monkeypatch: pytest.MonkeyPatch) -> None:
    x = Array(IMAGE)
    with pytest.raises(TypeError, match=r"^max_unpool2d: indices must be an array on a device"):
        fastcv.max_unpool2d(x, IMAGE.astype(np.int64), 2)  # type: ignore[type-var]
    with pytest.raises(TypeError, match=r"^max_unpool2d: indices must be a numpy.ndarray, got Arr"):
        fastcv.max_unpool2d(IMAGE, Array(IMAGE.astype(np.int64)), 2)
    with pytest.raises(TypeError, match=r"^max_pool2d: input.dtype must be float32, .* got int64"):
        fastcv.max_pool2d(Array(IMAGE.astype(np.int64)), 2)
    with pytest.raises(TypeError, match=r"kernel_size must be an integer"):
        fastcv.max_pool2d(x, 2.0)  # type: ignore[type-var]
    with pytest.raises(TypeError, match=r"^conv2d: out must be None for arrays on a device"):
        fastcv.conv2d(x, x, out=x)  # type: ignore[type-var]
    with pytest.raises(TypeError, match=r"input must be a numpy.ndarray, got type"):
        fastcv.max_pool2d(np.ndarray, 2)  # type: ignore[type-var]
    # Memory that the CPU has, page-locked or not, is no device's.
    for kind in (1, 3):
        with pytest.raises(TypeError, match=r"input must be a numpy.ndarray, got Foreign"):
            fastcv.max_pool2d(Foreign(IMAGE, kind), 2)  # type: ignore[type-var]
    monkeypatch.delitem(_table.FLAT, "max_pool2d")
    with pytest.raises(TypeError, match=r"^max_pool2d: arrays must be NumPy's: there are no CUDA"):
        fastcv.max_pool2d(x, 2)  # type: ignore[type-var]


def test_without_cupy(cupy: CuPy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(TypeError, match=r"^max_pool2d: .* need CuPy, whose arrays results are"):
        fastcv.max_pool2d(Array(IMAGE), 2)  # type: ignore[type-var]


def test_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", CuPy())
    monkeypatch.delitem(sys.modules, "fastcv._cuda", raising=False)
    monkeypatch.setattr(_extension, "find_spec", lambda name: None)
    _extension.extension.cache_clear()
    with pytest.raises(ImportError, match=r"^this build of fastcv has no CUDA kernels"):
        fastcv.max_pool2d(Array(IMAGE), 2)  # type: ignore[type-var]
    _extension.extension.cache_clear()


def test_tensors_go_to_torch(cupy: CuPy, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    import fastcv.torch as ft
    from fastcv._checks import arrays

    tensor = torch.from_numpy(IMAGE)
    with pytest.raises(TypeError, match=r"input must be a numpy.ndarray, got Tensor"):
        fastcv.max_pool2d(tensor, 2)
    monkeypatch.setattr(fastcv._checks, "on_device", lambda value: isinstance(value, torch.Tensor))
    monkeypatch.setattr(arrays, "on_device", lambda value: isinstance(value, torch.Tensor))
    got = fastcv.max_pool2d(tensor.requires_grad_(), 2, return_indices=True)
    want = ft.max_pool2d(tensor, 2, return_indices=True)
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))
    assert got[0].requires_grad


def test_every_function_asks_for_arrays_on_a_device(cupy: CuPy) -> None:
    """Each hands its arguments on, so that a function of the table needs nothing more."""
    from fastcv.cuda import _arrays

    called = []
    original = _arrays.call
    _arrays.call = lambda name, variables: called.append((name, variables))  # type: ignore[assignment]
    try:
        names = [*TABLE, *PLAIN]
        for name in names:
            public = getattr(fastcv, name)
            required = [
                each.name
                for each in inspect.signature(public).parameters.values()
                if each.default is inspect.Parameter.empty
            ]
            public(**dict.fromkeys(required, Array(IMAGE)))
            assert called[-1][0] == name
            assert set(inspect.signature(public).parameters) <= set(called[-1][1])
    finally:
        _arrays.call = original
    assert [name for name, _ in called] == names


def test_stubs_are_what_the_module_offers(module: Any) -> None:
    """Names, and those of arguments in their order, which pybind11 writes into docstrings."""
    stubs = ast.parse((Path(fastcv.__file__).parent / "_cuda.pyi").read_text())
    written = {
        each.name: [argument.arg for argument in each.args.args]
        for each in stubs.body
        if isinstance(each, ast.FunctionDef)
    }
    offered = {
        name: [re.findall(r"(\w+): ", line) for line in each.__doc__.splitlines() if ") ->" in line]
        for name, each in vars(module).items()
        if callable(each) and not isinstance(each, type)
    }
    assert sorted(written) == sorted(offered)
    for name, arguments in written.items():
        assert offered[name] and all(each == arguments for each in offered[name]), name
    (kinds,) = (each for each in stubs.body if isinstance(each, ast.ClassDef))
    names = [each.target.id for each in kinds.body if isinstance(each, ast.AnnAssign)]  # type: ignore[union-attr]
    assert kinds.name == "Dtype" and names == list(module.Dtype.__members__)


def test_importing_fastcv_imports_neither(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_python(
        "import sys, numpy, fastcv; fastcv.max_pool2d(numpy.ones((1, 4, 4)), 2)\n"
        "print([name for name in sys.modules if name.startswith(('cupy', 'torch', 'fastcv.cuda'))])"
    )
    assert done.stdout == "[]\n", done.stderr
