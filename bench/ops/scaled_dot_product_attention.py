"""Attention: the forward call, and the gradients of all inputs, an additive mask's included."""

from typing import ClassVar

import numpy as np
import problem
from cases import uniform
from cases.scaled_dot_product_attention import CASES, Case
from problem import Group

import fastcv
from fastcv import reference


class Problem(problem.Problem):
    cases = CASES
    modes: ClassVar = {
        "call": "`scaled_dot_product_attention` against torch, ONNX Runtime and OpenVINO",
        "gradients": "`scaled_dot_product_attention_grad` against torch's backward pass",
    }
    groups = (
        Group("windows with a bias", lambda case: "window" in case.tags),
        Group("all others", lambda case: "window" not in case.tags),
        Group("one query", lambda case: "decode" in case.tags),
    )
    kinds = (
        ("window", "windows with a bias"),
        ("decode", "one query"),
        ("causal", "causal"),
        ("cross", "cross"),
        ("self", "self"),
    )

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.query, self.key, self.value, self.mask = case.arrays(np.float32)
        self.arrays = (self.query, self.key, self.value)
        self.grad = uniform(np.random.default_rng(1), case.output_shape, np.float32)

    @property
    def mask_grad(self) -> bool:
        return self.mask is not None and self.mask.dtype != bool

    def expected(self, mode):
        """A head at a time: all the scores of a case in float64 may be larger than memory."""
        case = self.case
        samples, heads = case.query_shape[:2]
        group = heads // case.kv_heads
        results = [np.zeros(case.output_shape)]
        if mode == "gradients":
            results = [np.zeros(array.shape) for array in self.arrays]
            results += [np.zeros(self.mask.shape)] if self.mask_grad else []
        for n, h in np.ndindex(samples, heads):
            query, key, value = self.query[n, h], *(a[n, h // group] for a in self.arrays[1:])
            mask = None
            if self.mask is not None:
                place = n % self.mask.shape[0], h % self.mask.shape[1]
                mask = self.mask[place]
            if mode == "call":
                results[0][n, h] = reference.scaled_dot_product_attention(
                    query, key, value, mask, is_causal=case.causal
                )
                continue
            grads = reference.scaled_dot_product_attention_grad(
                self.grad[n, h],
                query,
                key,
                value,
                query,
                query,
                mask,
                is_causal=case.causal,
                need_mask_grad=self.mask_grad,
            )
            results[0][n, h] = grads[0]
            results[1][n, h // group] += grads[1]
            results[2][n, h // group] += grads[2]
            if self.mask_grad:
                results[3][place] += grads[3]
        return results

    def flops(self, mode):
        columns, values = self.query.shape[3], self.value.shape[3]
        if mode == "gradients":
            return 2 * self.case.scores * (3 * columns + 2 * values)
        return self.case.flops

    def bytes(self, mode):
        once = sum(array.nbytes for array in self.arrays) + self.grad.nbytes
        once += 0 if self.mask is None else self.mask.nbytes
        return 2 * once if mode == "gradients" else once

    @staticmethod
    def shape(case):
        """Such as ``1 x 8 x 300 to 1333, 32``."""
        samples, heads, queries, columns = case.query_shape
        text = f"{samples} x {heads} x {queries}"
        if case.keys != queries:
            text += f" to {case.keys}"
        if case.kv_heads != heads:
            text += f" of {case.kv_heads}"
        return f"{text}, {columns}" + (
            f" and {case.value_columns}" if case.value_columns != columns else ""
        )

    def fastcv_call(self, peer):
        case = self.case
        return [
            lambda: fastcv.scaled_dot_product_attention(*self.arrays, self.mask, **case.options)
        ]

    def fastcv_gradients(self, peer):
        options = self.case.options
        output, lse = fastcv.scaled_dot_product_attention(
            *self.arrays, self.mask, **options, return_lse=True
        )
        arguments = (self.grad, *self.arrays, output, lse, self.mask)
        options["need_mask_grad"] = self.mask_grad
        return [lambda: fastcv.scaled_dot_product_attention_grad(*arguments, **options)]

    def torch_call(self, peer):
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        tensors = [torch.from_numpy(array) for array in self.arrays]
        mask = None if self.mask is None else torch.from_numpy(self.mask)
        return [lambda: scaled_dot_product_attention(*tensors, mask, **self.case.options)]

    def torch_gradients(self, peer):
        """What backward() would do, the graph being kept."""
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        inputs = [torch.from_numpy(array).requires_grad_() for array in self.arrays]
        mask = None if self.mask is None else torch.from_numpy(self.mask)
        wanted = list(inputs)
        if self.mask_grad:
            wanted.append(mask.requires_grad_())
        with torch.enable_grad():
            output = scaled_dot_product_attention(*inputs, mask, **self.case.options)
        grad = torch.from_numpy(self.grad)
        return [lambda: torch.autograd.grad(output, wanted, grad, retain_graph=True)]

    def onnxruntime_call(self, peer):
        """MultiHeadAttention, whose heads lie in a token's row: as it wants them, at no charge."""
        from onnx import TensorProto, helper

        case = self.case
        samples, heads, queries, _ = case.query_shape
        if case.kv_heads != heads:
            raise NotImplementedError("grouped heads")
        inputs = {
            name: array.transpose(0, 2, 1, 3).reshape(samples, -1, heads * array.shape[3])
            for name, array in zip(("query", "key", "value"), self.arrays, strict=True)
        }
        names = list(inputs)
        if self.mask is not None:
            mask = self.mask
            if mask.dtype == bool:
                mask = np.where(mask, np.float32(0), np.float32(-np.inf))
                mask = np.broadcast_to(mask, (*mask.shape[:2], queries, case.keys))
            inputs["bias"] = np.ascontiguousarray(mask, np.float32)
            names += ["", "", "bias"]
        node = helper.make_node(
            "MultiHeadAttention",
            names,
            ["output"],
            domain="com.microsoft",
            num_heads=heads,
            unidirectional=int(case.causal),
        )
        shape = (samples, queries, heads * case.value_columns)
        graph = helper.make_graph(
            [node],
            "attention",
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
                for name, array in inputs.items()
            ],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()

        def by_heads(run):
            def run_and_view():
                (output,) = run()
                return [output.reshape(samples, queries, heads, -1).transpose(0, 2, 1, 3)]

            return run_and_view

        return [by_heads(run) for run in peer.runs(model, inputs, shape)]

    def openvino_call(self, peer):
        import openvino
        from openvino import opset13

        case = self.case
        if case.kv_heads != case.query_shape[1]:
            raise NotImplementedError("grouped heads")
        arrays = list(self.arrays)
        if self.mask is not None:
            arrays.append(self.mask)
        inputs = [opset13.parameter(array.shape, array.dtype) for array in arrays]
        mask = inputs[3:] or [None]
        node = opset13.scaled_dot_product_attention(*inputs[:3], *mask, causal=case.causal)
        return peer.runs(openvino.Model([node], inputs), *arrays)
