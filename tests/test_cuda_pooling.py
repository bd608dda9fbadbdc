"""Pooling's CUDA kernels, compiled for the CPU and run thread by thread, against the CPU's kernels.

That is no proof that they run on a device; it is one of every index, launch and barrier. Numbers
are moved or added in one order, so all bits have to agree.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases.max_pool2d import KINDS, Case
from closeness import same_bits
from cuda_emulated import (
    ALIGNED,
    ROOT,
    Emulated,
    from_bfloat16,
    on_fibers,
    placed,
    to_bfloat16,
)
from layouts import LAYOUTS

import fastcv
import fastcv.cuda
from fastcv.cuda import _pooling

pytestmark = [on_fibers, pytest.mark.usefixtures("kernels")]

DEVICE = Emulated()
each_case = pytest.mark.parametrize("case", KINDS, ids=lambda case: case.name)
each_layout = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


def numbers(case: Case, dtype: Any, layout: str = "contiguous", seed: int = 0) -> np.ndarray:
    """Few different ones, so that there are ties, and some NaN."""
    values = np.floor(case.input(np.float64, seed) * 4)
    values[values == 2] = np.nan
    return placed(values.astype(dtype), layout)


def agree(got: np.ndarray, want: np.ndarray) -> None:
    steps = [
        [step for step, n in zip(a.strides, a.shape, strict=True) if n > 1] for a in (got, want)
    ]
    assert steps[0] == steps[1]
    # Of a NaN only that it is one: what adds it may change its payload.
    assert same_bits(np.nan_to_num(got, nan=77), np.nan_to_num(want, nan=77))


# The pooling


@each_case
@pytest.mark.parametrize("layout", ALIGNED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_max_pool2d(case: Case, layout: str, dtype: Any) -> None:
    x = numbers(case, dtype, layout)
    index_dtype = np.int64 if dtype is np.float32 else np.int32
    want = fastcv.max_pool2d(x, **case.parameters, return_indices=True, index_dtype=index_dtype)
    options: Any = {"return_indices": True, "index_dtype": index_dtype}
    got = _pooling.max_pool2d(DEVICE, x, **case.parameters, **options)
    agree(got[0], want[0])
    agree(got[1], want[1])
    agree(_pooling.max_pool2d(DEVICE, x, **case.parameters), want[0])


@each_case
@each_layout
def test_max_pool2d_in_two_bytes(case: Case, layout: str) -> None:
    x = numbers(case, np.float16, layout)
    values, indices = fastcv.max_pool2d(
        x.astype(np.float32), **case.parameters, return_indices=True
    )
    got = _pooling.max_pool2d(DEVICE, x, **case.parameters, return_indices=True)
    agree(got[0], values.astype(np.float16, order="K"))
    agree(got[1], indices)
    bits = placed(to_bfloat16(x.astype(np.float32)), layout)
    got = _pooling.max_pool2d(DEVICE, bits, **case.parameters, return_indices=True)
    agree(from_bfloat16(got[0]), values)
    agree(got[1], indices)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 8, 16, 24])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_channels_around_sixteen_bytes(channels: int, dtype: Any) -> None:
    x = placed(np.random.default_rng(0).random((2, channels, 5, 6)).astype(dtype), "channels_last")
    wide = x.astype(np.float64)
    want = fastcv.max_pool2d(wide, 3, 2, 1, return_indices=True)
    for crop in (slice(None), slice(1, None)):
        image, whole = x[:, crop], wide[:, crop]
        if not image.shape[1]:
            continue
        want = fastcv.max_pool2d(whole, 3, 2, 1, return_indices=True)
        got = _pooling.max_pool2d(DEVICE, image, 3, 2, 1, return_indices=True)
        assert (got[0] == want[0]).all() and (got[1] == want[1]).all()


# By indices


@each_case
@each_layout
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_to_planes_and_back(case: Case, layout: str, dtype: Any) -> None:
    x = numbers(case, dtype, layout)
    values, indices = fastcv.max_pool2d(x, **case.parameters, return_indices=True)
    if (indices >= x.shape[2] * x.shape[3]).any():
        pytest.skip("windows that miss the image have no element")
    grad = placed(case.grad_output(dtype), layout)
    for at in (indices, placed(indices.astype(np.int32), "reversed_axes")):
        want = fastcv.max_pool2d_grad_input(grad, at, x.shape)
        agree(_pooling.max_pool2d_grad_input(DEVICE, grad, at, x.shape), want)
        want = fastcv.max_unpool2d_grad_input(x, at)
        agree(_pooling.max_unpool2d_grad_input(DEVICE, x, at), want)
        if "unpooled" in case.tags:
            want = fastcv.max_unpool2d(values, at, **case.unpooling)
            agree(_pooling.max_unpool2d(DEVICE, values, at, **case.unpooling), want)


@each_case
def test_sums_in_two_bytes_round_once(case: Case) -> None:
    x = case.input(np.float32)
    _, indices = fastcv.max_pool2d(x, **case.parameters, return_indices=True)
    if (indices >= x.shape[2] * x.shape[3]).any():
        pytest.skip("windows that miss the image have no element")
    grad = case.grad_output(np.float32).astype(np.float16)
    want = fastcv.max_pool2d_grad_input(grad.astype(np.float32), indices, x.shape)
    got = _pooling.max_pool2d_grad_input(DEVICE, grad, indices, x.shape)
    agree(got, want.astype(np.float16))
    bits = to_bfloat16(case.grad_output(np.float32))
    want = fastcv.max_pool2d_grad_input(from_bfloat16(bits), indices, x.shape)
    assert same_bits(
        _pooling.max_pool2d_grad_input(DEVICE, bits, indices, x.shape), to_bfloat16(want)
    )


@each_layout
@pytest.mark.parametrize("size", [(4, 4), (9, 8), (3, 11), (2, 2), (16, 2)])
def test_indices_that_come_from_no_window(layout: str, size: tuple[int, int]) -> None:
    """Anywhere, many of them equal, more windows than pixels: planes are mended."""
    random = np.random.default_rng(5)
    shape = (2, 5, 4, 4)
    values = placed(random.random(shape), layout)
    indices = placed(random.integers(0, size[0] * size[1], shape), layout)
    planes = (*shape[:2], *size)
    want = fastcv.max_pool2d_grad_input(values, indices, planes)
    agree(_pooling.max_pool2d_grad_input(DEVICE, values, indices, planes), want)
    window = {"kernel_size": 9, "stride": 9, "padding": 13, "output_size": size}
    want = fastcv.max_unpool2d(values, indices, **window)
    agree(_pooling.max_unpool2d(DEVICE, values, indices, **window), want)


def test_a_single_stray_index() -> None:
    """One plane of many, beyond the probe's sample: it alone is mended."""
    shape, planes = (3, 50, 16, 16), (3, 50, 32, 32)
    x = np.random.default_rng(0).random(planes).astype(np.float32)
    values, indices = fastcv.max_pool2d(x, 2, return_indices=True)
    assert indices.shape == shape and indices.size > 2 * 16384
    indices[1, 7, 3, 5], indices[2, 49, 15, 15], indices[0, 0, 0, 1] = 1000, 0, 1023
    want = fastcv.max_pool2d_grad_input(values, indices, planes)
    agree(_pooling.max_pool2d_grad_input(DEVICE, values, indices, planes), want)
    agree(
        _pooling.max_unpool2d(DEVICE, values, indices, 2), fastcv.max_unpool2d(values, indices, 2)
    )


