"""Small models for the tests of whole ones, and how close results have to be."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn


class FrozenBatchNorm2d(nn.Module):
    """As detection models have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x: Any) -> Any:
        scale = (
            self.weight.reshape(1, -1, 1, 1)
            * (self.running_var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        )
        bias = self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale
        return x * scale + bias


class Block(nn.Module):
    """A residual block whose activation is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding="same"), FrozenBatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Any) -> Any:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


def padded(x: Any) -> Any:
    """A helper whose way depends on sizes."""
    return nn.functional.pad(x, (0, 1, 0, 1)) if x.shape[-1] % 2 else x


class Padded(nn.Module):
    """A layer that calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU6()

    def forward(self, x: Any) -> Any:
        return self.act(self.bn(self.conv(padded(x))))


class Model(nn.Module):
    """Something of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.SiLU())
        self.block = Block()
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(6, 4, 3, 2, groups=2), nn.BatchNorm2d(4), nn.LeakyReLU(0.2)
        )
        self.reflect = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Any) -> Any:
        x = self.block(self.stem(x))
        pooled, indices = self.pool(x)
        x = self.unpool(pooled, indices, output_size=x.shape[-2:])
        return self.reflect(self.up(x))


def model() -> Any:
    torch.manual_seed(0)
    made = Model()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias)
    return made.eval()


def close(got: Any, want: Any) -> None:
    """Within rounding of the dtype, through all layers of a small model."""
    first = got
    while isinstance(first, (tuple, list)):
        first = first[0]
    bound = 1e-11 if first.dtype == torch.float64 else 1e-4
    torch.testing.assert_close(got, want, rtol=bound, atol=bound)


class GELUActivation(nn.Module):
    """As `transformers` has it."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.functional.gelu

    def forward(self, x: Any) -> Any:
        return self.act(x)


def perceptron(activation: Any, bias: bool = True) -> Any:
    torch.manual_seed(1)
    layers = nn.Linear(130, 257, bias=bias), activation, nn.Linear(257, 90, bias=bias)
    return nn.Sequential(*layers).eval()
