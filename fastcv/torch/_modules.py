"""Modules that run on fastcv, each a subclass of the torch module that it stands in for.

`accelerate` gives a module one of these classes and leaves everything else about it alone, so
parameters, buffers, hooks and names in a state_dict stay. What a class cannot serve in a call
(another device or dtype, autocast) goes to torch's own forward.

A convolution in eval mode, where no gradient is wanted, keeps its weights packed, and so does a
linear layer. A batch norm and an activation that follow it are folded into the packed weights; they
stay in the model and get the finished tensor, which has a note of those that are done with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

import fastcv
from fastcv import _layout
from fastcv.torch._ops import FLOATS, FUNCTIONS, is_plain, view

_NOTE = "_fastcv_done"


def _serves(*tensors: torch.Tensor | None) -> bool:
    return not torch.is_autocast_enabled("cpu") and all(
        tensor is None
        or (isinstance(tensor, torch.Tensor) and tensor.is_cpu and tensor.dtype in FLOATS)
        for tensor in tensors
    )


class Swapped:
    """What all modules here have in common."""


# What may be folded


class _Follower(Swapped):
    """A module that hands on a tensor that a convolution or linear layer has finished for it."""

    def forward(self, input: Any) -> Any:
        done = getattr(input, _NOTE, ())
        if done and done[0] is self:
            setattr(input, _NOTE, done[1:])
            return input
        return super().forward(input)  # type: ignore[misc]


class ReLU(_Follower, torch.nn.ReLU):
    """Hands on what a convolution or linear layer has finished."""


class ReLU6(_Follower, torch.nn.ReLU6):
    """Hands on what a convolution or linear layer has finished."""


class LeakyReLU(_Follower, torch.nn.LeakyReLU):
    """Hands on what a convolution or linear layer has finished."""


class Sigmoid(_Follower, torch.nn.Sigmoid):
    """Hands on what a convolution or linear layer has finished."""


class Tanh(_Follower, torch.nn.Tanh):
    """Hands on what a convolution or linear layer has finished."""


class SiLU(_Follower, torch.nn.SiLU):
    """Hands on what a convolution or linear layer has finished."""


class GELU(_Follower, torch.nn.GELU):
    """Hands on what a convolution or linear layer has finished."""


class BatchNorm2d(_Follower, torch.nn.BatchNorm2d):
    """Hands on what a convolution or linear layer has finished."""


class _FrozenForward(torch.nn.Module):
    """A batch norm whose four tensors are buffers, as detection models have them."""

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor
    eps: float = 1e-5

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        factor = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * factor
        return input * factor[:, None, None] + shift[:, None, None]


class FrozenBatchNorm2d(_Follower, _FrozenForward):
    """Hands on what a convolution or linear layer has finished."""


class _GELUForward(torch.nn.Module):
    """The exact GELU of `transformers`, a module around torch's function."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(input)


class GELUActivation(_Follower, _GELUForward):
    """Hands on what a convolution or linear layer has finished."""


def activation_of(module: torch.nn.Module) -> fastcv._checks.Activation:
    """Return what `activation=` calls this module; None if nothing."""
    if isinstance(module, torch.nn.LeakyReLU):
        return "leaky_relu", module.negative_slope
    if isinstance(module, torch.nn.GELU) and module.approximate != "none":
        return None
    if isinstance(module, GELUActivation):
        return "gelu"
    for kind in (ReLU, ReLU6, Sigmoid, Tanh, SiLU, GELU):
        if isinstance(module, kind.__bases__[1]):
            return kind.__name__.lower()  # type: ignore[return-value]
    return None


def is_norm(module: torch.nn.Module) -> bool:
    return isinstance(module, (torch.nn.BatchNorm2d, _FrozenForward))


# Convolutions and linear layers


