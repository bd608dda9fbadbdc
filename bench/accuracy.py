"""Measure a convolution's rounding errors on named layers: ``python bench/accuracy.py``.

It prints Markdown tables. The truth is a sum in extended precision. Beside each kernel stands the
plainest one: a loop in the arrays' own precision that rounds every product and every addition, term
after term.
"""

import math
from itertools import product
from typing import NamedTuple

import numpy as np
import problem
from cases import uniform
from cases.conv2d import Case

from fastcv import Conv2d, _core, conv2d, conv2d_grad_input, conv2d_grad_weight

LAYERS = (
    "resnet_3x3_64_56",
    "resnet_3x3_128_28",
    "resnet_3x3_256_14",
    "resnet_3x3_512_7",
    "dilated_3x3_d4_64_56",
    "deeplab_3x3_d12_512_256_33",
    "deeplab_3x3_d18_512_256_33",
    "superres_5x5_32_64_64",
    "row_1x7_128_17",
    "strided_5x5_s2_32_64_64",
    "resnet_7x7_s2_3_64_224",
    "resnet_3x3_s2_128_56",
    "resnet_1x1_256_64_56",
    "mobilenet_dw3x3_144_56",
    "convnext_dw7x7_96_56",
)
DTYPES = (np.float32, np.float64)
ALGORITHMS = {"auto": 0, "direct": 1}


class Sums:
    """A case's convolution and its gradients as sums, term by term, in one precision."""

    def __init__(self, case: Case, arrays: tuple[np.ndarray, ...], dtype: type) -> None:
        x, self.weight, self.grad = (array.astype(dtype) for array in arrays)
        self.case = case
        self.padded = np.pad(x, ((0, 0), (0, 0), *case.padding))
        filters, self.channels, *self.window = case.weight_shape
        self.filters = filters // case.groups
        self.first_channel = np.arange(filters) // self.filters * self.channels  # of each filter

    def seen(self, r: int, s: int) -> tuple[slice, slice]:
        """The padded pixels that tap (r, s) sees, one per output."""
        return tuple(
            slice(tap * d, tap * d + (size - 1) * stride + 1, stride)
            for tap, d, size, stride in zip(
                (r, s),
                self.case.dilation,
                self.case.output_shape[2:],
                self.case.stride,
                strict=True,
            )
        )

    def output(self) -> np.ndarray:
        total = np.zeros(self.case.output_shape, self.padded.dtype)
        for c, r, s in product(range(self.channels), *map(range, self.window)):
            pixels = self.padded[(slice(None), self.first_channel + c, *self.seen(r, s))]
            total += self.weight[:, c, r, s, None, None] * pixels
        return total

    def grad_input(self) -> np.ndarray:
        total = np.zeros_like(self.padded)
        channel = np.arange(total.shape[1])
        first_filter = channel // self.channels * self.filters
        for k, r, s in product(range(self.filters), *map(range, self.window)):
            weight = self.weight[first_filter + k, channel % self.channels, r, s, None, None]
            total[(..., *self.seen(r, s))] += weight * self.grad[:, first_filter + k]
        (top, _), (left, _) = self.case.padding
        height, width = self.case.input_shape[2:]
        return total[..., top : top + height, left : left + width]

    def grad_weight(self) -> np.ndarray:
        total = np.zeros_like(self.weight)
        (down, across), (row_step, column_step) = self.case.stride, self.case.dilation
        rows, columns = self.case.window
        images, _, height, width = self.case.output_shape
        channels = self.first_channel[:, None] + np.arange(self.channels)
        for n, p, q in product(range(images), range(height), range(width)):
            y, x = p * down, q * across
            window = self.padded[n, :, y : y + rows : row_step, x : x + columns : column_step]
            total += self.grad[n, :, p, q, None, None, None] * window[channels]
        return total


class Errors(NamedTuple):
    """What a result is off by, in units of its root mean square."""

    rms: float
    largest: float
    ratio: float  # of `rms` to the plain loop's


