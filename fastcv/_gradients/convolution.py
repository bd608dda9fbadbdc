"""Convolution and transposed convolution: three entries each.

The function is linear in input and weight; its gradients are linear in grad_output and one of the
two. So the gradient of each of the three is the other two, with roles exchanged:

    forward(x, w)      by x: grad_input(g, w)     by w: grad_weight(g, x)
    grad_input(y, w)   by y: forward(g, w)        by w: grad_weight(y, g)
    grad_weight(y, x)  by y: forward(x, g)        by x: grad_input(y, g)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import fastcv
from fastcv import _checks
from fastcv._gradients.op import (
    Arguments,
    Arrays,
    Backward,
    Batch,
    Kind,
    Op,
    Parameters,
    Shape,
    images_together,
    users_activation,
)


class _Convolution(NamedTuple):
    """What tells the two convolutions apart. `parameters` end with groups in both."""

    name: str
    packed: type[Any]
    parameters: Mapping[str, Kind]
    options: Mapping[str, str]  # names that only the function takes, and their defaults
    flat: Callable[..., Parameters]  # (op, weight's shape, user's parameters) -> flat parameters
    keywords: Callable[[Parameters], dict[str, Any]]  # flat parameters -> user's parameters
    shape: Callable[..., Shape]  # (op, input's shape, weight's shape, flat parameters)
    check_bias: Callable[[str, Shape, Shape, int], None]


# conv2d


def _conv2d_flat(
    op: str,
    weight_shape: Shape,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> Parameters:
    parameters = _checks.conv2d_parameters(op, stride, padding, dilation, groups)
    if parameters.padding == "same":
        _checks.conv2d_weight(op, "weight.shape", weight_shape, parameters.groups)
    rows, columns = _checks.conv2d_sides(weight_shape, parameters)
    return parameters.stride, (*rows, *columns), parameters.dilation, parameters.groups


def _conv2d_keywords(parameters: Parameters) -> dict[str, Any]:
    stride, (top, bottom, left, right), dilation, groups = parameters
    return {
        "stride": stride,
        "padding": ((top, bottom), (left, right)),
        "dilation": dilation,
        "groups": groups,
    }


def _conv2d_shape(
    op: str, input_shape: Shape, weight_shape: Shape, parameters: Parameters, **names: str
) -> Shape:
    checked = _checks.conv2d_parameters(op, **_conv2d_keywords(parameters))
    # Past the cache, which cannot hash symbolic sizes.
    geometry = _checks.conv2d_geometry.__wrapped__(op, input_shape, weight_shape, checked, **names)
    return geometry.result_shape


def _conv2d_bias(op: str, bias_shape: Shape, weight_shape: Shape, groups: int) -> None:
    _checks.conv2d_bias(op, bias_shape, weight_shape)


# conv_transpose2d


def _conv_transpose2d_flat(
    op: str,
    weight_shape: Shape,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
) -> Parameters:
    return tuple(
        _checks.conv_transpose2d_parameters(op, stride, padding, output_padding, groups, dilation)
    )


def _conv_transpose2d_keywords(parameters: Parameters) -> dict[str, Any]:
    return dict(zip(_CONV_TRANSPOSE2D.parameters, parameters, strict=True))


def _conv_transpose2d_shape(
    op: str, input_shape: Shape, weight_shape: Shape, parameters: Parameters, **names: str
) -> Shape:
    keywords = _conv_transpose2d_keywords(parameters)
    checked = _checks.conv_transpose2d_parameters(op, **keywords)
    geometry = _checks.conv_transpose2d_geometry.__wrapped__(
        op, input_shape, weight_shape, checked, **names
    )
    return geometry.result_shape


_ACTIVATION: Mapping[str, Kind] = {"activation": "optional name", "slope": "number"}
_NO_ACTIVATION = (None, 0.0)

_CONV2D = _Convolution(
    name="conv2d",
    packed=fastcv.Conv2d,
    parameters={
        "stride": "integers",
        "padding": "integers",
        "dilation": "integers",
        "groups": "integer",
    },
    options={"algorithm": "auto"},
    flat=_conv2d_flat,
    keywords=_conv2d_keywords,
    shape=_conv2d_shape,
    check_bias=_conv2d_bias,
)
_CONV_TRANSPOSE2D = _Convolution(
    name="conv_transpose2d",
    packed=fastcv.ConvTranspose2d,
    parameters={
        "stride": "integers",
        "padding": "integers",
        "output_padding": "integers",
        "dilation": "integers",
        "groups": "integer",
    },
    options={},
    flat=_conv_transpose2d_flat,
    keywords=_conv_transpose2d_keywords,
    shape=_conv_transpose2d_shape,
    check_bias=_checks.conv_transpose2d_bias,
)


# The entries


def _entries(kind: _Convolution) -> tuple[Op, ...]:
    forward = kind.name
    grad_input, grad_weight = f"{forward}_grad_input", f"{forward}_grad_weight"
    return _forward(kind, forward, grad_input, grad_weight), *(
        _gradient(kind, forward, grad_input, grad_weight, by_input) for by_input in (True, False)
    )


def _forward(kind: _Convolution, forward: str, grad_input: str, grad_weight: str) -> Op:
    count = len(kind.parameters)
    public = getattr(fastcv, forward)

    def arguments(
        input: Any,
        weight: Any,
        bias: Any = None,
        *parameters: Any,
        activation: Any = None,
        **named: Any,
    ) -> Arguments:
        extra = {name: named.pop(name, value) for name, value in kind.options.items()}
        flat = kind.flat(forward, tuple(weight.shape), *parameters, **named)
        _checks.activation(forward, activation)
        arrays = (input, weight, bias)
        return Arguments(arrays, (*flat, *_NO_ACTIVATION, *extra.values()), activation)

    def keywords(parameters: Parameters) -> dict[str, Any]:
        activation, slope, *extra = parameters[count:]
        return {
            **kind.keywords(parameters[:count]),
            **dict(zip(kind.options, extra, strict=True)),
            "activation": users_activation(activation, slope),
        }

    def run(input: Any, weight: Any, bias: Any, *parameters: Any) -> Any:
        return public(input, weight, bias, **keywords(parameters))

    def pack(weight: Any, bias: Any, *parameters: Any) -> Any:
        return kind.packed(weight, bias, **keywords(parameters))

    def shape(shapes: tuple[Any, ...], parameters: Parameters) -> Shape:
        input_shape, weight_shape, bias_shape = shapes
        result = kind.shape(forward, input_shape, weight_shape, parameters[:count])
        if bias_shape is not None:
            kind.check_bias(forward, bias_shape, weight_shape, parameters[count - 1])
        return result

    def gradients(call: Backward) -> Arrays:
        (grad,) = call.grads
        input, weight, _ = call.arrays
        if call.parameters[count] is not None:
            raise ValueError(
                f"{forward}: a fused activation has no gradient; apply the activation afterwards"
            )
        plain = call.parameters[:count]
        return (
            call.ops[grad_input](grad, weight, tuple(input.shape), *plain)
            if call.needed[0]
            else None,
            call.ops[grad_weight](grad, input, tuple(weight.shape), *plain)
            if call.needed[1]
            else None,
            grad.sum((-2, -1) if grad.ndim == 3 else (0, 2, 3)) if call.needed[2] else None,
        )

    def batched(batch: Batch) -> Any:
        input, weight, bias = batch.arrays
        if not batch.flags[1] and not batch.flags[2]:
            result = batch.ops[forward](images_together(input), weight, bias, *batch.parameters)
            if input.ndim == 4:
                return result
            return result.reshape(batch.size, input.shape[1], *result.shape[1:])
        input = batch.whole(0)
        weight = batch.whole(1)
        if bias is not None:
            bias = _filters_together(batch.whole(2))
        result = batch.ops[forward](
            _channels_together(batch.namespace, input),
            _filters_together(weight),
            bias,
            *batch.parameters[: count - 1],
            batch.size * batch.parameters[count - 1],
            *batch.parameters[count:],
        )
        return _channels_apart(batch.namespace, result, batch.size)

    return Op(
        name=forward,
        arrays=("input", "weight", "bias"),
        optional=("bias",),
        parameters={**kind.parameters, **_ACTIVATION, **dict.fromkeys(kind.options, "name")},
        public=public,
        arguments=arguments,
        run=run,
        pack=pack,
        shape=shape,
        gradients=gradients,
        batched=batched,
        layout_of=0,
    )


def _gradient(
    kind: _Convolution, forward: str, grad_input: str, grad_weight: str, by_input: bool
) -> Op:
    """Return the gradient by the input, from grad_output and weight, or by the weight."""
    name, other = (grad_input, "weight") if by_input else (grad_weight, "input")
    shape_name = "input_shape" if by_input else "weight_shape"
    public = getattr(fastcv, name)
    no_options = (*_NO_ACTIVATION, *kind.options.values())

    def input_arguments(
        grad_output: Any, weight: Any, input_shape: Any, **parameters: Any
    ) -> Arguments:
        checked = _checks.shape(name, shape_name, input_shape)
        flat = kind.flat(name, tuple(weight.shape), **parameters)
        return Arguments((grad_output, weight), (checked, *flat))

    def weight_arguments(
        grad_output: Any, input: Any, weight_shape: Any, **parameters: Any
    ) -> Arguments:
        checked = _checks.shape(name, shape_name, weight_shape)
        return Arguments((grad_output, input), (checked, *kind.flat(name, checked, **parameters)))

    def run(grad_output: Any, array: Any, shape: Any, *parameters: Any) -> Any:
        return public(grad_output, array, tuple(shape), **kind.keywords(parameters))

    def shape(shapes: tuple[Any, ...], parameters: Parameters) -> Shape:
        result, *plain = parameters
        result = tuple(result)
        both = (result, shapes[1]) if by_input else (shapes[1], result)
        names = {f"{'input' if by_input else 'weight'}_name": shape_name}
        grad_shape = kind.shape(name, *both, tuple(plain), **names)
        relation = "the shape of the function's output"
        _checks.equal_shapes(name, "grad_output.shape", shapes[0], relation, grad_shape)
        return result

    def gradients(call: Backward) -> Arrays:
        (grad,) = call.grads
        grad_output, array = call.arrays
        _, *plain = call.parameters
        input, weight = (grad, array) if by_input else (array, grad)
        by_array = grad_weight if by_input else grad_input
        return (
            call.ops[forward](input, weight, None, *plain, *no_options) if call.needed[0] else None,
            call.ops[by_array](grad_output, grad, tuple(array.shape), *plain)
            if call.needed[1]
            else None,
        )

    def batched(batch: Batch) -> Any:
        grad_output, array = batch.arrays
        shape, *plain, groups = batch.parameters
        if by_input and not batch.flags[1]:
            images = shape[0] if len(shape) == 4 else 1
            result = batch.ops[name](
                images_together(grad_output),
                array,
                (batch.size * images, *shape[-3:]),
                *plain,
                groups,
            )
            return result.reshape(batch.size, *shape)
        grad_output = _channels_together(batch.namespace, batch.whole(0))
        array = batch.whole(1)
        if by_input:
            array = _filters_together(array)
            together = (*shape[:-3], batch.size * shape[-3], *shape[-2:])
        else:
            array = _channels_together(batch.namespace, array)
            together = (batch.size * shape[0], *shape[1:])
        result = batch.ops[name](grad_output, array, together, *plain, batch.size * groups)
        return (
            _channels_apart(batch.namespace, result, batch.size)
            if by_input
            else result.reshape(batch.size, *shape)
        )

    return Op(
        name=name,
        arrays=("grad_output", other),
        parameters={shape_name: "shape", **kind.parameters},
        public=public,
        arguments=input_arguments if by_input else weight_arguments,
        run=run,
        shape=shape,
        gradients=gradients,
        batched=batched,
        layout_of=0 if by_input else None,
    )


# One call for a batch of calls. Where only images differ, they are more images of one batch. Where
# weights differ, or sums run over the images, the calls stand side by side as groups of channels.


def _channels_together(namespace: ModuleType, images: Any) -> Any:
    """(B, N, C, H, W) or (B, C, H, W) to (N, B * C, H, W) or (B * C, H, W)."""
    beside = namespace.moveaxis(images, 0, -4)
    size, channels, height, width = beside.shape[-4:]
    return beside.reshape(*beside.shape[:-4], size * channels, height, width)


def _channels_apart(namespace: ModuleType, images: Any, size: int) -> Any:
    *batch, channels, height, width = images.shape
    beside = images.reshape(*batch, size, channels // size, height, width)
    return namespace.moveaxis(beside, -4, 0)


def _filters_together(weight: Any) -> Any:
    """(B, K, C, R, S) to (B * K, C, R, S); biases (B, K) to (B * K,)."""
    return weight.reshape(weight.shape[0] * weight.shape[1], *weight.shape[2:])


ENTRIES = (*_entries(_CONV2D), *_entries(_CONV_TRANSPOSE2D))
