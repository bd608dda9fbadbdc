"""fastcv for JAX: the same functions of JAX's arrays, for `jit`, `grad` of any order and `vmap`.

How a call goes. The user's function sorts its arguments into the table's form. For each entry,
parameters and set of arrays there is one function of the arrays alone, which is a `custom_vjp`
around a `custom_vmap` around the call of a compiled handler: so derivatives are taken first, and
whatever they are made of can be batched. Gradients and batches are the table's, and made of such
functions again.

The handlers are compiled into fastcv with XLA's interface of the oldest supported version. Whether
the XLA that runs takes them is tried at first use; where it does not, JAX calls back into Python,
and a warning says so. Importing this imports JAX. docs/frameworks.md says what works.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import jax
    import jax.numpy as jnp
    from jax.custom_batching import custom_vmap
    from jax.custom_derivatives import SymbolicZero
    from jax.experimental.buffer_callback import buffer_callback
except ImportError as error:
    raise ImportError("fastcv.jax needs JAX 0.6.1 or newer: pip install 'jax>=0.6.1'") from error

from fastcv import _core
from fastcv._gradients import PLAIN, TABLE, Arrays, Backward, Batch, Op, Parameters
from fastcv._gradients.matching_shapes import RESULTS, Graph, check_options

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_INDICES = (np.dtype(np.int32), np.dtype(np.int64))
# Names among parameters, in the order of the codes that the handlers take.
_CODES: dict[str, tuple[str | None, ...]] = {
    "activation": (None, "relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "gelu"),
    "algorithm": ("auto", "direct", "winograd"),
    "causal_alignment": ("top_left", "bottom_right"),
}
_ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}


# Handlers


def _target(name: str) -> str:
    return f"fastcv_{name}"


def _attributes(op: Op, parameters: Parameters, absent: int) -> dict[str, Any]:
    """Return what a handler takes beside arrays; results' shapes and dtypes say the rest."""
    integers: list[int] = []
    numbers: list[float] = []
    dtypes = {result.dtype for result in op.results}
    for (name, kind), value in zip(op.parameters.items(), parameters, strict=True):
        if kind in ("boolean", "integer"):
            integers.append(value)
        elif kind == "integers":
            integers.extend(value)
        elif kind == "optional integer":
            integers += (value is not None, value or 0)
        elif kind == "number":
            numbers.append(value)
        elif kind == "optional number":
            integers.append(value is not None)
            numbers.append(0.0 if value is None else value)
        elif kind in ("name", "optional name") and name not in dtypes:
            integers.append(_code(op, name, value))
    return {
        "integers": np.array(integers, np.int64),
        "numbers": np.array(numbers, np.float64),
        "absent": np.array([absent], np.int64),
    }


def _code(op: Op, name: str, value: Any) -> int:
    codes = _CODES[name]
    if value not in codes:
        names = ", ".join(repr(code) for code in codes)
        raise ValueError(f"{op.name}: {name} must be one of {names}, got {value!r}")
    return codes.index(value)


def _call_handler(op: Op, results: Any, arrays: Arrays, parameters: Parameters) -> Any:
    absent = sum((array is None) << place for place, array in enumerate(arrays))
    call = jax.ffi.ffi_call(_target(op.name), results)
    present = (array for array in arrays if array is not None)
    return call(*present, **_attributes(op, parameters, absent))


def _call_python(op: Op, results: Any, arrays: Arrays, parameters: Parameters) -> Any:
    there = [array is not None for array in arrays]

    def run(*present: np.ndarray) -> Any:
        rest = iter(present)
        return op.run(*(next(rest) if given else None for given in there), *parameters)

    return _in_python(run, results, [array for array in arrays if array is not None])


