"""Random poolings, unpoolings and their gradients against the reference, over all parameters.

    python tests/fuzz_max_pool2d.py                      until something fails
    python tests/fuzz_max_pool2d.py --seconds 60         for a minute
    python tests/fuzz_max_pool2d.py --seed 7 --first 40  from example 40 of another sequence

A failure prints the example as a call that repeats it. The suite runs the first few hundred
examples of seed 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import fuzzing
import numpy as np
from cases.max_pool2d import Case
from closeness import assert_close, same_bits
from layouts import LAYOUTS

import fastcv
from fastcv import (
    max_pool2d,
    max_pool2d_grad_input,
    max_unpool2d,
    max_unpool2d_grad_input,
    reference,
)

# An example costs no more than this many looks at an element, so that hundreds take seconds.
LOOKS = 2**21

VALUES = {
    "uniform": None,
    "ties": (0.0, 1.0, -0.0, 2.0),
    "some nan": (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, np.nan),
    "extremes": (-np.inf, -np.inf, np.nan, np.inf, 0.5),
}


@dataclass(frozen=True, repr=False)
class Example:
    """One pooling, with all that it takes to draw its arrays and make its calls."""

    seed: int
    dtype: str
    index_dtype: str
    case: Case
    batched: bool
    values: str
    threads: int
    layouts: tuple[str, str, str]  # of the image, of what is pooled, of the indices

    def __repr__(self) -> str:
        return f"Example.drawn({self.seed})"

    @staticmethod
    def drawn(seed: int) -> Example:
        return draw(seed)

    @property
    def possible(self) -> bool:
        """Whether it is a pooling at all, and a quick one."""
        spans = [
            size + 2 * pad - distance * (taps - 1)
            for size, taps, pad, distance in zip(
                self.case.input_shape[2:],
                self.case.kernel,
                self.case.padding,
                self.case.dilation,
                strict=True,
            )
        ]
        looks = math.prod(self.case.output_shape) * math.prod(self.case.kernel)
        return min(spans) >= 1 and looks <= LOOKS


def draw(seed: int) -> Example:
    """The example that belongs to this seed."""
    rng = np.random.default_rng(seed)

    def pick(*values):
        return values[rng.integers(len(values))]

    def pair(low: int, high: int) -> tuple[int, int]:
        first, second = (int(n) for n in rng.integers(low, high + 1, 2))
        return (first, first) if rng.random() < 0.5 else (first, second)

    def small_or_large(large: int) -> int:
        return int(rng.integers(1, pick(2, 5, 10, 20, large) + 1))

    while True:
        kernel = pick((2, 2), (3, 3), pair(1, 5), pair(1, 14))
        case = Case(
            "fuzz",
            (pick(0, 1, 1, 2, 3), small_or_large(70), small_or_large(90), small_or_large(130)),
            kernel,
            pick(kernel, (1, 1), (2, 2), pair(1, 5)),
            (int(rng.integers(0, kernel[0] // 2 + 1)), int(rng.integers(0, kernel[1] // 2 + 1))),
            pick((1, 1), (1, 1), (2, 2), pair(1, 6)),
            bool(pick(True, False)),
        )
        example = Example(
            seed=seed,
            dtype=pick("float32", "float64"),
            index_dtype=pick("int64", "int32"),
            case=case,
            batched=bool(pick(True, True, False)),
            values=pick(*VALUES),
            threads=pick(1, 2, 3, 7),
            layouts=tuple(pick("contiguous", "channels_last", pick(*LAYOUTS)) for _ in range(3)),
        )
        if example.possible and (example.batched or case.input_shape[0] > 0):
            return example


def check(example: Example) -> None:
    """Every function on this example; AssertionError where one is wrong."""
    rng = np.random.default_rng([example.seed, 1])
    case, dtype = example.case, np.dtype(example.dtype)

    def placed(values: np.ndarray, layout: str) -> np.ndarray:
        place = LAYOUTS[layout](values.shape, values.dtype).filled(values)
        return place if example.batched else place[0]

    def on_any_number_of_threads(call):
        fastcv.set_num_threads(example.threads)
        result = call()
        fastcv.set_num_threads(1)
        again = call()
        assert same_bits(result, again), f"bits differ with {example.threads} threads"
        return result

    choice = VALUES[example.values]
    values = case.input(dtype, example.seed) if choice is None else None
    if values is None:
        values = rng.choice(choice, case.input_shape).astype(dtype)
    x = placed(values, example.layouts[0])
    want, places = reference.max_pool2d(x, **case.parameters, return_indices=True)
    options = {**case.parameters, "return_indices": True, "index_dtype": example.index_dtype}
    for part, truth in ((0, want.astype(dtype)), (1, places.astype(example.index_dtype))):
        result = on_any_number_of_threads(lambda part=part: max_pool2d(x, **options)[part])
        np.testing.assert_array_equal(result, truth)
        assert same_bits(result, truth) or (part == 0 and np.isnan(truth).any())
    output = on_any_number_of_threads(lambda: max_pool2d(x, **case.parameters))
    np.testing.assert_array_equal(output, want.astype(dtype))
    if places.size and places.max() >= math.prod(x.shape[-2:]):
        return  # of windows that miss the image

    batch = (slice(None),) if example.batched else (None,)
    grad = placed(case.grad_output(dtype, example.seed), example.layouts[1])
    indices = placed(places[batch].astype(example.index_dtype), example.layouts[2])
    got = on_any_number_of_threads(lambda: max_pool2d_grad_input(grad, indices, x.shape))
    terms = reference.max_pool2d_grad_input(np.abs(grad), indices, x.shape).max(initial=0)
    truth = reference.max_pool2d_grad_input(grad, indices, x.shape)
    assert_close(got, truth, 200 * np.finfo(dtype).eps * terms, "gradient")

    if case.dilation == (1, 1) and not case.ceil_mode:
        pooled = placed(output[batch], example.layouts[1])
        size = {**case.unpooling, "output_size": x.shape[-2:]}
        got = on_any_number_of_threads(lambda: max_unpool2d(pooled, indices, **size))
        truth = reference.max_unpool2d(pooled, indices, **size)
        np.testing.assert_array_equal(got, truth.astype(dtype))
    got = on_any_number_of_threads(lambda: max_unpool2d_grad_input(x, indices))
    np.testing.assert_array_equal(got, reference.max_unpool2d_grad_input(x, indices))


if __name__ == "__main__":
    fuzzing.main(draw, check, __doc__)
