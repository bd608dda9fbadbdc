"""Whole models for the benchmarks, built from code, with random weights that a seed fixes.

Those of `transformers` have their published sizes; dropout is off, so that a step of training has
one right result. The other two are the networks that unpooling and transposed convolutions are for.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Model:
    """A model by name, and the shape of its input."""

    name: str
    input_shape: tuple[int, int, int, int]

    def build(self) -> nn.Module:
        """The module; it takes images and returns one tensor."""
        torch.manual_seed(7)
        module: nn.Module = globals()[self.name]()
        for each in module.modules():
            # Random batch norms, as a trained model has them: with the first ones folding is free.
            if isinstance(each, nn.BatchNorm2d) and each.running_var is not None:
                each.running_mean.uniform_(-0.1, 0.1)
                each.running_var.uniform_(0.5, 1.5)
        return module

    def images(self) -> torch.Tensor:
        return torch.rand(self.input_shape, generator=torch.Generator().manual_seed(8))


MODELS = (
    Model("resnet50", (1, 3, 224, 224)),
    Model("convnext_tiny", (1, 3, 224, 224)),
    Model("mobilenet_v2", (1, 3, 224, 224)),
    Model("segformer_b0", (1, 3, 512, 512)),
    Model("swin_tiny", (1, 3, 224, 224)),
    Model("detr", (1, 3, 480, 640)),
    Model("segnet", (1, 3, 360, 480)),
    Model("unet", (1, 3, 256, 256)),
)


class OneTensor(nn.Module):
    """A model of `transformers` whose results are one tensor, without a loss."""

    def __init__(self, model: nn.Module, *names: str) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: Any = self.model(pixel_values=images)
        return torch.cat([found[name].flatten(1) for name in self.names], 1)


def resnet50() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return OneTensor(ResNetForImageClassification(ResNetConfig(num_labels=1000)), "logits")


def convnext_tiny() -> nn.Module:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    # A scale of 1e-6, where training starts, would leave the blocks out of the result.
    config = ConvNextConfig(num_labels=1000, layer_scale_init_value=0.1)
    return OneTensor(ConvNextForImageClassification(config), "logits")


def mobilenet_v2() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(num_labels=1000, classifier_dropout_prob=0)
    return OneTensor(MobileNetV2ForImageClassification(config), "logits")


def segformer_b0() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(num_labels=150, drop_path_rate=0, classifier_dropout_prob=0)
    return OneTensor(SegformerForSemanticSegmentation(config), "logits")


def swin_tiny() -> nn.Module:
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(num_labels=1000, drop_path_rate=0)
    return OneTensor(SwinForImageClassification(config), "logits")


def detr() -> nn.Module:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    config = DetrConfig(
        backbone_config=ResNetConfig(out_features=["stage4"]),
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        dropout=0,
        attention_dropout=0,
        activation_dropout=0,
    )
    return OneTensor(DetrForObjectDetection(config), "logits", "pred_boxes")


def convolution(channels: int, filters: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, filters, 3, padding=1, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
    ]


class SegNet(nn.Module):
    """VGG-16's convolutions, and their mirror, where unpooling goes back by pooling's indices.

    Badrinarayanan, Kendall and Cipolla, SegNet, 2017.
    """

    blocks = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512,) * 4)

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for block in self.blocks:
            layers = [m for pair in pairwise(block) for m in convolution(*pair)]
            self.encoder.append(nn.Sequential(*layers))
        for block in reversed(self.blocks):
            # The last one ends in the classes, without a batch norm.
            up = list(pairwise(block[::-1]))
            if block[0] == 3:
                layers = [*convolution(*up[0]), nn.Conv2d(up[1][0], classes, 3, padding=1)]
            else:
                layers = [m for pair in up for m in convolution(*pair)]
            self.decoder.append(nn.Sequential(*layers))
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        switches = []
        for block in self.encoder:
            x = block(x)
            shape = x.shape
            x, indices = self.pool(x)
            switches.append((shape, indices))
        for block in self.decoder:
            shape, indices = switches.pop()
            x = block(self.unpool(x, indices, output_size=shape))
        return x


class UNet(nn.Module):
    """Two convolutions a level, with what the level above saw beside what comes up from below.

    Ronneberger, Fischer and Brox, U-Net, 2015; with padding and batch norms, as it is built now.
    """

    def __init__(self, classes: int, widths: tuple[int, ...] = (64, 128, 256, 512, 1024)) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Sequential(*convolution(c, k), *convolution(k, k)) for c, k in pairwise((3, *widths))
        )
        self.pool = nn.MaxPool2d(2)
        steps = list(pairwise(widths[::-1]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(c, k, 2, stride=2) for c, k in steps)
        self.join = nn.ModuleList(
            nn.Sequential(*convolution(c, k), *convolution(k, k)) for c, k in steps
        )
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        for level in self.down:
            x = level(self.pool(x) if seen else x)
            seen.append(x)
        seen.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat((seen.pop(), up(x)), 1))
        return self.head(x)


def segnet() -> nn.Module:
    return SegNet(12)


def unet() -> nn.Module:
    return UNet(21)
