"""Gram matrices, and their gradient."""

from typing import ClassVar

import numpy as np
import problem
from cases.gram_matrix import CASES, Case
from problem import Group

import fastcv
from fastcv import reference


class Problem(problem.Problem):
    cases = CASES
    modes: ClassVar = {
        "call": "`gram_matrix` against a matrix product",
        "gradients": "`gram_matrix_grad_input` against a matrix product",
    }
    groups = (
        Group("style transfer", lambda case: "vgg" in case.tags),
        Group("channels-last", lambda case: case.channels_last),
        Group("small", lambda case: "small" in case.tags),
    )
    kinds = (("channels-last", "channels-last"), ("small", "small"), ("", "NCHW"))

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.input, self.grad_output = case.arrays(np.float32)
        self.scale = 1 / (case.input_shape[1] * case.pixels)

    def expected(self, mode):
        x, grad = self.input.astype(np.float64), self.grad_output.astype(np.float64)
        if mode == "call":
            return [reference.gram_matrix(x)]
        return [reference.gram_matrix_grad_input(grad, x)]

    def flops(self, mode):
        """Both triangles, though they are the same."""
        return self.case.flops

    def bytes(self, mode):
        images = self.input.nbytes * (1 if mode == "call" else 2)
        return images + self.grad_output.nbytes

    @staticmethod
    def shape(case):
        batch, *image = case.input_shape
        text = f"{batch} x " if batch > 1 else ""
        return text + "x".join(map(str, image)) + (" channels-last" if case.channels_last else "")

    def fastcv_call(self, peer):
        return [lambda: fastcv.gram_matrix(self.input)]

    def fastcv_gradients(self, peer):
        return [lambda: fastcv.gram_matrix_grad_input(self.grad_output, self.input)]

    def torch_call(self, peer):
        """The product and the factor in one call, and one after the other."""
        import torch

        pixels = peer.tensor(self.input).flatten(2)
        turned = pixels.transpose(1, 2)
        nothing = torch.zeros(())
        return [
            lambda: torch.baddbmm(nothing, pixels, turned, beta=0, alpha=self.scale),
            lambda: torch.bmm(pixels, turned).mul_(self.scale),
        ]

    def torch_gradients(self, peer):
        import torch

        x = peer.tensor(self.input)
        pixels, grad = x.flatten(2), peer.tensor(self.grad_output)
        return [
            lambda: torch.bmm((grad + grad.transpose(1, 2)).mul_(self.scale), pixels).view_as(x)
        ]

    def numpy_call(self, peer):
        """One product of the whole batch, and images one by one, for which NumPy calls syrk."""
        batch, channels, _, _ = self.input.shape
        pixels = self.input.reshape(batch, channels, -1)

        def together():
            result = pixels @ pixels.swapaxes(1, 2)
            result *= self.scale
            return result

        def apart():
            result = np.empty(self.case.output_shape, np.float32)
            for image, gram in zip(pixels, result, strict=True):
                np.matmul(image, image.T, out=gram)
            result *= self.scale
            return result

        return [together, apart]

    def numpy_gradients(self, peer):
        batch, channels, _, _ = self.input.shape
        pixels = self.input.reshape(batch, channels, -1)

        def product():
            both = self.grad_output + self.grad_output.swapaxes(1, 2)
            both *= self.scale
            return (both @ pixels).reshape(self.input.shape)

        return [product]