def relative_errors(result: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Root mean square and largest error, in units of the result's root mean square."""
    error = (result - truth) / np.sqrt(np.mean(truth**2))
    return float(np.sqrt(np.mean(error**2))), float(np.abs(error).max())


def kernel(case: Case, dtype: np.dtype, algorithm: str, packed: bool) -> str:
    """The kernel that such a call gets."""
    (top, _), (left, _) = case.padding
    name, _ = _core.conv2d_choice(
        case.input_shape,
        case.weight_shape,
        case.output_shape,
        dtype.itemsize,
        _core.Convolution(
            case.stride,
            (top, left),
            case.dilation,
            case.groups,
            algorithm=ALGORITHMS[algorithm],
        ),
        packed,
    )
    return name


def results(case: Case, arrays: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """Every kernel that a forward call can get, with what it computes; and both gradients."""
    x, weight, grad = arrays
    found = {}
    for algorithm, packed in product(ALGORITHMS, (True, False)):
        options = {**case.parameters, "algorithm": algorithm}
        name = kernel(case, x.dtype, algorithm, packed)
        if name not in found:
            found[name] = Conv2d(weight, **options)(x) if packed else conv2d(x, weight, **options)
    found["grad_input"] = conv2d_grad_input(grad, weight, x.shape, **case.parameters)
    found["grad_weight"] = conv2d_grad_weight(grad, x, weight.shape, **case.parameters)
    return found


def measure(case: Case, dtype: type) -> dict[str, Errors]:
    """The errors of every kernel, by name."""
    x, weight, _ = case.arrays(dtype)
    arrays = x, weight, uniform(np.random.default_rng(1), case.output_shape, dtype)
    plain, exact = Sums(case, arrays, dtype), Sums(case, arrays, np.longdouble)
    truths, plain_rms = {}, {}
    for what in ("output", "grad_input", "grad_weight"):
        truths[what] = getattr(exact, what)()
        plain_rms[what], _ = relative_errors(getattr(plain, what)(), truths[what])
    measured = {}
    for name, result in results(case, arrays).items():
        what = name if name in truths else "output"
        rms, largest = relative_errors(result, truths[what])
        measured[name] = Errors(rms, largest, rms / plain_rms[what])
    return measured


def terms(case: Case, name: str) -> int:
    """Length of the sums behind a kernel's results."""
    if name == "grad_weight":
        return math.prod(case.output_shape) // case.filters
    if name == "grad_input":
        return case.filters // case.groups * math.prod(case.kernel)
    return case.depth


def table(head: tuple[str, ...], lines: list[list[object]]) -> str:
    """A Markdown table: names in the first column, numbers in the others."""
    numbers = tuple(f"{d.__name__} {what}" for d in DTYPES for what in ("RMS", "max", "ratio"))
    rows = [[*head, *numbers], ["---"] + ["---:"] * (len(head) + 5), *lines]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def cells(errors: Errors | None) -> list[str]:
    if errors is None:  # this dtype chose other kernels
        return ["-"] * 3
    return [f"{errors.rms:.1e}", f"{errors.largest:.1e}", f"{errors.ratio:.2f}"]


def main() -> None:
    found: dict[str, dict[str, dict[type, Errors]]] = {}  # by kernel, layer and dtype
    for layer, dtype in product(LAYERS, DTYPES):
        for name, errors in measure(problem.find_case("conv2d", layer), dtype).items():
            found.setdefault(name, {}).setdefault(layer, {})[dtype] = errors

    worst, every = [], []
    for name, layers in sorted(found.items()):
        row: list[object] = [f"`{name}`", len(layers)]
        for dtype in DTYPES:
            known = [of_dtype[dtype] for of_dtype in layers.values() if dtype in of_dtype]
            row += cells(Errors(*map(max, zip(*known, strict=True))) if known else None)
        worst.append(row)
        for layer, of_dtype in layers.items():
            row = [f"`{name}`, `{layer}`", terms(problem.find_case("conv2d", layer), name)]
            every.append(row + [cell for dtype in DTYPES for cell in cells(of_dtype.get(dtype))])
    print(f"Instruction set: {_core.isa()}.\n\nThe largest of all layers:\n")
    print(table(("kernel", "layers"), worst))
    print("\nEvery layer:\n")
    print(table(("kernel and layer", "terms"), every))


if __name__ == "__main__":
    main()
