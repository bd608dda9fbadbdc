"""fastcv for HIPS autograd: the same functions as primitives, differentiable to any order.

Importing this imports autograd. docs/frameworks.md says what works.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

try:
    from autograd.extend import defvjp_argnums, primitive
except ImportError as error:
    raise ImportError("fastcv.autograd needs autograd: pip install autograd") from error

from fastcv._gradients import TABLE, Arrays, Op

_PRIMITIVES: dict[str, Callable[..., Any]] = {}


def _primitive(op: Op) -> Callable[..., Any]:
    """Return the op on arrays and parameters in the table's form."""
    count = len(op.arrays)

    @primitive  # type: ignore[untyped-decorator]
    def run(*arguments: Any) -> Any:
        return op.run(*arguments)

    def gradients(
        numbers: Sequence[int], result: Any, arguments: Arrays, keywords: Any
    ) -> Callable[[Any], Arrays]:
        arrays, parameters = arguments[:count], arguments[count:]
        needed = [number in numbers for number in range(count)]

        def backward(grad: Any) -> Arrays:
            found = op.gradients(_PRIMITIVES, needed, grad, arrays, parameters)
            return tuple(found[number] for number in numbers)

        return backward

    defvjp_argnums(run, gradients)
    result: Callable[..., Any] = run
    return result


def _function(op: Op) -> Callable[..., Any]:
    """Return what the user calls."""
    run = _PRIMITIVES[op.name]

    def function(*args: Any, **keywords: Any) -> Any:
        arrays, parameters, activation = op.arguments(*args, **keywords)
        if activation is not None:
            parameters = op.fused(parameters, activation)
        return run(*arrays, *parameters)

    function.__name__ = function.__qualname__ = op.name
    function.__module__ = __name__
    shown = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(op.public).parameters.values()
        if parameter.name != "out"
    ]
    function.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    function.__doc__ = (
        f"`fastcv.{op.name}` for autograd: the same arguments without `out`, and differentiable."
    )
    return function


_PRIMITIVES.update({name: _primitive(op) for name, op in TABLE.items()})
_FUNCTIONS = {name: _function(op) for name, op in TABLE.items()}

__all__ = sorted(_FUNCTIONS)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


globals().update(_FUNCTIONS)
