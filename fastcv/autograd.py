"""fastcv for HIPS autograd: the same functions as primitives, differentiable to any order.

Importing this imports autograd. docs/frameworks.md says what works.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

try:
    import autograd.numpy
    from autograd.extend import defvjp_argnums, primitive
    from autograd.tracer import getval
except ImportError as error:
    raise ImportError("fastcv.autograd needs autograd: pip install autograd") from error

from fastcv._gradients import PLAIN, TABLE, Arrays, Backward, Op

_PRIMITIVES: dict[str, Callable[..., Any]] = {}


def _primitive(op: Op) -> Callable[..., Any]:
    """Return the op on arrays and parameters in the table's form.

    `chosen` says which of several results are used: autograd has zeros for the gradients of the
    others, where the table has None.
    """
    count, several = len(op.arrays), len(op.results) > 1
    places = range(len(op.results))

    @primitive  # type: ignore[untyped-decorator]
    def run(*arguments: Any, chosen: Sequence[int] = places) -> Any:
        return op.run(*arguments)

    def gradients(
        numbers: Sequence[int], results: Any, arguments: Arrays, keywords: Any
    ) -> Callable[[Any], Arrays]:
        arrays, parameters = arguments[:count], arguments[count:]
        needed = [number in numbers for number in range(count)]
        # Gradients hold for what was saved as it is, or take it for a function of the arrays.
        whole = getval(results)
        saved = tuple((whole[i] if several else whole) if i in op.saves else None for i in places)
        chosen = keywords.get("chosen", places)
        used = [i in chosen and result.differentiable for i, result in enumerate(op.results)]

        def backward(grad: Any) -> Arrays:
            grads = tuple((grad[i] if several else grad) if used[i] else None for i in places)
            found = op.gradients(
                Backward(_PRIMITIVES, autograd.numpy, needed, grads, arrays, saved, parameters)
            )
            return tuple(
                autograd.numpy.zeros_like(arrays[i]) if found[i] is None else found[i]
                for i in numbers
            )

        return backward

    defvjp_argnums(run, gradients)
    result: Callable[..., Any] = run
    return result


def _function(op: Op) -> Callable[..., Any]:
    """Return what the user calls."""
    run = _PRIMITIVES[op.name]

    def function(*args: Any, **keywords: Any) -> Any:
        arrays, parameters, activation, chosen = op.arguments(*args, **keywords)
        if activation is not None:
            parameters = op.fused(parameters, activation)
        if len(op.results) == 1:
            return run(*arrays, *parameters)
        results = run(*arrays, *op.for_gradients(parameters), chosen=chosen)
        found = tuple(
            results[i] if op.results[i].differentiable else getval(results[i]) for i in chosen
        )
        return found if len(found) > 1 else found[0]

    _describe(
        function,
        op.public,
        f"`fastcv.{op.name}` for autograd: the same arguments without `out`, and differentiable.",
    )
    return function


def _values(value: Any) -> Any:
    """Return an argument without what autograd has put around its arrays."""
    if isinstance(value, (list, tuple)):
        return [_values(each) for each in value]
    return getval(value)


def _plain_function(function: Callable[..., Any]) -> Callable[..., Any]:
    def plain(*args: Any, **keywords: Any) -> Any:
        named = {name: _values(value) for name, value in keywords.items()}
        return function(*map(_values, args), **named)

    name = function.__name__
    _describe(
        plain,
        function,
        f"`fastcv.{name}` for autograd: the same arguments. Its results have no gradients.",
    )
    return plain


def _describe(function: Any, public: Callable[..., Any], text: str) -> None:
    function.__name__ = function.__qualname__ = public.__name__
    function.__module__ = __name__
    shown = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(public).parameters.values()
        if parameter.name != "out"
    ]
    function.__signature__ = inspect.Signature(shown)
    function.__doc__ = text


_PRIMITIVES.update({name: _primitive(op) for name, op in TABLE.items()})
_FUNCTIONS = {name: _function(op) for name, op in TABLE.items()} | {
    name: _plain_function(function) for name, function in PLAIN.items()
}

__all__ = sorted(_FUNCTIONS)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


globals().update(_FUNCTIONS)
