"""Tensors on a CUDA device: the kernels that read them, on torch's current stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastcv.cuda import _convolution, _pooling
from fastcv.cuda._memory import Memory

FLAT = _pooling.FLAT | _convolution.FLAT


class _Torch:
    """What fastcv.cuda needs to know about a tensor."""

    def memory(self, array: torch.Tensor) -> Memory:
        itemsize = array.element_size()
        return Memory(
            array.data_ptr(),
            tuple(array.shape),
            tuple(stride * itemsize for stride in array.stride()),
            str(array.dtype).removeprefix("torch."),
            array.get_device(),
        )

    def empty(self, shape: Sequence[int], dtype: str, like: torch.Tensor) -> torch.Tensor:
        return torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=like.device)

    def permuted(self, array: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
        return array.permute(tuple(axes))

    def stream(self, array: torch.Tensor) -> int:
        return int(torch.cuda.current_stream(array.device).cuda_stream)


_FRAMEWORK = _Torch()


def takes(name: str) -> bool:
    """Whether an op has CUDA kernels, and this build has them."""
    if name not in FLAT:
        return False
    from fastcv.cuda._extension import extension

    try:
        extension()
    except ImportError:
        return False
    return True


def run(name: str, arrays: tuple[Any, ...], parameters: tuple[Any, ...]) -> Any:
    """Run an op of the table on tensors of one device."""
    tensors = (None if tensor is None else tensor.detach().resolve_neg() for tensor in arrays)
    return FLAT[name](_FRAMEWORK, *tensors, *parameters)
