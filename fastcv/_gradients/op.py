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
    # Whether it is float32 where the first array's numbers have two bytes.
    wide: bool = False


class Backward(NamedTuple):
    """A call whose gradients are wanted, in a framework's functions and arrays."""

    ops: Functions
    namespace: ModuleType  # NumPy's functions for the framework's arrays
    needed: Sequence[bool]  # which arrays a gradient is wanted by
    grads: Arrays  # one for each result, None where that was not used
    arrays: Arrays
    results: Arrays  # those that `Op.saves` lists, None for the others
    parameters: Parameters


class Batch(NamedTuple):
    """Several calls at once: some of the arrays have a further axis of `size` in front."""

    ops: Functions
    namespace: ModuleType
    size: int
    arrays: Arrays
    flags: Sequence[bool]  # which of them have it
    parameters: Parameters

    def whole(self, place: int) -> Any:
        """Return an array with the axis, repeated along it if it has none."""
        array = self.arrays[place]
        if array is None or self.flags[place]:
            return array
        return self.namespace.broadcast_to(array, (self.size, *array.shape))


def images_together(array: Any, axes: int = 4) -> Any:
    """(B, N, C, H, W) to (B * N, C, H, W); with so many axes it is that already."""
    if array.ndim == axes:
        return array
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def flat_activation(activation: _checks.Activation) -> tuple[str | None, float]:
    """Return a user's activation as the two parameters that an op has for it."""
    return activation if isinstance(activation, tuple) else (activation, 0.0)


def users_activation(name: str | None, slope: float) -> Any:
    """Return the user's form of two such parameters."""
    return (name, slope) if name == "leaky_relu" else name


@dataclass(frozen=True)
class Op:
    """One op: everything that a framework needs to know about it.

    Arrays come in the order of `arrays`, parameters in that of `parameters`. A function with
    a `Backward` or a `Batch` is written in terms of other entries: the framework hands in its own
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
    # A gradient for each array, None where not needed.
    gradients: Callable[[Backward], Arrays]
    # The result, with the batch's axis in front.
    batched: Callable[[Batch], Any]
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
    # (weight, bias, *parameters), in NumPy's arrays -> a function of the input whose weights are
    # packed. None: the op has none.
    pack: Callable[..., Callable[..., Any]] | None = None
    # Which array's layout the results have (channels-last or not); None: they are contiguous.
    layout_of: int | None = None

    def fused(self, parameters: Parameters, activation: _checks.Activation) -> Parameters:
        """Return the parameters with this activation among them."""
        name, slope = flat_activation(activation)
        return self._changed(parameters, {"activation": name, "slope": slope})

    def for_gradients(self, parameters: Parameters) -> Parameters:
        """Return the parameters with which the op returns what its gradients need."""
        return self._changed(parameters, self.saving) if self.saving else parameters

    def _changed(self, parameters: Parameters, changes: Mapping[str, Any]) -> Parameters:
        values = dict(zip(self.parameters, parameters, strict=True))
        return tuple({**values, **changes}.values())
