"""Two-dimensional transposed convolution, its gradients, and the form that packs its weights."""

from __future__ import annotations

from functools import partial
from typing import Any, Generic

from numpy.typing import NDArray

from fastcv import _checks, _core, _layout
from fastcv._layout import FloatT
from fastcv.ops._device import run_on_device
from fastcv.ops._plan import Immutable, read_only_copy, with_bias

_CONVOLUTIONS = _core.KnownCalls()
_INPUT_GRADIENTS, _WEIGHT_GRADIENTS = _core.KnownCalls(), _core.KnownCalls()


def conv_transpose2d(
    input: NDArray[FloatT],
    weight: NDArray[FloatT],
    bias: NDArray[FloatT] | None = None,
    stride: _checks.IntOrPair = 1,
    padding: _checks.IntOrPair = 0,
    output_padding: _checks.IntOrPair = 0,
    groups: int = 1,
    dilation: _checks.IntOrPair = 1,
    *,
    activation: _checks.Activation = None,
    out: NDArray[FloatT] | None = None,
) -> NDArray[FloatT]:
    """Lay a window down for each pixel, weighted by the pixel, and sum where windows overlap.

    This is the transpose of `conv2d` as a linear map, also called deconvolution or fractionally
    strided convolution. With a stride it enlarges images.

    Parameters
    ----------
    input : ndarray, shape (N, C, H, W) or (C, H, W), float32 or float64
        Images, with any strides. A channels-last array (an NCHW view of NHWC memory) is read in
        place.
    weight : ndarray, shape (C, K // groups, R, S)
        Windows of R x S taps, from each input channel to the output channels of its group. Same
        dtype as `input`.
    bias : ndarray, shape (K,), optional
        Added to each output channel. Same dtype as `input`.
    stride : int or (int, int), optional
        Distance of neighbouring pixels' windows in output pixels, down and across.
    padding : int or (int, int), optional
        How many rows of the sum are left out at the top and at the bottom, and columns left and
        right: the padding of the convolution that this transposes.
    output_padding : int or (int, int), optional
        Rows added at the bottom and columns at the right; less than stride or dilation. They tell
        apart the sizes that a strided convolution maps to the same one.
    groups : int, optional
        Splits input channels and output channels into this many independent convolutions.
    dilation : int or (int, int), optional
        Distance between neighbouring taps in pixels, down and across.
    activation : None, "relu", "relu6", ("leaky_relu", slope), "sigmoid", "tanh", "silu" or "gelu"
        Applied to each sum before it is stored. "gelu" is the exact one, with the error function.
    out : ndarray, shape of the result, optional
        Array to write the result to, with any strides.

    Returns
    -------
    ndarray, shape (N, K, P, Q) or (K, P, Q)
        `out`, or a new C-contiguous array (channels-last if `input` is), with ``P = (H - 1) *
        stride - 2 * padding + dilation * (R - 1) + output_padding + 1`` and Q alike.

    Raises
    ------
    TypeError
        If an array is not a NumPy array of float32 or float64 in native byte order, if dtypes
        differ, or if a number is a ``bool``, a ``float`` or otherwise not an integer.
    ValueError
        If shapes do not fit each other or the parameters, if stride, dilation or groups is less
        than 1 or a padding less than 0, if `output_padding` is neither less than stride nor less
        than dilation, if P or Q would be less than 1, if a name is unknown, if a size leaves 64
        bits, or if `out` has the wrong shape, is read-only, overlaps itself or shares memory with
        another argument.
    MemoryError
        If memory for the result or for scratch cannot be had.

    See Also
    --------
    ConvTranspose2d : The same for weights that are used more than once.
    conv_transpose2d_grad_input, conv_transpose2d_grad_weight : The gradients.
    conv2d : What this transposes.

    Notes
    -----
    With ``c`` running over the input channels of ``k``'s group::

        output[n, k, p, q] = activation(bias[k] + sum over c, r, s and over the h, w with
            p == h * stride + r * dilation - padding and q == w * stride + s * dilation - padding of
            input[n, c, h, w] * weight[c, k, r, s])

    That is at most ``2 * N * C * H * W * (K // groups) * R * S`` operations, and ``weight`` is the
    one of the convolution from K to C channels whose gradient by its input this is. Outputs that
    no window reaches get ``activation(bias)``. Sums are accumulated in the arrays' own precision,
    each output is written once, no zeros are inserted between pixels and no buffer of columns is
    made. The same call gives the same bits for any number of threads, and a sample's result does
    not depend on the rest of its batch. Neither `input` nor the result is copied as a whole;
    scratch memory per thread is bounded. [1]_ draws how the parameters decide the output's size.

    References
    ----------
    .. [1] V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning",
       arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> image = np.array([[[1.0, 2.0], [0.0, 1.0]]])
    >>> window = np.array([[[[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [3.0, 4.0, 5.0]]]])
    >>> fastcv.conv_transpose2d(image, window)[0]
    array([[ 1.,  4.,  7.,  6.],
           [ 2.,  8., 12., 11.],
           [ 3., 12., 16., 14.],
           [ 0.,  3.,  4.,  5.]])
    """
    op = "conv_transpose2d"
    call = (input, weight, bias, stride, padding, output_padding, groups, dilation, activation)
    plan = _CONVOLUTIONS.find(call)
    if plan is None:
        inputs = with_bias({"input": input, "weight": weight}, bias)
        if _checks.float_arrays(op, inputs, True):
            found: NDArray[FloatT] = run_on_device(op, locals())
            return found
        parameters = _checks.conv_transpose2d_parameters(
            op, stride, padding, output_padding, groups, dilation
        )
        geometry = _checks.conv_transpose2d_geometry(op, input.shape, weight.shape, parameters)
        if bias is not None:
            _checks.conv_transpose2d_bias(op, bias.shape, weight.shape, parameters.groups)
        convolution = _convolution(parameters, *_checks.activation(op, activation))
        plan = _layout.result(geometry.result_shape, input), convolution
        _CONVOLUTIONS.keep(call, plan)
    layout, convolution = plan
    if out is None:
        out = layout.new()
    else:
        inputs = with_bias({"input": input, "weight": weight}, bias)
        _checks.output_array(op, out, layout.shape, inputs)
    _core.conv_transpose2d(input, weight, bias, out, convolution)
    return out


