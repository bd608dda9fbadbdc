"""Two-dimensional max unpooling and its gradient."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastcv import _checks, _core, _layout
from fastcv._layout import FloatT
from fastcv.ops._device import run_on_device

_UNPOOLINGS, _GRADIENTS = _core.KnownCalls(), _core.KnownCalls()


def max_unpool2d(
    input: NDArray[FloatT],
    indices: NDArray[Any],
    kernel_size: _checks.IntOrPair,
    stride: _checks.IntOrPair | None = None,
    padding: _checks.IntOrPair = 0,
    output_size: tuple[int, ...] | None = None,
) -> NDArray[FloatT]:
    """Put elements back to where max pooling found them; everything else is zero.

    Parameters
    ----------
    input : ndarray, shape (N, C, P, Q) or (C, P, Q), float32 or float64
        What `max_pool2d` returned, or what has become of it, with any strides.
    indices : ndarray, shape of `input`, int64 or int32
        The indices that `max_pool2d` returned, with any strides.
    kernel_size, stride, padding : int or (int, int)
        The pooling's. They decide the size of the result, and nothing else.
    output_size : tuple of int, optional
        Height and width of the result, (H, W) or (N, C, H, W): several sizes can lead to one pooled
        size. Each less than `stride` from the usual one.

    Returns
    -------
    ndarray, shape (N, C, H, W) or (C, H, W)
        A new C-contiguous array, channels-last if `input` is. Usually
        ``H = (P - 1) * stride - 2 * padding + kernel_size`` and W alike.

    Raises
    ------
    TypeError
        If an array is not a NumPy array, `input` not of float32 or float64, or `indices` not of
        int64 or int32, in native byte order; or if a number is a ``bool``, a ``float`` or otherwise
        not an integer.
    ValueError
        If the arrays' shapes differ, if an axis but N is of size 0, if `kernel_size` or `stride` is
        less than 1 or `padding` less than 0, if `output_size` cannot be, or if a size leaves 64
        bits.
    IndexError
        If an index is less than 0 or not less than ``H * W``.
    MemoryError
        If memory for the result cannot be had.

    See Also
    --------
    max_pool2d : Where elements and indices come from.
    max_unpool2d_grad_input : The gradient.

    Notes
    -----
    ::

        output[n, c, h, w] = input[n, c, p, q] where indices[n, c, p, q] == h * W + w, else 0

    Where several elements name one place, the last in row-major order of p and q counts, for any
    number of threads. Where the pooling's windows did not overlap, each element of the result is
    written once.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> fastcv.max_unpool2d(np.array([[[5.0, 7.0]]]), np.array([[[1, 6]]]), 2)
    array([[[0., 5., 0., 0.],
            [0., 0., 7., 0.]]])
    """
    op = "max_unpool2d"
    call = (input, indices, kernel_size, stride, padding, output_size)
    layout = _UNPOOLINGS.find(call)
    if layout is None:
        if _checks.float_arrays(op, {"input": input}, True):
            found: NDArray[FloatT] = run_on_device(op, locals())
            return found
        _checks.index_array(op, indices)
        parameters = _checks.pool2d_parameters(op, kernel_size, stride, padding)
        size = None if output_size is None else _checks.shape(op, "output_size", output_size)
        shape = _checks.max_unpool2d_shape(op, input.shape, indices.shape, parameters, size)
        layout = _layout.result(shape, input)
        _UNPOOLINGS.keep(call, layout)
    output: NDArray[FloatT] = layout.new()
    try:
        _core.max_unpool2d(input, indices, output)
    except IndexError:
        raise _checks.index_error(op, indices, *output.shape[-2:]) from None
    return output


def max_unpool2d_grad_input(grad_output: NDArray[FloatT], indices: NDArray[Any]) -> NDArray[FloatT]:
    """Gradient of max unpooling with respect to its input.

    Parameters
    ----------
    grad_output : ndarray, shape (N, C, H, W) or (C, H, W), float32 or float64
        Gradient with respect to the output of `max_unpool2d`, with any strides.
    indices : ndarray, shape (N, C, P, Q) or (C, P, Q), int64 or int32
        The indices that `max_unpool2d` was given, with any strides.

    Returns
    -------
    ndarray, shape of `indices`
        A new C-contiguous array, channels-last if `grad_output` is.

    Raises
    ------
    TypeError
        If an array is not a NumPy array, `grad_output` not of float32 or float64, or `indices` not
        of int64 or int32, in native byte order.
    ValueError
        If the arrays have other images or channels, or if an axis of `indices` but N is of size 0.
    IndexError
        If an index is less than 0 or not less than ``H * W``.
    MemoryError
        If memory for the result cannot be had.

    See Also
    --------
    max_unpool2d : The unpooling.

    Notes
    -----
    Each element's gradient is that of the place where it went::

        grad_input[n, c, p, q] = grad_output[n, c].ravel()[indices[n, c, p, q]]

    As in torch, that is so for every element that names a place, where several do: also for those
    that the last one has replaced.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> grad = np.arange(8.0).reshape(1, 2, 4)
    >>> fastcv.max_unpool2d_grad_input(grad, np.array([[[1, 6]]]))
    array([[[1., 6.]]])
    """
    op = "max_unpool2d_grad_input"
    call = (grad_output, indices)
    layout = _GRADIENTS.find(call)
    if layout is None:
        if _checks.float_arrays(op, {"grad_output": grad_output}, True):
            found: NDArray[FloatT] = run_on_device(op, locals())
            return found
        _checks.index_array(op, indices)
        _checks.max_unpool2d_grad_shapes(op, grad_output.shape, indices.shape)
        layout = _layout.result(indices.shape, grad_output)
        _GRADIENTS.keep(call, layout)
    grad_input: NDArray[FloatT] = layout.new()
    try:
        _core.max_unpool2d_grad_input(grad_output, indices, grad_input)
    except IndexError:
        raise _checks.index_error(op, indices, *grad_output.shape[-2:]) from None
    return grad_input
