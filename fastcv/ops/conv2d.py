"""Two-dimensional convolution, its two gradients, and the form that packs its weights once."""

from __future__ import annotations

from functools import partial
from typing import Any, Generic, Literal

from numpy.typing import NDArray

from fastcv import _checks, _core, _layout
from fastcv._layout import FloatT
from fastcv.ops._device import run_on_device
from fastcv.ops._plan import Immutable, read_only_copy, with_bias

_CONVOLUTIONS = _core.KnownCalls()
_INPUT_GRADIENTS, _WEIGHT_GRADIENTS = _core.KnownCalls(), _core.KnownCalls()


def conv2d(
    input: NDArray[FloatT],
    weight: NDArray[FloatT],
    bias: NDArray[FloatT] | None = None,
    stride: _checks.IntOrPair = 1,
    padding: _checks.Padding = 0,
    dilation: _checks.IntOrPair = 1,
    groups: int = 1,
    *,
    activation: _checks.Activation = None,
    algorithm: _checks.Algorithm = "auto",
    out: NDArray[FloatT] | None = None,
) -> NDArray[FloatT]:
    """Convolve images with a set of filters (cross-correlation, as in neural networks).

    Parameters
    ----------
    input : ndarray, shape (N, C, H, W) or (C, H, W), float32 or float64
        Images, with any strides. A channels-last array (an NCHW view of NHWC memory) is read in
        place.
    weight : ndarray, shape (K, C // groups, R, S)
        K filters with windows of R x S taps. Same dtype as `input`.
    bias : ndarray, shape (K,), optional
        Added to each output channel. Same dtype as `input`.
    stride : int or (int, int), optional
        Step of the window in pixels, down and across.
    padding : int, (int, int), ((int, int), (int, int)), "valid" or "same", optional
        Zeros around each image in pixels: one number for all sides, (height, width), or
        ((top, bottom), (left, right)). "valid" is 0. "same" keeps height and width and needs
        stride 1; where it has to be uneven, the extra pixel goes to the bottom or the right.
    dilation : int or (int, int), optional
        Distance between neighbouring taps in pixels, down and across.
    groups : int, optional
        Splits input channels and filters into this many independent convolutions.
    activation : None, "relu", "relu6", ("leaky_relu", slope), "sigmoid", "tanh", "silu" or "gelu"
        Applied to each sum before it is stored. "gelu" is the exact one, with the error function.
    algorithm : {"auto", "direct", "winograd"}, optional
        "auto" takes what needs the least work. "direct" never takes the Winograd path; "winograd"
        always does; it needs a window of 2 to 121 taps and, along a stride, no dilation and at
        most 5 taps a stride apart.
    out : ndarray, shape of the result, optional
        Array to write the result to, with any strides.

    Returns
    -------
    ndarray, shape (N, K, P, Q) or (K, P, Q)
        `out`, or a new C-contiguous array (channels-last if `input` is), with
        ``P = (H + top + bottom - dilation * (R - 1) - 1) // stride + 1`` and Q alike.

    Raises
    ------
    TypeError
        If an array is not a NumPy array of float32 or float64 in native byte order, if dtypes
        differ, or if a number is a ``bool``, a ``float`` or otherwise not an integer.
    ValueError
        If shapes do not fit each other or the parameters, if stride, dilation or groups is less
        than 1 or padding less than 0, if the window is larger than the padded image, if a name is
        unknown or "winograd" cannot be had, if a size leaves 64 bits, or if `out` has the wrong
        shape, is read-only, overlaps itself or shares memory with another argument.
    MemoryError
        If memory for the result or for scratch cannot be had.

    See Also
    --------
    Conv2d : The same for weights that are used more than once.
    conv2d_grad_input, conv2d_grad_weight : The gradients.

    Notes
    -----
    With zero-padded `input` and ``c`` running over the channels of ``k``'s group::

        output[n, k, p, q] = activation(bias[k] + sum over c, r, s of
            input[n, c, p * stride + r * dilation - top, q * stride + s * dilation - left]
            * weight[k, c, r, s])

    That is ``2 * N * K * P * Q * (C // groups) * R * S`` operations; the Winograd algorithms [1]_
    need up to four times fewer. Sums are accumulated in the arrays' own precision. The same call
    gives the same bits for any number of threads, and a sample's result does not depend on the
    rest of its batch. Neither `input` nor the result is copied as a whole; scratch memory per
    thread is bounded.

    A sum over no channels is zero: with ``C == 0`` every output is ``activation(bias)``, with the
    same shape as for any other C. [2]_ draws how the parameters decide the output's size.

    References
    ----------
    .. [1] A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks", CVPR 2016.
    .. [2] V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning",
       arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> image = np.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    >>> window = np.array([[[[4.0, 2.0], [5.0, 1.0]]]])
    >>> fastcv.conv2d(image, window, stride=2, padding=1)[0, 0]
    array([[ 1., 13., 20.],
           [19., 99., 92.],
           [26., 86., 64.]])
    """
    op = "conv2d"
    call = (input, weight, bias, stride, padding, dilation, groups, activation, algorithm)
    plan = _CONVOLUTIONS.find(call)
    if plan is None:
        inputs = with_bias({"input": input, "weight": weight}, bias)
        if _checks.float_arrays(op, inputs, True):
            found: NDArray[FloatT] = run_on_device(op, locals())
            return found
        parameters = _checks.conv2d_parameters(op, stride, padding, dilation, groups)
        geometry = _checks.conv2d_geometry(op, input.shape, weight.shape, parameters)
        if bias is not None:
            _checks.conv2d_bias(op, bias.shape, weight.shape)
        convolution = _convolution(
            parameters,
            geometry.padding,
            *_checks.activation(op, activation),
            _checks.conv2d_algorithm(
                op, algorithm, weight.shape, parameters.stride, parameters.dilation
            ),
        )
        plan = _layout.result(geometry.result_shape, input), convolution
        _CONVOLUTIONS.keep(call, plan)
    layout, convolution = plan
    if out is None:
        out = layout.new()
    else:
        inputs = with_bias({"input": input, "weight": weight}, bias)
        _checks.output_array(op, out, layout.shape, inputs)
    _core.conv2d(input, weight, bias, out, convolution)
    return out


