"""Random Gram matrices and gradients against the float64 reference, over every memory layout.

python tests/fuzz_gram_matrix.py                 until something fails
python tests/fuzz_gram_matrix.py --seconds 60    for a minute
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import fuzzing
import numpy as np
from cases import uniform
from closeness import assert_close, same_bits, sum_bound, widened
from layouts import LAYOUTS

import fastcv
from fastcv import gram_matrix, gram_matrix_grad_input, reference

# An example costs no more than this, so that hundreds take seconds.
MULTIPLY_ADDS = 2**24


@dataclass(frozen=True)
class Example:
    """A batch of images, with all that it takes to draw its arrays and make its calls."""

    seed: int
    dtype: str
    batch: int | None  # None: no batch axis
    channels: int
    plane: tuple[int, int]
    scale: float | None
    threads: int
    layouts: tuple[str, str]  # of input and gradient

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.channels, *self.plane)

    @property
    def possible(self) -> bool:
        images = 1 if self.batch is None else self.batch
        return images * self.channels * math.prod(self.image_shape) <= MULTIPLY_ADDS


def draw(seed: int) -> Example:
    """The example that belongs to a seed."""
    rng = np.random.default_rng(seed)

    def pick(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    def size(*largest: int) -> int:
        return int(rng.integers(0 if rng.random() < 0.01 else 1, pick(*largest) + 1))

    while True:
        example = Example(
            seed=seed,
            dtype=pick("float32", "float64"),
            batch=pick(None, 0, 1, 1, 2, 3, 5, 40),
            channels=size(3, 9, 20, 70, 300),
            plane=(size(1, 5, 20, 100, 400), size(1, 5, 20, 100, 400)),
            scale=pick(None, 1.0, 0.25),
            threads=pick(2, 3, 7),
            layouts=(pick("contiguous", "channels_last", *LAYOUTS), pick("contiguous", *LAYOUTS)),
        )
        if example.possible:
            return example


def check(example: Example) -> None:
    """Both functions on this example; AssertionError where one is wrong."""
    rng = np.random.default_rng([example.seed, 1])
    dtype = np.dtype(example.dtype)

    def placed(shape: tuple[int, ...], layout: str) -> np.ndarray:
        return LAYOUTS[layout](shape, dtype).filled(uniform(rng, shape, dtype))

    batch = () if example.batch is None else (example.batch,)
    x = placed((*batch, *example.image_shape), example.layouts[0])
    grad = placed((*batch, example.channels, example.channels), example.layouts[1])
    wide_x, wide_grad = widened(x, grad)
    scale = example.scale
    factor = scale or 1 / (math.prod(example.image_shape) or 1)
    for name, call, want, bound in (
        (
            "gram_matrix",
            lambda: gram_matrix(x, scale),
            reference.gram_matrix(wide_x, scale),
            sum_bound(math.prod(example.plane), x, x),
        ),
        (
            "gram_matrix_grad_input",
            lambda: gram_matrix_grad_input(grad, x, scale),
            reference.gram_matrix_grad_input(wide_grad, wide_x, scale),
            sum_bound(2 * example.channels, grad, x),
        ),
    ):
        fastcv.set_num_threads(1)
        result = call()
        assert_close(result, want, 3 * factor * bound, name)
        fastcv.set_num_threads(example.threads)
        assert same_bits(call(), result), f"{name}'s bits differ with {example.threads} threads"
        if batch:
            for n in range(0, example.batch or 0, 7):
                alone = gram_matrix(x[n], scale)
                assert name != "gram_matrix" or same_bits(alone, result[n]), "depends on the batch"


if __name__ == "__main__":
    fuzzing.main(draw, check, __doc__)
