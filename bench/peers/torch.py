"""PyTorch, with plain tensors and with channels-last ones, in and out: no conversion is charged."""

import torch
import torch.nn.functional as F


class TorchNCHW:
    version = torch.__version__
    layout = torch.contiguous_format

    def __init__(self, threads):
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)

    def tensor(self, array):
        if array.ndim < 4:
            return torch.from_numpy(array)
        # empty() settles the strides of axes of length one too; torch chooses its path by them.
        tensor = torch.empty(array.shape, memory_format=self.layout)
        return tensor.copy_(torch.from_numpy(array))

    def packed(self, problem):
        """The plain call, and a frozen ``torch.compile``'s: weights reordered for oneDNN."""
        ways = self.call(problem)
        if torch.backends.mkldnn.is_available():
            case = problem.case
            x, weight, bias = map(self.tensor, (problem.input, problem.weight, problem.bias))
            place = problem.symmetric_padding, case.stride, case.dilation, case.groups
            reorder = torch._C._nn.mkldnn_reorder_conv2d_weight
            ready = reorder(weight.to_mkldnn(), *place, x.shape)
            pointwise = torch.ops.mkldnn._convolution_pointwise
            ways.append(lambda: pointwise(x, ready, bias, *place, "none", [], ""))
        return ways

    def call(self, problem):
        case = problem.case
        x, weight, bias = map(self.tensor, (problem.input, problem.weight, problem.bias))
        place = case.stride, problem.symmetric_padding, case.dilation, case.groups
        return [lambda: F.conv2d(x, weight, bias, *place)]

    def gradients(self, problem):
        case = problem.case
        arrays = problem.grad_output, problem.input, problem.weight
        grad, x, weight = map(self.tensor, arrays)
        place = case.stride, problem.symmetric_padding, case.dilation, False, (0, 0), case.groups
        wanted = True, True, False
        backward = torch.ops.aten.convolution_backward
        return [lambda: backward(grad, x, weight, None, *place, wanted)[:2]]

    def arrays(self, result):
        return [t.numpy() for t in (result if isinstance(result, tuple) else (result,))]


class TorchChannelsLast(TorchNCHW):
    layout = torch.channels_last
