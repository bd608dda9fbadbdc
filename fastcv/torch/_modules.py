"""Modules that run on fastcv, each a subclass of the torch module that it stands in for.

`accelerate` gives a module one of these classes and leaves everything else about it alone, so
parameters, buffers, hooks and names in a state_dict stay. What a class cannot serve in a call
(another device or dtype, autocast) goes to torch's own forward.

A convolution in eval mode, where no gradient is wanted, runs with packed weights, and so does a
linear layer. A batch norm and an activation that follow it are folded into the packed weights; they
stay in the model and get the finished tensor, which has a note of those that are done with it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

import fastcv
from fastcv._gradients import TABLE
from fastcv._gradients.op import flat_activation
from fastcv.torch import _packed
from fastcv.torch._ops import (
    FLOATS,
    FUNCTIONS,
    PLAIN_TENSORS,
    is_plain,
    needs_gradient,
    serves,
    view,
)

_NOTE = "_fastcv_done"  # on a tensor: the modules that are done with it
FOLDS = "_fastcv_folds"  # on a container: the modules that fold others that it calls


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


_NORMS_TENSORS = ("weight", "bias", "running_mean", "running_var")
_OPTIONS = ("eps", "negative_slope", "approximate")  # attributes of what is folded


class _Attributes:
    """The attributes of a module that are computed, by name."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def __getitem__(self, name: str) -> Any:
        return getattr(self.module, name)


def _caller() -> int:
    """Return which thread is running; in a graph there is but one."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


def arm(container: torch.nn.Module, arguments: Any) -> None:
    """Tell packed modules that their followers come next: a call from elsewhere folds nothing.

    It is a hook of the container before its forward.
    """
    caller = _caller()
    for module in container.__dict__[FOLDS]:
        module.__dict__["armed"] = caller


def disarm(container: torch.nn.Module, arguments: Any, output: Any) -> None:
    """Take back what `arm` said: the forward is over, and may have ended in an error.

    It is a hook of the container after its forward.
    """
    caller = _caller()
    for module in container.__dict__[FOLDS]:
        if module.__dict__.get("armed") == caller:
            del module.__dict__["armed"]


def _packs_in_graph(input: torch.Tensor, tensors: Sequence[torch.Tensor | None]) -> bool:
    """Whether a graph may have an operator for this call, which has neither gradients nor vmap."""
    every = (input, *tensors)
    return (
        serves(*every)
        and all(each is None or type(each) in PLAIN_TENSORS for each in every)
        and not input.is_nested
        and not needs_gradient(every)
        and not torch._C._are_functorch_transforms_active()
    )


def _place(module: torch.nn.Module, name: str) -> tuple[Any, str]:
    """Return where a module keeps a tensor."""
    for place in (module._parameters, module._buffers, module.__dict__):
        if name in place:
            return place, name
    return _Attributes(module), name


class _Packed(Swapped):
    """A convolution or linear layer with packed weights, and what follows folded into them."""

    # All set in __dict__, past the slow attributes of modules.
    followers: Sequence[Any] = ()  # a batch norm, an activation, or both in this order
    unfolded_because: str | None = None  # of what nobody knows what follows
    armed: int | None = None  # in which thread the module runs whose forward calls the followers
    prepared: Any = None  # followers, attributes, where tensors are found, options: see `_prepared`

    kind = ""  # a key of _packed.KINDS

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop("prepared", None)
        return state

    def train(self, mode: bool = True) -> Any:
        self._forget()
        return super().train(mode)  # type: ignore[misc]

    def _apply(self, *args: Any, **keywords: Any) -> Any:
        # Another dtype and back may leave a tensor where it was, and its version as it was.
        self._forget()
        return super()._apply(*args, **keywords)  # type: ignore[misc]

    def _forget(self: Any) -> None:
        self.__dict__.pop("prepared", None)
        # Not by name, which would compute a parametrized weight.
        _packed.forget(self._parameters.get("weight", self.__dict__.get("weight")))

    def forward(self: Any, input: torch.Tensor) -> torch.Tensor:
        armed = self.__dict__.pop("armed", None) == _caller()
        if self.training or torch.is_autocast_enabled("cpu"):
            return self._unpacked(input)  # type: ignore[no-any-return]
        followers = self._followers_now() if armed else ()
        if torch.compiler.is_compiling():
            tensors = [getattr(*each) for each in self._sources(followers)]
            if not _packs_in_graph(input, tensors) or not self._takes(input):
                return self._unpacked(input)  # type: ignore[no-any-return]
            weight, bias, *norm = tensors
            operator = _packed.OPERATORS[self.kind]
            output = operator(input, weight, bias, norm, *self._options(followers))
        else:
            tensors, options = self._prepared(followers)
            served = is_plain((input, *tensors[:2])) and not needs_gradient(tensors[2:])
            plan = None
            if served and tensors[0].dtype in FLOATS and self._takes(input):
                plan = _packed.plan(self.kind, tensors, options)
            if plan is None:
                return self._unpacked(input)  # type: ignore[no-any-return]
            output = torch.from_numpy(plan(view(input)))
        if followers:
            setattr(output, _NOTE, followers)
        return output

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

    def _sources(self, followers: Sequence[Any]) -> list[tuple[Any, str]]:
        """Return the weight, the bias and a batch norm's tensors, as modules' attributes."""
        sources = [(self, "weight"), (self, "bias")]
        for module in filter(is_norm, followers):
            sources += ((module, name) for name in _NORMS_TENSORS)
        return sources

    def _prepared(self, followers: Sequence[Any]) -> tuple[list[Any], tuple[Any, ...]]:
        """Return the tensors and options of a call, past modules' slow look-up of attributes."""
        attributes = (
            self._arguments(),
            [tuple(map(module.__dict__.get, _OPTIONS)) for module in followers],
        )
        prepared = self.prepared
        while True:
            if prepared is None or prepared[0] != followers or prepared[1] != attributes:
                places = [_place(*each) for each in self._sources(followers)]
                prepared = followers, attributes, places, self._options(followers)
                self.__dict__["prepared"] = prepared
            try:
                return [place[name] for place, name in prepared[2]], prepared[3]
            except KeyError:  # pruning and parametrizing move a tensor elsewhere
                prepared = None

    def _arguments(self) -> tuple[Any, ...]:
        """Return the parameters, in the order of the function's."""
        return ()

    def _options(self, followers: Sequence[Any]) -> tuple[Any, ...]:
        """Return a batch norm's epsilon, and the parameters and activation as an operator's."""
        epsilon, activation = 0.0, None
        for module in followers:
            if is_norm(module):
                epsilon = module.eps
            else:
                activation = activation_of(module)
        return epsilon, *self._parameters_with(activation)

    def _parameters_with(self: Any, activation: Any) -> tuple[Any, ...]:
        op = TABLE[self.kind]
        parameters = op.arguments(None, self.weight, None, *self._arguments()).parameters
        return op.fused(parameters, activation)


