"""ncnn in float32: its packed layouts and Winograd stay on, its half-precision storage is off."""

import tempfile

import ncnn
import numpy as np


class Ncnn:
    version = ncnn.__version__

    def __init__(self, threads):
        self.threads = threads
        # Nets and their results give memory back here, so the allocators outlive them all.
        self.allocators = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()

    def runs(self, kind, numbers, weights, batch):
        """One layer on one image after the other: ncnn has no batches."""
        net = self.net(kind, numbers, weights)
        images = [ncnn.Mat(image) for image in batch]

        def run():
            results = []
            for image in images:
                extractor = net.create_extractor()
                extractor.input("input", image)
                results.append(extractor.extract("output")[1])
            return results

        return [run]

    def net(self, kind, numbers, weights):
        net = ncnn.Net()
        net.opt.num_threads = self.threads
        net.opt.blob_allocator, net.opt.workspace_allocator = self.allocators
        for option in dir(net.opt):
            if option.startswith(("use_fp16", "use_bf16")):
                setattr(net.opt, option, False)
        layer = " ".join(f"{number}={value}" for number, value in numbers.items())
        net.load_param_mem(
            f"7767517\n2 2\nInput input 0 1 input\n{kind} layer 1 1 input output {layer}\n"
        )
        with tempfile.NamedTemporaryFile(suffix=".bin") as file:
            file.write(weights)
            file.flush()
            net.load_model(file.name)
        return net

    def arrays(self, result):
        return [np.stack([np.array(mat) for mat in result])]
