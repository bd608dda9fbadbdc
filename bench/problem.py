"""A named case of ``tests/cases.py`` made into arrays: the same ones in every process."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastcv import reference

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from cases import BY_NAME, CASES, Case, uniform

__all__ = ["BY_NAME", "CASES", "MODES", "Case", "Problem", "make_problem"]

MODES = ("packed", "call", "gradients")


@dataclass(frozen=True)
class Problem:
    """The float32 arrays of one case and what its results must be."""

    case: Case
    input: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    grad_output: np.ndarray

    @property
    def symmetric_padding(self) -> tuple[int, int]:
        """Rows and columns, for peers that know no other padding."""
        (top, bottom), (left, right) = self.case.padding
        if (top, left) != (bottom, right):
            raise NotImplementedError("asymmetric padding")
        return top, left

    def flops(self, mode: str) -> int:
        return self.case.flops * (2 if mode == "gradients" else 1)

    def bytes(self, mode: str) -> int:
        """What has to move at least: each array once, or once for each gradient."""
        once = self.input.nbytes + self.weight.nbytes + self.grad_output.nbytes
        return once * (2 if mode == "gradients" else 1)

    def expected(self, mode: str) -> list[np.ndarray]:
        """In float64: the output, or the gradients by input and by weight."""
        x, weight, bias, grad = (
            array.astype(np.float64)
            for array in (self.input, self.weight, self.bias, self.grad_output)
        )
        parameters = self.case.parameters
        if mode != "gradients":
            return [reference.conv2d(x, weight, bias, **parameters)]
        return [
            reference.conv2d_grad_input(grad, weight, x.shape, **parameters),
            reference.conv2d_grad_weight(grad, x, weight.shape, **parameters),
        ]


def make_problem(name: str) -> Problem:
    case = BY_NAME[name]
    grad_output = uniform(np.random.default_rng(1), case.output_shape, np.float32)
    return Problem(case, *case.arrays(np.float32), grad_output)