def _trains(norm: Any) -> bool:
    """Whether a batch norm measures its input: one whose tensors are buffers never does."""
    return norm.training and isinstance(norm, torch.nn.BatchNorm2d)


class Conv2d(_Packed, torch.nn.Conv2d):
    """`torch.nn.Conv2d` on fastcv."""

    kind = "conv2d"

    def _arguments(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups

    def _unpacked(self, input: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight, self.bias  # once: a parametrization may compute them
        if not serves(input, weight, bias):
            return torch.nn.Conv2d.forward(self, input)
        return FUNCTIONS["conv2d"](input, weight, bias, *self._arguments())  # type: ignore[no-any-return]


class ConvTranspose2d(_Packed, torch.nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` on fastcv."""

    kind = "conv_transpose2d"

    def _arguments(self, output_padding: Any = None) -> tuple[Any, ...]:
        if output_padding is None:
            output_padding = self.output_padding
        return self.stride, self.padding, output_padding, self.groups, self.dilation

    def forward(self, input: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        if output_size is None:
            return super().forward(input)
        self.__dict__.pop("armed", None)
        return self._unpacked(input, output_size)

    def _unpacked(self, input: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        weight, bias = self.weight, self.bias
        if not serves(input, weight, bias):
            return torch.nn.ConvTranspose2d.forward(self, input, output_size)
        output_padding = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            2,
            self.dilation,  # type: ignore[arg-type]
        )
        return FUNCTIONS["conv_transpose2d"](  # type: ignore[no-any-return]
            input, weight, bias, *self._arguments(tuple(output_padding))
        )


class Linear(_Packed, torch.nn.Linear):
    """`torch.nn.Linear` on fastcv, where no gradient is wanted."""

    kind = "linear"

    # Below so many multiply-adds the call itself costs more than can be won.
    least_work = 1 << 20

    def _takes(self, input: torch.Tensor) -> bool:
        if input.dtype != self.weight.dtype or input.shape[-1] != self.in_features:
            return False
        little = input.numel() * self.out_features < self.least_work
        if torch.compiler.is_compiling():  # for sizes that may differ, one way has to do
            little = statically_known_true(little)
        return not little

    def _parameters_with(self, activation: Any) -> tuple[Any, ...]:
        return flat_activation(activation)

    def _unpacked(self, input: torch.Tensor) -> torch.Tensor:
        return torch.nn.Linear.forward(self, input)


# Pooling


class MaxPool2d(Swapped, torch.nn.MaxPool2d):
    """`torch.nn.MaxPool2d` on fastcv."""

    def forward(self, input: torch.Tensor) -> Any:
        if not serves(input):
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
        if not serves(input):
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
            not serves(query, key, value, self.out_proj.weight)
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
