"""ONNX Runtime's CPU provider."""

import numpy as np
import onnxruntime


class OnnxRuntime:
    version = onnxruntime.__version__

    def __init__(self, threads):
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.inter_op_num_threads = 1

    def runs(self, model, inputs, output_shape):
        """A model from `input`, or inputs by name, to `output`: run plainly, and with all bound."""
        if not isinstance(inputs, dict):
            inputs = {"input": inputs}
        session = onnxruntime.InferenceSession(
            model, self.options, providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        output = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(output_shape, np.float32))
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        binding.bind_ortvalue_output("output", output)

        def bound():
            session.run_with_iobinding(binding)
            return [output.numpy()]

        return [lambda: session.run(None, inputs), bound]

    def arrays(self, result):
        return result
