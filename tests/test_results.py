"""The memory of results: new in every call, and large pieces kept for later ones, within bounds."""

from __future__ import annotations

import gc
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fastcv
from fastcv import _core, _layout

MIB = 1 << 20
# Unpooled to a result of 36 MiB, which the C library would take from the system and give back.
NUMBERS = np.ones((9, 2, 1, MIB // 2), np.float32)
INDICES = np.broadcast_to(np.arange(0, MIB, 2), NUMBERS.shape)


def unpooled() -> np.ndarray:
    """Zeros, with a one in each window of two."""
    return fastcv.max_unpool2d(NUMBERS, INDICES, (1, 2))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_a_result_is_never_anothers_memory() -> None:
    first = unpooled()
    view = first[3, 1, 0]
    want = view.copy()
    second = unpooled()
    assert not np.shares_memory(first, second)
    del first
    third = unpooled()
    third.fill(7)
    assert not np.shares_memory(view, third)
    assert np.array_equal(view, want)
    assert np.array_equal(second[3, 1, 0], want)


def test_a_large_result_is_an_ordinary_array() -> None:
    result = unpooled()
    assert result.nbytes >= 32 * MIB
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert result.flags.aligned
    assert result.sum() == NUMBERS.size


@pytest.mark.parametrize("layout", ["NCHW", "channels-last"])
def test_results_begin_at_a_cache_line(layout: str) -> None:
    for size in (300, 1100, 3001):
        image = np.ones((1, 3, size, size), np.float32)
        if layout == "channels-last":
            image = np.ones((1, size, size, 3), np.float32).transpose(0, 3, 1, 2)
        results = [fastcv.max_pool2d(image, 3, 1, 1, return_indices=True) for _ in range(3)]
        for array in (each for pair in results for each in pair):
            assert array.ctypes.data % 64 == 0
            assert array.flags.writeable
            assert array.flags.c_contiguous == (layout == "NCHW")
            assert not array.flags.f_contiguous
            assert array.strides == tuple(stride // 4 * array.itemsize for stride in image.strides)


def test_results_of_one_piece_begin_at_a_cache_line() -> None:
    query = np.ones((8, 200, 64), np.float32)
    output, lse = fastcv.scaled_dot_product_attention(query, query, query, return_lse=True)
    grads = fastcv.scaled_dot_product_attention_grad(output, query, query, query, output, lse)
    for array in grads[:3]:
        assert array.ctypes.data % 64 == 0


def test_memory_is_used_again() -> None:
    for _ in range(3):
        unpooled()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        unpooled()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    # New memory from the system faults in every call: for 18 huge pages, or for 9216 others.
    assert faults < 18


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts pages by /proc")
def test_kept_memory_is_bounded() -> None:
    def touch(mib: int) -> None:
        _layout.new((mib * MIB // 4,), np.dtype(np.float32)).fill(1)

    gc.collect()
    before = resident_bytes()
    # Each is too large for the piece before it.
    for mib in (33, 42, 53, 67, 84, 106, 133, 167, 209, 255, 300):
        touch(mib)
    assert resident_bytes() - before <= _core.kept_result_bytes + 16 * MIB


def test_threads_get_memory_of_their_own() -> None:
    def check(value: int) -> bool:
        array = _layout.new((34 * MIB // 8,), np.dtype(np.float64))
        array.fill(value)
        return bool(array.min() == array.max() == value)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(check, range(40)))


@pytest.mark.parametrize(
    "shape", [(), (3,), (0,), (2, 0, 3), (2, 3, 4), (2, 3, 4, 5), (1, 3, 0, 5)]
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_layouts_are_numpys(shape: tuple[int, ...], dtype: str) -> None:
    layout = _core.ResultLayout(shape, np.dtype(dtype))
    assert layout.shape == shape
    assert layout.new().strides == np.empty(shape, dtype).strides
    assert layout.new().shape == shape
    if len(shape) < 3:
        return
    *batch, channels, height, width = shape
    memory = np.empty((*batch, height, width, channels), dtype)
    array = _core.ResultLayout(shape, np.dtype(dtype), channels_last=True).new()
    assert array.shape == shape
    assert array.strides == np.moveaxis(memory, -1, -3).strides


def test_what_cannot_be_had_is_an_error() -> None:
    for size in (1 << 44, (1 << 61) - 1):
        with pytest.raises((MemoryError, ValueError)):
            _core.ResultLayout((size,), np.dtype(np.float32)).new()
    too_many = _core.ResultLayout((1 << 40, 1 << 40), np.dtype(np.float32))
    with pytest.raises(ValueError):
        too_many.new()
    with pytest.raises(ValueError):
        _core.ResultLayout.new_together([too_many, too_many])


def test_arrays_made_together_do_not_overlap() -> None:
    shapes = [(3, 5), (0, 4), (70_000,), (1,)]
    for extra in ([], [(9 * MIB,)]):
        layouts = [_core.ResultLayout(shape, np.dtype(np.float32)) for shape in shapes + extra]
        arrays = _core.ResultLayout.new_together(layouts)
        for i, array in enumerate(arrays):
            assert array.shape == layouts[i].shape
            array.fill(i)
        assert all((array == i).all() for i, array in enumerate(arrays))
