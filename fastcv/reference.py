"""The ops in plain NumPy: what the compiled kernels compute, to read and to compare with.

Each function takes what its namesake in `fastcv` takes (but `algorithm` and `out`), checks shapes
and parameters alike, and computes in float64 whatever the dtype of its arrays.

Shapes: N images, C input channels, K filters, G groups, a window of R x S taps, H x W input pixels,
P x Q output pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcv import _checks

Array = NDArray[np.float64]
Indices = NDArray[Any]


def conv2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: _checks.IntOrPair = 1,
    padding: _checks.Padding = 0,
    dilation: _checks.IntOrPair = 1,
    groups: int = 1,
    *,
    activation: _checks.Activation = None,
) -> Array:
    """Weigh the pixels that each tap sees, and sum over the taps and the channels."""
    op = "conv2d"
    taps, shape = _conv2d(op, np.shape(input), np.shape(weight), stride, padding, dilation, groups)
    return _finished(op, taps.gathered(input, weight).reshape(shape), bias, activation)


def conv2d_grad_input(
    grad_output: ArrayLike,
    weight: ArrayLike,
    input_shape: tuple[int, ...],
    *,
    stride: _checks.IntOrPair = 1,
    padding: _checks.Padding = 0,
    dilation: _checks.IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """Hand each output's gradient back to the pixels that each tap saw, and drop the padding."""
    op = "conv2d_grad_input"
    taps, _ = _conv2d(op, input_shape, np.shape(weight), stride, padding, dilation, groups)
    return taps.scattered(grad_output, weight).reshape(input_shape)


def conv2d_grad_weight(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight_shape: tuple[int, ...],
    *,
    stride: _checks.IntOrPair = 1,
    padding: _checks.Padding = 0,
    dilation: _checks.IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """Correlate the outputs' gradients with the pixels that each tap saw, and sum over images."""
    op = "conv2d_grad_weight"
    taps, _ = _conv2d(op, np.shape(input), weight_shape, stride, padding, dilation, groups)
    return taps.correlated(grad_output, input).reshape(weight_shape)


def conv_transpose2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: _checks.IntOrPair = 1,
    padding: _checks.IntOrPair = 0,
    output_padding: _checks.IntOrPair = 0,
    groups: int = 1,
    dilation: _checks.IntOrPair = 1,
    *,
    activation: _checks.Activation = None,
) -> Array:
    """Add each pixel, weighed, to the outputs that each tap leads to, and drop the padding."""
    op = "conv_transpose2d"
    shapes, sizes = (np.shape(input), np.shape(weight)), (stride, padding, output_padding)
    taps, shape = _conv_transpose2d(op, *shapes, *sizes, groups, dilation)
    return _finished(op, taps.scattered(input, weight).reshape(shape), bias, activation)


def conv_transpose2d_grad_input(
    grad_output: ArrayLike,
    weight: ArrayLike,
    input_shape: tuple[int, ...],
    *,
    stride: _checks.IntOrPair = 1,
    padding: _checks.IntOrPair = 0,
    output_padding: _checks.IntOrPair = 0,
    groups: int = 1,
    dilation: _checks.IntOrPair = 1,
) -> Array:
    """Weigh the gradients of the outputs that each tap led to: an ordinary convolution."""
    op = "conv_transpose2d_grad_input"
    shapes, sizes = (input_shape, np.shape(weight)), (stride, padding, output_padding)
    taps, _ = _conv_transpose2d(op, *shapes, *sizes, groups, dilation)
    return taps.gathered(grad_output, weight).reshape(input_shape)


def conv_transpose2d_grad_weight(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight_shape: tuple[int, ...],
    *,
    stride: _checks.IntOrPair = 1,
    padding: _checks.IntOrPair = 0,
    output_padding: _checks.IntOrPair = 0,
    groups: int = 1,
    dilation: _checks.IntOrPair = 1,
) -> Array:
    """Correlate pixels with the gradients of the outputs that each tap led to."""
    op = "conv_transpose2d_grad_weight"
    shapes, sizes = (np.shape(input), weight_shape), (stride, padding, output_padding)
    taps, _ = _conv_transpose2d(op, *shapes, *sizes, groups, dilation)
    return taps.correlated(input, grad_output).reshape(weight_shape)


