"""One convolution as an ONNX model with constant weights, for the peers that read such models."""

from onnx import TensorProto, helper, numpy_helper


def conv_model(problem) -> bytes:
    case = problem.case
    (top, bottom), (left, right) = case.padding
    weight = numpy_helper.from_array(problem.weight, "weight")
    bias = numpy_helper.from_array(problem.bias, "bias")
    conv = helper.make_node(
        "Conv",
        ["input", "weight", "bias"],
        ["output"],
        strides=case.stride,
        pads=(top, left, bottom, right),
        dilations=case.dilation,
        group=case.groups,
    )
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, problem.input.shape)
    sink = helper.make_tensor_value_info("output", TensorProto.FLOAT, problem.grad_output.shape)
    graph = helper.make_graph([conv], "conv2d", [source], [sink], [weight, bias])
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
