"""Numbers, shapes and their texts: what every other file here needs."""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex, TypeAlias

import numpy as np

# What users may pass ...
IntOrPair: TypeAlias = SupportsIndex | Sequence[SupportsIndex]

# ... and what the checks make of it.
Pair: TypeAlias = tuple[int, int]
Sides: TypeAlias = tuple[Pair, Pair]
Shape: TypeAlias = tuple[int, ...]
Shape4: TypeAlias = tuple[int, int, int, int]
INT64_MAX = 2**63 - 1

# Elements of eight bytes whose offsets fit in 64 bits.
MAX_ELEMENTS = 2**60


def integer(op: str, name: str, value: Any, minimum: int, maximum: int = INT64_MAX) -> int:
    """Return a Python or NumPy integer as a plain int; bool and float are refused."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be an integer, got {describe(value)}") from None
    if number < minimum:
        raise ValueError(f"{op}: {name} must be at least {minimum}, got {number}")
    if number > maximum:
        raise ValueError(f"{op}: {name} must be at most {maximum}, got {number}")
    return number


def pair(op: str, name: str, value: Any, minimum: int) -> Pair:
    """Return one integer twice, or the two integers of a pair."""
    if type(value) is int and minimum <= value <= INT64_MAX:
        return value, value
    if type(value) is tuple and len(value) == 2:
        first, second = value
        if (
            type(first) is type(second) is int
            and minimum <= first <= INT64_MAX
            and minimum <= second <= INT64_MAX
        ):
            return value
    if not isinstance(value, (tuple, list)):
        number = integer(op, name, value, minimum)
        return number, number
    if len(value) != 2:
        raise ValueError(f"{op}: {name} must be an integer or a pair, got {describe(value)}")
    first, second = value
    return integer(op, f"{name}[0]", first, minimum), integer(op, f"{name}[1]", second, minimum)


def shape(op: str, name: str, value: Any) -> Shape:
    """Return a shape that is an argument of its own as a tuple of plain integers."""
    if type(value) is tuple:
        for size in value:
            if type(size) is not int or not 0 <= size <= INT64_MAX:
                break
        else:
            return value
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{op}: {name} must be a tuple of integers, got {describe(value)}")
    return tuple(integer(op, f"{name}[{axis}]", size, 0) for axis, size in enumerate(value))


def real(op: str, name: str, value: Any) -> float:
    """Return a Python or NumPy number as a plain float; bool is refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{op}: {name} must be a real number, got {describe(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{op}: {name} must fit in a float64, got {describe(value)}") from None


def describe(value: object) -> str:
    return f"{reprlib.repr(value)} ({type(value).__name__})"


def boolean(op: str, name: str, value: Any) -> bool:
    """Return a Python or NumPy bool as a plain one; nothing else is taken for true or false."""
    if value is False or value is True:
        return value
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{op}: {name} must be a bool, got {describe(value)}")
    return bool(value)


def named(shapes: Mapping[str, Shape]) -> str:
    texts = (f"{name.removesuffix('.shape')} {sizes}" for name, sizes in shapes.items())
    return f"({', '.join(texts)})"


def fits(op: str, name: str, sizes: Shape) -> None:
    """Require fewer elements than 64 bits can give offsets to."""
    # NumPy bounds the product of the sizes that are not zero, even for an array with no elements.
    if math.prod([size or 1 for size in sizes]) >= MAX_ELEMENTS:
        raise ValueError(
            f"{op}: {name} must have fewer than 2**60 elements, got {' * '.join(map(str, sizes))}"
        )
