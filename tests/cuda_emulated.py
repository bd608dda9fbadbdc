"""fastcv._cuda built for the CPU, and NumPy arrays that stand for a device's memory.

tests/native/cuda/emulation.h runs each thread of a launch in turn. Results lie at the end of
readable memory and are all NaN before a kernel writes them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import LAYOUTS, guarded
from shared import SANITIZED

import fastcv
from fastcv.cuda import _extension
from fastcv.cuda._memory import Memory

ROOT = Path(__file__).parents[1]
# NumPy has no bfloat16: unsigned integers of its size have its bits.
_NAMES = {"uint16": "bfloat16"}
_DTYPES = {"bfloat16": "uint16"}

# Of threads and blocks: FASTCV_CUDA_EMULATION_ORDER.
ORDERS = ("forwards", "backwards", "shuffled")
# Layouts that a device's kernels take.
ALIGNED = [name for name in LAYOUTS if not name.startswith("misaligned")]
on_fibers = pytest.mark.skipif(
    SANITIZED, reason="fibers have stacks that the sanitizer does not know"
)


def use(module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make it fastcv._cuda for as long as a fixture lasts."""
    monkeypatch.setitem(sys.modules, "fastcv._cuda", module)
    monkeypatch.setattr(fastcv, "_cuda", module, raising=False)
    _extension.extension.cache_clear()
    assert _extension.extension() is module
    yield module
    _extension.extension.cache_clear()


def in_order(order: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Use the module for as long as a fixture lasts, shuffled with a grid of three blocks."""
    monkeypatch.setenv("FASTCV_CUDA_EMULATION_ORDER", order)
    yield from use(built(few_blocks=order == "shuffled"), monkeypatch)


def placed(array: np.ndarray, layout: str) -> np.ndarray:
    """The same numbers in another memory order, at the end of readable memory."""
    filled = guarded(array.shape, array.dtype, at_end=True, layout=LAYOUTS[layout])
    filled[...] = array
    return filled


@cache
def built(*, few_blocks: bool) -> Any:
    """Compile the kernels for the CPU, and import the module.

    A thread gets one item, or several in steps of a small grid.
    """
    environment = {**os.environ, "PYTHON": sys.executable}
    flags = ["-DFASTCV_CUDA_MAX_BLOCKS=3"] if few_blocks else []
    with tempfile.TemporaryDirectory() as folder:
        command = [ROOT / "tests" / "native" / "cuda" / "build.sh", folder, *flags]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        path = Path(folder) / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
        spec = spec_from_file_location("fastcv._cuda", path)
        assert spec and spec.loader
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


class Emulated:
    """A framework whose arrays are NumPy's, on device 0 or, if listed, on device 1."""

    def __init__(self) -> None:
        self.on_second: list[Any] = []

    def has(self, value: Any) -> bool:
        return isinstance(value, np.ndarray)

    def memory(self, array: Any) -> Memory:
        return Memory(
            array.__array_interface__["data"][0],
            array.shape,
            array.strides,
            _NAMES.get(array.dtype.name, array.dtype.name),
            int(any(array is other for other in self.on_second)),
        )

    def empty(self, shape: Sequence[int], dtype: str, like: Any) -> Any:
        return guarded(tuple(shape), _DTYPES.get(dtype, dtype), at_end=True)

    def cast(self, array: Any, dtype: str) -> Any:
        return np.ascontiguousarray(array, dtype)

    def number(self, array: Any) -> int:
        return int(array[0])

    def permuted(self, array: Any, axes: Sequence[int]) -> Any:
        return array.transpose(axes)

    def stream(self, array: Any) -> int:
        return 0


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """Bits of the nearest bfloat16, of two equally near ones the even one."""
    bits = array.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(array), bits >> 16 | 0x40, rounded).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)
