"""PyTorch, with plain tensors and with channels-last ones, in and out: no conversion is charged."""

import torch


class TorchNCHW:
    version = torch.__version__
    layout = torch.contiguous_format

    def __init__(self, threads):
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)

    def tensor(self, array):
        borrowed = torch.from_numpy(array)
        if array.ndim < 4:
            return borrowed
        # empty() settles the strides of axes of length one too; torch chooses its path by them.
        tensor = torch.empty(array.shape, dtype=borrowed.dtype, memory_format=self.layout)
        return tensor.copy_(borrowed)

    def arrays(self, result):
        return [t.numpy() for t in (result if isinstance(result, tuple) else (result,))]


class TorchChannelsLast(TorchNCHW):
    layout = torch.channels_last
