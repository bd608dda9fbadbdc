"""What an entry of the table is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

from fastcv import _checks

Shape: TypeAlias = tuple[int, ...]
Arrays: TypeAlias = tuple[Any, ...]  # a framework's arrays; None for an optional one that is absent
Parameters: TypeAlias = tuple[Any, ...]  # in the order of Op.parameters
# Functions of a framework's arrays by name, called with an op's arrays and then its parameters.
Functions: TypeAlias = Mapping[str, Callable[..., Any]]
Kind: TypeAlias = Literal[
    "boolean",
    "integer",
    "optional integer",
    "integers",
    "shape",
    "optional shape",
    "number",
    "optional number",
    "name",
    "optional name",
]


class Arguments(NamedTuple):
    """A user's call, sorted into the flat form; parameters are checked, arrays are not."""

    arrays: Arrays
    parameters: Parameters
    activation: _checks.Activation = None
    # Which results the user asked for. One alone comes without a tuple around it.
    chosen: tuple[int, ...] = (0,)


class Result(NamedTuple):
    """One of an op's results."""

    name: str
    differentiable: bool = True
    # The parameter that names its dtype; None: that of the first array.
    dtype: str | None = None


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
    # (*arrays, *parameters) -> result, on NumPy arrays. A tuple where the op has several results:
    # always all of them, those that the parameters do not ask for with no elements.
    run: Callable[..., Any]
    # (shapes, parameters) -> shape of the result, or a tuple of shapes. A shape is None for an
    # absent array; sizes may be a framework's symbols.
    shape: Callable[[tuple[Any, ...], Parameters], Any]
    # (ops, namespace, needed, grads, arrays, results, parameters) -> a gradient for each array,
    # None where not needed. `grads` has one for each result, None where that was not used;
    # `results` has those that `saves` lists, and None for the others.
    gradients: Callable[
        [Functions, ModuleType, Sequence[bool], Arrays, Arrays, Arrays, Parameters], Arrays
    ]
    # (ops, namespace, size, arrays, batched, parameters) -> result, where some of the arrays have a
    # further axis of this size in front, as has the result. `namespace` has NumPy's functions for
    # the framework's arrays.
    batched: Callable[[Functions, ModuleType, int, Arrays, Sequence[bool], Parameters], Any]
    # Arrays that may be None.
    optional: tuple[str, ...] = ()
    # Arrays of integers, and those that may be boolean. All others are float32 or float64.
    integers: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    results: tuple[Result, ...] = (Result("output"),)
    # Positions of the results that the gradients need.
    saves: tuple[int, ...] = ()
    # Parameters that make the op return what its gradients need, whatever the user asked for.
    saving: Mapping[str, Any] = field(default_factory=dict)
    # Which array's layout the results have (channels-last or not); None: they are contiguous.
    layout_of: int | None = None

    def fused(self, parameters: Parameters, activation: _checks.Activation) -> Parameters:
        """Return the parameters with this activation among them."""
        name, slope = activation if isinstance(activation, tuple) else (activation, 0.0)
        return self._changed(parameters, {"activation": name, "slope": slope})

    def for_gradients(self, parameters: Parameters) -> Parameters:
        """Return the parameters with which the op returns what its gradients need."""
        return self._changed(parameters, self.saving) if self.saving else parameters

    def _changed(self, parameters: Parameters, changes: Mapping[str, Any]) -> Parameters:
        values = dict(zip(self.parameters, parameters, strict=True))
        return tuple({**values, **changes}.values())