def _conv2d(
    op: str,
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: _checks.IntOrPair,
    padding: _checks.Padding,
    dilation: _checks.IntOrPair,
    groups: int,
) -> tuple[_Taps, tuple[int, ...]]:
    """Check a convolution; return its taps and the shape of its result."""
    parameters = _checks.conv2d_parameters(op, stride, padding, dilation, groups)
    geometry = _checks.conv2d_geometry(op, tuple(input_shape), tuple(weight_shape), parameters)
    taps = _Taps(
        geometry.input_shape,
        tuple(weight_shape),
        geometry.output_shape,
        parameters.stride,
        _checks.conv2d_sides(tuple(weight_shape), parameters),
        parameters.dilation,
        parameters.groups,
    )
    return taps, geometry.result_shape


def _conv_transpose2d(
    op: str,
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: _checks.IntOrPair,
    padding: _checks.IntOrPair,
    output_padding: _checks.IntOrPair,
    groups: int,
    dilation: _checks.IntOrPair,
) -> tuple[_Taps, tuple[int, ...]]:
    """Check a transposed convolution; return its convolution's taps, and the result's shape."""
    parameters = _checks.conv_transpose2d_parameters(
        op, stride, padding, output_padding, groups, dilation
    )
    geometry = _checks.conv_transpose2d_geometry(
        op, tuple(input_shape), tuple(weight_shape), parameters
    )
    rows, columns = parameters.padding
    taps = _Taps(
        geometry.output_shape,
        tuple(weight_shape),
        geometry.input_shape,
        parameters.stride,
        ((rows, rows), (columns, columns)),
        parameters.dilation,
        parameters.groups,
    )
    return taps, geometry.result_shape


def gram_matrix(input: ArrayLike, scale: float | None = None) -> Array:
    """Multiply every two channels, pixel by pixel, and sum."""
    op = "gram_matrix"
    _checks.gram_matrix_shape(op, np.shape(input))
    pixels = _pixels(input)
    return pixels @ pixels.swapaxes(-1, -2) * _checks.gram_matrix_scale(op, scale, np.shape(input))


def gram_matrix_grad_input(
    grad_output: ArrayLike, input: ArrayLike, scale: float | None = None
) -> Array:
    """Each pixel's channels, weighed by the gradients of all the products that they are part of."""
    op = "gram_matrix_grad_input"
    _checks.gram_matrix_shape(op, np.shape(input))
    grads = np.asarray(grad_output, np.float64)
    result = (grads + grads.swapaxes(-1, -2)) @ _pixels(input)
    result *= _checks.gram_matrix_scale(op, scale, np.shape(input))
    return result.reshape(np.shape(input))


def _pixels(image: ArrayLike) -> Array:
    """(..., C, H, W) -> (..., C, H * W)."""
    *rest, height, width = np.shape(image)
    return np.asarray(image, np.float64).reshape(*rest, height * width)


