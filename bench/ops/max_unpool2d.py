"""Max unpooling and its gradient."""

from typing import ClassVar

import problem
from cases.max_pool2d import Case, tagged

import fastcv
from fastcv import reference

from . import max_pool2d


class Problem(problem.Problem):
    cases = tagged("unpooled")
    modes: ClassVar = {
        "unpool": "`max_unpool2d` against torch",
        "unpool_gradient": "The gradient: `max_unpool2d_grad_input` against torch",
    }
    groups = max_pool2d.Problem.groups
    kinds = max_pool2d.Problem.kinds
    shape = staticmethod(max_pool2d.Problem.shape)

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.grad_output = case.input(seed=2)
        self.input, self.indices = fastcv.max_pool2d(
            case.input(), **case.parameters, return_indices=True
        )

    def expected(self, mode):
        if mode == "unpool_gradient":
            return [reference.max_unpool2d_grad_input(self.grad_output, self.indices)]
        return [reference.max_unpool2d(self.input, self.indices, **self.case.unpooling)]

    def bytes(self, mode):
        return self.input.nbytes + self.indices.nbytes + self.grad_output.nbytes

    def fastcv_unpool(self, peer):
        return [lambda: fastcv.max_unpool2d(self.input, self.indices, **self.case.unpooling)]

    def fastcv_unpool_gradient(self, peer):
        return [lambda: fastcv.max_unpool2d_grad_input(self.grad_output, self.indices)]

    def torch_unpool(self, peer):
        import torch

        x, indices = peer.tensor(self.input), peer.tensor(self.indices)
        size = self.case.input_shape[2:]
        return [lambda: torch._C._nn.max_unpool2d(x, indices, size)]

    def torch_unpool_gradient(self, peer):
        """What differentiating ``max_unpool2d`` runs."""
        grad, indices = peer.tensor(self.grad_output), peer.tensor(self.indices)
        shape = self.indices.shape
        return [lambda: grad.flatten(2).gather(2, indices.flatten(2)).view(shape)]