def conv_transpose2d_grad_input(
    grad_output: NDArray[FloatT],
    weight: NDArray[FloatT],
    input_shape: tuple[int, ...],
    *,
    stride: _checks.IntOrPair = 1,
    padding: _checks.IntOrPair = 0,
    output_padding: _checks.IntOrPair = 0,
    groups: int = 1,
    dilation: _checks.IntOrPair = 1,
) -> NDArray[FloatT]:
    """Gradient of a transposed convolution with respect to its input.

    Parameters
    ----------
    grad_output : ndarray, shape (N, K, P, Q) or (K, P, Q), float32 or float64
        Gradient with respect to the output of ``conv_transpose2d(input, weight, ...)`` without
        activation, with any strides.
    weight : ndarray, shape (C, K // groups, R, S)
        The transposed convolution's weight. Same dtype as `grad_output`.
    input_shape : tuple of int
        Shape of the transposed convolution's input, (N, C, H, W) or (C, H, W).
    stride, padding, output_padding, groups, dilation
        The transposed convolution's parameters, as in `conv_transpose2d`.

    Returns
    -------
    ndarray, shape `input_shape`
        A new C-contiguous array, channels-last if `grad_output` is.

    Raises
    ------
    TypeError
        As `conv_transpose2d`.
    ValueError
        As `conv_transpose2d`, and if `grad_output` does not have the shape of that transposed
        convolution's output.
    MemoryError
        If memory for the result or for scratch cannot be had.

    See Also
    --------
    conv_transpose2d : The transposed convolution.
    conv_transpose2d_grad_weight : The other gradient.

    Notes
    -----
    This is the convolution that `conv_transpose2d` transposes: ``conv2d(grad_output, weight)`` with
    the same stride, padding, dilation and groups. Rows and columns that `output_padding` added and
    no window reached take no part. With zero-padded `grad_output`::

        grad_input[n, c, h, w] = sum over k, r, s of weight[c, k, r, s] * grad_output[
            n, k, h * stride + r * dilation - padding, w * stride + s * dilation - padding]

    Cost, accumulation and determinism are those of `conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> weight = np.ones((1, 1, 2, 2))
    >>> grad_output = np.arange(1.0, 10.0).reshape(1, 3, 3)
    >>> fastcv.conv_transpose2d_grad_input(grad_output, weight, (1, 2, 2))[0]
    array([[12., 16.],
           [24., 28.]])
    """
    call = (grad_output, weight, input_shape, stride, padding, output_padding, groups, dilation)
    plan = _INPUT_GRADIENTS.find(call)
    if plan is None:
        op = "conv_transpose2d_grad_input"
        if _checks.float_arrays(op, {"grad_output": grad_output, "weight": weight}, True):
            found: NDArray[FloatT] = run_on_device(op, locals())
            return found
        parameters = _checks.conv_transpose2d_parameters(
            op, stride, padding, output_padding, groups, dilation
        )
        checked_shape = _checks.shape(op, "input_shape", input_shape)
        geometry = _checks.conv_transpose2d_geometry(
            op, checked_shape, weight.shape, parameters, input_name="input_shape"
        )
        _checks.conv_transpose2d_grad_output(op, grad_output.shape, geometry)
        plan = _layout.result(checked_shape, grad_output), _convolution(parameters)
        _INPUT_GRADIENTS.keep(call, plan)
    layout, convolution = plan
    grad_input: NDArray[FloatT] = layout.new()
    _core.conv_transpose2d_grad_input(grad_output, weight, grad_input, convolution)
    return grad_input