def linear_sum_assignment(
    cost_matrix: ArrayLike,
    maximize: bool = False,
    *,
    cost_limit: float | None = None,
    nan_policy: Literal["raise", "forbid"] = "raise",
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Match rows to columns at the least sum of costs, one row after the other.

    Where several matchings have the least cost, `fastcv` may choose another one.
    """
    op = "linear_sum_assignment"
    given = _checks.cost_matrix(op, "cost_matrix", cost_matrix)
    costs = given.astype(np.float64)
    limit = _checks.cost_limit(op, cost_limit, maximize)
    forbid = _checks.nan_policy(op, nan_policy)
    if maximize:
        costs, limit = -costs, -limit
    if forbid:
        costs[np.isnan(costs)] = np.inf
    invalid = np.argwhere(np.isnan(costs) | (costs == -np.inf))
    if len(invalid):
        fault = ("invalid", 0, *invalid[0])
        raise ValueError(
            f"{op}: {_checks.cost_fault('cost_matrix', np.asarray(cost_matrix), fault)}"
        )
    rows, columns = costs.shape
    if rows > columns:
        col_ind, row_ind = _match(costs.T, limit, forbid)
        order = np.argsort(row_ind)
        row_ind, col_ind = row_ind[order], col_ind[order]
    else:
        row_ind, col_ind = _match(costs, limit, forbid)
    if limit == np.inf and not forbid and len(row_ind) < min(rows, columns):
        fault = ("infeasible", 0, 0, 0)
        raise ValueError(
            f"{op}: {_checks.cost_fault('cost_matrix', np.asarray(cost_matrix), fault)}"
        )
    return row_ind, col_ind


def detr_match(
    logits: ArrayLike,
    boxes: ArrayLike,
    target_labels: Sequence[ArrayLike],
    target_boxes: Sequence[ArrayLike],
    *,
    cost_class: float = 1.0,
    cost_bbox: float = 5.0,
    cost_giou: float = 2.0,
    class_cost: Literal["softmax", "focal"] = "softmax",
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Match each image's queries to its objects at the least cost."""
    weights = (cost_class, cost_bbox, cost_giou)
    images = zip(logits, boxes, target_labels, target_boxes, strict=True)  # type: ignore[arg-type]
    return [
        linear_sum_assignment(detr_costs(*image, weights=weights, class_cost=class_cost))
        for image in images
    ]


def detr_costs(
    logits: ArrayLike,
    boxes: ArrayLike,
    target_labels: ArrayLike,
    target_boxes: ArrayLike,
    *,
    weights: tuple[float, float, float] = (1.0, 5.0, 2.0),
    class_cost: Literal["softmax", "focal"] = "softmax",
) -> Array:
    """Work out what each query of one image costs for each object, (Q, T)."""
    scores, box = np.asarray(logits, np.float64), np.asarray(boxes, np.float64)
    labels, objects = np.asarray(target_labels, np.int64), np.asarray(target_boxes, np.float64)
    cost_class, cost_bbox, cost_giou = weights
    if class_cost == "softmax":
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        by_class = -(exponentials / exponentials.sum(axis=1, keepdims=True))[:, labels]
    else:
        p, other = 1 / (1 + np.exp(-scores[:, labels])), 1 / (1 + np.exp(scores[:, labels]))
        by_class = 0.25 * other**2 * -np.log(p + 1e-8) - 0.75 * p**2 * -np.log(other + 1e-8)
    distance = np.abs(box[:, None] - objects).sum(axis=2)
    giou = _generalised_iou(box[:, None], objects[None])
    result: Array = cost_bbox * distance + cost_class * by_class - cost_giou * giou
    return result


def _generalised_iou(first: Array, second: Array) -> Array:
    low, high = first[..., :2] - first[..., 2:] / 2, first[..., :2] + first[..., 2:] / 2
    low2, high2 = second[..., :2] - second[..., 2:] / 2, second[..., :2] + second[..., 2:] / 2
    both = np.prod(np.maximum(np.minimum(high, high2) - np.maximum(low, low2), 0), axis=-1)
    either = np.prod(high - low, axis=-1) + np.prod(high2 - low2, axis=-1) - both
    hull = np.prod(np.maximum(np.maximum(high, high2) - np.minimum(low, low2), 0), axis=-1)
    result: Array = np.divide(both, either, out=np.zeros_like(either), where=either != 0)
    result -= np.divide(hull - either, hull, out=np.zeros_like(hull), where=hull != 0)
    return result


def _match(costs: Array, limit: float, forbid: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the cheapest way for each row in turn to get a column, if need be another row's."""
    rows, columns = costs.shape
    if limit < np.inf or forbid:
        # A column for each row alone, at the limit or at a price that nobody pays without need.
        if limit == np.inf:
            finite = np.abs(costs[np.isfinite(costs)])
            limit = 4.0 * (rows + 1) * float(finite.max(initial=0.0)) + 1
        alone = np.full((rows, rows), np.inf)
        np.fill_diagonal(alone, limit)
        costs = np.hstack([costs, alone])
    u, v = np.zeros(rows), np.zeros(costs.shape[1])
    row_of = np.full(costs.shape[1], -1)
    for row in range(rows):
        distance = np.full(costs.shape[1], np.inf)
        previous = np.full(costs.shape[1], -1)
        seen = np.zeros(costs.shape[1], bool)
        i, shortest, path = row, 0.0, [(row, 0.0)]
        while True:
            through_i = shortest + costs[i] - u[i] - v
            closer = ~seen & (through_i < distance)
            distance[closer], previous[closer] = through_i[closer], i
            j = int(np.argmin(np.where(seen, np.inf, distance)))
            shortest = distance[j]
            seen[j] = True
            if row_of[j] < 0 or shortest == np.inf:
                break
            i = row_of[j]
            path.append((i, shortest))
        if shortest == np.inf:
            continue
        for i, reached in path:
            u[i] += shortest - reached
        v[seen] -= shortest - distance[seen]
        while True:  # hand each column on the way to the row before
            i = previous[j]
            row_of[j], j = i, int(np.flatnonzero(row_of == i)[0]) if i != row else -1
            if i == row:
                break
    col_ind = np.full(rows, -1)
    col_ind[row_of[:columns][row_of[:columns] >= 0]] = np.flatnonzero(row_of[:columns] >= 0)
    row_ind = np.flatnonzero(col_ind >= 0)
    return row_ind, col_ind[row_ind]


def max_pool2d(
    input: ArrayLike,
    kernel_size: _checks.IntOrPair,
    stride: _checks.IntOrPair | None = None,
    padding: _checks.IntOrPair = 0,
    dilation: _checks.IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Indices]:
    """Go through the window in row-major order; take what is more than the best so far, or NaN."""
    op = "max_pool2d"
    parameters = _checks.pool2d_parameters(op, kernel_size, stride, padding, dilation, ceil_mode)
    image = np.asarray(input, np.float64)
    result_shape = _checks.max_pool2d_geometry(op, image.shape, parameters).result_shape
    height, width = image.shape[-2:]
    (rows, columns), (down, across) = parameters.kernel_size, parameters.dilation
    # Where each window starts; and where it first meets the image, or would if that went on.
    top, left = (
        np.arange(extent) * step - before
        for extent, step, before in zip(
            result_shape[-2:], parameters.stride, parameters.padding, strict=True
        )
    )
    first_h, first_w = np.where(top < 0, top % down, top), np.where(left < 0, left % across, left)
    output = np.full(result_shape, -np.inf)
    indices = np.broadcast_to(first_h[:, None] * width + first_w, result_shape).copy()
    for r in range(rows):
        for s in range(columns):
            h, w = top[:, None] + r * down, left + s * across
            inside = (h >= 0) & (h < height) & (w >= 0) & (w < width)
            values = image[..., h.clip(0, height - 1), w.clip(0, width - 1)]
            better = inside & ((values > output) | np.isnan(values))
            output = np.where(better, values, output)
            indices = np.where(better, h * width + w, indices)
    return (output, indices) if return_indices else output


def max_pool2d_grad_input(
    grad_output: ArrayLike, indices: ArrayLike, input_shape: tuple[int, ...]
) -> Array:
    """Add each gradient to the element that its index names."""
    op = "max_pool2d_grad_input"
    grads, names = np.asarray(grad_output, np.float64), np.asarray(indices)
    _checks.max_pool2d_grad_shapes(op, grads.shape, names.shape, tuple(input_shape))
    planes, names, grads = _named_elements(op, input_shape, names, grads)
    np.add.at(planes, (np.arange(len(planes))[:, None], names), grads)
    return planes.reshape(input_shape)


def max_unpool2d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: _checks.IntOrPair,
    stride: _checks.IntOrPair | None = None,
    padding: _checks.IntOrPair = 0,
    output_size: tuple[int, ...] | None = None,
) -> Array:
    """Put each element, one after another, where its index says."""
    op = "max_unpool2d"
    values, names = np.asarray(input, np.float64), np.asarray(indices)
    parameters = _checks.pool2d_parameters(op, kernel_size, stride, padding)
    size = None if output_size is None else _checks.shape(op, "output_size", output_size)
    geometry = _checks.max_unpool2d_geometry(op, values.shape, names.shape, parameters, size)
    planes, names, values = _named_elements(op, geometry.result_shape, names, values)
    for element in range(names.shape[1]):
        planes[np.arange(len(planes)), names[:, element]] = values[:, element]
    return planes.reshape(geometry.result_shape)


def max_unpool2d_grad_input(grad_output: ArrayLike, indices: ArrayLike) -> Array:
    """Fetch for each element the gradient of the place where it went."""
    op = "max_unpool2d_grad_input"
    grads, names = np.asarray(grad_output, np.float64), np.asarray(indices)
    _checks.max_unpool2d_grad_shapes(op, grads.shape, names.shape)
    planes, flat, _ = _named_elements(op, grads.shape, names, names)
    planes[...] = grads.reshape(planes.shape)
    return np.take_along_axis(planes, flat, axis=1).reshape(names.shape)


def _named_elements(
    op: str, planes_shape: tuple[int, ...], indices: Indices, values: NDArray[Any]
) -> tuple[Array, Indices, NDArray[Any]]:
    """Planes of zeros, and the indices and values of each, in a row each."""
    height, width = planes_shape[-2:]
    if indices.size and not 0 <= indices.min() <= indices.max() < height * width:
        raise _checks.index_error(op, indices, height, width)
    count, size = math.prod(planes_shape[:-2]), math.prod(indices.shape[-2:])
    return (
        np.zeros((count, height * width)),
        indices.reshape(count, size),
        values.reshape(count, size),
    )


class _Taps:
    """A convolution as one matrix product per tap of its window.

    It maps images (N, C, H, W) to outputs (N, K, P, Q) as `gathered`. Its two transposes are
    `scattered` and `correlated`. Iterating gives the taps (r, s), each with the index of the pixels
    that it sees in a padded image: one pixel per output.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int, int],
        weight_shape: tuple[int, ...],
        output_shape: tuple[int, int, int, int],
        stride: _checks.Pair,
        sides: _checks.Sides,
        dilation: _checks.Pair,
        groups: int,
    ) -> None:
        self.window = weight_shape[2:]
        self.stride, self.sides, self.dilation = stride, sides, dilation
        batch, channels, self.height, self.width = image_shape
        _, filters, self.rows, self.columns = output_shape
        outputs = self.rows * self.columns
        self.image_shape = (batch, groups, channels // groups, self.height, self.width)
        self.pixel_shape = (batch, groups, channels // groups, outputs)
        self.output_shape = (batch, groups, filters // groups, outputs)
        self.weight_shape = (groups, filters // groups, channels // groups, *self.window)

    def gathered(self, image: ArrayLike, weight: ArrayLike) -> Array:
        """Sum up for each output what its taps see of the image."""
        padded, filters = self.padded(image), self.matrices(weight)
        outputs = np.zeros(self.output_shape)
        for tap, seen in self:
            outputs += filters[tap] @ padded[seen].reshape(self.pixel_shape)
        return outputs

    def scattered(self, outputs: ArrayLike, weight: ArrayLike) -> Array:
        """Add each output to the pixels that its taps see."""
        values, filters = self.flattened(outputs), self.matrices(weight)
        padded = self.padded(np.zeros(self.image_shape))
        for tap, seen in self:
            padded[seen] += (filters[tap].swapaxes(-1, -2) @ values).reshape(padded[seen].shape)
        (top, _), (left, _) = self.sides
        return padded[..., top : top + self.height, left : left + self.width]

    def correlated(self, outputs: ArrayLike, image: ArrayLike) -> Array:
        """Multiply each output with the pixels that its taps see, and sum over all outputs."""
        values, padded = self.flattened(outputs), self.padded(image)
        filters = self.matrices(np.zeros(self.weight_shape))
        for tap, seen in self:
            pixels = padded[seen].reshape(self.pixel_shape)
            filters[tap] = (values @ pixels.swapaxes(-1, -2)).sum(axis=0)
        return filters.transpose(2, 3, 4, 0, 1)

    def __iter__(self) -> Iterator[tuple[tuple[int, int], tuple[Any, ...]]]:
        (down, across), (row_step, column_step) = self.stride, self.dilation
        for r in range(self.window[0]):
            for s in range(self.window[1]):
                top, left = r * row_step, s * column_step
                seen_rows = slice(top, top + (self.rows - 1) * down + 1, down)
                seen_columns = slice(left, left + (self.columns - 1) * across + 1, across)
                yield (r, s), (..., seen_rows, seen_columns)

    def padded(self, image: ArrayLike) -> Array:
        """(N, C, H, W) -> (N, G, C / G, top + H + bottom, left + W + right)."""
        pixels = np.asarray(image, np.float64).reshape(self.image_shape)
        return np.pad(pixels, ((0, 0), (0, 0), (0, 0), *self.sides))

    def matrices(self, weight: ArrayLike) -> Array:
        """(K, C / G, R, S) -> (R, S, G, K / G, C / G)."""
        filters = np.asarray(weight, np.float64).reshape(self.weight_shape)
        return filters.transpose(3, 4, 0, 1, 2).copy()

    def flattened(self, outputs: ArrayLike) -> Array:
        """(N, K, P, Q) -> (N, G, K / G, P * Q)."""
        return np.asarray(outputs, np.float64).reshape(self.output_shape)


def _finished(
    op: str, result: Array, bias: ArrayLike | None, activation: _checks.Activation
) -> Array:
    if bias is not None:
        result = result + np.reshape(bias, (-1, 1, 1))
    _checks.activation(op, activation)
    return _activate(result, activation)


def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: NDArray[Any] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    return_lse: bool = False,
    return_weights: bool = False,
    **options: Any,
) -> Any:
    """Average the values, weighted by the softmax of the scores."""
    options |= {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    a = _Attention(
        "scaled_dot_product_attention", query, key, value, attn_mask, enable_gqa, options
    )
    weights = a.weights * a.kept
    output = (weights @ a.value).reshape(*a.rows_shape, a.geometry.value_columns)
    if not (return_lse or return_weights):
        return output
    extras = [a.lse.reshape(a.rows_shape)] * return_lse
    extras += [weights.reshape(*a.rows_shape, a.geometry.keys)] * return_weights
    return (output, *extras)


def scaled_dot_product_attention_grad(
    grad_output: ArrayLike,
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    output: ArrayLike,
    lse: ArrayLike,
    attn_mask: NDArray[Any] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    need_mask_grad: bool = False,
    **options: Any,
) -> tuple[Array, ...]:
    """Differentiate the average, then the softmax, then the scores."""
    options |= {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    op = "scaled_dot_product_attention_grad"
    a = _Attention(op, query, key, value, attn_mask, enable_gqa, options)
    grad = np.asarray(grad_output, np.float64)
    grad = grad.reshape(*a.weights.shape[:3], a.geometry.value_columns)
    grad_weights = (grad @ a.value.swapaxes(-1, -2)) * a.kept
    mean = (a.weights * grad_weights).sum(axis=-1, keepdims=True)
    grad_masked = a.weights * (grad_weights - mean)
    grad_scores = a.scale * grad_masked * a.cap_slope
    grads = [
        a.reduced(grad_scores @ a.key, np.shape(query)),
        a.reduced(grad_scores.swapaxes(-1, -2) @ a.query, np.shape(key)),
        a.reduced((a.weights * a.kept).swapaxes(-1, -2) @ grad, np.shape(value)),
    ]
    if need_mask_grad and attn_mask is not None:
        grads.append(a.reduced(grad_masked, np.shape(attn_mask)))
    return tuple(grads)


class _Attention:
    """Scores and weights of an attention: (N, H, L, S), the shared heads of keys repeated."""

    def __init__(
        self,
        op: str,
        query: ArrayLike,
        key: ArrayLike,
        value: ArrayLike,
        attn_mask: NDArray[Any] | None,
        enable_gqa: bool,
        options: dict[str, Any],
    ) -> None:
        q, k, v = (np.asarray(array, np.float64) for array in (query, key, value))
        mask = attn_mask
        if mask is not None and mask.dtype != np.dtype(bool):
            mask = mask.astype(np.float64)
        defaults = {"causal_alignment": "top_left", "softcap": 0.0, "window": None}
        options = {**defaults, "kv_lengths": None, "seed": None, **options}
        call = _checks.attention(op, q, k, v, mask, enable_gqa=enable_gqa, **options)
        g = self.geometry = call.geometry
        self.rows_shape = g.rows_shape
        self.scale, cap, left, right, bottom_right, dropout, seed = call.parameters.values()

        samples = math.prod(g.batch)

        def heads(array: Array, number: int) -> Array:
            """(..., heads, rows, columns) -> (N, H, rows, columns)."""
            array = np.broadcast_to(array, (*g.batch, number, *array.shape[-2:]))
            array = array.reshape(samples, number, *array.shape[-2:])
            return np.repeat(array, g.heads // max(1, number), axis=1)

        self.query = heads(q, g.heads)
        self.key, self.value = heads(k, g.kv_heads), heads(v, g.kv_heads)
        scores = self.scale * (self.query @ self.key.swapaxes(-1, -2))
        self.cap_slope: Array = np.ones(())
        if cap > 0:
            bent = np.tanh(scores / cap)
            scores, self.cap_slope = cap * bent, 1 - bent**2

        lengths = np.full(g.batch or 1, g.keys) if call.kv_lengths is None else call.kv_lengths
        length = lengths.reshape(-1, 1, 1, 1)
        position = np.arange(g.queries)[:, None] + bottom_right * (length - g.queries)
        after = np.arange(g.keys) - position  # a query's own key
        seen = np.arange(g.keys) < length
        seen = seen & ((left < 0) | (after >= -left)) & ((right < 0) | (after <= right))
        if mask is not None:
            full = np.broadcast_to(mask, (*g.batch, g.heads, g.queries, g.keys))
            full = full.reshape(scores.shape)
            seen = seen & (full if mask.dtype == np.dtype(bool) else full != -np.inf)
            scores = scores if mask.dtype == np.dtype(bool) else scores + np.where(seen, full, 0)
        scores = np.where(seen, scores, -np.inf)

        largest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
        powers = np.exp(scores - np.where(largest == -np.inf, 0, largest))
        total = powers.sum(axis=-1, keepdims=True)
        with np.errstate(divide="ignore"):
            self.lse: Array = (largest + np.log(total))[..., 0]
        self.weights: Array = powers / np.where(total == 0, 1, total)
        self.kept: Array = np.ones(())
        if dropout > 0:
            words = _philox_words(seed, samples * g.heads, g.queries, g.keys)
            kept = words.reshape(scores.shape) >= min(int(dropout * 2**32), 2**32 - 1)
            self.kept = kept / (1 - dropout) if dropout < 1 else np.zeros(scores.shape)

    def reduced(self, array: Array, shape: tuple[int, ...]) -> Array:
        """Sum over the axes along which an argument of this shape was repeated."""
        g = self.geometry
        array = array.reshape(*g.batch, *array.shape[1:])
        full = (1,) * (array.ndim - len(shape)) + tuple(shape)
        heads = full[-3]
        if 1 < heads < g.heads:  # each head of keys served a group of queries
            array = array.reshape(*g.batch, heads, -1, *array.shape[-2:]).sum(axis=-3)
        axes = tuple(axis for axis, size in enumerate(full) if size == 1 and array.shape[axis] != 1)
        total: Array = array.sum(axis=axes, keepdims=True)
        return total.reshape(shape)


def _philox_words(seed: int, heads: int, rows: int, keys: int) -> NDArray[np.uint64]:
    """Random 32-bit words (heads, rows, keys) by Philox4x32-10, see csrc/philox.h."""
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    head, row, key = np.indices((heads, rows, keys), np.uint64, sparse=True)
    block = key // np.uint64(64) * np.uint64(16) + key % np.uint64(16)
    counter = list(np.broadcast_arrays(block, row, head & low, head >> half))
    seeds = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        even = np.uint64(0xD2511F53) * counter[0]
        odd = np.uint64(0xCD9E8D57) * counter[2]
        counter = [
            (odd >> half) ^ counter[1] ^ np.uint64(seeds[0]),
            odd & low,
            (even >> half) ^ counter[3] ^ np.uint64(seeds[1]),
            even & low,
        ]
        seeds = [(seeds[0] + 0x9E3779B9) % 2**32, (seeds[1] + 0xBB67AE85) % 2**32]
    word = np.broadcast_to(key % np.uint64(64) // np.uint64(16), counter[0].shape)
    return np.choose(word.astype(np.int64), counter)


def _activate(x: Array, activation: _checks.Activation) -> Array:
    match activation:
        case None:
            return x
        case "relu":
            return np.maximum(x, 0)
        case "relu6":
            return np.clip(x, 0, 6)
        case "leaky_relu", slope:
            return np.where(x > 0, x, slope * x)
        case "tanh":
            return np.tanh(x)
        case "gelu":  # x / 2 * (1 + erf(z)), written so that nothing cancels well below zero
            erfc: Array = np.vectorize(math.erfc, otypes=[np.float64])(-x / math.sqrt(2))
            return x / 2 * erfc
    with np.errstate(over="ignore"):
        denominator = 1 + np.exp(-x)
    return 1 / denominator if activation == "sigmoid" else x / denominator