def _in_python(run: Callable[..., Any], results: Any, arrays: Sequence[Any]) -> Any:
    """Let a program call a function of NumPy's arrays, a sample at a time under `vmap`.

    `jax.pure_callback` would hand over JAX's arrays: reading them waits for XLA's pool, one of
    whose threads runs this, so that on few cores it may wait for ever.
    """

    def fill(_: Any, outputs: Any, *buffers: Any) -> None:
        found = run(*map(np.asarray, buffers))
        for output, value in zip(jax.tree.leaves(outputs), jax.tree.leaves(found), strict=True):
            np.asarray(output)[...] = value

    return buffer_callback(fill, results, vmap_method="sequential")(*arrays)


@functools.cache
def _handlers_work() -> bool:
    """Whether the XLA that runs takes this build's handlers: a small call, once."""
    op, input = TABLE["gram_matrix"], np.array([[[1, 2]], [[3, 4]]], np.float32).reshape(2, 1, 2)
    try:
        for name, capsule in _core.xla_handlers.items():
            jax.ffi.register_ffi_target(_target(name), capsule, platform="cpu")
        result = jax.ShapeDtypeStruct((2, 2), input.dtype)
        with (
            jax.ensure_compile_time_eval(),
            jax.default_device(jax.local_devices(backend="cpu")[0]),
        ):
            got = np.asarray(jax.jit(lambda x: _call_handler(op, result, (x,), (1.0,)))(input))
        problem = None if (got == [[5, 11], [11, 25]]).all() else "a wrong result"
    except Exception as error:
        problem = str(error) or type(error).__name__
    if problem is not None:
        warnings.warn(
            f"fastcv.jax: XLA (jaxlib {jax.lib.__version__}) does not take fastcv's handlers, so "
            f"each call goes through Python, which is slower: {problem}",
            RuntimeWarning,
            stacklevel=2,
        )
    return problem is None


# Arrays


def _only_arrays(op: Op, args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
    """Require arrays where a call has them, before anyone asks for their shapes."""
    positional = [parameter.name for parameter in _shown(op.public)]
    given = {**dict(zip(positional, args, strict=False)), **keywords}
    for name in op.arrays:
        array = given.get(name)
        if array is not None and not isinstance(array, (jax.Array, np.ndarray)):
            raise TypeError(f"{op.name}: {name} must be a jax.Array, got {type(array).__name__}")
        if array is None and name in given and name not in op.optional:
            raise TypeError(f"{op.name}: {name} must be a jax.Array, got NoneType")


def _check(op: Op, arrays: Arrays) -> Arrays:
    """Return the arrays as JAX's own."""
    checked: list[Any] = []
    first_name, first = "", None
    for name, array in zip(op.arrays, arrays, strict=True):
        if array is None:
            checked.append(None)
            continue
        dtype = np.dtype(array.dtype)
        if name in op.integers:
            if not np.issubdtype(dtype, np.integer):
                raise TypeError(f"{op.name}: {name}.dtype must be an integer type, got {dtype}")
            if dtype not in _INDICES:
                array = jnp.asarray(array, jax.dtypes.canonicalize_dtype(np.int64))
        elif not (name in op.masks and dtype == np.dtype(bool)):
            if dtype not in _FLOATS:
                raise TypeError(f"{op.name}: {name}.dtype must be float32 or float64, got {dtype}")
            if first is None:
                first_name, first = name, dtype
            if dtype != first:
                raise TypeError(
                    f"{op.name}: {name}.dtype must equal {first_name}.dtype, got {dtype} != {first}"
                )
            if jax.dtypes.canonicalize_dtype(dtype) != dtype:
                raise TypeError(
                    f"{op.name}: {name}.dtype must be float32 unless JAX is told otherwise by "
                    f"jax.config.update('jax_enable_x64', True), got {dtype}"
                )
        if isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer):
            for device in array.devices():
                if device.platform != "cpu":
                    raise ValueError(
                        f"{op.name}: {name} must be on the CPU, since this build has no kernels "
                        f"for other devices, got an array on {device}"
                    )
        checked.append(jnp.asarray(array))
    return tuple(checked)


