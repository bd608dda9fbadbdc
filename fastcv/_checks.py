"""Argument checks shared by the ops. Every error text of the package is made here.

A check returns its argument in the one form that the rest of the package works with (plain
integers, pairs, shapes), or raises before anything has been allocated or written. A valid call pays
for attribute reads and comparisons; what follows from shapes and parameters alone is worked out
once per distinct combination and remembered.
"""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

# What users may pass ...
IntOrPair: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
Padding: TypeAlias = IntOrPair | Sequence[IntOrPair] | Literal["valid", "same"]
Activation: TypeAlias = (
    Literal["relu", "relu6", "sigmoid", "tanh", "silu", "gelu"]
    | tuple[Literal["leaky_relu"], float]
    | None
)
Algorithm: TypeAlias = Literal["auto", "direct", "winograd"]

# ... and what the checks make of it.
Pair: TypeAlias = tuple[int, int]
Sides: TypeAlias = tuple[Pair, Pair]
Shape: TypeAlias = tuple[int, ...]
Shape4: TypeAlias = tuple[int, int, int, int]

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_INDICES = (np.dtype(np.int64), np.dtype(np.int32))
_INT64_MAX = 2**63 - 1
# Elements of eight bytes whose offsets fit in 64 bits.
_MAX_ELEMENTS = 2**60

# The codes that the compiled kernels take.
_PLAIN_ACTIVATIONS = {"relu": 1, "relu6": 2, "sigmoid": 4, "tanh": 5, "silu": 6, "gelu": 7}
_LEAKY_RELU = 3
_ALGORITHMS = {"auto": 0, "direct": 1, "winograd": 2}

# Whether two strided arrays share memory can take exponential time to find out. After this many
# steps numpy.may_share_memory says that they do. (NumPy's stubs know two special values only.)
_OVERLAP_STEPS: Any = 10_000


# Numbers


def integer(op: str, name: str, value: Any, minimum: int, maximum: int = _INT64_MAX) -> int:
    """Return a Python or NumPy integer as a plain int; bool and float are refused."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be an integer, got {_describe(value)}") from None
    if number < minimum:
        raise ValueError(f"{op}: {name} must be at least {minimum}, got {number}")
    if number > maximum:
        raise ValueError(f"{op}: {name} must be at most {maximum}, got {number}")
    return number


def pair(op: str, name: str, value: Any, minimum: int) -> Pair:
    """Return one integer twice, or the two integers of a pair."""
    if type(value) is int and minimum <= value <= _INT64_MAX:
        return value, value
    if type(value) is tuple and len(value) == 2:
        first, second = value
        if (
            type(first) is type(second) is int
            and minimum <= first <= _INT64_MAX
            and minimum <= second <= _INT64_MAX
        ):
            return value
    if not isinstance(value, (tuple, list)):
        number = integer(op, name, value, minimum)
        return number, number
    if len(value) != 2:
        raise ValueError(f"{op}: {name} must be an integer or a pair, got {_describe(value)}")
    first, second = value
    return integer(op, f"{name}[0]", first, minimum), integer(op, f"{name}[1]", second, minimum)


def padding_sides(op: str, value: Any) -> Sides | Literal["same"]:
    """Return ((top, bottom), (left, right)), or "same", whose sides the window decides."""
    if type(value) is not int:
        if isinstance(value, str):
            if value == "same":
                return "same"
            if value == "valid":
                return (0, 0), (0, 0)
            raise ValueError(f'{op}: padding must be "valid", "same" or integers, got {value!r}')
        if isinstance(value, (tuple, list)) and len(value) == 2:
            rows, columns = value
            return pair(op, "padding[0]", rows, 0), pair(op, "padding[1]", columns, 0)
    every_side = pair(op, "padding", value, 0)
    return every_side, every_side


def shape(op: str, name: str, value: Any) -> Shape:
    """Return a shape that is an argument of its own as a tuple of plain integers."""
    if type(value) is tuple:
        for size in value:
            if type(size) is not int or not 0 <= size <= _INT64_MAX:
                break
        else:
            return value
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{op}: {name} must be a tuple of integers, got {_describe(value)}")
    return tuple(integer(op, f"{name}[{axis}]", size, 0) for axis, size in enumerate(value))


def activation(op: str, value: Any) -> tuple[int, float]:
    """Return the activation's code and the slope of the leaky one."""
    if value is None:
        return 0, 0.0
    if isinstance(value, str):
        code = _PLAIN_ACTIVATIONS.get(value)
        if code is not None:
            return code, 0.0
    elif not isinstance(value, tuple):
        raise TypeError(f"{op}: activation must be None, a str or a tuple, got {_describe(value)}")
    elif len(value) == 2 and isinstance(value[0], str) and value[0] == "leaky_relu":
        return _LEAKY_RELU, real(op, "activation[1]", value[1])
    names = ", ".join(repr(name) for name in _PLAIN_ACTIVATIONS)
    raise ValueError(
        f"{op}: activation must be None, {names} or ('leaky_relu', slope), got {_describe(value)}"
    )


def real(op: str, name: str, value: Any) -> float:
    """Return a Python or NumPy number as a plain float; bool is refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{op}: {name} must be a real number, got {_describe(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{op}: {name} must fit in a float64, got {_describe(value)}") from None


def _describe(value: object) -> str:
    return f"{reprlib.repr(value)} ({type(value).__name__})"


# Arrays


def float_arrays(op: str, arrays: Mapping[str, Any]) -> None:
    """Require NumPy arrays of one dtype, float32 or float64 in the machine's own byte order."""
    first_name, first_dtype = "", None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{op}: {name} must be a numpy.ndarray, got {type(array).__name__}")
        dtype = array.dtype
        if dtype not in _FLOATS:
            raise TypeError(
                f"{op}: {name}.dtype must be float32 or float64 in native byte order, got {dtype}"
            )
        if first_dtype is None:
            first_name, first_dtype = name, dtype
        elif dtype != first_dtype:
            raise TypeError(
                f"{op}: {name}.dtype must equal {first_name}.dtype, got {dtype} != {first_dtype}"
            )


