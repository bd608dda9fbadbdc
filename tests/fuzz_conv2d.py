"""Random convolutions against the float64 reference, over every parameter and memory layout.

    python tests/fuzz_conv2d.py                      until something fails
    python tests/fuzz_conv2d.py --seconds 60         for a minute
    python tests/fuzz_conv2d.py --seed 7 --first 40  from example 40 of another sequence

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

import fastcv
from fastcv import Conv2d, conv2d, conv2d_grad_input, conv2d_grad_weight, reference

Pair = tuple[int, int]

# An example costs no more than this, so that hundreds take seconds.
MULTIPLY_ADDS = 2**24


@dataclass(frozen=True)
class Example:
    """One convolution, with all that it takes to draw its arrays and make its calls."""

    seed: int
    dtype: str
    batch: int | None  # None: no batch axis
    group_channels: int
    group_filters: int
    groups: int
    plane: Pair
    kernel: Pair
    stride: Pair
    padding: tuple[Pair, Pair] | str
    dilation: Pair
    bias: bool
    activation: str | tuple[str, float] | None
    algorithm: str
    threads: int
    layouts: tuple[str, str, str, str]  # of input, weight, output and its gradient, bias

    @property
    def input_shape(self) -> tuple[int, ...]:
        image = (self.groups * self.group_channels, *self.plane)
        return image if self.batch is None else (self.batch, *image)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.groups * self.group_filters, self.group_channels, *self.kernel)

    @property
    def sides(self) -> tuple[Pair, Pair]:
        """The padding in numbers."""
        if self.padding == "valid":
            return (0, 0), (0, 0)
        if self.padding == "same":
            spans = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
            top, left = (span // 2 for span in spans)
            return (top, spans[0] - top), (left, spans[1] - left)
        assert not isinstance(self.padding, str)
        return self.padding

    @property
    def extent(self) -> Pair:
        """P and Q; less than 1 where the window does not fit."""
        rows, columns = (
            (size + sum(side) - d * (k - 1) - 1) // s + 1
            for size, side, k, s, d in zip(
                self.plane, self.sides, self.kernel, self.stride, self.dilation, strict=True
            )
        )
        return rows, columns

    @property
    def possible(self) -> bool:
        """Whether it is a convolution at all, and a quick one."""
        outputs = math.prod(self.extent) * (1 if self.batch is None else self.batch)
        cost = outputs * math.prod(self.weight_shape)
        return min(self.extent) >= 1 and cost <= MULTIPLY_ADDS

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
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
        style = pick("dense", "dense", "winograd", "depthwise", "grouped")
        kernel = pick((1, 1), (3, 3), pair(1, 5), pair(1, 9))
        if style == "winograd":
            kernel = pick((3, 3), (3, 3), (5, 5), pair(3, 5), (1, 7), (3, 1))
        stride = pick((1, 1), (1, 1), (2, 2), pair(1, 4), pair(1, 9))
        if style == "winograd":
            stride = pick((1, 1), (1, 1), (2, 2))
        padding = pick("valid", (pair(0, 2), pair(0, 2)), (pair(0, 11), pair(0, 11)))
        if stride == (1, 1):
            padding = pick(padding, "same")
        groups = 1 if style in ("dense", "winograd") else small_or_large(40)
        example = Example(
            seed=seed,
            dtype=pick("float32", "float32", "float64"),
            batch=pick(None, 0, 1, 1, 2, 2, 3, 5),
            group_channels=1 if style == "depthwise" else small_or_large(140),
            group_filters=pick(1, 1, 2, 3) if style == "depthwise" else small_or_large(140),
            groups=groups,
            plane=(small_or_large(100), small_or_large(100)),
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=pick((1, 1), (1, 1), (2, 2), pair(1, 4), pair(1, 12)),
            bias=bool(pick(True, False)),
            activation=pick(
                None, None, "relu", "relu6", ("leaky_relu", 0.25), "sigmoid", "tanh", "silu", "gelu"
            ),
            algorithm=pick("auto", "auto", "direct", "winograd"),
            threads=pick(1, 2, 3, 7),
            layouts=tuple(pick("contiguous", pick(*LAYOUTS)) for _ in range(4)),
        )
        weight = np.empty(example.weight_shape, bool)
        asked = example.algorithm == "winograd"
        if asked and not may_take_winograd(weight, stride, dilation=example.dilation):
            continue
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
    bias = placed(example.weight_shape[:1], bias_layout) if example.bias else None
    filters = example.weight_shape[0]
    batch = () if example.batch is None else (example.batch,)
    shape = (*batch, filters, *example.extent)

    # Forward, by a plain call and packed, with and without out.
    winograd = may_take_winograd(weight, example.stride, example.algorithm)
    depth = math.prod(weight.shape[1:])
    options = {"activation": example.activation, "algorithm": example.algorithm}
    want = reference.conv2d(*widened(x, weight, bias), **parameters, activation=example.activation)
    bound = 2 * sum_bound(depth, x, weight, bias, winograd=winograd)
    bound += ACTIVATION * np.finfo(dtype).eps * max(1.0, np.abs(want).max(initial=0))
    plan = Conv2d(weight, bias, **parameters, **options)
    results = []
    for call in (
        lambda out: conv2d(x, weight, bias, **parameters, **options, out=out),
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
        results.append(result)

    # Gradients, and that the linear maps are each other's transposes.
    grad = placed(shape, out_layout)
    wide_x, wide_weight, wide_grad = widened(x, weight, grad)
    winograd = may_take_winograd(weight, example.stride)
    sums = filters // example.groups * math.prod(example.kernel)
    for name, call, want, bound in (
        (
            "grad_input",
            lambda: conv2d_grad_input(grad, weight, x.shape, **parameters),
            reference.conv2d_grad_input(wide_grad, wide_weight, x.shape, **parameters),
            sum_bound(sums, grad, weight, winograd=winograd),
        ),
        (
            "grad_weight",
            lambda: conv2d_grad_weight(grad, x, weight.shape, **parameters),
            reference.conv2d_grad_weight(wide_grad, wide_x, weight.shape, **parameters),
            sum_bound(grad.size // filters, grad, x, winograd=winograd),
        ),
    ):
        result = call()
        assert_close(result, want, bound, name)
        fastcv.set_num_threads(1)
        assert same_bits(call(), result), f"{name}'s bits differ with {example.threads} threads"
        fastcv.set_num_threads(example.threads)


if __name__ == "__main__":
    fuzzing.main(draw, check, __doc__)
