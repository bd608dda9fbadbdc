"""What convolutions share, and what the forms that pack their weights once are: immutable."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from fastcv._layout import FloatT


def with_bias(
    arrays: dict[str, NDArray[FloatT]], bias: NDArray[FloatT] | None
) -> dict[str, NDArray[FloatT]]:
    """Return the arrays by name, and the bias if there is one."""
    return arrays if bias is None else arrays | {"bias": bias}


class Immutable:
    """Attributes are set once, by the constructor through `_set`."""

    __slots__ = ()

    def _set(self, **attributes: object) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        kind = type(self).__name__
        raise AttributeError(f"{kind}: {name} cannot be set, a {kind} is immutable")

    def __delattr__(self, name: str) -> NoReturn:
        kind = type(self).__name__
        raise AttributeError(f"{kind}: {name} cannot be deleted, a {kind} is immutable")


def read_only_copy(array: NDArray[FloatT]) -> NDArray[FloatT]:
    """Copy an array to C-contiguous memory that nobody else writes to."""
    copy = np.array(array, order="C")
    copy.setflags(write=False)
    return copy
