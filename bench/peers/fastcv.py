"""fastcv itself, called as a user calls it."""

import fastcv


class Fastcv:
    version = fastcv.__version__

    def __init__(self, threads):
        fastcv.set_num_threads(threads)

    def packed(self, problem):
        plan = fastcv.Conv2d(problem.weight, problem.bias, **problem.case.parameters)
        return [lambda: plan(problem.input)]

    def call(self, problem):
        arrays, parameters = (problem.input, problem.weight, problem.bias), problem.case.parameters
        return [lambda: fastcv.conv2d(*arrays, **parameters)]

    def gradients(self, problem):
        x, weight, grad = problem.input, problem.weight, problem.grad_output
        parameters = problem.case.parameters

        def both():
            return (
                fastcv.conv2d_grad_input(grad, weight, x.shape, **parameters),
                fastcv.conv2d_grad_weight(grad, x, weight.shape, **parameters),
            )

        return [both]

    def arrays(self, result):
        return result if isinstance(result, tuple) else (result,)