def index_array(op: str, array: Any) -> None:
    """Require indices in a NumPy array of int64 or int32 in the machine's own byte order."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{op}: indices must be a numpy.ndarray, got {type(array).__name__}")
    if array.dtype not in _INDICES:
        raise TypeError(
            f"{op}: indices.dtype must be int64 or int32 in native byte order, got {array.dtype}"
        )


def index_dtype(op: str, value: Any) -> np.dtype[Any]:
    """Return the dtype that indices are asked for in."""
    if value is np.int64:
        return _INDICES[0]
    try:
        wanted = None if value is None else np.dtype(value)
    except TypeError:
        wanted = None
    for dtype in _INDICES:
        if wanted == dtype:
            return dtype
    raise TypeError(f"{op}: index_dtype must be int64 or int32, got {_describe(value)}")


def index_error(op: str, indices: NDArray[Any], height: int, width: int) -> IndexError:
    """Name the first index, in row-major order, that is outside its plane."""
    relation = "must be at least 0 and less than H * W"
    for place in np.argwhere((indices < 0) | (indices >= height * width))[:1]:
        position = tuple(map(int, place))
        return IndexError(
            f"{op}: indices{list(position)} {relation}, got {indices[position]} and "
            f"{height} * {width} (indices {indices.shape})"
        )
    # Another thread has written to the array in the meantime.
    return IndexError(f"{op}: indices {relation}, {height} * {width} (indices {indices.shape})")


def equal_shapes(op: str, name: str, actual: Shape, relation: str, expected: Shape) -> None:
    """Require `actual`, the shape called `name`, to be `expected`, which `relation` explains."""
    if actual != expected:
        raise ValueError(f"{op}: {name} must equal {relation}, got {actual} != {expected}")


def output_array(op: str, out: Any, expected_shape: Shape, inputs: dict[str, NDArray[Any]]) -> None:
    """Require an `out` that can take the result and that writing to changes nothing else."""
    float_arrays(op, inputs | {"out": out})
    equal_shapes(op, "out.shape", out.shape, "the shape of the result", expected_shape)
    if not out.flags.writeable:
        raise ValueError(f"{op}: out must be writable, got a read-only array")
    if not _axes_nest(out):
        raise ValueError(
            f"{op}: out must not overlap itself, got strides {out.strides} for shape {out.shape}"
        )
    for name, array in inputs.items():
        if np.may_share_memory(out, array, max_work=_OVERLAP_STEPS):
            raise ValueError(f"{op}: out must not overlap {name}, got arrays that share memory")


def _axes_nest(array: NDArray[Any]) -> bool:
    """Whether each axis steps over all that the finer axes cover, so that no two elements meet."""
    if array.flags.c_contiguous:
        return True
    covered = array.itemsize
    for stride, size in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if size > 1:
            if stride < covered:
                return False
            covered += stride * (size - 1)
    return True


# Convolution


class Conv2dParameters(NamedTuple):
    """The parameters of a convolution, checked. "same" padding waits for the window."""

    stride: Pair
    padding: Sides | Literal["same"]
    dilation: Pair
    groups: int


class Conv2dGeometry(NamedTuple):
    """What a convolution's shapes and parameters amount to."""

    input_shape: Shape4
    output_shape: Shape4
    result_shape: Shape  # output_shape, without the batch axis where the input has none
    padding: Pair  # top, left