def conv_transpose2d_grad_weight(
    grad_output: NDArray[FloatT],
    input: NDArray[FloatT],
    weight_shape: tuple[int, ...],
    *,
    stride: _checks.IntOrPair = 1,
    padding: _checks.IntOrPair = 0,
    output_padding: _checks.IntOrPair = 0,
    groups: int = 1,
    dilation: _checks.IntOrPair = 1,
) -> NDArray[FloatT]:
    """Gradient of a transposed convolution with respect to its weight.

    Parameters
    ----------
    grad_output : ndarray, shape (N, K, P, Q) or (K, P, Q), float32 or float64
        Gradient with respect to the output of ``conv_transpose2d(input, weight, ...)`` without
        activation, with any strides.
    input : ndarray, shape (N, C, H, W) or (C, H, W)
        The transposed convolution's input, with any strides. Same dtype as `grad_output`.
    weight_shape : tuple of int
        Shape of the transposed convolution's weight, (C, K // groups, R, S).
    stride, padding, output_padding, groups, dilation
        The transposed convolution's parameters, as in `conv_transpose2d`.

    Returns
    -------
    ndarray, shape `weight_shape`
        A new C-contiguous array.

    Raises
    ------
    TypeError
        As `conv_transpose2d`.
    ValueError
        As `conv_transpose2d`, and if `grad_output` does not have the shape of that transposed
        convolution's output.
    MemoryError
        If memory for the result or for scratch cannot be had.

    See Also
    --------
    conv_transpose2d : The transposed convolution.
    conv_transpose2d_grad_input : The other gradient.

    Notes
    -----
    This is `conv2d_grad_weight` with `input` and `grad_output` in each other's places. With
    zero-padded `grad_output`::

        grad_weight[c, k, r, s] = sum over n, h, w of input[n, c, h, w] * grad_output[
            n, k, h * stride + r * dilation - padding, w * stride + s * dilation - padding]

    The gradient with respect to the bias is ``grad_output.sum(axis=(0, 2, 3))``. Threads share out
    channels, never the terms of a sum, so the bits do not depend on their number.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> image = np.array([[[1.0, 2.0], [0.0, 1.0]]])
    >>> fastcv.conv_transpose2d_grad_weight(np.ones((1, 4, 4)), image, (1, 1, 3, 3))[0, 0]
    array([[4., 4., 4.],
           [4., 4., 4.],
           [4., 4., 4.]])
    """
    call = (grad_output, input, weight_shape, stride, padding, output_padding, groups, dilation)
    plan = _WEIGHT_GRADIENTS.find(call)
    if plan is None:
        op = "conv_transpose2d_grad_weight"
        if _checks.float_arrays(op, {"grad_output": grad_output, "input": input}, True):
            found: NDArray[FloatT] = run_on_device(op, locals())
            return found
        parameters = _checks.conv_transpose2d_parameters(
            op, stride, padding, output_padding, groups, dilation
        )
        checked_shape = _checks.shape(op, "weight_shape", weight_shape)
        geometry = _checks.conv_transpose2d_geometry(
            op, input.shape, checked_shape, parameters, weight_name="weight_shape"
        )
        _checks.conv_transpose2d_grad_output(op, grad_output.shape, geometry)
        plan = _core.ResultLayout(checked_shape, input.dtype), _convolution(parameters)
        _WEIGHT_GRADIENTS.keep(call, plan)
    layout, convolution = plan
    grad_weight: NDArray[FloatT] = layout.new()
    _core.conv_transpose2d_grad_weight(grad_output, input, grad_weight, convolution)
    return grad_weight


