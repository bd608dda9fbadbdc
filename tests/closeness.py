"""How close is close enough: bounds on rounding errors, and the one comparison that applies them.

A kernel's sum of n products of size s = rms(x) rms(w), random in sign, is a random walk. After k
terms it stands near sqrt(k) s; rounding it there costs up to eps/2 of that, and the n roundings,
random too, add up to about

    eps/2 * s * sqrt(1 + 2 + ... + n)  ~  0.35 eps n s.

A different order of summation, several accumulators or fused multiply-adds only lower it. The test
data are uniform in [-1, 1): no product exceeds 3 s, and with all the outputs of a case the largest
error stays within some six of these standard deviations. So DIRECT * eps * n * s holds whatever the
sum's length, while a single wrong, missing or doubled term, about s, exceeds it by far.

Winograd's transforms add and subtract before they multiply, which magnifies the rounding of each
product. The factor depends on the points, not on the length of the sum: hence its own constant. It
is needed in full for one channel only; that long sums are nearly as exact as direct ones is tested
by their root mean square, against direct sums in the same precision.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

DIRECT = 4.0
WINOGRAD = 24.0

# Roundings of an activation's own evaluation, in units of eps times its value (or of 1, if larger).
ACTIVATION = 8.0


def rms(array: np.ndarray) -> float:
    """Root of the mean square; 0 for an empty array."""
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0


def sum_bound(
    depth: int,
    left: np.ndarray,
    right: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    winograd: bool = False,
) -> float:
    """Largest error allowed in a sum of ``depth`` products, drawn from two arrays, and a bias."""
    start = 0.0 if bias is None or not bias.size else float(np.abs(bias).max())
    factor = WINOGRAD if winograd else DIRECT
    return factor * float(np.finfo(left.dtype).eps) * (depth * rms(left) * rms(right) + start)


def assert_close(got: np.ndarray, want: np.ndarray, bound: float, label: object = "") -> None:
    """Fail unless ``got`` has ``want``'s shape and no element is further off than ``bound``."""
    assert got.shape == want.shape, f"shape {got.shape}, want {want.shape} {label}"
    error = np.abs(got.astype(np.float64) - want)
    # Written so that a NaN fails.
    if error.size and not error.max() <= bound:
        worst = np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape)
        wrong = np.count_nonzero(~(error <= bound))
        raise AssertionError(
            f"{wrong} of {error.size} elements differ by more than {bound:.3g} {label}\n"
            f"worst at {tuple(map(int, worst))}: got {got[worst]!r}, want {want[worst]!r}"
        )


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays agree in shape, dtype and every bit (so -0.0 is not 0.0)."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def corruptions(result: np.ndarray) -> Iterator[np.ndarray]:
    """Results wrong in the ways in which a kernel may be wrong; the comparison must refuse them."""
    size, last = rms(result), tuple(n - 1 for n in result.shape)
    for place in ((0,) * result.ndim, last):
        wrong = result.copy()
        wrong[place] += 0.01 * size
        yield wrong
    wrong = result.copy()
    wrong[last] = np.nan
    yield wrong
    for axis in (0, -1):
        if result.shape[axis] > 1:
            yield np.roll(result, 1, axis)
    yield result.astype(np.float16).astype(result.dtype)
    yield result * (1 + 1e-3)


def widened(*arrays: np.ndarray | None) -> tuple[np.ndarray | None, ...]:
    """The arrays in float64, which holds float32 values exactly."""
    return tuple(None if array is None else array.astype(np.float64) for array in arrays)