def _results(op: Op, arrays: Arrays, parameters: Parameters) -> Any:
    """Return shapes and dtypes of the op's results, or raise what its checks raise."""
    shapes = tuple(None if array is None else tuple(array.shape) for array in arrays)
    found = op.shape(shapes, parameters)
    named = dict(zip(op.parameters, parameters, strict=True))
    several = tuple(
        jax.ShapeDtypeStruct(
            shape,
            jax.dtypes.canonicalize_dtype(named[result.dtype]) if result.dtype else arrays[0].dtype,
        )
        for shape, result in zip(
            found if len(op.results) > 1 else (found,), op.results, strict=True
        )
    )
    return several if len(several) > 1 else several[0]


def _run(op: Op, arrays: Arrays, parameters: Parameters) -> Any:
    results = _results(op, arrays, parameters)
    by_handler = op.name in _core.xla_handlers and _handlers_work()
    return (_call_handler if by_handler else _call_python)(op, results, arrays, parameters)


# Functions


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Needed:
    """Which arrays a gradient is taken by: no data, to JAX."""

    flags: tuple[bool, ...]


@functools.lru_cache(maxsize=4096)
def _function_of_arrays(
    name: str, parameters: Parameters, there: tuple[bool, ...]
) -> Callable[..., Any]:
    """Return the op as a function of the arrays that are there."""
    op = TABLE[name]
    places = [place for place, given in enumerate(there) if given]
    several = len(op.results) > 1
    saving = op.for_gradients(parameters)

    def whole(values: Sequence[Any], otherwise: Any = None) -> tuple[Any, ...]:
        by_place = dict(zip(places, values, strict=True))
        return tuple(by_place.get(place, otherwise) for place in range(len(there)))

    def run(*arrays: Any) -> Any:
        return _run(op, whole(arrays), parameters)

    def batched(size: int, flags: Sequence[bool], *arrays: Any) -> tuple[Any, Any]:
        every, with_axis = whole(arrays), whole(flags, otherwise=False)
        found = op.batched(Batch(_CALLS, jnp, size, every, with_axis, parameters))
        return (tuple(found), (True,) * len(found)) if several else (found, True)

    def forward(*inputs: Any) -> tuple[Any, Any]:
        arrays = tuple(each.value for each in inputs)
        needed = _Needed(whole([each.perturbed for each in inputs], otherwise=False))
        # By such a function itself, which an outer derivative can see into.
        results = _function_of_arrays(name, saving, there)(*arrays)
        each_result = results if several else (results,)
        saved = tuple(
            jax.lax.stop_gradient(each_result[i]) if i in op.saves else None
            for i in range(len(op.results))
        )
        if saving != parameters:
            # What is saved may be more than was asked for.
            asked = _results(op, whole(arrays), parameters)
            results = tuple(
                result if result.shape == like.shape else jnp.zeros(like.shape, like.dtype)
                for result, like in zip(results, asked, strict=True)
            )
        return results, (arrays, saved, needed)

    def backward(residuals: Any, grads: Any) -> Arrays:
        arrays, saved, needed = residuals
        used = tuple(
            None if isinstance(grad, SymbolicZero) or not result.differentiable else grad
            for grad, result in zip(grads if several else (grads,), op.results, strict=True)
        )
        if all(grad is None for grad in used):
            return (None,) * len(places)
        call = Backward(_CALLS, jnp, needed.flags, used, whole(arrays), saved, parameters)
        found = op.gradients(call)
        return tuple(found[place] for place in places)

    together = custom_vmap(run)
    together.def_vmap(batched)
    function: Any = jax.custom_vjp(together)
    function.defvjp(forward, backward, symbolic_zeros=True)
    result: Callable[..., Any] = function
    return result


def _call(name: str, *arguments: Any) -> Any:
    """Run an op on arrays and parameters in the table's form."""
    count = len(TABLE[name].arrays)
    arrays, parameters = arguments[:count], arguments[count:]
    there = tuple(array is not None for array in arrays)
    function = _function_of_arrays(name, parameters, there)
    return function(*(array for array in arrays if array is not None))


