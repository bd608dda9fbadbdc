"""OpenVINO's CPU plugin, compiled for latency."""

import openvino

from peers._onnx import conv_model


class OpenVINO:
    version = openvino.__version__.partition("-")[0]

    def __init__(self, threads):
        self.core = openvino.Core()
        self.settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }

    def packed(self, problem):
        model = self.core.read_model(conv_model(problem), b"")
        request = self.core.compile_model(model, "CPU", self.settings).create_infer_request()
        request.set_input_tensor(openvino.Tensor(problem.input, shared_memory=True))

        def run():
            request.infer()
            return request

        return [run]

    def arrays(self, result):
        return [result.get_output_tensor().data]
