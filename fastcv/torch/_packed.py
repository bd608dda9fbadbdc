"""Convolutions and linear layers with packed weights.

A plan holds weights as a kernel reads them, with a batch norm and an activation folded in. It is
kept for as long as the weight lives, and is made anew once a tensor that it was made of is another
one or has been written to. Modules look plans up; under `torch.compile` and `torch.export`, they
put an operator into the graph that does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

import fastcv
from fastcv import _layout
from fastcv._gradients import TABLE, Parameters
from fastcv._gradients.op import Kind, users_activation
from fastcv.torch import _ops

Tensors = Sequence[torch.Tensor | None]  # weight, bias and, with a batch norm, its four


class Packable(NamedTuple):
    """What can be packed."""

    # Of the operator, after those of the batch norm: an op's, or an activation's.
    parameters: Mapping[str, Kind]
    # (weight, bias, *parameters), in NumPy's arrays -> what is called with the input.
    pack: Callable[..., Callable[[NDArray[Any]], NDArray[Any]]]
    # (input, weight, parameters) -> the result's shape, and whether its layout is the input's.
    shape: Callable[[torch.Tensor, torch.Tensor, Parameters], tuple[Sequence[int], bool]]


# Plans


class _Plan(NamedTuple):
    """A plan, and of each tensor that it was made of: which one, where it lay, which version."""

    call: Any
    made_of: tuple[tuple[weakref.ref[torch.Tensor], int, int] | None, ...]

    def is_current(self) -> bool:
        """Whether the tensors that it was made of are as they were."""
        return self.holds_for([None if made is None else made[0]() for made in self.made_of])

    def holds_for(self, tensors: Tensors) -> bool:
        for made, tensor in zip(self.made_of, tensors, strict=True):
            if made is None or tensor is None:
                if made is not None or tensor is not None:
                    return False
            # Another tensor may come to lie where one that is gone has been.
            elif (
                made[0]() is not tensor
                or made[1] != tensor.data_ptr()
                or made[2] != tensor._version
            ):
                return False
        return True


class _Plans(NamedTuple):
    """The plans of a weight."""

    weight: weakref.ref[torch.Tensor]
    by_use: dict[Any, _Plan]  # kind, options, and the other tensors' ids: weights may be shared


_PLANS: dict[int, _Plans] = {}  # by the weight's id


def plan(kind: str, tensors: Tensors, options: tuple[Any, ...]) -> Any:
    """Return the plan for weights, its batch norm's epsilon and its parameters.

    None where nothing tells whether the tensors have changed: those made in inference mode.
    """
    weight = tensors[0]
    use = (kind, options, *map(id, tensors[1:]))
    found = _PLANS.get(id(weight))
    if found is not None and found.weight() is weight:
        known = found.by_use.get(use)
        if known is not None and known.holds_for(tensors):
            return known.call
    return _new_plan(kind, tensors, options, use)


def forget(weight: torch.Tensor | None) -> None:
    """Pack anew at the next call: what has been done to the weight's `data` leaves no trace."""
    _PLANS.pop(id(weight), None)


def _new_plan(kind: str, tensors: Tensors, options: tuple[Any, ...], use: Any) -> Any:
    if any(tensor is not None and tensor.is_inference() for tensor in tensors):
        return None
    weight: Any = tensors[0]
    key = id(weight)
    found = _PLANS.get(key)
    if found is None or found.weight() is not weight:
        found = _Plans(weakref.ref(weight, lambda gone: _drop(key, gone)), {})
        _PLANS[key] = found
    # Other uses' plans go once they are out of date, so that they do not hold memory.
    for other, known in list(found.by_use.items()):
        if not known.is_current():
            found.by_use.pop(other, None)
    made = _Plan(_pack(kind, tensors, *options), tuple(map(_state, tensors)))
    found.by_use[use] = made
    return made.call


def _drop(key: int, gone: weakref.ref[torch.Tensor]) -> None:
    found = _PLANS.get(key)
    if found is not None and found.weight is gone:
        del _PLANS[key]


def _state(
    tensor: torch.Tensor | None,
) -> tuple[weakref.ref[torch.Tensor], int, int] | None:
    return None if tensor is None else (weakref.ref(tensor), tensor.data_ptr(), tensor._version)


