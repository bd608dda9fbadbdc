"""Random transposed convolutions against the reference, over every parameter and memory layout.

    python tests/fuzz_conv_transpose2d.py                      until something fails
    python tests/fuzz_conv_transpose2d.py --seconds 60         for a minute
    python tests/fuzz_conv_transpose2d.py --seed 7 --first 40  from example 40 of another sequence

A failure prints the example as a call that repeats it. The suite runs the first examples of seed 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import fuzzing
import numpy as np
from cases import uniform
from closeness import ACTIVATION, assert_close, same_bits, sum_bound, widened
from layouts import LAYOUTS
from shared import may_take_winograd
from transposed import bound_of

import fastcv
from fastcv import (
    ConvTranspose2d,
    conv_transpose2d,
    conv_transpose2d_grad_input,
    conv_transpose2d_grad_weight,
    reference,
)

Pair = tuple[int, int]

# An example costs no more than this, so that hundreds take seconds.
MULTIPLY_ADDS = 2**23
OUTPUTS = 2**20


@dataclass(frozen=True)
class Example:
    """One transposed convolution, with all that it takes to draw its arrays and make its calls."""

    seed: int
    dtype: str
    batch: int | None  # None: no batch axis
    group_channels: int
    group_filters: int
    groups: int
    plane: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    output_padding: Pair
    dilation: Pair
    bias: bool
    activation: str | tuple[str, float] | None
    threads: int
    layouts: tuple[str, str, str, str]  # of input, weight, output and its gradient, bias

    @property
    def images(self) -> tuple[int, ...]:
        return () if self.batch is None else (self.batch,)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (*self.images, self.groups * self.group_channels, *self.plane)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.groups * self.group_channels, self.group_filters, *self.kernel)

    @property
    def filters(self) -> int:
        return self.groups * self.group_filters

    @property
    def output_shape(self) -> tuple[int, ...]:
        """P and Q may be less than 1: too much is cut off."""
        extents = (
            (size - 1) * s - 2 * cut + d * (k - 1) + extra + 1
            for size, s, cut, d, k, extra in zip(
                self.plane,
                self.stride,
                self.padding,
                self.dilation,
                self.kernel,
                self.output_padding,
                strict=True,
            )
        )
        return (*self.images, self.filters, *extents)

    @property
    def possible(self) -> bool:
        """Whether there is a transposed convolution like this, and a quick one."""
        bounds = zip(self.output_padding, self.stride, self.dilation, strict=True)
        if min(self.output_shape[-2:]) < 1 or any(extra >= max(s, d) for extra, s, d in bounds):
            return False
        products = math.prod(self.input_shape) * math.prod(self.weight_shape[1:])
        return products <= MULTIPLY_ADDS and math.prod(self.output_shape) <= OUTPUTS

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
            "groups": self.groups,
            "dilation": self.dilation,
        }


def draw(seed: int) -> Example:
    """The example that belongs to this seed."""
    rng = np.random.default_rng(seed)

    def pick(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    def pair(low: int, high: int) -> Pair:
        first, second = (int(n) for n in rng.integers(low, high + 1, 2))
        return (first, first) if rng.random() < 0.5 else (first, second)

    def small_or_large(large: int) -> int:
        return int(rng.integers(1, pick(2, 5, 10, 20, large) + 1))

    while True:
        style = pick("dense", "dense", "depthwise", "grouped")
        stride = pick((1, 1), (2, 2), (2, 2), pair(1, 4), pair(1, 9))
        kernel = pick(stride, (2, 2), (3, 3), (4, 4), (2 * stride[0], 2 * stride[1]), pair(1, 9))
        example = Example(
            seed=seed,
            dtype=pick("float32", "float32", "float64"),
            batch=pick(None, 0, 1, 1, 2, 2, 3, 5),
            group_channels=1 if style == "depthwise" else small_or_large(100),
            group_filters=pick(1, 1, 2, 3) if style == "depthwise" else small_or_large(100),
            groups=1 if style == "dense" else small_or_large(40),
            plane=(small_or_large(40), small_or_large(60)),
            kernel=kernel,
            stride=stride,
            padding=pick((0, 0), (1, 1), pair(0, 3), pair(0, 9)),
            output_padding=pick((0, 0), (0, 0), (1, 1), pair(0, 6)),
            dilation=pick((1, 1), (1, 1), (2, 2), pair(1, 7)),
            bias=bool(pick(True, False)),
            activation=pick(
                None, None, "relu", "relu6", ("leaky_relu", 0.25), "sigmoid", "tanh", "silu", "gelu"
            ),
            threads=pick(1, 2, 3, 7),
            layouts=tuple(pick("contiguous", pick(*LAYOUTS)) for _ in range(4)),
        )
        if example.possible:
            return example


def check(example: Example) -> None:
    """Every function on this example; AssertionError where one is wrong."""
    rng = np.random.default_rng([example.seed, 1])
    parameters = example.parameters
    dtype = np.dtype(example.dtype)

    def placed(shape: tuple[int, ...], layout: str) -> np.ndarray:
        return LAYOUTS[layout](shape, dtype).filled(uniform(rng, shape, dtype))

    x_layout, weight_layout, out_layout, bias_layout = example.layouts
    x = placed(example.input_shape, x_layout)
    weight = placed(example.weight_shape, weight_layout)
    bias = placed((example.filters,), bias_layout) if example.bias else None
    shape = example.output_shape

    # Forward, by a plain call and packed, with and without out.
    options = {**parameters, "activation": example.activation}
    want = reference.conv_transpose2d(*widened(x, weight, bias), **options)
    bound = 2 * bound_of(x, weight, bias, **parameters)
    bound += ACTIVATION * np.finfo(dtype).eps * max(1.0, np.abs(want).max(initial=0))
    plan = ConvTranspose2d(weight, bias, **options)
    for call in (
        lambda out: conv_transpose2d(x, weight, bias, **options, out=out),
        lambda out: plan(x, out),
    ):
        fastcv.set_num_threads(1)
        result = call(None)
        assert_close(result, want, bound, "result")
        fastcv.set_num_threads(example.threads)
        place = LAYOUTS[out_layout](shape, dtype)
        assert call(place.view) is place.view
        assert_close(place.view.copy(), want, bound, "out")
        assert place.untouched(), "written outside of out"
        assert same_bits(call(None), result), f"bits differ with {example.threads} threads"

    # Gradients.
    grad = placed(shape, out_layout)
    wide_x, wide_weight, wide_grad = widened(x, weight, grad)
    winograd = may_take_winograd(weight, example.stride, dilation=example.dilation)
    for name, call, want, bound in (
        (
            "grad_input",
            lambda: conv_transpose2d_grad_input(grad, weight, x.shape, **parameters),
            reference.conv_transpose2d_grad_input(wide_grad, wide_weight, x.shape, **parameters),
            sum_bound(math.prod(weight.shape[1:]), grad, weight, winograd=winograd),
        ),
        (
            "grad_weight",
            lambda: conv_transpose2d_grad_weight(grad, x, weight.shape, **parameters),
            reference.conv_transpose2d_grad_weight(wide_grad, wide_x, weight.shape, **parameters),
            sum_bound(x.size // x.shape[-3], grad, x, winograd=winograd),
        ),
    ):
        result = call()
        assert_close(result, want, bound, name)
        fastcv.set_num_threads(1)
        assert same_bits(call(), result), f"{name}'s bits differ with {example.threads} threads"
        fastcv.set_num_threads(example.threads)


if __name__ == "__main__":
    fuzzing.main(draw, check, __doc__)