# Errors


@pytest.mark.parametrize("wrong", [-1, 64, 2**40, -(2**63)])
@pytest.mark.parametrize("size", [(8, 8), (2, 32)])
def test_an_index_outside_comes_late(wrong: int, size: tuple[int, int], kernels: Any) -> None:
    values, indices = np.ones((2, 3, 4, 4)), np.zeros((2, 3, 4, 4), np.int64)
    indices[1, 1, 2, 1] = wrong
    planes = (2, 3, *size)
    grad = np.ones(planes)
    for run, text in (
        (
            lambda: _pooling.max_pool2d_grad_input(DEVICE, values, indices, planes),
            "max_pool2d_grad",
        ),
        (
            lambda: _pooling.max_unpool2d_grad_input(DEVICE, grad, indices),
            "max_unpool2d_grad_input",
        ),
    ):
        # What is emulated is done when the call returns, as under CUDA_LAUNCH_BLOCKING=1.
        with pytest.raises(IndexError, match=rf"^{text}.* device 0 was not at least 0"):
            run()
        assert not kernels.take_index_fault(0)
    fault = kernels.max_unpool2d_grad_input(
        planes,
        (4, 4),
        kernels.Dtype.float64,
        (grad.ctypes.data, grad.strides),
        (indices.ctypes.data, indices.strides, 8),
        (np.empty_like(values).ctypes.data, False),
        (1, 0),
    )
    assert fault and not kernels.take_index_fault(0)


