"""torch.nn.functional on fastcv, inside a `with`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fastcv.torch._ops import FUNCTIONS, serves

_F = torch.nn.functional


def _pool(*args: Any, **keywords: Any) -> Any:
    return FUNCTIONS["max_pool2d"](*args, **keywords)


def _pool_with_indices(*args: Any, **keywords: Any) -> Any:
    keywords.pop("return_indices", None)
    return FUNCTIONS["max_pool2d"](*args[:6], **keywords, return_indices=True)


def _unpool(input: Any, indices: Any, *args: Any, **keywords: Any) -> Any:
    args = tuple(tuple(each) if isinstance(each, list) else each for each in args)
    if isinstance(keywords.get("output_size"), list):
        keywords["output_size"] = tuple(keywords["output_size"])
    return FUNCTIONS["max_unpool2d"](input, indices, *args, **keywords)


_OVERRIDDEN: dict[Any, Callable[..., Any]] = {
    torch.conv2d: FUNCTIONS["conv2d"],
    torch.conv_transpose2d: FUNCTIONS["conv_transpose2d"],
    torch.max_pool2d: _pool,
    _F.max_pool2d: _pool,
    _F.max_pool2d_with_indices: _pool_with_indices,
    _F.max_unpool2d: _unpool,
    _F.scaled_dot_product_attention: FUNCTIONS["scaled_dot_product_attention"],
}


class override(TorchFunctionMode):
    """Context manager in which torch.nn.functional's own functions run on fastcv, gradients too.

    These are `conv2d`, `conv_transpose2d`, `max_pool2d`, `max_unpool2d` and
    `scaled_dot_product_attention`, wherever they are called in this thread, so also inside of
    modules. Calls that fastcv does not take go to torch: other devices and dtypes, dropout,
    autocast, forward-mode gradients, and those that are wrong, whose errors are torch's. What
    another function of torch calls it computes itself: the attention in
    `torch.nn.MultiheadAttention` is one, which `accelerate` serves.

    Examples
    --------
    >>> import torch, fastcv.torch
    >>> with fastcv.torch.override():
    ...     torch.nn.Conv2d(3, 8, 3)(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 8, 6, 6])
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        ours = _OVERRIDDEN.get(function)
        if ours is not None and _is_taken(args, kwargs):
            try:
                return ours(*args, **kwargs)
            except (TypeError, ValueError, IndexError):
                pass
        return function(*args, **kwargs)


def _is_taken(args: Any, kwargs: Any) -> bool:
    if kwargs.get("dropout_p"):
        return False
    first = args[0] if args else kwargs.get("input", kwargs.get("query"))
    return isinstance(first, torch.Tensor) and serves(first)
