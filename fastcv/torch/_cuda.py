"""Tensors on a CUDA device: the kernels that read them, on torch's current stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastcv.cuda._memory import Memory
from fastcv.cuda._table import FLAT, PLAIN, takes

__all__ = ["FLAT", "has", "run", "run_plain", "takes"]


class _Torch:
    """What fastcv.cuda needs to know about a tensor."""

    def has(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.is_cuda

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

    def cast(self, array: torch.Tensor, dtype: str) -> torch.Tensor:
        return array.to(getattr(torch, dtype)).contiguous()

    def number(self, array: torch.Tensor) -> int:
        return int(array.item())

    def permuted(self, array: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
        return array.permute(tuple(axes))

    def stream(self, array: torch.Tensor) -> int:
        return int(torch.cuda.current_stream(array.device).cuda_stream)


_FRAMEWORK = _Torch()


def run(name: str, arrays: tuple[Any, ...], parameters: tuple[Any, ...]) -> Any:
    """Run an op of the table on tensors of one device."""
    tensors = (None if tensor is None else tensor.detach().resolve_neg() for tensor in arrays)
    return FLAT[name](_FRAMEWORK, *tensors, *parameters)


def has(value: Any) -> bool:
    """Whether an argument is a tensor on a device, or a list with one."""
    if isinstance(value, (list, tuple)):
        return any(map(has, value))
    return _FRAMEWORK.has(value)


def run_plain(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Run a function without gradients on tensors of one device."""
    named = {key: _detached(value) for key, value in keywords.items()}
    return PLAIN[name](_FRAMEWORK, *map(_detached, arguments), **named)


def _detached(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().resolve_neg()
    if isinstance(value, (list, tuple)):
        return [_detached(each) for each in value]
    return value
