"""The compiled module with the CUDA kernels, which a build may lack: loaded when first used."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any


@cache
def extension() -> Any:
    """Return `fastcv._cuda`, or raise an ImportError that says why it is not there."""
    if find_spec("fastcv._cuda") is None:
        raise ImportError(
            "this build of fastcv has no CUDA kernels: it was not installed with FASTCV_CUDA=1"
        )
    from fastcv import _cuda

    return _cuda


def state() -> str:
    """Return what is built, and for which devices; or why CUDA is off. For `show_config`."""
    try:
        kernels = extension()
    except ImportError as error:
        return f"off: {error}"
    try:
        devices = kernels.device_count()
    except RuntimeError as error:
        return f"off: built for {kernels.archs}, but {error}"
    return f"built for {kernels.archs}; devices: {devices}"
