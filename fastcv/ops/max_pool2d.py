"""Two-dimensional max pooling and its gradient."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastcv import _checks, _core, _layout
from fastcv._layout import FloatT
from fastcv.ops._device import run_on_device

_POOLINGS, _GRADIENTS = _core.KnownCalls(), _core.KnownCalls()


@overload
def max_pool2d(
    input: NDArray[FloatT],
    kernel_size: _checks.IntOrPair,
    stride: _checks.IntOrPair | None = None,
    padding: _checks.IntOrPair = 0,
    dilation: _checks.IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
    *,
    index_dtype: DTypeLike = np.int64,
) -> NDArray[FloatT]: ...
@overload
def max_pool2d(
    input: NDArray[FloatT],
    kernel_size: _checks.IntOrPair,
    stride: _checks.IntOrPair | None = None,
    padding: _checks.IntOrPair = 0,
    dilation: _checks.IntOrPair = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
    index_dtype: DTypeLike = np.int64,
) -> tuple[NDArray[FloatT], NDArray[Any]]: ...
@overload
def max_pool2d(
    input: NDArray[FloatT],
    kernel_size: _checks.IntOrPair,
    stride: _checks.IntOrPair | None,
    padding: _checks.IntOrPair,
    dilation: _checks.IntOrPair,
    ceil_mode: bool,
    return_indices: Literal[True],
    *,
    index_dtype: DTypeLike = np.int64,
) -> tuple[NDArray[FloatT], NDArray[Any]]: ...
def max_pool2d(
    input: NDArray[FloatT],
    kernel_size: _checks.IntOrPair,
    stride: _checks.IntOrPair | None = None,
    padding: _checks.IntOrPair = 0,
    dilation: _checks.IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    index_dtype: DTypeLike = np.int64,
) -> NDArray[FloatT] | tuple[NDArray[FloatT], NDArray[Any]]:
    """Take the largest element of each window, and where it lies.

    Parameters
    ----------
    input : ndarray, shape (N, C, H, W) or (C, H, W), float32 or float64
        Images, with any strides. A channels-last array (an NCHW view of NHWC memory) is read in
        place.
    kernel_size : int or (int, int)
        Rows R and columns S of the window, in taps.
    stride : int or (int, int), optional
        Step of the window in pixels, down and across. None: `kernel_size`.
    padding : int or (int, int), optional
        Pixels around each image, (height, width), that take no part. At most half of
        `kernel_size`.
    dilation : int or (int, int), optional
        Distance between neighbouring taps in pixels, down and across.
    ceil_mode : bool, optional
        Also take windows that reach beyond the bottom and right padding, if they start inside the
        image or its top and left padding.
    return_indices : bool, optional
        Also return where each element was found.
    index_dtype : int64 or int32, optional
        Of the indices. int64 is what torch has; int32 moves half the bytes.

    Returns
    -------
    output : ndarray, shape (N, C, P, Q) or (C, P, Q)
        A new C-contiguous array, channels-last if `input` is, with
        ``P = (H + 2 * padding - dilation * (R - 1) - 1) // stride + 1`` (with `ceil_mode`, the
        division rounded up, and one less where the last window would start too far out) and Q
        alike.
    indices : ndarray, shape of `output`, `index_dtype`
        If `return_indices`: the position ``h * W + w`` of each element in its own H x W plane.

    Raises
    ------
    TypeError
        If `input` is not a NumPy array of float32 or float64 in native byte order, if a number is
        a ``bool``, a ``float`` or otherwise not an integer, if a flag is not a ``bool``, or if
        `index_dtype` is neither int64 nor int32.
    ValueError
        If `input` has other axes or an axis but N of size 0, if `kernel_size`, `stride` or
        `dilation` is less than 1, if `padding` is less than 0 or more than ``kernel_size // 2``,
        if no window fits into the padded image, if int32 indices are asked for planes of 2**31
        elements and more, or if a size leaves 64 bits.
    MemoryError
        If memory for the result or for scratch cannot be had.

    See Also
    --------
    max_pool2d_grad_input : The gradient.
    max_unpool2d : Puts elements back to where they came from.

    Notes
    -----
    With ``h = p * stride - padding + r * dilation`` and w alike, over those inside the image::

        output[n, c, p, q] = max over r, s of input[n, c, h, w]

    Elements and indices are torch's, bit for bit: of equal elements the first in row-major order
    counts, NaN is more than any number, and of several NaNs the last counts. Where dilation makes a
    window miss the image altogether, the element is -inf, and the index that of the first place
    where the window would meet an image that went on.

    Long windows that overlap share their work: the cost of an output grows with the logarithm of R
    and S, not with their product. Nothing is copied as a whole; scratch memory per thread is
    bounded.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> image = np.array([[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 7.0, 6.0]]])
    >>> output, indices = fastcv.max_pool2d(image, 2, return_indices=True)
    >>> output
    array([[[5., 7.]]])
    >>> indices
    array([[[1, 6]]])
    """
    call = (
        input,
        kernel_size,
        stride,
        padding,
        dilation,
        ceil_mode,
        return_indices,
        index_dtype,
    )
    plan = _POOLINGS.find(call)
    if plan is None:
        op = "max_pool2d"
        if _checks.float_arrays(op, {"input": input}, True):
            found: NDArray[FloatT] = run_on_device(op, locals())
            return found
        parameters = _checks.pool2d_parameters(
            op, kernel_size, stride, padding, dilation, ceil_mode
        )
        shape = _checks.max_pool2d_shape(op, input.shape, parameters)
        dtype = _checks.index_dtype(op, index_dtype)
        indices_layout = None
        if _checks.boolean(op, "return_indices", return_indices):
            _checks.max_pool2d_index_dtype(op, dtype, input.shape)
            indices_layout = _layout.result(shape, input, dtype)
        window = _core.Pool2dWindow(*parameters[:4])
        plan = _layout.result(shape, input), indices_layout, window
        _POOLINGS.keep(call, plan)
    output_layout, indices_layout, window = plan
    output: NDArray[FloatT] = output_layout.new()
    if indices_layout is None:
        _core.max_pool2d(input, output, None, window)
        return output
    indices = indices_layout.new()
    _core.max_pool2d(input, output, indices, window)
    return output, indices


def max_pool2d_grad_input(
    grad_output: NDArray[FloatT], indices: NDArray[Any], input_shape: tuple[int, ...]
) -> NDArray[FloatT]:
    """Gradient of max pooling with respect to its input.

    Parameters
    ----------
    grad_output : ndarray, shape (N, C, P, Q) or (C, P, Q), float32 or float64
        Gradient with respect to the output of `max_pool2d`, with any strides.
    indices : ndarray, shape of `grad_output`, int64 or int32
        The indices that `max_pool2d` returned, with any strides.
    input_shape : tuple of int
        Shape of the pooling's input, (N, C, H, W) or (C, H, W).

    Returns
    -------
    ndarray, shape `input_shape`
        A new C-contiguous array, channels-last if `grad_output` is.

    Raises
    ------
    TypeError
        If an array is not a NumPy array, `grad_output` not of float32 or float64, or `indices` not
        of int64 or int32, in native byte order; or if `input_shape` is not a tuple of integers.
    ValueError
        If the arrays' shapes differ, if `input_shape` has other images or channels or an axis but
        N of size 0, or if a size leaves 64 bits.
    IndexError
        If an index is less than 0 or not less than ``H * W``.
    MemoryError
        If memory for the result cannot be had.

    See Also
    --------
    max_pool2d : The pooling.
    max_unpool2d : The same with the last element that names a place, instead of the sum.

    Notes
    -----
    Each gradient goes to the element that was the largest in its window::

        grad_input[n, c, h, w] = sum over the p, q with indices[n, c, p, q] == h * W + w of
            grad_output[n, c, p, q]

    in row-major order of p and q, from zero: the same bits for any number of threads. Where windows
    do not overlap, each element of the result is written once.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> indices = np.array([[[1, 6]]])
    >>> fastcv.max_pool2d_grad_input(np.array([[[1.0, 2.0]]]), indices, (1, 2, 4))
    array([[[0., 1., 0., 0.],
            [0., 0., 2., 0.]]])
    """
    op = "max_pool2d_grad_input"
    call = (grad_output, indices, input_shape)
    layout = _GRADIENTS.find(call)
    if layout is None:
        if _checks.float_arrays(op, {"grad_output": grad_output}, True):
            found: NDArray[FloatT] = run_on_device(op, locals())
            return found
        _checks.index_array(op, indices)
        checked_shape = _checks.shape(op, "input_shape", input_shape)
        _checks.max_pool2d_grad_shapes(op, grad_output.shape, indices.shape, checked_shape)
        layout = _layout.result(checked_shape, grad_output)
        _GRADIENTS.keep(call, layout)
    grad_input: NDArray[FloatT] = layout.new()
    try:
        _core.max_pool2d_grad_input(grad_output, indices, grad_input)
    except IndexError:
        raise _checks.index_error(op, indices, *grad_input.shape[-2:]) from None
    return grad_input
