"""LeNet on crops of a photograph, written once for every framework that can train it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

STEPS = 50
_SHAPES = ((6, 3, 5, 5), (16, 6, 5, 5), (400, 120), (120, 84), (84, 10))
_BATCH, _RATE = 8, 0.02
# A unit at the kink of its activation, or two that tie for a pooled maximum, send the gradient
# where rounding decides; torch's own float32 with and without oneDNN then drift apart by 1e-3 and
# more. Noise parts the pixels of flat areas, which would tie by the hundred. From this start, noise
# of 3e-7 of their size on every unit of a float64 run moved no loss by more than 1e-7.
_NOISE, _SEED = 0.02, 226


def loss(functions: Any, namespace: Any, parameters: Any, images: Any, wanted: Any) -> Any:
    """Cross entropy. `wanted` is one-hot; `namespace` has exp and log of the framework's arrays."""
    x = images
    for weight, bias in parameters[:2]:
        x = functions.conv2d(x, weight, bias)
        x = functions.max_pool2d(x * (x > 0), 2)
    x = x.reshape(len(images), -1)
    for weight, bias in parameters[2:]:
        x = x @ weight + bias
        x = x * (x > 0) if len(bias) > 10 else x
    return (namespace.log(namespace.exp(x).sum(1)) - (x * wanted).sum(1)).mean()


def losses(step: Callable[[Any, Any, Any], tuple[float, Any]], dtype: type) -> list[float]:
    """Train by gradient descent.

    `step` takes a list of (weight, bias), images and one-hot labels, and returns the loss and its
    gradients in the same form, all of them NumPy's.
    """
    data = pytest.importorskip("skimage.data")
    rng = np.random.default_rng(_SEED)
    crops = data.astronaut().reshape(16, 32, 16, 32, 3).transpose(0, 2, 4, 1, 3)
    images = crops.reshape(256, 3, 32, 32) / 255 - 0.5
    # Ten classes by brightness, as many of each.
    classes = np.argsort(np.argsort(images.mean((1, 2, 3)))) * 10 // 256
    order = rng.permutation(256)
    images = (images[order] + rng.normal(0, _NOISE, images.shape)).astype(dtype)
    wanted = np.eye(10, dtype=dtype)[classes[order]]
    parameters = []
    for shape in _SHAPES:
        inputs = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
        weight = rng.normal(0, inputs**-0.5, shape).astype(dtype)
        parameters.append((weight, np.zeros(shape[0] if len(shape) == 4 else shape[1], dtype)))
    result = []
    for number in range(STEPS):
        first = _BATCH * number % 256
        batch = slice(first, first + _BATCH)
        value, gradients = step(parameters, images[batch], wanted[batch])
        parameters = [
            tuple(array - dtype(_RATE) * grad for array, grad in zip(layer, grads, strict=True))
            for layer, grads in zip(parameters, gradients, strict=True)
        ]
        result.append(float(value))
    assert result[-1] < result[0] - 0.1
    return result


def torchs_losses(functions: Any, dtype: type) -> list[float]:
    """Losses in torch, with its own functions or others under the same names."""
    torch = pytest.importorskip("torch")

    def step(parameters: Any, images: Any, wanted: Any) -> tuple[float, Any]:
        layers = [[torch.from_numpy(a).requires_grad_() for a in layer] for layer in parameters]
        value = loss(functions, torch, layers, torch.from_numpy(images), torch.from_numpy(wanted))
        value.backward()
        return value.item(), [[tensor.grad.numpy() for tensor in layer] for layer in layers]

    return losses(step, dtype)
