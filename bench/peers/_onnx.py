"""One node as an ONNX model, for the peers that read such models."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

Shapes = dict[str, tuple[int, ...]]


def model(
    kind: str, inputs: Shapes, outputs: Shapes, constants: dict[str, np.ndarray], **attributes: Any
) -> bytes:
    """A node of this kind that takes the inputs and then the constants, all float32."""
    node = helper.make_node(kind, [*inputs, *constants], [*outputs], **attributes)
    sources, sinks = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in s.items()]
        for s in (inputs, outputs)
    )
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([node], kind, sources, sinks, weights)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