def _convolution(
    parameters: _checks.ConvTranspose2dParameters, activation: int = 0, slope: float = 0.0
) -> _core.Convolution:
    """Return the convolution whose input gradient this is."""
    return _core.Convolution(
        parameters.stride,
        parameters.padding,
        parameters.dilation,
        parameters.groups,
        activation,
        slope,
    )


class ConvTranspose2d(Immutable, Generic[FloatT]):
    """A transposed convolution whose weights are packed once, for use on many inputs.

    Call it as ``plan(input, out=None)``. It is immutable, can be pickled and copied, and many
    threads may call it at once.

    Parameters
    ----------
    weight : ndarray, shape (C, K // groups, R, S), float32 or float64
        Windows of R x S taps, from each input channel to the output channels of its group. Copied:
        later writes to it change nothing.
    bias : ndarray, shape (K,), optional
        Added to each output channel. Same dtype as `weight`. Copied.
    stride, padding, output_padding, groups, dilation, activation
        As in `conv_transpose2d`.

    Attributes
    ----------
    weight, bias : ndarray
        The copies, read-only. `bias` is None if there is none.
    stride, padding, output_padding, dilation : (int, int)
        Down and across, in pixels.
    groups : int
        Number of independent transposed convolutions.
    activation : None, str or (str, float)
        As passed.

    Raises
    ------
    TypeError, ValueError
        As `conv_transpose2d`, for what `weight`, `bias` and the parameters decide without an input.
    MemoryError
        If memory for the copies cannot be had.

    See Also
    --------
    conv_transpose2d : The same in one call.

    Notes
    -----
    Weights are brought into the order in which the chosen algorithm reads them when an input of a
    shape that needs it comes first. Results differ from those of `conv_transpose2d` by rounding at
    most: the two may choose different algorithms.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> double = fastcv.ConvTranspose2d(np.ones((1, 1, 2, 2)), stride=2)
    >>> double
    ConvTranspose2d(1, 1, kernel_size=(2, 2), stride=(2, 2), bias=False, dtype=float64)
    >>> double(np.array([[[1.0, 2.0, 3.0]]]))
    array([[[1., 1., 2., 2., 3., 3.],
            [1., 1., 2., 2., 3., 3.]]])
    """

    __slots__ = (
        "_calls",
        "_convolution",
        "_parameters",
        "_plan",
        "activation",
        "bias",
        "dilation",
        "groups",
        "output_padding",
        "padding",
        "stride",
        "weight",
    )

    weight: NDArray[FloatT]
    bias: NDArray[FloatT] | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    output_padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    activation: _checks.Activation
    _calls: _core.KnownCalls
    _convolution: _core.Convolution
    _parameters: _checks.ConvTranspose2dParameters
    _plan: _core.ConvTranspose2dPlan

    def __init__(
        self,
        weight: NDArray[FloatT],
        bias: NDArray[FloatT] | None = None,
        *,
        stride: _checks.IntOrPair = 1,
        padding: _checks.IntOrPair = 0,
        output_padding: _checks.IntOrPair = 0,
        groups: int = 1,
        dilation: _checks.IntOrPair = 1,
        activation: _checks.Activation = None,
    ) -> None:
        op = "ConvTranspose2d"
        _checks.float_arrays(op, with_bias({"weight": weight}, bias))
        parameters = _checks.conv_transpose2d_parameters(
            op, stride, padding, output_padding, groups, dilation
        )
        _checks.conv_transpose2d_weight(op, "weight.shape", weight.shape, parameters.groups)
        if bias is not None:
            _checks.conv_transpose2d_bias(op, bias.shape, weight.shape, parameters.groups)
        convolution = _convolution(parameters, *_checks.activation(op, activation))

        weight = read_only_copy(weight)
        bias = None if bias is None else read_only_copy(bias)
        self._set(
            weight=weight,
            bias=bias,
            **parameters._asdict(),
            activation=activation,
            _calls=_core.KnownCalls(sets=4),
            _convolution=convolution,
            _parameters=parameters,
            _plan=_core.ConvTranspose2dPlan(weight, bias, convolution),
        )

    def __call__(
        self, input: NDArray[FloatT], out: NDArray[FloatT] | None = None
    ) -> NDArray[FloatT]:
        """Take `input` to the result; arguments and errors are those of `conv_transpose2d`."""
        op = "ConvTranspose2d"
        call = (input,)
        layout = self._calls.find(call)
        if layout is None:
            _checks.float_arrays(op, {"weight": self.weight, "input": input})
            geometry = _checks.conv_transpose2d_geometry(
                op, input.shape, self.weight.shape, self._parameters
            )
            layout = _layout.result(geometry.result_shape, input)
            self._calls.keep(call, layout)
        if out is None:
            out = layout.new()
        else:
            inputs = {"weight": self.weight, "input": input}
            _checks.output_array(op, out, layout.shape, inputs)
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
            The algorithm's name and the reason, as in ``"phases: ..."``.

        Raises
        ------
        TypeError, ValueError
            As `conv_transpose2d` for an input of that shape.
        """
        op = "ConvTranspose2d"
        geometry = _checks.conv_transpose2d_geometry(
            op,
            _checks.shape(op, "input_shape", input_shape),
            self.weight.shape,
            self._parameters,
            input_name="input_shape",
        )
        name, reason = _core.conv_transpose2d_choice(
            geometry.input_shape,
            self.weight.shape,
            geometry.output_shape,
            self.weight.itemsize,
            self._convolution,
            packed=True,
        )
        return f"{name}: {reason}"

    def __repr__(self) -> str:
        channels, group_filters, *window = self.weight.shape
        words = [
            f"{channels}",
            f"{group_filters * self.groups}",
            f"kernel_size={tuple(window)}",
            f"stride={self.stride}",
        ]
        if self.padding != (0, 0):
            words.append(f"padding={self.padding}")
        if self.output_padding != (0, 0):
            words.append(f"output_padding={self.output_padding}")
        if self.dilation != (1, 1):
            words.append(f"dilation={self.dilation}")
        if self.groups != 1:
            words.append(f"groups={self.groups}")
        if self.bias is None:
            words.append("bias=False")
        if self.activation is not None:
            words.append(f"activation={self.activation!r}")
        return f"ConvTranspose2d({', '.join(words)}, dtype={self.weight.dtype})"

    def __reduce__(self) -> tuple[Any, ...]:
        constructor = partial(type(self), **self._parameters._asdict(), activation=self.activation)
        return constructor, (self.weight, self.bias)