def conv2d_grad_input(
    grad_output: NDArray[FloatT],
    weight: NDArray[FloatT],
    input_shape: tuple[int, ...],
    *,
    stride: _checks.IntOrPair = 1,
    padding: _checks.Padding = 0,
    dilation: _checks.IntOrPair = 1,
    groups: int = 1,
) -> NDArray[FloatT]:
    """Gradient of a convolution with respect to its input.

    Parameters
    ----------
    grad_output : ndarray, shape (N, K, P, Q) or (K, P, Q), float32 or float64
        Gradient with respect to the output of ``conv2d(input, weight, ...)`` without activation,
        with any strides.
    weight : ndarray, shape (K, C // groups, R, S)
        The convolution's filters. Same dtype as `grad_output`.
    input_shape : tuple of int
        Shape of the convolution's input, (N, C, H, W) or (C, H, W): several heights and widths
        can lead to one output.
    stride, padding, dilation, groups
        The convolution's parameters, as in `conv2d`.

    Returns
    -------
    ndarray, shape `input_shape`
        A new C-contiguous array, channels-last if `grad_output` is.

    Raises
    ------
    TypeError
        As `conv2d`.
    ValueError
        As `conv2d`, and if `grad_output` does not have the shape of that convolution's output.
    MemoryError
        If memory for the result or for scratch cannot be had.

    See Also
    --------
    conv2d : The convolution.
    conv2d_grad_weight : The other gradient.

    Notes
    -----
    This is the transpose of the convolution as a linear map of `input`: each output gradient is
    handed back to the pixels that its window saw::

        grad_input[n, c, h, w] = sum over k, r, s and over the p, q with
            h == p * stride + r * dilation - top and w == q * stride + s * dilation - left of
            grad_output[n, k, p, q] * weight[k, c, r, s]

    Pixels that no window saw get zero. Cost, accumulation and determinism are those of `conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> weight = np.ones((1, 1, 2, 2))
    >>> fastcv.conv2d_grad_input(np.ones((1, 1, 2, 2)), weight, (1, 1, 3, 3))[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    call = (grad_output, weight, input_shape, stride, padding, dilation, groups)
    plan = _INPUT_GRADIENTS.find(call)
    if plan is None:
        op = "conv2d_grad_input"
        if _checks.float_arrays(op, {"grad_output": grad_output, "weight": weight}, True):
            found: NDArray[FloatT] = run_on_device(op, locals())
            return found
        parameters = _checks.conv2d_parameters(op, stride, padding, dilation, groups)
        checked_shape = _checks.shape(op, "input_shape", input_shape)
        geometry = _checks.conv2d_geometry(
            op, checked_shape, weight.shape, parameters, input_name="input_shape"
        )
        _checks.conv2d_grad_output(op, grad_output.shape, geometry)
        plan = (
            _layout.result(checked_shape, grad_output),
            _convolution(parameters, geometry.padding),
        )
        _INPUT_GRADIENTS.keep(call, plan)
    layout, convolution = plan
    grad_input: NDArray[FloatT] = layout.new()
    _core.conv2d_grad_input(grad_output, weight, grad_input, convolution)
    return grad_input


def conv2d_grad_weight(
    grad_output: NDArray[FloatT],
    input: NDArray[FloatT],
    weight_shape: tuple[int, ...],
    *,
    stride: _checks.IntOrPair = 1,
    padding: _checks.Padding = 0,
    dilation: _checks.IntOrPair = 1,
    groups: int = 1,
) -> NDArray[FloatT]:
    """Gradient of a convolution with respect to its weight.

    Parameters
    ----------
    grad_output : ndarray, shape (N, K, P, Q) or (K, P, Q), float32 or float64
        Gradient with respect to the output of ``conv2d(input, weight, ...)`` without activation,
        with any strides.
    input : ndarray, shape (N, C, H, W) or (C, H, W)
        The convolution's input, with any strides. Same dtype as `grad_output`.
    weight_shape : tuple of int
        Shape of the convolution's weight, (K, C // groups, R, S).
    stride, padding, dilation, groups
        The convolution's parameters, as in `conv2d`.

    Returns
    -------
    ndarray, shape `weight_shape`
        A new C-contiguous array.

    Raises
    ------
    TypeError
        As `conv2d`.
    ValueError
        As `conv2d`, and if `grad_output` does not have the shape of that convolution's output.
    MemoryError
        If memory for the result or for scratch cannot be had.

    See Also
    --------
    conv2d : The convolution.
    conv2d_grad_input : The other gradient.

    Notes
    -----
    With zero-padded `input`::

        grad_weight[k, c, r, s] = sum over n, p, q of
            grad_output[n, k, p, q]
            * input[n, c, p * stride + r * dilation - top, q * stride + s * dilation - left]

    The gradient with respect to the bias is ``grad_output.sum(axis=(0, 2, 3))``. Threads
    share out filters or channels, never the terms of a sum, so the bits do not depend on their
    number.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> image = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    >>> fastcv.conv2d_grad_weight(np.ones((1, 1, 2, 2)), image, (1, 1, 2, 2))[0, 0]
    array([[12., 16.],
           [24., 28.]])
    """
    call = (grad_output, input, weight_shape, stride, padding, dilation, groups)
    plan = _WEIGHT_GRADIENTS.find(call)
    if plan is None:
        op = "conv2d_grad_weight"
        if _checks.float_arrays(op, {"grad_output": grad_output, "input": input}, True):
            found: NDArray[FloatT] = run_on_device(op, locals())
            return found
        parameters = _checks.conv2d_parameters(op, stride, padding, dilation, groups)
        checked_shape = _checks.shape(op, "weight_shape", weight_shape)
        geometry = _checks.conv2d_geometry(
            op, input.shape, checked_shape, parameters, weight_name="weight_shape"
        )
        _checks.conv2d_grad_output(op, grad_output.shape, geometry)
        layout = _core.ResultLayout(checked_shape, input.dtype)
        plan = layout, _convolution(parameters, geometry.padding)
        _WEIGHT_GRADIENTS.keep(call, plan)
    layout, convolution = plan
    grad_weight: NDArray[FloatT] = layout.new()
    _core.conv2d_grad_weight(grad_output, input, grad_weight, convolution)
    return grad_weight


def _convolution(
    parameters: _checks.Conv2dParameters,
    padding: tuple[int, int],
    activation: int = 0,
    slope: float = 0.0,
    algorithm: int = 0,
) -> _core.Convolution:
    """Return what the compiled kernels take; `padding` is what is above and at the left."""
    return _core.Convolution(
        parameters.stride,
        padding,
        parameters.dilation,
        parameters.groups,
        activation,
        slope,
        algorithm,
    )


class Conv2d(Immutable, Generic[FloatT]):
    """A convolution whose weights are packed once, for use on many inputs.

    Call it as ``plan(input, out=None)``. It is immutable, can be pickled and copied, and many
    threads may call it at once.

    Parameters
    ----------
    weight : ndarray, shape (K, C // groups, R, S), float32 or float64
        K filters with windows of R x S taps. Copied: later writes to it change nothing.
    bias : ndarray, shape (K,), optional
        Added to each output channel. Same dtype as `weight`. Copied.
    stride, padding, dilation, groups, activation, algorithm
        As in `conv2d`.

    Attributes
    ----------
    weight, bias : ndarray
        The copies, read-only. `bias` is None if there is none.
    stride, dilation : (int, int)
        Down and across, in pixels.
    padding : ((int, int), (int, int)) or "same"
        ((top, bottom), (left, right)), in pixels.
    groups : int
        Number of independent convolutions.
    activation : None, str or (str, float)
        As passed.
    algorithm : str
        As passed.

    Raises
    ------
    TypeError, ValueError
        As `conv2d`, for what `weight`, `bias` and the parameters decide without an input.
    MemoryError
        If memory for the copies cannot be had.

    See Also
    --------
    conv2d : The same in one call.

    Notes
    -----
    Weights are brought into the order in which the chosen algorithm reads them, and transformed
    for Winograd (in float64), when an input of a shape that needs them comes first. Results differ
    from those of `conv2d` by rounding at most: the two may choose different algorithms.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> blur = fastcv.Conv2d(np.full((1, 1, 3, 3), 1 / 9), padding="same")
    >>> blur
    Conv2d(1, 1, kernel_size=(3, 3), stride=(1, 1), padding='same', bias=False, dtype=float64)
    >>> blur(np.full((1, 4, 5), 9.0)).round(3)
    array([[[4., 6., 6., 6., 4.],
            [6., 9., 9., 9., 6.],
            [6., 9., 9., 9., 6.],
            [4., 6., 6., 6., 4.]]])
    """

    __slots__ = (
        "_calls",
        "_convolution",
        "_parameters",
        "_plan",
        "activation",
        "algorithm",
        "bias",
        "dilation",
        "groups",
        "padding",
        "stride",
        "weight",
    )

    weight: NDArray[FloatT]
    bias: NDArray[FloatT] | None
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]] | Literal["same"]
    dilation: tuple[int, int]
    groups: int
    activation: _checks.Activation
    algorithm: _checks.Algorithm
    _calls: _core.KnownCalls
    _convolution: _core.Convolution
    _parameters: _checks.Conv2dParameters
    _plan: _core.Conv2dPlan

    def __init__(
        self,
        weight: NDArray[FloatT],
        bias: NDArray[FloatT] | None = None,
        *,
        stride: _checks.IntOrPair = 1,
        padding: _checks.Padding = 0,
        dilation: _checks.IntOrPair = 1,
        groups: int = 1,
        activation: _checks.Activation = None,
        algorithm: _checks.Algorithm = "auto",
    ) -> None:
        _checks.float_arrays("Conv2d", with_bias({"weight": weight}, bias))
        parameters = _checks.conv2d_parameters("Conv2d", stride, padding, dilation, groups)
        _checks.conv2d_weight("Conv2d", "weight.shape", weight.shape, parameters.groups)
        if bias is not None:
            _checks.conv2d_bias("Conv2d", bias.shape, weight.shape)
        (top, _), (left, _) = _checks.conv2d_sides(weight.shape, parameters)
        convolution = _convolution(
            parameters,
            (top, left),
            *_checks.activation("Conv2d", activation),
            _checks.conv2d_algorithm(
                "Conv2d", algorithm, weight.shape, parameters.stride, parameters.dilation
            ),
        )

        weight = read_only_copy(weight)
        bias = None if bias is None else read_only_copy(bias)
        self._set(
            weight=weight,
            bias=bias,
            **parameters._asdict(),
            activation=activation,
            algorithm=algorithm,
            _calls=_core.KnownCalls(sets=4),
            _convolution=convolution,
            _parameters=parameters,
            _plan=_core.Conv2dPlan(weight, bias, convolution),
        )

    def __call__(
        self, input: NDArray[FloatT], out: NDArray[FloatT] | None = None
    ) -> NDArray[FloatT]:
        """Convolve `input`; the arguments, the result and the errors are those of `conv2d`."""
        call = (input,)
        layout = self._calls.find(call)
        if layout is None:
            _checks.float_arrays("Conv2d", {"weight": self.weight, "input": input})
            geometry = _checks.conv2d_geometry(
                "Conv2d", input.shape, self.weight.shape, self._parameters
            )
            layout = _layout.result(geometry.result_shape, input)
            self._calls.keep(call, layout)
        if out is None:
            out = layout.new()
        else:
            inputs = {"weight": self.weight, "input": input}
            _checks.output_array("Conv2d", out, layout.shape, inputs)
        self._plan.run(input, out)
        return out

    def explain(self, input_shape: tuple[int, ...]) -> str:
        """Say which algorithm an input of this shape gets, and why.

        Parameters
        ----------
        input_shape : tuple of int
            (N, C, H, W) or (C, H, W).

        Returns
        -------
        str
            The algorithm's name and the reason, as in ``"winograd_f4: ..."``.

        Raises
        ------
        TypeError, ValueError
            As `conv2d` for an input of that shape.
        """
        geometry = _checks.conv2d_geometry(
            "Conv2d",
            _checks.shape("Conv2d", "input_shape", input_shape),
            self.weight.shape,
            self._parameters,
            input_name="input_shape",
        )
        name, reason = _core.conv2d_choice(
            geometry.input_shape,
            self.weight.shape,
            geometry.output_shape,
            self.weight.itemsize,
            self._convolution,
            packed=True,
        )
        return f"{name}: {reason}"

    def __repr__(self) -> str:
        filters, group_channels, *window = self.weight.shape
        words = [
            f"{group_channels * self.groups}",
            f"{filters}",
            f"kernel_size={tuple(window)}",
            f"stride={self.stride}",
        ]
        if self.padding != ((0, 0), (0, 0)):
            words.append(f"padding={self.padding!r}")
        if self.dilation != (1, 1):
            words.append(f"dilation={self.dilation}")
        if self.groups != 1:
            words.append(f"groups={self.groups}")
        if self.bias is None:
            words.append("bias=False")
        if self.activation is not None:
            words.append(f"activation={self.activation!r}")
        if self.algorithm != "auto":
            words.append(f"algorithm={self.algorithm!r}")
        return f"Conv2d({', '.join(words)}, dtype={self.weight.dtype})"

    def __reduce__(self) -> tuple[Any, ...]:
        constructor = partial(
            type(self),
            **self._parameters._asdict(),
            activation=self.activation,
            algorithm=self.algorithm,
        )
        return constructor, (self.weight, self.bias)