def conv2d_parameters(
    op: str, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Conv2dParameters:
    """Check the parameters that shapes play no part in."""
    parameters = Conv2dParameters(
        pair(op, "stride", stride, 1),
        padding_sides(op, padding),
        pair(op, "dilation", dilation, 1),
        integer(op, "groups", groups, 1),
    )
    if parameters.padding == "same" and parameters.stride != (1, 1):
        raise ValueError(f'{op}: padding "same" needs stride 1, got stride {parameters.stride}')
    return parameters


def conv2d_weight(op: str, name: str, weight_shape: Shape, groups: int) -> None:
    """Check the weight's shape as far as the input plays no part in it."""
    weight = _named({name: weight_shape})
    if len(weight_shape) != 4:
        raise ValueError(
            f"{op}: {name} must have 4 axes (K, C // groups, R, S), "
            f"got {len(weight_shape)} {weight}"
        )
    filters, _, rows, columns = weight_shape
    if filters == 0 or filters % groups:
        raise ValueError(
            f"{op}: {name}[0] must be a positive multiple of groups, got {filters} and {groups} "
            f"{weight}"
        )
    if rows == 0 or columns == 0:
        raise ValueError(f"{op}: {name}[2:] must be at least 1, got {rows} x {columns} {weight}")
    fits(op, name, weight_shape)


def conv2d_bias(op: str, bias_shape: Shape, weight_shape: Shape) -> None:
    """Require one bias per filter."""
    equal_shapes(op, "bias.shape", bias_shape, "(weight.shape[0],)", weight_shape[:1])


def conv2d_grad_output(op: str, grad_shape: Shape, geometry: Conv2dGeometry) -> None:
    """Require a gradient in the shape of the convolution's output."""
    relation = "the shape of the convolution's output"
    equal_shapes(op, "grad_output.shape", grad_shape, relation, geometry.result_shape)


def conv2d_sides(weight_shape: Shape, parameters: Conv2dParameters) -> Sides:
    """Return ((top, bottom), (left, right)). Where "same" is odd, bottom and right get more."""
    if parameters.padding != "same":
        return parameters.padding
    row_span = parameters.dilation[0] * (weight_shape[2] - 1)
    column_span = parameters.dilation[1] * (weight_shape[3] - 1)
    return (
        (row_span // 2, row_span - row_span // 2),
        (column_span // 2, column_span - column_span // 2),
    )


def conv2d_algorithm(op: str, value: Any, weight_shape: Shape, stride: Pair, dilation: Pair) -> int:
    """Return the algorithm's code, if a convolution with these parameters can have it."""
    code = _ALGORITHMS.get(value) if isinstance(value, str) else None
    if code is None:
        names = ", ".join(repr(name) for name in _ALGORITHMS)
        wrong = ValueError if isinstance(value, str) else TypeError
        raise wrong(f"{op}: algorithm must be one of {names}, got {_describe(value)}")
    if value == "winograd" and not _winograd_applies(weight_shape[2:], stride, dilation):
        raise ValueError(
            f"{op}: algorithm 'winograd' needs a window of 2 to 121 taps and, along a stride, no "
            f"dilation and at most 5 taps a stride apart, got weight.shape[2:] "
            f"{weight_shape[2:]}, stride {stride} and dilation {dilation}"
        )
    return code


def _winograd_applies(window: Shape, stride: Pair, dilation: Pair) -> bool:
    along_strides = (
        taps == 1 or step == 1 or (distance == 1 and taps <= 5 * step)
        for taps, step, distance in zip(window, stride, dilation, strict=True)
    )
    return 1 < math.prod(window) <= 121 and all(along_strides)


@lru_cache(maxsize=256)
def conv2d_geometry(
    op: str,
    input_shape: Shape,
    weight_shape: Shape,
    parameters: Conv2dParameters,
    input_name: str = "input.shape",
    weight_name: str = "weight.shape",
) -> Conv2dGeometry:
    """Check shapes against each other and work out the output's."""
    stride, _, dilation, groups = parameters
    conv2d_weight(op, weight_name, weight_shape, groups)
    shapes = _named({input_name: input_shape, weight_name: weight_shape})

    if len(input_shape) not in (3, 4):
        raise ValueError(
            f"{op}: {input_name} must have 4 axes (N, C, H, W) or 3 (C, H, W), "
            f"got {len(input_shape)} {shapes}"
        )
    batch_axes = len(input_shape) - 3
    batch, channels, height, width = (1,) * (1 - batch_axes) + input_shape
    filters, group_channels = weight_shape[:2]
    if channels % groups:
        raise ValueError(
            f"{op}: {input_name}[{batch_axes}] must be a multiple of groups, "
            f"got {channels} and {groups} {shapes}"
        )
    if group_channels != channels // groups:
        raise ValueError(
            f"{op}: {weight_name}[1] must equal {input_name}[{batch_axes}] // groups, "
            f"got {group_channels} != {channels} // {groups} {shapes}"
        )
    if batch and channels and not (height and width):
        raise ValueError(
            f"{op}: {input_name}[{batch_axes + 1}:] must be at least 1 unless there are no images "
            f"or no channels, got {height} x {width} {shapes}"
        )

    sides = conv2d_sides(weight_shape, parameters)
    padded: list[int] = []
    extents: list[int] = []
    for axis, size in enumerate((height, width)):
        taps = weight_shape[2 + axis]
        window = dilation[axis] * (taps - 1) + 1
        before, after = sides[axis]
        if window > size + before + after:
            raise ValueError(
                f"{op}: dilation[{axis}] * ({weight_name}[{2 + axis}] - 1) + 1 must be at most "
                f"{input_name}[{batch_axes + 1 + axis}] + padding, got {dilation[axis]} * "
                f"({taps} - 1) + 1 > {size} + {before} + {after} {shapes}"
            )
        padded.append(size + before + after)
        extents.append(output_extent(padded[axis], window, stride[axis]))

    output_shape = (batch, filters, extents[0], extents[1])
    fits(op, "the padded input", (batch, channels, *padded))
    fits(op, "the output", output_shape)
    return Conv2dGeometry(
        input_shape=(batch, channels, height, width),
        output_shape=output_shape,
        result_shape=output_shape[1 - batch_axes :],
        padding=(sides[0][0], sides[1][0]),
    )


def output_extent(padded: int, window: int, stride: int) -> int:
    """How often a window of `window` pixels fits into `padded` pixels in steps of `stride`."""
    return (padded - window) // stride + 1


# Gram matrices


def gram_matrix_shape(op: str, input_shape: Shape) -> Shape:
    """Return the shape of an image's Gram matrix, (N, C, C) or (C, C)."""
    if len(input_shape) not in (3, 4):
        raise ValueError(
            f"{op}: input.shape must have 4 axes (N, C, H, W) or 3 (C, H, W), "
            f"got {len(input_shape)} {_named({'input': input_shape})}"
        )
    result = (*input_shape[:-3], input_shape[-3], input_shape[-3])
    fits(op, "the result", result)
    return result


def gram_matrix_scale(op: str, scale: Any, input_shape: Shape) -> float:
    """Return the factor as a float; None is one over the number of values in an image."""
    if scale is None:
        return 1.0 / (math.prod(input_shape[-3:]) or 1)
    return real(op, "scale", scale)


# Transposed convolution


class ConvTranspose2dParameters(NamedTuple):
    """The parameters of a transposed convolution, checked."""

    stride: Pair
    padding: Pair
    output_padding: Pair
    dilation: Pair
    groups: int


class ConvTranspose2dGeometry(NamedTuple):
    """What a transposed convolution's shapes and parameters amount to."""

    input_shape: Shape4
    output_shape: Shape4
    result_shape: Shape  # output_shape, without the batch axis where the input has none


def conv_transpose2d_parameters(
    op: str, stride: Any, padding: Any, output_padding: Any, groups: Any, dilation: Any
) -> ConvTranspose2dParameters:
    """Check the parameters that shapes play no part in."""
    parameters = ConvTranspose2dParameters(
        pair(op, "stride", stride, 1),
        pair(op, "padding", padding, 0),
        pair(op, "output_padding", output_padding, 0),
        pair(op, "dilation", dilation, 1),
        integer(op, "groups", groups, 1),
    )
    for axis in (0, 1):
        step, distance = parameters.stride[axis], parameters.dilation[axis]
        if parameters.output_padding[axis] >= max(step, distance):
            raise ValueError(
                f"{op}: output_padding[{axis}] must be less than stride[{axis}] or "
                f"dilation[{axis}], got {parameters.output_padding[axis]} >= "
                f"max({step}, {distance})"
            )
    return parameters


def conv_transpose2d_weight(op: str, name: str, weight_shape: Shape, groups: int) -> None:
    """Check the weight's shape as far as the input plays no part in it."""
    weight = _named({name: weight_shape})
    if len(weight_shape) != 4:
        raise ValueError(
            f"{op}: {name} must have 4 axes (C, K // groups, R, S), "
            f"got {len(weight_shape)} {weight}"
        )
    channels, group_filters, rows, columns = weight_shape
    if channels == 0 or channels % groups:
        raise ValueError(
            f"{op}: {name}[0] must be a positive multiple of groups, got {channels} and {groups} "
            f"{weight}"
        )
    if group_filters == 0:
        raise ValueError(f"{op}: {name}[1] must be at least 1, got 0 {weight}")
    if rows == 0 or columns == 0:
        raise ValueError(f"{op}: {name}[2:] must be at least 1, got {rows} x {columns} {weight}")
    fits(op, name, weight_shape)


def conv_transpose2d_bias(op: str, bias_shape: Shape, weight_shape: Shape, groups: int) -> None:
    """Require one bias per output channel."""
    expected = (weight_shape[1] * groups,)
    equal_shapes(op, "bias.shape", bias_shape, "(weight.shape[1] * groups,)", expected)


def conv_transpose2d_grad_output(
    op: str, grad_shape: Shape, geometry: ConvTranspose2dGeometry
) -> None:
    """Require a gradient in the shape of the transposed convolution's output."""
    relation = "the shape of the transposed convolution's output"
    equal_shapes(op, "grad_output.shape", grad_shape, relation, geometry.result_shape)


@lru_cache(maxsize=256)
def conv_transpose2d_geometry(
    op: str,
    input_shape: Shape,
    weight_shape: Shape,
    parameters: ConvTranspose2dParameters,
    input_name: str = "input.shape",
    weight_name: str = "weight.shape",
) -> ConvTranspose2dGeometry:
    """Check shapes against each other and work out the output's."""
    stride, padding, output_padding, dilation, groups = parameters
    conv_transpose2d_weight(op, weight_name, weight_shape, groups)
    shapes = _named({input_name: input_shape, weight_name: weight_shape})

    if len(input_shape) not in (3, 4):
        raise ValueError(
            f"{op}: {input_name} must have 4 axes (N, C, H, W) or 3 (C, H, W), "
            f"got {len(input_shape)} {shapes}"
        )
    batch_axes = len(input_shape) - 3
    batch, channels, height, width = (1,) * (1 - batch_axes) + input_shape
    if weight_shape[0] != channels:
        raise ValueError(
            f"{op}: {weight_name}[0] must equal {input_name}[{batch_axes}], "
            f"got {weight_shape[0]} != {channels} {shapes}"
        )
    if batch and not (height and width):
        raise ValueError(
            f"{op}: {input_name}[{batch_axes + 1}:] must be at least 1 unless there are no images, "
            f"got {height} x {width} {shapes}"
        )

    filters = weight_shape[1] * groups
    reaches: list[int] = []
    extents: list[int] = []
    for axis, size in enumerate((height, width)):
        taps, step, distance = weight_shape[2 + axis], stride[axis], dilation[axis]
        # What all windows cover together, and the rows or columns that are appended.
        reach = (size - 1) * step + distance * (taps - 1) + 1 + output_padding[axis]
        if reach - 2 * padding[axis] < 1:
            raise ValueError(
                f"{op}: ({input_name}[{batch_axes + 1 + axis}] - 1) * stride[{axis}] - "
                f"2 * padding[{axis}] + dilation[{axis}] * ({weight_name}[{2 + axis}] - 1) + "
                f"output_padding[{axis}] + 1 must be at least 1, got ({size} - 1) * {step} - "
                f"2 * {padding[axis]} + {distance} * ({taps} - 1) + {output_padding[axis]} + 1 = "
                f"{reach - 2 * padding[axis]} {shapes}"
            )
        reaches.append(reach)
        extents.append(reach - 2 * padding[axis])

    output_shape = (batch, filters, extents[0], extents[1])
    fits(op, "the output with its padding", (batch, filters, *reaches))
    fits(op, "the input", (batch, channels, height, width))
    return ConvTranspose2dGeometry(
        input_shape=(batch, channels, height, width),
        output_shape=output_shape,
        result_shape=output_shape[1 - batch_axes :],
    )


# Pooling


class Pool2dParameters(NamedTuple):
    """A pooling's window, checked."""

    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil_mode: bool


class Pool2dGeometry(NamedTuple):
    """What a pooling's or unpooling's shapes and parameters amount to."""

    output_shape: Shape4
    result_shape: Shape  # output_shape, without the batch axis where the input has none


def pool2d_parameters(
    op: str,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any = 1,
    ceil_mode: Any = False,
) -> Pool2dParameters:
    """Check the parameters that shapes play no part in."""
    window = pair(op, "kernel_size", kernel_size, 1)
    return Pool2dParameters(
        window,
        window if stride is None else pair(op, "stride", stride, 1),
        pair(op, "padding", padding, 0),
        pair(op, "dilation", dilation, 1),
        boolean(op, "ceil_mode", ceil_mode),
    )


def _planes(op: str, name: str, sizes: Shape) -> Shape4:
    """Return (N, C, H, W) of an image with or without a batch axis, none but N of size 0."""
    if len(sizes) not in (3, 4):
        raise ValueError(
            f"{op}: {name} must have 4 axes (N, C, H, W) or 3 (C, H, W), "
            f"got {len(sizes)} {_named({name: sizes})}"
        )
    fits(op, name, sizes)
    channels, height, width = sizes[-3:]
    if not (channels and height and width):
        raise ValueError(
            f"{op}: {name}[{len(sizes) - 3}:] must be at least 1, "
            f"got {channels} x {height} x {width} {_named({name: sizes})}"
        )
    return (sizes[0] if len(sizes) == 4 else 1, channels, height, width)


@lru_cache(maxsize=256)
def max_pool2d_geometry(
    op: str, input_shape: Shape, parameters: Pool2dParameters
) -> Pool2dGeometry:
    """Check the input's shape against the window and work out the output's."""
    batch, channels, *plane = _planes(op, "input.shape", input_shape)
    extents: list[int] = []
    for axis, size in enumerate(plane):
        taps, step = parameters.kernel_size[axis], parameters.stride[axis]
        padding, distance = parameters.padding[axis], parameters.dilation[axis]
        if padding > taps // 2:
            raise ValueError(
                f"{op}: padding[{axis}] must be at most kernel_size[{axis}] // 2, "
                f"got {padding} > {taps} // 2"
            )
        window = distance * (taps - 1) + 1
        spare = step - 1 if parameters.ceil_mode else 0
        if window > size + 2 * padding + spare:
            more = f" + stride[{axis}] - 1" if spare else ""
            raise ValueError(
                f"{op}: dilation[{axis}] * (kernel_size[{axis}] - 1) + 1 must be at most "
                f"input.shape[{len(input_shape) - 2 + axis}] + 2 * padding[{axis}]{more}, got "
                f"{distance} * ({taps} - 1) + 1 > {size} + 2 * {padding}"
                f"{f' + {step} - 1' if spare else ''} {_named({'input.shape': input_shape})}"
            )
        extent = output_extent(size + 2 * padding + spare, window, step)
        # With ceil_mode, the last window has to start inside the image or its left padding.
        if parameters.ceil_mode and (extent - 1) * step >= size + padding:
            extent -= 1
        extents.append(extent)
    output_shape = (batch, channels, extents[0], extents[1])
    fits(op, "the output", output_shape)
    return Pool2dGeometry(output_shape, output_shape[4 - len(input_shape) :])


def max_pool2d_index_dtype(op: str, dtype: np.dtype[Any], input_shape: Shape) -> None:
    """Require that the dtype holds every position of a plane."""
    height, width = input_shape[-2:]
    if dtype.itemsize == 4 and height * width >= 2**31:
        raise ValueError(
            f"{op}: H * W must be less than 2**31 for index_dtype int32, got {height} * {width}"
        )


@lru_cache(maxsize=256)
def max_pool2d_grad_shapes(
    op: str, grad_shape: Shape, indices_shape: Shape, input_shape: Shape
) -> None:
    """Require one index for each gradient, and an input of as many planes."""
    equal_shapes(op, "indices.shape", indices_shape, "grad_output.shape", grad_shape)
    _planes(op, "input_shape", input_shape)
    shapes = _named({"grad_output": grad_shape, "input_shape": input_shape})
    if len(grad_shape) != len(input_shape) or grad_shape[:-2] != input_shape[:-2]:
        raise ValueError(
            f"{op}: grad_output.shape[:-2] must equal input_shape[:-2], "
            f"got {grad_shape[:-2]} != {input_shape[:-2]} {shapes}"
        )


@lru_cache(maxsize=256)
def max_unpool2d_geometry(
    op: str,
    input_shape: Shape,
    indices_shape: Shape,
    parameters: Pool2dParameters,
    output_size: Shape | None,
) -> Pool2dGeometry:
    """Check shapes against each other and work out the output's."""
    equal_shapes(op, "indices.shape", indices_shape, "input.shape", input_shape)
    batch, channels, *plane = _planes(op, "input.shape", input_shape)
    if output_size is not None and len(output_size) not in (2, 4):
        raise ValueError(
            f"{op}: output_size must have 2 axes (H, W) or 4 (N, C, H, W), "
            f"got {len(output_size)} (output_size {output_size})"
        )
    extents: list[int] = []
    for axis, size in enumerate(plane):
        taps, step = parameters.kernel_size[axis], parameters.stride[axis]
        padding = parameters.padding[axis]
        usual = (size - 1) * step - 2 * padding + taps
        if output_size is None:
            if usual < 0:
                raise ValueError(
                    f"{op}: (input.shape[{len(input_shape) - 2 + axis}] - 1) * stride[{axis}] "
                    f"- 2 * padding[{axis}] + kernel_size[{axis}] must be at least 0, got "
                    f"({size} - 1) * {step} - 2 * {padding} + {taps}"
                )
            extents.append(usual)
            continue
        extent = output_size[axis - 2]
        if not usual - step < extent < usual + step:
            raise ValueError(
                f"{op}: output_size[{axis - 2}] must be between {usual - step + 1} and "
                f"{usual + step - 1}, less than stride[{axis}] from the usual {usual}, got {extent}"
            )
        extents.append(extent)
    output_shape = (batch, channels, extents[0], extents[1])
    fits(op, "the output", output_shape)
    return Pool2dGeometry(output_shape, output_shape[4 - len(input_shape) :])


@lru_cache(maxsize=256)
def max_unpool2d_grad_shapes(op: str, grad_shape: Shape, indices_shape: Shape) -> None:
    """Require indices into the planes of the gradient."""
    _planes(op, "indices.shape", indices_shape)
    shapes = _named({"grad_output": grad_shape, "indices": indices_shape})
    if len(grad_shape) != len(indices_shape) or grad_shape[:-2] != indices_shape[:-2]:
        raise ValueError(
            f"{op}: grad_output.shape[:-2] must equal indices.shape[:-2], "
            f"got {grad_shape[:-2]} != {indices_shape[:-2]} {shapes}"
        )


# Texts


# Attention


class AttentionGeometry(NamedTuple):
    """What the shapes of queries, keys and values amount to."""

    batch: Shape  # the axes before the heads, broadcast
    heads: int
    kv_heads: int
    queries: int
    keys: int
    columns: int  # of queries and keys
    value_columns: int
    rows_shape: Shape  # (*batch, heads, queries), without the heads where no input has them


class AttentionCall(NamedTuple):
    """The arguments of an attention, checked."""

    geometry: AttentionGeometry
    kv_lengths: NDArray[np.int64] | None
    parameters: dict[str, Any]  # what the kernels take by these names


_MAX_BATCH_AXES = 8


def boolean(op: str, name: str, value: Any) -> bool:
    """Return a Python or NumPy bool as a plain one; nothing else is taken for true or false."""
    if value is False or value is True:
        return value
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{op}: {name} must be a bool, got {_describe(value)}")
    return bool(value)


def attention(
    op: str,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    dropout_p: Any,
    is_causal: Any,
    scale: Any,
    enable_gqa: Any,
    causal_alignment: Any,
    softcap: Any,
    window: Any,
    kv_lengths: Any,
    seed: Any,
) -> AttentionCall:
    """Check what forward and gradient have in common."""
    float_arrays(op, {"query": query, "key": key, "value": value})
    geometry = attention_geometry(
        op, query.shape, key.shape, value.shape, boolean(op, "enable_gqa", enable_gqa)
    )
    if attn_mask is not None:
        _attention_mask(op, attn_mask, query.dtype, geometry)
    if kv_lengths is not None:
        kv_lengths = _key_lengths(op, kv_lengths, geometry)
    dropout = real(op, "dropout_p", dropout_p)
    if not 0 <= dropout <= 1:
        raise ValueError(f"{op}: dropout_p must be from 0 to 1, got {dropout}")
    if seed is not None:
        seed = integer(op, "seed", seed, 0, 2**64 - 1)
    elif dropout > 0:
        raise ValueError(f"{op}: dropout_p above 0 needs a seed, got dropout_p {dropout} and None")
    cap = real(op, "softcap", softcap)
    if not 0 <= cap < math.inf:
        raise ValueError(f"{op}: softcap must be at least 0 and finite, got {cap}")
    if scale is None:
        factor = 1 / math.sqrt(geometry.columns) if geometry.columns else 1.0
    else:
        factor = real(op, "scale", scale)
    left, right = _attention_window(op, window, geometry)
    if boolean(op, "is_causal", is_causal):
        right = 0
    if not isinstance(causal_alignment, str):
        raise TypeError(
            f"{op}: causal_alignment must be 'top_left' or 'bottom_right', "
            f"got {_describe(causal_alignment)}"
        )
    if causal_alignment not in ("top_left", "bottom_right"):
        raise ValueError(
            f"{op}: causal_alignment must be 'top_left' or 'bottom_right', got {causal_alignment!r}"
        )
    parameters = {
        "scale": factor,
        "softcap": cap,
        "left": left,
        "right": right,
        "bottom_right": causal_alignment == "bottom_right",
        "dropout": dropout,
        "seed": seed or 0,
    }
    return AttentionCall(geometry, kv_lengths, parameters)


@lru_cache(maxsize=256)
def attention_geometry(
    op: str, query_shape: Shape, key_shape: Shape, value_shape: Shape, enable_gqa: bool
) -> AttentionGeometry:
    """Check shapes against each other and work out the result's."""
    all_shapes = {"query": query_shape, "key": key_shape, "value": value_shape}
    shapes = _named(all_shapes)
    for name, sizes in all_shapes.items():
        if not 2 <= len(sizes) <= 3 + _MAX_BATCH_AXES:
            raise ValueError(
                f"{op}: {name}.shape must have from 2 to {3 + _MAX_BATCH_AXES} axes "
                f"(..., heads, rows, columns), got {len(sizes)} {shapes}"
            )
        fits(op, name, sizes)
    if query_shape[-1] != key_shape[-1]:
        raise ValueError(
            f"{op}: key.shape[-1] must equal query.shape[-1], "
            f"got {key_shape[-1]} != {query_shape[-1]} {shapes}"
        )
    if key_shape[-2] != value_shape[-2]:
        raise ValueError(
            f"{op}: value.shape[-2] must equal key.shape[-2], "
            f"got {value_shape[-2]} != {key_shape[-2]} {shapes}"
        )
    with_heads = [(1,) * (3 - len(sizes)) + sizes for sizes in all_shapes.values()]
    try:
        batch = _broadcast([sizes[:-3] for sizes in with_heads])
    except ValueError:
        raise ValueError(
            f"{op}: the axes before the heads must broadcast, got {shapes[1:-1]}"
        ) from None
    heads, key_heads, value_heads = (sizes[-3] for sizes in with_heads)
    kv_heads = value_heads if key_heads == 1 else key_heads
    if value_heads not in (1, kv_heads):
        raise ValueError(
            f"{op}: value.shape[-3] must equal key.shape[-3] or one of them be 1, "
            f"got {value_heads} != {key_heads} {shapes}"
        )
    if enable_gqa:
        if kv_heads == 0 or heads % kv_heads:
            raise ValueError(
                f"{op}: with enable_gqa query.shape[-3] must be a multiple of key.shape[-3], "
                f"got {heads} and {kv_heads} {shapes}"
            )
    elif kv_heads != heads and 1 not in (heads, kv_heads):
        raise ValueError(
            f"{op}: query.shape[-3] must equal key.shape[-3] or one of them be 1 unless "
            f"enable_gqa, got {heads} != {kv_heads} {shapes}"
        )
    else:
        heads = kv_heads if heads == 1 else heads
    has_heads = max(map(len, all_shapes.values())) > 2
    rows_shape = (*batch, *((heads,) * has_heads), query_shape[-2])
    fits(op, "the output", (*rows_shape, value_shape[-1]))
    return AttentionGeometry(
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        queries=query_shape[-2],
        keys=key_shape[-2],
        columns=query_shape[-1],
        value_columns=value_shape[-1],
        rows_shape=rows_shape,
    )


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    """`np.broadcast_shapes` for sizes that may be a framework's symbols."""
    axes = max(map(len, shapes))
    result: list[int] = []
    for sizes in zip(*((1,) * (axes - len(shape)) + shape for shape in shapes), strict=True):
        size = next((size for size in sizes if size != 1), 1)
        if any(other not in (1, size) for other in sizes):
            raise ValueError("shapes do not broadcast")
        result.append(size)
    return tuple(result)


def _attention_mask(op: str, mask: Any, dtype: np.dtype[Any], geometry: AttentionGeometry) -> None:
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"{op}: attn_mask must be a numpy.ndarray, got {type(mask).__name__}")
    if mask.dtype not in (dtype, np.dtype(bool)):
        raise TypeError(
            f"{op}: attn_mask.dtype must be bool or query.dtype, got {mask.dtype} and {dtype}"
        )
    full = (*geometry.rows_shape, geometry.keys)
    short = full[len(full) - mask.ndim :]
    if mask.ndim > len(full) or any(
        size not in (1, whole) for size, whole in zip(mask.shape, short, strict=True)
    ):
        raise ValueError(
            f"{op}: attn_mask.shape must broadcast to (..., Hq, L, S), got {mask.shape} and {full}"
        )


def _key_lengths(op: str, lengths: Any, geometry: AttentionGeometry) -> NDArray[np.int64]:
    if not isinstance(lengths, np.ndarray):
        raise TypeError(f"{op}: kv_lengths must be a numpy.ndarray, got {type(lengths).__name__}")
    if not np.issubdtype(lengths.dtype, np.integer):
        raise TypeError(f"{op}: kv_lengths.dtype must be an integer type, got {lengths.dtype}")
    expected = geometry.batch or (1,)
    equal_shapes(
        op, "kv_lengths.shape", lengths.shape, "the axes of query before the heads", expected
    )
    if lengths.size and not 0 <= int(lengths.min()) <= int(lengths.max()) <= geometry.keys:
        raise ValueError(
            f"{op}: kv_lengths must be from 0 to key.shape[-2], got {int(lengths.min())} to "
            f"{int(lengths.max())} and {geometry.keys} keys"
        )
    return np.ascontiguousarray(lengths, np.int64)


def _attention_window(op: str, window: Any, geometry: AttentionGeometry) -> Pair:
    if window is None:
        return -1, -1
    if not isinstance(window, (tuple, list)):
        raise TypeError(f"{op}: window must be None or a pair of integers, got {_describe(window)}")
    # What reaches beyond all keys is no limit, and has to leave room for adding a position.
    reach = geometry.queries + geometry.keys
    left, right = (min(size, reach) for size in pair(op, "window", window, -1))
    return left, right


def attention_gradient(
    op: str,
    grad_output: Any,
    query: Any,
    output: Any,
    lse: Any,
    attn_mask: Any,
    geometry: AttentionGeometry,
    need_mask_grad: Any,
) -> bool:
    """Check what the gradient takes beyond the forward's arguments; return `need_mask_grad`."""
    arrays = {"query": query, "grad_output": grad_output, "output": output, "lse": lse}
    float_arrays(op, arrays)
    shape_of_output = (*geometry.rows_shape, geometry.value_columns)
    relation = "the shape of the attention's output"
    equal_shapes(op, "grad_output.shape", grad_output.shape, relation, shape_of_output)
    equal_shapes(op, "output.shape", output.shape, relation, shape_of_output)
    equal_shapes(op, "lse.shape", lse.shape, "output.shape[:-1]", geometry.rows_shape)
    needed = boolean(op, "need_mask_grad", need_mask_grad)
    if needed and (attn_mask is None or attn_mask.dtype == np.dtype(bool)):
        kind = "None" if attn_mask is None else "a boolean mask"
        raise ValueError(f"{op}: need_mask_grad needs an additive attn_mask, got {kind}")
    return needed


def _named(shapes: Mapping[str, Shape]) -> str:
    texts = (f"{name.removesuffix('.shape')} {sizes}" for name, sizes in shapes.items())
    return f"({', '.join(texts)})"


def fits(op: str, name: str, sizes: Shape) -> None:
    """Require fewer elements than 64 bits can give offsets to."""
    # NumPy bounds the product of the sizes that are not zero, even for an array with no elements.
    if math.prod([size or 1 for size in sizes]) >= _MAX_ELEMENTS:
        raise ValueError(
            f"{op}: {name} must have fewer than 2**60 elements, got {' * '.join(map(str, sizes))}"
        )


# Assignment


def cost_matrix(op: str, name: str, value: Any) -> NDArray[Any]:
    """Return costs as a 2-D array of float32 or float64 in native byte order, as they are if so.

    Whatever else NumPy casts safely to float64, lists included, is cast. The texts hold SciPy's.
    """
    costs: NDArray[Any] = value if type(value) is np.ndarray else np.asarray(value)
    if costs.ndim != 2:
        raise ValueError(
            f"{op}: expected a matrix (2-D array) as {name}, got a {costs.ndim}-D array of shape "
            f"{costs.shape}"
        )
    return _real_costs(op, name, costs)


def _real_costs(op: str, name: str, costs: NDArray[Any]) -> NDArray[Any]:
    if costs.dtype in _FLOATS:
        return costs
    if not np.can_cast(costs.dtype, np.float64, "safe"):
        raise TypeError(
            f"{op}: Cannot cast array data from {costs.dtype!r} to dtype('float64') according to "
            f"the rule 'safe', {name} must have real numbers"
        )
    return costs.astype(np.float64)


def cost_matrices(op: str, value: Any) -> NDArray[Any] | list[NDArray[Any]]:
    """Return the costs of many problems: an array with three axes, or a list of matrices."""
    if isinstance(value, np.ndarray):
        if value.ndim != 3:
            raise ValueError(
                f"{op}: costs must be an array with 3 axes (B, n, m) or a list of matrices, got "
                f"{value.ndim} axes (costs {value.shape})"
            )
        return _real_costs(op, "costs", value)
    if not isinstance(value, (list, tuple)):
        raise TypeError(
            f"{op}: costs must be a numpy.ndarray with 3 axes or a list of matrices, got "
            f"{type(value).__name__}"
        )
    return [cost_matrix(op, f"costs[{index}]", costs) for index, costs in enumerate(value)]


def problem_sizes(
    op: str, value: Any, costs: NDArray[Any] | list[NDArray[Any]]
) -> NDArray[np.int64] | None:
    """Return the used part of each problem as a contiguous (B, 2), or None for all of it."""
    if value is None:
        return None
    sizes: NDArray[Any] = np.asarray(value)
    expected = (len(costs), 2)
    if sizes.shape != expected:
        raise ValueError(f"{op}: sizes.shape must equal (B, 2), got {sizes.shape} != {expected}")
    if sizes.dtype.kind not in "iu" and sizes.size:
        raise TypeError(f"{op}: sizes.dtype must be an integer type, got {sizes.dtype}")
    shapes = (
        np.broadcast_to(costs.shape[1:], expected)
        if isinstance(costs, np.ndarray)
        else np.array([each.shape for each in costs], np.int64).reshape(expected)
    )
    wrong = np.argwhere((sizes < 0) | (sizes > shapes))
    if len(wrong):
        problem, axis = (int(index) for index in wrong[0])
        raise ValueError(
            f"{op}: sizes[{problem}, {axis}] must be from 0 to {shapes[problem, axis]}, the size "
            f"of costs[{problem}], got {sizes[problem, axis]}"
        )
    return np.ascontiguousarray(sizes, np.int64)


def cost_limit(op: str, value: Any, maximize: bool) -> float:
    """Return the limit as a float, which is infinite where there is none."""
    if value is None:
        return -math.inf if maximize else math.inf
    limit = real(op, "cost_limit", value)
    if math.isnan(limit):
        raise ValueError(f"{op}: cost_limit must be a number or None, got nan")
    return limit


def nan_policy(op: str, value: Any) -> bool:
    """Return whether NaN pairs are forbidden rather than refused."""
    if isinstance(value, str) and value in ("raise", "forbid"):
        return value == "forbid"
    wrong = ValueError if isinstance(value, str) else TypeError
    raise wrong(f"{op}: nan_policy must be 'raise' or 'forbid', got {_describe(value)}")


def cost_fault(name: str, costs: NDArray[Any], fault: tuple[str, int, int, int]) -> str:
    """Say what the kernel found wrong with a matrix, in SciPy's words and then in numbers."""
    kind, _, row, column = fault
    if kind == "invalid":
        return (
            f"matrix contains invalid numeric entries, got {name}[{row}, {column}] = "
            f"{costs[row, column]}"
        )
    rows, columns = costs.shape
    return (
        f"cost matrix is infeasible: the finite costs of {name} ({rows} x {columns}) match fewer "
        f"than {min(rows, columns)} pairs"
    )


class DetrTargets(NamedTuple):
    """The objects of all images in a row; those of image b are from begin[b] on."""

    labels: NDArray[np.int64]
    boxes: NDArray[Any]
    begin: NDArray[np.int64]


def detr_weights(cost_class: Any, cost_bbox: Any, cost_giou: Any) -> tuple[float, float, float]:
    """Return the weights of a cost's parts as finite floats."""
    named = {"cost_class": cost_class, "cost_bbox": cost_bbox, "cost_giou": cost_giou}
    weights = {name: real("detr_match", name, value) for name, value in named.items()}
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise ValueError(f"detr_match: {name} must be finite, got {weight}")
    return weights["cost_class"], weights["cost_bbox"], weights["cost_giou"]


def detr_class_cost(value: Any) -> bool:
    """Return whether classes cost by the focal loss."""
    if isinstance(value, str) and value in ("softmax", "focal"):
        return value == "focal"
    wrong = ValueError if isinstance(value, str) else TypeError
    raise wrong(f"detr_match: class_cost must be 'softmax' or 'focal', got {_describe(value)}")


def detr_targets(logits: Any, boxes: Any, target_labels: Any, target_boxes: Any) -> DetrTargets:
    """Check predictions and objects against each other, and join the objects of all images."""
    op = "detr_match"
    float_arrays(op, {"logits": logits, "boxes": boxes})
    if logits.ndim != 3:
        raise ValueError(
            f"{op}: logits must have 3 axes (B, Q, K), got {logits.ndim} (logits {logits.shape})"
        )
    images, queries, classes = logits.shape
    relation = "(B, Q, 4) with logits.shape = (B, Q, K)"
    equal_shapes(op, "boxes.shape", boxes.shape, relation, (images, queries, 4))
    for name, each in (("target_labels", target_labels), ("target_boxes", target_boxes)):
        if not isinstance(each, (list, tuple)):
            raise TypeError(f"{op}: {name} must be a list of arrays, got {type(each).__name__}")
        if len(each) != images:
            raise ValueError(
                f"{op}: len({name}) must equal logits.shape[0], got {len(each)} != {images}"
            )
    begin = np.zeros(images + 1, np.int64)
    labels: list[NDArray[Any]] = []
    for image, given in enumerate(target_labels):
        label: NDArray[Any] = np.asarray(given)
        if label.ndim != 1:
            raise ValueError(
                f"{op}: target_labels[{image}] must have 1 axis (T,), got {label.ndim} axes"
            )
        if label.dtype.kind not in "iu" and label.size:
            raise TypeError(
                f"{op}: target_labels[{image}].dtype must be an integer type, got {label.dtype}"
            )
        box = target_boxes[image]
        if not isinstance(box, np.ndarray) or box.dtype != logits.dtype:
            float_arrays(op, {"logits": logits, f"target_boxes[{image}]": box})
        if box.shape != (len(label), 4):
            relation = f"(T, 4) with target_labels[{image}].shape = (T,)"
            equal_shapes(op, f"target_boxes[{image}].shape", box.shape, relation, (len(label), 4))
        labels.append(label)
        begin[image + 1] = begin[image] + len(label)
    if begin[-1] == 0:
        return DetrTargets(np.empty(0, np.int64), np.empty((0, 4), logits.dtype), begin)
    all_labels: NDArray[Any] = np.concatenate(labels)
    wrong = (all_labels < 0) | (all_labels >= classes)
    if wrong.any():
        first = int(np.argmax(wrong))
        image = int(np.searchsorted(begin, first, "right")) - 1
        raise IndexError(
            f"{op}: target_labels[{image}][{first - begin[image]}] must be from 0 to "
            f"logits.shape[2] - 1 = {classes - 1}, got {all_labels[first]}"
        )
    return DetrTargets(
        all_labels.astype(np.int64, copy=False),
        np.ascontiguousarray(np.concatenate(target_boxes)),
        begin,
    )


def detr_fault(fault: tuple[str, int, int, int]) -> str:
    """Say whose cost is not finite."""
    kind, image, target, query = fault
    if kind == "infeasible":
        return f"detr_match: costs must be finite, got infinite ones in image {image}"
    return (
        f"detr_match: costs must be finite, got another one in image {image} for query {query} "
        f"and target {target}"
    )