_CALLS = {name: functools.partial(_call, name) for name in TABLE}


def _call_activated(op: Op, arrays: Arrays, parameters: Parameters, activation: Any) -> Any:
    """Run an op with an activation in registers, or afterwards where a derivative is taken."""
    name, *slope = (activation,) if isinstance(activation, str) else activation

    def fused(*arrays: Any) -> Any:
        return _call(op.name, *arrays, *op.fused(parameters, activation))

    def apart(*arrays: Any) -> Any:
        return _ACTIVATIONS[name](_call(op.name, *arrays, *parameters), *slope)

    def forward(*arrays: Any) -> Any:
        return jax.vjp(apart, *arrays)

    def backward(pullback: Callable[..., Arrays], grad: Any) -> Arrays:
        return pullback(grad)

    function = jax.custom_vjp(fused)
    function.defvjp(forward, backward)
    return function(*arrays)


def _function(op: Op) -> Callable[..., Any]:
    """Return what the user calls."""

    def function(*args: Any, **keywords: Any) -> Any:
        _only_arrays(op, args, keywords)
        arrays, parameters, activation, chosen = op.arguments(*args, **keywords)
        arrays = _check(op, arrays)
        if activation is not None:
            return _call_activated(op, arrays, parameters, activation)
        results = _call(op.name, *arrays, *parameters)
        if len(op.results) == 1:
            return results
        found = tuple(results[i] for i in chosen)
        return found if len(found) > 1 else found[0]

    _describe(
        function,
        op.public,
        f"`fastcv.{op.name}` for JAX: the same arguments without `out`, and differentiable.",
    )
    return function


def _result(dtype: str, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype))


def _pairs_unknown() -> Any:
    raise TypeError(
        "linear_sum_assignment: inside jit and gradients, arrays must have a known size, and how "
        "many pairs there are depends on the costs with cost_limit or nan_policy='forbid'; "
        "linear_sum_assignment_batch gives a column or -1 for each row"
    )


def _known(leaf: Any) -> Any:
    is_known = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    return np.asarray(leaf) if is_known else leaf


def _plain_function(public: Callable[..., Any]) -> Callable[..., Any]:
    name = public.__name__
    signature = inspect.signature(public)

    def plain(*args: Any, **keywords: Any) -> Any:
        given, tree = jax.tree.flatten((args, keywords))
        # Known arrays are read here: a callback would wait for XLA, and XLA for it.
        leaves = [_known(leaf) for leaf in given]
        traced = [leaf for leaf in leaves if isinstance(leaf, jax.core.Tracer)]

        def run(*values: Any) -> Any:
            rest = iter(values)
            arrays = [next(rest) if isinstance(x, jax.core.Tracer) else x for x in leaves]
            all_args, all_keywords = jax.tree.unflatten(tree, arrays)
            return public(*all_args, **all_keywords)

        if not traced:
            return jax.tree.map(jnp.asarray, run())
        bound = signature.bind(*args, **keywords)
        bound.apply_defaults()
        check_options(name, bound.arguments)
        results = RESULTS[name](bound.arguments, Graph(_result, _pairs_unknown))
        return _in_python(run, results, [jax.lax.stop_gradient(each) for each in traced])

    _describe(
        plain,
        public,
        f"`fastcv.{name}` for JAX: the same arguments. Inside `jit` it goes through Python.",
    )
    return plain


def _shown(public: Callable[..., Any]) -> list[inspect.Parameter]:
    return [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(public).parameters.values()
        if parameter.name != "out"
    ]


def _describe(function: Any, public: Callable[..., Any], text: str) -> None:
    function.__name__ = function.__qualname__ = public.__name__
    function.__module__ = __name__
    function.__signature__ = inspect.Signature(_shown(public))
    function.__doc__ = text


_FUNCTIONS = {name: _function(op) for name, op in TABLE.items()} | {
    name: _plain_function(function) for name, function in PLAIN.items()
}

__all__ = sorted(_FUNCTIONS)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


globals().update(_FUNCTIONS)
