"""The functions that have CUDA kernels: whoever has arrays on a device looks here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastcv.cuda import _assignment, _attention, _convolution, _gram_matrix, _pooling

# (framework, *arrays, *parameters) -> results, in the form of fastcv._gradients.TABLE.
FLAT: dict[str, Callable[..., Any]] = {
    **_pooling.FLAT,
    **_convolution.FLAT,
    **_gram_matrix.FLAT,
    **_attention.FLAT,
}

# (framework, *arguments, **keywords) -> results, as users call them: those of
# fastcv._gradients.PLAIN.
PLAIN: dict[str, Callable[..., Any]] = {**_assignment.PLAIN}


def takes(name: str) -> bool:
    """Whether a function has CUDA kernels, and this build has them."""
    if name not in FLAT and name not in PLAIN:
        return False
    from fastcv.cuda._extension import extension

    try:
        extension()
    except ImportError:
        return False
    return True
