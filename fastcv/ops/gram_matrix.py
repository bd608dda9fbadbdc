"""Gram matrices of images' channels, and their gradient."""

from __future__ import annotations

from numpy.typing import NDArray

from fastcv import _checks, _core, _layout
from fastcv._layout import FloatT
from fastcv.ops._device import run_on_device

_MATRICES, _GRADIENTS = _core.KnownCalls(), _core.KnownCalls()


def gram_matrix(input: NDArray[FloatT], scale: float | None = None) -> NDArray[FloatT]:
    """Multiply every two channels of an image and sum over its pixels.

    The Gram matrix says which features of an image appear together, whatever their place. Style
    transfer compares images by it.

    Parameters
    ----------
    input : ndarray, shape (N, C, H, W) or (C, H, W), float32 or float64
        Images, with any strides. A channels-last array (an NCHW view of NHWC memory) is read in
        place.
    scale : float, optional
        Factor of every element. None is 1 / (C * H * W), the number of values in an image.

    Returns
    -------
    ndarray, shape (N, C, C) or (C, C)
        A new C-contiguous array, exactly symmetric in its last two axes. Zeros where the images
        have no pixels.

    Raises
    ------
    TypeError
        If `input` is not a NumPy array of dtype float32 or float64 in native byte order, or `scale`
        is not a real number.
    ValueError
        If `input` has neither 3 nor 4 axes, or the result would have 2**60 elements or more.
    MemoryError
        If memory for the result or for scratch cannot be had.

    See Also
    --------
    gram_matrix_grad_input : Its gradient.

    Notes
    -----
    For each image::

        output[i, j] = scale * sum over h, w of input[i, h, w] * input[j, h, w]

    Only one triangle is computed, ``N * C * (C + 1) / 2 * H * W`` multiply-adds; the other is its
    mirror image. Sums are accumulated in the arrays' own dtype: over up to 64 parts of the image,
    which are then added in order. Parts depend on the shape of an image alone, so the bits depend
    neither on the number of threads nor on the other images. The sum is multiplied by `scale` once.

    A part of the image at a time is copied to scratch.

    References
    ----------
    .. [1] L. A. Gatys, A. S. Ecker and M. Bethge, "Image Style Transfer Using Convolutional Neural
       Networks", CVPR 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> image = np.arange(1.0, 9.0).reshape(2, 2, 2)
    >>> fastcv.gram_matrix(image, scale=1)
    array([[ 30.,  70.],
           [ 70., 174.]])
    """
    call = (input, scale)
    plan = _MATRICES.find(call)
    if plan is None:
        op = "gram_matrix"
        if _checks.float_arrays(op, {"input": input}, True):
            found: NDArray[FloatT] = run_on_device(op, locals())
            return found
        shape = _checks.gram_matrix_shape(op, input.shape)
        factor = _checks.gram_matrix_scale(op, scale, input.shape)
        plan = _core.ResultLayout(shape, input.dtype), factor
        _MATRICES.keep(call, plan)
    layout, factor = plan
    output: NDArray[FloatT] = layout.new()
    _core.gram_matrix(input, output, factor)
    return output


def gram_matrix_grad_input(
    grad_output: NDArray[FloatT], input: NDArray[FloatT], scale: float | None = None
) -> NDArray[FloatT]:
    """Gradient of Gram matrices with respect to their images.

    Parameters
    ----------
    grad_output : ndarray, shape (N, C, C) or (C, C), float32 or float64
        Gradient with respect to ``gram_matrix(input, scale)``, with any strides. It need not be
        symmetric.
    input : ndarray, shape (N, C, H, W) or (C, H, W)
        The images, with any strides. Same dtype as `grad_output`.
    scale : float, optional
        The factor that `gram_matrix` had. None is 1 / (C * H * W).

    Returns
    -------
    ndarray, shape of `input`
        A new array; channels-last where `input` is channels-last, else C-contiguous.

    Raises
    ------
    TypeError
        As `gram_matrix`, and if the dtypes differ.
    ValueError
        As `gram_matrix`, and if `grad_output` does not have the shape of the Gram matrices.
    MemoryError
        If memory for the result or for scratch cannot be had.

    See Also
    --------
    gram_matrix : The Gram matrices.

    Notes
    -----
    For each image::

        grad_input[i, h, w] = scale * sum over k of
            (grad_output[i, k] + grad_output[k, i]) * input[k, h, w]

    The two gradients are added and scaled first. ``N * C * C * H * W`` multiply-adds, accumulated
    in the arrays' own dtype in the order of the channels: the bits depend neither on the number of
    threads nor on the other images.

    A block of pixels at a time is copied to scratch.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> image = np.arange(1.0, 9.0).reshape(2, 2, 2)
    >>> fastcv.gram_matrix_grad_input(np.array([[1.0, 0.0], [2.0, 0.0]]), image, scale=1)
    array([[[12., 16.],
            [20., 24.]],
    <BLANKLINE>
           [[ 2.,  4.],
            [ 6.,  8.]]])
    """
    call = (grad_output, input, scale)
    plan = _GRADIENTS.find(call)
    if plan is None:
        op = "gram_matrix_grad_input"
        if _checks.float_arrays(op, {"grad_output": grad_output, "input": input}, True):
            found: NDArray[FloatT] = run_on_device(op, locals())
            return found
        shape = _checks.gram_matrix_shape(op, input.shape)
        _checks.equal_shapes(
            op, "grad_output.shape", grad_output.shape, "the shape of the Gram matrices", shape
        )
        factor = _checks.gram_matrix_scale(op, scale, input.shape)
        plan = _layout.result(input.shape, input), factor
        _GRADIENTS.keep(call, plan)
    layout, factor = plan
    grad_input: NDArray[FloatT] = layout.new()
    _core.gram_matrix_grad_input(grad_output, input, grad_input, factor)
    return grad_input