def test_synchronize_raises_what_was_found(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fastcv.cuda.synchronize()
    faults = iter([True, False])
    monkeypatch.setattr(kernels, "take_index_fault", lambda device: next(faults))
    with pytest.raises(IndexError, match=r"^synchronize: an index of this call or an earlier one"):
        fastcv.cuda.synchronize(1)
    fastcv.cuda.synchronize(1)
    with pytest.raises(RuntimeError, match=r"^cudaSetDevice: invalid device ordinal"):
        fastcv.cuda.synchronize(9)
    with pytest.raises(TypeError, match=r"^synchronize: device must be an integer"):
        fastcv.cuda.synchronize(1.0)  # type: ignore[arg-type]


def test_what_is_refused() -> None:
    x, indices = np.ones((1, 2, 4, 4), np.float32), np.zeros((1, 2, 2, 2), np.int64)
    with pytest.raises(TypeError, match=r"^max_pool2d: input.dtype must be float32, .* got int64"):
        _pooling.max_pool2d(DEVICE, indices, 2)
    with pytest.raises(TypeError, match=r"indices.dtype must be int64 or int32, got float32"):
        _pooling.max_unpool2d(DEVICE, x, x, 2)
    with pytest.raises(ValueError, match=r"^max_pool2d: padding\[0\] must be at most"):
        _pooling.max_pool2d(DEVICE, x, 2, padding=2)
    for layout in ("misaligned", "misaligned_pixels"):
        with pytest.raises(ValueError, match=r"address and strides must be multiples"):
            _pooling.max_pool2d(DEVICE, LAYOUTS[layout](x.shape, x.dtype).filled(x), 2)
    device = Emulated()
    device.on_second.append(indices)
    with pytest.raises(
        ValueError, match=r"^max_unpool2d_grad_input: indices must be on the device"
    ):
        _pooling.max_unpool2d_grad_input(device, x, indices)


def test_no_images() -> None:
    x, indices = np.ones((0, 2, 4, 4)), np.zeros((0, 2, 2, 2), np.int64)
    assert _pooling.max_pool2d(DEVICE, x, 2).shape == (0, 2, 2, 2)
    assert _pooling.max_unpool2d_grad_input(DEVICE, x, indices).shape == (0, 2, 2, 2)
    assert _pooling.max_pool2d_grad_input(DEVICE, np.ones((0, 2, 2, 2)), indices, x.shape).size == 0


def test_planes_without_pixels() -> None:
    """Every index is outside."""
    values, indices = np.ones((1, 2, 1, 1)), np.zeros((1, 2, 1, 1), np.int64)
    for run in (fastcv.max_unpool2d, lambda *call: _pooling.max_unpool2d(DEVICE, *call)):
        with pytest.raises(IndexError, match=r"^max_unpool2d: "):
            run(values, indices, 2, 1, 1)


# What is around


def test_show_config(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastcv.show_config(mode="dicts")["cuda"] == "built for emulated; devices: 2"

    def no_driver() -> int:
        raise RuntimeError("cudaGetDeviceCount: no CUDA-capable device is detected")

    monkeypatch.setattr(kernels, "device_count", no_driver)
    assert fastcv.show_config(mode="dicts")["cuda"] == (
        "off: built for emulated, but cudaGetDeviceCount: no CUDA-capable device is detected"
    )


@pytest.mark.parametrize("name", ["launch", "warps"])
def test_what_kernels_stand_on(tmp_path: Path, name: str) -> None:
    """Divisions, places, roundings; and warps, as the emulation has them."""
    program = tmp_path / name
    native = ROOT / "tests" / "native" / "cuda"
    emulation = ["-include", native / "emulation.h"]
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Wno-clobbered", "-Werror"]
    subprocess.run(["g++", *flags, *emulation, native / f"{name}.cpp", "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.stdout == "0 failed\n"