def _pack(kind: str, tensors: Tensors, epsilon: float, *parameters: Any) -> Any:
    weight, bias, *norm = (None if tensor is None else tensor.detach() for tensor in tensors)
    if norm and weight is not None:
        scale, offset, mean, variance = norm
        with torch.no_grad():
            factor = (variance.double() + epsilon).rsqrt()  # type: ignore[union-attr]
            if scale is not None:
                factor = factor * scale
            shift = -mean * factor  # type: ignore[operator]
            if bias is not None:
                shift = shift + bias * factor
            if offset is not None:
                shift = shift + offset
            dtype = weight.dtype
            weight = (weight * _BY_FILTER[kind](factor, weight, parameters)).to(dtype)
            bias = shift.to(dtype)
    return KINDS[kind].pack(_ops.view(weight), _ops.view(bias), *parameters)


# What can be packed


def _convolution(name: str) -> Packable:
    op = TABLE[name]

    def shape(
        input: torch.Tensor, weight: torch.Tensor, parameters: Parameters
    ) -> tuple[Sequence[int], bool]:
        return op.shape((input.shape, weight.shape, None), parameters), True

    return Packable(op.parameters, op.pack, shape)  # type: ignore[arg-type]


def _conv2d_filters(factor: torch.Tensor, weight: Any, parameters: Parameters) -> torch.Tensor:
    return factor.reshape(-1, 1, 1, 1)


def _conv_transpose2d_filters(
    factor: torch.Tensor, weight: torch.Tensor, parameters: Parameters
) -> torch.Tensor:
    # (C, K // groups, R, S): the filters of a group lie along the second axis.
    names = KINDS["conv_transpose2d"].parameters
    groups = dict(zip(names, parameters, strict=True))["groups"]
    channels = weight.shape[0] // groups
    return factor.reshape(groups, -1).repeat_interleave(channels, 0)[:, :, None, None]


# One number for each filter, as a factor of the weight.
_BY_FILTER = {"conv2d": _conv2d_filters, "conv_transpose2d": _conv_transpose2d_filters}


class _Rows:
    """A linear map with packed weights: a 1 x 1 convolution whose pixels are the rows."""

    def __init__(
        self, weight: NDArray[Any], bias: NDArray[Any] | None, activation: str | None, slope: float
    ) -> None:
        self.filters, self.channels = weight.shape
        chosen = users_activation(activation, slope)
        self.plan = fastcv.Conv2d(weight[:, :, None, None], bias, activation=chosen)

    def __call__(self, input: NDArray[Any]) -> NDArray[Any]:
        output = _layout.new((*input.shape[:-1], self.filters), input.dtype)
        self.plan(_as_pixels(input, self.channels), out=_as_pixels(output, self.filters))
        return output


def _as_pixels(rows: NDArray[Any], channels: int) -> NDArray[Any]:
    """Return a channels-last image (1, C, rows, 1) over rows (..., C)."""
    return rows.reshape(1, -1, 1, channels).transpose(0, 3, 1, 2)


KINDS = {
    "conv2d": _convolution("conv2d"),
    "conv_transpose2d": _convolution("conv_transpose2d"),
    "linear": Packable(
        {"activation": "optional name", "slope": "number"},
        _Rows,
        lambda input, weight, parameters: ((*input.shape[:-1], weight.shape[0]), False),
    ),
}


# Operators


def _register(kind: str) -> Callable[..., torch.Tensor]:
    packable = KINDS[kind]
    name = f"packed_{kind}"
    parameters = [f"{_ops.KINDS[form]} {each}" for each, form in packable.parameters.items()]
    arrays = "Tensor input, Tensor weight, Tensor? bias, Tensor?[] norm, float epsilon"
    _ops.LIBRARY.define(
        f"{name}({', '.join([arrays, *parameters])}) -> Tensor",
        tags=(torch.Tag.pt2_compliant_tag,),
    )

    def kernel(
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        norm: Tensors,
        *options: Any,
    ) -> torch.Tensor:
        tensors = (weight, bias, *norm)
        options = tuple(tuple(each) if isinstance(each, list) else each for each in options)
        found = plan(kind, tensors, options)
        if found is None:
            found = _pack(kind, tensors, *options)
        return torch.from_numpy(found(_ops.view(input)))

    def fake(
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        norm: Tensors,
        epsilon: float,
        *parameters: Any,
    ) -> torch.Tensor:
        shape, keeps_layout = packable.shape(input, weight, parameters)
        return _ops.empty(shape, input, keeps_layout, None)

    _ops.LIBRARY.impl(name, kernel, "CPU")
    torch.library.register_fake(f"fastcv::{name}", fake, lib=_ops.LIBRARY)
    return getattr(torch.ops.fastcv, name).default  # type: ignore[no-any-return]


OPERATORS = {kind: _register(kind) for kind in KINDS}