class _Packed(Swapped):
    """A convolution or linear layer with packed weights, and what follows folded into them."""

    # Set in __dict__, past the slow attributes of modules.
    followers: Sequence[Any] = ()  # a batch norm, an activation, or both in this order
    armed = False  # whether the module whose forward calls the followers is running
    cache: tuple[list[Any], Any, Any] | None = None  # what a plan was made of, its state, the plan

    kind: Any = None
    parameters_taken: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop("cache", None)
        return state

    def train(self, mode: bool = True) -> Any:
        self.__dict__.pop("cache", None)
        return super().train(mode)  # type: ignore[misc]

    def _followers_now(self) -> Sequence[Any]:
        """Those that can be folded into this call."""
        if self._forward_hooks:  # type: ignore[attr-defined]
            return ()
        for module in self.followers:
            if module._forward_hooks or module._forward_pre_hooks:
                return ()
            if is_norm(module) and (module.running_mean is None or _trains(module)):
                return ()
        return self.followers

    def _takes(self, input: torch.Tensor) -> bool:
        """Whether packed weights are for this input."""
        return True

    def _plan(self: Any, followers: Sequence[Any]) -> Any:
        """Return the packed weights; None where nothing tells whether the tensors have changed."""
        tensors = [self.weight, self.bias]
        for module in followers:
            if is_norm(module):
                tensors += (module.weight, module.bias, module.running_mean, module.running_var)
        if any(tensor is not None and tensor.is_inference() for tensor in tensors):
            return None
        states = (len(followers), *map(_state, tensors))
        # The tensors are kept as well: another one may come to lie where one that is gone has been.
        if (
            self.cache is None
            or self.cache[1] != states
            or any(a is not b for a, b in zip(self.cache[0], tensors, strict=True))
        ):
            self.__dict__["cache"] = tensors, states, self._pack(followers)
        return self.cache[2]

    def _pack(self: Any, followers: Sequence[Any]) -> Any:
        weight, bias = self.weight.detach(), self.bias
        activation = None
        for module in followers:
            if not is_norm(module):
                activation = activation_of(module)
                continue
            with torch.no_grad():
                factor = (module.running_var.double() + module.eps).rsqrt()
                if module.weight is not None:
                    factor = factor * module.weight
                shift = -module.running_mean * factor
                if bias is not None:
                    shift = shift + bias * factor
                if module.bias is not None:
                    shift = shift + module.bias
                dtype = weight.dtype
                weight = (weight * self._by_filter(factor)).to(dtype)
                bias = shift.to(dtype)
        named = {name: getattr(self, name) for name in self.parameters_taken}
        return self.kind(
            weight.numpy(), None if bias is None else view(bias), activation=activation, **named
        )

    def _run(self: Any, input: torch.Tensor, unpacked: Any) -> torch.Tensor:
        armed = self.__dict__.pop("armed", False)
        if self.training or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
            return unpacked()  # type: ignore[no-any-return]
        if not is_plain((input, self.weight, self.bias)) or self.weight.dtype not in FLOATS:
            return unpacked()  # type: ignore[no-any-return]
        if not self._takes(input):
            return unpacked()  # type: ignore[no-any-return]
        followers = self._followers_now() if armed else ()
        plan = self._plan(followers)
        if plan is None:
            return unpacked()  # type: ignore[no-any-return]
        output = torch.from_numpy(plan(view(input)))
        if followers:
            setattr(output, _NOTE, tuple(followers))
        return output


def _trains(norm: Any) -> bool:
    """Whether a batch norm measures its input: one whose tensors are buffers never does."""
    return norm.training and isinstance(norm, torch.nn.BatchNorm2d)


def _state(tensor: torch.Tensor | None) -> Any:
    """Return something that changes when a tensor's values do."""
    return None if tensor is None else (tensor.data_ptr(), tensor._version)


class Conv2d(_Packed, torch.nn.Conv2d):
    """`torch.nn.Conv2d` on fastcv."""

    kind = fastcv.Conv2d
    parameters_taken = ("stride", "padding", "dilation", "groups")

    def _by_filter(self, factor: torch.Tensor) -> torch.Tensor:
        return factor.reshape(-1, 1, 1, 1)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        def unpacked() -> torch.Tensor:
            if not _serves(input, self.weight, self.bias):
                return super(Conv2d, self).forward(input)
            result: torch.Tensor = FUNCTIONS["conv2d"](
                input,
                self.weight,
                self.bias,
                self.stride,
                self.padding,
                self.dilation,
                self.groups,
            )
            return result

        return self._run(input, unpacked)


