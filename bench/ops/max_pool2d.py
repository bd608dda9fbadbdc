"""Max pooling: values alone, with indices, and the gradient."""

from typing import Any, ClassVar

import numpy as np
import problem
from cases.max_pool2d import CASES, Case
from problem import Group

import fastcv
from fastcv import reference


class Problem(problem.Problem):
    cases = CASES
    modes: ClassVar = {
        "values": "Values alone: `max_pool2d` against every peer",
        "indices": "With indices: `max_pool2d(.., return_indices=True)` against torch",
        "gradient": "The gradient: `max_pool2d_grad_input` against torch",
    }
    groups = (
        Group("windows that do not overlap", lambda case: "apart" in case.tags),
        Group("stride 2, overlapping", lambda case: "strided" in case.tags),
        Group("stride 1", lambda case: "dense" in case.tags),
        Group("more than caches hold", lambda case: "far" in case.tags),
    )
    kinds = (("dense", "stride 1"), ("strided", "stride 2"), ("apart", "not overlapping"))

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.input, self.grad_output = case.input(), case.grad_output()
        self.indices = fastcv.max_pool2d(self.input, **case.parameters, return_indices=True)[1]

    def expected(self, mode):
        x = self.input.astype(np.float64)
        if mode == "gradient":
            grad = self.grad_output.astype(np.float64)
            return [reference.max_pool2d_grad_input(grad, self.indices, x.shape)]
        output, indices = reference.max_pool2d(x, **self.case.parameters, return_indices=True)
        return [output] if mode == "values" else [output, indices]

    def bytes(self, mode):
        results = self.grad_output.nbytes + (0 if mode == "values" else self.indices.nbytes)
        return self.input.nbytes + results

    @staticmethod
    def shape(case):
        """Such as ``128x56x56, 2x2 s2``."""
        batch, *image = case.input_shape
        text = f"{batch} x " if batch > 1 else ""
        text += "x".join(map(str, image)) + f", {case.kernel[0]}x{case.kernel[1]}"
        for letter, (rows, columns) in (("s", case.stride), ("d", case.dilation)):
            if (rows, columns) != (1, 1):
                text += f" {letter}{rows}" if rows == columns else f" {letter}{rows}x{columns}"
        return text + (" ceil" if case.ceil_mode else "")

    def fastcv_values(self, peer):
        return [lambda: fastcv.max_pool2d(self.input, **self.case.parameters)]

    def fastcv_indices(self, peer):
        return [lambda: fastcv.max_pool2d(self.input, **self.case.parameters, return_indices=True)]

    def fastcv_gradient(self, peer):
        arrays = self.grad_output, self.indices, self.input.shape
        return [lambda: fastcv.max_pool2d_grad_input(*arrays)]

    @property
    def window(self) -> tuple[Any, ...]:
        """Torch's positional arguments."""
        case = self.case
        return case.kernel, case.stride, case.padding, case.dilation, case.ceil_mode

    def torch_values(self, peer):
        from torch.nn.functional import max_pool2d

        x = peer.tensor(self.input)
        return [lambda: max_pool2d(x, *self.window)]

    def torch_indices(self, peer):
        from torch.nn.functional import max_pool2d

        x = peer.tensor(self.input)
        return [lambda: max_pool2d(x, *self.window, return_indices=True)]

    def torch_gradient(self, peer):
        import torch

        grad, x, indices = map(peer.tensor, (self.grad_output, self.input, self.indices))
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return [lambda: backward(grad, x, *self.window, indices)]

    def onnx_model(self) -> bytes:
        from peers import _onnx

        case = self.case
        return _onnx.model(
            "MaxPool",
            {"input": self.input.shape},
            {"output": self.grad_output.shape},
            {},
            kernel_shape=case.kernel,
            strides=case.stride,
            pads=case.padding * 2,
            dilations=case.dilation,
            ceil_mode=int(case.ceil_mode),
        )

    def onnxruntime_values(self, peer):
        return peer.runs(self.onnx_model(), self.input, self.grad_output.shape)

    def openvino_values(self, peer):
        return peer.runs(self.onnx_model(), self.input)
