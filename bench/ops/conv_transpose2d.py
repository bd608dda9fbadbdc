"""Transposed convolution: with weights packed ahead, in a plain call, and both gradients."""

from typing import ClassVar

import numpy as np
import problem
from cases import uniform
from cases.conv_transpose2d import CASES, Case
from problem import Group

import fastcv
from fastcv import reference


class Problem(problem.Problem):
    cases = CASES
    modes: ClassVar = {
        "packed": "Weights packed ahead: `ConvTranspose2d` against every peer",
        "call": "A plain call: `conv_transpose2d` against torch",
        "gradients": (
            "Both gradients: `conv_transpose2d_grad_input` and `conv_transpose2d_grad_weight` "
            "against torch"
        ),
    }
    groups = (
        Group("windows side by side", lambda case: "tiling" in case.tags),
        Group("windows that overlap", lambda case: "overlapping" in case.tags),
        Group("several images", lambda case: "batch" in case.tags),
    )
    kinds = (
        ("depthwise", "depthwise"),
        ("grouped", "grouped"),
        ("stride1", "stride 1"),
        ("tiling", "windows side by side"),
        ("overlapping", "windows that overlap"),
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
            return [reference.conv_transpose2d(x, weight, bias, **parameters)]
        return [
            reference.conv_transpose2d_grad_input(grad, weight, x.shape, **parameters),
            reference.conv_transpose2d_grad_weight(grad, x, weight.shape, **parameters),
        ]

    def flops(self, mode):
        return self.case.flops * (2 if mode == "gradients" else 1)

    def bytes(self, mode):
        """Each array once, or once for each gradient."""
        once = self.input.nbytes + self.weight.nbytes + self.grad_output.nbytes
        return once * (2 if mode == "gradients" else 1)

    @staticmethod
    def shape(case):
        """Such as ``128x56x56 to 64, 4x4 s2 p1``."""
        batch, *image = case.input_shape
        text = f"{batch} x " if batch > 1 else ""
        text += "x".join(map(str, image)) + f" to {case.filters}, {case.kernel[0]}x{case.kernel[1]}"
        for letters, (rows, columns), usual in (
            ("s", case.stride, 1),
            ("p", case.padding, 0),
            ("op", case.output_padding, 0),
            ("d", case.dilation, 1),
        ):
            if (rows, columns) != (usual, usual):
                text += f" {letters}{rows}" if rows == columns else f" {letters}{rows}x{columns}"
        return text + (f" g{case.groups}" if case.groups > 1 else "")

    def fastcv_packed(self, peer):
        plan = fastcv.ConvTranspose2d(self.weight, self.bias, **self.case.parameters)
        return [lambda: plan(self.input)]

    def fastcv_call(self, peer):
        arrays, parameters = (self.input, self.weight, self.bias), self.case.parameters
        return [lambda: fastcv.conv_transpose2d(*arrays, **parameters)]

    def fastcv_gradients(self, peer):
        x, weight, grad = self.input, self.weight, self.grad_output
        parameters = self.case.parameters

        def both():
            return (
                fastcv.conv_transpose2d_grad_input(grad, weight, x.shape, **parameters),
                fastcv.conv_transpose2d_grad_weight(grad, x, weight.shape, **parameters),
            )

        return [both]

    def torch_packed(self, peer):
        """The plain call, and a frozen ``torch.compile``'s: weights reordered for oneDNN."""
        import torch

        ways = self.torch_call(peer)
        if torch.backends.mkldnn.is_available():
            case = self.case
            x, weight, bias = map(peer.tensor, (self.input, self.weight, self.bias))
            place = case.padding, case.output_padding, case.stride, case.dilation, case.groups
            reorder = torch.ops.mkldnn._reorder_convolution_transpose_weight
            ready = reorder(weight, *place, x.shape)
            pointwise = torch.ops.mkldnn._convolution_transpose_pointwise
            ways.append(lambda: pointwise(x, ready, bias, *place, "none", [], ""))
        return ways

    def torch_call(self, peer):
        from torch.nn.functional import conv_transpose2d

        arrays = [peer.tensor(array) for array in (self.input, self.weight, self.bias)]
        parameters = self.case.parameters
        return [lambda: conv_transpose2d(*arrays, **parameters)]

    def torch_gradients(self, peer):
        import torch

        case = self.case
        grad, x, weight = map(peer.tensor, (self.grad_output, self.input, self.weight))
        place = case.stride, case.padding, case.dilation, True, case.output_padding, case.groups
        wanted = True, True, False
        backward = torch.ops.aten.convolution_backward
        return [lambda: backward(grad, x, weight, None, *place, wanted)[:2]]

    def onnx_model(self) -> bytes:
        from peers import _onnx

        case = self.case
        (top, left) = case.padding
        return _onnx.model(
            "ConvTranspose",
            {"input": self.input.shape},
            {"output": self.grad_output.shape},
            {"weight": self.weight, "bias": self.bias},
            strides=case.stride,
            pads=(top, left, top, left),
            output_padding=case.output_padding,
            dilations=case.dilation,
            group=case.groups,
        )

    def onnxruntime_packed(self, peer):
        return peer.runs(self.onnx_model(), self.input, self.grad_output.shape)

    def openvino_packed(self, peer):
        return peer.runs(self.onnx_model(), self.input)

    def ncnn_packed(self, peer):
        case = self.case
        kind = "Deconvolution" if case.groups == 1 else "DeconvolutionDepthWise"
        (top, left), (below, right) = case.padding, case.output_padding
        numbers = {0: case.filters, 5: 1, 6: self.weight.size, 7: case.groups}
        numbers |= {4: left, 14: top, 15: left, 16: top, 18: right, 19: below}
        for width, pair in ((1, case.kernel), (2, case.dilation), (3, case.stride)):
            numbers |= {width: pair[1], 10 + width: pair[0]}
        # ncnn wants output channels first, within each group.
        groups, (channels, filters, *window) = case.groups, case.weight_shape
        grouped = self.weight.reshape(groups, channels // groups, filters, *window)
        raw_float32 = bytes(4)
        weights = raw_float32 + grouped.swapaxes(1, 2).tobytes() + self.bias.tobytes()
        return peer.runs(kind, numbers, weights, self.input)
