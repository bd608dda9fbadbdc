"""Whole models: `fastcv.torch.accelerate` against torch, eager and compiled."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import problem
import torch
from models import MODELS, Model


class Problem(problem.Problem):
    cases = MODELS
    modes: ClassVar = {
        "inference": "Whole models: `accelerate` against torch, eager and compiled",
        "training": "A step of training, forward and backward, eager and compiled",
    }

    def __init__(self, case: Model) -> None:
        super().__init__(case)
        self.model = case.build()
        self.images = case.images()

    def expected(self, mode):
        model, images = self.model.double(), self.images.double()
        way = step(model, images) if mode == "training" else forward(model, images)
        results = [each.detach().numpy() for each in way()]
        self.model.float()
        return results

    def bytes(self, mode):
        """Weights once, and the images."""
        return self.images.nbytes + sum(each.nbytes for each in self.model.parameters())

    def error(self, results, expected):
        """Of any result, relative to it, as norms.

        Here and there an activation lies at its kink, and a gradient goes another way there: the
        largest error says nothing.
        """
        pairs = zip(results, expected, strict=True)
        return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)

    def tolerance(self, mode):
        """Wide for gradients, where rounding turns kinks.

        In float32 torch's own are 0.04 off in ResNet-50 and
        0.2 in SegNet. That ours are right, the tests say, in float64.
        """
        return 0.3 if mode == "training" else super().tolerance(mode)

    def fastcv_inference(self, peer):
        """Both layouts, eager and compiled, of which the user takes the best one, as for torch."""
        return self._ways(forward)

    def fastcv_training(self, peer):
        return self._ways(step)

    def torch_inference(self, peer):
        model, images = self._in_layout(peer.layout)
        return [forward(model, images), forward(torch.compile(model), images)]

    def torch_training(self, peer):
        model, images = self._in_layout(peer.layout)
        return [step(model, images), step(torch.compile(model), images)]

    def _ways(self, run):
        import fastcv.torch

        torch.set_num_threads(fastcv.get_num_threads())
        ways = []
        for layout in LAYOUTS:
            model, images = self._in_layout(layout)
            fast = fastcv.torch.accelerate(model)
            ways += [run(fast, images), run(torch.compile(fast), images)]
        return ways

    def _in_layout(self, layout):
        return (
            self.case.build().to(memory_format=layout),
            self.images.contiguous(memory_format=layout),
        )


LAYOUTS = (torch.contiguous_format, torch.channels_last)


def forward(model, images):
    model.eval()

    def run():
        with torch.no_grad():
            return (model(images),)

    return run


def step(model, images):
    """The output, and the gradient of its mean square by the images."""
    model.train()
    images = images.detach().requires_grad_()

    def run():
        model.zero_grad()
        images.grad = None
        with torch.enable_grad():
            output = model(images)
            output.square().mean().backward()
        return output.detach(), images.grad

    return run
