"""Convolution: with weights packed ahead, in a plain call, and both gradients."""

from typing import ClassVar

import numpy as np
import problem
from cases import uniform
from cases.conv2d import CASES, Case
from problem import Group

import fastcv
from fastcv import reference


def wide_3x3(case: Case) -> bool:
    channels = min(case.input_shape[1], case.filters)
    return case.kernel == (3, 3) and case.stride == (1, 1) and case.groups == 1 and channels >= 64


class Problem(problem.Problem):
    cases = CASES
    modes: ClassVar = {
        "packed": "Weights packed ahead: `Conv2d` against every peer",
        "call": "A plain call: `conv2d` against torch",
        "gradients": "Both gradients: `conv2d_grad_input` and `conv2d_grad_weight` against torch",
    }
    groups = (
        Group(
            "3x3, stride 1, 64 channels and more, against ncnn",
            lambda case: wide_3x3(case) and case.dilation == (1, 1),
            "ncnn",
        ),
        Group(
            "dilated 3x3, 64 channels and more",
            lambda case: wide_3x3(case) and case.dilation != (1, 1),
        ),
        Group("depthwise", lambda case: "depthwise" in case.tags),
    )
    kinds = (
        ("depthwise", "depthwise"),
        ("grouped", "grouped"),
        ("dilated", "3x3, dilated"),
        ("pointwise", "1x1"),
        ("strided", "strided"),
        ("3x3", "3x3, stride 1"),
    )

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.input, self.weight, self.bias = case.arrays(np.float32)
        self.grad_output = uniform(np.random.default_rng(1), case.output_shape, np.float32)

    def expected(self, mode):
        x, weight, bias, grad = (
            array.astype(np.float64)
            for array in (self.input, self.weight, self.bias, self.grad_output)
        )
        parameters = self.case.parameters
        if mode != "gradients":
            return [reference.conv2d(x, weight, bias, **parameters)]
        return [
            reference.conv2d_grad_input(grad, weight, x.shape, **parameters),
            reference.conv2d_grad_weight(grad, x, weight.shape, **parameters),
        ]

    def flops(self, mode):
        return self.case.flops * (2 if mode == "gradients" else 1)

    def bytes(self, mode):
        """Each array once, or once for each gradient."""
        once = self.input.nbytes + self.weight.nbytes + self.grad_output.nbytes
        return once * (2 if mode == "gradients" else 1)

    @staticmethod
    def shape(case):
        """Such as ``128x56x56 to 64, 3x3 s2 g32``."""
        batch, *image = case.input_shape
        text = f"{batch} x " if batch > 1 else ""
        text += "x".join(map(str, image)) + f" to {case.filters}, {case.kernel[0]}x{case.kernel[1]}"
        for letter, (rows, columns) in (("s", case.stride), ("d", case.dilation)):
            if (rows, columns) != (1, 1):
                text += f" {letter}{rows}" if rows == columns else f" {letter}{rows}x{columns}"
        return text + (f" g{case.groups}" if case.groups > 1 else "")

    def fastcv_packed(self, peer):
        plan = fastcv.Conv2d(self.weight, self.bias, **self.case.parameters)
        return [lambda: plan(self.input)]

    def fastcv_call(self, peer):
        arrays, parameters = (self.input, self.weight, self.bias), self.case.parameters
        return [lambda: fastcv.conv2d(*arrays, **parameters)]

    def fastcv_gradients(self, peer):
        x, weight, grad = self.input, self.weight, self.grad_output
        parameters = self.case.parameters

        def both():
            return (
                fastcv.conv2d_grad_input(grad, weight, x.shape, **parameters),
                fastcv.conv2d_grad_weight(grad, x, weight.shape, **parameters),
            )

        return [both]

    @property
    def symmetric_padding(self) -> tuple[int, int]:
        """Rows and columns, for peers that know no other padding."""
        (top, bottom), (left, right) = self.case.padding
        if (top, left) != (bottom, right):
            raise NotImplementedError("asymmetric padding")
        return top, left

    def torch_packed(self, peer):
        """The plain call, and a frozen ``torch.compile``'s: weights reordered for oneDNN."""
        import torch

        ways = self.torch_call(peer)
        if torch.backends.mkldnn.is_available():
            case = self.case
            x, weight, bias = map(peer.tensor, (self.input, self.weight, self.bias))
            place = self.symmetric_padding, case.stride, case.dilation, case.groups
            reorder = torch._C._nn.mkldnn_reorder_conv2d_weight
            ready = reorder(weight.to_mkldnn(), *place, x.shape)
            pointwise = torch.ops.mkldnn._convolution_pointwise
            ways.append(lambda: pointwise(x, ready, bias, *place, "none", [], ""))
        return ways

    def torch_call(self, peer):
        from torch.nn.functional import conv2d

        case = self.case
        x, weight, bias = map(peer.tensor, (self.input, self.weight, self.bias))
        place = case.stride, self.symmetric_padding, case.dilation, case.groups
        return [lambda: conv2d(x, weight, bias, *place)]

    def torch_gradients(self, peer):
        import torch

        case = self.case
        grad, x, weight = map(peer.tensor, (self.grad_output, self.input, self.weight))
        place = case.stride, self.symmetric_padding, case.dilation, False, (0, 0), case.groups
        wanted = True, True, False
        backward = torch.ops.aten.convolution_backward
        return [lambda: backward(grad, x, weight, None, *place, wanted)[:2]]

    def onnx_model(self) -> bytes:
        from peers import _onnx

        case = self.case
        (top, bottom), (left, right) = case.padding
        return _onnx.model(
            "Conv",
            {"input": self.input.shape},
            {"output": self.grad_output.shape},
            {"weight": self.weight, "bias": self.bias},
            strides=case.stride,
            pads=(top, left, bottom, right),
            dilations=case.dilation,
            group=case.groups,
        )

    def onnxruntime_packed(self, peer):
        return peer.runs(self.onnx_model(), self.input, self.grad_output.shape)

    def openvino_packed(self, peer):
        return peer.runs(self.onnx_model(), self.input)

    def ncnn_packed(self, peer):
        case = self.case
        kind = "Convolution" if case.groups == 1 else "ConvolutionDepthWise"
        (top, bottom), (left, right) = case.padding
        numbers = {0: case.filters, 5: 1, 6: self.weight.size, 7: case.groups}
        numbers |= {4: left, 14: top, 15: right, 16: bottom}
        for width, pair in ((1, case.kernel), (2, case.dilation), (3, case.stride)):
            numbers |= {width: pair[1], 10 + width: pair[0]}
        raw_float32 = bytes(4)
        weights = raw_float32 + self.weight.tobytes() + self.bias.tobytes()
        return peer.runs(kind, numbers, weights, self.input)