class ConvTranspose2d(_Packed, torch.nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` on fastcv."""

    kind = fastcv.ConvTranspose2d
    parameters_taken = ("stride", "padding", "output_padding", "groups", "dilation")

    def _by_filter(self, factor: torch.Tensor) -> torch.Tensor:
        # (C, K // groups, R, S): the filters of a group lie along the second axis.
        channels = self.in_channels // self.groups
        return factor.reshape(self.groups, -1).repeat_interleave(channels, 0)[:, :, None, None]

    def forward(self, input: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        def unpacked() -> torch.Tensor:
            if not _serves(input, self.weight, self.bias):
                return super(ConvTranspose2d, self).forward(input, output_size)
            output_padding = self._output_padding(
                input,
                output_size,
                self.stride,  # type: ignore[arg-type]
                self.padding,  # type: ignore[arg-type]
                self.kernel_size,  # type: ignore[arg-type]
                2,
                self.dilation,  # type: ignore[arg-type]
            )
            result: torch.Tensor = FUNCTIONS["conv_transpose2d"](
                input,
                self.weight,
                self.bias,
                self.stride,
                self.padding,
                tuple(output_padding),
                self.groups,
                self.dilation,
            )
            return result

        return unpacked() if output_size is not None else self._run(input, unpacked)


class _RowsPlan:
    """A linear map with packed weights: a 1 x 1 convolution whose pixels are the rows."""

    def __init__(self, weight: NDArray[Any], bias: NDArray[Any] | None, **options: Any) -> None:
        self.filters, self.channels = weight.shape
        self.plan = fastcv.Conv2d(weight[:, :, None, None], bias, **options)

    def __call__(self, input: NDArray[Any]) -> NDArray[Any]:
        output = _layout.new((*input.shape[:-1], self.filters), input.dtype)
        self.plan(_as_pixels(input, self.channels), out=_as_pixels(output, self.filters))
        return output


def _as_pixels(rows: NDArray[Any], channels: int) -> NDArray[Any]:
    """Return a channels-last image (1, C, rows, 1) over rows (..., C)."""
    return rows.reshape(1, -1, 1, channels).transpose(0, 3, 1, 2)


class Linear(_Packed, torch.nn.Linear):
    """`torch.nn.Linear` on fastcv, where no gradient is wanted."""

    kind = _RowsPlan

    # Below so many multiply-adds the call itself costs more than can be won.
    least_work = 1 << 20

    def _takes(self, input: torch.Tensor) -> bool:
        return (
            input.dtype == self.weight.dtype
            and input.numel() * self.out_features >= self.least_work
            and input.shape[-1] == self.in_features
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        def unpacked() -> torch.Tensor:
            return super(Linear, self).forward(input)

        return self._run(input, unpacked)


# Pooling


class MaxPool2d(Swapped, torch.nn.MaxPool2d):
    """`torch.nn.MaxPool2d` on fastcv."""

    def forward(self, input: torch.Tensor) -> Any:
        if not _serves(input):
            return super().forward(input)
        return FUNCTIONS["max_pool2d"](
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )


class MaxUnpool2d(Swapped, torch.nn.MaxUnpool2d):
    """`torch.nn.MaxUnpool2d` on fastcv."""

    def forward(self, input: torch.Tensor, indices: torch.Tensor, output_size: Any = None) -> Any:
        if not _serves(input):
            return super().forward(input, indices, output_size)
        size = None if output_size is None else tuple(output_size)
        return FUNCTIONS["max_unpool2d"](
            input, indices, self.kernel_size, self.stride, self.padding, size
        )


# Attention


class MultiheadAttention(Swapped, torch.nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` on fastcv."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> Any:
        if (
            not _serves(query, key, value, self.out_proj.weight)
            or query.dim() != 3
            or query.is_nested
            or (self.training and self.dropout > 0)
            or (is_causal and attn_mask is None)
        ):
            return super().forward(
                query,
                key,
                value,
                key_padding_mask,
                need_weights,
                attn_mask,
                average_attn_weights,
                is_causal,
            )
        heads = [
            each.reshape(*each.shape[:2], self.num_heads, -1).transpose(1, 2)
            for each in self._projected(query, key, value)
        ]
        mask = self._mask(attn_mask, key_padding_mask, heads[0])
        found = FUNCTIONS["scaled_dot_product_attention"](*heads, mask, return_weights=need_weights)
        output, weights = found if need_weights else (found, None)
        output = self.out_proj(output.transpose(1, 2).flatten(2))
        if not self.batch_first:
            output = output.transpose(0, 1)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        return output, weights

    def _projected(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        linear = torch.nn.functional.linear
        same = all(each is inputs[0] for each in inputs)
        arrays = inputs if self.batch_first else [each.transpose(0, 1) for each in inputs]
        if not self._qkv_same_embed_dim:
            weights: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        elif same:
            return list(linear(arrays[0], self.in_proj_weight, self.in_proj_bias).chunk(3, -1))
        else:
            weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [linear(*each) for each in zip(arrays, weights, biases, strict=True)]

    def _mask(
        self, mask: torch.Tensor | None, padding: torch.Tensor | None, query: torch.Tensor
    ) -> torch.Tensor | None:
        """Both masks in one; torch's boolean ones are True where a key takes no part."""
        if mask is not None and mask.dim() == 3:
            mask = mask.reshape(-1, self.num_heads, *mask.shape[1:])
        if padding is not None:
            padding = padding[:, None, None, :]
        masks = [each for each in (mask, padding) if each is not None]
        if all(each.dtype is torch.bool for each in masks):
            hidden = None
            for each in masks:
                hidden = each if hidden is None else hidden | each
            return None if hidden is None else ~hidden
        added = [
            torch.zeros_like(each, dtype=query.dtype).masked_fill(each, -torch.inf)
            if each.dtype is torch.bool
            else each
            for each in masks
        ]
        return added[0] if len(added) == 1 else added[0] + added[1]


# What is swapped for what


CLASSES: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    kind.__bases__[1]: kind
    for kind in (Conv2d, ConvTranspose2d, Linear, MaxPool2d, MaxUnpool2d, MultiheadAttention)
}
FOLLOWERS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    kind.__bases__[1]: kind
    for kind in (ReLU, ReLU6, LeakyReLU, Sigmoid, Tanh, SiLU, GELU, BatchNorm2d)
}
PACKED = (Conv2d, ConvTranspose2d, Linear)
