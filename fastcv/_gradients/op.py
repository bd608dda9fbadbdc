"""What an entry of the table is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

from fastcv import _checks

Shape: TypeAlias = tuple[int, ...]
Arrays: TypeAlias = tuple[Any, ...]  # a framework's arrays; None for an optional one that is absent
Parameters: TypeAlias = tuple[Any, ...]  # in the order of Op.parameters
# Functions of a framework's arrays by name, called with an op's arrays and then its parameters.
Functions: TypeAlias = Mapping[str, Callable[..., Any]]
Kind: TypeAlias = Literal[
    "integer", "integers", "shape", "number", "optional number", "name", "optional name"
]


class Arguments(NamedTuple):
    """A user's call, sorted into the flat form; parameters are checked, arrays are not."""

    arrays: Arrays
    parameters: Parameters
    activation: _checks.Activation = None


@dataclass(frozen=True)
class Op:
    """One op: everything that a framework needs to know about it.

    Arrays come in the order of `arrays`, parameters in that of `parameters`. A function with
    `ops` among its arguments is written in terms of other entries: the framework hands in its own
    functions of its own arrays.
    """

    name: str
    arrays: tuple[str, ...]
    parameters: Mapping[str, Kind]
    # The user's function for NumPy arrays.
    public: Callable[..., Any]
    # Takes what `public` takes.
    arguments: Callable[..., Arguments]
    # (*arrays, *parameters) -> result, on NumPy arrays.
    run: Callable[..., Any]
    # (shapes, parameters) -> shape of the result. A shape is None for an absent array; sizes may be
    # a framework's symbols.
    shape: Callable[[tuple[Any, ...], Parameters], Shape]
    # (ops, needed, grad, arrays, parameters) -> a gradient for each array, None where not needed.
    gradients: Callable[[Functions, Sequence[bool], Any, Arrays, Parameters], Arrays]
    # (ops, namespace, size, arrays, batched, parameters) -> result, where some of the arrays have a
    # further axis of this size in front, as has the result. `namespace` has NumPy's functions for
    # the framework's arrays.
    batched: Callable[[Functions, ModuleType, int, Arrays, Sequence[bool], Parameters], Any]
    # Arrays that may be None.
    optional: tuple[str, ...] = ()
    # Which array's layout the result has (channels-last or not); None: the result is contiguous.
    layout_of: int | None = None

    def fused(self, parameters: Parameters, activation: _checks.Activation) -> Parameters:
        """Return the parameters with this activation among them."""
        name, slope = activation if isinstance(activation, tuple) else (activation, 0.0)
        values = dict(zip(self.parameters, parameters, strict=True))
        return tuple((values | {"activation": name, "slope": slope}).values())
