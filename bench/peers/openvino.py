"""OpenVINO's CPU plugin, compiled for latency."""

import openvino


class OpenVINO:
    version = openvino.__version__.partition("-")[0]

    def __init__(self, threads):
        self.core = openvino.Core()
        self.settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }

    def runs(self, model, *arrays):
        """A model of one output, OpenVINO's own or ONNX's bytes, and its inputs in order."""
        if isinstance(model, bytes):
            model = self.core.read_model(model, b"")
        compiled = self.core.compile_model(model, "CPU", self.settings)
        request = compiled.create_infer_request()
        for index, array in enumerate(arrays):
            request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))

        def run():
            request.infer()
            return request

        return [run]

    def arrays(self, result):
        return [result.get_output_tensor().data]
